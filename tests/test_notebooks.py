"""Every notebook runs from top to bottom, shows what it is stored with, and agrees with its text twin."""

from __future__ import annotations

import json
from pathlib import Path

import jupytext
import nbformat
import pytest

from tests.tools.notebooks import FOLDER, NOTEBOOKS, differences, execute, without_noise

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_is_a_notebook_for_each_way_of_working() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_batch",
        "03_search_and_evaluate",
        "04_explorers",
        "05_answers",
        "06_dask_and_engine",
    ]


@pytest.mark.filterwarnings("default")
@each_notebook
def test_a_notebook_runs_from_top_to_bottom_and_shows_what_is_stored(path: Path, tmp_path: Path) -> None:
    executed = execute(path, tmp_path)
    found = differences(nbformat.read(path, as_version=4), executed)
    assert not found, "\n".join(["make notebooks", *found])


@each_notebook
def test_a_notebook_is_stored_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    text = path.read_text(encoding="utf-8")
    assert "application/vnd.jupyter.widget" not in text
    assert path.stat().st_size < 250_000
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= 30
    assert all(cell.outputs for cell in cells), "stored with its real output, for readers without a kernel"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert set(cell.metadata) <= {"tags"}
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"


@each_notebook
def test_a_notebook_shows_nothing_of_the_machine_that_executed_it(path: Path) -> None:
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False)
    for folder in ("/home/", "/root/", "/tmp/", "/Users/", "C:\\\\", str(FOLDER.parent)):
        assert folder not in text


@each_notebook
def test_a_notebook_agrees_with_its_text_twin(path: Path) -> None:
    twin = jupytext.read(path.with_suffix(".py"))
    stored = nbformat.read(path, as_version=4)
    assert [(cell.cell_type, cell.source) for cell in stored.cells] == [
        (cell.cell_type, cell.source) for cell in twin.cells
    ], "make notebooks"
    assert [cell.metadata.get("tags") for cell in stored.cells] == [
        cell.metadata.get("tags") for cell in twin.cells
    ]


def test_every_text_twin_has_its_notebook() -> None:
    assert [path.stem for path in sorted(FOLDER.glob("*.py"))] == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("15 added in 1.6 s (80 chunks/s) -> ~/base", "15 added in 0.4 s -> ~/base"),
        ("3 hits, 5 ms", "3 hits, 12 ms"),
        ("0.7513  a.md", "0.7512 a.md"),
        ("2026-11-22T10:00:00+00:00", "2027-01-02 08:15"),
    ],
)
def test_times_and_last_digits_are_no_difference(before: str, after: str) -> None:
    assert without_noise(before) == without_noise(after)


def test_another_document_or_count_is_a_difference(tmp_path: Path) -> None:
    stored = nbformat.read(NOTEBOOKS[0], as_version=4)
    changed = nbformat.from_dict(json.loads(json.dumps(stored)))
    assert not differences(stored, changed)
    table = next(cell for cell in changed.cells if cell.source == 'oraculo.ingest("dados")').outputs[0]
    table["data"]["text/plain"] = table["data"]["text/plain"].replace("15 added", "14 added")
    assert len(differences(stored, changed)) == 1
