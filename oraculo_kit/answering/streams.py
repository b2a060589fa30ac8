"""An answer while it is being written: what a model sends, whole or in pieces, becomes an `Answer`.

One reader (`Writing`) takes both, so that the pieces of a stream, joined, are the text of the finished answer, except
where the model said that the sources do not hold one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from oraculo_kit.answering.answers import Answer, Kind, extracts
from oraculo_kit.answering.chat_models import chat_error, load_chat_model, model_name
from oraculo_kit.answering.citations import CitationFilter
from oraculo_kit.answering.passages import Passage
from oraculo_kit.answering.prompts import SENTINELS, WORDINGS, prompt
from oraculo_kit.display import one_line
from oraculo_kit.errors import ChatModelError
from oraculo_kit.storage.results import SearchResults

__all__ = ["MAX_ANSWER", "AnswerStream", "Asked", "AsyncAnswerStream", "Writing"]

MAX_ANSWER = 100_000
"""Characters after which a model is cut off: more is a model that runs in circles, or a server that will not end."""

_CUT_OFF = frozenset({"length", "max_tokens", "content_filter", "max_output_tokens"})
_QUESTION = 80  # columns of a question that a stream's repr shows
_SAY_WHEN_THEY_END = frozenset({"openai", "azure_openai"})  # the protocol has a reason in the last piece


@dataclass(frozen=True)
class Asked:
    """A question with what was retrieved for it."""

    question: str
    results: SearchResults
    passages: tuple[Passage, ...]
    language: str
    choice: Any
    timeout: float
    started: float

    @property
    def needs_model(self) -> bool:
        """Whether a model writes the answer."""
        # Without a passage the answer is known: the sources do not hold it.
        return bool(self.choice) and bool(self.passages)

    def prompt(self) -> list[tuple[str, str]]:
        """Return the messages for the model."""
        return prompt(self.question, self.passages, WORDINGS[self.language])

    def extracts(self) -> Answer:
        """Return the answer without a model."""
        seconds = time.perf_counter() - self.started
        return extracts(self.question, self.passages, self.results, language=self.language, seconds=seconds)

    def failed(self, exc: Exception, partial: str = "") -> ChatModelError:
        """Return the error to raise for what the model raised, with the extracts in it."""
        error = exc if isinstance(exc, ChatModelError) else chat_error(self.choice, exc, self.timeout)
        error.extracts = replace(self.extracts(), failed_model=model_name(self.choice))
        error.partial = partial
        return error


class Writing:
    """Takes messages of a model, whole or in pieces, and becomes an `Answer`."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._filter = CitationFilter(len(asked.passages), SENTINELS)
        self._usage: dict[str, int] = {}
        self._tools: list[str] = []
        self._received = 0
        self._unfinished = False
        self.cut_off = False

    @property
    def text(self) -> str:
        """What can be shown of the text so far."""
        return self._filter.text

    @property
    def is_full(self) -> bool:
        """Whether the model wrote so much that it is cut off."""
        return self._received >= MAX_ANSWER

    def take(self, message: Any) -> str:
        """Note what a message says and return what of its text can be shown."""
        for name, count in (getattr(message, "usage_metadata", None) or {}).items():
            if isinstance(count, int):
                self._usage[name] = self._usage.get(name, 0) + count
        metadata = getattr(message, "response_metadata", None) or {}
        reason = metadata.get("finish_reason") or metadata.get("stop_reason") or metadata.get("done_reason")
        self.cut_off = self.cut_off or str(reason).casefold() in _CUT_OFF
        if metadata.get("model_provider") in _SAY_WHEN_THEY_END:
            # The connection of a stream may end early without an error: its length is not told beforehand.
            self._unfinished = reason is None
        for kind in ("tool_calls", "invalid_tool_calls", "tool_call_chunks"):
            for call in getattr(message, kind, None) or ():
                name = str(call.get("name") or "")
                if name and name not in self._tools:
                    self._tools.append(name)
        text = message if isinstance(message, str) else str(message.text)
        text = text[: MAX_ANSWER - self._received]
        self._received += len(text)
        self.cut_off = self.cut_off or self.is_full
        return self._filter.feed(text)

    def end(self) -> str:
        """Return the last piece of text."""
        return self._filter.end()

    def closing(self, answer: Answer) -> str:
        """Return what a reader of the stream must still see of the finished answer."""
        if answer.text == self.text:
            return ""
        return f"\n{answer.text}" if self.text else answer.text

    def answer(self, *, complete: bool = True) -> Answer:
        """Return the answer as it stands."""
        asked, checked, wording = self._asked, self._filter, WORDINGS[self._asked.language]
        kind: Kind = "answer" if checked.cited else "not_found" if checked.sentinel_seen else "ungrounded"
        text = wording.not_found if kind == "not_found" else checked.text or wording.no_text
        return Answer(
            asked.question,
            text,
            kind,
            asked.passages,
            asked.results,
            asked.language,
            model=model_name(asked.choice),
            seconds=time.perf_counter() - asked.started,
            usage=self._usage,
            invalid_citations=tuple(checked.invalid),
            ignored_tool_calls=tuple(self._tools),
            complete=complete and not self.cut_off and not self._unfinished,
        )


