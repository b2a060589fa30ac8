"""load -> split -> embed -> write: one pipeline for notebooks, batches and the command line.

`ingest` takes folders, files, DataFrames and documents; `ingest_task` takes one source and is what a joblib
batch calls. Both run `ingest_sources`, so they give the same chunks, vectors and ledger.

- A document's fault becomes its outcome; a fault of services or store raises.
- Unchanged sources are told by size and time, or by hash when in doubt, before anything is extracted.
- Many whole sources go into one commit (`COMMIT_SOURCES` or `COMMIT_CHARACTERS`), never a part of one. What an
  earlier version stored stands until that commit.
- Nothing is embedded or extracted under the store's lock.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import EmbeddingError, OraculoError, ServicesFailedError, SettingsError, SourceError
from oraculo_kit.inputs import IngestSource, find_sources, is_dataframe
from oraculo_kit.report import IngestReport, SourceOutcome, failed_outcome
from oraculo_kit.services import Services, ensure_services, start_services
from oraculo_kit.storage.base import SourceDocuments, VetorStorage
from oraculo_kit.storage.records import LedgerEntry

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from oraculo_kit.settings import Settings

COMMIT_SOURCES = 64
COMMIT_CHARACTERS = 4_000_000
"""A commit holds so much at most: one fsync for many small sources (0.3 instead of 0.7 ms each, measured), and
memory that does not grow with the corpus."""

_LOADERS = "loaders:1"
# A file changed this shortly before it was read may change again without a new mtime: FAT keeps even seconds.
_RACY_NS = 2_000_000_000
# Starting workers takes about a second; fewer sources and bytes are ingested sooner without.
_PARALLEL_FROM_SOURCES = 200
_PARALLEL_FROM_BYTES = 20_000_000
_TASK_SOURCES = 32
_SAMPLE = 4000  # characters that tell the language
_LOOK_UPS = 256  # sources that are looked up in the ledger at a time


@dataclass
class _Prepared:
    """A source that is ready to be embedded and written."""

    source: IngestSource
    known: bool
    documents: list[Document]
    entry: LedgerEntry
    size: int
    seconds: dict[str, float] = field(default_factory=dict)


def pipeline_fingerprint(settings: Settings, storage: VetorStorage) -> str:
    """Return what the ledger remembers of how a source was processed; another one makes it processed again."""
    from oraculo_kit.split import splitter_fingerprint

    splitter = splitter_fingerprint(settings.chunk_size, settings.chunk_overlap)
    return f"{_LOADERS}|{splitter}|{storage.embedder.name}"


def ingest_sources(
    services: Services, sources: Iterable[IngestSource], *, run: str = ""
) -> Iterator[SourceOutcome]:
    """Run the pipeline over sources in this process.

    Parameters
    ----------
    services : Services
        Ready ones.
    sources : iterable of IngestSource
    run : str
        Id of the run, for the ledger.

    Yields
    ------
    SourceOutcome
        One per source, as soon as it is durable or known to have failed.

    Raises
    ------
    StorageError, EmbedderError
        Faults of the store or the embedder as a whole; sources yielded before are stored.
    """
    storage, settings = services.vetor_storage, services.settings
    pipeline = pipeline_fingerprint(settings, storage)
    waiting: list[_Prepared] = []
    characters = 0
    for group in _batches(sources, _LOOK_UPS):
        known = storage.ledger([source.key for source in group])
        touched: dict[str, LedgerEntry] = {}
        for source in group:
            try:
                prepared = _prepare(source, known.get(source.key), settings, pipeline, run)
            except SourceError as exc:
                yield _failed(storage, source, exc)
                continue
            if prepared is None or isinstance(prepared, LedgerEntry):
                if prepared is not None:
                    touched[source.key] = prepared
                yield SourceOutcome(
                    source.key, "unchanged", bytes=source.size, pid=os.getpid(), store=storage.location
                )
                continue
            waiting.append(prepared)
            characters += sum(len(document.page_content) for document in prepared.documents)
            if len(waiting) >= COMMIT_SOURCES or characters >= COMMIT_CHARACTERS:
                yield from _store(storage, waiting)
                waiting, characters = [], 0
        storage.touch(
            touched
        )  # so that the next run need not read these files to see that they are unchanged
    if waiting:
        yield from _store(storage, waiting)


def _unchanged_by_time(source: IngestSource, entry: LedgerEntry | None, pipeline: str) -> bool:
    return (
        entry is not None
        and entry.content_hash is not None
        and entry.pipeline == pipeline
        and source.mtime_ns is not None
        and (entry.bytes, entry.mtime_ns) == (source.size, source.mtime_ns)
    )


def _prepare(
    source: IngestSource, entry: LedgerEntry | None, settings: Settings, pipeline: str, run: str
) -> _Prepared | LedgerEntry | None:
    """Load and split a source.

    Returns
    -------
    _Prepared, LedgerEntry or None
        None when it is unchanged by size and time; a ledger entry with its new time when it is unchanged by its hash.

    Raises
    ------
    SourceError
        When it cannot be read, or there is nothing in it.
    """
    from oraculo_kit.split import split_documents
    from oraculo_kit.storage.language import detect_language

    if source.error is not None:
        raise source.error
    if _unchanged_by_time(source, entry, pipeline):
        return None
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    content = source.content(settings.max_file_bytes)
    content_hash = hashlib.blake2b(content, digest_size=16).hexdigest()
    mtime_ns = source.mtime_ns
    if mtime_ns is not None and time.time_ns() - mtime_ns < _RACY_NS:
        mtime_ns = None
    if entry is not None and (entry.content_hash, entry.pipeline) == (content_hash, pipeline):
        if (entry.bytes, entry.mtime_ns) == (len(content), mtime_ns):
            return None
        return replace(entry, bytes=len(content), mtime_ns=mtime_ns)
    documents = source.documents(content)
    seconds["load"] = time.perf_counter() - started
    started = time.perf_counter()
    sample = "\n".join(document.page_content[:_SAMPLE] for document in documents[:50])[:_SAMPLE]
    language = detect_language(sample)
    for document in documents:
        document.metadata["source"] = source.key
        if language is not None:
            document.metadata.setdefault("lang", language)
    chunks = split_documents(documents, chunk_size=settings.chunk_size, chunk_overlap=settings.chunk_overlap)
    seconds["split"] = time.perf_counter() - started
    return _Prepared(
        source,
        known=entry is not None,
        documents=chunks,
        entry=LedgerEntry(content_hash, len(content), mtime_ns, pipeline, run),
        size=len(content),
        seconds=seconds,
    )


def _store(storage: VetorStorage, items: Sequence[_Prepared]) -> Iterator[SourceOutcome]:
    """Embed and commit prepared sources, all or, when some of them cannot be stored, those that can.

    Halving finds a text that the embedder refuses, or metadata that cannot be stored, with few requests.
    """
    try:
        embedded = _embed(storage, items)
        started = time.perf_counter()
        storage.replace_many(embedded)
    except (EmbeddingError, SourceError) as exc:
        if len(items) == 1:
            yield _failed(storage, items[0].source, exc)
            return
        middle = len(items) // 2
        yield from _store(storage, items[:middle])
        yield from _store(storage, items[middle:])
        return
    share = (time.perf_counter() - started) / len(items)
    for item in items:
        yield SourceOutcome(
            item.source.key,
            "replaced" if item.known else "added",
            chunks=len(item.documents),
            bytes=item.size,
            seconds={**item.seconds, "write": share},
            pid=os.getpid(),
            store=storage.location,
        )


def _embed(storage: VetorStorage, items: Sequence[_Prepared]) -> list[SourceDocuments]:
    started = time.perf_counter()
    vectors = storage.embedder.embed([document.page_content for item in items for document in item.documents])
    share = (time.perf_counter() - started) / max(len(vectors), 1)
    ready, first = [], 0
    for item in items:
        last = first + len(item.documents)
        ready.append(SourceDocuments(item.source.key, item.documents, vectors[first:last], item.entry))
        item.seconds["embed"] = share * len(item.documents)
        first = last
    return ready


def _failed(storage: VetorStorage, source: IngestSource, error: OraculoError) -> SourceOutcome:
    return failed_outcome(source.key, error, bytes=source.size, pid=os.getpid(), store=storage.location)


def ingest(
    sources: Any,
    *,
    text: str | None = None,
    id: str | None = None,
    name: str | None = None,
    glob: str | None = None,
    prune: bool = False,
    n_jobs: int | None = None,
    backend: str = "loky",
    progress: bool = True,
) -> IngestReport:
    """Make documents searchable: load, split, embed and write them into the store.

    Parameters
    ----------
    sources : path, DataFrame, Document, or an iterable of paths and Documents
        Folders are listed with all they hold.
    text, id, name : str, optional
        For a DataFrame: the column with the text, the column that names a row (its index by default), and what
        the rows' keys begin with: ``"dataframe/7"`` by default. A row replaces the stored row of the same key, so
        one of `id` and `name` must be given. Other columns become metadata.
    glob : str, optional
        Take only files of a folder whose name matches, for example ``"*.pdf"``.
    prune : bool
        Take files out of the base that were ingested from below the given folders and are no more. A file that is
        missing from an empty folder stays, with a warning: the drive may not be mounted.
    n_jobs : int, optional
        Worker processes; -1 for all cores, -2 for all but one. By default none for small jobs (this process does
        it) and all cores for large ones.
    backend : str
        A backend of `parallel_services`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    IngestReport
        One outcome per source, in the order of the sources. A source that failed is in it, with the reason; the
        others are stored.

    Raises
    ------
    SourceError
        When `sources` is nothing that can be ingested.
    SettingsError
        For an unknown `backend` or an `n_jobs` that is none.
    ServicesFailedError
        When the services cannot start, here or in a worker.
    StorageError, EmbedderError
        When the store or the embedder cannot be used.
    OraculoError
        When a worker process was killed.

    Notes
    -----
    Whatever is raised, an interrupt too, every source is stored whole or not at all, and what was stored stays:
    the same call goes on with the rest.

    Examples
    --------
    >>> import pandas as pd, oraculo_kit as oraculo
    >>> frame = pd.DataFrame({"texto": ["Como emitir nota fiscal"], "ano": [2024]})
    >>> oraculo.ingest(frame, text="texto", name="ajuda", progress=False).counts
    {'added': 1}
    """
    from oraculo_kit.parallel import BACKENDS

    if backend not in BACKENDS:
        raise SettingsError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if n_jobs is not None and (not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs == 0):
        raise SettingsError(f"n_jobs is {n_jobs!r}, expected a number of processes, or -1 for all cores")
    if glob is not None and not isinstance(glob, str):
        raise SettingsError(f"glob is {glob!r}, expected a pattern of file names, such as '*.pdf'")
    started = time.perf_counter()
    services = start_services()
    listed = list(find_sources(sources, text=text, id=id, name=name or "dataframe", glob=glob))
    if id is None and name is None and is_dataframe(sources):
        raise SourceError(
            "a DataFrame's rows are named by its index, and another DataFrame's rows would replace them: give id=, "
            'the column that names a row, or name=, a name for this DataFrame such as name="chamados"'
        )
    outcomes: list[SourceOutcome] = []
    # closing: joblib's configuration, and its workers, end with this call, whatever ends it.
    with (
        _progress_bar(len(listed), progress) as advance,
        closing(_run(services, listed, uuid.uuid4().hex, n_jobs, backend)) as found,
    ):
        for outcome in found:
            outcomes.append(outcome)
            advance()
    places = {source.key: place for place, source in enumerate(listed)}
    outcomes.sort(key=lambda outcome: places[outcome.source])
    if prune:
        outcomes.extend(_pruned(services.vetor_storage, sources, places))
    return IngestReport(outcomes, time.perf_counter() - started)


def _pruned(storage: VetorStorage, sources: Any, listed: Collection[str]) -> Iterator[SourceOutcome]:
    from oraculo_kit.pruning import gone_sources

    for key in gone_sources(storage, sources, listed):
        storage.remove_by_metadata("source", key)
        yield SourceOutcome(key, "pruned", pid=os.getpid(), store=storage.location)


def _run(
    services: Services, listed: Sequence[IngestSource], run: str, n_jobs: int | None, backend: str
) -> Generator[SourceOutcome]:
    storage = services.vetor_storage
    settled: list[IngestSource] = []
    left: Sequence[IngestSource] = listed
    if n_jobs != 1:
        # Workers need only what may have changed; the rest is settled here, without a file being opened.
        settled, left = _settled(services, listed)
    if n_jobs == 1 or not left or (n_jobs is None and not _is_large(left)):
        yield from ingest_sources(services, listed, run=run)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    from oraculo_kit.parallel import parallel_services

    yield from ingest_sources(services, settled, run=run)
    with parallel_services(n_jobs, backend=backend) as settings:
        tasks = (delayed(_ingest_batch)(settings, batch, run) for batch in _batches(left, _TASK_SOURCES))
        # joblib's multiprocessing can only give everything at the end.
        return_as = "list" if backend == "multiprocessing" else "generator_unordered"
        try:
            for outcomes in Parallel(return_as=return_as)(tasks):
                yield from outcomes
        except TerminatedWorkerError as exc:
            ledger = storage.ledger([source.key for source in left])
            stored = sum(entry.run == run for entry in ledger.values())
            raise OraculoError(
                f"a worker process was killed, for want of memory or by hand, after {stored} of {len(left)} sources "
                f"were stored in {storage.location}. They stay, and no source is stored in part. Call ingest() again "
                "to go on with the rest; fewer n_jobs, or a lower ORACULO_MAX_FILE_MB, need less memory"
            ) from exc


def _settled(
    services: Services, listed: Sequence[IngestSource]
) -> tuple[list[IngestSource], list[IngestSource]]:
    """Part the sources that need no look into them from those that do."""
    pipeline = pipeline_fingerprint(services.settings, services.vetor_storage)
    known = services.vetor_storage.ledger([source.key for source in listed])
    settled: list[IngestSource] = []
    left: list[IngestSource] = []
    for source in listed:
        unchanged = _unchanged_by_time(source, known.get(source.key), pipeline)
        (settled if unchanged or source.error is not None else left).append(source)
    return settled, left


def _is_large(sources: Sequence[IngestSource]) -> bool:
    return (
        len(sources) >= _PARALLEL_FROM_SOURCES
        or sum(source.size for source in sources) >= _PARALLEL_FROM_BYTES
    )


def _ingest_batch(settings: Settings, sources: Sequence[IngestSource], run: str) -> list[SourceOutcome]:
    from oraculo_kit.parallel import worker_services

    return list(ingest_sources(worker_services(settings), sources, run=run))


def _batches(items: Iterable[IngestSource], size: int) -> Iterator[list[IngestSource]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


@contextmanager
def _progress_bar(total: int, shown: bool) -> Iterator[Callable[[], object]]:
    """Show a tqdm bar; give the function that moves it on by one."""
    if not shown:
        yield lambda: None
        return
    from tqdm.auto import tqdm

    # disable=None: no bar where standard error is not a terminal; notebooks always show it.
    with tqdm(total=total, unit="source", disable=None) as bar:
        yield bar.update


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

    def __call__(self, source: Any, *, run: str = "") -> SourceOutcome:
        if self._failure is not None:
            raise self._failure
        if self._settings is None:
            services = ensure_services()
        else:
            from oraculo_kit.parallel import worker_services

            services = worker_services(self._settings)
        try:
            listed = list(islice(find_sources(source), 2))  # two are too many already: a folder may be huge
            if len(listed) != 1:
                raise SourceError(
                    f"got {'several sources' if listed else 'nothing'} in {str(source)!r}, expected one: a file or a "
                    "document. Use oraculo_kit.ingest() for a folder, or one task per file"
                )
        except SourceError as exc:
            return failed_outcome(str(source), exc, pid=os.getpid(), store=services.vetor_storage.location)
        return next(ingest_sources(services, listed, run=run or uuid.uuid4().hex))

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
