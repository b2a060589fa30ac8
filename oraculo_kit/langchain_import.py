"""Bring a FAISS store that LangChain saved (``FAISS.save_local``) into ours, without embedding anything again.

Such a store is two files: ``index.faiss`` with the vectors, read by `oraculo_kit.flat_index`, and ``index.pkl``
with the texts, a pickle, read by `oraculo_kit.plain_pickle`. Neither LangChain's packages nor FAISS's reader are
used, and nothing that the pickle names is ever called. Both files are checked whole before the first write.
"""

from __future__ import annotations

import mmap
import os
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.discovery import source_key
from oraculo_kit.errors import (
    EmbedderMismatchError,
    ExtractionError,
    SourceError,
    SourceNotFoundError,
    SourceUnreadableError,
    VectorsError,
)
from oraculo_kit.flat_index import FlatIndex
from oraculo_kit.plain_pickle import Record, read_plain_pickle
from oraculo_kit.storage.records import grouped, metadata_json

if TYPE_CHECKING:
    from oraculo_kit.storage import VetorStorage

_DOCSTORES = frozenset(
    {
        ("langchain_community.docstore.in_memory", "InMemoryDocstore"),
        ("langchain.docstore.in_memory", "InMemoryDocstore"),
    }
)
_DOCUMENTS = frozenset(
    {
        ("langchain_core.documents.base", "Document"),
        ("langchain.schema.document", "Document"),
        ("langchain.schema", "Document"),
        ("langchain.docstore.document", "Document"),
    }
)

_BATCH_ROWS = 4096  # enough for a segment of its own
_BATCH_BYTES = 64_000_000  # of vectors
_BATCH_CHARACTERS = 32_000_000

# A pickle can name one list a thousand times, and that list another: written out as JSON it would have no end.
_METADATA_VALUES = 100_000
_METADATA_CHARACTERS = 10_000_000
_METADATA_DEPTH = 100

_SAMPLES = 3
_SAME_MODEL = 0.99  # cosine; models on a GPU or behind an API give 0.9999 for one text twice


@dataclass(frozen=True, slots=True)
class _Chunk:
    id: str
    text: str
    metadata: dict[str, Any]


def import_langchain_faiss(
    path: str | os.PathLike[str],
    storage: VetorStorage | None = None,
    *,
    index_name: str = "index",
    check_embedder: bool = True,
) -> int:
    """Bring a FAISS store that LangChain saved into a store of ours: texts, metadata, ids and vectors.

    Nothing is embedded again, but for three texts that show whether the store's embedder made these vectors. The
    vectors are brought to length one, as in all our stores: an inner-product or L2 index of vectors that had that
    length (OpenAI's do) gives the same order as before, any other is searched by cosine from now on.

    Writes are durable batch by batch; after an interruption, or once more later, the same call completes them: an
    id that exists is replaced, so nothing is there twice.

    Parameters
    ----------
    path : path
        The folder that ``FAISS.save_local`` wrote.
    storage : VetorStorage, optional
        An open store; by default that of the services. Open it with the embedder that made the vectors.
    index_name : str
        As given to ``save_local``: the files are ``<index_name>.faiss`` and ``<index_name>.pkl``.
    check_embedder : bool
        Embed three of the texts and compare them with their vectors. Switch it off when vectors were made from
        other texts than those stored (summaries, say), or when the embedder cannot run now.

    Returns
    -------
    int
        How many chunks were imported.

    Raises
    ------
    SourceNotFoundError, SourceUnreadableError
        When a file is missing or cannot be read.
    ExtractionError
        When a file is damaged, the two do not belong together, or the pickle names anything but LangChain's
        documents and plain data.
    UnsupportedFormatError
        When the index is not a flat one.
    SourceError
        For metadata that cannot be stored.
    VectorsError
        When the store has vectors of another dimension, or a vector holds NaN, infinity or only zeros.
    EmbedderMismatchError
        When the store's embedder gives other vectors for these texts.

    In all these cases nothing was stored.

    Warns
    -----
    UserWarning
        When documents have no vector; LangChain does not find them either, and they are left out.

    Notes
    -----
    A chunk without ``metadata["source"]`` gets the absolute path of ``index.faiss`` as its source, so that it is
    listed by `oraculo_kit.sources`, and ``remove(source)`` deletes what was imported. Texts and metadata are held
    in memory once, as LangChain itself does; vectors are copied some 64 MB at a time.

    Examples
    --------
    >>> import_langchain_faiss("faiss_index", storage)  # doctest: +SKIP
    18342
    """
    if storage is None:
        from oraculo_kit.services import ensure_services

        storage = ensure_services().vetor_storage
    base = os.path.abspath(path)
    index = _read_index(Path(base, f"{index_name}.faiss"))
    chunks = _read_chunks(Path(base, f"{index_name}.pkl"), index)
    _check_dimension(index, storage)
    index.check_rows()
    if check_embedder:
        _check_embedder(chunks, index, storage)
    for rows in _batches(chunks, index.dimension):
        _write(storage, [chunks[row] for row in rows], np.array(index.vectors[rows], np.float32))
    return len(chunks)


