"""`MapExplorer`: the base as a plane of points, coloured, searched, lassoed and read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets
import numpy as np

from oraculo_kit.display import one_line, size_text
from oraculo_kit.errors import QueryError
from oraculo_kit.messages import N_
from oraculo_kit.storage.results import root_of
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.emptiness import empty_base
from oraculo_kit.widgets.hitlists import shown_source
from oraculo_kit.widgets.mapping import (
    PAGE,
    MapPoints,
    Neighbourhood,
    chunk_list,
    given_points,
    legend,
    map_code,
    map_picture,
    read_map,
    swatch_class,
)
from oraculo_kit.widgets.nodes import Node, node, png
from oraculo_kit.widgets.pane import Pane
from oraculo_kit.widgets.reading import Passage, read_passage, reader
from oraculo_kit.widgets.scatter import ScatterView, load_scatter

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import VetorStorage
    from oraculo_kit.storage.snapshot import StoredChunk
    from oraculo_kit.widgets.background import Job

_NARROW = {"width": "auto"}
_NEIGHBOURS = (5, 10, 20, 50)
_NOBODY = np.zeros(0, np.int64)
_EXTRA = 'pip install "oraculo_kit[map]"'


class MapExplorer(Explorer):
    """See the base from above: every chunk is a point, chunks that mean the like lie near each other.

    Nothing is computed before the map is displayed, or `draw` is called. With the extra ``map`` (jupyter-scatter) it can
    be zoomed and lassoed, a million points too; without it it is a picture, and everything else works.

    Parameters
    ----------
    query : str, optional
        Marked on the map with its nearest chunks.
    color : str, optional
        The metadata key that colours the points, or ``"source"``; ``""`` for one colour. By default one that tells
        parts of the base apart, if there is one.
    k : int
        Neighbours of the query.
    coordinates : DataFrame or (ids, array), optional
        Instead of principal components, such as UMAP's: a DataFrame with the columns id, x, y, or with ids as index and
        two columns; or a pair of ids and an array of shape (n, 2).
    interactive : bool
        False for the picture even where the extra is installed; some browsers have no WebGL.
    store : VetorStorage, optional
        By default the base of the services.

    Attributes
    ----------
    points : MapPoints or None
        What is on the map.

    Raises
    ------
    QueryError
        When an argument cannot be used.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> _ = oraculo.ingest([Document("Como emitir nota fiscal", metadata={"source": "ajuda.md"})], progress=False)
    >>> explorer = oraculo.MapExplorer("emissão de notas", interactive=False)
    >>> explorer.draw()
    >>> explorer.wait()
    True
    >>> list(explorer.selection["source"])
    ['ajuda.md']
    """

    title: ClassVar[str] = N_("Map")

    def __init__(
        self,
        query: str = "",
        *,
        color: str | None = None,
        k: int = 10,
        coordinates: Any = None,
        interactive: bool = True,
        store: VetorStorage | None = None,
    ) -> None:
        if not isinstance(query, str):
            raise QueryError(f"got {type(query).__name__} as query, expected a text")
        if color is not None and not isinstance(color, str):
            raise QueryError(f"got {type(color).__name__} as color, expected a metadata key")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 1000:
            raise QueryError(f"k is {k!r}, expected a whole number from 1 to 1000")
        self._given = given_points(coordinates) if coordinates is not None else None
        super().__init__(store)
        self.points: MapPoints | None = None
        self._color = color
        self._interactive = interactive
        self._scatter: ScatterView | None = None
        self._jscatter: Any = None
        self._is_asked = self._is_filling = False
        self._near: Neighbourhood | None = None
        self._chosen = _NOBODY
        self._class: int | None = None
        self._page = 0
        self._chunks: list[StoredChunk] = []
        self._passage: Passage | None = None
        self._hovered: StoredChunk | None = None
        self._drawn: tuple[Any, bytes] | None = None
        self._make_controls(query, k)
        self._picture, self._legend, self._list, self._reader = Pane(), Pane(), Pane(), Pane()
        for pane in (self._legend, self._list, self._reader):
            pane.on_event(self.handler(self._told))
        self._left = ipywidgets.VBox([self._picture, self._legend])
        self._columns = ipywidgets.HBox([self._left])
        self._columns.add_class("oraculo-columns")
        self.compose(self._controls, self._columns)
        self._show()

    def _make_controls(self, query: str, k: int) -> None:
        _ = self.translated
        self._key = ipywidgets.Dropdown(
            options=[(_("one colour"), "")],
            description=_("Colour"),
            style={"description_width": "initial"},
            layout={"width": "auto", "max_width": "14em"},
        )
        self._query = ipywidgets.Text(
            value=query,
            placeholder=_("Marked on the map with its nearest chunks"),
            description=_("Query"),
            continuous_update=False,
            style={"description_width": "initial"},
        )
        self._query.add_class("oraculo-grow")
        self._k = ipywidgets.Dropdown(
            options=sorted({*_NEIGHBOURS, k}),
            value=k,
            description=_("Neighbours"),
            style={"description_width": "initial"},
            layout=_NARROW,
        )
        self._button = ipywidgets.Button(
            description=_("Draw"), icon="refresh", layout=_NARROW, tooltip=_("Draw the base as it is now")
        )
        self._clear = ipywidgets.Button(description=_("Clear"), layout=_NARROW, tooltip=_("Select nothing"))
        self._key.observe(self.handler(lambda _change: self._recolour()), "value")
        for control in (self._query, self._k):
            control.observe(self.handler(lambda _change: self._ask()), "value")
        self._button.on_click(self.handler(lambda _button: self.draw()))
        self._clear.on_click(self.handler(lambda _button: self._choose(_NOBODY)))
        self._controls = ipywidgets.HBox([self._query, self._k, self._key, self._clear, self._button])
        self._controls.add_class("oraculo-bar-row")

    # What it does

    def shown(self) -> None:
        """Draw the map when somebody looks at it for the first time."""
        if not self._is_asked:
            self.draw()

    def draw(self) -> None:
        """Draw the base as it is now, in the background."""
        with self.lock:
            self._is_asked = True
            store, given, color, query, k = (
                self.store,
                self._given,
                self._color,
                self._query.value,
                self._k.value,
            )
            self.say(self.translated(N_("Drawing the map...")))

            def work(job: Job) -> tuple[MapPoints, Neighbourhood | None, list[str], Any]:
                module: list[Any] = []
                # It takes 2 seconds, in which the projection is made.
                loading = threading.Thread(target=lambda: module.append(load_scatter()), daemon=True)
                if self._interactive:
                    loading.start()
                points = read_map(store, given, color, job.checkpoint)
                near = Neighbourhood.of(store, points, query, k) if query.strip() and points.ids else None
                keys = ["source", *(each.name for each in store.metadata_keys())]
                if self._interactive:
                    loading.join()
                return points, near, keys, module[0] if module else None

            self.background(work, self._drawn_now)

    def _drawn_now(self, result: tuple[MapPoints, Neighbourhood | None, list[str], Any]) -> None:
        _ = self.translated
        self.points, self._near, keys, self._jscatter = result
        self._chosen, self._class, self._passage, self._hovered = _NOBODY, None, None, None
        self._color = self.points.colouring.key
        wanted = [*keys, self._color] if self._color and self._color not in keys else keys
        if [value for _label, value in self._key.options] != ["", *wanted]:
            self._is_filling = True
            self._key.options = [(_("one colour"), ""), *((_shown_key(key), key) for key in wanted)]
            self._key.value = self._color
            self._is_filling = False
        if self._scatter is not None:
            self._scatter.close()
            self._scatter = None
        if self._jscatter is not None and self.points.ids:
            points = self.points
            self._scatter = ScatterView(
                self._jscatter,
                points.xy,
                points.colouring,
                self.handler(self._lassoed),
                self.handler(self._hover),
            )
            self._left.children = [self._scatter, self._legend]
            self._mark()
        else:
            self._left.children = [self._picture, self._legend]
        self._tell()
        self._turn(0)

    def _recolour(self) -> None:
        points, store, key = self.points, self.store, self._key.value
        if points is None or self._is_filling or points.colouring.key == key:
            return

        def done(coloured: MapPoints) -> None:
            self.points, self._color, self._class = coloured, key, None
            if self._scatter is not None:
                self._scatter.colour(coloured.colouring)
            self._tell()
            self._show()

        self.say(self.translated(N_("Reading values...")))
        self.background(lambda job: points.coloured(store, key, job.checkpoint), done, lane="colour")

    def _ask(self) -> None:
        points, store, query, k = self.points, self.store, self._query.value, self._k.value
        if points is None:
            return

        def done(near: Neighbourhood | None) -> None:
            self._near, self._chosen, self._class = near, _NOBODY, None
            self._mark()
            self._tell()
            self._turn(0)

        if not query.strip() or not points.ids:
            done(None)
            return
        self.say(self.translated(N_("Searching...")))
        self.background(lambda _job: Neighbourhood.of(store, points, query, k), done, lane="query")

    def _mark(self) -> None:
        if self._scatter is None or self.points is None:
            return
        near = self._near
        places = near.places if near is not None else _NOBODY
        self._scatter.mark(near.at if near is not None else None, self.points.xy[places])

    def select(self, ids: list[str]) -> None:
        """Select chunks, as the lasso does.

        Parameters
        ----------
        ids : list of str
            Those that are not on the map are passed over.
        """
        with self.lock:
            if self.points is not None:
                self._choose(self.points.found(ids))

    def _choose(self, places: NDArray[np.int64], kind: int | None = None) -> None:
        self._chosen, self._class = places, kind
        if self._scatter is not None:
            self._scatter.select(places)
        self._turn(0)

    def _lassoed(self, places: NDArray[np.int64]) -> None:
        if self.points is None or np.array_equal(places, self._chosen):
            return
        self._chosen, self._class = places[places < len(self.points.ids)], None
        self._turn(0)
        if len(self._chosen) == 1:  # a click on a point
            self.read(self.points.ids[int(self._chosen[0])])

    def _hover(self, place: int | None) -> None:
        if place is None or self.points is None or not 0 <= place < len(self.points.ids):
            self._hovered = None
            self._tell()
            return
        store, wanted = self.store, self.points.ids[place]

        def done(chunks: list[StoredChunk]) -> None:
            self._hovered = chunks[0] if chunks else None
            self._tell()

        self.background(lambda _job: store.chunks([wanted]), done, lane="hover")

    def read(self, id: str) -> None:
        """Show a chunk in its document.

        Parameters
        ----------
        id : str
        """
        store = self.store

        def work(_job: Job) -> Passage:
            found = store.chunks([id])
            if not found:
                raise QueryError(f"the chunk {id} is not in the store any more. Draw the map again")
            return read_passage(store, found[0].source, found[0].ordinal, id)

        self.background(work, self._opened, lane="reader")

    def _opened(self, passage: Passage) -> None:
        self._passage = passage
        self._show()
        self._reader.focus("reader")

    def _told(self, event: str, payload: Any, _checked: bool | None) -> None:
        if event == "class" and self.points is not None:
            again = payload == self._class
            places = _NOBODY if again else np.flatnonzero(self.points.colouring.codes == payload)
            self._choose(places, None if again else payload)
        elif event == "open":
            self.read(payload)
        elif event == "page":
            self._turn(payload)
        elif event == "read" and self._passage is not None:
            store, source = self.store, self._passage.chunk.source
            self.background(lambda _job: read_passage(store, source, payload), self._opened, lane="reader")
        elif event == "close" and self._passage is not None:
            closed, self._passage = self._passage.chunk.id, None
            self._show()
            self._list.focus(f"open-{closed}")

    def _turn(self, page: int) -> None:
        self._page = page
        store, ids = self.store, self._listed()[page * PAGE : (page + 1) * PAGE]

        def done(chunks: list[StoredChunk]) -> None:
            self._chunks = chunks
            self._show()

        self.background(lambda _job: store.chunks(ids) if ids else [], done, lane="list")

    def _listed(self) -> list[str]:
        """Return the ids of what the list is of: the selection, else the neighbours."""
        if self.points is None:
            return []
        if len(self._chosen):
            return [self.points.ids[place] for place in self._chosen]
        return [hit.id for hit in self._near.results.hits] if self._near is not None else []

    # What it shows

    def _tell(self) -> None:
        self.say(self._status())

    def _status(self) -> str:
        _ = self.translated
        if self.points is None or not self.points.ids:
            return ""
        if self._hovered is not None:
            chunk = self._hovered
            number = _("chunk {number}").format(number=chunk.ordinal + 1)
            return f"{chunk.source} · {number}: {chunk.text[:120]}"
        said = [_("Chunks: {count}").format(count=f"{len(self.points.ids):,}")]
        if self.points.projection is not None:
            share = sum(self.points.projection.explained)
            said.append(_("share of the variance shown: {share}").format(share=f"{share:.0%}"))
        sent = self._scatter.payload if self._scatter is not None else len(self._picture_now())
        said.append(_("sent to the browser: {size}").format(size=size_text(sent)))
        if self._near is not None and self._near.at is None:
            said.append(_("none of the query's neighbours is on the map"))
        return ", ".join(said)

    def _show(self) -> None:
        _ = self.translated
        if self.points is None:
            self._picture.show(node("p", _("The map is not drawn yet."), class_="oraculo-empty"))
            self.refresh()
            return
        if not self.points.ids:
            self._picture.show(empty_base(_))
        elif self._scatter is None:
            self._picture.show(self._picture_node(), self._advice())
        self._legend.show(legend(self.points, _, self._class) if self.points.ids else None)
        self._list.show(self._list_node() if self.points.ids else None)
        panes: list[Any] = [self._left, self._list]
        if self._passage is not None:
            self._reader.show(self._reader_node(self._passage))
            panes.append(self._reader)
        if list(self._columns.children) != panes:
            self._columns.children = panes
        self.refresh()

    def _advice(self) -> Node | None:
        _ = self.translated
        if not self._interactive:
            return None
        advice = _("This is a picture. For a map to zoom and lasso: {command}, then restart the kernel.")
        return node("p", advice.format(command=_EXTRA), class_="oraculo-muted oraculo-small")

    def _picture_now(self) -> bytes:
        assert self.points is not None
        state = (id(self.points), self._chosen.tobytes(), id(self._near))
        if self._drawn is None or self._drawn[0] != state:
            # Kept, so that it is not drawn again for each summary: a million points take a second or two.
            self._drawn = (state, map_picture(self.points, self._chosen, self._near))
        return self._drawn[1]

    def _picture_node(self) -> Node:
        _ = self.translated
        assert self.points is not None
        described = _("Map of {count} chunks").format(count=f"{len(self.points.ids):,}")
        if self.points.colouring.key:
            described = ", ".join([described, _("Colour") + f": {self.points.colouring.key}"])
        return node("div", png(self._picture_now(), described), class_="oraculo-map-picture")

    def _list_node(self) -> Node:
        _ = self.translated
        listed = self._listed()
        points = self.points
        if not listed or points is None:
            hint = _("Lasso points, choose a colour in the legend, or ask something to see chunks here.")
            return node("p", hint, class_="oraculo-empty")
        if len(self._chosen):
            heading = _("Selected: {count}").format(count=f"{len(listed):,}")
        else:
            heading = _("Nearest to: {query}").format(
                query=self._near.query if self._near is not None else ""
            )
        made = points.colouring
        colours = [
            swatch_class(int(made.codes[points.places[chunk.id]]), made)
            if chunk.id in points.places
            else "oraculo-swatch"
            for chunk in self._chunks
        ]
        opened = self._passage.chunk.id if self._passage is not None else None
        return chunk_list(
            self._chunks,
            len(listed),
            self._page,
            _,
            heading=heading,
            colours=colours,
            opened=opened,
            root=root_of(self.store.location),
        )

    def _reader_node(self, passage: Passage) -> Node:
        title = shown_source(passage.chunk.source, root_of(self.store.location))
        return reader(passage, self.translated, title=title)

    # What it answers

    @property
    def selection(self) -> pd.DataFrame:
        """The selected chunks, else the query's neighbours: id, x, y, source, ordinal, text, metadata."""
        import pandas as pd

        with self.lock:
            ids, points, store = self._listed(), self.points, self._store
        rows = []
        if ids and points is not None:
            for first in range(0, len(ids), 1000):
                for chunk in (store or self.store).chunks(ids[first : first + 1000]):
                    place = points.places.get(chunk.id)
                    x, y = points.raw[place].tolist() if place is not None else (float("nan"), float("nan"))
                    rows.append((chunk.id, x, y, chunk.source, chunk.ordinal, chunk.text, chunk.metadata))
        return pd.DataFrame(rows, columns=["id", "x", "y", "source", "ordinal", "text", "metadata"])

    def code(self) -> str:
        """Return Python that gives what is on the screen."""
        with self.lock:
            ids = self._listed() if len(self._chosen) else []
            return map_code(self._store, self.points, self._near, self._k.value, ids)

    def summary(self) -> Node:
        """Return a picture of the map, its legend, what is listed, and the document that is open."""
        _ = self.translated
        if self.points is None:
            return node("p", _("The map is not drawn yet."), class_="oraculo-muted")
        if not self.points.ids:
            return empty_base(_)
        hovered, self._hovered = self._hovered, None
        status = self._status()
        self._hovered = hovered
        passage = self._reader_node(self._passage) if self._passage is not None else None
        left = node("div", self._picture_node(), legend(self.points, _, self._class))
        lists = node("div", left, self._list_node(), class_="oraculo-columns-static")
        return node(
            "div",
            node("h3", _("Map")),
            node("p", status, class_="oraculo-muted"),
            lists,
            passage,
            class_="oraculo-static",
        )

    # How it is displayed and closed

    def _ipython_display_(self, **keywords: Any) -> None:
        super()._ipython_display_(**keywords)
        self.handler(self.shown)()

    def close(self) -> None:
        """Take it off the screen."""
        super().close()
        scatter = self.__dict__.get("_scatter")
        if scatter is not None:
            scatter.close()


def _shown_key(key: str) -> str:
    return one_line(key, 40) or repr(key)
