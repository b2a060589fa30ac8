"""Execute the notebooks as a reader would, write what they show back, and compare that with what is stored.

``python -m tests.tools.notebooks [NAME ...]``, or ``make notebooks``: brings each notebook and its text twin to the
newer of the two, executes it in a copy of the project, and stores its outputs. An output that says what the stored
one says, but for times and ids, is left as it was, so that a second run changes no file.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from oraculo_kit.environment.names import is_provider_name

FOLDER = Path(__file__).parent.parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

VARIES = "varies"
"""Tag of a cell whose output depends on the machine or on chance."""

_LANGUAGES = {"01_quickstart": "pt_BR"}  # of messages; the quickstart shows those that most users see
_LIVE = "application/vnd.jupyter.widget-view+json"  # an error without a kernel; the static summary follows it
_NOISE = (
    (r" \([\d,.]+ chunks/s\)", ""),  # said of runs of a second and more
    (r"\b\d[\d.,]* (ms|s|min)\b", "# s"),
    (r"\b\d[\d.,]* ([KMG]iB|sources/s|chunks/s)\b", "#"),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d\S*)?", "#"),
    (r"\b[0-9a-f]{8,64}\b", "#"),
    (r"-?\b\d+\.\d+\b", "#"),  # scores: their last digit depends on the processor
    (r"\\", "/"),
    (r"-{2,}", "-"),  # rules and columns are as wide as what is in them
    (r"\s+", " "),
)


def execute(path: Path, home: Path) -> nbformat.NotebookNode:
    """Run a notebook in a new project of its own and return it with what it showed.

    Parameters
    ----------
    path : pathlib.Path
        The notebook, or its text twin.
    home : pathlib.Path
        An empty folder, the home of the kernel; so paths are shown as ``~/oraculo_kit/...``, whoever runs it.
    """
    folder = home / "oraculo_kit" / "notebooks"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    (folder.parent / ".env").touch()  # marks the project
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=120,
        extra_arguments=["--log-level=ERROR"],
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=_environ(home, _LANGUAGES.get(path.stem, "en")))
    return _cleaned(notebook, str(home))


def _environ(home: Path, language: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORACULO_", "PYTEST_", "DASK_")) and not is_provider_name(name)
    }
    kept.setdefault("XDG_RUNTIME_DIR", str(home))  # platformdirs warns without
    width = "100"  # of tables; pytest sets another one
    return {**kept, "HOME": str(home), "USERPROFILE": str(home), "ORACULO_LANG": language, "COLUMNS": width}


def _cleaned(notebook: nbformat.NotebookNode, home: str) -> nbformat.NotebookNode:
    for name in ("jupytext", "widgets"):
        notebook.metadata.pop(name, None)
    # Which Python executed it is no news for a reader.
    notebook.metadata["language_info"] = {
        "name": "python",
        "file_extension": ".py",
        "mimetype": "text/x-python",
    }
    for cell in _code_cells(notebook):
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
        outputs = [output for output in cell.outputs if _LIVE not in output.get("data", {})]
        cell.outputs = [_with_tilde(output, home) for output in outputs]
    return notebook


def _with_tilde(value: Any, home: str) -> Any:
    """Return an output with the home folder written as ``~``."""
    if isinstance(value, str):
        return value.replace(home, "~")
    if isinstance(value, dict):
        return type(value)({name: _with_tilde(each, home) for name, each in value.items()})
    return [_with_tilde(each, home) for each in value] if isinstance(value, list) else value


def _code_cells(notebook: nbformat.NotebookNode) -> Iterator[Any]:
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def shown(cell: Any) -> list[str]:
    """Return what a cell shows as text, without times and ids."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return [without_noise(text) for text in texts]


def without_noise(text: str) -> str:
    """Return a text without what differs from run to run and from machine to machine."""
    for pattern, replacement in _NOISE:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def differences(stored: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> list[str]:
    """Return, for each cell that shows something else than is stored, what it is."""
    pairs = zip(_code_cells(stored), _code_cells(executed), strict=True)
    return [
        f"{before.source}\n--- stored\n{shown(before)}\n--- now\n{shown(after)}"
        for before, after in pairs
        if VARIES not in after.metadata.get("tags", []) and shown(before) != shown(after)
    ]


def _keep_stored(stored: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> None:
    before = {cell.id: cell for cell in _code_cells(stored)}
    for cell in _code_cells(executed):
        old = before.get(cell.id)
        if old is not None and old.source == cell.source and old.outputs and shown(old) == shown(cell):
            cell.outputs = old.outputs


def main(names: list[str]) -> None:
    """Execute the notebooks whose names begin so, or all, and write them."""
    from jupytext.cli import jupytext

    for twin in sorted(FOLDER.glob("*.py")):
        if names and not twin.name.startswith(tuple(names)):
            continue
        jupytext(["--quiet", "--sync", str(twin)])
        path = twin.with_suffix(".ipynb")
        with tempfile.TemporaryDirectory() as home:
            executed = execute(path, Path(home))
        _keep_stored(nbformat.read(path, as_version=4), executed)
        nbformat.write(executed, path)
        os.utime(twin)  # what is written last is what jupytext takes for the newer one
        os.utime(path)
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
