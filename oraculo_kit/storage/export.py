"""The contents of a store for other tools: a Parquet file, and the vectors alone.

`write_parquet` gives one version of the store, although no read transaction of it outlives a page (an unfinished
one lets the log of a busy store grow without bound, and makes a fork wait). The list of chunk numbers and the
mapped vectors are pinned in memory, and a chunk's row never changes: it can only be deleted. So while no chunk of
that version is deleted, reading its texts page by page gives that version whole. When one is, the export begins
anew with the newest version; after `_ATTEMPTS` times it holds one transaction for the whole of it.

`vector_pages` walks by chunk number without a version at all: chunks written meanwhile come at the end.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import StorageError, StoreCorruptedError
from oraculo_kit.storage.arguments import check_batch
from oraculo_kit.storage.segments import sync_file, sync_folder
from oraculo_kit.storage.snapshot import Reader, Snapshot, StoredChunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.manifest import Manifest

    Numbers = NDArray[np.int64]
    Vectors = NDArray[np.float32]

_PAGE_ROWS = 4096  # and a row group of the file
_PAGE_BYTES = 16_000_000  # of vectors
_ATTEMPTS = 3


class _VersionGoneError(Exception):
    """A chunk of the version that is being read was deleted meanwhile."""


def write_parquet(reader: Reader, path: str | os.PathLike[str]) -> int:
    """Write one version of a store to a Parquet file; see `VetorStorage.to_parquet`.

    Parameters
    ----------
    reader : Reader
    path : path

    Returns
    -------
    int
        How many chunks were written.
    """
    return published(path, lambda temporary: _write_stable(reader, temporary))


def published(path: str | os.PathLike[str], write: Callable[[Path], int]) -> int:
    """Have a Parquet file written, there whole or not at all; return what `write` returned.

    Parameters
    ----------
    path : path
    write : callable
        Given the path of a file to be made in the same folder.
    """
    _import_pyarrow()
    target = Path(os.path.abspath(path))
    # In the same folder, so that the replacement is atomic; a name of its own, so that two exports do not meet.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        rows = write(temporary)
        with open(temporary, "rb+") as file:
            sync_file(file.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except StorageError:  # some are an OSError too
        raise
    except OSError as exc:
        raise StorageError(
            f"cannot write {target}: {exc.strerror or exc}. Choose the path of a file in a folder that you may write "
            "to, or check the disk"
        ) from exc
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def vector_pages(reading: Callable[[], Reader], batch: int = 1000) -> Iterator[tuple[list[str], Vectors]]:
    """Yield all ids and vectors, `batch` at a time; see `VetorStorage.iter_vectors`.

    Parameters
    ----------
    reading : callable
        Returns the store's reader, or raises when the store was closed between two pages.
    batch : int
    """
    check_batch(batch)
    return _vector_pages(reading, batch)


def _vector_pages(reading: Callable[[], Reader], batch: int) -> Iterator[tuple[list[str], Vectors]]:
    after = -1
    while True:
        with reading().pin() as snapshot:
            rows = snapshot.catalog.rows(
                "SELECT number, id FROM chunks WHERE number > ? ORDER BY number LIMIT ?", (after, batch)
            )
            if not rows:
                return
            page = [chunk_id for _, chunk_id in rows], _vectors_of(snapshot, [number for number, _ in rows])
        yield page
        after = rows[-1][0]


def vectors_by_id(reader: Reader, ids: Sequence[str]) -> tuple[list[str], Vectors]:
    """Return the vectors of chunks; see `VetorStorage.vectors`.

    Parameters
    ----------
    reader : Reader
    ids : sequence of str

    Returns
    -------
    ids : list of str
        Those that exist, in the order given.
    vectors : numpy.ndarray
        float32, shape (len(ids), dimension).
    """
    with reader.pin() as snapshot:
        rows = snapshot.catalog.rows(
            "SELECT id, number FROM chunks WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        numbers = dict(rows)
        found = [chunk_id for chunk_id in ids if chunk_id in numbers]
        return found, _vectors_of(snapshot, [numbers[chunk_id] for chunk_id in found])


def _vectors_of(snapshot: Snapshot, numbers: list[int]) -> Vectors:
    return _all_vectors(snapshot.manifest, np.array(numbers, np.int64), snapshot.catalog.path)


def _all_vectors(manifest: Manifest, numbers: Numbers, catalog: Path) -> Vectors:
    vectors, found = manifest.vectors_of(numbers)
    if not found.all():
        raise StoreCorruptedError(
            f"the chunk number {numbers[~found][0]} in {catalog} has no vector. Run `oraculo verify` to see what else "
            "is damaged; ingesting its source again mends it"
        )
    return np.asarray(vectors, np.float32)


def _write_stable(reader: Reader, temporary: Path) -> int:
    """Write the version that is the newest at the beginning of the last attempt."""
    for attempt in range(1, _ATTEMPTS + 1):
        with ExitStack() as held:
            pinned = held.enter_context(reader.pin())
            manifest, numbers = pinned.manifest, _alive(pinned)
            about = _about(pinned)
            if attempt < _ATTEMPTS:
                held.close()
                pages = _pages(reader, manifest, numbers)
            else:
                pages = _pinned_pages(pinned, numbers)
            try:
                write_pages(temporary, pages, manifest.dimension, about)
            except _VersionGoneError:
                continue
            return len(numbers)
    raise AssertionError("the last attempt holds its version")


def _alive(snapshot: Snapshot) -> Numbers:
    """Return the numbers of all chunks, rising, as the vectors know them."""
    blocks = [numbers for numbers, _ in snapshot.manifest.blocks()]
    numbers = np.sort(np.concatenate(blocks)) if blocks else np.zeros(0, np.int64)
    alive: Numbers = numbers[snapshot.manifest.alive(numbers)]
    if len(alive) != snapshot.count():
        raise StoreCorruptedError(
            f"{snapshot.catalog.path} counts {snapshot.count()} chunks, and there are {len(alive)} vectors. Run "
            "`oraculo verify` to see what is damaged"
        )
    return alive


def _about(snapshot: Snapshot) -> dict[str, str]:
    return {
        "oraculo_kit.embedder": snapshot.catalog.meta("embedder") or "",
        "oraculo_kit.dimension": str(snapshot.manifest.dimension),
        "oraculo_kit.commit": str(snapshot.manifest.commit),
    }


def _page_numbers(manifest: Manifest, numbers: Numbers) -> Iterator[Numbers]:
    step = max(1, min(_PAGE_ROWS, _PAGE_BYTES // (4 * max(manifest.dimension, 1))))
    for start in range(0, len(numbers), step):
        yield numbers[start : start + step]


def _pages(
    reader: Reader, manifest: Manifest, numbers: Numbers
) -> Iterator[tuple[list[StoredChunk], Vectors]]:
    for wanted in _page_numbers(manifest, numbers):
        with reader.pin() as snapshot:
            chunks = snapshot.chunks(wanted)
            catalog = snapshot.catalog.path
        if len(chunks) != len(wanted):
            raise _VersionGoneError
        yield chunks, _all_vectors(manifest, wanted, catalog)


def _pinned_pages(snapshot: Snapshot, numbers: Numbers) -> Iterator[tuple[list[StoredChunk], Vectors]]:
    for wanted in _page_numbers(snapshot.manifest, numbers):
        chunks = snapshot.chunks(wanted)
        if len(chunks) != len(wanted):
            raise StoreCorruptedError(
                f"{len(wanted) - len(chunks)} vectors have no chunk in {snapshot.catalog.path}. Run `oraculo verify` "
                "to see what else is damaged"
            )
        yield chunks, _all_vectors(snapshot.manifest, wanted, snapshot.catalog.path)


def _import_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise StorageError(
            f"to_parquet() needs pyarrow, which is not installed ({exc}). Install it: "
            'pip install "oraculo_kit[parquet]"'
        ) from exc
    return pyarrow


def write_pages(
    path: Path, pages: Iterator[tuple[list[StoredChunk], Vectors]], dimension: int, about: dict[str, str]
) -> None:
    """Write pages of chunks with their vectors to a file; `about` goes into its own metadata."""
    pa = _import_pyarrow()
    # Parquet has no fixed-size list of size 0: an empty store has no dimension yet.
    vector = pa.list_(pa.float32(), dimension) if dimension else pa.list_(pa.float32())
    columns = {"id": pa.string(), "source": pa.string(), "ordinal": pa.int64(), "text": pa.string()}
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    fields += [pa.field("metadata", pa.string(), nullable=False), pa.field("vector", vector, nullable=False)]
    schema = pa.schema(fields, metadata=about)
    with pa.parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=["source"]) as writer:
        for chunks, vectors in pages:
            arrays = [
                [chunk.id for chunk in chunks],
                [chunk.source for chunk in chunks],
                [chunk.ordinal for chunk in chunks],
                [chunk.text for chunk in chunks],
                [_json(chunk.metadata) for chunk in chunks],
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension),
            ]
            writer.write_table(pa.table(arrays, schema=schema))


def _json(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
