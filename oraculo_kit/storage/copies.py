"""Snapshots: a copy of a store that is a store itself, made beside readers and writers; and the way back.

A snapshot is one version of the store, whatever is written meanwhile::

    1  the catalog, by SQLite's backup in one step: a version pinned for the time of the copy
    2  the segments and indexes that the copied catalog names, each compared with its digest on the way. One that a
       compaction has dropped since: start over, and keep what was copied already
    3  what only meant something to the processes at work (claims, staged rows, runs under way) is taken out of the copy
    4  everything is forced to the disk, and the finished folder gets its name: it is there whole or not at all

Restoring makes such a copy beside the place it is for, verifies it, and gives it a new epoch and a commit number above
all that the old store had. Then, with the old store's writer lock held, the old folder gets a dated name and the copy
takes its place. Open stores of any process notice: their files are no longer those at the path. Between the two
renames nothing stands there: a call that strikes this moment fails, and can be repeated. Nobody makes an empty store
there then, nor when the restore was killed in between; see `oraculo_kit.storage.guards.check_not_restoring`.

Windows refuses to rename a folder while any program has a file in it open. There a restore over a store that is in use
fails, and says so; nothing is changed then.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import apsw

from oraculo_kit.errors import StorageError, StoreCorruptedError, StoreLocationError, StoreNotFoundError
from oraculo_kit.storage.catalog import Catalog, translated
from oraculo_kit.storage.folders import make_folder, refuse_network
from oraculo_kit.storage.forks import gate
from oraculo_kit.storage.guards import check_not_behind, check_not_lost
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.runs import interrupt_runs
from oraculo_kit.storage.schema import new_epoch
from oraculo_kit.storage.segments import sync_file, sync_folder, sync_path
from oraculo_kit.storage.sharing import share
from oraculo_kit.storage.verify import verify_store

_CATALOG = "catalog.sqlite3"
_ATTEMPTS = 10
_BLOCK_BYTES = 1 << 20
_PROBLEMS_NAMED = 3


def copy_store(folder: Path, target: Path) -> Path:
    """Copy a store while others read and write it.

    Parameters
    ----------
    folder : pathlib.Path
        The store's folder.
    target : pathlib.Path
        Absolute; missing or an empty folder. The folders above it are made when they are missing.

    Returns
    -------
    pathlib.Path
        `target`, which is a store of its own now.

    Raises
    ------
    StoreLocationError
        When something stands at `target`, or it lies inside the store.
    StoreCorruptedError
        When a file of the store is damaged or missing.
    StorageError
        When the disk refuses; nothing is left behind then.
    """
    if target == folder or folder in target.parents:
        raise StoreLocationError(
            f"the snapshot {target} would lie inside the store {folder}; choose another folder"
        )
    _refuse_occupied(target, "choose a new name for the snapshot")
    make_folder(target.parent)
    with translated(target), _copied(folder, target) as copy:
        _note_commit(copy)
        _give_name(copy, target)
    return target


def restore_store(
    snapshot: str | os.PathLike[str],
    location: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    lock_timeout: float = 60.0,
) -> Path | None:
    """Put a copy of a snapshot in the place of a store.

    Stores that are open at `location`, in any process, go on with what was restored. The snapshot stays as it is; one
    of an earlier format is brought forward in the copy.

    Parameters
    ----------
    snapshot : path
        A folder made by ``snapshot()``, or any other store.
    location : path
        The store's folder; need not exist.
    overwrite : bool
        Allow that a store stands there. It is never deleted: it gets a new name beside it, with the time.
    lock_timeout : float
        Longest wait for its writers, in seconds.

    Returns
    -------
    pathlib.Path or None
        Where the store is now that stood at `location`; None when there was none.

    Raises
    ------
    StoreNotFoundError
        When there is no snapshot.
    StoreLocationError
        When something stands at `location` that must not be replaced.
    StoreCorruptedError
        When the snapshot is damaged. Nothing was changed.
    StoreLockTimeoutError
        When a writer does not let go of the store.
    """
    source, place = Path(os.path.abspath(snapshot)), Path(os.path.abspath(location))
    if not (source / _CATALOG).is_file():
        raise StoreNotFoundError(f"there is no snapshot at {source}: it has no {_CATALOG}. Check the path")
    if place == source or place in source.parents or source in place.parents:
        raise StoreLocationError(
            f"the snapshot {source} cannot be restored to {place}: one lies in the other"
        )
    refuse_network(place)
    if not _is_store(place):
        _refuse_occupied(place, "what is there is no store; choose another folder")
    elif not overwrite:
        _refuse_occupied(
            place,
            "restore with overwrite=True to set that store aside under another name (in a shell: --overwrite)",
        )
    make_folder(place.parent)
    with translated(place), _copied(source, place) as copy:
        report = verify_store(copy)
        if not report.ok:
            found = "; ".join(report.problems[:_PROBLEMS_NAMED]).replace(str(copy), str(source))
            raise StoreCorruptedError(
                f"the snapshot {source} is damaged, and was not restored. Nothing was changed. Restore another one, "
                f"or repair a copy of it. {len(report.problems)} problems: {found}"
            )
        _begin_epoch(copy, 0)
        return _replace(place, copy, lock_timeout)


@contextmanager
def _copied(folder: Path, target: Path) -> Iterator[Path]:
    """Make a copy of a store under a temporary name beside `target`; the body is to give it its name."""
    copy = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        copy.mkdir()
        share(copy)
        for name in ("segments", "indexes"):
            (copy / name).mkdir()
            share(copy / name)
        _copy_whole(folder, copy)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)  # unless it has its name by now


def _copy_whole(folder: Path, copy: Path) -> None:
    for _ in range(_ATTEMPTS):
        segments, indexes = _copy_catalog(folder, copy)
        for path in (copy / "segments").iterdir():
            if path.name not in segments:
                path.unlink()
        missed = [name for name, digest in segments.items() if not _copy_file(folder, copy, name, digest)]
        if not missed:
            _leave_out(copy, [name for name in indexes if not _copy_index(folder, copy, name)])
            return
        _refuse_lost(folder, missed)
    raise StorageError(
        f"the store {folder} could not be copied: its segments were replaced faster than they could be read. Try "
        "again when no compaction runs"
    )


def _copy_catalog(folder: Path, copy: Path) -> tuple[dict[str, str], list[str]]:
    """Copy the newest version of the catalog; return its segments with their digests, and its indexes."""
    remembered = WriterLock(folder, 0).commit_number()
    check_not_lost(folder, remembered)
    _remove_catalog(copy)
    with gate.passage(), closing(Catalog(folder / _CATALOG, read_only=True)) as source:
        source.version()
        with _opened(copy, create=True) as made:
            with made.db.backup("main", source.db, "main") as backup:
                # In one step: between two, every commit of another process would make it begin anew.
                backup.step()
            made.bring_forward()
            check_not_behind(made, remembered)
            segments = dict(made.rows("SELECT name, digest FROM segments"))
            indexes = [name for (name,) in made.rows("SELECT name FROM indexes")]
            return segments, indexes


@contextmanager
def _opened(copy: Path, *, create: bool = False) -> Iterator[Catalog]:
    """Open the catalog of a copy, which nobody else knows; after it no log is left."""
    with gate.passage(), closing(Catalog(copy / _CATALOG, create=create)) as catalog:
        # Without shared memory, which a network file system does not have: snapshots may be put there.
        catalog.db.pragma("locking_mode", "EXCLUSIVE")
        yield catalog
        catalog.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    for end in ("-shm", "-journal"):  # files that SQLite leaves behind empty when it has a database to itself
        (copy / f"{_CATALOG}{end}").unlink(missing_ok=True)


def _remove_catalog(copy: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        (copy / f"{_CATALOG}{end}").unlink(missing_ok=True)


def _copy_file(folder: Path, copy: Path, name: str, digest: str) -> bool:
    """Copy a segment durably, unless it is there; False when there is none of this name (any more)."""
    source, target = folder / "segments" / name, copy / "segments" / name
    if target.exists():
        return True
    found = _copy_bytes(source, target)
    if found is not None and found != digest:
        raise StoreCorruptedError(
            f"the segment {source} is damaged: its bytes do not match the digest in the catalog. No snapshot was made, "
            "because it would hold the damage; run `oraculo repair` first"
        )
    return found is not None


def _copy_index(folder: Path, copy: Path, name: str) -> bool:
    # An index is checked whole before it is used, and made anew when it does not match.
    return _copy_bytes(folder / "indexes" / name, copy / "indexes" / name) is not None


def _copy_bytes(source: Path, target: Path) -> str | None:
    """Copy a file durably; return its digest, None when it is missing."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        reading = source.open("rb")
    except FileNotFoundError:
        return None
    with reading, open(target, "wb") as writing:
        while block := reading.read(_BLOCK_BYTES):
            digest.update(block)
            writing.write(block)
        writing.flush()
        share(target)
        sync_file(writing.fileno())
    return digest.hexdigest()


