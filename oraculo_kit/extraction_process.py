"""The parent's side of one extraction helper: start it, ask it, watch it, end it.

A helper is a plain child process (`subprocess.Popen`): joblib's multiprocessing workers are daemonic and may not use
multiprocessing. Two threads serve its pipes, because pipes cannot be waited for with a time limit on Windows. What must
not go wrong:

- **No helper outlives this process.** Its standard input ends with us, whatever ends us. A process forked from
  this one closes its copies of the pipes at once, and no process is forked while a helper is being started: a copy
  that stayed open would keep the helper alive.
- **No helper is used from a forked process**; `usable` says no there.
- **No zombies.** The thread that reads a helper's standard error waits for its end.
- Helpers get no keys of model providers and no settings: they read hostile documents.
"""

from __future__ import annotations

import atexit
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from oraculo_kit.errors import ExtractionHelperError
from oraculo_kit.extraction_helper import IDLE_SECONDS, LENGTH

if TYPE_CHECKING:
    import psutil

_POLL_SECONDS = 0.05
_START_SECONDS = 60.0
_END_SECONDS = 5.0
_TRUSTED_IDLE_SECONDS = IDLE_SECONDS / 2
_ERROR_BYTES = 16_384
_READ_BYTES = 1 << 20

# Numerical libraries start a thread per core, and each thread's memory counts against the limit.
_ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")

# In a group of its own: an interrupt at the terminal is for us alone.
if sys.platform == "win32":
    _PROCESS_GROUP = None
    _CREATION_FLAGS = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
else:
    _PROCESS_GROUP = 0
    _CREATION_FLAGS = 0

_live: set[HelperProcess] = set()
_starting = threading.RLock()


class HelperFailedError(Exception):
    """The helper gave no answer and was killed; `oraculo_kit.extraction` makes an error about the document of it."""


class TimeExceededError(HelperFailedError):
    """The answer did not come in time."""


class MemoryExceededError(HelperFailedError):
    """The helper used more memory than it may."""


class HelperDiedError(HelperFailedError):
    """The helper ended by itself; the message says how."""


