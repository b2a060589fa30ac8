"""What every engine behind `VetorStorage` promises: one suite, run against each of them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from oraculo_kit.errors import (
    EmbedderMismatchError,
    EmbeddingError,
    FilterError,
    QueryError,
    SourceError,
    StoreClosedError,
    StoreNotFoundError,
    StoreReadOnlyError,
    VectorsError,
)
from oraculo_kit.storage import VetorStorage, open_storage
from oraculo_kit.storage.base import MODES
from oraculo_kit.storage.feedback import Feedback
from oraculo_kit.storage.prepare import prepare_sources
from oraculo_kit.storage.records import LedgerEntry, chunk_id
from oraculo_kit.storage.runs import SourceOutcome
from oraculo_kit.storage.values import SourceDocuments, SourceMove
from tests.engines.engines import Engine
from tests.storage.kit import DIMENSION, ROOT, TinyEmbeddings, documents, nearest, vectors


def ids_of(store: VetorStorage) -> set[str]:
    return {str(document.id) for page in store.iter_documents() for document in page}


def whole(source: str, count: int, hash: str = "h1", **options: Any) -> SourceDocuments:
    ledger = LedgerEntry(hash, 10 * count, 123, "split|tests.storage.kit.TinyEmbeddings", "r1")
    return SourceDocuments(source, documents(source, count), vectors(count, 1), ledger, **options)


def test_what_is_written_is_read_back(store: VetorStorage) -> None:
    made = [
        Document(
            "Texto um.", metadata={"source": "a.md", "page": 1, "big": 2**70, "x": [1, "a", None, {"k": 1.5}]}
        ),
        Document(
            "Text two \0 with \1 \3 everything 😀 \ud7ff",
            metadata={"source": "b.md", "n\0ul": "z\0", "f": 1e23},
        ),
        Document("no source", id="given"),
    ]
    ids = store.write(made)
    assert ids[2] == "given"
    assert len(set(ids)) == len(store) == 3
    found = store.get([*ids, "unknown"])
    assert [each.id for each in found] == ids
    assert [each.page_content for each in found] == [each.page_content for each in made]
    assert [each.metadata for each in found] == [each.metadata for each in made]
    assert store.get(ids[::-1])[0].page_content == "no source"


def test_ids_are_the_same_in_every_engine(store: VetorStorage) -> None:
    made = Document("olá", metadata={"source": "a.txt"})
    assert store.write([made]) == store.write([made]) == [chunk_id("a.txt", 0, "olá")]
    assert len(store) == 1


def test_writing_an_id_again_replaces_it(store: VetorStorage) -> None:
    store.write(
        [Document("old", metadata={"source": "a"}), Document("kept", metadata={"source": "a"})],
        ids=["1", "2"],
    )
    store.write([Document("new", metadata={"source": "a"})], ids=["1"])
    assert [each.page_content for each in store.get(["1", "2"])] == ["new", "kept"]
    assert {row.source: row.chunks for row in store.sources()} == {"a": 2}
    store.write([Document("moved", metadata={"source": "b"})], ids=["2"])
    store.write([Document("moved", metadata={"source": "b"})], ids=["1"])
    assert {row.source: row.chunks for row in store.sources()} == {"b": 2}
    assert store.verify().ok, store.verify()


def test_the_same_id_twice_in_one_write_counts_once(store: VetorStorage) -> None:
    store.write([Document("one"), Document("two")], ids=["x", "x"])
    assert [each.page_content for each in store.get(["x"])] == ["two"]
    assert len(store) == 1


def test_a_source_is_replaced_whole(store: VetorStorage) -> None:
    store.replace("a", documents("a", 5))
    store.replace("b", documents("b", 2))
    assert len(store.replace("a", documents("a", 3, first=10))) == 3
    assert {row.source: row.chunks for row in store.sources()} == {"a": 3, "b": 2}
    assert sorted(
        hit.metadata["place"] for hit in store.search(vectors(1)[0], 10, filter={"source": "a"})
    ) == [10, 11, 12]
    store.replace("a", [])
    assert [row.source for row in store.sources()] == ["b"]
    assert store.verify().ok


def test_many_sources_are_replaced_in_one_commit_with_ledger_and_outcomes(store: VetorStorage) -> None:
    store.start_run("r1", {"n_jobs": 2})
    outcome = SourceOutcome("a", "added", chunks=4, bytes=40, seconds={"load": 0.5}, pid=7, run="r1")
    assert (
        store.replace_many([whole("a", 4, outcome=outcome), whole("b", 2), whole("empty", 0)])
        == ["added"] * 3
    )
    assert store.replace_many([whole("b", 3, "h2"), whole("c", 1)]) == ["replaced", "added"]
    assert {row.source: row.chunks for row in store.sources()} == {"a": 4, "b": 3, "c": 1, "empty": 0}
    assert store.ledger(["b", "nobody"]) == {"b": whole("b", 3, "h2").ledger}
    assert store.sources_with(["h1", "nothing"]) == {"h1": ["a", "c", "empty"]}
    assert store.replace_many([]) == []
    assert store.replace_many([whole("a", 1), whole("a", 2)]) == ["replaced", "replaced"]
    assert len(store) == 6
    assert [(each.source, each.status) for each in store.outcomes("r1")] == [("a", "added")]
    assert store.verify().ok, store.verify()


def test_sources_that_were_prepared_elsewhere_are_put_as_if_they_were_here(store: VetorStorage) -> None:
    writes = pickle.loads(pickle.dumps(prepare_sources([whole("a", 3), whole("b", 1)])))
    assert store.put_sources(writes[1:], None) == ["added"]
    assert store.put_sources(writes, None) == ["added", "replaced"]
    assert store.put_sources([], None) == []
    assert store.ledger(["a"]) == {"a": whole("a", 3).ledger}
    assert [each.page_content for each in store.get([row.id for row in writes[0].rows])] == [
        document.page_content for document in documents("a", 3)
    ]
    assert store.verify().ok, store.verify()


def test_a_source_that_lost_a_chunk_is_read_again_and_one_that_lost_all_is_gone(store: VetorStorage) -> None:
    store.replace_many([whole("a", 2), whole("b", 1)])
    names = [hit.id for hit in store.search(vectors(1)[0], 5, filter={"source": "a"})]
    assert store.remove([names[0], "unknown"]) == 1
    assert store.ledger(["a"])["a"].content_hash is None
    assert store.remove([names[1]]) == 1
    assert [row.source for row in store.sources()] == ["b"]
    assert store.remove_by_metadata("place", 0) == 1
    assert len(store) == 0
    assert store.remove([]) == 0
    store.replace_many([whole("empty", 0)])
    assert store.remove_by_metadata("source", "empty") == 0
    assert store.sources() == []


def test_touch_notes_times_of_the_same_content_only(store: VetorStorage) -> None:
    store.replace_many([whole("a", 1), whole("b", 1, "other")])
    store.touch(
        {"a": LedgerEntry("h1", 99, 456), "b": LedgerEntry("h1", 99, 456), "c": LedgerEntry("h1", 1, 1)}
    )
    found = store.ledger(["a", "b"])
    assert (found["a"].bytes, found["a"].mtime_ns, found["a"].content_hash) == (99, 456, "h1")
    assert (found["b"].bytes, found["b"].mtime_ns) == (10, 123)


def test_a_source_is_moved_without_embedding(store: VetorStorage, engine: Engine) -> None:
    with engine.able("moves"):
        store.replace_many([whole("old", 3), whole("taken", 1)])
        cited = sorted(ids_of(store))
        store.add_feedback(Feedback("2026-01-01", "q", "a", "good", sources=tuple(cited)))
        ledger = whole("old", 3).ledger
        moves = [
            SourceMove("old", "new", ledger, {"modified": "2026"}),
            SourceMove("taken", "new", ledger),
            SourceMove("nobody", "x", ledger),
            SourceMove("taken", "y", LedgerEntry("another", pipeline=ledger.pipeline)),
        ]
        assert store.move_many(moves) == [True, False, False, False]
        assert {row.source: row.chunks for row in store.sources()} == {"new": 3, "taken": 1}
        hits = store.search(vectors(1)[0], 9, filter={"modified": "2026"})
        assert [(hit.source, hit.metadata["place"]) for hit in sorted(hits, key=lambda hit: hit.ordinal)] == [
            ("new", 0), ("new", 1), ("new", 2)
        ]  # fmt: skip
        assert set(store.feedback()[0].sources) == ids_of(store)
        assert store.replace("again", []) == []
        assert store.verify().ok, store.verify()


def test_vector_search_equals_brute_force(store: VetorStorage) -> None:
    matrix = vectors(150, 5)
    ids = store.write(documents("a", 150), matrix)
    for seed in range(5):
        query = vectors(1, 100 + seed)[0]
        found = store.search(query, 10)
        expected = nearest(query, matrix, ids, 10)
        assert [hit.id for hit in found] == [name for name, _ in expected]
        assert np.allclose([hit.score for hit in found], [score for _, score in expected], atol=1e-5)
    many = store.search(vectors(3, 7), 4)
    assert [len(each) for each in many] == [4, 4, 4]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_k_hits_that_meet_the_conditions(
    store: VetorStorage, engine: Engine, mode: Any
) -> None:
    with engine.able(mode):
        made = [
            Document(
                f"nota fiscal número {n} emitida",
                metadata={"source": f"s{n % 7}", "n": n, "even": n % 2 == 0},
            )
            for n in range(60)
        ]
        store.write(made)
        results = store.search(
            "emissão de notas fiscais", 8, mode=mode, filter={"even": True, "n": {"$gte": 10}}
        )
        assert len(results) == 8
        assert all(hit.metadata["even"] and hit.metadata["n"] >= 10 for hit in results)
        scores = [hit.score for hit in results]
        assert scores == sorted(scores, reverse=True)
        assert len(store.search("nota", 100, mode=mode, filter={"n": 3})) == 1
        assert len(store.search("nota", 5, mode=mode, filter={"even": "true"})) == 0
        grouped = store.search("nota fiscal", 7, mode=mode, group_by="source")
        assert {hit.source for hit in grouped} == {f"s{n}" for n in range(7)}
        assert len(store.search("  ?! ", 5, mode=mode)) == 0


def test_phrases_and_exclusions_hold(store: VetorStorage, engine: Engine) -> None:
    with engine.able("text"):
        store.write(
            [
                Document("A nota fiscal do serviço"),
                Document("A fiscal anota a nota"),
                Document("Nota fiscal de compra; nota fiscal de venda"),
            ],
            vectors(3),
        )
        for mode in ("text", "hybrid"):
            found = {hit.text[:10] for hit in store.search('"nota fiscal"', 5, mode=mode)}
            assert found == {"A nota fis", "Nota fisca"}
            assert [hit.text[:4] for hit in store.search('"nota fiscal" -serviço', 5, mode=mode)] == ["Nota"]
        assert len(store.search("' OR 1=1; -- \"' & | ! :* <-> \\", 5, mode="text")) >= 0


def test_options_of_a_search(store: VetorStorage) -> None:
    store.replace("a", documents("a", 12), vectors(12, 3))
    hits = store.search(vectors(1, 3)[0], 4, mmr=0.3)
    assert len({hit.id for hit in hits}) == 4
    middle = store.search(vectors(12, 3)[5], 1, context=2)[0]
    assert middle.before
    assert middle.after
    assert store.search(vectors(1)[0], 12, min_score=2 / 3).hits == tuple(
        hit for hit in store.search(vectors(1)[0], 12) if hit.score >= 2 / 3
    )
    best = store.search(vectors(12, 3)[5], 1)
    assert best.similar(best[0], 3)[0].id != best[0].id
    assert best.context(best[0], 1).count("(a ") == 3
    assert len(store.search(vectors(1)[0], 5, exact=True)) == 5


def test_duplicates_are_left_out_on_request(store: VetorStorage, engine: Engine) -> None:
    with engine.able("hybrid"):
        store.write([Document("o mesmo texto", metadata={"source": f"{n}"}) for n in range(5)])
        store.write([Document("outro texto")])
        assert len(store.search("texto", 6)) == 6
        assert len(store.search("texto", 6, unique=True)) == 2
        explained = store.search("texto", 1, explain=True)[0].explanation
        assert explained is not None
        assert "texto" in explained.matched


def test_filters_keep_types(store: VetorStorage) -> None:
    values: list[Any] = [1, "1", True, None, 1.5, ["a", 1], {"k": 1}, 2**63 + 1, "ção"]
    ids = store.write(
        [Document(str(place), metadata={"k": value}) for place, value in enumerate(values)], vectors(9)
    )

    def found(wanted: Any) -> set[int]:
        return {ids.index(hit.id) for hit in store.search(vectors(1)[0], 20, filter=wanted)}

    assert [found({"k": value}) for value in values] == [{place} for place in range(9)]
    assert found({"k": {"$gt": 1}}) == {4, 7}
    assert found({"k": {"$in": ["1", 1.0, None]}}) == {0, 1, 3}
    assert found({"k": {"$contains": "a"}}) == {5}
    assert found({"$or": [{"k": True}, {"k": {"$lt": "2", "$gte": "1"}}]}) == {1, 2}
    assert found({"$not": {"k": {"$exists": True}}}) == set()
    assert found({"k": {"$ne": 1}}) == set(range(1, 9))


def test_a_filter_that_is_none_is_refused_and_an_unknown_key_warns(store: VetorStorage) -> None:
    store.write(documents("a", 1), vectors(1))
    with pytest.raises(FilterError, match="unknown operator"):
        store.search(vectors(1)[0], filter={"a": {"$above": 3}})
    with pytest.warns(UserWarning, match="no chunk has the metadata key 'plac'; did you mean 'place'?"):
        store.search(vectors(1)[0], filter={"plac": 1})
    with pytest.raises(QueryError, match="group_by is 'plac'.*did you mean 'place'"):
        store.search(vectors(1)[0], group_by="plac")


def test_a_list_that_no_chunk_has_warns_that_any_of_its_values_may_be_meant(store: VetorStorage) -> None:
    store.write([Document("x", metadata={"source": "a", "lang": "pt", "tags": ["a", "b"]})], vectors(1))
    with pytest.warns(UserWarning, match=r"'lang' is the whole list \['pt', 'en'\]; .*'\$in'") as caught:
        assert not store.search(vectors(1)[0], filter={"lang": ["pt", "en"]})
    assert caught[0].filename == __file__
    assert store.search(vectors(1)[0], filter={"lang": {"$in": ["pt", "en"]}})
    assert store.search(vectors(1)[0], filter={"tags": ["a", "b"]})
    assert not store.search(vectors(1)[0], filter={"tags": {"$eq": ["b"]}})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda store: store.search("x", 0), QueryError, "k is 0"),
        (lambda store: store.search(3), QueryError, "got int as query"),
        (lambda store: store.search([]), QueryError, "empty list"),
        (lambda store: store.search("x", mode="both"), QueryError, "mode is 'both'"),
        (lambda store: store.search(np.zeros(8)), QueryError, "only zeros"),
        (lambda store: store.search(np.ones(3)), VectorsError, "dimension 3, expected 8"),
        (lambda store: store.write(["text"]), QueryError, "expected LangChain documents"),
        (lambda store: store.write([Document("x")], ids=["1", "2"]), QueryError, "2 ids for 1 documents"),
        (lambda store: store.write([Document("x")], ids=[1]), QueryError, "id of type int"),
        (lambda store: store.write([Document("x")], np.ones((2, 8))), VectorsError, r"shape \(2, 8\)"),
        (lambda store: store.write([Document("x")], np.full((1, 8), np.nan)), VectorsError, "NaN"),
        (
            lambda store: store.write([Document("x")], np.ones((1, 3))),
            VectorsError,
            "dimension 3, expected 8",
        ),
        (lambda store: store.write([Document("x", metadata={"k": object()})]), SourceError, "holds a object"),
        (lambda store: store.replace(1, []), QueryError, "got int as source"),
        (lambda store: store.get("abc"), QueryError, "got str as ids"),
        (lambda store: store.remove("abc"), QueryError, "got str as ids"),
        (lambda store: store.iter_documents(0), QueryError, "batch is 0"),
        (lambda store: store.iter_vectors(True), QueryError, "batch is True"),
        (lambda store: store.optimize(0.2), QueryError, "recall is 0.2"),
        (lambda store: store.compact(purge=1), QueryError, "purge is 1"),
        (lambda store: store.create_filter_index("$x"), FilterError, r"begin with \$"),
        (lambda store: store.finish_run("r", "done", {}), QueryError, "state is 'done'"),
        (lambda store: store.runs(0), QueryError, "limit is 0"),
        (lambda store: store.metadata_values(3), QueryError, "got int as metadata key"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(
    store: VetorStorage, call: Any, error: Any, message: str
) -> None:
    ids = store.write(documents("a", 2), vectors(2))
    with pytest.raises(error, match=message):
        call(store)
    assert ids_of(store) == set(ids)


def test_a_failing_embedder_leaves_the_old_version(engine: Engine) -> None:
    class Failing(TinyEmbeddings):
        broken = False

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if self.broken:
                raise RuntimeError("no")
            return super().embed_documents(texts)

    embedder = Failing()
    store = engine.open(embedder)
    store.replace("a", documents("a", 2))
    before = ids_of(store)
    embedder.broken = True
    with pytest.raises(EmbeddingError, match="no"):
        store.replace("a", documents("a", 3))
    assert ids_of(store) == before


def test_another_embedder_is_refused(engine: Engine) -> None:
    store = engine.open(TinyEmbeddings())
    store.replace("a", documents("a", 2))
    with pytest.raises(EmbedderMismatchError, match="was built with embedder .*TinyEmbeddings"):
        engine.open("wordllama")
    impostor = engine.open(TinyEmbeddings(salt="other"))
    with pytest.raises(EmbedderMismatchError, match="probe vector has cosine"):
        impostor.write(documents("b", 1))
    with pytest.raises(EmbedderMismatchError, match="dimension 8 against 5"):
        engine.open(TinyEmbeddings(dimension=5)).search("x")


def test_reopened_it_has_everything(engine: Engine) -> None:
    store = engine.open(TinyEmbeddings())
    ids = store.write(documents("a", 30))
    expected = store.search("documento de teste", 5)
    store.close()
    store.close()
    with pytest.raises(StoreClosedError, match="was closed"):
        len(store)
    with pytest.raises(StoreClosedError, match="was closed"):
        store.write(documents("b", 1))
    again = engine.open(TinyEmbeddings())
    assert ids_of(again) == set(ids)
    assert again.search("documento de teste", 5) == expected


def test_read_only_is_read_only(engine: Engine) -> None:
    with pytest.raises(StoreNotFoundError, match="there is no store at"):
        engine.open(TinyEmbeddings(), read_only=True)
    engine.open(TinyEmbeddings()).write(documents("a", 3))
    store = engine.open(TinyEmbeddings(), read_only=True)
    assert len(store.search("texto", 2)) == 2
    assert "read-only" in repr(store)
    for call in (
        lambda: store.write(documents("b", 1)),
        lambda: store.replace("a", []),
        lambda: store.replace_many([]),
        lambda: store.move_many([]),
        lambda: store.remove(["x"]),
        lambda: store.touch({"a": LedgerEntry()}),
        lambda: store.compact(),
        lambda: store.start_run("r", {}),
        lambda: store.create_filter_index("k"),
    ):
        with pytest.raises(StoreReadOnlyError, match="reading only"):
            call()


def test_an_empty_store_finds_nothing_and_is_sound(store: VetorStorage) -> None:
    assert len(store) == 0
    assert bool(store)
    assert store.search("texto") == store.search("texto")
    assert len(store.search("texto")) == 0
    assert store.get(["x"]) == []
    assert store.sources() == store.runs() == store.feedback() == store.filter_indexes() == []
    assert list(store.iter_vectors()) == list(store.iter_documents()) == []
    assert store.stats().dimension == 0
    assert store.verify().ok
    assert store.health().ok
    assert len(store.to_pandas()) == 0


def test_iterators_and_tables_give_everything_once(store: VetorStorage, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    matrix = vectors(25, 2)
    ids = store.write(documents("a", 25), matrix)
    pages = list(store.iter_documents(10))
    assert [len(page) for page in pages] == [10, 10, 5]
    walked = {
        name: row for names, rows in store.iter_vectors(7) for name, row in zip(names, rows, strict=True)
    }
    assert sorted(walked) == sorted(ids)
    assert np.allclose([walked[name] for name in ids], matrix, atol=1e-6)
    names, rows = store.vectors([ids[3], "unknown", ids[1]])
    assert names == [ids[3], ids[1]]
    assert rows.dtype == np.float32
    assert np.allclose(rows, matrix[[3, 1]], atol=1e-6)
    frame = store.to_pandas()
    assert list(frame.columns) == ["id", "source", "ordinal", "text", "metadata"]
    assert set(frame["id"]) == set(ids)
    assert store.to_parquet(tmp_path / "x.parquet") == 25
    table = pd.read_parquet(tmp_path / "x.parquet")
    assert set(table["id"]) == set(ids)
    assert json.loads(table["metadata"][0])["source"] == "a"


def test_figures_of_a_store(store: VetorStorage) -> None:
    store.replace("a", documents("a", 4), vectors(4))
    store.replace("b", documents("b", 2), vectors(2))
    stats = store.stats()
    assert (stats.chunks, stats.sources, stats.dimension, stats.location) == (6, 2, DIMENSION, store.location)
    assert stats.commit >= 2
    assert stats.bytes > 0
    assert [(key.name, key.in_chunks, key.in_sources) for key in store.metadata_keys()] == [
        ("place", True, False)
    ]
    assert store.metadata_values("place", 2) == [(0, 2), (1, 2)]
    assert store.metadata_values("source") == [("a", 4), ("b", 2)]
    assert [chunk.ordinal for chunk in store.source_chunks("a", 1, 2)] == [1, 2]


@pytest.fixture
def listed(store: VetorStorage) -> VetorStorage:
    sizes = {"Férias/A_1.md": 3, "ferias/b.md": 1, "FÉRIAS/c%.pdf": 2, "notas/d\1.md": 2, "vazia": 0}
    for place, (key, count) in enumerate(sizes.items()):
        made = SourceDocuments(
            key,
            documents(key, count, title=key),
            vectors(count),
            LedgerEntry(bytes=100 - place if count != 1 else None),
        )
        store.replace_many([made])
    return store


@pytest.mark.parametrize("order", ["source", "chunks", "bytes", "written_at"])
@pytest.mark.parametrize("descending", [False, True])
def test_sources_are_listed_page_by_page(listed: VetorStorage, order: Any, descending: bool) -> None:
    found = []
    for first in (0, 2, 4, 6):
        page = listed.list_sources(order=order, descending=descending, first=first, count=2)
        assert page == VetorStorage.list_sources(
            listed, order=order, descending=descending, first=first, count=2
        )
        found += [row.source for row in page.rows]
    assert sorted(found) == [row.source for row in listed.sources()]
    if order == "bytes":
        assert found[-1 if descending else 0] == "ferias/b.md"  # of unknown size


def test_a_part_of_a_key_is_found_whatever_its_case(listed: VetorStorage) -> None:
    for part, names in {
        "férias": ["FÉRIAS/c%.pdf", "Férias/A_1.md"], ".MD": ["Férias/A_1.md", "ferias/b.md", "notas/d\1.md"],
        "%": ["FÉRIAS/c%.pdf"], "_": ["Férias/A_1.md"], "d\1.": ["notas/d\1.md"], "\\": [], "'": [],
    }.items():  # fmt: skip
        page = listed.list_sources(part)
        assert [row.source for row in page.rows] == names
        assert page.total == len(names)
        assert page == VetorStorage.list_sources(listed, part)
    assert listed.list_sources(".md", count=2).total == 3
    assert list(listed.list_sources("d\1.").to_pandas()["title"]) == ["notas/d\1.md"]
    with pytest.raises(QueryError, match="order is 'size'"):
        listed.list_sources(order="size")  # type: ignore[arg-type]


def test_a_sample_of_a_small_base_is_all_of_it(listed: VetorStorage) -> None:
    sample, plain = listed.sample(), VetorStorage.sample(listed)
    assert sorted(sample.sources, key=lambda each: each.source) == list(plain.sources)
    assert sorted(sample.lengths) == sorted(plain.lengths)


def test_an_empty_base_has_nothing_to_list(store: VetorStorage) -> None:
    assert store.list_sources() == VetorStorage.list_sources(store)
    assert (store.list_sources().total, store.sample().sources, store.sample().lengths) == (0, (), ())
    assert list(store.iter_values("lang")) == []


def test_values_of_a_key_are_those_of_the_documents(store: VetorStorage) -> None:
    shared = {"source": "s.md", "lang": "p\0t", "nested": {"a": 1}, "none": None, 'k"ey.x': 2.5, "n\0": 1}
    own: list[dict[str, Any]] = [
        {"f": 1e23, "big": 2**62, "on": True}, {"f": 1.0, "big": 2**63, "lang": None, "low": -(2**63) - 1}, {"f": -0.0, "on": ["a"], "big": "ç", "low": 1e300},
    ]  # fmt: skip
    store.replace("s.md", [Document(f"{n}", metadata={**shared, **each}) for n, each in enumerate(own)])
    store.write([Document("alone", metadata={"lang": "en"})])
    assert store.sources()[1].language == store.sample().sources[0].language == "p\0t"
    for key in (*shared, "f", "big", "low", "on", "nowhere"):
        pages = list(store.iter_values(key, 3))
        assert [len(ids) for ids, _ in pages] == [3, 1]
        quick = [(name, value, type(value)) for page in pages for name, value in zip(*page, strict=True)]
        whole = [
            (name, value, type(value))
            for page in VetorStorage._value_pages(store, key, 3)
            for name, value in zip(*page, strict=True)
        ]
        assert quick == whole, key


def test_filter_indexes_change_no_result(store: VetorStorage) -> None:
    store.replace("a", documents("a", 20, lang="pt"), vectors(20))
    asked: list[dict[str, Any]] = [
        {"place": 3}, {"place": {"$gt": 4, "$lte": 8}}, {"lang": "pt"}, {"$not": {"place": {"$in": [1, 2]}}},
        {"$or": [{"place": 1}, {"lang": {"$contains": "p"}}]}, {"it's \\": None},
    ]  # fmt: skip

    def answers() -> list[list[str]]:
        return [[hit.id for hit in store.search(vectors(1)[0], 30, filter=each)] for each in asked]

    with pytest.warns(UserWarning, match="no chunk has the metadata key"):
        before = answers()
    for key in ("place", "lang", "it's \\"):
        assert store.create_filter_index(key)
        assert not store.create_filter_index(key)
    assert store.filter_indexes() == ["it's \\", "lang", "place"]
    with pytest.warns(UserWarning, match="no chunk has the metadata key"):
        assert answers() == before
    store.write([Document("y" * 50, metadata={"place": "y" * 20_000})], vectors(1))
    assert store.drop_filter_index("place")
    assert not store.drop_filter_index("place")
    assert not store.create_filter_index("source")


def test_feedback_is_kept_in_order(store: VetorStorage) -> None:
    given = [
        Feedback("2026-01-01T00:00:00", f"q{n}\0", "a", "corrected", "c", "m", (f"id{n}",)) for n in range(3)
    ]
    numbers = [store.add_feedback(each) for each in given]
    assert numbers == sorted(set(numbers))
    assert store.feedback() == given


def test_runs_are_noted_with_their_outcomes(store: VetorStorage, engine: Engine) -> None:
    with engine.able("runs"):
        store.start_run("one", {"sources": ["docs/"], "n\0": 2})
        store.note_outcomes(
            "one", [SourceOutcome("x", "failed", "E", "why \0", bytes=3, seconds={"load": 0.1})]
        )
        store.note_outcomes(
            "one", [SourceOutcome("y", "skipped"), SourceOutcome("x", "failed", "E", "again")]
        )
        store.note_outcomes("unknown", [SourceOutcome("x", "failed")])
        (record,) = store.runs()
        assert (record.id, record.state, record.counts) == ("one", "running", {"failed": 1, "skipped": 1})
        assert record.options == {"sources": ["docs/"], "n\0": 2}
        assert [(each.source, each.message, each.run) for each in store.outcomes("one")] == [
            ("x", "again", "one"), ("y", "", "one")
        ]  # fmt: skip
        assert store.finish_run("one", "finished", {"failed": 1, "unchanged": 7}) is True
        assert [store.finish_run(run, "failed", {}) for run in ("one", "unknown")] == [False, False]
        store.start_run("two", {})
        assert [(each.id, each.state) for each in store.runs()] == [("two", "running"), ("one", "finished")]
        assert store.runs()[1].counts == {"failed": 1, "unchanged": 7}
        assert store.outcomes("unknown") == []


def test_reembed_changes_the_model_in_one_commit(engine: Engine) -> None:
    store = engine.open(TinyEmbeddings())
    with engine.able("reembed"):
        store.replace_many([whole("a", 5)])
        other = TinyEmbeddings(dimension=5, salt="new")
        steps: list[tuple[int, int]] = []
        report = store.reembed(other, progress=lambda done, total: steps.append((done, total)))
        assert (report.chunks, report.dimension) == (5, 5)
        assert steps[-1] == (5, 5)
        assert store.stats().dimension == 5
        text = store.get(sorted(ids_of(store)))[0].page_content
        assert store.search(text, 1, mode="vector")[0].text == text
        store.write(documents("b", 1))
        assert store.verify().ok, store.verify()


def test_maintenance_keeps_everything(store: VetorStorage, engine: Engine) -> None:
    ids = store.write(documents("a", 20))
    store.remove(ids[:10])
    for report in (store.compact(), store.compact(purge=True)):
        assert report.location == store.location
    assert ids_of(store) == set(ids[10:])
    with engine.able("optimize"):
        assert store.optimize().exact == 10
    assert store.repair().ok
    assert len(store.search("texto", 20, mode="vector")) == 10


def test_a_snapshot_is_made_or_refused(store: VetorStorage, engine: Engine, tmp_path: Path) -> None:
    ids = store.write(documents("a", 2))
    with engine.able("snapshot"):
        with open_storage(store.snapshot(tmp_path / "copy"), read_only=True) as copy:
            assert ids_of(copy) == set(ids)


_WRITER = """
import sys
from oraculo_kit.storage import open_storage
from tests.storage.kit import TinyEmbeddings, documents
with open_storage(sys.argv[1], TinyEmbeddings()) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for place in range(10):
        store.replace(f"{sys.argv[2]} {place}", documents(sys.argv[2], 10))
        store.replace("shared", documents(sys.argv[2], 7))
"""


def test_two_processes_write_at_once(engine: Engine) -> None:
    with engine.able("concurrent writers"):
        children = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, engine.location, name],
                cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for name in ("x", "y")
        ]  # fmt: skip
        for each in children:
            assert each.stdout is not None
            if each.stdout.readline() != "ready\n":
                pytest.fail(each.communicate()[1])
        for each in children:
            _, err = each.communicate("go\n", timeout=60)
            assert each.returncode == 0, err
        store = engine.open(TinyEmbeddings())
        assert len(store) == 207
        assert {row.chunks for row in store.sources()} == {10, 7}
        shared = store.search(vectors(1)[0], 20, filter={"source": "shared"})
        assert len({hit.text.rpartition("(")[2][0] for hit in shared}) == 1
        assert store.verify().ok, store.verify()
