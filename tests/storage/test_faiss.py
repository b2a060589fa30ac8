"""The store as its users see it: write, replace, remove, get, and exact search in every layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from oraculo_kit.errors import EmbeddingError, QueryError, SourceError, VectorsError
from oraculo_kit.storage import commit, open_storage, scanning
from oraculo_kit.storage.base import SourceDocuments
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.records import LedgerEntry
from tests.storage.kit import TinyEmbeddings, documents, nearest, stored_ids, vectors

OpenStore = Callable[..., FaissVetorStorage]
ENTRY = LedgerEntry()


@pytest.fixture
def embedding_store(open_store: OpenStore) -> FaissVetorStorage:
    """Return an empty store that embeds texts itself."""
    return open_store(embedder=TinyEmbeddings())


def test_what_is_written_can_be_read_back(store: FaissVetorStorage) -> None:
    made = documents("a.md", 4, lang="pt")
    names = store.write(made, vectors(4))
    assert len(set(names)) == 4
    found = store.get([names[2], "unknown", names[0]])
    assert [document.id for document in found] == [names[2], names[0]]
    assert [document.page_content for document in found] == [made[2].page_content, made[0].page_content]
    assert found[0].metadata == {"source": "a.md", "place": 2, "lang": "pt"}
    assert len(store) == 4
    assert store


def test_writing_nothing_changes_nothing(store: FaissVetorStorage) -> None:
    assert store.write([]) == []
    assert store.remove([]) == 0
    assert store.remove(["unknown"]) == 0
    assert store.remove_by_metadata("source", "unknown") == 0
    store.replace_many([])
    assert store.stats().commit == 0


def test_the_same_chunks_written_again_stay_the_same(store: FaissVetorStorage) -> None:
    names = store.write(documents("a", 3), vectors(3))
    assert store.write(documents("a", 3), vectors(3)) == names
    assert len(store) == 3
    assert store.stats().sources == 1


def test_an_id_written_again_is_replaced(store: FaissVetorStorage) -> None:
    store.write(documents("a", 2), vectors(2), ids=["x", "y"])
    assert store.write(documents("b", 1), vectors(1, 9), ids=["x"]) == ["x"]
    assert {row.source: row.chunks for row in store.sources()} == {"a": 1, "b": 1}
    (document,) = store.get(["x"])
    assert document.metadata["source"] == "b"
    hits = store.search(vectors(1, 9)[0], k=5)
    assert hits[0].id == "x"
    assert len(hits) == 2


def test_an_id_given_twice_in_one_write_counts_once(store: FaissVetorStorage) -> None:
    assert store.write(documents("a", 3), vectors(3), ids=["x", "y", "x"]) == ["x", "y", "x"]
    assert stored_ids(store) == {"x", "y"}
    assert store.get(["x"])[0].metadata["place"] == 2
    assert store.search(vectors(3)[2], k=1)[0].id == "x"


def test_ids_of_the_documents_themselves_are_kept(store: FaissVetorStorage) -> None:
    made = documents("a", 2)
    made[0].id = "mine"
    names = store.write(made, vectors(2))
    assert names[0] == "mine"
    assert stored_ids(store) == set(names)


def test_ids_that_do_not_match_the_documents_are_refused(store: FaissVetorStorage) -> None:
    with pytest.raises(QueryError, match="got 1 ids for 2 documents, expected one per document"):
        store.write(documents("a", 2), vectors(2), ids=["x"])


def test_equal_files_keep_their_own_chunks(store: FaissVetorStorage) -> None:
    made = [Document(page_content="igual", metadata={"source": source}) for source in ("a", "b")]
    assert len(set(store.write(made, vectors(2)))) == 2
    store.replace("a", [])
    assert {row.source for row in store.sources()} == {"b"}


def test_replace_leaves_nothing_of_the_old_version(store: FaissVetorStorage) -> None:
    old = store.replace("a", documents("a", 5, version=1), vectors(5))
    new = store.replace("a", documents("a", 2, version=2), vectors(2, 1))
    assert stored_ids(store) == set(new)
    assert not (set(old) - set(new)) & stored_ids(store)
    assert {hit.metadata["version"] for hit in store.search(vectors(5)[0], k=10)} == {2}
    assert len(store.search("nota", k=10, mode="text", filter={"version": {"$exists": True}})) <= 2
    assert store.replace("a", []) == []
    assert len(store) == 0
    assert store.sources() == []


def test_a_failing_embedder_leaves_the_old_version(open_store: OpenStore) -> None:
    class Failing(TinyEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if any("quebra" in text for text in texts):
                raise RuntimeError("the model is gone")
            return super().embed_documents(texts)

    store = open_store(embedder=Failing())
    store.replace("a", documents("a", 3))
    before = stored_ids(store)
    with pytest.raises(EmbeddingError, match="the model is gone"):
        store.replace("a", [Document(page_content="quebra")])
    with pytest.raises(EmbeddingError):
        store.write([Document(page_content="bom"), Document(page_content="quebra")])
    assert stored_ids(store) == before


def test_a_document_that_cannot_be_stored_leaves_the_old_version(store: FaissVetorStorage) -> None:
    store.replace("a", documents("a", 3), vectors(3))
    before = stored_ids(store)
    bad = [*documents("a", 2), Document(page_content="x", metadata={"k": object()})]
    with pytest.raises(SourceError, match="metadata 'k' holds a object"):
        store.replace("a", bad, vectors(3))
    with pytest.raises(VectorsError, match="expected"):
        store.replace("a", documents("a", 2), vectors(3))
    assert stored_ids(store) == before


def test_many_sources_go_in_one_commit(embedding_store: FaissVetorStorage) -> None:
    made = [
        SourceDocuments(f"s{number}", documents(f"s{number}", number), vectors(number, number), ENTRY)
        for number in range(1, 20)
    ]
    embedding_store.replace_many(made)
    assert embedding_store.stats().commit == 1
    assert {row.source: row.chunks for row in embedding_store.sources()} == {
        f"s{number}": number for number in range(1, 20)
    }


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "a\0b", "\ud800 só", "😀" * 50, "x" * 300_000, "ﬁ ĳ ½", "\n\n"]
)
def test_any_text_is_stored_and_found_again(store: FaissVetorStorage, text: str) -> None:
    store.write(documents("a", 3), vectors(3))
    (name,) = store.write([Document(page_content=text, metadata={"source": text[:50]})], vectors(1, 4))
    expected = text.replace("\ud800", "?")
    assert store.get([name])[0].page_content == expected
    hit = store.search(vectors(1, 4)[0], k=1)[0]
    assert (hit.id, hit.text, hit.source) == (name, expected, expected[:50])
    store.search(text or "x", mode="text")
    assert store.verify().ok
    assert store.remove([name]) == 1
    assert len(store) == 3


def test_metadata_lang_may_be_anything(store: FaissVetorStorage) -> None:
    for lang in (None, 5, "", "xx", ["pt"], {"a": 1}):
        store.write([Document(page_content="nota fiscal", metadata={"lang": lang})], vectors(1))
        store.replace("s", [Document(page_content="nota fiscal", metadata={"lang": lang})], vectors(1))
    assert store.verify().ok


# Exact search


LAYOUTS = {"pending": 10_000, "one segment": 10_000, "segments and pending": 170, "many segments": 40}


@pytest.fixture(scope="module", params=LAYOUTS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FaissVetorStorage, dict[str, np.ndarray]]]:
    """Return a store after writes and deletions, and the vectors that must be in it by id; in several layouts."""
    with pytest.MonkeyPatch.context() as patch, FaissVetorStorage(tmp_path_factory.mktemp("world")) as store:
        patch.setattr(commit, "SEGMENT_ROWS", LAYOUTS[request.param])
        living = make_world(store)
        if request.param == "one segment":
            assert store._writer is not None
            assert store._writer.flush()
        yield store, living


def make_world(store: FaissVetorStorage) -> dict[str, np.ndarray]:
    """Write, replace and delete; return the vectors that must be there by id."""
    living: dict[str, np.ndarray] = {}
    chance = np.random.default_rng(2)
    for number in range(12):
        count = int(chance.integers(20, 60))
        matrix = vectors(count, number)
        made = documents(f"s{number}", count, group=number % 3)
        names = store.replace(f"s{number}", made, matrix) if number % 2 else store.write(made, matrix)
        living |= dict(zip(names, matrix, strict=True))
        if number % 2:
            gone = [str(name) for name in chance.choice(sorted(living), 15, replace=False)]
            assert store.remove(gone) == 15
            for name in gone:
                del living[name]
    changed = vectors(9, 77)
    names = store.replace("s3", documents("s3", 9, group=0), changed)
    known = stored_ids(store)
    living = {name: vector for name, vector in living.items() if name in known}
    living |= dict(zip(names, changed, strict=True))
    return living


@pytest.mark.parametrize("queries", [1, 3, 25])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_search_equals_brute_force(
    world: tuple[FaissVetorStorage, dict[str, np.ndarray]], queries: int, k: int
) -> None:
    store, living = world
    ids, matrix = list(living), np.array(list(living.values()))
    assert stored_ids(store) == set(ids)
    asked = vectors(queries, 123)
    for query, hits in zip(asked, store.search(asked, k=k), strict=True):
        expected = nearest(query, matrix, ids, k)
        assert [hit.id for hit in hits] == [name for name, _ in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-6)
        assert [hit.vector_score for hit in hits] == [hit.score for hit in hits]
        assert all(hit.text_score is None for hit in hits)


@pytest.mark.parametrize("in_place_from", [0.0, 1.0])
@pytest.mark.parametrize("queries", [1, 25])
def test_filtered_search_equals_brute_force_over_what_passes(
    world: tuple[FaissVetorStorage, dict[str, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
    in_place_from: float,
    queries: int,
) -> None:
    monkeypatch.setattr(scanning, "_IN_PLACE_FROM_SHARE", in_place_from)
    store, living = world
    by_id = {str(document.id): document.metadata for page in store.iter_documents() for document in page}
    asked = vectors(queries, 321)
    wanted: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
        ({"group": 0}, lambda metadata: metadata["group"] == 0),
        ({"place": {"$lt": 2}}, lambda metadata: metadata["place"] < 2),
        ({"source": "s3"}, lambda metadata: metadata["source"] == "s3"),
        ({"group": {"$ne": 9}}, lambda _metadata: True),
        ({"group": 9}, lambda _metadata: False),
    ]
    for filter_, passes in wanted:
        ids = [name for name in living if passes(by_id[name])]
        matrix = np.array([living[name] for name in ids]).reshape(len(ids), 8)
        for query, hits in zip(asked, store.search(asked, k=12, filter=filter_), strict=True):
            assert [hit.id for hit in hits] == [name for name, _ in nearest(query, matrix, ids, 12)]


def test_a_batch_gives_what_single_queries_give(
    world: tuple[FaissVetorStorage, dict[str, np.ndarray]],
) -> None:
    store, _ = world
    asked = vectors(30, 55)
    batch = store.search(asked, k=7)
    assert [[hit.id for hit in hits] for hits in batch] == [
        [hit.id for hit in store.search(query, k=7)] for query in asked
    ]


def test_verify_is_content_with_every_layout(world: tuple[FaissVetorStorage, dict[str, np.ndarray]]) -> None:
    report = world[0].verify()
    assert report.ok, report
    assert report.chunks == len(world[1])


def test_equal_vectors_come_in_the_order_of_writing(store: FaissVetorStorage, small_segments: int) -> None:
    query = vectors(1)[0]
    names = [name for number in range(30) for name in store.write(documents("a", 1, number), query[None, :])]
    assert [hit.id for hit in store.search(query, k=100)] == names
    assert [hit.score for hit in store.search(query, k=5)] == pytest.approx([1.0] * 5)


def test_vectors_of_any_length_are_compared_by_direction(store: FaissVetorStorage) -> None:
    matrix = vectors(5) * np.array([[1e-3], [1], [1e3], [7], [0.5]])
    names = store.write(documents("a", 5), matrix)
    for row, name in zip(matrix, names, strict=True):
        hit = store.search(row * 42, k=1)[0]
        assert (hit.id, hit.score) == (name, pytest.approx(1.0))


def test_an_empty_store_answers_every_search_with_nothing(embedding_store: FaissVetorStorage) -> None:
    for mode in ("hybrid", "vector", "text"):
        assert len(embedding_store.search("nota fiscal", mode=mode)) == 0
    assert len(embedding_store.search(vectors(1)[0])) == 0
    assert [len(hits) for hits in embedding_store.search(vectors(3))] == [0, 0, 0]
    assert embedding_store.read("nota") == []
    assert len(embedding_store.to_pandas()) == 0
    assert embedding_store.verify().ok


def test_a_store_emptied_again_answers_with_nothing(store: FaissVetorStorage, small_segments: int) -> None:
    store.replace("a", documents("a", 30), vectors(30))
    store.replace("b", documents("b", 3), vectors(3))
    store.remove_by_metadata("source", "a")
    store.remove_by_metadata("source", "b")
    assert len(store.search(vectors(1)[0])) == 0
    assert [len(hits) for hits in store.search(vectors(30), k=50)] == [0] * 30
    assert len(store.search("nota", mode="text")) == 0
    assert store.verify().ok


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (None, "got NoneType as query, expected a text, a list of texts, or vectors"),
        ([], "got an empty list as query"),
        ([1, "a"], "got list as query"),
        (np.zeros(8), "got ndarray as query.*only zeros"),
        (np.full(8, np.nan), "NaN"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (object(), "got object as query"),
        (5, "got int as query.*a number alone is neither"),
    ],
)
def test_a_query_that_is_none_is_refused(store: FaissVetorStorage, query: Any, message: str) -> None:
    store.write(documents("a", 2), vectors(2))
    with pytest.raises(QueryError, match=message):
        store.search(query)


def test_a_query_of_another_dimension_is_refused(store: FaissVetorStorage) -> None:
    store.write(documents("a", 2), vectors(2))
    with pytest.raises(VectorsError, match="query vector of dimension 5, expected 8 as the store"):
        store.search(vectors(1, dimension=5)[0])


def test_a_mode_that_is_none_is_refused(store: FaissVetorStorage) -> None:
    with pytest.raises(QueryError, match="mode is 'fuzzy', expected one of hybrid, vector, text"):
        store.search("nota", mode="fuzzy")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_texts_are_searched_in_every_mode(embedding_store: FaissVetorStorage, mode: Any) -> None:
    made = [
        Document(page_content=text, metadata={"source": f"{number}.md"})
        for number, text in enumerate(["emissão de nota fiscal", "receita de bolo", "relatório de férias"])
    ]
    embedding_store.write(made)
    hits = embedding_store.search("emissão de nota fiscal", k=2, mode=mode)
    assert hits[0].source == "0.md"
    both = embedding_store.search(["emissão de nota fiscal", "relatório de férias"], k=1, mode=mode)
    assert [each[0].source for each in both] == ["0.md", "2.md"]
    assert embedding_store.read("receita de bolo", k=1)[0].page_content == "receita de bolo"


def test_full_text_forgets_what_was_deleted(embedding_store: FaissVetorStorage) -> None:
    embedding_store.replace("a", [Document(page_content="abacaxi maduro")])
    embedding_store.replace("a", [Document(page_content="banana verde")])
    assert len(embedding_store.search("abacaxi", mode="text")) == 0
    assert len(embedding_store.search("banana", mode="text")) == 1
    embedding_store.remove_by_metadata("source", "a")
    assert len(embedding_store.search("banana", mode="text")) == 0


@pytest.mark.parametrize(
    "query",
    ['"', "'", "AND", "NEAR(", "a OR", "-", "*", "col:x", "stems:a", "(", "\0", "^a", "a" * 5000, "' OR 1=1"],
)
def test_full_text_queries_are_data(embedding_store: FaissVetorStorage, query: str) -> None:
    embedding_store.write(documents("a", 5))
    for mode in ("text", "hybrid"):
        embedding_store.search(query, mode=mode)
    assert len(embedding_store) == 5


def test_stats_count_what_is_there(store: FaissVetorStorage, small_segments: int) -> None:
    store.replace("a", documents("a", 30), vectors(30))
    store.write(documents("b", 3), vectors(3))
    store.remove_by_metadata("place", 0)
    stats = store.stats()
    assert (stats.chunks, stats.sources, stats.segments) == (31, 2, 1)
    assert (stats.dimension, stats.embedder, stats.commit, stats.location) == (8, "", 3, store.location)
    files = [path for path in Path(store.location).rglob("*") if path.is_file()]
    assert 0 < stats.bytes <= sum(path.stat().st_size for path in files) + 8192


def test_a_frame_holds_every_chunk(store: FaissVetorStorage) -> None:
    store.write(documents("a", 1500), vectors(1500))
    frame = store.to_pandas()
    assert list(frame.columns) == ["id", "source", "ordinal", "text", "metadata"]
    assert len(frame) == 1500
    assert set(frame["id"]) == stored_ids(store)
    assert frame["ordinal"].tolist() == list(range(1500))


def test_a_store_says_what_it_is(store: FaissVetorStorage, folder: Path) -> None:
    assert repr(store) == f"<FaissVetorStorage {folder} (open)>"
    store.close()
    assert repr(store).endswith("(closed)>")
    with open_storage(folder, read_only=True) as reader:
        assert repr(reader).endswith("(read-only)>")


def test_twenty_thousand_rows_and_more_are_scanned_in_place(store: FaissVetorStorage) -> None:
    count = 25_000
    matrix = vectors(count, 3)
    made = [Document(page_content="x", metadata={"source": "a", "n": number}) for number in range(count)]
    names = store.write(made, matrix)
    asked = vectors(12, 9)
    kept = np.arange(0, 22_000)
    for query, hits in zip(asked, store.search(asked, k=10, filter={"n": {"$lt": 22_000}}), strict=True):
        assert [hit.id for hit in hits] == [
            name for name, _ in nearest(query, matrix[kept], names[:22_000], 10)
        ]
