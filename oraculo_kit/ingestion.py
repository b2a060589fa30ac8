"""`ingest` takes folders, files, DataFrames and documents; `ingest_task` takes one source, for a batch of your own.

Both run :mod:`oraculo_kit.pipeline`, so they give the same chunks, vectors and ledger. Around it, `ingest` lists the
sources, spreads them over workers (:mod:`oraculo_kit.spreading`), takes what is gone out of the base, and keeps a
record of the run in the store, so that a run that was cut off can be resumed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from oraculo_kit.environment import redact
from oraculo_kit.errors import OraculoError, ServicesFailedError, SettingsError, SourceError, StorageError
from oraculo_kit.events import Doing, EventKind, IngestEvent, Listener
from oraculo_kit.inputs import (
    BytesSource,
    DocumentsSource,
    IngestSource,
    TextSource,
    find_sources,
    is_dataframe,
    written_name,
)
from oraculo_kit.pipeline import Run, ingest_sources
from oraculo_kit.report import MOVED_FROM, STORED, IngestReport, failed_outcome
from oraculo_kit.resuming import LEFT_OUT, ended_here
from oraculo_kit.services import Services, ensure_services, start_services
from oraculo_kit.spreading import Spread, run_sources
from oraculo_kit.stopping import Stopped, StopSignal
from oraculo_kit.storage.runs import SourceOutcome

if TYPE_CHECKING:
    from oraculo_kit.handles import IngestHandle
    from oraculo_kit.settings import Settings

_log = logging.getLogger("oraculo_kit.ingestion")
_LISTED_AT_ONCE = 256
_WINDOW_SOURCES = 50_000
_WINDOW_BYTES = 64_000_000
_HELD = (BytesSource, DocumentsSource, TextSource)  # sources that hold their content themselves


class IngestKeywords(TypedDict, total=False):
    """Keywords of `ingest`, for its overloads."""

    text: str | None
    id: str | None
    name: str | None
    glob: str | None
    allow_urls: bool
    prune: bool
    dry_run: bool
    resume: bool
    n_jobs: int | None
    backend: str
    address: str | None
    send_secrets: bool
    progress: bool
    on_event: Listener | None


@overload
def ingest(
    sources: Any = ..., *, background: Literal[False] = ..., **options: Unpack[IngestKeywords]
) -> IngestReport: ...
@overload
def ingest(
    sources: Any = ..., *, background: Literal[True], **options: Unpack[IngestKeywords]
) -> IngestHandle: ...
def ingest(
    sources: Any = None,
    *,
    text: str | None = None,
    id: str | None = None,
    name: str | None = None,
    glob: str | None = None,
    allow_urls: bool = False,
    prune: bool = False,
    dry_run: bool = False,
    resume: bool = False,
    background: bool = False,
    n_jobs: int | None = None,
    backend: str = "loky",
    address: str | None = None,
    send_secrets: bool = False,
    progress: bool = True,
    on_event: Listener | None = None,
) -> IngestReport | IngestHandle:
    """Make documents searchable: load, split, embed and write them into the store.

    Parameters
    ----------
    sources : path, URL, DataFrame, Document, loader, bytes, or a list of paths, URLs, Documents and loaders
        Folders and zip archives are listed with all they hold. May be left out with ``resume=True``.
    text, id, name : str, optional
        For a DataFrame or a parquet file: the column with the text, the column that names a row (its index by
        default), and what the rows' keys begin with: ``"dataframe/7"`` by default. A row replaces the stored row of
        the same key, so for a DataFrame one of `id` and `name` must be given. Other columns become metadata. For bytes,
        `name` is a file name, whose extension says which format they have.
    glob : str, optional
        Take only files of a folder whose name matches, for example ``"*.pdf"``.
    allow_urls : bool
        Whether http(s) URLs among the sources may be fetched; from public addresses, and those of ``ORACULO_URL_ALLOW``.
    prune : bool
        Take files out of the base that were ingested from below the given folders and are no more. A file that is
        missing from an empty folder stays, with a warning: the drive may not be mounted.
    dry_run : bool
        Say what would happen, and store nothing. Files are read to see whether they changed, but not extracted: a
        document that cannot be read shows only when it is ingested.
    resume : bool
        Go on with the last run over these sources if it was cut off (a killed kernel, a cancelled or failed run);
        the report is then of the whole run. Without such a run this is an ordinary one. Without `sources`: go on with
        the last run, whatever it was over.
    background : bool
        Return an `IngestHandle` at once; the run goes on beside the notebook.
    n_jobs : int, optional
        Worker processes; -1 for all cores, -2 for all but one. By default none for small jobs (this process does
        it) and all cores for large ones.
    backend : str
        A backend of `parallel_services`. With "dask" the cluster's workers load, split and embed, however few documents
        there are, and this process writes: the store need not be on a disk that they see.
    address : str, optional
        With ``backend="dask"``: the scheduler, connected for this run. By default the current client's.
    send_secrets : bool
        With ``backend="dask"``: send keys to workers that lack them; see `parallel_services`.
    progress : bool
        Show a progress bar. There is none with `background`, because nothing may print from beside a notebook.
    on_event : callable, optional
        Called with every `IngestEvent`.

    Returns
    -------
    IngestReport or IngestHandle
        One outcome per source, in the order of the sources. A source that failed is in it, with the reason; the
        others are stored.

    Raises
    ------
    SourceError
        When `sources` is nothing that can be ingested, or there is nothing to resume.
    SettingsError
        For an unknown `backend` or an `n_jobs` that is none.
    ServicesFailedError
        When the services cannot start, here or in a worker.
    StorageError, EmbedderError
        When the store or the embedder cannot be used, or a snapshot was restored over the store meanwhile.
    OraculoError
        When worker after worker is killed. A document that kills its worker twice is an outcome.

    Notes
    -----
    Whatever is raised, an interrupt too, every source is stored whole or not at all, and what was stored stays:
    ``ingest(..., resume=True)`` goes on with the rest.

    Examples
    --------
    >>> import pandas as pd, oraculo_kit as oraculo
    >>> frame = pd.DataFrame({"texto": ["Como emitir nota fiscal"], "ano": [2024]})
    >>> oraculo.ingest(frame, text="texto", name="ajuda", progress=False).counts
    {'added': 1}
    """
    _check_options(n_jobs, backend, glob, background)
    spread = Spread(n_jobs, backend, address, send_secrets)
    services = start_services()
    if sources is None and not resume:
        raise SourceError(
            "got no sources, expected a path, a list of paths, a pandas DataFrame or LangChain documents"
        )
    chosen = {"text": text, "id": id, "name": name, "glob": glob, "allow_urls": allow_urls}
    given = None if sources is None else _Given(sources, services.settings, prune=prune, **chosen)
    run_id, earlier = uuid.uuid4().hex, {}
    if resume:
        from oraculo_kit.resuming import unfinished_run

        storage = services.vetor_storage
        last = unfinished_run(storage, given.described() if given is not None else None)
        if last is not None:
            run_id = last.id
            earlier = {outcome.source: outcome for outcome in storage.outcomes(last.id)}
            given = given or _Given.again(last.options, services.settings)
    assert given is not None
    given_listeners = [] if on_event is None else [on_event]
    stop = StopSignal()
    run = Run(run_id, noted=not dry_run, dry=dry_run, stop=stop)
    if background:
        from oraculo_kit.handles import IngestHandle

        def work(heard: Listener) -> IngestReport:
            with _own_store(services) as own:
                return _Job(own, given, run, earlier, spread).execute(heard, *given_listeners)

        options = {**given.described(), "store": services.vetor_storage.location, "dry_run": dry_run}
        return IngestHandle(run_id, stop, work, options)
    job = _Job(services, given, run, earlier, spread)
    with _progress_bar(progress) as bar:
        return job.execute(_warn, *([bar] if bar is not None else []), *given_listeners)


@contextmanager
def _own_store(services: Services) -> Iterator[Services]:
    """Open the store once more for a run beside the notebook, where `use` and `stop_services` close the services' own."""
    from oraculo_kit.storage import open_storage
    from oraculo_kit.storage.adapted.location import is_adapted

    settings, storage = services.settings, services.vetor_storage
    if is_adapted(storage.location):  # its factory may make another, empty store each time
        yield services
        return
    options: dict[str, Any] = {"durability": settings.durability, "lock_timeout": settings.lock_timeout}
    with open_storage(storage.location, storage.embedder, storage.read_only, **options) as own:
        yield replace(services, vetor_storage=own)


