"""The contents of a store as a Parquet file, and its vectors page by page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from oraculo_kit.errors import QueryError, StorageError, StoreClosedError, StoreCorruptedError
from oraculo_kit.storage import export
from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.kit import ROOT, catalog_of, documents, vectors


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return where an export may be written, in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "base.parquet"


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of an export, by id."""
    return {row["id"]: row for row in parquet.read_table(path).to_pylist()}


def test_every_chunk_is_in_the_file_with_text_metadata_and_vector(
    store: FaissVetorStorage, target: Path, small_segments: int
) -> None:
    matrix = vectors(50)
    ids = store.write(documents("a.md", 50, lang="pt"), matrix)
    store.replace("b.md", documents("b.md", 3), vectors(3, 1))
    store.remove(ids[:5])
    assert store.to_parquet(target) == 48
    rows = rows_of(target)
    frame = store.to_pandas().set_index("id")
    assert set(rows) == set(frame.index)
    for name, row in rows.items():
        assert [row["source"], row["ordinal"], row["text"]] == list(
            frame.loc[name, ["source", "ordinal", "text"]]
        )
        assert json.loads(row["metadata"]) == frame.loc[name, "metadata"]
    for place, name in enumerate(ids[5:], 5):
        assert np.array_equal(np.array(rows[name]["vector"], np.float32), matrix[place])


def test_the_columns_have_fixed_types_and_the_file_says_where_it_comes_from(
    store: FaissVetorStorage, target: Path
) -> None:
    store.write(documents("a.md", 3))
    store.to_parquet(target)
    schema = parquet.read_schema(target)
    assert [f"{field.name} {field.type}" for field in schema] == [
        "id string",
        "source string",
        "ordinal int64",
        "text string",
        "metadata string",
        "vector fixed_size_list<element: float>[256]",
    ]
    assert schema.metadata[b"oraculo_kit.embedder"].decode() == store.embedder.name
    assert schema.metadata[b"oraculo_kit.commit"] == b"1"


def test_an_empty_store_gives_an_empty_table(store: FaissVetorStorage, target: Path) -> None:
    assert store.to_parquet(target) == 0
    table = parquet.read_table(target)
    assert table.num_rows == 0
    assert table.column_names == ["id", "source", "ordinal", "text", "metadata", "vector"]


def test_an_older_file_is_replaced_and_nothing_else_is_left(store: FaissVetorStorage, target: Path) -> None:
    target.write_bytes(b"older")
    store.write(documents("a.md", 3), vectors(3))
    store.to_parquet(str(target))
    assert len(rows_of(target)) == 3
    assert os.listdir(target.parent) == [target.name]


def test_a_damaged_chunk_leaves_the_older_file_and_no_other(
    open_store: Callable[..., FaissVetorStorage], folder: Path, target: Path
) -> None:
    with open_store() as store:
        store.write(documents("a.md", 5), vectors(5))
    with catalog_of(folder) as db:
        db.execute("UPDATE chunks SET text = 'other' WHERE ordinal = 3")
    target.write_bytes(b"older")
    with pytest.raises(StoreCorruptedError, match="damaged"):
        open_store().to_parquet(target)
    assert target.read_bytes() == b"older"
    assert os.listdir(target.parent) == [target.name]


def test_chunks_without_a_vector_are_named(
    open_store: Callable[..., FaissVetorStorage], folder: Path, target: Path
) -> None:
    with open_store() as store:
        store.write(documents("a.md", 5), vectors(5))
    with catalog_of(folder) as db:
        db.execute("DELETE FROM pending WHERE number = (SELECT max(number) FROM pending)")
    store = open_store()
    with pytest.raises(StoreCorruptedError, match="counts 5 chunks, and there are 4 vectors"):
        store.to_parquet(target)
    with pytest.raises(StoreCorruptedError, match="has no vector"):
        list(store.iter_vectors())
    assert os.listdir(target.parent) == []


def test_a_path_that_cannot_be_written_is_named(store: FaissVetorStorage, target: Path) -> None:
    store.write(documents("a.md", 1), vectors(1))
    with pytest.raises(StorageError, match="cannot write .*Choose the path"):
        store.to_parquet(target.parent / "missing" / "base.parquet")
    with pytest.raises(StorageError, match="cannot write .*Choose the path"):
        store.to_parquet(target.parent)
    assert os.listdir(target.parent) == []


