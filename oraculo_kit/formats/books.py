"""EPUB books: a document per part of the reading order, through the HTML reader."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.archive import open_archive, read_member
from oraculo_kit.formats.markup import declared_encoding, element_text, html_text, ignore, parse_xml
from oraculo_kit.formats.text import decode, markdown_document

if TYPE_CHECKING:
    from langchain_core.documents import Document

_PAGES = ("application/xhtml+xml", "text/html")


def load_epub(data: bytes, name: str) -> list[Document]:
    """Read an EPUB: its parts in reading order, titled by the book, the table of contents left out."""
    with open_archive(data) as archive:
        package = _find_package(read_member(archive, "META-INF/container.xml"))
        parts, title, language = _read_package(read_member(archive, package))
        documents = []
        for part in parts:
            content = read_member(
                archive, posixpath.normpath(posixpath.join(posixpath.dirname(package), part))
            )
            text, part_title = html_text(decode(content, declared_encoding(content)))
            documents.append(markdown_document(text, title or part_title, language))
        return documents


def _find_package(container: bytes) -> str:
    paths: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "rootfile":
            paths.append(attributes.get("full-path", ""))

    parse_xml(container, start, ignore, ignore)
    if not paths:
        raise ExtractionError("not an EPUB: its container names no book")
    return paths[0]


def _read_package(package: bytes) -> tuple[list[str], str, str]:
    """Return the paths of the parts in reading order, the book's title and its language."""
    manifest: dict[str, str] = {}
    order: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "item" and attributes.get("media-type") in _PAGES:
            if "nav" not in attributes.get("properties", "").split():
                manifest[attributes.get("id", "")] = unquote(attributes.get("href", ""))
        elif tag == "itemref":
            order.append(attributes.get("idref", ""))

    parse_xml(package, start, ignore, ignore)
    parts = [manifest[part] for part in order if part in manifest]
    return parts, element_text(package, "title"), element_text(package, "language")
