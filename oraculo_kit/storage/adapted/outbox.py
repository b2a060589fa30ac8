"""What the LangChain vector store does not have yet: a list in the catalog, kept by the database itself.

Triggers note every chunk that a commit adds, changes or deletes, in the same transaction. So whatever happens after the
commit (the process is killed, the engine is down), nothing is forgotten: the next one that sends finds it. The list is
the truth about the difference, never about the chunks: what is sent is read from the catalog at that moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.catalog import Catalog

MOST_LISTED = 50_000  # owed chunks are searched here, exactly; beyond that all are, which costs no more

_NAMES = ("inserted", "deleted", "changed", "shared")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS engine_outbox(
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, number INTEGER, is_new INTEGER NOT NULL
);
CREATE TRIGGER IF NOT EXISTS engine_inserted AFTER INSERT ON chunks BEGIN
    INSERT INTO engine_outbox(id, number, is_new) VALUES (new.id, new.number, 1);
END;
CREATE TRIGGER IF NOT EXISTS engine_deleted AFTER DELETE ON chunks BEGIN
    INSERT INTO engine_outbox(id, number, is_new) VALUES (old.id, NULL, 0);
END;
CREATE TRIGGER IF NOT EXISTS engine_changed AFTER UPDATE OF id, source, metadata, text ON chunks BEGIN
    INSERT INTO engine_outbox(id, number, is_new) VALUES (old.id, NULL, 0), (new.id, new.number, 0);
END;
CREATE TRIGGER IF NOT EXISTS engine_shared AFTER UPDATE OF key, metadata ON sources
WHEN old.key IS NOT new.key OR old.metadata IS NOT new.metadata BEGIN
    INSERT INTO engine_outbox(id, number, is_new) SELECT id, number, 0 FROM chunks WHERE source = new.id;
END;
"""


class Owed(NamedTuple):
    """Part of what is to be sent.

    Attributes
    ----------
    last : int
        Everything up to this entry is in it.
    ids : list of str
        Chunks that were added, changed or deleted; each once.
    known : set of str
        Those that the engine may have in an older form.
    """

    last: int
    ids: list[str]
    known: set[str]


def has_outbox(catalog: Catalog) -> bool:
    """Tell whether the list is kept."""
    wanted = ["engine_outbox", *(f"engine_{name}" for name in _NAMES)]
    marks = ", ".join("?" * len(wanted))
    found = catalog.one(f"SELECT count(*) FROM sqlite_schema WHERE name IN ({marks})", wanted)
    return int(found) == len(wanted)


def make_outbox(catalog: Catalog) -> None:
    """Begin to keep the list, with every chunk in it; part of the write transaction that is open."""
    catalog.db.execute(_SCHEMA)
    owe_everything(catalog)


def drop_outbox(catalog: Catalog) -> None:
    """Keep no list any more; part of the write transaction that is open."""
    for name in _NAMES:
        catalog.db.execute(f"DROP TRIGGER IF EXISTS engine_{name}")
    catalog.db.execute("DROP TABLE IF EXISTS engine_outbox; DELETE FROM meta WHERE key GLOB 'engine*'")


def owe_everything(catalog: Catalog) -> None:
    """List every chunk; part of the write transaction that is open."""
    catalog.db.execute("INSERT INTO engine_outbox(id, number, is_new) SELECT id, number, 0 FROM chunks")


def owed_count(catalog: Catalog) -> int:
    """Return how many entries the list has."""
    return int(catalog.one("SELECT count(*) FROM engine_outbox")) if has_outbox(catalog) else 0


def owed_numbers(catalog: Catalog) -> NDArray[np.int64] | None:
    """Return the numbers of the listed chunks, int64 rising; None when there are more than `MOST_LISTED`."""
    rows = catalog.rows(
        "SELECT DISTINCT number FROM engine_outbox WHERE number IS NOT NULL LIMIT ?", (MOST_LISTED + 1,)
    )
    if len(rows) > MOST_LISTED:
        return None
    return np.sort(np.array([number for (number,) in rows], np.int64))


def first_owed(catalog: Catalog, count: int) -> Owed | None:
    """Return the oldest entries; None when nothing is owed."""
    rows = catalog.rows("SELECT seq, id, is_new FROM engine_outbox ORDER BY seq LIMIT ?", (count,))
    if not rows:
        return None
    return Owed(
        rows[-1][0], list(dict.fromkeys(row[1] for row in rows)), {row[1] for row in rows if not row[2]}
    )


def settle(catalog: Catalog, last: int) -> None:
    """Drop the entries up to `last`; part of the write transaction that is open."""
    catalog.db.execute("DELETE FROM engine_outbox WHERE seq <= ?", (last,))
