"""The writer lock: one holder, fair, bounded, named, and gone with its holder."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oraculo_kit.errors import (
    StorageError,
    StoreLockTimeoutError,
    StoreNotFoundError,
)
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.lock import WriterLock
from tests.storage.kit import Child

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, forks and permissions")

GARBAGE = [
    b"",
    b"\0",
    b"\xff" * 400,
    b"12 abc",
    b"12 0\0",
    b"99999999999999999999 1\0",
    b"x" * 64 + b"[]",
    b"x" * 64 + b"7",
    b"x" * 64 + b'{"pid": null}',
    b"x" * 64 + b'{"pid": "?", "host": 1, "since": [], "what": 2}',
]


@pytest.fixture
def lock(tmp_path: Path) -> WriterLock:
    """Return a lock that waits for a moment only."""
    return WriterLock(tmp_path, 0.1)


def is_free(folder: Path) -> bool:
    """Tell whether the lock can be had at once."""
    other = WriterLock(folder, 0.05)
    try:
        with other.held("look"):
            return True
    except StoreLockTimeoutError:
        return False
    finally:
        other.close()


def test_only_one_holds_it(lock: WriterLock, tmp_path: Path) -> None:
    assert is_free(tmp_path)
    with lock.held("test"):
        assert not is_free(tmp_path)
    assert is_free(tmp_path)


def test_it_is_released_when_the_body_fails(lock: WriterLock, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock.held("test"):
        _ = 1 // 0
    assert is_free(tmp_path)


def test_who_waits_too_long_reads_who_holds_it(
    lock: WriterLock, tmp_path: Path, child: Callable[..., Child]
) -> None:
    holder = child("hold_lock", tmp_path, "commit 3 sources")
    assert holder.line() == "held"
    started = time.monotonic()
    with pytest.raises(StoreLockTimeoutError, match="not free for writing within 0.1 s") as caught:
        with lock.held("test"):
            pass
    assert time.monotonic() - started < 10
    message = str(caught.value)
    assert f"process {holder.process.pid} on {socket.gethostname()} (commit 3 sources, since " in message
    assert re.search(r"since \d\d:\d\d:\d\d\)", message)
    assert "ORACULO_LOCK_TIMEOUT" in message
    assert lock.holder()["pid"] == holder.process.pid


def test_a_killed_holder_holds_it_no_longer(
    lock: WriterLock, tmp_path: Path, child: Callable[..., Child]
) -> None:
    holder = child("hold_lock", tmp_path, "test")
    assert holder.line() == "held"
    assert not is_free(tmp_path)
    holder.kill()
    with lock.held("test"):
        assert lock.holder()["pid"] == os.getpid()


def test_threads_wait_for_each_other_and_for_no_longer_than_allowed(lock: WriterLock) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.held("the other thread"):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    with pytest.raises(StoreLockTimeoutError, match="the other thread"), lock.held("test"):
        pass
    leave.set()
    thread.join()
    with lock.held("test"):
        pass


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_holds_nor_releases_its_parents_lock(lock: WriterLock, tmp_path: Path) -> None:
    with lock.held("the parent"):
        pid = os.fork()
        if pid == 0:  # pragma: no cover
            lock.abandon()
            try:
                with lock.held("the child"):
                    os._exit(1)
            except StoreLockTimeoutError:
                os._exit(0)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not is_free(tmp_path)
    assert is_free(tmp_path)


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_lives_on_does_not_keep_the_lock(lock: WriterLock, tmp_path: Path) -> None:
    ready, inform = os.pipe()
    with lock.held("the parent"):
        pid = os.fork()
        if pid == 0:  # pragma: no cover
            lock.abandon()
            os.write(inform, b"x")
            time.sleep(30)
            os._exit(0)
        os.read(ready, 1)
    try:
        assert is_free(tmp_path)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(inform)


@pytest.mark.parametrize("content", GARBAGE)
def test_garbage_in_the_file_vouches_for_nothing_and_is_written_over(
    lock: WriterLock, content: bytes
) -> None:
    lock.path.write_bytes(content)
    assert lock.commit_number() == 0
    assert lock.holder() == {}
    with lock.held("test"):
        lock.record_commit(7)
    assert (lock.commit_number(), lock.holder()["what"]) == (7, "test")


@pytest.mark.parametrize("content", GARBAGE)
def test_garbage_does_not_hide_that_the_wait_was_too_long(
    lock: WriterLock, tmp_path: Path, content: bytes
) -> None:
    with WriterLock(tmp_path, 1).held("test"):
        lock.path.write_bytes(content)
        with pytest.raises(StoreLockTimeoutError, match="last held by an unknown process"), lock.held("test"):
            pass


def test_a_shorter_number_leaves_no_digits_behind(lock: WriterLock) -> None:
    with lock.held("test"):
        for number in (123456789, 5, 10**15):
            lock.record_commit(number)
            assert lock.commit_number() == number


def test_a_torn_number_counts_as_none(lock: WriterLock) -> None:
    with lock.held("test"):
        lock.record_commit(123)
        with lock.path.open("r+b") as file:
            file.write(b"9")
    assert lock.commit_number() == 0


def test_a_lock_on_a_removed_file_keeps_nobody_out_and_is_not_taken(tmp_path: Path) -> None:
    first, second = WriterLock(tmp_path, 0.1), WriterLock(tmp_path, 0.1)
    with first.held("open the files"):
        pass
    first.path.unlink()
    with second.held("the new file"), pytest.raises(StoreLockTimeoutError), first.held("the old file"):
        pass
    with first.held("test"):
        assert not is_free(tmp_path)


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    lock = WriterLock(folder, 0.1)
    with lock.held("test"):
        pass
    shutil.rmtree(folder)
    with (
        pytest.raises(StoreNotFoundError, match="its folder was removed. Nothing was written"),
        lock.held("test"),
    ):
        pass


@posix
@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full, a device on which every write fails"
)
def test_a_full_disk_is_named_and_the_lock_let_go(lock: WriterLock) -> None:
    lock.path.symlink_to("/dev/full")
    with pytest.raises(
        StorageError, match="cannot be used: No space left on device. Nothing was written"
    ) as caught:
        with lock.held("test"):
            pass
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    lock.path.unlink()
    with lock.held("test"):
        pass


def test_closing_leaves_no_open_file(lock: WriterLock) -> None:
    before = open_files()
    with lock.held("test"):
        pass
    lock.close()
    lock.close()
    assert open_files() == before


def open_files() -> int:
    """Return how many files this process has open."""
    import psutil

    return psutil.Process().num_fds() if sys.platform != "win32" else psutil.Process().num_handles()


@posix
def test_eight_that_never_pause_get_the_lock_equally_often(
    tmp_path: Path, child: Callable[..., Child]
) -> None:
    counts = child("take_turns", tmp_path, 8, 1.5).result()
    assert min(counts) >= max(counts) / 4, counts
    assert min(counts) > 5


@posix
def test_eight_writers_get_their_turns_fairly(tmp_path: Path, child: Callable[..., Child]) -> None:
    FaissVetorStorage(tmp_path).close()
    results = child("compete", tmp_path, 8, 3.0).result()
    counts = [result["count"] for result in results]
    assert min(counts) >= max(counts) / 4, counts
    assert max(result["longest"] for result in results) < 5
    with FaissVetorStorage(tmp_path) as store:
        assert len(store) == sum(counts)
