"""What the map explorer asks and shows: points, question and neighbours, legend and lists as nodes. Knows no widgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.display import one_line
from oraculo_kit.errors import QueryError
from oraculo_kit.projection import project, values_of
from oraculo_kit.storage.results import SearchResults
from oraculo_kit.widgets.coding import IMPORT, call, literal, store_prefix
from oraculo_kit.widgets.colouring import Colouring, colouring, one_colour, suggested_key
from oraculo_kit.widgets.hitlists import shown_source
from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.paging import page_row
from oraculo_kit.widgets.picture import draw_map, fitted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.projection import Projection
    from oraculo_kit.storage.base import VetorStorage
    from oraculo_kit.storage.snapshot import StoredChunk

__all__ = ["PAGE", "MapPoints", "Neighbourhood", "chunk_list", "given_points", "legend", "read_map"]

Translator = Callable[[str], str]

PAGE = 10
"""Chunks on a page of the list."""
_MOST_IN_CODE = 200  # ids; beyond that nobody reads them
_EXCERPT = 220
_LABEL = 40


@dataclass(frozen=True, eq=False)
class MapPoints:
    """A map: what is where, in which colour.

    Attributes
    ----------
    ids : list of str
    xy : numpy.ndarray
        float32, shape (n, 2), from -1 to 1.
    raw : numpy.ndarray
        float32, shape (n, 2), as they were given or computed.
    colouring : Colouring
    projection : Projection or None
        None for coordinates of somebody's own.
    """

    ids: list[str] = field(repr=False)
    xy: NDArray[np.float32] = field(repr=False)
    raw: NDArray[np.float32] = field(repr=False)
    colouring: Colouring
    projection: Projection | None = None

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each id."""
        return {each: place for place, each in enumerate(self.ids)}

    def found(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the places of ids that are on the map."""
        return np.array([self.places[each] for each in ids if each in self.places], np.int64)

    def coloured(self, store: VetorStorage, key: str, checkpoint: Callable[[], None]) -> MapPoints:
        """Return the same map in other colours."""
        made = (
            colouring(key, values_of(store, key, self.ids, checkpoint)) if key else one_colour(len(self.ids))
        )
        return replace(self, colouring=made)


def given_points(coordinates: Any) -> tuple[list[str], NDArray[np.float32]]:
    """Return ids and float32 (n, 2) of coordinates of somebody's own, such as UMAP's.

    Parameters
    ----------
    coordinates : DataFrame, or (ids, array)
        A DataFrame has the columns id, x and y, or the ids as index and two columns.

    Raises
    ------
    QueryError
        When they are something else, not finite, or an id comes twice.
    """
    expected = "expected a DataFrame with the columns id, x, y, or a pair of ids and an array of shape (n, 2)"
    try:
        if hasattr(coordinates, "columns"):
            if {"id", "x", "y"} <= set(coordinates.columns):
                given, table = coordinates["id"], coordinates[["x", "y"]].to_numpy(np.float64)
            else:
                given, table = coordinates.index, coordinates.to_numpy(np.float64)
        else:
            given, table = coordinates
            table = np.asarray(table, np.float64)
        ids = list(given)
    except (TypeError, ValueError) as exc:
        raise QueryError(f"got {type(coordinates).__name__} as coordinates, {expected}: {exc}") from exc
    if table.shape != (len(ids), 2) or not all(isinstance(each, str) for each in ids):
        raise QueryError(
            f"got coordinates of shape {table.shape} for {len(ids)} ids, {expected}; ids are texts"
        )
    if not np.isfinite(table).all():
        raise QueryError(
            "some coordinates are not finite, expected a number for each. Leave these points out"
        )
    if len(set(ids)) != len(ids):
        raise QueryError("an id stands twice among the coordinates, expected each once")
    return ids, table.astype(np.float32)


def read_map(
    store: VetorStorage,
    given: tuple[list[str], NDArray[np.float32]] | None,
    key: str | None,
    check: Callable[[], None],
) -> MapPoints:
    """Read or compute the map of a store.

    Parameters
    ----------
    store : VetorStorage
    given : (ids, xy), optional
        Coordinates of somebody's own.
    key : str or None
        Coloured by; empty for one colour, None for what suits the base.
    check : callable
        Called now and then; may raise to stop.
    """
    projection = project(store, check) if given is None else None
    ids, raw = (
        (projection.ids, projection.xy)
        if projection is not None
        else given or ([], np.zeros((0, 2), np.float32))
    )
    plain = MapPoints(ids, fitted(raw), raw, one_colour(len(ids)), projection)
    return plain.coloured(store, suggested_key(store) if key is None else key, check)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A question on the map.

    Attributes
    ----------
    query : str
    results : SearchResults
        By meaning only: what lies near is near in the vectors.
    places : numpy.ndarray
        int64: where its neighbours stand in the map.
    at : numpy.ndarray or None
        float32, shape (2,): where it lies itself; amid its neighbours where the map's coordinates are somebody's own.
    """

    query: str
    results: SearchResults
    places: NDArray[np.int64]
    at: NDArray[np.float32] | None

    @classmethod
    def of(cls, store: VetorStorage, points: MapPoints, query: str, k: int) -> Neighbourhood:
        """Ask."""
        results: SearchResults = store.search(query, k, mode="vector", unique=True)
        places = points.found([hit.id for hit in results.hits])
        if not len(places):
            return cls(query, results, places, None)
        embedder = getattr(store, "embedder", None)
        if points.projection is None or embedder is None:
            at = points.xy[places].mean(axis=0)
        else:
            raw = points.projection.place(embedder.embed_queries([query]))
            # Among all points, so that it is moved and scaled as they were; a question may lie beyond their edge.
            low, high = points.raw.min(axis=0), points.raw.max(axis=0)
            half = float((high - low).max()) / 2 or 1.0
            at = np.clip((raw[0] - (low + high) / 2) / half, -1, 1)
        return cls(query, results, places, np.asarray(at, np.float32))


def map_picture(points: MapPoints, chosen: NDArray[np.int64], near: Neighbourhood | None) -> bytes:
    """Return the map as a PNG file."""
    return draw_map(
        points.xy,
        points.colouring.codes,
        points.colouring.colours,
        selected=chosen,
        question=near.at if near is not None else None,
        neighbours=near.places if near is not None else None,
    )


def swatch_class(place: int, colouring_: Colouring) -> str:
    """Return the style class of a class's colour."""
    return f"oraculo-swatch oraculo-swatch-{colouring_.colours[place][1:]}"


def legend(points: MapPoints, _: Translator, chosen: int | None = None) -> Node:
    """Return the classes with their colours and counts; each is a button that selects its points.

    Notes
    -----
    Event: ``class`` with its number.
    """
    made, names = points.colouring, points.colouring.names(_)
    items = [
        node(
            "li",
            node(
                "button",
                node("span", class_=swatch_class(place, made), aria_hidden=True),
                node("span", one_line(name, _LABEL) or "–", dir="auto"),
                node("span", f" {count:,}", class_="oraculo-muted"),
                event="class",
                payload=place,
                key=f"class-{place}",
                class_="oraculo-plain oraculo-legend-item",
                title=_("Select these chunks"),
                aria_pressed=place == chosen,
            ),
        )
        for place, (name, count) in enumerate(zip(names, made.counts(), strict=True))
        if count
    ]
    heading = node("span", made.key, class_="oraculo-muted", dir="auto") if made.key else None
    return node(
        "div",
        heading,
        node("ul", *items, class_="oraculo-legend", arrows=True, aria_label=_("Legend")),
        class_="oraculo-legend-row",
    )


def chunk_list(
    chunks: Sequence[StoredChunk],
    total: int,
    page: int,
    _: Translator,
    *,
    heading: str,
    colours: Sequence[str],
    opened: str | None = None,
    root: str = "",
) -> Node:
    """Return a page of chunks as a list.

    Parameters
    ----------
    chunks : sequence of StoredChunk
        Of this page.
    total, page : int
        How many there are altogether, and the page, from 0.
    _ : callable
        The translator.
    heading : str
    colours : sequence of str
        Style classes, one for each chunk.
    opened : str, optional
        Id of the one that is shown in its document.
    root : str
        Of the project.

    Notes
    -----
    Events: ``open`` with an id, ``page``.
    """
    items = [
        node(
            "li",
            node("span", class_=colour, aria_hidden=True),
            node(
                "button",
                node(
                    "span",
                    node("span", shown_source(chunk.source, root), class_="oraculo-hit-source", dir="auto"),
                    node(
                        "span",
                        "  " + _("chunk {number}").format(number=chunk.ordinal + 1),
                        class_="oraculo-muted",
                    ),
                ),
                node("div", one_line(chunk.text, _EXCERPT), class_="oraculo-hit-text", dir="auto"),
                event="open",
                payload=chunk.id,
                key=f"open-{chunk.id}",
                class_="oraculo-plain",
                aria_expanded=chunk.id == opened,
            ),
            class_="oraculo-current" if chunk.id == opened else None,
        )
        for chunk, colour in zip(chunks, colours, strict=True)
    ]
    listed = node("ol", *items, class_="oraculo-hits oraculo-scrolled", arrows=True, key=f"chunks-{page}")
    title = node("h4", heading, dir="auto", tabindex=-1, key="chunks")
    return node("section", title, listed, page_row(page, PAGE, total, _))


def map_code(
    store: VetorStorage | None,
    points: MapPoints | None,
    near: Neighbourhood | None,
    k: int,
    chosen: Sequence[str],
) -> str:
    """Return Python that gives what is on the screen."""
    opening, name = store_prefix(store)
    keys = [points.colouring.key] if points is not None and points.colouring.key else []
    given = f"{', ' if keys else ''}store=store" if store is not None else ""
    lines = []
    if points is None or points.projection is not None:
        lines.append(f"points = oraculo.project_base({', '.join(literal(key) for key in keys)}{given})")
    else:
        lines.append("# the coordinates of the points were given to MapExplorer(coordinates=...)")
    if near is not None:
        unique = {"unique": True} if store is not None else {}
        lines.append(f"results = {call(f'{name}.search', near.query, k=k, mode='vector', **unique)}")
    if len(chosen) > _MOST_IN_CODE:
        lines.append(f"# {len(chosen):,} chunks are selected: explorer.selection has them")
    elif chosen and (points is None or points.projection is not None):
        lines.append(f"selected = {literal(list(chosen))}")
        lines.append('points[points["id"].isin(selected)]')
        return f"{IMPORT}\n{opening}{chr(10).join(lines)}\n"
    lines.append("results" if near is not None else "points" if lines[0].startswith("points") else "")
    return f"{IMPORT}\n{opening}{chr(10).join(line for line in lines if line)}\n"
