"""The search explorer in JupyterLab, used as a person uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.base import HOSTILE, SECRET
from tests.browser.labpage import LabPage

SHOWN = "import oraculo_kit as oraculo\nexplorer = oraculo.SearchExplorer()\nexplorer"
FOUND = "import oraculo_kit as oraculo\nexplorer = oraculo.SearchExplorer('nota fiscal')\nexplorer"

# anywidget waits for two seconds; with this it gives up at once, however fast the browser is.
LATE = """() => {
    window.patient = AbortSignal.timeout;
    const late = { addEventListener: (_event, giveUp) => giveUp() };
    AbortSignal.timeout = (ms) => (ms === 2000 ? late : window.patient.call(AbortSignal, ms));
}"""
PATIENT = "() => { AbortSignal.timeout = window.patient; }"


def hits(page: LabPage, place: int = 0) -> Locator:
    return page.explorer.locator(".oraculo-hits").nth(place).locator("li")


def ask(page: LabPage, query: str) -> None:
    box = page.explorer.get_by_label("Query")
    box.fill(query)
    box.press("Enter")
    expect(page.explorer.locator(".oraculo-status")).to_contain_text(" ms")


@pytest.mark.parametrize(
    "dark", [pytest.param(False, marks=pytest.mark.full, id="light"), pytest.param(True, id="dark")]
)
def test_somebody_asks_reads_a_hit_in_its_document_filters_and_compares(
    page: LabPage, dark: bool, pictures: Path | None
) -> None:
    page.open(SHOWN)
    page.theme(dark=dark)
    page.run_all()
    name = "dark" if dark else "light"
    ask(page, "nota fiscal dúvidas")
    expect(hits(page)).to_have_count(10)
    expect(hits(page).first).to_contain_text("manuais/notas-")
    expect(hits(page).first.locator("mark").first).to_have_text("nota")
    expect(hits(page).first).to_contain_text("BM25")

    page.explorer.get_by_role("button", name="Next page").click()
    expect(hits(page).first).to_contain_text("11. ")
    expect(page.explorer.get_by_text("11 to 20 of ")).to_be_visible()
    page.explorer.get_by_role("button", name="Previous page").click()

    hits(page).filter(has_text="Passo 5 de").first.get_by_role("button").click()
    reader = page.explorer.locator(".oraculo-reader")
    expect(reader.get_by_role("heading")).to_contain_text("manuais/notas-")
    expect(reader.get_by_role("heading")).to_be_focused()
    first = reader.locator("header p").inner_text()
    page.picture(f"search {name}", pictures)
    reader.get_by_role("button", name="Next chunk").click()
    expect(reader.locator("header p")).not_to_have_text(first)
    expect(reader.get_by_role("button", name="Next chunk")).to_be_focused()
    expect(reader.locator(".oraculo-overlap").first).to_have_attribute("title", "also in the previous chunk")
    reader.get_by_role("button", name="Previous chunk").click()
    expect(reader.locator("header p")).to_have_text(first)
    reader.get_by_text("Metadata").click()
    expect(reader.get_by_role("row", name="ano")).to_be_visible()

    page.explorer.get_by_role("button", name="Add filter").click()
    page.explorer.get_by_title("Metadata key").select_option("ano")
    expect(page.explorer.locator("datalist option[value='2024']")).to_have_count(1)
    value = page.explorer.get_by_title("Value", exact=True)
    value.fill("2024")
    value.press("Enter")
    expect(page.explorer.locator(".oraculo-hits")).not_to_contain_text("-2023.md")
    expect(hits(page).first).to_contain_text("-2024.md")
    page.explorer.get_by_role("button", name="Remove").click()
    expect(page.explorer.locator(".oraculo-hits")).to_contain_text("-2023.md")

    page.explorer.get_by_role("button", name="Compare").click()
    expect(page.explorer.locator(".oraculo-hits")).to_have_count(2)
    expect(page.explorer.get_by_role("heading", name="B: text")).to_be_visible()
    expect(page.explorer.locator(".oraculo-gain").first).to_be_visible()
    page.picture(f"compare {name}", pictures)


def test_everything_can_be_done_by_keyboard(page: LabPage) -> None:
    page.open(SHOWN)
    page.run_all()
    keys = page.page.keyboard
    page.explorer.get_by_label("Query").focus()
    keys.type("nota fiscal")
    keys.press("Enter")
    expect(hits(page)).to_have_count(10)

    def tab_to(target: Locator) -> None:
        for _ in range(25):
            if target.evaluate("element => element === document.activeElement"):
                return
            keys.press("Tab")
        pytest.fail(f"{target} cannot be reached by Tab")

    tab_to(hits(page).first.get_by_role("checkbox"))
    keys.press("Space")
    expect(hits(page).first.get_by_role("checkbox")).to_be_checked()
    tab_to(hits(page).first.get_by_role("button"))
    keys.press("ArrowDown")
    expect(hits(page).nth(1).get_by_role("button")).to_be_focused()
    keys.press("End")
    expect(hits(page).nth(9).get_by_role("button")).to_be_focused()
    keys.press("Home")
    keys.press("Enter")
    reader = page.explorer.locator(".oraculo-reader")
    expect(reader.get_by_role("heading")).to_be_focused()
    tab_to(reader.get_by_role("button", name="Close"))
    keys.press("Space")
    expect(reader).to_have_count(0)
    expect(hits(page).first.get_by_role("button")).to_be_focused()
    for letter in "abxz":  # commands of the notebook, were the focus not in the explorer
        keys.press(letter)
    assert page.page.locator(".jp-Notebook .jp-Cell").count() == 1
    assert page.run("print(len(explorer.selection), explorer.error)") == "1 None\n"


def test_copy_as_code_gives_code_that_gives_what_is_on_the_screen(page: LabPage) -> None:
    page.open(FOUND)
    page.run_all()
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=page.lab.url)
    expect(hits(page)).to_have_count(10)
    page.explorer.get_by_role("button", name="Next page").click()
    expect(hits(page).first).to_contain_text("11. ")
    copy = page.explorer.get_by_role("button", name="Copy as code")
    copy.click()
    expect(page.explorer.get_by_text("Copied")).to_be_visible()
    code = page.page.evaluate("() => navigator.clipboard.readText()")
    assert code.startswith("import oraculo_kit as oraculo\n")
    assert code.splitlines()[-1] == "results[10:20]"
    printed = page.run(f"{code}\nprint(results.hits == explorer.results.hits)")
    assert printed == "True\n"


def test_nothing_of_a_hostile_document_executes_or_leaks(page: LabPage) -> None:
    page.open(SHOWN)
    page.run_all()
    ask(page, "nota hostil vermelho")
    hit = hits(page).filter(has_text="onerror").first
    expect(hit).to_contain_text("<img src=x onerror")
    hit.get_by_role("button").click()
    reader = page.explorer.locator(".oraculo-reader")
    reader.get_by_text("Metadata").click()
    expect(reader.locator(".oraculo-here")).to_contain_text("javascript:window.hacked=3")
    expect(reader.locator(".oraculo-here")).to_contain_text("$x^2$")
    page.explorer.get_by_role("button", name="Add filter").click()
    key = page.explorer.get_by_title("Metadata key")
    key.wait_for()
    names = [name.replace("\xa0", " ") for name in key.locator("option").all_inner_texts()]
    key.select_option(index=names.index(HOSTILE[:40]))
    expect(page.explorer.locator("datalist option")).to_have_count(1)
    page.explorer.get_by_role("button", name="Compare").click()
    expect(page.explorer.locator(".oraculo-hits")).to_have_count(2)
    page.explorer.get_by_role("button", name="Compare").click()
    ask(page, "caminho segredo txt")
    hits(page).filter(has_text="caminho.txt").first.get_by_role("button").click()
    expect(reader.get_by_role("heading")).to_have_text("caminho.txt")
    page.page.wait_for_timeout(1200)  # the static summary is brought up to date
    for shown in (page.page.locator("body").inner_html(), str(page.saved())):
        assert SECRET not in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    for of in ("img", "script", "a", "svg", "b", "mjx-container"):
        assert page.explorer.locator(f".oraculo-pane {of}").count() == 0, of
    assert page.page.evaluate("() => window.hacked") is None


def test_an_explorer_answers_in_a_browser_that_was_late(page: LabPage) -> None:
    page.open(SHOWN)
    page.page.evaluate(LATE)
    page.run_all()
    ask(page, "nota fiscal")
    page.page.evaluate(PATIENT)
    expect(hits(page)).to_have_count(10)
    hits(page).first.get_by_role("button").click()
    expect(page.explorer.locator(".oraculo-reader").get_by_role("heading")).to_be_focused()
    assert page.late


def test_what_was_seen_last_stays_when_the_kernel_is_gone(page: LabPage) -> None:
    page.open(FOUND)
    page.run_all()
    expect(hits(page)).to_have_count(10)
    static = page.page.locator(".oraculo-static").first
    expect(static).to_be_hidden()
    ask(page, "férias do gestor")
    page.page.wait_for_timeout(1500)
    saved = page.saved()
    assert "widgets" not in saved["metadata"]
    live, summary = saved["cells"][0]["outputs"]
    assert "text/html" not in live["data"]
    assert "férias" in "".join(summary["data"]["text/plain"])
    page.shut_down()
    page.errors.clear()
    page.goto("notebook.ipynb")
    expect(static).to_be_visible()
    expect(static).to_contain_text("férias do gestor")
    page.page.wait_for_timeout(3000)  # the live view is looked for in vain
    expect(page.page.get_by_text("Error displaying widget")).to_be_hidden()
    page.screenshot("reopened")
    assert all("model not found" in error for error in page.errors)
    page.errors.clear()


def test_explore_shows_tabs_in_portuguese_and_a_snapshot_is_a_page_of_its_own(page: LabPage) -> None:
    language = "import os\nos.environ['ORACULO_LANG'] = 'pt_BR'\n"
    page.open(language + "import oraculo_kit as oraculo\nexplorers = oraculo.explore()\nexplorers")
    page.run_all()
    expect(page.explorer.get_by_role("tab", name="Buscar")).to_be_visible()
    box = page.explorer.get_by_label("Consulta").first
    box.fill("limite de hospedagem")
    page.explorer.get_by_role("button", name="Buscar").click()
    expect(hits(page).first).to_contain_text("viagens")
    expect(hits(page).first).to_contain_text("R$ 380,00")
    page.screenshot("explore", page.explorer)
    page.run("explorers.snapshot('retrato.html')")
    page.saved()  # a page with changes asks before it is left
    page.page.goto(f"{page.lab.url}/files/retrato.html")
    expect(page.page.get_by_role("heading", name="Buscar: limite de hospedagem")).to_be_visible()
    assert page.page.locator("script").count() == 0
    page.screenshot("snapshot")


def test_the_kernel_stays_free_and_an_error_says_what_to_do(page: LabPage) -> None:
    page.open(SHOWN)
    page.run_all()
    ask(page, "nota fiscal")
    page.run("oraculo.vetor_storage().close()")
    page.explorer.get_by_label("Query").fill("outra")
    page.explorer.get_by_label("Query").press("Enter")
    expect(page.explorer.get_by_role("alert")).to_contain_text("open it again with open_storage()")
    assert page.run("print(type(explorer.error).__name__)") == "StoreClosedError\n"
