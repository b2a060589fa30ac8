"""Words and stems: what the full-text index is given.

The FTS5 table sees only what `stem_text` returns: lower-case stems without accents, a space between two.
Its tokenizer must split at spaces and nothing else: `FTS_TOKENIZER`. Queries go through the same functions
(`oraculo_kit.storage.fulltext`).

What a text becomes, in this order:

1. **Each word**, with case and accents folded, then stemmed. Stop words too: phrases and queries such as
   "to be or not to be" need them (leaving them out moved nDCG@10 by 0.4 points at most, in either
   direction). "NFS-e", "12.345,67", "2024/001" and "ORACULO_CHUNK_SIZE" are several words. A character of a
   script that is written without spaces (Chinese, Japanese, Thai...) is a word of its own; queries ask for
   pairs of them.
2. **Other forms of what is written together**, at the end, where they cannot come between the words of a
   phrase: "nfse", "1234567", "2024001", "oraculochunksize", "c++", and the parts of "FaissVetorStorage".

**One stem per word, whatever the language of its text.** A word goes through the English and then the
Portuguese Snowball stemmer. Stemming each text by its own language is no better where the language is known
(nDCG@10 of the fused ranking, mean of six collections: 0.779 against 0.777; 0.742 against 0.743 when they
share one index), and clearly worse where it is told wrong or not at all for a few texts: their stems are
rare, so BM25 takes them for significant (BM25 alone lost 0.3 to 3.7 points in five of the six collections).
It would also ask for twice as many terms per query.

Accents are folded before stemming, because people ask without them: with the stemmer first, "informacao"
does not find "informação", and unaccented questions lost 1.5 points on FaQuAD. Endings that Snowball knows
by their accent get it back. Snowball alone leaves fiscal/fiscais, emissão/emissões, imagem/imagens and
papel/papéis apart; `_singular` brings them together: of 87 pairs of Portuguese word forms 77 share a stem
instead of 39, of 49 English ones 44.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable
from typing import TypeVar

import Stemmer

__all__ = [
    "FTS_TOKENIZER",
    "STEMMER_VERSION",
    "TOKEN",
    "WORD",
    "is_spaceless",
    "split_token",
    "stem_text",
    "stem_token",
    "stem_word",
    "words_of",
]

FTS_TOKENIZER = "ascii tokenchars '+#'"
"""Value of FTS5's ``tokenize`` option: splits at spaces only, since stems hold no other ASCII punctuation."""

STEMMER_VERSION = f"1/PyStemmer {Stemmer.version()}"
"""Stored with an index: stems made by another version must not be compared with ours."""

_CACHED_WORDS = 1 << 16  # a cache of this many takes 10 to 15 MB
_LONGEST_KEPT = 100  # characters

# Marks that belong to a word although Python's \w leaves them out: combining ones, soft hyphen, joiners.
_MARKS = (
    "\u00ad\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0900-\u0963\u0966-\u096f\u0971-\u0df3\u0e31-\u0e4e\u0eb1-\u0ecd\u0f71-\u0f84\u102b-\u103e"
    "\u17b4-\u17d3\u200c\u200d\u3099\u309a"
)
# Thai, Lao, Myanmar, Khmer, kana, Han; Hangul too, whose words end in particles that no stemmer here knows.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_LONGEST_PART = 64
_PART = rf"[\w{_MARKS}]{{1,{_LONGEST_PART}}}+"  # bounded: tokens are kept in caches; possessive: the time is linear

TOKEN = re.compile(rf"{_PART}(?:(?:[-‐‑]\n?|[./@&]|,(?=\d)){_PART}){{0,8}}+[+#]{{0,2}}+")
"""What is written together: a word, or words joined by one hyphen, dot, slash, @, & or decimal comma."""

WORD = re.compile(rf"[{_SPACELESS}]|(?:[^\W_{_SPACELESS}]|(?![{_SPACELESS}])[{_MARKS}])+")
"""One word within a token."""

_AROUND_WORDS = ".,;:!?()[]\"'"
_DIVIDED = ("-\n", "‐\n", "‑\n")
_SPACELESS_WORD = re.compile(f"[{_SPACELESS}]")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)+")
# Ordinals (5º, nº) are read as "5" and "n"; the others are invisible.
_DROPPED = dict.fromkeys(map(ord, "ºª\u00ad\u200c\u200d"))

_IRREGULAR = {
    "paises": "pais", "herois": "heroi", "paes": "pao", "caes": "cao", "faceis": "facil",
    "dificeis": "dificil", "uteis": "util", "inuteis": "inutil", "fosseis": "fossil", "habeis": "habil",
    "frageis": "fragil", "ageis": "agil", "texteis": "textil", "repteis": "reptil",
    "projeteis": "projetil", "estereis": "esteril",
} | {
    root + ending: root + "e"
    for root in ("portugu", "ingl", "franc", "chin", "japon")
    for ending in ("es", "eses", "esa", "esas")
}  # fmt: skip
_ACCENTED = {
    "avel": "ável", "ivel": "ível", "cao": "ção", "ao": "ão", "ancia": "ância", "encia": "ência",
    "iamos": "íamos", "aramos": "áramos", "avamos": "ávamos",
}  # fmt: skip
_ACCENTED_ENDINGS = tuple(_ACCENTED)

_Value = TypeVar("_Value")


class _Stemmers(threading.local):
    """A Snowball stemmer keeps state while it works: each thread has its own."""

    def __init__(self) -> None:
        self.english = Stemmer.Stemmer("english", 0)
        self.portuguese = Stemmer.Stemmer("portuguese", 0)


