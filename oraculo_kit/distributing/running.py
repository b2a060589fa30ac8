"""The caller's side of an ingestion over Dask: sources go out in tasks, embedded blocks come in, and are committed.

- Two tasks per worker thread are under way: one is done, the next waits there. So memory is bounded by the workers' threads.
- A block is committed as it arrives and released at once. This process is the only writer, and commits a source once.
- A lost worker's tasks are run again elsewhere, by Dask. A task that was on several workers when they died goes on
  alone, one source at a time, so that the document that kills workers is found and the others are stored.
- A worker that joins later is examined with its first task. One that differs gets no more; the log says why.
- What of a new file is only its place shows here, by its hash: it was embedded in vain then, and is moved.
"""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distributed import Client, Future, KilledWorker

from oraculo_kit.dask import dask_client
from oraculo_kit.distributing.blocks import characters, store_writes
from oraculo_kit.distributing.checking import Examination, check_workers, difference_table
from oraculo_kit.distributing.secrets import (
    give_secrets,
    refuse_open_ways,
    scheduler_address,
    tells_a_secret,
)
from oraculo_kit.distributing.seeing import explained, other_file
from oraculo_kit.distributing.working import Reply, Work
from oraculo_kit.errors import OraculoError, SourceError, WorkerMismatchError
from oraculo_kit.inputs import FileSource, IngestSource
from oraculo_kit.pipeline import COMMIT_CHARACTERS, COMMIT_SOURCES, Run, ingest_sources
from oraculo_kit.pruning import is_gone
from oraculo_kit.report import failed_outcome
from oraculo_kit.spreading import SourceTasks, Spread
from oraculo_kit.storage.identity import EmbedderIdentity
from oraculo_kit.storage.records import SourceWrite
from oraculo_kit.storage.runs import SourceOutcome

if TYPE_CHECKING:
    from oraculo_kit.services import Services

_log = logging.getLogger("oraculo_kit.distributing")
BLOCK_BYTES = 16_000_000
_TASK_BYTES = 8_000_000  # sources may bring their content along, and Dask warns of tasks above 10 MB
_WAIT_SECONDS = 0.1  # between two looks at the stop signal
_WATCH_SECONDS = 1.0  # between two looks at the cluster
_NO_WORKERS_SECONDS = 60.0


@dataclass(eq=False)
class _Task:
    """Sources that are on their way.

    Attributes
    ----------
    allowed : frozenset of str or None
        The workers that may do it; None for all.
    alone : bool
        Nothing else was under way: when workers die of it, it is to blame.
    stranded : bool
        The workers that may do it are all gone.
    """

    sources: Sequence[IngestSource]
    future: Future[Any]
    allowed: frozenset[str] | None
    alone: bool
    stranded: bool = False


def run_on_dask(
    services: Services, sources: Sequence[IngestSource], run: Run, spread: Spread
) -> Generator[SourceOutcome]:
    """Ingest sources with the workers of a Dask cluster.

    Parameters
    ----------
    services : Services
        Ready ones of this process, whose store takes everything.
    sources : sequence of IngestSource
    run : Run
    spread : Spread

    Yields
    ------
    SourceOutcome
        In the order in which they are settled; durable.

    Raises
    ------
    SettingsError
        Without a client or a scheduler at `address`, or when secrets would travel openly.
    WorkerMismatchError
        When workers differ from this process.
    StorageError, EmbedderError
        As `ingest_sources`.
    Stopped
        When the run was told to stop.
    OraculoError
        When the cluster has no workers (any more), or cannot be reached.
    """
    with dask_client(spread.address) as client:
        examination = check_workers(client, services, send_secrets=spread.send_secrets, stop=run.stop)
        ingestion = _Ingestion(services, client, examination, run, spread.n_jobs)
        try:
            with closing(ingestion.outcomes(sources)) as outcomes:
                yield from outcomes
        finally:
            ingestion.release()


