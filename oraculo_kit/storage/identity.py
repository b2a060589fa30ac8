"""One embedder per store: what a store remembers of it, and the refusal to mix two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.errors import EmbedderMismatchError
from oraculo_kit.storage.catalog import Catalog

if TYPE_CHECKING:
    from numpy.typing import NDArray


class EmbedderIdentity:
    """What a store remembers of its embedder: name and probe vector (float32, shape (dimension,))."""

    def __init__(self, name: str, probe: NDArray[np.float32]) -> None:
        self.name = name
        self.probe = probe

    def check(self, catalog: Catalog, folder: Path) -> None:
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
            if cosine < 0.999:
                raise embedder_mismatch(
                    folder, name, self.name, f" (its probe vector has cosine {cosine:.3f})"
                )


def embedder_mismatch(folder: Path, stored: str, given: str, detail: str) -> EmbedderMismatchError:
    """Return the error that names both embedders and the ways out."""
    return EmbedderMismatchError(
        f"the store {folder} was built with embedder {stored}, and this process uses {given}{detail}. Vectors of "
        f"two models cannot be compared. Set ORACULO_EMBEDDER to {stored}, or choose another store "
        "(ORACULO_STORE) and ingest the sources into it"
    )
