"""What a source is to the pipeline, and what every kind of source shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from oraculo_kit.display import size_text
from oraculo_kit.errors import SourceError, SourceTooLargeError

if TYPE_CHECKING:
    from langchain_core.documents import Document

    Extract = Callable[[bytes, str], list[Document]]

__all__ = ["IngestSource", "as_time", "iso_time", "too_large", "with_facts"]

INSIDE = "!/"
"""In a key, stands between a container (an archive, a table) and what is in it."""

_LATEST_NS = (
    253_402_300_799 * 10**9
)  # the end of the year 9999: no date and no 64-bit integer holds much more


class IngestSource(Protocol):
    """What the pipeline needs of a source. It travels to worker processes, so it is small and can be pickled."""

    @property
    def key(self) -> str:
        """The name under which it is stored."""

    @property
    def size(self) -> int:
        """Bytes; 0 when unknown before reading."""

    @property
    def mtime_ns(self) -> int | None:
        """Time of the last modification; None when it has none, and then its content is always compared."""

    @property
    def error(self) -> SourceError | None:
        """A fault that is known already."""

    def content(self, max_bytes: int) -> bytes:
        """Return its bytes, or raise a `SourceError`."""

    def documents(self, content: bytes, extract: Extract) -> list[Document]:
        """Return its documents, each with metadata of its own, or raise a `SourceError`.

        Parameters
        ----------
        content : bytes
            What `content` gave.
        extract : callable
            ``extract(content, name)`` gives the documents in the bytes of a file; the name's extension says which
            format they have.
        """


def as_time(mtime_ns: int) -> int | None:
    """Return a time of modification; None for one that no calendar has, which some archives restore."""
    return mtime_ns if 0 <= mtime_ns <= _LATEST_NS else None


def iso_time(mtime_ns: int | None) -> str | None:
    """Return a time as documents carry it in ``modified``: ISO 8601, UTC, whole seconds."""
    if mtime_ns is None:
        return None
    return datetime.fromtimestamp(mtime_ns // 10**9, UTC).isoformat(timespec="seconds")


def with_facts(documents: list[Document], *, bytes: int, modified: str | None) -> list[Document]:
    """Note on each document what the source itself knows, and return them."""
    known: dict[str, int | str] = {"bytes": bytes}
    if modified is not None:
        known["modified"] = modified
    for document in documents:
        document.metadata.update(known)
    return documents


def too_large(name: str, size: int | None, max_bytes: int) -> SourceTooLargeError:
    """Return the error for a source over the limit; `size` is None where nobody says it."""
    has = "more" if size is None else size_text(size)
    return SourceTooLargeError(
        f"{name}: {has}, over the limit of {size_text(max_bytes)} for one document; "
        "split it, or raise ORACULO_MAX_FILE_MB"
    )


def twice(keys: Iterable[str]) -> str | None:
    """Return the first of several keys that comes a second time."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None