def _write(storage: VetorStorage, chunks: list[_Chunk], vectors: Any) -> None:
    from langchain_core.documents import Document

    documents = [Document(page_content=chunk.text, metadata=chunk.metadata, id=chunk.id) for chunk in chunks]
    storage.write(documents, vectors=vectors)


def _read_index(path: Path) -> FlatIndex:
    try:
        return FlatIndex(path)
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _unreadable(path: Path, exc: OSError) -> SourceError:
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return SourceNotFoundError(
            f"there is no file {path}; expected the folder that FAISS.save_local() wrote, with index_name= as there"
        )
    return SourceUnreadableError(
        f"cannot read {path}: {exc.strerror or exc}. Check the permissions and the disk"
    )


def _read_chunks(path: Path, index: FlatIndex) -> list[_Chunk]:
    """Return the chunks in the order of the index's rows."""
    docstore, ids = _docstore_and_ids(_read_pickle(path), path)
    if len(ids) != len(index) or any(row not in ids for row in range(len(index))):
        raise ExtractionError(
            f"{path} maps {len(ids)} rows to documents, and {index.path} has {len(index)} vectors; the two files do "
            "not belong together, and nothing was stored. Copy both again from where they were made"
        )
    if len(set(ids.values())) != len(ids):
        raise ExtractionError(f"{path} maps several rows to one document; nothing was stored. Save it anew")
    without = len(docstore) - len(ids)
    default = source_key(index.path)
    chunks = [_chunk(docstore, ids[row], default, path) for row in range(len(index))]
    if without:
        warnings.warn(
            f"{without} documents of {path} have no vector and are left out; LangChain does not find them either",
            UserWarning,
            stacklevel=3,
        )
    return chunks


