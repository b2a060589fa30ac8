"""Ingestion while something goes wrong: processes killed, forked and interrupted, disks full, folders that vanish."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import oraculo_kit as oraculo
from oraculo_kit import ingest
from oraculo_kit.errors import OraculoError, StorageError
from oraculo_kit.events import IngestEvent
from oraculo_kit.services import use, vetor_storage
from tests.conftest import Notebook
from tests.test_ingestion_runs import check_whole, wait_until, write_files
from tests.tools.embedders import Deadly, Slow

ROOT = Path(__file__).parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def start(project: Path, code: str, **options: Any) -> subprocess.Popen[str]:
    """Start a script that has `Slow`; what it prints and its errors are piped."""
    script = project / f"script{len(list(project.glob('script*')))}.py"
    head = "import sys, time, os\nimport oraculo_kit as oraculo\nfrom tests.tools.embedders import Slow\n"
    script.write_text(head + textwrap.dedent(code), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def ended(child: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a script; return what it printed. Its standard error must be empty of tracebacks."""
    said, errors = child.communicate(timeout=60)
    assert "Traceback" not in errors, errors
    assert child.returncode == code, errors
    return said


# --- killed workers ---------------------------------------------------------------------------------------------


@posix
def test_a_document_that_kills_its_worker_costs_itself_and_not_the_run(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_files(project / "docs", 120)
    bad = folder / "0050.txt"
    bad.write_text("este texto mata", encoding="utf-8")
    use(embedder=Deadly())
    report = ingest(folder, n_jobs=2, progress=False)
    assert report.counts == {"added": 119, "failed": 1}
    (failed,) = report.failed
    assert failed.source == str(bad)
    assert "the worker process that ingested it was killed" in failed.message
    assert "a worker process was killed, for want of memory or by hand" in caplog.text
    assert [(o.source, o.status) for o in oraculo.run_report(report.run).failed] == [(str(bad), "failed")]
    check_whole(vetor_storage())
    assert oraculo.runs()["state"].tolist() == ["finished"]
    bad.write_text("este texto vive", encoding="utf-8")
    assert report.retry(progress=False).counts == {"added": 1}
    assert ingest(folder, n_jobs=1, progress=False).counts == {"unchanged": 120}


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_a_worker_killed_by_hand_costs_nothing(project: Path, backend: str) -> None:
    folder = write_files(project / "docs", 60)
    (folder / "0030.txt").write_text("este texto mata uma vez", encoding="utf-8")
    use(embedder=Deadly(project / "times", 1))
    report = ingest(folder, n_jobs=2, backend=backend, progress=False)
    assert report.counts == {"added": 60}
    assert report.chunks == len(vetor_storage())
    check_whole(vetor_storage())


@posix
def test_what_kills_worker_after_worker_ends_the_run_and_the_next_one_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oraculo_kit.rescuing._MOST_DEATHS", 2)
    folder = write_files(project / "docs", 8)
    for path in folder.iterdir():
        path.write_text(f"{path.name} mata", encoding="utf-8")
    use(embedder=Deadly())
    with pytest.raises(
        OraculoError, match=r"worker after worker was killed.* after 0 of 8 sources.*resume=True"
    ):
        ingest(folder, n_jobs=2, progress=False)
    assert oraculo.runs()["state"].tolist() == ["failed"]
    use(embedder=Slow(0))
    assert ingest(folder, resume=True, n_jobs=1, progress=False).counts == {"added": 8}
    check_whole(vetor_storage())


# --- killed and ending processes --------------------------------------------------------------------------------


@posix
def test_a_kernel_killed_in_mid_ingest_and_opened_again_has_lost_nothing(
    project: Path, notebook: Callable[..., Notebook]
) -> None:
    folder = write_files(project / "docs", 150, size=100)
    prepare = "import oraculo_kit as oraculo; from tests.tools.embedders import Slow; oraculo.use(embedder=Slow({}));"
    first = notebook(PYTHONPATH=str(ROOT))
    cell = first.run(prepare.format(0.01) + "handle = oraculo.ingest('docs', background=True, n_jobs=2)")
    assert cell.error is None
    assert first.run("import time\nwhile handle.progress.done < 10: time.sleep(0.01)").error is None
    run = (first.run("handle.run").result or "").strip("'")
    kernel = first.manager.provisioner.process
    workers = psutil.Process(kernel.pid).children(recursive=True)
    os.kill(kernel.pid, signal.SIGKILL)
    for worker in workers:  # as a power cut would; else one ends what it is at
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    second = notebook(PYTHONPATH=str(ROOT))
    state = second.run(prepare.format(0) + "(oraculo.runs()['state'].tolist(), len(oraculo.sources()))")
    assert state.result is not None
    assert state.result.startswith("(['interrupted'], ")
    stored = int(state.result.rpartition(", ")[2].rstrip(")"))
    assert 10 <= stored < 150
    resumed = second.run(
        "r = oraculo.ingest(resume=True, progress=False, n_jobs=1); (r.run, r.counts, r.chunks)"
    )
    use(embedder=Slow(0))
    chunks = len(vetor_storage())
    assert resumed.result == f"('{run}', {{'added': 150}}, {chunks})"
    assert {row.source for row in vetor_storage().sources()} == {str(path) for path in folder.iterdir()}
    check_whole(vetor_storage())


@posix
def test_a_kernel_that_is_restarted_blames_no_document(
    project: Path, notebook: Callable[..., Notebook]
) -> None:
    # A kernel that shuts down ends the processes below it first, again and again, while its own threads still run.
    folder = write_files(project / "docs", 150, size=100)
    first = notebook(PYTHONPATH=str(ROOT))
    begin = "import oraculo_kit as oraculo; from tests.tools.embedders import Slow; oraculo.use(embedder=Slow(0.01));"
    cell = first.run(begin + "handle = oraculo.ingest('docs', background=True, n_jobs=2)")
    assert cell.error is None
    assert first.run("import time\nwhile handle.progress.done < 10: time.sleep(0.01)").error is None
    first.manager.shutdown_kernel()
    use(embedder=Slow(0))
    (run,) = vetor_storage().runs()
    assert run.state in ("interrupted", "cancelled", "failed")
    assert {outcome.status for outcome in vetor_storage().outcomes(run.id)} == {"added"}
    assert ingest(folder, resume=True, n_jobs=1, progress=False).counts == {"added": 150}
    check_whole(vetor_storage())


_BESIDE = """
if __name__ == "__main__":
    oraculo.use(embedder=Slow(0.01))
    handle = oraculo.ingest("docs", background=True, n_jobs={n_jobs})
    while handle.progress.done < 5:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_process_that_ends_stops_its_background_run_without_noise(project: Path, n_jobs: int) -> None:
    folder = write_files(project / "docs", 300)
    started = time.monotonic()
    ended(start(project, _BESIDE.format(n_jobs=n_jobs)))
    assert time.monotonic() - started < 30
    use(embedder=Slow(0))
    assert oraculo.runs()["state"].tolist() == ["cancelled"]
    assert 5 <= len(vetor_storage().sources()) < 300
    assert ingest(folder, resume=True, n_jobs=1, progress=False).counts == {"added": 300}
    check_whole(vetor_storage())


_FORKED = (
    _BESIDE
    + """
    child = os.fork()
    if child == 0:
        print(handle)
        try:
            handle.result()
        except oraculo.errors.OraculoError as exc:
            print(exc)
        sys.exit()
    os.waitpid(child, 0)
    print(handle.result(60).counts)
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_neither_waits_for_its_parents_run_nor_ends_it(project: Path) -> None:
    write_files(project / "docs", 100)
    said = ended(start(project, _FORKED.format(n_jobs=1)))
    assert "it belongs to process" in said
    assert "from which this one was forked; ask for its result there" in said
    assert "{'added': 100}" in said


def test_a_background_run_ends_in_the_base_in_which_it_began(project: Path) -> None:
    folder = write_files(project / "docs", 60)
    for place, options in enumerate([{"n_jobs": 1}, {"n_jobs": 2, "backend": "threading"}]):
        use(project / f"a{place}", embedder=Slow())
        handle = ingest(folder, background=True, **options)  # type: ignore[arg-type]
        wait_until(lambda handle=handle: handle.progress.started)  # type: ignore[misc]
        use(project / f"b{place}")
        assert handle.result(60).counts == {"added": 60}
        assert vetor_storage().location == str(project / f"b{place}")
        assert vetor_storage().sources() == []
        use(project / f"a{place}")
        assert oraculo.runs()["state"].tolist() == ["finished"]
        check_whole(vetor_storage())


@posix
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("moment", ["workers start", "in the middle"])
def test_an_interrupted_command_says_how_to_go_on_and_prints_no_tracebacks(
    project: Path, moment: str, backend: str
) -> None:
    write_files(project / "docs", 2000, size=400)
    oraculo.start_services()
    child = subprocess.Popen(
        [sys.executable, "-m", "oraculo_kit", "ingest", "docs", "--jobs", "2", "--backend", backend],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process = psutil.Process(child.pid)
    if moment == "workers start":
        wait_until(lambda: len(process.children(recursive=True)) >= 2)
    else:
        wait_until(lambda: len(vetor_storage().sources()) > 0)
    os.killpg(child.pid, signal.SIGINT)
    struck = time.monotonic()
    said, errors = child.communicate(timeout=60)
    assert time.monotonic() - struck < 5
    assert child.returncode == 130
    assert "Traceback" not in errors
    assert "KeyboardInterrupt" not in errors
    assert "Warning" not in errors
    assert "interrupted; what was stored stays stored, and the same command with --resume goes on" in errors
    assert said == ""
    assert oraculo.runs()["state"].tolist() == ["cancelled"]
    check_whole(vetor_storage())


# --- full disks -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that is a real file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        sys.platform != "linux"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True
        ).returncode
    ):
        pytest.skip("needs the right to mount a file system")
    yield folder
    oraculo.stop_services()
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_disk_that_fills_up_ends_the_run_clearly_and_it_goes_on_once_there_is_room(
    project: Path, small_disk: Path, n_jobs: int
) -> None:
    folder = write_files(project / "docs", 700, size=300)
    use(small_disk / "store", embedder=Slow(0))
    with pytest.raises(StorageError, match=r"(?i)full|no space"):
        ingest(folder, n_jobs=n_jobs, progress=False)
    stored = len(vetor_storage().sources())
    assert 0 < stored < 700
    check_whole(vetor_storage())
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    report = ingest(folder, resume=True, n_jobs=1, progress=False)
    assert report.counts.keys() <= {"added", "unchanged"}
    assert len(report) == 700
    check_whole(vetor_storage())
    assert len(vetor_storage().sources()) == 700


