"""The store browser without a browser: real widgets, a real store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.errors import QueryError, StorageError
from oraculo_kit.split import split_documents
from oraculo_kit.storage.base import LedgerEntry, SourceDocuments
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.verify import VerifyReport
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.figures import doubling, even_bins
from oraculo_kit.widgets.nodes import Node, as_html, as_text
from oraculo_kit.widgets.pane import Pane
from oraculo_kit.widgets.store import StoreBrowser
from oraculo_kit.widgets.storing import PAGE, Listing, file_state
from oraculo_kit.widgets.upkeep import StoppedError, delete_sources, ingest_again, told_report
from tests.test_widgets_search import ran

TEXT = "\n\n".join(f"Passo {place}: a nota número {place} é emitida no portal." for place in range(60))
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202e$x$"


@pytest.fixture
def store(project: Path) -> Iterator[FaissVetorStorage]:
    with FaissVetorStorage(project / "base", durability="process") as opened:
        for place in range(24):
            key = f"manuais/{place:02}.md"
            document = Document(
                TEXT if place == 0 else f"texto {place}", metadata={"source": key, "title": f"T{place}"}
            )
            opened.replace(key, split_documents([document], chunk_size=200, chunk_overlap=60))
        opened.replace(
            HOSTILE, [Document(HOSTILE, metadata={"source": HOSTILE, HOSTILE: HOSTILE, "lang": HOSTILE})]
        )
        yield opened


@pytest.fixture
def browser(store: FaissVetorStorage) -> Iterator[StoreBrowser]:
    shown = StoreBrowser(store=store)
    assert shown.wait()
    assert shown.error is None
    yield shown
    shown.close()


def told(browser: StoreBrowser, event: str, payload: Any = None, checked: bool | None = None) -> str:
    """Do what a click would, wait, and return what is on the screen."""
    browser.handler(browser._told)(event, payload, checked)
    assert browser.wait()
    return shown(browser)


def shown(explorer: Explorer) -> str:
    """Return the text of all panes, that of buttons too."""
    panes = [each for each in everything(explorer) if isinstance(each, Pane)]
    return "\n".join(as_text(static(child)) for pane in panes for child in pane.children)


def everything(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    yield widget
    if isinstance(widget, ipywidgets.Box):
        for child in widget.children:
            yield from everything(child)


def static(tree: Node) -> Node:
    """Return a tree with what only a live view shows, for static text."""
    if isinstance(tree, str):
        return tree
    return {
        **{name: value for name, value in tree.items() if name != "live"},
        "children": [static(child) for child in tree.get("children", ())],
    }


def test_sources_are_shown_by_page_and_filtered(browser: StoreBrowser) -> None:
    assert "sources: 25 · chunks: " in shown(browser)
    assert "1 to 20 of 25" in shown(browser)
    assert "manuais/19.md" not in shown(browser)
    assert "manuais/20.md" in told(browser, "page", 1)
    browser._contains.value = "AIS/0"
    assert browser.wait()
    assert browser.listing == Listing("AIS/0")
    assert "manuais/09.md" in shown(browser)
    assert "manuais/10.md" not in shown(browser)
    browser._order.value = ("chunks", True)
    assert browser.wait()
    assert browser._page is not None
    assert browser._page.rows[0].source == "manuais/00.md"
    browser._contains.value = "nobody"
    assert browser.wait()
    assert "No source is like that." in shown(browser)


def test_a_source_is_read_chunk_by_chunk(browser: StoreBrowser, store: FaissVetorStorage) -> None:
    browser.show_source("manuais/00.md")
    assert browser.wait()
    assert "Passo 0: a nota" in shown(browser)
    assert "T0" in shown(browser)
    count = len(store.source_chunks("manuais/00.md"))
    assert count > 10
    second = told(browser, "chunks", 1)
    assert store.source_chunks("manuais/00.md", 10, 10)[0].text[:20] in second
    assert "chunk 11" in told(browser, "chunk", 10)
    assert "chunk 12" in told(browser, "read", 11)
    assert "Passo 0" not in told(browser, "close")
    told(browser, "close-source")
    assert browser.selection.empty
    browser.show_source("nobody.md")
    assert browser.wait()
    assert isinstance(browser.error, QueryError)


def test_a_deletion_is_asked_first_and_then_done(browser: StoreBrowser, store: FaissVetorStorage) -> None:
    told(browser, "delete")
    assert browser._question is None  # nothing is selected
    told(browser, "tick", 1, True)
    told(browser, "tick", 2, True)
    assert list(browser.selection["chunks"]) == [store.sources()[1].chunks, store.sources()[2].chunks]
    names = list(browser.selection["source"])
    assert "Sources: 2, chunks: " in told(browser, "delete")
    assert "Sources: 2, chunks" not in told(browser, "keep")
    assert len(store.sources()) == 25
    told(browser, "delete")
    text = told(browser, "confirm")
    assert f"Deleted chunks: {browser.report}" in text
    assert not set(names) & {row.source for row in store.sources()}
    assert browser.selection.empty
    assert "sources: 23" in text


def test_what_stood_on_the_last_page_may_be_deleted(browser: StoreBrowser) -> None:
    told(browser, "page", 1)
    assert browser._page is not None
    assert len(browser._page.rows) == 5
    told(browser, "tick-all", None, True)
    told(browser, "delete")
    told(browser, "confirm")
    assert browser.listing.page == 0
    assert len(browser._page.rows) == PAGE


def test_another_tick_takes_the_question_back(browser: StoreBrowser, store: FaissVetorStorage) -> None:
    told(browser, "tick", 0, True)
    told(browser, "delete")
    told(browser, "tick", 1, True)
    told(browser, "confirm")
    assert len(store.sources()) == 25


def test_another_view_takes_the_question_back(browser: StoreBrowser, store: FaissVetorStorage) -> None:
    told(browser, "tick", 0, True)
    assert "Delete from the base?" in told(browser, "delete")
    assert "Delete from the base?" not in told(browser, "view", "statistics")
    told(browser, "confirm")
    assert len(store.sources()) == 25


def test_an_empty_base_says_what_to_do(project: Path) -> None:
    with FaissVetorStorage(project / "empty", durability="process") as empty:
        browser = StoreBrowser(store=empty)
        assert browser.wait()
        assert "The base is empty. Fill it: oraculo.ingest" in shown(browser)
        assert "No source is like that." not in shown(browser)
        browser.close()


def test_the_store_is_read_anew_when_its_tab_comes_to_the_front(project: Path) -> None:
    explorers = oraculo.explore()
    browser = next(each for each in explorers.explorers if isinstance(each, StoreBrowser))
    assert explorers.wait()
    assert "sources: 0" in shown(browser)
    path = project / "nota.txt"
    path.write_text("A nota é emitida hoje.", encoding="utf-8")
    oraculo.ingest(path, progress=False)
    in_front = explorers.explorers.index(browser)
    explorers._tabs.selected_index = in_front
    assert explorers.wait()
    assert "sources: 1" in shown(browser)
    assert "nota.txt" in shown(browser)
    told(browser, "tick", 0, True)
    assert str(project) not in told(browser, "delete")  # it names sources as the table does
    told(browser, "keep")
    told(browser, "open", 0)
    path.write_text("A nota é emitida amanhã.", encoding="utf-8")
    oraculo.ingest(path, progress=False)
    explorers._tabs.selected_index = 0
    explorers._tabs.selected_index = in_front
    assert explorers.wait()
    assert "amanhã" in shown(browser)
    explorers.close()


def test_nothing_is_read_again_while_nothing_changed(
    browser: StoreBrowser, store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "update", lambda: pytest.fail("it was read again"))
    browser.shown()
    assert browser.wait()
    assert browser.error is None


def test_a_changed_file_is_seen_and_ingested_again(project: Path) -> None:
    path = project / "nota.txt"
    path.write_text("A nota é emitida hoje.", encoding="utf-8")
    oraculo.ingest(path, progress=False)
    browser = oraculo.StoreBrowser()
    assert browser.wait()
    assert "up to date" in shown(browser)
    path.write_text("A nota é emitida amanhã, no portal.", encoding="utf-8")
    browser.update()
    assert browser.wait()
    assert "file changed" in shown(browser)
    told(browser, "open", 0)
    assert "Ingest again? Sources: 1." in told(browser, "ingest")
    text = told(browser, "confirm")
    assert browser.error is None
    assert "Ingested again: replaced 1" in text
    assert "up to date" in text
    assert "amanhã" in text  # the source that is open is read again
    path.unlink()
    browser.update()
    assert browser.wait()
    assert "file gone" in shown(browser)
    told(browser, "ingest")
    assert "failed" in told(browser, "confirm") or browser.error is not None
    found = ran(browser.code())
    assert found["last"][0].text == "A nota é emitida amanhã, no portal."
    browser.close()


def test_what_is_no_file_or_stands_in_another_base_is_not_ingested_again(
    browser: StoreBrowser, store: FaissVetorStorage
) -> None:
    told(browser, "tick", 1, True)
    told(browser, "ingest")
    told(browser, "confirm")
    assert isinstance(browser.error, QueryError)
    assert "oraculo_kit.use(" in str(browser.error)
    oraculo.use(store.location)
    with pytest.raises(QueryError, match="is no file and no address"):
        ingest_again(oraculo.vetor_storage(), ["manuais/01.md"], lambda done, total: None)


@pytest.mark.parametrize("task", ["verify", "compact", "optimize"])
def test_upkeep_tells_what_came_of_it(browser: StoreBrowser, task: str) -> None:
    assert "There is nothing to do." in told(browser, "view", "upkeep")
    told(browser, "task", task)
    assert browser.error is None
    assert browser.report is not None
    assert as_text(told_report(browser.report, str)) in shown(browser)


def test_damage_is_listed_with_what_to_do() -> None:
    report = VerifyReport("base", (f"{HOSTILE} is damaged",), chunks=3)
    text = as_text(told_report(report, str))
    assert "Problems found: 1" in text
    assert "repair_store()" in text


def test_work_can_be_stopped_and_leaves_a_whole_base(browser: StoreBrowser, store: FaissVetorStorage) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        delete_sources(store, [row.source for row in store.sources()], stop)
    assert len(store.sources()) == 23
    assert store.verify().ok
    begun = browser.lock.acquire()  # so that the work cannot show how far it is before it is stopped
    assert begun
    browser._told("task", "verify", None)
    browser._told("stop", None, None)
    assert "Stopping..." in shown(browser)
    browser.lock.release()
    assert browser.wait()
    assert browser.report is None
    assert "Stopped." in as_text(browser._message.children[0])
    assert browser.error is None


def test_an_error_of_the_store_is_shown(browser: StoreBrowser, store: FaissVetorStorage) -> None:
    store.close()
    browser.update()
    assert browser.wait()
    assert isinstance(browser.error, StorageError)


def test_statistics_are_bars_of_all_sources(browser: StoreBrowser) -> None:
    told(browser, "view", "statistics")
    html = as_html(browser.summary())
    for caption in (
        "Chunks per source",
        "Characters per chunk",
        "Formats",
        "Languages",
        "Sources by day written",
    ):
        assert f"<caption>{caption}</caption>" in html
    assert html.count('oraculo-bar"') > 5
    assert "a sample of" not in html
    assert "<img" not in html


def test_code_gives_what_is_on_the_screen(browser: StoreBrowser) -> None:
    browser._contains.value = "manuais"
    browser._order.value = ("chunks", False)
    assert browser.wait()
    told(browser, "page", 1)
    assert browser._page is not None
    found = ran(browser.code())
    assert found["last"].equals(browser._page.to_pandas())
    found["store"].close()
    told(browser, "open", 0)
    assert browser._source is not None
    found = ran(browser.code())
    assert found["last"] == list(browser._source.chunks)
    found["store"].close()
    for view in ("statistics", "upkeep"):
        told(browser, "view", view)
        found = ran(browser.code())
        found["store"].close()


def test_hostile_text_is_text_everywhere(browser: StoreBrowser) -> None:
    browser.show_source(HOSTILE)
    assert browser.wait()
    told(browser, "delete")
    everything = [
        str(pane.children) for pane in (browser._head, browser._work, browser._main, browser._detail)
    ]
    told(browser, "chunk", 0)
    told(browser, "view", "statistics")
    everything += [
        str(browser._main.children),
        str(browser._detail.children),
        browser.snapshot(),
        browser.code(),
    ]
    for text in everything:
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<img" not in browser.snapshot()


def test_pages_of_a_large_base_are_read_in_milliseconds(project: Path) -> None:
    import time

    vectors = np.random.default_rng(0).standard_normal((5000, 256)).astype(np.float32)
    with FaissVetorStorage(project / "large", durability="process") as store:
        store.replace_many(
            [
                SourceDocuments(
                    f"pasta/{place:06}.txt", [Document("x")], vectors[place : place + 1], LedgerEntry()
                )
                for place in range(5000)
            ]
        )
        started = time.perf_counter()
        page, _ = Listing("4", page=100).read(store)
        assert time.perf_counter() - started < 0.5
        assert len(page.rows) == PAGE


def test_the_state_of_a_file_is_read_from_size_and_time(project: Path) -> None:
    path = project / "a.txt"
    path.write_text("um", encoding="utf-8")
    os.utime(path, ns=(10**18, 10**18))  # the ledger does not trust the time of a file that was just written
    oraculo.ingest(path, progress=False)
    row = oraculo.vetor_storage().sources()[0]
    assert file_state(row) == "stored"
    os.utime(path, ns=(1, 1))
    assert file_state(row) == "changed"
    path.unlink()
    assert file_state(row) == "gone"


def test_classes_hold_every_value_once() -> None:
    values = [0, 1, 1, 5, 900, 1024]
    assert sum(count for _, count in doubling(values)) == sum(count for _, count in even_bins(values)) == 6
    assert doubling([]) == even_bins([]) == []
    assert even_bins([7, 7]) == [("7", 2)]


def test_the_browser_speaks_portuguese(store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACULO_LANG", "pt_BR")
    browser = StoreBrowser(store=store)
    assert browser.wait()
    assert "Estatísticas" in browser.snapshot() or "fontes: 25" in browser.snapshot()
    assert "nada selecionado" in shown(browser)
    browser.close()
    with pytest.raises(QueryError, match="got int as part of"):
        StoreBrowser(3, store=store)  # type: ignore[arg-type]