def test_without_pyarrow_the_error_says_what_to_install(folder: Path) -> None:
    script = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from oraculo_kit.errors import OraculoError\n"
        "from oraculo_kit.storage.faiss import FaissVetorStorage\n"
        "with FaissVetorStorage(sys.argv[1]) as store:\n"
        "    try: store.to_parquet('x.parquet')\n"
        "    except OraculoError as exc: print(exc)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 'pip install "oraculo_kit[parquet]"' in done.stdout


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make pages of 10 rows; return that number."""
    monkeypatch.setattr(export, "_PAGE_ROWS", 10)
    return 10


def test_chunks_written_meanwhile_are_not_in_the_file(
    store: FaissVetorStorage, target: Path, small_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(documents("a.md", 30), vectors(30))
    between_pages(monkeypatch, lambda: store.write(documents("b.md", 30), vectors(30, 1)), times=1)
    assert store.to_parquet(target) == 30
    assert {row["source"] for row in rows_of(target).values()} == {"a.md"}
    assert len(store) == 60


def test_a_source_replaced_meanwhile_is_wholly_new(
    store: FaissVetorStorage, target: Path, small_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.replace("a.md", documents("a.md", 30, version=1), vectors(30))
    between_pages(
        monkeypatch, lambda: store.replace("a.md", documents("a.md", 25, version=2), vectors(25, 1)), times=1
    )
    assert store.to_parquet(target) == 25
    assert {json.loads(row["metadata"])["version"] for row in rows_of(target).values()} == {2}


def test_a_store_that_never_rests_is_exported_as_one_version_all_the_same(
    store: FaissVetorStorage, target: Path, small_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = iter(range(1, 1000))

    def replace() -> None:
        version = next(versions)
        store.replace("a.md", documents("a.md", 30, version=version), vectors(30, version))

    replace()
    between_pages(monkeypatch, replace)
    assert store.to_parquet(target) == 30
    assert len({json.loads(row["metadata"])["version"] for row in rows_of(target).values()}) == 1


def between_pages(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any], times: int = 1000) -> None:
    """Let another thread act between two pages of an export, so many times at most."""
    whole = export._all_vectors
    actions = iter([act] * times)

    def then_act(*arguments: Any) -> Any:
        page = whole(*arguments)
        thread = threading.Thread(target=next(actions, list))
        thread.start()
        thread.join(30)
        return page

    monkeypatch.setattr(export, "_all_vectors", then_act)


def test_vectors_come_in_batches_with_their_ids(store: FaissVetorStorage, small_segments: int) -> None:
    matrix = vectors(50)
    ids = store.write(documents("a.md", 30), matrix[:30]) + store.write(documents("b.md", 20), matrix[30:])
    store.remove(ids[:1])
    pages = list(store.iter_vectors(batch=7))
    assert [len(names) for names, _ in pages] == [7] * 7
    assert [name for names, _ in pages for name in names] == ids[1:]
    assert np.array_equal(np.concatenate([page for _, page in pages]), matrix[1:])
    assert all(page.dtype == np.float32 for _, page in pages)


def test_an_empty_store_has_no_vectors(store: FaissVetorStorage) -> None:
    assert list(store.iter_vectors()) == []
    names, matrix = store.vectors(["a"])
    assert names == []
    assert matrix.shape == (0, 0)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "10"])
def test_a_batch_that_is_no_number_is_refused_at_once(store: FaissVetorStorage, batch: Any) -> None:
    with pytest.raises(QueryError, match="batch is .* expected a whole number"):
        store.iter_vectors(batch)


def test_writers_go_on_between_two_batches_and_the_log_can_be_emptied(store: FaissVetorStorage) -> None:
    ids = store.write(documents("a.md", 10), vectors(10))
    pages = store.iter_vectors(batch=5)
    first, _ = next(pages)
    late = store.write(documents("b.md", 2), vectors(2, 1))
    store.remove(ids[7:8])
    with catalog_of(Path(store.location)):  # its checkpoint would fail while a version is held
        pass
    assert first + [name for names, _ in pages for name in names] == ids[:7] + ids[8:] + late


def test_a_store_closed_between_two_batches_says_so(open_store: Callable[..., FaissVetorStorage]) -> None:
    store = open_store()
    store.write(documents("a.md", 10), vectors(10))
    pages = store.iter_vectors(batch=5)
    next(pages)
    store.close()
    with pytest.raises(StoreClosedError, match="was closed"):
        next(pages)


def test_stored_vectors_are_found_by_id(store: FaissVetorStorage, small_segments: int) -> None:
    matrix = vectors(50)
    ids = store.write(documents("a.md", 50), matrix)
    names, found = store.vectors([ids[40], "unknown", ids[3]])
    assert names == [ids[40], ids[3]]
    assert np.array_equal(found, matrix[[40, 3]])
