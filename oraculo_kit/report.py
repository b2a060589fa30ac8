"""What an ingestion says of each source: outcomes, and the report that shows them as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

from oraculo_kit.display import CLASSES, escape, html_table, short_source, size_text, text_table, visible
from oraculo_kit.storage.records import clean_text
from oraculo_kit.storage.results import root_of

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.errors import OraculoError

STATUSES = ("added", "replaced", "unchanged", "pruned", "skipped", "failed")
"""added, replaced: stored now. unchanged: stored before, same content. pruned: the file is gone, and out of the base.
skipped: nothing to index in it (no text, unknown format). failed: an error. What was stored of a skipped or failed source before is untouched."""

_SHOWN_ROWS = 30


@dataclass(frozen=True, slots=True)
class SourceOutcome:
    """What became of one source.

    Attributes
    ----------
    source : str
        Its key: for a file the absolute path.
    status : str
        One of `STATUSES`.
    error : str
        Class of the error, or empty.
    message : str
        What was wrong and what to do, or empty.
    chunks : int
        Chunks stored.
    bytes : int
        Size of the source.
    seconds : dict
        Time per stage: "load", "split", "embed", "write".
    pid : int
        The process that did it.
    store : str
        Where it was stored.
    """

    source: str
    status: str
    error: str = ""
    message: str = ""
    chunks: int = 0
    bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict, hash=False)
    pid: int = 0
    store: str = ""


class IngestReport(Sequence[SourceOutcome]):
    """The outcomes of an ingestion; a table in a notebook and in a terminal. A slice is a report too.

    Parameters
    ----------
    outcomes : iterable of SourceOutcome
        For example what a joblib batch of `ingest_task` returned.
    seconds : float, optional
        Wall time of the run.

    Examples
    --------
    >>> report = IngestReport([SourceOutcome("a.txt", "added", chunks=2), SourceOutcome("b.txt", "unchanged")])
    >>> report.counts
    {'added': 1, 'unchanged': 1}
    """

    def __init__(self, outcomes: Iterable[SourceOutcome], seconds: float = 0.0) -> None:
        self.outcomes = tuple(outcomes)
        self.seconds = seconds
        self.store = next((outcome.store for outcome in self.outcomes if outcome.store), "")

    @overload
    def __getitem__(self, index: int) -> SourceOutcome: ...

    @overload
    def __getitem__(self, index: slice) -> IngestReport: ...

    def __getitem__(self, index: int | slice) -> SourceOutcome | IngestReport:
        found = self.outcomes[index]
        return IngestReport(found) if isinstance(found, tuple) else found

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def counts(self) -> dict[str, int]:
        """How many sources had each status, in the order of `STATUSES`."""
        found = Counter(outcome.status for outcome in self.outcomes)
        return {status: found[status] for status in STATUSES if found[status]}

    @property
    def failed(self) -> list[SourceOutcome]:
        """The sources that failed."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    @property
    def chunks(self) -> int:
        """Chunks stored by this run."""
        return sum(outcome.chunks for outcome in self.outcomes)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame: source, status, chunks, bytes, seconds, pid, error, message, store."""
        import pandas as pd

        columns = ["source", "status", "chunks", "bytes", "seconds", "pid", "error", "message", "store"]
        rows = [
            [
                sum(outcome.seconds.values()) if name == "seconds" else getattr(outcome, name)
                for name in columns
            ]
            for outcome in self.outcomes
        ]
        # A file name need not be Unicode, and Arrow texts, which pandas makes where pyarrow is, must be.
        texts = [[clean_text(value) if isinstance(value, str) else value for value in row] for row in rows]
        return pd.DataFrame(texts, columns=columns)

    def summary(self) -> str:
        """Return one line: how many of what, how much, how fast, into which store."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items()) or "no sources"
        size = size_text(sum(outcome.bytes for outcome in self.outcomes))
        speed = f" in {self.seconds:.1f} s" if self.seconds else ""
        store = f" -> {visible(self.store)}" if self.store else ""
        return f"{counts}; {self.chunks} chunks, {size}{speed}{store}"

    def _rows(self) -> list[list[object]]:
        root = root_of(self.store)
        # What needs attention comes first, so that it is seen in a long run.
        order = {"failed": 0, "skipped": 1}
        ranked = sorted(self.outcomes, key=lambda outcome: order.get(outcome.status, 2))
        return [
            [short_source(outcome.source, root), outcome.status, outcome.chunks, outcome.message]
            for outcome in ranked[:_SHOWN_ROWS]
        ]

    def _rest(self) -> str:
        hidden = len(self.outcomes) - _SHOWN_ROWS
        return f"... and {hidden} more; .to_pandas() has them all" if hidden > 0 else ""

    def __repr__(self) -> str:
        lines = [self.summary()]
        if self.outcomes:
            lines.insert(0, text_table(["source", "status", "chunks", "message"], self._rows()))
        if self._rest():
            lines.insert(1, self._rest())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table = html_table(["source", "status", "chunks", "message"], self._rows(), caption=self.summary())
        return table + (f'<div class="{CLASSES}">{escape(self._rest())}</div>' if self._rest() else "")


def failed_outcome(
    source: str, error: OraculoError, *, bytes: int = 0, pid: int = 0, store: str = ""
) -> SourceOutcome:
    """Return the outcome of a source with a fault of its own; secrets in its message are masked."""
    from oraculo_kit.environment import redact
    from oraculo_kit.errors import EmptySourceError, UnsupportedFormatError

    status = "skipped" if isinstance(error, EmptySourceError | UnsupportedFormatError) else "failed"
    return SourceOutcome(
        source, status, type(error).__name__, redact(str(error)), bytes=bytes, pid=pid, store=store
    )
