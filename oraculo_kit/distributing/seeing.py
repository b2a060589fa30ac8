"""What a Dask worker sees of the caller's files: nothing, or another file, is said, and never passed over.

The caller lists sources, so no file can be left out because a worker lacks it. A worker on another machine may lack a
file, have another one at its path (a copy of last week), or lack the package that reads a URL.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import SourceError
from oraculo_kit.inputs import FileSource, IngestSource, MemberSource, RemoteSource

if TYPE_CHECKING:
    from oraculo_kit.storage.records import SourceWrite
    from oraculo_kit.storage.runs import SourceOutcome

_UNREAD = ("SourceError", "SourceNotFoundError", "SourceUnreadableError")
_ADVICE = "Put the files into a folder that all workers share, or name them by a URL (s3://..., sftp://...)"


def explained(outcome: SourceOutcome, source: IngestSource, facts: Mapping[str, Any]) -> SourceOutcome:
    """Say so when a source failed because of the machine that the worker is on.

    Parameters
    ----------
    outcome : SourceOutcome
        As the worker gave it.
    source : IngestSource
    facts : mapping
        Of the worker.

    Returns
    -------
    SourceOutcome
        With another message, or as it was.
    """
    if isinstance(source, RemoteSource) and outcome.error in _UNREAD:
        # This process listed the URL: it has the package, the key or the way that may be missing there.
        return replace(outcome, message=f"{outcome.message} (on {_worker(facts)})")
    if outcome.error != "SourceNotFoundError" or not isinstance(source, FileSource | MemberSource):
        return outcome
    path = source.archive if isinstance(source, MemberSource) else source.found.location
    if not os.path.exists(path):
        return outcome
    return replace(outcome, message=f"{source.key}: {_worker(facts)} cannot see this file. {_ADVICE}")


def other_file(embedded: SourceWrite, source: IngestSource, facts: Mapping[str, Any]) -> SourceError | None:
    """Return what is wrong when a worker read another file than the one that has this path here, else None.

    Only its size is compared: file systems that are shared may tell times less exactly.
    """
    size = embedded.ledger.bytes
    if not isinstance(source, FileSource) or size == source.size:
        return None
    try:
        here = os.stat(source.found.location).st_size
    except OSError:
        return None  # gone meanwhile
    if here != source.size:
        return None  # written to meanwhile
    return SourceError(
        f"{source.key}: has {here} bytes here and {size} for {_worker(facts)}, so that is another file. Nothing of it was "
        f"stored. {_ADVICE}"
    )


def _worker(facts: Mapping[str, Any]) -> str:
    return f"the Dask worker at {facts['address']} ({facts['host']})"
