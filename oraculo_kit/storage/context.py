"""The text around a hit: its neighbours in the same source, what chunks repeat of each other left out once.

Chunks that were split carry ``start`` and ``end``, offsets in the text they come from; then what two of them share
is known, and checked on the texts. Offsets of two pages do not belong together: the check fails, and nothing is cut.
Without offsets the longest end of one chunk that is the beginning of the next is taken for repeated, from
`_LEAST_REPEATED` characters on: shorter ones are chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oraculo_kit.storage.asking import Version
    from oraculo_kit.storage.snapshot import StoredChunk

__all__ = ["around", "read_around", "seam"]

_LEAST_REPEATED = 10  # characters
_MOST_REPEATED = 10_000
_PLACES = ("page", "sheet", "row")


def read_around(snapshot: Version, chunk: StoredChunk, n: int) -> tuple[str, str]:
    """Return the text before and after a chunk, up to `n` neighbours on either side.

    Parameters
    ----------
    snapshot : Version
        The version that the chunk was read from.
    chunk : StoredChunk
    n : int

    Returns
    -------
    (str, str)
    """
    return around(snapshot.between(chunk.source, chunk.ordinal - n, chunk.ordinal + n), chunk)


def around(chunks: Sequence[StoredChunk], chunk: StoredChunk) -> tuple[str, str]:
    """Return the text before and after `chunk`.

    Parameters
    ----------
    chunks : sequence of StoredChunk
        Of its source. One that is missing ends the context: what stands beyond a gap is no neighbour. Where several
        have one place (a source that was written in several calls), those written with `chunk` count.
    chunk : StoredChunk

    Returns
    -------
    (str, str)
        Joined to the chunk's own text they give the passage.
    """
    far_first = sorted(chunks, key=lambda one: -abs(one.number - chunk.number))
    by_ordinal = {one.ordinal: one for one in far_first} | {chunk.ordinal: chunk}
    before: list[str] = []
    place = chunk.ordinal
    while place - 1 in by_ordinal:
        shared, between = seam(by_ordinal[place - 1], by_ordinal[place])
        text = by_ordinal[place - 1].text
        before += [between, text[: len(text) - shared]]
        place -= 1
    after: list[str] = []
    place = chunk.ordinal
    while place + 1 in by_ordinal:
        shared, between = seam(by_ordinal[place], by_ordinal[place + 1])
        after += [between, by_ordinal[place + 1].text[shared:]]
        place += 1
    return "".join(reversed(before)), "".join(after)


def seam(one: StoredChunk, other: StoredChunk) -> tuple[int, str]:
    """Return how two neighbours join: how many characters they share, and what to write between them.

    Returns
    -------
    (int, str)
        The characters at the end of `one` that stand at the beginning of `other` too; and the space between them,
        empty when they share some or touch.
    """
    end, start = _offset(one.metadata, "end"), _offset(other.metadata, "start")
    if any(one.metadata.get(name) != other.metadata.get(name) for name in _PLACES):
        return 0, "\n"
    if end is None or start is None:
        shared = _repeated(one.text, other.text)
        return shared, "" if shared else "\n"
    shared = min(max(end - start, 0), len(one.text), len(other.text))
    if shared and not one.text.endswith(other.text[:shared]):
        return 0, "\n"  # offsets in two different texts
    # Only white space lies between two chunks; how much of it is known, not which.
    return shared, "" if start <= end else " " if start == end + 1 else "\n\n"


def _repeated(one: str, other: str) -> int:
    """Return the length of the longest end of `one` that `other` begins with; 0 when it is too short to tell."""
    for length in range(min(len(one), len(other), _MOST_REPEATED), _LEAST_REPEATED - 1, -1):
        if one.endswith(other[:length]):
            return length
    return 0


def _offset(metadata: dict[str, Any], key: str) -> int | None:
    value = metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
