"""A store in PostgreSQL is checked, mended, embedded anew and kept small; who may not, is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document

from oraculo_kit.errors import (
    EmbeddingError,
    StorageError,
    StoreCorruptedError,
    StoreFormatError,
    StoreReadOnlyError,
)
from oraculo_kit.storage.feedback import Feedback
from oraculo_kit.storage.postgres import reembedding, writing
from oraculo_kit.storage.postgres.store import PostgresVetorStorage
from tests.storage.kit import TinyEmbeddings, documents, vectors
from tests.storage.postgres.server import execute, shared_url, with_schema

OpenStore = Callable[..., PostgresVetorStorage]


def damage(store: PostgresVetorStorage, sql: str) -> None:
    """Change rows behind the store's back."""
    with store._pool.writing() as session:
        session.run(sql)


@pytest.mark.parametrize(
    ("sql", "problem", "mended"),
    [
        ("UPDATE oraculo_chunks SET text = text || '!' WHERE ordinal = 1", "does not match its checksum", False),
        ("UPDATE oraculo_chunks SET metadata = '{\"place\":99}' WHERE ordinal = 1", "does not match its checksum", False),
        ("UPDATE oraculo_words SET stems = ' outra ' WHERE number % 2 = 0", "not those of its text", True),
        ("DELETE FROM oraculo_words WHERE number % 2 = 0", "not those of its text", True),
        ("DELETE FROM oraculo_vectors WHERE number % 2 = 0", "has no vector", True),
        (
            "UPDATE oraculo_vectors SET vector = (SELECT vector FROM oraculo_vectors v WHERE v.number = 1) "
            "WHERE number = 2", "vector of the chunk number 2 does not match", True,
        ),
        ("UPDATE oraculo_sources SET chunk_count = 9", "counts 9 chunks", True),
        ("UPDATE oraculo_sources SET language = 'xx'", "row of source 'a' does not match", True),
        ("UPDATE oraculo_tallies SET chunks = chunks + 1, words = words - 3", "totals count 6 chunks", True),
        ("INSERT INTO oraculo_words VALUES (999, 1, ' x ')", "words of no chunk", True),
    ],
)  # fmt: skip
def test_damage_is_named_and_mended(pg: PostgresVetorStorage, sql: str, problem: str, mended: bool) -> None:
    pg.replace("a", documents("a", 5))
    before = pg.search("texto", 5, mode="vector")
    damage(pg, sql)
    report = pg.verify()
    assert not report.ok
    assert problem in repr(report)
    repaired = pg.repair()
    assert repaired.ok, repaired
    assert bool(repaired.lost) is not mended
    assert len(pg) == (5 if mended else 4)
    assert pg.verify().ok
    if mended:
        assert [hit.id for hit in pg.search("texto", 5, mode="vector")] == [hit.id for hit in before]
    else:
        assert pg.ledger(["a"])["a"].content_hash is None  # the next ingestion reads it again


def test_a_damaged_text_is_never_shown(pg: PostgresVetorStorage) -> None:
    ids = pg.replace("a", documents("a", 2))
    damage(pg, "UPDATE oraculo_chunks SET text = 'outro'")
    with pytest.raises(StoreCorruptedError, match="is damaged: its text or metadata .*oraculo repair"):
        pg.get(ids)
    damage(pg, "UPDATE oraculo_sources SET language = 'xx'")
    with pytest.raises(StoreCorruptedError, match="the ledger's row of source 'a'"):
        pg.sources()


def test_a_change_of_model_that_stopped_goes_on_where_it_was(
    open_pg: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reembedding, "_PAGE", 10)
    store, other = open_pg(), open_pg()
    store.write(documents("a", 35))

    class Failing(TinyEmbeddings):
        left = 25

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if len(texts) > 1:
                self.left -= len(texts)
            if self.left < 0:
                raise RuntimeError("quota")
            return super().embed_documents(texts)

    model = Failing(5, "new")
    with pytest.raises(EmbeddingError, match="quota"):
        store.reembed(model)
    assert store.stats().dimension == 8
    assert "stopped after 20 chunks" in repr(store.health())
    store.remove([str(store.search("x", 1)[0].id)])
    other.write(documents("late", 3))
    model.left = 1000
    report = store.reembed(model)
    assert (report.resumed, report.chunks) == (20, 37)
    assert store.verify().ok, store.verify()
    with pytest.raises(StorageError, match="was built with embedder"):
        other.write(documents("b", 1))


