"""Bring the environment up: ``.env`` and remote sources into ``os.environ``, all or nothing.

::

    .env, ORACULO_ENV_SOURCE ─► environment.sources (https) ─► environment.names ─► plan ─► os.environ
                                     │ unreachable                                    record of who set what
                                     └─► environment.cache

1. `fetch_environ` reads and checks everything, and changes nothing. Its plan leaves out every name that the
   user set: an environment variable is stronger than ``.env``, ``.env`` than a remote source, an earlier
   source than a later one. Blank values count as not given, everywhere.
2. `apply_environ` changes ``os.environ`` under one lock, and undoes its changes when one fails.

What we set is noted in ``ORACULO_ENV_ORIGINS`` (see `oraculo_kit.environment.record`), so that a reload may
update or remove it, and so that child processes know it from the user's own variables. Values live in
``os.environ`` and in the plan only; logs, errors and reprs name names.

**Whom this trusts.** ``.env`` in the project root is trusted like the project's code: it may choose sources,
callables included, and the address that the token is sent to. A remote source is trusted with values for
names on the allow-list, and with nothing else.

The variables that steer it are described in `oraculo_kit.environment.options`. A callable that needs
credentials of its own must find them in the environment: ``.env`` is applied together with the sources'
values, after the callable ran.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from oraculo_kit.environment.cache import CacheEntry, cache_key, cache_path, read_cache, write_cache
from oraculo_kit.environment.documents import SourceUnreachableError
from oraculo_kit.environment.names import (
    RECORD_VARIABLE,
    CheckedDocument,
    Origin,
    check_document,
    listing,
)
from oraculo_kit.environment.options import TIMEOUT_VARIABLE, EnvironmentOptions, timeout_seconds
from oraculo_kit.environment.record import (
    environ_origin,
    is_secret,
    record_text,
    recorded_origins,
    redact,
    remember_secrets,
    safe_cause,
)
from oraculo_kit.environment.sources import Deadline, Source, dotenv_source, parse_sources, read_source
from oraculo_kit.errors import EnvironmentSourceError, SettingsError
from oraculo_kit.settings import find_project_root

__all__ = [
    "EnvironmentPlan",
    "apply_environ",
    "environ_origin",
    "fetch_environ",
    "redact",
    "set_environ_remote",
]

_log = logging.getLogger("oraculo_kit.environment")
_lock = threading.Lock()


def _reset_lock() -> None:
    global _lock
    _lock = threading.Lock()


# A fork copies a lock that another thread holds, and nobody is left to release it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_lock)


@dataclass(frozen=True, repr=False)
class EnvironmentPlan:
    """Environment values that were fetched and checked, and are not applied yet.

    A plan holds secrets: its repr shows names and origins only, and it cannot be pickled.

    Attributes
    ----------
    values : mapping of str to str
        What will be set. Names that the user set are not in it.
    origins : mapping of str to {"dotenv", "remote"}
        Where each value came from.
    refused : mapping of str to str
        Names that were left out, and why: not allow-listed, dangerous, or blank.
    sources : tuple of str
        What was read, in order, without credentials and query strings.
    warnings : tuple of str
        What went wrong without stopping the start, such as an unreachable source whose cached values were
        used.
    """

    values: Mapping[str, str]
    origins: Mapping[str, str]
    refused: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("values", "origins", "refused"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __repr__(self) -> str:
        names = listing((f"{name} ({self.origins.get(name, '?')})" for name in self.values), 20)
        return (
            f"<EnvironmentPlan: {len(self.values)} to set: {names or 'none'}; {len(self.refused)} refused; "
            f"sources: {', '.join(self.sources) or 'none'}; {len(self.warnings)} warnings>"
        )


def fetch_environ(
    project_root: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None
) -> EnvironmentPlan:
    """Read ``.env`` and the sources in ``ORACULO_ENV_SOURCE``, check everything, and change nothing.

    Blocks, for at most ``ORACULO_ENV_TIMEOUT`` seconds and the reading of ``.env``; safe inside a running
    event loop. Without ``.env`` and sources it costs well under a millisecond.

    Parameters
    ----------
    project_root : path
        The folder of ``.env``, of relative paths, of callables' modules, and of the cache.
    environ : mapping, optional
        The variables that count as set; ``os.environ`` by default. Proxies and certificates always come from
        ``os.environ``, where the libraries look for them.

    Returns
    -------
    EnvironmentPlan

    Raises
    ------
    EnvironmentSourceError
        A source is missing, refused, malformed, holds a dangerous name, or cannot be reached and has no
        cached values. The message names the source, the reason and what to do.
    SettingsError
        An ``ORACULO_ENV_*`` variable is malformed.
    """
    root = os.path.abspath(project_root)
    if environ is None:
        with _lock:
            environ = dict(os.environ.items())
    ours = recorded_origins(environ)
    users = {name: value for name, value in environ.items() if value.strip() and name not in ours}
    merged = _Merged(users)

    variables = users
    dotenv = dotenv_source(root)
    if dotenv is not None:
        entries = _read_dotenv(dotenv, users)
        # Names of ours need no allow-list, so .env can be asked for the allow-list itself.
        steering = check_document(entries, "dotenv", frozenset(), dotenv.label).accepted
        variables = {**steering, **users}
    options = EnvironmentOptions.resolve(variables)
    if dotenv is not None:
        merged.add(dotenv, "dotenv", check_document(entries, "dotenv", options.listed, dotenv.label))

    _add_remote(merged, parse_sources(options.source, root), options, root)
    plan = merged.plan()
    remember_secrets(value for name, value in plan.values.items() if is_secret(name, ours=True))
    return plan


def apply_environ(plan: EnvironmentPlan) -> tuple[str, ...]:
    """Put a plan into ``os.environ``, wholly or not at all.

    Names that an earlier plan set and this one lacks are removed. A name that the user set in the meantime is
    left as it is. Several threads may call this at once; one works at a time.

    Parameters
    ----------
    plan : EnvironmentPlan
        From `fetch_environ`.

    Returns
    -------
    tuple of str
        The names that now have the plan's value, sorted.

    Raises
    ------
    EnvironmentSourceError
        When the system refuses a value; every change was undone.
    """
    with _lock:
        ours = recorded_origins(os.environ)
        ready = {
            name: value
            for name, value in sorted(plan.values.items())
            if name in ours or not os.environ.get(name, "").strip()
        }
        removed = [name for name in ours if name not in ready]
        changes: dict[str, str | None] = {**dict.fromkeys(removed), **ready}
        # Last, so that a record never speaks of values that are not there yet.
        changes[RECORD_VARIABLE] = record_text(ready, plan.origins) if ready else None
        _change_environ(changes)
    set_names = listing((f"{name} ({plan.origins[name]})" for name in ready), 20)
    _log.info("environment variables set: %d%s", len(ready), f": {set_names}" if ready else "")
    if removed:
        _log.info("environment variables removed: %d: %s", len(removed), listing(removed, 20))
    return tuple(ready)


def set_environ_remote(project_root: str | os.PathLike[str] | None = None) -> EnvironmentPlan:
    """Load ``.env`` and the remote environment into ``os.environ``: `fetch_environ`, then `apply_environ`.

    Parameters
    ----------
    project_root : path, optional
        The project folder; by default the one that the working folder belongs to, as for every setting.

    Returns
    -------
    EnvironmentPlan
        What was found; print it to see names and origins.

    Raises
    ------
    EnvironmentSourceError, SettingsError
        As the two functions; ``os.environ`` then is as before.
    """
    if project_root is not None and not (
        isinstance(project_root, str | os.PathLike) and os.path.isdir(project_root)
    ):
        # A file of settings, taken for a folder without any, would be passed over in silence.
        raise SettingsError(
            f"project_root is {project_root!r}, expected a folder that exists; name sources in ORACULO_ENV_SOURCE"
        )
    plan = fetch_environ(find_project_root() if project_root is None else project_root)
    apply_environ(plan)
    return plan


class _Merged:
    """Collects checked documents; what came first stays."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = users
        self._values: dict[str, str] = {}
        self._origins: dict[str, Origin] = {}
        self._refused: dict[str, str] = {}
        self._sources: list[str] = []
        self._warnings: list[str] = []

    def add(self, source: Source, origin: Origin, checked: CheckedDocument) -> None:
        self._sources.append(source.label)
        for name, value in checked.accepted.items():
            if name not in self._users and name not in self._values:
                self._values[name] = value
                self._origins[name] = origin
        self._refused.update(checked.refused)
        if checked.refused:
            _log.info(
                "left out of %s: %d: %s", source.label, len(checked.refused), listing(checked.refused, 20)
            )

    def warn(self, text: str) -> None:
        text = redact(text)
        self._warnings.append(text)
        _log.warning("%s", text)

    def plan(self) -> EnvironmentPlan:
        refused = {name: reason for name, reason in self._refused.items() if name not in self._values}
        return EnvironmentPlan(
            self._values, self._origins, refused, tuple(self._sources), tuple(self._warnings)
        )


