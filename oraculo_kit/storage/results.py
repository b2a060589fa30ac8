"""What a search gives: hits in order, readable in a terminal, safe in a notebook, a DataFrame when asked."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

from oraculo_kit.display import (
    CLASSES,
    counted,
    escape,
    html_table,
    one_line,
    short_source,
    text_table,
    visible,
)
from oraculo_kit.errors import QueryError, StoreClosedError

if TYPE_CHECKING:
    import pandas as pd
    from langchain_core.documents import Document

    from oraculo_kit.storage.explaining import Explanation
    from oraculo_kit.storage.filters import Filter
    from oraculo_kit.storage.searching import Origin, Searcher


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk that a search found.

    Attributes
    ----------
    id : str
    text : str
    score : float
        What the hits are ordered by, higher is better. Hybrid: fused, from 0 to 1, relative to the other candidates
        of this query, so comparable within one result only. Text: BM25. Vector: the cosine. Reranked: the
        reranker's. (With ``mmr`` the hits stand in the order of choice, and their scores need not fall.)
    source : str
        Key of the source: for a file its absolute path.
    metadata : dict
        The chunk's whole metadata, ``source`` included.
    ordinal : int
        Place of the chunk in its source, from 0.
    vector_score : float or None
        Cosine of query and chunk, from -1 to 1, higher is better; comparable between queries of one embedder. None
        in text mode, which needs no embedder, unless ``min_score`` was given.
    text_score : float or None
        BM25, 0 or more and without upper bound, higher is better; comparable within one query only. None in vector
        mode, and where the full text did not name the chunk as a candidate.
    before, after : str
        With ``context=n`` the text of the neighbouring chunks, without what they share with this one.
    explanation : Explanation or None
        With ``explain=True`` how the score came about.
    """

    id: str
    text: str
    score: float
    source: str
    metadata: dict[str, Any] = field(hash=False)
    ordinal: int = 0
    vector_score: float | None = None
    text_score: float | None = None
    before: str = ""
    after: str = ""
    explanation: Explanation | None = None

    @property
    def context_text(self) -> str:
        """The passage: `before`, `text` and `after` in one."""
        return self.before + self.text + self.after

    def span(self) -> tuple[int, int] | None:
        """Return where the text starts and ends in the text that it comes from (its page's), in characters.

        Examples
        --------
        >>> Hit("1", "texto", 1.0, "a.md", {"start": 10, "end": 15}).span()
        (10, 15)
        """
        start, end = self.metadata.get("start"), self.metadata.get("end")
        if isinstance(start, int) and isinstance(end, int):
            return start, end
        return None

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
    origin: Origin | None = field(default=None, compare=False, repr=False)

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
        """Return the hits as a DataFrame.

        Returns
        -------
        pandas.DataFrame
            Columns id, score, vector_score, text_score, source, ordinal, text, metadata; before and after if there is
            context; and of explained hits vector_part, text_part and wording_part (what each adds to the score),
            matched, missing and likeness.
        """
        import pandas as pd

        names = ["id", "score", "vector_score", "text_score", "source", "ordinal", "text", "metadata"]
        if any(hit.before or hit.after for hit in self.hits):
            names += ["before", "after"]
        frame = pd.DataFrame([[getattr(hit, name) for name in names] for hit in self.hits], columns=names)
        explanations = [hit.explanation for hit in self.hits if hit.explanation is not None]
        if explanations and len(explanations) == len(self.hits):
            for name in ("vector", "text", "wording"):
                parts = [explanation.part(name) for explanation in explanations]
                frame[f"{name}_part"] = [part.value if part is not None else 0.0 for part in parts]
            for name in ("matched", "missing", "likeness"):
                frame[name] = [getattr(explanation, name) for explanation in explanations]
        return frame

    def context(self, hit: Hit, n: int = 1) -> str:
        """Return the passage that a hit stands in: its text with that of its neighbours, read from the store now.

        Parameters
        ----------
        hit : Hit
        n : int
            How many chunks on either side.

        Raises
        ------
        StoreClosedError
            When the store was closed, or these results come from another process.
        QueryError
            When `hit` is no hit, or is not in the store any more.
        """
        return self._searcher().passage(_checked(hit), n)

    def similar(self, hit: Hit, k: int = 5, *, filter: Filter | None = None) -> SearchResults:
        """Return the chunks nearest to a hit by their stored vectors, itself and copies of its text left out.

        Parameters
        ----------
        hit : Hit
        k : int
        filter : dict, optional

        Raises
        ------
        StoreClosedError, QueryError
            As `context`.
        """
        return self._searcher().similar(_checked(hit), k, filter)

    def _searcher(self) -> Searcher:
        if self.origin is None:
            raise StoreClosedError("these results were not made by a store; search one")
        return self.origin.searcher()

    def _rows(self, *, spans: bool = False) -> list[list[object]]:
        return [
            [
                hit.score,
                short_source(hit.source, self.root),
                "\n".join(
                    [one_line(hit.place(), _PLACE), _span_text(hit)]
                    if spans
                    else [one_line(hit.place(), _PLACE)]
                ),
                _Text(hit, self),
            ]
            for hit in self.hits
        ]

    def _why(self) -> list[tuple[int, Explanation]]:
        return [
            (place, hit.explanation) for place, hit in enumerate(self.hits, 1) if hit.explanation is not None
        ]

    def _summary(self) -> str:
        count = len(self.hits)
        found = counted(count, "hit") if count else f"nothing found in {self.store}"
        query = f" for {one_line(self.query, _QUERY)!r}" if self.query else ""
        return f"{found}{query}, {counted(self.chunks, 'chunk')}, {self.seconds * 1000:.0f} ms ({self.mode})"

    def __repr__(self) -> str:
        if not self.hits:
            return self._summary()
        table = text_table(["score", "source", "place", "text"], self._rows())
        before = self._before_reranking()
        why = [f"{place}: {before}{visible(repr(explanation))}" for place, explanation in self._why()]
        return "\n".join([table, *why, self._summary()])

    def _repr_html_(self) -> str:
        if not self.hits:
            return f'<div class="{CLASSES}">{escape(self._summary())}</div>'
        table = html_table(
            ["score", "source", "place", "text"],
            self._rows(spans=True),
            caption=self._summary(),
            render=lambda cell: cell.html() if isinstance(cell, _Text) else escape(str(cell)),
        )
        return table + self._why_html()

    def _why_html(self) -> str:
        rows: list[list[object]] = []
        for place, explanation in self._why():
            for number, row in enumerate(explanation.rows()):
                rows.append([place, *row, explanation.words() if number == 0 else ""])
        if not rows:
            return ""
        header = ["hit", "part", "raw", "scaled", "weight", "value", "words"]
        return html_table(header, rows, caption=f"{self._before_reranking()}how the scores came about")

    def _before_reranking(self) -> str:
        # A reranker puts its own scores in the place of those that were explained.
        same = all(math.isclose(self.hits[place - 1].score, why.score) for place, why in self._why())
        return "" if same else "before reranking, "


