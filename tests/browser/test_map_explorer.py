"""The map explorer in JupyterLab, used as a person uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.base import HOSTILE
from tests.browser.labpage import LabPage

LONG = 60_000  # milliseconds: the first import of jupyter-scatter on a busy machine
SHOWN = "import oraculo_kit as oraculo\nexplorer = oraculo.MapExplorer(color='ano')\nexplorer"
# What Python does where a package is missing, for one that is installed.
BLOCKED = "import sys; sys.modules['jscatter'] = None\n"


def status(page: LabPage) -> Locator:
    return page.explorer.locator(".oraculo-status")


def drawn(page: LabPage) -> None:
    expect(status(page)).to_contain_text("sent to the browser", timeout=LONG)


def chunks(page: LabPage) -> Locator:
    return page.explorer.locator(".oraculo-hits li")


def lasso(page: LabPage, corners: list[tuple[float, float]]) -> None:
    """Draw around the middle of the map with the mouse; corners are shares of its width and height."""
    canvas = page.explorer.locator(".oraculo-map canvas").first
    canvas.scroll_into_view_if_needed()
    page.explorer.locator(".oraculo-map button").nth(1).click()
    box = canvas.bounding_box()
    assert box is not None
    mouse = page.page.mouse
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    mouse.move(*points[0])
    mouse.down()
    for point in points[1:]:
        mouse.move(*point, steps=5)
    page.page.wait_for_timeout(200)
    mouse.up()


AROUND = [(0.12, 0.03), (0.97, 0.03), (0.97, 0.97), (0.12, 0.97), (0.12, 0.05)]


@pytest.mark.parametrize(
    "dark", [pytest.param(False, marks=pytest.mark.full, id="light"), pytest.param(True, id="dark")]
)
def test_somebody_colours_asks_lassoes_and_reads(page: LabPage, dark: bool, pictures: Path | None) -> None:
    pytest.importorskip("jscatter", reason='jupyter-scatter is not installed: pip install "oraculo_kit[map]"')
    page.open(SHOWN)
    page.theme(dark=dark)
    page.run_all()
    drawn(page)
    name = "dark" if dark else "light"
    page.explorer.locator(".oraculo-map canvas").first.wait_for(timeout=LONG)
    legend = page.explorer.locator(".oraculo-legend")
    expect(legend.get_by_role("button", name="2023")).to_be_visible()
    page.explorer.get_by_label("Colour").select_option("title")
    expect(legend.get_by_role("button", name="Viagens")).to_be_visible()

    query = page.explorer.get_by_label("Query")
    query.fill("limite da diária de hospedagem")
    query.press("Enter")
    expect(page.explorer.get_by_role("heading", name="Nearest to")).to_be_visible()
    expect(chunks(page).first).to_contain_text("manuais/viagens")
    page.page.wait_for_timeout(1500)  # the theme's colour, and what WebGL draws, come a little later
    page.picture(f"map {name}", pictures)

    lasso(page, AROUND)
    expect(page.explorer.get_by_role("heading", name="Selected:")).to_be_visible()
    count = page.run("print(len(explorer.selection), len(explorer.points.ids), explorer.error)")
    selected, total, error = count.split()
    assert error == "None"
    assert int(total) // 2 < int(selected) <= int(total)
    chunks(page).nth(1).get_by_role("button").click()
    reader = page.explorer.locator(".oraculo-reader")
    expect(reader.get_by_role("heading")).to_be_focused()
    page.screenshot(f"map lasso {name}", page.explorer)
    reader.get_by_role("button", name="Close").click()
    page.explorer.get_by_role("button", name="Clear").click()
    expect(page.explorer.get_by_role("heading", name="Nearest to")).to_be_visible()
    assert page.saved()["metadata"].get("widgets") is None


def test_without_the_extra_a_picture_stands_there_and_the_rest_works(page: LabPage) -> None:
    page.open(BLOCKED + SHOWN)
    page.run_all()
    drawn(page)
    picture = page.explorer.get_by_role("img", name="Map of ")
    expect(picture).to_be_visible()
    assert picture.evaluate("element => element.naturalWidth") == 900
    expect(page.explorer.get_by_text('pip install "oraculo_kit[map]"')).to_be_visible()
    page.explorer.get_by_role("button", name="2024").click()
    expect(page.explorer.get_by_role("heading", name="Selected:")).to_be_visible()
    page.screenshot("map picture light", page.explorer)
    page.theme(dark=True)
    page.screenshot("map picture dark", page.explorer)


def test_by_keyboard_alone_a_colour_is_selected_and_a_chunk_is_read(page: LabPage) -> None:
    page.open(BLOCKED + SHOWN)
    page.run_all()
    drawn(page)
    keys = page.page.keyboard
    page.explorer.get_by_role("button", name="Draw").focus()

    def tab_to(target: Locator) -> None:
        for _ in range(15):
            if target.evaluate("element => element === document.activeElement"):
                return
            keys.press("Tab")
        pytest.fail(f"{target} cannot be reached by Tab")

    tab_to(page.explorer.locator(".oraculo-legend button").first)
    keys.press("ArrowRight")
    expect(page.explorer.locator(".oraculo-legend button").nth(1)).to_be_focused()
    keys.press("Enter")
    expect(page.explorer.get_by_role("heading", name="Selected:")).to_be_visible()
    tab_to(chunks(page).first.get_by_role("button"))
    keys.press("Enter")
    expect(page.explorer.locator(".oraculo-reader").get_by_role("heading")).to_be_focused()


def test_hostile_values_colour_the_map_and_do_nothing_else(page: LabPage) -> None:
    page.open(SHOWN.replace("'ano'", "'title'"))
    page.run_all()
    drawn(page)
    legend = page.explorer.locator(".oraculo-legend")
    hostile = legend.get_by_role("button").filter(has_text="<img src=x onerror")
    hostile.click()
    expect(chunks(page)).to_have_count(1)
    chunks(page).first.get_by_role("button").click()
    expect(page.explorer.locator(".oraculo-reader .oraculo-here")).to_contain_text(
        "javascript:window.hacked=3"
    )
    page.explorer.get_by_label("Colour").select_option(index=1)
    expect(status(page)).to_contain_text("sent to the browser")
    keys = page.explorer.get_by_label("Colour").locator("option").all_inner_texts()
    assert any(HOSTILE[:20] in each.replace("\xa0", " ") for each in keys)
    page.page.wait_for_timeout(500)
    assert page.page.evaluate("() => window.hacked") is None
    assert page.run("print(explorer.error, 'onerror=\"' in explorer.snapshot())") == "None False\n"


def test_explore_draws_the_map_when_its_tab_comes_to_the_front(page: LabPage) -> None:
    page.open("import oraculo_kit as oraculo\nexplorers = oraculo.explore()\nexplorers")
    page.run_all()
    tab = page.page.get_by_role("tab", name="Map")
    tab.wait_for()
    index = "[type(each).__name__ for each in explorers.explorers].index('MapExplorer')"
    assert page.run(f"print(explorers.explorers[{index}].points)") == "None\n"
    tab.click()
    expect(page.page.locator(".oraculo-legend").first).to_be_visible(timeout=LONG)
