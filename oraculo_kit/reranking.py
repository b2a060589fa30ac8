"""A second opinion on the order of hits: a cross-encoder, a LangChain document compressor, or a function.

A search ranks a million chunks by cheap scores; a reranker reads each of the best few beside the query. What comes
back are the same `Hit` objects in a new order, with the reranker's score as their ``score``. The cosine and BM25 stay
where they were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import QueryError, RerankingError
from oraculo_kit.storage.results import Hit, SearchResults

if TYPE_CHECKING:
    from oraculo_kit.storage.base import VetorStorage

CANDIDATES = 4
"""Times k: so many hits are fetched for a reranker to choose k from, and at least `LEAST_CANDIDATES`."""

LEAST_CANDIDATES = 20
"""A MiniLM transformer reads 22 chunks of 1,000 characters per second and core: more would be felt."""


def candidates(k: int) -> int:
    """Return how many hits to fetch so that a reranker can choose `k` of them.

    Examples
    --------
    >>> candidates(3), candidates(10)
    (20, 40)
    """
    return max(CANDIDATES * k, LEAST_CANDIDATES)


def rerank(query: str, hits: Sequence[Hit], reranker: Any) -> list[Hit]:
    """Order hits by what a reranker says of them.

    Parameters
    ----------
    query : str
    hits : sequence of Hit
    reranker : object
        One of: a LangChain document compressor (``compress_documents``), which may also leave hits out; a LangChain
        cross-encoder (``score(pairs)``); a sentence-transformers ``CrossEncoder`` (``predict(pairs)``); a function
        of the query and the list of texts that returns one score per text.

    Returns
    -------
    list of Hit
        Best first, equal scores in the old order. ``score`` is the reranker's; a compressor that gives no
        ``relevance_score`` keeps the old one, and its order counts.

    Raises
    ------
    RerankingError
        When the reranker is none of these, fails, or returns other than one finite number per hit.

    Examples
    --------
    >>> hits = [Hit("1", "nota fiscal", 0.9, "a", {}), Hit("2", "prazo da nota", 0.8, "b", {})]
    >>> found = rerank("prazo", hits, lambda query, texts: [float(query in text) for text in texts])
    >>> [(hit.id, hit.score) for hit in found]
    [('2', 1.0), ('1', 0.0)]
    """
    if not hits:
        _method(reranker)
        return []
    method = _method(reranker)
    texts = [hit.text for hit in hits]
    pairs = [(query, text) for text in texts]
    failure = None
    try:
        if method == "compress_documents":
            given = reranker.compress_documents(_documents(hits), query)
        elif method == "__call__":
            given = reranker(query, texts)
        else:
            given = getattr(reranker, method)(pairs)
    except Exception as exc:
        failure = _failed(reranker, exc)
    if failure is not None:
        raise failure  # outside the handler: the context of an error travels with it, and may hold a key
    if method == "compress_documents":
        return _compressed(reranker, given, hits)
    scores = _scores(reranker, given, len(hits))
    order = sorted(range(len(hits)), key=lambda place: -scores[place])
    return [replace(hits[place], score=scores[place]) for place in order]


def search_reranked(
    storage: VetorStorage, texts: Sequence[str], k: int, reranker: Any, options: Mapping[str, Any]
) -> list[SearchResults]:
    """Search a store for more hits than asked for, order them again, and keep `k` of each text.

    Parameters
    ----------
    storage : VetorStorage
    texts : sequence of str
    k : int
    reranker : object
        As in `rerank`.
    options : dict
        Further keywords of the store's search.

    Returns
    -------
    list of SearchResults
        One per text.

    Raises
    ------
    QueryError
        For an option that cannot be understood, and for ``mmr``, which gives an order of its own.
    RerankingError
        As `rerank`.
    """
    from oraculo_kit.storage.snapshot import MAX_K, check_k

    if options.get("mmr") not in (None, False):
        raise QueryError("got mmr and rerank, and each gives an order of its own; use one of them")
    wanted = min(candidates(check_k(k)), MAX_K)
    found: list[SearchResults] = storage.search(list(texts), wanted, **options)
    return [
        replace(each, hits=tuple(rerank(text, each.hits, reranker)[:k]))
        for text, each in zip(texts, found, strict=True)
    ]


def _method(reranker: Any) -> str:
    for name in ("compress_documents", "score", "predict"):
        if callable(getattr(reranker, name, None)) and not isinstance(reranker, type):
            return name
    if callable(reranker) and not isinstance(reranker, type):
        return "__call__"
    raise RerankingError(
        f"got {_name(reranker)} as reranker, expected a LangChain document compressor, a cross-encoder with "
        "score(pairs) or predict(pairs), or a function of the query and the texts"
    )


def _documents(hits: Sequence[Hit]) -> list[Any]:
    from copy import deepcopy

    from langchain_core.documents import Document

    # The id stands in the metadata too: some compressors build new documents and carry the metadata only.
    return [
        Document(page_content=hit.text, metadata={**deepcopy(hit.metadata), _ID: hit.id}, id=hit.id)
        for hit in hits
    ]


_ID = "_oraculo_hit"


def _compressed(reranker: Any, documents: Any, hits: Sequence[Hit]) -> list[Hit]:
    known = {hit.id: hit for hit in hits}
    kept: dict[str, Hit] = {}
    for document in documents:
        metadata = getattr(document, "metadata", {})
        hit = known.get(str(metadata.get(_ID))) or known.get(str(getattr(document, "id", None)))
        if hit is None:
            raise RerankingError(
                f"the compressor {_name(reranker)} returned a document that it was not given (its metadata and id "
                "are gone). Use one that orders or leaves out documents, such as a cross-encoder reranker"
            )
        score = metadata.get("relevance_score")
        if score is not None:
            [score] = _scores(reranker, [score], 1)
        kept.setdefault(hit.id, hit if score is None else replace(hit, score=score))
    return list(kept.values())


def _scores(reranker: Any, given: Any, count: int) -> list[float]:
    try:
        scores = [float(score) for score in given]
    except (TypeError, ValueError) as exc:
        raise RerankingError(
            f"the reranker {_name(reranker)} returned {type(given).__name__} that is not one number per hit: {exc}"
        ) from exc
    if len(scores) != count or not all(map(math.isfinite, scores)):
        raise RerankingError(
            f"the reranker {_name(reranker)} returned {len(scores)} scores for {count} hits, expected one finite "
            "number for each"
        )
    return scores


def _failed(reranker: Any, exc: Exception) -> RerankingError:
    from oraculo_kit.environment.record import redact, safe_cause

    text = redact(" ".join(str(exc).split()))[:300]
    error = RerankingError(
        f"the reranker {_name(reranker)} failed: {type(exc).__name__}: {text}. Search without rerank=, or mend it"
    )
    error.__cause__ = safe_cause(exc)
    return error


def _name(reranker: Any) -> str:
    # Never the object's own repr: it may show an API key.
    kind = reranker if isinstance(reranker, type) else type(reranker)
    return getattr(reranker, "__name__", None) or kind.__qualname__
