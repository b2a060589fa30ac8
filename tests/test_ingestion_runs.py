"""Runs: in the background, told to stop, cut off and resumed, tried out, moved, retried."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from joblib import Parallel, delayed
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit import ingest, ingest_task
from oraculo_kit.cli import main
from oraculo_kit.errors import EmbeddingError, SettingsError, SourceError, StorageError
from oraculo_kit.events import IngestEvent
from oraculo_kit.services import use, vetor_storage
from oraculo_kit.storage import owners
from oraculo_kit.storage.copies import restore_store
from oraculo_kit.storage.owners import Owner
from oraculo_kit.storage.runs import RunRecord
from tests.conftest import _REPORT, Notebook
from tests.tools.embedders import Slow

ROOT = Path(__file__).parent.parent


def write_files(folder: Path, count: int, *, size: int = 30) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number:04}.txt").write_text(f"documento {number} " * size, encoding="utf-8")
    return folder


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def check_whole(storage: Any) -> None:
    """Check that the base is sound and holds each source whole and once."""
    assert storage.verify().ok
    rows = storage.to_pandas()
    assert not rows.duplicated(["source", "ordinal"]).any()
    counted = rows.groupby("source").size().to_dict() if len(rows) else {}
    assert counted == {row.source: row.chunks for row in storage.sources()}


def test_a_run_in_the_background_returns_at_once_and_gives_its_report(project: Path) -> None:
    folder = write_files(project / "docs", 40)
    use(embedder=Slow())
    started = time.monotonic()
    handle = ingest(folder, background=True)
    assert time.monotonic() - started < 0.5
    assert not handle.done
    assert "running" in repr(handle)
    report = handle.result(60)
    assert handle.done
    assert report.counts == {"added": 40}
    assert handle.progress.counts == Counter(added=40)
    assert handle.progress.share == 1.0
    assert "ended" in repr(handle)


def test_waiting_for_a_run_can_be_given_up_without_disturbing_it(project: Path) -> None:
    folder = write_files(project / "docs", 30)
    use(embedder=Slow())
    handle = ingest(folder, background=True)
    with pytest.raises(TimeoutError, match="still runs after 0.05 s"):
        handle.result(0.05)
    assert handle.result(60).counts == {"added": 30}


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be renamed there")
@pytest.mark.parametrize("taken", ["before the run", "during the run"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_run_over_whose_base_a_snapshot_is_restored_says_so_and_is_ingested_again(
    project: Path, taken: str, n_jobs: int
) -> None:
    folder = write_files(project / "docs", 150)
    storage = oraculo.start_services().vetor_storage
    if taken == "before the run":
        storage.snapshot(project / "copy")
    heard: list[IngestEvent] = []

    def restore(event: IngestEvent) -> None:
        heard.extend([event] if event.kind == "outcome" else [])
        if len(heard) == 1 and not (project / "copy").exists():
            storage.snapshot(project / "copy")
        elif len(heard) == 100:
            restore_store(project / "copy", storage.location, overwrite=True)

    with pytest.raises(StorageError, match=r"snapshot was restored there .*Ingest the same again"):
        ingest(folder, n_jobs=n_jobs, progress=False, on_event=restore)
    left = len(storage.sources())
    again = ingest(folder, n_jobs=1, progress=False)
    assert Counter(again.counts) == Counter(added=150 - left, unchanged=left)
    check_whole(storage)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be renamed there")
def test_an_interrupt_does_not_say_that_all_stays_when_a_snapshot_was_restored(project: Path) -> None:
    folder = write_files(project / "docs", 3)
    storage = oraculo.start_services().vetor_storage
    storage.snapshot(project / "copy")

    def restore(event: IngestEvent) -> None:
        if event.kind == "outcome":
            restore_store(project / "copy", storage.location, overwrite=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        ingest(folder, n_jobs=1, progress=False, on_event=restore)
    (note,) = caught.value.__notes__
    assert "what it had stored before may be missing" in note


def test_what_a_background_run_raises_is_raised_where_its_result_is_asked_for(project: Path) -> None:
    write_files(project / "docs", 3)
    handle = ingest(project / "docs", background=True, on_event=_raise)
    with pytest.raises(ZeroDivisionError):
        handle.result(60)
    assert oraculo.runs()["state"][0] == "failed"


def _raise(event: IngestEvent) -> None:
    if event.kind == "outcome":
        raise ZeroDivisionError


def test_a_listener_that_fails_is_dropped_and_the_run_goes_on(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_files(project / "docs", 30)
    use(embedder=Slow())
    handle = ingest(folder, background=True)
    heard: list[IngestEvent] = []
    handle.subscribe(lambda event: 1 / 0)
    handle.subscribe(heard.append)
    assert handle.result(60).counts == {"added": 30}
    assert "is not called again" in caplog.text
    assert heard[-1].kind == "finished"


def test_events_tell_the_whole_run_in_order(project: Path) -> None:
    folder = write_files(project / "docs", 5)
    (folder / "vazio.txt").touch()
    events: list[IngestEvent] = []
    report = ingest(folder, progress=False, on_event=events.append)
    events = [event for event in events if event.kind != "doing"]
    assert [event.kind for event in events] == ["started", *["outcome"] * 6, "finished"]
    assert events[0].sources == 6
    assert events[0].bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert {event.outcome for event in events if event.outcome} == set(report)
    assert events[-1].report is report
    assert {event.run for event in events} == {report.run}


@pytest.mark.parametrize(
    "options", [{}, {"n_jobs": 2, "backend": "loky"}, {"n_jobs": 2, "backend": "threading"}]
)
def test_cancel_stops_within_a_second_and_leaves_whole_documents(
    project: Path, options: dict[str, Any]
) -> None:
    folder = write_files(project / "docs", 300, size=200)
    use(embedder=(embedder := Slow(0.005)))
    handle = ingest(folder, background=True, **options)
    wait_until(lambda: handle.progress.done >= 5)
    started = time.monotonic()
    handle.cancel()
    report = handle.result(20)
    assert time.monotonic() - started < 1.0
    assert report.state == "cancelled"
    assert 5 <= len(report) < 300
    assert report.unsettled == 300 - len(report)
    assert "resume=True" in report.summary()
    check_whole(vetor_storage())
    assert {row.source for row in vetor_storage().sources()} >= {outcome.source for outcome in report}
    assert oraculo.runs()["state"][0] == "cancelled"
    embedder.seconds = 0
    resumed = ingest(folder, resume=True, progress=False, **options)
    assert resumed.run == report.run
    assert resumed.counts == {"added": 300}
    assert oraculo.runs()["state"].tolist() == ["finished"]


def test_a_cancelled_run_leaves_nothing_in_the_temporary_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = project / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    folder = write_files(project / "docs", 100)
    use(embedder=Slow())
    handle = ingest(folder, background=True)
    wait_until(lambda: handle.progress.started)
    handle.cancel()
    handle.result(20)
    handle.cancel()  # too late, and harmless
    assert list(scratch.iterdir()) == []


_KILLED = """
import sys, time
import oraculo_kit as oraculo
from tests.tools.embedders import Slow

