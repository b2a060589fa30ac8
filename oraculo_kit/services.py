"""The services of this process: the only process-wide state of oraculo_kit.

`start_services` loads the environment, then configures the `VetorStorage`. Wherever code runs (kernel, joblib
worker, Dask worker, plain script), it runs this same start-up, or it raises why it could not::

    stopped ──start──► starting ──► ready
       ▲                   └──────► failed(cause) ──start──► starting ...
       └──────stop──────────────────────┘

- One lock guards the state: fifty threads that start at once get one instance. A start is bounded in time,
  because fetching the environment and waiting for the store are.
- Equal settings are never started twice; other settings replace the old services.
- The state belongs to one process: a forked child begins as stopped and keeps only the settings it was forked
  with, so that `ensure_services` can start its own.
- A kernel must not change ``os.environ`` while a cell runs. So the slow part, fetching, may run ahead on a
  thread (`prefetch`), and whoever arrives first at a safe point, a cell that asks or the thread between
  cells, applies it and opens the store.

The start-up lines are logged by ``oraculo_kit.services`` and kept for ``status``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oraculo_kit.environment import EnvironmentPlan, apply_environ, fetch_environ, redact
from oraculo_kit.environment.documents import MAX_BYTES, parse_dotenv
from oraculo_kit.environment.record import recorded_origins, safe_cause
from oraculo_kit.errors import (
    EnvironmentSourceError,
    ServicesError,
    ServicesFailedError,
    ServicesNotStartedError,
    SettingsError,
    StorageError,
    StoreLocationError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from oraculo_kit.messages import N_, locale_language, supported_language, translator
from oraculo_kit.settings import LOG_LEVELS, Settings, find_project_root, is_url, setting_variables

if TYPE_CHECKING:
    from oraculo_kit.storage import VetorStorage

_log = logging.getLogger("oraculo_kit.services")
# A library without a configured log stays silent; the root logger is the user's.
logging.getLogger("oraculo_kit").addHandler(logging.NullHandler())

CONTEXTS = {
    "kernel": N_("the Jupyter kernel"),
    "joblib": N_("joblib workers"),
    "dask": N_("Dask workers"),
    "cli": N_("the command line"),
    "script": N_("a Python program"),
}
"""What the start-up lines call the place where the services run."""

_RETRY_AFTER = 5.0
"""Seconds for which `ensure_services` repeats a failure instead of trying again: a batch of a thousand tasks
must not wait a thousand times for a source that does not answer."""


class State(StrEnum):
    """Where the services of this process stand."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Services:
    """The ready services of this process.

    Attributes
    ----------
    settings : Settings
    vetor_storage : VetorStorage
    context : str
        A key of `CONTEXTS`.
    pid : int
    seconds : dict
        How long "environment" and "storage" took.
    lines : tuple of str
        The start-up lines, as logged.
    """

    settings: Settings
    vetor_storage: VetorStorage
    context: str
    pid: int
    seconds: dict[str, float]
    lines: tuple[str, ...]

    def __repr__(self) -> str:
        # What `use()` shows as the last line of a cell.
        return f"<Services of {self.context!r}, process {self.pid}: {self.vetor_storage!r}>"


@dataclass(frozen=True)
class ServicesState:
    """A look at the services, whatever their state; it never raises and starts nothing.

    Attributes
    ----------
    state : State
    context : str
    services : Services or None
        When ready.
    failure : ServicesFailedError or None
        When failed, or when a reload failed and the old services stayed.
    lines : tuple of str
        Start-up lines so far.
    plan : EnvironmentPlan or None
        What was last fetched: names, origins and warnings.
    """

    state: State
    context: str
    services: Services | None
    failure: ServicesFailedError | None
    lines: tuple[str, ...]
    plan: EnvironmentPlan | None


class _Process:
    """The state behind the module's functions."""

    def __init__(self, inherited: Settings | None = None) -> None:
        self.lock = threading.RLock()
        self.starting = False
        self.services: Services | None = None
        self.failure: ServicesFailedError | None = None
        self.failed_settings: Settings | None = None
        self.failed_at = 0.0
        self.context = ""
        self.lines: list[str] = []
        self.plan: EnvironmentPlan | None = None
        self.fetch: _Fetch | None = None
        self.inherited = inherited

    @property
    def state(self) -> State:
        if self.starting or self.fetch is not None:
            return State.STARTING
        if self.services is not None:
            return State.READY
        return State.STOPPED if self.failure is None else State.FAILED


