"""Approximate indexes come and go beside readers and writers, and never cost a result that must be found."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oraculo_kit.errors import QueryError, StorageError
from oraculo_kit.storage import optimizing
from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.kit import Child, Vectors, catalog_of, documents, flip_bit, nearest, vectors
from tests.storage.test_lock import posix

OpenStore = Callable[..., FaissVetorStorage]
ROWS = 6_000


def clustered(count: int, seed: int) -> Vectors:
    """Return vectors of length one around a hundred centres, 16 dimensions."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((100, 16))
    matrix = centres[chance.integers(0, 100, count)] + 0.35 * chance.standard_normal((count, 16))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store large enough for an index, in two segments; to be copied only."""
    folder = tmp_path_factory.mktemp("original") / "store"
    with FaissVetorStorage(folder) as store:
        for half in range(2):
            made = documents(f"s{half}", ROWS // 2, first=half * ROWS // 2)
            store.write(made, clustered(ROWS // 2, half))
    return folder


@pytest.fixture(scope="module")
def indexed(original: Path) -> Path:
    """Return the same with an index for a recall of 0.9; to be copied only."""
    folder = original.with_name("indexed")
    shutil.copytree(original, folder)
    with pytest.MonkeyPatch.context() as patch, FaissVetorStorage(folder) as store:
        patch.setattr(optimizing, "INDEX_ROWS", 3_000)
        assert store.optimize(0.9).built == 1
    return folder


@pytest.fixture
def reopened(
    folder: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], FaissVetorStorage]:
    """Return a function that opens a copy of a base."""

    def open_copy(base: Path) -> FaissVetorStorage:
        monkeypatch.setattr(optimizing, "INDEX_ROWS", 3_000)
        shutil.copytree(base, folder)
        return open_store()

    return open_copy


@pytest.fixture
def store(original: Path, reopened: Callable[[Path], FaissVetorStorage]) -> FaissVetorStorage:
    """Return a store large enough for an index."""
    return reopened(original)


@pytest.fixture
def optimised(indexed: Path, reopened: Callable[[Path], FaissVetorStorage]) -> FaissVetorStorage:
    """Return a store with an index."""
    return reopened(indexed)


def files(store: FaissVetorStorage) -> set[str]:
    folder = Path(store.location) / "indexes"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def recall(store: FaissVetorStorage, queries: Vectors, k: int, **options: Any) -> float:
    """Return the share of the true best that an ordinary search finds."""
    found = store.search(queries, k, **options)
    truth = store.search(queries, k, exact=True, **options)
    shares = [
        len({hit.id for hit in one} & {hit.id for hit in other}) / len(other)
        for one, other in zip(found, truth, strict=True)
    ]
    return float(np.mean(shares))


def test_an_optimised_store_reports_what_it_measured_and_keeps_to_it(store: FaissVetorStorage) -> None:
    report = store.optimize(0.9)

    (facts,) = report.indexes
    assert (report.built, report.indexed, report.exact) == (1, ROWS, 0)
    assert report.reached
    assert facts.recall > 0.88
    assert str(report).startswith(f"{ROWS} vectors indexed, 0 searched exactly; recall@10 0.")
    assert recall(store, clustered(300, 9), 10) > 0.85
    assert files(store) == {path.name for path in (Path(store.location) / "indexes").glob("*.faiss")}
    assert store.stats().segments == 1
    assert store.verify().problems == ()


def test_the_index_is_used(store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    from oraculo_kit.storage.approximate import ApproximateIndex

    asked: list[int] = []
    search = ApproximateIndex.search
    monkeypatch.setattr(
        ApproximateIndex,
        "search",
        lambda self, queries, *more: asked.append(len(queries)) or search(self, queries, *more),
    )
    store.optimize(0.9)
    asked.clear()
    store.search(clustered(7, 9), 10)
    assert asked == [7]
    store.search(clustered(7, 9), 10, exact=True)
    assert asked == [7]


def test_scores_are_exact_cosines(optimised: FaissVetorStorage) -> None:
    query = clustered(1, 9)[0]
    hits = optimised.search(query, 10)
    ids, matrix = optimised.vectors([hit.id for hit in hits])
    assert [hit.id for hit in hits] == ids
    assert [hit.score for hit in hits] == pytest.approx((matrix @ query).tolist(), abs=1e-6)


def test_a_fresh_write_is_found_at_once_and_a_deleted_chunk_no_more(optimised: FaissVetorStorage) -> None:
    query = clustered(1, 9)[0]
    optimised.write(documents("fresh", 1), query[None, :], ids=["fresh"])
    assert optimised.search(query, 3)[0].id == "fresh"
    optimised.remove(["fresh"])
    first = optimised.search(query, 3)[0].id
    optimised.remove([first])
    assert first not in {hit.id for hit in optimised.search(query, 100)}


@pytest.mark.parametrize("k", [10, 200])
def test_a_filter_never_costs_results(optimised: FaissVetorStorage, k: int) -> None:
    queries = clustered(20, 9)
    for wanted in ({"place": {"$lt": 4_000}}, {"place": {"$lt": 150}}, {"source": "s1"}):
        passing = sum(1 for hit in optimised.search(queries[0], 10_000, filter=wanted, exact=True))
        for hits in optimised.search(queries, k, filter=wanted):
            assert len(hits) == min(k, passing)
        assert recall(optimised, queries, 10, filter=wanted) > 0.85


def test_a_store_of_which_most_is_deleted_gives_what_is_left(optimised: FaissVetorStorage) -> None:
    doomed = [str(d.id) for page in optimised.iter_documents() for d in page][: ROWS - 30]
    optimised.remove(doomed)
    for hits in optimised.search(clustered(5, 9), 50):
        assert len(hits) == 30


def test_a_second_call_has_nothing_to_build_until_the_store_changed(optimised: FaissVetorStorage) -> None:
    before = files(optimised)
    assert optimised.optimize(0.9).built == 0
    assert files(optimised) == before

    optimised.write(documents("more", 3_200), clustered(3_200, 5))
    assert "newer than the approximate index" in str(optimised.health())
    report = optimised.optimize(0.9)
    assert (report.built, report.indexed, report.exact) == (1, ROWS + 3_200, 0)
    assert len(files(optimised)) == 1
    assert not files(optimised) & before
    assert optimised.health().ok


def test_another_recall_tunes_again(store: FaissVetorStorage) -> None:
    store.optimize(0.8)
    assert store.optimize(0.95).built == 1
    assert len(files(store)) == 1


def test_own_queries_tune_the_index(store: FaissVetorStorage) -> None:
    report = store.optimize(0.9, clustered(300, 77))
    assert report.indexes[0].real_queries == 300


def test_a_small_store_needs_no_index(open_store: OpenStore) -> None:
    store = open_store()
    store.write(documents("few", 10), vectors(10))
    report = store.optimize()
    assert str(report) == "10 vectors are searched exactly; an index pays from 50000 on"
    assert files(store) == set()


@pytest.mark.parametrize("wrong", [0, 1.5, "high", True, float("nan")])
def test_a_recall_that_is_none_is_refused(store: FaissVetorStorage, wrong: Any) -> None:
    with pytest.raises(QueryError, match="expected a number from 0.5 to 1"):
        store.optimize(wrong)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_index_counts_as_none_until_it_is_built_again(
    optimised: FaissVetorStorage, open_store: OpenStore, damage: str
) -> None:
    optimised.search(clustered(1, 9), 10)  # has the index open
    (name,) = files(optimised)
    path = Path(optimised.location) / "indexes" / name
    if damage == "flip":
        flip_bit(path, path.stat().st_size // 2)
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()

    other = open_store(read_only=True)
    assert recall(other, clustered(20, 9), 10) == 1.0
    assert optimised.optimize(0.9).built == 1
    assert len(files(optimised)) == 1


def test_compaction_drops_the_index_of_a_segment_that_it_replaces(optimised: FaissVetorStorage) -> None:
    optimised.remove([str(d.id) for d in next(optimised.iter_documents())])
    optimised.compact()
    assert files(optimised) == set()
    with catalog_of(Path(optimised.location)) as db:
        assert db.execute("SELECT count(*) FROM indexes").fetchall() == [(0,)]
    assert recall(optimised, clustered(5, 9), 10) == 1.0


def test_a_segment_that_is_compacted_while_it_is_indexed_leaves_nothing_behind(
    store: FaissVetorStorage, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, build = open_store(), optimizing.build_index

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        facts = build(*arguments, **options)
        other.remove([str(d.id) for d in next(other.iter_documents())][:5])
        other.compact()
        return facts

    monkeypatch.setattr(optimizing, "build_index", meanwhile)
    assert store.optimize(0.9).built == 0
    assert files(store) == set()
    assert store.verify().problems == ()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_or_failing_build_leaves_the_store_as_it_was(
    store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def failing(path: Path, *_arguments: Any, **_options: Any) -> None:
        path.touch()
        raise error

    monkeypatch.setattr(optimizing, "build_index", failing)
    expected = StorageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        store.optimize(0.9)
    assert files(store) == set()
    with catalog_of(Path(store.location)) as db:
        assert db.execute("SELECT count(*) FROM claims").fetchall() == [(0,)]
    monkeypatch.undo()
    assert store.verify().problems == ()


def test_only_one_process_optimises_at_a_time(
    store: FaissVetorStorage, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = optimizing.build_index

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        with pytest.raises(StorageError, match="another process is optimising the store"):
            open_store().optimize(0.9)
        return build(*arguments, **options)

    monkeypatch.setattr(optimizing, "build_index", meanwhile)
    assert store.optimize(0.9).built == 1


@posix
def test_a_process_killed_while_it_builds_an_index_leaves_a_sound_store(
    open_store: OpenStore, folder: Path, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizing, "INDEX_ROWS", 500)
    store, chance = open_store(), random.Random(5)
    kept = store.write(documents("kept", 1500), clustered(1500, 0))
    queries = clustered(20, 9)
    # Those of the later rounds start and load while the earlier are at work.
    children = [child("optimize_for_ever", folder, seed) for seed in range(6)]
    for running in children:
        assert running.line() == "ready"
    built = 0
    for running in children:
        running.go()
        time.sleep(chance.uniform(0.05, 0.6))
        running.kill()
        built += len(files(store))
        assert store.verify().problems == ()
        assert len(store.search(queries, 10)) == 20
        assert set(kept) <= {hit.id for hit in store.search(queries[0], 2000, exact=True)}
    assert built

    store.compact()
    with catalog_of(folder) as db:
        assert db.execute("SELECT count(*) FROM claims").fetchall() == [(0,)]
        assert {name for (name,) in db.execute("SELECT name FROM indexes")} == files(store)
        named = {name for (name,) in db.execute("SELECT name FROM segments")}
    assert {path.name for path in (folder / "segments").iterdir()} == named
    store.optimize(0.9)
    assert len(files(store)) == store.stats().segments == 1
    assert recall(store, queries, 10) > 0.85
    assert store.verify().problems == ()


def test_half_precision_stores_are_indexed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizing, "INDEX_ROWS", 3_000)
    with FaissVetorStorage(tmp_path / "half", precision="float16") as store:
        store.write(documents("s", 5_000), clustered(5_000, 0))
        report = store.optimize(0.9)
        assert report.reached
        assert recall(store, clustered(50, 9), 10) > 0.85
        assert store.verify().problems == ()


def test_facts_in_the_catalog_are_plain_json(optimised: FaissVetorStorage) -> None:
    with catalog_of(Path(optimised.location)) as db:
        ((facts,),) = db.execute("SELECT facts FROM indexes").fetchall()
    assert json.loads(facts)["rows"] == ROWS


def test_half_precision_costs_what_the_store_says(tmp_path: Path) -> None:
    matrix = clustered(500, 3)
    with FaissVetorStorage(tmp_path / "half", precision="float16") as store:
        store.write(documents("few", 100), matrix[:100])  # pending
        ids = store.write(documents("many", 400), matrix[100:])
        store._writer.flush()  # type: ignore[union-attr]
        stats = store.stats()
        assert stats.precision == "float16"
        assert stats.recall is not None
        assert 0.9 < stats.recall <= 1
        size = sum(path.stat().st_size for path in (tmp_path / "half" / "segments").iterdir())
        assert size < 500 * 16 * 2 + 500 * 8 + 1000
        assert store.verify().problems == ()
        store.compact()
        assert store.stats().recall == pytest.approx(stats.recall)
        query = clustered(1, 4)[0]
        halves = matrix.astype(np.float16).astype(np.float32)
        every = [str(d.id) for page in store.iter_documents() for d in page]
        assert ids == every[100:]
        expected = nearest(query, halves, every, 10)
        hits = store.search(query, 10)
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-3)
