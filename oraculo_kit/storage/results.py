"""What a search gives: hits in order, readable in a terminal, safe in a notebook, a DataFrame when asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

from oraculo_kit.display import CLASSES, escape, html_table, one_line, short_source, text_table

if TYPE_CHECKING:
    import pandas as pd
    from langchain_core.documents import Document


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk that a search found.

    Attributes
    ----------
    id : str
    text : str
    score : float
        What the hits are ordered by, higher is better. In hybrid and text mode it is comparable within one
        result only; in vector mode it is the cosine.
    source : str
        Key of the source: for a file its absolute path.
    metadata : dict
        The chunk's whole metadata, ``source`` included.
    ordinal : int
        Place of the chunk in its source, from 0.
    vector_score : float or None
        Cosine of query and chunk, from -1 to 1; comparable between queries of one embedder.
    text_score : float or None
        BM25, higher is better, 0 when no word is shared; comparable within one query only.
    """

    id: str
    text: str
    score: float
    source: str
    metadata: dict[str, Any] = field(hash=False)
    ordinal: int = 0
    vector_score: float | None = None
    text_score: float | None = None

    def place(self) -> str:
        """Return where in its source the hit stands: page, sheet, row or heading, as far as known.

        Examples
        --------
        >>> Hit("1", "texto", 1.0, "a.md", {"heading": "Manual > Prazos"}).place()
        'Prazos'
        """
        known = [
            f"{name} {self.metadata[name]}" for name in ("page", "sheet", "row") if self.metadata.get(name)
        ]
        heading = str(self.metadata.get("heading") or "").rpartition(" > ")[2]
        return ", ".join([*known, heading] if heading else known)


@dataclass(frozen=True)
class SearchResults(Sequence[Hit]):
    """The hits of one query, best first; a slice of them is shown in the same way.

    Equal when query, store and hits are, however long the search took.

    Attributes
    ----------
    hits : tuple of Hit
    query : str
        The query's text; empty for a vector.
    mode : str
    store : str
        Location of the store that was searched.
    chunks : int
        How many chunks the store holds.
    seconds : float
        Time of the search, embedding the query included.
    """

    hits: tuple[Hit, ...]
    query: str = ""
    mode: str = "hybrid"
    store: str = ""
    chunks: int = 0
    seconds: float = field(default=0.0, compare=False)
    root: str = ""
    highlight: Callable[[str], list[tuple[int, int]]] | None = field(default=None, compare=False, repr=False)

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> SearchResults: ...

    def __getitem__(self, index: int | slice) -> Hit | SearchResults:
        return replace(self, hits=self.hits[index]) if isinstance(index, slice) else self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    @property
    def documents(self) -> list[Document]:
        """The hits as LangChain documents, in order; their metadata may be changed, it is a copy."""
        from langchain_core.documents import Document

        return [
            Document(page_content=hit.text, metadata=deepcopy(hit.metadata), id=hit.id) for hit in self.hits
        ]

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with the columns id, score, vector_score, text_score, source, ordinal, text, metadata."""
        import pandas as pd

        names = ["id", "score", "vector_score", "text_score", "source", "ordinal", "text", "metadata"]
        return pd.DataFrame([[getattr(hit, name) for name in names] for hit in self.hits], columns=names)

    def _rows(self) -> list[list[object]]:
        return [
            [
                hit.score,
                short_source(hit.source, self.root),
                one_line(hit.place(), _PLACE),
                _Text(hit.text, self),
            ]
            for hit in self.hits
        ]

    def _summary(self) -> str:
        count = len(self.hits)
        found = f"{count} hit{'s' if count != 1 else ''}" if count else f"nothing found in {self.store}"
        query = f" for {one_line(self.query, _QUERY)!r}" if self.query else ""
        return f"{found}{query}, {self.chunks} chunks, {self.seconds * 1000:.0f} ms ({self.mode})"

    def __repr__(self) -> str:
        if not self.hits:
            return self._summary()
        return text_table(["score", "source", "place", "text"], self._rows()) + "\n" + self._summary()

    def _repr_html_(self) -> str:
        if not self.hits:
            return f'<div class="{CLASSES}">{escape(self._summary())}</div>'
        return html_table(
            ["score", "source", "place", "text"],
            self._rows(),
            caption=self._summary(),
            render=lambda cell: cell.html() if isinstance(cell, _Text) else escape(str(cell)),
        )


_QUERY = 80  # columns of a query that are shown
_PLACE = 18  # columns of a hit's place; a heading says enough by its beginning
_LINE = 60  # characters of a chunk that a line of a terminal shows, about
_EXCERPT = 350  # and of one that a notebook shows before somebody asks for all of it
_LEAD = 15  # of them before the first match


class _Text:
    """A chunk's text in a table cell: from where it matches; in a notebook the whole text can be opened."""

    def __init__(self, text: str, results: SearchResults) -> None:
        self._text = text
        self._spans = results.highlight(text) if results.highlight is not None else []

    def _start(self, length: int) -> int:
        """Return where most of the query's words stand within `length` characters."""
        if not self._spans or len(self._text) <= length:
            return 0
        starts = [start for start, _ in self._spans]
        best = max(starts, key=lambda one: (sum(one <= start < one + length for start in starts), -one))
        return self._text.rfind(" ", 0, best - _LEAD) + 1 if best > _LEAD else 0

    def __str__(self) -> str:
        start = self._start(_LINE)
        return ("…" if start else "") + self._text[start:]

    def html(self) -> str:
        if len(self._text) <= _EXCERPT:
            return self._marked(0, len(self._text))
        start = self._start(_EXCERPT)
        excerpt = ("…" if start else "") + self._marked(start, start + _EXCERPT) + "…"
        return f"<details><summary>{excerpt}</summary>{self._marked(0, len(self._text))}</details>"

    def _marked(self, first: int, last: int) -> str:
        parts, at = [], first
        for start, end in self._spans:
            if first <= start and end <= last:
                parts.append(escape(self._text[at:start]))
                parts.append(f"<mark>{escape(self._text[start:end])}</mark>")
                at = end
        parts.append(escape(self._text[at:last]))
        return "".join(parts)


def root_of(store: str) -> str:
    """Return the project folder of a default store, so that sources below it are shown short."""
    marker = os.sep + ".oraculo" + os.sep
    return store.partition(marker)[0] if marker in store else ""
