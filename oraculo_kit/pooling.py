"""A pool of multiprocessing's own processes that says when one of them is killed.

joblib's backend "multiprocessing" is `multiprocessing.Pool`, which starts another worker for a killed one and waits for
its task for ever; and, if the worker held the lock of the task queue, not even Ctrl-C ends it (both reproduced). So
`ingest` runs its tasks in a `concurrent.futures.ProcessPoolExecutor`, which breaks instead. Outcomes come as they are
made, not all at the end.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oraculo_kit.settings import Settings

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_POLL_SECONDS = 0.2  # Windows cannot be interrupted while it waits
_ORPHAN_SECONDS = 1.0


def run_in_processes(calls: Iterable[Call], n_jobs: int, settings: Settings, threads: int) -> Generator[Any]:
    """Run calls in worker processes that have the services.

    Parameters
    ----------
    calls : iterable of (function, args, kwargs)
        As joblib's ``delayed`` gives them; the next one is taken when a worker is about to be free.
    n_jobs : int
    settings : Settings
        The caller's, for the workers' services.
    threads : int
        Limit on each worker's numerical threads.

    Yields
    ------
    object
        What the calls return, as soon as they do. Left early, the workers are ended, whatever they do.

    Raises
    ------
    TerminatedWorkerError
        When a worker was killed; joblib's, as its other backends raise it.
    """
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # joblib's own variable; without it what the platform and this Python think best.
    context = multiprocessing.get_context(os.environ.get("JOBLIB_START_METHOD") or None)
    # A fork server is the workers' parent, and ends them; on Windows a parent's death cannot be seen so.
    watched = os.getpid() if os.name == "posix" and context.get_start_method() != "forkserver" else 0
    pool = ProcessPoolExecutor(n_jobs, context, initializer=_begin, initargs=(settings, threads, watched))
    ended = False
    try:
        yield from _results(pool, calls, 2 * n_jobs)
        ended = True
    except BrokenProcessPool as exc:
        raise TerminatedWorkerError(f"a worker process was killed: {exc}") from exc
    finally:
        if not ended:
            for process in list((pool._processes or {}).values()):  # kill_workers() comes with Python 3.14
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _results(pool: ProcessPoolExecutor, calls: Iterable[Call], most: int) -> Generator[Any]:
    from oraculo_kit.rescuing import interrupts_held

    waiting: set[Future[Any]] = set()
    for function, args, kwargs in calls:
        with interrupts_held():  # the processes start here
            waiting.add(pool.submit(function, *args, **kwargs))
        while len(waiting) >= most:
            yield from _next_results(waiting)
    while waiting:
        yield from _next_results(waiting)


def _next_results(waiting: set[Future[Any]]) -> Generator[Any]:
    done, _ = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
    waiting -= done
    for future in done:
        yield future.result()


def _begin(settings: Settings, threads: int, parent: int) -> None:
    """Make a worker ready. It ends with its parent: a forked one keeps the task queue's pipe open itself."""
    from oraculo_kit.parallel import initialize_worker

    if parent:
        threading.Thread(target=_end_with, args=(parent,), daemon=True, name="oraculo-parent").start()
    initialize_worker(settings, threads)


def _end_with(parent: int) -> None:
    # When the parent dies its children get another one; it may be dead already.
    while os.getppid() == parent:
        time.sleep(_ORPHAN_SECONDS)
    os._exit(1)
