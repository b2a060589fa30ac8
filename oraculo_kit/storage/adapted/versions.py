"""A version of a base whose vectors a LangChain vector store searches.

The vector store names candidates; the catalog decides. Candidates of another version are dropped, those that it does not
have yet are added, and the order comes from the exact cosines of the stored vectors. Where too few are left, and where a
filter lets few pass, every stored vector is compared: so k hits are found if there are k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.storage.adapted.outbox import has_outbox, owed_numbers
from oraculo_kit.storage.manifest import Manifest
from oraculo_kit.storage.segments import sorted_positions
from oraculo_kit.storage.snapshot import Reader, Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Matrix = NDArray[np.float32]

_FEW = 20_000  # rows that pass a filter: comparing them all takes some milliseconds
_SPARE = 16
_MOST_ASKED = 10_000  # candidates of one query; many engines refuse more
_ROUNDS = 3


@dataclass(frozen=True)
class AdaptedManifest(Manifest):
    """The vectors of one commit, with an engine that finds candidates.

    Attributes
    ----------
    ask : callable
        From a query and a number to the numbers of so many candidates; None when the engine fails.
    owed : numpy.ndarray or None
        int64, rising: chunks that the engine may not have; None for too many.
    """

    ask: Callable[[Matrix, int], Numbers | None]
    owed: Numbers | None

    def top(
        self, queries: Matrix, k: int, allowed: Numbers | None = None, *, exact: bool = False
    ) -> tuple[Matrix, Numbers]:
        """Find the chunks with the highest cosine; see `Manifest.top`."""
        if exact or self.owed is None or (allowed is not None and len(allowed) <= _FEW):
            return super().top(queries, k, allowed, exact=True)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        numbers = np.full((len(queries), k), -1, np.int64)
        for place, query in enumerate(queries):
            found = self._top_of_one(query, k, allowed)
            if found is None:
                scores[place], numbers[place] = (
                    each[0] for each in super().top(query[None], k, allowed, exact=True)
                )
            else:
                scores[place, : len(found[0])], numbers[place, : len(found[0])] = found
        return scores, numbers

    def _top_of_one(self, query: Matrix, k: int, allowed: Numbers | None) -> tuple[Matrix, Numbers] | None:
        """Return scores and numbers; None when the engine did not name enough candidates."""
        assert self.owed is not None
        wanted, share = k, 1.0
        if allowed is not None:
            wanted = min(k, len(allowed))
            share = len(allowed) / sum(len(block) for block, _ in self.blocks())
        asked = int(wanted / share) + _SPARE
        for _ in range(_ROUNDS):
            if asked > _MOST_ASKED:
                return None
            named = self.ask(query, asked)
            if named is None:
                return None
            numbers, vectors = self._usable(np.union1d(named, self.owed), allowed)
            if len(numbers) >= wanted:
                scores = vectors @ query
                best = np.lexsort((numbers, -scores))[:wanted]
                return scores[best], numbers[best]
            if len(named) < asked:
                return None  # it has no more: some are missing there
            asked *= 4
        return None

    def _usable(self, numbers: Numbers, allowed: Numbers | None) -> tuple[Numbers, Matrix]:
        if allowed is not None:
            numbers = numbers[sorted_positions(allowed, numbers)[1]]
        numbers = numbers[self.alive(numbers)]
        vectors, found = self.vectors_of(numbers)
        return numbers[found], np.asarray(vectors[found], np.float32)


class AdaptedReader:
    """Hands out versions that ask the engine.

    Parameters
    ----------
    reader : Reader
        Of the catalog.
    ask : callable
        As `AdaptedManifest.ask`.
    """

    def __init__(self, reader: Reader, ask: Callable[[Matrix, int], Numbers | None]) -> None:
        self._reader = reader
        self._ask = ask

    @contextmanager
    def pin(self) -> Iterator[Snapshot]:
        """Pin the newest version for the body of a ``with``."""
        with self._reader.pin() as snapshot:
            manifest, catalog = snapshot.manifest, snapshot.catalog
            owed = owed_numbers(catalog) if has_outbox(catalog) else None
            values = {spec.name: getattr(manifest, spec.name) for spec in fields(Manifest)}
            yield Snapshot(catalog, AdaptedManifest(**values, ask=self._ask, owed=owed), self._reader.pin)