def _refuse_lost(folder: Path, missed: list[str]) -> None:
    """Refuse to go on when the newest version still names a segment that is missing."""
    with gate.passage(), closing(Catalog(folder / _CATALOG, read_only=True)) as catalog:
        named = {name for (name,) in catalog.rows("SELECT name FROM segments")}
    for name in missed:
        if name in named and not (folder / "segments" / name).exists():
            raise StoreCorruptedError(
                f"the segment {folder / 'segments' / name} is missing, and the catalog needs it. No snapshot was "
                "made; run `oraculo repair` first"
            )


def _leave_out(copy: Path, indexes: list[str]) -> None:
    """Take out of a copy what has no meaning there: unfinished work, and indexes that are missing."""
    with _opened(copy) as catalog, catalog.writing():
        catalog.db.execute("DELETE FROM claims; DELETE FROM staged")
        interrupt_runs(catalog)
        catalog.db.executemany("DELETE FROM indexes WHERE name = ?", [(name,) for name in indexes])


def _begin_epoch(copy: Path, above: int) -> None:
    """Begin a new history in a copy, with a commit number greater than its own and than `above`."""
    with _opened(copy) as catalog, catalog.writing():
        catalog.set_meta("epoch", new_epoch())
        catalog.set_meta("commit", max(int(catalog.meta("commit")), above) + 1)


