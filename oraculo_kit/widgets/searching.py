"""What the search explorer asks: the question, its filter and its code. Knows nothing of widgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oraculo_kit.evaluating.comparison import Comparison, compare
from oraculo_kit.messages import N_
from oraculo_kit.storage.base import Mode, VetorStorage
from oraculo_kit.storage.results import SearchResults
from oraculo_kit.widgets.coding import IMPORT, call, store_prefix

__all__ = [
    "NAMES",
    "OPERATORS",
    "PAGE",
    "Condition",
    "Question",
    "Translator",
    "Way",
    "typed_value",
    "warm_up",
]

Translator = Callable[[str], str]

PAGE = 10
"""Hits on a page."""
NAMES = ("A", "B")
"""What two ways to search are called while they are compared."""
OPERATORS: Mapping[str, str] = {
    "$eq": N_("is"),
    "$ne": N_("is not"),
    "$contains": N_("contains"),
    "$gte": N_("at least"),
    "$lte": N_("at most"),
    "$exists": N_("is there"),
}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to search: what two configurations may differ in.

    Attributes
    ----------
    mode : {"hybrid", "vector", "text"}
    diverse : bool
        Hits that differ from each other (``mmr``).
    one_per_source : bool
        Only the best hit of each source.
    """

    mode: Mode = "hybrid"
    diverse: bool = False
    one_per_source: bool = False

    def keywords(self) -> dict[str, Any]:
        """Return the keywords of `oraculo_kit.search` that are not at their defaults.

        Examples
        --------
        >>> Way("text", one_per_source=True).keywords()
        {'mode': 'text', 'group_by': 'source'}
        """
        found: dict[str, Any] = {}
        if self.mode != "hybrid":
            found["mode"] = self.mode
        if self.diverse:
            found["mmr"] = True
        if self.one_per_source:
            found["group_by"] = "source"
        return found


@dataclass(frozen=True, slots=True)
class Condition:
    """A line of the filter: key, one of `OPERATORS`, value."""

    key: str
    operator: str
    value: Any = None

    def as_filter(self) -> dict[str, Any]:
        """Return it as a filter.

        Examples
        --------
        >>> Condition("lang", "$eq", "pt").as_filter(), Condition("page", "$gte", 3).as_filter()
        ({'lang': 'pt'}, {'page': {'$gte': 3}})
        """
        if self.operator == "$eq":
            return {self.key: self.value}
        return {self.key: {self.operator: True if self.operator == "$exists" else self.value}}


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that a search depends on.

    Attributes
    ----------
    query : str
    k : int
    way : Way
    other : Way or None
        Compared with `way`.
    conditions : tuple of Condition
        All of them must hold.
    """

    query: str = ""
    k: int = 30
    way: Way = field(default_factory=Way)
    other: Way | None = None
    conditions: tuple[Condition, ...] = ()

    @property
    def filter(self) -> dict[str, Any] | None:
        """The conditions as a filter; None without any.

        Examples
        --------
        >>> Question(conditions=(Condition("a", "$eq", 1), Condition("b", "$eq", 2))).filter
        {'a': 1, 'b': 2}
        >>> Question(conditions=(Condition("a", "$gte", 1), Condition("a", "$lte", 2))).filter
        {'$and': [{'a': {'$gte': 1}}, {'a': {'$lte': 2}}]}
        """
        parts = [condition.as_filter() for condition in self.conditions]
        merged = {key: value for part in parts for key, value in part.items()}
        if len(merged) == len(parts):
            return merged or None
        return {"$and": parts}

    def _keywords(self, way: Way) -> dict[str, Any]:
        chosen = way.keywords()
        if self.filter is not None:
            chosen["filter"] = self.filter
        return chosen

    def ask(self, store: VetorStorage) -> SearchResults:
        """Return the hits, explained.

        Raises
        ------
        QueryError
        """
        found: SearchResults = store.search(
            self.query, self.k, unique=True, explain=True, **self._keywords(self.way)
        )
        return found

    def _configurations(self) -> dict[str, dict[str, Any]]:
        assert self.other is not None
        return {
            name: {**self._keywords(way), "unique": True, "explain": True}
            for name, way in zip(NAMES, (self.way, self.other), strict=True)
        }

    def compare(self, store: VetorStorage) -> Comparison:
        """Return the hits of both ways.

        Raises
        ------
        QueryError
        """
        return compare(self.query, self._configurations(), self.k, store=store)

    def code(self, store: VetorStorage | None, page: int = 0, opened: int | None = None) -> str:
        """Return Python that gives what is on the screen.

        Parameters
        ----------
        store : VetorStorage or None
            None is the base of the services.
        page : int
            From 0.
        opened : int, optional
            Place of the hit, from 0, whose passage is shown too.

        Examples
        --------
        >>> print(Question("nota", 20, Way("text")).code(None, page=1), end="")
        import oraculo_kit as oraculo
        <BLANKLINE>
        results = oraculo.search('nota', k=20, mode='text', explain=True)
        results[10:20]
        """
        opening, name = store_prefix(store)
        if self.other is not None:
            given = {} if store is None else {"store": store.location}
            return f"{IMPORT}\n{call('oraculo.compare', self.query, self._configurations(), k=self.k, **given)}\n"
        keywords = {"k": self.k, **self._keywords(self.way), "explain": True}
        if store is not None:
            keywords["unique"] = True
        lines = [f"results = {call(f'{name}.search', self.query, **keywords)}"]
        if opened is not None:
            lines.append(f"print(results.context(results[{opened}], n=1))")
        lines.append(f"results[{page * PAGE}:{(page + 1) * PAGE}]" if self.k > PAGE else "results")
        return f"{IMPORT}\n{opening}{chr(10).join(lines)}\n"


def warm_up(store: VetorStorage) -> None:
    """Do what the first question of a process waits for: load the model, map the vectors, read what is imported late.

    A model in a server is not asked, for what nobody asked for must not leave the machine, nor cost anything.

    Raises
    ------
    EmbedderError
        When the model cannot be loaded.
    """
    if not store.embedder.is_remote:
        store.search("oraculo", 1, mode="vector", explain=True)


def typed_value(text: str, known: Sequence[Any]) -> Any:
    """Return what somebody meant who typed or chose `text`: a value of the base's if one reads so, else a guess.

    Parameters
    ----------
    text : str
    known : sequence
        Values of the key.

    Examples
    --------
    >>> typed_value("True", [True, False]), typed_value("2024", ["2023"]), typed_value("7", [1, 2])
    (True, '2024', 7)
    >>> typed_value("2.5", [1, 2]), typed_value("sete", [1, 2])
    (2.5, 'sete')
    """
    for value in known:
        if str(value) == text:
            return value
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
