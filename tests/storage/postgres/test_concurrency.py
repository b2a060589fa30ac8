"""Many processes at one base in PostgreSQL, killed ones among them, and a server that goes away."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oraculo_kit.errors import StorageError, StoreLockTimeoutError
from oraculo_kit.storage.postgres.store import PostgresVetorStorage
from tests.storage.kit import Child, TinyEmbeddings, documents, stored_ids, vectors
from tests.storage.postgres.server import own_server

OpenStore = Callable[..., PostgresVetorStorage]
StartChild = Callable[..., Child]


@pytest.fixture
def child() -> Iterator[StartChild]:
    """Return the function that starts a child process; what still runs after the test is killed."""
    started: list[Child] = []

    def start(name: str, *arguments: Any) -> Child:
        started.append(Child(name, *arguments, module="postgres.children"))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()
        for pipe in (each.process.stdin, each.process.stdout, each.process.stderr):
            if pipe is not None:
                pipe.close()


def together(children: list[Child]) -> None:
    """Let the children begin at the same time."""
    for each in children:
        assert each.line() == "ready"
    for each in children:
        each.go()


def test_four_processes_write_a_thousand_chunks_each(url: str, open_pg: OpenStore, child: StartChild) -> None:
    # The base does not exist yet: they make it together, too.
    writers = [child("write_many", url, f"writer {number}", 1000, 50) for number in range(4)]
    together(writers)
    names = [name for writer in writers for name in writer.result()]
    assert len(set(names)) == 4000
    store = open_pg()
    assert len(store) == 4000
    assert stored_ids(store) == set(names)  # type: ignore[arg-type]
    assert {row.chunks for row in store.sources()} == {250}
    report = store.verify()
    assert report.ok, report
    assert (report.chunks, report.sources) == (4000, 16)


def test_writers_of_the_same_ids_wait_for_each_other_and_lose_nothing(
    url: str, open_pg: OpenStore, child: StartChild
) -> None:
    open_pg()
    writers = [child("same_ids", url, f"w{number}") for number in range(3)]
    together(writers)
    for writer in writers:
        assert writer.result() == 8
    store = open_pg()
    assert len(store) == sum(row.chunks for row in store.sources()) == 8
    assert store.verify().ok, store.verify()


@pytest.mark.parametrize("attempts", [2, pytest.param(40, marks=pytest.mark.full)])
def test_a_killed_writer_leaves_whole_sources_and_all_it_acknowledged(
    url: str, open_pg: OpenStore, child: StartChild, attempts: int
) -> None:
    open_pg()
    for attempt in range(attempts):
        writer = child("replace_for_ever", url, f"k{attempt}")
        together([writer])
        acknowledged = [json.loads(writer.line()) for _ in range(3)]
        time.sleep(0.02 + 0.013 * attempt)  # somewhere in the middle of a transaction
        writer.process.kill()
        assert writer.process.stdout is not None
        lines = writer.process.stdout.read().splitlines()
        writer.process.wait()
        for line in lines:
            if line.endswith("]"):
                acknowledged.append(json.loads(line))
        store = open_pg()
        for source, version, size in {each[0]: each for each in acknowledged}.values():
            found = store.search(vectors(1)[0], 200, filter={"source": source})
            (now,) = {hit.metadata["version"] for hit in found}
            assert now >= version
            assert len(found) == 20 + now % 30
            assert size == 20 + version % 30
        assert store.verify().ok, store.verify()


def test_a_writer_that_waits_too_long_says_so(url: str, open_pg: OpenStore, child: StartChild) -> None:
    store = open_pg(lock_timeout=0.3)
    store.replace("a", documents("a", 2))
    holder = child("hold_source", url, 30)
    assert holder.line() == "held"
    started = time.monotonic()
    with pytest.raises(StoreLockTimeoutError, match="held by another writer .* raise ORACULO_LOCK_TIMEOUT"):
        store.replace("a", documents("a", 3))
    assert time.monotonic() - started < 5
    assert len(store.search("texto", 5)) == 2  # readers do not wait
    holder.kill()
    store.replace("a", documents("a", 3))
    assert len(store) == 3


def test_readers_beside_writers_see_whole_sources(open_pg: OpenStore) -> None:
    store, reader = open_pg(), open_pg()
    store.replace("a", documents("a", 10, version=10))
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            size = 10 + turn % 20
            store.replace("a", documents("a", size, version=size), vectors(size))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(60):
            hits = reader.search(vectors(1)[0], 100, filter={"source": "a"})
            assert len({hit.metadata["version"] for hit in hits}) == 1
            assert len(hits) == hits[0].metadata["version"]
    finally:
        stop.set()
        writer.join()


def test_reembedding_beside_searches_never_mixes_models(open_pg: OpenStore) -> None:
    store, reader = open_pg(), open_pg()
    store.write(documents("a", 50))
    stop, failures = threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            try:
                reader.search("texto", 3, mode="text")
                assert len(reader.search(reader.vectors([name])[1][0], 3)) == 3
            except Exception as exc:
                failures.append(exc)
                return

    name = store.search("texto", 1)[0].id
    searching = threading.Thread(target=search)
    searching.start()
    try:
        for salt in "abcdef":
            store.reembed(TinyEmbeddings(salt=salt))
    finally:
        stop.set()
        searching.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_uses_connections_of_its_own(pg: PostgresVetorStorage) -> None:
    pg.replace("a", documents("a", 3))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            pg.replace("child", documents("child", 2))
            status = 0 if len(pg) == 5 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for number in range(5):
        pg.replace(f"parent {number}", documents("p", 1))
    assert len(pg) == 10


def test_an_interrupted_call_does_not_spoil_the_next(pg: PostgresVetorStorage) -> None:
    pg.replace("a", documents("a", 3))

    class Interrupt(BaseException):
        pass

    with pytest.raises(Interrupt):
        with pg._pool.writing() as session:
            session.rows("DELETE FROM oraculo_chunks")
            session.busy = True  # as when Ctrl-C strikes while an answer is read
            raise Interrupt
    assert len(pg.get([hit.id for hit in pg.search("texto", 5)])) == 3


def test_a_server_that_was_restarted_or_killed_is_found_again() -> None:
    with own_server() as server:
        store = PostgresVetorStorage(server.url, TinyEmbeddings(), lock_timeout=5)
        store.replace("a", documents("a", 20))
        server.stop("immediate")  # as by a power cut: what was acknowledged is in its log
        with pytest.raises(StorageError, match="does not answer|broke") as caught:
            store.replace("b", documents("b", 20))
        assert "s3nha" not in f"{caught.value}{store!r}{store.location}"
        server.start()
        assert len(store) == 20
        store.replace("b", documents("b", 20))
        server.stop()
        server.start()
        assert store.verify().ok
        assert len(store.search("texto", 50)) == 40
        store.close()
        # Others find the errors that name what to do.
        for wrong, message in (
            (server.url.replace("s3nha", "outra"), "refuses the user .* PGPASSWORD"),
            (server.url.removesuffix("postgres") + "nobase", "there is no such database"),
            (server.url + "?sslmode=require", "SSL"),
        ):
            with pytest.raises(StorageError, match=message) as refused:
                PostgresVetorStorage(wrong, TinyEmbeddings())
            assert "teste" not in str(refused.value)
        server.stop()
        with pytest.raises(StorageError, match="does not answer .* Start it, or check host and port"):
            PostgresVetorStorage(server.url, TinyEmbeddings())
