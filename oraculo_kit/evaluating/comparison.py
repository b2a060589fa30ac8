"""The same queries under several settings, side by side: which chunk moved where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from oraculo_kit.display import CLASSES, escape, html_table, one_line, short_source, text_table
from oraculo_kit.errors import QueryError
from oraculo_kit.evaluating.configurations import Configurations, Store, configured
from oraculo_kit.evaluating.measures import rank_biased_overlap
from oraculo_kit.storage.base import MODES
from oraculo_kit.storage.results import Hit, SearchResults

if TYPE_CHECKING:
    import pandas as pd

_SHOWN_QUERIES = 10
_QUERY = 70  # columns of a query that are shown
_NAME = 24  # and of a configuration's name
_EXCERPT = 300  # characters of a chunk in a table


def compare(
    queries: str | Sequence[str],
    configurations: Configurations = MODES,
    k: int = 5,
    *,
    store: Store | None = None,
) -> Comparison:
    """Ask the same queries under two or more settings and show which chunks change place.

    Parameters
    ----------
    queries : str or sequence of str
    configurations : dict of str to dict, or sequence of dict or str
        Names and keywords of `search` (``mode``, ``k``, ``filter``, ``rerank``, ...); ``"store"`` is a path or an open store
        to ask another base. Without names, as a list, a text is a mode and the names are made of the keywords.
        What a configuration does not say is as in `VetorStorage.search`; so identical texts are hits of their own, which
        `oraculo_kit.search` folds (``"unique": True``).
    k : int
        Hits per query, where a configuration says nothing else.
    store : VetorStorage or path, optional
        The base, where a configuration says nothing else; by default that of the services. A path is opened
        read-only with the embedder of the settings; a base of another embedder is given open.

    Returns
    -------
    Comparison
        A table; ``.to_pandas()``, ``.overlap``. The first configuration is the one that others are compared with.

    Raises
    ------
    QueryError
        For a query, configuration or k that cannot be understood.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> nota = Document("Como emitir nota fiscal", metadata={"source": "nota.md"})
    >>> gato = Document("O gato dorme no telhado", metadata={"source": "gato.md"})
    >>> _ = oraculo.ingest([nota, gato], progress=False)
    >>> found = oraculo.compare(["emissão de notas"], {"híbrida": {"mode": "hybrid"}, "texto": {"mode": "text"}})
    >>> found.to_pandas()[["source", "híbrida rank", "texto rank", "texto difference"]]
        source  híbrida rank  texto rank  texto difference
    0  nota.md             1           1                 0
    1  gato.md             2        <NA>              <NA>
    """
    asked = list(queries) if isinstance(queries, Iterable) and not isinstance(queries, str) else [queries]
    wrong = [query for query in asked if not isinstance(query, str)]
    if not asked or wrong:
        got = f"a query of type {type(wrong[0]).__name__}" if wrong else "no query"
        raise QueryError(f"got {got}, expected texts, such as ['nota fiscal', 'férias']")
    with configured(configurations, k, store) as settings:
        if len(settings) < 2:
            raise QueryError(f"got one configuration ({settings[0].name!r}), expected two or more to compare")
        return Comparison(tuple(asked), {setting.name: tuple(setting.ask(asked)) for setting in settings})


@dataclass(frozen=True)
class _Row:
    """A chunk that one configuration at least found for a query; None where one did not."""

    hit: Hit
    ranks: tuple[int | None, ...]
    scores: tuple[float | None, ...]

    def difference(self, place: int) -> int | None:
        first, other = self.ranks[0], self.ranks[place]
        return None if first is None or other is None else first - other


@dataclass(frozen=True)
class Comparison:
    """Results of the same queries under several configurations.

    Attributes
    ----------
    queries : tuple of str
    results : dict of str to tuple of SearchResults
        By name of the configuration, one result per query. The first is what the others are compared with.
    """

    queries: tuple[str, ...]
    results: Mapping[str, tuple[SearchResults, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the configurations."""
        return tuple(self.results)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with one row per query and chunk, in the order of the best rank.

        Returns
        -------
        pandas.DataFrame
            Columns query, id, source, text (an excerpt); for each configuration "NAME rank" (from 1; missing when it
            did not find the chunk) and "NAME score"; for each but the first "NAME difference", the places that it
            ranks the chunk higher than the first one does.
        """
        import pandas as pd

        rows = [(query, row) for place, query in enumerate(self.queries) for row in self._rows(place)]
        columns: dict[str, object] = {
            "query": [query for query, _ in rows],
            "id": [row.hit.id for _, row in rows],
            "source": [row.hit.source for _, row in rows],
            "text": [one_line(row.hit.text, _EXCERPT) for _, row in rows],
        }
        for place, name in enumerate(self.names):
            columns[f"{name} rank"] = pd.array([row.ranks[place] for _, row in rows], dtype="Int64")
            columns[f"{name} score"] = pd.array([row.scores[place] for _, row in rows], dtype="Float64")
        for place, name in enumerate(self.names[1:], 1):
            columns[f"{name} difference"] = pd.array(
                [row.difference(place) for _, row in rows], dtype="Int64"
            )
        return pd.DataFrame(columns)

    @property
    def overlap(self) -> pd.DataFrame:
        """How alike the rankings are: one row per query and configuration but the first.

        Columns query, configuration; common: chunks that both found; share: of the longer list; rbo: rank-biased
        overlap (Webber, Moffat and Zobel, ACM TOIS 28(4), 2010; p = 0.9) with the first configuration, 1 for the
        same ranking and 0 for nothing in common.
        """
        import pandas as pd

        rows = [
            [query, name, *self._likeness[place][at]]
            for place, query in enumerate(self.queries)
            for at, name in enumerate(self.names[1:])
        ]
        return pd.DataFrame(rows, columns=["query", "configuration", "common", "share", "rbo"])

    def alike(self, query: int = 0, configuration: int = 1) -> tuple[int, float, float]:
        """Return common chunks, share and rank-biased overlap as `overlap` has them, without pandas.

        Parameters
        ----------
        query, configuration : int
            Places; configuration 0 is the one that others are compared with.
        """
        return self._likeness[query][configuration - 1]

    @cached_property
    def _likeness(self) -> list[list[tuple[int, float, float]]]:
        """Per query and configuration but the first: common chunks, share, rank-biased overlap."""
        found = []
        for place in range(len(self.queries)):
            first, *others = ([hit.id for hit in results[place]] for results in self.results.values())
            found.append([_alike(first, other) for other in others])
        return found

    def _rows(self, place: int) -> list[_Row]:
        hits: dict[str, Hit] = {}
        found: list[dict[str, tuple[int, float]]] = []
        for results in self.results.values():
            ranked = {hit.id: (rank, hit.score) for rank, hit in enumerate(results[place], 1)}
            found.append(ranked)
            for hit in results[place]:
                hits.setdefault(hit.id, hit)
        rows = [
            _Row(
                hit,
                tuple(ranked[id][0] if id in ranked else None for ranked in found),
                tuple(ranked[id][1] if id in ranked else None for ranked in found),
            )
            for id, hit in hits.items()
        ]
        return sorted(rows, key=lambda row: min(rank for rank in row.ranks if rank is not None))

    def summary(self) -> str:
        """Return one line: what was compared, and how alike it is on the whole."""
        count = len(self.queries)
        first, *others = self.names
        parts = []
        for at, name in enumerate(others):
            shares, overlaps = zip(*((row[at][1], row[at][2]) for row in self._likeness), strict=True)
            parts.append(
                f"{one_line(name, _NAME)} shares {sum(shares) / count:.0%} of the hits with "
                f"{one_line(first, _NAME)} (rank-biased overlap {sum(overlaps) / count:.2f})"
            )
        return f"{count} {'query' if count == 1 else 'queries'}: {', '.join(parts)}"

    def _header(self) -> list[str]:
        return [*(one_line(name, _NAME) for name in self.names), "source", "text"]

    def _table(self, place: int) -> list[list[object]]:
        root = next(iter(self.results.values()))[place].root
        return [
            [
                *(_cell(row, at) for at in range(len(self.names))),
                short_source(row.hit.source, root),
                one_line(row.hit.text, _EXCERPT),
            ]
            for row in self._rows(place)
        ]

    def _heading(self, place: int) -> str:
        likeness = [
            f"{one_line(name, _NAME)} {common} in common, {rbo:.2f}"
            for name, (common, _, rbo) in zip(self.names[1:], self._likeness[place], strict=True)
        ]
        return f"{one_line(self.queries[place], _QUERY)!r} ({'; '.join(likeness)})"

    def _rest(self) -> str:
        hidden = len(self.queries) - _SHOWN_QUERIES
        return f"... and {hidden} more; .to_pandas() has them all" if hidden > 0 else ""

    def __repr__(self) -> str:
        parts = []
        for place in range(min(len(self.queries), _SHOWN_QUERIES)):
            parts.append(f"{self._heading(place)}\n{text_table(self._header(), self._table(place))}\n")
        return "\n".join([*parts, *([self._rest()] if self._rest() else []), self.summary()])

    def _repr_html_(self) -> str:
        tables = [
            html_table(self._header(), self._table(place), caption=self._heading(place))
            for place in range(min(len(self.queries), _SHOWN_QUERIES))
        ]
        below = [line for line in (self._rest(), self.summary()) if line]
        return "".join([*tables, *(f'<div class="{CLASSES}">{escape(line)}</div>' for line in below)])


def _alike(first: list[str], other: list[str]) -> tuple[int, float, float]:
    common = len(set(first) & set(other))
    longest = max(len(first), len(other))
    return common, common / longest if longest else 1.0, rank_biased_overlap(first, other)


def _cell(row: _Row, place: int) -> str:
    """Return a rank, and the places gained against the first configuration."""
    rank = row.ranks[place]
    if rank is None:
        return "-"
    if place == 0:
        return str(rank)
    gained = row.difference(place)
    return f"{rank} (new)" if gained is None else f"{rank} ({gained:+d})" if gained else f"{rank} (=)"
