"""The ledger page by page, samples of the base, and maintenance that tells how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.base import LedgerEntry, SourceDocuments, VetorStorage
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.listing import SourceOrder

CHUNKS = {"Férias/A_1.md": 3, "ferias/b.md": 1, "FÉRIAS/c%.pdf": 2, "notas/d.md": 2}


def vectors(count: int) -> Any:
    return np.random.default_rng(count).standard_normal((count, 256)).astype(np.float32)


def source(key: str, count: int, size: int | None = None) -> SourceDocuments:
    documents = [Document(f"{key} {place}", metadata={"source": key, "title": key}) for place in range(count)]
    return SourceDocuments(key, documents, vectors(count), LedgerEntry(bytes=size))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaissVetorStorage]:
    with FaissVetorStorage(tmp_path / "base", durability="process") as opened:
        opened.replace_many(
            [
                source(key, count, None if count == 1 else 100 - place)
                for place, (key, count) in enumerate(CHUNKS.items())
            ]
        )
        yield opened


def both(store: FaissVetorStorage, *values: Any, **options: Any) -> list[str]:
    """List by the catalog and by the interface's own way, which must agree."""
    page = store.list_sources(*values, **options)
    assert VetorStorage.list_sources(store, *values, **options) == page
    return [row.source for row in page.rows]


@pytest.mark.parametrize("order", ["source", "chunks", "bytes", "written_at"])
@pytest.mark.parametrize("descending", [False, True])
def test_pages_end_to_end_are_all_sources_in_order(
    store: FaissVetorStorage, order: SourceOrder, descending: bool
) -> None:
    pages = [both(store, order=order, descending=descending, first=first, count=3) for first in (0, 3, 6)]
    assert [len(page) for page in pages] == [3, 1, 0]
    assert sorted(key for page in pages for key in page) == sorted(CHUNKS)
    if order == "chunks" and descending:
        assert pages[0] == ["Férias/A_1.md", "FÉRIAS/c%.pdf", "notas/d.md"]
    if order == "bytes" and not descending:
        assert pages[0][0] == "ferias/b.md"  # of unknown size


def test_a_part_of_the_key_is_found_whatever_its_case(store: FaissVetorStorage) -> None:
    assert both(store, "férias") == ["FÉRIAS/c%.pdf", "Férias/A_1.md"]
    assert both(store, "FÉRIAS/") == ["FÉRIAS/c%.pdf", "Férias/A_1.md"]
    assert both(store, ".MD", count=2) == ["Férias/A_1.md", "ferias/b.md"]
    assert store.list_sources(".MD", count=2).total == 3
    assert both(store, "%") == ["FÉRIAS/c%.pdf"]
    assert both(store, "_") == ["Férias/A_1.md"]
    assert both(store, "\\") == []
    assert list(store.list_sources("d.md").to_pandas()["title"]) == ["notas/d.md"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"contains": 3}, "got int as part of"),
        ({"order": "size"}, "order is 'size'"),
        ({"first": -1}, "first is -1"),
        ({"count": 0}, "count is 0"),
        ({"count": 1001}, "1 to 1000"),
    ],
)
def test_what_cannot_be_listed_is_named(store: FaissVetorStorage, options: Any, said: str) -> None:
    for of in (FaissVetorStorage, VetorStorage):
        with pytest.raises(QueryError, match=said):
            of.list_sources(store, **options)


def test_a_sample_of_a_small_base_is_all_of_it(store: FaissVetorStorage) -> None:
    sample = store.sample()
    assert {each.source: each.chunks for each in sample.sources} == CHUNKS
    assert sorted(sample.lengths) == sorted(
        len(f"{key} {place}") for key, count in CHUNKS.items() for place in range(count)
    )
    plain = VetorStorage.sample(store)
    assert (set(plain.sources), sorted(plain.lengths)) == (set(sample.sources), sorted(sample.lengths))


def test_a_sample_of_an_empty_base_is_empty(tmp_path: Path) -> None:
    with FaissVetorStorage(tmp_path / "empty") as store:
        assert store.sample() == VetorStorage.sample(store)
        assert store.sample().sources == ()
        assert store.list_sources().total == 0


def test_verify_and_compact_tell_how_far_they_are(store: FaissVetorStorage) -> None:
    store.replace_many([source("large.md", 2500)])
    store.remove_by_metadata("source", "notas/d.md")
    told: list[tuple[int, int]] = []
    assert store.verify(progress=lambda *step: told.append(step)).ok
    assert told[0] == (0, 2506)
    assert told[-1] == (2506, 2506)
    assert len(told) > 3
    told.clear()
    store.compact(progress=lambda *step: told.append(step))
    store.remove_by_metadata("source", "large.md")
    report = store.compact(progress=lambda *step: told.append(step))
    assert report.dropped == 2500
    assert told[-1][0] > 0
    store.optimize(progress=lambda *step: told.append(step))


@pytest.mark.parametrize("work", ["verify", "compact"])
def test_progress_that_raises_ends_the_work_and_leaves_a_whole_store(
    store: FaissVetorStorage, work: str
) -> None:
    store.compact()
    store.remove_by_metadata("source", "notas/d.md")

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done:
            raise StoppedError

    with pytest.raises(StoppedError):
        getattr(store, work)(progress=stop)
    assert store.verify().ok
    assert not list((Path(store.location) / "segments").glob("*.tmp"))
    store.compact()
    assert len(store) == 6
