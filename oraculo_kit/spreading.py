"""One run over many processes: which sources workers get, how many at a time, and what their deaths mean.

Workers of this machine write to the store themselves: nothing large travels, and the store's lock is held for the
commits only. What the workers need not see (unchanged by size and time, known faults) is settled here, without a file
being opened.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import OraculoError, SettingsError
from oraculo_kit.parallel import missing_dask
from oraculo_kit.pipeline import Run, ingest_sources, is_unchanged_by_time, pipeline_fingerprint
from oraculo_kit.stopping import Stopped

if TYPE_CHECKING:
    from oraculo_kit.inputs import IngestSource
    from oraculo_kit.services import Services
    from oraculo_kit.settings import Settings
    from oraculo_kit.storage.runs import SourceOutcome

_HERE = ("threading", "sequential")  # backends that work in this process
_log = logging.getLogger("oraculo_kit.ingestion")

# Two workers take a second to start, and two of the processor's; a small text file takes 2 to 4 ms with the default
# embedder. So fewer sources and bytes are ingested sooner without.
_PARALLEL_FROM_SOURCES = 1000
_PARALLEL_FROM_BYTES = 20_000_000
_TASK_BYTES = 16_000_000  # of sources; documents in memory are some times as large
_LARGE_SOURCE = 1_000_000
_FIRST_TASK = 16
_LARGEST_TASK = 256
_TASK_SECONDS = (
    1.0  # progress is live, and yet a task's own cost (2 ms) and its last, small commit do not count
)


@dataclass(frozen=True)
class Spread:
    """Where a run's work is to be done.

    Attributes
    ----------
    n_jobs : int or None
        As in joblib; by default this process alone for small jobs, and all cores for large ones. Of a Dask cluster:
        how many tasks at a time; all its threads by default.
    backend : str
        A backend of `parallel_services`.
    address : str or None
        Of a Dask scheduler; the current client's by default.
    send_secrets : bool
        To Dask workers.
    """

    n_jobs: int | None = None
    backend: str = "loky"
    address: str | None = None
    send_secrets: bool = False

    def __post_init__(self) -> None:
        if self.backend != "dask" and (self.address is not None or self.send_secrets):
            raise SettingsError(
                f"address and send_secrets are for backend='dask', and the backend is {self.backend!r}"
            )
        if self.address is not None and (not isinstance(self.address, str) or not self.address.strip()):
            raise SettingsError(
                f"address is {self.address!r}, expected that of a Dask scheduler, such as tcp://10.0.0.7:8786"
            )


def run_sources(
    services: Services, sources: Sequence[IngestSource], run: Run, spread: Spread
) -> Generator[SourceOutcome]:
    """Run the pipeline over sources, here or in workers.

    Parameters
    ----------
    services : Services
        Ready ones.
    sources : sequence of IngestSource
    run : Run
    spread : Spread

    Yields
    ------
    SourceOutcome
        In the order in which they are settled.

    Raises
    ------
    StorageError, EmbedderError
        As `ingest_sources`.
    Stopped
        When the run was told to stop; workers have stopped by then, too.
    OraculoError
        When worker after worker is killed, whatever the document.
    """
    if run.dry or (spread.n_jobs == 1 and spread.backend != "dask"):
        yield from ingest_sources(services, sources, run)
        return
    settled, left = _settled(services, sources)
    if left and spread.backend == "dask":
        # However few they are: who names a cluster wants its memory and its network.
        yield from ingest_sources(services, settled, run)
        yield from _on_dask(services, left, run, spread)
        return
    if not left or (spread.n_jobs is None and not _is_large(left)):
        yield from ingest_sources(services, sources, run)
        return
    yield from ingest_sources(services, settled, run)
    yield from _in_workers(services, left, run, spread.n_jobs, spread.backend)


def _on_dask(
    services: Services, sources: Sequence[IngestSource], run: Run, spread: Spread
) -> Iterator[SourceOutcome]:
    try:
        from oraculo_kit.distributing.running import run_on_dask
    except ImportError as exc:
        raise missing_dask(exc) from exc
    with closing(run_on_dask(services, sources, run, spread)) as found:
        yield from found


def _in_workers(
    services: Services, sources: Sequence[IngestSource], run: Run, n_jobs: int | None, backend: str
) -> Iterator[SourceOutcome]:
    """Run the sources in a pool; when a worker is killed, run those it may have had alone, and the rest in a new pool."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    from oraculo_kit.rescuing import rescue

    left: Sequence[IngestSource] = sources
    while left:
        given: dict[int, list[IngestSource]] = {}
        done: set[str] = set()
        try:
            with closing(_in_pool(services, left, run, n_jobs, backend, given)) as found:
                for outcome in found:
                    done.add(outcome.source)
                    yield outcome
            break
        except TerminatedWorkerError as exc:
            lost = [task for task in given.values() if task[-1].key not in done]
            _log.warning(
                "a worker process was killed, for want of memory or by hand; the %d sources that were with workers are "
                "tried again, alone",
                sum(map(len, lost)),
            )
            try:
                with closing(rescue(services, _ingest_task, lost, run)) as found:
                    for outcome in found:
                        done.add(outcome.source)
                        yield outcome
            except TerminatedWorkerError:
                raise _killed_again(services, sources, run) from exc
        # What was given out too late to be among the lost is still left.
        left = [source for source in left if source.key not in done]
    run.check()


