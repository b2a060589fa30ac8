"""Question sets: nothing is left out silently, and what is wrong is named with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from oraculo_kit.errors import QuestionsError, SourceNotFoundError
from oraculo_kit.evaluating.judgements import Judgement
from oraculo_kit.evaluating.questions import IMPOSSIBLE, NO_JUDGEMENT, NO_TEXT, NOT_RELEVANT, load_questions

SQUAD: dict[str, Any] = {
    "data": [
        {
            "title": "Notas",
            "paragraphs": [
                {
                    "context": "A nota pode ser cancelada em 72 horas.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Em quanto tempo?",
                            "answers": [
                                {"text": "72 horas", "answer_start": 29},
                                {"text": " 72 horas ", "answer_start": 28},
                            ],
                        },
                        {"id": "q2", "question": "Quem?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}


def squad(folder: Path, content: Any = SQUAD) -> Path:
    path = folder / "perguntas.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_squad_asks_for_the_passage_and_sets_impossible_questions_aside(tmp_path: Path) -> None:
    found = load_questions(squad(tmp_path))
    (question,) = found.questions
    assert (question.id, question.text, found.by) == ("q1", "Em quanto tempo?", "text")
    wanted = "A nota pode ser cancelada em 72 horas."
    assert question.judgements == (Judgement((wanted,), answers=("72 horas",)),)
    assert found.skipped == (("q2: Quem?", IMPOSSIBLE),)


def test_squad_may_be_judged_by_its_answers(tmp_path: Path) -> None:
    found = load_questions(squad(tmp_path), by="answer")
    assert found.questions[0].judgements == (Judgement(("72 horas",)),)
    with pytest.raises(QuestionsError, match="SQuAD names no source"):
        load_questions(squad(tmp_path), by="source")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"data": [\n{"paragraphs": [}\n]}', "line 2: not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ({"version": 1}, "neither SQuAD"),
        ({"data": [{"title": "x"}]}, r"data\[0\] has no 'paragraphs'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"paragraphs\[0\] has no 'context'"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": [{}]}]}]}, r"qas\[0\] has no 'question'"),
        (
            {"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "y", "answers": [{}]}]}]}]},
            "no 'text'",
        ),
        ({"data": []}, "no question that can be judged"),
        ([], "is empty"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_with_its_place(
    tmp_path: Path, content: Any, said: str
) -> None:
    with pytest.raises(QuestionsError, match=said) as caught:
        load_questions(squad(tmp_path, content))
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_not_there_not_text_or_not_a_question_set_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no file of questions at"):
        load_questions(tmp_path / "nada.json")
    latin = tmp_path / "latin.json"
    latin.write_bytes('{\n"a": "é"}'.encode("latin-1"))
    with pytest.raises(QuestionsError, match="line 2: not UTF-8"):
        load_questions(latin)
    (tmp_path / "tabela.csv").write_text("question,source", encoding="utf-8")
    with pytest.raises(QuestionsError, match="read a table with pandas"):
        load_questions(str(tmp_path / "tabela.csv"))


def test_rows_of_one_question_are_several_things_to_find_best_first() -> None:
    frame = pd.DataFrame(
        {
            "question": ["férias", "nota", "férias", "férias"],
            "source": ["a.md", "b.md", "c.md", "a.md"],
            "relevance": [1, None, 3, 2],
        }
    )
    found = load_questions(frame)
    assert [question.text for question in found.questions] == ["férias", "nota"]
    assert found.questions[0].judgements == (Judgement(("c.md",), 3.0), Judgement(("a.md",), 2.0))
    assert found.questions[1].judgements == (Judgement(("b.md",), 1.0),)
    assert found.by == "source"


def test_questions_that_cannot_count_are_kept_with_the_reason() -> None:
    rows = [
        {"question": "a", "source": "x", "relevance": 0},
        {"question": "b", "source": None},
        {"question": "c", "source": float("nan")},
        {"question": "  ", "source": "x"},
        {"question": "d", "source": "x"},
    ]
    found = load_questions(pd.DataFrame(rows))
    assert [question.text for question in found.questions] == ["d"]
    reasons = [NOT_RELEVANT, NO_JUDGEMENT, NO_JUDGEMENT, NO_TEXT]
    assert [reason for _, reason in found.skipped] == reasons
    assert [name for name, _ in found.skipped] == ["a", "b", "c", "row 3"]


def test_a_cell_may_hold_alternatives() -> None:
    found = load_questions([{"question": "a", "answer": ["dez", "10", "dez", None]}])
    assert found.questions[0].judgements == (Judgement(("dez", "10")),)


@pytest.mark.parametrize(
    ("columns", "by"),
    [
        (("id", "source"), "source"),
        (("id", "source", "text"), "text"),
        (("context", "answer"), "text"),
        (("answer", "id"), "answer"),
        (("id",), "chunk"),
    ],
)
def test_the_columns_say_what_is_compared(columns: tuple[str, ...], by: str) -> None:
    rows = [{"question": "a", **dict.fromkeys(columns, "x")}]
    assert load_questions(rows).by == by
    assert load_questions(pd.DataFrame(rows)).by == by


@pytest.mark.parametrize(
    ("questions", "options", "said"),
    [
        (pd.DataFrame({"pergunta": ["a"]}), {}, "columns pergunta, but no column 'question'"),
        (pd.DataFrame({"question": ["a"]}), {}, "needs 'text' or 'context' or 'source' or 'answer' or 'id'"),
        ([{"question": "a", "source": "x"}], {"by": "text"}, r"needs 'text' or 'context' \(by='text'\)"),
        (pd.DataFrame({"question": [], "source": []}), {}, "the DataFrame is empty"),
        ([], {}, "the list is empty"),
        ([{"question": "a", "id": "x", "relevance": "muito"}], {}, "row 0: relevance is 'muito'"),
        ([{"question": "a", "id": "x", "relevance": float("inf")}], {}, "row 0: relevance is inf"),
        ([{"question": "a", "id": None}], {}, "1 without a judgement"),
        ([{"question": "a", "id": "x"}], {"by": "page"}, "by is 'page', expected one of"),
        ([{"question": "a", "id": "x"}], {"qrels": "q.txt"}, "expected a file of topics"),
        (["a"], {}, "got list as questions"),
        (3, {}, "got int as questions"),
    ],
)
def test_what_is_no_question_set_is_refused(questions: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(QuestionsError, match=said):
        load_questions(questions, **options)


def test_a_json_list_of_records_and_a_set_that_was_read_are_taken_too(tmp_path: Path) -> None:
    found = load_questions(squad(tmp_path, [{"question": "a", "answer": "x"}]))
    assert found.by == "answer"
    assert load_questions(found) is found
