"""Queries against a real FTS5 table that holds stems only, as the store's does."""

from __future__ import annotations

import time
from collections.abc import Sequence

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oraculo_kit.storage.fulltext import TextQuery, highlight_spans, parse_query
from oraculo_kit.storage.stems import FTS_TOKENIZER, stem_text, words_of


class Index:
    """The full-text table of a store, in memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.connection = apsw.Connection(":memory:")
        self.connection.execute(
            "CREATE VIRTUAL TABLE chunk_text USING fts5("
            f"stems, content='', contentless_delete=1, tokenize=\"{FTS_TOKENIZER}\")"
        )
        self.connection.executemany(
            "INSERT INTO chunk_text(rowid, stems) VALUES (?, ?)", enumerate(map(stem_text, self.texts))
        )

    def matches(self, query: TextQuery) -> list[str]:
        """Return the texts that the expression matches, best first."""
        expression = query.match_expression()
        if expression is None:
            return []
        rows = self.connection.execute(
            "SELECT rowid FROM chunk_text WHERE chunk_text MATCH ? ORDER BY rank, rowid", (expression,)
        )
        return [self.texts[number] for (number,) in rows]

    def found(self, query: str) -> list[str]:
        """Return the texts that a query finds, best first."""
        parsed = parse_query(query)
        return [text for text in self.matches(parsed) if parsed.accepts(text)]


_TEXTS = [
    "A emissão de notas fiscais eletrônicas (NFS-e) é gratuita.",
    "O caso da casa amarela foi arquivado.",
    "Lei 8.666/93, valor de R$ 12.345,67, processo 2024/001.",
    "Set ORACULO_CHUNK_SIZE before you call FaissVetorStorage.write in C++.",
    "To be, or not to be: that is the question.",
    "東京都に住んでいます。",
    "Contact maria.silva@exemplo.com.br about the e-mail.",
]


@pytest.fixture(scope="module")
def index() -> Index:
    return Index(_TEXTS)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("como emitir nota fiscal?", 0),
        ("EMISSAO", 0),
        ("nfse", 0),
        ("NFS-e", 0),
        ("8.666", 2),
        ("8666", 2),
        ("12345.67", 2),
        ("12.345,67", 2),
        ("2024/001", 2),
        ("ORACULO_CHUNK_SIZE", 3),
        ("chunk size", 3),
        ("oraculochunksize", 3),
        ("faissvetorstorage", 3),
        ("vetor storage", 3),
        ("c++", 3),
        ("to be or not to be", 4),
        ("東京", 5),
        ("京", 5),
        ("maria.silva@exemplo.com.br", 6),
        ("email", 6),
    ],
)
def test_a_query_finds_the_text_first(index: Index, query: str, place: int) -> None:
    assert index.found(query)[0] == _TEXTS[place]


@pytest.mark.parametrize("query", ["京東", "xyzzy", "!?", "", "   ", '""', "-", "-casa", "\x00", "\ud800"])
def test_what_is_not_there_is_not_found(index: Index, query: str) -> None:
    assert index.found(query) == []


def test_function_words_do_not_find_texts_while_there_are_others(index: Index) -> None:
    assert index.found("onde é a casa") == [_TEXTS[1]]


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ('"notas fiscais"', [0]),
        ('"NOTAS FISCAIS ELETRONICAS"', [0]),
        ('"nota fiscal"', []),
        ('"fiscais notas"', []),
        ("“notas fiscais”", [0]),
        ("«notas fiscais»", [0]),
        ('"to be"', [4]),
        ('"to be" casa', [4]),
        ('"chunk size"', [3]),
        ('"8.666/93, valor"', [2]),
        ('"東京"', [5]),
        ('"the question" "to be"', [4]),
        ('"the question" "notas fiscais"', []),
        ('casa "caso', [1]),  # an unclosed quote is no phrase
        ("caso -casa", []),
        ("caso -casas", [1]),  # excluded exactly, not by its stem
        ("caso -CASA", []),
        ('casa -"casa amarela"', []),
        ('casa -"casa verde"', [1]),
        ("question -東京", [4]),
        ("NFS-e -5 - casa", [0, 1]),
        ("email -e-mail", []),
    ],
)
def test_phrases_are_required_and_exclusions_hold(index: Index, query: str, places: list[int]) -> None:
    assert sorted(index.found(query)) == sorted(_TEXTS[place] for place in places)


def test_the_text_to_embed_leaves_out_operators_and_exclusions() -> None:
    assert parse_query('prazo "nota fiscal" -serviço -"mão de obra" 2024').text == "prazo nota fiscal 2024"


def test_a_query_without_operators_accepts_every_text() -> None:
    query = parse_query("nota fiscal")
    assert not query.is_strict
    assert query.accepts("")


_FREQUENCIES = {"praz": 1, "not": 90, "fiscal": 20, "municipi": 5, "servic": 12, "multa": 0}


@pytest.mark.parametrize(
    ("query", "wanted", "stems"),
    [
        ("nota prazo fiscal município", 1, ("praz",)),
        ("nota prazo fiscal município", 2, ("praz", "municipi")),
        ("nota prazo fiscal município", 6, ("praz", "municipi")),
        ("nota prazo fiscal município", 1000, ("praz", "municipi", "fiscal", "not")),
        ("multa nota inexistente", 1, ("not",)),  # what stands nowhere cannot be asked for alone
        ("inexistente", 1, ()),
    ],
)
def test_the_rarest_stems_stand_in_as_many_chunks_as_are_wanted(
    query: str, wanted: float, stems: tuple[str, ...]
) -> None:
    assert parse_query(query).rarest(_FREQUENCIES, wanted) == stems


@pytest.mark.parametrize(
    ("score", "stems"),
    [
        (0.0, ("praz", "municipi", "fiscal", "not")),
        (0.1, ("praz", "municipi", "fiscal")),  # "nota" stands nearly everywhere: it has no weight
        (2.0, ("praz", "municipi")),
        (6.0, ("praz",)),
        (100.0, ("praz",)),
    ],
)
def test_the_higher_the_score_the_fewer_stems_are_essential(score: float, stems: tuple[str, ...]) -> None:
    assert parse_query("nota prazo fiscal município").essential(_FREQUENCIES, 100, score) == stems


@given(
    counts=st.lists(st.integers(0, 200), min_size=1, max_size=10),
    chunks=st.integers(1, 100),
    score=st.floats(0, 50),
)
def test_some_stem_is_always_essential_however_wrong_the_counts(
    counts: list[int], chunks: int, score: float
) -> None:
    query = parse_query(" ".join(f"termo{number}" for number in range(len(counts))))
    frequencies = dict(zip(query.stems, counts, strict=True))
    essential = query.essential(frequencies, chunks, score)
    left_out = [count for stem, count in frequencies.items() if count and stem not in essential]
    assert bool(essential) == any(counts)
    assert all(frequencies[stem] <= min(left_out, default=200) for stem in essential)


@pytest.mark.parametrize("query", ["", "?", "-", "-casa", '-"nota fiscal"', "\u200b", '""', "\x00", "\u0301"])
def test_without_a_word_nothing_is_asked(query: str) -> None:
    assert parse_query(query).asks_nothing
    assert parse_query(query).phrase_expression() is None


@pytest.mark.parametrize("query", ["a", "de", '"de"', "5", "-5", "東", "c++", "ª x"])
def test_one_letter_or_digit_asks_something(query: str) -> None:
    assert not parse_query(query).asks_nothing


@given(query=st.text(), text=st.text())
def test_matched_words_are_words_of_the_query(query: str, text: str) -> None:
    parsed = parse_query(query)
    assert set(parsed.matched(text)) <= set(parsed.words)
    assert parsed.matched(query) == parsed.words or parsed.excluded or '"' in query or not query.isascii()


def test_a_long_query_asks_for_its_first_64_terms() -> None:
    query = parse_query(" ".join(f"termo{number}" for number in range(1_000)))
    assert query.stems == tuple(f"termo{number}" for number in range(64))


def test_only_the_first_ten_thousand_characters_are_read() -> None:
    assert parse_query("a " * 5_000 + "nota -casa").words == ("a",)
    assert not parse_query("a " * 5_000 + "-casa").is_strict


@pytest.mark.parametrize(
    "query",
    [
        '"a b" ' * 5_000,
        " ".join(f'"{one} {other}"' for one in "aeo" for other in ("da", "de", "do", "to", "is", "em") * 200),
        " ".join(f'"a {number}"' for number in range(1_000)),
        '"' + "palavra " * 5_000 + '"',
        "-a " * 5_000,
        '"' * 100_000,
        "東" * 100_000,
        "a-" * 100_000,
    ],
)
def test_no_query_is_too_long_for_the_index(index: Index, query: str) -> None:
    started = time.perf_counter()
    index.found(query)
    assert time.perf_counter() - started < 3


_query_parts = st.lists(
    st.sampled_from(
        ['"', "-", "*", "(", ")", "^", ":", "+", "NEAR", "AND", "OR", "NOT", "{", "}", "'", "nota", "é", "東"]
    ),
    max_size=12,
)


@given(query=st.text() | _query_parts.map("".join) | _query_parts.map(" ".join))
def test_any_text_is_a_valid_query(index: Index, query: str) -> None:
    for text in index.found(query):
        highlight_spans(text, parse_query(query))


_words = st.sampled_from(
    ["nota", "notas", "Fiscal", "de", "a", "NFS-e", "12.345,67", "東京都", "ação", "GitHub", "x_y", "it's"]
)


@given(words=st.lists(_words, min_size=1, max_size=12), data=st.data())
def test_any_run_of_words_of_a_text_is_a_phrase_that_finds_it(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    folded = words_of(text)
    start = data.draw(st.integers(0, len(folded) - 1))
    end = data.draw(st.integers(start + 1, len(folded)))
    phrase = " ".join(folded[start:end])
    assert Index([text, "outro"]).found(f'"{phrase}"') == [text]
    assert Index([text]).found(f'outro "{phrase}" -ausente') == [text]
    assert not parse_query(f'-"{phrase}"').accepts(text)


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("nota fiscal", "a nota fiscal de serviço", 1.0),
        ("nota fiscal", "a Nota: FISCAL", 1.0),
        ("emissão de nota", "emissao da nota", 1.0),  # stop words do not count
        ("nota fiscal", "fiscal da nota", 1 / 3),  # both words, not side by side
        ("nota fiscal", "notas fiscais", 0.0),
        ("nota fiscal", "a nota", 1 / 6),
        ("nota", "a nota", 1.0),
        ("to be or not to be", "To be, or not to be", 1.0),
        ("to be or not to be", "be", 1 / 12),
        ("東京", "東京都", 1.0),
        ("?", "nota", 0.0),
    ],
)
def test_wording_tells_how_close_a_text_is_to_the_words_of_the_query(
    query: str, text: str, expected: float
) -> None:
    assert parse_query(query).wording(text) == pytest.approx(expected)


@given(query=st.text(), text=st.text())
def test_wording_is_a_share(query: str, text: str) -> None:
    assert 0 <= parse_query(query).wording(text) <= 1


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("notas fiscais", "A nota fiscal, a NOTA.", ["nota", "fiscal", "NOTA"]),
        ("nota de serviço", "de nota em nota", ["nota", "nota"]),
        ("servico", "o servic\u0327o e os servi\u00adços", ["servic\u0327o", "servi\u00adços"]),
        ("nfse", "a NFS-e.", ["NFS-e"]),
        ("size", "ORACULO_CHUNK_SIZE", ["SIZE"]),
        ("vetor", "FaissVetorStorage", ["FaissVetorStorage"]),
        ("12345,67", "R$ 12.345,67", ["12.345,67"]),
        ("c++", "em C++ sim", ["C++"]),
        ("東京", "京東京都東", ["東京"]),
        ("東京都", "京東京都東", ["東京都"]),
        ("京", "東京都", ["京"]),
        ("to be", "to be or", ["to", "be"]),
        ("-nota fiscal", "nota fiscal", ["fiscal"]),
        ("", "nota", []),
    ],
)
def test_highlights_are_the_words_that_match(query: str, text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in highlight_spans(text, parse_query(query))] == expected


@given(query=st.text(), text=st.text())
def test_highlights_are_sorted_and_apart(query: str, text: str) -> None:
    last = -1
    for start, end in highlight_spans(text, parse_query(query + " " + text[:20])):
        assert last < start < end <= len(text)
        last = end
