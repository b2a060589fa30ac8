"""What the search explorer shows: hits, their scores, pages and rank differences as nodes. Knows nothing of widgets."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from oraculo_kit.display import short_source
from oraculo_kit.errors import QueryError
from oraculo_kit.evaluating.comparison import Comparison
from oraculo_kit.messages import N_
from oraculo_kit.storage.explaining import Explanation
from oraculo_kit.storage.results import Hit, SearchResults
from oraculo_kit.widgets.emptiness import empty_base
from oraculo_kit.widgets.nodes import Node, marked, node
from oraculo_kit.widgets.searching import PAGE, Translator

__all__ = ["excerpt", "gains", "hit_list", "parts_row", "shown_source"]

PARTS: Mapping[str, str] = {"vector": N_("vector"), "text": N_("text"), "wording": N_("wording")}
_EXCERPT = 300  # characters of a chunk in a list
_LEAD = 20  # of them before the first match
_SOURCE = 64  # characters of a source's key; its end says most


def hit_list(
    results: SearchResults,
    _: Translator,
    *,
    page: int = 0,
    opened: str | None = None,
    ticked: Collection[str] = (),
    chips: Mapping[str, Node] | None = None,
    name: str = "",
) -> Node:
    """Return a page of hits as a list.

    Parameters
    ----------
    results : SearchResults
    _ : callable
        The translator.
    page : int
        From 0.
    opened : str, optional
        Id of the hit that is shown in its document.
    ticked : collection of str
        Ids of those that are selected.
    chips : mapping of str to node, optional
        By id, what stands beside the score: the difference in a comparison.
    name : str, optional
        Of the configuration, sent with each event.
    """
    if not results.hits:
        return node("p", _("Nothing found."), class_="oraculo-empty") if results.chunks else empty_base(_)
    best = max((abs(hit.score) for hit in results.hits), default=0.0) or 1.0
    first = page * PAGE
    items = [
        _item(
            results,
            place,
            _,
            best=best,
            is_open=results.hits[place].id == opened,
            is_ticked=results.hits[place].id in ticked,
            chip=(chips or {}).get(results.hits[place].id),
            name=name,
        )
        for place in range(first, min(first + PAGE, len(results.hits)))
    ]
    return node("ol", *items, class_="oraculo-hits oraculo-scrolled", arrows=True, key=f"hits-{name}-{page}")


def _item(
    results: SearchResults,
    place: int,
    _: Translator,
    *,
    best: float,
    is_open: bool,
    is_ticked: bool,
    chip: Node | None,
    name: str,
) -> Node:
    hit = results.hits[place]
    where = hit.place()
    head = node(
        "span",
        node(
            "span",
            node("span", f"{place + 1}. ", class_="oraculo-muted"),
            node("span", shown_source(hit.source, results.root), class_="oraculo-hit-source", dir="auto"),
            node("span", f"  {where}", class_="oraculo-muted", dir="auto") if where else None,
        ),
        node("span", chip, " ", f"{hit.score:.2f}", class_="oraculo-hit-score"),
        class_="oraculo-hit-head",
    )
    opens = node(
        "button",
        head,
        node("div", *excerpt(results, hit), class_="oraculo-hit-text", dir="auto"),
        event="open",
        payload={"place": place, "name": name},
        key=f"open-{name}-{hit.id}",
        class_="oraculo-plain",
        aria_expanded=is_open,
    )
    tick = node(
        "input",
        type="checkbox",
        event="tick",
        payload={"place": place, "name": name},
        key=f"tick-{name}-{hit.id}",
        checked=is_ticked,
        aria_label=_("Select hit {number}").format(number=place + 1),
    )
    below = parts_row(hit.explanation, _, best) if hit.explanation is not None else None
    return node("li", tick, node("div", opens, below), class_="oraculo-current" if is_open else None)


def shown_source(source: str, root: str) -> str:
    """Return a source's key short: relative to the project, and its end where it is long."""
    short = str(short_source(source, root))
    return short if len(short) <= _SOURCE else f"…{short[1 - _SOURCE :]}"


def excerpt(results: SearchResults, hit: Hit) -> list[Node]:
    """Return a chunk from where most of the query's words stand, with marks."""
    text = hit.text
    spans = results.highlight(text) if results.highlight is not None else []
    first = 0
    if spans and len(text) > _EXCERPT:
        starts = [start for start, _ in spans]
        best = max(starts, key=lambda one: (sum(one <= start < one + _EXCERPT for start in starts), -one))
        first = text.rfind(" ", 0, best - _LEAD) + 1 if best > _LEAD else 0
    last = first + _EXCERPT
    return [
        *(["…"] if first else []),
        *marked(text, spans, first, last),
        *(["…"] if last < len(text) else []),
    ]


def parts_row(explanation: Explanation, _: Translator, best: float) -> Node:
    """Return how a score came about: a small bar of its parts, and the parts in words."""
    bar = node(
        "span",
        *(
            node("span", class_=f"oraculo-part-{part.name}", width=max(part.value, 0) / best)
            for part in explanation.parts
        ),
        class_="oraculo-parts-bar",
        aria_hidden=True,
    )
    said = [_part_text(part.name, part.value, part.raw, _) for part in explanation.parts]
    if explanation.missing:
        said.append(_("without {words}").format(words=", ".join(explanation.missing)))
    return node("div", bar, node("span", " · ".join(said)), class_="oraculo-parts")


def _part_text(name: str, value: float, raw: float | None, _: Translator) -> str:
    measure = {"vector": "cos", "text": "BM25"}.get(name)
    given = f" ({measure} {_figure(raw)})" if measure is not None and raw is not None else ""
    return f"{_(PARTS.get(name, name))} {value:.2f}{given}"


def _figure(raw: float) -> str:
    # The BM25 of a word that stands everywhere is some millionths.
    return f"{raw:.2f}" if raw == 0 or abs(raw) >= 0.005 else f"{raw:.0e}"


def gains(comparison: Comparison, _: Translator) -> tuple[dict[str, Node], dict[str, Node]]:
    """Return, for both lists, what stands beside each hit: how the second way ranks it against the first.

    Raises
    ------
    QueryError
        When the comparison has not two configurations.
    """
    if len(comparison.names) != 2:
        raise QueryError(f"got {len(comparison.names)} configurations, expected two to stand side by side")
    first, second = comparison.names
    left: dict[str, Node] = {}
    right: dict[str, Node] = {}
    # Not from its DataFrame: the first one would take as long as importing pandas does.
    ones, others = (
        {hit.id: rank for rank, hit in enumerate(comparison.results[name][0])} for name in (first, second)
    )
    only = _("only here")
    for chunk in ones.keys() - others.keys():
        left[chunk] = node("span", only, class_="oraculo-gain oraculo-down")
    for chunk, rank in others.items():
        if chunk in ones:
            right[chunk] = _gain(ones[chunk] - rank, _)
        else:
            right[chunk] = node("span", only, class_="oraculo-gain oraculo-up")
    return left, right


def _gain(difference: int, _: Translator) -> Node:
    if difference == 0:
        return node("span", "=", class_="oraculo-gain", aria_label=_("same rank"), role="img")
    name = "oraculo-up" if difference > 0 else "oraculo-down"
    text = _("higher by {count}") if difference > 0 else _("lower by {count}")
    return node(
        "span",
        f"{'▲' if difference > 0 else '▼'} {abs(difference)}",
        class_=f"oraculo-gain {name}",
        title=text.format(count=abs(difference)),
        aria_label=text.format(count=abs(difference)),
        role="img",
    )
