"""Read the file of a flat FAISS index, without FAISS: its own reader trusts what it reads.

Layout, little-endian, as ``faiss.write_index`` has written it since 2017::

    offset  0   b"IxF2" (squared L2) or b"IxFI" (inner product)
            4   int32 dimension, int64 rows, int64 and int64 unused, uint8 trained, int32 metric
           37   uint64 number of floats
           45   float32 vectors [rows, dimension]

Every number is checked against the others and against the file's size. The vectors have no checksum: a damaged
value among them cannot be noticed here unless it is not finite.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.errors import ExtractionError, UnsupportedFormatError, VectorsError
from oraculo_kit.vectors import row_lengths, without_direction

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER = struct.Struct("<4siqqqBiQ")
_METRICS = {b"IxFI": 0, b"IxF2": 1}
_LARGEST_DIMENSION = 1_000_000
_OTHERS = {
    b"IxFl": "flat with another metric",
    b"IxMp": "with ids of its own (IDMap)",
    b"IxM2": "with ids of its own (IDMap2)",
    b"IHNf": "HNSW",
    b"IHN2": "HNSW",
    b"IHNs": "HNSW, quantised",
    b"IHNp": "HNSW, quantised",
    b"IwFl": "inverted lists (IVF)",
    b"IwPQ": "inverted lists, product-quantised (IVFPQ)",
    b"IwSq": "inverted lists, quantised (IVF, SQ)",
    b"IxPq": "product-quantised (PQ)",
    b"IxSQ": "scalar-quantised (SQ)",
    b"IxPT": "transformed (PreTransform)",
}
_CHECKED_BYTES = 16_000_000


class FlatIndex:
    """A flat index file, mapped.

    Parameters
    ----------
    path : pathlib.Path

    Attributes
    ----------
    path : pathlib.Path
    dimension : int
    metric : {"inner product", "L2"}
    vectors : numpy.ndarray
        float32, shape (rows, dimension); read-only, backed by the file and not aligned: copy what you use.

    Raises
    ------
    UnsupportedFormatError
        For any other kind of index.
    ExtractionError
        When it is cut off, or its numbers contradict each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = file.read(_HEADER.size)
            kind = header[:4]
            if kind not in _METRICS:
                raise _unsupported(path, kind)
            if len(header) < _HEADER.size:
                raise _damaged(path, f"it has {size} bytes, too few for a header")
            _, dimension, rows, _, _, _, metric, floats = _HEADER.unpack(header)
            if not 0 < dimension <= _LARGEST_DIMENSION or rows < 0 or floats != rows * dimension:
                raise _damaged(
                    path, f"it tells of {rows} rows of dimension {dimension}, and of {floats} floats"
                )
            if metric != _METRICS[kind]:
                raise _damaged(path, f"it tells of metric {metric}, expected {_METRICS[kind]}")
            if size != _HEADER.size + 4 * floats:
                raise _damaged(path, f"it has {size} bytes, expected {_HEADER.size + 4 * floats}")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.dimension: int = dimension
        self.metric = "L2" if metric else "inner product"
        self.vectors: NDArray[np.float32] = np.frombuffer(mapped, "<f4", floats, _HEADER.size).reshape(
            rows, dimension
        )

    def __len__(self) -> int:
        return len(self.vectors)

    def check_rows(self) -> None:
        """Read all vectors once.

        Raises
        ------
        VectorsError
            When a row holds NaN, infinity or only zeros: it has no direction.
        """
        step = max(1, _CHECKED_BYTES // (4 * self.dimension))
        for start in range(0, len(self), step):
            wrong = without_direction(row_lengths(np.array(self.vectors[start : start + step])))
            if len(wrong):
                raise VectorsError(
                    f"row {start + wrong[0]} of {self.path} holds NaN, infinity or only zeros, expected a vector with "
                    "a direction; nothing was stored. Delete that document in LangChain and save again"
                )


def _unsupported(path: Path, kind: bytes) -> UnsupportedFormatError:
    name = _OTHERS.get(kind, "unknown, or no FAISS index at all")
    return UnsupportedFormatError(
        f"{path} is a FAISS index of type {kind!r} ({name}), expected a flat one (IndexFlatL2 or IndexFlatIP). Make "
        "one of it: flat = faiss.IndexFlatL2(index.d); flat.add(index.reconstruct_n(0, index.ntotal)); or ingest the "
        "documents again"
    )


def _damaged(path: Path, reason: str) -> ExtractionError:
    return ExtractionError(
        f"the FAISS index {path} is damaged: {reason}; nothing was stored. Copy it again from where it was made"
    )
