"""What the user reads, in English or Brazilian Portuguese.

English texts in the code are the keys of gettext catalogues in ``locale/``. Start-up lines, banner, status and
doctor are translated; exceptions stay English, so that they can be searched for. The language comes from
``ORACULO_LANG``, otherwise from the locale, otherwise it is English.

**How a text becomes translatable.** Babel reads the source, so it must see the text itself: write
``_("a literal")`` where ``_`` is a `translator`, or mark a literal that is translated later with ``N_("...")``.
Values go in afterwards, ``_("{count} files").format(count=3)``; an f-string would never be found. Then run
``python -m tests.tools.catalogues`` and translate what it lists in ``locale/pt_BR/LC_MESSAGES/oraculo_kit.po``;
a test fails until that is done.
"""

from __future__ import annotations

import gettext
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

LOCALE_FOLDER = Path(__file__).parent / "locale"


def supported_language(text: str) -> str | None:
    """Return ``"en"`` or ``"pt_BR"`` for a language tag or locale name, or None.

    Examples
    --------
    >>> [supported_language(tag) for tag in ("pt_BR.UTF-8", "PT-br", "pt", "C", "en_GB", "de_DE")]
    ['pt_BR', 'pt_BR', 'pt_BR', 'en', 'en', None]
    """
    tag = text.partition(".")[0].partition("@")[0].replace("-", "_").casefold()
    # Windows names locales in words: "Portuguese_Brazil", "English_United States".
    if tag == "pt" or tag.startswith(("pt_", "portuguese")):
        return "pt_BR"
    if tag in ("c", "posix", "en") or tag.startswith(("en_", "english")):
        return "en"
    return None


def locale_language(environ: Mapping[str, str]) -> str:
    """Return the language of the locale; English when it is none of ours.

    Reads the variables that POSIX and gettext read, in their order, and the system's setting on Windows and
    macOS, where programs often start without them.
    """
    for variable in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = environ.get(variable, "").partition(":")[0]
        if value:
            return supported_language(value) or "en"
    if environ is not os.environ:
        return "en"
    import locale

    return supported_language(locale.getlocale()[0] or "") or "en"


def N_(message: str) -> str:  # noqa: N802 - the name that gettext users know
    """Return `message` unchanged: it marks a literal that a `translator` will be given later.

    Examples
    --------
    >>> N_("joblib workers")
    'joblib workers'
    """
    return message


@cache
def translator(language: str) -> Callable[[str], str]:
    """Return the function that translates an English message into `language`."""
    if language == "en":
        return gettext.NullTranslations().gettext
    # fallback: an installation without its catalogue speaks English; that must not keep the services from starting
    return gettext.translation("oraculo_kit", LOCALE_FOLDER, languages=[language], fallback=True).gettext


def current_translator() -> Callable[[str], str]:
    """Return the translator for this process: ``ORACULO_LANG``, otherwise the locale.

    A language that is not supported counts as not set here: `Settings` refuses it with its name, and the message
    that says so must not fail itself.
    """
    chosen = supported_language(os.environ.get("ORACULO_LANG", ""))
    return translator(chosen or locale_language(os.environ))
