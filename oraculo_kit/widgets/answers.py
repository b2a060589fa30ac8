"""What the ask explorer asks and shows: the question's code, an answer and its sources as nodes. Knows nothing of widgets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oraculo_kit.answering.answers import Answer, excerpt
from oraculo_kit.answering.passages import Passage
from oraculo_kit.display import one_line
from oraculo_kit.messages import N_
from oraculo_kit.storage.base import VetorStorage
from oraculo_kit.widgets.coding import IMPORT, call, store_prefix
from oraculo_kit.widgets.nodes import Node, marked, node
from oraculo_kit.widgets.storing import shown_key

__all__ = ["VERDICTS", "Inquiry", "answer_text", "feedback_row", "notes", "source_list", "written_text"]

Translator = Callable[[str], str]

VERDICTS = {"good": N_("Good"), "bad": N_("Bad..."), "corrected": N_("Correct...")}
_KEPT = {
    "good": N_("Kept in the base: this answer is good."),
    "bad": N_("Kept in the base: this answer is bad."),
    "corrected": N_("Kept in the base: your correction."),
}
_CITED = re.compile(r"\[(\d{1,9})\]")
_QUOTE = 80  # characters of a quotation in a note


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Everything that an answer depends on.

    Attributes
    ----------
    question : str
    k : int
        How many chunks are retrieved.
    model : str, chat model object or None
        None is the one of the settings.
    """

    question: str = ""
    k: int = 6
    model: Any = None

    def code(self, store: VetorStorage | None) -> str:
        """Return Python that asks this.

        Notes
        -----
        A chat model that is an object has no code: it is called `model` there, and must have that name.

        Examples
        --------
        >>> print(Inquiry("Qual é o prazo?").code(None))
        import oraculo_kit as oraculo
        <BLANKLINE>
        answer = oraculo.ask('Qual é o prazo?', k=6)
        answer
        <BLANKLINE>
        """
        opening = store_prefix(store)[0]
        keywords: dict[str, Any] = {"k": self.k}
        if isinstance(self.model, str):
            keywords["model"] = self.model
        line = call("oraculo.ask", self.question, **keywords)
        names = [
            name for name, is_given in (("model", self._is_object), ("store", store is not None)) if is_given
        ]
        for name in names:
            end = ",\n)" if line.endswith(",\n)") else ")"
            more = f"    {name}={name}" if end != ")" else f", {name}={name}"
            line = f"{line.removesuffix(end)}{',' + chr(10) if end != ')' else ''}{more}{end}"
        return f"{IMPORT}\n{opening}answer = {line}\nanswer\n"

    @property
    def _is_object(self) -> bool:
        return self.model is not None and not isinstance(self.model, str)


def passage_name(passage: Passage, root: str = "") -> str:
    """Return what a source is called: its key, short, and the place in it."""
    return ", ".join(filter(None, (shown_key(passage.source, root), passage.place())))


def written_text(text: str, passages: Sequence[Passage], _: Translator, *, root: str = "") -> list[Node]:
    """Return the text of a model with its citations as buttons; event ``cite`` with the number."""
    parts: list[Node] = []
    at = 0
    for match in _CITED.finditer(text):
        number = int(match[1])
        if 1 <= number <= len(passages):
            parts += [text[at : match.start()], _cite(number, passages[number - 1], match.start(), _, root)]
            at = match.end()
    parts.append(text[at:])
    return [part for part in parts if part]


def _cite(number: int, passage: Passage, at: int, _: Translator, root: str) -> Node:
    return node(
        "button",
        f"[{number}]",
        event="cite",
        payload=number,
        key=f"cite-{number}-{at}",
        title=passage_name(passage, root),
        aria_label=_("Source {number}: {name}").format(number=number, name=passage_name(passage, root)),
        class_="oraculo-cite",
    )


