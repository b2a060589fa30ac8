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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import EmbeddingError, OraculoError, ServicesFailedError, SourceError
from oraculo_kit.inputs import IngestSource, find_sources
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
_RACY_NS = (
    2_000_000_000  # a file changed this shortly before it was read may change again without a new mtime
)
_PARALLEL_FROM_SOURCES = 200
_PARALLEL_FROM_BYTES = 20_000_000
_TASK_SOURCES = 32


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
    for group in _batches(sources, 256):
        known = storage.ledger([source.key for source in group])
        for source in group:
            entry = known.get(source.key)
            if source.error is not None:
                yield failed_outcome(source.key, source.error, pid=os.getpid(), store=storage.location)
                continue
            try:
                prepared = _prepare(source, entry, settings, pipeline, run)
            except SourceError as exc:
                yield failed_outcome(
                    source.key, exc, bytes=source.size, pid=os.getpid(), store=storage.location
                )
                continue
            if prepared is None:
                yield SourceOutcome(
                    source.key, "unchanged", bytes=source.size, pid=os.getpid(), store=storage.location
                )
                continue
            waiting.append(prepared)
            characters += sum(len(document.page_content) for document in prepared.documents)
            if len(waiting) >= COMMIT_SOURCES or characters >= COMMIT_CHARACTERS:
                yield from _store(storage, waiting)
                waiting, characters = [], 0
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
) -> _Prepared | None:
    """Load and split a source; None when it is unchanged."""
    from oraculo_kit.split import split_documents
    from oraculo_kit.storage.language import detect_language

    if _unchanged_by_time(source, entry, pipeline):
        return None
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    content = source.content(settings.max_file_bytes)
    content_hash = hashlib.blake2b(content, digest_size=16).hexdigest()
    if entry is not None and (entry.content_hash, entry.pipeline) == (content_hash, pipeline):
        return None
    documents = source.documents(content)
    seconds["load"] = time.perf_counter() - started
    started = time.perf_counter()
    language = detect_language("\n".join(document.page_content for document in documents[:50])[:4000])
    for document in documents:
        document.metadata["source"] = source.key
        if language is not None:
            document.metadata.setdefault("lang", language)
    chunks = split_documents(documents, chunk_size=settings.chunk_size, chunk_overlap=settings.chunk_overlap)
    seconds["split"] = time.perf_counter() - started
    mtime_ns = source.mtime_ns
    if mtime_ns is not None and time.time_ns() - mtime_ns < _RACY_NS:
        mtime_ns = None
    return _Prepared(
        source,
        known=entry is not None,
        documents=chunks,
        entry=LedgerEntry(content_hash, len(content), mtime_ns, pipeline, run),
        size=len(content),
        seconds=seconds,
    )


def _store(storage: VetorStorage, items: Sequence[_Prepared]) -> Iterator[SourceOutcome]:
    """Embed and commit prepared sources; when the embedder refuses some text, only its source fails."""
    try:
        embedded = _embed(storage, items)
        failures: list[SourceOutcome] = []
    except EmbeddingError as exc:
        if len(items) == 1:
            yield _failed(storage, items[0], exc)
            return
        embedded, failures = [], []
        for item in items:
            try:
                embedded.extend(_embed(storage, [item]))
            except EmbeddingError as alone:
                failures.append(_failed(storage, item, alone))
    started = time.perf_counter()
    good = [item for item in items if item.source.key in {ready.source for ready in embedded}]
    try:
        storage.replace_many(embedded)
    except SourceError as exc:
        # Metadata that cannot be stored: find out whose.
        if len(good) == 1:
            yield _failed(storage, good[0], exc)
        else:
            for item in good:
                yield from _store(storage, [item])
        yield from failures
        return
    share = (time.perf_counter() - started) / max(len(good), 1)
    for item in good:
        yield SourceOutcome(
            item.source.key,
            "replaced" if item.known else "added",
            chunks=len(item.documents),
            bytes=item.size,
            seconds={**item.seconds, "write": share},
            pid=os.getpid(),
            store=storage.location,
        )
    yield from failures


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


def _failed(storage: VetorStorage, item: _Prepared, error: OraculoError) -> SourceOutcome:
    return failed_outcome(item.source.key, error, bytes=item.size, pid=os.getpid(), store=storage.location)


