"""Which run to go on with after a killed kernel, and what was in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import SourceError

if TYPE_CHECKING:
    from oraculo_kit.storage.base import VetorStorage
    from oraculo_kit.storage.runs import RunRecord

_LOOKED_AT = 50  # as many as a store keeps

LEFT_OUT = "secrets_left_out"
"""Option of a run whose URLs are noted without a password or token that they had."""

ended_here: set[str] = set()
"""Runs of this process that have ended, whatever the store says of them: on a full disk it could not take note."""


def unfinished_run(storage: VetorStorage, described: Mapping[str, Any] | None) -> RunRecord | None:
    """Return the run to go on with.

    Parameters
    ----------
    storage : VetorStorage
    described : mapping, optional
        The options of the run that is wanted, as `ingest` notes them; without them the last run, whatever it was over.

    Returns
    -------
    RunRecord or None
        None when the last run over these sources came to its end: there is nothing to go on with.

    Raises
    ------
    SourceError
        When it still runs; and without `described` when there is nothing to go on with, or the run's sources
        (a DataFrame, documents in memory) are not written down anywhere.
    """
    runs = storage.runs(_LOOKED_AT)
    last = next((run for run in runs if described is None or _is_over(run, described)), None)
    if last is not None and last.state == "running" and last.id not in ended_here:
        raise SourceError(
            f"run {last.id[:8]}, started {last.started_at[:19]}, still runs; wait for it, or cancel it where it runs"
        )
    if last is not None and last.state == "finished":
        last = None
    if described is not None:
        return last
    if last is None:
        why = "the last run came to its end" if runs else "there was no run yet"
        raise SourceError(f"there is nothing to resume in {storage.location}: {why}")
    if last.options.get("paths") is None:
        raise SourceError(
            f"run {last.id[:8]} was over data in memory ({last.options.get('what', 'unknown')}), which is not written "
            "down; give the same again: ingest(data, ..., resume=True)"
        )
    if last.options.get(LEFT_OUT):
        raise SourceError(
            f"run {last.id[:8]} read URLs with a password or token, which are not written down; give them again: "
            "ingest([url, ...], resume=True)"
        )
    return last


def _is_over(run: RunRecord, described: Mapping[str, Any]) -> bool:
    return all(run.options.get(name) == described.get(name) for name in ("paths", "what", "chosen"))
