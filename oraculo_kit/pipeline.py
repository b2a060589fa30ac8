"""load -> split -> embed -> write, in this process: sources in, outcomes out.

Interactive runs, joblib workers and the command line all come through `ingest_sources`; workers that have no store
(Dask) through `embed_sources`, whose rows the caller inserts (:mod:`oraculo_kit.distributing`). So all give the same chunks,
vectors and ledger.

- A document's fault becomes its outcome; a fault of services or store raises.
- Unchanged sources are told by size and time, or by hash when in doubt, before anything is extracted.
- A file that was only moved keeps its chunks and vectors: it is known by its hash, and by its old place being empty.
- Many whole sources go into one commit (`COMMIT_SOURCES` or `COMMIT_CHARACTERS`), never a part of one. What an
  earlier version stored stands until that commit. The run's outcomes are noted in it, too.
- Nothing is embedded or extracted under the store's lock.
- `StopSignal` is asked between any two of these steps.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from oraculo_kit.embedding.failures import concerns_all
from oraculo_kit.errors import EmbeddingError, OraculoError, SourceError
from oraculo_kit.events import Doing
from oraculo_kit.formats import extension_of
from oraculo_kit.inputs import FileSource, IngestSource
from oraculo_kit.inputs.base import iso_time
from oraculo_kit.pruning import is_gone
from oraculo_kit.report import MOVED_FROM, failed_outcome, stored_outcomes
from oraculo_kit.storage.base import SourceDocuments, SourceMove
from oraculo_kit.storage.records import LedgerEntry
from oraculo_kit.storage.runs import SourceOutcome

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from oraculo_kit.embed import Embedder
    from oraculo_kit.services import Services
    from oraculo_kit.settings import Settings
    from oraculo_kit.stopping import StopSignal

COMMIT_SOURCES = 64
COMMIT_CHARACTERS = 4_000_000
"""A commit holds so much at most: one fsync for many small sources (0.3 instead of 0.7 ms each, measured), and
memory that does not grow with the corpus."""

_LOADERS = "loaders:3"
# A file changed this shortly before it was read may change again without a new mtime: FAT keeps even seconds.
_RACY_NS = 2_000_000_000
_SAMPLE = 4000  # characters that tell the language
_LOOK_UPS = 256  # sources that are looked up in the ledger at a time
_DEAD_COMMITS = 3  # so many groups in a row whose provider cannot be reached end the run


@dataclass(frozen=True)
class Run:
    """What every process that takes part in a run must know of it; it travels to workers.

    Attributes
    ----------
    id : str
        Stands in the ledger of every source that the run stores.
    noted : bool
        Whether the store keeps a record of the run, and so its outcomes.
    dry : bool
        Say what would happen, and store nothing.
    stop : StopSignal or None
    doing : callable or None
        Called with what is being done, in the process where the run was begun; it does not travel.
    """

    id: str = ""
    noted: bool = False
    dry: bool = False
    stop: StopSignal | None = None
    doing: Callable[[Doing], object] | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "doing": None}

    def at(self, stage: str, sources: Sequence[IngestSource], share: float = 0.0) -> None:
        """Tell what is being done, if anybody here wants to know."""
        if self.doing is not None:
            size = sum(source.size for source in sources)
            self.doing(Doing(stage, sources[0].key, len(sources), size, share))

    def check(self) -> None:
        """Raise `Stopped` when the run was told to stop."""
        if self.stop is not None:
            self.stop.check()


@dataclass
class _Read:
    """A source whose bytes were read: new, changed, or split and embedded otherwise before."""

    source: IngestSource
    known: bool
    content: bytes
    ledger: LedgerEntry
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class _Split:
    """A source that is ready to be embedded."""

    source: IngestSource
    chunks: list[Document]
    ledger: LedgerEntry
    seconds: dict[str, float]
    characters: int

    @property
    def bytes(self) -> int:
        return self.ledger.bytes or 0


def pipeline_fingerprint(settings: Settings, embedder: Embedder) -> str:
    """Return what the ledger remembers of how a source was processed; another one makes it processed again."""
    from oraculo_kit.split import splitter_fingerprint

    splitter = splitter_fingerprint(settings.chunk_size, settings.chunk_overlap, settings.splitter)
    repaired = "|fix_text" if settings.fix_text else ""
    return f"{_LOADERS}{repaired}|{splitter}|{embedder.name}"


def is_unchanged_by_time(source: IngestSource, known: LedgerEntry | None, pipeline: str) -> bool:
    """Tell whether size and time alone show that the store has this very version of a source."""
    return (
        known is not None
        and known.content_hash is not None
        and known.pipeline == pipeline
        and source.mtime_ns is not None
        and (known.bytes, known.mtime_ns) == (source.size, source.mtime_ns)
    )


def ingest_sources(
    services: Services, sources: Iterable[IngestSource], run: Run | None = None
) -> Iterator[SourceOutcome]:
    """Run the pipeline over sources in this process.

    Parameters
    ----------
    services : Services
        Ready ones.
    sources : iterable of IngestSource
    run : Run, optional

    Yields
    ------
    SourceOutcome
        One per source, as soon as it is durable or known to have failed.

    Raises
    ------
    StorageError, EmbedderError
        Faults of the store or the embedder as a whole; sources yielded before are stored.
    Stopped
        When the run was told to stop; likewise.
    """
    return _Pipeline(services.settings, services.vetor_storage, run or Run()).ingest(sources)


class Target(Protocol):
    """What the pipeline needs of a store; the methods are those of `VetorStorage`."""

    embedder: Embedder
    location: str

    def ledger(self, keys: Sequence[str]) -> dict[str, LedgerEntry]:
        """Return what is known of these sources."""

    def touch(self, entries: Mapping[str, LedgerEntry]) -> None:
        """Note new sizes and times."""

    def replace_many(self, sources: Sequence[SourceDocuments]) -> list[str]:
        """Take whole sources."""

    def sources_with(self, content_hashes: Iterable[str]) -> dict[str, list[str]]:
        """Return the keys of sources with these hashes."""

    def move_many(self, moves: Sequence[SourceMove]) -> list[bool]:
        """Give sources other keys."""

    def note_outcomes(self, run: str, outcomes: Sequence[SourceOutcome]) -> None:
        """Take outcomes of sources that are not stored."""


def embed_sources(
    settings: Settings, target: Target, sources: Iterable[IngestSource], run: Run
) -> Generator[SourceOutcome]:
    """Run the pipeline over sources where no store can be opened.

    Parameters
    ----------
    settings : Settings
        The caller's.
    target : Target
        Takes what would be written, for the caller to write it.
    sources : iterable of IngestSource
    run : Run

    Yields
    ------
    SourceOutcome
        As `ingest_sources`; "added" means that the target has it.
    """
    return _Pipeline(settings, target, run).ingest(sources)


class _Pipeline:
    """One run in one process: what waits for the next commit."""

    def __init__(self, settings: Settings, storage: Target, run: Run) -> None:
        self.storage = storage
        self.settings = settings
        self.pipeline = pipeline_fingerprint(settings, storage.embedder)
        self.run = run
        self.waiting: list[_Split] = []
        self.moving: list[tuple[_Read, str]] = []
        self.faults: list[SourceOutcome] = []
        self.unreachable = 0

    def ingest(self, sources: Iterable[IngestSource]) -> Generator[SourceOutcome]:
        try:
            for group in batched(sources, _LOOK_UPS):
                yield from self._group(group)
            yield from self._move()
            yield from self._commit()
        finally:
            # Whatever ends it: what is known to have failed is worth more noted than lost.
            self._note()

    def _group(self, group: Sequence[IngestSource]) -> Iterator[SourceOutcome]:
        known = self.storage.ledger([source.key for source in group])
        touched: dict[str, LedgerEntry] = {}
        read: list[_Read] = []
        for source in group:
            self.run.check()
            try:
                found = _look(source, known.get(source.key), self.settings, self.pipeline, self.run)
            except SourceError as exc:
                yield self._failed(source, exc)
                continue
            if found is None or isinstance(found, LedgerEntry):
                if found is not None:
                    touched[source.key] = found
                yield self._outcome(source, "unchanged", bytes=source.size)
            else:
                read.append(found)
                held = sum(len(each.content) for each in read)
                if len(read) >= COMMIT_SOURCES or held >= COMMIT_CHARACTERS:
                    yield from self._sort(read)
                    read = []
        yield from self._sort(read)
        if touched and not self.run.dry:
            # So that the next run need not read these files to see that they are unchanged.
            self.storage.touch(touched)

    def _sort(self, read: Sequence[_Read]) -> Iterator[SourceOutcome]:
        """Part what was only moved from what is to be extracted: one look-up for all costs a tenth of one for each."""
        hashes = {found.ledger.content_hash for found in read if _may_have_moved(found)}
        places = self.storage.sources_with([each for each in hashes if each is not None]) if hashes else {}
        for found in read:
            same = places.get(found.ledger.content_hash or "", []) if _may_have_moved(found) else []
            if old := self._moved_from(found, same):
                self.moving.append((found, old))
            else:
                yield from self._take(found)
            if len(self.moving) >= COMMIT_SOURCES:
                yield from self._move()

    def _moved_from(self, found: _Read, same: Sequence[str]) -> str | None:
        """Return where the store has this very file from, when it is not there any more.

        `same` are the keys of the sources that have its content.
        """
        taken = {old for _, old in self.moving}
        for key in same:
            # Another extension is another format, and the chunks would not be the same.
            if key not in taken and extension_of(key) == extension_of(found.source.key) and is_gone(key):
                old = self.storage.ledger([key]).get(key)
                if old is not None and old.pipeline == self.pipeline:
                    return key
        return None

    def _move(self) -> Iterator[SourceOutcome]:
        moving, self.moving = self.moving, []
        outcomes = [
            self._outcome(found.source, "moved", bytes=found.ledger.bytes or 0, message=f"{MOVED_FROM}{old}")
            for found, old in moving
        ]
        if self.run.dry:
            yield from outcomes
            return
        moves = [
            SourceMove(
                old, found.source.key, found.ledger, _facts(found.source), outcome if self.run.noted else None
            )
            for (found, old), outcome in zip(moving, outcomes, strict=True)
        ]
        done = self.storage.move_many(moves) if moves else []
        for (found, _), outcome, moved in zip(moving, outcomes, done, strict=True):
            if moved:
                yield outcome
            else:  # another process was quicker: this is a copy now
                yield from self._take(found)

    def _take(self, found: _Read) -> Iterator[SourceOutcome]:
        if self.run.dry:
            status = "replaced" if found.known else "added"
            yield self._outcome(found.source, status, bytes=found.ledger.bytes or 0)
            return
        try:
            self.run.at("load", [found.source])
            split = _split(found, self.settings, self.run)
        except SourceError as exc:
            yield self._failed(found.source, exc)
            return
        self.waiting.append(split)
        characters = sum(item.characters for item in self.waiting)
        if len(self.waiting) >= COMMIT_SOURCES or characters >= COMMIT_CHARACTERS:
            yield from self._commit()

    def _commit(self) -> Iterator[SourceOutcome]:
        waiting, self.waiting = self.waiting, []
        if waiting:
            yield from self._store(waiting)

    def _store(self, items: Sequence[_Split]) -> Iterator[SourceOutcome]:
        """Embed and commit sources: all or, when some of them cannot be stored, those that can."""
        try:
            blocks = _embed(self.storage.embedder, items, self.run)
            yield from self._write(blocks, items)
        except (EmbeddingError, SourceError) as exc:
            yield from self._without_the_faulty(items, exc)
        else:
            self.unreachable = 0

    def _without_the_faulty(
        self, items: Sequence[_Split], error: EmbeddingError | SourceError
    ) -> Iterator[SourceOutcome]:
        """Store what can be stored of items that cannot be stored together.

        The embedder says which texts it has no vectors for, and refuses a whole request for one of them; metadata that
        cannot be stored names no source. Halving finds what is at fault with few tries. A provider that is out of reach fails for all texts: after
        some commits the run ends, for asking it for each would take hours.
        """
        faulty = _owners(items, error.rows if isinstance(error, EmbeddingError) else ()) or items
        if concerns_all(error):
            self.unreachable += 1
            if self.unreachable >= _DEAD_COMMITS:
                raise error
        if len(faulty) == 1 or concerns_all(error):
            for item in faulty:
                yield self._failed(item.source, error)
            parts = []
        else:
            parts = [faulty[: len(faulty) // 2], faulty[len(faulty) // 2 :]]
        parts.append([item for item in items if item not in faulty])
        for part in parts:
            if part:
                self.run.check()
                yield from self._store(part)

    def _write(self, blocks: Sequence[SourceDocuments], items: Sequence[_Split]) -> Iterator[SourceOutcome]:
        self.run.check()
        outcomes = [
            self._outcome(
                item.source,
                "added",
                message=_doubts(item.chunks),
                chunks=len(item.chunks),
                bytes=item.bytes,
                seconds=dict(item.seconds),
            )
            for item in items
        ]
        started = time.perf_counter()
        if self.run.noted:
            blocks = [
                replace(block, outcome=outcome) for block, outcome in zip(blocks, outcomes, strict=True)
            ]
        statuses = self.storage.replace_many(blocks)
        yield from stored_outcomes(outcomes, statuses, time.perf_counter() - started)

    def _outcome(self, source: IngestSource, status: str, **facts: object) -> SourceOutcome:
        return SourceOutcome(
            source.key,
            status,
            pid=os.getpid(),
            store=self.storage.location,
            run=self.run.id,
            **facts,  # type: ignore[arg-type]
        )

    def _failed(self, source: IngestSource, error: OraculoError) -> SourceOutcome:
        outcome = replace(
            failed_outcome(source.key, error, bytes=source.size, pid=os.getpid()),
            store=self.storage.location,
            run=self.run.id,
        )
        self.faults.append(outcome)
        if len(self.faults) >= COMMIT_SOURCES:
            self._note()
        return outcome

    def _note(self) -> None:
        faults, self.faults = self.faults, []
        if faults and self.run.noted and not self.run.dry:
            self.storage.note_outcomes(self.run.id, faults)


def _may_have_moved(found: _Read) -> bool:
    return not found.known and isinstance(found.source, FileSource)


def _facts(source: IngestSource) -> dict[str, str]:
    """Return the metadata of a file's chunks that another place of it changes."""
    modified = iso_time(source.mtime_ns)
    return {} if modified is None else {"modified": modified}


