"""A moved source: another key and other ids in one commit, the same chunks and vectors, and never half of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from oraculo_kit.errors import SourceError, StoreReadOnlyError
from oraculo_kit.storage.base import SourceDocuments, SourceMove
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.feedback import Feedback
from oraculo_kit.storage.records import LedgerEntry, chunk_id
from oraculo_kit.storage.runs import SourceOutcome
from tests.storage.kit import Child, TinyEmbeddings, catalog_of, documents, stored_ids, vectors
from tests.storage.run_children import move
from tests.storage.test_lock import posix

OpenStore = Callable[..., FaissVetorStorage]
ENTRY = LedgerEntry("hash", 100, 5, "pipeline|tiny", "first")


@pytest.fixture
def store(open_store: OpenStore) -> FaissVetorStorage:
    """Return an empty store whose embedder makes the vectors of `tests.storage.kit`."""
    return open_store(embedder=TinyEmbeddings())


def put(store: FaissVetorStorage, source: str, count: int = 6, seed: int = 1, **metadata: Any) -> None:
    made = documents(source, count, **metadata)
    store.replace_many([SourceDocuments(source, made, vectors(count, seed), ENTRY)])


def hashed_ids(store: FaissVetorStorage, source: str) -> list[str]:
    """Return the ids that the chunks of a source must have."""
    chunks = [each for page in store.iter_documents() for each in page if each.metadata["source"] == source]
    return [chunk_id(source, ordinal, each.page_content) for ordinal, each in enumerate(chunks)]


def segments(store: FaissVetorStorage) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(store.location, "segments").iterdir()}


@pytest.mark.parametrize("limit", [4, 10_000], ids=["in a segment", "pending"])
def test_a_moved_source_has_its_new_name_everywhere_and_the_same_vectors(
    store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("oraculo_kit.storage.commit.SEGMENT_ROWS", limit)
    put(store, "a.md", lang="pt")
    put(store, "other.md", seed=2)
    texts = [each.page_content for page in store.iter_documents() for each in page]
    before, files = list(store.iter_vectors()), segments(store)
    asked = vectors(1, 7)[0]
    scores = [hit.score for hit in store.search(asked, 12)]
    words = [hit.text for hit in store.search("milho", 12, mode="text")]
    written = {row.source: row.written_at for row in store.sources()}["a.md"]

    entry = replace(ENTRY, bytes=100, mtime_ns=9, run="second")
    assert store.move_many([SourceMove("a.md", "b/ção.md", entry)]) == [True]

    assert store.ledger(["a.md", "b/ção.md"]) == {"b/ção.md": entry}
    (row,) = (row for row in store.sources() if row.source == "b/ção.md")
    assert (row.chunks, row.language, dict(row.metadata), row.written_at) == (
        6,
        "pt",
        {"lang": "pt"},
        written,
    )
    ids = hashed_ids(store, "b/ção.md")
    assert len(ids) == 6
    assert set(ids) < stored_ids(store)
    assert [each.id for each in store.get(ids)] == ids
    assert [each.page_content for page in store.iter_documents() for each in page] == texts
    after = list(store.iter_vectors())
    np.testing.assert_array_equal(np.concatenate([each for _, each in after]), before[0][1])
    assert segments(store) == files
    hits = store.search(asked, 12)
    assert [hit.score for hit in hits] == scores
    assert {hit.source for hit in hits} == {"b/ção.md", "other.md"}
    assert [hit.text for hit in store.search("milho", 12, mode="text")] == words
    assert len(store.search(asked, 12, filter={"source": "b/ção.md"})) == 6
    assert len(store.search(asked, 12, filter={"source": "a.md"})) == 0
    assert store.verify().problems == ()


def test_the_same_content_ingested_at_the_new_place_has_the_very_same_ids(store: FaissVetorStorage) -> None:
    made = [Document(page_content=f"texto {place}") for place in range(3)]
    store.replace_many([SourceDocuments("a", made, vectors(3), ENTRY)])
    store.move_many([SourceMove("a", "b", ENTRY)])
    moved = stored_ids(store)
    assert set(store.replace("b", made, vectors(3))) == moved


def test_ids_that_a_user_gave_stay(store: FaissVetorStorage) -> None:
    made = documents("a", 2)
    made[0].id = "mine"
    store.replace_many([SourceDocuments("a", made, vectors(2), ENTRY)])
    assert store.move_many([SourceMove("a", "b", ENTRY)]) == [True]
    assert stored_ids(store) == {"mine", chunk_id("b", 1, made[1].page_content)}
    assert store.get(["mine"])[0].metadata["source"] == "b"


def test_metadata_that_changes_with_the_place_is_changed_in_every_chunk(store: FaissVetorStorage) -> None:
    made = documents("a", 3, modified="old", lang="pt")
    made[1].metadata["modified"] = "its own"  # so none of them inherits it
    put(store, "shared", modified="old", lang="pt")
    store.replace_many([SourceDocuments("a", made, vectors(3), ENTRY)])
    store.create_filter_index("modified")
    new = {"modified": "new", "folder": "b", "source": "ignored"}
    assert (
        store.move_many([SourceMove("a", "b", ENTRY, new), SourceMove("shared", "c", ENTRY, new)])
        == [True] * 2
    )
    for source, count in (("b", 3), ("c", 6)):
        hits = store.search(vectors(1)[0], 20, filter={"source": source, "modified": "new", "folder": "b"})
        assert len(hits) == count
        assert {hit.metadata["lang"] for hit in hits} == {"pt"}
        assert sorted(hit.metadata["place"] for hit in hits) == list(range(count))
    assert len(store.search(vectors(1)[0], 20, filter={"modified": "old"})) == 0
    assert store.verify().problems == ()


def test_chunks_that_were_written_one_by_one_get_the_metadata_too(store: FaissVetorStorage) -> None:
    put(store, "a", 2)
    store.write(documents("a", 2, first=2), vectors(2))  # these inherit nothing
    with catalog_of(Path(store.location)) as db:
        db.execute("UPDATE sources SET content_hash = 'hash'")
    assert store.move_many([SourceMove("a", "b", ENTRY, {"folder": "x"})]) == [True]
    assert len(store.search(vectors(1)[0], 9, filter={"folder": "x"})) == 4
    assert store.verify().problems == ()


def test_metadata_that_cannot_be_stored_moves_nothing(store: FaissVetorStorage) -> None:
    put(store, "a")
    put(store, "b")
    with pytest.raises(SourceError, match="metadata 'k' holds a object"):
        store.move_many([SourceMove("a", "x", ENTRY), SourceMove("b", "y", ENTRY, {"k": object()})])
    assert [row.source for row in store.sources()] == ["a", "b"]
    assert store.verify().problems == ()


def test_what_is_not_as_the_mover_thinks_is_not_moved(store: FaissVetorStorage) -> None:
    for key in ("a", "b", "forgot"):
        put(store, key, 2)
    store.remove(hashed_ids(store, "forgot")[:1])  # its hash is not known any more
    number = store.stats().commit
    assert store.move_many([]) == []
    moves = [
        SourceMove("unknown", "x", ENTRY),
        SourceMove("a", "b", ENTRY),
        SourceMove("a", "a", ENTRY),
        SourceMove("a", "x", replace(ENTRY, content_hash="changed")),
        SourceMove("a", "x", replace(ENTRY, pipeline="another")),
        SourceMove("forgot", "x", replace(ENTRY, content_hash=None)),
    ]
    assert store.move_many(moves) == [False] * len(moves)
    assert [row.source for row in store.sources()] == ["a", "b", "forgot"]
    assert store.stats().commit == number


def test_a_new_id_that_a_user_gave_to_another_chunk_is_not_taken_away(store: FaissVetorStorage) -> None:
    put(store, "a", 2)
    taken = chunk_id("b", 1, documents("a", 2)[1].page_content)
    store.write([Document(page_content="outro", metadata={"source": "c"})], vectors(1), ids=[taken])
    assert store.move_many([SourceMove("a", "b", ENTRY)]) == [False]
    assert store.get([taken])[0].page_content == "outro"
    assert store.verify().problems == ()


@pytest.mark.parametrize(
    "damage", ["UPDATE chunks SET text = 'outro' WHERE ordinal = 3", "UPDATE sources SET language = 'xx'"]
)
def test_a_damaged_source_is_not_moved_so_that_the_damage_stays_visible(
    store: FaissVetorStorage, damage: str
) -> None:
    put(store, "a")
    with catalog_of(Path(store.location)) as db:
        db.execute(damage)
    before = store.verify().problems
    assert before
    assert store.move_many([SourceMove("a", "b", ENTRY)]) == [False]
    assert store.verify().problems == before


def test_moves_of_one_call_follow_each_other(store: FaissVetorStorage) -> None:
    put(store, "a", 2)
    put(store, "b", 3)
    answer = Feedback("2026-01-01T00:00:00+00:00", "?", "!", "good", sources=(hashed_ids(store, "a")[0], "x"))
    store.add_feedback(answer)
    moves = [("b", "c"), ("a", "b"), ("b", "a"), ("a", "b"), ("b", "d")]
    assert store.move_many([SourceMove(*each, ENTRY) for each in moves]) == [True] * 5
    assert {row.source: row.chunks for row in store.sources()} == {"c": 3, "d": 2}
    (kept,) = store.feedback()
    assert kept == replace(answer, sources=(hashed_ids(store, "d")[0], "x"))
    store.compact(purge=True)
    assert store.feedback() == []  # "x" is no chunk
    assert store.verify().problems == ()


def test_a_source_without_chunks_and_one_with_an_odd_name_can_be_moved(store: FaissVetorStorage) -> None:
    store.replace_many([SourceDocuments("empty", [], vectors(0), ENTRY)])
    put(store, "odd \ud800\0\n name", 2)
    moves = [("empty", "still empty"), ("odd \ud800\0\n name", "'; DROP TABLE chunks; -- \udcff")]
    assert store.move_many([SourceMove(*each, ENTRY) for each in moves]) == [True, True]
    assert [row.source for row in store.sources()] == ["'; DROP TABLE chunks; -- ?", "still empty"]
    assert store.verify().problems == ()


def test_a_move_is_noted_with_the_run_that_made_it(store: FaissVetorStorage) -> None:
    put(store, "a", 2)
    store.start_run("r", {})
    outcomes = [SourceOutcome(key, "moved", run="r", message="was a") for key in ("b", "c")]
    moves = [SourceMove("a", outcome.source, ENTRY, {}, outcome) for outcome in outcomes]
    assert store.move_many(moves) == [True, False]
    assert store.outcomes("r") == [replace(outcomes[0], store=store.location)]


def test_a_store_that_is_open_read_only_moves_nothing(
    store: FaissVetorStorage, open_store: OpenStore
) -> None:
    put(store, "a")
    with pytest.raises(StoreReadOnlyError, match="open for reading only"):
        open_store(read_only=True).move_many([SourceMove("a", "b", ENTRY)])


def test_a_store_that_is_being_embedded_again_keeps_what_was_moved_meanwhile(
    store: FaissVetorStorage,
) -> None:
    put(store, "a")
    moved: list[bool] = []

    def move_once(_done: int, _total: int) -> None:
        if not moved:
            moved.extend(store.move_many([SourceMove("a", "b", ENTRY)]))

    store.reembed(TinyEmbeddings(5), move_once)
    assert moved == [True]
    assert [row.source for row in store.sources()] == ["b"]
    assert len(store.search(vectors(1, dimension=5)[0], 9)) == 6
    assert store.verify().problems == ()


def test_of_several_who_move_the_same_source_exactly_one_does(
    store: FaissVetorStorage, child: Callable[..., Child]
) -> None:
    store.replace_many([SourceDocuments("a", documents("a", 8), vectors(8), LedgerEntry("h"))])
    movers = [child("move_when_told", store.location, "a", new, module="run_children") for new in "bcd"]
    assert [mover.line() for mover in movers] == ["ready"] * 3
    for mover in movers:
        mover.go()
    won = [mover.result() for mover in movers]
    assert sorted(won) == [False, False, True]
    assert [row.source for row in store.sources()] == ["bcd"[won.index(True)]]
    assert store.verify().problems == ()


def test_readers_see_the_old_name_or_the_new_one_with_all_chunks(
    store: FaissVetorStorage, child: Callable[..., Child]
) -> None:
    store.replace_many([SourceDocuments("a", documents("a", 8), vectors(8), LedgerEntry("h"))])
    reader = child("read_beside_moves", store.location, 1.0, module="run_children")
    assert reader.line() == "ready"
    names = ["a", "b"]
    while reader.process.poll() is None:
        assert store.move_many([move(*names)]) == [True]
        names.reverse()
    result = reader.result()
    assert result["half"] == []
    assert result["names"] == ["a", "b"]
    assert result["rounds"] > 10


@posix
def test_a_process_killed_amid_a_move_leaves_all_of_it_or_nothing(
    tmp_path: Path, child: Callable[..., Child]
) -> None:
    result = child("die_in_move_many", tmp_path, module="run_children").result()
    assert result["problems"] == []
    assert result["deaths"] > 5
    assert set(result["found"]) == {"nothing", "everything"}
