"""The ask explorer without a browser: real widgets, a real store, a real client of a model on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.errors import ChatModelError, QueryError
from oraculo_kit.split import split_documents
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.widgets.answers import Inquiry
from oraculo_kit.widgets.ask import AskExplorer
from oraculo_kit.widgets.nodes import as_html
from tests.openai_server import KEY, OpenAIServer, breaks_off, endless, fails, says, server, silent
from tests.test_widgets_search import ran
from tests.test_widgets_store import shown

__all__ = ["server"]

TEXT = "\n\n".join(f"Passo {place}: a nota fiscal número {place} é emitida no portal." for place in range(20))
HOSTILE = "<img src=x onerror=alert(1)> \x1b[31m\u202e $x^2$ [a](javascript:alert(2)) "
QUESTION = "Onde a nota fiscal é emitida?"


@pytest.fixture
def store(project: Path) -> Iterator[FaissVetorStorage]:
    with FaissVetorStorage(project / "base", durability="process") as opened:
        document = Document(TEXT, metadata={"source": "manual.md"})
        opened.replace("manual.md", split_documents([document], chunk_size=300, chunk_overlap=60))
        opened.replace("b.md", [Document(f"{HOSTILE} nota", metadata={"source": "b.md", "k": HOSTILE})])
        yield opened


@pytest.fixture
def model(project: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    """Return the server that the configured chat model speaks to."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("ORACULO_CHAT_MODEL", "openai:test")
    return server


@pytest.fixture
def make(store: FaissVetorStorage) -> Iterator[Callable[..., AskExplorer]]:
    made: list[AskExplorer] = []

    def explorer(question: str = "", **options: Any) -> AskExplorer:
        made.append(AskExplorer(question, **{"store": store, **options}))
        return made[-1]

    yield explorer
    for each in made:
        each.close()
        assert each.wait(10)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_without_a_model_the_extracts_are_the_answer(make: Callable[..., AskExplorer]) -> None:
    explorer = make(QUESTION)
    assert explorer.wait()
    assert explorer.answer is not None
    assert explorer.answer.kind == "extracts"
    html = as_html(explorer.summary())
    assert "<mark>nota</mark> <mark>fiscal</mark>" in html
    assert "no chat model is set" in html
    assert set(explorer.selection["source"]) <= {"manual.md", "b.md"}


def test_an_answer_is_shown_while_it_is_written(
    make: Callable[..., AskExplorer], model: OpenAIServer
) -> None:
    goes_on = threading.Event()
    model.route = says(
        ["No ", "portal [1]", " da ", "prefeitura [9]."], between=lambda sent: sent == 3 and goes_on.wait(10)
    )
    explorer = make(QUESTION)
    until(lambda: "No portal" in shown(explorer))
    assert explorer.answer is None
    assert "[1] manual.md" in shown(explorer)  # the sources are there before the answer
    assert not explorer._stop_button.disabled
    goes_on.set()
    assert explorer.wait()
    assert explorer.answer is not None
    assert explorer.answer.text == "No portal [1] da prefeitura."
    assert "Citations of sources that do not exist were taken out: 9" in shown(explorer)
    assert explorer._stop_button.disabled
    assert len(model.requests) == 1


def test_stopping_keeps_what_is_there_and_hangs_up(
    make: Callable[..., AskExplorer], model: OpenAIServer
) -> None:
    model.route = endless
    explorer = make(QUESTION)
    until(lambda: "palavras" in shown(explorer))
    started = time.monotonic()
    explorer.stop()
    assert time.monotonic() - started < 0.5
    assert model.hung_up.wait(5)
    assert explorer.wait()
    assert explorer.answer is not None
    assert not explorer.answer.complete
    assert "The answer is incomplete." in shown(explorer)


def test_a_model_that_says_nothing_does_not_keep_the_next_question_waiting(
    make: Callable[..., AskExplorer], model: OpenAIServer
) -> None:
    model.route = silent
    explorer = make(QUESTION)
    until(lambda: bool(model.requests))
    model.route = says("No portal [1].")
    explorer.ask("E onde mais?")
    until(lambda: explorer.answer is not None, 4)
    assert explorer.answer is not None
    assert explorer.answer.question == "E onde mais?"


def test_the_same_question_is_not_sent_twice_by_a_click(
    make: Callable[..., AskExplorer], model: OpenAIServer
) -> None:
    explorer = make(QUESTION)
    explorer._button.click()
    assert explorer.wait()
    assert len(model.requests) == 1
    explorer._button.click()
    assert explorer.wait()
    assert len(model.requests) == 2


