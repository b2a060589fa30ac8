"""What a search gives: hits in order, readable in a terminal, safe in a notebook, a DataFrame when asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from oraculo_kit.display import escape, html_table, one_line, short_source, text_table

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
    metadata: dict[str, Any]
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
    """The hits of one query, best first.

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
    seconds: float = 0.0
    root: str = ""
    highlight: Callable[[str], list[tuple[int, int]]] | None = field(default=None, compare=False, repr=False)

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...

    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    @property
    def documents(self) -> list[Document]:
        """The hits as LangChain documents, in order."""
        from langchain_core.documents import Document

        return [Document(page_content=hit.text, metadata=dict(hit.metadata), id=hit.id) for hit in self.hits]

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
        found = "nothing found" if not self.hits else f"{len(self.hits)} hits"
        query = f" for {self.query!r}" if self.query else ""
        return f"{found}{query} in {self.chunks} chunks, {self.seconds * 1000:.0f} ms ({self.mode})"

    def __repr__(self) -> str:
        if not self.hits:
            return self._summary()
        return text_table(["score", "source", "place", "text"], self._rows()) + "\n" + self._summary()

    def _repr_html_(self) -> str:
        if not self.hits:
            return f"<div>{escape(self._summary())}</div>"
        return html_table(
            ["score", "source", "place", "text"],
            self._rows(),
            caption=self._summary(),
            render=lambda cell: cell.html() if isinstance(cell, _Text) else escape(str(cell)),
        )


_PLACE = 18  # columns of a hit's place; a heading says enough by its beginning
_SNIPPET = 60  # characters of a chunk that a terminal's line shows, about
_LEAD = 15  # of them before the first match


class _Text:
    """A chunk's text in a table cell: in a terminal from where it matches, in HTML whole, with marks."""

    def __init__(self, text: str, results: SearchResults) -> None:
        self._text = text
        self._results = results

    def _spans(self) -> list[tuple[int, int]]:
        return self._results.highlight(self._text) if self._results.highlight is not None else []

    def __str__(self) -> str:
        spans = self._spans()
        if not spans:
            return self._text
        # From the densest place: where most of the query's words stand within what a line can show.
        best = max(
            spans, key=lambda one: (sum(one[0] <= start < one[0] + _SNIPPET for start, _ in spans), -one[0])
        )
        start = self._text.rfind(" ", 0, max(best[0] - _LEAD, 0)) + 1 if best[0] > _LEAD else 0
        return ("…" if start else "") + self._text[start:]

    def html(self) -> str:
        spans = self._spans()
        parts, at = [], 0
        for start, end in spans:
            parts.append(escape(self._text[at:start]))
            parts.append(f"<mark>{escape(self._text[start:end])}</mark>")
            at = end
        parts.append(escape(self._text[at:]))
        return "".join(parts)


def root_of(store: str) -> str:
    """Return the project folder of a default store, so that sources below it are shown short."""
    marker = os.sep + ".oraculo" + os.sep
    return store.partition(marker)[0] if marker in store else ""
