"""An ingestion that runs beside the notebook: look at it, stop it, wait for it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import OraculoError
from oraculo_kit.events import IngestEvent, IngestProgress, Listener

if TYPE_CHECKING:
    from oraculo_kit.report import IngestReport
    from oraculo_kit.stopping import StopSignal

_log = logging.getLogger("oraculo_kit.ingestion")
_GRACE_SECONDS = 5.0
_running: list[IngestHandle] = []
_registry = threading.Lock()


def running(store: str | None = None) -> list[IngestHandle]:
    """Return the background runs of this process that have not ended, the newest first.

    Parameters
    ----------
    store : str, optional
        Only those that write to the base of this location.
    """
    with _registry:
        found = [handle for handle in reversed(_running) if not handle.done]
    return [handle for handle in found if store is None or handle.options.get("store") == store]


class IngestHandle:
    """A running ingestion; `oraculo_kit.ingest` with ``background=True`` gives one.

    The cell returns at once and the kernel stays free. Nothing is printed meanwhile: look at the handle, `subscribe`
    to its events, or wait for the `result`.

    Attributes
    ----------
    run : str
        Id of the run, as in `oraculo_kit.runs`.
    progress : IngestProgress
        How far it is; live.
    options : mapping
        What it was called with, as `oraculo_kit.runs` notes it, and "store" and "dry_run".

    Notes
    -----
    It runs on a thread of this process (and in worker processes). When the process ends, the run is stopped: whole
    documents are stored, and ``ingest(..., resume=True)`` goes on.
    """

    def __init__(
        self,
        run: str,
        stop: StopSignal,
        work: Callable[[Listener], IngestReport],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.run = run
        self.options: Mapping[str, Any] = options or {}
        self.progress = IngestProgress()
        self._stop = stop
        self._work = work
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._report: IngestReport | None = None
        self._failure: BaseException | None = None
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"oraculo-ingest-{run[:8]}", daemon=True)
        atexit.register(self._end)
        self._thread.start()
        with _registry:
            _running[:] = [*(handle for handle in _running if not handle.done), self]

    @property
    def done(self) -> bool:
        """Whether the run has ended, however it did."""
        return not self._thread.is_alive()

    def wait(self, timeout: float) -> bool:
        """Wait for the end, `timeout` seconds at most; tell whether it has come."""
        self._thread.join(timeout)
        return self.done

    def cancel(self) -> None:
        """Ask the run to stop, and return at once; it ends within a second, with whole documents only."""
        self._stop.set()

    def result(self, timeout: float | None = None) -> IngestReport:
        """Wait for the report.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; for ever by default. An interrupt (Ctrl-C, the notebook's stop button) ends the waiting, not
            the run.

        Returns
        -------
        IngestReport
            Of a cancelled run what it settled; its ``state`` says so.

        Raises
        ------
        TimeoutError
            When the run goes on for longer; it is not disturbed.
        OraculoError
            What `ingest` raises; and in a process that was forked from the run's.
        """
        if self._owner != os.getpid():
            raise OraculoError(
                f"run {self.run[:8]} belongs to process {self._owner}, from which this one was forked; ask for its "
                "result there, or see oraculo_kit.runs()"
            )
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the ingestion still runs after {timeout} s: {self._said()}")
        if self._failure is not None:
            raise self._failure
        assert self._report is not None
        return self._report

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call a function with every `IngestEvent` to come, on the run's thread.

        Parameters
        ----------
        listener : callable
            It must be quick and must not print. One that raises is logged and not called again; the run goes on.

        Returns
        -------
        callable
            Ends the subscription.
        """
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def _run(self) -> None:
        try:
            self._report = self._work(self._heard)
        except BaseException as exc:  # it is raised where somebody waits for the result
            self._failure = exc
        finally:
            atexit.unregister(self._end)

    def _heard(self, event: IngestEvent) -> None:
        if event.kind == "outcome" and not self.progress.done:
            _end_before_pools()
        self.progress(event)
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            try:
                listener(event)
            except Exception:
                _log.exception("a listener of run %s failed and is not called again", self.run)
                with self._lock, contextlib.suppress(ValueError):
                    self._listeners.remove(listener)

    def _end(self) -> None:
        if self._owner == os.getpid():  # a forked process ends its own runs only
            self.cancel()
            self._thread.join(_GRACE_SECONDS)

    def _said(self) -> str:
        progress = self.progress
        if self._owner != os.getpid():
            return f"it belongs to process {self._owner}"
        if self.done:
            said = repr(self._report.summary()) if self._report is not None else f"failed: {self._failure}"
            return said.strip("'")
        if progress.started is None:
            return "listing the sources"
        counts = ", ".join(f"{count} {status}" for status, count in progress.counts.items())
        eta = progress.eta()
        left = f", about {eta:.0f} s left" if eta is not None else ""
        return f"{progress.done} of {progress.sources} sources{left}" + (f" ({counts})" if counts else "")

    def __repr__(self) -> str:
        state = "ended" if self.done else "running"
        return f"<IngestHandle {state}: {self._said()}>"


def _end_before_pools() -> None:
    """Have the runs stopped before worker pools are shut down at exit: a run that still fed one would print tracebacks.

    Pools end before ``atexit`` functions are called: with the threads, the last registered first. So this comes when the
    run's pool has started.
    """
    # Private, but what loky and concurrent.futures use; without it `atexit` does, if less tidily.
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with contextlib.suppress(RuntimeError):  # the interpreter ends already
            register(_end_all)


def _end_all() -> None:
    for handle in running():
        handle._end()
