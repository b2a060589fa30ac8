"""The folder of a store: whether one may be kept there, and making it so that it lasts.

A folder on a network file system is refused before anything is made in it (see
`oraculo_kit.storage.filesystems`). Opening read-only needs nothing from here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from oraculo_kit.errors import StorageError, StoreLocationError, StoreNotFoundError, StoreReadOnlyError
from oraculo_kit.storage.filesystems import FileSystem, file_system
from oraculo_kit.storage.segments import sync_folder
from oraculo_kit.storage.sharing import share

_MARKS = ("catalog.sqlite3", "writer.lock", "segments")


def holds_store(folder: Path) -> bool:
    """Tell whether a store is in a folder; one of its files or folders is left of a damaged one.

    A folder that may not be looked into is taken for one: opening it says what is wrong.
    """
    if os.path.isdir(folder) and not os.access(folder, os.X_OK):
        return True
    return any(os.path.exists(folder / name) for name in _MARKS)


def refuse_network(folder: Path) -> None:
    """Refuse to write to a store on a network file system, before anything is made there.

    Where the system does not tell, the folder is taken for a local one.

    Parameters
    ----------
    folder : pathlib.Path
        The store's folder, which need not exist.

    Raises
    ------
    StoreLocationError
        With the reason and what to do instead.
    """
    found = _known_file_system(folder)
    if found is not None and found.verdict == "network":
        raise StoreLocationError(
            f"the store {folder} lies on a network file system ({found.kind}, mounted at {found.mount_point}), and "
            "nothing is written to one: locks and shared memory are not reliable between machines, so a commit "
            "could be lost. Keep the store in a folder on a local disk (ORACULO_STORE=/local/folder), and put copies "
            "made by snapshot() here; to search a store that is here already, open it with read_only=True. Several "
            "machines that write to one base need a database server; this version has none (PostgreSQL is planned)"
        )


def _known_file_system(folder: Path) -> FileSystem | None:
    try:
        # First a look at the folder: that mounts what is mounted on demand.
        return file_system(next(each for each in (folder, *folder.parents) if each.exists()))
    except (OSError, ValueError, StopIteration):  # no rights to look, or a list of mounts of an unknown kind
        return None


def make_folder(folder: Path) -> None:
    """Make the folder of a store and those above it, unless they exist; their names are durable then.

    A folder made below one that is shared by a group (it has the setgid bit, and the group may write) is shared
    too, whatever the umask.

    Parameters
    ----------
    folder : pathlib.Path
        Absolute.

    Raises
    ------
    StoreNotFoundError
        When a file stands there, or above it.
    StoreReadOnlyError
        When folders may not be made there.
    StorageError
        When the disk refuses.
    """
    try:
        for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            each.mkdir(exist_ok=True)
            if each.parent.stat().st_mode & stat.S_ISGID:
                share(each)
            try:
                # A durable store in a folder without a durable name is lost all the same.
                sync_folder(each.parent)
            except OSError:
                each.rmdir()  # else the next attempt would find it, and not ask again whether its name is durable
                raise
        if not folder.is_dir():
            raise NotADirectoryError
    except (FileExistsError, NotADirectoryError) as exc:
        raise StoreNotFoundError(
            f"{folder} is a file or lies below one, expected a folder for the store (ORACULO_STORE)"
        ) from exc
    except PermissionError as exc:
        raise StoreReadOnlyError(
            f"cannot make the store {folder}: {exc.strerror}. Choose a folder that you may write to (ORACULO_STORE)"
        ) from exc
    except OSError as exc:
        raise StorageError(
            f"cannot make the store {folder}: {exc.strerror or exc}. Choose another folder (ORACULO_STORE), or check "
            "the disk"
        ) from exc
