"""The same texts give the same results in PostgreSQL and in the embedded store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from oraculo_kit.errors import SourceError
from oraculo_kit.storage import VetorStorage, hybrid
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.postgres import optimizing, versions
from oraculo_kit.storage.postgres.store import PostgresVetorStorage
from oraculo_kit.storage.results import SearchResults
from tests.storage.kit import ROOT, documents, vectors
from tests.storage.postgres.server import new_base

QUESTIONS = [
    "como emitir nota fiscal", "prazo para recurso administrativo", "férias do servidor", "vector search index",
    "install the package", "qual é o valor da taxa?", "documentos necessários", '"nota fiscal"', "licença -maternidade",
    "erro ao abrir o arquivo", "o que é", "to be or not to be", "NFS-e 2024/001", "pagamento em atraso multa juros",
    "how are chunks stored and searched", "sqlite transaction commit", "memória compartilhada entre processos",
]  # fmt: skip


def passages() -> list[Document]:
    """Return some five hundred passages of Portuguese and English texts of this project."""
    found: list[Document] = []
    paths = [
        *sorted((ROOT / "notebooks" / "dados").glob("*.md")),
        ROOT / "README.md",
        *sorted(ROOT.glob("oraculo_kit/storage/*.py")),
    ]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        parts = [part.strip() for part in re.split(r"\n\s*\n", text) if len(part.strip()) > 60]
        for place, part in enumerate(parts[:20]):
            found.append(
                Document(part[:900], metadata={"source": path.name, "place": place, "kind": path.suffix})
            )
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VetorStorage, VetorStorage]]:
    """Return an embedded store and one in PostgreSQL with the same texts and the default embedder."""
    made = passages()
    assert len(made) > 400
    with (
        new_base() as url,
        FaissVetorStorage(tmp_path_factory.mktemp("search") / "store") as embedded,
        PostgresVetorStorage(url) as served,
    ):
        for store in (embedded, served):
            store.write(made)
        yield embedded, served


def agree(one: SearchResults, other: SearchResults, tolerance: float) -> None:
    """Compare two results: the same ids in the same order but where scores differ by less than the tolerance."""
    assert len(one) == len(other)
    scores = [hit.score for hit in one]
    assert np.allclose(scores, [hit.score for hit in other], atol=tolerance)
    for mine, theirs in zip(one, other, strict=True):
        if mine.id != theirs.id:
            assert abs(mine.score - theirs.score) < tolerance, (mine, theirs)
    for mine in one:
        same = [theirs for theirs in other if theirs.id == mine.id]
        assert same or mine.score - scores[-1] < tolerance


@pytest.mark.parametrize("question", QUESTIONS)
def test_both_stores_give_the_same_hits(both: tuple[VetorStorage, VetorStorage], question: str) -> None:
    vector = [store.search(question, 20, mode="vector") for store in both]
    assert [hit.id for hit in vector[0]] == [hit.id for hit in vector[1]]
    # BM25 by the same formula over the same counts, cosines by other sums of the same float32 numbers.
    agree(*(store.search(question, 20, mode="text") for store in both), tolerance=1e-9)
    agree(*(store.search(question, 20) for store in both), tolerance=1e-5)
    wanted: dict[str, Any] = {"kind": ".md", "place": {"$lt": 9}}
    agree(*(store.search(question, 5, filter=wanted, group_by="source") for store in both), tolerance=1e-5)
    agree(*(store.search(question, 5, mmr=0.4, context=1) for store in both), tolerance=1e-5)


def test_large_stores_are_asked_by_two_threads_and_with_fewer_words_and_give_the_same_hits(
    both: tuple[VetorStorage, VetorStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "_BESIDE_FROM", 100)
    monkeypatch.setattr(hybrid, "_PRUNED_FROM", 100)
    monkeypatch.setattr(hybrid, "_CANDIDATES", 10)
    for question in QUESTIONS:
        agree(*(store.search(question, 3, mode="text") for store in both), tolerance=1e-9)
        agree(*(store.search(question, 3) for store in both), tolerance=1e-5)


def test_words_are_looked_up_in_the_index_and_never_in_all_rows(pg: PostgresVetorStorage) -> None:
    pg.write(documents("a", 300), vectors(300))
    few = np.arange(20)
    with pg._reading().pin() as version:
        for match in ('("not" OR "fiscal")', '("not fiscal")', '("not") AND ("fiscal")'):
            for allowed in (None, few):
                version.text_top(match, 3, allowed)
            version.text_matches(match)
            version.frequency("fiscal")
        scans = "SELECT pg_stat_get_xact_numscans({}::regclass)"
        assert version.session.one(scans.format("'oraculo_words'")) == 0
        assert version.session.one(scans.format("'oraculo_words_by_term'")) > 3
        assert version.session.one("SHOW enable_seqscan") == "on"  # vectors are compared row by row


def test_an_index_finds_what_was_asked_for_and_a_filter_costs_no_hit(
    pg: PostgresVetorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizing, "INDEX_ROWS", 1000)
    monkeypatch.setattr(optimizing, "_PAYS", 1000)
    monkeypatch.setattr(optimizing, "_QUERIES", 100)
    monkeypatch.setattr(versions, "_FEW", 20)
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((1500, 32)).astype(np.float32)
    for start in range(0, 1500, 500):
        made = [
            Document(f"t{n}", metadata={"n": n, "third": n % 3 == 0, "rare": n % 250 == 0})
            for n in range(start, start + 500)
        ]
        pg.write(made, matrix[start : start + 500])
    report = pg.optimize(0.95)
    assert report.built == 1
    assert report.reached, report
    assert report.indexed == 1500
    assert "recall@10" in repr(report)
    again = pg.optimize(0.5)
    assert (again.built, again.indexes[0].kind) == (0, "hnsw")
    pg.optimize(0.95)
    shares = []
    for query in vectors(12, 9, 32):
        for wanted, least in (
            (None, 10),
            ({"third": True}, 10),
            ({"rare": True}, 6),
            ({"n": {"$lt": 100}}, 10),
        ):
            found = pg.search(query, 10, filter=wanted)
            exact = pg.search(query, 10, filter=wanted, exact=True)
            assert len(found) == len(exact) == least
            shares.append(len({hit.id for hit in found} & {hit.id for hit in exact}) / least)
    assert np.mean(shares) >= 0.93
    assert len(pg.search(vectors(1, 3, 32)[0], 1200)) == 1200
    # What is written later is found at once.
    (late,) = pg.write([Document("late")], vectors(1, 77, 32))
    assert pg.search(vectors(1, 77, 32)[0], 1)[0].id == late
    assert pg.verify().ok


def test_the_index_is_used(pg: PostgresVetorStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizing, "INDEX_ROWS", 1000)
    monkeypatch.setattr(optimizing, "_QUERIES", 20)
    for start in range(0, 1500, 500):
        pg.write(documents("a", 500, start), vectors(500, start))
    monkeypatch.setattr(optimizing, "_PAYS", 0)  # an index that saves too little is dropped again
    assert (pg.optimize().indexes, pg.stats().chunks) == ((), 1500)
    monkeypatch.setattr(optimizing, "_PAYS", 1000)
    assert pg.optimize().built == 1
    with pg._reading().pin() as version:
        version.session.run("SET LOCAL enable_seqscan = off")
        plan = version.session.rows(
            "EXPLAIN SELECT number FROM oraculo_vectors ORDER BY vector <#> '[1,0,0,0,0,0,0,0]'::vector LIMIT 5"
        )
    assert any("oraculo_vectors_hnsw" in line for (line,) in plan)


def test_long_vectors_are_stored_and_indexed_by_halves(
    pg: PostgresVetorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizing, "INDEX_ROWS", 100)
    monkeypatch.setattr(optimizing, "_QUERIES", 20)
    monkeypatch.setattr(optimizing, "_PAYS", 1000)
    matrix = vectors(150, 1, 2100)
    pg.write(documents("a", 150), matrix)
    assert pg.optimize(0.9).indexes[0].recall > 0.8
    assert pg.search(matrix[7], 1)[0].metadata["place"] == 7


def test_a_text_beyond_the_limits_of_a_tsvector_is_refused_and_a_long_one_is_found(
    pg: PostgresVetorStorage,
) -> None:
    long = " ".join(f"palavra{n}" for n in range(30_000)) + " nota fiscal final"
    pg.write([Document(long, metadata={"source": "long"})], vectors(1))
    assert len(pg.search('"nota fiscal final"', 1, mode="text")) == 1  # far beyond 16,383 positions
    with pytest.raises(SourceError, match="more than PostgreSQL's full text takes"):
        pg.write([Document(" ".join(f"palavra{n}" for n in range(100_000)))], vectors(1))
    assert len(pg) == 1
