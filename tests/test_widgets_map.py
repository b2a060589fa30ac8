"""The map explorer without a browser: real widgets, a real store."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.errors import QueryError
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.widgets.colouring import colouring, suggested_key
from oraculo_kit.widgets.map import MapExplorer
from oraculo_kit.widgets.nodes import as_html
from oraculo_kit.widgets.picture import draw_map, fitted

HOSTILE = "<img src=x onerror=alert(1)>\u202e"


@pytest.fixture
def store(project: Path) -> Iterator[FaissVetorStorage]:
    with FaissVetorStorage(project / "base", durability="process") as opened:
        for place in range(30):
            topic = ("nota fiscal", "férias e licenças", "senha da rede")[place % 3]
            text = f"Sobre {topic}, regra {place}: {topic}."
            metadata = {"source": f"{place}.md", "tema": topic if place else HOSTILE, "n": place}
            opened.replace(f"{place}.md", [Document(text, metadata=metadata)])
        yield opened


def drawn(store: FaissVetorStorage, query: str = "", **options: Any) -> MapExplorer:
    explorer = MapExplorer(query, store=store, interactive=False, **options)
    explorer.draw()
    assert explorer.wait()
    assert explorer.error is None
    return explorer


def ran(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, names)
    return names


def test_nothing_is_computed_before_somebody_looks(store: FaissVetorStorage) -> None:
    explorer = MapExplorer(store=store)
    assert explorer.wait()
    assert explorer.points is None
    assert not (Path(store.location) / "cache").exists()
    assert "not drawn yet" in explorer.snapshot()
    assert explorer.selection.empty
    explorer.close()


def test_a_query_marks_its_neighbours_and_the_code_finds_them(store: FaissVetorStorage) -> None:
    explorer = drawn(store, "senha da rede", k=5)
    assert len(explorer.selection) == 5
    assert explorer.selection["text"].str.contains("senha").all()
    assert [hit.id for hit in ran(explorer.code())["results"]] == explorer.selection["id"].tolist()
    assert "data:image/png;base64," in explorer.snapshot()
    explorer.close()


def test_a_class_of_the_legend_selects_its_points(store: FaissVetorStorage) -> None:
    explorer = drawn(store)
    assert explorer.points is not None
    assert explorer.points.colouring.key == "tema"
    place = explorer.points.colouring.labels.index("senha da rede")
    explorer._told("class", place, None)
    assert explorer.wait()
    assert len(explorer.selection) == 10
    names = ran(explorer.code())
    assert set(names["selected"]) == set(explorer.selection["id"])
    assert names["points"]["tema"].value_counts()["senha da rede"] == 10
    explorer._told("open", explorer.selection["id"][3], None)
    assert explorer.wait()
    assert explorer._passage is not None
    assert explorer._passage.chunk.id == explorer.selection["id"][3]
    explorer._told("class", place, None)
    assert explorer.wait()
    assert explorer.selection.empty
    explorer.close()


def test_hostile_values_stay_text(store: FaissVetorStorage) -> None:
    explorer = drawn(store, color="tema")
    page = explorer.snapshot()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror" in page
    assert "\u202e" not in page
    explorer.close()


def test_coordinates_of_somebodys_own_are_shown_as_they_are(store: FaissVetorStorage) -> None:
    ids = oraculo.project_base(store=store)["id"].tolist()
    frame = pd.DataFrame({"id": ids, "x": np.arange(30.0), "y": np.arange(30.0) ** 2})
    explorer = drawn(store, "senha da rede", coordinates=frame)
    assert explorer.selection["x"].isin(frame["x"]).all()
    explorer.select([ids[4], "unknown"])
    assert explorer.wait()
    assert explorer.selection[["id", "x", "y"]].values.tolist() == [[ids[4], 4.0, 16.0]]
    explorer.close()
    explorer = drawn(store, coordinates=(ids, frame[["x", "y"]].to_numpy()))
    assert explorer.points is not None
    assert np.abs(explorer.points.xy).max() == 1
    explorer.close()


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        ("text", "got str as coordinates"),
        ((["a"], [[1.0, 2.0], [3.0, 4.0]]), r"shape \(2, 2\) for 1 ids"),
        ((["a"], [[1.0, float("nan")]]), "not finite"),
        ((["a", "a"], [[1.0, 2.0], [3.0, 4.0]]), "twice"),
    ],
)
def test_coordinates_that_cannot_be_drawn_are_named(coordinates: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        MapExplorer(coordinates=coordinates)


def test_an_empty_base_says_so(project: Path) -> None:
    with FaissVetorStorage(project / "empty", durability="process") as empty:
        explorer = drawn(empty, "nota")
        assert "The base is empty" in as_html(explorer._picture.children[0])
        assert "The base is empty" in explorer.snapshot()
        assert "variance" not in str(explorer._message.children)
        explorer.close()


def test_a_map_is_coloured_by_what_most_chunks_have(project: Path) -> None:
    def suggested(**given: Callable[[int], object]) -> str:
        with FaissVetorStorage(project / "-".join(given), durability="process") as store:
            for place in range(20):
                metadata = {name: value(place) for name, value in given.items()}
                known = {name: value for name, value in metadata.items() if value is not None}
                key = f"{place}.md"
                store.replace(key, [Document(f"texto {place}", metadata={"source": key, **known})])
            return suggested_key(store)

    def rare(place: int) -> int | None:
        return place if place < 3 else None

    assert suggested(few=rare, lang=lambda place: "pt" if place % 2 else "en") == "lang"
    assert suggested(few=rare) == ""
    assert suggested(start=lambda place: place % 3, bytes=lambda place: place % 4, page=rare) == ""


def test_colours_tell_values_apart_as_their_types_do() -> None:
    made = colouring("k", [1, True, "1", None, *[f"v{place}" for place in range(9) for _ in range(3)]])
    assert made.labels[-2:] == ("other values", "no value")
    assert len(made.labels) == 12
    assert made.counts()[-2:] == [2, 1]
    ranges = colouring("n", [*range(1000), float("inf"), None])
    assert len(ranges.labels) == 9
    assert max(ranges.counts()) < 140
    assert colouring("k", []).labels == ()


def test_a_picture_is_a_png_of_the_points() -> None:
    xy = fitted(np.array([[0, 0], [1, 1], [2, 0]], np.float32))
    picture = draw_map(xy, np.array([0, 1, 1], np.uint8), ["#ff0000", "#00ff00"], size=(60, 40))
    assert picture.startswith(b"\x89PNG")
    assert picture == draw_map(xy, np.array([0, 1, 1], np.uint8), ["#ff0000", "#00ff00"], size=(60, 40))
    assert draw_map(xy[:0], np.zeros(0, np.uint8), ["#ff0000"]).startswith(b"\x89PNG")


def test_jupyter_scatter_is_given_numbers_and_no_text(store: FaissVetorStorage) -> None:
    pytest.importorskip("jscatter", reason='jupyter-scatter is not installed: pip install "oraculo_kit[map]"')
    explorer = MapExplorer("senha", store=store, color="tema")
    explorer.draw()
    assert explorer.wait()
    assert explorer.error is None
    assert explorer._scatter is not None
    state = explorer._scatter._plot.get_state()
    state.pop("_esm")
    assert "onerror" not in repr(state)
    assert "férias" not in repr(state)
    explorer.close()