def _checked(hit: Any) -> Hit:
    if not isinstance(hit, Hit):
        raise QueryError(f"got {type(hit).__name__} as hit, expected one of the hits, such as results[0]")
    return hit


_QUERY = 80  # columns of a query that are shown
_PLACE = 18  # columns of a hit's place; a heading says enough by its beginning
_LINE = 60  # characters of a chunk that a line of a terminal shows, about
_EXCERPT = 350  # and of one that a notebook shows before somebody asks for all of it
_LEAD = 15  # of them before the first match


def _span_text(hit: Hit) -> str:
    span = hit.span()
    return f"characters {span[0]}-{span[1]}" if span is not None else ""


class _Text:
    """A chunk's text in a table cell: from where it matches; in a notebook the whole text can be opened.

    What was opened shows the context too, if there is any.
    """

    def __init__(self, hit: Hit, results: SearchResults) -> None:
        self._text = hit.text
        self._around = hit.before, hit.after
        self._spans = results.highlight(hit.text) if results.highlight is not None else []

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
        whole = self._marked(0, len(self._text))
        if len(self._text) > _EXCERPT:
            start = self._start(_EXCERPT)
            excerpt = ("…" if start else "") + self._marked(start, start + _EXCERPT) + "…"
        elif any(self._around):
            excerpt = whole
        else:
            return whole
        before, after = (
            f'<span style="opacity:.6">{escape(text)}</span>' if text else "" for text in self._around
        )
        return f"<details><summary>{excerpt}</summary>{before}{whole}{after}</details>"

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
