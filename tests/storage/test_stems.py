"""What a text becomes in the full-text index."""

from __future__ import annotations

import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oraculo_kit.storage import stems
from oraculo_kit.storage.stems import FTS_TOKENIZER, STEMMER_VERSION, stem_text, words_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("nota fiscal", "notas fiscais"),
        ("emissão", "emissões"),
        ("informação", "informacoes"),
        ("informação", "informar"),
        ("imagem", "imagens"),
        ("homem", "homens"),
        ("papel", "papéis"),
        ("imóvel", "imóveis"),
        ("fácil", "fáceis"),
        ("perfil", "perfis"),
        ("lei", "leis"),
        ("país", "países"),
        ("mês", "meses"),
        ("mão", "mãos"),
        ("pão", "pães"),
        ("alemão", "alemães"),
        ("herói", "heróis"),
        ("português", "portuguesas"),
        ("emitir", "emitidas"),
        ("responsável", "responsáveis"),
        ("token", "tokens"),
        ("invoice", "Invoices"),
        ("policy", "policies"),
        ("connect", "connections"),
        ("run", "running"),
        ("analysis", "analyses"),
        ("user's guide", "users guides"),
    ],
)
def test_forms_of_one_word_share_a_stem(one: str, other: str) -> None:
    assert set(stem_text(one).split()) - {"s"} == set(stem_text(other).split())


@pytest.mark.parametrize(
    "pair", ["emitir emitente", "casa casamento", "import export", "mãe mão", "real reator"]
)
def test_different_words_keep_different_stems(pair: str) -> None:
    assert len(set(stem_text(pair).split())) == 2


@pytest.mark.parametrize(
    "text",
    ["Ações de informação são responsáveis", "ÁGUA, PÃES E MAÇÃS", "à avó distância", "Ångström café naïve"],
)
def test_accents_and_case_make_no_difference(text: str) -> None:
    plain = "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))
    assert stem_text(text) == stem_text(plain) == stem_text(text.upper()) == stem_text(text.lower())


@pytest.mark.parametrize(
    "written", ["informac\u0327a\u0303o", "infor\u00admac\u0327\u00e3o", "ｉｎｆｏｒｍａção"]
)
def test_other_spellings_of_the_same_characters_are_the_same_word(written: str) -> None:
    assert stem_text(written) == stem_text("informação")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NFS-e", "nfs e nfse"),
        ("NFS‑e", "nfs e nfse"),  # a hyphen that does not break
        ("12.345,67", "12 345 67 1234567"),
        ("2024/001", "2024 001 2024001"),
        ("8.666/93", "8 666 93 8666 866693"),
        ("10:30", "10 30"),
        ("nº 5º", "n 5"),
        ("C++ e C#", "c e c c++ c#"),
        ("U.S.A.", "u s a usa"),
        ("maria@exemplo.br", "mar exempl br mariaexemplobr"),
        ("e-mail", "e mail email"),
        ("ORACULO_CHUNK", "oracul chunk oraculochunk"),
        ("FaissVetor", "faissvetor faiss vetor"),
        ("HTTPClient", "httpclient http client"),
        ("IPv6", "ipv6"),
        ("nota-\nfiscal", "not fiscal notafisc"),
        ("fim. Começo", "fim comec"),
        ("a,b", "a b"),
        ("東京都", "東 京 都"),
        ("한국어", "한 국 어"),
        ("हिन्दी में", "हिन्दी में"),
        ("ﬁm m² 25℃ ℌ", "fim m2 25 h"),
        ("__ -- ... ™ 😀", ""),
        ("", ""),
    ],
)
def test_what_is_written_together_is_found_in_parts_and_whole(text: str, expected: str) -> None:
    assert stem_text(text) == expected


@given(
    text=st.text()
    | st.lists(
        st.sampled_from(
            [
                "Fiscal,",
                "(nota",
                "NFS-e",
                "nota-",
                "\n",
                "fiscal",
                " ",
                "\x85",
                "1,5.",
                "C++",
                "東京",
                "\u200d",
                "a'b",
            ]
        )
    ).map("".join)
)
def test_looking_up_what_stands_between_spaces_changes_nothing(text: str) -> None:
    pairs = [stems.stem_token(token) for token in stems.TOKEN.findall(text)]
    expected = [words for words, _ in pairs if words] + [forms for _, forms in pairs if forms]
    assert stem_text(text) == " ".join(expected)


def test_words_stay_in_order_so_that_phrases_can_be_found() -> None:
    assert stem_text("a NFS-e do GitHub é nova").startswith("a nfs e do github e nov")


def test_stop_words_stay_in_the_index() -> None:
    assert stem_text("to be or not to be").split() == ["to", "be", "or", "not", "to", "be"]


@pytest.fixture(scope="module")
def index() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.execute(
        "CREATE VIRTUAL TABLE chunk_text USING fts5(stems, content='', contentless_delete=1, "
        f'tokenize="{FTS_TOKENIZER}");'
        "CREATE VIRTUAL TABLE terms USING fts5vocab(chunk_text, instance)"
    )
    return connection


@given(
    text=st.text()
    | st.lists(st.sampled_from(["NFS-e", "C++", "x#", "1,5", "Ωμέγα", "İ", "ß", "'", '"', "\x00"])).map(
        " ".join
    )
)
def test_the_index_holds_exactly_the_stems(index: apsw.Connection, text: str) -> None:
    stemmed = stem_text(text)
    index.execute("INSERT INTO chunk_text(rowid, stems) VALUES (1, ?)", (stemmed,))
    try:
        terms = [term for (term,) in index.execute("SELECT term FROM terms ORDER BY offset")]
    finally:
        index.execute("DELETE FROM chunk_text WHERE rowid = 1")
    assert terms == stemmed.split(" " if stemmed else None)


@given(text=st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    words = words_of(text)
    assert words_of(" ".join(words)) == words


_together = threading.Barrier(2)


def _english_stemmer(_: int) -> Any:
    _together.wait(5)  # so that one thread cannot do both
    return stems._stemmers.english


def test_threads_agree_on_every_stem() -> None:
    words = [
        f"{letter}{ending}" for letter in "abcdefghij" for ending in ("missoes", "onnections", "ortais")
    ] * 200
    expected = [stems._stem(word) for word in words]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: [stems._stem(word) for word in words], range(8)))
    assert found == [expected] * 8
    with ThreadPoolExecutor(2) as pool:
        assert len({id(stemmer) for stemmer in pool.map(_english_stemmer, range(2))}) == 2


def test_a_cache_never_grows_beyond_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stems, "_CACHED_WORDS", 100)
    cache = stems._Cache(str.upper)
    assert [cache[f"word{number}"] for number in range(1_000)] == [f"WORD{number}" for number in range(1_000)]
    assert len(cache) <= 100


@pytest.mark.parametrize(
    "text",
    [
        "a" * 500_000,
        "-" * 500_000,
        "a-" * 250_000,
        "aB" * 250_000,
        "1,2." * 125_000,
        "é\u0301" * 250_000,
        "東" * 200_000,
    ],
)
def test_hostile_text_takes_linear_time(text: str) -> None:
    started = time.perf_counter()
    stem_text(text)
    assert time.perf_counter() - started < 5


def test_the_version_names_our_scheme_and_the_stemmer() -> None:
    scheme, _, stemmer = STEMMER_VERSION.partition("/")
    assert scheme.isdigit()
    assert stemmer.startswith("PyStemmer ")
