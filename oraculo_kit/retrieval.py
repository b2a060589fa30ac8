"""Ask the base of this process: search it, list its sources, delete one."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Any, Unpack, overload

from oraculo_kit.discovery import source_key
from oraculo_kit.errors import QueryError, SourceNotFoundError
from oraculo_kit.services import ensure_services
from oraculo_kit.storage.base import SearchKeywords
from oraculo_kit.storage.listing import source_frame

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import Mode, VetorStorage
    from oraculo_kit.storage.filters import Filter
    from oraculo_kit.storage.results import SearchResults


class _Keywords(SearchKeywords, total=False):
    rerank: Any


@overload
def search(query: str, k: int = ..., **options: Unpack[_Keywords]) -> SearchResults: ...
@overload
def search(
    query: list[str] | tuple[str, ...], k: int = ..., **options: Unpack[_Keywords]
) -> list[SearchResults]: ...
@overload
def search(query: NDArray[Any], k: int = ..., **options: Unpack[_Keywords]) -> Any: ...
def search(
    query: Any,
    k: int = 5,
    *,
    mode: Mode = "hybrid",
    filter: Filter | None = None,
    min_score: float | None = None,
    mmr: bool | float | None = None,
    group_by: str | None = None,
    context: int = 0,
    unique: bool = True,
    explain: bool = False,
    exact: bool = False,
    rerank: Any = None,
) -> Any:
    """Find the chunks of the base that answer a query best.

    Parameters
    ----------
    query : str, list of str, or numpy.ndarray
        A text, many texts, or float32 vectors of shape (dimension,) or (n, dimension). In a text, ``"words in a
        row"`` must stand in a hit, and ``-word`` must not; nothing else is special.
    k : int
        How many hits.
    mode : {"hybrid", "vector", "text"}
        Full text and vectors together, or one of them.
    filter : dict, optional
        Metadata filter such as ``{"lang": "pt"}``; see `oraculo_kit.storage.filters`.
    min_score : float, optional
        Only chunks whose cosine with the query is at least this, from -1 to 1, in every mode.
    mmr : bool or float, optional
        Hits that differ from each other: True, or lambda from 0 (difference) to 1 (relevance).
    group_by : str, optional
        Only the best hit of each group, such as ``group_by="source"``.
    context : int
        So many neighbouring chunks on either side, in ``hit.context_text``.
    unique : bool
        A text that stands in the base several times is found once, at its best place.
    explain : bool
        Show how each score came about.
    exact : bool
        Use no approximate index.
    rerank : object, optional
        Orders the best 4 k hits (at least 20) again and keeps k: a LangChain document compressor, a cross-encoder, or
        a function of the query and the texts that gives one score per text. Its score becomes the hit's. Needs texts
        as queries.

    `VetorStorage.search` tells more of each.

    Returns
    -------
    SearchResults or list of SearchResults
        Hits in order, shown as a table; ``.to_pandas()``, ``.documents``. A list for many queries.

    Raises
    ------
    QueryError
        For a query or an option that cannot be understood.
    RerankingError
        When the reranker is none, or fails.
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
    options = SearchKeywords(
        mode=mode,
        filter=filter,
        min_score=min_score,
        mmr=mmr,
        group_by=group_by,
        context=context,
        unique=unique,
        explain=explain,
        exact=exact,
    )
    return _found(ensure_services().vetor_storage, query, k, options, rerank)


def search_in(
    store: VetorStorage | None, query: str, k: int = 5, *, rerank: Any = None, **options: Any
) -> SearchResults:
    """Search another store as `search` does that of the services, which None means.

    Raises
    ------
    QueryError, RerankingError
        As `search`.
    """
    if store is None:
        return search(query, k, rerank=rerank, **options)
    chosen: Any = {"unique": True, **options}
    results: SearchResults = _found(store, query, k, chosen, rerank)
    return results


def _found(store: VetorStorage, query: Any, k: int, options: SearchKeywords, rerank: Any) -> Any:
    return (
        store.search(query, k, **options) if rerank is None else _reranked(store, query, k, options, rerank)
    )


def _reranked(store: VetorStorage, query: Any, k: int, options: SearchKeywords, reranker: Any) -> Any:
    from oraculo_kit.reranking import search_reranked

    single = isinstance(query, str)
    texts = [query] if single else query
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise QueryError(f"got {type(query).__name__} as query, and rerank needs the text of the question")
    results = search_reranked(store, texts, k, reranker, options)
    return results[0] if single else results


def sources() -> pd.DataFrame:
    """Return what is in the base: one row per source.

    Returns
    -------
    pandas.DataFrame
        Columns source, chunks, lang, title, bytes, modified, written_at.
    """
    return source_frame(ensure_services().vetor_storage.sources())


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
    QueryError
        When `source` is no path or text.
    """
    if not isinstance(source, str | os.PathLike):
        raise QueryError(
            f"got {type(source).__name__} as source, expected a path, or a key as sources() shows it"
        )
    services = ensure_services()
    storage = services.vetor_storage
    keys = (os.fspath(source), source_key(source))
    for key in keys:
        if storage.ledger([key]):
            return storage.remove_by_metadata("source", key)
    near = _nearest_source(keys[1], [row.source for row in storage.sources()])
    listing = "`oraculo sources`" if services.context == "cli" else "oraculo_kit.sources()"
    hint = f"did you mean {near!r}?" if near is not None else f"{listing} lists what there is"
    raise SourceNotFoundError(f"the base {storage.location} has no source {os.fspath(source)!r}; {hint}")


def _nearest_source(key: str, known: list[str]) -> str | None:
    """Return the source whose file name is nearest; of equal names the one with the nearest path.

    The folders of a project are the same for all of its files, and would make any two of them look alike.

    Examples
    --------
    >>> known = ["/docs/a/ata_reuniao.txt", "/docs/b/ata_reuniao.txt", "/docs/utf16.txt"]
    >>> _nearest_source("/docs/b/ata reuniao.txt", known)
    '/docs/b/ata_reuniao.txt'
    >>> _nearest_source("/docs/zebra.txt", known) is None
    True
    """
    named: dict[str, list[str]] = {}
    for source in known:
        named.setdefault(_stem(source), []).append(source)
    near = difflib.get_close_matches(_stem(key), named, 1)
    return difflib.get_close_matches(key, named[near[0]], 1, 0.0)[0] if near else None


def _stem(source: str) -> str:
    name = source.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return os.path.splitext(name)[0].casefold()
