"""The filter language as SQL of PostgreSQL: over the ``jsonb`` fields of a chunk, all that a user gave bound.

Reading a filter, and refusing what is none, is that of the embedded store (`oraculo_kit.storage.filters`), from which
this class is derived; so are the meanings. What differs is the conditions of one key:

- Equality is that of ``jsonb``: types are kept, and numbers are compared as ``numeric``, exactly, whatever their size.
  Lists and objects are compared by their JSON text besides: ``[1]`` is not ``[1.0]``.
- A comparison of numbers is one of ``jsonb`` too, so an index of the key serves both; texts are compared by code point.
- A chunk's fields hold what its source shares, so there is one place to look at.

A key that has an index is spelled out, since PostgreSQL recognises an indexed expression only then; see `literal`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from oraculo_kit.errors import FilterError
from oraculo_kit.storage.filters import CompiledFilter, Filter, joined
from oraculo_kit.storage.operands import checked_operand, json_text
from oraculo_kit.storage.postgres.encoding import field_json, written, written_json
from oraculo_kit.storage.postgres.location import literal

_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


@dataclass(frozen=True, slots=True)
class _Key:
    """SQL for a key's value as ``jsonb``, as text, and as the JSON text that was written."""

    json: str
    text: str
    exact: str

    @property
    def type(self) -> str:
        return f"jsonb_typeof({self.json})"


_SOURCE = _Key("to_jsonb(nullif(s.key, ''))", "nullif(s.key, '')", "to_json(nullif(s.key, ''))::text")


class PostgresFilter(CompiledFilter):
    """A filter as a condition over ``oraculo_chunks c``; `values` are its parameters, in order.

    Parameters
    ----------
    filter : mapping
    indexed : collection of str
        Keys that have an index.
    first : int
        Number of the first parameter.

    Examples
    --------
    >>> compiled = PostgresFilter({"lang": "pt"})
    >>> print(compiled.sql, compiled.values)
    ((c.fields -> $1::text) = $2::jsonb) ['lang', '"pt"']
    """

    TRUE, FALSE = "TRUE", "FALSE"

    def __init__(self, filter: Filter, indexed: Collection[str] = (), first: int = 1) -> None:
        self._indexed = indexed
        self._first = first
        super().__init__(filter)

    @property
    def values(self) -> list[str]:
        """The parameters of the condition: texts."""
        return list(self.bindings.values())

    def _bind(self, value: Any, kind: str = "text") -> str:
        name = self._names.setdefault((str, f"{kind} {value}"), f"${self._first + len(self._names)}")
        self.bindings[name] = value
        return f"{name}::{kind}"

    def _on(self, key: str, test: Callable[[_Key], str]) -> str:
        """Apply a test to the value of a key."""
        if key == "source":  # a column of the ledger; a chunk that was written without a source has none
            return f"(c.source IN (SELECT s.id FROM oraculo_sources s WHERE {test(_SOURCE)}))"
        name = f"{literal(written(key))}::text" if key in self._indexed else self._bind(written(key))
        inherited = f"CASE WHEN c.inherits THEN (SELECT s.metadata -> {name} FROM oraculo_sources s WHERE s.id = c.source) END"
        return test(
            _Key(
                f"(c.fields -> {name})",
                f"(c.fields ->> {name})",
                f"coalesce(c.metadata -> {name}, {inherited})::text",
            )
        )

    def _operator(self, key: str, operator: str, operand: Any, depth: int) -> str:
        if operator == "$exists" and isinstance(operand, bool):
            return self._on(key, lambda field: f"({field.json} IS {'NOT ' if operand else ''}NULL)")
        if operator == "$eq":
            plain = checked_operand(key, operator, operand)
            return self._on(key, lambda field: self._equals(field, plain))
        if operator == "$contains":
            plain = checked_operand(key, operator, operand)
            return self._on(key, lambda field: self._holds(field, plain))
        return super()._operator(key, operator, operand, depth)

    def _equals(self, field: _Key, operand: Any) -> str:
        if operand is None:
            return f"(coalesce({field.type}, 'null') = 'null')"
        if field is _SOURCE and isinstance(operand, str):
            return f"(s.key = {self._bind(written(operand))} AND s.key <> '')"  # by the ledger's index
        same = f"({field.json} = {self._bind(field_json(operand), 'jsonb')})"
        if not isinstance(operand, list | tuple | Mapping):
            return same
        return f"({same} AND {field.exact} = {self._bind(written_json(json_text(operand)))})"

    def _holds(self, field: _Key, operand: Any) -> str:
        # Containment alone would take a text for a list that holds it.
        element = self._bind(field_json([operand]), "jsonb")
        listed = f"({field.type} = 'array' AND {field.json} @> {element})"
        if not isinstance(operand, str):
            return listed
        part = f"strpos({field.text}, {self._bind(written(operand))}) > 0"
        return f"(({field.type} = 'string' AND {part}) OR {listed})"

    def _among(self, key: str, operands: Collection[Any], depth: int) -> str:
        plain = [checked_operand(key, "$eq", operand) for operand in operands]
        parts = [
            self._operator(key, "$eq", each, depth)
            for each in plain
            if not isinstance(each, str | int | float)
        ]
        # As one list: a chain of thousands of conditions would be slow to plan.
        scalars = [each for each in plain if isinstance(each, str | int | float)]
        if scalars:
            listed = self._bind(field_json(scalars), "jsonb")
            parts.append(
                self._on(key, lambda field: f"({field.json} IN (SELECT jsonb_array_elements({listed})))")
            )
        return joined(parts, "OR", self.FALSE)

    def _range(self, key: str, bounds: Mapping[str, Any]) -> str:
        plain = {operator: checked_operand(key, operator, operand) for operator, operand in bounds.items()}

        def within(field: _Key) -> str:
            tests = [self._compares(field, key, operator, operand) for operator, operand in plain.items()]
            return joined(tests, "AND", self.TRUE)

        return self._on(key, within)

    def _compares(self, field: _Key, key: str, operator: str, operand: Any) -> str:
        sign = _SIGNS[operator]
        if isinstance(operand, str):
            value = self._bind(written(operand))
            return f"({field.type} = 'string' AND {field.text} COLLATE \"C\" {sign} {value})"
        if isinstance(operand, bool) or not isinstance(operand, int | float):
            raise FilterError(
                f"{operator} of key {key!r} compares numbers or texts, got {type(operand).__name__} {operand!r:.80}"
            )
        return f"({field.type} = 'number' AND {field.json} {sign} {self._bind(field_json(operand), 'jsonb')})"
