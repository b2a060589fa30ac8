"""Topics and qrels: the formats that test collections come in, each fault with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from oraculo_kit.errors import QuestionsError, SourceNotFoundError
from oraculo_kit.evaluating.judgements import Judgement
from oraculo_kit.evaluating.questions import NO_JUDGEMENT, load_questions
from oraculo_kit.evaluating.trec import read_qrels, read_topics

SGML = """<top>
<num> Number: 301
<title> International Organized
Crime

<desc> Description:
Identify organizations.
</top>

<TOP>
<num>302</num>
<title></title>
<desc>Is the disease
under control?</desc>
</TOP>
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_sgml_topics_are_read_with_and_without_closing_tags(tmp_path: Path) -> None:
    topics = list(read_topics(written(tmp_path, "topics.txt", SGML)))
    assert topics == [
        ("301", "International Organized Crime"),
        ("302", "Is the disease under control?"),
    ]


def test_topics_may_be_lines_or_json_lines(tmp_path: Path) -> None:
    lines = written(tmp_path, "topics.tsv", "\ufeff1\tComo emitir nota?\r\n\r\n2\tFérias\u2028em janeiro\n")
    assert list(read_topics(lines)) == [("1", "Como emitir nota?"), ("2", "Férias\u2028em janeiro")]
    records = written(tmp_path, "queries.jsonl", '{"_id": "1", "text": "a"}\n{"id": 2, "text": "b"}\n')
    assert list(read_topics(records)) == [("1", "a"), ("2", "b")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.txt", "1\ta\nsem tabulador\n", "line 2: got no tab"),
        ("t.txt", "<top>\n<num> 1\n<title> a\n</top>\n<top>\n<title> b\n</top>", "line 5: .* has no <num>"),
        ("t.txt", "<top>\n<num> 1\n</top>", "line 1: .* has no <title>"),
        ("t.jsonl", '{"_id": 1, "text": "a"}\n{"_id"', "line 2: not JSON"),
        ("t.jsonl", '{"text": "a"}', "line 1: expected an object with"),
        ("t.jsonl", "[1]", "line 1: expected an object with"),
    ],
)
def test_a_wrong_line_of_topics_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(QuestionsError, match=said):
        list(read_topics(written(tmp_path, name, text)))


def test_qrels_have_three_or_four_columns_and_names_with_blanks_have_tabs(tmp_path: Path) -> None:
    text = "301 0 doc-1 2\n301\t0\tata da reunião.txt\t1\n\n302 doc-2 -1\n"
    assert list(read_qrels(written(tmp_path, "qrels.txt", text))) == [
        ("301", "doc-1", 2.0),
        ("301", "ata da reunião.txt", 1.0),
        ("302", "doc-2", -1.0),
    ]
    headed = written(tmp_path, "test.tsv", "query-id\tcorpus-id\tscore\n1\td\t1\n")
    assert list(read_qrels(headed)) == [("1", "d", 1.0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 0 a 1\n1 0 b sim\n", "line 2: got '1 0 b sim'"),
        ("1 0 ata da reunião.txt 1\n", "line 1: .* separate by tabs"),
        ("1 0 a 1\n\n1 a\n", "line 3: got '1 a'"),
        ("1 0 a 1\n1 0 a nan\n", "line 2"),
    ],
)
def test_a_wrong_line_of_qrels_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(QuestionsError, match=said):
        list(read_qrels(written(tmp_path, "qrels.txt", text)))


def test_topics_and_qrels_make_a_question_set_of_sources(tmp_path: Path) -> None:
    topics = written(tmp_path, "topics.txt", SGML)
    qrels = written(tmp_path, "qrels.txt", "301 0 a.md 1\n301 0 b.md 2\n301 0 c.md 0\n999 0 a.md 1\n")
    found = load_questions(topics, qrels=qrels)
    assert found.by == "source"
    assert found.questions[0].judgements == (Judgement(("b.md",), 2.0), Judgement(("a.md",), 1.0))
    assert found.skipped == (("302: Is the disease under control?", NO_JUDGEMENT),)
    assert load_questions(topics, qrels=qrels, by="chunk").by == "chunk"
    with pytest.raises(QuestionsError, match="qrels name documents"):
        load_questions(topics, qrels=qrels, by="text")
    with pytest.raises(SourceNotFoundError, match="there is no file"):
        load_questions(topics, qrels=tmp_path / "nada.txt")


def test_a_folder_in_the_manner_of_beir_is_read(tmp_path: Path) -> None:
    written(tmp_path, "queries.jsonl", '{"_id": "1", "text": "a"}\n')
    with pytest.raises(QuestionsError, match="has none of the files qrels.txt"):
        load_questions(tmp_path)
    written(tmp_path, "qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\td\t1\n")
    assert load_questions(tmp_path).questions[0].judgements == (Judgement(("d",)),)
