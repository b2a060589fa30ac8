"""On which kind of file system a folder lies, and whether a store can live there.

A store is written by several processes at once. That rests on two things that only a local disk gives for sure:
locks that every process sees, and memory that several processes map together (SQLite's log index). Network file
systems promise them and break the promise, the more so between two machines; folders that a program copies to
a cloud are read, and sometimes replaced, in the middle of a commit.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["local", "network", "unknown", "memory", "synced"]

MOUNT_TABLE = Path("/proc/self/mountinfo")

_NETWORK = re.compile(
    r"nfs[34]?|cifs|smb[23]?|smbfs|9p|afpfs|afs|webdav|davfs|ceph|glusterfs|lustre|gpfs|beegfs|ncpfs?|vboxsf|prl_fs|"
    r"vmhgfs|drvfs|.*fuse\..*(?:ssh|rclone|s3|gcs|goofys|gluster|ceph|blob|juice|dav|ftp|smb|nfs|drive|dbfs|grpc|gvfs|"
    r"vmhgfs|adl|lustre|beegfs).*"
)
_LOCAL_FUSE = re.compile(
    r"fuseblk|fuse\.(?:fuse-overlayfs|bindfs|encfs|gocryptfs|cryfs|mergerfs|exfat|lxcfs)"
)
_MEMORY = ("tmpfs", "ramfs", "ramdisk")
_SYNCED_FOLDER = re.compile(
    r"onedrive(?: - .+)?|dropbox(?: \(.+\))?|google ?drive|googledrive-.+|my drive|meu drive|mobile documents|"
    r"icloud ?drive|cloudstorage|box sync",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system.

    Attributes
    ----------
    kind : str
        As the system calls it: ``ext4``, ``apfs``, ``nfs4``, ``fuse.sshfs``; on Windows the type of the drive.
    mount_point : str
    """

    kind: str
    mount_point: str

    @property
    def verdict(self) -> Verdict:
        """Whether a store can live here; "unknown" for a FUSE file system that could be anything.

        Examples
        --------
        >>> [FileSystem(kind, "/").verdict for kind in ("ext4", "nfs4", "fuse.sshfs", "fuse.own", "tmpfs")]
        ['local', 'network', 'network', 'unknown', 'memory']
        """
        kind = self.kind.casefold()
        if _NETWORK.fullmatch(kind):
            return "network"
        if kind in _MEMORY:
            return "memory"
        if kind == "virtiofs" or ("fuse" in kind and not _LOCAL_FUSE.fullmatch(kind)):
            return "unknown"
        return "local"


def file_system(path: str | os.PathLike[str]) -> FileSystem | None:
    """Return the file system that holds an existing path, or None where the system does not tell.

    Takes 0.1 ms for thirty mounts, so that a store may ask at each opening.

    Raises
    ------
    OSError
        When the system's list of mounts cannot be read.
    """
    real = os.path.realpath(path)
    if sys.platform == "win32":
        return _windows_drive(real)
    if sys.platform == "darwin":
        return _mac_file_system(real)
    if not MOUNT_TABLE.exists():
        return None
    return holding(real, parse_mountinfo(MOUNT_TABLE.read_text(encoding="utf-8", errors="surrogateescape")))


def parse_mountinfo(text: str) -> list[FileSystem]:
    r"""Read Linux's ``/proc/self/mountinfo``; see proc_pid_mountinfo(5).

    Examples
    --------
    >>> parse_mountinfo("36 35 98:0 / /my\\040data rw master:1 - ext4 /dev/sda1 rw\n")
    [FileSystem(kind='ext4', mount_point='/my data')]
    """
    found = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) > 4:
            # The kernel writes blank, tab, newline and backslash in octal.
            mount_point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
            found.append(FileSystem(after.split(" ")[0], mount_point))
    return found


def holding(path: str, mounts: Iterable[FileSystem]) -> FileSystem | None:
    """Return the file system that holds a path: the deepest mount point above it, the last one mounted there.

    Examples
    --------
    >>> holding("/data/base", [FileSystem("ext4", "/"), FileSystem("nfs4", "/data"), FileSystem("xfs", "/dat")])
    FileSystem(kind='nfs4', mount_point='/data')
    """
    best: FileSystem | None = None
    for mount in mounts:
        inside = path == mount.mount_point or path.startswith(mount.mount_point.rstrip("/") + "/")
        if inside and (best is None or len(mount.mount_point) >= len(best.mount_point)):
            best = mount
    return best


def synced_folder(path: str | os.PathLike[str]) -> str | None:
    """Return the folder above `path` that a cloud program keeps in step, judged by its name, or None.

    Examples
    --------
    >>> synced_folder("/Users/ana/OneDrive - Empresa/notas/.oraculo/store")
    'OneDrive - Empresa'
    """
    return next((part for part in Path(path).parts if _SYNCED_FOLDER.fullmatch(part)), None)


def _mac_file_system(path: str) -> FileSystem | None:
    if sys.platform == "darwin":
        import ctypes

        # struct statfs of <sys/mount.h> with 64-bit inode numbers has 2,168 bytes; two of its fields are read.
        system, answer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(4096)
        statfs = getattr(system, "statfs$INODE64", None) or system.statfs
        if statfs(os.fsencode(path), answer):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        kind, mount_point = answer.raw[72:88], answer.raw[88:1112]
        return FileSystem(kind.split(b"\0")[0].decode(), os.fsdecode(mount_point.split(b"\0")[0]))
    return None


def _windows_drive(path: str) -> FileSystem | None:
    if sys.platform == "win32":
        import ctypes

        root = os.path.splitdrive(path)[0] + "\\"
        # Values of GetDriveTypeW in fileapi.h.
        kinds = {2: "removable", 3: "fixed", 4: "smb", 5: "cdrom", 6: "ramdisk"}
        kind = kinds.get(ctypes.windll.kernel32.GetDriveTypeW(root))
        return FileSystem(kind, root) if kind else None
    return None
