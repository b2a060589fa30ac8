"""Probes of the base and of what it stands on: folder, disk, file system, SQLite, embedder, OpenMP."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from oraculo_kit.diagnostics.probes_case import Answer, Case, error_text, masked_location
from oraculo_kit.display import size_text
from oraculo_kit.errors import EmbedderMismatchError, StoreNotFoundError

_LEAST_FREE_BYTES = 1024**3
_LEAST_FREE_SHARE = 0.10
_SAFE_SQLITE = (3, 51, 3)  # before it, a checkpoint could lose another connection's commit


def write_permission(case: Case) -> Answer:
    """Ask whether the base can be written, by a real file."""
    _ = case.translate
    folder = case.folder
    if folder is None:
        return _url_answer(case)
    remedy = _("Give yourself permission to write there, or choose another folder with ORACULO_STORE.")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".oraculo-doctor-") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        text = _("{folder} cannot be written: {reason}").format(folder=folder, reason=reason)
        return Answer("problem", text, remedy)
    # Files that somebody else made there, for example with sudo, stop a writer as well.
    files = folder.rglob("*") if _is_store(folder) else ()
    locked = [path for path in files if not os.access(path, os.W_OK) and path.exists()]
    if locked:
        text = _("{count} files of the base cannot be written, the first: {path}")
        return Answer("problem", text.format(count=len(locked), path=locked[0]), remedy)
    return Answer("ok", _("{folder} can be written").format(folder=folder))


def _is_store(folder: Path) -> bool:
    return (folder / "catalog.sqlite3").is_file()


def _url_answer(case: Case) -> Answer:
    _ = case.translate
    location = masked_location(case.settings.store)
    return Answer("ok", _("the base is not a folder: {location}").format(location=location))


def disk_space(case: Case) -> Answer:
    """Ask whether there is room for the base to grow."""
    import shutil

    _ = case.translate
    folder = case.folder
    if folder is None:
        return _url_answer(case)
    usage = shutil.disk_usage(folder)
    if not usage.total:
        return Answer("ok", _("not known: this file system has no size"))
    share = usage.free / usage.total
    text = _("{free} free of {total} ({share:.0%})").format(
        free=size_text(usage.free), total=size_text(usage.total), share=share
    )
    if usage.free < _LEAST_FREE_BYTES or share < _LEAST_FREE_SHARE:
        return Answer(
            "warning", text, _("Free some space, or move the base to a larger disk (ORACULO_STORE).")
        )
    return Answer("ok", text)


def file_system(case: Case) -> Answer:
    """Ask whether the base is on a file system whose locks can be trusted."""
    from oraculo_kit.storage import filesystems

    _ = case.translate
    folder = case.folder
    if folder is None:
        return _url_answer(case)
    move = _(
        "Keep the base on a local disk: ORACULO_STORE=/local/folder. The documents may stay where they are. To share "
        "it, copy the finished base, or let one machine write."
    )
    synced = filesystems.synced_folder(folder)
    if synced is not None:
        text = _(
            "{folder} is kept in step with a cloud, whose program reads and replaces files in the middle of a commit"
        )
        return Answer("warning", text.format(folder=synced), move)
    found = filesystems.file_system(folder)
    if found is None:
        return Answer("ok", _("this system does not tell; a local disk is needed"))
    text = _("{kind}, mounted at {mount_point}").format(kind=found.kind, mount_point=found.mount_point)
    if found.verdict == "network":
        reason = _(
            "over a network, locks and shared memory of several processes cannot be trusted: writes could be lost"
        )
        return Answer("problem", f"{text}: {reason}", move)
    if found.verdict == "unknown":
        return Answer("warning", text + ": " + _("it is not known whether its locks can be trusted"), move)
    if found.verdict == "memory":
        return Answer("warning", text + ": " + _("it lies in memory and is gone after a restart"), move)
    return Answer("ok", text)


def store(case: Case) -> Answer:
    """Open the base with this embedder, and search it."""
    from oraculo_kit.embed import PROBE_TEXT
    from oraculo_kit.storage import open_storage

    _ = case.translate
    ready = case.look.services
    path = Path(case.settings.store)
    none_yet = _("there is no base at {folder} yet; the first ingestion makes it")
    if ready is None and case.folder is not None and not _is_store(path):
        if next(path.glob("segments/*"), None) is not None:
            text = _("{folder} holds vectors, but its catalog.sqlite3 is missing").format(folder=path)
            return Answer(
                "problem",
                text,
                _("Restore the folder from a backup, or ingest into a new one (ORACULO_STORE)."),
            )
        return Answer("ok", none_yet.format(folder=path))
    opened = None
    try:
        if ready is None:
            opened = open_storage(case.settings.store, case.settings.embedder, read_only=True)
        storage = ready.vetor_storage if ready is not None else opened
        assert storage is not None
        stats = storage.stats()
        started = time.perf_counter()
        if stats.chunks:
            # Compares the embedder with the base's own by a probe vector, too.
            storage.search(PROBE_TEXT, 1, mode="vector")
        milliseconds = (time.perf_counter() - started) * 1000
    except EmbedderMismatchError as exc:
        fix = _(
            "Set ORACULO_EMBEDDER to the embedder that built it, or choose another base with ORACULO_STORE."
        )
        return Answer("problem", error_text(exc), fix)
    except StoreNotFoundError:
        if ready is not None or case.folder is not None or case.look.failure is not None:
            raise
        return Answer("ok", none_yet.format(folder=masked_location(case.settings.store)))
    finally:
        if opened is not None:
            opened.close()
    text = _("chunks: {chunks}, sources: {sources}, {size}").format(
        chunks=stats.chunks, sources=stats.sources, size=size_text(stats.bytes)
    )
    if stats.chunks:
        text += "; " + _("a search took {milliseconds:.0f} ms").format(milliseconds=milliseconds)
    return Answer("ok", text)


def sqlite(case: Case) -> Answer:
    """Ask whether the SQLite that APSW brings is new enough and has what the base needs."""
    import apsw

    _ = case.translate
    version = apsw.sqlite_lib_version()
    missing = [name for name, works in (("FTS5", _fts5_works), ("carray", _carray_works)) if not works()]
    fix = "pip install --upgrade apsw"
    if tuple(int(part) for part in version.split(".")) < _SAFE_SQLITE:
        wanted = ".".join(map(str, _SAFE_SQLITE))
        text = _("SQLite {version} can lose commits; {wanted} or newer is needed")
        return Answer("problem", text.format(version=version, wanted=wanted), fix)
    if missing:
        text = _("SQLite {version} lacks: {features}").format(version=version, features=", ".join(missing))
        return Answer("problem", text, fix)
    return Answer("ok", _("{version} with full text and arrays").format(version=version))


def _fts5_works() -> bool:
    import apsw

    db = apsw.Connection(":memory:")
    try:
        db.execute("CREATE VIRTUAL TABLE t USING fts5(words, content='', contentless_delete=1)")
        db.execute("INSERT INTO t(rowid, words) VALUES (1, 'nota fiscal'), (2, 'nota')")
        db.execute("DELETE FROM t WHERE rowid = 2")
        return db.execute("SELECT rowid FROM t('nota')").fetchall() == [(1,)]
    except apsw.Error:
        return False
    finally:
        db.close()


def _carray_works() -> bool:
    import apsw
    import numpy as np

    db = apsw.Connection(":memory:")
    try:
        numbers = apsw.carray(np.array([1, 2], dtype=np.int64))
        return db.execute("SELECT sum(value) FROM carray(?)", (numbers,)).fetchall() == [(3,)]
    except (apsw.Error, AttributeError):
        return False
    finally:
        db.close()


def embedder(case: Case) -> Answer:
    """Turn a text into a vector."""
    from oraculo_kit.embed import Embedder

    _ = case.translate
    ready = case.look.services
    model = ready.vetor_storage.embedder if ready is not None else Embedder(case.settings.embedder)
    started = time.perf_counter()
    vector = model.probe()  # raises for NaN, infinity, zeros and wrong shapes
    milliseconds = (time.perf_counter() - started) * 1000
    text = _("{name}: dimension {dimension}, {milliseconds:.0f} ms for the first text")
    return Answer("ok", text.format(name=model.name, dimension=len(vector), milliseconds=milliseconds))


def openmp(case: Case) -> Answer:
    """Ask whether several OpenMP runtimes, such as those of FAISS and torch, meet in one process."""
    import importlib.util

    import threadpoolctl

    _ = case.translate
    loaded = sorted(
        {os.path.basename(pool["filepath"]) for pool in _openmp_pools(threadpoolctl.threadpool_info())}
    )
    fix = _(
        "If the process hangs or dies in a search: install torch and FAISS from conda-forge, where they share one "
        "runtime, or set OMP_NUM_THREADS=1 before the start."
    )
    if len(loaded) > 1:
        return Answer(
            "warning", _("several runtimes are loaded: {names}").format(names=", ".join(loaded)), fix
        )
    if importlib.util.find_spec("torch") is not None and importlib.util.find_spec("faiss") is not None:
        return Answer("warning", _("torch and FAISS are both installed, each with a runtime of its own"), fix)
    return Answer("ok", ", ".join(loaded) or _("none is loaded"))


def _openmp_pools(pools: list[dict[str, str]]) -> list[dict[str, str]]:
    return [pool for pool in pools if pool["user_api"] == "openmp"]
