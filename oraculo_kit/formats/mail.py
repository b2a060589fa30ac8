"""E-mail messages (.eml): the headers that matter, the text, forwarded messages, the names of attachments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.markup import html_text
from oraculo_kit.formats.text import decode

if TYPE_CHECKING:
    from email.message import EmailMessage

    from langchain_core.documents import Document

_SHOWN_HEADERS = ("Subject", "From", "To", "Cc", "Date")
_DEEPEST = 10  # messages in messages: more is no correspondence


def load_eml(data: bytes, name: str) -> list[Document]:
    """Read a message: one document titled by its subject.

    Messages that are attached to it (forwarded ones) are read with it; other attachments are named, not read.
    """
    from email import message_from_bytes, policy

    from langchain_core.documents import Document

    message = message_from_bytes(data, policy=policy.default)
    if not any(message[header] for header in _SHOWN_HEADERS):
        raise ExtractionError("not an e-mail: it has no Subject, From, To or Date line")
    content = "\n\n".join(_letters(message, _DEEPEST))
    return [Document(page_content=content, metadata={"title": str(message["Subject"] or "")})]


def _letters(message: EmailMessage, deepest: int) -> Iterator[str]:
    """Yield the text of a message, and of those attached to it."""
    from email.message import EmailMessage

    lines = [f"{header}: {message[header]}" for header in _SHOWN_HEADERS if message[header]]
    attached: list[EmailMessage] = []
    names: list[str] = []
    for part in message.iter_attachments():
        held = part.get_payload() if part.get_content_type() == "message/rfc822" else None
        inner = held[0] if isinstance(held, list) and held else None
        if isinstance(inner, EmailMessage):
            attached.append(inner)
        subject = inner["Subject"] if isinstance(inner, EmailMessage) else None
        names.append(str(part.get_filename() or subject or "?"))
    if names:
        lines.append(f"Attachments: {', '.join(names)}")
    yield "\n".join(lines) + "\n\n" + _body(message)
    for inner in attached if deepest else ():
        yield from _letters(inner, deepest - 1)


def _body(message: EmailMessage) -> str:
    if (body := message.get_body(("plain", "html"))) is None:
        return ""
    payload = body.get_payload(decode=True)
    text = decode(payload, body.get_content_charset()) if isinstance(payload, bytes) and payload else ""
    return html_text(text)[0] if body.get_content_subtype() == "html" else text
