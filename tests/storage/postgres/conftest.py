"""Fixtures of the PostgreSQL store's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oraculo_kit.storage.postgres.store import PostgresVetorStorage
from tests.storage.kit import TinyEmbeddings
from tests.storage.postgres.server import new_base


@pytest.fixture
def url() -> Iterator[str]:
    """Return the URL of a base that does not exist yet."""
    with new_base() as url:
        yield url


@pytest.fixture
def open_pg(url: str) -> Iterator[Callable[..., PostgresVetorStorage]]:
    """Return the function that opens the base, once more at each call; closed after the test."""
    opened: list[PostgresVetorStorage] = []

    def open_one(embedder: Any = None, **options: Any) -> PostgresVetorStorage:
        embedder = TinyEmbeddings() if embedder is None else embedder
        opened.append(PostgresVetorStorage(url, embedder, **{"lock_timeout": 10.0, **options}))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def pg(open_pg: Callable[..., PostgresVetorStorage]) -> PostgresVetorStorage:
    """Return an empty store, open for writing, with a small embedder."""
    return open_pg()
