"""How a hit's score came about, for ``explain=True``."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Explanation", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """One addend of a score.

    Attributes
    ----------
    name : {"vector", "text", "wording"}
    raw : float or None
        Cosine, BM25, or share of the wording; None where this chunk has none.
    scaled : float
        What it counts as: see `oraculo_kit.storage.ranking.fuse`.
    weight : float
        Share of this part in the score; the weights of a hit's parts make one.
    """

    name: str
    raw: float | None
    scaled: float
    weight: float

    @property
    def value(self) -> float:
        """What it adds to the score."""
        return self.weight * self.scaled


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a score came about: the sum of its parts, and which words of the query matched.

    Attributes
    ----------
    score : float
        Of the search itself; a reranker puts another one in its place.
    parts : tuple of Part
    matched, missing : tuple of str
        Words of the query whose stem stands in the text, and those whose stem does not; folded, without stop words.
        Both are empty for a vector as query.
    likeness : float or None
        With ``mmr``: the greatest cosine to a hit that was chosen before.

    Examples
    --------
    >>> parts = (Part("vector", 0.41, 0.5, 0.4), Part("text", 7.3, 1.0, 0.6))
    >>> Explanation(0.8, parts, ("nota",), ("prazo",))
    0.80 = 0.40 x 0.50 vector (cosine 0.410) + 0.60 x 1.00 text (BM25 7.300); matched nota; missing prazo
    """

    score: float
    parts: tuple[Part, ...]
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    likeness: float | None = None

    def part(self, name: str) -> Part | None:
        """Return a part by name, None when it had no weight."""
        return next((part for part in self.parts if part.name == name), None)

    def rows(self) -> list[list[object]]:
        """Return the parts as rows of a table: part, raw, scaled, weight, value."""
        return [[part.name, part.raw, part.scaled, part.weight, part.value] for part in self.parts]

    def words(self) -> str:
        """Return in words what matched, and how like another hit it is."""
        said = []
        if self.matched:
            said.append(f"matched {', '.join(self.matched)}")
        if self.missing:
            said.append(f"missing {', '.join(self.missing)}")
        if self.likeness is not None:
            said.append(f"cosine {self.likeness:.3f} to a hit above")
        return "; ".join(said)

    def __repr__(self) -> str:
        measures = {"vector": "cosine", "text": "BM25", "wording": "share"}
        addends = [
            f"{part.weight:.2f} x {part.scaled:.2f} {part.name}"
            + (f" ({measures[part.name]} {_figure(part.raw)})" if part.raw is not None else " (none)")
            for part in self.parts
        ]
        words = self.words()
        return f"{self.score:.2f} = {' + '.join(addends)}" + (f"; {words}" if words else "")


def _figure(raw: float) -> str:
    """Return a raw measure as it is shown.

    Examples
    --------
    >>> _figure(7.25), _figure(0.0), _figure(3.1e-6)
    ('7.250', '0.000', '3.1e-06')
    """
    # The BM25 of a word that stands everywhere is some millionths: 0.000 would look like no match.
    return f"{raw:.3f}" if raw == 0 or abs(raw) >= 0.0005 else f"{raw:.1e}"
