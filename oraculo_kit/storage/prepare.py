"""From documents to rows: everything of a write that can be done before the lock is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import SourceError, VectorsError
from oraculo_kit.storage.fulltext import stem_text
from oraculo_kit.storage.language import detect_language
from oraculo_kit.storage.records import (
    ChunkRow,
    LedgerEntry,
    SourceWrite,
    chunk_id,
    clean_text,
    metadata_json,
    shared_metadata,
)

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from numpy.typing import NDArray

_LANGUAGE_SAMPLE = 4000  # characters; enough for stop words to tell Portuguese from English


def prepare_source(
    source: str,
    documents: Sequence[Document],
    vectors: NDArray[np.float32],
    ids: Sequence[str | None],
    *,
    whole: bool,
    ledger: LedgerEntry | None = None,
) -> SourceWrite:
    """Make the rows of one source.

    Parameters
    ----------
    source : str
    documents : sequence of Document
    vectors : numpy.ndarray
        float32, shape (len(documents), dimension), checked.
    ids : sequence of str or None
        None: made from source, place and text.
    whole : bool
        The documents are all that the source has; then metadata they share is stored once.
    ledger : LedgerEntry, optional

    Returns
    -------
    SourceWrite

    Raises
    ------
    SourceError
        For metadata that cannot be stored, or a document without text.
    """
    source = clean_text(source)
    texts = [_text(document) for document in documents]
    metadatas = [
        {key: value for key, value in document.metadata.items() if key != "source"} for document in documents
    ]
    shared = shared_metadata(metadatas) if whole else {}
    language = shared.get("lang") or (metadatas[0].get("lang") if metadatas else None)
    if language is None:
        language = detect_language("\n".join(texts[:8])[:_LANGUAGE_SAMPLE])
    rows: dict[str, ChunkRow] = {}
    places: dict[str, int] = {}
    for ordinal, (text, metadata, given) in enumerate(zip(texts, metadatas, ids, strict=True)):
        own = {key: value for key, value in metadata.items() if key not in shared}
        name = clean_text(given) if given is not None else chunk_id(source, ordinal, text)
        rows.pop(name, None)  # the same id twice in one write: the last one counts
        rows[name] = ChunkRow(
            id=name,
            ordinal=ordinal,
            text=text,
            metadata=metadata_json(own),
            inherits=whole,
            stems=stem_text(text),
        )
        places[name] = ordinal
    kept = [places[name] for name in rows]
    return SourceWrite(
        key=source,
        rows=list(rows.values()),
        vectors=vectors if len(kept) == len(texts) else vectors[kept],
        whole=whole,
        metadata=metadata_json(shared),
        language=language if isinstance(language, str) else None,
        ledger=ledger or LedgerEntry(),
        metadata_keys=frozenset(
            clean_text(key) for metadata in metadatas for key in metadata if key not in shared
        ),
        shared_keys=frozenset(map(clean_text, shared)),
    )


def _text(document: Document) -> str:
    text: Any = document.page_content
    if not isinstance(text, str):
        raise SourceError(f"a document's text is {type(text).__name__}, expected str")
    return clean_text(text)


def check_vectors(vectors: Any, count: int) -> NDArray[np.float32]:
    """Return ready-made vectors as float32 rows of length one.

    Parameters
    ----------
    vectors : array_like
        Shape (count, dimension).
    count : int
        How many documents they belong to.

    Raises
    ------
    VectorsError
        For a wrong shape, values that are no numbers, NaN, infinity or a row of zeros.
    """
    try:
        matrix = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise VectorsError(
            f"got {type(vectors).__name__} as vectors, expected a matrix of numbers: {exc}"
        ) from exc
    if matrix.ndim != 2 or len(matrix) != count or (count and not matrix.shape[1]):
        raise VectorsError(
            f"got vectors of shape {matrix.shape}, expected ({count}, dimension): one row per document"
        )
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    wrong = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(wrong):
        raise VectorsError(
            f"{len(wrong)} of {count} vectors hold NaN, infinity or only zeros, the first in row {wrong[0]}. "
            "Nothing was stored; give real vectors, or leave `vectors` out to have the texts embedded"
        )
    if np.abs(lengths - 1).max(initial=0.0) < 1e-6:
        return np.ascontiguousarray(matrix)
    unit: NDArray[np.float32] = (matrix / lengths[:, None]).astype(np.float32)
    return unit