class _Fetch:
    """The environment being fetched on a thread, ahead of the start-up."""

    def __init__(self) -> None:
        self._outcome: EnvironmentPlan | BaseException | None = None
        self._done = threading.Event()
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="oraculo-fetch-environment", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            self._outcome = fetch_environ(find_project_root())
        except BaseException as exc:
            self._outcome = exc
        self.seconds = time.perf_counter() - started
        self._done.set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._done.wait(timeout)

    def result(self) -> EnvironmentPlan:
        self._done.wait()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


_process = _Process()


class _NoStoreYetError(StoreNotFoundError):
    """Nobody made one there: no failure of a start that was to make none."""


def start_services(
    settings: Settings | None = None, *, context: str | None = None, make_store: bool = True
) -> Services:
    """Start the services of this process: the environment, then the `VetorStorage`.

    Idempotent and thread-safe. With services that are ready, None or equal settings change nothing, and other
    settings replace them. After a failure it tries again.

    Parameters
    ----------
    settings : Settings, optional
        Resolved settings, as workers get them; then no remote request is made. By default the environment is
        loaded (`set_environ_remote`) and the settings are resolved from it; a forked child takes its parent's.
    context : str, optional
        Where this runs, a key of `CONTEXTS`; found out by default.
    make_store : bool
        Whether a store that is not there is made, as notebooks want it.

    Returns
    -------
    Services

    Raises
    ------
    ServicesFailedError
        With the process id, the original cause and the fix. The process lives on.
    StoreNotFoundError
        When there is no store and none is to be made: the environment is loaded, and the services stay stopped.
    SettingsError
        For an unknown context.
    """
    if context is not None and context not in CONTEXTS:
        raise SettingsError(f"context is {context!r}, expected one of {', '.join(CONTEXTS)}")
    process = _process
    with process.lock:
        ready = process.services
        if ready is not None and (settings is None or settings == ready.settings):
            return ready
        if settings is None:
            settings = process.inherited
        context = context or process.context or found_context()
        return _start(process, settings, context, make_store=make_store)


def _start(
    process: _Process,
    settings: Settings | None,
    context: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    make_store: bool = True,
) -> Services:
    seconds: dict[str, float] = {}
    language, log_level = (settings.lang, settings.log_level) if settings is not None else _early_choices()
    logging.getLogger("oraculo_kit").setLevel(log_level)
    say = _announcer(process, language)
    process.starting, process.context, process.lines = True, context, []
    failure: ServicesFailedError | None = None
    try:
        say(logging.INFO, N_("Starting services for {context}..."), context)
        started = time.perf_counter()
        resolved = _load_environment(process, settings, arguments or {})
        seconds["environment"] = time.perf_counter() - started
        logging.getLogger("oraculo_kit").setLevel(resolved.log_level)
        say = _announcer(process, resolved.lang)
        say(logging.INFO, N_("Environment variables loaded successfully!"), context)
        started = time.perf_counter()
        if context == "dask" and settings is not None:
            _check_visible(settings.store)
        if not make_store:
            check_store_exists(resolved.store)
        storage = _open_store(process, resolved)
        seconds["storage"] = time.perf_counter() - started
        say(logging.INFO, N_("VetorStorage configured successfully!"), context)
        if storage.read_only:
            text = N_("{store} can only be searched: it cannot be written to from here")
            say(logging.WARNING, text, context, store=storage.location)
        say(logging.INFO, N_("Services started successfully for {context}!"), context)
    except _NoStoreYetError:
        raise
    # SystemExit too: what calls sys.exit during a start must end neither a kernel nor a worker. An interrupt
    # leaves everything as if the start had not begun.
    except (Exception, SystemExit) as exc:
        failure = _failure(exc, context)
        process.failure, process.failed_settings, process.failed_at = failure, settings, time.monotonic()
        text = N_("Starting services for {context} failed: {reason}")
        say(logging.ERROR, text, context, reason=_reason(exc))
    finally:
        process.starting, process.fetch = False, None
    if failure is not None:
        raise _again(
            failure
        )  # not above: the context of an error travels with it, and this one may hold a secret
    old = process.services
    process.services = Services(resolved, storage, context, os.getpid(), seconds, tuple(process.lines))
    process.failure, process.failed_settings, process.inherited = None, None, None
    if old is not None and old.vetor_storage is not storage:
        old.vetor_storage.close()
    return process.services


