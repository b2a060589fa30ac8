"""Lengths in tokens.

They are those of the default embedder's tokenizer (``wordllama:l2_supercat``, the 32,000 tokens of Llama 2), whatever
embedder is used: others keep theirs to themselves or behind a network. A token is about four characters of English
and three of Portuguese; other models count within some 20 % of it.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Any

from oraculo_kit.cutting import RECURSIVE, Level, cut_text

_WINDOW = 20_000  # characters tokenized at once: bounds the memory that a long text takes


class Tokens:
    """The ruler that counts tokens by where they start in the text."""

    def __init__(self, starts: list[int], end: int) -> None:
        self._starts = starts
        self._end = end

    def length(self, start: int, end: int) -> int:
        """Return the number of tokens that start in ``text[start:end]``."""
        return bisect_left(self._starts, end) - bisect_left(self._starts, start)

    def furthest(self, start: int, length: int) -> int:
        """Return the last offset that is at most `length` tokens away from `start`."""
        place = bisect_left(self._starts, start) + length
        return self._starts[place] if place < len(self._starts) else self._end

    def nearest(self, end: int, length: int) -> int:
        """Return the first offset that is at most `length` tokens away from `end`."""
        place = bisect_left(self._starts, end) - length
        return self._starts[place - 1] + 1 if place > 0 else 0


def count_tokens(texts: list[str]) -> list[int]:
    """Return the number of tokens of each text.

    Examples
    --------
    >>> count_tokens(["nota fiscal", ""])
    [4, 0]
    """
    encodings = _tokenizer().encode_batch_fast(texts, add_special_tokens=False)
    return [len(encoding.ids) for encoding in encodings]


def cut_by_tokens(
    text: str, start: int, end: int, *, size: int, overlap: int, levels: tuple[Level, ...] = RECURSIVE
) -> list[tuple[int, int]]:
    """Cut ``text[start:end]`` into chunks of at most `size` tokens, each counted by itself.

    A single character that is more tokens than that, as a rare one may be, is a chunk of its own.

    Returns
    -------
    list of (int, int)
        As :func:`oraculo_kit.cutting.cut_text`.
    """
    # A token is a byte at least; one more is the space that the tokenizer sets before a text.
    if end - start < size and len(text[start:end].encode("utf-8", "replace")) < size:
        return [(start, end)]
    ruler = Tokens(_token_starts(text, start, end), end)
    # By itself a chunk is often a token longer: the one for the space that a tokenizer sets before it.
    spans = _cut(text, start, end, max(size - 1, 1), overlap, levels, ruler)
    return _fitting(text, spans, size, levels, ruler)


def _cut(
    text: str, start: int, end: int, size: int, overlap: int, levels: tuple[Level, ...], ruler: Tokens
) -> list[tuple[int, int]]:
    if ruler.length(start, end) <= size:
        return [(start, end)]
    return cut_text(text, start, end, size=size, overlap=overlap, levels=levels, ruler=ruler)


def _fitting(
    text: str, spans: list[tuple[int, int]], size: int, levels: tuple[Level, ...], ruler: Tokens
) -> list[tuple[int, int]]:
    """Cut again what is longer by itself than in its text: tokens join differently at a chunk's ends."""
    counts = count_tokens([_encodable(text[start:end].strip()) for start, end in spans])
    fitting: list[tuple[int, int]] = []
    next_starts = [start for start, _ in spans[1:]] + [spans[-1][1]]
    for (start, end), count, next_start in zip(spans, counts, next_starts, strict=True):
        if count <= size or end - start <= 1:
            fitting.append((start, end))
            continue
        smaller = max(ruler.length(start, end) - (count - size), 1)
        parts = _cut(text, start, end, smaller, 0, levels, ruler)
        if len(parts) == 1:
            middle = (start + end) // 2
            parts = [(start, middle), (middle, end)]
        # What begins in the overlap is whole in the next chunk.
        fitting.extend(part for part in _fitting(text, parts, size, levels, ruler) if part[0] < next_start)
    return fitting


def _token_starts(text: str, start: int, end: int) -> list[int]:
    starts: list[int] = []
    while start < end:
        stop = min(start + _WINDOW, end)
        if stop < end:
            stop = max(text.rfind(" ", start + 1, stop), text.rfind("\n", start + 1, stop), start) or stop
            stop = stop if stop > start else min(start + _WINDOW, end)
        window = _encodable(text[start:stop])
        encoding = _tokenizer().encode(window, add_special_tokens=False)
        starts.extend(start + first for first, _ in encoding.offsets)
        start = stop
    return starts


def _encodable(text: str) -> str:
    # A lone surrogate is no Unicode; one character stands for one.
    return (
        text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from oraculo_kit.embedding.static import load_tokenizer

    return load_tokenizer()
