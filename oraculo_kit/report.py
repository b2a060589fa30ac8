"""What an ingestion says of each source: outcomes, and the report that shows them as a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from oraculo_kit.display import (
    CLASSES,
    counted,
    escape,
    html_table,
    short_source,
    size_text,
    text_table,
    visible,
)
from oraculo_kit.errors import SettingsError, SourceError, WorkerKilledError
from oraculo_kit.storage.records import clean_text
from oraculo_kit.storage.results import root_of
from oraculo_kit.storage.runs import SourceOutcome

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.errors import OraculoError
    from oraculo_kit.inputs import IngestSource

__all__ = [
    "MOVED_FROM",
    "STATUSES",
    "STORED",
    "IngestReport",
    "SourceOutcome",
    "failed_outcome",
    "reason",
    "stored_outcomes",
]

STATUSES = ("added", "replaced", "moved", "unchanged", "pruned", "skipped", "failed")
"""added, replaced: stored now. moved: the same content under a new name, and nothing else there any more; its vectors
stay. unchanged: stored before, same content. pruned: the file is gone, and out of the base.
skipped: nothing to index in it (no text, unknown format, no file at all). failed: an error. What was stored of a skipped or failed source before is untouched."""

STORED = ("added", "replaced", "moved")
"""The statuses of sources that a run changed the base for."""

MOVED_FROM = "was "
"""Begins the message of a moved source; its earlier key follows."""

_SHOWN_ROWS = 30


class IngestReport(Sequence[SourceOutcome]):
    """The outcomes of an ingestion; a table in a notebook and in a terminal. A slice is a report too.

    Parameters
    ----------
    outcomes : iterable of SourceOutcome
        For example what a joblib batch of `ingest_task` returned.
    seconds : float, optional
        Wall time of the run.
    run : str, optional
        Id of the run.
    state : str, optional
        "finished", "cancelled", "failed" or "interrupted".
    dry_run : bool
        Whether this is what would happen.
    unsettled : int
        Sources that the run had not come to when it was cancelled.
    sources : sequence of IngestSource
        Those that failed, for `retry`.

    Examples
    --------
    >>> report = IngestReport([SourceOutcome("a.txt", "added", chunks=2), SourceOutcome("b.txt", "unchanged")])
    >>> report.counts
    {'added': 1, 'unchanged': 1}
    """

    def __init__(
        self,
        outcomes: Iterable[SourceOutcome],
        seconds: float = 0.0,
        *,
        run: str = "",
        state: str = "finished",
        dry_run: bool = False,
        unsettled: int = 0,
        sources: Sequence[IngestSource] = (),
    ) -> None:
        self.outcomes = tuple(outcomes)
        self.seconds = seconds
        self.run = run
        self.state = state
        self.dry_run = dry_run
        self.unsettled = unsettled
        self._sources = tuple(sources)
        self.store = next((outcome.store for outcome in self.outcomes if outcome.store), "")

    @overload
    def __getitem__(self, index: int) -> SourceOutcome: ...

    @overload
    def __getitem__(self, index: slice) -> IngestReport: ...

    def __getitem__(self, index: int | slice) -> SourceOutcome | IngestReport:
        found = self.outcomes[index]
        return IngestReport(found, dry_run=self.dry_run) if isinstance(found, tuple) else found

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

    @property
    def bytes(self) -> int:
        """Size of the sources, but of those that failed or were skipped: a file that is too large was not read."""
        return sum(outcome.bytes for outcome in self.outcomes if outcome.status not in ("failed", "skipped"))

    @property
    def stages(self) -> dict[str, float]:
        """Seconds spent in each stage, all workers together: "load", "split", "embed", "write"."""
        found: dict[str, float] = {}
        for outcome in self.outcomes:
            for stage, seconds in outcome.seconds.items():
                found[stage] = found.get(stage, 0.0) + seconds
        return found

    def retry(self, *, n_jobs: int | None = None, progress: bool = True) -> IngestReport:
        """Ingest again what failed, once its cause is mended; after a dry run this is one too.

        Parameters
        ----------
        n_jobs, progress : optional
            As in `oraculo_kit.ingest`.

        Returns
        -------
        IngestReport
            Of the sources that failed; an empty one when none did.

        Raises
        ------
        SourceError
            When the services use another base by now, or sources of an earlier run were data in memory.
        """
        from oraculo_kit.ingestion import ingest
        from oraculo_kit.inputs.urls import url_scheme

        again = self.retried()
        if n_jobs is None and any(outcome.error == WorkerKilledError.__name__ for outcome in self.failed):
            n_jobs = 2  # what kills a process is tried in one that may be killed
        # Given by their key, URLs were ingested before, with leave.
        urls = any(url_scheme(each) in ("http", "https") for each in again)
        if not again:
            return IngestReport([], dry_run=self.dry_run)
        return ingest(again, n_jobs=n_jobs, progress=progress, allow_urls=urls, dry_run=self.dry_run)

    def retried(self) -> list[Any]:
        """Return what `retry` ingests: paths where the sources are files.

        Raises
        ------
        SourceError
            When the services use another base by now, or sources were data in memory that nobody has any more.
        """
        from oraculo_kit.inputs import FileSource, sources_again
        from oraculo_kit.services import ensure_services

        location = ensure_services().vetor_storage.location
        if self.store and self.store != location:
            raise SourceError(
                f"this report is of the base {self.store}, and the services use {location}; "
                "say oraculo_kit.use(report.store) first"
            )
        kept: dict[str, Any] = {
            # A run over paths can be resumed after the kernel is gone.
            source.key: source.found.location if isinstance(source, FileSource) else source
            for source in self._sources
        }
        lost = sources_again([outcome.source for outcome in self.failed if outcome.source not in kept])
        return [{**lost, **kept}[outcome.source] for outcome in self.failed]

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write `to_pandas` to a Parquet file; needs the extra ``oraculo_kit[parquet]``.

        Raises
        ------
        SettingsError
            When pyarrow is not installed.
        """
        try:
            import pyarrow  # noqa: F401 - pandas would say less clearly what is missing
        except ImportError as exc:
            raise SettingsError('to_parquet needs pyarrow: pip install "oraculo_kit[parquet]"') from exc
        self.to_pandas().to_parquet(path, index=False)

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
        size = size_text(self.bytes)
        store = f" -> {visible(self.store)}" if self.store else ""
        if self.dry_run:
            return f"dry run, nothing was stored: {counts}; {size}{store}"
        speed = f" in {self.seconds:.1f} s" if self.seconds else ""
        if self.seconds >= 1 and self.chunks:
            speed += f" ({self.chunks / self.seconds:,.0f} chunks/s)"
        if self.state != "finished":
            left = f", {self.unsettled} not reached" if self.unsettled else ""
            store += f". The run was {self.state}{left}: ingest(..., resume=True) goes on"
        return f"{counts}; {counted(self.chunks, 'chunk')}, {size}{speed}{store}"

    def _rows(self) -> list[list[object]]:
        root = root_of(self.store)
        # What needs attention comes first, so that it is seen in a long run.
        order = {"failed": 0, "skipped": 1}
        ranked = sorted(self.outcomes, key=lambda outcome: order.get(outcome.status, 2))
        return [
            [short_source(outcome.source, root), outcome.status, outcome.chunks, reason(outcome)]
            for outcome in ranked[:_SHOWN_ROWS]
        ]

    def text(self, all_in: str = ".to_pandas() has them all") -> str:
        """Return the table and the summary; `all_in` says where the rows are that do not fit in."""
        lines = [self.summary()]
        if self.outcomes:
            lines.insert(0, text_table(["source", "status", "chunks", "message"], self._rows()))
        if rest := self._rest(all_in):
            lines.insert(1, rest)
        return "\n".join(lines)

    def _rest(self, all_in: str = ".to_pandas() has them all") -> str:
        hidden = len(self.outcomes) - _SHOWN_ROWS
        return f"... and {hidden} more; {all_in}" if hidden > 0 else ""

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        table = html_table(["source", "status", "chunks", "message"], self._rows(), caption=self.summary())
        return table + (f'<div class="{CLASSES}">{escape(self._rest())}</div>' if self._rest() else "")


