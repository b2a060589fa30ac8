"""From hits to what a chat model reads: each text once, neighbours joined, within a budget of characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from oraculo_kit.storage.results import Hit

MAX_CHARS = 12_000
"""Characters of source text in a prompt: about 3,500 tokens of Portuguese, which leaves a local model with a window
of 8,192 tokens room for the rules and the answer, and holds twelve chunks of the default size."""


@dataclass(frozen=True)
class Passage:
    """A numbered source of an answer: a hit with its context, or neighbouring hits joined where they overlap.

    Attributes
    ----------
    text : str
        What the model reads (and what a citation of it points at).
    hits : tuple of Hit
        The chunks behind it, in the order of the source.
    cut : bool
        True when only the beginning of the text found room.
    """

    text: str
    hits: tuple[Hit, ...]
    cut: bool = field(default=False)

    @property
    def hit(self) -> Hit:
        """The best of its hits."""
        return max(self.hits, key=lambda hit: hit.score)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the chunks."""
        return tuple(hit.id for hit in self.hits)

    @property
    def source(self) -> str:
        """Key of the source."""
        return self.hits[0].source

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the first chunk."""
        return self.hits[0].metadata

    @property
    def start(self) -> int | None:
        """Where the text begins in its document, in characters, as far as known."""
        span = _span(self.hits[0])
        return span[0] if span is not None else None

    @property
    def end(self) -> int | None:
        """Where the text ends in its document, in characters, as far as known."""
        span = _span(self.hits[-1])
        if span is None:
            return None
        return span[0] + len(self.text) if self.cut else span[1]

    def place(self) -> str:
        """Return where in its source it stands, as `Hit.place`."""
        return self.hits[0].place()


def select_passages(hits: Sequence[Hit], max_chars: int = MAX_CHARS) -> tuple[Passage, ...]:
    """Choose what the model reads.

    Parameters
    ----------
    hits : sequence of Hit
        Best first.
    max_chars : int
        At most so many characters of text. Whole passages, best first, as long as they fit; only when the best one
        alone is longer, it is cut.

    Returns
    -------
    tuple of Passage
        Best first; a text that several sources hold only once.

    Examples
    --------
    >>> one = Hit("1", "O prazo é de", 0.5, "a.md", {"start": 0, "end": 12}, 0)
    >>> two = Hit("2", "é de dez dias.", 0.9, "a.md", {"start": 8, "end": 22}, 1)
    >>> copy = Hit("3", "é de dez dias.", 0.8, "b.md", {}, 0)
    >>> [(passage.text, passage.ids) for passage in select_passages([two, copy, one])]
    [('O prazo é de dez dias.', ('1', '2'))]
    """
    passages: list[Passage] = []
    seen: set[str] = set()
    left = max_chars
    for hit in hits:
        text = hit.context_text
        plain = " ".join(text.split())
        if not plain or plain in seen:
            continue
        seen.add(plain)
        place, joined = _joined(passages, hit)
        if joined is not None:
            grown = len(joined.text) - len(passages[place].text)
            if grown <= left:
                passages[place], left = joined, left - grown
        elif len(text) <= left:
            passages.append(Passage(text, (hit,)))
            left -= len(text)
        elif not passages:
            passages.append(Passage(text[:left], (hit,), cut=True))
            left = 0
    return tuple(passages)


def _joined(passages: Sequence[Passage], hit: Hit) -> tuple[int, Passage | None]:
    """Return the place of the passage that the hit overlaps, and both as one; no passage where there is none."""
    for place, passage in enumerate(passages):
        if passage.cut or passage.source != hit.source:
            continue
        for text in (
            _overlapping(passage.hits[-1], passage.text, hit, hit.text),
            _overlapping(hit, hit.text, passage.hits[0], passage.text),
        ):
            if text is not None:
                hits = sorted((*passage.hits, hit), key=lambda one: one.ordinal)
                return place, replace(passage, text=text, hits=tuple(hits))
    return -1, None


def _overlapping(first: Hit, text: str, second: Hit, following: str) -> str | None:
    before, after = _span(first), _span(second)
    if before is None or after is None or second.ordinal != first.ordinal + 1:
        return None
    shared = before[1] - after[0]
    # Offsets count within a document, and a source may hold several (pages): the texts themselves must agree.
    if not 0 < shared < len(following) or not text.endswith(following[:shared]):
        return None
    return text + following[shared:]


def _span(hit: Hit) -> tuple[int, int] | None:
    # With neighbours around it a passage begins and ends elsewhere, and where exactly is not told.
    return None if hit.before or hit.after else hit.span()
