"""What the tests of the store run in processes of their own: ``python -m tests.storage.children NAME [ARGUMENTS]``.

Arguments come as a JSON list; the result goes to standard output as the last line. Run this way each process is
a fresh one, so it can be killed, forked, limited and stripped of its rights without harm to the test run.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from oraculo_kit.errors import StorageError
from oraculo_kit.storage import commit, optimizing, reembedding
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.claims import ClaimedSegment
from oraculo_kit.storage.commit import Writer
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.lock import WriterLock
from tests.storage.disk import Disk, Do, Operation, watch
from tests.storage.kit import documents, vectors
from tests.storage.scenario import STATES, examine, live, shrink_limits, stored

COMMANDS: dict[str, Callable[..., Any]] = {}


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function callable by name."""
    COMMANDS[function.__name__] = function
    return function


def wait_for_parent() -> None:
    """Tell the parent that everything is loaded, and wait for its word."""
    print("ready", flush=True)
    sys.stdin.readline()


@command
def hold_lock(folder: str, what: str) -> None:
    """Hold the writer lock until killed."""
    with WriterLock(Path(folder), 10).held(what):
        print("held", flush=True)
        time.sleep(600)


def write_for(folder: str, who: str, seconds: float) -> dict[str, float]:
    """Commit single chunks for some seconds; return how many, and the longest time one took."""
    with FaissVetorStorage(folder) as store:
        count, longest, matrix = 0, 0.0, vectors(1)
        end = time.monotonic() + seconds
        while (started := time.monotonic()) < end:
            store.write(documents(who, 1, count), matrix)
            count += 1
            longest = max(longest, time.monotonic() - started)
    return {"count": count, "longest": longest}


@command
def take_turns(folder: str, processes: int, seconds: float) -> list[int]:
    """Let several processes take the lock again the moment they have let it go; return how often each had it."""

    def hold_often() -> int:
        lock, count = WriterLock(Path(folder), 30), 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with lock.held("take turns"):
                time.sleep(0.002)  # as long as a small commit
            count += 1
        return count

    started = [fork(hold_often) for _ in range(processes)]
    return [wait(*each)[1] for each in started]


@command
def compete(folder: str, writers: int, seconds: float) -> list[dict[str, float]]:
    """Let several processes commit as often as they can."""
    started = [fork(partial(write_for, folder, f"writer {number}", seconds)) for number in range(writers)]
    return [wait(*each)[1] for each in started]


@command
def claim_and_wait(folder: str) -> None:
    """Claim a segment as for a large write, leave two files under its name, and wait to be killed."""
    writer = Writer(Path(folder), durability="power", lock_timeout=10)
    with writer.transaction("claim a segment") as catalog:
        segment = ClaimedSegment()
        segment.claim_as(catalog, writer.segments, "write")
    segment.path.touch()
    segment.path.with_name(segment.path.name + ".tmp").touch()
    print(segment.path.name, flush=True)
    time.sleep(600)


