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

A key and a value are data: both reach SQLite as parameters, never as SQL.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from oraculo_kit.errors import FilterError, SourceError
from oraculo_kit.storage.records import MAX_INTEGER_BITS, clean_text, metadata_json

Filter = Mapping[str, Any]

OPERATORS = (
    "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$contains", "$and", "$or", "$not"
)  # fmt: skip
_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_NEGATIONS = {"$ne": "$eq", "$nin": "$in"}
_MAX_DEPTH = 32
_MAX_SQL = 500_000  # half of what SQLite parses
_MAX_BINDINGS = 30_000  # SQLite takes 32,766


class CompiledFilter:
    """A filter as SQL: a condition over ``chunks c``, its bindings and the keys it asks for.

    Parameters
    ----------
    filter : mapping

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

    def __init__(self, filter: Filter) -> None:
        self.bindings: dict[str, Any] = {}
        self._keys: dict[str, None] = {}
        self._names: dict[tuple[type, Any], str] = {}
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
        return _joined([self._item(key, value, depth) for key, value in filter.items()], "AND", "1")

    def _item(self, key: Any, value: Any, depth: int) -> str:
        if not isinstance(key, str):
            raise FilterError(f"filter key {key!r} is {type(key).__name__}, expected a text")
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple) or not value:
                raise FilterError(f"{key} takes a list of filters with at least one, got {value!r:.80}")
            return _joined([self._group(item, depth + 1) for item in value], key[1:].upper(), "1")
        if key == "$not":
            return f"(NOT {self._group(value, depth + 1)})"
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
            return _joined(
                [self._operator(key, name, operand, depth) for name, operand in value.items()], "AND", "1"
            )
        return self._operator(key, "$eq", value, depth)

    def _operator(self, key: str, operator: str, operand: Any, depth: int) -> str:
        if operator == "$not":
            if not isinstance(operand, Mapping):
                raise FilterError(
                    f"$not of key {key!r} takes operators such as {{'$gt': 3}}, got {operand!r:.80}"
                )
            return f"(NOT {self._item(key, operand, depth + 1)})"
        if operator in _NEGATIONS:
            return f"(NOT {self._operator(key, _NEGATIONS[operator], operand, depth)})"
        if operator == "$exists":
            if not isinstance(operand, bool):
                raise FilterError(f"$exists of key {key!r} takes True or False, got {operand!r:.80}")
            found = self._somewhere(key, lambda field: f"{field.type} IS NOT NULL")
            return found if operand else f"(NOT {found})"
        if operator == "$in":
            if not isinstance(operand, list | tuple | set | frozenset):
                raise FilterError(f"{operator} of key {key!r} takes a list of values, got {operand!r:.80}")
            return self._among(key, operand, depth)
        operand = _operand(key, operator, operand)
        if operator == "$eq" and operand is None:
            present = self._somewhere(
                key, lambda field: f"{field.type} IS NOT NULL AND {field.type} != 'null'"
            )
            return f"(NOT {present})"
        test = {"$eq": self._equal, "$contains": self._contains}.get(operator)
        if test is not None:
            return self._somewhere(key, lambda field: test(field, operand))
        return self._somewhere(key, lambda field: self._compared(field, operator, operand, key))

    def _among(self, key: str, operands: Collection[Any], depth: int) -> str:
        plain = [_operand(key, "$eq", operand) for operand in operands]
        texts = [operand for operand in plain if isinstance(operand, str)]
        numbers = [operand for operand in plain if _is_plain_number(operand)]
        parts = [
            self._operator(key, "$eq", operand, depth)
            for operand in plain
            if not isinstance(operand, str) and not _is_plain_number(operand)
        ]
        # Each kind as one list: a chain of thousands of conditions is more than SQLite takes.
        if texts:
            listed = self._bind(json.dumps(texts))
            parts.append(
                self._somewhere(key, lambda field: f"({field.type} = 'text' AND {_listed(field, listed)})")
            )
        if numbers:
            these = self._bind(json.dumps(numbers))
            parts.append(
                self._somewhere(key, lambda field: f"({_is_number(field)} AND {_listed(field, these)})")
            )
        return _joined(parts, "OR", "0")

    def _somewhere(self, key: str, test: Callable[[_Field], str]) -> str:
        """Apply a test to the chunk's own value, or to the one it inherits from its source."""
        if key == "source":  # a column, not a part of the JSON; a chunk written without a source has none
            field = _Field("iif(s.key = '', NULL, 'text')", "s.key", "json_quote(s.key)")
            return f"(c.source IN (SELECT s.id FROM sources s WHERE coalesce({test(field)}, 0)))"
        own, inherited = self._field("c.metadata", key), self._field("s.metadata", key)
        return (
            f"((coalesce({test(own)}, 0)) OR (c.inherits AND {own.type} IS NULL AND c.source IN "
            f"(SELECT s.id FROM sources s WHERE coalesce({test(inherited)}, 0))))"
        )

    def _field(self, column: str, key: str) -> _Field:
        path = self._bind(f"$.{json.dumps(key)}")  # the quoted form takes any key: quotes, dots, NUL
        return _Field(f"json_type({column}, {path})", f"({column} ->> {path})", f"({column} -> {path})")

    def _equal(self, field: _Field, operand: Any) -> str:
        if isinstance(operand, bool):
            return f"{field.type} = '{'true' if operand else 'false'}'"
        if isinstance(operand, str):
            return f"({field.type} = 'text' AND {field.value} = {self._bind(operand)})"
        if isinstance(operand, int | float):
            return self._number(field, "=", operand)
        return f"({field.type} IN ('array', 'object') AND {field.json} = {self._bind(_json_text(operand))})"

    def _compared(self, field: _Field, operator: str, operand: Any, key: str) -> str:
        sign = _COMPARISONS[operator]
        if isinstance(operand, str):
            return f"({field.type} = 'text' AND {field.value} {sign} {self._bind(operand)})"
        if isinstance(operand, bool) or not isinstance(operand, int | float):
            raise FilterError(
                f"{operator} of key {key!r} compares numbers or texts, got {type(operand).__name__} {operand!r:.80}"
            )
        return self._number(field, sign, operand)

    def _number(self, field: _Field, sign: str, operand: int | float) -> str:
        if _is_plain_number(operand):
            return f"({_is_number(field)} AND {field.value} {sign} {self._bind(operand)})"
        # iif, not AND: only it promises not to look at values of other types.
        exact = f"oraculo_compare({field.json}, {self._bind(str(operand))}) {sign} 0"
        return f"iif({_is_number(field)}, {exact}, 0)"

    def _contains(self, field: _Field, operand: Any) -> str:
        element = _Field("e.type", "e.value", f"({field.json} -> e.fullkey)")
        listed = (
            f"({field.type} = 'array' AND EXISTS "
            f"(SELECT 1 FROM json_each({field.json}) e WHERE {self._equal(element, operand)}))"
        )
        if not isinstance(operand, str):
            return listed
        return f"(({field.type} = 'text' AND instr({field.value}, {self._bind(operand)}) > 0) OR {listed})"