@pytest.mark.parametrize("route", [fails(401, "no key", "invalid_api_key"), breaks_off("No por")])
def test_when_the_model_fails_the_extracts_are_shown_with_what_to_do(
    make: Callable[..., AskExplorer], model: OpenAIServer, route: Any
) -> None:
    model.route = route
    explorer = make(QUESTION)
    assert explorer.wait(30)
    assert isinstance(explorer.error, ChatModelError)
    assert explorer.answer is not None
    assert explorer.answer.kind == "extracts"
    assert "That did not work." in shown(explorer)
    assert "emitida no portal" in shown(explorer)
    assert "extracts: the chat model openai:test failed" in as_html(explorer.summary())
    assert KEY not in explorer.snapshot()


def test_a_citation_is_read_in_its_document(make: Callable[..., AskExplorer]) -> None:
    explorer = make(QUESTION)
    assert explorer.wait()
    explorer.open_citation(1)
    assert explorer.wait()
    assert explorer._read is not None
    assert explorer.answer is not None
    assert list(explorer.selection["id"]) == [hit.id for hit in explorer.answer.passages[0].hits]
    assert "Previous chunk" in shown(explorer)
    explorer.close_reader()
    assert "Previous chunk" not in shown(explorer)
    with pytest.raises(QueryError, match="there is no source 99"):
        explorer.open_citation(99)


@pytest.mark.parametrize(
    ("verdict", "text", "kept"),
    [
        ("good", "", ""),
        ("bad", "errado", "errado"),
        ("bad", "", ""),
        ("corrected", "No cartório.", "No cartório."),
    ],
)
def test_what_somebody_says_of_an_answer_is_kept_in_the_base(
    make: Callable[..., AskExplorer], store: FaissVetorStorage, verdict: str, text: str, kept: str
) -> None:
    explorer = make(QUESTION)
    assert explorer.wait()
    explorer.handler(explorer._told)("say", verdict, None)
    if verdict != "good":
        assert explorer._comment_box.layout.display is None
        explorer._comment.value = text
        explorer.handler(explorer._keep_comment)()
    assert explorer.wait()
    assert explorer.error is None
    (said,) = store.feedback()
    assert (said.verdict, said.correction, said.question) == (verdict, kept, QUESTION)
    assert "Kept in the base" in shown(explorer)
    assert explorer._comment_box.layout.display == "none"
    explorer.handler(explorer._told)("say", "good", None)  # once is enough
    assert explorer.wait()
    assert len(store.feedback()) == 1


def test_an_empty_correction_is_refused_and_can_be_mended(
    make: Callable[..., AskExplorer], store: FaissVetorStorage
) -> None:
    explorer = make(QUESTION)
    assert explorer.wait()
    explorer.handler(explorer._told)("say", "corrected", None)
    explorer.handler(explorer._keep_comment)()
    assert explorer.wait()
    assert isinstance(explorer.error, QueryError)
    assert store.feedback() == []
    assert explorer._comment_box.layout.display is None


def test_a_hostile_answer_is_text(make: Callable[..., AskExplorer], model: OpenAIServer) -> None:
    model.route = says(HOSTILE + "[1]")
    explorer = make("nota")
    assert explorer.wait()
    everything = [str(explorer._shown.children), explorer.snapshot(), explorer.code()]
    explorer.open_citation(1)
    assert explorer.wait()
    everything += [str(explorer._reader.children), explorer.snapshot()]
    for text in everything:
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<img" not in explorer.snapshot()
    assert "href" not in explorer.snapshot()


def test_code_asks_the_same(make: Callable[..., AskExplorer]) -> None:
    explorer = make(QUESTION, k=3)
    assert explorer.wait()
    found = ran(explorer.code())
    assert found["last"] == explorer.answer
    found["store"].close()


def test_code_of_a_long_question_and_of_a_model_is_python(store: FaissVetorStorage) -> None:
    names: dict[str, Any] = {"model": None}
    code = Inquiry("por quê? " * 20, model=object()).code(store).replace("oraculo.ask(", "dict(question=")
    exec(code, names)
    assert names["answer"]["question"] == "por quê? " * 20
    assert names["answer"]["store"].location == store.location
    names["store"].close()
    assert "model='openai:gpt'" in Inquiry("a", model="openai:gpt").code(None)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"question": 3}, "got int as question"), ({"k": 0}, "k is 0"), ({"k": True}, "k is True")],
)
def test_wrong_arguments_are_named(store: FaissVetorStorage, options: Any, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        AskExplorer(store=store, **options)


def test_another_base_than_that_of_the_services_can_be_asked(store: FaissVetorStorage) -> None:
    answer = oraculo.ask(QUESTION, store=store)
    assert answer.results.store == store.location
    stream = oraculo.ask(QUESTION, stream=True, store=store)
    assert stream.passages == stream.answer.passages
    with pytest.raises(QueryError, match="mode"):
        oraculo.ask(QUESTION, store=store, mode="fuzzy")  # type: ignore[call-overload]


def test_the_explorer_speaks_portuguese(
    make: Callable[..., AskExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACULO_LANG", "pt_BR")
    explorer = make(QUESTION)
    assert explorer.wait()
    assert explorer._button.description == "Perguntar"
    assert "Esta resposta está certa?" in shown(explorer)
