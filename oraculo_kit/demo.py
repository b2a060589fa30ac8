"""``oraculo demo``: real text that every machine has, three questions, no download.

The text: the long descriptions of the Python packages installed beside this one (well over a hundred, in
English) and the small Portuguese files of ``notebooks/dados``. It goes into a store of its own, so that nobody's
base is touched.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oraculo_kit.display import size_text, visible
from oraculo_kit.settings import absolute_location, find_project_root

if TYPE_CHECKING:
    from langchain_core.documents import Document

QUESTIONS = (
    "como cancelar uma nota fiscal emitida com erro?",
    "por quanto tempo guardamos os dados de quem participou de uma seleção?",
    "how to stem words in many languages?",
)

_SHORTEST = 200  # characters; shorter descriptions say nothing but "see the web page"


def installed_descriptions() -> Iterator[Document]:
    """Yield the long description of each installed Python package as a document."""
    from langchain_core.documents import Document

    seen = set()
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        name = metadata["Name"]
        # Not get_payload(): the backport importlib_metadata, once imported, answers here too and keeps none.
        text = str(metadata.json.get("description", ""))
        # Our own description quotes the questions below: it would answer itself.
        if not name or name in seen or name in ("oraculo_kit", "oraculo-kit") or len(text) < _SHORTEST:
            continue
        seen.add(name)
        about = {"source": f"python-package/{name}", "title": f"{name} {metadata['Version']}"}
        yield Document(page_content=text, metadata=about)


def portuguese_files() -> Path | None:
    """Return the folder with the Portuguese files: in the installed package, or in the source tree."""
    package = Path(__file__).parent
    for folder in (package / "_dados", package.parent / "notebooks" / "dados"):
        if folder.is_dir():
            return folder
    return None


def run_demo(folder: str | None = None, *, store: str | None = None, progress: bool = True) -> int:
    """Ingest, ask three questions, say what to try next; return the exit code.

    Parameters
    ----------
    folder : path, optional
        Ingested instead of the demo's own text.
    store : path, optional
        By default ``.oraculo/demo`` in the project folder.
    progress : bool
        Show progress bars.
    """
    from oraculo_kit.ingestion import ingest
    from oraculo_kit.retrieval import search
    from oraculo_kit.services import start_services

    location = (
        absolute_location(store) if store is not None else str(find_project_root() / ".oraculo" / "demo")
    )
    os.environ["ORACULO_STORE"] = location
    start_services(context="cli")
    given: list[Any] = [folder] if folder is not None else [installed_descriptions(), portuguese_files()]
    reports = [ingest(each, progress=progress) for each in given if each is not None]
    outcomes = [outcome for report in reports for outcome in report]
    for report in reports:
        print(report.summary())
        for outcome in report.failed:
            print(f"  {visible(outcome.source)}: {visible(outcome.message)}")
    for question in QUESTIONS:
        print(f"\n? {question}")
        print(search(question, k=3))
    size = size_text(sum(outcome.bytes for outcome in outcomes))
    print(
        f"\n{len(outcomes)} sources, {size}. Next:\n"
        f'  oraculo search --store {shlex.quote(_shown(location))} "your own question"\n'
        '  oraculo ingest your/documents        then  oraculo search "..."\n'
        '  in a notebook: %load_ext oraculo_kit then  oraculo.ingest("your/documents")'
    )
    if not outcomes:
        print("oraculo: nothing was found to ingest", file=sys.stderr)
        return 1
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def _shown(location: str) -> str:
    """Return a path below the working folder as the user would type it."""
    below = os.getcwd() + os.sep
    return location.removeprefix(below)