def _check_options(n_jobs: int | None, backend: str, glob: str | None, background: bool) -> None:
    from oraculo_kit.parallel import BACKENDS

    if backend not in BACKENDS:
        raise SettingsError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if background and backend == "multiprocessing":
        raise SettingsError(
            "backend 'multiprocessing' cannot work beside a notebook; use 'loky' with background=True"
        )
    if n_jobs is not None and (not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs == 0):
        raise SettingsError(f"n_jobs is {n_jobs!r}, expected a number of processes, or -1 for all cores")
    if glob is not None and not isinstance(glob, str):
        raise SettingsError(f"glob is {glob!r}, expected a pattern of file names, such as '*.pdf'")


class _Given:
    """What `ingest` was given; wrong arguments raise here, before anything runs."""

    def __init__(self, sources: Any, settings: Settings, *, prune: bool, **chosen: Any) -> None:
        if isinstance(sources, Iterator) and not hasattr(sources, "read"):
            sources = list(sources)  # it is gone once it was listed, and pruning and resuming look again
        self.sources = sources
        self.prune = prune
        self.listing = find_sources(sources, settings=settings, **chosen)
        self._chosen = chosen
        if chosen.get("id") is None and chosen.get("name") is None and is_dataframe(sources):
            raise SourceError(
                "a DataFrame's rows are named by its index, and another DataFrame's rows would replace them: give id=, "
                'the column that names a row, or name=, a name for this DataFrame such as name="chamados"'
            )

    @property
    def glob(self) -> str | None:
        return self._chosen.get("glob")

    @classmethod
    def again(cls, options: Mapping[str, Any], settings: Settings) -> _Given:
        """Return what an earlier run noted of itself."""
        return cls(list(options["paths"]), settings, prune=options["prune"], **options["chosen"])

    def described(self) -> dict[str, Any]:
        """Return what the store notes of the run: enough to know it again, and to go on with it where that can be."""
        items = self.sources if isinstance(self.sources, list | tuple) else [self.sources]
        paths, secret = None, False
        if all(isinstance(item, str | os.PathLike) for item in items):
            names = [written_name(os.fspath(item)) for item in items]
            paths, secret = [name for name, _ in names], any(left_out for _, left_out in names)
        name = self._chosen.get("name") or ""
        what = "files" if paths is not None else f"{type(self.sources).__name__} {name}".strip()
        return {
            "paths": paths,
            "what": what,
            "prune": self.prune,
            "chosen": self._chosen,
            **({LEFT_OUT: True} if secret else {}),
        }


