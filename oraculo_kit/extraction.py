"""Documents' text, read where it can do no harm: a hostile or huge file costs that one document, never the run.

`extract` gives what `oraculo_kit.load.load_bytes` gives. The difference is where it runs:

===================================  =========================================================================
plain text and Markdown to 4 MiB,    in this process: the loaders take time and memory in proportion to the
CSV to 256 KiB                       size, at most 0.3 s and 150 MB at these sizes
every other built-in format          in a helper, a child process with a limit of time and memory
a user's loader (register_loader)    in this process: a helper could not find the function
===================================  =========================================================================

A helper is reused, by one thread at a time; each thread that extracts has its own. It is replaced after 1,000 documents
or when it holds much memory, so that what a library leaks does not pile up, and whenever a document exceeded a limit or
broke it. If a used helper broke, an earlier document may be to blame: then the document gets a second try in a new one.

Measured on two cores: a helper is ready after 0.25 s, most of it the import of LangChain's ``Document``; afterwards a
document of 10 kB costs 0.16 to 0.3 ms more than in this process.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oraculo_kit import errors
from oraculo_kit.errors import ExtractionError, SourceError
from oraculo_kit.extraction_process import (
    HelperDiedError,
    HelperFailedError,
    HelperProcess,
    MemoryExceededError,
    TimeExceededError,
    helper_command,
)
from oraculo_kit.formats import builtin_loader
from oraculo_kit.load import load_bytes, named_reason, printable_name

if TYPE_CHECKING:
    from langchain_core.documents import Document

__all__ = ["ExtractionLimits", "HelperPool", "extract", "stop_helpers"]

_MEGABYTE = 1 << 20

# What a loader does in proportion to the size, whatever it is given; a CSV file of one-letter rows makes a document of
# 1 kB from every two bytes.
_HARMLESS_BYTES = {
    "text:load_text": 4 * _MEGABYTE,
    "text:load_markdown": 4 * _MEGABYTE,
    "tabular:load_csv": _MEGABYTE // 4,
}

_MOST_DOCUMENTS = 1000
_MOST_KEPT_BYTES = 512 * _MEGABYTE


@dataclass(frozen=True)
class ExtractionLimits:
    """What reading one document may cost.

    Parameters
    ----------
    seconds : float
        ``ORACULO_EXTRACT_SECONDS``. A PDF of 10,000 short pages takes 1 s.
    memory_bytes : int
        ``ORACULO_EXTRACT_MEMORY_MB``, the whole helper process included (60 MB before it reads anything). On Linux an
        allocation beyond it fails at once; elsewhere it is noticed within a tenth of a second.
    """

    seconds: float = 120.0
    memory_bytes: int = 2048 * _MEGABYTE


_DEFAULT_LIMITS = ExtractionLimits()


def extract(
    content: bytes,
    name: str,
    *,
    mime: str | None = None,
    fix_text: bool = False,
    limits: ExtractionLimits = _DEFAULT_LIMITS,
    checkpoint: Callable[[], None] | None = None,
) -> list[Document]:
    r"""Extract the documents of one source, as `oraculo_kit.load.load_bytes` does, but within limits.

    Parameters
    ----------
    content : bytes
        The whole file.
    name, mime, fix_text : str, str, bool
        As for `load_bytes`.
    limits : ExtractionLimits
        Kept where a helper reads the document; see the table above.
    checkpoint : callable, optional
        Called at least every 0.2 s while a helper is waited for. It may raise to stop: then the helper is killed and
        the exception goes through.

    Returns
    -------
    list of Document

    Raises
    ------
    SourceError
        As `load_bytes`; an `ExtractionError` also when a limit is exceeded or the document breaks its reader.
    ExtractionHelperError
        When this machine starts no helper.

    Notes
    -----
    May be called from several threads, and in forked processes.

    Examples
    --------
    >>> extract(b"<title>T</title><p>P&amp;D", "a.html")[0].page_content
    'P&D'
    """
    return _pool.extract(content, name, mime=mime, fix_text=fix_text, limits=limits, checkpoint=checkpoint)


def stop_helpers() -> None:
    """End the helpers that wait for work; the next document starts a new one. They would end by themselves, in time."""
    _pool.close()


class HelperPool:
    """Helpers that are reused; `extract` uses one pool per process.

    Parameters
    ----------
    command : sequence of str, optional
        Command line of a helper.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = command
        # Its methods are atomic: no lock that a fork could leave taken.
        self._idle: deque[HelperProcess] = deque()

    def extract(
        self,
        content: bytes,
        name: str,
        *,
        mime: str | None = None,
        fix_text: bool = False,
        limits: ExtractionLimits = _DEFAULT_LIMITS,
        checkpoint: Callable[[], None] | None = None,
    ) -> list[Document]:
        """As the function `extract`."""
        options: dict[str, Any] = {"name": name, "mime": mime} | ({"fix_text": True} if fix_text else {})
        if _is_harmless(content, name, mime):
            return load_bytes(content, **options)
        request = {"options": options, "seconds": limits.seconds, "memory_bytes": limits.memory_bytes}
        try:
            if len(content) > limits.memory_bytes // 2:
                raise MemoryExceededError
            answer = self._answer([json.dumps(request).encode(), content], limits, checkpoint)
        except HelperFailedError as exc:
            shown = printable_name(os.path.basename(name))
            raise ExtractionError(named_reason(shown, _reason(exc, limits))) from exc
        return _documents(answer)

    def close(self) -> None:
        """End the helpers that wait for work."""
        while self._idle:
            self._idle.pop().kill()

    def _answer(
        self, messages: Sequence[bytes], limits: ExtractionLimits, checkpoint: Callable[[], None] | None
    ) -> dict[str, Any]:
        helper = self._take() or self._start(checkpoint)
        try:
            return self._ask(helper, messages, limits, checkpoint)
        except (MemoryExceededError, HelperDiedError):
            if not helper.served:
                raise
        # Maybe an earlier document's doing: what that left behind is no fault of this one.
        return self._ask(self._start(checkpoint), messages, limits, checkpoint)

    def _ask(
        self,
        helper: HelperProcess,
        messages: Sequence[bytes],
        limits: ExtractionLimits,
        checkpoint: Callable[[], None] | None,
    ) -> dict[str, Any]:
        text = helper.ask(
            *messages, seconds=limits.seconds, memory_bytes=limits.memory_bytes, checkpoint=checkpoint
        )
        answer: dict[str, Any] = json.loads(str(text, "utf-8", "surrogatepass"))
        if "out_of_memory" in answer:
            helper.kill()
            raise MemoryExceededError
        helper.served += 1
        most_kept = min(_MOST_KEPT_BYTES, limits.memory_bytes // 2)
        if helper.served < _MOST_DOCUMENTS and helper.memory_bytes() < most_kept:
            self._idle.append(helper)
        else:
            helper.kill()
        return answer

    def _take(self) -> HelperProcess | None:
        """Return the helper that was used last, so that those too many grow old; None when there is none to use."""
        while self._idle:
            try:
                helper = self._idle.pop()
            except IndexError:  # another thread took it
                return None
            if helper.usable():
                return helper
            helper.kill()
        return None

    def _start(self, checkpoint: Callable[[], None] | None) -> HelperProcess:
        return HelperProcess(self._command or helper_command(), checkpoint)


_pool = HelperPool()


def _is_harmless(content: bytes, name: str, mime: str | None) -> bool:
    """Tell whether this process reads the document itself."""
    loader = builtin_loader(name, mime)
    return not content or loader is None or len(content) <= _HARMLESS_BYTES.get(loader, -1)


def _documents(answer: dict[str, Any]) -> list[Document]:
    from langchain_core.documents import Document

    if "error" in answer:
        error = getattr(errors, answer["error"])
        assert issubclass(error, SourceError)
        raise error(answer["message"])
    return [Document(page_content=text, metadata=metadata) for text, metadata in answer["documents"]]


def _reason(exc: HelperFailedError, limits: ExtractionLimits) -> str:
    if isinstance(exc, TimeExceededError):
        return (
            f"reading it takes more than {limits.seconds:g} s, the limit for one document; "
            "if it is worth more, raise ORACULO_EXTRACT_SECONDS"
        )
    if isinstance(exc, MemoryExceededError):
        return (
            f"reading it takes more than {limits.memory_bytes / _MEGABYTE:,.0f} MiB of memory, the limit for one "
            "document; if it is worth more, raise ORACULO_EXTRACT_MEMORY_MB"
        )
    return f"it broke the process that read it: {exc}. The file is damaged or hostile, or memory is short"