def _load_environment(process: _Process, settings: Settings | None, arguments: Mapping[str, Any]) -> Settings:
    if settings is not None:
        if any(name not in os.environ for name in settings.environ_names):
            # A worker that was started before the environment was loaded: its parent's variables never came.
            process.plan = fetch_environ(settings.project_root)
            apply_environ(process.plan)
        return settings
    root = find_project_root()
    plan = process.fetch.result() if process.fetch is not None else fetch_environ(root)
    process.plan = plan
    # Resolved before the plan is applied: a malformed setting in it must leave os.environ as it was.
    settings = Settings.resolve(
        project_root=root,
        environ=_planned_environ(plan),
        origin_of=plan.origins.get,
        environ_names=tuple(sorted(plan.values)),
        **arguments,
    )
    apply_environ(plan)
    return settings


def _planned_environ(plan: EnvironmentPlan) -> dict[str, str]:
    """Return what ``os.environ`` will be once the plan is applied."""
    ours = recorded_origins(os.environ)
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    environ.update((name, value) for name, value in plan.values.items() if not environ.get(name, "").strip())
    return environ


def _open_store(process: _Process, settings: Settings) -> VetorStorage:
    from oraculo_kit.embed import Embedder, EmbedOptions
    from oraculo_kit.storage import open_storage

    old = process.services
    if old is not None and _store_settings(old.settings) == _store_settings(settings):
        return old.vetor_storage  # only other settings changed: tasks that use the store go on undisturbed
    opened = partial(
        open_storage,
        settings.store,
        Embedder(settings.embedder, EmbedOptions.of(settings)),
        durability=settings.durability,
        lock_timeout=settings.lock_timeout,
    )
    try:
        return opened()
    except (StoreReadOnlyError, StoreLocationError):
        # A base of a colleague's, or on a network drive, can still be searched; where there is none, writing was meant.
        with contextlib.suppress(StorageError):
            return opened(read_only=True)
        raise


def check_store_exists(store: str) -> None:
    """Refuse a location where nobody made a store, without making anything there.

    Parameters
    ----------
    store : str
        An absolute path, or a URL.

    Raises
    ------
    StoreNotFoundError
        With what to do.
    """
    from oraculo_kit.storage import open_storage
    from oraculo_kit.storage.folders import holds_store

    if is_url(store):
        try:
            open_storage(store, read_only=True).close()
        except StoreNotFoundError as exc:
            raise _NoStoreYetError(str(exc)) from None
    elif os.path.isfile(store):
        raise StoreNotFoundError(
            f"there is no base at {store}, which is a file. Check --store or ORACULO_STORE"
        )
    elif not holds_store(Path(store)):
        raise _NoStoreYetError(
            f"there is no base at {store}. Check --store or ORACULO_STORE, or make one: oraculo ingest PATH"
        )


def _check_visible(store: str) -> None:
    """Refuse to make a store on a Dask worker: the caller's exists, so this is another machine, or was taken away."""
    from oraculo_kit.storage.adapted.location import is_adapted, parse_location

    if is_adapted(store):
        store = str(
            parse_location(store).catalog
        )  # a second catalog would fight the caller's over one vector store
    if not is_url(store) and not os.path.isdir(store):
        raise StoreNotFoundError(
            f"there is no store at {store} on {socket.gethostname()}, a Dask worker; a worker never makes one. If it runs on "
            "another machine, let oraculo_kit.ingest(..., backend='dask') write from the caller, or use a store that all "
            "machines reach, such as postgresql://..."
        )


def _store_settings(settings: Settings) -> tuple[Any, ...]:
    from oraculo_kit.embed import EmbedOptions

    embedding = settings.embedder, EmbedOptions.of(settings)
    return settings.store, embedding, settings.durability, settings.lock_timeout


def _announcer(process: _Process, language: str) -> Callable[..., None]:
    """Return the function that logs a start-up line and keeps it; in the user's language."""
    _ = translator(language)

    def say(level: int, message: str, context: str, **values: str) -> None:
        text = _(message).format(context=_(CONTEXTS[context]), **values)
        _log.log(level, "%s", text)
        process.lines.append(f"{logging.getLevelName(level)} - {text}")

    return say


