"""What earlier ingestions did: the runs that the base keeps a record of, and their reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oraculo_kit.errors import SourceError
from oraculo_kit.services import ensure_services

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.report import IngestReport


def runs(limit: int = 20) -> pd.DataFrame:
    """List the ingestions of this process's base, the newest first.

    Parameters
    ----------
    limit : int
        How many at most; a base keeps the last 50.

    Returns
    -------
    pandas.DataFrame
        One row per run: run, state, started, finished, what, and the number of sources by status. A run is "running",
        "finished", "cancelled", "failed", or "interrupted": its process died. ``ingest(resume=True)`` goes on with
        the last one that did not finish.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> _ = oraculo.ingest(Document("Como emitir nota fiscal"), progress=False)
    >>> oraculo.runs()["state"][0]
    'finished'
    """
    import pandas as pd

    from oraculo_kit.report import STATUSES

    rows = []
    for run in ensure_services().vetor_storage.runs(limit):
        paths = run.options.get("paths")
        rows.append(
            {
                "run": run.id[:8],
                "state": run.state,
                "started": run.started_at[:19],
                "finished": (run.finished_at or "")[:19],
                "what": ", ".join(paths) if paths else str(run.options.get("what", "")),
                **{status: run.counts.get(status, 0) for status in STATUSES},
            }
        )
    return pd.DataFrame(rows, columns=["run", "state", "started", "finished", "what", *STATUSES])


def run_report(run: str | None = None) -> IngestReport:
    """Return the report of an earlier ingestion.

    Parameters
    ----------
    run : str, optional
        The first letters of its id, as `runs` lists it; the last run by default.

    Returns
    -------
    IngestReport
        What the run added, replaced, moved, pruned, skipped or failed at; unchanged sources are only counted.

    Raises
    ------
    SourceError
        When there is no such run, or more than one.
    """
    from oraculo_kit.report import IngestReport

    storage = ensure_services().vetor_storage
    known = storage.runs(50)
    found = known[:1] if run is None else [each for each in known if each.id.startswith(run)]
    if len(found) != 1:
        shown = ", ".join(each.id[:8] for each in known[:10]) or "none"
        wrong = "there is no run" if not found else "there is more than one run"
        raise SourceError(f"{wrong} {run or ''} in {storage.location}; the last ones are: {shown}")
    record = found[0]
    return IngestReport(storage.outcomes(record.id), run=record.id, state=record.state)
