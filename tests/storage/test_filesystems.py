"""File systems are told apart by what the system says of its mounts."""

from __future__ import annotations

import sys
import timeit
from pathlib import Path

import pytest

from oraculo_kit.storage import filesystems

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 22 0:40 / /mnt/rede rw,relatime shared:2 master:3 - nfs4 servidor:/dados rw,vers=4.2,hard,proto=tcp
41 22 0:41 / /mnt/com\040espaço rw,relatime - cifs //servidor/dados rw,vers=3.1.1,cache=strict
42 22 8:2 / /twice rw - xfs /dev/sdb rw
43 42 0:43 / /twice rw - tmpfs tmpfs rw
44 22 0:44 / /mnt/c rw,noatime - 9p drvfs rw,dirsync,aname=drvfs;path=C:\;uid=1000,trans=fd
45 22 0:45 / /home/ana/remoto rw,nosuid,nodev - fuse.sshfs ana@servidor: rw,user_id=1000,group_id=1000
46 22 0:46 / /content/drive rw - fuse.drive drive rw
47 22 0:47 / /auto rw - autofs /etc/auto.misc rw,fd=6,pgrp=1
48 22 0:48 /volume /work rw - virtiofs share rw
a line that nobody understands
"""


def test_the_file_system_of_a_real_folder_is_known(tmp_path: Path) -> None:
    found = filesystems.file_system(tmp_path)
    assert found is not None
    assert str(tmp_path.resolve()).startswith(found.mount_point)


@pytest.mark.parametrize(
    ("path", "kind", "verdict"),
    [
        ("/", "ext4", "local"),
        ("/home/ana", "ext4", "local"),
        ("/home/ana/remoto/base", "fuse.sshfs", "network"),
        ("/mnt/rede", "nfs4", "network"),
        ("/mnt/rede/base", "nfs4", "network"),
        ("/mnt/rede2", "ext4", "local"),
        ("/mnt/com espaço/base", "cifs", "network"),
        ("/mnt/c/Users/ana", "9p", "network"),
        ("/content/drive/MyDrive", "fuse.drive", "network"),
        ("/work/base", "virtiofs", "unknown"),
        ("/twice/x", "tmpfs", "memory"),
    ],
)
def test_the_deepest_mount_holds_a_path(path: str, kind: str, verdict: str) -> None:
    found = filesystems.holding(path, filesystems.parse_mountinfo(MOUNTS))
    assert found is not None
    assert (found.kind, found.verdict) == (kind, verdict)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no table of mounts in /proc")
def test_a_link_is_followed_to_where_it_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("/mnt/rede")
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS, encoding="utf-8")
    monkeypatch.setattr(filesystems, "MOUNT_TABLE", table)
    found = filesystems.file_system(tmp_path / "link" / "base")
    assert found == filesystems.FileSystem("nfs4", "/mnt/rede")


def test_asking_costs_less_than_a_millisecond(tmp_path: Path) -> None:
    seconds = timeit.repeat(lambda: filesystems.file_system(tmp_path), number=1, repeat=30)
    assert min(seconds) < 0.001