class _Ingestion:
    """What is under way."""

    def __init__(
        self, services: Services, client: Client, examination: Examination, run: Run, n_jobs: int | None
    ) -> None:
        self._services = services
        self._storage = services.vetor_storage
        embedder = self._storage.embedder
        self._embedder = EmbedderIdentity(embedder.name, embedder.probe())
        self._client = client
        self._examination = examination
        self._run = run
        self._n_jobs = n_jobs
        self._tasks = SourceTasks((), _TASK_BYTES)
        self._new: Iterator[list[IngestSource]] = iter(())
        self._again: deque[Sequence[IngestSource]] = deque()
        self._suspects: deque[IngestSource] = deque()
        self._under_way: dict[str, _Task] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._refused: set[str] = set()
        self._workers: Mapping[str, int] = {}
        self._watched = self._last_worker = time.monotonic()

    def outcomes(self, sources: Sequence[IngestSource]) -> Generator[SourceOutcome]:
        """Send the sources out, and commit what comes back."""
        self._tasks = SourceTasks(sources, _TASK_BYTES)
        self._new = iter(self._tasks)
        self._watch()
        while True:
            self._send()
            if self._under_way:
                yield from self._settle(self._next())
            elif self._suspects or self._again or self._tasks.left:
                self._wait_for_workers()
            else:
                return

    def release(self) -> None:
        """Let go of what is under way: Dask drops it."""
        for task in self._under_way.values():
            task.future.release()
        self._under_way.clear()

    # --- out ---

    def _send(self) -> None:
        if self._suspects:
            if not self._under_way and self._limit():
                self._submit([self._suspects.popleft()], alone=True)
            return
        while len(self._under_way) < self._limit() and (sources := self._waiting()):
            self._submit(sources)

    def _waiting(self) -> Sequence[IngestSource]:
        return self._again.popleft() if self._again else next(self._new, [])

    def _limit(self) -> int:
        """Return how many tasks may be under way: some even without workers, for a cluster that grows with its work."""
        threads = sum(count for address, count in self._workers.items() if address not in self._refused)
        if self._refused and not threads:
            return 0
        if self._n_jobs is not None and self._n_jobs > 0:
            return min(self._n_jobs, max(2 * threads, 1))
        return max(2 * (threads + min((self._n_jobs or -1) + 1, 0)), 1)

    def _submit(self, sources: Sequence[IngestSource], *, alone: bool = False) -> None:
        import cloudpickle

        telling = next((source for source in sources if tells_a_secret(source)), None)
        if telling is not None:
            ways = [scheduler_address(self._client), *self._workers]
            refuse_open_ways(ways, f"leave the secret out of the URL ({telling.key})")
        known = self._storage.ledger([source.key for source in sources])
        work = cloudpickle.dumps(Work(sources, known, self._run, self._storage.location, BLOCK_BYTES))
        allowed = frozenset(self._workers) - self._refused if self._refused else None
        key = f"oraculo_ingest-{uuid.uuid4().hex}"
        options = {} if allowed is None else {"workers": sorted(allowed), "allow_other_workers": False}
        future = self._examination.submit(self._client, work, key=key, **options)
        self._under_way[key] = _Task(sources, future, allowed, alone)
        self._await(future)

    def _await(self, future: Future[Any]) -> None:
        future.add_done_callback(lambda done: self._ended.put(str(done.key)))

    # --- in ---

    def _next(self) -> _Task:
        """Wait for a task that ended, or lost the workers that it may run on."""
        while True:
            self._run.check()
            if time.monotonic() - self._watched >= _WATCH_SECONDS:
                self._watch()
                for key, task in self._under_way.items():
                    if task.allowed is not None and not task.allowed & self._workers.keys():
                        task.stranded = True
                        return self._under_way.pop(key)
            try:
                key = self._ended.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                continue
            ended = self._under_way.get(key)
            if ended is None:
                continue
            if ended.future.status in (
                "pending",
                "lost",
            ):  # the worker died with the result; Dask does it again
                self._await(ended.future)
                continue
            return self._under_way.pop(key)

    def _wait_for_workers(self) -> None:
        self._run.check()
        time.sleep(_WAIT_SECONDS)
        self._watch()

    def _watch(self) -> None:
        self._watched = time.monotonic()
        try:
            self._workers = self._client.nthreads()
        except Exception as exc:  # what distributed raises here differs with the way the connection was lost
            raise self._lost(exc) from exc
        if self._workers.keys() - self._refused:
            self._last_worker = self._watched
        elif self._watched - self._last_worker > _NO_WORKERS_SECONDS:
            raise OraculoError(
                f"the Dask cluster at {scheduler_address(self._client)} has had no worker that can be used for "
                f"{_NO_WORKERS_SECONDS:.0f} s. Start workers, then oraculo_kit.ingest(..., resume=True): what was "
                "stored stays"
            )

    def _lost(self, cause: object) -> OraculoError:
        return OraculoError(
            f"the connection to the Dask scheduler was lost, or somebody cancelled the run's tasks there ({cause}). What "
            "was stored stays, and no source is stored in part; oraculo_kit.ingest(..., resume=True) goes on with the "
            "rest"
        )

    def _settle(self, task: _Task) -> Iterator[SourceOutcome]:
        try:
            found = self._result(task)
        finally:
            task.future.release()
        if isinstance(found, KilledWorker) or found is None:
            yield from self._killed(task, found)
        elif isinstance(found, Reply):
            yield from self._take(task, found)
        else:
            self._refuse(found)
            self._again.append(task.sources)

    def _result(self, task: _Task) -> Reply | dict[str, Any] | KilledWorker | None:
        """Return what a task gave; None when it was stranded."""
        if task.stranded:
            return None
        if task.future.status == "cancelled":
            raise self._lost(task.future.status)
        try:
            result: Reply | dict[str, Any] = task.future.result()
        except KilledWorker as exc:
            return exc
        return result

    def _refuse(self, facts: Mapping[str, Any]) -> None:
        address = str(facts["address"])
        if address in self._refused:
            return
        self._refused.add(address)
        table = difference_table([(address, *each) for each in self._examination.differences(facts)])
        if not self._client.nthreads().keys() - self._refused:
            raise WorkerMismatchError(
                f"all Dask workers that are left differ from this process:\n\n{table}\n\nWhat was stored stays; "
                "oraculo_kit.ingest(..., resume=True) goes on with the rest once the workers are alike"
            )
        _log.warning("a Dask worker differs from this process, and gets nothing to do:\n%s", table)

    def _killed(self, task: _Task, error: KilledWorker | None) -> Iterator[SourceOutcome]:
        if not task.alone:
            self._suspects.extend(task.sources)
            return
        (source,) = task.sources
        last = f", the last one at {error.last_worker.address}" if error is not None else ""
        reason = SourceError(
            f"{source.key}: every Dask worker that read it died{last}: for want of memory, or because a library crashed "
            "on it. Nothing of it was stored. The workers' logs say more"
        )
        failed = replace(
            failed_outcome(source.key, reason, bytes=source.size, pid=0),
            store=self._storage.location,
            run=self._run.id,
        )
        self._note([failed])
        yield failed

    def _take(self, task: _Task, reply: Reply) -> Iterator[SourceOutcome]:
        if reply.missing:
            give_secrets(self._client, reply.missing, [str(reply.facts["address"])])
            self._again.append(task.sources)
            return
        sources = {source.key: source for source in task.sources}
        self._tasks.learn(len(reply.outcomes), reply.seconds)
        done = {outcome.source for outcome in reply.outcomes}
        rest = [source for source in task.sources if source.key not in done]
        if rest and reply.error is None:
            self._again.append(rest)
        if reply.touched:
            self._storage.touch(reply.touched)
        settled = [outcome for outcome in reply.outcomes if outcome.status != "added"]
        settled = [explained(outcome, sources[outcome.source], reply.facts) for outcome in settled]
        self._note([outcome for outcome in settled if outcome.status != "unchanged"])
        yield from settled
        yield from self._commit(reply, sources)
        if reply.error is not None:
            raise reply.error

    def _commit(self, reply: Reply, sources: Mapping[str, IngestSource]) -> Iterator[SourceOutcome]:
        outcomes = {outcome.source: outcome for outcome in reply.outcomes}
        strange = {item.key: other_file(item, sources[item.key], reply.facts) for item in reply.embedded}
        yield from self._strange(outcomes, strange)
        embedded = [item for item in reply.embedded if strange[item.key] is None]
        moved = self._moved(embedded, sources)
        if moved:
            yield from ingest_sources(self._services, moved, self._run)
        taken = {source.key for source in moved}
        for group in _groups(item for item in embedded if item.key not in taken):
            self._run.check()
            yield from store_writes(
                self._storage, group, [outcomes[item.key] for item in group], self._run, self._embedder
            )

    def _moved(
        self, embedded: Sequence[SourceWrite], sources: Mapping[str, IngestSource]
    ) -> list[IngestSource]:
        """Return the files that the store has under a key that is gone; the pipeline of this process moves them."""
        hashes = {
            item.key: item.ledger.content_hash
            for item in embedded
            if isinstance(sources[item.key], FileSource) and item.ledger.content_hash is not None
        }
        stored = self._storage.sources_with(set(hashes.values())) if hashes else {}
        return [
            sources[key]
            for key, content_hash in hashes.items()
            if any(old != key and is_gone(old) for old in stored.get(content_hash, ()))
        ]

    def _strange(
        self, outcomes: Mapping[str, SourceOutcome], errors: Mapping[str, SourceError | None]
    ) -> Iterator[SourceOutcome]:
        """Yield the outcomes of files that a worker did not read as they are here."""
        failed = [
            replace(outcomes[key], status="failed", error=type(error).__name__, message=str(error), chunks=0)
            for key, error in errors.items()
            if error is not None
        ]
        self._note(failed)
        yield from failed

    def _note(self, outcomes: Sequence[SourceOutcome]) -> None:
        if outcomes and self._run.noted:
            self._storage.note_outcomes(self._run.id, outcomes)


def _groups(embedded: Iterator[SourceWrite]) -> Iterator[list[SourceWrite]]:
    """Yield what goes into one commit."""
    group: list[SourceWrite] = []
    size = 0
    for source in embedded:
        group.append(source)
        size += characters(source)
        if len(group) >= COMMIT_SOURCES or size >= COMMIT_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
