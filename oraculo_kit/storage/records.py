"""What goes into a commit and what comes out of a search: plain data, no I/O.

A chunk is one row: its id, its place in its source, its text, its metadata. Metadata that every chunk of a
source shares is stored once with the source; a chunk that `inherits` adds it to its own.

Identity: a chunk's id is a hash of (source, ordinal, text), so two equal files keep their own chunks, and the
same file ingested twice gives the same ids on every machine.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oraculo_kit.storage.runs import SourceOutcome

MAX_INTEGER_BITS = 10_000  # Python itself refuses to write integers of more than 4,300 digits as text
_MAX_DEPTH = 100
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps makes one each time


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What the ledger knows of a source, written in the same commit as its chunks.

    Attributes
    ----------
    content_hash : str
        Hash of the source's bytes; None when unknown, which makes the next ingestion read it again.
    bytes : int or None
        Size of the source.
    mtime_ns : int or None
        Time of its last modification, nanoseconds since 1970.
    pipeline : str
        Fingerprint of how it was split and embedded; another one makes the next ingestion redo it. It ends with "|"
        and the embedder's name.
    run : str
        Id of the ingestion run.
    """

    content_hash: str | None = None
    bytes: int | None = None
    mtime_ns: int | None = None
    pipeline: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One chunk as it stands in the catalog, without its vector."""

    id: str
    ordinal: int
    text: str
    metadata: str
    inherits: bool
    stems: str

    @property
    def checksum(self) -> int:
        """CRC-32 over all that the catalog stores of this chunk; see `row_checksum`."""
        return row_checksum(self.id, self.ordinal, self.text, self.metadata)


@dataclass(slots=True)
class SourceWrite:
    """Chunks to be written into one source.

    Attributes
    ----------
    key : str
        The source.
    rows : list of ChunkRow
    vectors : numpy.ndarray
        float32, shape (len(rows), dimension).
    whole : bool
        True: these rows replace everything the source had. False: they are added, replacing equal ids.
    metadata : str
        JSON object shared by all chunks that inherit.
    ledger : LedgerEntry
    outcome : SourceOutcome or None
        What to note of it in its run.
    """

    key: str
    rows: list[ChunkRow]
    vectors: NDArray[np.float32]
    whole: bool
    metadata: str = "{}"
    language: str | None = None
    ledger: LedgerEntry = field(default_factory=LedgerEntry)
    metadata_keys: frozenset[str] = frozenset()
    shared_keys: frozenset[str] = frozenset()
    outcome: SourceOutcome | None = None

    @property
    def checksum(self) -> int:
        """CRC-32 over what the chunks share; see `source_checksum`."""
        return source_checksum(self.key, self.metadata, self.language)


def disjoint_writes(writes: Sequence[SourceWrite]) -> Iterator[list[SourceWrite]]:
    """Yield writes that can be made together, in order: no source and no id twice. Nearly always they are one part.

    What is written twice stands as it was written last.
    """
    part: list[SourceWrite] = []
    keys: set[str] = set()
    ids: set[str] = set()
    for write in writes:
        own = {row.id for row in write.rows}
        if write.key in keys or not ids.isdisjoint(own):
            yield part
            part, keys, ids = [], set(), set()
        part.append(write)
        keys.add(write.key)
        ids |= own
    if part:
        yield part


def row_checksum(chunk_id: str, ordinal: int, text: str, metadata: str) -> int:
    """Return the CRC-32 that guards a chunk's row."""
    return zlib.crc32(f"{chunk_id}\0{ordinal}\0{metadata}\0{text}".encode())


def source_checksum(key: str, metadata: str, language: str | None) -> int:
    """Return the CRC-32 that guards what every chunk of a source shares."""
    return zlib.crc32(f"{key}\0{language or ''}\0{metadata}".encode())


def chunk_id(source: str, ordinal: int, text: str) -> str:
    """Return the id of a chunk: 32 hex digits of BLAKE2b over source, ordinal and text.

    Examples
    --------
    >>> chunk_id("a.txt", 0, "olá") == chunk_id("b.txt", 0, "olá")
    False
    """
    content = f"{source}\0{ordinal}\0{text}".encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def clean_text(text: str) -> str:
    """Return `text` with lone surrogates replaced: they have no UTF-8 form, so no database can hold them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Return metadata as compact JSON that keeps types apart and integers exact.

    Dates become ISO 8601 text, numpy scalars Python numbers, NaN and infinity null (JSON has neither).

    Raises
    ------
    SourceError
        For a key that is not text, a value that JSON cannot hold, or one too large or too deeply nested.

    Examples
    --------
    >>> metadata_json({"page": 3, "ok": True, "n": 2**70})
    '{"page":3,"ok":true,"n":1180591620717411303424}'
    """
    if not metadata:
        return "{}"
    return _encode({_key(key): _plain(value, str(key), 0) for key, value in metadata.items()})


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise SourceError(f"metadata key {key!r} is {type(key).__name__}, expected a text")
    return clean_text(key)


def _plain(value: Any, name: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        # SQLite's JSON functions refuse a row nested deeper than 1000, and with it every filtered search.
        raise SourceError(
            f"metadata {name!r} is nested more than {_MAX_DEPTH} levels deep; flatten it, or store it as text"
        )
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(str.__str__(value))
    if isinstance(value, int):
        if value.bit_length() > MAX_INTEGER_BITS:
            raise SourceError(
                f"metadata {name!r} holds an integer of {value.bit_length()} bits; store it as text"
            )
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        # str(NaT) and friends: pandas' missing date is a datetime whose isoformat() is "NaT".
        text = value.isoformat()
        return None if text == "NaT" else text
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, name, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, name, depth + 1) for item in value]
    if hasattr(value, "item") and hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        return _plain(value.item(), name, depth)
    if hasattr(value, "__fspath__") or type(value).__name__ in {"UUID", "Decimal"}:
        return clean_text(str(value))
    if type(value).__name__ in {"NAType", "NaTType"}:
        return None
    raise SourceError(
        f"metadata {name!r} holds a {type(value).__name__}, expected text, number, true/false, None, a date, or "
        "lists and dicts of these. Convert it first"
    )


def shared_metadata(metadatas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the items that all of `metadatas` have in common, with equal type and value.

    Examples
    --------
    >>> shared_metadata([{"lang": "pt", "page": 1}, {"lang": "pt", "page": 2}])
    {'lang': 'pt'}
    """
    if not metadatas:
        return {}
    shared = dict(metadatas[0])
    for metadata in metadatas[1:]:
        for key in [key for key in shared if key not in metadata or not _same(shared[key], metadata[key])]:
            del shared[key]
        if not shared:
            break
    return shared


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, str | int | float | bool) and one == other


def merge_metadata(source: str, source_metadata: str, metadata: str, inherits: bool) -> dict[str, Any]:
    """Return a chunk's whole metadata: ``source``, then what it inherits, then its own."""
    merged: dict[str, Any] = {"source": source} if source else {}
    if inherits:
        merged.update(json.loads(source_metadata))
    merged.update(json.loads(metadata))
    return merged


def grouped(keys: Iterable[str]) -> dict[str, list[int]]:
    """Return the positions of each key, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return groups
