"""What an answer shows, and what may be said of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

import oraculo_kit as oraculo
from oraculo_kit.answering.answers import Answer, excerpt
from oraculo_kit.answering.passages import Passage
from oraculo_kit.errors import QueryError
from oraculo_kit.storage.results import Hit, SearchResults

LONG = "Palavras que não importam. " * 40 + "O prazo da nota é de dez dias. " + "E mais palavras. " * 40


def answer(text: str = "Dez dias [2].", **options: object) -> Answer:
    hits = (
        Hit("1", "Outra coisa", 0.9, "/p/a.md", {"page": 1}),
        Hit("2", LONG, 0.8, "/p/b <i>.md", {"heading": "Manual > Prazos"}),
    )
    results = SearchResults(
        hits, "prazo?", root="/p", highlight=lambda text: [(at, at + 5) for at in _places(text)]
    )
    passages = tuple(Passage(hit.text, (hit,)) for hit in hits)
    values = {"kind": "answer", "language": "pt", "model": "openai:gpt", "seconds": 1.25, **options}
    return Answer("Qual é o prazo?", text, passages=passages, results=results, **values)  # type: ignore[arg-type]


def _places(text: str) -> list[int]:
    return [at for at in range(len(text)) if text.startswith("prazo", at)]


def test_the_sources_that_are_cited_are_listed_below_the_text() -> None:
    shown = answer(usage={"total_tokens": 120})
    assert str(shown).splitlines() == [
        "Dez dias [2].",
        "",
        "Fontes:",
        "[2] b <i>.md, Prazos",
        "(openai:gpt, 2 sources, 1.2 s, 120 tokens)",
    ]
    assert repr(shown) == str(shown)


def test_a_notebook_links_a_citation_to_its_source() -> None:
    html = answer()._repr_html_()
    anchor = html.partition('href="#')[2].partition('"')[0]
    assert f'<li id="{anchor}" value="2">' in html
    assert ">[2]</a>." in html
    assert "b &lt;i&gt;.md, Prazos" in html
    assert "<i>" not in html
    assert "O <mark>prazo</mark> da nota" in html
    assert answer()._repr_html_().count(anchor) == 0  # the next answer in the notebook has other anchors


def test_what_was_removed_or_ignored_is_told() -> None:
    shown = answer(
        'Diz "isto não está em fonte alguma" [2].',
        invalid_citations=(9,),
        ignored_tool_calls=("delete_all",),
        complete=False,
    )
    assert shown.unverified_quotes == ("isto não está em fonte alguma",)
    for told in (
        "do not exist were removed: 9",
        "none was called: delete_all",
        "not in the cited source",
        "incomplete",
    ):
        assert told in str(shown)
        assert told in shown._repr_html_()


def test_an_answer_travels() -> None:
    hits = (Hit("1", "texto", 1.0, "a.md", {"tags": ["x"]}),)
    one = Answer("q", "t [1]", "answer", (Passage("texto", hits),), SearchResults(hits))
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one
    assert copy.citations[1].hit == hits[0]


@pytest.mark.parametrize("length", [50, 350])
def test_an_excerpt_is_where_the_matches_are(length: int) -> None:
    first, last = excerpt(LONG, [(LONG.index("prazo"), LONG.index("prazo") + 5)], length)
    assert last - first <= length
    assert "prazo" in LONG[first:last]
    assert LONG[first - 1] == " "


def test_an_excerpt_of_one_endless_word_is_cut() -> None:
    assert excerpt("x" * 1000, [], 100) == (0, 50)
    assert excerpt("", [], 100) == (0, 0)


# --- without a model ------------------------------------------------------------------------------------------


@pytest.fixture
def base(project: Path) -> Path:
    oraculo.use(embedder=DeterministicFakeEmbedding(size=8))
    oraculo.ingest(
        [
            Document("O prazo da nota é de dez dias, segundo [2] e [7].", metadata={"source": "nota.md"}),
            Document(LONG + "<img src=x onerror=alert(1)>", metadata={"source": "longo.md"}),
        ],
        progress=False,
    )
    return project


def test_extracts_are_marked_short_and_number_nothing_by_themselves(base: Path) -> None:
    extracts = oraculo.ask("Qual é o prazo da nota?", filter={"source": "nota.md"})
    assert extracts.text == "O prazo da nota é de dez dias, segundo (2) e (7). [1]"
    assert list(extracts.citations) == [1]
    assert "<mark>prazo</mark>" in extracts._repr_html_()
    assert extracts.unverified_quotes == ()
    long = oraculo.ask("Qual é o prazo da nota?", filter={"source": "longo.md"})
    assert "prazo da nota" in long.text
    assert len(long.text) < 400
    assert "<img" not in long._repr_html_()


# --- feedback -------------------------------------------------------------------------------------------------


def test_what_is_said_of_an_answer_is_kept_and_exported(base: Path) -> None:
    asked = oraculo.ask("Qual é o prazo da nota?", k=1)
    asked.good()
    asked.bad("não fala de feriados")
    said = asked.correct("Dez dias úteis.")
    frame = oraculo.feedback()
    assert list(frame.columns) == ["at", "question", "answer", "verdict", "correction", "model", "sources"]
    assert list(frame["verdict"]) == ["good", "bad", "corrected"]
    assert list(frame["correction"]) == ["", "não fala de feriados", "Dez dias úteis."]
    assert set(frame["question"]) == {"Qual é o prazo da nota?"}
    assert set(frame["answer"]) == {asked.text}
    assert frame["sources"].iloc[0] == said.sources == tuple(hit.id for hit in asked.hits)
    assert str(frame["at"].dtype).endswith("UTC]")
    with pytest.raises(QueryError, match="the comment is of type int, expected a text"):
        asked.bad(5)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="of type NoneType, expected a text"):
        asked.correct(None)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="the corrected answer is blank"):
        asked.correct(" ")


def test_feedback_outlives_the_process_state_and_knows_its_base(base: Path) -> None:
    asked = oraculo.ask("Qual é o prazo da nota?", k=1)
    oraculo.use(base / "outra")
    asked.good()  # of the first base, although another one is in use by now
    assert len(oraculo.feedback()) == 0
    oraculo.use(base / ".oraculo" / "store")
    assert list(oraculo.feedback()["verdict"]) == ["good"]


def test_a_base_without_feedback_gives_an_empty_frame(base: Path) -> None:
    frame = oraculo.feedback()
    assert len(frame) == 0
    assert str(frame["at"].dtype).endswith("UTC]")
