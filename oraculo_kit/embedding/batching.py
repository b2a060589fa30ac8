"""How many texts a model is given at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

SECONDS_PER_CALL = 0.2
"""What a call of a local model should take: so often can a run be stopped and its progress shown."""

_FIRST_TEXTS = 8
_MOST_TEXTS = 1024
_MOST_CHARACTERS = 1_000_000
_GROWTH = 4
_WEIGHT = 0.5  # of the latest call: a model's first one is slow (it warms up), and texts differ

REQUEST_TEXTS = 96
"""Texts per request to a remote model: the least that the known providers take at once (Cohere 96, Google 100)."""

REQUEST_CHARACTERS = 100_000
"""Characters per request: below 300,000 tokens (OpenAI's bound) in any language."""


class BatchSizer:
    """Finds the batch size of a local model by measuring its calls; one per model, shared by threads.

    Starts with 8 texts and goes on with as many characters as the model embeds in 0.2 s, up to four times the batch
    before, 1,024 texts and 1,000,000 characters: the bounds keep memory flat, and a model of which nothing is known
    yet is not asked for a minute's work at once. A text that is longer is a batch of its own.

    Examples
    --------
    >>> sizer = BatchSizer()
    >>> len(sizer.batch(["a text"] * 100, 0))
    8
    >>> sizer.note(8, 48, 0.01)
    >>> len(sizer.batch(["a text"] * 100, 0))
    32
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._characters_per_second = 0.0
        self._texts, self._characters = _FIRST_TEXTS, _MOST_CHARACTERS
        self.seconds_per_text: float | None = None

    def batch(self, texts: Sequence[str], start: int) -> range:
        """Return the places of the next batch, from `start`."""
        with self._lock:
            most, characters = self._texts, self._characters
        return next(batches(texts, most, characters, start))

    def note(self, texts: int, characters: int, seconds: float) -> None:
        """Take note of a call of the model."""
        seconds, characters = max(seconds, 1e-6), max(characters, 1)
        with self._lock:
            weight = _WEIGHT if self.seconds_per_text is not None else 1.0
            self.seconds_per_text = weight * seconds / texts + (1 - weight) * (self.seconds_per_text or 0.0)
            rate = weight * characters / seconds + (1 - weight) * self._characters_per_second
            self._characters_per_second = rate
            self._texts = min(_GROWTH * texts if texts >= self._texts else self._texts, _MOST_TEXTS)
            self._characters = int(min(rate * SECONDS_PER_CALL, _MOST_CHARACTERS))


def batches(
    texts: Sequence[str], most: int = REQUEST_TEXTS, characters: int = REQUEST_CHARACTERS, start: int = 0
) -> Iterator[range]:
    """Cut texts into batches of at most so many texts and characters, in their order.

    Examples
    --------
    >>> [list(batch) for batch in batches(["aaaa", "b", "c", "dd"], most=3, characters=4)]
    [[0], [1, 2, 3]]
    """
    while start < len(texts):
        end, room = start, characters
        while end < len(texts) and end - start < most and (end == start or len(texts[end]) <= room):
            room -= len(texts[end])
            end += 1
        yield range(start, end)
        start = end