class _Job:
    """One run from the listing to the report; it can be executed on any thread, once."""

    def __init__(
        self,
        services: Services,
        given: _Given,
        run: Run,
        earlier: Mapping[str, SourceOutcome],
        spread: Spread,
    ) -> None:
        self._storage = services.vetor_storage
        self._services = services
        self._given = given
        self._run = replace(run, doing=self._doing)
        self._earlier = earlier
        self._spread = spread
        self._listeners: Sequence[Listener] = ()
        self._started = 0.0
        self._thread = 0
        self._places: dict[str, int] = {}
        self._begun = False
        self._failed: list[IngestSource] = []
        self._outcomes: list[SourceOutcome] = []

    def execute(self, *listeners: Listener) -> IngestReport:
        """Run, telling the listeners; return the report, of a run that was told to stop too."""
        self._listeners, self._started = listeners, time.perf_counter()
        self._thread = threading.get_ident()
        assert self._run.stop is not None
        with self._run.stop:
            ended_here.discard(self._run.id)
            try:
                self._settle()
                state = "finished"
            except Stopped:
                state = "cancelled"
            except BaseException as exc:
                ended_here.add(self._run.id)
                self._break_off(exc)
                raise
            report = self._report(state)
            ended_here.add(self._run.id)
            if self._begun and not self._storage.finish_run(self._run.id, state, report.counts):
                self._tell("finished", error=self._replaced)
                raise StorageError(self._replaced)
            self._tell("finished", report=report)
        return report

    def _settle(self) -> None:
        if self._run.noted:
            self._storage.start_run(self._run.id, self._given.described())
            self._begun = True
        for number, listed in enumerate(self._windows()):
            total = sum(source.size for source in listed)
            self._tell("started" if number == 0 else "listed", sources=len(listed), bytes=total)
            by_key = {source.key: source for source in listed}
            # closing: joblib's configuration, and its workers, end with this call, whatever ends it.
            with closing(run_sources(self._services, listed, self._run, self._spread)) as found:
                for outcome in found:
                    self._take(outcome)
                    if outcome.status == "failed":
                        self._failed.append(by_key[outcome.source])
        if self._given.prune:
            self._prune()

    def _windows(self) -> Iterator[list[IngestSource]]:
        """List the sources, at most so many at a time as fit in memory whatever they are; at least one list."""
        listing = iter(self._given.listing)
        while True:
            window: list[IngestSource] = []
            held = 0
            for source in listing:
                self._places.setdefault(source.key, len(self._places))
                window.append(source)
                held += source.size if isinstance(source, _HELD) else 0
                if len(window) % _LISTED_AT_ONCE == 0:
                    self._run.check()
                if len(window) >= _WINDOW_SOURCES or held >= _WINDOW_BYTES:
                    break
            else:
                if window or not self._places:
                    yield window
                return
            yield window

    def _doing(self, doing: Doing) -> None:
        if threading.get_ident() == self._thread:  # workers may be threads, and listeners hear one at a time
            self._tell("doing", doing=doing)

    def _take(self, outcome: SourceOutcome) -> None:
        before = self._earlier.get(outcome.source)
        if outcome.status == "unchanged" and before is not None and before.status in STORED:
            outcome = before  # this very run stored it, before it was cut off
        self._outcomes.append(outcome)
        self._tell("outcome", outcome=outcome)

    def _prune(self) -> None:
        from oraculo_kit.pruning import missing_sources

        pruned = []
        # A dry run has moved nothing: where files would come from is not gone.
        there = self._places.keys() | {
            outcome.message.removeprefix(MOVED_FROM)
            for outcome in self._outcomes
            if outcome.status == "moved"
        }
        missing = missing_sources(self._storage, self._given.sources, there, glob=self._given.glob)
        if missing.kept:
            self._tell("warning", warning=missing.warning)
        for key in missing.gone:
            self._run.check()
            if not self._run.dry:
                self._storage.remove_by_metadata("source", key)
            outcome = SourceOutcome(
                key, "pruned", pid=os.getpid(), store=self._storage.location, run=self._run.id
            )
            pruned.append(outcome)
            self._take(outcome)
        if pruned and self._run.noted:
            self._storage.note_outcomes(self._run.id, pruned)

    def _break_off(self, error: BaseException) -> None:
        """Note and tell that the run could not go on; what stops it is worth more than what that brings about."""
        state = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
        known = True
        try:
            if self._begun:  # else it may be another process that is at this run
                known = self._storage.finish_run(self._run.id, state, self._report(state).counts)
        except OraculoError as exc:
            _log.warning("the end of run %s could not be noted in the store: %s", self._run.id[:8], exc)
        if not known:
            error.add_note(self._replaced)
        elif isinstance(error, KeyboardInterrupt):
            error.add_note(
                "What was stored stays; oraculo_kit.ingest(..., resume=True) goes on with the rest."
            )
        self._tell("finished", error=f"{type(error).__name__}: {redact(str(error))}")

    @property
    def _replaced(self) -> str:
        return (
            f"the base at {self._storage.location} does not know this run any more: a snapshot was restored there while it "
            "was under way, and what it had stored before may be missing. Ingest the same again: what is in the base is "
            "only compared"
        )

    def _report(self, state: str) -> IngestReport:
        last = len(self._places)  # what is pruned comes last
        outcomes = sorted(self._outcomes, key=lambda outcome: self._places.get(outcome.source, last))
        return IngestReport(
            outcomes,
            time.perf_counter() - self._started,
            run=self._run.id,
            state=state,
            dry_run=self._run.dry,
            unsettled=len(self._places.keys() - {outcome.source for outcome in outcomes}),
            sources=self._failed,
        )

    def _tell(self, kind: EventKind, **facts: Any) -> None:
        event = IngestEvent(kind, self._run.id, **facts)
        for listener in self._listeners:
            listener(event)


