"""`SearchExplorer`: ask, look at the hits, read them in their documents, and compare two ways to search."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets

from oraculo_kit.errors import QueryError
from oraculo_kit.evaluating.comparison import Comparison
from oraculo_kit.messages import N_
from oraculo_kit.storage.base import MODES
from oraculo_kit.storage.results import Hit, SearchResults
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.filtering import FilterEditor
from oraculo_kit.widgets.hitlists import gains, hit_list, shown_source
from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.paging import page_row
from oraculo_kit.widgets.pane import Pane
from oraculo_kit.widgets.reading import Passage, read_passage, reader
from oraculo_kit.widgets.searching import NAMES, PAGE, Question, Way, warm_up

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.storage.base import Mode, VetorStorage
    from oraculo_kit.widgets.background import Job

_DEPTHS = (10, 20, 30, 50, 100)
_NARROW = {"width": "auto"}
_MODES = {"hybrid": N_("hybrid"), "vector": N_("vector"), "text": N_("text")}


class SearchExplorer(Explorer):
    """Search the base by hand.

    Parameters
    ----------
    query : str, optional
        Asked at once.
    k : int
        How many hits, ten on a page.
    mode : {"hybrid", "vector", "text"}
    store : VetorStorage, optional
        By default the base of the services.

    Attributes
    ----------
    results : SearchResults or Comparison or None
        What is on the screen.

    Raises
    ------
    QueryError
        When `query` is no text, or `mode` or `k` cannot be asked for.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> _ = oraculo.ingest([Document("Como emitir nota fiscal", metadata={"source": "ajuda.md"})], progress=False)
    >>> explorer = oraculo.SearchExplorer("emissão de notas")
    >>> explorer.wait()
    True
    >>> [hit.source for hit in explorer.results]
    ['ajuda.md']
    >>> print(explorer.code())
    import oraculo_kit as oraculo
    <BLANKLINE>
    results = oraculo.search('emissão de notas', k=30, explain=True)
    results[0:10]
    <BLANKLINE>
    """

    title: ClassVar[str] = N_("Search")

    def __init__(
        self, query: str = "", *, k: int = 30, mode: Mode = "hybrid", store: VetorStorage | None = None
    ) -> None:
        if not isinstance(query, str):
            raise QueryError(f"got {type(query).__name__} as query, expected a text")
        if mode not in MODES:
            raise QueryError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 1000:
            raise QueryError(f"k is {k!r}, expected a whole number from 1 to 1000")
        super().__init__(store)
        self.question = Question()
        self.results: SearchResults | Comparison | None = None
        self.page = 0
        self._opened: Hit | None = None
        self._opened_place = 0
        self._passage: Passage | None = None
        self._ticked: dict[str, Hit] = {}
        self._make_controls(query, k, mode)
        self._lists = [Pane(), Pane()]
        for pane, name in zip(self._lists, NAMES, strict=True):
            pane.on_event(self.handler(partial(self._told, name)))
        self._reader = Pane()
        self._reader.on_event(self.handler(partial(self._told, "")))
        self._lists_box = ipywidgets.HBox([self._lists[0]])
        self._lists_box.add_class("oraculo-columns")
        self.compose(self._first_row, self._second_row, self._other_row, self._filter, self._lists_box)
        self._show()
        if query.strip():
            self.handler(self.search)()
        else:  # while somebody thinks of a question
            self.background(lambda _job: warm_up(self.store), lambda _warm: None, lane="model")

    def _make_controls(self, query: str, k: int, mode: Mode) -> None:
        _ = self.translated
        self._query = ipywidgets.Text(
            value=query,
            placeholder=_('Ask in your own words; "words in a row" and -word have a meaning'),
            description=_("Query"),
            continuous_update=False,
            style={"description_width": "initial"},
        )
        self._query.add_class("oraculo-grow")
        depths = sorted({*_DEPTHS, k})
        self._k = ipywidgets.Dropdown(
            options=depths,
            value=k,
            description=_("Hits"),
            style={"description_width": "initial"},
            layout=_NARROW,
        )
        self._button = ipywidgets.Button(
            description=_("Search"), icon="search", button_style="primary", layout=_NARROW
        )
        self._compare = ipywidgets.ToggleButton(
            description=_("Compare"),
            icon="columns",
            tooltip=_("Two ways to search side by side"),
            layout=_NARROW,
        )
        self._way = _WayControls(self, _("Mode"), mode)
        self._other = _WayControls(self, _("Mode B"), "text" if mode != "text" else "vector")
        self._filter = FilterEditor(self, self.search)
        self._first_row = _row(self._query, self._k, self._button)
        self._second_row = _row(*self._way.children, self._compare)
        self._other_row = _row(*self._other.children)
        self._other_row.layout.display = "none"
        again = self.handler(lambda _change: self.search())
        for control in (self._query, self._k):
            control.observe(again, "value")
        self._button.on_click(again)
        self._compare.observe(self.handler(lambda _change: self._compare_changed()), "value")

    # What it does

    def search(self, query: str | None = None) -> None:
        """Ask what the controls say, in the background; an answer that is still awaited is given up.

        Parameters
        ----------
        query : str, optional
            Put into the query box first.
        """
        if query is not None and query != self._query.value:
            self._query.value = query  # its observer asks
            return
        with self.lock:
            question = self._asked()
            if not question.query.strip():
                self._show_results(question, None)
                return
            store = self.store
            _ = self.translated
            self.say(_("Searching..."))
            self.background(
                lambda _job: question.ask(store) if question.other is None else question.compare(store),
                partial(self._show_results, question),
            )

    def open_hit(self, place: int, name: str = NAMES[0]) -> None:
        """Show a hit in its document.

        Parameters
        ----------
        place : int
            From 0, among all hits.
        name : {"A", "B"}
            The list, while two ways are compared.

        Raises
        ------
        QueryError
            When there is no such hit.
        """
        with self.lock:
            results = self._results_of(name)
            if results is None or not 0 <= place < len(results.hits):
                raise QueryError(
                    f"there is no hit {place}; hits have the places 0 to {len(results or ()) - 1}"
                )
            hit = results.hits[place]
            self._opened_place = place
            self._read(hit.source, hit.ordinal, hit)

    def _read(self, source: str, ordinal: int, hit: Hit | None = None) -> None:
        store = self.store

        def work(_job: Job) -> Passage:
            return read_passage(store, source, ordinal, hit.id if hit is not None else None)

        def done(passage: Passage) -> None:
            self._passage = passage
            self._opened = hit or self._opened
            self._show()
            if hit is not None:
                self._reader.focus("reader")

        self.background(work, done, lane="reader")

    def close_reader(self) -> None:
        """Show the list of hits alone."""
        with self.lock:
            opened, self._opened, self._passage = self._opened, None, None
            self._show()
            if opened is not None:
                self._lists[0].focus(f"open-{NAMES[0]}-{opened.id}")

    def _told(self, name: str, event: str, payload: Any, checked: bool | None) -> None:
        if event == "open":
            self.open_hit(payload["place"], name)
        elif event == "tick":
            results = self._results_of(name)
            if results is not None:
                hit = results.hits[payload["place"]]
                self._ticked.pop(hit.id, None)
                if checked:
                    self._ticked[hit.id] = hit
                self._show()
        elif event == "page":
            self.page = payload
            self._show()
        elif event == "read" and self._passage is not None:
            self._read(self._passage.chunk.source, payload)
        elif event == "close":
            self.close_reader()

    def _asked(self) -> Question:
        return Question(
            query=self._query.value,
            k=self._k.value,
            way=self._way.value,
            other=self._other.value if self._compare.value else None,
            conditions=self._filter.conditions,
        )

    def _compare_changed(self) -> None:
        self._other_row.layout.display = None if self._compare.value else "none"
        _ = self.translated
        self._way.mode.description = _("Mode A") if self._compare.value else _("Mode")
        self.search()

    # What it shows

    def _results_of(self, name: str) -> SearchResults | None:
        if isinstance(self.results, Comparison):
            return self.results.results[name or NAMES[0]][0]
        return self.results

    def _show_results(self, question: Question, results: SearchResults | Comparison | None) -> None:
        self.question, self.results = question, results
        self.page, self._opened, self._passage, self._ticked = 0, None, None, {}
        self.say(self._told_of(results))
        self._show()

    def _told_of(self, results: SearchResults | Comparison | None) -> str:
        _ = self.translated
        if results is None:
            return ""
        if isinstance(results, Comparison):
            common, _share, overlap = results.alike()
            return _("Hits in common: {common}, rank-biased overlap: {overlap}").format(
                common=common, overlap=f"{overlap:.2f}"
            )
        return _("Hits: {count}, chunks: {chunks}, {milliseconds} ms").format(
            count=len(results), chunks=f"{results.chunks:,}", milliseconds=round(results.seconds * 1000)
        )

    def _show(self) -> None:
        trees = self._list_nodes()
        for pane, tree in zip(self._lists, trees, strict=False):
            pane.show(tree)
        panes = list(self._lists[: len(trees)])
        if self._passage is not None:
            self._reader.show(self._reader_node(self._passage))
            panes.append(self._reader)
        if list(self._lists_box.children) != panes:
            self._lists_box.children = panes
        self.refresh()

    def _list_nodes(self) -> list[Node]:
        _ = self.translated
        opened = self._opened.id if self._opened is not None else None
        results = self.results
        if results is None:
            return [node("p", _("Ask something to see the hits."), class_="oraculo-empty")]
        if isinstance(results, SearchResults):
            hits = hit_list(results, _, page=self.page, opened=opened, ticked=self._ticked, name=NAMES[0])
            return [node("div", hits, page_row(self.page, PAGE, len(results.hits), _))]
        trees: list[Node] = []
        ways = (self.question.way, self.question.other or Way())
        for name, way, chips in zip(NAMES, ways, gains(results, _), strict=True):
            found = results.results[name][0]
            heading = node("h4", f"{name}: {self._way_text(way)}")
            hits = hit_list(
                found, _, page=self.page, opened=opened, ticked=self._ticked, chips=chips, name=name
            )
            trees.append(node("section", heading, hits, page_row(self.page, PAGE, len(found.hits), _)))
        return trees

    def _way_text(self, way: Way) -> str:
        _ = self.translated
        said = [_(_MODES[way.mode])]
        if way.diverse:
            said.append(_("Different hits"))
        if way.one_per_source:
            said.append(_("One per source"))
        return ", ".join(said)

    def _reader_node(self, passage: Passage) -> Node:
        results = self._results_of(NAMES[0])
        title = shown_source(passage.chunk.source, results.root if results is not None else "")
        spans = results.highlight if results is not None else None
        return reader(passage, self.translated, title=title, spans=spans)

    # What it answers

    @property
    def selection(self) -> pd.DataFrame:
        """The hits that are ticked, else the one that is open, as `SearchResults.to_pandas` has them."""
        with self.lock:
            hits = tuple(self._ticked.values()) or ((self._opened,) if self._opened is not None else ())
        return SearchResults(hits).to_pandas()

    def code(self) -> str:
        """Return Python that gives what is on the screen."""
        with self.lock:
            opened = self._opened_place if self._opened is not None else None
            return self.question.code(self._store, self.page, opened)

    def summary(self) -> Node:
        """Return the hits that are on the screen, and the document that is open."""
        _ = self.translated
        asked = [self._way_text(self.question.way)] if self.question.other is None else []
        if self.question.filter is not None:
            asked.append(str(self.question.filter))
        heading = node("h3", _("Search") + f": {self.question.query}") if self.results is not None else None
        told = ", ".join([self._told_of(self.results), *asked]) if self.results is not None else ""
        lists = node("div", *self._list_nodes(), class_="oraculo-columns-static")
        passage = self._reader_node(self._passage) if self._passage is not None else None
        return node(
            "div", heading, node("p", told, class_="oraculo-muted"), lists, passage, class_="oraculo-static"
        )


class _WayControls:
    """The controls of a way to search."""

    def __init__(self, explorer: SearchExplorer, label: str, mode: Mode) -> None:
        _ = explorer.translated
        self.mode = ipywidgets.Dropdown(
            options=[(_(text), value) for value, text in _MODES.items()],
            value=mode,
            description=label,
            style={"description_width": "initial"},
            layout=_NARROW,
        )
        self.diverse = ipywidgets.Checkbox(
            description=_("Different hits"),
            indent=False,
            layout=_NARROW,
            tooltip=_("Hits that differ from each other"),
        )
        self.one_per_source = ipywidgets.Checkbox(
            description=_("One per source"),
            indent=False,
            layout=_NARROW,
            tooltip=_("Only the best hit of each source"),
        )
        self.children = (self.mode, self.diverse, self.one_per_source)
        for control in self.children:
            control.observe(explorer.handler(lambda _change: explorer.search()), "value")

    @property
    def value(self) -> Way:
        return Way(self.mode.value, self.diverse.value, self.one_per_source.value)


def _row(*widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    row = ipywidgets.HBox(widgets)
    row.add_class("oraculo-bar-row")
    return row
