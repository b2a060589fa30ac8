"""The ingestion monitor in JupyterLab, used as a person uses it."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.labpage import LabPage
from tests.tools.documents import make_pdf

SLOW = """
import time
import oraculo_kit as oraculo
from langchain_core.embeddings import Embeddings

class Slow(Embeddings):
    seconds = {seconds}

    def embed_documents(self, texts):
        for text in texts:
            time.sleep(self.seconds)
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        return [*{direction}, float(len(text) % 11)]

_ = oraculo.use({store!r}, embedder=Slow())
"""
SHOWN = "monitor = oraculo.IngestMonitor()\nmonitor"
SLOWLY = 30_000  # milliseconds; a run on a busy machine
# Clicks, and returns how many milliseconds later the page said that it stops.
CANCEL = """explorer => new Promise((resolve) => {
    const start = performance.now();
    const look = () => {
        if (!/Stopping|Cancelled/.test(explorer.textContent)) return;
        watch.disconnect();
        resolve(performance.now() - start);
    };
    const watch = new MutationObserver(look);
    watch.observe(explorer, { subtree: true, childList: true, characterData: true });
    [...explorer.querySelectorAll("button")].find((one) => one.textContent.trim() === "Cancel").click();
})"""
HOSTILE_NAME = "z<img src=x onerror=alert(1)> \u202egnp $x^2$ \x1b[31m\nfim.pdf"


@pytest.fixture
def docs(page: LabPage) -> Path:
    """Return a folder of the notebook's with 150 documents, of which one is no PDF and one has a hostile name."""
    for name in ("docs", "base", "uploads"):
        shutil.rmtree(page.lab.root / name, ignore_errors=True)
    folder = page.lab.root / "docs"
    folder.mkdir()
    for number in range(148):
        text = f"Manual {number}: a nota fiscal é emitida no portal da prefeitura. " * 12
        (folder / f"manual-{number:03}.md").write_text(text, encoding="utf-8")
    (folder / "quebrado.pdf").write_bytes(b"%PDF-1.4 nothing more")
    (folder / HOSTILE_NAME).write_bytes(b"<script>window.hacked=1</script>")
    return folder


def show(page: LabPage, *more: str, seconds: float = 0.04) -> None:
    # Another model each time, told from the last by the angle of its vectors: none of them is in the cache of embeddings.
    direction = [random.gauss(0, 100) for _ in range(16)]
    code = SLOW.format(seconds=seconds, direction=direction, store=str(page.lab.root / "base"))
    page.open(code, SHOWN, *more)
    page.run_all()
    page.explorer.get_by_label("Folder or file").wait_for()


def load_per_core() -> float:
    """Return by how much this machine is late, as far as it says."""
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 1.0


def button(page: LabPage, name: str) -> Locator:
    return page.explorer.get_by_role("button", name=name, exact=True)


def status(page: LabPage) -> Locator:
    return page.explorer.locator(".oraculo-message .oraculo-status")


@pytest.mark.parametrize(
    "dark", [pytest.param(False, marks=pytest.mark.full, id="light"), pytest.param(True, id="dark")]
)
def test_somebody_tries_out_ingests_cancels_resumes_mends_and_retries(
    page: LabPage, docs: Path, dark: bool, pictures: Path | None
) -> None:
    name = "dark" if dark else "light"
    show(page, "print('the kernel is free')")
    page.theme(dark=dark)
    look = page.explorer.locator(".oraculo-look")
    expect(look).to_contain_text("from where the notebook stands")
    box = page.explorer.get_by_label("Folder or file")
    box.press_sequentially("doc")
    expect(page.explorer.locator("datalist option[value='docs/']")).to_have_count(1)
    expect(look).to_contain_text("no such file or folder")
    box.press_sequentially("s/")
    expect(look).to_contain_text("150 files")

    button(page, "Dry run").click()
    expect(page.explorer.get_by_role("heading", name="Dry run finished")).to_be_visible(timeout=SLOWLY)
    expect(button(page, "150 added")).to_be_visible(timeout=SLOWLY)
    assert page.run("print(len(oraculo.vetor_storage()), len(oraculo.runs()))") == "0 0\n"

    button(page, "Start").click()
    expect(page.explorer.get_by_role("heading", name="Ingesting")).to_be_visible()
    assert page.run("print(1 + 1)") == "2\n"
    bar = page.explorer.get_by_role("progressbar")
    expect(page.explorer.locator(".oraculo-now")).to_contain_text("Embedding: docs/manual-000.md (+63)")
    expect(page.explorer.get_by_text(re.compile("6[4-6] of 150 sources"))).to_be_visible(timeout=SLOWLY)
    expect(page.explorer.get_by_text(" left")).to_be_visible()
    assert 40 <= int(bar.get_attribute("aria-valuenow") or "") < 100
    page.picture(f"ingest {name}", pictures)
    assert page.explorer.evaluate(CANCEL) < 500 * max(1.0, load_per_core())
    expect(page.explorer.get_by_role("heading", name="Cancelled")).to_be_visible(timeout=SLOWLY)

    notice = page.explorer.locator(".oraculo-notice")
    expect(notice).to_contain_text("was cut off after")
    button(page, "Resume").click()
    expect(page.explorer.get_by_role("heading", name="Finished")).to_be_visible(timeout=SLOWLY)
    expect(button(page, "148 added")).to_be_visible(timeout=SLOWLY)
    expect(button(page, "2 failed")).to_be_visible()
    expect(notice).to_have_count(0)
    failed = page.explorer.locator(".oraculo-outcome")
    expect(failed).to_have_count(2)
    expect(failed.filter(has_text="quebrado.pdf")).to_contain_text("PDF")
    page.screenshot(f"ingest finished {name}", page.explorer)

    (docs / "quebrado.pdf").unlink()
    (docs / "quebrado.pdf").write_bytes(make_pdf(["Um manual que agora se lê"]))
    button(page, "Retry failed").click()
    expect(button(page, "1 added")).to_be_visible(timeout=SLOWLY)
    expect(button(page, "1 failed")).to_be_visible()
    page.explorer.get_by_text("Earlier runs").click()
    rows = page.explorer.locator(".oraculo-runs tbody tr")
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_role("button").click()
    expect(button(page, "148 added")).to_be_visible(timeout=SLOWLY)
    button(page, "148 added").click()
    expect(failed).to_have_count(20)
    page.explorer.get_by_role("button", name="Next page").click()
    expect(page.explorer.get_by_text("21 to 40 of 148")).to_be_visible()
    page.screenshot(f"ingest earlier {name}", page.explorer)
    assert page.run("print(len(monitor.selection), monitor.error)") == "148 None\n"
    assert page.page.evaluate("() => window.hacked") is None
    for shown in (page.page.locator("body").inner_html(), str(page.saved())):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    for of in ("img", "script", "a", "svg", "mjx-container"):
        assert page.explorer.locator(f".oraculo-pane {of}").count() == 0, of


