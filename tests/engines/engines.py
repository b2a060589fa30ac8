"""The engines that the contract tests run against, and what each cannot do.

To test another engine, write a function that gives an `Engine`, and list it in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from oraculo_kit.errors import StoreUnsupportedError
from oraculo_kit.storage import VetorStorage, open_storage
from tests.engines.factories import FOLDER
from tests.storage.postgres.server import new_base


@dataclass
class Engine:
    """A store's engine with one empty location.

    Attributes
    ----------
    name : str
    location : str
        What `open_storage` is given.
    lacks : frozenset of str
        Names of what it cannot do, as its `Capabilities` say; then it must raise `StoreUnsupportedError`.
    """

    name: str
    location: str
    lacks: frozenset[str] = frozenset()
    _opened: list[VetorStorage] = field(default_factory=list)

    def open(self, embedder: Any = None, **options: Any) -> VetorStorage:
        """Open the store, once more at each call; it is closed after the test."""
        self._opened.append(open_storage(self.location, embedder, **{"lock_timeout": 10.0, **options}))
        return self._opened[-1]

    def close(self) -> None:
        """Close what was opened."""
        for store in self._opened:
            store.close()

    @contextmanager
    def able(self, what: str) -> Iterator[None]:
        """Run the body if the engine can do this, else see that the body is refused clearly."""
        if what not in self.lacks:
            yield
            return
        with pytest.raises(StoreUnsupportedError, match=r"\w"):
            yield


@contextmanager
def _faiss(folder: Path) -> Iterator[Engine]:
    yield Engine("faiss", str(folder / "store"))


@contextmanager
def _postgres(folder: Path) -> Iterator[Engine]:
    with new_base() as url:
        yield Engine("postgres", url, frozenset({"snapshot"}))


@contextmanager
def _qdrant(folder: Path) -> Iterator[Engine]:
    pytest.importorskip("langchain_qdrant")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder))
        yield Engine(
            "qdrant",
            f"langchain:tests.engines.factories:qdrant?catalog={quote(str(folder / 'catalog'))}",
            frozenset({"reembed", "optimize", "others_see_whole_sources"}),
        )


ENGINES: dict[str, Callable[[Path], Any]] = {"faiss": _faiss, "postgres": _postgres, "qdrant": _qdrant}
