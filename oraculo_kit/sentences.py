r"""Where sentences begin, in Portuguese and English.

A sentence ends at ``.``, ``!``, ``?`` or ``…``, closing quotes and brackets included, when whitespace and the start of
another one follow: anything but a small letter. So ellipses and exclamations in mid-sentence do not end it. A full
stop ends none after an abbreviation ("Sr. Silva"), one that goes before numbers ("art. 5º", "p. 20"), an initial
("J. K. Rowling") or the number of a list item ("1. Objeto"). Whatever its punctuation, a sentence ends at a blank
line and before a list item. Chinese and Japanese full stops need no space behind them.

It is a heuristic: "vitamina C. Depois" is one sentence to it. A model that segments texts would cost a
thousand times as much, and a chunk is several sentences.
"""

from __future__ import annotations

import re

# Linear in whatever text it is given: repetitions are possessive, none is tried again inside a run of its own marks,
# and a run of blank lines always matches.
_END = re.compile(
    r"""
      (?<![.!?…])(?P<marks>[.!?…]++)["'”’»)\]*_]*+\s++(?P<opening>["'“‘«(\[¿¡*_—–-]*+\s*+)(?=\S)
    | [。！？｡]++[」』”’）]*+\s*+(?=\S)
    | \n[ \t\r]*+\n\s*+
    | \n[ \t]*+(?=(?:[-*+•–—]|\d{1,3}[.)])[ \t])
    """,
    re.VERBOSE,
)
_LAST_WORD = re.compile(r"[^\s(\[{\"'“‘«/]+\Z")
_WORD_LENGTH = 20

_ALWAYS = """
    sr sra srs sras srta dr dra drs dras prof profa profs exmo exma exmos ilmo ilma exa v.exa v.sa sto sta eng engª engo
    adv des dep sen gov min pe av al r cel cap ten sgt maj gen rev cia p.ex ex obs
    mr mrs ms st messrs hon capt col lt gov e.g i.e eg ie cf vs approx viz
"""
_BEFORE_NUMBERS = """
    art arts n nº nos num núm no nr inc § al fl fls p pp pg pgs pág págs vol vols cap caps ed fig figs tab eq eqs ref refs
    sec seç séc secs ch c ca aprox tel ramal cep lei dec res proc reg item it par op
    jan fev feb mar abr apr mai may jun jul ago aug set sep sept out oct nov dez dec
"""
_ALWAYS_WORDS = frozenset(_ALWAYS.split())
_BEFORE_NUMBER_WORDS = frozenset(_BEFORE_NUMBERS.split())
_NUMBER = re.compile(r"\d|[IVXLC]+\b")


def sentence_starts(text: str, start: int, end: int) -> list[int]:
    """Return where the sentences of ``text[start:end]`` begin, the first one left out.

    Examples
    --------
    >>> text = 'O Sr. Silva leu o art. 5º, p. ex. duas vezes... e saiu. "Já vai?" Custa R$ 3.50. Fim.'
    >>> places = [0, *sentence_starts(text, 0, len(text)), len(text)]
    >>> for first, last in zip(places, places[1:]):
    ...     print(text[first:last])
    O Sr. Silva leu o art. 5º, p. ex. duas vezes... e saiu.
    "Já vai?"
    Custa R$ 3.50.
    Fim.
    """
    starts = []
    for found in _END.finditer(text, start, end):
        place = found.end()
        if found["marks"] is not None:
            if text[place].islower() or (found["marks"] == "." and _is_inside(text, start, found, place)):
                continue
            place = found.start("opening")
        if place < end:
            starts.append(place)
    return starts


def _is_inside(text: str, start: int, found: re.Match[str], following: int) -> bool:
    """Tell a full stop that ends a word, not a sentence."""
    stop = found.start()
    word = _LAST_WORD.search(text, max(start, stop - _WORD_LENGTH), stop)
    if word is None:
        return False
    name = word[0].lower()
    if name in _ALWAYS_WORDS or (len(name) == 1 and word[0].isupper()):
        return True
    if name in _BEFORE_NUMBER_WORDS:
        return _NUMBER.match(text, following) is not None
    # "1. Objeto": the number that a line begins with.
    return name.isdecimal() and len(name) <= 3 and _begins_line(text, start, word.start())


def _begins_line(text: str, start: int, place: int) -> bool:
    line = text.rfind("\n", max(start, place - _WORD_LENGTH), place)
    before = text[line + 1 if line >= 0 else max(start, place - _WORD_LENGTH) : place]
    return not before.strip() and (line >= 0 or place - start < _WORD_LENGTH)
