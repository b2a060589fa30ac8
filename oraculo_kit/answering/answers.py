"""What `ask` gives: a text whose citations were checked, its numbered sources, and a place to say what was wrong.

The text of an answer is as hostile as the documents behind it: a model may have been talked into writing HTML, or an
image whose address carries what it read. In a notebook everything is escaped, nothing is fetched, and only the
numbers of sources are links, to the list below them. Do not give `Answer.text` to ``Markdown`` or ``HTML``.
"""

from __future__ import annotations

import datetime
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from oraculo_kit.answering.citations import cited_numbers, unverified_quotes
from oraculo_kit.answering.passages import Passage
from oraculo_kit.answering.prompts import WORDINGS, Wording
from oraculo_kit.display import CLASSES, STYLE, escape, one_line, short_source, visible
from oraculo_kit.errors import QueryError
from oraculo_kit.storage.results import Hit, SearchResults

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.storage import VetorStorage
    from oraculo_kit.storage.feedback import Feedback, Verdict

Kind = Literal["answer", "ungrounded", "not_found", "extracts"]

EXCERPT = 350
"""Characters of a passage that an extract, or a list of sources, shows before somebody asks for all of it."""

_LEAD = 40  # of them before the first match
_CITED = re.compile(r"\[(\d+)\]")


