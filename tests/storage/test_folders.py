"""Where a store may be, how its folder is made, and who may use what it makes there."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oraculo_kit.errors import StorageError, StoreLocationError
from oraculo_kit.storage import filesystems, folders, open_storage
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.folders import make_folder
from oraculo_kit.storage.verify import verify_store
from tests.storage.kit import Child, contents, documents, vectors
from tests.storage.test_lock import posix

StartChild = Callable[..., Child]
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no table of mounts in /proc")
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs two users: run as root"
)
TEAM = 42_424


# Network file systems


@pytest.fixture
def mounted_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return the function that lets the system say that the test's folder is mounted from somewhere."""

    def mount(kind: str) -> None:
        table = tmp_path / "mountinfo"
        table.write_text(
            f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 22 0:40 / {tmp_path} rw shared:2 - {kind} x rw\n"
        )
        monkeypatch.setattr(filesystems, "MOUNT_TABLE", table)

    return mount


@linux
@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"])
def test_a_store_on_a_network_is_not_written_and_can_be_read(
    folder: Path, mounted_as: Callable[[str], None], kind: str
) -> None:
    with FaissVetorStorage(folder) as store:
        store.write(documents("a", 3), vectors(3))
    mounted_as(kind)
    before = contents(folder)
    message = (
        rf"the store {re.escape(str(folder))} lies on a network file system \({re.escape(kind)}, mounted at .*"
        r"locks and shared memory are not reliable between machines, so a commit could be lost\. .*local disk "
        r"\(ORACULO_STORE=.*snapshot\(\).*read_only=True.*PostgreSQL"
    )
    for write in (FaissVetorStorage, open_storage):
        with pytest.raises(StoreLocationError, match=message):
            write(folder)
    with FaissVetorStorage(folder, read_only=True) as store:
        assert len(store.search(vectors(1)[0])) == 3
        assert store.verify().ok
    assert contents(folder) == before


@linux
def test_nothing_is_made_on_a_network(folder: Path, mounted_as: Callable[[str], None]) -> None:
    mounted_as("nfs4")
    with pytest.raises(StoreLocationError, match="nfs4, mounted at"):
        FaissVetorStorage(folder / "deep" / "base")
    assert not folder.exists()


@linux
@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "fuse.own", "virtiofs", "overlay", "zfs"])
def test_every_other_file_system_is_written(
    folder: Path, mounted_as: Callable[[str], None], kind: str
) -> None:
    mounted_as(kind)
    with FaissVetorStorage(folder) as store:
        store.write(documents("a", 1), vectors(1))