class _Field:
    """SQL for a key's JSON type, its SQL value and its JSON text."""

    def __init__(self, type: str, value: str, json: str) -> None:
        self.type = type
        self.value = value
        self.json = json


def _joined(parts: Sequence[str], word: str, empty: str) -> str:
    """Join conditions as a balanced tree: SQLite takes expressions up to 1000 levels deep."""
    if len(parts) < 2:
        return parts[0] if parts else empty
    half = len(parts) // 2
    return f"({_joined(parts[:half], word, empty)} {word} {_joined(parts[half:], word, empty)})"


def _is_number(field: _Field) -> str:
    return f"{field.type} IN ('integer', 'real')"


def _listed(field: _Field, values: str) -> str:
    return f"{field.value} IN (SELECT value FROM json_each({values}))"


def _is_plain_number(operand: Any) -> bool:
    """Tell whether SQLite compares it exactly with every stored number.

    SQLite reads integers beyond 64 bits as floats. These are 2^63 or more, so within these bounds no rounding can
    make them equal to an operand, or put them on its other side; beyond, digits are compared in Python.
    """
    return not isinstance(operand, bool) and isinstance(operand, int | float) and -(2**63) < operand < 2**63


def _json_text(operand: Any) -> str:
    """Return a list or dict as metadata stores it."""
    return metadata_json({"": operand}).removeprefix('{"":').removesuffix("}")


def _operand(key: str, operator: str, operand: Any) -> Any:
    """Return an operand as metadata would store it, or refuse it."""
    if hasattr(operand, "item") and hasattr(operand, "dtype") and getattr(operand, "ndim", None) == 0:
        operand = operand.item()
    if operand is None and operator == "$eq":
        return None
    if isinstance(operand, float) and not math.isfinite(operand):
        raise FilterError(f"{operator} of key {key!r} takes a finite number, got {operand!r}")
    if isinstance(operand, int) and operand.bit_length() > MAX_INTEGER_BITS:
        raise FilterError(
            f"{operator} of key {key!r} got an integer of {operand.bit_length()} bits; none so large is stored"
        )
    if hasattr(operand, "isoformat"):
        return operand.isoformat()  # as metadata stores dates
    if isinstance(operand, str):
        return clean_text(operand)
    if isinstance(operand, bool | int | float):
        return operand
    if operator == "$eq" and isinstance(operand, list | tuple | Mapping):
        try:
            _json_text(operand)
        except SourceError as exc:
            raise FilterError(f"{operator} of key {key!r}: {exc}") from exc
        return operand
    raise FilterError(
        f"{operator} of key {key!r} takes a text, a number or true/false, got {type(operand).__name__} {operand!r:.80}"
    )


def compare_numbers(stored: str | None, operand: str) -> int | None:
    """Compare two JSON numbers exactly; registered with SQLite as ``oraculo_compare``.

    Returns
    -------
    int or None
        Negative, zero or positive as `stored` is less than, equal to or greater than `operand`; None when there is
        nothing stored.

    Examples
    --------
    >>> compare_numbers("18446744073709551616", "18446744073709551615")
    1
    """
    if stored is None:
        return None
    one, other = (int(text) if text.lstrip("-").isdigit() else float(text) for text in (stored, operand))
    return (one > other) - (one < other)
