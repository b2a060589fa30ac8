"""Ask the base a question: retrieve, let a chat model write from what was found, check its citations.

The way of an answer::

    search ─► (rerank) ─► passages within a budget ─► fenced prompt ─► chat model ─► citations checked ─► Answer
                                    └────────── no model configured ──────────────► extracts
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from oraculo_kit.answering.chat_models import TIMEOUT, load_chat_model
from oraculo_kit.answering.passages import MAX_CHARS, select_passages
from oraculo_kit.answering.prompts import question_language
from oraculo_kit.answering.streams import AnswerStream, Asked, AsyncAnswerStream, Writing
from oraculo_kit.errors import QueryError
from oraculo_kit.retrieval import search_in
from oraculo_kit.services import ensure_services
from oraculo_kit.storage.base import SearchKeywords

if TYPE_CHECKING:
    from oraculo_kit.answering.answers import Answer
    from oraculo_kit.storage.base import VetorStorage
    from oraculo_kit.storage.filters import Filter


class _Options(SearchKeywords, total=False):
    """Keywords of `ask` and `aask`, for their overloads."""

    model: Any
    rerank: Any
    max_chars: int
    timeout: float
    store: VetorStorage | None


@overload
def ask(
    question: str, k: int = ..., *, stream: Literal[False] = ..., **options: Unpack[_Options]
) -> Answer: ...
@overload
def ask(
    question: str, k: int = ..., *, stream: Literal[True], **options: Unpack[_Options]
) -> AnswerStream: ...
def ask(
    question: str,
    k: int = 6,
    *,
    model: Any = None,
    filter: Filter | None = None,
    rerank: Any = None,
    stream: bool = False,
    max_chars: int = MAX_CHARS,
    timeout: float = TIMEOUT,
    store: VetorStorage | None = None,
    **search_options: Any,
) -> Answer | AnswerStream:
    """Answer a question from the base, with numbered citations.

    Parameters
    ----------
    question : str
    k : int
        How many chunks to retrieve.
    model : str or BaseChatModel, optional
        A name for LangChain's ``init_chat_model`` such as ``"openai:gpt-4o-mini"``, or a chat model object; by default
        ``ORACULO_CHAT_MODEL``. With neither, the best extracts are the answer.
    filter, rerank, **search_options
        As in `search`: ``mode``, ``min_score``, ``context``, ...
    stream : bool
        Return an `AnswerStream` at once, whose pieces come as the model writes.
    max_chars : int
        Characters of source text that the model reads at most; see `oraculo_kit.answering.passages.MAX_CHARS`.
    timeout : float
        Seconds that the provider's client waits for the model's next bytes, per attempt; it makes two more attempts
        after a transient failure, and honours a pause of up to 60 s that the server asks for. For a model given by
        name; an object has its own limits.
    store : VetorStorage, optional
        Another base than that of the services.

    Returns
    -------
    Answer or AnswerStream
        ``answer.text``, ``answer.citations``, ``answer.grounded``; it shows itself in a notebook.

    Raises
    ------
    ChatModelError
        When the model cannot be loaded or fails; its ``extracts`` hold what was retrieved.
    RerankingError
        When the reranker fails.
    QueryError
        For a question or an option that cannot be understood.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> nota = Document("A nota é cancelada em até 24 horas.", metadata={"source": "ajuda.md"})
    >>> _ = oraculo.ingest([nota], progress=False)
    >>> answer = oraculo.ask("Qual é o prazo para cancelar a nota?")
    >>> answer.kind, answer.text, answer.citations[1].source
    ('extracts', 'A nota é cancelada em até 24 horas. [1]', 'ajuda.md')
    """
    asked = _retrieve(
        question,
        k,
        model=model,
        filter=filter,
        rerank=rerank,
        max_chars=max_chars,
        timeout=timeout,
        store=store,
        **search_options,
    )
    if stream:
        return AnswerStream(asked)
    if not asked.needs_model:
        return asked.extracts()
    writing, failure = Writing(asked), None
    try:
        writing.take(load_chat_model(asked.choice, timeout).invoke(asked.prompt()))
    except Exception as exc:
        failure = asked.failed(exc)
    if failure is not None:
        raise failure  # outside the handler: the context of an error travels with it, and may hold a key
    writing.end()
    return writing.answer()


@overload
async def aask(
    question: str, k: int = ..., *, stream: Literal[False] = ..., **options: Unpack[_Options]
) -> Answer: ...
@overload
async def aask(
    question: str, k: int = ..., *, stream: Literal[True], **options: Unpack[_Options]
) -> AsyncAnswerStream: ...
async def aask(
    question: str, k: int = 6, *, stream: bool = False, **options: Any
) -> Answer | AsyncAnswerStream:
    """Answer a question without blocking the event loop; `ask` for async code.

    Parameters
    ----------
    question, k, stream, **options
        As in `ask`. Retrieval runs on a thread, the model by its own async client.

    Returns
    -------
    Answer or AsyncAnswerStream
        ``async for piece in await aask(question, stream=True)`` gives the pieces.

    Raises
    ------
    ChatModelError, RerankingError, QueryError
        As `ask`.
    """
    asked = await asyncio.to_thread(_retrieve, question, k, **options)
    if stream:
        return AsyncAnswerStream(asked)
    if not asked.needs_model:
        return asked.extracts()
    writing, failure = Writing(asked), None
    try:
        model = await asyncio.to_thread(load_chat_model, asked.choice, asked.timeout)
        writing.take(await model.ainvoke(asked.prompt()))
    except Exception as exc:
        failure = asked.failed(exc)
    if failure is not None:
        raise failure
    writing.end()
    return writing.answer()


def _retrieve(
    question: str,
    k: int,
    *,
    model: Any = None,
    max_chars: int = MAX_CHARS,
    timeout: float = TIMEOUT,
    store: VetorStorage | None = None,
    **search_options: Any,
) -> Asked:
    started = time.perf_counter()
    if not isinstance(question, str):
        raise QueryError(f"the question is of type {type(question).__name__}, expected a text")
    if not question.strip():
        raise QueryError("the question is empty, expected a text")
    if isinstance(max_chars, bool) or not isinstance(max_chars, int) or max_chars < 1:
        raise QueryError(f"max_chars is {max_chars!r}, expected a whole number from 1")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise QueryError(f"timeout is {timeout!r}, expected a number of seconds above 0")
    settings = ensure_services().settings
    results = search_in(store, question, k, **search_options)
    return Asked(
        question,
        results,
        select_passages(results.hits, max_chars),
        question_language(question, settings.lang),
        model if model is not None else settings.chat_model,
        timeout,
        started,
    )


__all__ = ["aask", "ask"]
