"""The row under a list that leads to its other pages. Knows nothing of widgets."""

from __future__ import annotations

from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.searching import Translator

__all__ = ["page_row"]


def page_row(
    page: int, size: int, total: int, _: Translator, *, event: str = "page", label: str | None = None
) -> Node | None:
    """Return the row that leads to other pages; None when there is one only.

    Parameters
    ----------
    page : int
        Number of the one that is shown, from 0.
    size, total : int
        How many stand on a page, and how many there are.
    event : str
        Told with the number of the page.
    label : str, optional
        For screen readers; "Pages" by default.
    """
    if total <= size:
        return None
    last = (total - 1) // size

    def button(text: str, key: str, to: int) -> Node:
        return node(
            "button",
            text,
            event=event,
            payload=to,
            key=f"{event}-{key}",
            disabled=not 0 <= to <= last,
            class_="oraculo-button",
            live=True,
        )

    shown = _("{first} to {last} of {count}").format(
        first=f"{page * size + 1:,}", last=f"{min((page + 1) * size, total):,}", count=f"{total:,}"
    )
    return node(
        "nav",
        button(_("Previous page"), "previous", page - 1),
        node("span", shown, class_="oraculo-muted"),
        button(_("Next page"), "next", page + 1),
        class_="oraculo-toolbar",
        aria_label=label if label is not None else _("Pages"),
    )
