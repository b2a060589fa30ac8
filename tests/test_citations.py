"""The numbers in an answer."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oraculo_kit.answering.citations import CitationFilter, cited_numbers, unverified_quotes
from oraculo_kit.answering.passages import Passage
from oraculo_kit.answering.prompts import SENTINELS
from oraculo_kit.storage.results import Hit


def filtered(text: str, count: int = 3) -> CitationFilter:
    checked = CitationFilter(count, SENTINELS)
    checked.feed(text)
    checked.end()
    return checked


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("dez dias [1].", "dez dias [1]."),
        ("dez dias[1][2].", "dez dias[1][2]."),
        ("dez dias [1, 2].", "dez dias [1][2]."),
        ("dez dias [1,2 e 3].", "dez dias [1][2][3]."),
        ("dez dias [1; 2].", "dez dias [1][2]."),
        ("dez dias [1-3].", "dez dias [1][2][3]."),
        ("dez dias [1–3].", "dez dias [1][2][3]."),
        ("dez dias 【1】.", "dez dias [1]."),
        ("dez dias 【2†nota.md】.", "dez dias [2]."),
        ("dez dias ［3］.", "dez dias [3]."),
        ("dez dias [[1]].", "dez dias [1]."),
        ("dez dias [^1].", "dez dias [1]."),
        ("dez dias [Fonte 1].", "dez dias [1]."),
        ("dez dias [source 1, source 2].", "dez dias [1][2]."),
        ("ten days [1 and 2]", "ten days [1][2]"),
        ("dez dias [ 1 ].", "dez dias [1]."),
        ("[1] dez dias", "[1] dez dias"),
        ("[1](https://evil.example)", "[1](https://evil.example)"),
    ],
)
def test_every_spelling_of_a_citation_becomes_one(written: str, kept: str) -> None:
    checked = filtered(written)
    assert checked.text == kept
    assert checked.cited == cited_numbers(kept)
    assert checked.invalid == []


@pytest.mark.parametrize(
    ("written", "kept", "invalid"),
    [
        ("dez dias [9].", "dez dias.", [9]),
        ("dez dias [0] úteis.", "dez dias úteis.", [0]),
        ("dez dias [1, 9].", "dez dias [1].", [9]),
        ("dez dias [1][9].", "dez dias [1].", [9]),
        ("dez dias 【12】", "dez dias", [12]),
        ("dez dias [2-4].", "dez dias [2][3].", [4]),
        ("[9]", "", [9]),
        ("dez dias [1-999999999].", "dez dias [1].", [999999999]),
    ],
)
def test_a_number_that_points_at_nothing_is_taken_out_and_told(
    written: str, kept: str, invalid: list[int]
) -> None:
    checked = filtered(written)
    assert (checked.text, checked.invalid) == (kept, invalid)


@pytest.mark.parametrize(
    "text",
    [
        "lista[i]",
        "[nota]",
        "[]",
        "[ ]",
        "a [b",
        "[1",
        "[texto 1]",
        "x ] y",
        "[1\n2]",
        "[" + "1, " * 50 + "1]",
        "[1.5]",
        "[-1]",
    ],
)
def test_other_brackets_are_text(text: str) -> None:
    checked = filtered(text)
    assert checked.text == text
    assert checked.cited == checked.invalid == []


@given(
    st.lists(
        st.sampled_from(
            [
                "[1]",
                "[9]",
                "[1, 2]",
                "【2】",
                "[",
                "]",
                " ",
                "\n",
                "não ",
                "sim",
                "S",
                "N",
                "SEM_",
                "[1-",
                "†x",
                *SENTINELS,
            ]
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 120), max_size=8),
)
def test_the_pieces_of_a_stream_give_what_the_whole_text_gives(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    whole, pieces = filtered(text), CitationFilter(3, SENTINELS)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(pieces.feed(text[a:b]) for a, b in itertools.pairwise(places)) + pieces.end()
    assert shown == pieces.text == whole.text
    assert (pieces.cited, pieces.invalid, pieces.sentinel_seen) == (
        whole.cited,
        whole.invalid,
        whole.sentinel_seen,
    )
    assert set(cited_numbers(shown)) <= {1, 2, 3}


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    checked = CitationFilter(2, SENTINELS)
    assert checked.feed("O prazo") == "O prazo"
    assert checked.feed(" é [") == " é"
    assert checked.feed("1") == ""
    assert checked.feed("].") == " [1]."
    assert checked.feed(" N") == ""
    assert checked.feed("OT_IN") == ""
    assert checked.feed("TER") == " NOT_INTER"


def test_a_sentinel_is_taken_out_wherever_it_stands() -> None:
    checked = filtered("Não sei. **SEM_RESPOSTA_NAS_FONTES**")
    assert checked.sentinel_seen
    assert "FONTES" not in checked.text


def passage(text: str) -> Passage:
    return Passage(text, (Hit("1", text, 1.0, "a.md", {}),))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ('Diz que "o prazo é de dez  dias úteis" [1].', ()),
        ("Diz que “O PRAZO é de dez dias úteis.” [1].", ()),
        ('Diz que "o prazo é de vinte dias úteis" [1].', ("o prazo é de vinte dias úteis",)),
        ('Diz que "o prazo é de dez dias úteis" [2].', ("o prazo é de dez dias úteis",)),
        ('Diz que "o prazo é de dez dias úteis".', ()),
        ('Diz que "dez" e "vinte" [1].', ()),
    ],
)
def test_a_quotation_must_stand_in_the_source_that_is_cited(text: str, missing: tuple[str, ...]) -> None:
    passages = [passage("Segundo [3], o prazo é de dez\ndias úteis."), passage("Outra coisa.")]
    assert unverified_quotes(text, passages) == missing
