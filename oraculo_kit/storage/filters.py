"""Metadata filters: a small language of JSON-like dicts, compiled to SQL with bound parameters.

::

    {"lang": "pt"}                                    equal
    {"year": {"$gte": 2020, "$lt": 2024}}             all of these
    {"$or": [{"lang": "pt"}, {"title": {"$contains": "nota"}}]}

Operators: ``$eq $ne $gt $gte $lt $lte $in $nin $exists $contains $and $or $not``.

Types are kept: 1 is not "1", true is not 1; 1 equals 1.0, because JSON has one kind of number. Integers are
compared exactly, beyond 2^63 too. Lists and objects equal those with the same JSON text. ``$gt`` and its like compare
numbers with numbers and texts with texts (by code point), anything else does not match. ``$ne``, ``$nin`` and ``$not`` are the exact opposite of their
positive: they match a chunk without the key too. ``None`` matches null and a missing key. ``$contains`` looks
for a part of a text, or for an element of a list.

Keys and values are data, and reach SQLite as parameters. One thing cannot: SQLite uses an index on a key
(`oraculo_kit.storage.filter_indexes`) only where the query spells its path out. An indexed key is therefore written
as a literal of printable ASCII, escaped as JSON and then as SQL; see `path_literal`.

The SQL is shaped so that SQLite's planner finds these indexes without statistics: a condition is NULL rather than
wrapped where a value is missing, AND and OR treat NULL as false, and only NOT needs it turned into one
(``NOT coalesce(..., 0)``; that is enough, because AND and OR are monotone). Where the catalog knows that a key stands
only in chunks, or only in the metadata of sources, the other half of the condition is left out, so that a key of
sources is resolved without a look at their chunks' metadata.

Where there is no index every row is looked at, and most rows can be told by their bytes: `records.metadata_json` writes
a key and a text in one way only, so ``instr`` for ``"lang":"pt"`` goes before the JSON functions (a million rows: 0.15 s
of CPU time against 0.65 s). It only ever leaves rows out that could not pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oraculo_kit.errors import FilterError
from oraculo_kit.storage.operands import (
    checked_operand,
    is_plain_number,
    json_string,
    json_text,
    number_start,
)
from oraculo_kit.storage.records import clean_text

Filter = Mapping[str, Any]

OPERATORS = (
    "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$contains", "$and", "$or", "$not"
)  # fmt: skip
_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_NEGATIONS = {"$ne": "$eq", "$nin": "$in"}
_MAX_DEPTH = 32
_MAX_SQL = 800_000  # SQLite parses 1,000,000
_MAX_BINDINGS = 30_000  # SQLite takes 32,766


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where a metadata key stands in a store, and whether it has an index.

    Attributes
    ----------
    in_chunks, in_sources : bool
        Whether any chunk has it of its own, and whether any source shares it with its chunks.
    indexed : bool
        Whether `oraculo_kit.storage.filter_indexes` made an index of it.
    """

    in_chunks: bool
    in_sources: bool
    indexed: bool


def anywhere(key: str) -> KeyPlace:
    """Return the place of a key of which nothing is known."""
    return KeyPlace(in_chunks=True, in_sources=True, indexed=False)


