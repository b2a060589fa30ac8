"""How embedding is done, as far as settings decide it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oraculo_kit.settings import Settings

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """Bounds of requests, and the place of the cache.

    Parameters
    ----------
    requests : int
        Requests to a remote model at a time, per process.
    rate : float
        Requests to a remote model per minute, of all processes that share the cache; 0 for no limit.
    cache : str or None
        Path of the cache's database; None for no cache.
    cache_bytes : int
        The largest that the cache grows.
    """

    requests: int = 4
    rate: float = 0.0
    cache: str | None = None
    cache_bytes: int = 512 * _MIB

    @classmethod
    def of(cls, settings: Settings) -> EmbedOptions:
        """Return what settings say; the cache lies in their project."""
        folder = os.path.join(settings.project_root, ".oraculo", "cache")
        return cls(
            requests=settings.embed_requests,
            rate=settings.embed_rate,
            cache=os.path.join(folder, "embeddings.sqlite3") if settings.embedding_cache_mb else None,
            cache_bytes=int(settings.embedding_cache_mb * _MIB),
        )

    @classmethod
    def resolve(cls) -> EmbedOptions:
        """Return what the environment says, for an embedder without services: bounds, and no cache.

        A store that a script opens by its path must not make a cache, or find another project's, wherever the
        script happens to stand.
        """
        from oraculo_kit.settings import Settings

        return replace(cls.of(Settings.resolve()), cache=None)
