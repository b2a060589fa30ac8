"""Which process claimed a segment name, and whether it still lives.

A writer registers the name of a segment in the catalog before it makes the file, so that nobody mistakes an
unfinished file for rubbish. Names are given back only when their owner is dead. A wrong guess is harmless: the
owner's own commit checks that its claim still stands, and starts over when it does not.

Pids are used again, so an owner is told by its start too. On Linux that is counted in ticks since the machine was
booted: the time of day at which a process started, as psutil gives it, changes whenever the clock is set.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

# 43 years of hundredths of a second; the 16 bits of the boot above them still fit into a float.
_TICK_BITS = 37


@dataclass(frozen=True)
class Owner:
    """A process: its host, its pid, and what tells it from others that had this pid.

    Attributes
    ----------
    host : str
    pid : int
    started : float
        On Linux a whole number made of this boot of the machine and the tick of it at which the process started;
        elsewhere its start in seconds since 1970, which the system keeps as it was.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def this_process(cls) -> Owner:
        """Return the calling process."""
        return cls(socket.gethostname(), os.getpid(), _own_start(os.getpid()))

    def lives(self) -> bool:
        """Tell whether the process still runs; one on another host counts as alive, since nobody can tell."""
        if self.host != socket.gethostname():
            return True
        try:
            started = _start(self.pid)
        except PermissionError:
            return True
        return started is not None and abs(started - self.started) < 1.0


@cache
def _own_start(pid: int) -> float:
    # Cached by pid, so that a forked child does not take its parent's.
    started = _start(pid)
    assert started is not None
    return started


def _start(pid: int) -> float | None:
    """Return when a process started, None for one that is dead; raise PermissionError where nobody may know.

    A zombie is dead: it only waits for its parent to take note, which may be never.
    """
    return _tick_of_start(pid) if sys.platform == "linux" else _time_of_start(pid)


def _tick_of_start(pid: int) -> float | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in brackets may hold anything, brackets too; what counts begins after the last one.
            state, *fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in (b"Z", b"X") else float((_boot() << _TICK_BITS) + int(fields[18]))


def _time_of_start(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as exc:
        raise PermissionError(str(exc)) from exc


@cache
def _boot() -> int:
    """Return a number of 16 bits for this boot of the machine: every boot counts its ticks from 0."""
    boot = b""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", "rb") as file:
        boot = file.read()
    return int.from_bytes(hashlib.blake2b(boot, digest_size=2).digest(), "big")