def reason(outcome: SourceOutcome) -> str:
    """Return an outcome's message without the name of its source, where that stands beside it.

    Examples
    --------
    >>> reason(SourceOutcome("/docs/a.pdf", "failed", message="a.pdf: encrypted"))
    'encrypted'
    """
    for name in (outcome.source, outcome.source.replace(os.sep, "/").rpartition("/")[2]):
        if name and outcome.message.startswith(f"{name}: "):
            return outcome.message[len(name) + 2 :]
    return outcome.message


def stored_outcomes(
    outcomes: Sequence[SourceOutcome], statuses: Sequence[str], seconds: float
) -> Iterator[SourceOutcome]:
    """Yield outcomes of sources that are durable now: as the store saw them, with their parts of the commit's time."""
    share = seconds / len(outcomes)
    for outcome, status in zip(outcomes, statuses, strict=True):
        yield replace(outcome, status=status, seconds={**outcome.seconds, "write": share})


def failed_outcome(
    source: str, error: OraculoError, *, bytes: int = 0, pid: int = 0, store: str = ""
) -> SourceOutcome:
    """Return the outcome of a source with a fault of its own; secrets in its message are masked."""
    from oraculo_kit.environment import redact
    from oraculo_kit.errors import EmptySourceError, NotAFileError, UnsupportedFormatError

    nothing = isinstance(error, EmptySourceError | NotAFileError | UnsupportedFormatError)
    status = "skipped" if nothing else "failed"
    return SourceOutcome(
        source, status, type(error).__name__, redact(str(error)), bytes=bytes, pid=pid, store=store
    )
