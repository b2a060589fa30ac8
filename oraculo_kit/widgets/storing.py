"""What the store browser shows of sources: their list, their state, their chunks. Knows nothing of widgets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal
from urllib.parse import urlsplit

from oraculo_kit.display import one_line, short_source, size_text
from oraculo_kit.errors import QueryError
from oraculo_kit.inputs.base import INSIDE
from oraculo_kit.messages import N_
from oraculo_kit.storage.base import SourceRow, VetorStorage
from oraculo_kit.storage.listing import SourceOrder, SourcePage
from oraculo_kit.storage.snapshot import StoredChunk
from oraculo_kit.widgets.coding import IMPORT, call, store_prefix
from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.paging import page_row
from oraculo_kit.widgets.reading import metadata_table

__all__ = [
    "CHUNKS",
    "ORDERS",
    "PAGE",
    "Listing",
    "Source",
    "State",
    "chunk_list",
    "confirmation",
    "file_state",
    "read_source",
    "source_facts",
    "source_table",
]

Translator = Callable[[str], str]
State = Literal["stored", "changed", "gone", ""]
"""What became of the file behind a source; empty where there is none, as for rows of a table."""

PAGE = 20
"""Sources on a page."""
CHUNKS = 10
"""Chunks of a source on a page."""
ORDERS: Mapping[tuple[SourceOrder, bool], str] = {
    ("source", False): N_("name"),
    ("chunks", True): N_("most chunks"),
    ("chunks", False): N_("fewest chunks"),
    ("bytes", True): N_("largest"),
    ("written_at", True): N_("newest"),
    ("written_at", False): N_("oldest"),
}
STATES: Mapping[str, str] = {
    "stored": N_("up to date"),
    "changed": N_("file changed"),
    "gone": N_("file gone"),
    "": "",
}
_EXCERPT = 160  # characters of a chunk in a list
_NAME = 56  # characters of a source's key in the table; its end says most


@dataclass(frozen=True, slots=True)
class Listing:
    """What of the ledger is on the screen.

    Attributes
    ----------
    contains : str
        A part of the sources' keys.
    order : SourceOrder
    descending : bool
    page : int
        From 0.
    """

    contains: str = ""
    order: SourceOrder = "source"
    descending: bool = False
    page: int = 0

    def read(self, store: VetorStorage) -> tuple[SourcePage, dict[str, State]]:
        """Return the page, and the state of each source on it by key."""
        found = store.list_sources(
            self.contains,
            order=self.order,
            descending=self.descending,
            first=self.page * PAGE,
            count=PAGE,
        )
        return found, {row.source: file_state(row) for row in found.rows}

    def code(self, store: VetorStorage | None, opened: str | None = None, first: int = 0) -> str:
        """Return Python that gives the page, or the chunks of the source that is open.

        Examples
        --------
        >>> print(Listing("nota", page=1).code(None))
        import oraculo_kit as oraculo
        <BLANKLINE>
        store = oraculo.vetor_storage()
        store.list_sources('nota', first=20, count=20).to_pandas()
        <BLANKLINE>
        """
        opening = store_prefix(store)[0] or "store = oraculo.vetor_storage()\n"
        if opened is not None:
            line = call("store.source_chunks", opened, first, first + CHUNKS - 1)
            return f"{IMPORT}\n{opening}{line}\n"
        given: dict[str, object] = {}
        if self.order != "source":
            given["order"] = self.order
        if self.descending:
            given["descending"] = True
        if self.page:
            given["first"] = self.page * PAGE
        values = (self.contains,) if self.contains else ()
        line = f"{call('store.list_sources', *values, **given, count=PAGE)}.to_pandas()"
        return f"{IMPORT}\n{opening}{line}\n"


def file_state(row: SourceRow) -> State:
    """Tell whether the file behind a source is as it was stored, by its size and time; nothing is read.

    A file on a network drive may take a moment: call it in the background.
    """
    known = row.ledger
    if not os.path.isabs(row.source) or (known.mtime_ns is None and known.bytes is None):
        return ""
    if INSIDE in row.source:  # a member of an archive has no file of its own
        return ""
    try:
        found = os.stat(row.source)
    except (OSError, ValueError):
        return "gone"
    same = known.mtime_ns in (None, found.st_mtime_ns) and known.bytes in (None, found.st_size)
    return "stored" if same else "changed"


def origin(source: str) -> str:
    """Return the path or address where a source's content is, of a member of an archive the archive; else empty.

    Examples
    --------
    >>> origin("https://example.org/a.html"), origin("/a.zip!/b.txt"), origin("dataframe/7")
    ('https://example.org/a.html', '/a.zip', '')
    """
    whole = source.partition(INSIDE)[0]
    return whole if os.path.isabs(whole) or urlsplit(whole).netloc else ""


def place_key(source: str) -> str:
    """Return what names a source's row in a pane: its key may hold anything."""
    return hashlib.blake2b(source.encode(errors="replace"), digest_size=8).hexdigest()