@command
def open_and_close(folder: str) -> int:
    """Open and close every file of the catalog by other means than SQLite, until the parent says stop."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    print("ready", flush=True)
    rounds = 0
    while not stop.is_set():
        for path in Path(folder).glob("catalog.sqlite3*"):
            path.read_bytes()
        rounds += 1
    return rounds


def drop_rights() -> None:
    """Become a user who owns nothing; what is needed later is loaded while it still can be."""
    with tempfile.TemporaryDirectory() as name, FaissVetorStorage(name) as store:
        store.write(documents("a", 2), vectors(2))
        store.search(vectors(2))
        store.verify()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@command
def read_without_rights(folders: list[str]) -> list[dict[str, Any]]:
    """Open stores first for writing, then for reading, as a user who may not write."""
    drop_rights()
    return [try_without_rights(folder) for folder in folders]


def try_without_rights(folder: str) -> dict[str, Any]:
    """Return what the two attempts gave: a count, or an error."""
    result: dict[str, Any] = {"write": "", "read": "", "problems": []}
    try:
        FaissVetorStorage(folder)
    except StorageError as exc:
        result["write"] = f"{type(exc).__name__}: {exc}"
    try:
        with FaissVetorStorage(folder, read_only=True) as store:
            result["read"] = len(store.search(vectors(1)[0], k=10_000))
            result["problems"] = store.verify().problems
    except StorageError as exc:
        result["read"] = f"{type(exc).__name__}: {exc}"
    return result


@command
def start_without_rights(folder: str) -> dict[str, Any]:
    """Start the services on a store that this user may not write to; search it, and try to write."""
    import oraculo_kit as oraculo

    with tempfile.TemporaryDirectory() as name:  # loads what cannot be loaded without rights
        oraculo.use(name)
        oraculo.sources()
        oraculo.search("nota fiscal", mode="text")
        oraculo.stop_services()
    drop_rights()
    os.chdir("/")
    os.environ["ORACULO_STORE"] = folder
    services = oraculo.start_services()
    found = oraculo.search("nota fiscal", k=50, mode="text")
    try:
        oraculo.remove(oraculo.sources()["source"][0])
    except StorageError as exc:
        return {"found": len(found), "lines": services.lines, "error": f"{type(exc).__name__}: {exc}"}
    return {"found": len(found), "lines": services.lines, "error": ""}


@command
def count_without_rights(folder: str) -> None:
    """Count by searching, again whenever the parent says so, as a user who may not write."""
    drop_rights()
    with FaissVetorStorage(folder, read_only=True) as store:
        for _ in range(3):
            print(len(store.search(vectors(1)[0], k=1000)), flush=True)
            sys.stdin.readline()


@command
def power_cuts(folder: str, synchronous: str, every: int, policies: list[str]) -> dict[str, Any]:
    """Live through the scenario, then cut the power and examine what is left.

    It is cut after every acknowledgement and after every so many operations; see `Disk.cut` for the policies.
    """
    if synchronous == "OFF":
        configure = Catalog._configure

        def never_wait(self: Catalog, read_only: bool, durability: str) -> None:
            configure(self, read_only, durability)
            self.db.pragma("synchronous", "OFF")

        Catalog._configure = never_wait
    shrink_limits()
    log: list[Operation] = []
    watching = True

    def record(operation: Operation, do: Do) -> Any:
        if watching:
            log.append(operation)
        return do(operation.data)

    watch(record)
    original = Path(folder) / "original"
    live(
        original,
        lambda number: log.append(Operation("ack", str(number))),
        "process" if synchronous == "NORMAL" else "power",
    )
    watching = False
    disk, chance, acknowledged = Disk(), random.Random(7), 0
    result: dict[str, Any] = {"operations": len(log), "cuts": 0, "lost": 0, "problems": []}
    for place, operation in enumerate(log):
        disk.do(operation)
        if operation.kind == "ack":
            acknowledged = int(operation.path)
        elif place % every:
            continue
        for policy in policies:
            left = Path(folder) / f"{place} {policy}"
            for name, content in disk.cut(policy, chance).items():
                path = left / Path(name).relative_to(original)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            lost, problems = examine(left, acknowledged)
            result["cuts"] += 1
            result["lost"] += lost
            result["problems"] += [f"cut {place} ({policy}): {problem}" for problem in problems]
            shutil.rmtree(left)
    return result


def fork(function: Callable[[], Any]) -> tuple[int, int]:
    """Run a function in a fork of this process; return what `wait` needs."""
    ready, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(answer, json.dumps(function()).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(answer)
    return pid, ready


def wait(pid: int, ready: int) -> tuple[int, Any]:
    """Return the signal that ended a fork (0: none) and its function's result."""
    with open(ready, "rb") as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status), None
    if status:
        raise RuntimeError("the forked process failed; see standard error")
    return 0, json.loads(text)


def forked(function: Callable[[], Any]) -> tuple[int, Any]:
    """Run a function in a fork of this process and wait for its end."""
    return wait(*fork(function))


