"""Queries: from what a user types to what the full-text index is asked, and back to the text.

A query becomes a MATCH expression in which every term is quoted, so no user's text is ever FTS syntax. Its
words go through the same functions as the text of the index (`oraculo_kit.storage.stems`).

Stems find more than was asked for; two checks on a candidate's own text narrow it down again:
`TextQuery.accepts` (exact phrases and exclusions) and `TextQuery.wording` (how close it is to the words of
the query, for the order).
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

from oraculo_kit.storage.language import STOP_WORDS
from oraculo_kit.storage.stems import (
    FTS_TOKENIZER,
    STEMMER_VERSION,
    TOKEN,
    WORD,
    is_spaceless,
    split_token,
    stem_text,
    stem_token,
    stem_word,
    words_of,
)

__all__ = [
    "FTS_TOKENIZER",
    "STEMMER_VERSION",
    "TextQuery",
    "any_of",
    "highlight_spans",
    "parse_query",
    "stem_text",
]

_MAX_QUERY = 10_000  # characters that are read of a query
_MAX_TERMS = 64  # distinct terms that are asked for: the first ones of the query
_OFTEN = (
    1.25  # of its weight, at most, is what a frequent stem is expected to add to a score; see `essential`
)

_CLAUSE = re.compile(r'((?<!\S)-(?=[^\W\d_]|"))?(?:"([^"]*)"|([^\s"]+))')
_QUOTES = str.maketrans("“”„«»", '"' * 5)


def any_of(stems: Iterable[str]) -> str:
    """Return the FTS5 expression of what has any of these stems.

    Examples
    --------
    >>> any_of(["not", "fiscal"])
    '("not" OR "fiscal")'
    """
    return "(" + " OR ".join(f'"{stem}"' for stem in stems) + ")"


def _weight(frequency: int, chunks: int) -> float:
    """Return a stem's inverse document frequency as SQLite's ``bm25()`` has it."""
    return max(math.log((max(chunks - frequency, 0) + 0.5) / (frequency + 0.5)), 1e-6)


def _holds(words: str, phrase: str) -> bool:
    return f" {phrase} " in words


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A query as full-text search understands it; made by `parse_query`.

    Attributes
    ----------
    text : str
        The query without quotes and exclusions: what is to be embedded.
    words : tuple of str
        Distinct folded words that are looked for, in order; no stop words unless there are no others.
    pairs : tuple of str
        Neighbours among these words, ``"nota fiscal"``.
    stems : tuple of str
        Distinct terms of the index that are asked for, at most 64: the first ones of the query. One with a
        space in it stands for words in a row.
    phrases, excluded : tuple of str
        Folded words, a space between two, that a text must hold or must not hold in a row.
    """

    text: str
    words: tuple[str, ...]
    pairs: tuple[str, ...]
    stems: tuple[str, ...]
    phrases: tuple[str, ...]
    excluded: tuple[str, ...]

    @property
    def is_strict(self) -> bool:
        """Whether `accepts` can refuse a text at all."""
        return bool(self.phrases or self.excluded)

    @property
    def asks_nothing(self) -> bool:
        """Whether there is no word to look for: blank, signs only, or nothing but exclusions."""
        return not self.words

    def match_expression(self) -> str | None:
        """Return the FTS5 MATCH expression, or None when there is no word to look for.

        Any of the stems is enough, and every phrase is required, by its stems. Exclusions are left to
        `accepts`: the index knows no words, and by its stem "-casa" would exclude "caso". So what matches is
        more than what `accepts` lets through, never less.

        Examples
        --------
        >>> query = parse_query('como emitir "notas fiscais" -serviço')
        >>> query.match_expression()
        '("not fiscal") AND ("emit" OR "not" OR "fiscal")'
        """
        if not self.stems:
            return None
        phrases = self._stemmed_phrases()
        clauses = [f'("{phrase}")' for phrase in phrases]
        stems = list(self.stems)
        if all(set(stems).isdisjoint(phrase.split()) for phrase in phrases):
            # A phrase of stop words: nothing else in the query need be in a text that has it.
            stems += phrases
        return " AND ".join([*clauses, any_of(stems)])

    def rarest(self, frequencies: Mapping[str, int], wanted: float) -> tuple[str, ...]:
        """Return the rarest stems, as many as it takes to stand in so many chunks together, or all that are known.

        Parameters
        ----------
        frequencies : mapping of str to int
            In how many chunks each of the stems stands; roughly is enough.
        wanted : float
            Chunks; one in which two of the stems stand counts twice.

        Examples
        --------
        >>> parse_query("prazo da nota fiscal").rarest({"praz": 5, "not": 400, "fiscal": 90}, 50)
        ('praz', 'fiscal')
        """
        known = sorted((stem for stem in self.stems if frequencies.get(stem)), key=frequencies.__getitem__)
        standing = list(accumulate(frequencies[stem] for stem in known))
        return tuple(known[: bisect_left(standing, wanted) + 1])

    def essential(self, frequencies: Mapping[str, int], chunks: int, score: float) -> tuple[str, ...]:
        """Return the rarest stems, as many as it takes that no chunk without all of them has a score.

        BM25 is what costs time, not matching. It gives a chunk for each stem its weight, the inverse document
        frequency, times a number that says how often the stem stands in the chunk: 1 for once in a chunk of average
        length, 2.2 at most. So stems whose weights add up to little can be left out where the matches are looked for
        (not where they are scored): what has only these cannot come among those that are known to have `score`. This
        is MaxScore (Turtle and Flood, 1995), but with 1.25 in place of 2.2: a chunk that has only the most frequent
        words of a question does not have all of them many times. Over two corpora of 100,000 chunks one in 2,500 of
        the best 50 was another, and none of the best ten.

        Parameters
        ----------
        frequencies : mapping of str to int
            In how many chunks each of the stems stands; roughly is enough.
        chunks : int
            How many chunks there are.
        score : float
            BM25 that a chunk must have to count.

        Examples
        --------
        >>> query, frequencies = parse_query("prazo da nota"), {"praz": 5, "not": 400}
        >>> query.essential(frequencies, 1000, 4.0), query.essential(frequencies, 1000, 0.2)
        (('praz',), ('praz', 'not'))
        """
        known = list(self.rarest(frequencies, math.inf))
        spared = 0.0
        while len(known) > 1:
            spared += _OFTEN * _weight(frequencies[known[-1]], chunks)
            if spared > score:
                break
            known.pop()
        return tuple(known)

    def phrase_expression(self) -> str | None:
        """Return the MATCH expression of what has every phrase, by its stems; None without phrases."""
        return " AND ".join(f'("{phrase}")' for phrase in self._stemmed_phrases()) or None

    def _stemmed_phrases(self) -> list[str]:
        return [
            " ".join([stem_word(word) for word in phrase.split()][:_MAX_TERMS])
            for phrase in self.phrases[:_MAX_TERMS]
        ]

    def accepts(self, text: str) -> bool:
        """Tell whether a text has every phrase and no excluded word, exactly but for case and accents.

        Parameters
        ----------
        text : str
            The chunk's own text.

        Examples
        --------
        >>> query = parse_query('"nota fiscal" -serviço')
        >>> [query.accepts(text) for text in ("A NOTA FISCAL.", "notas fiscais", "nota fiscal de SERVICO")]
        [True, False, False]
        """
        if not self.is_strict:
            return True
        words = f" {' '.join(words_of(text))} "
        return all(_holds(words, phrase) for phrase in self.phrases) and not any(
            _holds(words, phrase) for phrase in self.excluded
        )

    def matched(self, text: str) -> tuple[str, ...]:
        """Return the words of the query whose stem stands in a text, in the query's order.

        Examples
        --------
        >>> parse_query("emissão de nota fiscal").matched("As notas fiscais.")
        ('nota', 'fiscal')
        """
        stems = f" {stem_text(text)} "
        return tuple(word for word in self.words if _holds(stems, stem_word(word)))

    def wording(self, text: str) -> float:
        """Return how closely a text keeps to the words of the query: what stems cannot tell.

        Two shares: of the query's words that stand in the text in this very form, and of its neighbouring
        words that are neighbours in the text too, stop words not counted. The second counts twice (0.2
        points of nDCG@10 on FaQuAD, elsewhere no difference). A query of one word has the first share only.

        Parameters
        ----------
        text : str
            The chunk's own text.

        Returns
        -------
        float
            From 0 (other words) to 1 (every word and every neighbour).

        Examples
        --------
        >>> query = parse_query("emissão de nota fiscal")
        >>> query.wording("a emissao da nota fiscal"), query.wording("emissões de notas fiscais")
        (1.0, 0.0)
        """
        if not self.words:
            return 0.0
        words = words_of(text)
        if self.words[0] not in STOP_WORDS:
            words = [word for word in words if word not in STOP_WORDS]
        line = f" {' '.join(words)} "
        same = sum(_holds(line, word) for word in self.words) / len(self.words)
        if not self.pairs:
            return same
        return (same + 2 * sum(_holds(line, pair) for pair in self.pairs) / len(self.pairs)) / 3


