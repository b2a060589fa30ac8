"""Text that was decoded with the wrong encoding, put right: ``informaÃ§Ã£o`` becomes ``informação``.

``ftfy`` undoes the damage; it is asked about lines that show the marks of it, and about the encoding alone. On good
text it is not harmless: of ``IRMÃ ROSA`` with a non-breaking space it makes ``IRMàROSA``, and it would straighten
typographic quotes.
"""

from __future__ import annotations

from oraculo_kit.formats.text import looks_broken


def repair_text(text: str) -> str:
    """Return the text with the lines that look wrongly decoded put right, as far as nothing was lost.

    Examples
    --------
    >>> repair_text("informaÃ§Ã£o â€“ “já”")
    'informação – “já”'
    """
    import ftfy

    only_encoding = ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
    )
    return "\n".join(
        ftfy.fix_text(line, only_encoding) if looks_broken(line) else line for line in text.split("\n")
    )
