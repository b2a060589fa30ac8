"""What is done with sources whose worker process was killed: one document costs itself, never the run.

Too little memory, a fault in a library or a hand kills a worker. That breaks joblib's whole pool, and nobody says
which of its tasks was to blame. So every task that was lost is run again, in one worker that has the machine to itself:
most go well there. A task that kills that worker too is run source by source, and a source that kills it then has failed.
What a lost task had stored before its end is found unchanged, and told as it was noted in the store.

No document ends its worker by SIGTERM: that is somebody who ends the whole run. A notebook's kernel that shuts down sends
it to all processes it finds below itself, again and again, before it goes itself. Then nothing is tried again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import WorkerKilledError
from oraculo_kit.report import STORED, failed_outcome

if TYPE_CHECKING:
    from oraculo_kit.inputs import IngestSource
    from oraculo_kit.pipeline import Run
    from oraculo_kit.services import Services
    from oraculo_kit.settings import Settings
    from oraculo_kit.storage.runs import SourceOutcome

_POLL_SECONDS = 0.2  # Windows cannot be interrupted while it waits
_HAND_OVER_SECONDS = 5.0  # of a thing that takes milliseconds
_MOST_DEATHS = 5  # one after the other: then it is not the documents

Task = Callable[["Settings", Sequence["IngestSource"], "Run"], "tuple[list[SourceOutcome], float]"]


def rescue(
    services: Services, task: Task, lost: Sequence[Sequence[IngestSource]], run: Run
) -> Generator[SourceOutcome]:
    """Run lost tasks again.

    Parameters
    ----------
    services : Services
    task : callable
        Ingests sources in a worker.
    lost : sequence of sequence of IngestSource
        Tasks that were given out and brought nothing back.
    run : Run

    Yields
    ------
    SourceOutcome
        One for every source.

    Raises
    ------
    TerminatedWorkerError
        When worker after worker is killed, whatever the document, or one is told to end.
    """
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    waiting: deque[Sequence[IngestSource]] = deque(lost)
    deaths = 0
    with closing(_LoneWorker(services.settings)) as worker:
        while waiting:
            run.check()
            sources = waiting.popleft()
            try:
                outcomes, _ = worker.call(task, services.settings, sources, run)
            except TerminatedWorkerError as exc:
                if _was_told_to_end(exc):
                    raise
                if len(sources) > 1:
                    waiting.extendleft([source] for source in reversed(sources))
                    continue
                deaths += 1
                if deaths == _MOST_DEATHS:
                    raise
                yield _killer(services, sources[0], run)
            else:
                deaths = 0
                yield from _as_stored(services, outcomes, run)


def _as_stored(services: Services, outcomes: Sequence[SourceOutcome], run: Run) -> Iterator[SourceOutcome]:
    """Yield outcomes; of what the run had stored before its worker was killed, that it stored it."""
    unchanged = any(outcome.status == "unchanged" for outcome in outcomes)
    noted = services.vetor_storage.outcomes(run.id) if unchanged and run.noted else []
    stored = {outcome.source: outcome for outcome in noted if outcome.status in STORED}
    for outcome in outcomes:
        yield stored.get(outcome.source, outcome) if outcome.status == "unchanged" else outcome


def _was_told_to_end(error: Exception) -> bool:
    return "SIGTERM" in str(error)  # loky names the signals that ended its workers


def _killer(services: Services, source: IngestSource, run: Run) -> SourceOutcome:
    storage = services.vetor_storage
    stays = "; an earlier version of it stays in the base" if storage.ledger([source.key]) else ""
    error = WorkerKilledError(
        f"{source.key}: the worker process that ingested it was killed, and another one that had nothing else to do. "
        f"It needs more memory than there is, or breaks a library{stays}"
    )
    outcome = replace(
        failed_outcome(source.key, error, bytes=source.size, pid=os.getpid(), store=storage.location),
        run=run.id,
    )
    if run.noted:
        storage.note_outcomes(run.id, [outcome])
    return outcome


class _LoneWorker:
    """One worker process, started when there is work and again after its death."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._executor: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        from oraculo_kit.parallel import initialize_worker

        if self._executor is None:
            self._executor = ProcessPoolExecutor(1, initializer=initialize_worker, initargs=(self._settings,))
        with interrupts_held():
            future = self._executor.submit(function, *arguments)
            _wait_until(lambda: future.running() or future.done())
        while not future.done():
            wait([future], _POLL_SECONDS)
        try:
            return future.result()
        except TerminatedWorkerError:
            self.close()
            raise

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None


def begun(pool: Any, calls: Iterable[Any]) -> Generator[Any]:
    """Let joblib begin with calls; an interrupt that comes meanwhile ends them as a later one would.

    That is: it goes through the generator. joblib closes one that is dropped with a warning of the tasks left undone.

    Parameters
    ----------
    pool : joblib.Parallel
        One that returns a generator.
    calls : iterable
        As ``delayed`` gives them.
    """
    found: Generator[Any] | None = None
    try:
        with interrupts_held():
            found = pool(calls)
            _hand_over(pool)
    except KeyboardInterrupt as exc:
        if found is None:  # it came before interrupts were held
            raise
        found.throw(exc)
    return found


def _hand_over(pool: Any) -> None:
    """Wait until loky's own thread has taken up the first tasks, as many as its queue takes.

    Ended before, loky forgets the tasks and not their numbers, and that thread dies of a KeyError, with a traceback
    (joblib 1.6, one in six of the interrupts that came while workers started).
    """
    workers: Any = getattr(pool._backend, "_workers", None)
    if hasattr(workers, "_work_ids"):
        _wait_until(lambda: workers._work_ids.empty() or workers._call_queue.full())


def _wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + _HAND_OVER_SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Start processes in this block that no Ctrl-C at the terminal reaches; the caller's own waits until its end.

    A process inherits which signals are held back. Otherwise workers that just start print a traceback each. Whoever
    started them hears the interrupt, and ends them. Nothing on Windows.

    Holding it back in this thread does not protect the block itself: the system gives the signal to another thread then,
    and Python raises it here. loky, interrupted while it starts a process, leaves one behind that fails with noise.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    with _interrupts_noted():
        # It starts with the first worker otherwise, and then Python lets interrupts through again.
        ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupts_noted() -> Iterator[None]:
    """Let an interrupt that comes in this block come at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python raises none here
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