def find_row(store: VetorStorage, source: str) -> SourceRow:
    """Return the ledger's row of a source.

    Raises
    ------
    QueryError
        When there is none.
    """
    first, total = 0, 1
    while first < total:  # keys that have this one in them are listed with it
        found = store.list_sources(source, first=first, count=1000)
        for row in found.rows:
            if row.source == source:
                return row
        first, total = first + 1000, found.total
    raise QueryError(
        f"the base {store.location} has no source {source!r}; it may have been deleted meanwhile"
    )


def shown_key(source: str, root: str = "", width: int = _NAME) -> str:
    """Return a source's key short: relative to the project, and its end where it is long."""
    short = str(short_source(source, root)) or "(no name)"
    return short if len(short) <= width else f"…{short[1 - width :]}"


def source_table(
    page: SourcePage,
    states: Mapping[str, State],
    _: Translator,
    *,
    ticked: Collection[str] = (),
    opened: str | None = None,
    root: str = "",
) -> Node:
    """Return a page of sources as a table.

    Notes
    -----
    Events: ``tick`` and ``open`` with the place on the page, ``tick-all``.
    """
    if not page.rows:
        return node("p", _("No source is like that."), class_="oraculo-empty")
    keys = {row.source for row in page.rows}
    every = node(
        "input",
        type="checkbox",
        event="tick-all",
        key="tick-all",
        checked=keys <= set(ticked),
        aria_label=_("Select all on this page"),
    )
    titles = [_("source"), _("chunks"), _("state"), _("size"), _("language"), _("written")]
    if opened is not None:  # the source stands beside the list, which has half the room then
        titles = titles[:3]
    numbers = {1, 3}
    head = node(
        "tr",
        node("th", every, scope="col", class_="oraculo-tick"),
        *(
            node("th", title, scope="col", class_="oraculo-number" if place in numbers else None)
            for place, title in enumerate(titles)
        ),
    )
    rows = [
        _source_row(
            place,
            row,
            states.get(row.source, ""),
            _,
            is_ticked=row.source in ticked,
            is_open=row.source == opened,
            is_narrow=opened is not None,
            root=root,
        )
        for place, row in enumerate(page.rows)
    ]
    return node(
        "table",
        node("thead", head),
        node("tbody", *rows, arrows=True),
        class_="oraculo-table oraculo-sources",
        aria_label=_("Sources"),
    )


def _source_row(
    place: int,
    row: SourceRow,
    state: State,
    _: Translator,
    *,
    is_ticked: bool,
    is_open: bool,
    is_narrow: bool,
    root: str,
) -> Node:
    name = shown_key(row.source, root)
    title = row.metadata.get("title")
    tick = node(
        "input",
        type="checkbox",
        event="tick",
        payload=place,
        key=f"tick-{place_key(row.source)}",
        checked=is_ticked,
        aria_label=_("Select {source}").format(source=name),
    )
    opens = node(
        "button",
        node("span", name, class_="oraculo-hit-source", dir="auto"),
        " ",  # between the two where no style is: GitHub, a screen reader, text
        node("span", one_line(title, _NAME), class_="oraculo-source-title", dir="auto")
        if isinstance(title, str) and title
        else None,
        event="open",
        payload=place,
        key=f"open-{place_key(row.source)}",
        class_="oraculo-plain",
        title=row.source,
        aria_expanded=is_open,
    )
    size = size_text(row.ledger.bytes) if row.ledger.bytes is not None else ""
    cells = [
        node("td", opens),
        node("td", f"{row.chunks:,}", class_="oraculo-number"),
        node(
            "td", _(STATES[state]) if state else "", class_=f"oraculo-quiet oraculo-state-{state or 'none'}"
        ),
        node("td", size, class_="oraculo-number"),
        node("td", row.language or "", dir="auto"),
        node("td", day_and_time(row.written_at), class_="oraculo-quiet"),
    ]
    shown = cells[:3] if is_narrow else cells
    return node(
        "tr",
        node("td", tick, class_="oraculo-tick"),
        *shown,
        class_="oraculo-current" if is_open else None,
    )


