"""The part of the style sheet that a static page needs: a notebook keeps one for every summary that stands in it."""

from __future__ import annotations

import re
from functools import cache

from oraculo_kit.widgets.pane import STYLE

__all__ = ["style_for"]

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
_GIVEN = re.compile(r'\bclass="([^"]*)"')


@cache
def _rules() -> tuple[tuple[tuple[tuple[str, frozenset[str]], ...], str], ...]:
    """Return each rule of the sheet as its selectors, with the classes that each asks for, and its declarations."""
    found = []
    for selectors, body in _RULE.findall(_COMMENT.sub("", STYLE)):
        parts = [" ".join(part.split()) for part in _split(selectors)]
        wanted = tuple((part, frozenset(_CLASS.findall(_outside_brackets(part)))) for part in parts)
        found.append((wanted, re.sub(r"\s*([:;,])\s+", r"\1", body.strip()).rstrip(";")))
    return tuple(found)


def _split(selectors: str) -> list[str]:
    """Split at the commas that are not within brackets."""
    parts, depth = [""], 0
    for sign in selectors:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _outside_brackets(selector: str) -> str:
    # What stands within them are alternatives, of which one is enough, or exceptions.
    while (shorter := re.sub(r"\([^()]*\)", "", selector)) != selector:
        selector = shorter
    return selector


def style_for(html: str) -> str:
    """Return the rules whose classes stand in `html`, without what is there for people to read.

    Parameters
    ----------
    html : str
        As `oraculo_kit.widgets.nodes.as_html` makes it.

    Examples
    --------
    >>> style = style_for('<div class="oraculo-pane"><p class="oraculo-muted">x</p></div>')
    >>> ".oraculo-muted{color:var(--o-muted)}" in style, "oraculo-reader" in style
    (True, False)
    """
    there = {name for names in _GIVEN.findall(html) for name in names.split()}
    kept = []
    for selectors, body in _rules():
        needed = [selector for selector, classes in selectors if classes <= there]
        if needed:
            kept.append(f"{','.join(needed)}{{{body}}}")
    return "".join(kept)
