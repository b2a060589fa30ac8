"""What explorers say of a base in which there is nothing. Knows nothing of widgets."""

from __future__ import annotations

from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.searching import Translator

__all__ = ["empty_base"]


def empty_base(_: Translator) -> Node:
    """Return that the base is empty, and what to do.

    Examples
    --------
    >>> from oraculo_kit.widgets.nodes import as_text
    >>> as_text(empty_base(str))
    'The base is empty. Fill it: oraculo.ingest("docs/"), or the tab Ingest of oraculo.explore().'
    """
    said = _("The base is empty.")
    advice = _("Fill it: {command}, or the tab Ingest of {explorers}.")
    ways = advice.format(command='oraculo.ingest("docs/")', explorers="oraculo.explore()")
    return node("p", f"{said} {ways}", class_="oraculo-empty")
