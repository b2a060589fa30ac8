"""Ingestion into PostgreSQL: workers write by themselves, and the base is the one a single process makes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import oraculo_kit
from oraculo_kit.settings import Settings
from oraculo_kit.storage.postgres.store import PostgresVetorStorage
from tests.storage.postgres.server import new_base, shared_url, with_schema


def texts(folder: Path, count: int = 12) -> Path:
    """Make some documents."""
    docs = folder / "docs"
    docs.mkdir()
    for number in range(count):
        body = "\n\n".join(
            f"Parágrafo {n} do documento {number} sobre notas fiscais e prazos." for n in range(30)
        )
        (docs / f"{number:02}.md").write_text(f"# Documento {number}\n\n{body}", encoding="utf-8")
    return docs


def ledger(url: str) -> list[tuple[Any, ...]]:
    """Return all that the ledger has but times and the run, and the ids of all chunks."""
    with PostgresVetorStorage(url, read_only=True) as store:
        assert store.verify().ok, store.verify()
        ids = sorted(str(each.id) for page in store.iter_documents() for each in page)
        rows = [
            (row.source, row.chunks, row.language, tuple(sorted(row.metadata.items())), row.ledger.content_hash,
             row.ledger.bytes, row.ledger.pipeline)
            for row in store.sources()
        ]  # fmt: skip
        return [*rows, tuple(ids)]


def test_workers_write_directly_and_the_ledger_is_that_of_a_serial_run(project: Path) -> None:
    docs, ledgers = texts(project), []
    for jobs in (1, 2):
        with new_base() as url:
            oraculo_kit.start_services(Settings.resolve(store=url))
            report = oraculo_kit.ingest(docs, n_jobs=jobs)
            assert report.counts.get("added") == 12, report
            assert oraculo_kit.ingest(docs, n_jobs=jobs).counts.get("unchanged") == 12
            assert len(oraculo_kit.search("notas fiscais", k=3)) == 3
            ledgers.append(ledger(url))
            oraculo_kit.stop_services()
    assert ledgers[0] == ledgers[1]


def test_the_password_is_shown_nowhere(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from oraculo_kit.cli import main

    with new_base() as url:
        secret = url.replace("postgres:@", "postgres:s3nh4-secreta@")  # which this server does not ask for
        assert secret != url
        oraculo_kit.start_services(Settings.resolve(store=secret))
        try:
            report = oraculo_kit.ingest(texts(project, 1))
            shown = [repr(report), repr(oraculo_kit.search("prazo")), repr(oraculo_kit.vetor_storage())]
            shown += [repr(oraculo_kit.get_services()), repr(oraculo_kit.sources())]
        finally:
            oraculo_kit.stop_services()
        os.environ["ORACULO_STORE"] = secret
        for command in ("status", "doctor", "sources"):
            main([command])
        captured = capsys.readouterr()
        assert "s3nh4" not in "".join([*shown, captured.out, captured.err])
        assert "postgresql://" in captured.out


def test_many_bases_live_in_one_database() -> None:
    with new_base() as one, new_base() as other:
        from langchain_core.documents import Document

        with PostgresVetorStorage(one) as first, PostgresVetorStorage(other) as second:
            first.write([Document("um")])
            second.write([Document("dois"), Document("três")])
            assert (len(first), len(second)) == (1, 2)
    assert with_schema(shared_url(), "x").endswith("schema=x")
