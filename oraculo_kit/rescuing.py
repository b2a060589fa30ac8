"""What is done with sources whose worker process was killed: one document costs itself, never the run.

Too little memory, a fault in a library or a hand kills a worker. That breaks joblib's whole pool, and nobody says
which of its tasks was to blame. So every task that was lost is run again, in one worker that has the machine to itself:
most go well there. A task that kills that worker too is run source by source, and a source that kills it then has failed.
What a lost task had stored before its end is found unchanged, and told as it was noted in the store.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
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
        When worker after worker is killed, whatever the document.
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
            except TerminatedWorkerError:
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


def _killer(services: Services, source: IngestSource, run: Run) -> SourceOutcome:
    storage = services.vetor_storage
    error = WorkerKilledError(
        f"{source.key}: the worker process that ingested it was killed, and another one that had nothing else to do. "
        "It needs more memory than there is, or breaks a library; an earlier version of it stays in the base"
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


def begun(start: Callable[[], Generator[Any]]) -> Generator[Any]:
    """Return what `start` gives, for whose beginning no interrupt comes; one that came then ends it as a later one would.

    That is: it goes through the generator. joblib closes one that is dropped with a warning of the tasks left undone.
    """
    try:
        with interrupts_held():
            found = start()
    except KeyboardInterrupt as exc:
        found.throw(exc)
    return found


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

    # It starts with the first worker otherwise, and then Python lets interrupts through again.
    ensure_running()
    with _interrupts_noted():
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