def parse_query(query: str) -> TextQuery:
    """Read a user's query: words, ``"exact phrases"`` and ``-excluded`` words or ``-"phrases"``.

    No text is an error: an unclosed quote is ignored, and a hyphen excludes only at the start of a word that
    begins with a letter, so "NFS-e", "-5" and "a - b" are plain words.

    Parameters
    ----------
    query : str
        Any text; only its first 10,000 characters are read.

    Returns
    -------
    TextQuery

    Examples
    --------
    >>> parse_query('Como emitir "nota fiscal" -serviço?').words
    ('emitir', 'nota', 'fiscal')
    >>> parse_query("to be or not to be").words
    ('to', 'be', 'or', 'not')
    """
    plain: list[str] = []
    phrases: list[str] = []
    excluded: list[str] = []
    for minus, phrase, word in _CLAUSE.findall(query[:_MAX_QUERY].translate(_QUOTES)):
        row = " ".join(words_of(phrase or word))
        if minus:
            excluded.append(row)
        else:
            plain.append(phrase or word)
            if phrase:
                phrases.append(row)
    text = " ".join(plain)
    tokens = TOKEN.findall(text)
    every = [word for token in tokens for word in _asked(split_token(token)[0])]
    words = [word for word in every if word not in STOP_WORDS] or every
    forms = (form for token in tokens for form in split_token(token)[1])
    return TextQuery(
        text=text,
        words=tuple(dict.fromkeys(words))[:_MAX_TERMS],
        pairs=tuple(dict.fromkeys(f"{one} {other}" for one, other in pairwise(words)))[:_MAX_TERMS],
        stems=tuple(dict.fromkeys(stem_word(word) for word in [*words, *forms]))[:_MAX_TERMS],
        phrases=tuple(dict.fromkeys(filter(None, phrases))),
        excluded=tuple(dict.fromkeys(filter(None, excluded))),
    )