def _look(
    source: IngestSource, known: LedgerEntry | None, settings: Settings, pipeline: str, run: Run
) -> _Read | LedgerEntry | None:
    """Read a source as far as it takes to tell whether it changed.

    Returns
    -------
    _Read, LedgerEntry or None
        None when it is unchanged by size and time; a ledger entry with its new time when it is unchanged by its hash.

    Raises
    ------
    SourceError
        When it cannot be read.
    """
    if source.error is not None:
        raise source.error
    if is_unchanged_by_time(source, known, pipeline):
        return None
    started = time.perf_counter()
    content = source.content(settings.max_file_bytes)
    content_hash = hashlib.blake2b(content, digest_size=16).hexdigest()
    mtime_ns = source.mtime_ns
    if mtime_ns is not None and time.time_ns() - mtime_ns < _RACY_NS:
        mtime_ns = None
    if known is not None and (known.content_hash, known.pipeline) == (content_hash, pipeline):
        if (known.bytes, known.mtime_ns) == (len(content), mtime_ns):
            return None
        return replace(known, bytes=len(content), mtime_ns=mtime_ns)
    ledger = LedgerEntry(content_hash, len(content), mtime_ns, pipeline, run.id)
    return _Read(source, known is not None, content, ledger, {"load": time.perf_counter() - started})


