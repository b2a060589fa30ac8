"""The static summary of an explorer: an output of its own beside the live view, brought up to date as that changes.

The two cannot be one output. A notebook program chooses one representation of an output, and JupyterLab, having chosen
a widget whose kernel is gone, shows an error instead of the HTML beside it. So the summary is a second output, which the
live view hides (see ``pane.js``), and which in turn hides the error in the output before it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

from oraculo_kit.widgets.styles import style_for

_EVERY = 0.5  # seconds between two updates, at least: each one travels to the browser whole


class StaticSummary:
    """Shows the summary where the explorer was displayed.

    Parameters
    ----------
    html, text : callable
        Return it as it is now.

    Attributes
    ----------
    name : str
        The class of its element, which no other summary has.
    """

    def __init__(self, html: Callable[[], str], text: Callable[[], str]) -> None:
        self._html = html
        self._text = text
        self.name = f"oraculo-static-{uuid.uuid4().hex[:12]}"
        self._handles: list[Any] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def display(self, live: dict[str, Any]) -> None:
        """Show the live view, and the summary below it."""
        from IPython import display as notebook

        show: Callable[..., Any] = notebook.display
        show(live, raw=True)
        handle = show(self._bundle(), raw=True, display_id=True)
        if handle is not None:
            self._handles.append(handle)

    def changed(self) -> None:
        """Bring it up to date soon."""
        with self._lock:
            if self._handles and self._timer is None:
                self._timer = threading.Timer(_EVERY, self._update)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Leave it as it is."""
        with self._lock:
            self._handles.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _update(self) -> None:
        with self._lock:
            self._timer = None
            handles = list(self._handles)
        bundle = self._bundle()
        for handle in handles:
            handle.update(bundle, raw=True)

    def _bundle(self) -> dict[str, str]:
        # The error of a live view whose kernel is gone stands in the output before this one.
        gone = (
            f".jp-OutputArea-child:has(+ .jp-OutputArea-child .{self.name}) "
            ".jp-OutputArea-output:not(:has(.oraculo-pane)){display:none}"
        )
        shown = self._html()
        html = f'<style>{style_for(shown)}{gone}</style><div class="{self.name}">{shown}</div>'
        return {"text/html": html, "text/plain": self._text()}
