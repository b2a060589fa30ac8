"""What the tests of the store run in processes of their own: ``python -m tests.storage.children NAME [ARGUMENTS]``.

Arguments come as a JSON list; the result goes to standard output as the last line. Run this way each process is
a fresh one, so it can be killed, forked, limited and stripped of its rights without harm to the test run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
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


def main() -> None:
    """Run the command that the command line names."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(COMMANDS[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
