"""Erasure: no byte of what was deleted stays in any file of the store.

A deletion hides; its text and vector stay in free pages, in the log, in the full-text index and in segments until
something else needs their place. Duties such as the LGPD's (Lei 13.709/2018, art. 16 and 18) ask for more. Purging
forgets what an unfinished `reembed` has staged, compacts, so that no segment and no full-text page holds a deleted
row, and then, with the writer lock held:

- drops the rows that only speak of deleted chunks: feedback that cites them, outcomes of sources that are gone, metadata keys
  that no chunk has,
- writes the whole database anew (``VACUUM``), so that no page has room that once held something,
- moves the log into the database and empties it, which needs a moment without readers.

Writers wait meanwhile: about 3 s for a million chunks. What lies outside the store stays: snapshots, backups, the
sources themselves, and whatever a file system or an SSD keeps of files that were deleted.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from oraculo_kit.errors import StorageError, StoreLockTimeoutError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.claims import is_claimed
from oraculo_kit.storage.compaction import compact, merge_segments, settle
from oraculo_kit.storage.rows import drop_staged
from oraculo_kit.storage.runs import forget_removed

if TYPE_CHECKING:
    from oraculo_kit.storage.base import Progress
    from oraculo_kit.storage.commit import Writer

_ROUNDS = 10


def purge(writer: Writer, progress: Progress | None = None) -> int:
    """Compact a store and erase what was deleted; return how many deleted vectors were dropped. See `VetorStorage.compact`.

    Raises
    ------
    StoreLockTimeoutError
        When readers or writers leave no moment for it within the lock's time limit. Nothing is lost then; what was
        deleted may still be found in the files.
    """
    _drop_staged(writer)
    dropped = compact(writer, progress)
    for _ in range(_ROUNDS):
        with writer.transaction("drop what speaks of deleted chunks") as catalog:
            _refuse_reembedding(writer, catalog)
            # Somebody may have deleted more since: then the segments must be written once more.
            clean = not catalog.one("SELECT count(*) FROM tombstones")
            if clean:
                _forget(catalog)
                catalog.db.execute("INSERT INTO chunk_text(chunk_text) VALUES ('optimize')")
                catalog.db.execute("DELETE FROM pending WHERE number <= ?", (catalog.meta("flushed"),))
        if clean and _rewrite(writer):
            shutil.rmtree(writer.folder / "damaged", ignore_errors=True)
            return dropped
        settle(writer)
        dropped += merge_segments(writer)
    raise StoreLockTimeoutError(
        f"the store {writer.folder} could not be purged: others kept deleting meanwhile. Try again when it is quiet"
    )


def _drop_staged(writer: Writer) -> None:
    with writer.transaction("drop what an unfinished reembed() left") as catalog:
        _refuse_reembedding(writer, catalog)
        names = drop_staged(catalog)
    writer.remove_dropped(writer.segments / name for name in names)


def _refuse_reembedding(writer: Writer, catalog: Catalog) -> None:
    # It may hold vectors of chunks that were deleted since it read them.
    if is_claimed(catalog, "reembed"):
        raise StorageError(
            f"another process is embedding the store {writer.folder} again; purge it when that has ended"
        )


def _forget(catalog: Catalog) -> None:
    catalog.db.execute(
        "DELETE FROM feedback WHERE EXISTS (SELECT 1 FROM json_each(feedback.sources) AS cited "
        "WHERE cited.value NOT IN (SELECT id FROM chunks))"
    )
    forget_removed(catalog)
    for column, table in (("in_chunks", "chunks"), ("in_sources", "sources")):
        catalog.db.execute(
            f"UPDATE metadata_keys SET {column} = EXISTS (SELECT 1 FROM {table} AS holder, json_each(holder.metadata) "
            f"AS item WHERE item.key = metadata_keys.key) WHERE {column}"
        )
    catalog.db.execute("DELETE FROM metadata_keys WHERE NOT in_chunks AND NOT in_sources")


def _rewrite(writer: Writer) -> bool:
    """Write the database anew and empty its log; False when something was deleted in the meantime."""
    with writer.exclusively("erase deleted data") as catalog:
        if catalog.one("SELECT count(*) FROM tombstones"):
            return False
        catalog.db.execute("VACUUM")
        deadline = time.monotonic() + writer.lock.timeout
        while not catalog.checkpoint(truncate=True):
            if time.monotonic() > deadline:
                raise StoreLockTimeoutError(
                    f"the log of {catalog.path} still holds deleted data, because readers left no moment to empty "
                    "it. Try again when fewer programs search"
                )
            time.sleep(0.01)
    return True
