"""Immutable files of vectors, mapped into memory.

A segment holds the vectors of many chunks with the chunks' numbers in rising order. Once its name stands in the
catalog it is never changed: only replaced by another segment and then deleted. So any number of processes map
the same pages, and a reader needs no lock.

File layout, little-endian::

    offset  0   magic b"ORACSEG1"
            8   uint32 dimension, uint32 bytes per component (4 or 2), uint64 rows
           24   uint64 offset of the vectors
           32   uint32 CRC-32 of bytes 0-31
           64   int64  chunk numbers [rows], rising
        (aligned to 64)
                float32 or float16 vectors [rows, dimension], rows of length one

On open, header and size are checked, which costs nothing; the digest over the whole file stands in the
catalog, and ``verify()`` computes it again.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import StoreCorruptedError
from oraculo_kit.storage.sharing import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"ORACSEG1"
_HEADER = struct.Struct("<8sIIQQ")
_NUMBERS_AT = 64
_DTYPES = {4: "<f4", 2: "<f2"}
_ALIGNMENT = 64


class Segment:
    """A mapped segment.

    Attributes
    ----------
    name : str
        File name.
    numbers : numpy.ndarray
        int64, shape (rows,), rising: the chunks' numbers.
    vectors : numpy.ndarray
        float32 or float16, shape (rows, dimension); read-only, backed by the file.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = file.read(_NUMBERS_AT)
            if len(header) < _NUMBERS_AT:
                raise _damaged(path, f"it has {size} bytes, too few for a header")
            magic, dimension, width, rows, vectors_at = _HEADER.unpack_from(header)
            (checksum,) = struct.unpack_from("<I", header, _HEADER.size)
            if magic != _MAGIC or width not in _DTYPES or checksum != zlib.crc32(header[: _HEADER.size]):
                raise _damaged(path, "its header is not that of a segment")
            if size != vectors_at + rows * dimension * width:
                raise _damaged(path, f"it has {size} bytes, expected {vectors_at + rows * dimension * width}")
            self._mapped = mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.numbers: NDArray[np.int64] = np.frombuffer(mapped, "<i8", rows, _NUMBERS_AT)
        self.vectors: NDArray[np.floating[Any]] = np.frombuffer(
            mapped, _DTYPES[width], rows * dimension, vectors_at
        ).reshape(rows, dimension)

    def let_go(self) -> None:
        """Give back the memory of what was read so far; reading it again gets it from the system's cache."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def positions(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return where `numbers` stand in this segment, and which of them do."""
        return sorted_positions(self.numbers, numbers)


def sorted_positions(
    haystack: NDArray[np.int64], needles: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Find `needles` in the rising array `haystack`.

    Returns
    -------
    positions : numpy.ndarray
        Shape of `needles`; meaningful where `found`.
    found : numpy.ndarray
        bool, shape of `needles`.

    Examples
    --------
    >>> sorted_positions(np.array([2, 5, 9]), np.array([9, 3]))[1].tolist()
    [True, False]
    """
    if len(haystack) == 0:
        return np.zeros(needles.shape, np.intp), np.zeros(needles.shape, np.bool_)
    positions = np.minimum(np.searchsorted(haystack, needles), len(haystack) - 1)
    return positions, haystack[positions] == needles


def write_segment(
    path: Path,
    numbers: NDArray[np.int64],
    blocks: Iterable[NDArray[np.floating[Any]]],
    dimension: int,
    width: int = 4,
) -> tuple[int, str]:
    """Write a segment so that it is durable and complete under its name, or not there at all.

    Parameters
    ----------
    path : pathlib.Path
        Final path; its name must be registered in the catalog first.
    numbers : numpy.ndarray
        int64, shape (rows,), rising.
    blocks : iterable of numpy.ndarray
        Blocks of floats that make up (rows, dimension) together.
    dimension : int
        Length of a vector.
    width : {4, 2}
        Bytes per component: float32 or float16.

    Returns
    -------
    size : int
        Bytes written.
    digest : str
        Hex digest of the whole file (BLAKE2b, 16 bytes).
    """
    rows = len(numbers)
    vectors_at = -(-(_NUMBERS_AT + rows * 8) // _ALIGNMENT) * _ALIGNMENT
    header = _HEADER.pack(_MAGIC, dimension, width, rows, vectors_at)
    header += struct.pack("<I", zlib.crc32(header))
    digest = hashlib.blake2b(digest_size=16)
    temporary = path.with_name(path.name + ".tmp")
    written = 0
    try:
        with open(temporary, "wb") as file:
            prefix = header.ljust(_NUMBERS_AT, b"\0") + np.ascontiguousarray(numbers, "<i8").tobytes()
            parts = (
                np.ascontiguousarray(block, _DTYPES[width]).reshape(-1).view(np.uint8).data
                for block in blocks
            )
            for part in chain([memoryview(prefix.ljust(vectors_at, b"\0"))], parts):
                file.write(part)
                digest.update(part)
                written += len(part)
            if written != vectors_at + rows * dimension * width:
                raise ValueError(f"{written} bytes of vectors for {rows} numbers of dimension {dimension}")
            file.flush()
            share(temporary)
            sync_file(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # the disk may be full: of half a file nobody has anything
        raise
    sync_folder(path.parent)
    return written, digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a whole file, as `write_segment` computes it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def sync_file(descriptor: int) -> None:
    """Force a file to the disk itself; on macOS ``fsync`` alone stops at the drive's cache."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_path(path: Path) -> None:
    """Force what was written to a file to the disk."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries (new names, renames) to the disk. Windows has no such call and needs none."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(path: Path, reason: str) -> StoreCorruptedError:
    return StoreCorruptedError(
        f"the segment {path} is damaged: {reason}. Nothing was changed. Restore the file from a copy, or run "
        "`oraculo repair`: it makes the vectors again from the stored texts"
    )
