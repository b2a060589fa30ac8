"""Fork without taking SQLite along.

SQLite keeps account of a process's locks in memory of its own. A fork copies the account but not the locks, so
a child forked while a thread was committing believed for ever that somebody writes, and one forked while a thread
was reading took no lock where it needed one. Abandoning the inherited connections does not help: new ones in
the child use the same account.

So a fork first waits until no thread is inside the database, then the stores close their idle connections, and
both sides open new ones when they need them. The wait is bounded: a thread that stays inside for longer than
`FORK_WAIT` seconds (or the forking thread itself) costs the child its peace, never its parent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

FORK_WAIT = 5.0


class ForkGate:
    """Counts the threads inside the database, and keeps them out while the process forks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = 0
        self._own = threading.local()

    @contextmanager
    def passage(self) -> Iterator[None]:
        """Use the database in the body of a ``with``; waits while the process forks. May be nested."""
        depth: int = getattr(self._own, "depth", 0)
        entered = False
        try:
            if depth == 0:
                with self._changed:
                    while self._closed:
                        self._changed.wait()
                    self._inside += 1
                    entered = True  # Ctrl-C strikes at calls, not between these two lines
            self._own.depth = depth + 1
            yield
        finally:
            self._own.depth = depth
            if entered:
                with self._changed:
                    self._inside -= 1
                    self._changed.notify_all()

    @contextmanager
    def passage_of_another(self) -> Iterator[None]:
        """Use the database on behalf of a thread that is inside, and stays there until this one is done.

        A `passage` of its own could wait for a fork, which waits for the other thread, which waits for this one.
        """
        depth: int = getattr(self._own, "depth", 0)
        self._own.depth = depth + 1
        try:
            yield
        finally:
            self._own.depth = depth

    def close(self, timeout: float = FORK_WAIT) -> bool:
        """Let nobody in any more and wait until all are out; return whether they are."""
        with self._changed:
            self._closed += 1
            if getattr(self._own, "depth", 0):
                return False  # this thread itself is inside: waiting for it would take for ever
            return self._changed.wait_for(lambda: self._inside == 0, timeout)

    def open(self) -> None:
        """Let everybody in again."""
        with self._changed:
            self._closed -= 1
            self._changed.notify_all()

    def reset(self) -> None:
        """In the child: the threads that were inside or waiting do not exist here."""
        self._changed = threading.Condition()
        self._inside = self._closed = 0
        self._own = threading.local()


gate = ForkGate()
