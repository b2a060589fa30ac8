"""One loaded model and how it is asked: a local one batch by batch, a remote one by several requests at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from oraculo_kit.embedding.batching import BatchSizer, batches
from oraculo_kit.embedding.checking import Gathering
from oraculo_kit.embedding.failures import PATIENCE, AbandonedError, attempted
from oraculo_kit.embedding.objects import EmbeddingsLike
from oraculo_kit.embedding.options import EmbedOptions
from oraculo_kit.embedding.providers import is_remote, tries_of
from oraculo_kit.embedding.requesting import Answer, Pace, request_all

WORTH_CACHING = 0.001
"""Seconds that a text must take for its vector to be cached; see `oraculo_kit.embed`."""

_QUERY_PATIENCE = 10.0  # seconds: somebody waits for the answer
_LOOK_UP = 0.1  # seconds between two checkpoints in a wait

Call = Callable[[list[str]], Any]
Checkpoint = Callable[[], None]


class Asker:
    """Asks one model; thread-safe.

    Parameters
    ----------
    model : EmbeddingsLike
    options : EmbedOptions
    turn : callable
        See `oraculo_kit.embedding.requesting.Pace`.

    Attributes
    ----------
    is_remote : bool
    """

    def __init__(
        self, model: EmbeddingsLike, options: EmbedOptions, turn: Callable[[float], float | None]
    ) -> None:
        self.model = model
        self.is_remote = is_remote(model)
        self._tries = tries_of(model)
        self._sizer = BatchSizer()
        self._pace = Pace(options.requests, options.rate, turn)

    @property
    def is_worth_caching(self) -> bool:
        """Whether a text costs more than looking for it in the cache; of a local model, as its calls were measured."""
        return self.is_remote or (self._sizer.seconds_per_text or WORTH_CACHING) >= WORTH_CACHING

    def ask_documents(
        self,
        gathered: Gathering,
        rows: Sequence[int],
        checkpoint: Checkpoint,
        keep: Callable[[list[int]], None],
    ) -> None:
        """Have the texts at `rows` embedded; `keep` is told the rows of each batch as soon as they are in `gathered`.

        What `checkpoint` raises goes through at once; faults of the model are noted in `gathered`.
        """
        texts = [gathered.texts[row] for row in rows]

        def take(answer: Answer) -> bool:
            return _take(gathered, [rows[place] for place in answer.batch], answer, keep)

        def call(batch: range) -> Any:
            return self.model.embed_documents(texts[batch.start : batch.stop])

        if self.is_remote:
            self._request(list(batches(texts)), call, take, checkpoint, PATIENCE)
            return
        start, goes_on = 0, True
        while start < len(texts) and goes_on:
            checkpoint()
            batch = self._sizer.batch(texts, start)
            began = time.perf_counter()
            answer = self._answer(batch, call, checkpoint)
            if answer.failure is None:
                size = sum(len(texts[place]) for place in batch)
                self._sizer.note(len(batch), size, time.perf_counter() - began)
            goes_on = take(answer)
            start = batch.stop

    def ask_queries(self, gathered: Gathering) -> None:
        """Have all texts embedded as questions, one by one."""
        todo = [range(row, row + 1) for row in range(len(gathered.texts))]

        def take(answer: Answer) -> bool:
            return _take(gathered, answer.batch, answer, _forget)

        def call(batch: range) -> Any:
            return [self.model.embed_query(gathered.texts[batch[0]])]

        if self.is_remote:
            self._request(todo, call, take, _nothing, _QUERY_PATIENCE)
            return
        for batch in todo:
            if not take(self._answer(batch, call, _nothing, _QUERY_PATIENCE)):
                return

    def _request(
        self,
        todo: list[range],
        call: Callable[[range], Any],
        take: Callable[[Answer], bool],
        checkpoint: Checkpoint,
        patience: float,
    ) -> None:
        request_all(todo, call, take, self._pace, checkpoint=checkpoint, tries=self._tries, patience=patience)

    def _answer(
        self,
        batch: range,
        call: Callable[[range], Any],
        checkpoint: Checkpoint,
        patience: float = PATIENCE,
    ) -> Answer:
        """Ask a local model on this thread."""

        def wait(seconds: float) -> None:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                checkpoint()
                time.sleep(min(left, _LOOK_UP))

        return Answer(batch, *attempted(lambda: call(batch), wait, tries=self._tries, patience=patience))


def _take(
    gathered: Gathering, places: Sequence[int], answer: Answer, keep: Callable[[list[int]], None]
) -> bool:
    """Check and keep an answer; return whether asking for more makes sense."""
    if isinstance(answer.failure, AbandonedError):
        return gathered.goes_on
    if isinstance(answer.failure, Exception):
        return gathered.fail(places, answer.failure)
    if answer.failure is not None:  # SystemExit and its like, raised in the model
        raise answer.failure
    kept = gathered.take(places, answer.result)
    if kept:
        keep(kept)
    return gathered.goes_on


def _forget(rows: list[int]) -> None:
    """Keep nothing: questions are not cached."""


def _nothing() -> None:
    """Stand in for a checkpoint."""
