"""The commit protocol, step by step, and what a failure at each step leaves behind."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oraculo_kit.errors import StorageError, StoreCorruptedError, VectorsError
from oraculo_kit.storage import commit, segments
from oraculo_kit.storage.base import SourceDocuments
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.claims import ClaimedSegment
from oraculo_kit.storage.commit import Writer
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.owners import Owner
from oraculo_kit.storage.prepare import prepare_source
from oraculo_kit.storage.records import LedgerEntry, SourceWrite
from oraculo_kit.storage.verify import verify_store
from tests.storage.kit import Child, TinyEmbeddings, documents, stored_ids, vectors
from tests.storage.test_lock import posix


@pytest.fixture
def writer(folder: Path, small_segments: int) -> Iterator[Writer]:
    """Return the writing side of a new store."""
    folder.mkdir()
    writer = Writer(folder, durability="power", lock_timeout=5)
    writer.make_ready()
    yield writer
    writer.close()
    if not (folder / "damaged").exists():
        report = verify_store(folder)
        assert report.ok, report


def source(
    key: str, count: int, *, whole: bool = True, seed: int = 0, dimension: int = 8, **metadata: Any
) -> SourceWrite:
    """Return a source ready to be committed."""
    return prepare_source(
        key, documents(key, count, **metadata), vectors(count, seed, dimension), [None] * count, whole=whole
    )


def rows(writer: Writer, sql: str) -> list[tuple[Any, ...]]:
    """Ask the catalog."""
    with writer.reading() as catalog:
        return catalog.rows(sql)


def pending(writer: Writer) -> int:
    """Count the vectors that no segment holds; the writer's own figure is the same."""
    ((count,),) = rows(
        writer,
        "SELECT count(*) FROM pending WHERE number > (SELECT value FROM meta WHERE key = 'flushed')",
    )
    return int(count)


def files(writer: Writer) -> set[str]:
    """Return the names of all files in the folder of segments."""
    return {path.name for path in writer.segments.iterdir()}


def test_a_small_write_leaves_its_vectors_pending(writer: Writer) -> None:
    assert writer.commit([source("a", 5)]).number == 1
    assert pending(writer) == 5
    assert files(writer) == set()
    assert writer.lock.commit_number() == 1


def test_what_is_written_twice_in_one_commit_stands_as_it_was_written_last(writer: Writer) -> None:
    made = writer.commit([source("a", 3), source("b", 2), source("a", 1, seed=1)])
    assert made.replaced == [False, False, True]
    assert rows(writer, "SELECT key, chunk_count FROM sources ORDER BY key") == [("a", 1), ("b", 2)]
    assert rows(writer, "SELECT count(*) FROM chunks") == [(3,)]


@pytest.mark.parametrize("whole", [True, False])
def test_an_id_that_two_sources_of_a_commit_have_stands_in_the_last(writer: Writer, whole: bool) -> None:
    def named(key: str, *ids: str) -> SourceWrite:
        return prepare_source(key, documents(key, len(ids)), vectors(len(ids)), ids, whole=whole)

    writer.commit([named("a", "one", "two"), named("b", "two", "three")])
    placed = "SELECT c.id, s.key FROM chunks c JOIN sources s ON s.id = c.source ORDER BY c.number"
    assert rows(writer, placed) == [("one", "a"), ("two", "b"), ("three", "b")]
    assert rows(writer, "SELECT key, chunk_count FROM sources ORDER BY key") == [("a", 1), ("b", 2)]


def test_a_large_write_makes_a_segment_and_a_new_layout(writer: Writer) -> None:
    writer.commit([source("a", 20)])
    ((name, count, size, digest),) = rows(writer, "SELECT name, rows, bytes, digest FROM segments")
    path = writer.segments / name
    assert (count, size, digest) == (20, path.stat().st_size, segments.file_digest(path))
    assert files(writer) == {name}
    assert (
        rows(writer, "SELECT count(*) FROM pending") == rows(writer, "SELECT count(*) FROM claims") == [(0,)]
    )
    assert rows(writer, "SELECT value FROM meta WHERE key = 'layout'") == [(1,)]


def test_pending_vectors_are_flushed_into_a_segment(writer: Writer) -> None:
    for number in range(4):
        writer.commit([source(f"s{number}", 6, seed=number)])
    assert pending(writer) == 0
    assert rows(writer, "SELECT rows FROM segments") == [(24,)]
    assert rows(writer, "SELECT count(*) FROM claims") == [(0,)]
    assert writer.lock.commit_number() == 5


