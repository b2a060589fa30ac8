"""What the tests of the store run in processes of their own: ``python -m tests.storage.children NAME [ARGUMENTS]``.

Arguments come as a JSON list; the result goes to standard output as the last line. Run this way each process is
a fresh one, so it can be killed, forked, limited and stripped of its rights without harm to the test run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oraculo_kit.errors import StorageError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.commit import ClaimedSegment, Writer
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.lock import WriterLock
from tests.storage.disk import Disk, Do, Operation, watch
from tests.storage.kit import documents, vectors
from tests.storage.scenario import examine, live, shrink_limits

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


@command
def write_for(folder: str, who: str, seconds: float) -> dict[str, float]:
    """Commit single chunks for some seconds; return how many, and the longest time one took."""
    with FaissVetorStorage(folder) as store:
        count, longest, matrix = 0, 0.0, vectors(1)
        wait_for_parent()
        end = time.monotonic() + seconds
        while (started := time.monotonic()) < end:
            store.write(documents(who, 1, count), matrix)
            count += 1
            longest = max(longest, time.monotonic() - started)
    return {"count": count, "longest": longest}


@command
def claim_and_wait(folder: str) -> None:
    """Claim a segment as for a large write, leave two files under its name, and wait to be killed."""
    writer = Writer(Path(folder), durability="power", lock_timeout=10)
    with writer._transaction("claim a segment") as catalog:
        segment = ClaimedSegment.claim(catalog, writer.segments, "write")
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
def read_without_rights(folder: str) -> dict[str, Any]:
    """Open a store first for writing, then for reading, as a user who may not write."""
    drop_rights()
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
def count_without_rights(folder: str) -> None:
    """Count by searching, again whenever the parent says so, as a user who may not write."""
    drop_rights()
    with FaissVetorStorage(folder, read_only=True) as store:
        for _ in range(3):
            print(len(store.search(vectors(1)[0], k=1000)), flush=True)
            sys.stdin.readline()


@command
def power_cuts(folder: str, synchronous: str, every: int) -> dict[str, Any]:
    """Live through the scenario, then cut the power after every so many operations and examine what is left."""
    if synchronous == "OFF":
        configure = Catalog._configure

        def never_wait(self: Catalog, read_only: bool, durability: str) -> None:
            configure(self, read_only, durability)
            self.db.pragma("synchronous", "OFF")

        Catalog._configure = never_wait
    shrink_limits()
    log: list[Operation] = []
    watching = True

    def record(operation: Operation, do: Do) -> None:
        if watching:
            log.append(operation)
        do(operation.data)

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
        for policy in Disk.POLICIES:
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


def forked(function: Callable[[], Any]) -> tuple[int, Any]:
    """Run a function in a fork of this process; return the signal that ended it (0: none) and its result."""
    ready, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            result = function()
            os.write(answer, json.dumps(result).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(answer)
    with open(ready, "rb") as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status), None
    if status:
        raise RuntimeError("the forked process failed; see standard error")
    return 0, json.loads(text)


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

        def do_or_die(operation: Operation, do: Do) -> None:
            tick()
            if operation.kind == "write" and ticks == death:
                do(operation.data[: len(operation.data) // 2])
                tick()
            else:
                ticks_of_writes(operation)
                do(operation.data)

        def ticks_of_writes(operation: Operation) -> None:
            nonlocal ticks
            ticks += operation.kind == "write"

        shrink_limits()
        acknowledged.write_text("0")
        watch(do_or_die)
        live(where, lambda number: acknowledged.write_text(str(number)) and None)
        return ticks

    def examine_in_turn(where: Path) -> Any:
        shrink_limits()
        return examine(where, int(acknowledged.read_text()))

    _, total = forked(lambda: live_until(-1, Path(folder) / "whole"))
    result: dict[str, Any] = {"operations": total, "deaths": 0, "lost": 0, "problems": []}
    for death in range(first, total, every):
        where = Path(folder) / str(death)
        ended, _ = forked(lambda: live_until(death, where))
        result["deaths"] += ended == signal.SIGKILL
        _, (lost, problems) = forked(lambda: examine_in_turn(where))
        result["lost"] += lost
        result["problems"] += [f"death {death}: {problem}" for problem in problems]
        shutil.rmtree(where, ignore_errors=True)
    return result


def write_until_killed(folder: str, who: str, answer: int) -> None:
    """Write and replace without end; acknowledge each through a pipe."""
    with FaissVetorStorage(folder) as store:
        number = sum(row.chunks for row in store.sources() if row.source == f"{who} grows")
        while True:
            count = 1 + number % 7
            names = store.write(documents(f"{who} grows", count, number), vectors(count, number))
            store.replace(f"{who} changes", documents(f"{who} changes", count, version=number), vectors(count))
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
                        changing.setdefault(document.metadata["source"], []).append(document.metadata["version"])
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
        for pid in pids:
            time.sleep(chance.random() * 0.08)
            os.kill(pid, signal.SIGKILL)
            result["kills"] += os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        with open(ready, "rb") as pipe:
            for line in pipe.read().decode().splitlines():
                who, names, number, count = json.loads(line)
                known[who].update(names)
                newest[who] = number
                result["acknowledged"] += count
        if round_ % check_every == 0 or round_ == rounds:
            _, problems = forked(examine_now)
            result["problems"] += [f"round {round_}: {problem}" for problem in problems]
    return result


def main() -> None:
    """Run the command that the command line names."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(COMMANDS[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
