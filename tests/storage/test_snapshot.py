"""Reading: one pinned version at a time, loaded by differences, and damage named where it is met."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oraculo_kit.errors import QueryError, StoreCorruptedError
from oraculo_kit.storage import manifest as manifests
from oraculo_kit.storage import scanning
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.manifest import Manifest, load_manifest
from oraculo_kit.storage.snapshot import Reader, check_k
from tests.storage.kit import catalog_of, contents, documents, flip_bit, nearest, vectors

OpenStore = Callable[..., FaissVetorStorage]


def test_a_pinned_version_does_not_see_later_commits(store: FaissVetorStorage) -> None:
    store.replace("a", documents("a", 5, version=1), vectors(5))
    with store._reader.pin() as old:
        store.replace("a", documents("a", 2, version=2), vectors(2, 1))
        assert old.count() == 5
        scores, numbers = old.manifest.top(vectors(1), 10)
        chunks = old.chunks(numbers[0][numbers[0] >= 0])
        assert [chunk.metadata["version"] for chunk in chunks] == [1] * 5
        assert np.isneginf(scores[0][5:]).all()
    assert {hit.metadata["version"] for hit in store.search(vectors(1)[0])} == {2}


def test_no_read_transaction_outlives_a_call(store: FaissVetorStorage, open_store: OpenStore) -> None:
    store.write(documents("a", 30), vectors(30))
    reader = open_store(read_only=True)
    pages = reader.iter_documents(batch=7)
    next(pages)
    calls: list[Callable[[], object]] = [
        lambda: reader.search(vectors(1)[0]),
        lambda: reader.search("nota", mode="text", filter={"place": 3}),
        lambda: reader.get(["x"]),
        reader.sources,
        lambda: reader.ledger(["a"]),
        reader.stats,
        reader.to_pandas,
        reader.verify,
        lambda: len(reader),
        lambda: next(pages),
    ]
    for call in calls:
        call()
        # A checkpoint that empties the log is refused as long as anybody reads an older version.
        store.write(documents("b", 1), vectors(1))
        with catalog_of(Path(store.location)):
            pass
        assert (Path(store.location) / "catalog.sqlite3-wal").stat().st_size == 0


def test_pages_are_stable_while_others_write(store: FaissVetorStorage) -> None:
    names = store.write(documents("a", 20), vectors(20))
    seen = []
    for page in store.iter_documents(batch=6):
        seen += [str(document.id) for document in page]
        store.remove(names[:2])
        if len(seen) <= 20:
            store.write(documents("b", 1, len(seen)), vectors(1))
    assert seen[:20] == names
    assert len(seen) == len(set(seen))


def test_only_the_difference_is_loaded(
    store: FaissVetorStorage, small_segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read_pending = manifests.read_pending

    def counted(catalog: Catalog, dimension: int, after: int) -> tuple[np.ndarray, np.ndarray]:
        found = read_pending(catalog, dimension, after)
        reads.append(len(found[0]))
        return found

    monkeypatch.setattr(manifests, "read_pending", counted)
    store.replace("large", documents("large", 30), vectors(30))
    for number in range(5):
        store.write(documents("small", 3, 3 * number), vectors(3, number))
        assert len(store) == 30 + 3 * number + 3
    with store._reader.pin() as first:
        pass
    assert len(store) == 45
    with store._reader.pin() as second:
        assert second.manifest is first.manifest
    assert reads == [3] * 5
    store.write(documents("small", 20, 15), vectors(20))  # another segment
    with store._reader.pin() as third:
        assert first.manifest.segments[0] in third.manifest.segments


def test_a_manifest_made_from_differences_equals_one_made_anew(
    store: FaissVetorStorage, folder: Path, small_segments: int
) -> None:
    chance = np.random.default_rng(5)
    alive: list[str] = []
    for number in range(40):
        count = int(chance.integers(1, 25 if number % 9 == 0 else 6))
        alive += store.write(documents("a", count, len(alive) + 100 * number), vectors(count, number))
        if number % 3 == 0:
            gone = [alive.pop(int(chance.integers(len(alive)))) for _ in range(2)]
            store.remove(gone)
        with store._reader.pin() as snapshot:
            kept = snapshot.manifest
            anew = load_manifest(snapshot.catalog, folder / "segments", None)
        for one, other in ((kept, anew), (anew, kept)):
            for numbers, matrix in one.blocks():
                living = one.alive(numbers)
                again, found = other.vectors_of(numbers[living])
                assert found.all()
                np.testing.assert_array_equal(again, matrix[living])
        np.testing.assert_array_equal(kept.dead, anew.dead)
        assert len(store) == len(alive)


def test_an_older_version_after_a_newer_one_is_built_anew(store: FaissVetorStorage, folder: Path) -> None:
    store.write(documents("a", 3), vectors(3))
    reader = Reader(folder, read_only=False)
    old = Catalog(folder / "catalog.sqlite3", read_only=True)
    with old.reading():
        assert old.meta("commit") == 1
        store.write(documents("b", 3), vectors(3, 1))
        with reader.pin() as new:
            assert len(new.manifest.pending_numbers) == 6
        again = load_manifest(old, folder / "segments", new.manifest)
        assert (again.commit, len(again.pending_numbers)) == (1, 3)
    old.close()
    reader.close()


@pytest.mark.parametrize("k", [0, -1, 100_001, 2.0, True, "5", None])
def test_a_k_that_is_no_count_is_refused(store: FaissVetorStorage, k: object) -> None:
    with pytest.raises(QueryError, match="expected a whole number from 1 to 100000"):
        check_k(k)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="k is"):
        store.search(vectors(1)[0], k=k)  # type: ignore[arg-type]


# Damage


@pytest.fixture
def filled(folder: Path, small_segments: int) -> Path:
    """Return the folder of a closed store with a segment of 30 vectors and 3 pending ones."""
    with FaissVetorStorage(folder) as store:
        store.replace("a", documents("a", 30), vectors(30))
        store.replace("b", documents("b", 3), vectors(3, 1))
    return folder


def segment_of(folder: Path) -> Path:
    """Return the store's one segment."""
    (path,) = (folder / "segments").iterdir()
    return path


