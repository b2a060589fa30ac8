"""What the tests of runs and of moved sources run in processes of their own; see `tests.storage.children`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from oraculo_kit.storage.base import SourceDocuments, SourceMove
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.records import LedgerEntry
from oraculo_kit.storage.runs import SourceOutcome
from tests.storage.children import COMMANDS, command, forked, wait_for_parent
from tests.storage.disk import Do, Operation, watch
from tests.storage.kit import TinyEmbeddings, documents, vectors
from tests.storage.scenario import shrink_limits


def opened(folder: str | Path) -> FaissVetorStorage:
    """Open a store for writing."""
    return FaissVetorStorage(folder, TinyEmbeddings(), lock_timeout=20)


def block(source: str, count: int, run: str = "r") -> SourceDocuments:
    """Return a source with its outcome."""
    outcome = SourceOutcome(source, "", run=run, chunks=count)
    return SourceDocuments(source, documents(source, count), vectors(count), LedgerEntry("h"), outcome)


def move(old: str, new: str) -> SourceMove:
    """Return the move of such a source."""
    return SourceMove(old, new, LedgerEntry("h"), {}, SourceOutcome(new, "moved", run="r"))


@command
def run_and_wait(folder: str) -> None:
    """Begin a run, store three sources, and wait to be killed."""
    with opened(folder) as store:
        store.start_run("r", {})
        store.replace_many([block(f"s{number}", 2) for number in range(3)])
        print("begun", flush=True)
        time.sleep(600)


@command
def move_when_told(folder: str, old: str, new: str) -> bool:
    """Move a source at the parent's word; return whether it was moved."""
    with opened(folder) as store:
        wait_for_parent()
        return store.move_many([move(old, new)])[0]


@command
def read_beside_moves(folder: str, seconds: float) -> dict[str, Any]:
    """Read a source that is moved all along, and say what was seen half."""
    names, half, rounds = set(), [], 0
    with FaissVetorStorage(folder, TinyEmbeddings(), read_only=True) as store:
        print("ready", flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rounds += 1
            keys = {hit.source for hit in store.search(vectors(1)[0], 100)}
            (row,) = store.sources()
            names |= keys
            if len(keys) != 1 or row.chunks != 8:
                half.append([sorted(keys), row.chunks])
    return {"names": sorted(names), "half": half, "rounds": rounds}


def die_at_each_operation(
    folder: str, act: Callable[[FaissVetorStorage], Any], found: Callable[[FaissVetorStorage], str]
) -> dict[str, Any]:
    """Kill a process at each operation on the disk while it acts on a store, and say what was found afterwards.

    The store has two sources, each with eight chunks of which some are in a segment, and a run that goes on.
    """
    template = Path(folder) / "template"

    def act_until(death: int, where: Path) -> int:
        ticks = -1  # while it is opened

        def do_or_die(operation: Operation, do: Do) -> Any:
            nonlocal ticks
            if ticks == death >= 0:
                if operation.kind == "write":
                    do(operation.data[: len(operation.data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            ticks += ticks >= 0
            return do(operation.data)

        watch(do_or_die)
        shrink_limits()
        with opened(where) as store:
            ticks = 0
            act(store)
        return ticks

    def examine(where: Path) -> tuple[str, list[str]]:
        with opened(where) as store:
            return found(store), list(store.verify().problems)

    shrink_limits()
    with opened(template) as store:
        store.start_run("r", {})
        store.replace_many([block("a", 8), block("b", 8)])
        store.search("nota", 1)  # loads everything before the first fork
        store.verify()
    shutil.copytree(template, Path(folder) / "whole")
    _, total = forked(partial(act_until, -1, Path(folder) / "whole"))
    result: dict[str, Any] = {"deaths": 0, "problems": [], "found": []}
    for death in range(total):
        where = Path(folder) / str(death)
        shutil.copytree(template, where)
        ended, _ = forked(partial(act_until, death, where))
        result["deaths"] += ended == signal.SIGKILL
        _, (what, problems) = forked(partial(examine, where))
        result["found"].append(what)
        result["problems"] += problems
        shutil.rmtree(where)
    return result


@command
def die_in_replace_many(folder: str) -> dict[str, Any]:
    """Die while sources are stored with their outcomes."""

    def found(store: FaissVetorStorage) -> str:
        there = {row.source for row in store.sources()} - {"a", "b"}
        noted = {outcome.source for outcome in store.outcomes("r")} - {"a", "b"}
        chunks = {document.metadata["source"] for page in store.iter_documents() for document in page} - {
            "a",
            "b",
        }
        if there != noted or there != chunks:
            return f"stored {sorted(there)}, chunks of {sorted(chunks)}, noted {sorted(noted)}"
        return {0: "nothing", 3: "everything"}.get(len(there), f"only {sorted(there)}")

    return die_at_each_operation(
        folder, lambda store: store.replace_many([block(f"s{number}", 3) for number in range(3)]), found
    )


@command
def die_in_move_many(folder: str) -> dict[str, Any]:
    """Die while sources are moved."""

    def found(store: FaissVetorStorage) -> str:
        keys = [row.source for row in store.sources()]
        chunks = sorted(
            {str(document.metadata["source"]) for page in store.iter_documents() for document in page}
        )
        noted = [outcome.source for outcome in store.outcomes("r") if outcome.status == "moved"]
        states: dict[tuple[str, ...], tuple[list[str], str]] = {
            ("a", "b"): ([], "nothing"),
            ("x", "y"): (["x", "y"], "everything"),
        }
        expected, name = states.get(tuple(keys), ([], ""))
        if not name or chunks != keys or noted != expected:
            return f"ledger {keys}, chunks {chunks}, noted {noted}"
        return name

    return die_at_each_operation(
        folder, lambda store: store.move_many([move("a", "x"), move("b", "y")]), found
    )


def main() -> None:
    """Run the function that the command line names."""
    print(json.dumps(COMMANDS[sys.argv[1]](*json.loads(sys.argv[2]))), flush=True)


if __name__ == "__main__":
    main()
