"""The catalog and the opening of a store: what cannot be trusted is refused by name, and nothing is changed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from oraculo_kit.errors import (
    EmbedderMismatchError,
    SettingsError,
    StorageError,
    StoreClosedError,
    StoreCorruptedError,
    StoreFormatError,
    StoreLockTimeoutError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from oraculo_kit.storage.catalog import APPLICATION_ID, FORMAT, Catalog, ReaderPool
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.verify import verify_store
from tests.storage.kit import Child, TinyEmbeddings, catalog_of, contents, documents, stored_ids, vectors
from tests.storage.test_lock import open_files, posix

OpenStore = Callable[..., FaissVetorStorage]


@pytest.fixture
def filled(folder: Path, small_segments: int) -> Path:
    """Return the folder of a closed store with a segment of 30 vectors and 3 pending ones."""
    with FaissVetorStorage(folder) as store:
        store.replace("a", documents("a", 30), vectors(30))
        store.replace("b", documents("b", 3), vectors(3))
    return folder


def test_a_new_store_is_what_sqlite_tools_recognise(store: FaissVetorStorage, folder: Path) -> None:
    store.write(documents("a", 1), vectors(1))
    with catalog_of(folder) as db:
        assert db.pragma("application_id") == APPLICATION_ID
        assert db.pragma("user_version") == FORMAT
        assert db.pragma("journal_mode") == "wal"
        assert db.pragma("auto_vacuum") == 2  # incremental
    assert APPLICATION_ID.to_bytes(4) == b"ORAK"


@pytest.mark.parametrize(("durability", "synchronous"), [("power", 2), ("process", 1)])
def test_durability_sets_what_sqlite_waits_for(folder: Path, durability: str, synchronous: int) -> None:
    FaissVetorStorage(folder).close()
    catalog = Catalog(folder / "catalog.sqlite3", durability=durability)
    assert catalog.db.pragma("synchronous") == synchronous
    assert catalog.db.pragma("wal_autocheckpoint") == 0
    catalog.close()


def test_an_unknown_durability_is_refused_rather_than_weakened(folder: Path) -> None:
    with pytest.raises(SettingsError, match="durability is 'Power', expected 'power' or 'process'"):
        FaissVetorStorage(folder, durability="Power")
    assert not folder.exists()


def test_a_transaction_is_rolled_back_whole(folder: Path) -> None:
    FaissVetorStorage(folder).close()
    catalog = Catalog(folder / "catalog.sqlite3")
    with pytest.raises(ZeroDivisionError), catalog.writing():
        catalog.set_meta("x", 1)
        _ = 1 // 0
    assert catalog.meta("x") is None
    with catalog.writing():
        catalog.set_meta("x", 2)
    assert catalog.meta("x") == 2
    catalog.close()


@posix
def test_an_interrupt_while_a_transaction_waits_to_begin_leaves_none_open(folder: Path) -> None:
    FaissVetorStorage(folder).close()
    catalog = Catalog(folder / "catalog.sqlite3")
    other = apsw.Connection(str(folder / "catalog.sqlite3"))
    other.execute("BEGIN IMMEDIATE")
    # The signal arrives while SQLite waits; Python learns of it when BEGIN has succeeded.
    interrupt = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    give_way = threading.Timer(0.2, other.execute, ("ROLLBACK",))
    interrupt.start()
    give_way.start()
    with pytest.raises(KeyboardInterrupt), catalog.writing():
        catalog.set_meta("x", 1)
    give_way.join()
    assert not catalog.db.in_transaction
    with catalog.writing():
        assert catalog.meta("x") is None
    catalog.close()
    other.close()


def test_a_connection_left_in_a_transaction_is_not_lent_again(folder: Path) -> None:
    FaissVetorStorage(folder).close()
    pool = ReaderPool(folder / "catalog.sqlite3", read_only=False)
    with pool.reader() as first:
        first.db.execute("BEGIN")  # as an interrupt at the wrong moment leaves it
    with pool.reader() as second:
        assert second is not first
        with second.reading():
            assert second.meta("commit") == 0
    with pool.reader() as third:
        assert third is second
    pool.close()


def test_a_catalog_restored_from_an_old_copy_is_refused(filled: Path, tmp_path: Path) -> None:
    shutil.copy(filled / "catalog.sqlite3", tmp_path / "old")
    with FaissVetorStorage(filled) as store:
        store.write(documents("c", 1), vectors(1))
    shutil.copy(tmp_path / "old", filled / "catalog.sqlite3")
    before = contents(filled)
    for read_only in (False, True):
        with pytest.raises(StoreCorruptedError, match="is at commit 2, but commit 3 was made") as caught:
            FaissVetorStorage(filled, read_only=read_only)
        assert "delete writer.lock" in str(caught.value)
    assert contents(filled) == before


def test_a_store_that_is_open_does_not_write_to_a_catalog_restored_from_an_old_copy(
    filled: Path, tmp_path: Path
) -> None:
    shutil.copy(filled / "catalog.sqlite3", tmp_path / "old")
    with FaissVetorStorage(filled) as store:
        store.write(documents("c", 1), vectors(1))
        # With a new file, as a backup tool would do it: the store must not go on in the one without a name.
        with catalog_of(filled):
            pass
        (tmp_path / "old").replace(filled / "catalog.sqlite3")
        before = contents(filled)
        with pytest.raises(StoreCorruptedError, match="is at commit 2, but commit 3 was made"):
            store.write(documents("d", 1), vectors(1))
        assert contents(filled) == before


@pytest.mark.parametrize("content", [b"", b"\xff" * 400, b"99 bad\0", b"\0" * 320])
def test_a_garbled_lock_file_costs_nothing_but_its_memory(filled: Path, content: bytes) -> None:
    (filled / "writer.lock").write_bytes(content)
    with FaissVetorStorage(filled) as store:
        assert len(store) == 33
        store.write(documents("c", 1), vectors(1))
        assert store.verify().ok
    assert WriterLock(filled, 1).commit_number() == 3


def test_the_loss_can_be_accepted_by_deleting_the_lock_file(filled: Path, tmp_path: Path) -> None:
    shutil.copy(filled / "catalog.sqlite3", tmp_path / "old")
    with FaissVetorStorage(filled) as store:
        store.write(documents("c", 1), vectors(1))
    shutil.copy(tmp_path / "old", filled / "catalog.sqlite3")
    (filled / "writer.lock").unlink()
    with FaissVetorStorage(filled) as store:
        assert len(store) == 33
        assert store.verify().ok


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("rest", ["segments", "lock", "log"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_lost_catalog_is_never_replaced_by_a_new_one(
    folder: Path, small_segments: int, rest: str, how: str, read_only: bool
) -> None:
    # In "process" mode the lock file remembers nothing; a segment remembers; so does a log without a segment.
    durability = "power" if rest == "lock" else "process"
    store = FaissVetorStorage(folder, durability=durability)
    count = 30 if rest == "segments" else 5
    store.write(documents("a", count), vectors(count))
    if rest != "log":
        store.close()
        (folder / "catalog.sqlite3-wal").unlink()
    else:
        store._rest()
    (folder / "catalog.sqlite3-shm").unlink()
    (folder / "catalog.sqlite3").unlink()
    if how == "empty":
        (folder / "catalog.sqlite3").touch()
    before = contents(folder)
    with pytest.raises(StoreCorruptedError, match=r"catalog\.sqlite3 is missing or empty, but") as caught:
        FaissVetorStorage(folder, read_only=read_only)
    assert "Restore the file from a copy" in str(caught.value)
    assert contents(folder) == before
    assert "is missing or empty" in verify_store(folder).problems[0]


@pytest.mark.parametrize("leftover", [b"", "header"])
def test_what_a_killed_creator_left_becomes_a_store(folder: Path, leftover: bytes | str) -> None:
    folder.mkdir()
    path = folder / "catalog.sqlite3"
    path.touch()
    if leftover == "header":
        db = apsw.Connection(str(path))
        db.pragma("auto_vacuum", "INCREMENTAL")
        db.pragma("journal_mode", "WAL")
        db.close()
        assert path.stat().st_size
    with FaissVetorStorage(folder) as store:
        store.write(documents("a", 2), vectors(2))
        assert store.verify().ok
    with FaissVetorStorage(folder, read_only=True) as store:
        assert len(store) == 2


def test_reading_where_a_creator_was_killed_says_that_there_is_no_store(folder: Path) -> None:
    folder.mkdir()
    (folder / "catalog.sqlite3").touch()
    with pytest.raises(StoreNotFoundError, match="there is no store at"):
        FaissVetorStorage(folder, read_only=True)


@pytest.mark.parametrize("read_only", [False, True])
def test_another_programs_database_is_refused_and_kept(folder: Path, read_only: bool) -> None:
    folder.mkdir()
    db = apsw.Connection(str(folder / "catalog.sqlite3"))
    db.execute("CREATE TABLE notes(text); INSERT INTO notes VALUES ('mine')")
    db.close()
    before = (folder / "catalog.sqlite3").read_bytes()
    with pytest.raises(StoreFormatError, match="is a SQLite database, but not a catalog of oraculo_kit"):
        FaissVetorStorage(folder, read_only=read_only)
    assert (folder / "catalog.sqlite3").read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_format_is_refused_and_kept(filled: Path, read_only: bool) -> None:
    with catalog_of(filled) as db:
        db.pragma("user_version", FORMAT + 1)
    before = contents(filled)
    with pytest.raises(
        StoreFormatError, match=f"has format {FORMAT + 1}, and this oraculo_kit reads up to {FORMAT}"
    ):
        FaissVetorStorage(filled, read_only=read_only)
    assert contents(filled) == before


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_no_database_is_refused_and_kept(filled: Path, read_only: bool) -> None:
    (filled / "catalog.sqlite3").write_bytes(b"not a database at all" * 500)
    (filled / "catalog.sqlite3-wal").unlink()
    before = contents(filled)
    with pytest.raises(StoreCorruptedError, match="is damaged .*file is not a database"):
        FaissVetorStorage(filled, read_only=read_only)
    assert contents(filled) == before


def test_failing_to_open_leaves_no_file_open(filled: Path) -> None:
    with catalog_of(filled) as db:
        db.pragma("user_version", FORMAT + 1)
    before = open_files()
    for read_only in (False, True):
        for _ in range(3):
            with pytest.raises(StoreFormatError):
                FaissVetorStorage(filled, read_only=read_only)
    assert open_files() == before


def test_closing_leaves_no_file_open(filled: Path) -> None:
    before = open_files()
    with FaissVetorStorage(filled) as store:
        store.write(documents("c", 1), vectors(1))
        store.search(vectors(1)[0])
    store.close()
    assert open_files() == before


def test_a_closed_store_says_so(store: FaissVetorStorage) -> None:
    store.close()
    calls: list[Callable[[], Any]] = [
        lambda: len(store),
        lambda: store.search(vectors(1)[0]),
        lambda: store.write(documents("a", 1), vectors(1)),
        store.verify,
        store.sources,
    ]
    for call in calls:
        with pytest.raises(StoreClosedError, match="was closed; open it again"):
            call()


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/store"):
        with pytest.raises(StoreNotFoundError, match="is a file or lies below one, expected a folder"):
            FaissVetorStorage(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_the_system_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot make the store .*: File name too long"):
        FaissVetorStorage(tmp_path / ("x" * 300))


def test_a_missing_store_cannot_be_read(folder: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"there is no store at .*ORACULO_STORE"):
        FaissVetorStorage(folder, read_only=True)
    assert not folder.exists()


def test_a_folder_name_is_not_taken_apart(tmp_path: Path) -> None:
    folder = tmp_path / "a?b#c%41 'd\" ção"
    with FaissVetorStorage(folder) as store:
        store.write(documents("a", 2), vectors(2))
    with FaissVetorStorage(folder, read_only=True) as store:
        assert len(store) == 2


def test_a_store_read_only_refuses_to_write(filled: Path) -> None:
    before = contents(filled)
    with FaissVetorStorage(filled, read_only=True) as store:
        for call in (
            lambda: store.write(documents("c", 1), vectors(1)),
            lambda: store.replace("a", []),
            lambda: store.remove(["x"]),
            lambda: store.remove_by_metadata("source", "a"),
        ):
            with pytest.raises(StoreReadOnlyError, match="is open for reading only"):
                call()
        assert len(store.search(vectors(1)[0], k=3)) == 3
    assert contents(filled) == before


def test_another_embedder_is_refused_by_name(folder: Path) -> None:
    with FaissVetorStorage(folder, TinyEmbeddings()) as store:
        store.write(documents("a", 2))

    class OtherEmbeddings(TinyEmbeddings):
        pass

    with pytest.raises(
        EmbedderMismatchError, match=r"TinyEmbeddings, and this process uses .*OtherEmbeddings"
    ):
        FaissVetorStorage(folder, OtherEmbeddings())


def test_another_model_of_the_same_name_is_refused_at_its_first_use(folder: Path) -> None:
    with FaissVetorStorage(folder, TinyEmbeddings()) as store:
        store.write(documents("a", 2))
    with FaissVetorStorage(folder, TinyEmbeddings(salt="fine-tuned")) as store:
        with pytest.raises(EmbedderMismatchError, match=r"its probe vector has cosine -?0\.\d+"):
            store.write(documents("b", 1))
        with pytest.raises(EmbedderMismatchError, match="probe vector"):
            store.search("nota fiscal")
        assert store.verify().ok
        assert len(store) == 2


def test_a_store_removed_under_an_open_one_does_not_swallow_writes(
    open_store: OpenStore, folder: Path
) -> None:
    old = open_store()
    old.write(documents("a", 2), vectors(2))
    shutil.rmtree(folder)
    with pytest.raises(StoreNotFoundError, match="is gone"):
        old.write(documents("b", 1), vectors(1))
    with pytest.raises(StorageError, match="cannot be opened"):
        len(old)
    assert not folder.exists()


def test_a_store_made_anew_under_an_open_one_takes_its_writes(open_store: OpenStore, folder: Path) -> None:
    old = open_store()
    old.write(documents("a", 2), vectors(2))
    assert len(old.search(vectors(1)[0])) == 2
    shutil.rmtree(folder)
    new = open_store()
    new.write(documents("b", 5), vectors(5, 1))
    assert {hit.source for hit in old.search(vectors(1)[0])} == {"b"}
    (name,) = old.write(documents("c", 1), vectors(1, 2))
    assert name in stored_ids(new)
    assert new.verify().ok


def test_another_process_that_opens_and_closes_the_files_does_no_harm(
    store: FaissVetorStorage, folder: Path, child: Callable[..., Child]
) -> None:
    other = child("open_and_close", folder)
    assert other.line() == "ready"
    names: list[str] = []
    for number in range(60):
        names += store.write(documents("a", 1, number), vectors(1))
        store.search(vectors(1)[0])
    other.go()
    assert other.result() > 10
    assert set(names) <= stored_ids(store)
    assert store.verify().ok


def test_opening_while_another_process_writes_always_succeeds(
    store: FaissVetorStorage, folder: Path, child: Callable[..., Child]
) -> None:
    writer = child("compete", folder, 1, 1.5)
    opened = 0
    while writer.process.poll() is None:
        for read_only in (True, False):
            with FaissVetorStorage(folder, read_only=read_only) as other:
                assert len(other) >= 0
            opened += 1
    assert writer.result()[0]["count"] > 10
    assert opened > 10


def test_reading_goes_on_beside_a_program_that_writes_to_the_catalog(
    store: FaissVetorStorage, open_store: OpenStore, folder: Path
) -> None:
    store.write(documents("a", 3), vectors(3))
    db = apsw.Connection(str(folder / "catalog.sqlite3"))
    db.execute("BEGIN IMMEDIATE; DELETE FROM chunks")
    assert len(store.search(vectors(1)[0])) == 3
    assert len(open_store(read_only=True).search(vectors(1)[0])) == 3
    db.execute("ROLLBACK")
    db.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every user may enter; pytest's own belong to one user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def left_behind(folder: Path, state: str) -> Path:
    """Make a store and leave it in a state, in a folder that may not be written."""
    store = FaissVetorStorage(folder)
    store.replace("a", documents("a", 30), vectors(30))
    store.replace("b", documents("b", 3), vectors(3))
    if state in ("killed", "killed, index lost"):
        store._rest()  # leaves the log, as a killed process would
    store.close()
    lost = {"killed, index lost": ["-shm"], "closed, index lost": ["-shm"], "copied": ["-shm", "-wal"]}
    for end in lost.get(state, []):
        (folder / f"catalog.sqlite3{end}").unlink()
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


@posix
def test_a_store_in_a_folder_that_may_not_be_written_can_be_read(
    open_folder: Path, small_segments: int, child: Callable[..., Child]
) -> None:
    states = ["closed", "killed", "closed, index lost", "killed, index lost", "copied"]
    folders = [left_behind(open_folder / str(number), state) for number, state in enumerate(states)]
    try:
        results = child("read_without_rights", list(map(str, folders))).result()
    finally:
        for folder in folders:
            folder.chmod(0o755)
            (folder / "segments").chmod(0o755)
    for state, result in zip(states, results, strict=True):
        assert "StoreReadOnlyError" in result["write"], state
        assert "Ask for write permission" in result["write"], state
        if state == "killed, index lost":  # SQLite cannot read a log that it may not index
            assert "cannot be opened" in result["read"]
        else:
            assert result["read"] == 33, state
            assert result["problems"] == [], state


@posix
def test_the_services_start_on_a_store_that_can_only_be_searched(
    open_folder: Path, child: Callable[..., Child]
) -> None:
    folder = left_behind(open_folder / "store", "closed")
    try:
        result = child("start_without_rights", folder).result()
    finally:
        folder.chmod(0o755)
        (folder / "segments").chmod(0o755)
    assert result["found"] > 0
    assert any("can only be searched" in line for line in result["lines"])
    assert result["error"].startswith("StoreReadOnlyError: the store")


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs two users: run as root")
def test_a_reader_without_rights_sees_what_is_written_after_it_opened(
    open_folder: Path, child: Callable[..., Child]
) -> None:
    folder = open_folder / "store"
    with FaissVetorStorage(folder) as store:
        store.write(documents("a", 3), vectors(3))
    for name in ("catalog.sqlite3-shm", "catalog.sqlite3-wal"):
        (folder / name).unlink()  # as in a copy: the reader opens the catalog as a file that does not change
    reader = child("count_without_rights", folder)
    assert reader.line() == "3"
    with FaissVetorStorage(folder) as store:
        store.replace("a", documents("a", 300), vectors(300))
        reader.go()
        assert reader.line() == "300"
        store.replace("a", documents("a", 7), vectors(7))
    reader.go()
    assert reader.line() == "7"
    reader.go()
    reader.result()


def test_a_store_whose_lock_is_held_can_still_be_read(filled: Path, child: Callable[..., Child]) -> None:
    holder = child("hold_lock", filled, "a long commit")
    assert holder.line() == "held"
    with FaissVetorStorage(filled, read_only=True) as store:
        assert len(store) == 33
    with FaissVetorStorage(filled, lock_timeout=0.1) as store:
        assert len(store) == 33
        with pytest.raises(StoreLockTimeoutError, match="a long commit"):
            store.remove(["none"])


if sys.platform == "win32":
    pytestmark = pytest.mark.skip(reason="the suite inspects POSIX locks and descriptors")


@posix
def test_a_file_that_takes_the_place_while_it_is_opened_makes_the_connection_outdated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other, connection = tmp_path / "catalog.sqlite3", tmp_path / "other.sqlite3", apsw.Connection
    for each in (path, other):
        Catalog(each, create=True).close()
        each.touch()

    def swapped(*arguments: Any, **options: Any) -> apsw.Connection:
        db = connection(*arguments, **options)
        other.rename(path)
        return db

    monkeypatch.setattr(apsw, "Connection", swapped)
    catalog = Catalog(path)
    monkeypatch.undo()
    assert catalog.is_outdated()
    catalog.close()
