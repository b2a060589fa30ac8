"""The ingestion monitor without a browser: real widgets, real runs, a real store."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import oraculo_kit as oraculo
from oraculo_kit.errors import SettingsError, SourceError, SourceTooLargeError
from oraculo_kit.events import Doing, IngestEvent, IngestProgress
from oraculo_kit.handles import running
from oraculo_kit.report import SourceOutcome
from oraculo_kit.services import use, vetor_storage
from oraculo_kit.widgets.ingest import IngestMonitor
from oraculo_kit.widgets.ingesting import Call, Choice, folders_like, look_at
from oraculo_kit.widgets.nodes import as_html, as_text
from oraculo_kit.widgets.runnodes import outcome_list, progress
from oraculo_kit.widgets.runviews import RunView
from oraculo_kit.widgets.uploading import Incoming, safe_name
from tests.test_ingestion_runs import wait_until, write_files
from tests.tools.embedders import Slow

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202e\n$x$.txt"


@pytest.fixture
def docs(project: Path) -> Path:
    return write_files(project / "docs", 5)


@pytest.fixture
def monitor(docs: Path) -> Iterator[IngestMonitor]:
    shown = IngestMonitor("docs")
    assert shown.wait()
    assert shown.error is None
    yield shown
    stop(shown)


def stop(monitor: IngestMonitor) -> None:
    monitor.cancel()
    assert monitor.wait()
    monitor.close()


def slow(seconds: float = 0.05) -> Slow:
    embedder = Slow(seconds)
    use(embedder=embedder)
    return embedder


def click(monitor: IngestMonitor, event: str, payload: Any = None) -> None:
    monitor.handler(monitor._told)(event, payload, None)


def shown(monitor: IngestMonitor) -> str:
    panes = (monitor._actions, *monitor._below.children, monitor._message)
    return "\n".join(as_text(child) for pane in panes for child in pane.children)


def state(monitor: IngestMonitor) -> str:
    return monitor.view.state if monitor.view is not None else ""


def test_a_dry_run_says_what_would_happen_and_stores_nothing(monitor: IngestMonitor) -> None:
    click(monitor, "try")
    assert monitor.wait()
    assert "Dry run finished, nothing was stored: 5 added" in shown(monitor)
    assert len(vetor_storage()) == 0
    assert list(oraculo.runs()["run"]) == []
    assert "dry_run=True" in monitor.code()


def test_a_dry_run_offers_no_retry(monitor: IngestMonitor, docs: Path) -> None:
    (docs / "quebrado.pdf").symlink_to("nowhere.pdf")
    click(monitor, "try")
    assert monitor.wait()
    assert "docs/quebrado.pdf" in shown(monitor)
    assert "Retry failed" not in str([pane.children for pane in monitor._below.children])
    click(monitor, "retry")
    assert monitor.wait()
    assert "was a dry run" in str(monitor.error)
    assert len(vetor_storage()) == 0
    click(monitor, "start")
    assert monitor.wait()
    assert "Retry failed" in str([pane.children for pane in monitor._below.children])


def test_start_ingests_and_counts_stages_sources_and_bytes(monitor: IngestMonitor) -> None:
    click(monitor, "start")
    assert monitor.wait()
    view = monitor.view
    assert view is not None
    assert (view.state, view.sources, view.done, dict(view.counts)) == ("finished", 5, 5, {"added": 5})
    assert view.bytes == view.done_bytes > 0
    assert set(view.stages) == {"load", "split", "embed", "write"}
    said = shown(monitor)
    for part in ("Finished", "5 sources", "Reading", "Embedding", "5 added", "Earlier runs (1)"):
        assert part in said
    assert monitor.report is not None
    assert len(monitor.selection) == 5
    assert list(monitor.selection.columns) == list(monitor.report.to_pandas().columns)


def test_code_does_what_the_run_did(monitor: IngestMonitor) -> None:
    monitor._controls.glob.value = "*.txt"
    monitor._controls.jobs.value = 1
    click(monitor, "start")
    assert monitor.wait()
    names: dict[str, Any] = {}
    with contextlib.redirect_stderr(io.StringIO()):
        exec(monitor.code(), names)
    assert names["report"].counts == {"unchanged": 5}
    assert "glob='*.txt', n_jobs=1" in monitor.code()


def test_a_click_returns_at_once_and_progress_is_live(monitor: IngestMonitor) -> None:
    slow(0.2)
    began = time.perf_counter()
    click(monitor, "start")
    assert time.perf_counter() - began < 0.2
    wait_until(lambda: monitor.view is not None and monitor.view.doing is not None)
    assert monitor.view is not None
    assert monitor.view.doing is not None
    assert monitor.view.doing.stage == "embed"
    assert "Embedding: docs/0000.txt (+4)" in shown(monitor)
    assert "Starting..." not in shown(monitor)
    assert "The run goes on in the background" in shown(monitor)
    assert monitor.is_active
    click(monitor, "start")
    assert "a run goes on" in str(monitor.error)


def test_cancel_is_seen_at_once_and_the_run_can_be_resumed(docs: Path) -> None:
    write_files(docs, 150)
    slow(0.01)
    monitor = IngestMonitor("docs", n_jobs=1)
    assert monitor.wait()
    click(monitor, "start")
    wait_until(lambda: monitor.view is not None and monitor.view.done >= 64)
    began = time.perf_counter()
    click(monitor, "cancel")
    assert time.perf_counter() - began < 0.5
    assert state(monitor) == "stopping"
    assert "Stopping" in shown(monitor)
    assert monitor.wait()
    assert state(monitor) == "cancelled"
    assert "was cut off after 64 sources" in shown(monitor)
    click(monitor, "resume")
    assert monitor.wait()
    assert monitor.view is not None
    assert dict(monitor.view.counts) == {"added": 150}
    assert "cut off" not in shown(monitor)
    assert "resume=True" in monitor.code()
    monitor.close()


def test_a_new_monitor_finds_the_run_that_another_started(docs: Path) -> None:
    slow(0.3)
    first = IngestMonitor("docs", glob="*.txt")
    first.start()
    wait_until(lambda: first.handle is not None)
    first.close()
    assert [handle.run for handle in running()] == [first.handle.run if first.handle else ""]
    second = IngestMonitor()
    assert second.handle is first.handle
    assert second.is_active
    assert "glob='*.txt'" in second.code()
    stop(second)
    assert running() == []


def test_a_run_whose_kernel_died_is_offered_and_goes_on(docs: Path) -> None:
    write_files(docs, 150)
    script = """
        import os, time, oraculo_kit as oraculo
        from tests.tools.embedders import Slow
        oraculo.use(embedder=Slow(0.01))
        handle = oraculo.ingest("docs", background=True, n_jobs=1)
        while handle.progress.done < 64:
            time.sleep(0.01)
        os._exit(9)
        """
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=docs.parent, env=environ)
    assert done.returncode == 9
    slow(0)
    monitor = IngestMonitor()
    assert monitor.wait()
    assert "over docs was cut off after 64 sources" in shown(monitor)
    click(monitor, "resume")
    assert monitor.wait()
    assert len(vetor_storage().sources()) == 150
    monitor.close()


def test_what_failed_is_shown_with_its_reason_and_retried_once_mended(
    monitor: IngestMonitor, docs: Path
) -> None:
    (docs / "quebrado.pdf").write_bytes(b"no pdf")
    (docs / "vazio.txt").write_text("")
    click(monitor, "start")
    assert monitor.wait()
    assert "docs/quebrado.pdf" in shown(monitor)
    assert "not a PDF" in shown(monitor)
    assert list(monitor.selection["status"]) == ["failed"]
    click(monitor, "status", "skipped")
    assert "docs/vazio.txt" in shown(monitor)
    assert list(monitor.selection["status"]) == ["skipped"]
    (docs / "quebrado.pdf").unlink()
    from tests.tools.documents import make_pdf

    (docs / "quebrado.pdf").write_bytes(make_pdf(["Agora se lê"]))
    click(monitor, "retry")
    assert monitor.wait()
    assert monitor.view is not None
    assert dict(monitor.view.counts) == {"added": 1}
    assert ".retry()" in monitor.code()
    click(monitor, "retry")
    assert "there is nothing to retry" in str(monitor.error)


def test_an_earlier_run_is_opened_and_retried(monitor: IngestMonitor, docs: Path) -> None:
    (docs / "quebrado.pdf").write_bytes(b"no pdf")
    report = oraculo.ingest("docs", progress=False)
    oraculo.ingest("docs", progress=False)
    click(monitor, "open", report.run)
    assert monitor.wait()
    assert monitor.view is not None
    assert dict(monitor.view.counts) == {"added": 5, "failed": 1}
    assert f"run_report('{report.run}')" in monitor.code()
    click(monitor, "retry")
    assert monitor.wait()
    assert dict(monitor.view.counts) == {"failed": 1}
    click(monitor, "open", "zz")
    assert monitor.wait()
    assert "there is no run zz" in str(monitor.error)


def test_pruning_asks_first_and_names_what_goes(monitor: IngestMonitor, docs: Path) -> None:
    click(monitor, "start")
    assert monitor.wait()
    (docs / "0001.txt").unlink()
    monitor._controls.prune.value = True
    click(monitor, "start")
    assert monitor.wait()
    assert "No longer there: 1." in shown(monitor)
    assert "docs/0001.txt" in shown(monitor)
    click(monitor, "back")
    assert "No longer there" not in shown(monitor)
    assert len(vetor_storage().sources()) == 5
    click(monitor, "start")
    assert monitor.wait()
    click(monitor, "prune")
    assert monitor.wait()
    assert monitor.view is not None
    assert dict(monitor.view.counts) == {"unchanged": 4, "pruned": 1}
    assert len(vetor_storage().sources()) == 4


def test_what_a_run_warns_of_stands_in_the_monitor_and_is_not_printed(
    monitor: IngestMonitor, docs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    oraculo.ingest("docs", progress=False)
    for file in docs.iterdir():
        file.unlink()
    capfd.readouterr()
    monitor._controls.prune.value = True
    click(monitor, "start")
    assert monitor.wait()
    assert "the drive may not be mounted" in shown(monitor)
    assert capfd.readouterr() == ("", "")


def test_what_a_run_ends_with_is_shown_with_what_to_do(monitor: IngestMonitor) -> None:
    click(monitor, "start")
    assert monitor.wait()
    vetor_storage().close()
    click(monitor, "start")
    assert monitor.wait()
    assert "open it again" in str(monitor.error)
    assert not monitor.is_active


def test_another_base_than_that_of_the_services_is_refused(docs: Path) -> None:
    with oraculo.open_storage(docs.parent / "other") as store:
        monitor = IngestMonitor("docs", store=store)
        with pytest.raises(SourceError, match="say oraculo_kit.use"):
            monitor.start()
        assert monitor.wait()
        monitor.close()


def test_hostile_names_and_reasons_stay_text_on_their_line() -> None:
    outcome = SourceOutcome(f"/x/{HOSTILE}", "failed", "ExtractionError", f"/x/{HOSTILE}: {HOSTILE}")
    view = RunView(state="failed", counts={"failed": 1}, settled={"failed": [outcome]}, error=HOSTILE)
    for tree in (outcome_list(view, "failed", 0, str), progress(view, str)):
        assert tree is not None
        html, text = as_html(tree), as_text(tree)
        assert "<img" not in html
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\n$x$" not in text


def test_what_is_typed_is_looked_at_and_completed(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (docs / "notas").mkdir()
    (docs / ".oculto").mkdir()
    (docs / "bad\u202e").mkdir()
    (docs / "foto.xyz").write_text("?")
    assert folders_like("do") == ["docs/"]
    assert folders_like("docs/") == ["docs/notas/"]
    assert folders_like("nowhere/x") == folders_like("s3://bucket/") == []
    seen = look_at(Choice("docs"))
    assert (seen.kind, seen.files, seen.faults) == ("folder", 5, 1)
    assert look_at(Choice("docs", "0001.*")).files == 1
    assert look_at(Choice("docs/0001.txt")).kind == "file"
    assert "unknown" in look_at(Choice("docs/foto.xyz")).problem
    assert "no such file" in look_at(Choice("missing")).text(str)
    assert "allow_urls" not in look_at(Choice("https://example.org/a.pdf")).text(str)
    monkeypatch.setattr("oraculo_kit.widgets.ingesting._LOOK_SECONDS", -1.0)
    assert "More than 0 files" in look_at(Choice("docs")).text(str)


def test_the_field_says_what_is_there(monitor: IngestMonitor) -> None:
    def look() -> str:
        assert monitor.wait()
        return as_text(monitor._controls._look_line.children[0])

    assert "5 files" in look()
    monitor._controls.path.value = "do"
    assert "no such file or folder" in look()
    assert monitor._controls.path.options == ("docs/",)
    monitor._controls.path.value = ""
    assert "upload files" in look()
    click(monitor, "start")
    assert "got no path" in str(monitor.error)


def upload(monitor: IngestMonitor, name: str, content: bytes, piece: int = 7) -> None:
    """Send a file as the browser does: announced, then what is asked for."""
    asked: list[dict[str, Any]] = []
    monitor._controls.uploader.send = asked.append
    key = f"key-{name}"
    take: Callable[..., None] = monitor.handler(monitor._controls.uploader.take)
    take({"file": key, "name": name, "size": len(content)}, [])
    while asked and "from" in asked[-1]:
        first = asked.pop()["from"]
        sent = content[first : first + piece]
        take({"file": key, "end": not sent}, [memoryview(sent)])


def test_uploads_become_files_of_the_project_and_the_path_to_ingest(
    monitor: IngestMonitor, project: Path
) -> None:
    upload(monitor, "nota.txt", b"primeira nota fiscal")
    upload(monitor, "nota.txt", b"primeira nota fiscal")
    upload(monitor, "nota.txt", b"outra nota fiscal")
    upload(monitor, "../../.bashrc", b"nada")
    assert monitor.error is None
    folder = project / "uploads"
    assert sorted(path.name for path in folder.iterdir()) == ["bashrc", "nota (2).txt", "nota.txt"]
    assert (folder / "nota (2).txt").read_text() == "outra nota fiscal"
    assert monitor._controls.path.value == "uploads/"
    click(monitor, "start")
    assert monitor.wait()
    assert monitor.view is not None
    assert dict(monitor.view.counts) == {"added": 2, "skipped": 1}


def test_an_upload_that_breaks_off_leaves_nothing(monitor: IngestMonitor, project: Path) -> None:
    monitor._controls.uploader.send = lambda _content: None
    take = monitor._controls.uploader.take
    take({"file": "a", "name": "a.txt", "size": 9}, [])
    with pytest.raises(SourceError, match="got 3 of 9 bytes; upload it again"):
        take({"file": "a", "end": True}, [b"abc"])
    take({"file": "b", "name": "b.txt", "size": 9}, [])
    with pytest.raises(SourceError, match="got more than the 9 bytes"):
        take({"file": "b"}, [b"0123456789"])
    with pytest.raises(SourceTooLargeError, match="ORACULO_MAX_FILE_MB"):
        take({"file": "c", "name": "c.txt", "size": 1 << 40}, [])
    take({"file": "d", "name": "d.txt", "size": 9}, [])
    monitor.close()
    assert list((project / "uploads").iterdir()) == []


def test_an_upload_never_takes_the_place_of_a_file_that_came_meanwhile(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path, "a.txt", 3)
    incoming.write(b"abc")
    (tmp_path / "a.txt").write_text("mine")
    assert incoming.finish().name == "a (2).txt"
    assert (tmp_path / "a.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["", "..", "a" * 300 + ".pdf", "ção.pdf", "a/b\\c", "\ud800.txt", "lpt1", HOSTILE]
)
def test_a_safe_name_is_a_name(tmp_path: Path, name: str) -> None:
    safe = safe_name(name)
    (tmp_path / safe).write_text("x")
    assert len(safe.encode()) <= 150
    assert [path.name for path in tmp_path.iterdir()] == [safe]


def test_progress_grows_while_texts_are_embedded_and_counts_no_byte_twice() -> None:
    seen = IngestProgress()
    seen(IngestEvent("started", "run", at=0.0, sources=4, bytes=400))
    seen(IngestEvent("doing", "run", doing=Doing("embed", "a", 2, 200, 0.5)))
    assert seen.share == 0.25
    seen(IngestEvent("doing", "run", doing=Doing("write", "a", 2, 200, 1.0)))
    assert seen.share == 0.5
    seen(IngestEvent("outcome", "run", outcome=SourceOutcome("a", "added", bytes=150)))
    assert seen.share == 0.5
    seen(IngestEvent("outcome", "run", outcome=SourceOutcome("b", "added", bytes=50)))
    assert (seen.share, seen.doing) == (0.5, None)
    assert [outcome.source for outcome in seen.settled["added"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"glob": 3}, "glob is 3"), ({"n_jobs": 0}, "n_jobs is 0"), ({"n_jobs": True}, "n_jobs is True")],
)
def test_wrong_arguments_are_named(project: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        IngestMonitor("docs", **options)


def test_code_of_every_kind_of_run() -> None:
    assert Call().code(None).endswith("oraculo.runs()\n")
    assert "ingest(resume=True, n_jobs=2)" in Call("resume", Choice(n_jobs=2)).code(None)
    assert "run_report('1').retry(n_jobs=2)" in Call("retry", Choice(n_jobs=2), run="1").code(None)


def test_snapshot_and_summary_show_the_run_without_buttons(monitor: IngestMonitor) -> None:
    assert "Nothing was ingested yet" in monitor.snapshot()
    click(monitor, "start")
    assert monitor.wait()
    page = monitor.snapshot()
    assert "Finished" in page
    assert "<button" not in page
    assert "Open" not in as_text(monitor.summary())


def test_the_monitor_speaks_portuguese(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACULO_LANG", "pt_BR")
    monitor = IngestMonitor("docs")
    assert monitor.wait()
    assert "Iniciar" in "".join(map(str, monitor._actions.children))
    monitor.close()


def test_the_time_left_follows_the_speed_of_the_last_half_minute() -> None:
    seen = IngestProgress()
    seen(IngestEvent("started", "run", at=0.0, sources=100, bytes=100))
    assert seen.eta(now=1.0) is None
    for place in range(50):  # stored before: no time at all
        seen(IngestEvent("outcome", "run", at=0.1, outcome=SourceOutcome(str(place), "unchanged", bytes=1)))
    for second in range(1, 41):
        outcome = SourceOutcome(f"new {second}", "added", bytes=1)
        if second % 4 == 0:
            seen(IngestEvent("outcome", "run", at=float(second), outcome=outcome))
    left = seen.eta(now=40.0)
    assert left is not None
    assert 150 < left < 180  # 40 are left, and one takes 4 seconds


def test_no_time_left_is_told_before_there_is_a_speed() -> None:
    seen = IngestProgress()
    seen(IngestEvent("started", "run", at=0.0, sources=101, bytes=70_000_000))
    assert seen.eta(now=60.0) is None  # pools and models start
    work = {"embed": 0.1}
    for place in range(100):
        outcome = SourceOutcome(str(place), "added", bytes=1000, seconds=work)
        seen(IngestEvent("outcome", "run", at=60.1 + place / 50, outcome=outcome))
    assert seen.eta(now=62.1) is None
    assert seen.eta(now=70.0) is None  # of all bytes hardly any are done: one large file is left
    large = Doing("embed", "large.csv", bytes=69_900_000, share=0.5)
    seen(IngestEvent("doing", "run", at=80.0, doing=large))
    left = seen.eta(now=80.0)
    assert left is not None
    assert 18 < left < 22  # the minute before the work is no part of its speed


def test_the_time_left_is_told_where_all_is_unchanged_and_begins_anew_with_work() -> None:
    seen = IngestProgress()
    seen(IngestEvent("started", "run", at=0.0, sources=100, bytes=100))
    for place in range(50):
        outcome = SourceOutcome(str(place), "unchanged", bytes=1)
        seen(IngestEvent("outcome", "run", at=place / 10, outcome=outcome))
    assert seen.eta(now=5.0) == pytest.approx(5.0, rel=0.05)
    seen(IngestEvent("doing", "run", at=5.0, doing=Doing("load", "new.txt", bytes=10)))
    assert seen.eta(now=6.0) is None
    seen(IngestEvent("doing", "run", at=15.0, doing=Doing("embed", "new.txt", bytes=10, share=1.0)))
    assert seen.eta(now=15.0) == pytest.approx(40.0)


def test_a_start_is_given_up_before_its_run_began(monitor: IngestMonitor) -> None:
    monitor._controls.prune.value = True
    assert monitor.wait()
    with monitor.lock:  # neither click waits for what the other began
        click(monitor, "start")
        click(monitor, "cancel")
    assert monitor.wait()
    assert (monitor.is_active, monitor.error, monitor.view) == (False, None, None)
    monitor._controls.prune.value = False
    with monitor.lock:
        click(monitor, "start")
        click(monitor, "cancel")
    assert monitor.wait()
    assert state(monitor) == "cancelled"
