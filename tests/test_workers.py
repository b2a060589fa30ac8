"""Worker files: what a worker said of itself, readable by the notebook, and never in the way of work."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from oraculo_kit.workers import WorkerRecord, read_workers, record_worker

RECORD = WorkerRecord(
    pid=os.getpid(),
    context="joblib",
    state="ready",
    fingerprint="0123456789ab",
    threads=2,
    lines=("INFO - Inicializando serviços para workers joblib...",),
    started=time.time(),
)


def run_folder(root: Path) -> Path:
    return root / ".oraculo" / "run"


def test_what_a_worker_wrote_is_read_back_oldest_first(tmp_path: Path) -> None:
    older = replace(RECORD, pid=RECORD.pid + 1, started=RECORD.started - 60)
    record_worker(str(tmp_path), RECORD)
    record_worker(str(tmp_path), older)
    assert read_workers(str(tmp_path)) == [older, RECORD]
    assert [path.suffix for path in run_folder(tmp_path).iterdir()] == [".json", ".json"]


def test_a_worker_that_got_other_settings_appears_once_with_the_newest(tmp_path: Path) -> None:
    newer = replace(RECORD, fingerprint="ba9876543210", state="failed", started=RECORD.started + 1)
    record_worker(str(tmp_path), RECORD)
    record_worker(str(tmp_path), newer)
    assert read_workers(str(tmp_path)) == [newer]


def test_a_project_without_workers_has_none(tmp_path: Path) -> None:
    assert read_workers(str(tmp_path)) == []


def test_a_process_lives_until_it_ends_and_its_pid_is_not_taken_for_it(tmp_path: Path) -> None:
    assert RECORD.lives()
    assert not replace(RECORD, started=time.time() - 1e6).lives()  # this pid was somebody else's then
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = replace(RECORD, pid=process.pid, started=time.time() + 1)
    assert record.lives()
    process.kill()
    deadline = time.monotonic() + 5
    while record.lives() and time.monotonic() < deadline:  # a zombie: nobody has waited for it yet
        time.sleep(0.01)
    assert not record.lives()
    process.communicate()
    assert not record.lives()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"pid": 1}', b"\xff\xfe", b'{"lines": 3}'])
def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path, content: bytes) -> None:
    record_worker(str(tmp_path), RECORD)
    (run_folder(tmp_path) / "1.json").write_bytes(content)
    assert read_workers(str(tmp_path)) == [RECORD]


@pytest.mark.parametrize("blocked", [".oraculo", ".oraculo/run"])
def test_a_folder_that_cannot_be_made_costs_only_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, blocked: str
) -> None:
    path = tmp_path / blocked
    path.parent.mkdir(exist_ok=True)
    path.touch()
    record_worker(str(tmp_path), RECORD)
    assert "this worker will not appear in status: " in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert read_workers(str(tmp_path)) == []


def test_files_of_yesterday_and_beyond_the_last_two_hundred_are_forgotten(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.mkdir(parents=True)
    now = time.time()
    for number in range(1, 251):
        path = folder / f"{number}.json"
        path.write_text(json.dumps({**RECORD.__dict__, "pid": number}))
        os.utime(path, (now - number, now - number))
    (folder / "left by a killed worker.tmp").touch()
    os.utime(folder / "left by a killed worker.tmp", (now - 90_000, now - 90_000))
    record_worker(str(tmp_path), replace(RECORD, pid=999_999))
    kept = {path.name for path in folder.iterdir()}
    assert len(kept) <= 201
    assert {"999999.json", "1.json", "200.json"} <= kept
    assert "left by a killed worker.tmp" not in kept


def test_workers_that_write_and_tidy_up_at_once_lose_nothing(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.mkdir(parents=True)
    for number in range(100):
        path = folder / f"{number}.json"
        path.touch()
        os.utime(path, (0, 0))
    threads = [
        threading.Thread(target=record_worker, args=(str(tmp_path), replace(RECORD, pid=1000 + number)))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record.pid for record in read_workers(str(tmp_path))) == list(range(1000, 1020))
    assert len(list(folder.iterdir())) == 20
