"""The ask explorer in JupyterLab, used as a person uses it, with a chat model on this machine."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.browser.base import HOSTILE, make_base
from tests.browser.labpage import LabPage
from tests.openai_server import KEY, OpenAIServer, endless, fails, says

FIRST = 90_000  # milliseconds; the first question of a kernel imports the client of the model
QUESTION = "Até quando a nota fiscal é emitida?"
ANSWER = (
    "A nota fiscal é emitida no portal da prefeitura até o quinto dia útil do mês [1].\n\n"
    "Guarde o comprovante por cinco anos [2]."
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


@pytest.fixture
def model() -> Iterator[OpenAIServer]:
    started = OpenAIServer()
    yield started
    started.stop()


def begin(page: LabPage, base: Path, model: OpenAIServer | None = None, *, language: str = "en") -> None:
    names = {"ORACULO_LANG": language}
    if model is not None:
        names |= {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": model.url, "ORACULO_CHAT_MODEL": "openai:test"}
    page.open(
        f"import os\nos.environ.update({names!r})",
        f"import oraculo_kit as oraculo\noraculo.use({str(base)!r})\nexplorer = oraculo.AskExplorer()\nexplorer",
    )
    page.run_all()
    page.explorer.locator(".oraculo-empty").wait_for()


def ask(page: LabPage, question: str) -> None:
    box = page.explorer.get_by_label("Question")
    box.fill(question)
    box.press("Enter")
    expect(page.explorer.locator(".oraculo-status")).to_be_visible()
    expect(page.explorer.locator(".oraculo-answer-text")).to_have_text(re.compile(r"\w"), timeout=FIRST)


def text(page: LabPage) -> Locator:
    return page.explorer.locator(".oraculo-answer-text")


def said(base: Path) -> list[tuple[str, str]]:
    with FaissVetorStorage(base, read_only=True) as store:
        return [(each.verdict, each.correction) for each in store.feedback()]


@pytest.mark.parametrize(
    "dark", [pytest.param(False, marks=pytest.mark.full, id="light"), pytest.param(True, id="dark")]
)
def test_somebody_asks_watches_reads_a_source_and_says_what_it_is_worth(
    page: LabPage, base: Path, model: OpenAIServer, dark: bool, pictures: Path | None
) -> None:
    goes_on = threading.Event()
    model.route = says(ANSWER, between=lambda sent: sent == 14 and goes_on.wait(30))
    begin(page, base, model)
    page.theme(dark=dark)
    ask(page, QUESTION)
    expect(text(page)).to_contain_text("A nota fiscal é emitida no portal")
    expect(text(page)).not_to_contain_text("comprovante")
    expect(page.explorer.locator(".oraculo-answer-sources li").first).to_contain_text("[1] manuais/")
    assert page.run("print(1 + 1)") == "2\n"  # the kernel stays free
    goes_on.set()
    expect(text(page)).to_contain_text("Guarde o comprovante por cinco anos [2].")
    expect(page.explorer.locator(".oraculo-status")).to_contain_text("openai:test")
    text(page).get_by_role("button", name="Source 1").click()
    reader = page.explorer.locator(".oraculo-reader")
    expect(reader.get_by_role("heading")).to_be_focused()
    expect(reader.locator("mark").first).to_be_visible()
    page.picture(f"ask {'dark' if dark else 'light'}", pictures)
    reader.get_by_role("button", name="Close").click()
    expect(page.explorer.locator(".oraculo-answer-sources button").first).to_be_focused()

    page.explorer.get_by_role("button", name="Correct...").click()
    box = page.explorer.get_by_role("textbox", name="What is the right answer?")
    expect(box).to_be_focused()
    box.fill("Até o décimo dia útil.")
    page.screenshot(f"ask correct {'dark' if dark else 'light'}", page.explorer)
    page.explorer.get_by_role("button", name="Keep in the base").click()
    expect(page.explorer.get_by_text("Kept in the base: your correction.")).to_be_visible()
    assert said(base) == [("corrected", "Até o décimo dia útil.")]
    assert len(model.requests) == 1


def test_an_answer_is_stopped_and_another_is_marked_good(
    page: LabPage, base: Path, model: OpenAIServer
) -> None:
    model.route = endless
    begin(page, base, model)
    ask(page, QUESTION)
    expect(text(page)).to_contain_text("mais e mais palavras")
    page.explorer.get_by_role("button", name="Stop").click()
    expect(page.explorer.get_by_text("The answer is incomplete.")).to_be_visible(timeout=2000)
    assert model.hung_up.wait(5)
    model.route = says(ANSWER)
    ask(page, "E o comprovante da nota?")
    expect(text(page)).to_contain_text("Guarde o comprovante", timeout=FIRST)
    page.explorer.get_by_role("button", name="Good").click()
    expect(page.explorer.get_by_text("Kept in the base: this answer is good.")).to_be_visible()
    assert said(base) == [("good", "")]


def test_a_model_that_fails_leaves_the_extracts_and_says_what_to_do(
    page: LabPage, base: Path, model: OpenAIServer
) -> None:
    model.route = fails(401, "Incorrect API key", "invalid_api_key")
    begin(page, base, model)
    ask(page, QUESTION)
    expect(page.explorer.get_by_role("alert")).to_contain_text("OPENAI_API_KEY", timeout=FIRST)
    expect(text(page)).to_contain_text("portal da prefeitura")
    expect(text(page).locator("mark").first).to_be_visible()
    page.screenshot("ask failed", page.explorer)
    assert KEY not in str(page.saved()["cells"][1])


def test_nothing_of_a_hostile_answer_executes(page: LabPage, base: Path, model: OpenAIServer) -> None:
    model.route = says(f"{HOSTILE} ![x](http://203.0.113.9/x.png) [1]")
    begin(page, base, model)
    ask(page, "nota hostil vermelho")
    expect(text(page)).to_contain_text("<img src=x onerror")
    expect(text(page)).to_contain_text("javascript:window.hacked=3")
    page.screenshot("ask hostile", page.explorer)
    page.explorer.locator(".oraculo-answer-sources button", has_text="onerror").first.click()
    expect(page.explorer.locator(".oraculo-here")).to_contain_text("$x^2$")
    page.page.wait_for_timeout(1200)  # the static summary is brought up to date
    for shown in (page.page.locator("body").inner_html(), str(page.saved())):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    for of in ("img", "script", "a", "svg", "b", "mjx-container"):
        assert page.explorer.locator(f".oraculo-pane {of}").count() == 0, of
    assert page.page.evaluate("() => window.hacked") is None


def test_everything_can_be_done_by_keyboard_without_a_model(page: LabPage, base: Path) -> None:
    begin(page, base)
    keys = page.page.keyboard
    page.explorer.get_by_label("Question").focus()
    keys.type(QUESTION)
    keys.press("Enter")
    expect(text(page)).to_contain_text("portal da prefeitura", timeout=FIRST)

    def tab_to(target: Locator) -> None:
        for _ in range(25):
            if target.evaluate("element => element === document.activeElement"):
                return
            keys.press("Tab")
        pytest.fail(f"{target} cannot be reached by Tab")

    tab_to(text(page).get_by_role("button").first)
    keys.press("Enter")
    expect(page.explorer.locator(".oraculo-reader").get_by_role("heading")).to_be_focused()
    tab_to(page.explorer.get_by_role("button", name="Close"))
    keys.press("Enter")
    tab_to(page.explorer.get_by_role("button", name="Bad..."))
    keys.press("Enter")
    expect(page.explorer.get_by_role("textbox", name="What is wrong")).to_be_focused()
    keys.type("falta o prazo")
    keys.press("Tab")
    keys.press("Enter")
    expect(page.explorer.get_by_text("Kept in the base: this answer is bad.")).to_be_visible()
    assert said(base) == [("bad", "falta o prazo")]
    assert page.page.locator(".jp-Notebook .jp-Cell").count() == 2
