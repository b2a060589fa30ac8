"""The store browser in JupyterLab, used as a person uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.browser.base import HOSTILE, SECRET, make_base
from tests.browser.labpage import LabPage

BEGIN = "import oraculo_kit as oraculo\noraculo.use({base!r})\n"
SHOW = "browser = oraculo.StoreBrowser()\nbrowser"
FILES = {"regras.txt": "A nota é emitida até o quinto dia útil.", "prazos.txt": "O prazo é de dez dias."}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a base of this test's own, which it may change."""
    return make_base(tmp_path / "base")


def begin(page: LabPage, base: Path, *, before: str = "", show: str = SHOW) -> None:
    page.open(before + BEGIN.format(base=str(base)) + show)
    page.run_all()
    expect(page.explorer.get_by_text("sources: ").first).to_be_visible()


def row(page: LabPage, text: str) -> Locator:
    return page.explorer.locator(".oraculo-sources tbody tr").filter(has_text=text)


def stored(base: Path) -> set[str]:
    with FaissVetorStorage(base, read_only=True) as store:
        return {each.source for each in store.sources()}


@pytest.mark.parametrize(
    "dark", [pytest.param(False, marks=pytest.mark.full, id="light"), pytest.param(True, id="dark")]
)
def test_somebody_filters_opens_reads_and_deletes(
    page: LabPage, base: Path, dark: bool, pictures: Path | None
) -> None:
    name = "dark" if dark else "light"
    begin(page, base)
    page.theme(dark=dark)
    expect(page.explorer.locator(".oraculo-sources tbody tr")).to_have_count(12)
    page.explorer.get_by_label("Filter").fill("2024")
    expect(page.explorer.locator(".oraculo-sources tbody tr")).to_have_count(5)
    page.explorer.get_by_label("Order").select_option("most chunks")

    row(page, "notas-2024").get_by_role("button").click()
    source = page.explorer.locator(".oraculo-source")
    expect(source.get_by_role("heading")).to_have_text("manuais/notas-2024.md")
    expect(source.get_by_role("heading")).to_be_focused()
    expect(source.locator(".oraculo-chunks li")).to_have_count(10)
    source.get_by_text("Metadata").click()
    expect(source.get_by_role("row", name="ano")).to_contain_text("2024")
    source.get_by_text("Metadata").click()
    page.picture(f"store {name}", pictures)
    source.get_by_role("button", name="Next page").click()
    expect(source.locator(".oraculo-chunks li")).to_have_count(1)
    source.get_by_role("button", name="Previous page").click()
    source.locator(".oraculo-chunks button").nth(2).click()
    reader = page.explorer.locator(".oraculo-reader")
    expect(reader.get_by_text("chunk 3")).to_be_visible()
    reader.get_by_role("button", name="Next chunk").click()
    expect(reader.get_by_text("chunk 4")).to_be_visible()
    reader.get_by_role("button", name="Close").click()
    expect(source.locator(".oraculo-chunks button").nth(3)).to_be_focused()
    source.get_by_role("button", name="Close").click()
    expect(row(page, "notas-2024").get_by_role("button")).to_be_focused()

    row(page, "senhas-2024").get_by_role("checkbox").check()
    row(page, "compras-2024").get_by_role("checkbox").check()
    expect(page.explorer.get_by_text("selected: 2")).to_be_visible()
    page.explorer.get_by_role("button", name="Delete...").click()
    question = page.explorer.get_by_role("alertdialog")
    expect(question).to_contain_text("Sources: 2, chunks: 22")
    expect(question.get_by_role("button", name="Cancel")).to_be_focused()
    page.picture(f"store delete {name}", None)
    question.get_by_role("button", name="Cancel").click()
    expect(question).to_have_count(0)
    assert "manuais/senhas-2024.md" in stored(base)
    page.explorer.get_by_role("button", name="Delete...").click()
    question.get_by_role("button", name="Delete", exact=True).click()
    expect(page.explorer.get_by_text("Deleted chunks: 22")).to_be_visible()
    expect(page.explorer.locator(".oraculo-sources tbody tr")).to_have_count(3)
    assert not {"manuais/senhas-2024.md", "manuais/compras-2024.md"} & stored(base)


