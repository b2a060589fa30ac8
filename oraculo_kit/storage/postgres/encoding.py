r"""How texts, metadata and vectors stand in PostgreSQL, and the binary rows that bring many of them at once.

**Texts.** PostgreSQL holds every character but NUL, neither in ``text`` nor in ``jsonb``. Documents hold it now and
then, and what was written must come back. So the characters 0 to 3 are written as three others of themselves::

    \0 -> \1\2\2      \1 -> \1\2\3      \2 -> \1\3\2      \3 -> \1\3\3

Nothing else in a text is below 4, so a written text keeps its order by code point, and a part of a text is a part of
the written text, and of no other: filters compare what is written.

**Metadata** stand twice: as the JSON text that the embedded store would hold (`records.metadata_json`), so that they
come back as they were, and with what the source shares as ``jsonb`` for filters. In the latter floats from 2^53 on are
written with all their digits: Python compares their exact value with an integer, ``1e23`` is below ``10**23``.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CODES = {0: "\1\2\2", 1: "\1\2\3", 2: "\1\3\2", 3: "\1\3\3"}
_CHARACTERS = {code: chr(number) for number, code in _CODES.items()}
_LOW = re.compile("[\0-\3]")
_CODE = re.compile("\1[\2\3][\2\3]")
_LARGE_FLOAT = re.compile(r"\de\+\d")
_EXACT = 2**53  # integers up to it are floats without rounding


def written(text: str) -> str:
    r"""Return a text as PostgreSQL can hold it.

    Examples
    --------
    >>> written("a\0b")
    'a\x01\x02\x02b'
    """
    return text.translate(_CODES) if _LOW.search(text) else text


def read(text: str) -> str:
    r"""Return the text that `written` wrote.

    Examples
    --------
    >>> read(written("\0\1\2\3")) == "\0\1\2\3"
    True
    """
    return _CODE.sub(lambda code: _CHARACTERS[code[0]], text) if "\1" in text else text


def read_optional(text: str | None) -> str | None:
    """Return the text that `written` wrote, and None for None."""
    return None if text is None else read(text)


def written_json(text: str) -> str:
    """Return the JSON of `records.metadata_json` as PostgreSQL can hold it."""
    return _dumped(_mapped(json.loads(text), written)) if "\\u000" in text else text


def read_json(text: str) -> str:
    """Return the JSON that `written_json` wrote."""
    return _dumped(_mapped(json.loads(text), read)) if "\\u0001" in text else text


def fields_json(shared: str, own: str) -> str:
    """Return what filters look at: a source's and a chunk's metadata in one; the chunk's own come last, and count.

    Examples
    --------
    >>> fields_json('{"lang":"pt"}', '{"page":1}'), fields_json("{}", '{"n":1e+20}')
    ('{"lang":"pt","page":1}', '{"n":100000000000000000000}')
    """
    joined = "{" + ",".join(part for part in (shared[1:-1], own[1:-1]) if part) + "}"
    if "\\u000" not in joined and not _LARGE_FLOAT.search(joined):
        return joined
    return _dumped(_mapped(json.loads(joined), written, exactly=True))


def field_json(value: Any) -> str:
    """Return one value as it stands among the fields."""
    return _dumped(_mapped(value, written, exactly=True))


def _mapped(value: Any, change: Any, *, exactly: bool = False) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _mapped(item, change, exactly=exactly) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change, exactly=exactly) for item in value]
    if exactly and isinstance(value, float) and abs(value) >= _EXACT:
        return int(value)
    return value


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def vector_text(vector: NDArray[np.float32]) -> str:
    """Return a vector as the text that pgvector reads."""
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def number_array(numbers: Iterable[int] | NDArray[np.int64]) -> str:
    """Return numbers as the text of a PostgreSQL array."""
    listed = numbers.tolist() if isinstance(numbers, np.ndarray) else numbers
    return "{" + ",".join(map(str, listed)) + "}"


def text_array(texts: Iterable[str]) -> str:
    r"""Return texts as the text of a PostgreSQL array, written as PostgreSQL can hold them.

    Examples
    --------
    >>> print(text_array(['a "b"', "c\\d", ""]))
    {"a \"b\"","c\\d",""}
    """
    items = (written(text).replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{item}"' for item in items) + "}"


def vectors_of_bytes(content: bytes, dimension: int) -> NDArray[np.float32]:
    """Return the vectors in a row of what pgvector sends, float32 (n, dimension)."""
    rows = np.frombuffer(content, np.uint8).reshape(-1, 4 + 4 * dimension)
    return np.ascontiguousarray(rows[:, 4:]).view(">f4").astype(np.float32)


def numbers_of_bytes(content: bytes | None) -> NDArray[np.int64]:
    """Return integers of 8 bytes in a row, int64 (n,)."""
    return np.frombuffer(content or b"", ">i8").astype(np.int64)


def binary_rows(kinds: str, rows: Iterable[Sequence[Any]]) -> io.BytesIO:
    """Return rows for ``COPY ... FROM STDIN (FORMAT binary)``.

    Parameters
    ----------
    kinds : str
        One letter per column: ``q`` bigint, ``i`` integer, ``?`` boolean, ``t`` text or json, ``b`` jsonb,
        ``v`` vector (bytes of `vector_bytes`).
    rows : iterable of sequence
        None is NULL.
    """
    out = io.BytesIO()
    out.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
    width, null = struct.pack(">h", len(kinds)), struct.pack(">i", -1)
    writers = [_WRITERS[kind] for kind in kinds]
    for row in rows:
        out.write(width)
        for value, write in zip(row, writers, strict=True):
            out.write(null if value is None else write(value))
    out.write(struct.pack(">h", -1))
    out.seek(0)
    return out


def vector_bytes(vectors: NDArray[np.float32]) -> list[bytes]:
    """Return each vector as pgvector receives it."""
    head = struct.pack(">hh", vectors.shape[1], 0)
    return [head + row.tobytes() for row in vectors.astype(">f4")]


def _sized(content: bytes) -> bytes:
    return struct.pack(">i", len(content)) + content


_WRITERS: dict[str, Any] = {
    "q": lambda value: struct.pack(">iq", 8, value),
    "i": lambda value: struct.pack(">ii", 4, value),
    "?": lambda value: struct.pack(">i?", 1, value),
    "t": lambda value: _sized(value.encode()),
    "b": lambda value: _sized(b"\1" + value.encode()),
    "v": _sized,
}
