"""What every explorer is built on: `Explorer`. The rules stand in `oraculo_kit.widgets`."""

from __future__ import annotations

import abc
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import ipywidgets

from oraculo_kit.display import CLASSES, visible
from oraculo_kit.errors import OraculoError, QueryError
from oraculo_kit.messages import N_, current_translator
from oraculo_kit.services import ensure_services
from oraculo_kit.storage.base import VetorStorage
from oraculo_kit.widgets.background import Job, Lane, Superseded
from oraculo_kit.widgets.nodes import Node, as_html, as_text, node, page
from oraculo_kit.widgets.pane import Pane
from oraculo_kit.widgets.statics import StaticSummary
from oraculo_kit.widgets.styles import style_for

if TYPE_CHECKING:
    import pandas as pd

Result = TypeVar("Result")
_KNOWN = N_("Search")  # a text that every other language has its own for


class ExplorerMeta(type(ipywidgets.VBox), abc.ABCMeta):  # type: ignore[misc]
    """Of a class that is both a widget and abstract."""


class Explorer(ipywidgets.VBox, metaclass=ExplorerMeta):
    """A view of the base that is used by hand, in a notebook.

    A class that derives from it calls ``super().__init__(store)`` first, makes its controls and panes, then calls
    ``self.compose(*widgets)``, and answers `selection`, `code` and `summary`.

    Parameters
    ----------
    store : VetorStorage, optional
        What it looks at; by default the base of the services, whichever that is at the moment.

    Attributes
    ----------
    lock : threading.RLock
        Held by whoever changes widgets.
    error : BaseException or None
        What the explorer shows as error at present; ``raise explorer.error`` shows its traceback.
    """

    title: ClassVar[str] = ""
    """What the tab is called; marked with ``N_``."""

    def __init__(self, store: VetorStorage | None = None) -> None:
        if store is not None and not isinstance(store, VetorStorage):
            raise QueryError(
                f"got {type(store).__name__} as store, expected a VetorStorage, such as open_storage(...) returns, or "
                "none for the base of the services"
            )
        self.lock = threading.RLock()
        self.error: BaseException | None = None
        self.translated = current_translator()
        self._store = store
        self._lanes: dict[str, Lane] = {}
        self._summary = StaticSummary(self._static_html, self._static_text)
        self._followers: list[Callable[[], object]] = []
        gone = N_("The kernel of this view has ended or was restarted. Run the cell again.")
        # Sent beforehand, because the kernel cannot say it then: the style shows it where JupyterLab finds a widget cut off.
        self._kernel_gone = node("p", self.translated(gone), class_="oraculo-gone", live=True)
        self._message = Pane(classes="oraculo-message")
        self._message.static_class = self._summary.name
        self._code = Pane(classes="oraculo-code")
        self._closing = False
        super().__init__()
        self.add_class("oraculo-explorer")
        self.say("")

    # What an explorer answers

    @property
    @abc.abstractmethod
    def selection(self) -> pd.DataFrame:
        """What is selected, as a DataFrame; its columns are there even when nothing is."""

    @abc.abstractmethod
    def code(self) -> str:
        """Return Python that gives what is on the screen; it begins with `oraculo_kit.widgets.coding.IMPORT`."""

    @abc.abstractmethod
    def summary(self) -> Node:
        """Return what is on the screen as nodes; called with the lock held."""

    def snapshot(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return what is on the screen as an HTML page that needs nothing else: no script, no request.

        Parameters
        ----------
        path : path, optional
            Written there too.
        """
        with self.lock:
            title, tree = self.translated(self.title), self._described()
            language = "en" if self.translated(_KNOWN) == _KNOWN else "pt-BR"
        style = style_for(f'<main class="oraculo-pane">{as_html(tree)}</main>')
        html = page(title, tree, style, language)
        if path is not None:
            Path(path).write_text(html, encoding="utf-8")
        return html

    # What an explorer is built with

    @property
    def store(self) -> VetorStorage:
        """The store that it looks at.

        Raises
        ------
        ServicesFailedError
        """
        return self._store if self._store is not None else ensure_services().vetor_storage

    def compose(self, *widgets: ipywidgets.Widget) -> None:
        """Set what the explorer consists of; message line and code are added below."""
        self.children = (*widgets, self._message, self._code)
        self.refresh()

    def shown(self) -> None:
        """Begin what is not worth its time before somebody looks; called when its tab comes to the front."""

    def handler(self, function: Callable[..., object]) -> Callable[..., None]:
        """Return a function that calls `function` with the lock held and shows what it raises."""

        def handle(*values: Any, **keywords: Any) -> None:
            with self.lock:
                if self._closing:
                    return
                try:
                    function(*values, **keywords)
                except Exception as exc:
                    self.show_error(exc)

        return handle

    def background(
        self,
        work: Callable[[Job], Result],
        done: Callable[[Result], object],
        *,
        lane: str = "main",
        failed: Callable[[Exception], object] | None = None,
    ) -> Job:
        """Run `work` on a thread, then `done` with its result and the lock held.

        Parameters
        ----------
        work : callable
            Given the `Job`; must touch no widget and print nothing.
        done : callable
            Not called when a newer job took this one's place.
        lane : str
            Jobs of one lane supersede each other.
        failed : callable, optional
            Called, with the lock held, before the error of `work` is shown.
        """
        finish = self.handler(done)

        def run(job: Job) -> None:
            try:
                result = work(job)
            except Superseded:
                raise
            except Exception as exc:
                with self.lock:
                    if not job.superseded and not self._closing:
                        if failed is not None:
                            self.handler(failed)(exc)
                        self.show_error(exc)
                return
            with self.lock:  # so that between the question and the answer no newer job comes in
                if not job.superseded:
                    finish(result)

        return self._lanes.setdefault(lane, Lane(lane)).submit(run)

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing runs in the background; for scripts and tests.

        Returns
        -------
        bool
            False when that took longer than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while any(lane.busy for lane in list(self._lanes.values())):  # what is done may have started more
            for lane in list(self._lanes.values()):
                if not lane.wait(max(deadline - time.monotonic(), 0)):
                    return False
        return True

    def say(self, text: str) -> None:
        """Show a line of status instead of what stood there; an error that was shown is gone then."""
        with self.lock:
            self.error = None
            self._message.show(node("div", text, role="status", class_="oraculo-status"), self._kernel_gone)

    def show_error(self, exc: BaseException) -> None:
        """Show what went wrong and what to do."""
        _ = self.translated
        with self.lock:
            self.error = exc
            if isinstance(exc, OraculoError):
                text = str(exc)
            else:
                advice = _("`raise explorer.error` shows where it happened")
                text = f"{type(exc).__name__}: {exc}. {advice}"
            label = node("strong", _("That did not work."), " ")
            self._message.show(
                node("div", label, text, role="alert", class_="oraculo-error"), self._kernel_gone
            )

    def refresh(self) -> None:
        """Bring code and static summary up to date with what is on the screen; call it after every change."""
        with self.lock:
            try:
                code = self.code()
            except OraculoError as exc:
                code = f"# {exc}"
            self._code.show(*self._code_nodes(code))
        self._summary.changed()
        for follow in self._followers:
            follow()

    def on_refresh(self, follow: Callable[[], object]) -> None:
        """Call a function after every `refresh`; it must not wait for a lock."""
        self._followers.append(follow)

    def _code_nodes(self, code: str) -> list[Node]:
        _ = self.translated
        button = node(
            "button",
            node("span", _("Copy as code"), class_="oraculo-before-copy"),
            node("span", _("Copied"), class_="oraculo-after-copy", role="status"),
            copy=code,
            key="copy-code",
            class_="oraculo-button",
        )
        shown = node("details", node("summary", _("Code")), node("pre", node("code", code)), key="code")
        return [node("div", button, shown, class_="oraculo-code-row")]

    # How it is displayed and closed

    def _described(self) -> Node:
        try:
            shown: Node | None = self.summary()
        except Exception as exc:
            self.show_error(exc)
            shown = None
        error = None
        if self.error is not None:
            error = node("p", f"{type(self.error).__name__}: {self.error}", class_="oraculo-error")
        return node("div", shown, error, class_="oraculo-static")

    def _static_html(self) -> str:
        with self.lock:
            return f'<div class="{CLASSES} oraculo-pane">{as_html(self._described())}</div>'

    def _static_text(self) -> str:
        with self.lock:
            return as_text(self._described())

    def __repr__(self) -> str:
        return visible(re.sub(r"\s+", " ", f"<{type(self).__name__} {self._store or ''}>").replace(" >", ">"))

    def _ipython_display_(self, **_keywords: Any) -> None:
        # The live view must be alone in its output: a notebook chooses one representation of an output, and the
        # widget's, once chosen, is an error where there is no kernel. Measured in JupyterLab 4.6.
        self._summary.display({"text/plain": repr(self), **self._live()})

    def _repr_mimebundle_(self, **_keywords: Any) -> dict[str, Any]:
        return {"text/plain": self._static_text(), "text/html": self._static_html(), **self._live()}

    def _live(self) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"application/vnd.jupyter.widget-view+json": view}

    def close(self) -> None:
        """Take the explorer off the screen; work that is under way is not waited for."""
        if "_summary" in self.__dict__:  # not in one whose arguments were refused
            self._closing = True
            for lane in list(self._lanes.values()):
                lane.cancel()
            self._summary.close()
        super().close()