@pytest.mark.parametrize(
    "dark", [pytest.param(False, id="light"), pytest.param(True, marks=pytest.mark.full, id="dark")]
)
def test_statistics_are_drawn_and_upkeep_tells_what_came_of_it(
    page: LabPage, base: Path, dark: bool, pictures: Path | None
) -> None:
    name = "dark" if dark else "light"
    begin(page, base)
    page.theme(dark=dark)
    page.explorer.get_by_role("button", name="Statistics").click()
    expect(page.explorer.get_by_role("table", name="Characters per chunk")).to_be_visible()
    expect(page.explorer.locator(".oraculo-bars")).to_have_count(5)
    widths = page.explorer.locator(".oraculo-bar").evaluate_all("bars => bars.map(bar => bar.offsetWidth)")
    assert max(widths) > 60
    page.picture(f"store statistics {name}", pictures)
    page.explorer.get_by_role("button", name="Upkeep").click()
    for task, told in (
        ("Verify", "No problem found; checked: 112 chunks of 12 sources"),
        ("Compact", "Compacted: files 0 to 1"),
        ("Optimise", "The base is small"),
    ):
        page.explorer.get_by_role("button", name=task).click()
        expect(page.explorer.locator(".oraculo-good").first).to_contain_text(told)
    page.picture(f"store upkeep {name}", None)


@pytest.mark.parametrize("width", [1530, pytest.param(1100, marks=pytest.mark.full)])
def test_a_count_stands_on_one_line_however_narrow_its_chart(page: LabPage, base: Path, width: int) -> None:
    begin(page, base)
    try:
        page.page.set_viewport_size({"width": width, "height": 1000})
        page.explorer.get_by_role("button", name="Statistics").click()
        expect(page.explorer.get_by_role("cell", name="102")).to_be_visible()
        rows = page.explorer.locator(".oraculo-bars tr")
        heights = rows.evaluate_all("rows => rows.map(row => row.offsetHeight)")
        page.screenshot(f"store statistics {width}", page.explorer)
        assert max(heights) < 1.5 * min(heights)
    finally:
        page.page.set_viewport_size({"width": 1280, "height": 1000})


def test_work_shows_how_far_it_is_and_can_be_stopped(page: LabPage, base: Path) -> None:
    slow = """
import threading, oraculo_kit.storage.verify as checking
goes_on = threading.Event()
def tell(self, total):
    self._progress(50, total) if not goes_on.wait(0.25) else self._progress(100, total)
checking._NUMBERS_AT_ONCE = 1
checking._Check._tell = tell
"""
    begin(page, base, before=slow)
    page.explorer.get_by_role("button", name="Upkeep").click()
    page.explorer.get_by_role("button", name="Verify").click()
    bar = page.explorer.get_by_role("progressbar")
    expect(bar).to_have_attribute("value", "50")
    expect(page.explorer.get_by_role("button", name="Verify")).to_be_disabled()
    expect(page.explorer.get_by_text("Verify 45%")).to_be_visible()
    page.screenshot("store progress", page.explorer)
    assert page.run("print(1 + 1)") == "2\n"  # the kernel stays free
    page.explorer.get_by_role("button", name="Stop").click()
    expect(page.explorer.locator(".oraculo-status")).to_have_text("Stopped.", timeout=1500)
    expect(page.explorer.get_by_role("button", name="Verify")).to_be_enabled()


