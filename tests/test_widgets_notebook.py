"""What stays of an explorer in a notebook's file: a summary that needs no kernel, and no widget state."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from langchain_core.documents import Document
from nbclient import NotebookClient

from oraculo_kit.storage.faiss import FaissVetorStorage

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> nota fiscal $x^2$"


@pytest.mark.filterwarnings("default")
def test_a_notebook_keeps_what_was_seen_last_and_nothing_that_acts(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbconvert import HTMLExporter

    monkeypatch.setenv("ORACULO_STORE", str(project / "base"))
    with FaissVetorStorage(project / "base") as store:
        store.write([Document(HOSTILE, metadata={"source": HOSTILE[:30]})])
    show = "import oraculo_kit as oraculo\nexplorer = oraculo.SearchExplorer()\nexplorer"
    ask = "import time\nexplorer.search('nota fiscal')\nprint(explorer.wait(), explorer.error)\ntime.sleep(1)"
    cells = [nbformat.v4.new_code_cell(code) for code in (show, ask)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(
        notebook, timeout=60, store_widget_state=False, resources={"metadata": {"path": str(project)}}
    )
    client.execute()
    assert "".join(output["text"] for output in notebook.cells[1].outputs) == "True None\n"
    live, summary = notebook.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in live["data"]
    assert "Hits: 1, chunks: 1" in summary["data"]["text/plain"]
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    assert "Hits: 1, chunks: 1" in page
    assert "&lt;img src=x onerror" in page
    assert "<img src=x" not in page
    assert "<script>alert" not in page
