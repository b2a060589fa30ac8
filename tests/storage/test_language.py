"""Portuguese, English, or undecided."""

from __future__ import annotations

import time
import unicodedata

import pytest

from oraculo_kit.storage.language import STOP_WORDS, detect_language

_PORTUGUESE = "A emissão da nota fiscal é obrigatória para os prestadores de serviços que não são isentos. "
_ENGLISH = "The invoice has to be issued by every service provider that is not exempt from the tax. "
_SPANISH = "La emisión de la factura es obligatoria para los prestadores de servicios que no están exentos. "
_TABLE = "item;quantidade;valor\n10;2024/001;12.345,67\n11;2024/002;9.876,54\n"
_CODE = "def total(rows):\n    return sum(row.value for row in rows)\n"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (_PORTUGUESE, "pt"),
        ("O contrato vence em março.", "pt"),
        ("Não há multa.", "pt"),
        (unicodedata.normalize("NFD", "Não há multa."), "pt"),
        ("Contrato de prestação de serviços", "pt"),
        ("Quais são os prazos?", "pt"),
        (_PORTUGUESE.upper(), "pt"),
        (_ENGLISH, "en"),
        ("how to issue an invoice", "en"),
        ("What is the deadline?", "en"),
        (_SPANISH, None),
        ("Esta es la guía de uso sobre todo para ti", None),  # most of its words are Portuguese too
        ("La facture est émise par le prestataire de services dans les cinq jours.", None),
        ("La fattura è emessa dal prestatore di servizi entro cinque giorni.", None),
        ("Die Rechnung wird von dem Dienstleister innerhalb von fünf Tagen ausgestellt.", None),
        ("Счёт выставляется поставщиком услуг.", None),
        ("請求書は五日以内に発行されます。", None),
        (_TABLE, None),
        (_CODE, None),
        ("12.345,67", None),
        ("Total", None),
        ("", None),
        ("\ud800 \x00", None),
    ],
)
def test_the_language_of_a_text_is_told_by_its_function_words(text: str, language: str | None) -> None:
    assert detect_language(text) == language


@pytest.mark.parametrize(("text", "language"), [(_PORTUGUESE, "pt"), (_ENGLISH, "en"), (_SPANISH, None)])
def test_a_foreign_sentence_does_not_change_the_answer_for_a_long_text(
    text: str, language: str | None
) -> None:
    other = _ENGLISH if text != _ENGLISH else _PORTUGUESE
    assert detect_language(text * 10 + other + text * 10) == language


def test_a_long_text_is_only_sampled() -> None:
    started = time.perf_counter()
    assert detect_language(_PORTUGUESE * 100_000) == "pt"
    assert time.perf_counter() - started < 0.5


def test_stop_words_are_folded_like_the_words_of_a_query() -> None:
    assert {"nao", "a", "the", "voce"} <= STOP_WORDS
    assert all(word.isascii() and word == word.lower() for word in STOP_WORDS)
