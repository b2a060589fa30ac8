"""Runs and what became of their sources: noted with the vectors, kept, forgotten, and no one's trouble when damaged."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from oraculo_kit.errors import (
    QueryError,
    SourceError,
    StorageError,
    StoreCorruptedError,
    StoreReadOnlyError,
)
from oraculo_kit.storage import runs
from oraculo_kit.storage.base import SourceDocuments
from oraculo_kit.storage.copies import restore_store
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.records import LedgerEntry
from oraculo_kit.storage.runs import KEPT_RUNS, SourceOutcome
from tests.storage.kit import Child, TinyEmbeddings, catalog_of, documents, vectors
from tests.storage.test_lock import posix

OpenStore = Callable[..., FaissVetorStorage]


@pytest.fixture
def store(open_store: OpenStore) -> FaissVetorStorage:
    """Return an empty store whose embedder makes the vectors of `tests.storage.kit`."""
    return open_store(embedder=TinyEmbeddings())


def block(source: str, count: int = 2, run: str = "r", **outcome: Any) -> SourceDocuments:
    """Return a source with an outcome that leaves its status to the store."""
    noted = SourceOutcome(source, "", run=run, chunks=count, **outcome)
    return SourceDocuments(source, documents(source, count), vectors(count), LedgerEntry("h"), noted)


def failed(source: str, message: str = "corrupt") -> SourceOutcome:
    return SourceOutcome(source, "failed", "ExtractionError", message, bytes=3, seconds={"load": 0.5}, pid=7)


def statuses(store: FaissVetorStorage, run: str = "r") -> dict[str, str]:
    return {outcome.source: outcome.status for outcome in store.outcomes(run)}


def test_a_run_is_kept_from_its_beginning_to_its_end(store: FaissVetorStorage) -> None:
    store.start_run("r", {"glob": "*.md", "root": Path("docs"), "prune": True})
    (begun,) = store.runs()
    assert (begun.id, begun.state, begun.finished_at, dict(begun.counts)) == ("r", "running", None, {})
    assert begun.options == {"glob": "*.md", "root": "docs", "prune": True}

    store.replace_many([block("a"), block("b")])
    store.note_outcomes("r", [failed("c")])
    assert store.runs()[0].counts == {"added": 2, "failed": 1}

    store.finish_run("r", "finished", {"added": 2, "failed": 1, "unchanged": 40})
    (ended,) = store.runs()
    assert (ended.state, ended.started_at) == ("finished", begun.started_at)
    assert ended.counts == {"added": 2, "failed": 1, "unchanged": 40}
    assert ended.finished_at is not None
    assert ended.finished_at >= ended.started_at
    assert store.verify().problems == ()


def test_outcomes_come_back_as_they_were_noted(store: FaissVetorStorage) -> None:
    store.start_run("r", {})
    hostile = "<script>alert(1)</script>\n\0 \ud800 ã"
    store.note_outcomes("r", [failed("z.pdf", hostile), failed("a.pdf")])
    first, second = store.outcomes("r")
    assert first == replace(failed("z.pdf", hostile.replace("\ud800", "?")), store=store.location, run="r")
    assert second.source == "a.pdf"


def test_the_store_says_whether_a_source_was_added_or_replaced(
    store: FaissVetorStorage, open_store: OpenStore
) -> None:
    store.start_run("r", {})
    assert store.replace_many([]) == []
    assert store.replace_many([block("a"), block("b")]) == ["added", "added"]
    other = open_store(embedder=TinyEmbeddings())
    other.replace("c", documents("c", 1), vectors(1))
    assert store.replace_many([block("b", 1), block("c", 0), block("d", 1)]) == [
        "replaced",
        "replaced",
        "added",
    ]
    assert statuses(store) == {"a": "added", "b": "replaced", "c": "replaced", "d": "added"}
    assert [outcome.chunks for outcome in store.outcomes("r")] == [2, 1, 0, 1]


def test_outcomes_of_a_large_commit_are_noted_with_its_segment(
    store: FaissVetorStorage, small_segments: int
) -> None:
    store.start_run("r", {})
    assert store.replace_many([block("a", 3 * small_segments), block("b")]) == ["added", "added"]
    assert store.stats().segments == 1
    assert statuses(store) == {"a": "added", "b": "added"}


def test_a_later_outcome_of_a_source_takes_the_place_of_the_earlier_one(store: FaissVetorStorage) -> None:
    store.start_run("r", {})
    store.note_outcomes("r", [failed("a"), failed("b")])
    store.replace_many([block("a")])
    first, second = store.outcomes("r")
    assert (first.source, first.status, first.error, first.message) == ("a", "added", "", "")
    assert second == replace(failed("b"), store=store.location, run="r")


def test_a_commit_that_fails_notes_nothing(store: FaissVetorStorage) -> None:
    store.start_run("r", {})
    bad = replace(block("b"), vectors=vectors(2, dimension=5))
    with pytest.raises(StorageError, match="dimension"):
        store.replace_many([block("a"), bad])
    assert store.outcomes("r") == []
    assert store.sources() == []


def test_outcomes_of_a_run_that_nobody_began_are_not_kept(store: FaissVetorStorage) -> None:
    assert store.replace_many([block("a", run="unknown"), block("b", run="")]) == ["added", "added"]
    store.note_outcomes("unknown", [failed("c")])
    assert not store.finish_run("unknown", "finished", {})
    assert (store.runs(), store.outcomes("unknown"), store.outcomes("")) == ([], [], [])
    assert {row.source for row in store.sources()} == {"a", "b"}


def test_the_newest_runs_are_kept_and_those_that_still_go_on(
    store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.start_run("at work", {})
    store.note_outcomes("at work", [failed("a")])
    for number in range(KEPT_RUNS + 3):
        store.start_run(f"r{number}", {})
        store.note_outcomes(f"r{number}", [failed("a")])
        store.finish_run(f"r{number}", "cancelled", {})
    kept = [run.id for run in store.runs(1000)]
    assert kept[0] == f"r{KEPT_RUNS + 2}"
    assert kept[-1] == "at work"
    assert len(kept) == KEPT_RUNS + 1
    assert [run.id for run in store.runs(2)] == kept[:2]
    assert store.outcomes("r0") == []
    with catalog_of(Path(store.location)) as db:
        assert db.execute("SELECT count(*) FROM outcomes").fetchall() == [(len(kept),)]


def test_a_run_whose_process_is_dead_is_interrupted_and_can_be_taken_up(
    store: FaissVetorStorage, child: Callable[..., Child]
) -> None:
    dying = child("run_and_wait", store.location, module="run_children")
    assert dying.line() == "begun"
    assert store.runs()[0].state == "running"
    with pytest.raises(StorageError, match=rf"the run r is under way in process {dying.process.pid} on"):
        store.start_run("r", {})
    dying.kill()

    (run,) = store.runs()
    assert (run.state, run.finished_at, run.counts) == ("interrupted", None, {"added": 3})

    store.start_run("r", {"resume": True})
    store.replace_many([block("new")])
    (again,) = store.runs()
    assert (again.state, again.options, again.counts) == ("running", {"resume": True}, {"added": 4})
    assert again.started_at > run.started_at


def test_a_run_of_another_host_counts_as_interrupted_after_a_day(store: FaissVetorStorage) -> None:
    store.start_run("r", {})
    with catalog_of(Path(store.location)) as db:
        db.execute("UPDATE runs SET facts = json_set(facts, '$.host', 'elsewhere')")
    assert store.runs()[0].state == "running"
    with catalog_of(Path(store.location)) as db:
        long_ago = (datetime.now(UTC) - timedelta(days=2)).isoformat()
        db.execute("UPDATE runs SET facts = json_set(facts, '$.started_at', ?)", (long_ago,))
    assert store.runs()[0].state == "interrupted"


@posix
def test_a_process_killed_amid_a_commit_leaves_vectors_and_outcomes_or_neither(
    tmp_path: Path, child: Callable[..., Child]
) -> None:
    result = child("die_in_replace_many", tmp_path, module="run_children").result()
    assert result["problems"] == []
    assert result["deaths"] > 10
    assert {"nothing", "everything"} == set(result["found"])


@pytest.mark.parametrize("state", ["running", "interrupted", "done", None])
def test_a_run_ends_in_one_of_three_ways(store: FaissVetorStorage, state: Any) -> None:
    store.start_run("r", {})
    with pytest.raises(QueryError, match="expected one of finished, cancelled, failed"):
        store.finish_run("r", state, {})
    assert store.runs()[0].state == "running"


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "1"])
def test_a_limit_that_is_no_count_is_refused(store: FaissVetorStorage, limit: Any) -> None:
    with pytest.raises(QueryError, match="expected a whole number of at least 1"):
        store.runs(limit)


def test_options_that_cannot_be_stored_are_refused(store: FaissVetorStorage) -> None:
    with pytest.raises(SourceError, match="holds a object"):
        store.start_run("r", {"loader": object()})
    assert store.runs() == []


def test_a_store_that_is_open_read_only_reads_runs_and_notes_nothing(
    store: FaissVetorStorage, open_store: OpenStore
) -> None:
    store.start_run("r", {})
    store.note_outcomes("r", [failed("a")])
    reader = open_store(read_only=True)
    assert (reader.runs()[0].state, statuses(reader)) == ("running", {"a": "failed"})
    refusals: list[Callable[[], object]] = [
        lambda: reader.start_run("x", {}),
        lambda: reader.note_outcomes("r", [failed("b")]),
        lambda: reader.finish_run("r", "finished", {}),
    ]
    for refused in refusals:
        with pytest.raises(StoreReadOnlyError, match="open for reading only"):
            refused()


def test_a_copy_has_the_runs_but_none_that_goes_on(store: FaissVetorStorage, tmp_path: Path) -> None:
    store.start_run("old", {})
    store.finish_run("old", "finished", {"added": 1})
    store.start_run("r", {})
    store.replace_many([block("a")])
    store.snapshot(tmp_path / "copy")
    restore_store(tmp_path / "copy", tmp_path / "restored")
    for folder in (tmp_path / "copy", tmp_path / "restored"):
        with FaissVetorStorage(folder, read_only=True) as copy:
            assert [(run.id, run.state) for run in copy.runs()] == [("r", "interrupted"), ("old", "finished")]
            assert statuses(copy) == {"a": "added"}
            assert copy.outcomes("r")[0].store == str(folder)
    assert store.runs()[0].state == "running"


def test_a_run_does_not_end_in_a_store_that_was_restored_since(
    store: FaissVetorStorage, folder: Path, tmp_path: Path
) -> None:
    store.snapshot(tmp_path / "before")
    store.start_run("r", {})
    store.snapshot(tmp_path / "during")
    for name, held in (("before", {}), ("during", {"r": "interrupted"})):
        restore_store(tmp_path / name, folder, overwrite=True)
        assert not store.finish_run("r", "finished", {"added": 1})
        assert {run.id: run.state for run in store.runs()} == held  # so that resuming goes on with it


def test_a_purge_erases_outcomes_of_sources_that_are_gone(store: FaissVetorStorage, folder: Path) -> None:
    store.start_run("r", {})
    store.replace_many([block("stays"), block("ficha de Zacarias")])
    store.remove_by_metadata("source", "ficha de Zacarias")
    store.compact()
    assert set(statuses(store)) == {"stays", "ficha de Zacarias"}
    store.compact(purge=True)
    assert set(statuses(store)) == {"stays"}
    store.close()
    assert all(b"Zacarias" not in path.read_bytes() for path in folder.rglob("*") if path.is_file())


DAMAGES = {
    "a state": "UPDATE runs SET state = 'x' WHERE name = 'r'",
    "facts of a run": "UPDATE runs SET facts = '{' WHERE name = 'r'",
    "facts of an outcome": "UPDATE outcomes SET facts = '{' WHERE source = 'a' AND run = 1",
    "a run": "DELETE FROM runs WHERE name = 'r'",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_rows_of_runs_are_named_and_dropped_and_nothing_else(
    store: FaissVetorStorage, folder: Path, damage: str
) -> None:
    for run in ("r", "other"):
        store.start_run(run, {})
        store.replace_many([block("a", run=run), block("b", run=run)])
        store.finish_run(run, "finished", {"added": 2})
    with catalog_of(folder) as db:
        db.execute(damage)

    (problem,) = store.verify().problems
    assert "are damaged; what is stored is not concerned" in problem
    report = store.repair()

    assert report.problems == ()
    (lost,) = report.lost
    assert "no chunk is concerned" in lost
    assert "other" in [run.id for run in store.runs()]
    assert statuses(store, "other") == {"a": "replaced", "b": "replaced"}
    assert len(store) == 4


def test_a_damaged_row_is_named_where_it_is_met(store: FaissVetorStorage, folder: Path) -> None:
    store.start_run("r", {})
    store.replace_many([block("a")])
    with catalog_of(folder) as db:
        db.execute("UPDATE runs SET facts = '{'")
        db.execute("UPDATE outcomes SET facts = '{'")
    for read in (store.runs, lambda: store.outcomes("r")):
        with pytest.raises(StoreCorruptedError, match=r"holds of the run r is damaged .*oraculo repair"):
            read()
    assert len(store.search("nota", 1)) == 1
    store.start_run("next", {})  # and it stops nobody


@pytest.mark.parametrize("table", ["runs", "outcomes"])
def test_runs_on_a_damaged_page_cost_nothing_else(store: FaissVetorStorage, folder: Path, table: str) -> None:
    store.start_run("r", {})
    for number in range(20):
        store.replace_many([block(f"s{number}")])
    before = {row.source: row.ledger for row in store.sources()}
    store.close()
    with catalog_of(folder) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()[0]
        size = int(str(db.pragma("page_size")))
    with (folder / "catalog.sqlite3").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)

    with FaissVetorStorage(folder, TinyEmbeddings()) as damaged:
        assert not damaged.verify().ok
        assert damaged.repair().problems == ()
        assert {row.source: row.ledger for row in damaged.sources()} == before
        assert len(damaged) == 40
        assert damaged.outcomes("r") == []  # without its run an outcome is nobody's
        damaged.start_run("next", {})
        damaged.replace_many([block("s0", run="next")])
        assert statuses(damaged, "next") == {"s0": "replaced"}


def test_runs_survive_a_salvage_of_other_tables(store: FaissVetorStorage, folder: Path) -> None:
    store.start_run("r", {"glob": "ção"})
    store.replace_many([block("a"), block("b")])
    before = store.runs(), store.outcomes("r")
    store.close()
    with catalog_of(folder) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'metadata_keys'").fetchall()[0]
        size = int(str(db.pragma("page_size")))
    with (folder / "catalog.sqlite3").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with FaissVetorStorage(folder, TinyEmbeddings()) as damaged:
        assert any("became a new one" in done for done in damaged.repair().done)
        assert (damaged.runs(), damaged.outcomes("r")) == before


def test_sources_are_found_by_their_content(store: FaissVetorStorage) -> None:
    entries = {"b": "same", "a": "same", "c": "other", "d": None}
    store.replace_many(
        [
            SourceDocuments(key, documents(key, 1), vectors(1), LedgerEntry(name))
            for key, name in entries.items()
        ]
    )
    assert store.sources_with(["same", "unknown", "same"]) == {"same": ["a", "b"]}
    assert store.sources_with(iter(["other"])) == {"other": ["c"]}
    assert store.sources_with([]) == {}
    with catalog_of(Path(store.location)) as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT key FROM sources WHERE content_hash IN (SELECT value FROM json_each('[]'))"
        ).fetchall()
    assert "sources_by_hash" in str(plan)


def test_a_run_that_ends_itself_with_a_signal_is_interrupted_too(
    store: FaissVetorStorage, child: Callable[..., Child]
) -> None:
    ending = child("run_and_wait", store.location, module="run_children")
    assert ending.line() == "begun"
    os.kill(ending.process.pid, signal.SIGTERM)
    ending.process.wait()
    assert store.runs()[0].state == "interrupted"
    assert runs.ENDS == ("finished", "cancelled", "failed")
