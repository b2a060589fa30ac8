"""A chunk in its document: with the one before and the one after, and what they share marked. Knows nothing of widgets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.base import VetorStorage
from oraculo_kit.storage.context import seam
from oraculo_kit.storage.results import Hit
from oraculo_kit.storage.snapshot import StoredChunk
from oraculo_kit.widgets.nodes import Node, marked, node, table

__all__ = ["Passage", "metadata_table", "read_passage", "reader"]

Spans = Callable[[str], Sequence[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk and its neighbours; None at the ends of the source."""

    before: StoredChunk | None
    chunk: StoredChunk
    after: StoredChunk | None


def read_passage(store: VetorStorage, source: str, ordinal: int, id: str | None = None) -> Passage:
    """Read a chunk and its neighbours from the store now.

    Parameters
    ----------
    store : VetorStorage
    source : str
    ordinal : int
        Place of the chunk in its source.
    id : str, optional
        Of the chunk, where it is known.

    Raises
    ------
    QueryError
        When the chunk is not in the store any more.
    """
    chunks = store.source_chunks(source, ordinal - 1, ordinal + 1)
    here = [one for one in chunks if one.ordinal == ordinal and id in (None, one.id)]
    if not here:
        raise QueryError(
            f"chunk {ordinal} of {source!r} is not in the store any more: it was deleted or replaced meanwhile. Search again"
        )
    chunk = here[0]

    def nearest(place: int) -> StoredChunk | None:
        # A source that was written in several calls may have several chunks at one place.
        found = [one for one in chunks if one.ordinal == place]
        return min(found, key=lambda one: abs(one.number - chunk.number), default=None)

    return Passage(nearest(ordinal - 1), chunk, nearest(ordinal + 1))


def reader(
    passage: Passage,
    _: Callable[[str], str],
    *,
    title: str,
    spans: Spans | None = None,
    closable: bool = True,
) -> Node:
    """Return a passage as nodes, with buttons for the chunk before and the one after.

    Parameters
    ----------
    passage : Passage
    _ : callable
        The translator.
    title : str
        The source, as it is shown.
    spans : callable, optional
        Where a text is marked.
    closable : bool
        Whether there is a button that closes it.

    Notes
    -----
    Events: ``read`` with the place of a chunk, and ``close``.
    """
    chunk = passage.chunk
    hit = Hit(chunk.id, chunk.text, 0.0, chunk.source, chunk.metadata, chunk.ordinal)
    span = hit.span()
    where = [hit.place(), _("chunk {number}").format(number=chunk.ordinal + 1)]
    if span is not None:
        where.append(_("characters {start} to {end}").format(start=span[0], end=span[1]))
    buttons = node(
        "div",
        _step(_("Previous chunk"), "previous-chunk", passage.before),
        _step(_("Next chunk"), "next-chunk", passage.after),
        node("span", class_="oraculo-fill"),
        node("button", _("Close"), event="close", key="close-reader", class_="oraculo-button")
        if closable
        else None,
        class_="oraculo-toolbar",
        live=True,
    )
    heading = node("h4", title, dir="auto", tabindex=-1, key="reader")
    place = node(
        "p", " · ".join(part for part in where if part), class_="oraculo-muted oraculo-small", dir="auto"
    )
    return node(
        "article",
        node("header", heading, place, buttons),
        _text(passage, _, spans),
        node(
            "footer",
            node(
                "details",
                node("summary", _("Metadata")),
                metadata_table(chunk.metadata, _),
                key="metadata",
            ),
        ),
        class_="oraculo-reader",
        aria_label=_("Document"),
    )


def _step(label: str, key: str, chunk: StoredChunk | None) -> Node:
    place = chunk.ordinal if chunk is not None else None
    return node(
        "button", label, event="read", payload=place, key=key, disabled=chunk is None, class_="oraculo-button"
    )


def _text(passage: Passage, _: Callable[[str], str], spans: Spans | None) -> Node:
    text = passage.chunk.text
    found = spans(text) if spans is not None else []
    shared_before, shared_after = 0, 0
    sections: list[Node] = []
    if passage.before is not None:
        shared_before, between = seam(passage.before, passage.chunk)
        before = passage.before.text
        sections.append(_near((before[: len(before) - shared_before] + between).rstrip("\n")))
    if passage.after is not None:
        shared_after, between = seam(passage.chunk, passage.after)
    # Where both neighbours reach into each other, the text between them counts to the one before.
    end = max(len(text) - shared_after, shared_before)
    sections.append(
        node(
            "section",
            _overlap(text, found, 0, shared_before, _("also in the previous chunk")),
            *marked(text, found, shared_before, end),
            _overlap(text, found, end, len(text), _("also in the next chunk")),
            class_="oraculo-here",
            dir="auto",
            reveal=True,
        )
    )
    if passage.after is not None:
        sections.append(_near((between + passage.after.text[shared_after:]).lstrip("\n")))
    # The name changes with the chunk, so that another one is not shown where this one was scrolled to.
    return node(
        "div",
        *sections,
        class_="oraculo-reader-text",
        key=f"text-{passage.chunk.id}",
        tabindex=0,
        role="region",
        aria_label=_("Text"),
    )


def _near(text: str) -> Node:
    return node("section", text, class_="oraculo-near", dir="auto")


def _overlap(text: str, spans: Sequence[tuple[int, int]], first: int, last: int, title: str) -> Node | None:
    if first >= last:
        return None
    return node("span", *marked(text, spans, first, last), class_="oraculo-overlap", title=title)


def metadata_table(metadata: dict[str, object], _: Callable[[str], str]) -> Node:
    """Return metadata as a table; what is no text is shown as JSON."""
    rows = [
        [key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)]
        for key, value in metadata.items()
    ]
    return table([_("key"), _("value")], rows)
