"""What a store would want done: a quick look at figures that the catalog keeps; `verify` is the thorough one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from oraculo_kit.storage.filesystems import file_system
from oraculo_kit.storage.fulltext import STEMMER_VERSION
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.owners import Owner
from oraculo_kit.storage.snapshot import Snapshot

_DEAD_SHARE = 0.1
_MANY_SEGMENTS = 64
_LARGE_LOG = 128 << 20  # bytes; readers that never pause keep it at some 66 MB
_WORTH_AN_INDEX = 200_000  # chunks: an exact search takes 10 ms there, and grows with their number


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that could be better.

    Attributes
    ----------
    what : str
        A sentence with the figure.
    fix : str
        The call or command that mends it.
    """

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}"


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The state of a store.

    Attributes
    ----------
    location : str
        The store's folder.
    findings : tuple of Finding
        Empty when there is nothing to do. None of them endangers what is stored.
    writer : str
        Who last held the writer lock; empty when unknown.
    """

    location: str
    findings: tuple[Finding, ...]
    writer: str

    @property
    def ok(self) -> bool:
        """Whether there is nothing to do."""
        return not self.findings

    def __repr__(self) -> str:
        if self.ok:
            return f"{self.location}: all well"
        return "\n".join([f"{self.location}:", *(f"  {finding}" for finding in self.findings)])


def examine(folder: Path, snapshot: Snapshot) -> HealthReport:
    """Look at a store; within the version that is pinned, in some milliseconds."""
    findings = [
        *_vectors(snapshot),
        *_indexes(snapshot),
        *_leftovers(snapshot),
        *_files(folder),
    ]
    holder = WriterLock(folder, 0).holder()
    writer = f"process {holder['pid']} on {holder['host']} ({holder['what']})" if holder else ""
    return HealthReport(str(folder), tuple(findings), writer)


def _vectors(snapshot: Snapshot) -> list[Finding]:
    manifest, findings = snapshot.manifest, []
    rows = sum(len(numbers) for numbers, _ in manifest.blocks())
    dead = rows - int(sum(manifest.alive(numbers).sum() for numbers, _ in manifest.blocks()))
    if dead > _DEAD_SHARE * rows:
        findings.append(Finding(f"{dead} of {rows} vectors are deleted and still take space", "compact()"))
    if len(manifest.segments) > _MANY_SEGMENTS:
        findings.append(Finding(f"the vectors lie in {len(manifest.segments)} files", "compact()"))
    if snapshot.catalog.meta("stemmer") != STEMMER_VERSION:
        findings.append(
            Finding(
                "the full-text index was made with another version of the stemmer", "repair() makes it anew"
            )
        )
    return findings


def _indexes(snapshot: Snapshot) -> list[Finding]:
    manifest = snapshot.manifest
    rows = sum(len(numbers) for numbers, _ in manifest.blocks())
    indexed = {name for (name,) in snapshot.catalog.rows("SELECT segment FROM indexes")}
    if not indexed:
        if rows < _WORTH_AN_INDEX:
            return []
        return [
            Finding(f"{rows} vectors are searched exactly", "optimize() makes searches many times faster")
        ]
    covered = [segment for segment in manifest.segments if segment.name in indexed]
    inside = sum(len(segment.numbers) for segment in covered)
    dead = inside - int(sum(manifest.alive(segment.numbers).sum() for segment in covered))
    findings = []
    if rows - inside > _DEAD_SHARE * rows:
        findings.append(
            Finding(
                f"{rows - inside} of {rows} vectors are newer than the approximate index, and searched exactly",
                "optimize() takes them in",
            )
        )
    if dead > _DEAD_SHARE * inside:
        findings.append(
            Finding(
                f"{dead} of {inside} vectors in the approximate index are deleted",
                "optimize() tunes it again",
            )
        )
    return findings


def _leftovers(snapshot: Snapshot) -> list[Finding]:
    findings = []
    staged = snapshot.catalog.one("SELECT coalesce(sum(rows), 0) FROM staged")
    owners = [
        (purpose, Owner(*owner))
        for purpose, *owner in snapshot.catalog.rows("SELECT purpose, host, pid, started FROM claims")
    ]
    if staged and not any(purpose == "reembed" and owner.lives() for purpose, owner in owners):
        findings.append(
            Finding(
                f"a change to another embedder stopped after {staged} chunks",
                "reembed() with the same embedder goes on; compact(purge=True) drops it",
            )
        )
    dead = sum(not owner.lives() for _, owner in owners)
    if dead:
        findings.append(Finding(f"{dead} writers died and left files behind", "compact() collects them"))
    return findings


def _files(folder: Path) -> list[Finding]:
    findings = []
    log = folder / "catalog.sqlite3-wal"
    size = log.stat().st_size if log.exists() else 0
    if size > _LARGE_LOG:
        findings.append(
            Finding(
                f"the log has {size / 1e6:.0f} MB, because readers leave no moment to empty it",
                "compact() when it is quieter",
            )
        )
    largest = max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)
    free = shutil.disk_usage(folder).free
    if free < 2 * largest:
        findings.append(
            Finding(
                f"the disk has {free / 1e9:.1f} GB left, too little to write the largest file anew",
                "free some space",
            )
        )
    kind = file_system(folder)
    if kind is not None and kind.verdict == "network":
        findings.append(
            Finding(f"the store lies on a network file system ({kind.kind})", "move it to a local disk")
        )
    return findings
