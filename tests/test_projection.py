"""The projection of a base: what it gives, and the file it is kept in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from numpy.typing import NDArray

import oraculo_kit as oraculo
from oraculo_kit.errors import QueryError
from oraculo_kit.projection import _largest, _spread, _squares, principal_axes, project, values_of
from oraculo_kit.storage.faiss import FaissVetorStorage


class Rows:
    """Vectors in blocks, as a store gives them."""

    def __init__(self, vectors: NDArray[np.float32], block: int) -> None:
        self.vectors, self.block = vectors, block

    def iter_vectors(self, _batch: int) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        for first in range(0, len(self.vectors), self.block):
            yield [], self.vectors[first : first + self.block]

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(chunks=len(self.vectors), dimension=self.vectors.shape[1])


def axes_of(vectors: NDArray[np.float32], block: int = 7) -> tuple[NDArray[np.float32], tuple[float, float]]:
    _, axes, explained = principal_axes(Rows(vectors, block), lambda: None)  # type: ignore[arg-type]
    return axes, explained


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 60), st.integers(2, 12), st.integers(1, 20))
def test_the_axes_are_those_of_a_singular_value_decomposition(
    seed: int, rows: int, dimension: int, block: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, dimension)) * np.linspace(3, 0.3, dimension) + 5
    axes, explained = axes_of(vectors.astype(np.float32), block)
    _, sizes, wanted = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    shares = sizes**2 / (sizes**2).sum()
    np.testing.assert_allclose(explained, shares[:2], atol=1e-3)
    for place in range(2):
        gap = np.diff(-shares[: place + 2]).min() if len(shares) > place + 1 else 1.0
        if min(abs(gap), abs(shares[place] - (shares[place + 1] if len(shares) > place + 1 else 0))) > 0.02:
            assert abs(float(axes[place] @ wanted[place])) == pytest.approx(1, abs=1e-3)
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in axes)


@pytest.mark.parametrize("block", [64, 999, 6000])
def test_the_axes_of_a_large_base_come_from_vectors_spread_over_it_and_hardly_turn(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    vectors = (rng.normal(size=(6000, 12)) * np.linspace(3, 0.3, 12) ** 2).astype(np.float32)
    exact, shares = axes_of(vectors, block)
    monkeypatch.setattr("oraculo_kit.projection._FEWEST", 1000)
    monkeypatch.setattr("oraculo_kit.projection._WORK", 1000)
    used = list(_spread(Rows(vectors, block)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.concatenate(used), vectors[::6])
    axes, estimated = axes_of(vectors, block)
    assert (np.abs((axes * exact).sum(axis=1)) > 0.98).all()
    np.testing.assert_allclose(estimated, shares, atol=0.03)


@pytest.mark.parametrize("shape", [(1, 1), (63, 65), (64, 64), (1000, 256), (700, 1100)])
def test_the_sum_of_squares_is_a_matrix_product(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(_squares(rows), rows.T @ rows, atol=1e-3)


def test_many_dimensions_have_the_same_axes_by_iteration() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(300, 1100)) * np.linspace(4, 0.1, 1100)
    covariance = np.cov(vectors, rowvar=False)
    values, found = _largest(covariance)
    exact = np.linalg.eigvalsh(covariance)[::-1][:2]
    np.testing.assert_allclose(values, exact, rtol=1e-2)
    np.testing.assert_allclose(found @ found.T, np.eye(2), atol=1e-8)


@pytest.fixture
def store(project: Path) -> Iterator[FaissVetorStorage]:
    with FaissVetorStorage(project / "base", durability="process") as opened:
        write(opened, 0, 60)
        yield opened


def write(store: FaissVetorStorage, first: int, last: int) -> None:
    rng = np.random.default_rng(first)
    vectors = rng.normal(size=(last - first, 16)).astype(np.float32)
    documents = [
        Document(f"texto {each}", metadata={"source": f"{each}.md", "par": each % 2 == 0, "n": each})
        for each in range(first, last)
    ]
    store.write(documents, vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def file_of(store: FaissVetorStorage) -> Path:
    return Path(store.location) / "cache" / "map.bin"


def test_it_is_computed_once_and_the_same_each_time(store: FaissVetorStorage) -> None:
    first = project(store)
    again = project(store)
    assert (first.from_file, again.from_file) == (False, True)
    assert again.ids == first.ids
    np.testing.assert_array_equal(again.xy, first.xy)
    file_of(store).unlink()
    np.testing.assert_array_equal(project(store).xy, first.xy)
    ids, vectors = store.vectors(first.ids[:5])
    assert ids == first.ids[:5]
    np.testing.assert_allclose(first.place(vectors), first.xy[:5], atol=1e-6)
    assert store.verify().ok
    assert [path.name for path in file_of(store).parent.iterdir()] == ["map.bin"]


def test_what_is_new_is_put_on_the_old_axes_until_a_fifth_is_new(store: FaissVetorStorage) -> None:
    before = project(store)
    write(store, 100, 106)
    after = project(store)
    assert not after.from_file
    assert len(after.ids) == 66
    np.testing.assert_array_equal(after.axes, before.axes)
    np.testing.assert_array_equal(after.xy[:60], before.xy)
    write(store, 200, 212)
    assert not np.array_equal(project(store).axes, before.axes)
    store.remove(before.ids[:3])
    assert len(project(store).ids) == 75


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_file_counts_as_none(store: FaissVetorStorage, damage: str) -> None:
    whole = project(store)
    path = file_of(store)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(
        {"flip": bytes(content), "cut": bytes(content[:-5]), "empty": b"", "foreign": b"\x80\x04pickle" * 20}[
            damage
        ]
    )
    again = project(store)
    assert not again.from_file
    np.testing.assert_array_equal(again.xy, whole.xy)
    assert project(store).from_file


def test_several_threads_at_once_leave_one_good_file(store: FaissVetorStorage) -> None:
    made = []
    threads = [threading.Thread(target=lambda: made.append(project(store))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(made) == 4
    assert project(store).from_file
    assert [path.name for path in file_of(store).parent.iterdir()] == ["map.bin"]


def test_a_store_opened_for_reading_only_is_not_written_to(store: FaissVetorStorage) -> None:
    with FaissVetorStorage(store.location, read_only=True) as reading:
        assert len(project(reading).ids) == 60
    assert not file_of(store).parent.exists()


def test_an_empty_base_one_chunk_and_equal_vectors_have_a_map_too(project: Path) -> None:
    from oraculo_kit.projection import project as projected

    with FaissVetorStorage(project / "leer", durability="process") as empty:
        assert projected(empty).xy.shape == (0, 2)
        vector = np.ones((3, 4), np.float32) / 2
        documents = [Document(f"t{each}", metadata={"source": "a"}) for each in range(3)]
        empty.write(documents, vectors=vector)
        found = projected(empty)
        np.testing.assert_allclose(found.xy, 0, atol=1e-6)
        assert found.explained == (0.0, 0.0)


def test_project_base_gives_a_table_with_the_keys_asked_for(store: FaissVetorStorage) -> None:
    points = oraculo.project_base("par", "source", "nada", store=store)
    assert list(points.columns) == ["id", "x", "y", "par", "source", "nada"]
    assert points["par"].tolist() == [each % 2 == 0 for each in range(60)]
    assert points["source"].tolist() == [f"{each}.md" for each in range(60)]
    assert points["nada"].isna().all()
    assert 0 < sum(points.attrs["explained"]) < 1


def test_values_come_for_the_chunks_of_the_map_whatever_was_written_since(store: FaissVetorStorage) -> None:
    ids = project(store).ids
    store.remove(ids[:2])
    assert values_of(store, "n", ids)[:4] == [None, None, 2, 3]
    with pytest.raises(QueryError, match="got int as metadata key"):
        store.iter_values(3)  # type: ignore[arg-type]


def test_values_are_the_same_as_those_of_whole_documents(project: Path) -> None:
    store = FaissVetorStorage(project / "other", durability="process")
    shared = {"source": "s.md", "lang": "pt", "nested": {"a": 1}, "none": None, 'k"ey.x': 2.5, "big": 2**40}
    store.replace(
        "s.md", [Document("um", metadata=shared), Document("dois", metadata={**shared, "lang": "en"})]
    )
    for key in ("lang", "nested", "none", 'k"ey.x', "big", "source", "par"):
        quick = [pair for ids, values in store.iter_values(key, 7) for pair in zip(ids, values, strict=True)]
        whole = [
            pair
            for ids, values in super(FaissVetorStorage, store)._value_pages(key, 7)
            for pair in zip(ids, values, strict=True)
        ]
        assert quick == whole
    assert [chunk.ordinal for chunk in store.chunks([each.id for each in store.source_chunks("s.md")])] == [
        0,
        1,
    ]
    store.close()