@dataclass(frozen=True, repr=False)
class Answer:
    """An answer with numbered citations.

    Attributes
    ----------
    question : str
    text : str
        Plain text; every ``[n]`` in it is a key of `citations`.
    kind : {"answer", "ungrounded", "not_found", "extracts"}
        A model's answer that cites its sources; one that cites none, which nobody checked; the statement that the
        sources do not hold the answer; or, without a model, the best extracts.
    passages : tuple of Passage
        The numbered sources that were read: ``passages[0]`` is [1].
    results : SearchResults
        Everything that was retrieved.
    language : {"pt", "en"}
        In which language it speaks of itself: the question's.
    model : str
        Name of the chat model that was asked; empty when none was.
    seconds : float
        Retrieval and model together.
    usage : dict
        Tokens as the provider counts them, ``input_tokens``, ``output_tokens``, ...; empty when it does not say.
    invalid_citations : tuple of int
        Numbers in the model's text that point at nothing; they were taken out.
    ignored_tool_calls : tuple of str
        Names of tools that the model wanted to call. None was bound to it, and nothing was called.
    failed_model : str
        Name of the chat model that failed, where extracts stand in for its answer; empty otherwise.
    complete : bool
        False when the text was cut: by the model's limit of tokens, its provider's filter, or a reader who stopped.
    """

    question: str
    text: str
    kind: Kind
    passages: tuple[Passage, ...]
    results: SearchResults
    language: str = "en"
    model: str = ""
    seconds: float = field(default=0.0, compare=False)
    usage: dict[str, int] = field(default_factory=dict, hash=False)
    invalid_citations: tuple[int, ...] = ()
    ignored_tool_calls: tuple[str, ...] = ()
    complete: bool = True
    failed_model: str = ""

    @property
    def grounded(self) -> bool:
        """Whether the text rests on retrieved sources: it cites at least one, or consists of extracts."""
        return self.kind == "answer" or (self.kind == "extracts" and bool(self.passages))

    @property
    def citations(self) -> dict[int, Passage]:
        """The sources that the text cites, by number, in the order in which it does."""
        return {
            number: self.passages[number - 1] for number in cited_numbers(self.text) if self._known(number)
        }

    @property
    def hits(self) -> tuple[Hit, ...]:
        """All hits that were retrieved, best first, whether the model read them or not."""
        return self.results.hits

    @property
    def unverified_quotes(self) -> tuple[str, ...]:
        """Quotations in the text that do not stand in the source cited for them."""
        return unverified_quotes(self.text, self.passages) if self.model else ()

    def good(self) -> Feedback:
        """Keep in the base that this answer is right.

        Returns
        -------
        Feedback
            What was stored; `oraculo_kit.feedback` shows all of it.

        Raises
        ------
        StorageError
            When the base cannot be written.
        """
        return self._say("good")

    def bad(self, comment: str = "") -> Feedback:
        """Keep in the base that this answer is wrong or useless, and why.

        Returns and errors as `good`.
        """
        if not isinstance(comment, str):
            raise QueryError(f"the comment is of type {type(comment).__name__}, expected a text")
        return self._say("bad", comment)

    def correct(self, text: str) -> Feedback:
        """Keep in the base what the right answer is.

        Returns and errors as `good`.

        Raises
        ------
        QueryError
            For a blank text, or none; `bad` says that an answer is wrong without saying what is right.
        """
        if not isinstance(text, str) or not text.strip():
            got = "blank" if isinstance(text, str) else f"of type {type(text).__name__}"
            raise QueryError(
                f"the corrected answer is {got}, expected a text. Use bad(comment) when there is none"
            )
        return self._say("corrected", text)

    def _say(self, verdict: Verdict, correction: str = "") -> Feedback:
        from oraculo_kit.storage.feedback import Feedback

        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        cited = self.citations.values() or self.passages
        sources = dict.fromkeys(chunk for passage in cited for chunk in passage.ids)
        said = Feedback(at, self.question, self.text, verdict, correction, self.model, tuple(sources))
        with _store_at(self.results.store) as storage:
            storage.add_feedback(said)
        return said

    @property
    def _wording(self) -> Wording:
        return WORDINGS[self.language]

    def _known(self, number: int) -> bool:
        return 1 <= number <= len(self.passages)

    def notes(self) -> list[str]:
        """Return what a reader should know besides the text: what was taken out, ignored or not verified."""
        found = []
        if self.kind == "ungrounded":
            found.append(self._wording.ungrounded)
        if self.invalid_citations:
            numbers = ", ".join(map(str, self.invalid_citations))
            found.append(f"citations of sources that do not exist were removed: {numbers}")
        if self.ignored_tool_calls:
            names = ", ".join(one_line(name, 40) for name in self.ignored_tool_calls)
            found.append(f"the model asked for tools; none was called: {names}")
        found.extend(f"not in the cited source: “{one_line(quote, 80)}”" for quote in self.unverified_quotes)
        if not self.complete:
            found.append("the answer is incomplete")
        return found

    def summary(self) -> str:
        """Return model, time and tokens in one line."""
        count = len(self.passages)
        if not count:
            return f"nothing was found in {one_line(self.results.store, 80)}, {self.seconds:.1f} s"
        if self.failed_model:
            parts = [f"extracts: the chat model {one_line(self.failed_model, 60)} failed"]
        else:
            parts = [one_line(self.model, 60) or "extracts: no chat model is set (ORACULO_CHAT_MODEL)"]
        parts.append(f"{count} source{'s' if count != 1 else ''}")
        parts.append(f"{self.seconds:.1f} s")
        if "total_tokens" in self.usage:
            parts.append(f"{self.usage['total_tokens']} tokens")
        return ", ".join(parts)

    def _name(self, passage: Passage) -> str:
        shown = short_source(passage.source, self.results.root)
        return one_line(", ".join(filter(None, (shown, passage.place()))), 120)

    def __str__(self) -> str:
        lines = [visible(self.text), *(f"! {note}" for note in self.notes())]
        listed = self.citations
        if listed and self.kind != "extracts":
            lines.append("")
        if listed:
            lines.append(self._wording.sources + ":")
            lines.extend(f"[{number}] {self._name(passage)}" for number, passage in listed.items())
        return "\n".join([*lines, f"({self.summary()})"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # Several answers stand in one notebook: each has anchors of its own.
        anchor = f"oraculo-{secrets.token_hex(4)}"
        parts = [f'<div class="oraculo-text" style="white-space:pre-wrap">{self._html_text(anchor)}</div>']
        parts.extend(f"<div><small>⚠ {escape(note)}</small></div>" for note in self.notes())
        listed = self.citations
        if listed:
            items = "".join(self._html_source(number, passage, anchor) for number, passage in listed.items())
            title = escape(self._wording.sources)
            parts.append(f"<div><b>{title}</b></div><ol>{items}</ol>")
        parts.append(f"<div><small>{escape(self.summary())}</small></div>")
        return f'{STYLE}<div class="{CLASSES}">{"".join(parts)}</div>'

    def _html_text(self, anchor: str) -> str:
        if self.kind == "extracts" and self.passages:
            return "\n\n".join(
                f"{self._marked(excerpt(passage.text, self._spans(passage)), passage)} "
                f"{self._link(number, passage, anchor)}"
                for number, passage in enumerate(self.passages, 1)
            )
        parts, at = [], 0
        for match in _CITED.finditer(self.text):
            number = int(match[1])
            if self._known(number):
                parts.append(escape(self.text[at : match.start()]))
                parts.append(self._link(number, self.passages[number - 1], anchor))
                at = match.end()
        return "".join(parts) + escape(self.text[at:])

    def _link(self, number: int, passage: Passage, anchor: str) -> str:
        return f'<a href="#{anchor}-{number}" title="{escape(self._name(passage))}">[{number}]</a>'

    def _html_source(self, number: int, passage: Passage, anchor: str) -> str:
        whole = self._marked((0, len(passage.text)), passage)
        return (
            f'<li id="{anchor}-{number}" value="{number}"><details><summary>{escape(self._name(passage))}</summary>'
            f'<div style="white-space:pre-wrap">{whole}</div></details></li>'
        )

    def _spans(self, passage: Passage) -> list[tuple[int, int]]:
        return self.results.highlight(passage.text) if self.results.highlight is not None else []

    def _marked(self, part: tuple[int, int], passage: Passage) -> str:
        """Return a part of a passage, escaped, with the question's words marked."""
        text, (first, last) = passage.text, part
        shown, at = ["…" if first else ""], first
        for start, end in self._spans(passage):
            if at <= start and end <= last:
                shown.append(f"{escape(text[at:start])}<mark>{escape(text[start:end])}</mark>")
                at = end
        return "".join([*shown, escape(text[at:last]), "…" if last < len(text) else ""])


def excerpt(text: str, spans: list[tuple[int, int]], length: int = EXCERPT) -> tuple[int, int]:
    """Return start and end of the part of a text, `length` characters at most, where most of the matches stand.

    Examples
    --------
    >>> excerpt("um texto curto", [(3, 8)])
    (0, 14)
    """
    if len(text) <= length:
        return 0, len(text)
    starts = [start for start, _ in spans]
    best = max(
        starts, key=lambda one: (sum(one <= start < one + length for start in starts), -one), default=0
    )
    first = text.rfind(" ", 0, max(best - _LEAD, 0)) + 1 if best > _LEAD else 0
    last = min(first + length, len(text))
    if last < len(text):
        last = max(text.rfind(" ", first + length // 2, last), first + length // 2)
    return first, last


def extracts(
    question: str,
    passages: tuple[Passage, ...],
    results: SearchResults,
    *,
    language: str = "en",
    seconds: float = 0.0,
) -> Answer:
    """Return the answer without a model: of each passage the part that matches the question best."""
    parts = []
    for number, passage in enumerate(passages, 1):
        spans = results.highlight(passage.text) if results.highlight is not None else []
        first, last = excerpt(passage.text, spans)
        # A number in brackets is a citation, here too: what looks like one in a document must not be.
        text = _CITED.sub(r"(\1)", passage.text[first:last])
        more = "…" if last < len(passage.text) else ""
        parts.append(f"{'…' if first else ''}{text}{more} [{number}]")
    text = "\n\n".join(parts) or WORDINGS[language].not_found
    kind: Kind = "extracts" if parts else "not_found"
    return Answer(question, text, kind, passages, results, language, seconds=seconds)


@contextmanager
def _store_at(location: str) -> Iterator[VetorStorage]:
    """Give the store at a location: that of the services, or another one that is opened for the moment."""
    from oraculo_kit.services import ensure_services

    storage = ensure_services().vetor_storage
    if storage.location == location:
        yield storage
        return
    from oraculo_kit.storage import open_storage

    # The answer outlived a switch to another base: what is said of it belongs to the base that gave it.
    with open_storage(location) as other:
        yield other


def feedback() -> pd.DataFrame:
    """Return what was said about answers, oldest first.

    Returns
    -------
    pandas.DataFrame
        Columns at (UTC), question, answer, verdict (good, bad, corrected), correction (a comment for bad), model,
        sources (ids of the chunks that were cited).

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> list(oraculo.feedback().columns)
    ['at', 'question', 'answer', 'verdict', 'correction', 'model', 'sources']
    """
    import pandas as pd

    from oraculo_kit.services import ensure_services

    names = ["at", "question", "answer", "verdict", "correction", "model", "sources"]
    rows = [[getattr(row, name) for name in names] for row in ensure_services().vetor_storage.feedback()]
    frame = pd.DataFrame(rows, columns=names)
    frame["at"] = pd.to_datetime(frame["at"], utc=True)
    return frame


__all__ = ["EXCERPT", "Answer", "Kind", "excerpt", "extracts", "feedback"]
