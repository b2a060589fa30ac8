"""An ingestion run as it is at one moment, live or remembered. Knows nothing of widgets; `runnodes` shows it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from oraculo_kit.display import visible
from oraculo_kit.messages import N_
from oraculo_kit.report import STATUSES, IngestReport
from oraculo_kit.storage.results import root_of
from oraculo_kit.storage.runs import SourceOutcome

if TYPE_CHECKING:
    from oraculo_kit.events import Doing
    from oraculo_kit.handles import IngestHandle
    from oraculo_kit.storage.runs import RunRecord
    from oraculo_kit.widgets.searching import Translator

__all__ = [
    "STATE_NAMES",
    "STATUS_NAMES",
    "RunView",
    "duration",
    "glob_of",
    "moment",
    "ordered",
    "plain",
    "what_of",
]

ATTENTION = ("failed", "skipped")
"""Statuses of which somebody should know the reason."""

STATE_NAMES: Mapping[str, str] = {
    "starting": N_("Starting"),
    "listing": N_("Looking for files"),
    "running": N_("Ingesting"),
    "stopping": N_("Stopping"),
    "finished": N_("Finished"),
    "cancelled": N_("Cancelled"),
    "failed": N_("Could not go on"),
    "interrupted": N_("Cut off"),
}
STATUS_NAMES: Mapping[str, str] = {
    "added": N_("added"),
    "replaced": N_("replaced"),
    "moved": N_("moved"),
    "unchanged": N_("unchanged"),
    "pruned": N_("taken out"),
    "skipped": N_("skipped"),
    "failed": N_("failed"),
}
_ENDED = ("finished", "cancelled", "failed", "interrupted")
_WHAT = 120  # of what a run was over


@dataclass(frozen=True)
class RunView:
    """A run as it is at one moment.

    Attributes
    ----------
    run : str
    state : str
        "starting", "listing", "running", "stopping", or how it ended.
    what : str
        What it is over.
    dry : bool
    sources, done, bytes, done_bytes, chunks : int
    counts : mapping of str to int
    stages : mapping of str to float
        Seconds.
    share : float
        How much is done, from 0 to 1.
    elapsed : float
        Seconds.
    eta : float or None
        Seconds.
    settled : mapping of str to sequence of SourceOutcome
        By status. Of an earlier run the unchanged ones are only counted.
    warnings : tuple of str
    error : str
    root : str
        Folder below which sources are shown short.
    began : str
        Of an earlier run.
    doing : Doing or None
        What is done just now, where that is known.
    """

    run: str = ""
    state: str = "starting"
    what: str = ""
    dry: bool = False
    sources: int = 0
    done: int = 0
    bytes: int = 0
    done_bytes: int = 0
    chunks: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.0
    elapsed: float = 0.0
    eta: float | None = None
    settled: Mapping[str, Sequence[SourceOutcome]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""
    root: str = ""
    began: str = ""
    doing: Doing | None = None

    @classmethod
    def of_handle(cls, handle: IngestHandle, *, stopping: bool = False) -> RunView:
        """Return a background run as it is now; its thread may go on meanwhile."""
        seen = handle.progress
        counts = dict(seen.counts)
        state = "listing" if seen.started is None else "running"
        if handle.done:
            state = _end_of(handle)
        elif stopping:
            state = "stopping"
        return cls(
            run=handle.run,
            state=state,
            what=what_of(handle.options),
            dry=bool(handle.options.get("dry_run")),
            sources=max(seen.sources, seen.done),
            done=seen.done,
            bytes=seen.bytes,
            done_bytes=min(seen.done_bytes, seen.bytes) if seen.bytes else seen.done_bytes,
            chunks=seen.chunks,
            counts=counts,
            stages=dict(seen.stages),
            share=seen.share if state != "cancelled" else _share(seen.done, seen.sources),
            elapsed=seen.elapsed(),
            eta=seen.eta() if state == "running" else None,
            settled=dict(seen.settled),
            warnings=tuple(seen.warnings),
            error=seen.error,
            root=_root(str(handle.options.get("store", ""))),
            doing=seen.doing,
        )

    @classmethod
    def of_record(cls, record: RunRecord, outcomes: Sequence[SourceOutcome], store: str) -> RunView:
        """Return an earlier run as the base remembers it."""
        report = IngestReport(outcomes)
        settled: dict[str, list[SourceOutcome]] = {}
        for outcome in outcomes:
            settled.setdefault(outcome.status, []).append(outcome)
        counts = {**report.counts, **record.counts}
        done = sum(counts.values())
        return cls(
            run=record.id,
            state=record.state,
            what=what_of(record.options),
            sources=done,
            done=done,
            bytes=report.bytes,
            done_bytes=report.bytes,
            chunks=report.chunks,
            counts=counts,
            stages=report.stages,
            share=1.0,
            elapsed=_seconds(record),
            settled=settled,
            root=_root(store),
            began=moment(record.started_at),
        )

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in _ENDED

    @property
    def status(self) -> str:
        """The status that is listed when nobody chose one: what failed, else what was skipped, else none."""
        return next((each for each in ATTENTION if self.settled.get(each)), "")

    def outcomes(self, status: str) -> Sequence[SourceOutcome]:
        """Return the outcomes of a status; all of them for an empty one."""
        if status:
            return self.settled.get(status, ())
        return [outcome for each in STATUSES for outcome in tuple(self.settled.get(each, ()))]

    def told(self, _: Translator) -> str:
        """Return the run in one sentence, as the status line says it."""
        counts = ", ".join(
            f"{count:,} {_(STATUS_NAMES.get(status, status))}" for status, count in ordered(self.counts)
        )
        state = _(STATE_NAMES[self.state])
        if self.dry and self.state == "finished":
            state = _("Dry run finished, nothing was stored")
        return f"{state}: {counts}" if counts else _("{state}: no sources").format(state=state)


def _end_of(handle: IngestHandle) -> str:
    return "failed" if handle.progress.error else handle.result(0).state


def _root(store: str) -> str:
    return root_of(store) or os.getcwd()


def _share(done: int, sources: int) -> float:
    return min(done / sources, 1.0) if sources else 0.0


def _seconds(record: RunRecord) -> float:
    if record.finished_at is None:
        return 0.0
    ended = datetime.fromisoformat(record.finished_at) - datetime.fromisoformat(record.started_at)
    return max(ended.total_seconds(), 0.0)


def ordered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the statuses that occur with their counts, in the order of `STATUSES`."""
    return [(status, counts[status]) for status in STATUSES if counts.get(status)]