def _note_commit(copy: Path) -> None:
    """Write the commit number into the copy's ``writer.lock``."""
    with _opened(copy) as catalog:
        number = int(catalog.meta("commit"))
    lock = WriterLock(copy, 1)
    try:
        with lock.held("copy the store"):
            lock.record_commit(number)
    finally:
        lock.close()
    sync_path(lock.path)


def _give_name(copy: Path, target: Path) -> None:
    """Put a finished copy in its place, durably."""
    share(copy / _CATALOG)
    for folder in (copy / "segments", copy / "indexes", copy):
        sync_folder(folder)
    if sys.platform == "win32" and target.is_dir():
        target.rmdir()  # an empty one; POSIX replaces it
    os.rename(copy, target)
    sync_folder(target.parent)


def _replace(place: Path, copy: Path, timeout: float) -> Path | None:
    """Put a finished copy in the place of a store; return where that is now."""
    aside = None
    for _ in range(_ATTEMPTS):
        free = _free_name(place)
        try:
            if _is_store(place):
                _set_aside(place, copy, timeout, free)
                aside = aside or free  # one that was made in the gap, and set aside later, is not the store
            _note_commit(copy)
            _give_name(copy, place)
            return aside
        except BaseException as exc:
            if isinstance(exc, OSError) and exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue  # a process that opened the store in between has made a new one there
            # Ctrl-C strikes here too, and then nobody would know where the store is.
            if (old := aside or free).exists() and not _is_store(place):
                os.rename(old, place)
            raise
    raise StorageError(
        f"nothing was restored to {place}: other processes kept making a new store there. End them, then try again"
        + (f"; the old store is {aside}" if aside else "")
    )


def _set_aside(place: Path, copy: Path, timeout: float, aside: Path) -> None:
    """Give a store another name, with its writer lock held; number the copy's commit above all of its commits."""
    lock = WriterLock(place, timeout)
    try:
        with lock.held("restore a snapshot"):
            _begin_epoch(copy, max(lock.commit_number(), _settled(place)))
            _note_commit(copy)
            if sys.platform != "win32":
                os.rename(place, aside)
        lock.close()
        if sys.platform == "win32":
            # Only now, because our own lock file keeps the folder from being renamed. So does any other open file:
            # when it can be renamed, nobody has the store open, and nobody writes to it.
            os.rename(place, aside)
    except PermissionError as exc:
        if isinstance(exc, StorageError):
            raise
        raise StorageError(
            f"the store {place} could not be set aside: {exc.strerror}. Nothing was changed. Close the programs that "
            "have it open (Windows renames no folder that is in use), or ask for write permission, then try again"
        ) from exc
    finally:
        lock.close()


def _settled(place: Path) -> int:
    """Move the log of a store into its catalog, and return its commit number; 0 for a damaged one."""
    # Whoever is just opening the catalog may still find the file that is set aside, and look for its log at the old
    # path: with an empty log that is one whole version.
    with suppress(StorageError), gate.passage(), closing(Catalog(place / _CATALOG)) as catalog:
        catalog.checkpoint(truncate=True)
        return int(catalog.meta("commit") or 0)
    return 0


def _is_store(place: Path) -> bool:
    return any((place / name).exists() for name in (_CATALOG, "segments", "writer.lock"))


def _free_name(place: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{place.name}.replaced-{stamp}{end}" for end in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(each for name in names if not (each := place.with_name(name)).exists())


def _refuse_occupied(target: Path, advice: str) -> None:
    if target.is_dir() and not target.is_symlink():
        try:
            if not any(target.iterdir()):
                return
        except OSError as exc:
            raise StoreLocationError(
                f"the folder {target} cannot be looked into: {exc.strerror or exc}"
            ) from exc
    elif not os.path.lexists(target):
        return
    raise StoreLocationError(f"{target} exists and is not empty: {advice}")