def _read_pickle(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ExtractionError(f"{path} is empty; copy it again from where it was made")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read_plain_pickle(data, file=str(path), records=_DOCSTORES | _DOCUMENTS)
    except SourceError:
        raise
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _docstore_and_ids(content: Any, path: Path) -> tuple[dict[Any, Any], dict[int, str]]:
    match content:
        case (Record(name=name, state={"_dict": dict(docstore)}), dict(ids)) if name in _DOCSTORES:
            if all(type(row) is int and type(name) is str for row, name in ids.items()):
                return docstore, ids
    raise ExtractionError(
        f"{path} is no LangChain FAISS store: expected an InMemoryDocstore and the ids of the index's rows. Give the "
        "folder that FAISS.save_local() wrote"
    )


def _chunk(docstore: dict[Any, Any], name: str, default_source: str, path: Path) -> _Chunk:
    match docstore.get(name):
        case Record(
            name=kind, state={"__dict__": {"page_content": str(text), "metadata": dict(metadata)}}
        ) if kind in _DOCUMENTS:
            metadata = _plain_metadata(metadata, name, path)
            if not metadata.get("source"):
                metadata["source"] = default_source
            return _Chunk(name, text, metadata)
    raise ExtractionError(
        f"{path} has no document with text and metadata for the id {name[:100]!r}; nothing was stored. Copy the "
        "folder again from where it was made"
    )


def _plain_metadata(metadata: dict[Any, Any], name: str, path: Path) -> dict[str, Any]:
    """Return metadata as the store takes it, or refuse it before anything is written."""
    try:
        plain: dict[str, Any] = _Budget().spent_on(metadata, 0)
        metadata_json(plain)
    except SourceError as exc:
        raise SourceError(f"{path}, document {name[:100]!r}: {exc}. Nothing was stored") from exc
    return plain


class _Budget:
    """Copies a metadata value, as a tree, as long as it stays within bounds."""

    def __init__(self) -> None:
        self._values = _METADATA_VALUES
        self._characters = _METADATA_CHARACTERS

    def spent_on(self, value: Any, depth: int) -> Any:
        self._values -= 1
        if isinstance(value, str | bytes):
            self._characters -= len(value)
        if self._values < 0 or self._characters < 0 or depth > _METADATA_DEPTH:
            raise SourceError(
                f"its metadata has more than {_METADATA_VALUES} values, {_METADATA_CHARACTERS} characters or "
                f"{_METADATA_DEPTH} levels"
            )
        if isinstance(value, dict):
            return {key: self.spent_on(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.spent_on(item, depth + 1) for item in value]
        if isinstance(value, Record):
            return _uuid_text(value)
        return value


def _uuid_text(record: Record) -> str:
    number = record.state.get("int")
    if record.name != ("uuid", "UUID") or type(number) is not int or not 0 <= number < 2**128:
        raise SourceError(
            f"its metadata holds a {'.'.join(record.name)}, expected text, numbers, dates and lists or dicts of these"
        )
    return str(uuid.UUID(int=number))


def _check_dimension(index: FlatIndex, storage: VetorStorage) -> None:
    dimension = storage.stats().dimension
    if dimension and dimension != index.dimension:
        raise VectorsError(
            f"{index.path} has vectors of dimension {index.dimension}, expected {dimension} as the store "
            f"{storage.location} has; nothing was stored. Import into a new store, opened with the embedder that made "
            "the vectors"
        )


def _check_embedder(chunks: list[_Chunk], index: FlatIndex, storage: VetorStorage) -> None:
    written = [row for row, chunk in enumerate(chunks) if chunk.text.strip()]
    rows = written[:: max(1, len(written) // _SAMPLES)][:_SAMPLES]
    if not rows:
        return
    expected = storage.embedder.embed([chunks[row].text for row in rows])
    advice = (
        "Open the store with the embedder that made the vectors, or pass check_embedder=False if they are right "
        "all the same"
    )
    if expected.shape[1] != index.dimension:
        raise EmbedderMismatchError(
            f"{index.path} has vectors of dimension {index.dimension}, and the store's embedder "
            f"{storage.embedder.name} makes {expected.shape[1]}; nothing was stored. {advice}"
        )
    found = np.array(index.vectors[rows], np.float64)
    cosines = np.einsum("ij,ij->i", found, expected) / np.linalg.norm(found, axis=1)
    if cosines.max() < _SAME_MODEL:
        raise EmbedderMismatchError(
            f"the store's embedder {storage.embedder.name} gives other vectors than {index.path} has (cosine "
            f"{cosines.max():.3f} for the same text, expected 1); nothing was stored. {advice}"
        )


def _batches(chunks: list[_Chunk], dimension: int) -> Iterator[list[int]]:
    """Yield rows, source by source, so that the chunks of a source stay together and in order."""
    most = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (4 * dimension)))
    batch: list[int] = []
    characters = 0
    for rows in grouped(str(chunk.metadata["source"]) for chunk in chunks).values():
        if batch and len(batch) + len(rows) > most >= len(rows):
            yield batch
            batch, characters = [], 0
        for row in rows:
            batch.append(row)
            characters += len(chunks[row].text)
            if len(batch) == most or characters > _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch
