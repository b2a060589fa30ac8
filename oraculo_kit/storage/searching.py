"""From a query as a user gives it to results: reads the query, embeds it, ranks, and wraps what was found."""

from __future__ import annotations

import difflib
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import QueryError, StoreClosedError, VectorsError
from oraculo_kit.storage.context import read_around
from oraculo_kit.storage.filters import Filter
from oraculo_kit.storage.frequencies import Frequencies
from oraculo_kit.storage.fulltext import TextQuery, highlight_spans, parse_query
from oraculo_kit.storage.hybrid import Ranked, rank
from oraculo_kit.storage.options import SearchOptions, check_context
from oraculo_kit.storage.prepare import check_vectors
from oraculo_kit.storage.results import Hit, SearchResults, root_of
from oraculo_kit.storage.snapshot import StoredChunk, check_k

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.asking import Version, VersionReader


class Searcher:
    """Searches one store.

    Parameters
    ----------
    location : str
        The store's folder, which results name.
    reading : callable
        Returns the store's reader; raises `StoreClosedError` once the store is closed.
    embed_queries : callable
        From texts to float32 vectors of shape (n, dimension), rows of length one; checks that the store was built
        with this embedder.
    """

    def __init__(
        self,
        location: str,
        reading: Callable[[], VersionReader],
        embed_queries: Callable[[list[str]], NDArray[np.float32]],
    ) -> None:
        self._location = location
        self._reading = reading
        self._embed_queries = embed_queries
        self._frequencies = Frequencies()
        self._origin = Origin(self)

    def search(self, query: Any, options: SearchOptions) -> SearchResults | list[SearchResults]:
        """Search as `VetorStorage.search` says."""
        started = time.perf_counter()
        while True:
            single, texts, vectors, made_for = self._asked(query)
            queries = [parse_query(text) for text in texts] if texts is not None else None
            if queries is None:
                options = replace(options, mode="vector")
            elif options.mode != "text" or options.min_score is not None:
                vectors = self._embedded(queries)
            with self._reading().pin() as snapshot:
                if vectors is not None and _model(snapshot) != made_for:
                    continue  # the store changed over to another embedder: these vectors say nothing there
                count = snapshot.count()
                _check_key(snapshot, options.group_by, count)
                ranked = rank(snapshot, queries, vectors, options, self._frequencies, count)
                found = [[_hit(snapshot, item, options.context) for item in items] for items in ranked]
            break
        seconds = (time.perf_counter() - started) / max(len(ranked), 1)
        results = [
            SearchResults(
                hits=tuple(hits),
                query=texts[place] if texts is not None else "",
                mode=options.mode,
                store=self._location,
                chunks=count,
                seconds=seconds,
                root=root_of(self._location),
                highlight=partial(highlight_spans, query=queries[place]) if queries is not None else None,
                origin=self._origin,
            )
            for place, hits in enumerate(found)
        ]
        return results[0] if single else results

    def passage(self, hit: Hit, n: int) -> str:
        """Return the text of a hit with its neighbours, as `SearchResults.context` says."""
        check_context(n)
        with self._reading().pin() as snapshot:
            chunk = _present(snapshot, hit)
            before, after = read_around(snapshot, chunk, n)
        return before + chunk.text + after

    def similar(self, hit: Hit, k: int, filter: Filter | None) -> SearchResults:
        """Return the chunks nearest to a hit, as `SearchResults.similar` says."""
        check_k(k + 1 if isinstance(k, int) and 0 < k < 100_000 else k)
        with self._reading().pin() as snapshot:
            chunk = _present(snapshot, hit)
            vectors, _ = snapshot.manifest.vectors_of(np.array([chunk.number], np.int64))
        # One more than asked for: the hit itself, or its copy, comes too.
        options = SearchOptions(k=min(k + 1, 100_000), mode="vector", filter=filter, unique=True)
        results = self.search(vectors[0], options)
        assert isinstance(results, SearchResults)
        others = [one for one in results.hits if one.text != chunk.text]
        return replace(results, hits=tuple(others[:k]))

    def _embedded(self, queries: list[TextQuery]) -> NDArray[np.float32] | None:
        """Return a vector per query, zeros for one that asks nothing; None while the store is empty."""
        asked = [place for place, query in enumerate(queries) if not query.asks_nothing]
        with self._reading().pin() as snapshot:
            if not asked or not snapshot.manifest.dimension:
                return None
        found = self._embed_queries([queries[place].text for place in asked])
        vectors = np.zeros((len(queries), found.shape[1]), np.float32)
        vectors[asked] = found
        return vectors

    def _asked(
        self, query: Any
    ) -> tuple[bool, list[str] | None, NDArray[np.float32] | None, tuple[Any, ...]]:
        """Return whether it is a single query, its texts or else its vectors, and the model they are for."""
        with self._reading().pin() as snapshot:
            model, dimension = _model(snapshot), snapshot.manifest.dimension
        if isinstance(query, str):
            return True, [query], None, model
        if isinstance(query, list | tuple) and not query:
            raise QueryError("got an empty list as query, expected at least one text or vector")
        if isinstance(query, list | tuple) and all(isinstance(item, str) for item in query):
            return False, list(query), None, model
        try:
            matrix = np.asarray(query, dtype=np.float32)
            if not matrix.ndim:
                raise TypeError("a number alone is neither")
            single = matrix.ndim == 1
            matrix = check_vectors(matrix[None, :] if single else matrix, 1 if single else len(matrix))
        except (TypeError, ValueError, IndexError) as exc:
            raise QueryError(
                f"got {type(query).__name__} as query, expected a text, a list of texts, or vectors of shape "
                f"(dimension,) or (n, dimension): {_first_sentence(exc)}"
            ) from exc
        if dimension and matrix.shape[1] != dimension:
            raise VectorsError(
                f"got a query vector of dimension {matrix.shape[1]}, expected {dimension} as the store "
                f"{self._location} has"
            )
        return single, None, matrix, model


class Origin:
    """What results know of the store they came from: enough to ask it more, too little to keep it alive.

    A copy that travels to another process knows nothing any more.
    """

    def __init__(self, searcher: Searcher | None = None) -> None:
        self._searcher = weakref.ref(searcher) if searcher is not None else None

    def __reduce__(self) -> tuple[type[Origin], tuple[()]]:
        return Origin, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self

    def searcher(self) -> Searcher:
        """Return the searcher.

        Raises
        ------
        StoreClosedError
            When the store is gone, or these results were brought here from another process.
        """
        searcher = self._searcher() if self._searcher is not None else None
        if searcher is None:
            raise StoreClosedError(
                "these results have lost their store: it is gone, or they come from another process. Search again"
            )
        return searcher


def _first_sentence(exc: Exception) -> str:
    return str(exc).partition(". ")[0]  # the rest of it advises somebody who writes


def _model(snapshot: Version) -> tuple[Any, ...]:
    manifest = snapshot.manifest
    return manifest.epoch, manifest.embedder, manifest.dimension


def _hit(snapshot: Version, ranked: Ranked, context: int) -> Hit:
    chunk = ranked.chunk
    before, after = read_around(snapshot, chunk, context) if context else ("", "")
    return Hit(
        id=chunk.id,
        text=chunk.text,
        score=ranked.score,
        source=chunk.source,
        metadata=chunk.metadata,
        ordinal=chunk.ordinal,
        vector_score=ranked.cosine,
        text_score=ranked.bm25,
        before=before,
        after=after,
        explanation=ranked.explanation,
    )


def _present(snapshot: Version, hit: Hit) -> StoredChunk:
    found = snapshot.chunks_by_id([hit.id])
    if not found:
        raise QueryError(
            f"the chunk {hit.id} of {hit.source!r} is not in the store any more: it was deleted or replaced after "
            "this search. Search again"
        )
    return found[0]


def _check_key(snapshot: Version, key: str | None, chunks: int) -> None:
    if key is None or key == "source" or not chunks:
        return
    known = snapshot.metadata_keys()
    if key not in known:
        near = difflib.get_close_matches(key, ["source", *known], 1)
        listed = ", ".join(["source", *known][:20])
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {listed}"
        raise QueryError(f"group_by is {key!r}, and no chunk has that metadata key; {hint}")
