"""What happens in an ingestion, as events; progress is what they add up to.

The progress bar, the command line, `IngestHandle` and the ingestion monitor all read this one type.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from oraculo_kit.storage.runs import SourceOutcome

if TYPE_CHECKING:
    from oraculo_kit.report import IngestReport

EventKind = Literal["started", "listed", "doing", "outcome", "warning", "finished"]


@dataclass(frozen=True, slots=True)
class Doing:
    """What a run is at; told where this process does the work, and not by workers, whose tasks take about a second.

    Attributes
    ----------
    stage : {"load", "embed", "write"}
    source : str
        The first of the sources.
    sources, bytes : int
        How many are worked on together, and their size.
    share : float
        How much of the stage is done, from 0 to 1.
    """

    stage: str
    source: str
    sources: int = 1
    bytes: int = 0
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class IngestEvent:
    """One thing that happened in a run.

    Attributes
    ----------
    kind : {"started", "listed", "doing", "outcome", "warning", "finished"}
        "started" once the sources are listed, "listed" when there turn out to be more (50,000 are listed at a time);
        "doing" when a stage begins or goes on; "outcome" for each source that is settled: durable, unchanged, or known to have failed; "warning" for what
        concerns the run as a whole; "finished" at the end, whatever ended it.
    run : str
        Id of the run.
    at : float
        Seconds since 1970.
    sources, bytes : int
        Of "started" and "listed": how many sources there are (more), and their size as far as it is known.
    doing : Doing or None
        Of "doing".
    outcome : SourceOutcome or None
        Of "outcome".
    report : IngestReport or None
        Of "finished"; None when the run could not go on.
    error : str
        Of "finished": why the run could not go on, or empty.
    warning : str
        Of "warning".
    """

    kind: EventKind
    run: str
    at: float = field(default_factory=time.time)
    sources: int = 0
    bytes: int = 0
    doing: Doing | None = None
    outcome: SourceOutcome | None = None
    report: IngestReport | None = None
    error: str = ""
    warning: str = ""


Listener = Callable[[IngestEvent], object]
_SPEED_SECONDS = 30.0  # over which the speed is taken
# Before so much work was seen its speed says little: models load, and one large file among small ones is worth a thousand.
_LEAST_SECONDS, _LEAST_SHARE = 3.0, 0.02
# Seconds after which a large base, of which two percent take an hour, is estimated all the same.
_LONG_ENOUGH = 120.0


class IngestProgress:
    """How far a run is; feed it with its events.

    Attributes
    ----------
    sources, bytes : int
        What there is to do; 0 while the sources are being listed.
    done, done_bytes : int
        What is settled.
    chunks : int
        Stored by this run.
    counts : collections.Counter
        Sources by status.
    stages : dict
        Seconds spent in "load", "split", "embed" and "write", all workers together.
    settled : dict of str to list of SourceOutcome
        What is settled, by status, in that order.
    failed : list of SourceOutcome
    warnings : list of str
    doing : Doing or None
        What is done just now, where that is known.
    started : float or None
        Seconds since 1970.
    finished : float or None
    error : str

    Examples
    --------
    >>> progress = IngestProgress()
    >>> progress(IngestEvent("started", "run", at=100.0, sources=4, bytes=400))
    >>> outcome = SourceOutcome("a.txt", "added", chunks=3, bytes=100, seconds={"embed": 4.0})
    >>> progress(IngestEvent("outcome", "run", at=106.0, outcome=outcome))
    >>> progress.done, progress.chunks, progress.eta(now=106.0)
    (1, 3, 12.0)
    """

    def __init__(self) -> None:
        self.sources = self.bytes = self.done = self.done_bytes = self.chunks = 0
        self.counts: Counter[str] = Counter()
        self.stages: dict[str, float] = {}
        self.settled: dict[str, list[SourceOutcome]] = {}
        self.failed: list[SourceOutcome] = []
        self.warnings: list[str] = []
        self.doing: Doing | None = None
        self._began = 0.0, 0.0  # when, and the share that was done then
        self._has_worked = False
        self._marks: deque[tuple[float, float]] = deque()
        self.started: float | None = None
        self.finished: float | None = None
        self.error = ""

    def __call__(self, event: IngestEvent) -> None:
        """Take note of an event."""
        self._begin(event)
        if event.kind == "started":
            self.started, self.sources, self.bytes = event.at, event.sources, event.bytes
        elif event.kind == "listed":
            self.sources += event.sources
            self.bytes += event.bytes
        elif event.kind == "finished":
            self.finished, self.error, self.doing = event.at, event.error, None
        elif event.kind == "doing":
            self.doing = event.doing
        elif event.kind == "warning":
            self.warnings.append(event.warning)
        elif event.outcome is not None:
            outcome = event.outcome
            self._settle(outcome)
            self.settled.setdefault(outcome.status, []).append(outcome)
            self.done += 1
            self.done_bytes += outcome.bytes
            self.chunks += outcome.chunks
            self.counts[outcome.status] += 1
            for stage, seconds in outcome.seconds.items():
                self.stages[stage] = self.stages.get(stage, 0.0) + seconds
            if outcome.status == "failed":
                self.failed.append(outcome)
        self._mark(event.at)

    def _begin(self, event: IngestEvent) -> None:
        """Take note of when work began: with the first that is done, not while pools and models start.

        To see that a source is unchanged is quick, and says nothing of how long others take: they begin anew.
        """
        outcome = event.outcome
        if self._has_worked or (event.kind != "doing" and outcome is None):
            return
        self._has_worked = outcome is None or outcome.status != "unchanged"
        if self._has_worked or not self._marks:
            # Of work in other processes only the end is heard.
            spent = sum(outcome.seconds.values()) if outcome is not None else 0.0
            self._began = max(event.at - spent, self.started or 0.0), self.share
            self._marks = deque([self._began])  # another one, because other threads may read it

    def _settle(self, outcome: SourceOutcome) -> None:
        """Take a source out of those that are worked on, so that no byte counts twice."""
        doing = self.doing
        if doing is not None and doing.sources > 1:
            self.doing = replace(doing, sources=doing.sources - 1, bytes=max(doing.bytes - outcome.bytes, 0))
        else:
            self.doing = None

    def _mark(self, at: float) -> None:
        marks = self._marks
        if not marks:
            return
        if at - marks[-1][0] >= 1.0:
            marks.append((at, self.share))
        while len(marks) > 1 and at - marks[1][0] >= _SPEED_SECONDS:
            marks.popleft()

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1: by bytes, because sources differ a thousandfold in size."""
        if self.finished is not None and not self.error:
            return 1.0
        if self.bytes:
            doing = self.doing
            # Embedding takes nearly all the time: what is read but not embedded counts as not done.
            part = doing.bytes * doing.share if doing is not None else 0.0
            return min((self.done_bytes + part) / self.bytes, 1.0)
        return self.done / self.sources if self.sources else 0.0

    def elapsed(self, now: float | None = None) -> float:
        """Return the seconds since the run started."""
        if self.started is None:
            return 0.0
        end = self.finished if self.finished is not None else time.time() if now is None else now
        return max(end - self.started, 0.0)

    def eta(self, now: float | None = None) -> float | None:
        """Return the seconds that are left at the speed of the last half minute; None while that cannot be told.

        What was stored before goes by in no time, and would make the rest look quick; what starts before the work would
        make it look slow. Neither counts.
        """
        share, marks = self.share, self._marks
        if self.finished is not None:
            return 0.0 if share else None
        if not marks:
            return None
        now = time.time() if now is None else now
        worked, done = now - self._began[0], share - self._began[1]
        if worked < _LEAST_SECONDS or (done < _LEAST_SHARE and worked < _LONG_ENOUGH):
            return None
        at, before = marks[0]
        return max(now - at, 0.0) * (1 - share) / (share - before) if share > before else None
