"""What ``status`` knows: plain data, gathered without starting, changing or raising anything.

Secrets stop here: environment names are given as set or unset, a store's password is masked, free text is
redacted. Whoever shows these facts only has to escape them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from oraculo_kit.diagnostics.probes_case import (
    error_text,
    masked_location,
    unknown_variables,
    usable_settings,
)
from oraculo_kit.environment import environ_origin, redact
from oraculo_kit.environment.names import RECORD_VARIABLE, is_provider_name, looks_secret
from oraculo_kit.environment.record import recorded_origins
from oraculo_kit.services import ServicesState, State
from oraculo_kit.settings import Settings, find_project_root, is_url, setting_variables
from oraculo_kit.workers import WorkerRecord, read_workers

PROVIDER_KEYS = (
    "OPENAI_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "COHERE_API_KEY",
    "GOOGLE_API_KEY",
    "HF_TOKEN",
    "MISTRAL_API_KEY",
    "VOYAGE_API_KEY",
)
"""Keys of providers of embeddings; ``status`` says of each whether it is set."""

_PACKAGES = {"APSW": "apsw", "FAISS": "faiss-cpu", "LangChain core": "langchain-core", "joblib": "joblib"}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def gather_facts(look: ServicesState) -> dict[str, Any]:
    """Gather what ``status`` shows, as plain data that JSON can hold.

    Parameters
    ----------
    look : ServicesState

    Returns
    -------
    dict
        A part that could not be read is named under ``faults``, with the reason.
    """
    faults: dict[str, str] = {}

    def read(part: str, reader: Callable[[], Any], default: Any) -> Any:
        try:
            return reader()
        except Exception as exc:  # noqa: BLE001 - status must answer when anything is broken; it shows what is
            faults[part] = error_text(exc)
            return default

    ready = look.services
    root = read("project", lambda: ready.settings.project_root if ready else str(find_project_root()), "")
    known: Settings | None = ready.settings if ready is not None else None
    wrong: list[str] = []
    if known is None and root:
        known, wrong = usable_settings(root, os.environ, environ_origin)
    fingerprint = ready.settings.fingerprint if ready is not None else None
    return {
        "state": str(look.state),
        "context": look.context,
        "pid": os.getpid(),
        "project_root": root,
        "store": masked_location(known.store) if known is not None else "",
        "store_exists": read("store", lambda: _store_exists(look, known), None),
        "store_summary": read("store", lambda: _store_summary(look), None),
        "failure": _failure(look),
        "services": _service_states(look),
        "lines": [redact(line) for line in (ready.lines if ready is not None else look.lines)],
        "settings": read("settings", lambda: _settings(known), []),
        "settings_faults": wrong,
        "unknown_variables": unknown_variables(os.environ),
        "fingerprint": fingerprint,
        "environment": read("environment", lambda: _environment(look), _NO_ENVIRONMENT),
        "workers": read("workers", lambda: _workers(root, fingerprint), []),
        "threads": read("threads", _threads, {"pools": [], "variables": {}, "cores": 0}),
        "versions": read("versions", _versions, {}),
        "faults": faults,
    }


_NO_ENVIRONMENT: dict[str, Any] = {"loaded": False, "names": [], "refused": {}, "sources": [], "warnings": []}


def _store_exists(look: ServicesState, known: Settings | None) -> bool | None:
    """Tell whether there is a base; None where only opening it would tell."""
    from oraculo_kit.storage.folders import holds_store

    if look.services is not None:
        return True
    return None if known is None or is_url(known.store) else holds_store(Path(known.store))


def _store_summary(look: ServicesState) -> dict[str, Any] | None:
    if look.services is None:
        return None
    storage = look.services.vetor_storage
    stats = asdict(storage.stats())
    able = asdict(storage.capabilities)
    return {
        **stats,
        "location": masked_location(stats["location"]),
        "capabilities": {**able, "lacks": sorted(storage.capabilities.lacks)},
    }


def _failure(look: ServicesState) -> dict[str, Any] | None:
    if look.failure is None:
        return None
    cause = look.failure.__cause__
    return {
        "pid": look.failure.pid,
        "type": look.failure.cause_type,
        # Without a cause at hand, a worker's failure says everything itself.
        "cause": error_text(cause if cause is not None else look.failure),
    }


def _service_states(look: ServicesState) -> list[dict[str, Any]]:
    ready = look.services
    if ready is not None:
        states = {"environment": "ready", "storage": "ready"}
    elif look.failure is not None:
        # The lines tell how far it came: starting, environment loaded, store configured.
        before = next((place for place, line in enumerate(look.lines) if line.startswith("ERROR")), 0)
        loaded = before >= 2
        states = {
            "environment": "ready" if loaded else "failed",
            "storage": "failed" if loaded else "stopped",
        }
    else:
        states = dict.fromkeys(("environment", "storage"), str(look.state))
        if look.state is State.STOPPED and look.lines:
            states["environment"] = "ready"  # a start that found no base, and was to make none
    seconds = ready.seconds if ready is not None else {}
    return [
        {"name": name, "state": states[key], "seconds": seconds.get(key)}
        for name, key in (("environment", "environment"), ("VetorStorage", "storage"))
    ]


def _settings(known: Settings | None) -> list[dict[str, Any]]:
    if known is None:
        return []
    return [
        {"name": name, "variable": variable, "value": _shown_value(name, known), "origin": known.origin(name)}
        for name, (variable, _accepts, _meaning) in setting_variables().items()
    ]


def _shown_value(name: str, known: Settings) -> Any:
    value = getattr(known, name)
    if name == "store":
        return masked_location(value)
    return value if isinstance(value, int | float) else redact(str(value))


def _environment(look: ServicesState) -> dict[str, Any]:
    environ = dict(os.environ)
    names = {
        *PROVIDER_KEYS,
        *recorded_origins(environ),
        *(name for name in environ if is_provider_name(name) and looks_secret(name)),
        *(name for name in environ if name.startswith("ORACULO_ENV_")),
    } - {RECORD_VARIABLE}
    origins = {name: environ_origin(name, environ) for name in sorted(names)}
    plan = look.plan
    return {
        "loaded": look.plan is not None,
        "names": [{"name": name, "set": bool(origin), "origin": origin} for name, origin in origins.items()],
        "refused": dict(plan.refused) if plan is not None else {},
        "sources": [redact(label) for label in plan.sources] if plan is not None else [],
        "warnings": [redact(text) for text in plan.warnings] if plan is not None else [],
    }


def _workers(root: str, fingerprint: str | None) -> list[dict[str, Any]]:
    if not root:
        return []

    def described(worker: WorkerRecord) -> dict[str, Any]:
        return {
            "pid": int(worker.pid),
            "context": str(worker.context),
            "state": str(worker.state),
            "alive": worker.lives(),
            "same_settings": worker.fingerprint == fingerprint if fingerprint is not None else None,
            "threads": int(worker.threads),
            "started": datetime.fromtimestamp(worker.started).isoformat(timespec="seconds"),
            "lines": [redact(str(line)) for line in worker.lines],
        }

    return [described(worker) for worker in read_workers(root)]


def _threads() -> dict[str, Any]:
    import threadpoolctl

    pools = [
        {"library": pool["prefix"].removeprefix("lib"), "threads": pool["num_threads"]}
        for pool in threadpoolctl.threadpool_info()
    ]
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return {
        "pools": pools,
        "variables": {name: os.environ.get(name) for name in _THREAD_VARIABLES},
        "cores": len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    import apsw

    from oraculo_kit import __version__

    found = {"oraculo_kit": __version__, "Python": ".".join(map(str, sys.version_info[:3]))}
    for name, package in _PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "-"
    return {**found, "SQLite": apsw.sqlite_lib_version()}
