"""Short ways to load a document in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from oraculo_kit.errors import SourceError
from oraculo_kit.load import load_bytes

SAMPLES = Path(__file__).parent.parent / "samples"


def load(data: bytes | str, name: str, **options: Any) -> list[Document]:
    return load_bytes(data.encode() if isinstance(data, str) else data, name=name, **options)


def text_of(data: bytes | str, name: str) -> str:
    (document,) = load(data, name)
    return document.page_content


def texts_of(data: bytes | str, name: str) -> list[str]:
    return [document.page_content for document in load(data, name)]


def metadata(documents: list[Document], *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(document.metadata.get(key) for key in keys) for document in documents]


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def loads_or_says_why(data: bytes, name: str) -> bool:
    """Check that a damaged document gives documents with text or an error that names it; tell whether it loaded."""
    try:
        documents = load_bytes(data, name=name)
    except SourceError as exc:
        message = str(exc)
        assert message.startswith(f"{name}: ")
        assert len(message) <= 300
        assert "\n" not in message
        return False
    assert documents
    assert all(document.page_content.strip() for document in documents)
    return True
