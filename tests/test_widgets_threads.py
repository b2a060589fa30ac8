"""Messages of the browser on another thread, as ipykernel 7.1 to 7.3 run them while a cell runs: they wait for the lock."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.pane import Pane
from oraculo_kit.widgets.uploading import Uploader

EXPLORERS = ("SearchExplorer", "IngestMonitor", "StoreBrowser", "MapExplorer", "AskExplorer")


def parts(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        if isinstance(child, ipywidgets.Widget):
            yield from parts(child)


def is_observed(widget: Any) -> bool:
    """Return whether somebody is told of a new value, besides the widget itself."""
    told = getattr(widget, "_trait_notifiers", {}).get("value", {}).get("change", ())
    return any(inspect.isfunction(each) for each in told)


def acts(explorer: Explorer) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what the browser can do to an explorer, with a name."""
    for place, widget in enumerate(parts(explorer)):
        name = f"{place} {type(widget).__name__} {getattr(widget, 'description', '')}"
        if isinstance(widget, ipywidgets.Button) and widget._click_handlers.callbacks:
            yield name, widget.click
        elif isinstance(widget, Pane | Uploader) and widget._msg_callbacks.callbacks:
            told = {"event": "page", "payload": 0, "file": "x"}
            yield name, partial(widget._handle_custom_msg, told, [])
        elif not is_observed(widget):
            continue
        elif isinstance(widget, ipywidgets.ToggleButton | ipywidgets.Checkbox):
            yield name, partial(setattr, widget, "value", not widget.value)
        elif isinstance(widget, ipywidgets.Dropdown) and len(widget.options) > 1:
            yield name, partial(setattr, widget, "index", (widget.index or 0) + 1 - 2 * bool(widget.index))
        elif isinstance(widget, ipywidgets.Text | ipywidgets.Combobox):
            yield name, partial(setattr, widget, "value", "something else")


@pytest.mark.parametrize("kind", EXPLORERS)
def test_whatever_the_browser_sends_waits_while_somebody_else_changes_the_explorer(
    kind: str, project: Path
) -> None:
    document = Document("Como emitir nota fiscal", metadata={"source": "ajuda.md", "lang": "pt"})
    oraculo.ingest([document], progress=False)
    options = {"interactive": False} if kind == "MapExplorer" else {}
    explorer = getattr(oraculo, kind)(**options)
    assert explorer.wait()
    threads = {}
    with explorer.lock:
        for name, act in acts(explorer):
            threads[name] = threading.Thread(target=act, name=name)
            threads[name].start()
        for thread in threads.values():
            thread.join(0.05)
        early = [name for name, thread in threads.items() if not thread.is_alive()]
    for thread in threads.values():
        thread.join(30)
    assert threads
    assert early == []
    assert not any(thread.is_alive() for thread in threads.values())
    assert explorer.wait()
    explorer.close()
