"""Ask the base of this process: search it, list its sources, delete one."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Any, overload

from oraculo_kit.discovery import source_key
from oraculo_kit.errors import SourceNotFoundError
from oraculo_kit.services import ensure_services

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import Mode
    from oraculo_kit.storage.filters import Filter
    from oraculo_kit.storage.results import SearchResults


@overload
def search(
    query: str, k: int = 5, *, mode: Mode = "hybrid", filter: Filter | None = None
) -> SearchResults: ...
@overload
def search(
    query: list[str] | tuple[str, ...], k: int = 5, *, mode: Mode = "hybrid", filter: Filter | None = None
) -> list[SearchResults]: ...
@overload
def search(
    query: NDArray[np.float32], k: int = 5, *, mode: Mode = "hybrid", filter: Filter | None = None
) -> Any: ...
def search(query: Any, k: int = 5, *, mode: Mode = "hybrid", filter: Filter | None = None) -> Any:
    """Find the chunks of the base that answer a query best.

    Parameters
    ----------
    query : str, list of str, or numpy.ndarray
        A text, many texts, or float32 vectors of shape (dimension,) or (n, dimension).
    k : int
        How many hits.
    mode : {"hybrid", "vector", "text"}
        Full text and vectors together, or one of them.
    filter : dict, optional
        Metadata filter such as ``{"lang": "pt"}``; see `oraculo_kit.storage.filters`.

    Returns
    -------
    SearchResults or list of SearchResults
        Hits in order, shown as a table; ``.to_pandas()``, ``.documents``. A list for many queries.

    Raises
    ------
    QueryError
        For a query, k, mode or filter that cannot be understood.
    ServicesFailedError
        When the services cannot start.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> nota = Document("Como emitir nota fiscal", metadata={"source": "ajuda.md"})
    >>> _ = oraculo.ingest([nota], progress=False)
    >>> oraculo.search("emissão de notas", k=1)[0].source
    'ajuda.md'
    """
    return ensure_services().vetor_storage.search(query, k, mode=mode, filter=filter)


def sources() -> pd.DataFrame:
    """Return what is in the base: one row per source.

    Returns
    -------
    pandas.DataFrame
        Columns source, chunks, lang, title, bytes, modified, written_at.
    """
    import pandas as pd

    rows = [
        (
            row.source,
            row.chunks,
            row.language,
            row.metadata.get("title"),
            row.ledger.bytes,
            row.metadata.get("modified"),
            row.written_at,
        )
        for row in ensure_services().vetor_storage.sources()
    ]
    return pd.DataFrame(
        rows, columns=["source", "chunks", "lang", "title", "bytes", "modified", "written_at"]
    )


def remove(source: str | os.PathLike[str]) -> int:
    """Delete a source and all its chunks from the base; the file itself stays.

    Parameters
    ----------
    source : path or str
        A path, or a key as `sources` shows it.

    Returns
    -------
    int
        Chunks deleted.

    Raises
    ------
    SourceNotFoundError
        When the base has no such source; names the nearest one.
    """
    storage = ensure_services().vetor_storage
    keys = (os.fspath(source), source_key(source))
    for key in keys:
        if storage.ledger([key]):
            return storage.remove_by_metadata("source", key)
    known = [row.source for row in storage.sources()]
    near = [match for key in keys for match in difflib.get_close_matches(key, known, 1)]
    hint = f"did you mean {near[0]!r}?" if near else "oraculo_kit.sources() lists what there is"
    raise SourceNotFoundError(f"the base {storage.location} has no source {os.fspath(source)!r}; {hint}")