def _early_choices() -> tuple[str, str]:
    """Return language and log level for the first line, which is said before the environment is loaded.

    ``.env`` may already choose them. What is wrong with it, the start itself will say.
    """
    chosen: dict[str, object] = {}
    with contextlib.suppress(OSError, EnvironmentSourceError):
        path = find_project_root() / ".env"
        if path.is_file():  # opening a FIFO would block
            with path.open("rb") as file:
                chosen.update(parse_dotenv(file.read(MAX_BYTES), ".env"))
    chosen.update((name, value) for name, value in os.environ.items() if value.strip())
    language = supported_language(str(chosen.get("ORACULO_LANG", "")))
    log_level = str(chosen.get("ORACULO_LOG_LEVEL")).strip().upper()
    return language or locale_language(os.environ), log_level if log_level in LOG_LEVELS else "INFO"


def found_context() -> str:
    """Return the key of `CONTEXTS` that describes this process best."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        with contextlib.suppress(ValueError):  # no worker here
            distributed.get_worker()
            return "dask"
    if "joblib" in sys.modules:
        import multiprocessing

        # Asked before IPython: a forked child of a kernel has a copy of its shell.
        if multiprocessing.parent_process() is not None:
            return "joblib"
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return "kernel" if getattr(shell, "kernel", None) is not None else "script"


def _reason(exc: BaseException) -> str:
    return redact(" ".join(f"{type(exc).__name__}: {exc}".split()))


def _failure(exc: BaseException, context: str) -> ServicesFailedError:
    pid = os.getpid()
    failure = ServicesFailedError(
        f"the services could not start in process {pid} ({CONTEXTS[context]}): {_reason(exc)} "
        "-- mend the cause, then call oraculo_kit.start_services() or run the task again; "
        "`%oraculo doctor` (or `oraculo doctor` in a shell) checks everything",
        pid,
        type(exc).__name__,
    )
    failure.__cause__ = safe_cause(exc)
    return failure


def _again(failure: ServicesFailedError) -> ServicesFailedError:
    # A copy: one object, raised again and again and by several threads, would grow and mix its traceback.
    copy = ServicesFailedError(*failure.args)
    copy.__cause__ = failure.__cause__
    return copy


def get_services() -> Services:
    """Return the ready services of this process.

    While a kernel is still starting them, this waits for the environment and finishes the start. In a forked
    child it starts the services that the parent had.

    Raises
    ------
    ServicesFailedError
        When the start-up failed; carries the original cause.
    ServicesNotStartedError
        When nobody started them.
    """
    process = _process
    ready = process.services
    if ready is not None:
        return ready
    with process.lock:
        if process.services is not None:
            return process.services
        if process.fetch is not None or (process.inherited is not None and process.failure is None):
            return start_services()
        if process.failure is not None:
            raise _again(process.failure)
    raise ServicesNotStartedError(
        f"the services of process {os.getpid()} are not started. Call oraculo_kit.start_services(), or in a "
        "notebook run %load_ext oraculo_kit"
    )


def ensure_services(settings: Settings | None = None, *, context: str | None = None) -> Services:
    """Return ready services with these settings, starting them when needed; free when they are ready.

    Every task calls this: joblib skips initializers with one job, with threads and in nested contexts.

    Parameters
    ----------
    settings : Settings, optional
        What the services must be configured with; by default whatever they are, or were in the parent of a
        forked process.
    context : str, optional
        As in `start_services`.

    Raises
    ------
    ServicesFailedError
        As `start_services`; a fresh failure is repeated for five seconds instead of tried again.
    """
    process = _process
    ready = process.services
    if ready is not None and (settings is None or settings is ready.settings or settings == ready.settings):
        return ready
    with process.lock:
        fresh = time.monotonic() - process.failed_at < _RETRY_AFTER
        wanted = settings if settings is not None else process.inherited
        if process.failure is not None and fresh and process.failed_settings == wanted:
            raise _again(process.failure)
        return start_services(settings, context=context)


def expect_services(settings: Settings, context: str) -> None:
    """Load the environment of these settings now, and start the services with them when somebody asks for them.

    For workers that may have no use for the store, or cannot see it: `get_services` or `ensure_services` opens it.
    Services that are ready with these settings, or with the same store, stay in place.

    Parameters
    ----------
    settings : Settings
        The caller's resolved settings.
    context : str
        A key of `CONTEXTS`.

    Raises
    ------
    EnvironmentSourceError
        When the environment cannot be loaded.
    ServicesFailedError
        As `start_services`, where the store is open already.
    """
    process = _process
    with process.lock:
        ready = process.services
        if ready is not None and ready.settings == settings:
            return
        if ready is not None and _store_settings(ready.settings) == _store_settings(settings):
            start_services(settings, context=context)
            return
        stop_services()
        _load_environment(process, settings, {})
        process.inherited, process.context = settings, context


def refuse_services(settings: Settings, context: str, reason: str) -> None:
    """Let every task that asks for services with these settings fail with a reason."""
    process = _process
    with process.lock:
        stop_services()
        process.failure = _failure(ServicesError(reason), context)
        process.failed_settings, process.failed_at, process.context = settings, math.inf, context


def stop_services() -> None:
    """Stop the services and release their files and threads; stopped services stay stopped."""
    process = _process
    with process.lock:
        old, process.services = process.services, None
        process.failure, process.failed_settings, process.inherited = None, None, None
        process.fetch, process.context, process.lines = None, "", []
        if old is not None:
            old.vetor_storage.close()


def reload_services() -> Services:
    """Load the environment again and start with what it says now.

    What was given as an argument, for example to `use`, stays: an argument is stronger than the environment.
    The old services stay in place until the new ones are ready, and when they cannot be.

    Raises
    ------
    ServicesFailedError
        As `start_services`.
    """
    process = _process
    with process.lock:
        given: dict[str, Any] = {}
        if process.services is not None:
            old = process.services.settings
            given = {
                name: getattr(old, name) for name in setting_variables() if old.origin(name) == "argument"
            }
        return _start(process, None, process.context or found_context(), given)


def vetor_storage() -> VetorStorage:
    """Return the store of the ready services; short for ``get_services().vetor_storage``.

    Raises
    ------
    ServicesError
        As `get_services`.
    """
    return get_services().vetor_storage


def use(location: str | os.PathLike[str] | None = None, *, embedder: Any = None) -> Services:
    """Switch to another store, another embedder, or both.

    Parameters
    ----------
    location : path or URL, optional
        The store; relative to the working folder.
    embedder : Embeddings or str, optional

    Returns
    -------
    Services

    Raises
    ------
    SettingsError, ServicesFailedError
        Then the services stay as they were.
    """
    from oraculo_kit.settings import absolute_location

    if location is not None:
        location = absolute_location(location)
    changes = {
        name: value for name, value in (("store", location), ("embedder", embedder)) if value is not None
    }
    process = _process
    with process.lock:
        if process.services is None and process.inherited is None:
            # Not with the settings as they are, first: what keeps them from starting may be what is changed here.
            return _start(process, None, process.context or found_context(), changes)
        return start_services(ensure_services().settings.with_values(**changes))


def services_state() -> ServicesState:
    """Look at the services of this process without starting anything."""
    process = _process
    # Not under the lock: status must answer while a start waits for a slow source.
    return ServicesState(
        process.state, process.context, process.services, process.failure, tuple(process.lines), process.plan
    )


def prefetch(context: str) -> threading.Event:
    """Begin to fetch the environment on a thread, for a kernel that is just starting.

    Nothing is changed yet: `get_services` and `start_services` wait for the fetch, apply it, and finish the start.

    Parameters
    ----------
    context : str

    Returns
    -------
    threading.Event
        Set when the fetch ended, well or not.
    """
    process = _process
    with process.lock:
        if process.services is None and process.fetch is None:
            process.fetch, process.context = _Fetch(), context
        fetch = process.fetch
    return fetch._done if fetch is not None else _already_set()


def _already_set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def _reset_in_child() -> None:
    """Begin anew after a fork: threads, locks and connections of the parent did not come along."""
    global _process
    old = _process
    inherited = old.services.settings if old.services is not None else old.inherited
    _process = _Process(inherited)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)

__all__ = [
    "Services",
    "ServicesError",
    "ServicesState",
    "State",
    "ensure_services",
    "get_services",
    "reload_services",
    "services_state",
    "start_services",
    "stop_services",
    "use",
    "vetor_storage",
]
