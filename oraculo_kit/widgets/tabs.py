"""`explore`: all explorers, a tab each."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import ipywidgets

from oraculo_kit.messages import N_
from oraculo_kit.widgets.ask import AskExplorer
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.ingest import IngestMonitor
from oraculo_kit.widgets.map import MapExplorer
from oraculo_kit.widgets.nodes import Node
from oraculo_kit.widgets.search import SearchExplorer
from oraculo_kit.widgets.store import StoreBrowser

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.storage.base import VetorStorage

EXPLORERS: tuple[type[Explorer], ...] = (
    SearchExplorer,
    IngestMonitor,
    StoreBrowser,
    MapExplorer,
    AskExplorer,
)
"""The tabs, in order."""


class Explorers(Explorer):
    """Explorers behind tabs; answers as the one that is in front does.

    Parameters
    ----------
    store : VetorStorage, optional

    Attributes
    ----------
    explorers : tuple of Explorer
    """

    title: ClassVar[str] = N_("Explorers")

    def __init__(self, store: VetorStorage | None = None) -> None:
        super().__init__(store)
        self.explorers = tuple(kind(store=store) for kind in EXPLORERS)
        _ = self.translated
        self._tabs = ipywidgets.Tab(self.explorers, titles=[_(each.title) for each in self.explorers])
        for each in self.explorers:
            each.on_refresh(self._summary.changed)
        self._tabs.observe(self.handler(lambda _change: self._turned()), "selected_index")
        self.compose(self._tabs)

    def _turned(self) -> None:
        self._summary.changed()
        self.current.shown()

    @property
    def current(self) -> Explorer:
        """The explorer whose tab is in front."""
        return self.explorers[self._tabs.selected_index or 0]

    @property
    def selection(self) -> pd.DataFrame:
        """As that of the explorer in front."""
        return self.current.selection

    def code(self) -> str:
        """As that of the explorer in front."""
        return self.current.code()

    def summary(self) -> Node:
        """As that of the explorer in front."""
        with self.current.lock:
            return self.current.summary()

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing runs in the background of any."""
        return all(each.wait(timeout) for each in self.explorers)

    def _code_nodes(self, code: str) -> list[Node]:
        return []  # each explorer has its own

    def close(self) -> None:
        """Take all of them off the screen."""
        for each in self.__dict__.get("explorers", ()):  # not there when the store was refused
            each.close()
        super().close()


def explore(store: VetorStorage | None = None) -> Explorers:
    """Show the explorers of the base: see, search and steer it without leaving the notebook.

    Parameters
    ----------
    store : VetorStorage, optional
        By default the base of the services, whichever that is at the moment.

    Returns
    -------
    Explorers
        A widget; the last line of a cell shows it. ``.current`` is the explorer in front; each is a class of its own too:
        `SearchExplorer`.

    Raises
    ------
    QueryError
        When `store` is no store.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> explorers = oraculo.explore()
    >>> explorers.current.title
    'Search'
    """
    return Explorers(store)
