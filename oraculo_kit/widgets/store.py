"""`StoreBrowser`: look at the sources and chunks of a base, delete and ingest them again, and keep the base in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets

from oraculo_kit.display import size_text
from oraculo_kit.errors import QueryError
from oraculo_kit.messages import N_
from oraculo_kit.storage.listing import source_frame
from oraculo_kit.widgets import storing
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.coding import IMPORT, store_prefix
from oraculo_kit.widgets.emptiness import empty_base
from oraculo_kit.widgets.figures import Figures, figures, read_figures, stats_row
from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.paging import page_row
from oraculo_kit.widgets.pane import Pane
from oraculo_kit.widgets.reading import Passage, read_passage, reader
from oraculo_kit.widgets.storing import CHUNKS, ORDERS, PAGE, Listing, Source
from oraculo_kit.widgets.upkeep import (
    TASKS,
    StoppedError,
    delete_sources,
    ingest_again,
    told_health,
    told_progress,
    told_report,
)

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.storage.base import Progress, SourceRow, StoreStats, VetorStorage
    from oraculo_kit.storage.health import HealthReport
    from oraculo_kit.storage.listing import SourcePage
    from oraculo_kit.widgets.background import Job

VIEWS = {"sources": N_("Sources"), "statistics": N_("Statistics"), "upkeep": N_("Upkeep")}
_SHOWN_EVERY = 0.2  # seconds between two pictures of how far some work is

Work = Callable[["Progress"], object]


class StoreBrowser(Explorer):
    """Look at the base, and keep it in order.

    Parameters
    ----------
    contains : str, optional
        Only sources with this in their keys.
    store : VetorStorage, optional
        By default the base of the services.

    Attributes
    ----------
    listing : Listing
        What of the ledger is on the screen.
    report : object
        What came of the last work: a `VerifyReport`, `CompactReport`, `OptimizeReport`, `IngestReport`, or the number of
        chunks that were deleted.

    Raises
    ------
    QueryError
        When `contains` is no text.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> _ = oraculo.ingest([Document("Como emitir nota fiscal", metadata={"source": "ajuda.md"})], progress=False)
    >>> browser = oraculo.StoreBrowser()
    >>> browser.wait()
    True
    >>> browser.show_source("ajuda.md")
    >>> browser.wait()
    True
    >>> list(browser.selection["source"])
    ['ajuda.md']
    """

    title: ClassVar[str] = N_("Store")

    def __init__(self, contains: str = "", *, store: VetorStorage | None = None) -> None:
        if not isinstance(contains, str):
            raise QueryError(f"got {type(contains).__name__} as part of a source's key, expected a text")
        super().__init__(store)
        self.listing = Listing(contains)
        self.report: object = None
        self._view = "sources"
        self._stats: StoreStats | None = None
        self._page: SourcePage | None = None
        self._states: dict[str, storing.State] = {}
        self._ticked: dict[str, SourceRow] = {}
        self._source: Source | None = None
        self._passage: Passage | None = None
        self._figures: Figures | None = None
        self._health: HealthReport | None = None
        self._question: tuple[str, tuple[SourceRow, ...]] | None = None
        self._working = self._root = ""
        self._stop = threading.Event()
        self._make_controls(contains)
        self._head, self._work, self._main, self._detail = Pane(), Pane(), Pane(), Pane()
        for pane in (self._head, self._work, self._main, self._detail):
            pane.on_event(self.handler(self._told))
        self._columns = ipywidgets.HBox([self._main])
        self._columns.add_class("oraculo-columns")
        self.compose(self._head, self._controls, self._work, self._columns)
        self._show()
        self.update()

    def _make_controls(self, contains: str) -> None:
        _ = self.translated
        self._contains = ipywidgets.Text(
            value=contains,
            placeholder=_("A part of the name"),
            description=_("Filter"),
            style={"description_width": "initial"},
        )
        self._contains.add_class("oraculo-grow")
        self._order = ipywidgets.Dropdown(
            options=[(_(text), value) for value, text in ORDERS.items()],
            description=_("Order"),
            style={"description_width": "initial"},
            layout={"width": "auto"},
        )
        self._again = ipywidgets.Button(
            description=_("Refresh"),
            icon="refresh",
            tooltip=_("Read the base again"),
            layout={"width": "auto"},
        )
        self._controls = ipywidgets.HBox([self._contains, self._order, self._again])
        self._controls.add_class("oraculo-bar-row")
        for control in (self._contains, self._order):
            control.observe(self.handler(lambda _change: self._controls_changed()), "value")
        self._again.on_click(self.handler(lambda _button: self.update()))

    # What it does

    def shown(self) -> None:
        """Read the base again if it changed since."""
        store = self.store

        def done(commit: int) -> None:
            if self._stats is None or self._stats.commit == commit:
                return  # nothing changed, or the first reading goes on
            if self._source is not None and self._passage is None:
                self.show_source(self._source.row.source, self._source.page)
            self.update()

        self.background(lambda _job: store.stats().commit, done, lane="commit")

    def update(self) -> None:
        """Read what is on the screen from the base again, in the background."""
        with self.lock:
            listing, view = self.listing, self._view

            def work(job: Job) -> tuple[Any, ...]:
                store = self.store  # here, because the services may have to start first
                found = listing.read(store)
                job.checkpoint()
                last = max((found[0].total - 1) // PAGE, 0)
                if listing.page > last:  # what stood on the last page was deleted
                    found = replace(listing, page=last).read(store)
                job.checkpoint()
                health = store.health() if view == "upkeep" else None
                return min(listing.page, last), found, store.stats(), health, self._project_root()

            def done(result: tuple[Any, ...]) -> None:
                page, (self._page, self._states), self._stats, self._health, self._root = result
                self.listing = replace(listing, page=page)
                self._show()

            self.background(work, done, lane="list")
            if view == "statistics":
                self.background(lambda _job: read_figures(self.store), self._show_figures, lane="figures")

    def show_source(self, source: str, page: int = 0) -> None:
        """Show a source with its chunks.

        Parameters
        ----------
        source : str
            Its key.
        page : int
            Of its chunks, from 0.

        Raises
        ------
        QueryError
            Shown in the explorer when the base has no such source.
        """
        store = self.store

        def work(_job: Job) -> Source:
            return storing.read_source(store, storing.find_row(store, source), page)

        self.background(work, self._show_source, lane="source")

    def _open(self, row: SourceRow, page: int = 0) -> None:
        store = self.store
        self.background(lambda _job: storing.read_source(store, row, page), self._show_source, lane="source")

    def _show_source(self, source: Source) -> None:
        is_other = self._source is None or self._source.row.source != source.row.source
        self._source, self._passage = source, None
        self._show()
        if is_other:
            self._detail.focus("source")

    def _read(self, ordinal: int) -> None:
        if self._source is None:
            return
        store, source = self.store, self._source.row.source
        was_open = self._passage is not None

        def done(passage: Passage) -> None:
            self._passage = passage
            self._show()
            if not was_open:
                self._detail.focus("reader")

        self.background(lambda _job: read_passage(store, source, ordinal), done, lane="source")

    def close_source(self) -> None:
        """Show the list alone."""
        with self.lock:
            source, self._source, self._passage = self._source, None, None
            self._show()
            if source is not None:
                self._main.focus(f"open-{storing.place_key(source.row.source)}")

    def _controls_changed(self) -> None:
        order, descending = self._order.value
        self.listing = Listing(self._contains.value, order, descending)
        self.update()

    def _show_figures(self, found: Figures) -> None:
        self._figures = found
        self._show()

    def _show_view(self, view: str) -> None:
        self._view = view
        self._question = None  # it would stand above another view
        self._controls.layout.display = None if view == "sources" else "none"
        self._show()
        self.update()

    def _told(self, event: str, payload: Any, checked: bool | None) -> None:
        rows = self._page.rows if self._page is not None else ()
        if event == "view" and payload in VIEWS:
            self._show_view(payload)
        elif event in ("open", "tick") and payload < len(rows):
            if event == "open":
                self._open(rows[payload])
            else:
                self._tick((rows[payload],), bool(checked))
        elif event == "tick-all":
            self._tick(rows, bool(checked))
        elif event == "page":
            self.listing = replace(self.listing, page=payload)
            self.update()
        elif event == "chunks" and self._source is not None:
            self._open(self._source.row, payload)
        elif event in ("chunk", "read"):
            self._read(payload)
        elif event == "close":
            self._close_reader()
        elif event == "close-source":
            self.close_source()
        else:
            self._told_of_work(event, payload)

    def _told_of_work(self, event: str, payload: Any) -> None:
        if event in ("delete", "ingest") and self._chosen() and not self._working:
            self._question = (event, self._chosen())
            self._show()
            self._work.focus("keep")
        elif event == "keep":
            asked, self._question = self._question, None
            self._show()
            if asked is not None:
                self._main.focus(asked[0])
        elif event == "confirm" and self._question is not None:
            self._confirmed(*self._question)
        elif event == "task" and payload in TASKS and not self._working:
            store = self.store
            name = self.translated(TASKS[payload][0])
            self._start(name, lambda progress: getattr(store, payload)(progress=progress))
        elif event == "stop" and self._working:
            self._stop.set()
            self._work.show(told_progress(self._working, 0, 0, self.translated, stopping=True))

    def _tick(self, rows: tuple[SourceRow, ...], checked: bool) -> None:
        for row in rows:
            self._ticked.pop(row.source, None)
            if checked:
                self._ticked[row.source] = row
        self._question = None  # it spoke of others
        self._show()

    def _close_reader(self) -> None:
        passage, self._passage = self._passage, None
        self._show()
        if passage is not None:
            self._detail.focus(f"chunk-{passage.chunk.id}")

    def _chosen(self) -> tuple[SourceRow, ...]:
        if self._ticked:
            return tuple(self._ticked.values())
        return (self._source.row,) if self._source is not None else ()

    # Work that changes the base, or takes long

    def _confirmed(self, verb: str, rows: tuple[SourceRow, ...]) -> None:
        _ = self.translated
        self._question = None
        store, keys = self.store, [row.source for row in rows]
        if verb == "delete":
            self._start(_("Deleting"), lambda progress: delete_sources(store, keys, progress), keys)
        else:
            self._start(_("Ingesting again"), lambda progress: ingest_again(store, keys, progress))

    def _start(self, name: str, work: Work, deleted: list[str] | None = None) -> None:
        """Run `work` on a thread of its own, which nothing supersedes; one piece of work at a time."""
        self._working, self.report = name, None
        self._stop.clear()
        self.say("")
        self._advanced(0, 0)
        self._show()
        self._work.focus("stop")
        shown_at = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal shown_at
            if self._stop.is_set():
                raise StoppedError
            if time.monotonic() - shown_at >= _SHOWN_EVERY:
                shown_at = time.monotonic()
                self.handler(self._advanced)(done, total)

        def run(_job: Job) -> object:
            try:
                return work(progress)
            except StoppedError:
                return None

        def done(report: object) -> None:
            self._ended()
            self.report = report
            if report is None:
                self.say(self.translated(N_("Stopped.")))
            self._after_work(deleted or [])

        def failed(_exc: Exception) -> None:
            self._ended()
            self._after_work(deleted or [])

        self.background(run, done, lane="work", failed=failed)

    def _advanced(self, done: int, total: int) -> None:
        if not self._stop.is_set():
            self._work.show(told_progress(self._working, done, total, self.translated))

    def _ended(self) -> None:
        self._working = ""
        self._stop.clear()

    def _after_work(self, deleted: list[str]) -> None:
        for key in deleted:
            self._ticked.pop(key, None)
        if self._source is not None:
            if self._source.row.source in deleted:
                self._source, self._passage = None, None
            else:
                self.show_source(self._source.row.source, self._source.page)
        self._show()
        self._work.focus("report")
        self.update()

    def close(self) -> None:
        """Take the browser off the screen; work that is under way is stopped."""
        if "_stop" in self.__dict__:
            self._stop.set()
        super().close()

    # What it shows

    def _project_root(self) -> str:
        if self._store is not None:
            return ""
        from oraculo_kit.services import ensure_services

        return ensure_services().settings.project_root

    def _show(self) -> None:
        self._head.show(*self._head_nodes())
        if not self._working:
            self._work.show(*self._work_nodes())
        self._main.show(self._view_node(live=True))
        panes = [self._main]
        if self._view == "sources" and self._source is not None:
            self._detail.show(self._detail_node(self._source))
            panes.append(self._detail)
        if list(self._columns.children) != panes:
            self._columns.children = panes
        self.refresh()

    def _head_nodes(self) -> list[Node]:
        _ = self.translated
        tabs = [
            node(
                "button",
                _(name),
                event="view",
                payload=view,
                key=f"view-{view}",
                aria_pressed=view == self._view,
                class_="oraculo-button",
            )
            for view, name in VIEWS.items()
        ]
        nav = node(
            "nav",
            *tabs,
            class_="oraculo-toolbar oraculo-views",
            arrows=True,
            aria_label=_("Views"),
            live=True,
        )
        told = stats_row(self._stats, _) if self._stats is not None else node("p", _("Reading the base..."))
        return [node("div", nav, told, class_="oraculo-head")]

    def _work_nodes(self) -> list[Node]:
        _ = self.translated
        if self._question is not None:
            return [self._question_node(*self._question)]
        if self.report is not None:
            return [node("div", told_report(self.report, _), role="status", tabindex=-1, key="report")]
        return []

    def _question_node(self, verb: str, rows: tuple[SourceRow, ...]) -> Node:
        _ = self.translated
        keys = [row.source for row in rows]
        chunks = sum(row.chunks for row in rows)
        if verb == "delete":
            text = _("Delete from the base? Sources: {sources}, chunks: {chunks}. The files stay.")
            return storing.confirmation(
                text.format(sources=f"{len(rows):,}", chunks=f"{chunks:,}"),
                _("Delete"),
                _,
                details=keys,
                root=self._root,
            )
        text = _("Ingest again? Sources: {sources}. Those that changed replace what is stored of them.")
        asked = text.format(sources=f"{len(rows):,}")
        return storing.confirmation(asked, _("Ingest again"), _, details=keys, root=self._root)

    def _view_node(self, *, live: bool) -> Node:
        _ = self.translated
        if self._view == "statistics":
            if self._figures is None:
                return node("p", _("Counting..."), class_="oraculo-empty")
            return figures(self._figures, _)
        if self._view == "upkeep":
            return self._upkeep_node()
        if self._page is None:
            return node("p", _("Reading the base..."), class_="oraculo-empty")
        page, root = self._page, self._root
        if self._stats is not None and not self._stats.sources:
            return empty_base(_)
        opened = self._source.row.source if self._source is not None else None
        listed = storing.source_table(page, self._states, _, ticked=self._ticked, opened=opened, root=root)
        pages = page_row(self.listing.page, PAGE, page.total, _)
        return node("div", self._actions() if live else None, listed, pages)

    def _actions(self) -> Node:
        _ = self.translated
        chosen = self._chosen()
        idle = not chosen or bool(self._working)
        said = _("selected: {count}").format(count=f"{len(chosen):,}") if chosen else _("nothing selected")

        def button(text: str, event: str) -> Node:
            return node("button", text, event=event, key=event, disabled=idle, class_="oraculo-button")

        return node(
            "div",
            button(_("Delete..."), "delete"),
            button(_("Ingest again..."), "ingest"),
            node("span", said, class_="oraculo-muted", role="status"),
            class_="oraculo-toolbar",
            live=True,
        )

    def _detail_node(self, source: Source) -> Node:
        _ = self.translated
        if self._passage is not None:
            return reader(self._passage, _, title=storing.shown_key(source.row.source, self._root, 200))
        return node(
            "article",
            storing.source_facts(source, _, root=self._root),
            storing.chunk_list(source, _),
            class_="oraculo-reader oraculo-source",
            aria_label=_("Source"),
        )

    def _upkeep_node(self) -> Node:
        _ = self.translated
        tasks = [
            node(
                "li",
                node(
                    "button",
                    _(name),
                    event="task",
                    payload=task,
                    key=f"task-{task}",
                    disabled=bool(self._working),
                    class_="oraculo-button",
                ),
                node("span", _(what), class_="oraculo-muted"),
            )
            for task, (name, what) in TASKS.items()
        ]
        health = told_health(self._health, _) if self._health is not None else None
        return node("div", node("ul", *tasks, class_="oraculo-tasks", live=True), health, self._facts_node())

    def _facts_node(self) -> Node | None:
        _, stats = self.translated, self._stats
        if stats is None:
            return None
        facts = {
            _("where"): stats.location,
            _("size"): size_text(stats.bytes),
            _("files of vectors"): f"{stats.segments:,}",
            _("vectors not in a file yet"): f"{stats.pending:,}",
            _("deleted vectors that take space"): f"{stats.dead:,}",
            _("embedder"): f"{stats.embedder} ({stats.dimension})" if stats.embedder else "",
            _("precision"): stats.precision,
            _("commits"): f"{stats.commit:,}",
        }
        rows = [
            node("tr", node("th", name, scope="row"), node("td", value, dir="auto"))
            for name, value in facts.items()
            if value
        ]
        return node(
            "table", node("tbody", *rows), class_="oraculo-table oraculo-facts", aria_label=_("Facts")
        )

    # What it answers

    @property
    def selection(self) -> pd.DataFrame:
        """The sources that are ticked, else the one that is open, with the columns of `oraculo_kit.sources`."""
        with self.lock:
            return source_frame(self._chosen())

    def code(self) -> str:
        """Return Python that gives what is on the screen."""
        with self.lock:
            opening = store_prefix(self._store)[0] or "store = oraculo.vetor_storage()\n"
            if self._view == "statistics":
                return f"{IMPORT}\n{opening}sample = store.sample()\nstore.stats()\n"
            if self._view == "upkeep":
                return f"{IMPORT}\n{opening}print(store.health())\nstore.verify()\n"
            opened = self._source.row.source if self._source is not None else None
            first = self._source.page * CHUNKS if self._source is not None else 0
            return self.listing.code(self._store, opened, first)

    def summary(self) -> Node:
        """Return the view that is in front, and the source that is open."""
        _ = self.translated
        detail = None
        if self._view == "sources" and self._source is not None:
            detail = self._detail_node(self._source)
        return node(
            "div",
            node("h3", f"{_(self.title)}: {_(VIEWS[self._view])}"),
            *self._head_nodes(),
            *([] if self._question is not None else self._work_nodes()),
            node("div", self._view_node(live=False), detail, class_="oraculo-columns-static"),
            class_="oraculo-static",
        )