class AnswerStream(Iterator[str]):
    """An answer while it is being written: iterate over its pieces, then take `answer`.

    Leaving a ``with`` block, or `close`, ends the connection to the model.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> _ = oraculo.ingest([Document("O prazo é de dez dias", metadata={"source": "a.md"})], progress=False)
    >>> with oraculo.ask("Qual é o prazo?", stream=True) as stream:
    ...     for piece in stream:
    ...         print(piece, end="")
    O prazo é de dez dias [1]
    >>> stream.answer.citations[1].source
    'a.md'
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._writing = Writing(asked)
        self._answer: Answer | None = None
        self._failure: ChatModelError | None = None
        self._pieces = self._read()

    def __repr__(self) -> str:
        question = one_line(self._asked.question, _QUESTION)
        return f"<AnswerStream for {question!r}: iterate over its pieces, then take .answer>"

    def __next__(self) -> str:
        return next(self._pieces)

    def _read(self) -> Generator[str]:
        asked, writing = self._asked, self._writing
        if not asked.needs_model:
            self._answer = asked.extracts()
            yield self._answer.text
            return
        source: Any = None
        try:
            source = load_chat_model(asked.choice, asked.timeout).stream(asked.prompt())
            for message in source:
                if piece := writing.take(message):
                    yield piece
                if writing.is_full:
                    break
            if piece := writing.end():
                yield piece
        except Exception as exc:
            self._failure = asked.failed(exc, writing.text)
        finally:
            # Closing the model's generator is what closes the connection: nobody else would until it is collected.
            if hasattr(source, "close"):
                source.close()
        if self._failure is not None:
            raise self._failure
        self._answer = writing.answer()
        if piece := writing.closing(self._answer):
            yield piece

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The numbered sources that the model reads: ``passages[0]`` is [1]. Known before its first word."""
        return self._asked.passages

    @property
    def answer(self) -> Answer:
        """The finished answer; what has not been read yet is read now. After `close`, what was written until then.

        Raises
        ------
        ChatModelError
            When the model failed.
        """
        for _ in self._pieces:
            pass
        if self._failure is not None:
            raise self._failure
        if self._answer is None:
            self._writing.end()
            self._answer = self._writing.answer(complete=False)
        return self._answer

    def close(self) -> None:
        """Stop the model and end the connection; closing twice is allowed."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncAnswerStream(AsyncIterator[str]):
    """`AnswerStream` for ``async for``; `answer` is there once the pieces were read or the stream was closed."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._writing = Writing(asked)
        self._answer: Answer | None = None
        self._pieces = self._read()

    def __repr__(self) -> str:
        question = one_line(self._asked.question, _QUESTION)
        return f"<AsyncAnswerStream for {question!r}: iterate with async for, then take .answer>"

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def _read(self) -> AsyncGenerator[str]:
        asked, writing = self._asked, self._writing
        if not asked.needs_model:
            self._answer = asked.extracts()
            yield self._answer.text
            return
        source: Any = None
        failure: ChatModelError | None = None
        try:
            model = await asyncio.to_thread(load_chat_model, asked.choice, asked.timeout)
            source = model.astream(asked.prompt())
            cancelled = _cancellations()
            async for message in source:
                # asyncio.wait_for of Python 3.11, which LangChain puts around each piece, may swallow one.
                if _cancellations() > cancelled:
                    raise asyncio.CancelledError
                if piece := writing.take(message):
                    yield piece
                if writing.is_full:
                    break
            if piece := writing.end():
                yield piece
        except Exception as exc:
            failure = asked.failed(exc, writing.text)
        finally:
            if hasattr(source, "aclose"):
                await source.aclose()
        if failure is not None:
            raise failure
        self._answer = writing.answer()
        if piece := writing.closing(self._answer):
            yield piece

    @property
    def answer(self) -> Answer:
        """The finished answer; before the end of the stream, what was written so far."""
        return self._answer if self._answer is not None else self._writing.answer(complete=False)

    async def aclose(self) -> None:
        """Stop the model and end the connection; closing twice is allowed."""
        await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0
