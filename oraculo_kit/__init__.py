"""Turn a folder of documents into a searchable vector base, from a notebook, a batch or a shell.

::

    %load_ext oraculo_kit                  # starts the services; the package is there as `oraculo`
    oraculo.ingest("docs/")
    oraculo.search("como emitir nota fiscal?")

Nothing heavy is imported before it is used: every public name is loaded at its first use.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Answer": "answering.answers",
    "AnswerStream": "answering.streams",
    "AskExplorer": "widgets.ask",
    "CopyReport": "copying",
    "EnvironmentPlan": "environment",
    "FaissVetorStorage": "storage.faiss",
    "Feedback": "storage.feedback",
    "Hit": "storage.results",
    "IngestEvent": "events",
    "IngestHandle": "handles",
    "IngestMonitor": "widgets.ingest",
    "IngestProgress": "events",
    "IngestReport": "report",
    "MapExplorer": "widgets.map",
    "OraculoRetriever": "retriever",
    "SearchExplorer": "widgets.search",
    "SearchResults": "storage.results",
    "Services": "services",
    "ServicesPlugin": "dask",
    "Settings": "settings",
    "SourceOutcome": "report",
    "StoreBrowser": "widgets.store",
    "VetorStorage": "storage",
    "aask": "answering.asking",
    "ask": "answering.asking",
    "compare": "evaluating.comparison",
    "copy_store": "copying",
    "doctor": "diagnostics",
    "ensure_services": "services",
    "evaluate": "evaluating.evaluation",
    "explore": "widgets.tabs",
    "feedback": "answering.answers",
    "get_services": "services",
    "import_langchain_faiss": "langchain_import",
    "ingest": "ingestion",
    "ingest_task": "ingestion",
    "initialize_worker": "parallel",
    "open_storage": "storage",
    "parallel_services": "parallel",
    "project_base": "projection",
    "register_loader": "load",
    "reload_services": "services",
    "remove": "retrieval",
    "repair_store": "storage.repairing",
    "restore_store": "storage.copies",
    "run_report": "history",
    "runs": "history",
    "search": "retrieval",
    "search_tool": "retriever",
    "set_environ_remote": "environment",
    "sources": "retrieval",
    "start_services": "services",
    "status": "diagnostics",
    "stop_services": "services",
    "use": "services",
    "vetor_storage": "services",
}

__all__ = [
    "Answer",
    "AnswerStream",
    "AskExplorer",
    "CopyReport",
    "EnvironmentPlan",
    "FaissVetorStorage",
    "Feedback",
    "Hit",
    "IngestEvent",
    "IngestHandle",
    "IngestMonitor",
    "IngestProgress",
    "IngestReport",
    "MapExplorer",
    "OraculoRetriever",
    "SearchExplorer",
    "SearchResults",
    "Services",
    "ServicesPlugin",
    "Settings",
    "SourceOutcome",
    "StoreBrowser",
    "VetorStorage",
    "__version__",
    "aask",
    "ask",
    "compare",
    "copy_store",
    "doctor",
    "ensure_services",
    "errors",
    "evaluate",
    "explore",
    "feedback",
    "get_services",
    "import_langchain_faiss",
    "ingest",
    "ingest_task",
    "initialize_worker",
    "load_ipython_extension",
    "open_storage",
    "parallel_services",
    "project_base",
    "register_loader",
    "reload_services",
    "remove",
    "repair_store",
    "restore_store",
    "run_report",
    "runs",
    "search",
    "search_tool",
    "set_environ_remote",
    "sources",
    "start_services",
    "status",
    "stop_services",
    "unload_ipython_extension",
    "use",
    "vetor_storage",
]

if TYPE_CHECKING:
    from oraculo_kit import errors
    from oraculo_kit.answering.answers import Answer, feedback
    from oraculo_kit.answering.asking import aask, ask
    from oraculo_kit.answering.streams import AnswerStream
    from oraculo_kit.copying import CopyReport, copy_store
    from oraculo_kit.dask import ServicesPlugin
    from oraculo_kit.diagnostics import doctor, status
    from oraculo_kit.environment import EnvironmentPlan, set_environ_remote
    from oraculo_kit.evaluating.comparison import compare
    from oraculo_kit.evaluating.evaluation import evaluate
    from oraculo_kit.events import IngestEvent, IngestProgress
    from oraculo_kit.handles import IngestHandle
    from oraculo_kit.history import run_report, runs
    from oraculo_kit.ingestion import ingest, ingest_task
    from oraculo_kit.langchain_import import import_langchain_faiss
    from oraculo_kit.load import register_loader
    from oraculo_kit.parallel import initialize_worker, parallel_services
    from oraculo_kit.projection import project_base
    from oraculo_kit.report import IngestReport, SourceOutcome
    from oraculo_kit.retrieval import remove, search, sources
    from oraculo_kit.retriever import OraculoRetriever, search_tool
    from oraculo_kit.services import (
        Services,
        ensure_services,
        get_services,
        reload_services,
        start_services,
        stop_services,
        use,
        vetor_storage,
    )
    from oraculo_kit.settings import Settings
    from oraculo_kit.storage import VetorStorage, open_storage
    from oraculo_kit.storage.copies import restore_store
    from oraculo_kit.storage.faiss import FaissVetorStorage
    from oraculo_kit.storage.feedback import Feedback
    from oraculo_kit.storage.repairing import repair_store
    from oraculo_kit.storage.results import Hit, SearchResults
    from oraculo_kit.widgets.ask import AskExplorer
    from oraculo_kit.widgets.ingest import IngestMonitor
    from oraculo_kit.widgets.map import MapExplorer
    from oraculo_kit.widgets.search import SearchExplorer
    from oraculo_kit.widgets.store import StoreBrowser
    from oraculo_kit.widgets.tabs import explore


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("oraculo_kit.errors")
    home = _HOMES.get(name)
    if home is None:
        # With both, Python adds "Did you mean: 'search'?".
        raise AttributeError(
            f"module 'oraculo_kit' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )
    value = getattr(importlib.import_module(f"oraculo_kit.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell: Any) -> None:
    """Start the services in an IPython shell; called by ``%load_ext oraculo_kit``."""
    from oraculo_kit import extension

    extension.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Stop the services and take back everything that loading put into the shell."""
    from oraculo_kit import extension

    extension.unload(shell)