def test_uploaded_files_lie_in_the_project_and_are_ingested(
    page: LabPage, docs: Path, tmp_path: Path
) -> None:
    show(page, seconds=0.0)
    large = tmp_path / "grande.md"  # more than a message to a server may have
    large.write_text("A nota fiscal é emitida no portal.\n" * 400_000, encoding="utf-8")
    hostile = tmp_path / "<img src=x onerror=alert(2)>.txt"
    hostile.write_text("documento hostil", encoding="utf-8")
    small = [tmp_path / f"nota-{number}.txt" for number in range(3)]
    for file in small:
        file.write_text(file.name, encoding="utf-8")
    with page.page.expect_file_chooser() as chosen:
        button(page, "Upload files").click()
    chosen.value.set_files([hostile, *small, large])
    expect(status(page)).to_have_text("Uploaded grande.md", timeout=60_000)
    uploads = page.lab.root / "uploads"
    assert (uploads / "grande.md").read_bytes() == large.read_bytes()
    assert sorted(path.name for path in uploads.iterdir()) == [
        "_img src=x onerror=alert(2)_.txt",
        "grande.md",
        "nota-0.txt",
        "nota-1.txt",
        "nota-2.txt",
    ]
    expect(page.explorer.get_by_label("Folder or file")).to_have_value("uploads/")
    page.explorer.get_by_label("Only files like").fill("nota-*")
    expect(page.explorer.locator(".oraculo-look")).to_contain_text("3 files")
    button(page, "Start").click()
    expect(button(page, "3 added")).to_be_visible(timeout=SLOWLY)


def test_a_run_goes_on_when_its_cell_is_run_again_and_by_keyboard_it_is_cancelled(
    page: LabPage, docs: Path
) -> None:
    show(page, seconds=0.1)
    keys = page.page.keyboard
    page.explorer.get_by_label("Folder or file").focus()
    keys.type("docs/")
    for _ in range(6):
        keys.press("Tab")
        if button(page, "Start").evaluate("element => element === document.activeElement"):
            break
    keys.press("Enter")
    expect(button(page, "Cancel")).to_be_focused()
    expect(page.explorer.get_by_role("heading", name="Ingesting")).to_be_visible()
    page.run("monitor.close()")
    page.command("notebook:run-cell")
    expect(page.explorer.get_by_role("heading", name="Ingesting")).to_be_visible()
    assert page.run("print(monitor.is_active, 'docs' in monitor.code())") == "True True\n"
    button(page, "Cancel").focus()
    keys.press("Space")
    expect(page.explorer.get_by_role("heading", name="Cancelled")).to_be_visible(timeout=SLOWLY)
    assert page.run("print(len(oraculo.vetor_storage()))") == "0\n"


def test_a_view_says_when_its_kernel_is_gone(page: LabPage, docs: Path) -> None:
    show(page, "monitor._controls.path.value = 'docs'\nmonitor.start()", seconds=0.1)
    expect(page.explorer.get_by_role("heading", name="Ingesting")).to_be_visible()
    expect(status(page)).to_contain_text("The run goes on in the background")
    told = page.explorer.get_by_text("Run the cell again.")
    expect(told).to_be_hidden()
    page.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart().then(() => null)"
    )
    expect(told).to_be_visible()
    page.screenshot("ingest kernel gone", page.explorer)
    page.run_all()
    expect(page.explorer.get_by_role("heading", name="Ingesting")).to_be_visible(timeout=SLOWLY)
    expect(told).to_be_hidden()


def test_pruning_asks_before_anything_leaves_the_base(page: LabPage, docs: Path) -> None:
    show(page, "monitor._controls.path.value = 'docs'\nmonitor.start()", seconds=0.0)
    expect(button(page, "148 added")).to_be_visible(timeout=SLOWLY)
    (docs / "manual-007.md").unlink()
    page.explorer.get_by_label("Take out what is gone").check()
    button(page, "Start").click()
    question = page.explorer.get_by_role("group", name="Confirm")
    expect(question).to_contain_text("docs/manual-007.md")
    page.screenshot("ingest prune", page.explorer)
    question.get_by_role("button", name="Back").click()
    expect(question).to_have_count(0)
    button(page, "Start").click()
    question.get_by_role("button", name="Take out and ingest").click()
    expect(button(page, "1 taken out")).to_be_visible(timeout=SLOWLY)
