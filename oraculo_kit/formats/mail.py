"""E-mail messages (.eml): the headers that matter, the text, the names of attachments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.markup import html_text
from oraculo_kit.formats.text import decode

if TYPE_CHECKING:
    from langchain_core.documents import Document

_SHOWN_HEADERS = ("Subject", "From", "To", "Cc", "Date")


def load_eml(data: bytes, name: str) -> list[Document]:
    """Read a message: one document titled by its subject; attachments are named, not read."""
    from email import message_from_bytes, policy
    from email.message import EmailMessage

    from langchain_core.documents import Document

    message = message_from_bytes(data, policy=policy.default)
    lines = [f"{header}: {message[header]}" for header in _SHOWN_HEADERS if message[header]]
    if not lines:
        raise ExtractionError("not an e-mail: it has no Subject, From, To or Date line")
    attachments = [
        part.get_filename() or "?" for part in message.iter_attachments() if isinstance(part, EmailMessage)
    ]
    if attachments:
        lines.append(f"Attachments: {', '.join(attachments)}")
    text = ""
    if (body := message.get_body(("plain", "html"))) is not None:
        payload = body.get_payload(decode=True)
        text = decode(payload, body.get_content_charset()) if isinstance(payload, bytes) and payload else ""
        if body.get_content_subtype() == "html":
            text = html_text(text)[0]
    content = "\n".join(lines) + "\n\n" + text
    return [Document(page_content=content, metadata={"title": str(message["Subject"] or "")})]
