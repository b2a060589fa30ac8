"""The signal that stops a run, in this process and in others."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from oraculo_kit.stopping import Stopped, StopSignal
from tests.test_ingestion_runs import wait_until
from tests.test_pooling import is_alive

ROOT = Path(__file__).parent.parent


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_every_copy_sees_the_signal_and_nothing_is_left_of_it(scratch: Path) -> None:
    with StopSignal() as stop:
        copy, late = pickle.loads(pickle.dumps(stop)), pickle.dumps(stop)
        copy.check()
        assert list(scratch.iterdir()) == []  # a run that is killed leaves nothing either
        stop.set()
        stop.set()
        for each in (stop, copy, pickle.loads(late)):
            assert each.is_set()
            with pytest.raises(Stopped, match="asked to stop"):
                each.check()
    assert list(scratch.iterdir()) == []


def test_a_signal_that_comes_too_late_leaves_nothing(scratch: Path) -> None:
    with StopSignal() as stop:
        assert not stop.is_set()
    stop.set()
    assert stop.is_set()
    assert list(scratch.iterdir()) == []


_CALLER = """
import pickle, sys, time
from joblib import Parallel, delayed, parallel_config
from oraculo_kit.stopping import StopSignal


def work(stop):
    open(f"at work {time.monotonic_ns()}", "w").close()
    while True:
        stop.check()
        time.sleep(0.01)


if __name__ == "__main__":
    with StopSignal() as stop:
        Parallel(n_jobs=2, backend=sys.argv[1])(delayed(work)(stop) for _ in range(8))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_a_worker_ends_when_it_sees_that_its_caller_was_killed(project: Path, backend: str) -> None:
    (project / "caller.py").write_text(textwrap.dedent(_CALLER), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "caller.py", backend],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    ) as caller:
        wait_until(lambda: len(list(project.glob("at work *"))) == 2)
        family = psutil.Process(caller.pid).children(recursive=True)
        caller.kill()
    assert len(family) >= 2
    wait_until(lambda: not any(is_alive(each) for each in family), 10)
    assert len(list(project.glob("at work *"))) <= 4  # and they took up next to nothing more


def test_a_process_that_somebody_else_started_lives_on_without_the_caller() -> None:
    """A Dask worker is not the caller's to end; and on another machine the caller's number means nothing."""
    maker = "import pickle, sys; from oraculo_kit.stopping import StopSignal as S; sys.stdout.buffer.write(pickle.dumps(S()))"
    made = subprocess.run([sys.executable, "-c", maker], capture_output=True, check=True, cwd=ROOT)
    stop = pickle.loads(made.stdout)
    stop.check()
    assert not stop.is_set()