def test_a_full_disk_under_the_embedding_cache_costs_nothing_but_the_cache(
    project: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ORACULO_CACHE", str(small_disk))
    (small_disk / "filler").write_bytes(b"x" * 5_500_000)
    folder = write_files(project / "docs", 300, size=300)
    assert ingest(folder, n_jobs=1, progress=False).counts == {"added": 300}
    check_whole(vetor_storage())


# --- several at once --------------------------------------------------------------------------------------------


def test_two_processes_that_ingest_one_folder_at_once_store_it_once(project: Path) -> None:
    write_files(project / "docs", 200)
    code = """
    if __name__ == "__main__":
        oraculo.use(embedder=Slow(0.001))
        print(oraculo.ingest("docs", progress=False, n_jobs=1).counts)
    """
    children = [start(project, code) for _ in range(2)]
    for child in children:
        assert "failed" not in ended(child)
    use(embedder=Slow(0))
    assert len(vetor_storage().sources()) == 200
    check_whole(vetor_storage())
    assert oraculo.runs()["state"].tolist() == ["finished"] * 2


@pytest.mark.parametrize("work", ["optimize()", "compact()"])
def test_upkeep_in_another_process_disturbs_no_run(project: Path, work: str) -> None:
    folder = write_files(project / "docs", 400)
    use(embedder=Slow(0.002))
    ingest([str(path) for path in sorted(folder.iterdir())[:20]], progress=False, n_jobs=1)
    code = f"""
    if __name__ == "__main__":
        oraculo.use(embedder=Slow(0))
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            oraculo.vetor_storage().{work}
    """
    child = start(project, code)
    report = ingest(folder, progress=False, n_jobs=1)
    ended(child)
    assert report.counts == {"added": 380, "unchanged": 20}
    check_whole(vetor_storage())


# --- sources that do not hold still -----------------------------------------------------------------------------


def test_a_file_that_changes_while_a_run_reads_it_is_stored_as_it_was_read_and_again_when_it_rests(
    project: Path,
) -> None:
    folder = write_files(project / "docs", 5)
    restless = folder / "0002.txt"
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            restless.write_text(f"versão {number} " * 2000, encoding="utf-8")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            assert set(ingest(folder, n_jobs=1, progress=False).counts) <= {
                "added",
                "replaced",
                "unchanged",
                "skipped",
            }
            check_whole(vetor_storage())
    finally:
        stop.set()
        writer.join()
    ingest(folder, n_jobs=1, progress=False)
    texts = vetor_storage().to_pandas().query("source == @restless.__fspath__()")["text"]
    assert len(set(" ".join(texts).split())) == 2  # one version, whole


def test_a_folder_that_vanishes_in_mid_run_fails_its_files_and_takes_nothing_out(project: Path) -> None:
    folder = write_files(project / "docs", 300)
    ingest(folder, progress=False, n_jobs=1)
    before = len(vetor_storage())
    for path in folder.iterdir():
        path.write_text("outra versão", encoding="utf-8")

    def vanish(event: IngestEvent) -> None:
        if event.kind == "outcome" and folder.exists():
            folder.rename(project / "unmounted")

    with suppress(UserWarning):
        report = ingest(folder, progress=False, n_jobs=1, prune=True, on_event=vanish)
    assert set(report.counts) == {"replaced", "failed"}
    assert {outcome.error for outcome in report.failed} == {"SourceNotFoundError"}
    assert len(vetor_storage().sources()) == 300
    assert len(vetor_storage()) <= before
    check_whole(vetor_storage())
    shutil.move(project / "unmounted", folder)
    assert report.retry(progress=False).counts == {"replaced": report.counts["failed"]}
