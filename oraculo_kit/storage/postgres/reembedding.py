"""Another model for the same texts: every vector is made again, and the store changes over in one commit.

As in the embedded store (`oraculo_kit.storage.reembedding`): vectors are staged page by page, each page in a commit of
its own, so that a killed run is taken up where it was; what is written meanwhile is staged too; then one transaction,
which has the store to itself, puts the staged table in the place of the old one. Until then every search sees the old
version.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oraculo_kit.errors import StoreLockTimeoutError
from oraculo_kit.storage.postgres.encoding import binary_rows, read
from oraculo_kit.storage.postgres.schema import new_epoch, set_dimension
from oraculo_kit.storage.postgres.upkeep import keep_others_out
from oraculo_kit.storage.postgres.versions import Facts
from oraculo_kit.storage.postgres.writing import Tally, hold_store, vector_rows
from oraculo_kit.storage.reembedding import ReembedReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from oraculo_kit.embed import Embedder
    from oraculo_kit.storage.identity import EmbedderIdentity
    from oraculo_kit.storage.postgres.connection import Pool, Session

_PAGE = 1000
_ROUNDS = 100
_MISSING = "FROM oraculo_chunks c WHERE NOT EXISTS (SELECT FROM oraculo_staged s WHERE s.number = c.number)"


def reembed(
    pool: Pool,
    embedder: Embedder,
    identity: EmbedderIdentity,
    progress: Callable[[int, int], None] | None = None,
) -> ReembedReport:
    """Change a store over to another embedder; see `VetorStorage.reembed`."""
    started = time.perf_counter()
    with pool.alone() as held:
        keep_others_out(pool, held, "changing the embedder")
        resumed = pool.committing(lambda session: _begin(session, pool.location.schema, identity))
        for _ in range(_ROUNDS):
            _stage(pool, embedder, progress)
            chunks = pool.committing(lambda session: _switch(session, pool.location.schema, identity))
            if chunks is not None:
                break
        else:
            raise StoreLockTimeoutError(
                f"others write so much to {pool.location.shown} that its change to {identity.name} does not come to an "
                "end; try again when it is quieter: what was embedded is kept"
            )
    pool.rest()
    return ReembedReport(
        pool.location.shown,
        identity.name,
        chunks,
        resumed,
        len(identity.probe),
        time.perf_counter() - started,
    )


def _begin(session: Session, schema: str, identity: EmbedderIdentity) -> int:
    """Note whose vectors are staged; drop those of another model. Return how many are staged already."""
    hold_store(session, schema)
    facts = Facts.of(session)
    if not identity.has_staged(facts):
        session.run("DELETE FROM oraculo_staged")
        set_dimension(session, len(identity.probe), "oraculo_staged")
        identity.remember_staged(facts)
    return int(session.one("SELECT count(*) FROM oraculo_staged"))


def _stage(pool: Pool, embedder: Embedder, progress: Callable[[int, int], None] | None) -> None:
    after = 0
    while True:
        with pool.reading() as session:
            rows = session.rows(
                f"SELECT c.number, c.text {_MISSING} AND c.number > $1::bigint ORDER BY c.number LIMIT $2::bigint",
                after,
                _PAGE,
            )
            done, total = session.rows(
                "SELECT (SELECT count(*) FROM oraculo_staged), (SELECT count(*) FROM oraculo_chunks)"
            )[0]
        if progress is not None:
            progress(min(done, total), total)
        if not rows:
            return
        vectors = embedder.embed([read(text) for _, text in rows])
        staged = [(number, *vector) for (number, _), vector in zip(rows, vector_rows(vectors), strict=True)]

        def body(session: Session, staged: list[tuple[int, int, bytes]] = staged) -> None:
            session.copy("oraculo_staged", binary_rows("qqv", staged))

        pool.committing(body)
        after = rows[-1][0]


def _switch(session: Session, schema: str, identity: EmbedderIdentity) -> int | None:
    """Put the staged vectors in place; None when something was written that is not staged yet."""
    hold_store(session, schema, alone=True)
    if session.one(f"SELECT count(*) {_MISSING}"):
        return None
    session.run(
        "DELETE FROM oraculo_staged s WHERE NOT EXISTS (SELECT FROM oraculo_chunks c WHERE c.number = s.number)"
    )
    chunks = int(session.one("SELECT count(*) FROM oraculo_staged"))
    session.run(
        "DROP TABLE oraculo_vectors; ALTER TABLE oraculo_staged RENAME TO oraculo_vectors; "
        "ALTER INDEX oraculo_staged_pkey RENAME TO oraculo_vectors_pkey; "
        "CREATE TABLE oraculo_staged(number bigint PRIMARY KEY, checksum bigint NOT NULL, vector vector NOT NULL)"
    )
    facts = Facts.of(session)
    old = facts.meta("embedder")
    if old is not None:
        # So that the next ingestion does not take every source for one that must be embedded again.
        session.rows(
            "UPDATE oraculo_sources SET pipeline = left(pipeline, -length($1::text)) || $2::text "
            "WHERE right(pipeline, length($1::text) + 1) = '|' || $1::text",
            old,
            identity.name,
        )
    for key in ("embedder", "probe", "staged_embedder", "staged_probe", "index"):
        facts.set_meta(key, None)
    facts.set_meta("dimension", len(identity.probe) if chunks else None)
    facts.set_meta("epoch", new_epoch())
    identity.remember(facts)
    Tally().add_to(session)
    return chunks