oraculo.use(embedder=Slow())
oraculo.ingest("docs", progress=False, on_event=lambda event: report(event.run if event.outcome else ""), **{options})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("options", [{"n_jobs": 1}, {"n_jobs": 2}])
def test_a_run_whose_process_was_killed_goes_on_where_it_stopped(
    project: Path, options: dict[str, Any]
) -> None:
    folder = write_files(project / "docs", 200)
    script = project / "script.py"
    script.write_text(
        _REPORT + textwrap.dedent(_KILLED).replace("{options}", repr(options)), encoding="utf-8"
    )
    root = str(Path(__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, str(script)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        run = ""
        while not run:
            run = json.loads(child.stdout.readline().rpartition("REPORT ")[2])
        os.killpg(child.pid, signal.SIGKILL)
    use(embedder=(embedder := Slow(0)))
    stored = len(vetor_storage().sources())
    assert 0 < stored < 200
    assert oraculo.runs()["state"][0] == "interrupted"
    # Here, not in workers: they would have copies of the embedder.
    report = ingest(folder, resume=True, progress=False, n_jobs=1)
    assert report.run == run
    assert report.counts == {"added": 200}
    # Fewer where the killed run had embedded more than it had stored: those vectors are in the cache.
    assert len([text for text in embedder.texts if text.startswith("documento")]) <= 200 - stored
    assert report.chunks == len(vetor_storage())
    check_whole(vetor_storage())


def test_a_run_that_another_process_took_up_a_moment_ago_is_left_to_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_files(project / "docs", 3)
    storage = oraculo.start_services().vetor_storage
    storage.start_run("r", {})
    storage.finish_run("r", "cancelled", {})
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:

        def taken_up(*_: Any) -> RunRecord:
            (last,) = storage.runs()
            started = owners._start(other.pid)
            assert started is not None
            owner = replace(Owner.this_process(), pid=other.pid, started=started)
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr(Owner, "this_process", lambda: owner)
                storage.start_run("r", {})
            return last

        monkeypatch.setattr("oraculo_kit.resuming.unfinished_run", taken_up)
        with pytest.raises(StorageError, match=f"under way in process {other.pid}"):
            ingest(folder, resume=True, progress=False)
        assert storage.runs()[0].state == "running"
        other.kill()
    assert storage.runs()[0].state == "interrupted"


def test_the_last_run_can_be_resumed_without_naming_its_sources(project: Path) -> None:
    folder = write_files(project / "docs", 100)
    (folder / "outra.md").write_text("# Fora", encoding="utf-8")
    use(embedder=(embedder := Slow()))
    handle = ingest(folder, glob="*.txt", background=True)
    wait_until(lambda: handle.progress.started)
    handle.cancel()
    assert handle.result(20).state == "cancelled"
    embedder.seconds = 0
    report = ingest(resume=True, progress=False)
    assert report.counts == {"added": 100}  # and the glob was kept
    with pytest.raises(SourceError, match="nothing to resume .* came to its end"):
        ingest(resume=True, progress=False)


def test_a_run_over_data_in_memory_says_that_it_must_be_given_again(project: Path) -> None:
    frame = pd.DataFrame({"texto": [f"nota {number}" for number in range(100)]})
    use(embedder=(embedder := Slow()))
    handle = ingest(frame, text="texto", name="notas", background=True)
    wait_until(lambda: handle.progress.started)
    handle.cancel()
    run = handle.result(20).run
    embedder.seconds = 0
    with pytest.raises(SourceError, match="DataFrame notas.*give the same again"):
        ingest(resume=True, progress=False)
    report = ingest(frame, text="texto", name="notas", resume=True, progress=False)
    assert (report.run, report.counts) == (run, {"added": 100})


def test_resume_without_anything_to_resume_is_an_ordinary_run(project: Path) -> None:
    folder = write_files(project / "docs", 2)
    first = ingest(folder, resume=True, progress=False)
    second = ingest(folder, resume=True, progress=False)
    assert (first.counts, second.counts) == ({"added": 2}, {"unchanged": 2})
    assert first.run != second.run


def test_a_password_in_a_url_is_written_down_nowhere_and_the_url_is_given_again(project: Path) -> None:
    urls = ["ftp://ana:planted-55aa@127.0.0.1:9/docs", "https://127.0.0.1:9/a.txt?token=planted-55ab"]
    report = ingest(urls, allow_urls=True, background=True).result()
    assert report.counts == {"failed": 2}
    storage = vetor_storage()
    assert storage.runs()[0].options["paths"] == ["ftp://127.0.0.1:9/docs", "https://127.0.0.1:9/a.txt"]
    storage.start_run("cut off", storage.runs()[0].options)
    storage.finish_run("cut off", "cancelled", {})
    with pytest.raises(SourceError, match="a password or token, which are not written down; give them again"):
        ingest(resume=True)
    assert ingest(urls, allow_urls=True, resume=True, progress=False).run == "cut off"
    oraculo.stop_services()
    stored = b"".join(path.read_bytes() for path in (project / ".oraculo").rglob("*") if path.is_file())
    assert b"planted" not in stored


def test_no_sources_and_nothing_to_resume_are_refused(project: Path) -> None:
    with pytest.raises(SourceError, match="nothing to resume .* there was no run yet"):
        ingest(resume=True)
    with pytest.raises(SourceError, match="got no sources, expected a path"):
        ingest()


def test_a_run_that_goes_on_elsewhere_is_not_resumed_beside_it(project: Path) -> None:
    folder = write_files(project / "docs", 50)
    use(embedder=Slow())
    handle = ingest(folder, background=True)
    wait_until(lambda: handle.progress.started)
    with pytest.raises(SourceError, match="still runs; wait for it"):
        ingest(folder, resume=True, progress=False)
    handle.cancel()
    handle.result(20)


def test_a_dry_run_says_what_a_real_one_then_does_and_stores_nothing(project: Path) -> None:
    folder = write_files(project / "docs", 4)
    ingest(folder, progress=False)
    (folder / "0000.txt").write_text("outra versão", encoding="utf-8")
    (folder / "0001.txt").rename(folder / "mudou.txt")
    (folder / "0002.txt").unlink()
    (folder / "novo.txt").write_text("um texto novo", encoding="utf-8")
    (folder / "vazio.xyz").touch()
    before = vetor_storage().stats()
    planned = ingest(folder, prune=True, dry_run=True, progress=False)
    assert vetor_storage().stats() == before
    assert len(oraculo.runs()) == 1
    assert "nothing was stored" in repr(planned)
    done = ingest(folder, prune=True, progress=False)
    assert [(o.source, o.status) for o in planned] == [(o.source, o.status) for o in done]
    assert done.counts == {
        "added": 1, "replaced": 1, "moved": 1, "unchanged": 1, "pruned": 1, "skipped": 1
    }  # fmt: skip


def test_a_dry_run_is_tried_again_as_one(project: Path) -> None:
    late = project / "mais tarde.txt"
    planned = ingest([late], dry_run=True, progress=False)
    assert planned.counts == {"failed": 1}
    late.write_text("um texto que faltava", encoding="utf-8")
    again = planned.retry(progress=False)
    assert again.counts == {"added": 1}
    assert "nothing was stored" in repr(again)
    assert "nothing was stored" in repr(again[:1])
    assert not vetor_storage().sources()
    assert not len(oraculo.runs())


def test_a_moved_file_keeps_its_chunks_and_is_not_embedded_again(project: Path) -> None:
    folder = write_files(project / "docs", 20)
    use(embedder=(embedder := Slow(0)))
    ingest(folder, progress=False)
    embedder.texts.clear()
    vectors = vetor_storage().vectors(list(vetor_storage().to_pandas()["id"]))[1]
    (folder / "2024").mkdir()
    for number in range(10):
        (folder / f"{number:04}.txt").rename(folder / "2024" / f"{number:04}.txt")
    report = ingest(folder, progress=False)
    assert report.counts == {"moved": 10, "unchanged": 10}
    assert {o.message for o in report if o.status == "moved"} == {
        f"was {folder / f'{number:04}.txt'}" for number in range(10)
    }
    assert embedder.texts == []
    storage = vetor_storage()
    check_whole(storage)
    assert {row.source for row in storage.sources()} == {str(path) for path in folder.rglob("*.txt")}
    again = storage.vectors(list(storage.to_pandas()["id"]))[1]
    assert sorted(map(bytes, again)) == sorted(map(bytes, vectors))
    assert oraculo.search("documento 3", k=1, filter={"source": str(folder / "2024" / "0003.txt")})
    assert ingest(folder, progress=False).counts == {"unchanged": 20}


def test_a_copy_is_no_move(project: Path) -> None:
    folder = write_files(project / "docs", 1)
    ingest(folder, progress=False)
    shutil.copy2(folder / "0000.txt", folder / "cópia.txt")
    assert ingest(folder, progress=False).counts == {"added": 1, "unchanged": 1}


def test_of_two_copies_of_a_file_that_is_gone_one_is_the_moved_one(project: Path) -> None:
    folder = write_files(project / "docs", 1)
    ingest(folder, progress=False)
    shutil.copy2(folder / "0000.txt", folder / "a.txt")
    (folder / "0000.txt").rename(folder / "b.txt")
    assert ingest(folder, progress=False).counts == {"added": 1, "moved": 1}
    check_whole(vetor_storage())


def test_what_failed_is_tried_again_once_its_cause_is_mended(project: Path) -> None:
    folder = write_files(project / "docs", 3)
    bad = folder / "ruim.pdf"
    bad.write_bytes(b"%PDF-1.7 nothing")
    report = ingest(folder, progress=False)
    assert report.counts == {"added": 3, "failed": 1}
    assert report.retry(progress=False).counts == {"failed": 1}
    shutil.copy(Path(__file__).parent.parent / "notebooks/dados/retencao_dados_lgpd.pdf", bad)
    assert report.retry(progress=False).counts == {"added": 1}
    assert len(report[:0].retry()) == 0
    use(project / "outra")
    with pytest.raises(SourceError, match="this report is of the base"):
        report.retry(progress=False)


def test_whatever_failed_in_an_earlier_run_is_tried_again_by_its_key_alone(project: Path) -> None:
    folder = project / "docs"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("pasta/ruim.pdf", b"nothing")
        archive.writestr("bom.txt", "um texto")
    decomposed = "relato\u0301rio.pdf"
    names = (
        [decomposed.encode(), "relatório.csv.pdf".encode("latin-1")]
        if sys.platform == "linux"
        else [b"b.pdf"]
    )
    for name in names:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(b"nothing")
    run = ingest(folder, progress=False).run
    good = (ROOT / "notebooks/dados/retencao_dados_lgpd.pdf").read_bytes()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("pasta/ruim.pdf", good)
    for name in names:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(good)
    again = oraculo.run_report(run).retry(progress=False)
    assert again.counts == {"added": 1 + len(names)}
    assert {outcome.source for outcome in again} == {o.source for o in oraculo.run_report(run).failed}


def test_rows_of_an_earlier_run_say_that_the_data_must_be_given_again(project: Path) -> None:
    class Refuses(Slow):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise ValueError("no")

    use(embedder=Refuses())
    frame = pd.DataFrame({"texto": ["um"]}, index=["n1"])
    report = ingest(frame, text="texto", name="notas", progress=False)
    assert report.counts == {"failed": 1}
    with pytest.raises(SourceError, match="notas/n1 is no file here.*ingest the data again"):
        oraculo.run_report(report.run).retry(progress=False)


def test_the_report_of_an_earlier_run_is_read_from_the_base(project: Path) -> None:
    folder = write_files(project / "docs", 2)
    (folder / "ruim.pdf").write_bytes(b"nothing")
    report = ingest(folder, progress=False)
    ingest(folder, progress=False)
    again = oraculo.run_report(report.run[:8])
    assert {(o.source, o.status, o.message) for o in again} == {
        (o.source, o.status, o.message) for o in report
    }
    assert again.failed[0].error == "ExtractionError"
    assert oraculo.runs()["unchanged"].tolist() == [2, 0]
    with pytest.raises(SourceError, match="there is no run nope"):
        oraculo.run_report("nope")


def test_an_embedder_that_fails_now_and_then_costs_only_the_documents_concerned(project: Path) -> None:
    class Moody(Slow):
        calls = 0

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            self.calls += 1
            if self.calls % 10 == 0:
                raise ValueError("one call in ten")
            return super().embed_documents(texts)

    folder = write_files(project / "docs", 200)
    use(embedder=Moody(0))
    report = ingest(folder, progress=False)
    assert len(report) == 200
    assert report.counts["added"] + report.counts.get("failed", 0) == 200
    check_whole(vetor_storage())
    assert len(vetor_storage().sources()) == report.counts["added"]
    assert all(outcome.error == EmbeddingError.__name__ for outcome in report.failed)
    while report.failed:
        report = report.retry(progress=False)
    assert len(vetor_storage().sources()) == 200


def test_multiprocessing_beside_a_notebook_is_refused_with_what_works(project: Path) -> None:
    with pytest.raises(SettingsError, match="use 'loky' with background=True"):
        ingest(project, background=True, backend="multiprocessing")


def test_a_report_becomes_a_parquet_file(project: Path) -> None:
    pytest.importorskip("pyarrow")
    report = ingest([Document("um"), Document("dois")], progress=False)
    report.to_parquet(project / "report.parquet")
    assert pd.read_parquet(project / "report.parquet")["status"].tolist() == ["added", "added"]


def every_format(folder: Path) -> Path:
    """Make a folder with a document of every format, one of them in an archive."""
    shutil.copytree(ROOT / "notebooks" / "dados", folder)
    for name in ("ferias.doc", "ferias.rtf", "vendas.xls"):
        shutil.copy(ROOT / "tests" / "samples" / name, folder)
    old = zipfile.ZipInfo("pasta/um.md", (2024, 1, 1, 0, 0, 0))
    with zipfile.ZipFile(folder / "arquivo.zip", "w") as archive:
        archive.writestr(old, "# Um\n\nem um arquivo zip")
    for path in folder.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))  # of a file that is seconds old, no time is kept
    return folder


