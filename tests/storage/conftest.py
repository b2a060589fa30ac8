"""Fixtures of the store's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oraculo_kit.storage import commit
from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.kit import Child


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where a store may be made."""
    return tmp_path / "store"


@pytest.fixture
def open_store(folder: Path) -> Iterator[Callable[..., FaissVetorStorage]]:
    """Return the function that opens the store in `folder`, once more at each call; closed after the test."""
    opened: list[FaissVetorStorage] = []

    def open_one(**options: Any) -> FaissVetorStorage:
        opened.append(FaissVetorStorage(folder, **{"lock_timeout": 10.0, **options}))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make segments of 20 rows already; return that number."""
    monkeypatch.setattr(commit, "SEGMENT_ROWS", 20)
    return 20


@pytest.fixture
def store(open_store: Callable[..., FaissVetorStorage]) -> FaissVetorStorage:
    """Return an empty store, open for writing."""
    return open_store()


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Return the function that starts a child process; what still runs after the test is killed."""
    started: list[Child] = []

    def start(name: str, *arguments: Any, **options: Any) -> Child:
        started.append(Child(name, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()
        for pipe in (each.process.stdin, each.process.stdout, each.process.stderr):
            if pipe is not None:
                pipe.close()
