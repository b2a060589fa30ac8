"""From a query as a user gives it to results: reads the query, embeds it, ranks, and wraps what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import QueryError, VectorsError
from oraculo_kit.storage.base import MODES, Mode
from oraculo_kit.storage.filters import Filter
from oraculo_kit.storage.fulltext import highlight_spans, parse_query
from oraculo_kit.storage.hybrid import Ranked, rank
from oraculo_kit.storage.prepare import check_vectors
from oraculo_kit.storage.results import Hit, SearchResults, root_of
from oraculo_kit.storage.snapshot import Reader, check_k

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Searcher:
    """Searches one store.

    Parameters
    ----------
    location : str
        The store's folder, which results name.
    reader : Reader
    embed_queries : callable
        From texts to float32 vectors of shape (n, dimension), rows of length one; checks that the store was built
        with this embedder.
    """

    def __init__(
        self, location: str, reader: Reader, embed_queries: Callable[[list[str]], NDArray[np.float32]]
    ) -> None:
        self._location = location
        self._reader = reader
        self._embed_queries = embed_queries

    def search(self, query: Any, k: int, *, mode: Mode, filter: Filter | None) -> Any:
        """Search as `VetorStorage.search` says."""
        check_k(k)
        if mode not in MODES:
            raise QueryError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
        started = time.perf_counter()
        single, texts, vectors = self._queries(query)
        queries = [parse_query(text) for text in texts] if texts is not None else None
        if queries is not None and mode != "text" and self._count():
            vectors = self._embed_queries([query.text for query in queries])
        mode = mode if queries is not None else "vector"
        with self._reader.pin() as snapshot:
            ranked = rank(snapshot, queries, vectors, k, mode, filter)
            count = snapshot.count()
        seconds = (time.perf_counter() - started) / max(len(ranked), 1)
        results = [
            SearchResults(
                hits=tuple(_hit(item) for item in found),
                query=texts[place] if texts is not None else "",
                mode=mode,
                store=self._location,
                chunks=count,
                seconds=seconds,
                root=root_of(self._location),
                highlight=partial(highlight_spans, query=queries[place]) if queries is not None else None,
            )
            for place, found in enumerate(ranked)
        ]
        return results[0] if single else results

    def _count(self) -> int:
        with self._reader.pin() as snapshot:
            return snapshot.count()

    def _queries(self, query: Any) -> tuple[bool, list[str] | None, NDArray[np.float32] | None]:
        if isinstance(query, str):
            return True, [query], None
        if isinstance(query, list | tuple) and query and all(isinstance(item, str) for item in query):
            return False, list(query), None
        try:
            matrix = np.asarray(query, dtype=np.float32)
            single = matrix.ndim == 1
            matrix = check_vectors(matrix[None, :] if single else matrix, 1 if single else len(matrix))
        except (TypeError, ValueError, IndexError) as exc:
            raise QueryError(
                f"got {type(query).__name__} as query, expected a text, a list of texts, or vectors of shape "
                f"(dimension,) or (n, dimension): {exc}"
            ) from exc
        with self._reader.pin() as snapshot:
            dimension = snapshot.manifest.dimension
        if dimension and matrix.shape[1] != dimension:
            raise VectorsError(
                f"got a query vector of dimension {matrix.shape[1]}, expected {dimension} as the store "
                f"{self._location} has"
            )
        return single, None, matrix


def _hit(ranked: Ranked) -> Hit:
    chunk = ranked.chunk
    return Hit(
        id=chunk.id,
        text=chunk.text,
        score=ranked.score,
        source=chunk.source,
        metadata=chunk.metadata,
        ordinal=chunk.ordinal,
        vector_score=ranked.cosine,
        text_score=ranked.bm25,
    )