def _split(found: _Read, settings: Settings, run: Run) -> _Split:
    """Extract and split a source.

    Raises
    ------
    SourceError
        When it cannot be read, or there is nothing in it.
    """
    from oraculo_kit.extraction import ExtractionLimits, extract
    from oraculo_kit.split import split_documents
    from oraculo_kit.storage.language import detect_language

    started = time.perf_counter()
    limits = ExtractionLimits(settings.extract_seconds, settings.extract_memory_mb * 1024 * 1024)

    def extracted(content: bytes, name: str) -> list[Document]:
        return extract(content, name, limits=limits, fix_text=settings.fix_text, checkpoint=run.check)

    documents = found.source.documents(found.content, extracted)
    loaded = time.perf_counter()
    sample = "\n".join(document.page_content[:_SAMPLE] for document in documents[:50])[:_SAMPLE]
    language = detect_language(sample)
    for document in documents:
        document.metadata["source"] = found.source.key
        if language is not None:
            document.metadata.setdefault("lang", language)
    chunks = split_documents(
        documents,
        chunk_size=settings.chunk_size,
        chunk_overlap=settings.chunk_overlap,
        splitter=settings.splitter,
    )
    seconds = {
        "load": found.seconds["load"] + loaded - started,
        "split": time.perf_counter() - loaded,
    }
    characters = sum(len(chunk.page_content) for chunk in chunks)
    return _Split(found.source, chunks, found.ledger, seconds, characters)


