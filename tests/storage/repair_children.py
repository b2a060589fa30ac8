"""What the tests of snapshots and repairs run in processes of their own; see `tests.storage.children`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.children import command, main, wait_for_parent
from tests.storage.kit import documents, stored_ids, vectors


@command
def keep_open(folder: str) -> list[Any]:
    """Search again whenever the parent says so, with a store that stays open; at the end write to it."""
    seen: list[Any] = []
    with FaissVetorStorage(folder) as store:
        store.write(documents("before", 1), vectors(1, 7))
        for _ in range(2):
            hits = store.search(vectors(1, 3)[0], k=1000)
            seen.append(
                [sorted({hit.source for hit in hits}), len(hits), len(store.search("nota", 9, mode="text"))]
            )
            print("searched", flush=True)
            sys.stdin.readline()
        store.write(documents("after", 2), vectors(2, 8))
        seen.append(sorted(stored_ids(store)))
    return seen


@command
def search_until_told(folder: str) -> dict[str, Any]:
    """Search until the parent says stop; count searches and errors."""
    import threading

    stop = threading.Event()
    found: dict[str, Any] = {"searches": 0, "errors": [], "most": 0}
    with FaissVetorStorage(folder, read_only=True) as store:
        wait_for_parent()
        threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
        while not stop.is_set():
            try:
                found["most"] = max(found["most"], len(store.search(vectors(1)[0], k=1000)))
                store.search("nota fiscal", mode="text")
            except Exception as exc:
                found["errors"].append(f"{type(exc).__name__}: {exc}")
            found["searches"] += 1
    return found


@command
def repair_until(folder: str, step: int) -> int:
    """Repair a store, and die at a step: a commit, a write of a segment, or a copy of a catalog; return the steps."""
    from oraculo_kit.embed import Embedder
    from oraculo_kit.storage import repairing
    from oraculo_kit.storage.catalog import Catalog
    from oraculo_kit.storage.claims import ClaimedSegment
    from oraculo_kit.storage.findings import Findings
    from tests.storage.kit import TinyEmbeddings

    steps = 0

    def dying(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            result = function(*arguments, **options)
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for owner, name in (
        (Catalog, "set_meta"),
        (ClaimedSegment, "write"),
        (ClaimedSegment, "adopt"),
        (repairing, "copy_catalog"),
        (Findings, "set_aside"),
        (Findings, "set_aside_rows"),
        (repairing, "collect"),
    ):
        setattr(owner, name, dying(getattr(owner, name)))
    repairing.repair_store(Path(folder), Embedder(TinyEmbeddings()))
    return steps


if __name__ == "__main__":
    main()
