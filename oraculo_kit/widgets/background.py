"""Work beside the kernel: one job at a time per lane, and only the newest counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Job", "Lane", "Superseded"]


class Superseded(BaseException):
    """A newer job took this one's place; not an error, and not for ``except Exception`` to catch."""


class Job:
    """A piece of work, which may ask whether anybody still waits for it."""

    def __init__(self, work: Callable[[Job], None]) -> None:
        self._work = work
        self._superseded = threading.Event()

    @property
    def superseded(self) -> bool:
        """Whether a newer job took its place, or the explorer was closed."""
        return self._superseded.is_set()

    def supersede(self) -> None:
        """Tell it that nobody waits any more."""
        self._superseded.set()

    def checkpoint(self) -> None:
        """End the work here if nobody waits for it.

        Raises
        ------
        Superseded
        """
        if self.superseded:
            raise Superseded

    def run(self) -> None:
        """Do the work."""
        try:
            if not self.superseded:
                self._work(self)
        except Superseded:
            pass


class Lane:
    """Runs jobs one after the other on a thread of its own; a new one supersedes those before it.

    The thread ends when there is nothing to do. While one job runs at most one waits, so that however fast somebody
    types, no queue grows.

    Examples
    --------
    >>> lane, seen = Lane("example"), []
    >>> _ = lane.submit(lambda job: seen.append("done"))
    >>> lane.wait(10), seen
    (True, ['done'])
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._waiting: Job | None = None
        self._running: Job | None = None
        self._has_thread = False

    def submit(self, work: Callable[[Job], None]) -> Job:
        """Run `work` as soon as the job before it has ended; its own errors are its own affair."""
        job = Job(work)
        with self._changed:
            self._supersede()
            self._waiting = job
            if not self._has_thread:
                self._has_thread = True
                threading.Thread(target=self._drain, name=f"oraculo-{self._name}", daemon=True).start()
        return job

    def _supersede(self) -> None:
        for job in (self._running, self._waiting):
            if job is not None:
                job.supersede()

    def _drain(self) -> None:
        while True:
            with self._changed:
                self._running, self._waiting = self._waiting, None
                if self._running is None:
                    self._has_thread = False
                    self._changed.notify_all()
                    return
                job = self._running
            try:
                job.run()
            except BaseException:
                with self._changed:
                    self._running, self._has_thread = None, False
                    self._changed.notify_all()
                raise

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._has_thread

    def cancel(self) -> None:
        """Supersede what runs and waits, with nothing in its place."""
        with self._changed:
            self._supersede()
            self._waiting = None

    def wait(self, timeout: float) -> bool:
        """Wait until there is nothing to do; return False when that takes longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            return self._changed.wait_for(lambda: not self._has_thread, max(deadline - time.monotonic(), 0))
