"""Extract, update and compile the gettext catalogues: ``python -m tests.tools.catalogues`` (``make catalogues``).

It reads the package's source, adds new messages to each ``.po`` with an empty translation, drops those that are
gone, writes the ``.mo`` beside it, and lists what is left to translate. ``tests/test_messages.py`` fails until
nothing is left.
"""

from __future__ import annotations

import io
import string
import sys
from pathlib import Path

from babel.messages import mofile, pofile
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir

PACKAGE = Path(__file__).resolve().parents[2] / "oraculo_kit"
DOMAIN = "oraculo_kit"
LANGUAGES = ("pt_BR",)
KEYWORDS = {"_": None, "N_": None}
HEADER = """\
# What oraculo_kit says, in another language. The English texts are in the source.
# Translate here, then run: python -m tests.tools.catalogues"""


def po_path(language: str) -> Path:
    """Return the path of a language's ``.po``; its ``.mo`` lies beside it."""
    return PACKAGE / "locale" / language / "LC_MESSAGES" / f"{DOMAIN}.po"


class _Catalogue(Catalog):
    """A catalogue whose header holds nothing that changes by itself: no time, no version of Babel."""

    @property
    def mime_headers(self) -> list[tuple[str, str]]:
        """Return what gettext needs to read the messages."""
        return [
            ("Project-Id-Version", DOMAIN),
            ("Language", self.locale_identifier or ""),
            ("Plural-Forms", self.plural_forms),
            ("MIME-Version", "1.0"),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Transfer-Encoding", "8bit"),
        ]


def extract() -> dict[str, list[str]]:
    """Return every message that the package's source hands to a translator, with the files it comes from."""
    found: dict[str, list[str]] = {}
    messages = extract_from_dir(PACKAGE, method_map=[("**.py", "python")], keywords=KEYWORDS, comment_tags=())
    for name, _line, message, _comments, _context in messages:
        # No line numbers: they would change the file at every edit of the source.
        files = found.setdefault(message, [])
        files += {f"oraculo_kit/{Path(name).as_posix()}"} - set(files)
    return found


def read(language: str) -> Catalog:
    """Return a language's ``.po``."""
    with po_path(language).open("rb") as file:
        return pofile.read_po(file, locale=language, domain=DOMAIN)


def updated(language: str, old: Catalog) -> Catalog:
    """Return a catalogue of the messages in the source, with the translations of an old one.

    A message that is new or was changed starts empty: a guessed translation would be a wrong one that nobody
    looks at.
    """
    fresh = _Catalogue(language, DOMAIN, header_comment=HEADER, fuzzy=False)
    for message, files in extract().items():
        known = old.get(message)
        fresh.add(
            message,
            known.string if known is not None else "",
            locations=[(name, None) for name in files],
            flags=known.flags if known is not None else (),
            user_comments=known.user_comments if known is not None else (),
        )
    return fresh


def as_po(catalogue: Catalog) -> bytes:
    """Return a catalogue as the text of a ``.po``; the same for the same messages."""
    buffer = io.BytesIO()
    pofile.write_po(buffer, catalogue, width=110, sort_by_file=True, include_lineno=False)
    return buffer.getvalue()


def as_mo(catalogue: Catalog) -> bytes:
    """Return a catalogue compiled; the same for the same messages."""
    buffer = io.BytesIO()
    mofile.write_mo(buffer, catalogue)
    return buffer.getvalue()


def faults(catalogue: Catalog) -> list[str]:
    """Return what is wrong with a catalogue's translations: missing, fuzzy, or with other placeholders."""
    found = []
    for message in catalogue:
        if not message.id:
            continue
        translation = str(message.string or "")
        if not translation.strip():
            found.append(f"no translation: {message.id}")
        elif message.fuzzy:
            found.append(f"fuzzy translation: {message.id}")
        elif placeholders(str(message.id)) != placeholders(translation):
            found.append(f"other placeholders: {message.id}")
    return found


def placeholders(text: str) -> set[tuple[str, str]]:
    """Return names and formats of the ``{...}`` in a text.

    Examples
    --------
    >>> placeholders("{free} of {share:.0%}") == {("free", ""), ("share", ".0%")}
    True
    """
    return {(name, form or "") for _, name, form, _ in string.Formatter().parse(text) if name is not None}


def main() -> int:
    """Update every language's ``.po`` and ``.mo``, and print what is left to translate."""
    left = 0
    for language in LANGUAGES:
        path = po_path(language)
        catalogue = updated(language, read(language) if path.exists() else Catalog(language))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_po(catalogue))
        path.with_suffix(".mo").write_bytes(as_mo(catalogue))
        found = faults(catalogue)
        left += len(found)
        print(f"{path}: {len(catalogue)} messages, {len(found)} to do")
        print("".join(f"  {fault}\n" for fault in found), end="")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