def answer_text(answer: Answer, _: Translator, *, root: str = "") -> Node:
    """Return the text of a finished answer; of extracts, what the question asks for is marked."""
    if answer.kind != "extracts":
        return node(
            "div",
            *written_text(answer.text, answer.passages, _, root=root),
            class_="oraculo-answer-text",
            dir="auto",
        )
    parts = []
    for number, passage in enumerate(answer.passages, 1):
        highlight = answer.results.highlight
        spans = highlight(passage.text) if highlight is not None else []
        first, last = excerpt(passage.text, spans)
        parts.append(
            node(
                "p",
                "…" if first else None,
                *marked(passage.text, spans, first, last),
                "…" if last < len(passage.text) else None,
                " ",
                _cite(number, passage, number, _, root),
                dir="auto",
            )
        )
    return node("div", *parts, class_="oraculo-answer-text")


def notes(answer: Answer, _: Translator) -> list[str]:
    """Return what a reader should know besides the text."""
    said = []
    if answer.kind == "ungrounded":
        said.append(_("The model cites no source: nobody checked this answer."))
    if answer.invalid_citations:
        numbers = ", ".join(map(str, answer.invalid_citations))
        said.append(
            _("Citations of sources that do not exist were taken out: {numbers}").format(numbers=numbers)
        )
    if answer.ignored_tool_calls:
        names = ", ".join(one_line(name, 40) for name in answer.ignored_tool_calls)
        said.append(_("The model asked for tools; none was called: {names}").format(names=names))
    said += [
        _("Not in the cited source: “{quote}”").format(quote=one_line(quote, _QUOTE))
        for quote in answer.unverified_quotes
    ]
    if not answer.complete:
        said.append(_("The answer is incomplete."))
    return said


def told_of(answer: Answer, _: Translator) -> str:
    """Return model, sources, time and tokens in one line."""
    if answer.failed_model:
        said = [_("extracts: the chat model {model} failed").format(model=one_line(answer.failed_model, 60))]
    else:
        said = [one_line(answer.model, 60) or _("extracts: no chat model is set (ORACULO_CHAT_MODEL)")]
    said.append(_("sources: {count}").format(count=len(answer.passages)))
    said.append(f"{answer.seconds:.1f} s")
    if "total_tokens" in answer.usage:
        said.append(_("tokens: {count}").format(count=f"{answer.usage['total_tokens']:,}"))
    return " · ".join(said)


def source_list(
    passages: Sequence[Passage],
    cited: Sequence[int],
    _: Translator,
    *,
    opened: int | None = None,
    root: str = "",
) -> Node | None:
    """Return the numbered sources; those that the answer does not cite are quieter."""
    if not passages:
        return None
    items = [
        node(
            "li",
            node(
                "button",
                node("span", f"[{number}] ", class_="oraculo-muted"),
                node("span", passage_name(passage, root), dir="auto"),
                event="cite",
                payload=number,
                key=f"source-{number}",
                title=passage.source,
                class_="oraculo-plain",
                aria_expanded=number == opened,
            ),
            class_=None if number in cited else "oraculo-muted",
        )
        for number, passage in enumerate(passages, 1)
    ]
    heading = node("h5", _("Sources"))
    return node("section", heading, node("ol", *items, arrows=True), class_="oraculo-answer-sources")


def feedback_row(_: Translator, *, kept: str = "", writing: str = "") -> Node:
    """Return the buttons that say what an answer is worth; event ``say`` with one of `VERDICTS`.

    Parameters
    ----------
    _ : callable
        The translator.
    kept : str
        What was said already.
    writing : str
        What somebody is writing a text for.
    """
    if kept:
        said = node("p", _(_KEPT[kept]), class_="oraculo-good", role="status", tabindex=-1, key="kept")
        return node("div", said, class_="oraculo-feedback")
    buttons = [
        node(
            "button",
            _(name),
            event="say",
            payload=verdict,
            key=f"say-{verdict}",
            aria_pressed=verdict == writing,
            class_="oraculo-button",
        )
        for verdict, name in VERDICTS.items()
    ]
    asked = node("span", _("Is this answer right?"), class_="oraculo-muted")
    return node("div", asked, *buttons, class_="oraculo-toolbar oraculo-feedback", live=True)
