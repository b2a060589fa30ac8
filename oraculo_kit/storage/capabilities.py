"""What an engine can do and what it guarantees: one row per engine, which documentation and tests read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Writers = Literal["processes of one machine", "any machine"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do; what it cannot raises `StoreUnsupportedError`.

    Attributes
    ----------
    engine : str
    writers : {"processes of one machine", "any machine"}
        Who may write at the same time.
    atomic_replace : bool
        A search through oraculo_kit sees a source wholly old or wholly new.
    others_see_whole_sources : bool
        So does another program that reads the engine itself.
    text, hybrid, filters : bool
        k hits that meet the conditions are found if there are k.
    moves : bool
        `move_many` gives a source another key without embedding.
    runs : bool
        Ingestion runs and their outcomes are kept.
    verify : bool
        `verify` proves that chunks, vectors, full text and ledger agree.
    optimize : bool
        `optimize` builds approximate indexes at a measured recall.
    reembed : bool
        `reembed` changes the model in one commit.
    snapshot : bool
        `snapshot` copies one version of the store.
    """

    engine: str
    writers: Writers
    atomic_replace: bool = True
    others_see_whole_sources: bool = True
    text: bool = True
    hybrid: bool = True
    filters: bool = True
    moves: bool = True
    runs: bool = True
    verify: bool = True
    optimize: bool = True
    reembed: bool = True
    snapshot: bool = True

    @property
    def lacks(self) -> frozenset[str]:
        """Names of what it cannot do.

        Examples
        --------
        >>> sorted(Capabilities("x", "any machine", snapshot=False).lacks)
        ['snapshot']
        """
        return frozenset(spec.name for spec in fields(self) if getattr(self, spec.name) is False)


EMBEDDED = Capabilities("embedded (SQLite and FAISS)", "processes of one machine")
POSTGRES = Capabilities("PostgreSQL with pgvector", "any machine", snapshot=False)
ADAPTED = Capabilities(
    "LangChain vector store with a local catalog",
    "processes of one machine",
    others_see_whole_sources=False,
    optimize=False,
    reembed=False,
)
