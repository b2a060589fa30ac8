"""`AskExplorer`: ask, watch the answer being written, read its sources in their documents, and say what it is worth."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import ipywidgets

from oraculo_kit.answering.asking import ask
from oraculo_kit.errors import ChatModelError, QueryError
from oraculo_kit.messages import N_
from oraculo_kit.storage.results import SearchResults
from oraculo_kit.widgets.answers import (
    Inquiry,
    answer_text,
    feedback_row,
    notes,
    source_list,
    told_of,
    written_text,
)
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.pane import Pane
from oraculo_kit.widgets.reading import Passage as ReadPassage
from oraculo_kit.widgets.reading import read_passage, reader
from oraculo_kit.widgets.storing import shown_key

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.answering.answers import Answer
    from oraculo_kit.answering.passages import Passage
    from oraculo_kit.storage.base import VetorStorage
    from oraculo_kit.widgets.background import Job

_DEPTHS = (3, 6, 10, 15, 20)
_SHOWN_EVERY = 0.15  # seconds between two pictures of a text that is being written...
_PER_CHARACTER = 2e-5  # ...and so much more for each character, for the whole text travels each time
_NARROW = {"width": "auto"}


class _GrowingText:
    """Shows a text that grows, not at every piece, but always up to the last one: a model may pause anywhere."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._pieces: list[str] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def add(self, piece: str) -> None:
        with self._lock:
            self._pieces.append(piece)
            if self._timer is None:
                length = sum(map(len, self._pieces))
                self._timer = threading.Timer(_SHOWN_EVERY + _PER_CHARACTER * length, self._show_now)
                self._timer.daemon = True
                self._timer.start()

    def _show_now(self) -> None:
        with self._lock:
            self._timer = None
            text = "".join(self._pieces)
        self._show(text)

    def __enter__(self) -> Self:
        self._show("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()


class AskExplorer(Explorer):
    """Ask the base, and see what its answers rest on.

    Without a chat model (``ORACULO_CHAT_MODEL``) the best extracts are the answer.

    Parameters
    ----------
    question : str, optional
        Asked at once.
    k : int
        How many chunks are retrieved.
    model : str or BaseChatModel, optional
        As in `oraculo_kit.ask`.
    store : VetorStorage, optional
        By default the base of the services.

    Attributes
    ----------
    answer : Answer or None
        What is on the screen; None while it is being written.

    Raises
    ------
    QueryError
        When `question` is no text, or `k` is out of range.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> _ = oraculo.ingest([Document("O prazo é de dez dias", metadata={"source": "a.md"})], progress=False)
    >>> explorer = oraculo.AskExplorer("Qual é o prazo?")
    >>> explorer.wait()
    True
    >>> explorer.answer.text
    'O prazo é de dez dias [1]'
    """

    title: ClassVar[str] = N_("Ask")

    def __init__(
        self, question: str = "", *, k: int = 6, model: Any = None, store: VetorStorage | None = None
    ) -> None:
        if not isinstance(question, str):
            raise QueryError(f"got {type(question).__name__} as question, expected a text")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 100:
            raise QueryError(f"k is {k!r}, expected a whole number from 1 to 100")
        super().__init__(store)
        self.inquiry = Inquiry(k=k, model=model)
        self.answer: Answer | None = None
        self._model = model
        self._text = ""
        self._passages: tuple[Passage, ...] = ()
        self._number = 0
        self._stop = threading.Event()
        self._writing = False
        self._opened: int | None = None
        self._read: ReadPassage | None = None
        self._kept = self._verdict = ""
        self._make_controls(question, k)
        self._shown, self._reader = Pane(), Pane()
        for pane in (self._shown, self._reader):
            pane.on_event(self.handler(self._told))
        self._columns = ipywidgets.HBox([self._shown])
        self._columns.add_class("oraculo-columns")
        row = ipywidgets.HBox([self._question, self._k, self._button, self._stop_button])
        row.add_class("oraculo-bar-row")
        self.compose(row, self._columns, self._comment_box)
        self._show()
        if question.strip():
            self.ask()

    def _make_controls(self, question: str, k: int) -> None:
        _ = self.translated
        wide = {"description_width": "initial"}
        self._question = ipywidgets.Text(
            value=question,
            placeholder=_("What would you like to know?"),
            description=_("Question"),
            continuous_update=False,
            style=wide,
        )
        self._question.add_class("oraculo-grow")
        self._k = ipywidgets.Dropdown(
            options=sorted({*_DEPTHS, k}),
            value=k,
            description=_("Passages"),
            tooltip=_("How many passages are looked up"),
            style=wide,
            layout=_NARROW,
        )
        self._button = ipywidgets.Button(
            description=_("Ask"), icon="comment", button_style="primary", layout=_NARROW
        )
        self._stop_button = ipywidgets.Button(
            description=_("Stop"), icon="stop", layout=_NARROW, disabled=True
        )
        self._question.observe(self.handler(lambda _change: self.ask()), "value")
        self._button.on_click(self.handler(lambda _button: self.ask()))
        self._stop_button.on_click(self.handler(lambda _button: self.stop()))
        # Sent when it is left, not letter by letter: the click that follows would overtake the last letters.
        self._comment = ipywidgets.Textarea(
            rows=3, style=wide, layout={"width": "100%"}, continuous_update=False
        )
        send = ipywidgets.Button(description=_("Keep in the base"), layout=_NARROW, button_style="primary")
        cancel = ipywidgets.Button(description=_("Cancel"), layout=_NARROW)
        send.on_click(self.handler(lambda _button: self._keep_comment()))
        cancel.on_click(self.handler(lambda _button: self._comment_on("")))
        buttons = ipywidgets.HBox([send, cancel])
        buttons.add_class("oraculo-bar-row")
        self._comment_box = ipywidgets.VBox([self._comment, buttons], layout={"display": "none"})
        self._comment_box.add_class("oraculo-comment")

    # What it does

    def ask(self, question: str | None = None) -> None:
        """Ask what the question box says, in the background; an answer that is being written is given up.

        Parameters
        ----------
        question : str, optional
            Put into the box first.
        """
        if question is not None and question != self._question.value:
            self._question.value = question  # its observer asks
            return
        with self.lock:
            inquiry = Inquiry(self._question.value, self._k.value, self._model)
            if self._writing and inquiry == self.inquiry:
                return  # a click on the button takes the focus from the box, which asks already
            self._give_up()
            self.inquiry = inquiry
            self.answer, self._text, self._passages = None, "", ()
            self._opened, self._read, self._kept = None, None, ""
            self._comment_on("")
            if not self.inquiry.question.strip():
                self.say("")
                self._show()
                return
            self._number += 1
            self._stop = threading.Event()
            self._set_writing(True)
            self.say(self.translated(N_("Looking for sources...")))
            self._show()
            # A lane of its own: a model that does not speak must not keep the next question waiting.
            self.background(
                partial(self._written, self._number, self.inquiry, self._stop),
                partial(self._show_answer, self._number),
                lane=f"ask {self._number}",
                failed=partial(self._show_failure, self._number),
            )

    def stop(self) -> None:
        """Stop the answer that is being written; what is there stays, and the connection to the model is ended."""
        with self.lock:
            if self._writing:
                self._stop.set()
                self._set_writing(False)
                self.say(self.translated(N_("Stopped.")))
                self._show()

    def _give_up(self) -> None:
        self._stop.set()
        lane = self._lanes.pop(f"ask {self._number}", None)
        if lane is not None:
            lane.cancel()

    def _written(self, number: int, inquiry: Inquiry, stop: threading.Event, job: Job) -> Answer:
        """Read the answer piece by piece; on the thread of the question."""
        stream = ask(inquiry.question, inquiry.k, model=inquiry.model, stream=True, store=self._store)
        text = _GrowingText(self.handler(partial(self._show_pieces, number, stream.passages)))
        with stream, text:
            for piece in stream:
                if stop.is_set() or job.superseded:
                    break
                text.add(piece)
        job.checkpoint()
        return stream.answer

    def _show_pieces(self, number: int, passages: tuple[Passage, ...], text: str) -> None:
        if number == self._number and self._writing:
            if not text:  # the sources are known, and no word is there yet
                self.say(self.translated(N_("Writing...")))
            self._passages, self._text = passages, text
            self._show()

    def _show_answer(self, number: int, answer: Answer) -> None:
        if number != self._number:
            return
        self._set_writing(False)
        self.answer, self._text, self._passages = answer, answer.text, answer.passages
        self.say(told_of(answer, self.translated))
        self._show()

    def _show_failure(self, number: int, exc: Exception) -> None:
        if number != self._number:
            return
        self._set_writing(False)
        if isinstance(exc, ChatModelError):  # what the base says is there all the same
            self.answer = exc.extracts
            if self.answer is not None:
                self._text, self._passages = self.answer.text, self.answer.passages
        self._show()

    def _set_writing(self, writing: bool) -> None:
        self._writing = writing
        self._stop_button.disabled = not writing

    def open_citation(self, number: int) -> None:
        """Show a numbered source in its document.

        Parameters
        ----------
        number : int
            From 1.

        Raises
        ------
        QueryError
            When there is no such source.
        """
        with self.lock:
            if not 1 <= number <= len(self._passages):
                raise QueryError(
                    f"there is no source {number}; sources have the numbers 1 to {len(self._passages)}"
                )
            hit = self._passages[number - 1].hit
            self._show_chunk(hit.source, hit.ordinal, hit.id, number)

    def _show_chunk(
        self, source: str, ordinal: int, id: str | None = None, number: int | None = None
    ) -> None:
        store = self.store

        def done(passage: ReadPassage) -> None:
            self._read = passage
            self._opened = number or self._opened
            self._show()
            if number is not None:
                self._reader.focus("reader")

        self.background(lambda _job: read_passage(store, source, ordinal, id), done, lane="reader")

    def close_reader(self) -> None:
        """Show the answer alone."""
        with self.lock:
            opened, self._opened, self._read = self._opened, None, None
            self._show()
            if opened is not None:
                self._shown.focus(f"source-{opened}")

    def _told(self, event: str, payload: Any, _checked: bool | None) -> None:
        if event == "cite":
            self.open_citation(payload)
        elif event == "read" and self._read is not None:
            self._show_chunk(self._read.chunk.source, payload)
        elif event == "close":
            self.close_reader()
        elif event == "say" and payload == "good":
            self._keep("good", "")
        elif event == "say" and payload in ("bad", "corrected"):
            self._comment_on(payload)

    # What somebody says of the answer

    def _comment_on(self, verdict: str) -> None:
        _ = self.translated
        self._verdict = verdict
        self._comment.value = ""
        self._comment_box.layout.display = None if verdict else "none"
        if verdict == "bad":
            self._comment.description = _("What is wrong with it? May be left empty.")
        elif verdict == "corrected":
            self._comment.description = _("What is the right answer?")
        if self.answer is not None:
            self._show()
        if verdict:  # after the pane, which gives the focus back to the button
            self._comment.focus()

    def _keep_comment(self) -> None:
        if self._verdict:
            self._keep(self._verdict, self._comment.value)

    def _keep(self, verdict: str, text: str) -> None:
        answer = self.answer
        if answer is None or self._kept:
            return

        def work(_job: Job) -> None:
            if verdict == "good":
                answer.good()
            elif verdict == "bad":
                answer.bad(text)
            else:
                answer.correct(text)

        def done(_nothing: None) -> None:
            if self.answer is answer:
                self._kept = verdict
                self._comment_on("")
                self._shown.focus("kept")

        self.background(work, done, lane="feedback")

    # What it shows

    @property
    def _root(self) -> str:
        return self.answer.results.root if self.answer is not None else ""

    def _show(self) -> None:
        self._shown.show(self._answer_node())
        panes = [self._shown]
        if self._read is not None:
            self._reader.show(self._reader_node(self._read))
            panes.append(self._reader)
        if list(self._columns.children) != panes:
            self._columns.children = panes
        self.refresh()

    def _answer_node(self) -> Node:
        _, answer = self.translated, self.answer
        if answer is None:
            return self._unfinished_node()
        listed = source_list(
            answer.passages, tuple(answer.citations), _, opened=self._opened, root=self._root
        )
        return node(
            "article",
            answer_text(answer, _, root=self._root),
            *(node("p", note, class_="oraculo-note") for note in notes(answer, _)),
            listed,
            feedback_row(_, kept=self._kept, writing=self._verdict),
            class_="oraculo-answer",
            aria_label=_("Answer"),
        )

    def _unfinished_node(self) -> Node:
        _ = self.translated
        if not self.inquiry.question.strip():
            return node("p", _("Ask something; the answer names its sources."), class_="oraculo-empty")
        text = node(
            "div",
            *written_text(self._text, self._passages, _),
            node("span", "▍", class_="oraculo-cursor", aria_hidden=True, live=True)
            if self._writing
            else None,
            class_="oraculo-answer-text",
            dir="auto",
        )
        return node(
            "article",
            text,
            source_list(self._passages, (), _, opened=self._opened),
            class_="oraculo-answer",
            aria_busy=self._writing,
            aria_label=_("Answer"),
        )

    def _reader_node(self, passage: ReadPassage) -> Node:
        spans = self.answer.results.highlight if self.answer is not None else None
        title = shown_key(passage.chunk.source, self._root, 200)
        return reader(passage, self.translated, title=title, spans=spans)

    # What it answers

    @property
    def selection(self) -> pd.DataFrame:
        """The chunks of the source that is open, else of all that are cited, as `SearchResults.to_pandas` has them."""
        with self.lock:
            numbers = [self._opened] if self._opened is not None else []
            if not numbers and self.answer is not None:
                numbers = list(self.answer.citations)
            hits = {hit.id: hit for number in numbers for hit in self._passages[number - 1].hits}
        return SearchResults(tuple(hits.values())).to_pandas()

    def code(self) -> str:
        """Return Python that asks the same."""
        with self.lock:
            return self.inquiry.code(self._store)

    def summary(self) -> Node:
        """Return question, answer and sources, and the document that is open."""
        _ = self.translated
        heading = told = None
        if self.inquiry.question.strip():
            heading = node("h3", self.inquiry.question, dir="auto")
        if self.answer is not None:
            told = node("p", told_of(self.answer, _), class_="oraculo-muted")
        read = self._reader_node(self._read) if self._read is not None else None
        columns = node("div", self._answer_node(), read, class_="oraculo-columns-static")
        return node("div", heading, told, columns, class_="oraculo-static")

    def close(self) -> None:
        """Take the explorer off the screen; an answer that is being written is given up."""
        if "_stop" in self.__dict__:
            self._stop.set()
        super().close()
