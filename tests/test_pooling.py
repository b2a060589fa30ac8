"""A pool whose processes may be killed: it says so, it ends at once, and nothing is left of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from oraculo_kit.pooling import Call, run_in_processes
from oraculo_kit.services import start_services
from tests.test_ingestion_runs import wait_until

ROOT = Path(__file__).parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def run(calls: Iterator[Call], n_jobs: int = 2) -> Any:
    return run_in_processes(calls, n_jobs, start_services().settings, 1)


def calls(function: Callable[..., Any], *arguments: Any) -> Iterator[Call]:
    return ((function, (argument,), {}) for argument in arguments)


def store_here(_: object) -> tuple[int, str]:
    from oraculo_kit.services import vetor_storage

    return os.getpid(), vetor_storage().location


def end(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number


def blocked(_: object) -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def workers() -> list[Any]:
    """Return the pool's processes that live; joblib's, of other tests, wait for more work."""
    return [
        child for child in multiprocessing.active_children() if not type(child).__name__.startswith("Loky")
    ]


def test_calls_run_in_other_processes_that_have_the_services(project: Path) -> None:
    found = list(run(calls(store_here, *range(20))))
    assert {store for _, store in found} == {str(project / ".oraculo" / "store")}
    assert os.getpid() not in {pid for pid, _ in found}
    assert len(found) == 20
    assert workers() == []


def test_calls_are_taken_when_a_worker_is_about_to_be_free(project: Path) -> None:
    taken: list[int] = []

    def lazily() -> Iterator[Call]:
        for number in range(100):
            taken.append(number)
            yield abs, (number,), {}

    for done, _ in enumerate(run(lazily()), 1):
        assert len(taken) <= done + 4


def test_what_a_call_raises_goes_through_and_ends_the_workers(project: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        list(run(iter([(divmod, (1, 0), {})])))
    assert workers() == []


@posix
def test_a_killed_worker_is_told_and_nothing_is_waited_for(project: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TerminatedWorkerError, match="a worker process was killed"):
        list(run(calls(end, *range(1000))))
    assert time.monotonic() - started < 10
    assert workers() == []


@posix
def test_workers_that_are_killed_while_they_wait_for_work_are_told_too(project: Path) -> None:
    """One of them holds the lock of the task queue: `multiprocessing.Pool` hangs then, Ctrl-C or not."""
    found = run(calls(time.sleep, 0.01, 3), n_jobs=3)
    next(found)
    for worker in workers():
        worker.kill()
    started = time.monotonic()
    with pytest.raises(TerminatedWorkerError, match="a worker process was killed"):
        list(found)
    assert time.monotonic() - started < 2


def test_results_that_nobody_wants_any_more_end_the_workers_at_once(project: Path) -> None:
    found = run(calls(time.sleep, 0, 60, 60, 60))
    next(found)
    started = time.monotonic()
    found.close()
    assert time.monotonic() - started < 5
    assert workers() == []


@posix
def test_no_interrupt_of_the_terminal_reaches_a_worker_even_while_it_starts(project: Path) -> None:
    assert all(signal.SIGINT in signals for signals in run(calls(blocked, 1, 2, 3)))
    assert signal.SIGINT not in blocked(None)


_ORPHANS = """
import sys, time
from oraculo_kit.pooling import run_in_processes
from oraculo_kit.services import start_services

if __name__ == "__main__":
    found = run_in_processes(((time.sleep, (n,), {}) for n in (0, 1, 60, 60)), 2, start_services().settings, 1)
    next(found)
    print("ready", flush=True)
    next(found)
    next(found)
"""


@posix
def test_workers_do_not_outlive_a_caller_that_was_killed(project: Path) -> None:
    script = project / "script.py"
    script.write_text(textwrap.dedent(_ORPHANS), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        workers = psutil.Process(child.pid).children(recursive=True)
        child.kill()
    assert len(workers) >= 2
    wait_until(lambda: not any(is_alive(worker) for worker in workers), 10)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