def test_what_is_deleted_while_a_flush_writes_stays_deleted(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.commit([source("a", 5), source("b", 5)])
    write = ClaimedSegment.write

    def deleting(self: ClaimedSegment, *arguments: Any) -> None:
        write(self, *arguments)
        writer.commit([source("a", 1, seed=9)])

    monkeypatch.setattr(ClaimedSegment, "write", deleting)
    assert writer.flush()
    assert rows(writer, "SELECT rows FROM segments") == [(10,)]
    assert pending(writer) == 1


def test_the_rows_of_flushed_vectors_go_with_the_commits_that_follow(writer: Writer) -> None:
    writer.commit([source("a", 19)])
    writer.flush()
    for number in range(10):  # each deletes three of them
        writer.commit([source(f"s{number}", 1, seed=number)])

    assert rows(writer, "SELECT count(*) FROM pending") == [(10,)]
    assert pending(writer) == 10


def test_a_flush_forgets_what_was_deleted_before_it_ever_reached_a_segment(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.commit([source("a", 5), source("b", 5)])
    writer.commit([source("a", 2, seed=3)])
    write = ClaimedSegment.write

    def deleting(self: ClaimedSegment, *arguments: Any) -> None:
        write(self, *arguments)
        writer.commit([source("b", 1, seed=9)])

    monkeypatch.setattr(ClaimedSegment, "write", deleting)
    assert writer.flush()
    # The five of "b" stand in the segment; the first five of "a" nowhere.
    assert rows(writer, "SELECT number, unsegmented FROM tombstones ORDER BY number") == [
        (number, 0) for number in range(6, 11)
    ]


def test_only_one_flush_goes_on_at_a_time(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.commit([source("a", 5)])
    other = Writer(writer.folder, durability="power", lock_timeout=5)
    write, second = ClaimedSegment.write, []

    def meanwhile(self: ClaimedSegment, *arguments: Any) -> None:
        second.append(other.flush())
        write(self, *arguments)

    monkeypatch.setattr(ClaimedSegment, "write", meanwhile)
    assert writer.flush()
    assert second == [False]
    assert rows(writer, "SELECT rows FROM segments") == [(5,)]
    other.close()


def test_a_flush_that_was_taken_for_dead_stores_nothing_twice(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.commit([source("a", 5)])
    other = Writer(writer.folder, durability="power", lock_timeout=5)
    write, second = ClaimedSegment.write, []

    def meanwhile(self: ClaimedSegment, *arguments: Any) -> None:
        write(self, *arguments)
        if not second:
            second.append(True)
            monkeypatch.setattr(Owner, "lives", lambda _owner: False)  # the clock was set, say
            assert other.flush()

    monkeypatch.setattr(ClaimedSegment, "write", meanwhile)
    writer.flush()
    assert rows(writer, "SELECT rows FROM segments") == [(5,)]
    other.close()


def test_two_sources_of_one_name_in_one_commit_leave_the_last(writer: Writer) -> None:
    for count in (2, 15):  # together a small write, then a large one
        writer.commit([source("a", count, seed=1), source("a", count + 1, seed=2)])
        assert rows(writer, "SELECT chunk_count FROM sources") == [(count + 1,)]
        assert rows(writer, "SELECT count(*) FROM chunks") == [(count + 1,)]


def test_an_id_that_moves_to_another_source_leaves_the_ledger_right(writer: Writer) -> None:
    def named(key: str, ids: list[str]) -> SourceWrite:
        count = len(ids)
        return prepare_source(key, documents(key, count), vectors(count), ids, whole=False)

    writer.commit([named("a", ["x", "y"])])
    writer.commit([named("b", ["x"]), named("c", ["x"])])
    assert rows(writer, "SELECT key, chunk_count FROM sources ORDER BY key") == [("a", 1), ("c", 1)]
    writer.commit([named("a", ["x"])])
    assert rows(writer, "SELECT key, chunk_count FROM sources") == [("a", 2)]


def test_a_source_that_lost_chunks_forgets_its_content_hash(writer: Writer) -> None:
    write = source("a", 3)
    write.ledger = LedgerEntry(content_hash="h", bytes=5)
    writer.commit([write])
    assert rows(writer, "SELECT content_hash FROM sources") == [("h",)]
    writer.remove(lambda catalog: np.array([1]), "test")
    assert rows(writer, "SELECT content_hash, chunk_count FROM sources") == [(None, 2)]


def test_a_chunk_number_is_never_used_twice(writer: Writer) -> None:
    seen: set[int] = set()
    for round_ in range(6):
        writer.commit([source("a", 25 if round_ % 2 else 3, seed=round_)])
        numbers = {number for (number,) in rows(writer, "SELECT number FROM chunks")}
        assert not numbers & seen
        seen |= numbers
        writer.remove(
            lambda catalog: np.array([n for (n,) in catalog.rows("SELECT number FROM chunks")]), "all"
        )


@pytest.mark.parametrize("count", [3, 30])
def test_vectors_of_another_dimension_are_refused_and_nothing_changes(writer: Writer, count: int) -> None:
    writer.commit([source("a", 2)])
    with pytest.raises(VectorsError, match="got vectors of dimension 5, expected 8"):
        writer.commit([source("b", count, dimension=5)])
    with pytest.raises(VectorsError, match="got vectors of dimension 5, 8"):
        writer.commit([source("b", count), source("c", 2, dimension=5)])
    assert rows(writer, "SELECT key FROM sources") == [("a",)]
    assert files(writer) == set()
    assert rows(writer, "SELECT count(*) FROM claims") == [(0,)]


def test_mixed_dimensions_are_refused_by_an_empty_store(writer: Writer) -> None:
    with pytest.raises(VectorsError, match="got vectors of dimension 5, 8, expected one"):
        writer.commit([source("b", 30), source("c", 2, dimension=5)])
    assert rows(writer, "SELECT value FROM meta WHERE key IN ('dimension', 'commit') ORDER BY key") == [
        (0,),
        (None,),
    ]


def test_an_empty_source_may_come_first_in_a_large_write(writer: Writer) -> None:
    empty = SourceWrite("e", [], np.zeros((0, 0), np.float32), whole=True)
    writer.commit([empty, source("a", 30)])
    assert rows(writer, "SELECT key, chunk_count FROM sources ORDER BY key") == [("a", 30), ("e", 0)]


def failing(error: int) -> Callable[..., Any]:
    """Return a function that fails like a system call."""

    def fail(*_arguments: Any) -> None:
        raise OSError(error, os.strerror(error))

    return fail


@pytest.mark.parametrize("step", ["sync_file", "sync_folder"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_segment_that_cannot_be_written_leaves_nothing_behind(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, step: str, error: int
) -> None:
    writer.commit([source("a", 2)])
    monkeypatch.setattr(segments, step, failing(error))
    with pytest.raises(StorageError, match=f"{os.strerror(error)}. Nothing was stored") as caught:
        writer.commit([source("b", 30)])
    assert isinstance(caught.value.__cause__, OSError)
    monkeypatch.undo()
    assert rows(writer, "SELECT key FROM sources") == [("a",)]
    assert rows(writer, "SELECT count(*) FROM claims") == [(0,)]
    assert files(writer) == set()
    assert writer.commit([source("b", 3)]).number == 2


def test_a_commit_that_fails_after_its_segment_was_written_removes_the_file(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commit, "put_sources", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.commit([source("a", 30)])
    assert files(writer) == set()
    assert rows(writer, "SELECT (SELECT count(*) FROM claims), (SELECT count(*) FROM chunks)") == [(0, 0)]


def test_an_interrupt_just_after_the_commit_keeps_the_segment(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = WriterLock.record_commit

    def interrupted(self: WriterLock, number: int) -> None:
        record(self, number)
        raise KeyboardInterrupt

    monkeypatch.setattr(WriterLock, "record_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.commit([source("a", 30)])
    monkeypatch.undo()
    ((name,),) = rows(writer, "SELECT name FROM segments")
    assert files(writer) == {name}
    assert rows(writer, "SELECT count(*) FROM chunks") == [(30,)]


def test_a_claim_that_was_collected_is_made_anew(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    write, names = ClaimedSegment.write, []

    def collected(self: ClaimedSegment, *arguments: Any) -> None:
        write(self, *arguments)
        names.append(self.path.name)
        if len(names) == 1:
            monkeypatch.setattr(Owner, "lives", lambda _owner: False)
            assert writer.collect_garbage() == [self.path.name]

    monkeypatch.setattr(ClaimedSegment, "write", collected)
    writer.commit([source("a", 30)])
    assert len(names) == 2
    assert files(writer) == {names[1]}


def test_garbage_of_the_dead_is_collected_and_work_of_the_living_kept(
    writer: Writer, child: Callable[..., Child]
) -> None:
    writer.commit([source("a", 30)])
    dead = child("claim_and_wait", writer.folder)
    left = dead.line()
    assert files(writer) >= {left, left + ".tmp"}
    assert writer.collect_garbage() == []
    dead.kill()
    (writer.segments / "foreign.txt").write_text("no segment")
    assert set(writer.collect_garbage()) == {left, left + ".tmp", "foreign.txt"}
    assert len(files(writer)) == 1


@posix
def test_a_killed_owner_is_dead_before_its_parent_takes_note(
    writer: Writer, child: Callable[..., Child]
) -> None:
    owner = child("claim_and_wait", writer.folder)
    owner.line()
    os.kill(owner.process.pid, 9)
    deadline = time.monotonic() + 5
    while any(each.lives() for each in owners(writer)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [each.lives() for each in owners(writer)] == [False]
    assert Path(f"/proc/{owner.process.pid}").exists() or not Path("/proc").exists()  # a zombie still


def owners(writer: Writer) -> list[Owner]:
    """Return who has a claim."""
    return [Owner(*row) for row in rows(writer, "SELECT host, pid, started FROM claims")]


def test_claims_of_other_hosts_are_kept_for_a_day(writer: Writer) -> None:
    day = 86_400 * 10**9
    for age, name in ((day - 10**10, "young"), (day + 10**10, "old")):
        with writer.transaction("test") as catalog:
            stamp = f"{time.time_ns() - age:020d}"
            catalog.db.execute(
                "INSERT INTO claims VALUES (?, 'write', 'elsewhere', 1, 0)", (f"{stamp}-{name}.f32",)
            )
        (writer.segments / f"{stamp}-{name}.f32.tmp").touch()
    (removed,) = writer.collect_garbage()
    assert "old" in removed


def test_a_claim_of_a_process_that_lives_here_never_ends(writer: Writer) -> None:
    stamp = f"{time.time_ns() - 10 * 86_400 * 10**9:020d}"
    owner = Owner.this_process()
    with writer.transaction("test") as catalog:
        catalog.db.execute(
            "INSERT INTO claims VALUES (?, 'reembed', ?, ?, ?)",
            (f"{stamp}-slow.f32", owner.host, owner.pid, owner.started),
        )
    assert writer.collect_garbage() == []
    assert rows(writer, "SELECT count(*) FROM claims") == [(1,)]


def test_a_file_made_while_garbage_is_collected_is_kept(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Writer(writer.folder, durability="power", lock_timeout=5)
    transaction, once = Writer.transaction, []

    def then_write(self: Writer, what: str) -> Any:
        if what != "collect garbage" or once:
            return transaction(self, what)
        once.append(what)

        class Meanwhile:
            def __enter__(self) -> Catalog:
                self.inner = transaction(writer, what)
                return self.inner.__enter__()

            def __exit__(self, *exc: Any) -> None:
                self.inner.__exit__(*exc)
                other.commit([source("b", 30)])

        return Meanwhile()

    monkeypatch.setattr(Writer, "transaction", then_write)
    assert writer.collect_garbage() == []
    assert once
    assert len(files(writer)) == 1
    other.close()


def test_what_follows_a_commit_cannot_make_it_fail(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(commit, "CHECKPOINT_PAGES", 0)
    full = StorageError("the disk is full")

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise full

    monkeypatch.setattr(Catalog, "checkpoint", fail)
    monkeypatch.setattr(segments, "sync_file", failing(errno.ENOSPC))
    monkeypatch.setattr(WriterLock, "record_commit", failing(errno.EIO))
    with caplog.at_level(logging.WARNING, "oraculo_kit.storage"):
        for number in range(3):
            assert writer.commit([source(f"s{number}", 10)]).number == number + 1
    for step in ("flush", "checkpoint", "note of the commit number"):
        assert f"the write is stored, but the {step} after it failed and will be tried again" in caplog.text
    monkeypatch.undo()
    assert rows(writer, "SELECT count(*) FROM chunks") == [(30,)]
    assert files(writer) == set()
    assert rows(writer, "SELECT count(*) FROM claims") == [(0,)]


def test_the_log_is_moved_into_the_database_when_it_is_long(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "CHECKPOINT_PAGES", 30)
    monkeypatch.setattr(commit, "TRUNCATE_PAGES", 30)
    log = writer.folder / "catalog.sqlite3-wal"
    longest = 0
    for number in range(30):
        writer.commit([source(f"s{number}", 2)])
        longest = max(longest, log.stat().st_size)
    assert longest < 100 * 4096


def test_a_reader_does_not_keep_the_log_from_being_emptied_later(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "CHECKPOINT_PAGES", 10)
    monkeypatch.setattr(commit, "TRUNCATE_PAGES", 10)
    log = writer.folder / "catalog.sqlite3-wal"
    writer.commit([source("a", 2)])
    with writer.reading() as pinned:
        before = pinned.meta("commit")
        for number in range(10):
            writer.commit([source(f"s{number}", 2)])
        assert log.stat().st_size > 0
        assert pinned.meta("commit") == before
    writer.commit([source("z", 2)])
    assert log.stat().st_size == 0


def test_closing_empties_the_log(folder: Path) -> None:
    with FaissVetorStorage(folder) as store:
        store.write(documents("a", 3), vectors(3))
        assert (folder / "catalog.sqlite3-wal").stat().st_size > 0
    assert (folder / "catalog.sqlite3-wal").stat().st_size == 0


def test_the_faster_mode_vouches_for_no_commit_that_a_power_cut_may_take(folder: Path) -> None:
    with FaissVetorStorage(folder, durability="process") as store:
        store.write(documents("a", 3), vectors(3))
    assert WriterLock(folder, 1).commit_number() == 0
    with FaissVetorStorage(folder) as store:
        store.write(documents("b", 3), vectors(3))
    assert WriterLock(folder, 1).commit_number() == 2


def test_a_catalog_that_falls_behind_is_not_written_to(writer: Writer) -> None:
    writer.commit([source("a", 2)])
    writer.lock.record_commit(99)
    with pytest.raises(StoreCorruptedError, match="is at commit 1, but commit 99 was made"):
        writer.commit([source("b", 2)])
    assert rows(writer, "SELECT key FROM sources") == [("a",)]
    assert not verify_store(writer.folder).ok
    writer.lock.record_commit(1)


def test_the_ledger_is_written_with_the_chunks(folder: Path) -> None:
    entry = LedgerEntry("hash", 123, 456, "pipeline", "run")
    with FaissVetorStorage(folder, TinyEmbeddings()) as store:
        made = [SourceDocuments(key, documents(key, 2, lang="pt"), vectors(2), entry) for key in ("a", "b")]
        store.replace_many(made)
        assert store.ledger(["a", "c"]) == {"a": entry}
        first, second = store.sources()
        assert (first.source, first.chunks, first.ledger, dict(first.metadata)) == (
            "a",
            2,
            entry,
            {"lang": "pt"},
        )
        store.replace_many([SourceDocuments("a", [], vectors(0), entry)])
        assert [(row.source, row.chunks) for row in store.sources()] == [("a", 0), ("b", 2)]
        assert store.verify().ok
        assert second.source == "b"
        assert len(stored_ids(store)) == 2


def test_a_source_without_chunks_can_be_removed(folder: Path) -> None:
    with FaissVetorStorage(folder, TinyEmbeddings()) as store:
        store.replace_many([SourceDocuments("a", [], vectors(0), LedgerEntry("hash"))])
        assert store.ledger(["a"])
        store.replace("a", [])
        assert store.sources() == []


def test_a_segments_folder_that_vanished_is_named(writer: Writer) -> None:
    shutil.rmtree(writer.segments)
    with pytest.raises(StorageError, match=r"could not be written: No such file or directory"):
        writer.commit([source("a", 30)])
    assert rows(writer, "SELECT count(*) FROM claims") == [(0,)]
    writer.segments.mkdir()


def test_the_full_text_of_a_commit_is_written_out_once_and_not_per_source(writer: Writer) -> None:
    writer.commit([source(f"{number}.md", 2) for number in range(20)])
    assert rows(writer, "SELECT count(DISTINCT segid) FROM chunk_text_idx") == [(1,)]
