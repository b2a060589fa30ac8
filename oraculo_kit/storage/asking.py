"""What a search asks of one version of a store, whatever the engine behind it.

The embedded store's `oraculo_kit.storage.snapshot.Snapshot` and PostgreSQL's
`oraculo_kit.storage.postgres.versions.PostgresVersion` answer these questions; everything that ranks chunks asks no
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oraculo_kit.storage.filters import Filter
    from oraculo_kit.storage.snapshot import StoredChunk

    Numbers = NDArray[np.int64]
    Matrix = NDArray[np.float32]


class VersionVectors(Protocol):
    """The vectors of a version; see `oraculo_kit.storage.manifest.Manifest`."""

    @property
    def dimension(self) -> int: ...
    @property
    def epoch(self) -> Any: ...
    @property
    def embedder(self) -> Any: ...

    def top(
        self, queries: Matrix, k: int, allowed: Numbers | None = None, *, exact: bool = False
    ) -> tuple[Matrix, Numbers]:
        """Find the chunks with the highest cosine."""

    def vectors_of(self, numbers: Numbers) -> tuple[Matrix, NDArray[np.bool_]]:
        """Return the vectors of chunks."""


class Version(Protocol):
    """One version of a store; see `oraculo_kit.storage.snapshot.Snapshot`."""

    @property
    def manifest(self) -> VersionVectors: ...

    def count(self) -> int:
        """Return the number of chunks."""

    def resolve(self, filter: Filter | None) -> Numbers | None:
        """Return the numbers of the chunks that pass a filter."""

    def metadata_keys(self) -> list[str]:
        """Return every metadata key but ``source``."""

    def frequency(self, stem: str) -> int:
        """Return in how many chunks a term of the full-text index stands."""

    def text_top(
        self, match: str, k: int, allowed: Numbers | None = None, essential: str | None = None
    ) -> tuple[Numbers, NDArray[np.float64]]:
        """Find the chunks with the highest BM25."""

    def text_matches(self, match: str) -> Numbers:
        """Return the numbers of all chunks that an expression matches."""

    def chunks(self, numbers: Numbers) -> list[StoredChunk]:
        """Read chunks by number."""

    def chunks_by_id(self, ids: Sequence[str]) -> list[StoredChunk]:
        """Read chunks by id."""

    def between(self, source: str, first: int, last: int) -> list[StoredChunk]:
        """Read the chunks of a source from place `first` to place `last`."""


class VersionReader(Protocol):
    """Hands out versions; see `oraculo_kit.storage.snapshot.Reader`."""

    def pin(self) -> AbstractContextManager[Version]:
        """Pin the newest version for the body of a ``with``."""