class CompiledFilter:
    """A filter as SQL: a condition over ``chunks c``, its bindings and the keys it asks for.

    Parameters
    ----------
    filter : mapping
    place_of : callable, optional
        Returns the `KeyPlace` of a key, in the version of the store that the SQL is meant for.

    Attributes
    ----------
    lists : dict
        The keys that are to equal a whole list, and the list; without a ``$eq`` often ``$in`` is meant.

    Raises
    ------
    FilterError
        When the filter cannot be understood; names the part, what was got and what is accepted.

    Examples
    --------
    >>> CompiledFilter({"lang": "pt"}).keys
    ['lang']
    >>> CompiledFilter({"page": {"$above": 3}})
    Traceback (most recent call last):
    ...
    oraculo_kit.errors.FilterError: unknown operator '$above' for key 'page', expected one of $eq, ...
    """

    # As SQL; another engine's filters are compiled by a class derived from this one.
    TRUE, FALSE = "1", "0"

    def __init__(self, filter: Filter, place_of: Callable[[str], KeyPlace] = anywhere) -> None:
        self.filter = filter
        self.place_of = place_of
        self.bindings: dict[str, Any] = {}
        self.lists: dict[str, Any] = {}
        self._keys: dict[str, None] = {}
        self._names: dict[tuple[type, Any], str] = {}
        self._scanning = False  # inside a NOT
        self._in_or = False
        self.sql = self._group(filter, 0)
        self.keys = list(self._keys)
        if len(self.sql) > _MAX_SQL or len(self.bindings) > _MAX_BINDINGS:
            raise FilterError(
                "the filter has too many conditions; write many values of one key as {key: {'$in': [...]}}"
            )

    def _bind(self, value: Any) -> str:
        # By type too: 1 and True and 1.0 are equal in Python.
        name = self._names.setdefault((type(value), value), f"f{len(self._names)}")
        self.bindings[name] = value
        return f":{name}"

    def _group(self, filter: Any, depth: int) -> str:
        if not isinstance(filter, Mapping):
            raise FilterError(
                f"got {type(filter).__name__} {filter!r:.80} as filter, expected a dict such as "
                '{"lang": "pt"} or {"$or": [{...}, {...}]}'
            )
        if depth > _MAX_DEPTH:
            raise FilterError(f"the filter is nested more than {_MAX_DEPTH} levels deep; write it flatter")
        return joined([self._item(key, value, depth) for key, value in filter.items()], "AND", self.TRUE)

    def _item(self, key: Any, value: Any, depth: int) -> str:
        if not isinstance(key, str):
            raise FilterError(f"filter key {key!r} is {type(key).__name__}, expected a text")
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple) or not value:
                raise FilterError(f"{key} takes a list of filters with at least one, got {value!r:.80}")
            inside, self._in_or = self._in_or, self._in_or or key == "$or"
            parts = [self._group(item, depth + 1) for item in value]
            self._in_or = inside
            return joined(parts, key[1:].upper(), self.TRUE)
        if key == "$not":
            return self._negated(lambda: self._group(value, depth + 1))
        if key.startswith("$"):
            raise FilterError(
                f"unknown operator {key!r} where a metadata key was expected; only $and, $or and $not may stand here"
            )
        key = clean_text(key)
        self._keys[key] = None
        if isinstance(value, Mapping) and any(str(name).startswith("$") for name in value):
            if not value.keys() <= set(OPERATORS) - {"$and", "$or"}:
                wrong = next(name for name in value if name not in OPERATORS or name in ("$and", "$or"))
                raise FilterError(
                    f"unknown operator {wrong!r} for key {key!r}, expected one of {', '.join(OPERATORS[:10])}, $not"
                )
            if value.keys() <= _COMPARISONS.keys():
                return self._range(key, value)
            return joined(
                [self._operator(key, name, operand, depth) for name, operand in value.items()],
                "AND",
                self.TRUE,
            )
        if isinstance(value, list | tuple):
            self.lists[key] = value
        return self._operator(key, "$eq", value, depth)

    def _operator(self, key: str, operator: str, operand: Any, depth: int) -> str:
        if operator == "$not":
            if not isinstance(operand, Mapping):
                raise FilterError(
                    f"$not of key {key!r} takes operators such as {{'$gt': 3}}, got {operand!r:.80}"
                )
            return self._negated(lambda: self._item(key, operand, depth + 1))
        if operator in _NEGATIONS:
            return self._negated(lambda: self._operator(key, _NEGATIONS[operator], operand, depth))
        if operator == "$exists":
            if not isinstance(operand, bool):
                raise FilterError(f"$exists of key {key!r} takes True or False, got {operand!r:.80}")

            def exists() -> str:
                return self._somewhere(key, lambda field: f"({self._written(field)}{field.type} IS NOT NULL)")

            return exists() if operand else self._negated(exists)
        if operator == "$in":
            if not isinstance(operand, list | tuple | set | frozenset):
                raise FilterError(f"{operator} of key {key!r} takes a list of values, got {operand!r:.80}")
            return self._among(key, operand, depth)
        operand = checked_operand(key, operator, operand)
        if operator == "$eq" and operand is None:
            return self._negated(
                lambda: self._somewhere(key, lambda field: f"({self._written(field)}{field.type} != 'null')")
            )
        if operator in _COMPARISONS:
            return self._range(key, {operator: operand})
        test = {"$eq": self._equal, "$contains": self._contains}[operator]
        return self._somewhere(key, lambda field: test(field, operand))

    def _negated(self, compiled: Callable[[], str]) -> str:
        # What does not pass a condition stands in no index: inside, every row is looked at anyway.
        scanning, self._scanning = self._scanning, True
        condition = compiled()
        self._scanning = scanning
        return f"(NOT coalesce({condition}, {self.FALSE}))"

    def _range(self, key: str, bounds: Mapping[str, Any]) -> str:
        # As one condition: of two that stand apart an index could be asked for one bound only.
        plain = {operator: checked_operand(key, operator, operand) for operator, operand in bounds.items()}

        def within(field: _Field) -> str:
            tests = [self._compared(field, operator, operand, key) for operator, operand in plain.items()]
            return f"({self._written(field)}{_all(*tests)})"

        return self._somewhere(key, within)

    def _among(self, key: str, operands: Collection[Any], depth: int) -> str:
        plain = [checked_operand(key, "$eq", operand) for operand in operands]
        texts = [operand for operand in plain if isinstance(operand, str)]
        numbers = [operand for operand in plain if is_plain_number(operand)]
        parts = [
            self._operator(key, "$eq", operand, depth)
            for operand in plain
            if not isinstance(operand, str) and not is_plain_number(operand)
        ]
        # Each kind as one list: a chain of thousands of conditions is more than SQLite takes.
        if texts:
            listed = self._bind(json.dumps(texts))
            parts.append(
                self._somewhere(
                    key,
                    lambda field: (
                        f"({self._written(field)}{_listed(field, listed)} AND {field.type} = 'text')"
                    ),
                )
            )
        if numbers:
            these = self._bind(json.dumps(numbers))
            parts.append(
                self._somewhere(
                    key,
                    lambda field: f"({self._written(field)}{_listed(field, these)} AND {_is_number(field)})",
                )
            )
        return joined(parts, "OR", "0")

    def _somewhere(self, key: str, test: Callable[[_Field], str]) -> str:
        """Apply a test to the chunk's own value, or to the one it inherits from its source."""
        if key == "source":  # a column, not a part of the JSON; a chunk written without a source has none
            field = _Field("iif(s.key = '', NULL, 'text')", "s.key", "json_quote(s.key)")
            return f"(c.source IN (SELECT s.id FROM sources s WHERE {test(field)}))"
        place = self.place_of(key)
        own = self._field("c.metadata", key, place)
        passes = test(
            own
        )  # for a key that no chunk has too: what is refused does not depend on what is stored
        parts = [f"({passes})"] if place.in_chunks else []
        if place.in_sources:
            inherited = test(self._field("s.metadata", key, place))
            unless_own = f"AND {own.type} IS NULL " if place.in_chunks else ""
            parts.append(
                f"(c.inherits {unless_own}AND c.source IN (SELECT s.id FROM sources s WHERE {inherited}))"
            )
        condition = joined(parts, "OR", "0")
        if len(parts) > 1 and self._in_or and place.indexed and not self._scanning:
            # SQLite finds no index for an OR in an AND in an OR. This is one for it, by number.
            return f"(c.number IN (SELECT c.number FROM chunks c WHERE {condition}))"
        return condition

    def _field(self, column: str, key: str, place: KeyPlace) -> _Field:
        indexed = place.indexed and not self._scanning
        path = path_literal(key) if indexed else self._bind(json_path(key))
        return _Field(
            f"json_type({column}, {path})",
            f"({column} ->> {path})",
            f"({column} -> {path})",
            raw=None if indexed else (column, json_string(key)),
        )

    def _written(self, field: _Field, value: str = "") -> str:
        """Return the start of a condition: the row's JSON text holds the key, followed by this value."""
        if field.raw is None:
            return ""
        column, key = field.raw
        return f"instr({column}, {self._bind(f'{key}:{value}')}) AND "

    def _equal(self, field: _Field, operand: Any) -> str:
        # The value before the type: it is the one that few rows pass.
        if isinstance(operand, bool):
            name = "true" if operand else "false"
            return f"({self._written(field, name)}{field.type} = '{name}')"
        if isinstance(operand, str):
            return (
                f"({self._written(field, json_string(operand))}{field.value} = {self._bind(operand)} "
                f"AND {field.type} = 'text')"
            )
        if isinstance(operand, int | float):
            return f"({self._written(field, number_start(operand))}{_all(self._number(field, '=', operand))})"
        text = json_text(operand)
        return (
            f"({self._written(field, text)}{field.value} = {self._bind(text)} "
            f"AND {field.type} IN ('array', 'object'))"
        )

    def _compared(self, field: _Field, operator: str, operand: Any, key: str) -> tuple[str, str]:
        """Return the test of the value and the test of its type."""
        sign = _COMPARISONS[operator]
        if isinstance(operand, str):
            return f"{field.value} {sign} {self._bind(operand)}", f"{field.type} = 'text'"
        if isinstance(operand, bool) or not isinstance(operand, int | float):
            raise FilterError(
                f"{operator} of key {key!r} compares numbers or texts, got {type(operand).__name__} {operand!r:.80}"
            )
        return self._number(field, sign, operand)

    def _number(self, field: _Field, sign: str, operand: int | float) -> tuple[str, str]:
        if is_plain_number(operand):
            return f"{field.value} {sign} {self._bind(operand)}", _is_number(field)
        # iif, not AND alone: only it promises not to look at values of other types. AND is what an index can use.
        exact = f"oraculo_compare({field.json}, {self._bind(str(operand))}) {sign} 0"
        return f"iif({_is_number(field)}, {exact}, 0)", _is_number(field)

    def _contains(self, field: _Field, operand: Any) -> str:
        element = _Field("e.type", "e.value", f"({field.json} -> e.fullkey)")
        listed = (
            f"({self._written(field)}{field.type} = 'array' AND EXISTS "
            f"(SELECT 1 FROM json_each({field.json}) e WHERE {self._equal(element, operand)}))"
        )
        if not isinstance(operand, str):
            return listed
        return f"(({self._written(field)}{field.type} = 'text' AND instr({field.value}, {self._bind(operand)}) > 0) OR {listed})"


