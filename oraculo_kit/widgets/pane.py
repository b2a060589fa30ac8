"""`Pane`: shows a tree of nodes in the browser and tells what was clicked in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import traitlets

from oraculo_kit.display import CLASSES
from oraculo_kit.widgets.nodes import Node
from oraculo_kit.widgets.scripted import Scripted, script

_FOLDER = Path(__file__).parent
STYLE = (_FOLDER / "pane.css").read_text(encoding="utf-8")
"""The style of live views, summaries and snapshots."""


class Pane(Scripted):
    """A part of an explorer that shows nodes.

    Parameters
    ----------
    *children : node
    classes : str
        More classes of the element that holds them.

    Examples
    --------
    >>> from oraculo_kit.widgets.nodes import node
    >>> told = []
    >>> pane = Pane(node("button", "Open", event="open", payload=3))
    >>> pane.on_event(lambda event, payload, checked: told.append((event, payload)))
    >>> pane._handle_custom_msg({"event": "open", "payload": 3}, [])  # what the browser sends
    >>> told
    [('open', 3)]
    """

    _esm = script("pane.js")
    _css = STYLE
    children: Any = traitlets.List([]).tag(sync=True)
    classes = traitlets.Unicode().tag(sync=True)
    static_class = traitlets.Unicode("").tag(sync=True)

    def __init__(self, *children: Node | None, classes: str = "") -> None:
        super().__init__(classes=f"{CLASSES} oraculo-pane {classes}".rstrip())
        self.show(*children)

    def show(self, *children: Node | None) -> None:
        """Show these nodes instead; None is left out."""
        self.children = [child for child in children if child is not None]

    def on_event(self, callback: Callable[[str, Any, bool | None], None]) -> None:
        """Call a function with the event, its payload and, for an input, whether it is checked now."""

        def told(_pane: Any, content: Any, _buffers: Any) -> None:
            if isinstance(content, dict) and isinstance(content.get("event"), str):
                callback(content["event"], content.get("payload"), content.get("checked"))

        self.on_msg(told)

    def focus(self, key: str) -> None:
        """Move the keyboard's focus to the element with this key."""
        self.send({"focus": key})
