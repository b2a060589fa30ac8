"""What the tests of the PostgreSQL store run in processes of their own; see `tests.storage.children`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from oraculo_kit.storage.postgres.store import PostgresVetorStorage
from tests.storage.kit import TinyEmbeddings, documents, vectors


def _ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def write_many(url: str, who: str, count: int, size: int) -> list[str]:
    """Write chunks in commits of some, sources by turns; return the ids."""
    ids: list[str] = []
    with PostgresVetorStorage(url, TinyEmbeddings()) as store:
        _ready()
        for start in range(0, count, size):
            source = f"{who} {start // size % 4}"
            ids += store.write(documents(source, size, start), vectors(size, start))
    return ids


def replace_for_ever(url: str, who: str) -> None:
    """Replace sources by more or fewer chunks until killed; say each that was acknowledged."""
    with PostgresVetorStorage(url, TinyEmbeddings()) as store:
        _ready()
        for version in range(100_000):
            source, size = f"{who} {version % 3}", 20 + version % 30
            made = documents(source, size, version=version)
            store.replace(source, made, vectors(size, version))
            print(json.dumps([source, version, size]), flush=True)


def same_ids(url: str, who: str) -> int:
    """Write the same ids into sources of one's own, again and again; all do this at once."""
    with PostgresVetorStorage(url, TinyEmbeddings(), lock_timeout=30) as store:
        _ready()
        for turn in range(5):
            made = documents(f"{who} {turn % 2}", 8)
            order = list(range(8)) if turn % 2 else list(range(7, -1, -1))
            store.write([made[place] for place in order], vectors(8), ids=[f"id {place}" for place in order])
        return len(store)


def hold_source(url: str, seconds: float) -> None:
    """Hold the row of a source, as a writer in the middle of its commit does."""
    with PostgresVetorStorage(url, TinyEmbeddings()) as store:
        with store._pool.writing() as session:
            session.rows("SELECT id FROM oraculo_sources FOR UPDATE")
            print("held", flush=True)
            time.sleep(seconds)


def main() -> None:
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    result: Any = globals()[name](*arguments)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