@command
def die_at_each_operation(folder: str, first: int, every: int) -> dict[str, Any]:
    """Kill a process at one operation after the other, in the middle of writes too, and examine what it left."""
    acknowledged = Path(folder) / "acknowledged"

    def live_until(death: int, where: Path) -> int:
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            if ticks == death:
                os.kill(os.getpid(), signal.SIGKILL)
            ticks += 1

        def do_or_die(operation: Operation, do: Do) -> Any:
            tick()
            if operation.kind == "write":
                if ticks == death:
                    do(operation.data[: len(operation.data) // 2])
                tick()
            return do(operation.data)

        acknowledged.write_text("0")
        watch(do_or_die)
        live(where, lambda number: acknowledged.write_text(str(number)) and None)
        return ticks

    shrink_limits()
    live(Path(folder) / "warm", lambda _number: None)  # loads everything before the first fork
    examine(Path(folder) / "warm", len(STATES) - 1)
    _, total = forked(lambda: live_until(-1, Path(folder) / "whole"))
    result: dict[str, Any] = {"operations": total, "deaths": 0, "lost": 0, "problems": []}
    for death in range(first, total, every):
        where = Path(folder) / str(death)
        ended, _ = forked(partial(live_until, death, where))
        result["deaths"] += ended == signal.SIGKILL
        _, (lost, problems) = forked(partial(examine, where, int(acknowledged.read_text())))
        result["lost"] += lost
        result["problems"] += [f"death {death}: {problem}" for problem in problems]
        shutil.rmtree(where, ignore_errors=True)
    return result


def write_until_killed(folder: str, who: str, answer: int) -> None:
    """Write and replace without end; acknowledge each through a pipe."""
    with FaissVetorStorage(folder) as store:
        os.write(answer, b"[]\n")
        number = sum(row.chunks for row in store.sources() if row.source == f"{who} grows")
        while True:
            count = 1 + number % 7
            names = store.write(documents(f"{who} grows", count, number), vectors(count, number))
            store.replace(
                f"{who} changes", documents(f"{who} changes", count, version=number), vectors(count)
            )
            os.write(answer, json.dumps([who, names, number, count]).encode() + b"\n")
            number += count


@command
def kill_writers(folder: str, rounds: int, check_every: int) -> dict[str, Any]:
    """Kill two writers at random moments, again and again, and look for what they had acknowledged."""
    chance = random.Random(11)
    known: dict[str, set[str]] = {"one": set(), "two": set()}
    newest: dict[str, int] = {}
    result: dict[str, Any] = {"acknowledged": 0, "kills": 0, "problems": []}

    def examine_now() -> list[str]:
        problems = []
        with FaissVetorStorage(folder) as store:
            there: set[str] = set()
            changing: dict[str, list[int]] = {}
            for page in store.iter_documents():
                for document in page:
                    there.add(str(document.id))
                    if "version" in document.metadata:
                        changing.setdefault(document.metadata["source"], []).append(
                            document.metadata["version"]
                        )
            for who, names in known.items():
                if not names <= there:
                    problems.append(f"{len(names - there)} acknowledged chunks of {who} are lost")
                versions = changing.get(f"{who} changes", [])
                if versions and (len(set(versions)) > 1 or len(versions) != 1 + versions[0] % 7):
                    problems.append(f"{who} has a partial source: versions {versions}")
                if newest.get(who, -1) > max(versions, default=-1):
                    problems.append(f"{who} has version {versions}, acknowledged was {newest[who]}")
            problems += store.verify().problems
        return problems

    for round_ in range(1, rounds + 1):
        ready, answer = os.pipe()
        pids = []
        for who in known:
            pid = os.fork()
            if pid == 0:
                os.close(ready)
                try:
                    shrink_limits()
                    write_until_killed(folder, who, answer)
                finally:
                    os._exit(1)
            pids.append(pid)
        os.close(answer)
        if round_ % 4:  # else they may die while they open the store
            select.select([ready], [], [], 10)
        for pid in pids:
            time.sleep(chance.random() * 0.2)
            os.kill(pid, signal.SIGKILL)
            result["kills"] += os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        with open(ready, "rb") as pipe:
            for line in pipe.read().decode().splitlines():
                if line == "[]":
                    continue
                who, names, number, count = json.loads(line)
                known[who].update(names)
                newest[who] = number
                result["acknowledged"] += count
        if round_ % check_every == 0 or round_ == rounds:
            _, problems = forked(examine_now)
            result["problems"] += [f"round {round_}: {problem}" for problem in problems]
    return result


@command
def durable_writes(folder: str, durability: str) -> None:
    """Make two small writes and a large one, each followed by a line on standard output."""
    shrink_limits()
    commit.CHECKPOINT_PAGES = 80  # a new catalog alone is half as long: the first write must not move the log
    with FaissVetorStorage(folder, durability=durability) as store:
        for number, count in enumerate((2, 3, 20)):
            store.replace(f"s{number}", documents(f"s{number}", count), vectors(count))
            os.write(1, f"acknowledged {number}\n".encode())


@command
def write_many(folder: str, who: str, chunks: int, at_once: int) -> list[str]:
    """Write chunks in commits of some; return their ids."""
    with FaissVetorStorage(folder) as store:
        wait_for_parent()
        names: list[str] = []
        for first in range(0, chunks, at_once):
            made = documents(f"{who} {first // at_once % 4}", at_once, first)
            names += store.write(made, vectors(at_once, first))
    return names


@command
def write_and_replace(folder: str, who: str, seconds: float) -> dict[str, Any]:
    """For some seconds add chunks to one source and replace another whole; return what was acknowledged."""
    with FaissVetorStorage(folder) as store:
        wait_for_parent()
        names: list[str] = []
        version, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            version += 1
            count = 3 + version % 5
            names += store.write(documents(f"{who} grows", count, len(names)), vectors(count, version))
            store.replace(
                f"{who} changes", documents(f"{who} changes", count, version=version), vectors(count, version)
            )
    return {"names": names, "version": version}


@command
def search_all_along(folder: str, others: list[str], seconds: float) -> dict[str, Any]:
    """For some seconds search in every way, now and then with a new handle; return what looked wrong."""
    wrong: list[str] = []
    searches = 0
    store = FaissVetorStorage(folder, read_only=True)
    newest = dict.fromkeys(others, 0)
    wait_for_parent()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        searches += 1
        for who in others:
            source = f"{who} changes"
            queries = vectors(12 if searches % 3 else 1, searches)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for hits in store.search(queries, k=20, filter={"source": source}):
                    versions = {hit.metadata["version"] for hit in hits}
                    if not hits and newest[who] == 0:
                        continue  # not written yet
                    if len(versions) != 1 or len(hits) != 3 + min(versions) % 5:
                        wrong.append(f"{len(hits)} chunks of versions {versions} of {source}")
                        continue
                    if min(versions) < newest[who]:
                        wrong.append(f"version {versions} of {source} after {newest[who]}")
                    newest[who] = min(versions)
            everything = store.search(queries[0], k=5)
            if [hit.score for hit in everything] != sorted((hit.score for hit in everything), reverse=True):
                wrong.append("hits out of order")
            texts = store.search("nota fiscal", k=5, mode="text")
            found = store.get([hit.id for hit in texts])
            if any(not document.page_content for document in found):
                wrong.append("a chunk without text")
        if searches % 10 == 0:
            store.close()
            store = FaissVetorStorage(folder, read_only=searches % 20 == 0)
    store.close()
    return {"wrong": wrong, "searches": searches, "newest": newest}


@command
def fork_beside_threads(folder: str, children: int) -> dict[str, Any]:
    """Fork again and again while two threads write and search; every child writes and searches too."""
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks beside threads
    store = FaissVetorStorage(folder, lock_timeout=20)
    store.replace("base", documents("base", 300), vectors(300))
    store.search(vectors(50))  # on all of OpenMP's threads
    store.search(vectors(1))
    names: list[str] = []
    errors: list[str] = []
    stop = threading.Event()

    def work(who: str) -> None:
        number = 0
        try:
            while not stop.is_set():
                names.extend(store.write(documents(who, 1, number), vectors(1, number)))
                store.search(vectors(1 + number % 2 * 30, number), k=3)
                number += 1
        except BaseException as exc:
            errors.append(f"{who}: {type(exc).__name__}: {exc}")

    def in_child(number: int) -> list[str]:
        signal.alarm(20)  # a child that hangs is killed, and reported
        written = []
        for place in range(3):
            written += store.write(documents(f"child {number}", 1, place), vectors(1, place))
        assert len(store.search(vectors(1), k=3)[0]) == 3
        assert [len(hits) for hits in store.search(vectors(40), k=3)] == [3] * 40
        assert len(store.search("nota fiscal", mode="text")) > 0
        assert set(written) <= {str(document.id) for document in store.get(written)}
        return written

    threads = [threading.Thread(target=work, args=(f"thread {number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    started = []
    for number in range(children):
        time.sleep(0.03)
        started.append(fork(partial(in_child, number)))
    ended = [wait(*each) for each in started]
    stop.set()
    for thread in threads:
        thread.join(30)
    for ended_by, written in ended:
        if ended_by:
            errors.append(f"a child was ended by signal {ended_by}")
        else:
            names += written
    report = store.verify()
    lost = len(set(names) - {str(document.id) for page in store.iter_documents() for document in page})
    store.close()
    return {"errors": errors, "lost": lost, "written": len(names), "problems": report.problems}


@command
def fork_and_leave(folder: str) -> dict[str, Any]:
    """Fork a child that uses the store and ends like any program, while the parent goes on."""
    with FaissVetorStorage(folder) as store:
        store.write(documents("parent", 5), vectors(5))
        store.search(vectors(20))
        pid = os.fork()
        if pid == 0:
            store.write(documents("child", 2), vectors(2))
            store.close()
            sys.exit(0)
        status = os.waitpid(pid, 0)[1]
        store.write(documents("parent", 5, 5), vectors(5))
        counts = {row.source: row.chunks for row in store.sources()}
        return {"status": status, "counts": counts, "problems": store.verify().problems}


@command
def interrupted_often(folder: str, rounds: int) -> dict[str, Any]:
    """Be interrupted, as by Ctrl-C in a notebook, at random moments of writing and searching."""
    chance = random.Random(3)
    errors: list[str] = []
    names: list[str] = []
    interrupts = 0
    shrink_limits()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    with FaissVetorStorage(folder, lock_timeout=5) as store:
        store.write(documents("a", 5), vectors(5))
        store.search(vectors(1))
        for number in range(rounds):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + chance.random() * 0.01)
                late = time.monotonic() + 2
                while True:
                    if time.monotonic() > late:  # it struck in a destructor, where Python drops it
                        signal.setitimer(signal.ITIMER_REAL, 0.001)
                        late = time.monotonic() + 2
                    if (
                        number % 2
                    ):  # nothing but short transactions: an interrupt often strikes at their edges
                        len(store)
                    else:
                        count = 1 + number % 14
                        names += store.write(documents("a", count, len(names)), vectors(count, number))
                        store.search(vectors(1), k=3)
            except KeyboardInterrupt:
                interrupts += 1
            except Exception as exc:
                signal.setitimer(signal.ITIMER_REAL, 0)
                errors.append(f"round {number}: {type(exc).__name__}: {exc}")
            if number % 25 == 0:
                with FaissVetorStorage(folder, lock_timeout=5) as other:  # nothing stayed locked
                    other.write(documents("b", 1), vectors(1))
        there = {str(document.id) for page in store.iter_documents() for document in page}
        problems = store.verify().problems
    return {"errors": errors, "interrupts": interrupts, "lost": len(set(names) - there), "problems": problems}


@command
def write_with_full_disk(folder: str) -> dict[str, Any]:
    """Write while files may not grow beyond a size, for many sizes; then with room again."""
    import resource  # POSIX only

    shrink_limits()
    result: dict[str, Any] = {"refused": [], "others": [], "problems": []}

    def put(store: FaissVetorStorage, source: str, count: int, version: int) -> None:
        store.replace(source, documents(source, count, version=version), vectors(count, version, 512))

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    with FaissVetorStorage(folder) as store:
        put(store, "known", 20, 1)
        size = max(path.stat().st_size for path in Path(folder).rglob("*"))
        for extra in range(0, 60_000, 5000):
            for source, count in (
                ("new", 5),
                ("large", 400),
            ):  # the segment of 400 alone is larger than the limit
                before = stored(store)
                limit(size + extra)
                try:
                    put(store, source, count, extra)
                except StorageError as exc:
                    result["refused"].append(str(exc))
                    if stored(store) != before:
                        result["problems"].append(f"the refused {source} {extra} left something")
                except BaseException as exc:
                    result["others"].append(f"{type(exc).__name__}: {exc}")
            limit(resource.RLIM_INFINITY)
            result["problems"] += store.verify().problems
            left = [path.name for path in Path(folder, "segments").iterdir()]
            result["problems"] += [f"{left} were left"] if len(left) != store.stats().segments else []
        put(store, "new", 5, 1)
        put(store, "large", 400, 1)
        result["counts"] = {source: len(texts) for source, texts in stored(store).items()}
        result["problems"] += store.verify().problems
    return result


@command
def reembed_slowly(folder: str) -> None:
    """Embed a store again, a little at a time; print how much is done."""
    from tests.storage.test_reembedding import OtherEmbeddings

    def tell(done: int, _total: int) -> None:
        print(done, flush=True)
        time.sleep(0.2)

    reembedding.STAGE_ROWS, reembedding._EMBED_ROWS = 20, 10
    with FaissVetorStorage(folder) as store:
        store.reembed(OtherEmbeddings(), tell)


@command
def optimize_for_ever(folder: str, seed: int) -> None:
    """Write, delete and build indexes until killed."""
    from tests.storage.test_optimizing import clustered

    optimizing.INDEX_ROWS = 500
    with FaissVetorStorage(folder, durability="process") as store:
        wait_for_parent()
        for turn in range(1000):
            names = store.write(documents(f"{seed} {turn}", 40), clustered(40, turn))
            store.remove(names[::2])
            store.optimize(0.9)


def main() -> None:
    """Run the command that the command line names."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(COMMANDS[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
