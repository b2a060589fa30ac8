"""The figures of a base as nodes: what there is, and how it is distributed. Knows nothing of widgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from oraculo_kit.display import size_text
from oraculo_kit.storage.base import StoreStats, VetorStorage
from oraculo_kit.storage.listing import StoreSample
from oraculo_kit.widgets.emptiness import empty_base
from oraculo_kit.widgets.nodes import Node, bars, node
from oraculo_kit.widgets.storing import extension

__all__ = ["Figures", "doubling", "even_bins", "figures", "read_figures", "stats_row"]

Translator = Callable[[str], str]

_BARS = 10  # of a chart at most


@dataclass(frozen=True, slots=True)
class Figures:
    """What the statistics are drawn from."""

    stats: StoreStats
    sample: StoreSample


def read_figures(store: VetorStorage) -> Figures:
    """Read figures and sample from the store now."""
    return Figures(store.stats(), store.sample())


def doubling(values: Iterable[int]) -> list[tuple[str, int]]:
    """Count values in classes that double: 0, 1, 2 to 3, 4 to 7, ...

    Examples
    --------
    >>> doubling([1, 2, 3, 9])
    [('1', 1), ('2–3', 2), ('4–7', 0), ('8–15', 1)]
    """
    counts = Counter(max(value, 0).bit_length() for value in values)
    if not counts:
        return []
    return [(_class(place), counts[place]) for place in range(min(counts), max(counts) + 1)]


def _class(place: int) -> str:
    first, last = (1 << place) >> 1, (1 << place) - 1
    return f"{first:,}" if first >= last else f"{first:,}–{last:,}"


def even_bins(values: Sequence[int], most: int = _BARS) -> list[tuple[str, int]]:
    """Count values in at most `most` classes of the same, round width.

    Examples
    --------
    >>> even_bins([10, 95, 120], 4)
    [('0–49', 1), ('50–99', 1), ('100–149', 1)]
    """
    if not values:
        return []
    steps = (step * 10**power for power in range(9) for step in (1, 2, 5))
    low, high = min(values), max(values)
    width = next(step for step in steps if high // step - low // step < most)
    counts = Counter(value // width for value in values)
    return [
        (f"{place * width:,}–{(place + 1) * width - 1:,}" if width > 1 else f"{place:,}", counts[place])
        for place in range(low // width, high // width + 1)
    ]


def ranked(values: Iterable[str], other: str, most: int = _BARS) -> list[tuple[str, int]]:
    """Count texts, the most frequent first; those that find no room are one class.

    Examples
    --------
    >>> ranked(["pt", "pt", "en", "es"], "other", 2)
    [('pt', 2), ('other', 2)]
    """
    found = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    if len(found) <= most:
        return found
    kept, rest = found[: most - 1], found[most - 1 :]
    return [*kept, (other, sum(count for _, count in rest))]


def stats_row(stats: StoreStats, _: Translator) -> Node:
    """Return the figures of a base in one line."""
    said = [
        _("sources: {count}").format(count=f"{stats.sources:,}"),
        _("chunks: {count}").format(count=f"{stats.chunks:,}"),
        size_text(stats.bytes),
    ]
    if stats.embedder:
        said.append(f"{stats.embedder} ({stats.dimension})")
    return node("p", " · ".join(said), class_="oraculo-muted")


def figures(found: Figures, _: Translator) -> Node:
    """Return all charts; where a sample was counted, it says so."""
    stats, sample = found.stats, found.sample
    if not sample.sources:
        return empty_base(_)
    no_name = _("none")
    sources = sample.sources
    days = Counter(source.written_at[:10] for source in sources)
    charts = [
        _chart(_("Chunks per source"), doubling(source.chunks for source in sources)),
        _chart(_("Characters per chunk"), even_bins(sample.lengths)),
        _chart(_("Formats"), ranked((extension(each.source) or no_name for each in sources), _("other"))),
        _chart(_("Languages"), ranked((each.language or no_name for each in sources), _("other"))),
        _chart(_("Sources by day written"), sorted(days.items())[-_BARS:]),
    ]
    notes = []
    if len(sources) < stats.sources:
        notes.append(
            _("Sources: a sample of {count} of {total}").format(
                count=f"{len(sources):,}", total=f"{stats.sources:,}"
            )
        )
    if len(sample.lengths) < stats.chunks:
        notes.append(
            _("Chunks: a sample of {count} of {total}").format(
                count=f"{len(sample.lengths):,}", total=f"{stats.chunks:,}"
            )
        )
    return node(
        "div",
        node("p", ". ".join(notes), class_="oraculo-muted oraculo-small") if notes else None,
        node("div", *(chart for chart in charts if chart is not None), class_="oraculo-charts"),
    )


def _chart(caption: str, counts: Sequence[tuple[str, int]]) -> Node | None:
    if not counts:
        return None
    return node("section", bars([(label, count, f"{count:,}") for label, count in counts], caption=caption))