def test_every_way_to_run_gives_equal_ledgers_and_vectors(
    project: Path, notebook: Callable[..., Notebook]
) -> None:
    folder = every_format(project / "docs")
    cell = notebook(ORACULO_STORE=str(project / "kernel")).run(
        "import oraculo_kit as oraculo; oraculo.ingest('docs').counts"
    )
    assert cell.result == "{'added': 19}"
    command = [sys.executable, "-m", "oraculo_kit", "ingest", str(folder), "--store", str(project / "cli")]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cli:
        seen = {}
        for way, options in {
            "here": {"n_jobs": 1},
            "loky": {"n_jobs": 2},
            "multiprocessing": {"n_jobs": 2, "backend": "multiprocessing"},
            "threading": {"n_jobs": 2, "backend": "threading"},
            "background": {"background": True},
        }.items():
            use(project / way)
            found: Any = ingest(folder, progress=False, **options)
            assert (found.result(60) if way == "background" else found).counts == {"added": 19}
            seen[way] = _state()
    assert cli.returncode == 0
    paths = sorted(str(path) for path in folder.iterdir() if path.suffix != ".zip")
    use(project / "tasks")
    outcomes = Parallel(n_jobs=2)(delayed(ingest_task)(path) for path in paths)
    assert {item.store for item in outcomes} == {str(project / "tasks")}
    ingest(folder / "arquivo.zip", progress=False)
    for way in ("kernel", "cli", "tasks"):
        use(project / way)
        seen[way] = _state()
    assert len(seen["here"]["ids"]) > 60
    for way, state in seen.items():
        assert state == seen["here"], way


