"""What a map is coloured by: a metadata key's values as a few classes, each with a colour. Knows nothing of widgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.messages import N_
from oraculo_kit.storage.browsing import SAMPLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import VetorStorage

__all__ = ["PALETTE", "Colouring", "colouring", "one_colour", "suggested_key"]

# Tableau's ten, a little more even in lightness: each stands out on white and on black.
PALETTE = (
    "#4e8ac9",
    "#f28e2b",
    "#4ba35b",
    "#e15759",
    "#a878b8",
    "#2fb0a8",
    "#d9b52e",
    "#f285a5",
    "#a67c5e",
    "#7c86d1",
)
_RAMP = ("#3f6fc4", "#2f93c0", "#2fae9f", "#63bd75", "#a7c653", "#dcbb3f", "#ee9a3b", "#e66a3c")
_REST = "#8b9099"
# Keys of loaders that say where in its file a chunk stands, not what it is about.
_PLACES = {"page", "row", "start", "end", "bytes", "modified"}
_OTHER, _NONE = N_("other values"), N_("no value")


@dataclass(frozen=True, eq=False)
class Colouring:
    """A class for each point.

    Attributes
    ----------
    key : str
        The metadata key; empty where all points have one colour.
    labels : tuple of str
        What each class is called: a value, a range, or (see `told`) what is left.
    colours : tuple of str
        ``#rrggbb``.
    codes : numpy.ndarray
        uint8, shape (n,).
    told : tuple of bool
        Which labels are ours, to be translated; the others are the base's.
    """

    key: str
    labels: tuple[str, ...]
    colours: tuple[str, ...]
    codes: NDArray[np.uint8] = field(repr=False)
    told: tuple[bool, ...] = ()

    def counts(self) -> list[int]:
        """Return how many points each class has."""
        return [int(count) for count in np.bincount(self.codes, minlength=len(self.labels))]

    def names(self, _: Callable[[str], str]) -> list[str]:
        """Return the labels, ours translated."""
        return [_(label) if own else label for label, own in zip(self.labels, self.told, strict=True)]


def one_colour(count: int) -> Colouring:
    """Return the colouring that makes no difference."""
    return Colouring("", (N_("all chunks"),), PALETTE[:1], np.zeros(count, np.uint8), (True,))


def colouring(key: str, values: Sequence[Any]) -> Colouring:
    """Return a colouring by a key.

    Numbers with more than ten values become eight classes that hold about as many points each, from blue to red; all
    else the ten most frequent values and the rest.

    Parameters
    ----------
    key : str
    values : sequence
        Of each point; None where it has none.

    Examples
    --------
    >>> colouring("lang", ["pt", "en", "pt", None]).labels
    ('pt', 'en', 'no value')
    >>> colouring("page", list(range(16))).labels[:2]
    ('0 – 1', '2 – 3')
    """
    typed = [(type(value), value) for value in values]
    counts = Counter(typed)
    counts.pop((type(None), None), None)
    numbers = [each for kind, each in counts if kind in (int, float)]
    if len(counts) > len(PALETTE) and len(numbers) == len(counts):
        return _ranges(key, values)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], str(item[0][1])))
    chosen = [each for each, _ in ranked[: len(PALETTE)]]
    place = {each: at for at, each in enumerate(chosen)}
    rest, none = len(chosen), len(chosen) + (len(ranked) > len(chosen))
    codes = np.fromiter(
        (none if each[1] is None else place.get(each, rest) for each in typed), np.uint8, len(typed)
    )
    labels, colours = [str(value) for _, value in chosen], list(PALETTE[: len(chosen)])
    return _with_rest(key, labels, colours, codes, has_other=none > rest, has_none=None in values)


def _ranges(key: str, values: Sequence[Any]) -> Colouring:
    figures = np.array([np.nan if value is None else float(value) for value in values])
    there = figures[np.isfinite(figures)]
    edges = np.unique(np.quantile(there, np.linspace(0, 1, len(_RAMP) + 1)[1:-1], method="lower"))
    found = np.searchsorted(edges, figures, side="left")
    missing = ~np.isfinite(figures)
    used = np.unique(found[~missing])
    codes = np.searchsorted(used, found).astype(np.uint8)
    codes[missing] = len(used)
    spread = np.linspace(0, len(_RAMP) - 1, len(used)).round().astype(int)
    labels = []
    for each in used:
        inside = figures[(found == each) & ~missing]
        first, last = _figure(inside.min()), _figure(inside.max())
        labels.append(first if first == last else f"{first} – {last}")
    colours = [_RAMP[place] for place in spread]
    return _with_rest(key, labels, colours, codes, has_other=False, has_none=bool(missing.any()))


def _figure(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _with_rest(
    key: str,
    labels: list[str],
    colours: list[str],
    codes: NDArray[np.uint8],
    *,
    has_other: bool,
    has_none: bool,
) -> Colouring:
    told = [False] * len(labels)
    for wanted, label in ((has_other, _OTHER), (has_none, _NONE)):
        if wanted:
            labels, colours, told = [*labels, label], [*colours, _REST], [*told, True]
    return Colouring(key, tuple(labels), tuple(colours), codes, tuple(told))


def suggested_key(store: VetorStorage) -> str:
    """Return a key that tells most of the base apart, else nothing.

    The first, by name, that has two to ten values and that at least half of the chunks have; else the source of a few sources.
    """
    half = min(len(store), SAMPLE) / 2  # values of a large base are counted in a sample
    for key in [*(each.name for each in store.metadata_keys() if each.name not in _PLACES), "source"]:
        values = store.metadata_values(key, len(PALETTE) + 1)
        if 2 <= len(values) <= len(PALETTE) and sum(count for _, count in values) >= half:
            return key
    return ""