def test_a_changed_file_is_ingested_again(page: LabPage, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    fill = f"oraculo.ingest({str(folder)!r}, progress=False)\n"
    begin(page, tmp_path / "new", show=fill + SHOW)
    expect(row(page, "regras.txt")).to_contain_text("up to date")
    (folder / "regras.txt").write_text("A nota agora é emitida até o décimo dia útil.", encoding="utf-8")
    page.explorer.get_by_role("button", name="Refresh").click()
    expect(row(page, "regras.txt")).to_contain_text("file changed")
    expect(row(page, "prazos.txt")).to_contain_text("up to date")
    page.explorer.get_by_label("Select all on this page").check()
    page.explorer.get_by_role("button", name="Ingest again...").click()
    page.explorer.get_by_role("alertdialog").get_by_role("button", name="Ingest again").click()
    expect(page.explorer.get_by_text("Ingested again: ")).to_contain_text("replaced 1")
    expect(row(page, "regras.txt")).to_contain_text("up to date")
    row(page, "regras.txt").get_by_role("button").click()
    expect(page.explorer.locator(".oraculo-chunks")).to_contain_text("décimo dia útil")
    page.screenshot("store ingested again", page.explorer)


def test_everything_can_be_done_by_keyboard(page: LabPage, base: Path) -> None:
    begin(page, base)
    keys = page.page.keyboard

    def tab_to(target: Locator) -> None:
        for _ in range(25):
            if target.evaluate("element => element === document.activeElement"):
                return
            keys.press("Tab")
        pytest.fail(f"{target} cannot be reached by Tab")

    page.explorer.get_by_role("button", name="Sources").focus()
    tab_to(page.explorer.get_by_label("Filter"))
    keys.type("notas")
    expect(page.explorer.locator(".oraculo-sources tbody tr")).to_have_count(2)
    tab_to(row(page, "notas-2023").get_by_role("checkbox"))
    keys.press("ArrowDown")
    expect(row(page, "notas-2024").get_by_role("checkbox")).to_be_focused()
    keys.press("Space")
    expect(page.explorer.get_by_text("selected: 1")).to_be_visible()
    expect(row(page, "notas-2024").get_by_role("checkbox")).to_be_focused()
    page.explorer.get_by_role("button", name="Delete...").focus()
    keys.press("Enter")
    expect(page.explorer.get_by_role("alertdialog").get_by_role("button", name="Cancel")).to_be_focused()
    keys.press("Shift+Tab")
    keys.press("Enter")
    expect(page.explorer.get_by_text("Deleted chunks: 11")).to_be_visible()
    assert "manuais/notas-2024.md" not in stored(base)
    tab_to(row(page, "notas-2023").get_by_role("button"))
    keys.press("Enter")
    expect(page.explorer.locator(".oraculo-source").get_by_role("heading")).to_be_focused()
    for letter in "abxz":  # commands of the notebook, were the focus not in the explorer
        keys.press(letter)
    assert page.page.locator(".jp-Notebook .jp-Cell").count() == 1


def test_nothing_of_a_hostile_source_executes_or_leaks(page: LabPage, base: Path) -> None:
    begin(page, base)
    row(page, "onerror").get_by_role("button").click()
    source = page.explorer.locator(".oraculo-source")
    source.get_by_text("Metadata").click()
    expect(source.locator("header")).to_contain_text("javascript:window.hacked=3")
    row(page, "onerror").get_by_role("checkbox").check()
    page.explorer.get_by_role("button", name="Delete...").click()
    expect(page.explorer.get_by_role("alertdialog")).to_contain_text("script")
    page.screenshot("store hostile", page.explorer)
    page.explorer.get_by_role("button", name="Cancel").click()
    source.locator(".oraculo-chunks button").click()
    expect(page.explorer.locator(".oraculo-here")).to_contain_text("$x^2$")
    page.explorer.locator(".oraculo-reader").get_by_role("button", name="Close").click()
    row(page, "caminho.txt").get_by_role("button").first.click()
    expect(source.get_by_role("heading")).to_have_text("caminho.txt")
    page.explorer.get_by_label("Filter").fill(HOSTILE[:20])
    expect(page.explorer.locator(".oraculo-sources tbody tr")).to_have_count(1)
    page.explorer.get_by_role("button", name="Statistics").click()
    expect(page.explorer.get_by_role("table", name="Languages")).to_contain_text("<b>xx</b>")
    page.page.wait_for_timeout(1200)  # the static summary is brought up to date
    for shown in (page.page.locator("body").inner_html(), str(page.saved())):
        assert SECRET not in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    for of in ("img", "script", "a", "svg", "b", "mjx-container"):
        assert page.explorer.locator(f".oraculo-pane {of}").count() == 0, of
    assert page.page.evaluate("() => window.hacked") is None


def test_explore_has_the_store_and_the_questions_in_portuguese(page: LabPage, base: Path) -> None:
    language = "import os\nos.environ['ORACULO_LANG'] = 'pt_BR'\n"
    page.open(language + BEGIN.format(base=str(base)) + "explorers = oraculo.explore()\nexplorers")
    page.run_all()
    page.explorer.get_by_role("tab", name="Base").click()
    expect(page.explorer.get_by_text(re.compile("fontes: 12"))).to_be_visible()
    page.screenshot("explore store", page.explorer)
    page.explorer.get_by_role("tab", name="Perguntar").click()
    expect(page.explorer.get_by_text("a resposta cita as suas fontes")).to_be_visible()
