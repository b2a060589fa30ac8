"""Which process claimed a segment name, and whether it still lives.

A writer registers the name of a segment in the catalog before it makes the file, so that nobody mistakes an
unfinished file for rubbish. Names are given back only when their owner is dead. A wrong guess is harmless: the
owner's own commit checks that its claim still stands, and starts over when it does not.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Owner:
    """A process: host, pid, and the time it started (pids are used again)."""

    host: str
    pid: int
    started: float

    @classmethod
    def this_process(cls) -> Owner:
        """Return the calling process."""
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()))

    def lives(self) -> bool:
        """Tell whether the process still runs; one on another host counts as alive, since nobody can tell."""
        import psutil

        if self.host != socket.gethostname():
            return True
        try:
            process = psutil.Process(self.pid)
            # A zombie is dead: it only waits for its parent to take note, which may be never.
            return (
                process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.started) < 1.0
            )
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


@cache
def _started(pid: int) -> float:
    # Cached by pid, so that a forked child does not take its parent's.
    import psutil

    return float(psutil.Process(pid).create_time())
