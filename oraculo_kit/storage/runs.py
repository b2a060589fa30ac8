"""Runs: which ingestions there were, and what became of each source in them.

A run and its outcomes are rows of the catalog. The outcome of a source that is stored is noted in the very commit that
stores it, so that a killed run has an outcome for exactly the sources that it stored. Other outcomes (failed, skipped,
pruned) come in commits of their own; of unchanged sources there is none, only their count when the run ends.

A run is noted as running together with its process. When that is dead, the run counts as interrupted: nobody needs to
write so. Of a process on another host (a container has a host name of its own) nobody can tell; there a run counts as
interrupted a day after it began.

Only what is read for people and for taking up a run again is kept here: without these rows a store is whole.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import StorageError, StoreCorruptedError
from oraculo_kit.storage.owners import Owner
from oraculo_kit.storage.records import clean_text, metadata_json

if TYPE_CHECKING:
    from oraculo_kit.storage.catalog import Catalog

__all__ = ["ENDS", "KEPT_RUNS", "RunRecord", "SourceOutcome", "is_at_work"]

ENDS = ("finished", "cancelled", "failed")
"""How a run may end; the other states are "running" and "interrupted"."""
KEPT_RUNS = 50

_FOREIGN = timedelta(days=1)
_DAMAGED_RUN = (
    f"state NOT IN ('running', 'interrupted', {', '.join(map(repr, ENDS))}) OR NOT json_valid(facts)"
)
_DAMAGED_OUTCOME = "NOT json_valid(facts) OR run NOT IN (SELECT id FROM runs)"
_OUTCOME_FACTS = ("error", "message", "chunks", "bytes", "seconds", "pid")


@dataclass(frozen=True, slots=True)
class SourceOutcome:
    """What became of one source.

    Attributes
    ----------
    source : str
        Its key: for a file the absolute path.
    status : str
        One of `oraculo_kit.report.STATUSES`.
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
    run : str
        Id of the run.
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
    run: str = ""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One ingestion run.

    Attributes
    ----------
    id : str
    state : str
        "running", "finished", "cancelled", "failed", or "interrupted": noted as running, but its process is dead.
    started_at : str
        When it began, or was last taken up again; ISO 8601 in UTC.
    finished_at : str or None
        When it ended.
    options : mapping
        What it was called with.
    counts : mapping of str to int
        Sources by status. Of a run that has not ended: what was noted so far, unchanged sources not among it.
    """

    id: str
    state: str
    started_at: str
    finished_at: str | None
    options: Mapping[str, Any]
    counts: Mapping[str, int]


def begin_run(catalog: Catalog, name: str, options: Mapping[str, Any], owner: Owner) -> None:
    """Note that a run begins, or goes on, and forget old ones; within the write transaction that is open.

    Raises
    ------
    StorageError
        When another process is at this very run.
    """
    for state, facts in catalog.rows("SELECT state, facts FROM runs WHERE name = ?", (name,)):
        other = _worker(state, facts)
        if other is not None and other != owner:
            raise StorageError(
                f"the run {name} is under way in process {other.pid} on {other.host}; wait for its end, or begin "
                "another run"
            )
    begun = {"options": options, "started_at": _now(), "finished_at": None, "counts": {}, **asdict(owner)}
    catalog.db.execute(
        "INSERT INTO runs(name, state, facts) VALUES (?, 'running', ?) "
        "ON CONFLICT(name) DO UPDATE SET state = excluded.state, facts = excluded.facts",
        (name, metadata_json(begun)),
    )
    _forget_old(catalog)


def _forget_old(catalog: Catalog) -> None:
    old = _newest_first(catalog)[KEPT_RUNS:]
    doomed = [(number,) for number, _, state, facts in old if _worker(state, facts) is None]
    catalog.db.executemany("DELETE FROM outcomes WHERE run = ?", doomed)
    catalog.db.executemany("DELETE FROM runs WHERE id = ?", doomed)


def _newest_first(catalog: Catalog) -> list[tuple[int, str, str, str]]:
    """Return (id, name, state, facts) of all runs: there are few."""
    rows = catalog.rows("SELECT id, name, state, facts FROM runs")
    return [(number, *row) for number, *row in sorted(rows, key=_age, reverse=True)]


def _age(row: tuple[Any, ...]) -> tuple[str, int]:
    number, _, _, facts = row
    return str(_readable(facts).get("started_at", "")), number


def end_run(catalog: Catalog, name: str, state: str, counts: Mapping[str, int]) -> bool:
    """Note how a run ended, and tell whether it was under way; within the write transaction that is open."""
    # A copy of a store holds its runs as interrupted: one that was restored meanwhile has none under way.
    under_way = catalog.rows("SELECT facts FROM runs WHERE name = ? AND state = 'running'", (name,))
    for (facts,) in under_way:
        ended = _readable(facts) | {"finished_at": _now(), "counts": counts}
        catalog.db.execute(
            "UPDATE runs SET state = ?, facts = ? WHERE name = ?", (state, metadata_json(ended), name)
        )
    return bool(under_way)


def insert_outcomes(catalog: Catalog, outcomes: Iterable[tuple[str, SourceOutcome]]) -> None:
    """Note outcomes by the name of their run, each in the place of an earlier one of its source.

    Those of a run that the catalog does not know are left out: it was never begun here, or is forgotten.
    """
    numbers: dict[str, int | None] = {}
    rows = []
    for run, outcome in outcomes:
        if run not in numbers:
            numbers[run] = catalog.one("SELECT id FROM runs WHERE name = ?", (run,))
        if numbers[run] is not None:
            facts = metadata_json({name: getattr(outcome, name) for name in _OUTCOME_FACTS})
            rows.append((numbers[run], clean_text(outcome.source), outcome.status, facts))
    catalog.db.executemany(
        "INSERT INTO outcomes(run, source, status, facts) VALUES (?, ?, ?, ?) "
        "ON CONFLICT(run, source) DO UPDATE SET status = excluded.status, facts = excluded.facts",
        rows,
    )


def read_runs(catalog: Catalog, limit: int) -> list[RunRecord]:
    """Return the newest runs, newest first.

    Raises
    ------
    StoreCorruptedError
        When a row is damaged.
    """
    found = []
    for number, name, noted, text in _newest_first(catalog)[:limit]:
        facts = _facts(catalog, name, text)
        state = "interrupted" if noted == "running" and _worker(noted, text) is None else noted
        finished_at = facts.get("finished_at")
        counts = facts.get("counts", {}) if finished_at else _noted(catalog, number)
        started_at, options = facts.get("started_at", ""), facts.get("options", {})
        found.append(RunRecord(name, state, started_at, finished_at, options, counts))
    return found


def _noted(catalog: Catalog, number: int) -> dict[str, int]:
    return dict(
        catalog.rows("SELECT status, count(*) FROM outcomes WHERE run = ? GROUP BY status", (number,))
    )


def read_outcomes(catalog: Catalog, name: str, store: str) -> list[SourceOutcome]:
    """Return the outcomes of a run, in the order in which its sources were first noted.

    Parameters
    ----------
    catalog : Catalog
    name : str
        The run; of an unknown one there are none.
    store : str
        The store's location, which the rows do not repeat.

    Raises
    ------
    StoreCorruptedError
        When a row is damaged.
    """
    rows = catalog.rows(
        "SELECT source, status, facts FROM outcomes WHERE run = (SELECT id FROM runs WHERE name = ?) ORDER BY id",
        (name,),
    )
    found = []
    for source, status, text in rows:
        facts = _facts(catalog, name, text)
        known = {each: facts[each] for each in _OUTCOME_FACTS if each in facts}
        found.append(SourceOutcome(source, status, **known, store=store, run=name))
    return found


def interrupt_runs(catalog: Catalog) -> None:
    """Note runs that are under way as interrupted: in a copy of a store they do not go on."""
    catalog.db.execute("UPDATE runs SET state = 'interrupted' WHERE state = 'running'")


def forget_removed(catalog: Catalog) -> None:
    """Drop the outcomes of sources that are not in the ledger (any more): their names may be what is to be erased."""
    catalog.db.execute("DELETE FROM outcomes WHERE source NOT IN (SELECT key FROM sources)")


def damaged_runs(catalog: Catalog) -> list[str]:
    """Return a sentence for each table with rows that cannot be what was written."""
    found = []
    for table, what in (("runs", _DAMAGED_RUN), ("outcomes", _DAMAGED_OUTCOME)):
        count = catalog.one(f"SELECT count(*) FROM {table} WHERE {what}")
        if count:
            found.append(f"{count} rows of the table {table} are damaged; what is stored is not concerned")
    return found


def drop_damaged_runs(catalog: Catalog) -> tuple[int, int]:
    """Delete the rows that `damaged_runs` finds, and return how many runs and outcomes there were."""
    runs = catalog.rows(f"DELETE FROM runs WHERE {_DAMAGED_RUN} RETURNING id")
    outcomes = catalog.rows(f"DELETE FROM outcomes WHERE {_DAMAGED_OUTCOME} RETURNING id")
    return len(runs), len(outcomes)


def is_at_work(state: str, started_at: str, host: str, pid: int, started: float) -> bool:
    """Tell whether a run that is noted as `state` still goes on.

    Parameters
    ----------
    state : str
    started_at : str
        When it began, ISO 8601.
    host, pid, started : str, int, float
        Its process; see `oraculo_kit.storage.owners.Owner`.
    """
    if state != "running":
        return False
    if host != socket.gethostname():
        return datetime.now(UTC) - datetime.fromisoformat(started_at) < _FOREIGN
    return Owner(host, pid, started).lives()


def _worker(state: str, facts: str) -> Owner | None:
    """Return the process that is at a run; None when nobody is, as far as the row can be read."""
    found = _readable(facts)
    try:
        owner = Owner(found["host"], found["pid"], found["started"])
        return owner if is_at_work(state, found["started_at"], owner.host, owner.pid, owner.started) else None
    except (KeyError, TypeError, ValueError):
        return None  # `damaged_runs` names the row; it is to keep nobody from working


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _readable(facts: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(facts)
    except ValueError:
        return {}
    return found


def _facts(catalog: Catalog, run: str, facts: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(facts)
    except ValueError as exc:
        raise StoreCorruptedError(
            f"what {catalog.path} holds of the run {run} is damaged ({exc}). `oraculo repair` drops what is damaged of "
            "it; chunks and vectors are not concerned"
        ) from exc
    return found
