"""What a pane shows: a tree of elements and texts, the same for the live view and for static HTML.

A text in the tree is data. The browser makes a text node of it, `as_html` escapes it; no way leads from a document's
text to markup. Tags and attributes come from the lists below, in both places.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any, Final

from oraculo_kit.display import CLASSES, escape, visible

__all__ = ["Node", "as_html", "as_text", "bars", "marked", "node", "png", "table"]

Node = dict[str, Any] | str
"""A text, or an element as `node` makes it; JSON."""

_TAGS = (
    "article aside button caption code dd del details div dl dt em footer h3 h4 h5 header hr img input ins li mark "
    "nav ol p pre progress section small span strong summary table tbody td th thead time tr ul"
)
TAGS: Final = frozenset(_TAGS.split())
_ATTRIBUTES = (
    "checked class colspan dir disabled lang max min name open role rowspan scope tabindex title type value"
)
ATTRIBUTES: Final = frozenset(_ATTRIBUTES.split())
_VOID = frozenset({"hr", "img", "input"})
_BLOCK_TAGS = "article aside caption dd details div dl dt footer h3 h4 h5 header hr li ol p pre section summary table tr ul"
_BLOCKS = frozenset(_BLOCK_TAGS.split())
_INPUT_TYPES = frozenset({"checkbox", "radio"})
_PNG = "data:image/png;base64,"


def node(
    tag: str,
    *children: Node | None,
    event: str = "",
    payload: Any = None,
    copy: str | None = None,
    key: str = "",
    width: float | None = None,
    arrows: bool = False,
    reveal: bool = False,
    live: bool = False,
    **attributes: str | int | float | bool | None,
) -> Node:
    r"""Return an element.

    Parameters
    ----------
    tag : str
        One of `TAGS`.
    *children : node, str or None
        None is left out.
    event : str, optional
        What `Pane.on_event` is told when the element is clicked, or an input changed.
    payload : JSON value, optional
        Told with it.
    copy : str, optional
        A click puts this text on the clipboard.
    key : str, optional
        Names the element among those of its pane: the one that had the focus, or was scrolled, stays so when the pane
        shows something new.
    width : float, optional
        Share of the parent's width, from 0 to 1; for bars.
    arrows : bool
        The arrow keys, Home and End walk between the buttons and inputs in it.
    reveal : bool
        The scrolled element around it (one with a key) shows it after every change.
    live : bool
        Left out of static HTML, as every input is; a button with an event stays there as plain text.
    **attributes
        Of `ATTRIBUTES` or ``aria_...``; underscores become hyphens (``class_`` is ``class``). True stands without a
        value, False and None are left out (an ``aria_`` one says true or false).

    Raises
    ------
    ValueError
        For a tag or an attribute that is not in the lists: a mistake of whoever writes an explorer.

    Examples
    --------
    >>> as_html(node("li", "a < b", title='"'))
    '<li title="&quot;">a &lt; b</li>'
    """
    if tag not in TAGS:
        raise ValueError(f"tag is {tag!r}, expected one of {', '.join(sorted(TAGS))}")
    made: dict[str, Any] = {"tag": tag}
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    for name in named:
        if name not in ATTRIBUTES and not name.startswith("aria-"):
            raise ValueError(
                f"attribute is {name!r}, expected aria-... or one of {', '.join(sorted(ATTRIBUTES))}"
            )
    if tag == "input" and named.get("type") not in _INPUT_TYPES:
        raise ValueError(f"type of an input is {named.get('type')!r}, expected checkbox or radio")
    kept = {name: _attribute(name, value) for name, value in named.items()}
    kept = {name: value for name, value in kept.items() if value is not None}
    if kept:
        made["attributes"] = kept
    inner = [visible(child) if isinstance(child, str) else child for child in children if child is not None]
    if inner:
        made["children"] = inner
    options = {"event": event, "key": key, "arrows": arrows, "reveal": reveal, "live": live}
    made.update((name, value) for name, value in options.items() if value)
    for name, value in (("payload", payload), ("copy", copy)):
        if value is not None:
            made[name] = value
    if width is not None:
        made["width"] = min(max(float(width), 0.0), 1.0)
    return made


def _attribute(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        if name.startswith("aria-"):
            return "true" if value else "false"
        return "" if value else None
    return visible(str(value))


def png(content: bytes, description: str) -> Node:
    """Return a picture.

    Parameters
    ----------
    content : bytes
        A PNG file.
    description : str
        What it shows, for those who cannot see it.

    Raises
    ------
    ValueError
        When it is no PNG.
    """
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("got something else than a PNG file as picture")
    return {"tag": "img", "png": base64.b64encode(content).decode("ascii"), "alt": visible(description)}


def marked(
    text: str, spans: Sequence[tuple[int, int]], first: int = 0, last: int | None = None
) -> list[Node]:
    """Return a part of a text with marks.

    Parameters
    ----------
    text : str
    spans : sequence of (int, int)
        Start and end of what is marked, sorted, none touching the next.
    first, last : int
        The part.

    Examples
    --------
    >>> [as_html(part) for part in marked("uma nota fiscal", [(4, 8)])]
    ['uma ', '<mark>nota</mark>', ' fiscal']
    """
    last = len(text) if last is None else min(last, len(text))
    parts: list[Node] = []
    at = first
    for start, end in spans:
        start, end = max(start, first), min(end, last)
        if start < at or start >= end:
            continue
        parts += [text[at:start], node("mark", text[start:end])]
        at = end
    parts.append(text[at:last])
    return [part if isinstance(part, dict) else visible(part) for part in parts if part]


def table(header: Sequence[str], rows: Sequence[Sequence[Node | float | None]], *, caption: str = "") -> Node:
    """Return a table; numbers stand right, elements as they are.

    Examples
    --------
    >>> print(as_text(table(["key", "count"], [["lang", 3]])))
    key  count
    lang  3
    """
    head = node("thead", node("tr", *(node("th", title, scope="col") for title in header)))
    body = node("tbody", *(node("tr", *(_cell(value) for value in row)) for row in rows))
    above = node("caption", caption) if caption else None
    return node("table", above, head, body, class_="oraculo-table")


def _cell(value: Node | float | None) -> Node:
    if isinstance(value, bool) or value is None:
        return node("td", "" if value is None else str(value))
    if isinstance(value, int | float):
        return node(
            "td", f"{value:.2f}" if isinstance(value, float) else f"{value:,}", class_="oraculo-number"
        )
    return node("td", value, dir="auto" if isinstance(value, str) else None)


def bars(rows: Sequence[tuple[str, float, str]], *, caption: str) -> Node:
    """Return a bar chart that is a table: label, length against the longest, and the figure as text."""
    most = max((abs(length) for _, length, _ in rows), default=0) or 1
    lines = [
        node(
            "tr",
            node("th", label, scope="row", dir="auto"),
            node(
                "td", node("div", class_="oraculo-bar", width=abs(length) / most), class_="oraculo-bars-cell"
            ),
            node("td", figure, class_="oraculo-number"),
        )
        for label, length, figure in rows
    ]
    return node("table", node("caption", caption), node("tbody", *lines), class_="oraculo-table oraculo-bars")


def as_html(tree: Node) -> str:
    """Return a tree as static HTML: every text escaped, without what only a live view can do."""
    if isinstance(tree, str):
        return escape(tree)
    tag = tree["tag"]
    if tag == "img":
        return f'<img src="{_PNG}{tree["png"]}" alt="{escape(tree["alt"])}">'
    if tree.get("live") or tag == "input":
        return ""
    if tag not in TAGS:
        raise ValueError(f"tag is {tag!r}, expected one of {', '.join(sorted(TAGS))}")
    attributes = dict(tree.get("attributes", {}))
    if tag == "button":  # nothing happens when it is clicked there
        tag = "span"
        attributes = {name: value for name, value in attributes.items() if name in ("class", "title", "dir")}
    parts = [f' {escape(name)}="{escape(value)}"' for name, value in attributes.items()]
    if "width" in tree:
        parts.append(f' style="width:{tree["width"] * 100:.2f}%"')
    if tag in _VOID:
        return f"<{tag}{''.join(parts)}>"
    return f"<{tag}{''.join(parts)}>{''.join(as_html(child) for child in tree.get('children', ()))}</{tag}>"


def as_text(tree: Node) -> str:
    """Return a tree as plain text: a line per block, cells of a row two spaces apart.

    Examples
    --------
    >>> print(as_text(node("div", node("p", "um"), node("p", "dois ", node("mark", "três")))))
    um
    dois três
    """
    lines = "".join(_text_parts(tree)).split("\n")
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _text_parts(tree: Node) -> Iterator[str]:
    if isinstance(tree, str):
        yield visible(tree)
        return
    tag = tree["tag"]
    if tree.get("live") or tag == "input":
        return
    if tag == "img":
        yield f"\n[{tree['alt']}]\n"
        return
    if tag in _BLOCKS:
        yield "\n"
    for child in tree.get("children", ()):
        yield from _text_parts(child)
    if tag in _BLOCKS:
        yield "\n"
    elif tag in ("td", "th"):
        yield "  "


def page(title: str, tree: Node, style: str, language: str) -> str:
    """Return a tree as an HTML page that needs nothing else: no script, and nothing is fetched."""
    return (
        f'<!doctype html>\n<html lang="{escape(language)}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f"<title>{escape(title)}</title><style>:root{{color-scheme:light dark}}body{{margin:2rem auto;max-width:70rem;"
        f'padding:0 1rem}}{style}</style></head><body><main class="{CLASSES} oraculo-pane">{as_html(tree)}</main>'
        "</body></html>\n"
    )
