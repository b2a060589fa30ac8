"""Which hits answer a question: what a judgement names, and when a hit is that.

Four ways, called as `evaluate` calls them:

- **source**: the hit comes from the source that is named, by its whole key, by the end of its path or without its
  extension: ``"/docs/manual/ajuda.md"`` is also ``"manual/ajuda.md"``, ``"ajuda.md"`` and ``"ajuda"``. With ``match``
  a metadata field of the hit is compared instead.
- **chunk**: the hit has the id that is named.
- **answer**: the hit holds the words of the answer, in a row.
- **text**: the hit comes from the passage. A base is seldom cut where a question set is, so chunk and passage are
  compared by their runs of eight words ("shingles"): at least half of the runs of the shorter one are found in the
  other (the containment of Broder, "On the resemblance and containment of documents", 1997). A quarter is
  enough when an answer is known and stands in what they share. A passage below eight words must stand in the
  chunk whole.

Words are compared without case, accents and punctuation. Measured on FaQuAD with its passages as chunks: of 24,683
hits ``text`` judges 23 otherwise than the passages' ids do, all of them passages that repeat each other's sentences,
and nDCG@10 is 0.001 higher.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from oraculo_kit.storage.results import Hit

By = Literal["source", "chunk", "text", "answer"]
WAYS: tuple[By, ...] = ("source", "chunk", "text", "answer")

Matcher = Callable[["Hit", "Judgement"], bool]

_RUN = 8  # words: shorter runs are shared by chance (names of institutions, legal formulas)
_SHARED = 0.5
_SHARED_WITH_ANSWER = 0.25  # two passages that share a phrase are not one
_CACHED = 1 << 14  # texts; some 10 KB each

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Judgement:
    """One thing that answers a question.

    Attributes
    ----------
    wanted : tuple of str
        Source, chunk id, passage or answer; any of several will do.
    grade : float
        How good it is, above 0.
    answers : tuple of str
        Of a passage: what in it answers the question, where known.
    """

    wanted: tuple[str, ...]
    grade: float = 1.0
    answers: tuple[str, ...] = ()


def matcher(by: By, match: str | None = None) -> Matcher:
    """Return the function that tells whether a hit is what a judgement names.

    Parameters
    ----------
    by : {"source", "chunk", "text", "answer"}
        See the module.
    match : str, optional
        For ``"source"``: the metadata field to compare instead of the source's key.
    """
    if by == "chunk":
        return lambda hit, judgement: hit.id in judgement.wanted
    if by == "source" and match is not None:
        return lambda hit, judgement: _field(hit, match) in judgement.wanted
    return {"source": _from_source, "answer": _holds_answer, "text": _from_passage}[by]


def _field(hit: Hit, name: str) -> str | None:
    value: Any = hit.metadata.get(name)
    return None if value is None else str(value)


def _from_source(hit: Hit, judgement: Judgement) -> bool:
    names = source_names(hit.source)
    return any(_slashed(wanted) in names for wanted in judgement.wanted)


def _slashed(path: str) -> str:
    return unicodedata.normalize("NFC", path).replace("\\", "/").removeprefix("./")


@lru_cache(_CACHED)
def source_names(source: str) -> frozenset[str]:
    """Return every name under which a source may be named: its path, ends of it, both without extension.

    Examples
    --------
    >>> sorted(source_names("docs/ajuda.md"))
    ['ajuda', 'ajuda.md', 'docs/ajuda', 'docs/ajuda.md']
    """
    whole = _slashed(source)
    folder, _, name = whole.rpartition("/")
    stem = name.rpartition(".")[0] or name
    names = set[str]()
    for form in (whole, f"{folder}/{stem}" if folder else stem):
        parts = form.split("/")
        names.update("/".join(parts[start:]) for start in range(len(parts)))
    return frozenset(names)


def _holds_answer(hit: Hit, judgement: Judgement) -> bool:
    text = folded(hit.text)
    return any(folded(answer) in text for answer in judgement.wanted)


def _from_passage(hit: Hit, judgement: Judgement) -> bool:
    return any(_shares(hit.text, passage, judgement.answers) for passage in judgement.wanted)


def _shares(text: str, passage: str, answers: Iterable[str]) -> bool:
    ours, theirs = _runs(text), _runs(passage)
    if not theirs or not ours:
        # One of the two is shorter than a run.
        return folded(passage) in folded(text) or _is_answer(text, passage, answers)
    share = len(ours & theirs) / min(len(ours), len(theirs))
    return share >= _SHARED or (share >= _SHARED_WITH_ANSWER and _answered(passage, ours, answers))


def _answered(passage: str, runs: frozenset[int], answers: Iterable[str]) -> bool:
    """Tell whether an answer stands in what the passage shares with a text of these runs."""
    words = folded(passage).split()
    shared = [False] * len(words)
    for start in range(len(words) - _RUN + 1):
        if hash(tuple(words[start : start + _RUN])) in runs:
            shared[start : start + _RUN] = [True] * _RUN
    # A bar where something is left out: an answer must not reach over it.
    part = " ".join(word if kept else "|" for word, kept in zip(words, shared, strict=True))
    return any(folded(answer) in f" {part} " for answer in answers)


def _is_answer(text: str, passage: str, answers: Iterable[str]) -> bool:
    """Tell whether a very short chunk stands in the passage and holds an answer; a heading holds none."""
    chunk = folded(text)
    return chunk in folded(passage) and any(folded(answer) in chunk for answer in answers)


@lru_cache(_CACHED)
def folded(text: str) -> str:
    """Return the words of `text` without case and accents, a space around each.

    Examples
    --------
    >>> folded("Emissão de NFS-e")
    ' emissao de nfs e '
    """
    plain = unicodedata.normalize("NFKD", text.replace("\u00ad", ""))
    letters = "".join(char for char in plain if not unicodedata.combining(char))
    return f" {' '.join(_WORD.findall(letters.casefold()))} "


@lru_cache(_CACHED)
def _runs(text: str) -> frozenset[int]:
    words = folded(text).split()
    # Hashes instead of the words: a tenth of the memory.
    return frozenset(hash(tuple(words[start : start + _RUN])) for start in range(len(words) - _RUN + 1))


def judge(
    hits: Sequence[Hit], judgements: Sequence[Judgement], matches: Matcher
) -> tuple[list[float], list[int]]:
    """Judge the hits of one question.

    Each judgement is gained once, at the first place that gives it; further chunks of the same passage keep their
    place and gain nothing. A place gains one judgement, the best that is left, so that no order is better than the
    ideal one; but a hit that holds two of them has found both.

    Parameters
    ----------
    hits : sequence of Hit
        Best first.
    judgements : sequence of Judgement
        Highest grade first.
    matches : callable
        From `matcher`.

    Returns
    -------
    gains : list of float
        The grade gained at each place.
    found : list of int
        How many judgements are met for the first time at each place.
    """
    gains, found = [0.0] * len(hits), [0] * len(hits)
    open_, unseen = list(judgements), list(judgements)
    for place, hit in enumerate(hits):
        met = [judgement for judgement in judgements if matches(hit, judgement)]
        gained = next((judgement for judgement in met if judgement in open_), None)
        if gained is not None:
            open_.remove(gained)
            gains[place] = gained.grade
        new = [judgement for judgement in met if judgement in unseen]
        found[place] = len(new)
        for judgement in new:
            unseen.remove(judgement)
    return gains, found
