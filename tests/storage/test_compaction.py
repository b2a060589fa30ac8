"""Compaction changes the files and nothing else, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oraculo_kit.errors import StorageError, StoreCorruptedError
from oraculo_kit.storage import compaction, optimizing
from oraculo_kit.storage.claims import ClaimedSegment
from oraculo_kit.storage.compaction import merge_small
from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.kit import Child, catalog_of, documents, stored_ids, vectors

OpenStore = Callable[..., FaissVetorStorage]


@pytest.fixture
def worn(store: FaissVetorStorage, small_segments: int) -> FaissVetorStorage:
    """Return a store with several segments, pending vectors and tombstones of both."""
    for number in range(4):
        store.replace(f"s{number}", documents(f"s{number}", 25), vectors(25, number))
    store.write(documents("few", 7), vectors(7, 50))
    for number in range(3):
        store.replace(f"s{number}", documents(f"s{number}", 3), vectors(3, 60 + number))
    store.remove([str(document.id) for document in next(store.iter_documents())[::4]])
    return store


def everything(store: FaissVetorStorage) -> dict[str, Any]:
    """Return what a user can see of a store."""
    queries = vectors(5, 99)
    return {
        "chunks": {d.id: (d.page_content, d.metadata) for page in store.iter_documents() for d in page},
        "sources": [(row.source, row.chunks) for row in store.sources()],
        "nearest": [[(hit.id, hit.score) for hit in found] for found in store.search(queries, 30)],
        "text": [hit.id for hit in store.search("nota fiscal", 20, mode="text")],
    }


def files(store: FaissVetorStorage) -> set[str]:
    return {path.name for path in (Path(store.location) / "segments").iterdir()}


def test_compaction_keeps_everything_and_leaves_one_segment_without_dead_rows(
    worn: FaissVetorStorage,
) -> None:
    before, stats = everything(worn), worn.stats()
    assert stats.segments > 3
    assert stats.dead > 50
    assert stats.pending > 0

    report = worn.compact()

    assert everything(worn) == before
    assert worn.verify().problems == ()
    after = worn.stats()
    assert (after.segments, after.dead, after.pending) == (1, 0, 0)
    assert len(files(worn)) == 1
    assert (report.segments_before, report.segments) == (stats.segments, 1)
    assert report.dropped > 50
    assert str(report).startswith(
        f"segments: {stats.segments} -> 1, deleted vectors dropped: {report.dropped}"
    )


def test_a_second_compaction_finds_nothing_to_do(worn: FaissVetorStorage) -> None:
    worn.compact()
    before = files(worn)
    report = worn.compact()
    assert files(worn) == before
    assert report.dropped == 0


def test_a_store_of_which_everything_was_deleted_becomes_empty_files(worn: FaissVetorStorage) -> None:
    for row in worn.sources():
        worn.remove_by_metadata("source", row.source)
    worn.compact()
    assert files(worn) == set()
    assert worn.stats().dead == 0
    assert worn.verify().problems == ()
    worn.write(documents("again", 3), vectors(3))
    assert len(worn.search(vectors(1)[0], 5)) == 3


def test_an_empty_store_can_be_compacted(store: FaissVetorStorage) -> None:
    assert store.compact().dropped == 0
    assert store.compact(purge=True).purged


def test_space_is_given_back_to_the_disk(store: FaissVetorStorage, folder: Path) -> None:
    store.replace("large", documents("large", 3000), vectors(3000))
    store.replace("large", documents("large", 10), vectors(10))
    before = (folder / "catalog.sqlite3").stat().st_size + (folder / "catalog.sqlite3-wal").stat().st_size

    report = store.compact()

    assert (folder / "catalog.sqlite3").stat().st_size < before / 5
    assert (folder / "catalog.sqlite3-wal").stat().st_size == 0
    assert report.bytes < report.bytes_before / 3


def test_what_is_written_and_deleted_while_a_group_is_merged_is_kept_and_gone(
    worn: FaissVetorStorage, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, write = open_store(), ClaimedSegment.write
    gone = stored_ids(worn)
    expected: set[str] = set()

    def meanwhile(self: ClaimedSegment, *arguments: Any) -> None:
        write(self, *arguments)
        if not expected:
            expected.add("new")
            other.remove(sorted(gone)[:5])
            other.write(documents("new", 1), vectors(1, 7), ids=["new"])

    monkeypatch.setattr(ClaimedSegment, "write", meanwhile)
    worn.compact()

    assert stored_ids(worn) == stored_ids(other) == gone - set(sorted(gone)[:5]) | {"new"}
    assert worn.verify().problems == ()
    monkeypatch.undo()
    worn.compact()
    assert worn.stats().dead == 0
    assert worn.verify().problems == ()


def test_a_reader_that_holds_the_old_version_goes_on_and_then_sees_the_new_one(
    worn: FaissVetorStorage, open_store: OpenStore
) -> None:
    reader = open_store(read_only=True)
    before = everything(reader)
    with reader._reader.pin() as snapshot:
        worn.compact()
        scores, _ = snapshot.manifest.top(vectors(1, 99), 5)
        assert np.isfinite(scores).all()
    assert everything(reader) == before
    assert reader.stats().segments == 1


def test_of_two_compactions_only_one_merges(
    worn: FaissVetorStorage, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, write, refused = open_store(), ClaimedSegment.write, []

    def meanwhile(self: ClaimedSegment, *arguments: Any) -> None:
        with pytest.raises(StorageError, match="another process is compacting the store"):
            other.compact()
        refused.append(self)
        write(self, *arguments)

    worn._writer.flush()  # type: ignore[union-attr]
    monkeypatch.setattr(ClaimedSegment, "write", meanwhile)
    before = everything(worn)
    worn.compact()
    assert refused
    assert everything(worn) == before


def test_a_group_whose_segments_somebody_else_replaced_is_given_up(
    worn: FaissVetorStorage, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, before = ClaimedSegment.write, everything(worn)

    def meanwhile(self: ClaimedSegment, *arguments: Any) -> None:
        write(self, *arguments)
        monkeypatch.undo()
        merge_small(open_store()._writer, 50)  # type: ignore[arg-type]

    worn._writer.flush()  # type: ignore[union-attr]
    monkeypatch.setattr(compaction, "MERGE_SEGMENTS", 3)
    monkeypatch.setattr(ClaimedSegment, "write", meanwhile)
    compaction.MERGE_SEGMENTS = 3
    worn.compact()
    assert everything(worn) == before
    assert worn.verify().problems == ()


@pytest.mark.parametrize("call", ["compact", "optimize"])
def test_a_segment_that_somebody_else_replaced_before_it_was_mapped_is_no_damage(
    worn: FaissVetorStorage, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before, open_listed, done = everything(worn), compaction.open_listed, []

    def meanwhile(*arguments: Any) -> Any:
        if not done:
            done.append(arguments)
            merge_small(open_store()._writer, 50)  # type: ignore[arg-type]
        return open_listed(*arguments)

    worn._writer.flush()  # type: ignore[union-attr]
    monkeypatch.setattr(optimizing, "INDEX_ROWS", 20)
    monkeypatch.setattr(compaction, "MERGE_SEGMENTS", 3)
    module = compaction if call == "compact" else optimizing
    monkeypatch.setattr(module, "open_listed", meanwhile)
    if call == "optimize":
        monkeypatch.setattr(optimizing, "merge_segments", lambda _writer: 0)
    worn.compact() if call == "compact" else worn.optimize()
    assert done
    assert everything(worn) == before
    assert worn.verify().problems == ()


def test_a_missing_segment_stops_a_compaction(worn: FaissVetorStorage) -> None:
    worn._writer.flush()  # type: ignore[union-attr]
    (Path(worn.location) / "segments" / max(files(worn))).unlink()
    with pytest.raises(StoreCorruptedError, match="is missing, and the catalog needs it"):
        worn.compact()


def test_an_interrupted_compaction_changes_nothing_and_leaves_no_file(
    worn: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    worn._writer.flush()  # type: ignore[union-attr]
    before, names = everything(worn), files(worn)

    def interrupted(self: ClaimedSegment, *_arguments: Any) -> None:
        self.path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(ClaimedSegment, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worn.compact()
    monkeypatch.undo()
    assert everything(worn) == before
    assert files(worn) == names


def test_segments_are_grouped_up_to_a_size(worn: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "COMPACT_ROWS", 30)
    before = everything(worn)
    worn.compact()
    assert everything(worn) == before
    assert worn.stats().segments > 1
    assert worn.stats().dead == 0


def test_small_segments_are_merged_after_a_flush(
    store: FaissVetorStorage, small_segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MERGE_SEGMENTS", 3)
    counts = []
    for number in range(40):
        store.write(documents(f"s{number}", 7), vectors(7, number))
        counts.append(store.stats().segments)
    assert max(counts) <= 2 + 40 * 7 // (3 * 20) + 1
    assert counts[-1] < 40 * 7 // 20 / 2
    assert len(store) == 280
    assert store.verify().problems == ()
    assert len(files(store)) == counts[-1]


def test_searching_and_writing_processes_go_on_beside_compactions(
    folder: Path, open_store: OpenStore, child: Callable[..., Child]
) -> None:
    store = open_store()
    store.write(documents("base", 50), vectors(50))
    writers = [child("write_and_replace", folder, who, 3.0) for who in ("a", "b")]
    reader = child("search_all_along", folder, ["a", "b"], 3.0)
    for each in [*writers, reader]:
        assert each.line() == "ready"
        each.go()
    compactions = 0
    while any(each.process.poll() is None for each in writers):
        store.compact()
        compactions += 1
    results = [each.result() for each in writers]
    seen = reader.result()
    assert compactions > 1
    assert seen["wrong"] == []
    for result in results:
        assert set(result["names"]) <= stored_ids(store)
    assert store.verify().problems == ()


def test_feedback_is_kept_with_the_store(store: FaissVetorStorage, open_store: OpenStore) -> None:
    from oraculo_kit.storage.feedback import Feedback

    given = Feedback(at="2026-01-01T00:00:00+00:00", question="q", answer="a", verdict="good", sources=("x",))
    assert store.add_feedback(given) == 1
    assert open_store(read_only=True).feedback() == [given]


def test_the_catalog_is_whole_after_every_slice(worn: FaissVetorStorage, folder: Path) -> None:
    worn.compact()
    worn.close()
    with catalog_of(folder) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.pragma("freelist_count") == 0
