"""The engine that a contract test runs against: every one in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oraculo_kit.storage import VetorStorage
from tests.engines.engines import ENGINES, Engine
from tests.storage.kit import TinyEmbeddings


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Return an engine with an empty location."""
    with ENGINES[request.param](tmp_path) as engine:
        yield engine
        engine.close()


@pytest.fixture
def store(engine: Engine) -> VetorStorage:
    """Return an empty store, open for writing, with a small embedder."""
    return engine.open(TinyEmbeddings())