def _asked(words: tuple[str, ...]) -> Iterator[str]:
    """Yield words; of characters written without spaces yield pairs, since one alone says little."""
    for spaceless, run in groupby(words, is_spaceless):
        characters = list(run)
        if spaceless and len(characters) > 1:
            yield from map(" ".join, pairwise(characters))
        else:
            yield from characters


def highlight_spans(text: str, query: TextQuery) -> list[tuple[int, int]]:
    """Return where `text` holds words that the query looks for.

    Parameters
    ----------
    text : str
    query : TextQuery

    Returns
    -------
    list of (int, int)
        Start and end of each, in characters of `text`; sorted, none touching the next.

    Examples
    --------
    >>> highlight_spans("As notas fiscais.", parse_query("nota fiscal"))
    [(3, 8), (9, 16)]
    """
    wanted = set(query.stems)
    spans: list[tuple[int, int]] = []
    for start, end in _matches(text, wanted):
        if spans and start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return spans


def _matches(text: str, wanted: set[str]) -> Iterator[tuple[int, int]]:
    for token in TOKEN.finditer(text):
        if not wanted.isdisjoint(stem_token(token[0])[1].split()):
            yield token.span()
            continue
        before = ""
        for word in WORD.finditer(text, *token.span()):
            stems = stem_token(word[0])[0]
            if not wanted.isdisjoint(stems.split()):
                yield word.span()
            elif f"{before} {stems}" in wanted:
                yield word.start() - 1, word.end()
            before = stems
