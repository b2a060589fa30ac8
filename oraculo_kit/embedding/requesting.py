"""Requests to a remote model: several at a time, at a bounded rate, on threads that nobody has to wait for.

The threads make requests and nothing else. What comes back is checked and kept by the thread that asked, which looks
up every tenth of a second; when it leaves (stopped, or Ctrl-C), requests under way are abandoned: their threads are
daemons, end with their request, and start no other.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oraculo_kit.embedding.failures import AbandonedError, attempted, is_about_a_text

_LOOK_UP = 0.1  # seconds
_HALVINGS = (
    40  # of refused batches, per call: finds six texts among thousands, and bounds what a wrong model costs
)
_FAREWELL = (
    5.0  # seconds that requests under way may take when the provider is known to fail: they may still succeed
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one batch."""

    batch: range
    result: Any = None
    failure: BaseException | None = None

    @property
    def is_about_a_text(self) -> bool:
        """Whether the provider refused some text among several: halves of the batch tell which."""
        return self.failure is not None and len(self.batch) > 1 and is_about_a_text(self.failure)


class Pace:
    """Bounds of the requests of one process to one model.

    Parameters
    ----------
    requests : int
        At a time.
    rate : float
        Per minute; 0 for no limit.
    reserve : callable, optional
        Given the seconds between two requests, returns the seconds to wait for a turn among all processes, or None
        where that is not known.
    """

    def __init__(
        self, requests: int, rate: float, reserve: Callable[[float], float | None] | None = None
    ) -> None:
        self.requests = requests
        self.slots = threading.BoundedSemaphore(requests)
        self._interval = 60 / rate if rate else 0.0
        self._reserve = reserve
        self._lock = threading.Lock()
        self._next = self._held_until = 0.0

    def hold(self, seconds: float) -> None:
        """Begin no request for so long: the provider asked for it."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    def await_turn(self, stopped: threading.Event) -> None:
        """Wait until the next request may begin.

        Raises
        ------
        AbandonedError
            When `stopped` is set first.
        """
        delay = self._turn() if self._interval else 0.0
        turn = time.monotonic() + delay
        while (left := max(turn, self._held_until) - time.monotonic()) > 0:
            pause(left, stopped)
        if stopped.is_set():
            raise AbandonedError

    def _turn(self) -> float:
        shared = self._reserve(self._interval) if self._reserve is not None else None
        if shared is not None:
            return shared
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval
        return turn - now


def pause(seconds: float, stopped: threading.Event) -> None:
    """Wait, or raise `AbandonedError` as soon as that is set."""
    if stopped.wait(seconds):
        raise AbandonedError


def request_all(
    batches: Sequence[range],
    call: Callable[[range], Any],
    take: Callable[[Answer], bool],
    pace: Pace,
    *,
    checkpoint: Callable[[], None],
    tries: int,
    patience: float,
) -> None:
    """Have every batch embedded, up to ``pace.requests`` at a time.

    Parameters
    ----------
    batches : sequence of range
    call : callable
        Makes the request for a batch; runs on other threads.
    take : callable
        Given each answer, in the order in which they come; runs on this thread. Returns whether to go on.
    pace : Pace
    checkpoint : callable
        Called on this thread at least every 0.2 s; what it raises goes through at once.
    tries : int
    patience : float
        See `oraculo_kit.embedding.failures.attempted`.
    """
    todo, answers, stopped = deque(batches), queue.SimpleQueue[Answer](), threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        while not stopped.is_set():
            if not pace.slots.acquire(timeout=_LOOK_UP):
                continue
            try:
                answer = answered(todo.popleft())
            except IndexError:
                return
            finally:
                pace.slots.release()
            answers.put(answer)

    def answered(batch: range) -> Answer:
        def request() -> Any:
            pace.await_turn(stopped)
            return call(batch)

        def wait(seconds: float) -> None:
            pause(seconds, stopped)

        try:
            return Answer(
                batch,
                *attempted(request, wait, tries=tries, patience=patience, asked_to_wait=pace.hold),
            )
        except BaseException as exc:  # whatever it is, the thread that waits must hear of it
            return Answer(batch, failure=exc)

    def start_threads() -> None:
        threads[:] = [thread for thread in threads if thread.is_alive()]
        for _ in range(min(pace.requests - len(threads), len(todo))):
            threads.append(threading.Thread(target=work, name="oraculo-embed", daemon=True))
            threads[-1].start()

    left, halvings, deadline = len(todo), _HALVINGS, float("inf")
    try:
        while left and time.monotonic() < deadline:
            checkpoint()
            start_threads()
            try:
                answer = answers.get(timeout=_LOOK_UP)
            except queue.Empty:
                continue
            left -= 1
            if answer.is_about_a_text and halvings and deadline == float("inf"):
                halvings -= 1
                middle = len(answer.batch) // 2
                todo.extend((answer.batch[:middle], answer.batch[middle:]))
                left += 2
            elif not take(answer) and deadline == float("inf"):
                stopped.set()
                left -= _emptied(todo)
                deadline = time.monotonic() + _FAREWELL
        if not left:
            stopped.set()
            for thread in threads:
                thread.join(2 * _LOOK_UP)  # its last request is answered: it only has to see that
    finally:
        stopped.set()
        _emptied(todo)


def _emptied(todo: deque[range]) -> int:
    """Take what no thread has taken yet; return how much it was."""
    count = 0
    while True:
        try:
            todo.popleft()
        except IndexError:
            return count
        count += 1
