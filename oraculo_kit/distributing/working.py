"""What a Dask worker does for an ingestion: load, split and embed. It never opens a store.

The first task of a run, or the examination before it, loads environment and model; the next ones find them ready.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from oraculo_kit.distributing.blocks import BlockCollector
from oraculo_kit.distributing.secrets import without_password
from oraculo_kit.environment.record import redact
from oraculo_kit.errors import OraculoError
from oraculo_kit.parallel import prepare_dask_worker
from oraculo_kit.pipeline import Run, embed_sources
from oraculo_kit.services import services_state
from oraculo_kit.stopping import Stopped
from oraculo_kit.storage.fulltext import stem_text
from oraculo_kit.storage.records import LedgerEntry, SourceWrite
from oraculo_kit.storage.runs import SourceOutcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oraculo_kit.embed import Embedder
    from oraculo_kit.inputs import IngestSource
    from oraculo_kit.settings import Settings

SAME_VECTOR = "the same vector"
STEMMED = "Os contribuintes emitiram notas fiscais; the taxpayers' invoices were issued."
"""Its stems must be the same everywhere, because workers make those of the full text."""
_SAME_COSINE = 0.999  # as for the probe of a store

_lock = threading.RLock()
_ready: dict[str, Embedder] = {}


@dataclass(frozen=True)
class Work:
    """One task: sources, and what the caller's ledger knows of them.

    Attributes
    ----------
    sources : sequence of IngestSource
    known : mapping of str to LedgerEntry
    run : Run
    location : str
        The caller's store.
    block_bytes : int
        Stop after so much; the caller sends the rest again.
    """

    sources: Sequence[IngestSource]
    known: Mapping[str, LedgerEntry]
    run: Run
    location: str
    block_bytes: int


@dataclass(frozen=True)
class Reply:
    """What a worker gives back.

    Attributes
    ----------
    facts : dict
    outcomes : list of SourceOutcome
        Of the sources that are settled; "added" means that it stands in `embedded`.
    embedded : list of SourceWrite
    touched : dict of str to LedgerEntry
    seconds : float
    missing : frozenset of str
        Environment variables that the caller has to send first; nothing was done.
    error : OraculoError or None
        What ends the run. Returned, not raised: Dask logs the arguments of a task that raises.
    """

    facts: dict[str, Any]
    outcomes: list[SourceOutcome] = field(default_factory=list)
    embedded: list[SourceWrite] = field(default_factory=list)
    touched: dict[str, LedgerEntry] = field(default_factory=dict)
    seconds: float = 0.0
    missing: frozenset[str] = frozenset()
    error: OraculoError | None = None


def work_here(
    expected: Mapping[str, Any], settings_bytes: bytes, work_bytes: bytes | None, facts: dict[str, Any]
) -> Reply | dict[str, Any]:
    """Examine this worker further, then do a piece of work; called by `examining.examined`."""
    import cloudpickle

    missing = frozenset(name for name in expected["names"] if not os.environ.get(name, "").strip())
    if missing:
        return Reply(facts, missing=missing)
    try:
        settings: Settings = cloudpickle.loads(settings_bytes)
        facts["settings"] = settings.fingerprint
    except Exception as exc:  # noqa: BLE001 - a class of the caller may be missing here, or raise what it likes
        facts["settings"] = f"cannot be read: {type(exc).__name__}: {exc}"
        return facts
    try:
        embedder = _prepared(settings, expected["probe"], _worker_threads())
    except _DifferentError as exc:
        return facts | {"embedder": exc.name, "its answer": str(exc)}
    except OraculoError as exc:
        return facts | {"its answer": redact(f"{type(exc).__name__}: {exc}")}
    facts |= {"embedder": embedder.name, "its answer": SAME_VECTOR, "stems": stem_text(STEMMED)}
    if any(facts[name] != expected[name] for name in ("settings", "stems")):
        return facts
    if work_bytes is None:
        return facts | {"packages": _versions(expected["packages"])}
    return _done(settings, embedder, cloudpickle.loads(work_bytes), facts)


def _done(settings: Settings, embedder: Embedder, work: Work, facts: dict[str, Any]) -> Reply:
    started = time.perf_counter()
    target = BlockCollector(embedder, work.location, work.known)
    reply = Reply(facts, embedded=target.embedded, touched=target.touched)
    stored = 0
    found = embed_sources(settings, target, work.sources, work.run)
    try:
        for outcome in found:
            reply.outcomes.append(outcome)
            stored += outcome.status == "added"
            # Between two groups: then nothing is split that would have to be split again.
            if stored == len(target.embedded) and target.nbytes >= work.block_bytes:
                break
    except Stopped:
        return replace(reply, seconds=0.0)
    except OraculoError as exc:
        return replace(reply, error=exc)
    finally:
        found.close()
    return replace(reply, seconds=time.perf_counter() - started)


class _DifferentError(Exception):
    """The embedder of this process is not the caller's."""

    name = ""


def _prepared(settings: Settings, probe: NDArray[np.float32], threads: int) -> Embedder:
    """Return the embedder of these settings, as soon as it gave the caller's vector."""
    own = services_state().services
    if own is not None and own.context != "dask" and without_password(own.settings) == settings:
        return own.vetor_storage.embedder  # workers that are threads of the caller's process
    with _lock:
        key = settings.fingerprint
        if key not in _ready:
            prepare_dask_worker(settings, threads)
            embedder = _embedder(settings)
            cosine = _cosine(embedder.probe(), probe)
            if cosine < _SAME_COSINE:
                different = _DifferentError(f"cosine {cosine:.3f}")
                different.name = embedder.name
                raise different
            _ready.clear()  # a model takes memory, and one run is over before the next begins
            _ready[key] = embedder
        return _ready[key]


def _embedder(settings: Settings) -> Embedder:
    from oraculo_kit.embed import Embedder, EmbedOptions

    options = EmbedOptions.of(settings)
    if not os.path.isdir(settings.project_root):
        options = replace(options, cache=None)  # another machine: nothing is made there
    return Embedder(settings.embedder, options)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other) if one.shape == other.shape else 0.0


def _worker_threads() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def _versions(names: Sequence[str]) -> dict[str, str]:
    from oraculo_kit.distributing.checking import installed_versions

    return installed_versions(names)