def day_and_time(written_at: str) -> str:
    """Return a time of the ledger, to the minute, in this machine's time zone.

    Examples
    --------
    >>> len(day_and_time("2026-03-01T10:11:12+00:00")), day_and_time("?")
    (16, '?')
    """
    import datetime

    try:
        return f"{datetime.datetime.fromisoformat(written_at).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return written_at


@dataclass(frozen=True, slots=True)
class Source:
    """A source with a page of its chunks."""

    row: SourceRow
    state: State
    chunks: Sequence[StoredChunk]
    page: int


def read_source(store: VetorStorage, row: SourceRow, page: int = 0) -> Source:
    """Read a page of a source's chunks from the store now."""
    chunks = store.source_chunks(row.source, page * CHUNKS, (page + 1) * CHUNKS - 1)
    return Source(row, file_state(row), chunks, page)


def source_facts(source: Source, _: Translator, *, root: str = "") -> Node:
    """Return what the ledger knows of a source, with its metadata and a button that closes it."""
    row = source.row
    size = size_text(row.ledger.bytes) if row.ledger.bytes is not None else ""
    said = [
        _("chunks: {count}").format(count=f"{row.chunks:,}"),
        size,
        row.language or "",
        day_and_time(row.written_at),
        _(STATES[source.state]) if source.state else "",
    ]
    close = node(
        "button", _("Close"), event="close-source", key="close-source", class_="oraculo-button", live=True
    )
    heading = node(
        "h4", shown_key(row.source, root, 200), dir="auto", tabindex=-1, key="source", class_="oraculo-fill"
    )
    facts = {
        _("embedded as"): row.ledger.pipeline,
        _("run"): row.ledger.run,
        _("content"): row.ledger.content_hash or "",
    }
    known = {name: value for name, value in facts.items() if value}
    return node(
        "header",
        node("div", heading, close, class_="oraculo-toolbar oraculo-source-head"),
        node("p", " · ".join(part for part in said if part), class_="oraculo-muted oraculo-small"),
        node(
            "details",
            node("summary", _("Metadata")),
            metadata_table({"source": row.source, **row.metadata, **known}, _),
            key="source-metadata",
        ),
    )


def chunk_list(source: Source, _: Translator) -> Node:
    """Return a page of a source's chunks; event ``chunk`` with the place in the source, ``chunks`` for pages."""
    if not source.chunks:
        return node("p", _("There are no chunks here."), class_="oraculo-empty")
    items = [
        node(
            "li",
            node(
                "button",
                node("span", f"{chunk.ordinal + 1}", class_="oraculo-chunk-number"),
                " ",
                node("span", one_line(chunk.text, _EXCERPT), class_="oraculo-chunk-text", dir="auto"),
                event="chunk",
                payload=chunk.ordinal,
                key=f"chunk-{chunk.id}",
                class_="oraculo-plain",
            ),
        )
        for chunk in source.chunks
    ]
    pages = page_row(source.page, CHUNKS, source.row.chunks, _, event="chunks", label=_("Pages of chunks"))
    return node(
        "div",
        node("ol", *items, class_="oraculo-chunks", arrows=True, aria_label=_("Chunks")),
        pages,
        class_="oraculo-chunks-box",
    )


def confirmation(text: str, verb: str, _: Translator, *, details: Sequence[str] = (), root: str = "") -> Node:
    """Return a question with the answers ``confirm`` and ``keep``; the first names of what it concerns are below it."""
    shown = [shown_key(each, root) for each in details[:5]]
    more = len(details) - len(shown)
    if more > 0:
        shown.append(_("and {count} more").format(count=f"{more:,}"))
    return node(
        "section",
        node("p", node("strong", text)),
        node("ul", *(node("li", each, dir="auto") for each in shown), class_="oraculo-muted"),
        node(
            "div",
            node("button", verb, event="confirm", key="confirm", class_="oraculo-button oraculo-danger"),
            node("button", _("Cancel"), event="keep", key="keep", class_="oraculo-button"),
            class_="oraculo-toolbar",
        ),
        class_="oraculo-question",
        role="alertdialog",
        aria_label=text,
        live=True,
    )


def extension(source: str) -> str:
    """Return the format that a source's name ends with, without the dot; empty when it has none.

    Examples
    --------
    >>> extension("/a/b.PDF"), extension("https://x.org/p.html?q=1.2"), extension("dataframe/7")
    ('pdf', 'html', '')
    """
    parts = urlsplit(source)
    path = parts.path if parts.netloc else source
    suffix = PurePath(path.replace("\\", "/")).suffix[1:].lower()
    return suffix if suffix.isalnum() and len(suffix) <= 8 else ""
