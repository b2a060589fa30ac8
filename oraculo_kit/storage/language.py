"""Function words of Portuguese and English: which language a text is in, and what a query can do without.

The language becomes a source's ``lang``, to be shown and filtered by; stems do not depend on it. Portuguese,
English or undecided is a narrow question, and a few hundred function words answer it: they make up a quarter
to a half of running text. The neighbours (Spanish, French, Italian, German...) are asked as well, because
they share words with both; a word of several languages counts for each in equal parts. Of FaQuAD's texts cut
to 120 characters 98 % are found to be Portuguese, of botocore's 98 % English; of 250 characters, nearly all.

Reasons for an own method: py3langid 0.4 takes 0.2 s to import and 0.7 s for its first text, and never
answers "undecided"; lingua 2.1 is a wheel of 96 MB.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict

__all__ = ["STOP_WORDS", "detect_language"]

_PORTUGUESE = """
a à ao aos aquela aquele aqueles as às até com como da das de dela dele deles depois do dos e é ela elas ele
eles em entre era eram essa essas esse esses esta está estão estas este estes eu foi foram há isso isto já
lhe lhes mais mas mesmo meu minha muito muitos na não nas nem no nos nós nossa nosso num numa o onde os ou
para pela pelas pelo pelos pode podem por porque quais qual quando quanto quantas quantos que quem são se
seja sem ser seu seus sido só sobre sua suas também te tem têm ter tinha um uma umas uns você vocês
"""

_ENGLISH = """
a about after all also an and any are as at be because been before being between both but by can could did
do does each for from had has have he her here him his how i if in into is it its itself me more most my no
nor not of on only or other our out over own same she should so some such than that the their them then
there these they this those through to too under until up very was we were what when where which while who
whom whose why will with would you your
"""

_OTHERS = """
el la los las y en del con una un es por que al lo se para su como más pero sus sin sobre este ya fue hay no de
le la les des et est une un du dans que pour qui sur pas au aux avec ce il ne sont en par plus ou cette de se à
il di che la è per un in non con sono del della dei le si da gli alla nel una o come anche più delle nella
der die und das ist nicht ein eine zu den von mit im auf für des dem sich werden oder auch es als an wird in
de het een en van is dat op te niet met zijn voor die in om aan ook als er bij of wordt door deze naar
och att det som på för är av med den till inte en ett om har kan i de
og det at en den til er som på de med af for ikke der kan i et har
i w na z się nie że jest to do od po jak lub o dla są ze przez jego być
și de în la cu pe nu este pentru că din o se un sau care fi mai sunt ale prin al
ve bir bu için ile da de olarak veya olan gibi daha ya en çok her
els les amb i de la que una per un el del és no o en al
"""

_SAMPLE = 2_400  # characters looked at: a third of it from the start, the middle and the end
_MINIMUM_SHARE = 0.10  # of the words: tables, code and names have less, running text more than 0.25
_MINIMUM_LEAD = 1.3  # times the score of the next language
_WORD = re.compile(r"[^\W\d_]+")


def _evidence() -> dict[str, tuple[tuple[int, float], ...]]:
    """Return for each word its languages, each with its part of the word's weight of one."""
    owners: dict[str, set[int]] = {}
    for language, words in enumerate([_PORTUGUESE, _ENGLISH, *_OTHERS.strip().splitlines()]):
        for word in words.split():
            owners.setdefault(word, set()).add(language)
    return {word: tuple((language, 1 / len(those)) for language in those) for word, those in owners.items()}


_EVIDENCE = _evidence()
_LANGUAGES = ("pt", "en")  # the first two of the lists above


def _folded(words: str) -> frozenset[str]:
    plain = unicodedata.normalize("NFD", words)
    return frozenset("".join(char for char in plain if not unicodedata.combining(char)).split())


# s and t are what is left of "it's" and "don't".
STOP_WORDS = _folded(_PORTUGUESE + " " + _ENGLISH + " s t")
"""Function words of Portuguese and English, folded: a query leaves them out unless it has no others."""


def detect_language(text: str) -> str | None:
    """Tell whether a text is Portuguese or English.

    Parameters
    ----------
    text : str
        Any length; of more than 2,400 characters only the start, the middle and the end are looked at.

    Returns
    -------
    str or None
        ``"pt"``, ``"en"``, or None: another language, none at all (code, numbers), or too little text.

    Examples
    --------
    >>> detect_language("A nota fiscal é emitida pelo município.")
    'pt'
    >>> detect_language("The invoice is issued by the municipality.")
    'en'
    >>> detect_language("La factura es emitida por el municipio."), detect_language("2024/001; 12.345,67")
    (None, None)
    """
    if len(text) > _SAMPLE:
        third, middle = _SAMPLE // 3, len(text) // 2
        text = f"{text[:third]} {text[middle : middle + third]} {text[-third:]}"
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = text.lower()
    pieces = text.split()
    words = [
        piece for piece in pieces if piece.isalpha()
    ]  # nearly all, and for a quarter of the pattern's price
    words += _WORD.findall(" ".join([piece for piece in pieces if not piece.isalpha()]))
    scores: dict[int, float] = defaultdict(float)
    for word, count in Counter(filter(_EVIDENCE.__contains__, words)).items():
        for language, weight in _EVIDENCE[word]:
            scores[language] += count * weight
    if nasals := text.count("ã") + text.count("õ"):
        scores[0] += nasals / 2
    ranked = sorted(scores, key=lambda language: scores[language], reverse=True)
    if not ranked or ranked[0] >= len(_LANGUAGES) or scores[ranked[0]] < _MINIMUM_SHARE * len(words):
        return None
    if len(ranked) > 1 and scores[ranked[0]] < _MINIMUM_LEAD * scores[ranked[1]]:
        return None
    return _LANGUAGES[ranked[0]]
