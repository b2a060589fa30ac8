"""How a run is told to stop: one signal that threads and worker processes of this machine see.

Nothing is killed. The pipeline asks between two documents, two batches of texts, and while it waits; then it raises
`Stopped`, and what was not committed by then was never begun, as far as the store is concerned.

A worker whose caller was killed gets no signal, and nobody waits for what it does: it ends itself when it asks.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

_LOOK_SECONDS = 0.2


class Stopped(BaseException):
    """The run was told to stop."""


class StopSignal:
    """A signal that is set once; its pickled copies see it too.

    Between processes a file carries it: it works for every joblib backend, needs no channel to a worker that
    somebody else started, and costs a look at the file system (1 µs) to ask. The file is made when the signal is set,
    so that a killed run leaves none.

    Use it in a ``with`` block: afterwards the file is gone.
    """

    def __init__(self) -> None:
        # Nobody else can know this name.
        self._file = os.path.join(tempfile.gettempdir(), f"oraculo-run-{uuid.uuid4().hex}")
        self._set = False
        self._ended = False
        self._lock = threading.Lock()
        self._caller: _Caller | None = None

    def set(self) -> None:
        """Ask the run to stop; may be called from any thread, at any time, more than once."""
        with self._lock:
            self._set = True
            if not self._ended:
                with open(self._file, "a", encoding="ascii"):
                    pass

    def is_set(self) -> bool:
        """Tell whether the run was asked to stop."""
        if not self._set:
            self._set = os.path.exists(self._file)
        return self._set

    def check(self) -> None:
        """Raise `Stopped` when the run was asked to stop; end the process when it is a worker of a caller that is dead."""
        if self._caller is not None and self._caller.is_dead():
            os._exit(1)
        if self.is_set():
            raise Stopped("the ingestion was asked to stop")

    def __enter__(self) -> StopSignal:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            # Mostly it was never made; and where Windows holds it just now, an empty file harms nobody.
            with suppress(OSError):
                os.unlink(self._file)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self._file, "set": self._set, "caller": os.getpid()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._file, self._set = state["file"], state["set"]
        self._ended = False
        self._lock = threading.Lock()
        self._caller = _Caller.with_pid(state["caller"])


class _Caller:
    """The process that started this one and gave it work; asked for a few times a second only."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self._asked = 0.0

    @classmethod
    def with_pid(cls, pid: int) -> _Caller | None:
        """Return it when this process is its child; others (Dask's) live on without the caller."""
        parent = multiprocessing.parent_process()
        return cls(parent) if parent is not None and parent.pid == pid else None

    def is_dead(self) -> bool:
        """Tell whether it is dead, as it was seen in the last moment."""
        now = time.monotonic()
        if now - self._asked < _LOOK_SECONDS:
            return False
        self._asked = now
        try:
            return not bool(self._process.is_alive())
        except (TypeError, ValueError):  # what loky starts cannot ask so, but gets another parent
            return bool(os.getppid() != self._process.pid)