@linux
@pytest.mark.parametrize("table", ["missing", "folder", "garbage", "empty"])
def test_a_system_that_does_not_tell_is_no_obstacle(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    path = tmp_path / table
    if table == "folder":
        path.mkdir()
    elif table != "missing":
        path.write_bytes(b"\xff\0 - \n" if table == "garbage" else b"")
    monkeypatch.setattr(filesystems, "MOUNT_TABLE", path)
    with FaissVetorStorage(folder) as store:
        store.write(documents("a", 1), vectors(1))


def namespaces_work() -> bool:
    """Tell whether a process may mount what only it sees."""
    return (
        shutil.which("unshare") is not None
        and os.access("/dev/fuse", os.W_OK)
        and subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    )


@linux
def test_a_real_mount_is_seen(tmp_path: Path, child: StartChild) -> None:
    if not namespaces_work():
        pytest.skip("mount namespaces or FUSE are not to be had here")
    result = child("write_on_fuse", tmp_path, module="fault_children", prefix=["unshare", "-rm"]).result()
    if not result["mounted"]:
        pytest.skip("a mount namespace may not mount FUSE here")
    assert result["error"].startswith(
        f"StoreLocationError: the store {tmp_path}/remote/base lies on a network"
    )
    assert f"(fuse.sshfs, mounted at {tmp_path}/remote)" in result["error"]
    mkdir, mknod, create = 9, 8, 35
    assert not {mkdir, mknod, create} & set(result["asked"])


# Making the folder


def test_a_folder_whose_name_cannot_be_made_durable_is_not_left_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(folders, "sync_folder", fail)
    with pytest.raises(StorageError, match="cannot make the store .*: Input/output error. Choose another"):
        FaissVetorStorage(folder / "deep")
    assert not folder.exists()


def test_every_folder_made_has_a_durable_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(folders, "sync_folder", synced.append)
    make_folder(folder / "a" / "b")
    make_folder(folder / "a" / "b")
    assert synced == [folder.parent, folder, folder / "a"]


# Groups


def rights(folder: Path) -> dict[str, tuple[int, int]]:
    """Return mode and group of a store's folder and everything in it."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        found[str(path.relative_to(folder))] = stat.S_IMODE(status.st_mode), status.st_gid
    assert {
        "segments",
        "catalog.sqlite3-wal",
        "catalog.sqlite3-shm",
        "writer.lock",
        "writer.queue",
    } <= found.keys()
    assert any(name.endswith(".f32") for name in found)
    return found


def with_modes(tmp_path: Path, child: StartChild, *modes: int) -> dict[tuple[int, int], Path]:
    """Make stores in folders of these modes with the umasks 077 and 022; return them by mode and umask."""
    stores = {}
    for mode in modes:
        for umask in (0o077, 0o022):
            stores[mode, umask] = tmp_path / f"{mode:o} {umask:o}"
            stores[mode, umask].mkdir()
            stores[mode, umask].chmod(mode)
    umasks = {str(folder): umask for (_, umask), folder in stores.items()}
    child("write_with_umasks", umasks, module="fault_children").result()
    return stores


@posix
def test_a_group_that_may_write_to_the_folder_may_use_every_file_in_it(
    tmp_path: Path, child: StartChild
) -> None:
    for (mode, umask), folder in with_modes(tmp_path, child, 0o2775, 0o775).items():
        found = rights(folder)
        assert found.pop(".")[0] == mode
        readable = 0 if umask == 0o077 else 0o004  # to others: that is left to the umask
        assert found.pop("segments")[0] == (mode & 0o2000) | 0o770 | (readable and 0o005)
        assert {mode for mode, _ in found.values()} == {0o660 | readable}, found


@posix
def test_nothing_is_opened_where_the_group_may_not_write(tmp_path: Path, child: StartChild) -> None:
    for (mode, umask), folder in with_modes(tmp_path, child, 0o2755, 0o700).items():
        found = rights(folder)
        assert found.pop(".")[0] == mode
        assert found.pop("segments")[0] & 0o777 == 0o777 & ~umask
        assert {mode for mode, _ in found.values()} == {0o666 & ~umask}, found


@posix
def test_a_folder_made_below_a_shared_one_is_shared_too(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        for mode in (0o2775, 0o775, 0o2755):
            above = tmp_path / f"{mode:o}"
            above.mkdir()
            above.chmod(mode)
            make_folder(above / "a" / "b")
    finally:
        os.umask(before)
    made = {path.relative_to(tmp_path).parts[0]: path.stat().st_mode & 0o777 for path in tmp_path.rglob("b")}
    assert made == {"2775": 0o770, "775": 0o700, "2755": 0o700}


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a folder of the team, as a system administrator makes it; pytest's own belong to one user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "team"
        folder.mkdir()
        os.chown(folder, -1, TEAM)
        folder.chmod(0o2775)
        yield folder


def take_turns(users: list[Child]) -> list[int]:
    """Let processes write in turns; return the counts that they saw."""
    counts = []
    for user in users:
        assert user.line() == "ready", user.result()
    for _ in range(4):
        for user in users:
            user.go()
            line = user.line()
            assert line, user.result()
            counts.append(int(line))
    for user in users:
        user.go()
        user.result()
    return counts


@posix
@as_root
@pytest.mark.parametrize("place", ["in it", "below it", "without setgid"])
def test_two_users_of_one_group_write_in_turns_whatever_their_umasks(
    shared: Path, child: StartChild, place: str
) -> None:
    folder = shared / "base" if place == "below it" else shared
    if place == "without setgid":
        shared.chmod(0o775)
    users = {42_001: 0o077, 42_002: 0o022}
    counts = take_turns(
        [
            child("write_as", folder, user, TEAM, umask, module="fault_children")
            for user, umask in users.items()
        ]
    )
    assert counts == [2, 4, 24, 44, 49, 54, 67, 80]
    for name, (mode, group) in rights(folder).items():
        assert group == TEAM, name
        assert mode & 0o060 == 0o060, name
    assert {path.stat().st_uid for path in folder.rglob("*.f32")} == users.keys()
    assert verify_store(folder).ok


@posix
@as_root
def test_files_are_not_given_to_a_group_that_their_owner_is_not_in(shared: Path, child: StartChild) -> None:
    shared.chmod(0o775)
    os.chown(shared, 42_001, TEAM)
    take_turns([child("write_as", shared, 42_001, 42_099, 0o077, module="fault_children")])
    found = rights(shared)
    del found["."]
    assert {group for _, group in found.values()} == {42_001}
    assert all(mode & 0o077 == 0 for mode, _ in found.values()), found
