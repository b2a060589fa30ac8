"""Catalogs of earlier formats are brought forward, whole; others are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import apsw
import pytest

from oraculo_kit.errors import StoreFormatError
from oraculo_kit.storage import schema
from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.kit import TinyEmbeddings, catalog_of, contents, documents, vectors

SAMPLES = sorted((Path(__file__).parent / "samples").glob("format-*"))


@pytest.fixture(params=SAMPLES, ids=lambda sample: sample.name)
def sample(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    """Return what stands in a stored sample of an earlier format, a copy of which is in `folder`."""
    shutil.copytree(request.param / "store", folder)
    expected: dict[str, Any] = json.loads((request.param / "expected.json").read_text(encoding="utf-8"))
    number = int(request.param.name.removeprefix("format-"))
    return {"format": number, "feedback": [], "filter_indexes": []} | expected  # format 1 had neither


def found(store: FaissVetorStorage) -> dict[str, Any]:
    """Return what a store holds, as ``expected.json`` says it."""
    return {
        "chunks": [
            [each.id, each.page_content, each.metadata] for page in store.iter_documents() for each in page
        ],
        "sources": [
            [
                row.source,
                row.chunks,
                row.language,
                dict(row.metadata),
                row.ledger.content_hash,
                row.ledger.bytes,
                row.ledger.mtime_ns,
                row.ledger.pipeline,
                row.ledger.run,
            ]
            for row in store.sources()
        ],
        "nearest": [
            [hit.id, pytest.approx(hit.score, abs=1e-3)] for hit in store.search(vectors(1, 77)[0], 10)
        ],
        "text": [hit.id for hit in store.search("nota fiscal", 5, mode="text")],
        "feedback": [[*astuple(each)[:-1], list(each.sources)] for each in store.feedback()],
        "filter_indexes": store.filter_indexes(),
    }


def structure(folder: Path) -> list[tuple[Any, ...]]:
    """Return all tables and indexes of a catalog, with their SQL, but for the indexes of filters."""
    with catalog_of(folder) as db:
        return db.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'filter_%' ORDER BY name"
        ).fetchall()


def test_there_is_a_sample_of_every_earlier_format() -> None:
    assert [sample.name for sample in SAMPLES] == [f"format-{number}" for number in range(1, schema.FORMAT)]


def test_an_earlier_format_is_brought_forward_with_everything_in_it(
    sample: dict[str, Any], folder: Path, open_store: Callable[..., FaissVetorStorage]
) -> None:
    store = open_store(embedder=TinyEmbeddings())

    here = found(store)
    assert here == {name: sample[name] for name in here}
    assert store.runs() == []
    assert store.verify().problems == ()
    store.start_run("novo", {})
    by_hash = store.sources_with([row[4] for row in sample["sources"] if row[4]])
    assert sorted(key for keys in by_hash.values() for key in keys) == [
        row[0] for row in sample["sources"] if row[4]
    ]
    store.replace("relatório.md", documents("relatório.md", 3))
    assert store.verify().problems == ()
    assert FaissVetorStorage(folder, read_only=True).stats().chunks == len(store)


def test_a_store_brought_forward_has_the_schema_of_a_new_one(
    sample: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    FaissVetorStorage(folder).close()
    FaissVetorStorage(tmp_path / "new").close()

    assert structure(folder) == structure(tmp_path / "new")


def test_ids_of_sources_are_not_given_again_after_a_step_forward(
    sample: dict[str, Any], folder: Path, open_store: Callable[..., FaissVetorStorage]
) -> None:
    with catalog_of(folder) as db:
        db.execute("UPDATE sqlite_sequence SET seq = 1000 WHERE name = 'sources'")

    store = open_store()
    store.replace("novo", documents("novo", 1), vectors(1))
    store.close()

    with catalog_of(folder) as db:
        assert db.execute("SELECT id FROM sources WHERE key = 'novo'").fetchall() == [(1001,)]


def test_a_step_forward_that_fails_leaves_the_earlier_format_whole(
    sample: dict[str, Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_store: Callable[..., FaissVetorStorage],
) -> None:
    def failing(db: apsw.Connection) -> None:
        step(db)
        raise KeyboardInterrupt

    last = schema.FORMAT - 1  # earlier steps were done by then
    step = schema._STEPS[last]
    monkeypatch.setitem(schema._STEPS, last, failing)
    before = structure(folder)

    with pytest.raises(KeyboardInterrupt):
        FaissVetorStorage(folder)

    assert structure(folder) == before
    monkeypatch.undo()
    assert len(open_store()) == len(sample["chunks"])


def test_a_reader_does_not_change_an_earlier_format_and_says_what_to_do(
    sample: dict[str, Any], folder: Path
) -> None:
    before = contents(folder)

    expected = rf"has format {sample['format']}, .* works with {schema.FORMAT}. Open it once for writing"
    with pytest.raises(StoreFormatError, match=expected):
        FaissVetorStorage(folder, read_only=True)

    assert contents(folder) == before


def test_a_newer_format_is_refused(folder: Path) -> None:
    FaissVetorStorage(folder).close()
    with catalog_of(folder) as db:
        db.pragma("user_version", schema.FORMAT + 1)

    with pytest.raises(StoreFormatError, match=rf"has format {schema.FORMAT + 1}, .* reads up to .* Upgrade"):
        FaissVetorStorage(folder)


def test_a_new_store_has_one_epoch_of_its_own(folder: Path, tmp_path: Path) -> None:
    epochs = []
    for each in (folder, tmp_path / "other"):
        FaissVetorStorage(each).close()
        with catalog_of(each) as db:
            epochs += db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchall()

    assert len(set(epochs)) == 2