def _embed(embedder: Embedder, items: Sequence[_Split], run: Run) -> list[SourceDocuments]:
    started = time.perf_counter()
    texts = [chunk.page_content for item in items for chunk in item.chunks]
    sources = [item.source for item in items]
    embedded = 0

    def told(more: int) -> None:
        nonlocal embedded
        embedded += more
        run.at("embed", sources, embedded / len(texts))

    run.at("embed", sources)
    vectors = embedder.embed(texts, checkpoint=run.check, told=told)
    run.at("write", sources, 1.0)
    share = (time.perf_counter() - started) / max(len(vectors), 1)
    blocks, first = [], 0
    for item in items:
        last = first + len(item.chunks)
        blocks.append(SourceDocuments(item.source.key, item.chunks, vectors[first:last], item.ledger))
        item.seconds["embed"] = share * len(item.chunks)
        first = last
    return blocks


def _doubts(chunks: Sequence[Document]) -> str:
    """Return what a reader of the report should know of a source that is stored all the same."""
    said = []
    if any(chunk.metadata.get("encoding_suspect") for chunk in chunks):
        said.append("its text looks wrongly decoded; ORACULO_FIX_TEXT=true repairs what can be repaired")
    counts = [
        chunk.metadata.get("unread_pages") for chunk in chunks
    ]  # metadata of a user's own may be anything
    if unread := max((count for count in counts if isinstance(count, int)), default=0):
        said.append(f"{unread} pages are pictures, which needs OCR to be read: oraculo_kit[ocr]")
    return "; ".join(said)


def _owners(items: Sequence[_Split], rows: Sequence[int]) -> list[_Split]:
    """Return the items to which these rows of all their chunks belong."""
    faulty, first = [], 0
    for item in items:
        if any(first <= row < first + len(item.chunks) for row in rows):
            faulty.append(item)
        first += len(item.chunks)
    return faulty


def batched(items: Iterable[IngestSource], size: int) -> Iterator[list[IngestSource]]:
    """Yield lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