def what_of(options: Mapping[str, Any]) -> str:
    """Return what a run was over, short."""
    paths = options.get("paths")
    if not paths:
        return str(options.get("what", ""))
    shown = plain(os.path.relpath(paths[0]) if _is_below(paths[0]) else paths[0])
    shown = shown if len(shown) <= _WHAT else f"…{shown[1 - _WHAT :]}"
    more = f" (+{len(paths) - 1})" if len(paths) > 1 else ""
    glob = glob_of(options)
    return f"{shown}{more}  {plain(glob)}".rstrip()


def glob_of(options: Mapping[str, Any]) -> str:
    """Return the pattern of file names that a run had, or nothing."""
    return str((options.get("chosen") or {}).get("glob") or "")


def _is_below(path: str) -> bool:
    return path.startswith(os.getcwd() + os.sep)


def plain(name: str) -> str:
    r"""Return a file's name so that it stays on its line: what steers, and what breaks lines, is shown as a sign.

    Examples
    --------
    >>> plain("a\nb\u202ec") == "a\ufffdb\ufffdc"
    True
    """
    return visible(name.replace("\n", "\ufffd").replace("\t", "\ufffd"))


def moment(text: str) -> str:
    """Return a time of the base as people here write it: local, to the minute."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M") if text else ""


def duration(seconds: float, _: Translator) -> str:
    """Return a time span in the unit that reads best.

    Examples
    --------
    >>> [duration(span, str) for span in (0.24, 9.6, 75, 7260)]
    ['0.2 s', '10 s', '1 min 15 s', '2 h 1 min']
    """
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return _("{hours} h {minutes} min").format(hours=whole // 3600, minutes=whole % 3600 // 60)