def _state() -> dict[str, Any]:
    """Return what is in the base but for run, process, times and order."""
    storage = vetor_storage()
    ledger = {
        row.source: (row.chunks, row.metadata, replace(row.ledger, run="")) for row in storage.sources()
    }
    ids = list(storage.to_pandas().sort_values("id")["id"])
    found, vectors = storage.vectors(ids)
    chunks = [(each.id, each.page_content, each.metadata) for each in storage.get(ids)]
    order = sorted(range(len(found)), key=found.__getitem__)
    return {
        "ledger": ledger,
        "ids": ids,
        "chunks": chunks,
        "vectors": [vectors[at].tobytes() for at in order],
    }


def test_the_command_line_ingests_dry_resumes_and_gives_json(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_files(project / "docs", 3)
    write_files(folder, 40)
    assert main(["ingest", str(folder), "--dry-run", "--quiet"]) == 0
    assert "... and 10 more; --format json lists them all" in capsys.readouterr().out
    shutil.rmtree(folder)
    write_files(folder, 3)
    assert main(["ingest", str(folder), "--dry-run", "--quiet"]) == 0
    assert "dry run, nothing was stored: 3 added" in capsys.readouterr().out
    assert main(["ingest", str(folder), "--format", "json", "--quiet", "--jobs", "1"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["counts"], said["state"], len(said["outcomes"])) == ({"added": 3}, "finished", 3)
    assert main(["ingest", "--resume", "--quiet"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert main(["runs", "--format", "json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["run"] == said["run"][:8]
    assert main(["runs", said["run"][:8], "--quiet"]) == 0
    assert "3 added" in capsys.readouterr().out
