"""One embedder per store: what a store remembers of it, and the refusal to mix two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from oraculo_kit.errors import EmbedderMismatchError
from oraculo_kit.storage.catalog import Catalog

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAME = 0.999  # cosine of two probe vectors of one model: float rounding differs between machines


class Facts(Protocol):
    """Where a store keeps what it remembers: a `Catalog`, or what another engine has."""

    def meta(self, key: str) -> Any:
        """Return a value, or None."""

    def set_meta(self, key: str, value: Any) -> None:
        """Set a value; part of the transaction that is open."""


class EmbedderIdentity:
    """What a store remembers of its embedder: name and probe vector (float32, shape (dimension,))."""

    def __init__(self, name: str, probe: NDArray[np.float32]) -> None:
        self.name = name
        self.probe = probe

    def check(self, catalog: Facts, folder: Path | str) -> None:
        """Refuse to mix embedders.

        Raises
        ------
        EmbedderMismatchError
            When the store was built by another embedder: another name, another dimension, or the same name and
            a probe vector whose cosine with the stored one is below 0.999.
        """
        name, dimension = catalog.meta("embedder"), catalog.meta("dimension")
        if name is not None and name != self.name:
            raise embedder_mismatch(folder, name, self.name, "")
        if dimension is not None and dimension != len(self.probe):
            raise embedder_mismatch(
                folder,
                name or "ready-made vectors",
                self.name,
                f" (dimension {dimension} against {len(self.probe)})",
            )
        stored = catalog.meta("probe")
        if stored is not None:
            cosine = float(np.frombuffer(stored, "<f4") @ self.probe)
            if cosine < _SAME:
                raise embedder_mismatch(
                    folder, name, self.name, f" (its probe vector has cosine {cosine:.3f})"
                )

    def is_same(self, other: EmbedderIdentity) -> bool:
        """Tell whether this is the very embedder of another store."""
        same_length = len(self.probe) == len(other.probe)
        return self.name == other.name and same_length and float(self.probe @ other.probe) >= _SAME

    def remember(self, catalog: Facts) -> None:
        """Make this the embedder of a store that has none yet; within the write transaction that is open."""
        if catalog.meta("embedder") is None:
            catalog.set_meta("embedder", self.name)
            catalog.set_meta("probe", self.probe.astype("<f4").tobytes())

    def replace(self, catalog: Catalog) -> None:
        """Make this the embedder of the store instead of the one it has; see `oraculo_kit.storage.reembedding`."""
        old = catalog.meta("embedder")
        if old is not None:
            # So that the next ingestion does not take every source for one that must be embedded again.
            catalog.db.execute(
                "UPDATE sources SET pipeline = substr(pipeline, 1, length(pipeline) - length(:old)) || :new "
                "WHERE substr(pipeline, -length(:old) - 1) = '|' || :old",
                {"old": old, "new": self.name},
            )
        catalog.db.execute(
            "DELETE FROM meta WHERE key IN ('embedder', 'probe', 'staged_embedder', 'staged_probe')"
        )
        catalog.set_meta("dimension", len(self.probe))
        self.remember(catalog)

    def has_staged(self, catalog: Facts) -> bool:
        """Tell whether what is staged was made by this very embedder."""
        probe = catalog.meta("staged_probe")
        return (
            catalog.meta("staged_embedder") == self.name
            and probe is not None
            and len(probe) == 4 * len(self.probe)
            and _is_same(probe, self.probe)
        )

    def remember_staged(self, catalog: Facts) -> None:
        """Note whose vectors are being staged."""
        catalog.set_meta("staged_embedder", self.name)
        catalog.set_meta("staged_probe", self.probe.astype("<f4").tobytes())


def _is_same(stored: bytes, probe: NDArray[np.float32]) -> bool:
    return float(np.frombuffer(stored, "<f4") @ probe) >= _SAME


def embedder_mismatch(folder: Path | str, stored: str, given: str, detail: str) -> EmbedderMismatchError:
    """Return the error that names both embedders and the ways out."""
    return EmbedderMismatchError(
        f"the store {folder} was built with embedder {stored}, and this process uses {given}{detail}. Vectors of "
        f"two models cannot be compared. Set ORACULO_EMBEDDER to {stored}; or have every text of the store embedded "
        "anew: open it without an embedder and call reembed(embedder); or choose another store (ORACULO_STORE)"
    )