def _read_dotenv(source: Source, users: Mapping[str, str]) -> Mapping[str, object]:
    # What .env says about the time limit is not known yet.
    deadline = Deadline(timeout_seconds(users.get(TIMEOUT_VARIABLE, "").strip()))
    document = read_source(source, deadline, headers={})
    return document.entries if document is not None else {}


def _add_remote(merged: _Merged, sources: tuple[Source, ...], options: EnvironmentOptions, root: str) -> None:
    deadline = Deadline(options.timeout)
    cached: dict[str, CacheEntry] = {}
    cache_problem = ""
    if options.cache and any(source.may_be_unreachable for source in sources):
        try:
            cached = read_cache(root)
        except EnvironmentSourceError as exc:
            cache_problem = str(exc)
            merged.warn(cache_problem)
    kept: dict[str, CacheEntry] = {}
    fresh = False
    for source in sources:
        key = cache_key(source, options.listed)
        entry = cached.get(key)
        etag = entry.etag if entry is not None and source.kind == "url" else ""
        try:
            document = read_source(source, deadline, headers=options.headers, etag=etag)
        except SourceUnreachableError as exc:
            if entry is None:
                raise type(exc)(f"{exc} {cache_problem}".rstrip()) from exc.__cause__
            merged.warn(f"{exc.reason}; the last good values were used, of {entry.age}.")
            merged.add(source, "remote", _checked_entry(entry, options.listed, source))
            kept[key] = entry
            continue
        fresh = True
        if document is None and entry is not None:
            checked = _checked_entry(entry, options.listed, source)
        else:
            entries = document.entries if document is not None else {}
            etag = document.etag if document is not None else ""
            checked = check_document(entries, "remote", options.listed, source.label)
        merged.add(source, "remote", checked)
        if source.may_be_unreachable:
            kept[key] = CacheEntry(checked.accepted, checked.refused, etag, datetime.now(UTC))
    if options.cache and fresh and kept:
        try:
            write_cache(root, kept)
        except OSError as exc:
            merged.warn(
                f"cannot write {cache_path(root)}: {exc.strerror or exc}; an offline start will fail."
            )


def _checked_entry(entry: CacheEntry, listed: frozenset[str], source: Source) -> CheckedDocument:
    checked = check_document(entry.values, "remote", listed, f"{source.label} (cached values)")
    return CheckedDocument(checked.accepted, {**entry.refused, **checked.refused})


def _change_environ(changes: Mapping[str, str | None]) -> None:
    before = {name: os.environ.get(name) for name in changes}
    failed = ""
    failure: BaseException | None = None
    for name, value in changes.items():
        try:
            _set_or_remove(name, value)
        except BaseException as exc:  # noqa: BLE001 - an interrupt too must undo what was done
            failed, failure = name, exc
            break
    if failure is None:
        return
    for name, value in before.items():
        _set_or_remove(name, value)
    if not isinstance(failure, Exception):
        raise failure
    raise EnvironmentSourceError(
        f"the system refused to set the environment variable {failed}: {type(failure).__name__}. "
        "Nothing was applied. Correct its value where it comes from."
    ) from safe_cause(failure)


def _set_or_remove(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
