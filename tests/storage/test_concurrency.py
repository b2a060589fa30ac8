"""Many processes, threads and forks at one store: no lost update, no partial source, no reader error, no deadlock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from oraculo_kit.storage import commit
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.forks import ForkGate
from tests.storage.kit import Child, documents, stored_ids, vectors
from tests.storage.test_lock import posix

StartChild = Callable[..., Child]


def together(children: list[Child]) -> None:
    """Let the children begin at the same time."""
    for each in children:
        assert each.line() == "ready"
    for each in children:
        each.go()


def test_four_processes_write_a_thousand_chunks_each(folder: Path, child: StartChild) -> None:
    FaissVetorStorage(folder).close()
    writers = [child("write_many", folder, f"writer {number}", 1000, 20) for number in range(4)]
    together(writers)
    names = [name for writer in writers for name in writer.result()]
    assert len(set(names)) == 4000
    with FaissVetorStorage(folder) as store:
        assert len(store) == 4000
        assert stored_ids(store) == set(names)
        assert {row.source: row.chunks for row in store.sources()} == {
            f"writer {number} {place}": 260 if place < 2 else 240 for number in range(4) for place in range(4)
        }
        assert len(store.search(vectors(1)[0], k=5000)) == 4000
        report = store.verify()
        assert report.ok, report
        assert (report.chunks, report.sources) == (4000, 16)


def test_processes_that_create_one_store_at_the_same_time_share_it(folder: Path, child: StartChild) -> None:
    writers = [child("write_many", folder, f"w{number}", 20, 20) for number in range(4)]
    together(writers)
    names = [name for writer in writers for name in writer.result()]
    with FaissVetorStorage(folder) as store:
        assert stored_ids(store) == set(names)


def test_readers_beside_writers_see_whole_sources_and_no_error(folder: Path, child: StartChild) -> None:
    FaissVetorStorage(folder).close()
    who = [f"writer {number}" for number in range(4)]
    writers = [child("write_and_replace", folder, name, 3.0) for name in who]
    readers = [child("search_all_along", folder, who, 3.0) for _ in range(4)]
    together([*readers, *writers])
    read, written = [each.result() for each in readers], [each.result() for each in writers]
    assert [each["wrong"] for each in read] == [[], [], [], []]
    assert all(each["searches"] > 1 for each in read)
    with FaissVetorStorage(folder) as store:
        there = stored_ids(store)
        for name, each in zip(who, written, strict=True):
            assert each["version"] > 1
            assert set(each["names"]) <= there
            hits = store.search(vectors(1)[0], k=20, filter={"source": f"{name} changes"})
            assert {hit.metadata["version"] for hit in hits} == {each["version"]}
            assert len(hits) == 3 + each["version"] % 5
        report = store.verify()
        assert report.ok, report


def test_verify_finds_nothing_wrong_beside_writers(folder: Path, child: StartChild) -> None:
    with FaissVetorStorage(folder) as store:
        writers = [child("write_and_replace", folder, f"w{number}", 2.0) for number in range(2)]
        together(writers)
        reports = []
        while any(each.process.poll() is None for each in writers):
            reports.append(store.verify())
        assert [report.problems for report in reports if not report.ok] == []
        assert len({report.chunks for report in reports}) > 1


def test_a_write_is_seen_at_once_by_the_same_process_and_by_another_handle(
    folder: Path, small_segments: int
) -> None:
    with FaissVetorStorage(folder) as one, FaissVetorStorage(folder) as other:
        for number in range(60):
            writer, reader = (one, other) if number % 2 else (other, one)
            (name,) = writer.write(documents("a", 1, number), vectors(1, number))
            for store in (one, other):
                assert store.search(vectors(1, number)[0], k=1)[0].id == name
            if number % 7 == 0:
                reader.remove([name])
                assert writer.get([name]) == []
                assert name not in {hit.id for hit in writer.search(vectors(1, number)[0], k=100)}


def test_threads_may_share_a_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "SEGMENT_ROWS", 50)
    names: list[str] = []
    errors: list[BaseException] = []
    with FaissVetorStorage(folder, lock_timeout=30) as store:
        store.write(documents("start", 3), vectors(3))

        def work(who: int) -> None:
            try:
                for number in range(40):
                    names.extend(store.write(documents(f"t{who}", 1, number), vectors(1, number)))
                    assert len(store.search(vectors(1 + number % 12, number), k=3)) == 1 + number % 12
                    store.search("nota fiscal", mode="text", filter={"source": f"t{who}"})
            except BaseException as exc:
                errors.append(exc)

        threads = [threading.Thread(target=work, args=(who,)) for who in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []
        assert len(names) == 240
        assert set(names) <= stored_ids(store)
        assert store.verify().ok


@posix
def test_a_process_may_fork_while_its_threads_write_and_search(folder: Path, child: StartChild) -> None:
    result = child("fork_beside_threads", folder, 12).result()
    assert result["errors"] == []
    assert result["problems"] == []
    assert result["lost"] == 0
    assert result["written"] > 12 * 3


@posix
def test_a_forked_child_that_ends_like_any_program_leaves_its_parents_store_alone(
    folder: Path, child: StartChild
) -> None:
    result = child("fork_and_leave", folder).result()
    assert result == {"status": 0, "counts": {"child": 2, "parent": 10}, "problems": []}


@posix
def test_an_interrupt_at_any_moment_leaves_a_usable_store(folder: Path, child: StartChild) -> None:
    result = child("interrupted_often", folder, 150).result()
    assert result["errors"] == []
    assert result["problems"] == []
    assert result["lost"] == 0
    assert result["interrupts"] == 150


@posix
def test_a_full_disk_leaves_the_last_version_whole(folder: Path, child: StartChild) -> None:
    result = child("write_with_full_disk", folder).result()
    assert result["others"] == []
    assert result["problems"] == []
    assert len(result["refused"]) > 5
    assert any("segment" in message for message in result["refused"])
    assert any("catalog" in message for message in result["refused"])
    assert result["counts"] == {"known": 20, "new": 5, "large": 400}


def test_the_gate_keeps_newcomers_out_and_waits_for_those_inside() -> None:
    gate, steps, inside = ForkGate(), [], threading.Event()
    leave = threading.Event()

    def work() -> None:
        with gate.passage(), gate.passage():
            inside.set()
            leave.wait(10)
            steps.append("out")

    def come_later() -> None:
        with gate.passage():
            steps.append("in")

    worker, latecomer = threading.Thread(target=work), threading.Thread(target=come_later)
    worker.start()
    inside.wait(10)
    assert not gate.close(timeout=0.05)
    gate.open()
    leave.set()
    assert gate.close(timeout=10)
    latecomer.start()
    latecomer.join(0.05)
    steps.append("forked")
    gate.open()
    latecomer.join(10)
    worker.join(10)
    assert steps == ["out", "forked", "in"]


def test_the_gate_does_not_wait_for_the_forking_thread_itself() -> None:
    gate = ForkGate()
    with gate.passage():
        assert not gate.close(timeout=60)
        with gate.passage():
            gate.open()
    assert gate.close()


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_no_database_file_is_open_in_a_forked_child(folder: Path) -> None:
    with FaissVetorStorage(folder) as store:
        store.write(documents("a", 3), vectors(3))
        store.search(vectors(1)[0])
        ready, answer = os.pipe()
        pid = os.fork()
        if pid == 0:  # pragma: no cover
            names = []
            for each in os.scandir("/proc/self/fd"):
                try:
                    names.append(os.readlink(each.path))
                except OSError:
                    continue
            os.write(answer, "\n".join(name for name in names if str(folder) in name).encode())
            os._exit(0)
        os.close(answer)
        with open(ready, "rb") as pipe:
            assert pipe.read() == b""
        os.waitpid(pid, 0)
        assert len(store) == 3


_SEARCH_IN_A_FORK = """
import os, signal, sys
import numpy as np
from langchain_core.documents import Document
from oraculo_kit.storage.faiss import FaissVetorStorage

store = FaissVetorStorage(sys.argv[1])
vectors = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
store.write([Document(str(place)) for place in range(len(vectors))], vectors)
store.search(vectors[:200], 5)  # OpenMP and BLAS have run in the parent
store.search(vectors[0], 5)
child = os.fork()
if child == 0:
    signal.alarm(20)  # a hang, which is what FAISS does here by itself, ends as a signal
    one = store.search(vectors[7], 1)[0].text
    many = [found[0].text for found in store.search(vectors[:100], 1)]
    os._exit(0 if (one, many[99]) == ("7", "99") else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_after_faiss_has_searched_searches_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SEARCH_IN_A_FORK, str(tmp_path / "store")],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