def _warn(event: IngestEvent) -> None:
    # Only where a caller waits: beside a notebook the warning would land in whatever cell runs.
    if event.kind == "warning":
        warnings.warn(event.warning, UserWarning, stacklevel=7)  # where ingest was called


@contextmanager
def _progress_bar(shown: bool) -> Iterator[Listener | None]:
    """Show a tqdm bar; give the listener that moves it."""
    if not shown:
        yield None
        return
    from tqdm.auto import tqdm

    bars = []

    def listener(event: IngestEvent) -> None:
        if event.kind == "started":
            # disable=None: no bar where standard error is not a terminal; notebooks always show it.
            bars.append(tqdm(total=event.sources, unit="source", disable=None))
        elif event.kind == "listed":
            bars[0].total = (bars[0].total or 0) + event.sources
            bars[0].refresh()
        elif event.kind == "outcome" and event.outcome is not None and event.outcome.status != "pruned":
            bars[0].update()

    try:
        yield listener
    finally:
        for bar in bars:
            bar.close()


class _IngestTask:
    """Ingest one source and return its outcome; the same in a cell, a joblib batch, a cluster and the shell.

    Pickled, it carries the caller's resolved settings: a worker that joblib started long ago, or without any
    initializer, still writes to the caller's store. That holds for this object: a function of yours that says
    ``oraculo.ingest_task(...)`` is pickled with a reference to the package only, and then the worker's own
    settings count. Import the name, or use `parallel_services`.

    Parameters
    ----------
    source : path or Document
        One file, or one LangChain document.
    run : str, optional
        An id of yours for the ledger.
    allow_urls : bool
        Whether the source may be an http(s) URL.

    Returns
    -------
    SourceOutcome
        A fault of the document is an outcome too.

    Raises
    ------
    ServicesFailedError
        When the services of the process that runs it cannot start; with its pid and the original cause.
    StorageError, EmbedderError
        When the store or the embedder cannot be used.

    Examples
    --------
    >>> from oraculo_kit import ingest_task
    >>> ingest_task("missing.txt").error
    'SourceNotFoundError'
    """

    def __init__(self, settings: Settings | None = None, failure: ServicesFailedError | None = None) -> None:
        # What joblib and Dask call a task by; on the class they would hide its own name from pickle.
        self.__name__ = self.__qualname__ = "ingest_task"
        self._settings = settings
        self._failure = failure

    def __call__(self, source: Any, *, run: str = "", allow_urls: bool = False) -> SourceOutcome:
        if self._failure is not None:
            raise self._failure
        if self._settings is None:
            services = ensure_services()
        else:
            from oraculo_kit.parallel import worker_services

            services = worker_services(self._settings)
        try:
            listed = list(
                islice(find_sources(source, allow_urls=allow_urls, settings=services.settings), 2)
            )  # two are too many already: a folder may be huge
            if len(listed) != 1:
                raise SourceError(
                    f"got {'several sources' if listed else 'nothing'} in {str(source)!r}, expected one: a file or a "
                    "document. Use oraculo_kit.ingest() for a folder, or one task per file"
                )
        except SourceError as exc:
            return failed_outcome(str(source), exc, pid=os.getpid(), store=services.vetor_storage.location)
        return next(ingest_sources(services, listed, Run(run or uuid.uuid4().hex)))

    def __reduce__(self) -> tuple[Any, ...]:
        if self._settings is not None or self._failure is not None:
            return _IngestTask, (self._settings, self._failure)
        try:
            return _IngestTask, (start_services().settings, None)
        except ServicesFailedError as exc:
            # Raised by the task, where the caller looks; raised here it would end as a PicklingError.
            return _IngestTask, (None, exc)

    def __repr__(self) -> str:
        return "<function oraculo_kit.ingest_task(source)>"


ingest_task = _IngestTask()
