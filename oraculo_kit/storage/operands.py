"""The values that a filter compares with: as metadata would store them, and how numbers are compared exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from oraculo_kit.errors import FilterError, SourceError
from oraculo_kit.storage.records import MAX_INTEGER_BITS, clean_text, metadata_json


def is_plain_number(operand: Any) -> bool:
    """Tell whether SQLite compares it exactly with every stored number.

    SQLite reads integers beyond 64 bits as floats. These are 2^63 or more, so within these bounds no rounding can
    make them equal to an operand, or put them on its other side; beyond, digits are compared in Python.
    """
    return not isinstance(operand, bool) and isinstance(operand, int | float) and -(2**63) < operand < 2**63


def number_start(operand: int | float) -> str:
    """Return what every stored number equal to `operand` begins with; empty where nothing can be said.

    Examples
    --------
    >>> number_start(17), number_start(17.0), number_start(0.5), number_start(1e20)
    ('17', '17', '0.5', '')
    """
    if operand != operand // 1:
        return repr(float(operand))  # only the same float is equal, and it is written in one way
    # Written as 17 or 17.0; from 1e16 on floats have an exponent, and zero may have a sign.
    return str(int(operand)) if 0 < abs(operand) < 10**15 else ""


def json_text(operand: Any) -> str:
    """Return a list or dict as it stands in stored metadata."""
    return metadata_json({"": operand}).removeprefix('{"":').removesuffix("}")


def json_string(text: str) -> str:
    """Return a text as it stands in stored metadata."""
    return json.dumps(text, ensure_ascii=False)


def checked_operand(key: str, operator: str, operand: Any) -> Any:
    """Return an operand as metadata would store it, or refuse it.

    Raises
    ------
    FilterError
    """
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
            json_text(operand)
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
