"""From documents to rows: everything of a write that can be done before the lock is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import QueryError, SourceError, VectorsError
from oraculo_kit.storage.fulltext import stem_text
from oraculo_kit.storage.language import detect_language
from oraculo_kit.storage.records import (
    ChunkRow,
    LedgerEntry,
    SourceWrite,
    chunk_id,
    clean_text,
    grouped,
    metadata_json,
    shared_metadata,
)
from oraculo_kit.vectors import row_lengths, unit_rows, without_direction

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from oraculo_kit.storage.runs import SourceOutcome
    from oraculo_kit.storage.values import SourceDocuments

_LANGUAGE_SAMPLE = 4000  # characters; enough for stop words to tell Portuguese from English


def prepare_source(
    source: str,
    documents: Sequence[Document],
    vectors: NDArray[np.float32],
    ids: Sequence[str | None],
    *,
    whole: bool,
    ledger: LedgerEntry | None = None,
    outcome: SourceOutcome | None = None,
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
    outcome : SourceOutcome, optional
        What to note of it in its run.

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
        outcome=outcome,
    )


def given_ids(documents: Sequence[Document], ids: Any) -> list[str | None]:
    """Return the id that each document is to have; None where it is made.

    Raises
    ------
    QueryError
        When there is not one per document, or one is no text.
    """
    if ids is None:
        return [document.id for document in documents]
    if len(ids) != len(documents):
        raise QueryError(f"got {len(ids)} ids for {len(documents)} documents, expected one per document")
    wrong = next((one for one in ids if one is not None and not isinstance(one, str)), None)
    if wrong is not None:
        raise QueryError(f"got an id of type {type(wrong).__name__}, expected texts")
    return list(ids)


def prepare_chunks(
    documents: Sequence[Document], vectors: NDArray[np.float32], ids: Sequence[str | None]
) -> tuple[list[SourceWrite], list[str]]:
    """Make the rows of chunks of any sources; return them by source, and the id of each document."""
    groups = grouped(str(document.metadata.get("source") or "") for document in documents)
    writes, names = [], [""] * len(documents)
    for source, places in groups.items():
        write = prepare_source(
            source,
            [documents[place] for place in places],
            vectors[places] if len(groups) > 1 else vectors,
            [ids[place] for place in places],
            whole=False,
        )
        writes.append(write)
        by_ordinal = {row.ordinal: row.id for row in write.rows}
        for ordinal, place in enumerate(places):
            names[place] = by_ordinal.get(ordinal) or str(ids[place])
    return writes, names


def prepare_sources(sources: Sequence[SourceDocuments]) -> list[SourceWrite]:
    """Make the rows of whole sources.

    Raises
    ------
    SourceError, VectorsError
    """
    return [
        prepare_source(
            item.source,
            item.documents,
            check_vectors(item.vectors, len(item.documents)) if len(item.documents) else item.vectors,
            [document.id for document in item.documents],
            whole=True,
            ledger=item.ledger,
            outcome=item.outcome,
        )
        for item in sources
    ]


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
    lengths = row_lengths(matrix)
    wrong = without_direction(lengths)
    if len(wrong):
        raise VectorsError(
            f"{len(wrong)} of {count} vectors hold NaN, infinity or only zeros, the first in row {wrong[0]}. "
            "Nothing was stored; give real vectors, or leave `vectors` out to have the texts embedded"
        )
    return unit_rows(matrix, lengths)
