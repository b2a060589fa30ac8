"""Where sentences begin."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oraculo_kit.sentences import sentence_starts


def sentences(text: str) -> list[str]:
    places = [0, *sentence_starts(text, 0, len(text)), len(text)]
    return [text[start:end].strip() for start, end in itertools.pairwise(places)]


@pytest.mark.parametrize(
    "one",
    [
        "O Sr. Silva, a Dra. Ana e o Exmo. Juiz concordam.",
        "Conforme o art. 5º, § 2º, inc. II, da Lei nº. 8.666 e as fls. 20 a 30.",
        "Alguns, p. ex. Este, não.",
        "Custa R$ 1.234,56 ou US$ 3.50 no total.",
        "Ele hesitou... e saiu.",
        "Ah! disse ele, já vai? perguntou ela.",
        "J. K. Rowling escreveu.",
        "1. Objeto do contrato",
        "See Fig. 2, e.g. Smith vs. Jones, by Dr. House.",
        "Uma linha\nque continua na outra.",
        "https://exemplo.com.br/a.B?C.D é um endereço.",
    ],
)
def test_what_is_no_end_of_a_sentence(one: str) -> None:
    assert sentences(one) == [one]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Acabou.", "Começou."),
        ("Acabou...", "Começou."),
        ('"Já vai?"', "Ela ficou."),
        ("(Veja acima.)", "Ela ficou."),
        ("Ele disse: “não!”", "“Sim”, disse ela."),
        ("Vigora desde 2020.", "Antes não."),
        ("Maçãs, peras etc.", "O resto não."),
        ("Foi em 1999.", "2000 não existiu."),
        ("É?", "— Sim."),
        ("Não é o art.", "O outro é."),
        ("Título sem ponto", "\n\nParágrafo."),
        ("Lista:", "\n- item"),
        ("- item", "\n2) outro"),
        ("这是第一句。", "这是第二句！"),
    ],
)
def test_what_ends_a_sentence(one: str, two: str) -> None:
    assert sentences(f"{one} {two}") == [one, two.strip()]


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet='aA1 .!?…\n"”(—-。\U0001f600', max_size=80), start=st.integers(0, 9))
def test_sentences_begin_in_order_with_a_character_inside_the_part(text: str, start: int) -> None:
    starts = sentence_starts(text, start, len(text))
    assert starts == sorted(set(starts))
    assert all(start < place < len(text) and not text[place].isspace() for place in starts)


@pytest.mark.parametrize(
    "unit",
    [".", ". ", ".)", "\n ", "\n", " ", '."', "1. ", "“ ", "\n - ", "。 ", ".\n\n", "a. B", "a.\u00a0"],
)
def test_the_time_is_linear_in_the_length(unit: str) -> None:
    text = unit * 100_000
    started = time.process_time()
    sentence_starts(text, 0, len(text))
    assert time.process_time() - started < 2
