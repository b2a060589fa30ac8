"""Filters without an index, read by several threads: the same chunks, of the same version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from oraculo_kit.errors import StoreCorruptedError
from oraculo_kit.storage import matching as module
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.filter_indexes import KeyPlaces
from oraculo_kit.storage.filters import CompiledFilter
from oraculo_kit.storage.forks import ForkGate
from oraculo_kit.storage.matching import matching, matching_in_parts
from oraculo_kit.storage.snapshot import Snapshot
from tests.storage.kit import catalog_of, documents, vectors

FILTERS: list[dict[str, Any]] = [
    {"place": 3},
    {"place": {"$gte": 7}},
    {"lang": "pt"},
    {"$not": {"lang": "pt"}},
    {"source": "s5"},
    {"$or": [{"place": 1}, {"lang": "en"}]},
    {"place": {"$gt": 2**70}},
    {"lang": "is not there"},
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaissVetorStorage]:
    """A store of 20 sources of 10 chunks, of which some are gone; large enough for four threads."""
    monkeypatch.setattr(module, "_PART", 40)
    monkeypatch.setattr(module, "_processors", lambda: 4)
    with FaissVetorStorage(tmp_path / "base", durability="process") as opened:
        for number in range(20):
            chunks = documents(f"s{number}", 10, lang="pt" if number % 2 else "en")
            opened.replace(f"s{number}", chunks, vectors=vectors(10, number))
        for gone in ("s0", "s7", "s19"):
            opened.remove_by_metadata("source", gone)
        yield opened


class Helpers:
    """Counts who helps, and lets something happen before they do."""

    def __init__(self, store: FaissVetorStorage, first: Any = None) -> None:
        self.store = store
        self.first = first
        self.threads: set[int] = set()
        self.commits: list[int] = []

    def __call__(self) -> AbstractContextManager[Snapshot]:
        return self._pin()

    @contextmanager
    def _pin(self) -> Iterator[Snapshot]:
        self.threads.add(threading.get_ident())
        if self.first is not None:
            self.first()
        with self.store._reader.pin() as snapshot:
            self.commits.append(snapshot.manifest.commit)
            yield snapshot


def in_parts(snapshot: Snapshot, wanted: dict[str, Any], helpers: Helpers) -> list[int]:
    compiled = CompiledFilter(wanted, KeyPlaces(snapshot.catalog))
    return matching_in_parts(snapshot, compiled, helpers).tolist()


def whole(snapshot: Snapshot, wanted: dict[str, Any]) -> list[int]:
    return matching(snapshot.catalog, CompiledFilter(wanted, KeyPlaces(snapshot.catalog))).tolist()


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_threads_find_what_one_finds(store: FaissVetorStorage, wanted: dict[str, Any]) -> None:
    with store._reader.pin() as snapshot:
        found = in_parts(snapshot, wanted, Helpers(store))
        assert found == whole(snapshot, wanted)
        assert found == sorted(found)
        assert snapshot.resolve(wanted).tolist() == found  # type: ignore[union-attr]


def test_the_work_is_shared_and_this_thread_does_its_part(store: FaissVetorStorage) -> None:
    helpers = Helpers(store)
    with store._reader.pin() as snapshot:
        in_parts(snapshot, {"place": 3}, helpers)
    assert len(helpers.commits) == 3
    assert threading.get_ident() not in helpers.threads


def test_what_is_written_meanwhile_changes_nothing(store: FaissVetorStorage) -> None:
    def write() -> None:
        number = len(store)
        store.replace(f"new{number}", documents(f"new{number}", 3), vectors=vectors(3, number))
        store.remove_by_metadata("source", "s3")

    helpers = Helpers(store, write)
    with store._reader.pin() as snapshot:
        before = whole(snapshot, {"place": 2})
        assert in_parts(snapshot, {"place": 2}, helpers) == before
        assert min(helpers.commits) > snapshot.manifest.commit
    with store._reader.pin() as snapshot:
        assert whole(snapshot, {"place": 2}) != before


def test_an_index_needs_no_help(store: FaissVetorStorage) -> None:
    store.create_filter_index("place")
    helpers = Helpers(store)
    with store._reader.pin() as snapshot:
        assert in_parts(snapshot, {"place": 3}, helpers) == whole(snapshot, {"place": 3})
        assert not helpers.commits
        in_parts(snapshot, {"lang": {"$ne": "pt"}}, helpers)
        assert helpers.commits


def test_a_small_store_needs_no_help(store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART", 100)
    helpers = Helpers(store)
    with store._reader.pin() as snapshot:
        in_parts(snapshot, {"place": 3}, helpers)
    assert not helpers.commits


def test_a_chunk_without_a_vector_is_found_too(store: FaissVetorStorage) -> None:
    location = Path(store.location)
    with catalog_of(location) as db:
        db.execute(
            "UPDATE chunks SET number = number + 1000000 WHERE number = (SELECT max(number) FROM chunks)"
        )
    with store._reader.pin() as snapshot:
        found = in_parts(snapshot, {"place": {"$gte": 0}}, Helpers(store))
        assert len(found) == 170
        assert found[-1] > 1_000_000


def test_a_thread_that_fails_says_so(store: FaissVetorStorage) -> None:
    def broken() -> None:
        raise StoreCorruptedError("this page is damaged")

    with store._reader.pin() as snapshot, pytest.raises(StoreCorruptedError, match="this page is damaged"):
        in_parts(snapshot, {"place": 3}, Helpers(store, broken))


def test_a_thread_that_helps_passes_a_gate_that_waits_for_the_one_that_is_helped() -> None:
    gate, passed = ForkGate(), threading.Event()

    def help_out() -> None:
        with gate.passage_of_another(), gate.passage():
            passed.set()

    forking = threading.Thread(target=gate.close, args=(10,))
    with gate.passage():
        forking.start()
        while not gate._closed:
            pass
        helper = threading.Thread(target=help_out)
        helper.start()
        assert passed.wait(5)
        helper.join()
        assert forking.is_alive()
    forking.join(5)
    assert not forking.is_alive()
    gate.open()
