"""Bytes and open files as sources."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oraculo_kit.discovery import source_key
from oraculo_kit.errors import SourceError, SourceUnreadableError
from oraculo_kit.formats import extension_of
from oraculo_kit.inputs.base import too_large, with_facts
from oraculo_kit.storage.records import clean_text

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from oraculo_kit.inputs.base import Extract


@dataclass(frozen=True)
class BytesSource:
    """A document held in memory; its bytes travel with it."""

    key: str
    data: bytes = field(repr=False)
    error: SourceError | None = None
    mtime_ns: int | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)

    def content(self, max_bytes: int) -> bytes:
        """Return the bytes."""
        if len(self.data) > max_bytes:
            raise too_large(self.key, None, max_bytes)
        return self.data

    def documents(self, content: bytes, extract: Extract) -> list[Document]:
        """Extract the text."""
        documents = extract(content, os.path.basename(self.key))
        return with_facts(documents, bytes=len(content), modified=None)


def is_bytes(given: object) -> bool:
    """Tell bytes, and files that are open."""
    return isinstance(given, bytes | bytearray | memoryview) or callable(getattr(given, "read", None))


def bytes_source(given: Any, name: str | None, max_bytes: int) -> BytesSource:
    """Return bytes, or what an open file has left to read, as a source.

    Parameters
    ----------
    given : bytes-like or file object
        Of a file, a byte over `max_bytes` is read at most.
    name : str or None
        The source's key; its extension says which format the bytes have. By default what an open file is called.
    max_bytes : int

    Raises
    ------
    SourceError
        Without a name that has an extension, or when the file cannot be read.
    """
    key = clean_text(name) if name else _file_name(given)
    if key is None or not extension_of(key):
        got = "none" if key is None else repr(key)
        raise SourceError(
            f"{type(given).__name__} needs name=, a file name whose extension says which format it has, such as "
            f'name="nota.pdf"; got {got}'
        )
    if isinstance(given, bytes | bytearray | memoryview):
        return BytesSource(key, bytes(given))
    try:
        data = given.read(max_bytes + 1)
    except (OSError, ValueError) as exc:
        raise SourceUnreadableError(f"{key}: the open file cannot be read: {exc}") from exc
    return BytesSource(key, data.encode() if isinstance(data, str) else bytes(data))


def _file_name(given: Any) -> str | None:
    name = getattr(given, "name", None)
    if not isinstance(name, str) or not name:
        return None
    # A file of this machine is the same source as its path.
    return source_key(name) if os.path.isfile(name) else clean_text(name)