class HelperProcess:
    """One helper: ready once this returns, for one request at a time.

    Parameters
    ----------
    command : sequence of str
        Its command line.
    checkpoint : callable, optional
        Called while waiting; may raise.

    Raises
    ------
    ExtractionHelperError
        When this machine starts no such process.

    Attributes
    ----------
    served : int
        Documents that it has read; its user counts them.
    """

    def __init__(self, command: Sequence[str], checkpoint: Callable[[], None] | None = None) -> None:
        self.served = 0
        self._owner = os.getpid()
        self._used = time.monotonic()
        self._watched: psutil.Process | None = None
        self._requests: queue.SimpleQueue[tuple[bytes, ...] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._errors = b""
        with _starting:
            self._process = _start(command)
            _live.add(self)
        self._threads = [
            threading.Thread(target=target, name="oraculo-extraction", daemon=True)
            for target in (self._exchange, self._collect_errors)
        ]
        try:
            for thread in self._threads:
                thread.start()
            self._wait(time.monotonic() + _START_SECONDS, None, checkpoint)
        except (HelperFailedError, RuntimeError) as exc:
            self.kill()
            raise ExtractionHelperError(
                f"the process that reads documents did not start: {exc or 'no sign of life in a minute'}. Its command is "
                f"{' '.join(command)}; see that it runs, and that processes and threads may be started here"
            ) from exc
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The helper's process id."""
        return self._process.pid

    def usable(self) -> bool:
        """Tell whether another request may be sent from this process now."""
        return (
            self._owner == os.getpid()
            and self._process.poll() is None
            and time.monotonic() - self._used < _TRUSTED_IDLE_SECONDS
        )

    def memory_bytes(self) -> int:
        """Return the memory in use; 0 when the process has ended."""
        import psutil

        try:
            if self._watched is None:
                self._watched = psutil.Process(self.pid)
            used = self._watched.memory_info()
        except psutil.Error:
            return 0
        return int(getattr(used, "private", used.rss))  # Windows trims the resident part of what waits

    def ask(
        self,
        *messages: bytes,
        seconds: float,
        memory_bytes: int,
        checkpoint: Callable[[], None] | None = None,
    ) -> bytes:
        """Send a request and return the answer. Whatever this raises, the helper is killed.

        Parameters
        ----------
        *messages : bytes
        seconds, memory_bytes : float, int
            Limits; see `oraculo_kit.extraction.ExtractionLimits`.
        checkpoint : callable, optional
            Called at least every 0.2 s; may raise.

        Raises
        ------
        TimeExceededError, MemoryExceededError, HelperDiedError
        """
        try:
            self._requests.put(messages)
            answer = self._wait(time.monotonic() + seconds, memory_bytes, checkpoint)
        except BaseException:
            self.kill()
            raise
        self._used = time.monotonic()
        return answer

    def kill(self) -> None:
        """End the process and all that belongs to it; may be called more than once, and ends no parent's helper."""
        self._process.kill()
        self._process.wait()
        self._requests.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_END_SECONDS)
        self._close_pipes()
        _live.discard(self)

    def abandon(self) -> None:
        """Let go of it in a forked process: it belongs to the parent."""
        self._close_pipes()
        self._process.returncode = 0  # it is no child of this process: nothing is to be waited for

    def _close_pipes(self) -> None:
        # Unbuffered files: no lock that another thread may have held at the fork.
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _wait(
        self, deadline: float, memory_bytes: int | None, checkpoint: Callable[[], None] | None
    ) -> bytes:
        while True:
            try:
                answer = self._answers.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if checkpoint is not None:
                    checkpoint()
                if time.monotonic() > deadline:
                    raise TimeExceededError from None
                if memory_bytes is not None and self.memory_bytes() > memory_bytes:
                    raise MemoryExceededError from None
                continue
            if answer is None:
                raise HelperDiedError(self._last_words())
            return answer

    def _exchange(self) -> None:
        """Send requests and receive answers, until the pipe ends. None stands for its end."""
        try:
            self._answers.put(self._receive())
            while (messages := self._requests.get()) is not None:
                for message in messages:
                    self._send(LENGTH.pack(len(message)))
                    self._send(message)
                messages = None
                self._answers.put(self._receive())
        except (OSError, EOFError, ValueError, MemoryError):
            self._answers.put(None)

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._process.stdin.write(rest) :]

    def _receive(self) -> bytes:
        (length,) = LENGTH.unpack(self._read(LENGTH.size))
        return self._read(length)

    def _read(self, length: int) -> bytes:
        assert self._process.stdout is not None
        parts = []
        while length:
            part = self._process.stdout.read(min(length, _READ_BYTES))
            if not part:
                raise EOFError
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _collect_errors(self) -> None:
        assert self._process.stderr is not None
        try:
            while part := self._process.stderr.read(_ERROR_BYTES):
                self._errors = (self._errors + part)[-_ERROR_BYTES:]
        finally:
            self._process.wait()

    def _last_words(self) -> str:
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its pipes, but goes on
            self._process.kill()
            self._process.wait()
        self._threads[-1].join(_END_SECONDS)
        lines = self._errors.decode(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("Fatal Python error")] or lines[-1:]
        return ": ".join([_how_it_ended(self._process.returncode), *said])


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - our own command
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_helper_environ(),
            cwd=os.path.abspath(os.sep),  # Windows deletes no folder in which a process stands
            process_group=_PROCESS_GROUP,
            creationflags=_CREATION_FLAGS,
        )
    except (OSError, ValueError) as exc:
        raise ExtractionHelperError(
            f"the process that reads documents cannot be started: {exc}. Its command is {' '.join(command)}; allow "
            "this process to start others, and see that there is memory and room for one"
        ) from exc


def helper_command() -> list[str]:
    """Return the command line of a helper: this Python, without the working folder on its path."""
    return [sys.executable, "-P", "-m", "oraculo_kit.extraction_helper"]


def _helper_environ() -> dict[str, str]:
    """Return what a helper needs of our environment: our own import path, and no keys."""
    from oraculo_kit.environment.names import is_provider_name, looks_secret

    kept = {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("ORACULO_") or is_provider_name(name) or looks_secret(name))
    }
    # Not "", the working folder, unless it is where we come from: documents may lie there, and modules beside them.
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = [os.path.abspath(folder) for folder in sys.path if folder or os.getcwd() == ours]
    folders = dict.fromkeys([*found, ours])
    return {**kept, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(folders)}


def _how_it_ended(code: int) -> str:
    try:
        return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"exit code {code}"


def _forget_inherited() -> None:
    global _starting
    for helper in _live:
        helper.abandon()
    _live.clear()
    _starting = threading.RLock()


def _kill_all() -> None:
    for helper in list(_live):
        helper.kill()


atexit.register(_kill_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _starting.acquire(),
        after_in_parent=lambda: _starting.release(),
        after_in_child=_forget_inherited,
    )
