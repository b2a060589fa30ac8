"""`Scripted`: a widget with a script of ours, which hears the kernel even when the browser was slow to load it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import anywidget
import traitlets

__all__ = ["Scripted", "script"]

_FOLDER = Path(__file__).parent


def script(name: str) -> str:
    """Return the text of a script of this folder, which ends with ``export default { initialize, render }``.

    ``initialize`` is that of ``hearing.js``, which stands before it.
    """
    return "".join((_FOLDER / each).read_text(encoding="utf-8") for each in ("hearing.js", name))


class Scripted(anywidget.AnyWidget):
    """A widget whose ``_esm`` is a `script`.

    Parameters
    ----------
    also : anywidget.AnyWidget
        Widgets with scripts of others, which are to be heard too.
    **traits
    """

    heard: Any = traitlets.List([]).tag(sync=True)

    def __init__(self, *also: anywidget.AnyWidget, **traits: Any) -> None:
        # Known before the widget is made: what is told to a late one afterwards would not come through.
        own = uuid.uuid4().hex
        super().__init__(model_id=own, heard=[own, *(each.model_id for each in also)], **traits)