def _in_pool(
    services: Services,
    sources: Sequence[IngestSource],
    run: Run,
    n_jobs: int | None,
    backend: str,
    given: dict[int, list[IngestSource]],
) -> Generator[SourceOutcome]:
    """Run the sources in joblib's workers; `given` takes the tasks in the order in which workers get them."""
    from joblib import Parallel, delayed, effective_n_jobs

    from oraculo_kit.parallel import parallel_services, threads_per_worker
    from oraculo_kit.pooling import run_in_processes
    from oraculo_kit.rescuing import begun

    tasks = SourceTasks(sources)
    ingest = delayed(_ingest_here if backend in _HERE else _ingest_task)
    # Threads share the run's own services: those of the process may be for another store by now.
    for_whom = services if backend in _HERE else services.settings

    def calls() -> Iterator[Any]:
        for number, task in enumerate(tasks):
            given[number] = task
            yield ingest(for_whom, task, run)

    with parallel_services(n_jobs, backend=backend):
        if backend == "multiprocessing":
            jobs = effective_n_jobs(-1 if n_jobs is None else n_jobs)
            found = run_in_processes(
                calls(), jobs, services.settings, threads_per_worker(services.settings, jobs)
            )
        else:
            # Our tasks are of the right length; joblib's own batches would make progress jerky.
            pool = Parallel(return_as="generator_unordered", batch_size=1)
            found = begun(pool, calls())
        with closing(found):  # whatever ends this, the workers end too
            for outcomes, seconds in found:
                tasks.learn(len(outcomes), seconds)
                yield from outcomes


def _killed_again(services: Services, sources: Sequence[IngestSource], run: Run) -> OraculoError:
    storage = services.vetor_storage
    ledger = storage.ledger([source.key for source in sources])
    stored = sum(entry.run == run.id for entry in ledger.values())
    return OraculoError(
        f"worker after worker was killed, for want of memory or by hand, after {stored} of {len(sources)} sources "
        f"were stored in {storage.location}. They stay, and no source is stored in part. "
        "ingest(..., resume=True) goes on with the rest; fewer n_jobs, or a lower ORACULO_MAX_FILE_MB, need "
        "less memory"
    )


def _ingest_task(
    settings: Settings, sources: Sequence[IngestSource], run: Run
) -> tuple[list[SourceOutcome], float]:
    """Ingest sources in a worker; a run that was told to stop gives what it had settled."""
    from oraculo_kit.parallel import worker_services

    return _ingest_here(worker_services(settings), sources, run)


def _ingest_here(
    services: Services, sources: Sequence[IngestSource], run: Run
) -> tuple[list[SourceOutcome], float]:
    started = time.perf_counter()
    outcomes: list[SourceOutcome] = []
    try:
        for outcome in ingest_sources(services, sources, run):
            outcomes.append(outcome)
    except Stopped:
        # Raised here it would take the outcomes with it. The caller, who gave the signal, raises it.
        return outcomes, 0.0
    return outcomes, time.perf_counter() - started


class SourceTasks:
    """Sources in tasks of about a second each, whatever the documents and the embedder.

    The next task is taken when a worker is about to be free, so what the finished ones took tells how large it should
    be.

    Parameters
    ----------
    sources : sequence of IngestSource
    most_bytes : int
        Of the sources in a task; one that is larger is a task of its own.
    """

    def __init__(self, sources: Sequence[IngestSource], most_bytes: int = _TASK_BYTES) -> None:
        self._left = deque(sources)
        self._size = _FIRST_TASK
        self._most_bytes = most_bytes

    @property
    def left(self) -> int:
        """How many sources are in no task yet."""
        return len(self._left)

    def learn(self, sources: int, seconds: float) -> None:
        """Take note of a finished task."""
        if seconds > 0 and sources:
            fitting = int(sources * _TASK_SECONDS / seconds)
            self._size = min(max(fitting, self._size // 2, 1), 2 * self._size, _LARGEST_TASK)

    def __iter__(self) -> Iterator[list[IngestSource]]:
        while self._left:
            task = [self._left.popleft()]
            size = task[0].size
            while self._left and len(task) < self._size and size + self._left[0].size <= self._most_bytes:
                source = self._left.popleft()
                size += source.size
                task.append(source)
            yield task


def _settled(
    services: Services, sources: Sequence[IngestSource]
) -> tuple[list[IngestSource], list[IngestSource]]:
    """Part the sources that need no look into them from those that do."""
    storage = services.vetor_storage
    pipeline = pipeline_fingerprint(services.settings, storage.embedder)
    known = storage.ledger([source.key for source in sources])
    settled: list[IngestSource] = []
    left: list[IngestSource] = []
    for source in sources:
        unchanged = is_unchanged_by_time(source, known.get(source.key), pipeline)
        (settled if unchanged or source.error is not None else left).append(source)
    # The largest first: one that came last would keep one worker busy while the others have nothing left to do.
    left.sort(key=lambda source: -source.size if source.size > _LARGE_SOURCE else 0)
    return settled, left


def _is_large(sources: Sequence[IngestSource]) -> bool:
    return (
        len(sources) >= _PARALLEL_FROM_SOURCES
        or sum(source.size for source in sources) >= _PARALLEL_FROM_BYTES
    )