def test_a_purge_forgets_what_was_deleted(pg: PostgresVetorStorage) -> None:
    (gone,) = pg.write([Document("segredo", metadata={"source": "s", "chave": 1})])
    (kept,) = pg.write([Document("fica", metadata={"source": "k"})])
    for name in (gone, kept):
        pg.add_feedback(Feedback("2026-01-01", "q", "a", "good", sources=(name,)))
    pg.remove([gone])
    assert pg.compact(purge=True).purged
    assert [each.sources for each in pg.feedback()] == [(kept,)]
    assert pg.metadata_keys() == []
    rows = execute(shared_url(), f'SELECT * FROM "{pg._pool.location.schema}".oraculo_chunks')
    assert "segredo" not in repr(rows)


def test_two_cannot_look_after_a_store_at_once(pg: PostgresVetorStorage) -> None:
    from oraculo_kit.storage.postgres.upkeep import keep_others_out

    with pg._pool.alone() as session:
        keep_others_out(pg._pool, session, "this test")
        for call in (pg.compact, pg.repair, lambda: pg.reembed(TinyEmbeddings(5))):
            with pytest.raises(StorageError, match="another process is compacting, optimising or repairing"):
                call()
    pg.compact()


def test_totals_are_added_up_now_and_then(pg: PostgresVetorStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_FOLD_EVERY", 5)
    for place in range(12):
        pg.write(documents("a", 2, 2 * place), vectors(2))
        writing.fold_tallies(pg._pool, 5)
    with pg._reading().pin() as version:
        assert version.session.one("SELECT count(*) FROM oraculo_tallies") < 6
    assert (len(pg), pg.stats().commit) == (24, 12)
    assert pg.verify().ok


def test_who_may_only_read_searches_and_is_told_so(url: str, open_pg: OpenStore) -> None:
    store = open_pg()
    store.write(documents("a", 3))
    schema = store._pool.location.schema
    role = f"reader_{schema}"
    execute(
        shared_url(),
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}; "
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}",
    )
    try:
        theirs = url.replace("postgres:@", f"{role}@")
        for read_only in (True, False):
            with PostgresVetorStorage(theirs, TinyEmbeddings(), read_only) as reader:
                assert len(reader.search("texto", 3)) == 3
                with pytest.raises(StoreReadOnlyError, match="may not be written|reading only"):
                    reader.write(documents("b", 1))
        with pytest.raises(StoreReadOnlyError, match="permission denied for database"):
            PostgresVetorStorage(
                with_schema(shared_url(), "nobodys").replace("postgres:@", f"{role}@"), TinyEmbeddings()
            )
    finally:
        execute(shared_url(), f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_store_of_a_newer_version_is_refused(url: str, pg: PostgresVetorStorage) -> None:
    damage(pg, "UPDATE oraculo_meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(StoreFormatError, match="has format 99, and this oraculo_kit reads 1. Upgrade"):
        PostgresVetorStorage(url, TinyEmbeddings())


def test_a_database_of_another_encoding_or_without_pgvector_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from oraculo_kit.storage.postgres import schema

    execute(shared_url(), "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StorageError, match="encoded in LATIN1, expected UTF8"):
            PostgresVetorStorage(shared_url().replace("/postgres?", "/latin?"), TinyEmbeddings())
    finally:
        execute(shared_url(), "DROP DATABASE latin")
    monkeypatch.setattr(schema, "_LEAST_SERVER", 990_000)
    with pytest.raises(StorageError, match="is PostgreSQL 18, expected 99 or newer"):
        PostgresVetorStorage(with_schema(shared_url(), "none"), TinyEmbeddings())

    class Without:
        def rows(self, *given: Any) -> list[list[Any]]:
            return []

    with pytest.raises(StorageError, match="has no pgvector. Have it installed"):
        schema._have_pgvector(Without(), "here")  # type: ignore[arg-type]
