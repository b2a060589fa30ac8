"""Stores: where chunks, vectors, full text and the ledger of sources live.

`open_storage` is the way in, `base` the interface, `faiss` the embedded store behind it. The storage layer knows
nothing of services, notebooks or command lines. Its modules, by what they are for::

    one commit    schema catalog | prepare records rows commit | claims owners guards identity | lock forks
    vectors       segments manifest precision | scanning half openmp | approximate tuning index_facts indexing
    words         stems language fulltext frequencies
    search        options searching snapshot | filters operands filter_indexes | hybrid candidates ranking diversity
                  context explaining results
    runs          runs ledger moving
    upkeep        compaction purging reembedding optimizing | health verify | repairing and its parts | copies export
    places        folders sharing filesystems
    arguments     what callers hand over, and values: what goes in and out
    engines       asking, what a search asks of any | capabilities | postgres, the same store in a server | adapted, any
                  LangChain vector store with a catalog here
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from oraculo_kit.storage.base import VetorStorage

if TYPE_CHECKING:
    from oraculo_kit.storage.copies import restore_store
    from oraculo_kit.storage.repairing import repair_store

__all__ = ["VetorStorage", "open_storage", "repair_store", "restore_store"]


def __getattr__(name: str) -> Any:
    # Not imported before they are used: workers open stores, and restore or repair none.
    if name == "restore_store":
        from oraculo_kit.storage.copies import restore_store

        return restore_store
    if name == "repair_store":
        from oraculo_kit.storage.repairing import repair_store

        return repair_store
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
    )


def open_storage(
    location: str | os.PathLike[str],
    embedder: Any = None,
    read_only: bool = False,
    *,
    durability: str = "power",
    lock_timeout: float = 60.0,
    precision: str = "float32",
) -> VetorStorage:
    """Open the store at a path, in PostgreSQL or in a LangChain vector store; no services needed.

    Parameters
    ----------
    location : path or URL
        A folder, ``postgresql://user:password@host:5432/database?schema=name``, or
        ``langchain:package.module:factory``, whose ``factory(embeddings)`` gives a LangChain vector store (see
        `oraculo_kit.storage.adapted.store`). It is made when missing, unless `read_only`.
    embedder : Embeddings, str or Embedder, optional
        ``"wordllama"``, ``"provider:model"`` or an object; by default ``ORACULO_EMBEDDER``.
    read_only : bool
        Never write.
    durability : {"power", "process"}
        What a write that returned survives: a power cut, or only a killed process.
    lock_timeout : float
        Longest wait for the writer lock, in seconds.
    precision : {"float32", "float16"}
        How a store that is made now holds its vectors: float16 takes half the space, and its recall is measured.

    Returns
    -------
    VetorStorage
        Use it in a ``with`` block, or close it.

    Raises
    ------
    StorageError
        When there is no such store, or it cannot be trusted; see `oraculo_kit.errors`.
    SettingsError
        For a location that is no path or blank, and for an unknown durability or precision.
    """
    from oraculo_kit.errors import SettingsError
    from oraculo_kit.settings import DEFAULT_EMBEDDER, Settings, absolute_location, is_url

    location = absolute_location(location)
    if embedder is None:
        # Only an embedder that somebody chose is compared on open: a store of another one can still be looked at.
        chosen = Settings.resolve().embedder
        embedder = chosen if chosen != DEFAULT_EMBEDDER else None
    if is_url(location):
        from oraculo_kit.storage.adapted.location import is_adapted
        from oraculo_kit.storage.postgres.location import is_postgres

        if is_adapted(location):
            from oraculo_kit.storage.adapted.store import AdaptedVetorStorage

            return AdaptedVetorStorage(
                location,
                embedder,
                read_only,
                durability=durability,
                lock_timeout=lock_timeout,
                precision=precision,
            )
        if not is_postgres(location):
            raise SettingsError(
                f"got a store URL of scheme {location.partition(':')[0]!r}, expected the path of a folder, "
                "postgresql://user:password@host:5432/database, or langchain:package.module:factory (ORACULO_STORE)"
            )
        from oraculo_kit.storage.postgres.store import PostgresVetorStorage

        return PostgresVetorStorage(
            location,
            embedder,
            read_only,
            durability=durability,
            lock_timeout=lock_timeout,
            precision=precision,
        )
    from oraculo_kit.storage.faiss import FaissVetorStorage

    return FaissVetorStorage(
        location, embedder, read_only, durability=durability, lock_timeout=lock_timeout, precision=precision
    )