def refuses(folder: Path, message: str) -> None:
    """See that the store names the damage whether opened for reading or writing, and changes nothing."""
    before = contents(folder)
    for read_only in (True, False):
        with pytest.raises(StoreCorruptedError, match=message):
            FaissVetorStorage(folder, read_only=read_only)
    assert contents(folder) == before


def test_a_missing_segment_is_named(filled: Path) -> None:
    segment_of(filled).unlink()
    refuses(filled, r"the segment .*\.f32 is missing, and the catalog needs it. Nothing was changed")


def test_a_truncated_segment_is_named(filled: Path) -> None:
    path = segment_of(filled)
    path.write_bytes(path.read_bytes()[:-1])
    refuses(filled, r"\.f32 is damaged: it has \d+ bytes, expected \d+")


def test_a_segment_with_a_damaged_header_is_named(filled: Path) -> None:
    flip_bit(segment_of(filled), 17)
    refuses(filled, "its header is not that of a segment")


def test_a_damaged_pending_vector_is_named(filled: Path) -> None:
    with catalog_of(filled) as db:
        (number, blob) = db.execute("SELECT number, vector FROM pending LIMIT 1").fetchone()
        db.execute(
            "UPDATE pending SET vector = ? WHERE number = ?", (bytes([blob[0] ^ 1]) + blob[1:], number)
        )
    refuses(filled, f"the vector of chunk number {number} in .* is damaged")


def test_a_pending_vector_of_another_dimension_is_named(filled: Path) -> None:
    with catalog_of(filled) as db:
        blob = b"\0" * 12
        db.execute("UPDATE pending SET vector = ?, checksum = ?", (blob, zlib.crc32(blob)))
    refuses(filled, "the vector of chunk number .* is damaged")


@pytest.mark.parametrize("column", ["text", "metadata", "id", "ordinal"])
def test_a_damaged_chunk_is_named_where_it_is_met_and_nowhere_else(filled: Path, column: str) -> None:
    with catalog_of(filled) as db:
        number, name, value = db.execute(
            f"SELECT number, id, {column} FROM chunks WHERE number = 7"
        ).fetchone()
        changed = (
            value + 1
            if column == "ordinal"
            else json.dumps({"x": 1})
            if column == "metadata"
            else "x" + value[1:]
        )
        db.execute(f"UPDATE chunks SET {column} = ? WHERE number = ?", (changed, number))
    with FaissVetorStorage(filled) as store:
        found = vectors(30)[6]
        with pytest.raises(
            StoreCorruptedError, match="of source 'a' in .* is damaged: its text or metadata"
        ) as caught:
            store.search(found, k=1)
        assert "ingesting its source again mends it" in str(caught.value)
        assert store.search(vectors(3, 1)[0], k=1)[0].source == "b"
        assert store.search(found, k=1, filter={"source": "b"})[0].source == "b"
        store.replace("a", documents("a", 30), vectors(30))
        assert store.search(found, k=1)[0].metadata["place"] == 6
        report = store.verify()
        assert report.ok, report
        assert name


def test_text_that_is_no_utf8_any_more_is_named(filled: Path) -> None:
    with catalog_of(filled) as db:
        db.execute("UPDATE chunks SET text = CAST(x'ff41' AS TEXT) WHERE number = 7")
    with (
        FaissVetorStorage(filled) as store,
        pytest.raises(StoreCorruptedError, match="text that is not UTF-8"),
    ):
        store.search(vectors(30)[6], k=1)


