"""Repair: what can be rebuilt is rebuilt, what is lost is named.

The catalog is the truth, and most of a store can be made again from it: vectors from the stored texts (by the store's
own embedder), the full-text index from the texts too, counts from the rows. The steps, each of which leaves a store
that can be repaired again, so that a killed repair is simply repeated::

    1  verify; a sound store is left alone
    2  the database: where SQLite finds damaged pages, the rows that can be read become a new catalog
       (`oraculo_kit.storage.salvaging`)
    3  a catalog that is behind ``writer.lock`` is accepted as it is
    4  the ledger: a row that does not match its checksum keeps its chunks if their ids, which are hashes over the
       source's name, prove the name right, or if the user chose the ids; what the chunks shared is lost
    5  chunks, by ranges of their numbers: a damaged row is removed, and its source is read again by the next ingestion;
       texts that the full-text index lacks are indexed; damaged rows of runs and outcomes are dropped
    6  segments: one whose bytes do not match its digest is made again
    7  vectors: missing ones are made again, those of no chunk are marked as deleted
    8  a new epoch, so that no reader goes on with what it remembers; garbage is collected; verify

Before anything is replaced or removed it is set aside in ``<store>/damaged/<time>/``: the catalog, segments, and rows
as ``lost.jsonl``. (A purge deletes that folder.) The writer lock is held only while something is changed.

Vectors that no embedder of ours made cannot be made again. Of a damaged segment of such a store the rows of length one
are kept: a flipped bit changes the length, unless it hardly changes the vector or only turns one component round, and
a million vectors are not to be thrown away for it. Chunks whose vector is lost are removed, since a store in which
some chunks are found by words only would answer wrongly without a word; their texts are in ``lost.jsonl``.

Without the right embedder nothing is removed: damaged segments stay where they are, and the report names who is needed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oraculo_kit.embed import Embedder
from oraculo_kit.errors import (
    StorageError,
    StoreCorruptedError,
    StoreFormatError,
    StoreLockTimeoutError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from oraculo_kit.storage.approximate import index_damage
from oraculo_kit.storage.catalog import Catalog, translated
from oraculo_kit.storage.commit import Writer
from oraculo_kit.storage.findings import Findings
from oraculo_kit.storage.folders import refuse_network
from oraculo_kit.storage.forks import gate
from oraculo_kit.storage.guards import check_not_lost
from oraculo_kit.storage.index_facts import IndexFacts
from oraculo_kit.storage.mending import empty_full_text, mend_chunks, mend_counts, mend_ledger, mend_runs
from oraculo_kit.storage.revectoring import Revectoring
from oraculo_kit.storage.rows import bump_layout, count_pending, next_commit
from oraculo_kit.storage.salvaging import Salvaged, copy_catalog, lenient, salvage
from oraculo_kit.storage.schema import FORMAT, new_epoch
from oraculo_kit.storage.sharing import share
from oraculo_kit.storage.verify import verify_store

_log = logging.getLogger("oraculo_kit.storage")

_TABLES = frozenset(
    [
        "meta",
        "sources",
        "chunks",
        "metadata_keys",
        "pending",
        "tombstones",
        "segments",
        "indexes",
        "staged",
        "claims",
        "feedback",
        "runs",
        "outcomes",
        "chunk_text",
        "chunk_text_docsize",
    ]
)


@dataclass(frozen=True, slots=True, repr=False)
class RepairReport:
    """What a repair did.

    Attributes
    ----------
    location : str
        The store's folder.
    done : tuple of str
        What was rebuilt, a sentence each; empty for a store that was sound.
    lost : tuple of str
        What is lost, or cannot be used until something is given: sources and ids of chunks.
    problems : tuple of str
        What `verify` still finds.
    aside : str
        Folder with the damaged things as they were; empty when nothing had to be set aside.
    seconds : float
    """

    location: str
    done: tuple[str, ...]
    lost: tuple[str, ...]
    problems: tuple[str, ...]
    aside: str
    seconds: float

    @property
    def ok(self) -> bool:
        """True when the store is sound now; what is lost stays lost."""
        return not self.problems

    def __repr__(self) -> str:
        state = "sound" if self.ok else f"not sound yet ({len(self.problems)} problems)"
        lines = [f"the store {self.location} is {state}; {self.seconds:.1f} s"]
        for title, sentences in (
            ("rebuilt", self.done),
            ("lost", self.lost),
            ("still wrong", self.problems),
            ("the damaged files are in", (self.aside,) if self.aside else ()),
        ):
            lines += [f"{title}:", *(f"- {sentence}" for sentence in sentences)] if sentences else []
        return "\n".join(lines)


def repair_store(
    location: str | os.PathLike[str], embedder: Any = None, *, lock_timeout: float = 60.0
) -> RepairReport:
    """Repair a store that need not be open, nor be possible to open.

    Parameters
    ----------
    location : path
        The store's folder.
    embedder : Embedder, Embeddings or str, optional
        Makes vectors again; used only when it is the one that built the store.
    lock_timeout : float
        Longest wait for other writers, in seconds.

    Returns
    -------
    RepairReport

    Raises
    ------
    StoreNotFoundError
        When there is no store.
    StoreCorruptedError
        When the catalog is missing, or its first page is damaged: then only a snapshot helps, or a new ingestion.
    StoreFormatError
        When it was written by a newer oraculo_kit.
    StoreLockTimeoutError
        When a writer does not let go of the store.
    StorageError
        When the disk refuses; what was set aside stays there.
    """
    started = time.perf_counter()
    if embedder is not None and not isinstance(embedder, Embedder):
        embedder = Embedder(embedder)
    folder = Path(os.path.abspath(location))
    repair = _Repair(folder, embedder, lock_timeout)
    try:
        repair.run()
    finally:
        repair.writer.close()
    found = repair.findings
    return RepairReport(
        location=str(folder),
        done=tuple(found.done),
        lost=found.lost(),
        problems=verify_store(folder).problems,
        aside=str(found.folder) if found.has_folder else "",
        seconds=time.perf_counter() - started,
    )


class _Repair:
    def __init__(self, folder: Path, embedder: Embedder | None, lock_timeout: float) -> None:
        self.folder = folder
        self.findings = Findings(folder)
        self.writer = Writer(folder, durability="power", lock_timeout=lock_timeout)
        self._path = folder / "catalog.sqlite3"
        self._embedder = embedder
        self._is_behind = False

    def run(self) -> None:
        refuse_network(self.folder)
        self._refuse_hopeless()
        with _damage_put_off():  # it is salvaged below
            self.writer.make_ready()
        if verify_store(self.folder).ok and not self._damaged_indexes():
            return
        lost = self._mend_database()
        self._accept_older()
        mend_ledger(self.writer, self.findings)
        mend_counts(self.writer, self.findings)
        mend_chunks(self.writer, self.findings)
        mend_runs(self.writer, self.findings)
        revectoring = Revectoring(
            self.writer, self.findings, self._embedder, is_maker_lost="embedder" in lost.meta
        )
        revectoring.settle_dimension()
        revectoring.recognise_maker()
        revectoring.mend_segments()
        revectoring.mend_vectors()
        self._drop_indexes()
        if self.findings.done or self.findings.has_folder:
            self._begin_epoch()
        if self._is_behind:
            self._set_unnamed_aside()
        collect(self.writer)

    def _refuse_hopeless(self) -> None:
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            raise StoreNotFoundError(f"there is no store at {self.folder}. Check the path (ORACULO_STORE)")
        try:
            check_not_lost(self.folder, self.writer.lock.commit_number())
        except StoreCorruptedError as exc:
            raise self._hopeless(f"{exc}. Texts and ledger were in that file") from exc
        if not self._path.exists():
            raise StoreNotFoundError(f"there is no store at {self.folder}: it has no catalog.sqlite3")
        try:
            with gate.passage(), translated(self._path), lenient(self._path) as db:
                version = db.pragma("user_version")
                # With a limit, so that SQLite does not look at what stands behind: damage there is salvaged.
                wanted = "SELECT name FROM sqlite_schema WHERE name IN ('chunks', 'sources') LIMIT 2"
                is_readable = len(db.execute(wanted).fetchall()) == 2
        except StoreCorruptedError as exc:
            raise self._hopeless(f"{exc}. SQLite does not take the file for a database any more") from exc
        if isinstance(version, int) and version > FORMAT:
            raise StoreFormatError(
                f"the store {self.folder} has format {version}, and this oraculo_kit knows up to {FORMAT}. Upgrade "
                "before you repair it: pip install --upgrade oraculo_kit"
            )
        if not is_readable:
            raise self._hopeless(
                f"the list of tables on the first pages of the catalog {self._path} is damaged"
            )

    def _hopeless(self, reason: str) -> StoreCorruptedError:
        return StoreCorruptedError(
            f"{reason}, so nothing can be rebuilt, and nothing was changed: only a snapshot helps (restore), or a new "
            f"ingestion into a folder other than {self.folder}"
        )

    def _damage(self) -> tuple[bool, bool]:
        """Tell whether the database is damaged, and whether its full-text index is."""
        tables: set[str] = set()
        sentences: list[str] = []
        with (
            _damage_put_off(),
            gate.passage(),
            closing(Catalog(self._path, read_only=True)) as catalog,
            catalog.reading(),
        ):
            catalog.check_format()
            tables = {name for (name,) in catalog.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            sentences = [sentence for (sentence,) in catalog.rows("PRAGMA integrity_check(100)")]
        if not sentences:  # it could not even be asked
            return True, True
        if not tables >= _TABLES:
            return True, True
        wrong = [sentence for sentence in sentences if sentence != "ok"]
        of_text = [sentence for sentence in wrong if "FTS5" in sentence or "fts5" in sentence]
        return len(wrong) > len(of_text), bool(of_text)

    def _mend_database(self) -> Salvaged:
        database, full_text = self._damage()
        if full_text and not database:
            try:
                empty_full_text(self.writer, self.findings)
            except StoreCorruptedError:
                database = True  # so damaged that SQLite cannot even drop it
        return self._salvage() if database else Salvaged()

    def _salvage(self) -> Salvaged:
        aside, draft = self.findings.folder / "catalog.sqlite3", self.findings.folder / "draft.sqlite3"
        with self.writer.lock.held("salvage the catalog"), gate.passage(), translated(self._path):
            remembered = self.writer.lock.commit_number()
            copy_catalog(self._path, aside)
            lost = salvage(aside, draft, remembered)
            if lost.everything:
                shutil.rmtree(self.findings.folder)
                raise self._hopeless(f"no chunk can be read any more in the catalog {self._path}")
            copy_catalog(draft, self._path)  # the commit point
            with closing(Catalog(self._path)) as catalog:
                self.writer.lock.record_commit(int(catalog.meta("commit")))
                catalog.checkpoint(truncate=True)
        for each in self.findings.folder.glob("*.sqlite3*"):
            if each != aside:
                each.unlink()
        share(aside)
        self.findings.done.append("the catalog had damaged pages; what could be read of it became a new one")
        self._name(lost, remembered)
        return lost

    def _name(self, lost: Salvaged, remembered: int) -> None:
        if lost.commit < remembered and "commit" not in lost.meta:
            self._name_commits(lost.commit, remembered)
        if lost.chunks:
            self.findings.set_aside_rows(
                {"id": name, "source": source, "place": place} for name, source, place in lost.chunks
            )
        for name, source, place in lost.chunks:
            where = name or (f"place {place}" if source is not None else f"number {place}")
            self.findings.lose_chunk("on damaged pages of the catalog; ingest it again", source, where)
        for key in lost.sources:
            self.findings.lose(
                f"what the chunks of source {key!r} share (their metadata and language), until it is ingested again"
            )
        if lost.tables:
            self.findings.lose(
                f"what stood on damaged pages of the tables {', '.join(sorted(lost.tables))}; chunks and sources of "
                "which an index still knows are named here"
            )
        if lost.filter_indexes:
            self.findings.lose(
                "indexes of filters, if there were others than filter_indexes() still gives: the list of tables is "
                "damaged where they stood. Filters find the same without them; create_filter_index(key) makes them anew"
            )
        if lost.verdicts:
            self.findings.lose(f"{lost.verdicts} verdicts on answers (feedback), at most")

    def _name_commits(self, here: int, remembered: int) -> None:
        self._is_behind = True
        self.findings.lose(
            f"commits {here + 1} to {remembered}: the catalog is an older one, or its -wal file was lost; ingest again "
            "what was written by them"
        )

    def _accept_older(self) -> None:
        with self.writer.lock.held("accept an older catalog"), gate.passage():
            remembered = self.writer.lock.commit_number()
            with closing(Catalog(self._path)) as catalog:
                here = int(catalog.meta("commit"))
                if here >= remembered:
                    return
                with catalog.writing():
                    catalog.set_meta("commit", remembered + 1)
                    catalog.set_meta("epoch", new_epoch())
                self.writer.lock.record_commit(remembered + 1)
        self.findings.done.append(
            f"the catalog was at commit {here} of {remembered}, and was accepted as it is"
        )
        self._name_commits(here, remembered)

    def _damaged_indexes(self) -> list[str]:
        if not self._is_readable():
            return []
        with self.writer.reading() as catalog:
            rows = catalog.rows(
                "SELECT i.name, i.facts, s.name FROM indexes i LEFT JOIN segments s ON s.name = i.segment"
            )
        return [
            name
            for name, facts, segment in rows
            if segment is None or not _matches(self.folder / "indexes" / name, facts)
        ]

    def _is_readable(self) -> bool:
        with suppress(StorageError), self.writer.reading() as catalog:
            catalog.check_format()
            return True
        return False

    def _drop_indexes(self) -> None:
        names = self._damaged_indexes()
        if not names:
            return
        with self.writer.transaction("drop damaged indexes") as catalog:
            catalog.db.executemany("DELETE FROM indexes WHERE name = ?", [(name,) for name in names])
            next_commit(catalog)
            bump_layout(catalog)
        self.findings.done.append(f"{len(names)} damaged indexes were dropped; optimize() makes them anew")

    def _begin_epoch(self) -> None:
        with self.writer.transaction("begin a new epoch") as catalog:
            catalog.set_meta("epoch", new_epoch())
            count_pending(catalog)
            next_commit(catalog)

    def _set_unnamed_aside(self) -> None:
        with self.writer.reading() as catalog:
            named = {
                name
                for (name,) in catalog.rows("SELECT name FROM segments UNION ALL SELECT name FROM staged")
            }
        for path in (self.folder / "segments").iterdir():
            if path.name not in named:
                # Vectors of the commits that are lost: of use to somebody who finds the catalog's log again.
                self.findings.set_aside(path)


@contextmanager
def _damage_put_off() -> Iterator[None]:
    """Go on after damage of whatever kind; not after what has another reason."""
    try:
        yield
    except (StoreLockTimeoutError, StoreReadOnlyError):
        raise
    except StorageError as exc:
        # SQLite's errors for a damaged list of tables are those for wrong SQL.
        _log.info("the store is damaged: %s", exc)


def collect(writer: Writer) -> None:
    """Remove what nobody needs, and leave an empty log."""
    writer.collect_garbage()
    writer.checkpoint()


def _matches(path: Path, facts: str) -> bool:
    try:
        return index_damage(path, IndexFacts.from_dict(json.loads(facts))) is None
    except (ValueError, TypeError, KeyError):
        return False
