"""What protects workers from the terminal; what is done for those that were killed is shown with ingestions."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from oraculo_kit.inputs import IngestSource, find_sources
from oraculo_kit.parallel import worker_services
from oraculo_kit.pipeline import Run, ingest_sources
from oraculo_kit.rescuing import begun, rescue
from oraculo_kit.services import start_services
from oraculo_kit.settings import Settings
from oraculo_kit.stopping import StopSignal
from oraculo_kit.storage.runs import SourceOutcome
from tests.test_ingestion_runs import write_files

ROOT = Path(__file__).parent.parent


def run_script(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


_WORKERS = """
import signal
from joblib import Parallel, delayed
from oraculo_kit.rescuing import interrupts_held


def held(_):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


if __name__ == "__main__":
    with interrupts_held():
        found = Parallel(n_jobs=2, backend="loky", return_as="generator_unordered")(delayed(held)(n) for n in range(4))
    print(set(found), held(0))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_the_first_workers_of_a_process_hear_no_interrupt_and_the_process_does(tmp_path: Path) -> None:
    """In a process of its own: with the first worker multiprocessing starts another process, and changes what is held."""
    ran = run_script(tmp_path, textwrap.dedent(_WORKERS))
    assert ran.stdout == "{True} False\n", ran.stderr


def test_an_interrupt_that_comes_before_workers_start_is_raised_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextmanager
    def struck() -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("oraculo_kit.rescuing.interrupts_held", struck)
    with pytest.raises(KeyboardInterrupt):
        begun(lambda _: pytest.fail("started"), [])


_STRUCK_AT_ONCE = """
import os, signal, time
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import _ExecutorManagerThread
from oraculo_kit.rescuing import begun

look = _ExecutorManagerThread.is_shutting_down
_ExecutorManagerThread.is_shutting_down = lambda self: (time.sleep(0.3), look(self))[1]  # tasks come meanwhile


def calls():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(9):
        time.sleep(0.03)
        yield delayed(time.sleep)(0.1)


if __name__ == "__main__":
    try:
        begun(Parallel(n_jobs=2, return_as="generator_unordered"), calls())
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_that_comes_while_workers_start_prints_nothing(tmp_path: Path) -> None:
    ran = run_script(tmp_path, _STRUCK_AT_ONCE)
    assert (ran.stdout, ran.stderr) == ("interrupted\n", "")


_INTERRUPTED = """
import os, signal, threading, time
from oraculo_kit.rescuing import interrupts_held

threading.Thread(target=time.sleep, args=(30,), daemon=True).start()  # it would take the signal
try:
    with interrupts_held():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        print("whole", end=" ")
    print("no interrupt")
except KeyboardInterrupt:
    print("then interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_that_comes_while_workers_start_waits_until_they_have() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "whole then interrupted True\n", ran.stderr


def task(settings: Settings, sources: Sequence[IngestSource], run: Run) -> tuple[list[SourceOutcome], float]:
    return list(ingest_sources(worker_services(settings), sources, run)), 0.0


def test_what_a_lost_task_had_stored_before_its_end_is_told_as_stored(project: Path) -> None:
    services = start_services()
    folder = write_files(project / "docs", 8)
    ingest_before = list(find_sources(folder / "0000.txt"))
    list(ingest_sources(services, ingest_before, Run("earlier")))
    sources = list(find_sources(folder))
    with StopSignal() as stop:
        run = Run("this", noted=True, stop=stop)
        services.vetor_storage.start_run("this", {})
        list(ingest_sources(services, sources[:5], run))  # then its worker was killed
        found = {outcome.source: outcome.status for outcome in rescue(services, task, [sources], run)}
    assert list(found.values()) == ["unchanged", *["added"] * 7]
    assert len(services.vetor_storage.sources()) == 8
