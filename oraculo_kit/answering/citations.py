"""The numbers in an answer: read in every spelling that models use, kept only where they point at a source.

`CitationFilter` works on a stream of pieces, so that a reader who watches an answer being written sees what the
finished answer holds: it keeps back what may yet become a citation or the sentinel. A whole text goes the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from oraculo_kit.answering.passages import Passage
from oraculo_kit.answering.prompts import as_data

_OPEN = "[［【"
_CLOSE = "]］】"
_LONGEST = 80  # characters of a citation; an opening bracket without its end by then is an ordinary bracket
_STEP = (
    1000  # characters taken at once: what is held is copied word by word, which must not grow with the text
)
_RANGE = 1000  # numbers that a range may name: "[1-999999999]" is no list of sources

_WORDS = r"(?:fontes?|sources?|refs?\.?|docs?\.?)?"
_NUMBER = r"\d{1,9}(?:†[^\]］】]*)?"
_BODY = re.compile(
    rf"\s*\^?{_WORDS}\s*{_NUMBER}(?:\s*(?:,|;|-|–|&|\be\b|\band\b)\s*{_WORDS}\s*\^?{_NUMBER})*\s*",
    re.IGNORECASE,
)
_PARTS = re.compile(r"(\d{1,9})(?:†[^,;\]］】]*)?(?:\s*([-–]))?")
_NEAR = 300  # characters after a quotation in which its citation is looked for
_CITED = re.compile(r"\[(\d+)\]")
_QUOTED = re.compile(r"[\"“«]([^\"“”«»\n]{15,400})[\"”»]")


class CitationFilter:
    """Let the text of an answer through, piece by piece, with its citations checked.

    Parameters
    ----------
    count : int
        Sources are numbered from 1 to `count`.
    sentinels : sequence of str
        Taken out of the text; `sentinel_seen` then says that one was there.

    Attributes
    ----------
    text : str
        What was let through so far.
    cited : list of int
        Numbers that point at a source, in the order of their first use.
    invalid : list of int
        Numbers that point at nothing; they were taken out.
    sentinel_seen : bool

    Examples
    --------
    >>> checked = CitationFilter(2)
    >>> checked.feed("Dez dias [1, 2][9], dizem 【2†nota】") + checked.end()
    'Dez dias [1][2], dizem [2]'
    >>> checked.cited, checked.invalid
    ([1, 2], [9])
    """

    def __init__(self, count: int, sentinels: Sequence[str] = ()) -> None:
        self._count = count
        self._sentinels = tuple(sentinels)
        firsts = "".join(one[0] + one[0].lower() for one in sentinels)
        self._may_begin = re.compile(f"[{firsts}]") if firsts else None
        self._held = ""
        self.text = ""
        self.cited: list[int] = []
        self.invalid: list[int] = []
        self.sentinel_seen = False

    def feed(self, piece: str) -> str:
        """Take the next piece and return what can be shown of the text by now."""
        shown = []
        for at in range(0, len(piece), _STEP):
            self._held += piece[at : at + _STEP]
            shown.append(self._release(last=False))
        return "".join(shown)

    def end(self) -> str:
        """Return what was still kept back; blank space at the end is dropped."""
        return self._release(last=True)

    def _release(self, *, last: bool) -> str:
        shown = []
        while self._held:
            size, text = self._next(last)
            if not size:
                break
            self._held = self._held[size:]
            shown.append(text)
        released = "".join(shown)
        if not self.text:
            released = released.lstrip()
        self.text += released
        return released

    def _next(self, last: bool) -> tuple[int, str]:
        """Return how many characters of what is held are decided, and what is shown for them; 0 for none yet."""
        held = self._held
        space = len(held) - len(held.lstrip())
        if space == len(held):
            return (space, "") if last else (0, "")
        # Blank space goes with what follows it: none stays before a citation that is taken out.
        sentinel = self._sentinel(held[space:], last)
        if sentinel is None:
            return 0, ""
        if sentinel:
            self.sentinel_seen = True
            return space + sentinel, ""
        if held[space] in _OPEN:
            size, numbers = _citation(held[space:], last)
            if not size:
                return 0, ""
            if numbers is not None:
                kept = "".join(f"[{number}]" for number in numbers if self._keep(number))
                return space + size, held[:space] + kept if kept else ""
        following = re.search(rf"[\s{_OPEN}]", held[space + 1 :])
        word = space + 1 + (following.start() if following else len(held))
        return self._plain(held[: min(word, len(held))])

    def _plain(self, text: str) -> tuple[int, str]:
        """Let a word through, up to where a sentinel may begin in it."""
        begin = self._may_begin
        found = begin.search(text, len(text) - len(text.lstrip()) + 1) if begin is not None else None
        cut = found.start() if found is not None else len(text)
        return cut, text[:cut]

    def _sentinel(self, text: str, last: bool) -> int | None:
        """Return the length of the sentinel that the text begins with, 0 without one, None while it may become one."""
        folded = text.upper()
        for one in self._sentinels:
            if folded.startswith(one):
                return len(one)
            if not last and len(text) < len(one) and one.startswith(folded):
                return None
        return 0

    def _keep(self, number: int) -> bool:
        known = 1 <= number <= self._count
        seen = self.cited if known else self.invalid
        if number not in seen:
            seen.append(number)
        return known


def _citation(text: str, last: bool) -> tuple[int, list[int] | None]:
    """Return length and numbers of the citation that the text begins with; length 0 while it is not decided.

    No numbers (None) mean that it is no citation, and its first character is text.
    """
    doubled = len(text) > 1 and text[1] in _OPEN
    end = next((place for place, char in enumerate(text[:_LONGEST]) if char in _CLOSE), -1)
    if end < 0:
        undecided = len(text) < _LONGEST and not last and "\n" not in text
        return (0, None) if undecided else (1, None)
    body = text[2 if doubled else 1 : end]
    if not _BODY.fullmatch(body):
        return 1, None
    if doubled:
        if len(text) == end + 1 and not last:
            return 0, None
        if text[end + 1 : end + 2] not in tuple(_CLOSE):
            return 1, None
        end += 1
    return end + 1, _numbers(body)


def _numbers(body: str) -> list[int]:
    numbers: list[int] = []
    since: int | None = None
    for match in _PARTS.finditer(body):
        number = int(match[1])
        if since is not None and since < number <= since + _RANGE:
            numbers.extend(range(since + 1, number))
        numbers.append(number)
        since = number if match[2] else None
    return numbers


def cited_numbers(text: str) -> list[int]:
    """Return the numbers in a checked text, each once, in order."""
    return list(dict.fromkeys(int(number) for number in _CITED.findall(text)))


def unverified_quotes(text: str, passages: Sequence[Passage]) -> tuple[str, ...]:
    """Return the quotations of an answer that do not stand in the source that is cited for them.

    A quotation is text of 15 to 400 characters in quotation marks. Looked at is the source cited next after it in the
    same paragraph, within 300 characters, and all sources where none is; letter case, spacing and the marks that `as_data` changes do not count.
    """
    found = []
    plain = [_plain(passage.text) for passage in passages] if _QUOTED.search(text) else []
    for paragraph in text.split("\n"):
        for match in _QUOTED.finditer(paragraph):
            following = paragraph[match.end() : match.end() + _NEAR]
            cited = _CITED.search(following)
            number = int(cited[1]) if cited else 0
            where = plain[number - 1 : number] if 0 < number <= len(plain) else plain
            quote = _plain(match[1])
            if not any(quote in source for source in where):
                found.append(match[1])
    return tuple(found)


def _plain(text: str) -> str:
    plain = " ".join(as_data(text).casefold().split())
    for curly, straight in (("’", "'"), ("‘", "'"), ("–", "-"), ("—", "-")):
        plain = plain.replace(curly, straight)
    return plain.strip(" .,;:…")