class _Cache(dict[str, _Value]):
    """Results of a function of one word, bounded; a third of the price of `functools.lru_cache` per hit.

    What is longer than a word is not kept. Shared by all threads: at worst two of them compute the same value.
    """

    def __init__(self, function: Callable[[str], _Value]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, word: str) -> _Value:
        value = self._function(word)
        if len(word) <= _LONGEST_KEPT:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = value
        return value


_stemmers = _Stemmers()


def _fold_any(text: str) -> str:
    # Some capitals appear only when a compatibility form is taken apart: ℌ, ᴬ, ℃.
    plain = unicodedata.normalize("NFKD", text.translate(_DROPPED)).casefold()
    plain = unicodedata.normalize("NFKD", plain)
    return unicodedata.normalize("NFC", "".join(char for char in plain if not "\u0300" <= char <= "\u036f"))


_LATIN = {code: _fold_any(chr(code)) for code in range(0x80, 0x250)}


def _fold(text: str) -> str:
    """Return `text` without case, accents and compatibility forms (ﬁ, ², full width)."""
    if text.isascii():
        return text.lower()
    plain = text.lower().translate(_LATIN)
    return plain if plain.isascii() else _fold_any(text)


def _singular(word: str) -> str:
    """Return the singular of a folded Portuguese plural that no stemmer knows; other words as they are."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word[-1] == "s" and len(word) > 4:
        if word.endswith("oes") or (word.endswith("aes") and len(word) > 5):
            return word[:-3] + "ao"  # emissoes, alemaes
        if word.endswith(("ais", "eis", "ois", "uis")):
            return word[:-2] + "l"  # fiscais, papeis
        if word.endswith("is") and word[-3] in "bcdfgnrtv":
            return word[:-1] + "l"  # perfis; English nouns in -is have other letters there: analysis, axis
    return word


def _stem(word: str) -> str:
    if not (word.isascii() and word.isalpha()):
        return word
    stem: str = _stemmers.english.stemWord(_singular(word))
    if len(stem) > 2 and stem[-1] == "n" and stem[-2] in "eiou":
        # "imagens" has become "imagen": meet "imagem". Words in -n (token, tokens) still meet each other.
        stem = stem[:-1] + "m"
    if stem.endswith(_ACCENTED_ENDINGS):
        ending = next(ending for ending in _ACCENTED_ENDINGS if stem.endswith(ending))
        stem = stem[: -len(ending)] + _ACCENTED[ending]
    return _fold(_stemmers.portuguese.stemWord(stem))


stem_word = _Cache(_stem).__getitem__
"""Return the stem of a folded word."""


def _split(token: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    folded = _fold(token)
    if (
        folded.isascii()
        and folded.isalnum()
        and (token.isdigit() or token.islower() or token.istitle() or token.isupper())
    ):
        return (folded,), ()  # nearly every token
    words = tuple(WORD.findall(folded))
    forms: list[str] = []
    if not token.islower() and len(parts := _HUMP.sub(" ", token).split(" ")) > 1:
        forms += (word for part in parts for word in WORD.findall(_fold(part)) if word not in words)
    if len(words) > 1 and (whole := "".join(words)).isascii():
        forms += (re.sub("[.,]", "", number) for number in _NUMBER.findall(folded))
        forms.append(whole)
    ending = token[len(token.rstrip("+#")) :]
    if ending and words:
        forms.append(words[-1] + ending)
    return words, tuple(dict.fromkeys(forms))


split_token = _Cache(_split).__getitem__
"""Return the folded words of a token, and the other forms it is to be found by."""


def _stem_token(token: str) -> tuple[str, str]:
    words, forms = _split(token)
    return " ".join(map(stem_word, words)), " ".join(map(stem_word, forms))


stem_token = _Cache(_stem_token).__getitem__
"""Return the stems of a token's words, and those of its other forms, each with a space between two."""


class _WithForms(str):
    """The stems of a piece's words; nearly all pieces have no other forms, and are plain texts."""

    __slots__ = ("forms",)
    forms: str


def _stem_tokens(piece: str) -> str:
    word = piece.strip(_AROUND_WORDS)
    tokens = [word] if word.isalnum() and len(word) <= _LONGEST_PART else TOKEN.findall(piece)
    pairs = list(map(stem_token, tokens))
    stems = " ".join([words for words, _ in pairs if words])
    if forms := " ".join([forms for _, forms in pairs if forms]):
        stems = _WithForms(stems)
        stems.forms = forms
    return stems


_stem_piece = _Cache(_stem_tokens).__getitem__


def is_spaceless(word: str) -> bool:
    """Tell whether a word is one character of a script that is written without spaces."""
    return _SPACELESS_WORD.fullmatch(word) is not None


def words_of(text: str) -> list[str]:
    """Return the words of a text in order, folded, not stemmed.

    Examples
    --------
    >>> words_of("A emissão da NFS-e")
    ['a', 'emissao', 'da', 'nfs', 'e']
    """
    return [word for words, _ in map(split_token, TOKEN.findall(text)) for word in words]


def stem_text(text: str) -> str:
    """Return the stems of a text, as they go into the full-text index.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        Stems with a space between two; empty for a text without words.

    Examples
    --------
    >>> stem_text("Emissões de NOTAS fiscais: NFS-e nº 2024/001")
    'emissa de not fiscal nfs e n 2024 001 nfse 2024001'
    >>> stem_text("emissao de nota fiscal")
    'emissa de not fiscal'
    """
    # No token holds whitespace, but for a word that is divided at the end of a line. What stands between whitespace
    # is looked up as it is, with its punctuation: to find the tokens of a text takes three times as long.
    pieces = TOKEN.findall(text) if any(end in text for end in _DIVIDED) else text.split()
    stems = list(filter(None, map(_stem_piece, pieces)))
    stems += [piece.forms for piece in stems if type(piece) is _WithForms]
    return " ".join(stems)
