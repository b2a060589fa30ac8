"""Which hits answer a question."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oraculo_kit.evaluating.judgements import By, Judgement, judge, matcher, source_names
from oraculo_kit.storage.results import Hit

PASSAGE = (
    "A nota fiscal de serviço pode ser cancelada no prazo de 72 horas depois da emissão, pelo próprio portal. "
    "Passado esse prazo, o prestador abre um processo administrativo na prefeitura e anexa a declaração do tomador, "
    "com a qual ele confirma que o serviço não foi prestado ou que o valor estava errado."
)
BEFORE = "O cadastro do prestador é feito uma vez, com certificado digital, e vale para todos os portais do estado. "
AFTER = (
    " As férias de cada pessoa são marcadas em janeiro e só mudam com o acordo de quem chefia a área dela."
)


def hit(text: str = "", *, id: str = "1", source: str = "a.md", **metadata: object) -> Hit:
    return Hit(id, text, 1.0, source, {"source": source, **metadata})


def is_found(text: str, wanted: str, by: By = "text", *answers: str) -> bool:
    return matcher(by)(hit(text), Judgement((wanted,), answers=answers))


@pytest.mark.parametrize(
    "text",
    [
        PASSAGE,
        PASSAGE.upper().replace("Ç", "C").replace(",", " ,\n"),
        BEFORE + PASSAGE + AFTER,
        PASSAGE[:120],
        BEFORE + PASSAGE[:160],
        PASSAGE[120:] + AFTER,
        "Manual > Prazos\n" + PASSAGE[60:200],
    ],
)
def test_a_chunk_of_the_passage_is_known_however_the_base_was_cut(text: str) -> None:
    assert is_found(text, PASSAGE)


@pytest.mark.parametrize(
    "text", [BEFORE, AFTER, "", "...", "nota fiscal de serviço", BEFORE + PASSAGE[:60], "prazo"]
)
def test_other_texts_headings_and_slivers_are_not_the_passage(text: str) -> None:
    assert not is_found(text, PASSAGE)


def test_a_quarter_of_the_passage_is_enough_where_it_holds_the_answer() -> None:
    part = (BEFORE + AFTER) * 2 + PASSAGE[:120]
    assert not is_found(part, PASSAGE)
    assert is_found(part, PASSAGE, "text", "72 horas")
    assert not is_found(part, PASSAGE, "text", "janeiro")
    # The answer stands in the chunk, but not in what it shares with the passage.
    assert not is_found(part + " na prefeitura", PASSAGE, "text", "na prefeitura")


def test_a_very_short_chunk_counts_when_it_holds_the_answer() -> None:
    assert is_found("prazo de 72 horas", PASSAGE, "text", "72 horas")
    assert not is_found("prazo de 72 horas", BEFORE, "text", "72 horas")


def test_a_very_short_passage_must_stand_in_the_chunk_whole() -> None:
    assert is_found(PASSAGE, "prazo de 72 horas")
    assert not is_found(PASSAGE, "prazo de 7 horas")
    assert not is_found("prazo", "o prazo")


def test_an_answer_is_whole_words_without_case_accents_and_punctuation() -> None:
    assert is_found("Emissão: até R$ 380,00.", "emissao ate r$ 380", "answer")
    assert not is_found("São 1972 horas", "72 horas", "answer")
    assert matcher("answer")(hit("dez dias"), Judgement(("10 dias", "Dez dias")))
    assert not is_found("um texto", "...", "answer")


@pytest.mark.parametrize(
    "wanted", ["/docs/manual/Ajuda.v2.md", "manual/Ajuda.v2.md", "Ajuda.v2.md", "Ajuda.v2"]
)
@pytest.mark.parametrize("source", ["/docs/manual/Ajuda.v2.md", "\\docs\\manual\\Ajuda.v2.md"])
def test_a_source_may_be_named_by_the_end_of_its_path(source: str, wanted: str) -> None:
    assert matcher("source")(hit(source=source), Judgement((wanted,)))
    assert matcher("source")(hit(source=source), Judgement((wanted.replace("/", "\\"),)))


@pytest.mark.parametrize("wanted", ["juda.v2.md", "Ajuda", "docs", "manual", "", "md"])
def test_a_part_of_a_name_names_nothing(wanted: str) -> None:
    assert not matcher("source")(hit(source="/docs/manual/Ajuda.v2.md"), Judgement((wanted,)))


def test_names_are_compared_in_one_unicode_form_and_hidden_files_keep_theirs() -> None:
    assert matcher("source")(hit(source="/docs/café.md"), Judgement(("cafe\u0301.md",)))
    assert source_names("/x/.env") == {"/x/.env", "x/.env", ".env"}


def test_a_metadata_field_may_name_the_document() -> None:
    matches = matcher("source", "docno")
    assert matches(hit(docno=17), Judgement(("17",)))
    assert not matches(hit(source="17"), Judgement(("17",)))
    assert not matches(hit(docno=None), Judgement(("None",)))


def test_a_chunk_is_its_id() -> None:
    assert matcher("chunk")(hit(id="x"), Judgement(("y", "x")))
    assert not matcher("chunk")(hit(id="x"), Judgement(("xy",)))


def test_the_second_chunk_of_a_source_keeps_its_place_and_gains_nothing() -> None:
    hits = [hit(source="a"), hit(source="a"), hit(source="x"), hit(source="b")]
    judgements = [Judgement(("b",), 3.0), Judgement(("a",), 1.0)]
    assert judge(hits, judgements, matcher("source")) == ([1.0, 0, 0, 3.0], [1, 0, 0, 1])


def test_a_hit_that_holds_two_answers_has_found_both_but_gains_one() -> None:
    judgements = [Judgement(("dez dias",), 2.0), Judgement(("em janeiro",), 1.0)]
    hits = [hit("dez dias em janeiro"), hit("em janeiro")]
    assert judge(hits, judgements, matcher("answer")) == ([2.0, 1.0], [2, 0])


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_text_is_too_strange_to_compare(text: str, wanted: str) -> None:
    for by in ("source", "text", "answer"):
        matcher(by)(hit(text, source=text), Judgement((wanted,), answers=(text,)))  # type: ignore[arg-type]