def ingest(
    sources: Any,
    *,
    text: str | None = None,
    id: str | None = None,
    name: str = "dataframe",
    glob: str | None = None,
    n_jobs: int | None = None,
    backend: str = "loky",
    progress: bool = True,
) -> IngestReport:
    """Make documents searchable: load, split, embed and write them into the store.

    Parameters
    ----------
    sources : path, list of paths, DataFrame, or list of Documents
        Folders are listed with all they hold.
    text, id, name : str, optional
        For a DataFrame: the column with the text, the column that names a row (its index by default), and what
        the rows' keys begin with. Other columns become metadata.
    glob : str, optional
        Take only files of a folder whose name matches, for example ``"*.pdf"``.
    n_jobs : int, optional
        Worker processes; -1 for all cores. By default one for small jobs and all cores for large ones.
    backend : str
        A backend of `parallel_services`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    IngestReport
        One outcome per source. A source that failed is in it, with the reason; the others are stored.

    Raises
    ------
    ServicesFailedError
        When the services cannot start.
    StorageError, EmbedderError
        When the store or the embedder cannot be used; sources stored before stay stored.

    Examples
    --------
    >>> import pandas as pd, oraculo_kit as oraculo
    >>> frame = pd.DataFrame({"texto": ["Como emitir nota fiscal"], "ano": [2024]})
    >>> oraculo.ingest(frame, text="texto", progress=False).counts
    {'added': 1}
    """
    started = time.perf_counter()
    services = start_services()
    run = uuid.uuid4().hex
    found = find_sources(sources, text=text, id=id, name=name, glob=glob)
    listed = list({source.key: source for source in found}.values())  # a file named twice is one source
    outcomes: list[SourceOutcome] = []
    with _ProgressBar(len(listed), progress) as advance:
        for outcome in _run(services, listed, run, n_jobs, backend):
            outcomes.append(outcome)
            advance()
    return IngestReport(outcomes, time.perf_counter() - started)


def _run(
    services: Services, listed: Sequence[IngestSource], run: str, n_jobs: int | None, backend: str
) -> Iterator[SourceOutcome]:
    if n_jobs == 1 or (n_jobs is None and not _is_large(services, listed)):
        yield from ingest_sources(services, listed, run=run)
        return
    from joblib import Parallel, delayed

    from oraculo_kit.parallel import parallel_services

    # Workers need only what may have changed; the rest is settled here, without a file being opened.
    pipeline = pipeline_fingerprint(services.settings, services.vetor_storage)
    known = services.vetor_storage.ledger([source.key for source in listed])
    settled: list[IngestSource] = []
    left: list[IngestSource] = []
    for source in listed:
        unchanged = _unchanged_by_time(source, known.get(source.key), pipeline)
        (settled if unchanged or source.error is not None else left).append(source)
    yield from ingest_sources(services, settled, run=run)
    with parallel_services(n_jobs, backend=backend) as settings:
        tasks = (delayed(_ingest_batch)(settings, batch, run) for batch in _batches(left, _TASK_SOURCES))
        for outcomes in Parallel(return_as="generator_unordered")(tasks):
            yield from outcomes


def _is_large(services: Services, listed: Sequence[IngestSource]) -> bool:
    """Tell whether starting workers (about a second) pays: many sources, or many bytes, may have changed."""
    if len(listed) < _PARALLEL_FROM_SOURCES and sum(source.size for source in listed) < _PARALLEL_FROM_BYTES:
        return False
    pipeline = pipeline_fingerprint(services.settings, services.vetor_storage)
    known = services.vetor_storage.ledger([source.key for source in listed])
    changed = [source for source in listed if not _unchanged_by_time(source, known.get(source.key), pipeline)]
    return (
        len(changed) >= _PARALLEL_FROM_SOURCES
        or sum(source.size for source in changed) >= _PARALLEL_FROM_BYTES
    )


def _ingest_batch(settings: Settings, sources: Sequence[IngestSource], run: str) -> list[SourceOutcome]:
    from oraculo_kit.parallel import worker_services

    return list(ingest_sources(worker_services(settings), sources, run=run))


def _batches(items: Iterable[IngestSource], size: int) -> Iterator[list[IngestSource]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class _ProgressBar:
    """A tqdm bar in a ``with`` block; gives the function that moves it on by one."""

    def __init__(self, total: int, shown: bool) -> None:
        self._total, self._shown = total, shown

    def __enter__(self) -> Callable[[], object]:
        if not self._shown:
            return lambda: None
        from tqdm.auto import tqdm

        # disable=None: no bar where standard error is not a terminal; notebooks always show it.
        self._bar = tqdm(total=self._total, unit="source", disable=None)
        return self._bar.update

    def __exit__(self, *_exc: object) -> None:
        if self._shown:
            self._bar.close()


class _IngestTask:
    """Ingest one source and return its outcome; the same in a cell, a joblib batch, a cluster and the shell.

    Pickled, it carries the caller's resolved settings: a worker that joblib started long ago, or without any
    initializer, still writes to the caller's store.

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
        listed = list(find_sources(source))
        if len(listed) == 1:
            return next(ingest_sources(services, listed, run=run or uuid.uuid4().hex))
        error = SourceError(
            f"got {len(listed)} sources in {str(source)!r}, expected one: a file or a document. "
            "Use oraculo_kit.ingest() for a folder, or one task per file"
        )
        return failed_outcome(str(source), error, pid=os.getpid(), store=services.vetor_storage.location)

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