def test_a_damaged_database_page_is_named(filled: Path) -> None:
    path = filled / "catalog.sqlite3"
    content = bytearray(path.read_bytes())
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    refuses(filled, r"catalog\.sqlite3 is damaged \(.*Nothing was changed")


# One version's vectors


def made(count: int, dead: list[int], split: int = 0) -> tuple[Manifest, np.ndarray]:
    """Return a manifest of vectors numbered 10, 20, ..., all pending, and its matrix."""
    matrix = vectors(count)
    numbers = np.arange(1, count + 1) * 10
    return Manifest(1, "", None, 0, 8, (), {}, numbers, matrix, np.array(dead, np.int64)), matrix


@pytest.mark.parametrize("queries", [1, 9, 10, 40])
@pytest.mark.parametrize("k", [1, 7, 99, 100, 101, 500])
@pytest.mark.parametrize("dead", [0, 1, 60, 99, 100])
def test_the_nearest_are_exact_however_many_are_dead(queries: int, k: int, dead: int) -> None:
    manifest, matrix = made(100, list(range(10, 10 * dead + 1, 10)))
    asked = vectors(queries, 3)
    scores, numbers = manifest.top(asked, k)
    assert scores.shape == numbers.shape == (queries, k)
    living = [str(number) for number in range(10 * dead + 10, 1001, 10)]
    for query, row, values in zip(asked, numbers, scores, strict=True):
        expected = nearest(query, matrix[dead:], living, k)
        assert [str(number) for number in row if number >= 0] == [name for name, _ in expected]
        np.testing.assert_allclose(values[: len(expected)], [score for _, score in expected], atol=1e-6)
        assert np.isneginf(values[len(expected) :]).all()


def test_when_the_nearest_are_dead_more_are_fetched() -> None:
    query = vectors(1)
    matrix = np.concatenate([np.repeat(query, 500, axis=0), vectors(500, 2)])
    numbers = np.arange(1000)
    manifest = Manifest(1, "", None, 0, 8, (), {}, numbers, matrix, np.arange(500))
    for asked in (query, np.repeat(query, 20, axis=0)):
        _, found = manifest.top(asked, 5)
        expected = [
            int(name) for name, _ in nearest(query[0], matrix[500:], [str(n) for n in range(500, 1000)], 5)
        ]
        assert found[0].tolist() == expected


@pytest.mark.parametrize("in_place", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("gathered", [1, 10, 1024])
@pytest.mark.parametrize("queries", [1, 30])
def test_every_way_to_scan_the_allowed_rows_is_exact(
    monkeypatch: pytest.MonkeyPatch, gathered: int, in_place: float, queries: int
) -> None:
    monkeypatch.setattr(scanning, "_GATHERED_ROWS", gathered)
    monkeypatch.setattr(scanning, "_GATHERED_PER_HIT", 1)
    monkeypatch.setattr(scanning, "_IN_PLACE_FROM_SHARE", in_place)
    manifest, matrix = made(300, [])
    chance = np.random.default_rng(1)
    for count in (0, 1, 7, 8, 9, 150, 300):
        allowed = np.sort(chance.choice(manifest.pending_numbers, count, replace=False))
        asked = vectors(queries, 5)
        _, numbers = manifest.top(asked, 12, np.union1d(allowed, [3, 5, 4000]))  # some are elsewhere
        for query, row in zip(asked, numbers, strict=True):
            expected = nearest(query, matrix[allowed // 10 - 1], [str(number) for number in allowed], 12)
            assert [str(number) for number in row if number >= 0] == [name for name, _ in expected]


def test_equal_scores_come_in_the_order_of_writing() -> None:
    query = vectors(1)
    numbers = np.arange(10) * 10
    manifest = Manifest(
        1, "", None, 0, 8, (), {}, numbers, np.repeat(query, 10, axis=0), np.zeros(0, np.int64)
    )
    assert manifest.top(query, 10)[1][0].tolist() == numbers.tolist()
    assert manifest.top(query, 10, numbers)[1][0].tolist() == numbers.tolist()


def test_the_threshold_of_faiss_is_given_back() -> None:
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold, faiss.omp_get_max_threads()
    manifest, _ = made(50, [])
    manifest.top(vectors(1), 3)
    manifest.top(vectors(30), 3)
    with pytest.raises(AssertionError):
        manifest.top(vectors(30, dimension=5), 3)
    with pytest.raises(AssertionError):
        manifest.top(vectors(1, dimension=5), 3)
    assert (faiss.cvar.distance_compute_blas_threshold, faiss.omp_get_max_threads()) == before