@dataclass(frozen=True, slots=True)
class _Field:
    """SQL for a key's JSON type, its SQL value and its JSON text.

    ``raw`` is the column and the key as it stands there, where a look at the column's bytes is worth while.
    """

    type: str
    value: str
    json: str
    raw: tuple[str, str] | None = None


def joined(parts: Sequence[str], word: str, empty: str) -> str:
    """Join conditions as a balanced tree: SQLite takes expressions up to 1000 levels deep."""
    if len(parts) < 2:
        return parts[0] if parts else empty
    half = len(parts) // 2
    return f"({joined(parts[:half], word, empty)} {word} {joined(parts[half:], word, empty)})"


def _all(*tests: tuple[str, str]) -> str:
    # The values before the types: they are what few rows pass.
    types = dict.fromkeys(of_type for _, of_type in tests)
    return joined([*(of_value for of_value, _ in tests), *types], "AND", "1")


def json_path(key: str) -> str:
    """Return the path of a metadata key; the quoted form takes any key: quotes, dots, NUL.

    Examples
    --------
    >>> json_path("a.b")
    '$."a.b"'
    """
    return f"$.{json.dumps(key)}"


def path_literal(key: str) -> str:
    """Return the path of a metadata key as SQL: printable ASCII between single quotes, whatever the key.

    Examples
    --------
    >>> print(path_literal("'; DROP TABLE chunks; --"))
    '$."''; DROP TABLE chunks; --"'
    """
    path = json_path(key).replace("'", "''")
    return f"'{path}'"


def _is_number(field: _Field) -> str:
    return f"{field.type} IN ('integer', 'real')"


def _listed(field: _Field, values: str) -> str:
    return f"{field.value} IN (SELECT value FROM json_each({values}))"
