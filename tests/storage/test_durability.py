"""Acknowledged is durable: what a power cut leaves of a store, and the fsync between a write and its return."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storage.disk import Disk
from tests.storage.kit import Child

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="the files behind descriptors are looked up in /proc"
)


@pytest.mark.parametrize("every", [60, pytest.param(1, marks=pytest.mark.full)])
def test_a_power_cut_takes_nothing_that_was_acknowledged(
    tmp_path: Path, child: Callable[..., Child], every: int
) -> None:
    result = child("power_cuts", tmp_path, "FULL", every, Disk.POLICIES).result(
        timeout=60 if every > 1 else 1800
    )
    assert result["problems"] == []
    assert result["lost"] == 0
    assert result["cuts"] > 80


def test_a_power_cut_may_take_the_last_writes_of_the_faster_mode_but_damages_nothing(
    tmp_path: Path, child: Callable[..., Child]
) -> None:
    result = child("power_cuts", tmp_path, "NORMAL", 200, ["drop", "names", "some"]).result()
    assert result["problems"] == []
    assert result["lost"] > 0, "if the faster mode loses nothing, the test for the safe mode proves nothing"


def test_a_power_cut_is_seen_to_take_writes_when_sqlite_does_not_wait_for_the_disk(
    tmp_path: Path, child: Callable[..., Child]
) -> None:
    assert child("power_cuts", tmp_path, "OFF", 10_000, ["drop"]).result()["lost"] > 0


def tracing_works() -> bool:
    """Tell whether strace is there and allowed to trace."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", sys.executable, "-c", ""], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture
def system_calls(folder: Path, tmp_path: Path, child: Callable[..., Child]) -> Callable[[str], list[str]]:
    """Return the function that makes three writes with a durability, and returns the system calls of each."""
    if not tracing_works():
        pytest.skip("strace is not installed or may not trace here")

    def trace(durability: str) -> list[str]:
        log = tmp_path / "calls"
        traced = "trace=write,pwrite64,fsync,fdatasync,rename,renameat,renameat2"
        prefix = ["strace", "-f", "-y", "-e", traced, "-s", "32", "-o", str(log)]
        child("durable_writes", folder, durability, prefix=prefix).result()
        calls = re.split(r".*\"acknowledged \d.*", log.read_text())
        assert len(calls) == 4
        return calls[:3]

    return trace


LOG_WRITTEN = re.compile(r"pwrite64\(\d+<[^>]*catalog\.sqlite3-wal>")
LOG_SYNCED = re.compile(r"f(?:data)?sync\(\d+<[^>]*catalog\.sqlite3-wal>\)\s+= 0")


def test_the_log_is_forced_to_the_disk_between_a_write_and_its_return(
    system_calls: Callable[[str], list[str]],
) -> None:
    for calls in system_calls("power"):
        *_, last_written = LOG_WRITTEN.finditer(calls)
        assert LOG_SYNCED.search(calls, last_written.end())


def test_the_faster_mode_is_seen_not_to_wait(system_calls: Callable[[str], list[str]]) -> None:
    calls = system_calls("process")[0]  # a later one moves the log into the database, and waits for that
    *_, last_written = LOG_WRITTEN.finditer(calls)
    assert not LOG_SYNCED.search(calls, last_written.end())


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_segment_is_forced_to_the_disk_before_the_commit_that_names_it(
    system_calls: Callable[[str], list[str]], durability: str
) -> None:
    large = system_calls(durability)[2]
    steps = [
        r"write\(\d+<[^>]*\.f32\.tmp>",
        r"fsync\(\d+<[^>]*\.f32\.tmp>\)\s+= 0",
        r"rename\w*\(.*\.f32\.tmp",
        r"fsync\(\d+<[^>]*/segments>\)\s+= 0",
        LOG_WRITTEN.pattern,
    ]
    place = 0
    for step in steps:
        found = re.compile(step).search(large, place)
        assert found, f"{step} does not follow in {large}"
        place = found.end()


def test_a_new_stores_own_name_and_those_of_its_files_are_durable_before_the_first_write_returns(
    system_calls: Callable[[str], list[str]], folder: Path
) -> None:
    first = system_calls("process")[0]  # where SQLite itself syncs no folder
    for place in (folder.parent, folder):
        assert re.search(rf"fsync\(\d+<{re.escape(str(place))}>\)\s+= 0", first)
