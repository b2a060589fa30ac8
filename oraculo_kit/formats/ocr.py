"""Text recognition (OCR) for pages that are pictures: the extra ``ocr``, which drives the Tesseract program.

It is an extra because it is slow (1 to 2 s a page) and because Tesseract is a program that pip cannot install.
``rapidocr-onnxruntime`` 1.4 needs no program, but the model in its wheel knows few accents (``Informacao``, ``ate``,
``coracao``), and with OpenCV and onnxruntime it weighs 396 MB.
"""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING

from oraculo_kit.errors import ExtractionError

if TYPE_CHECKING:
    from PIL.Image import Image

DPI = 300
"""What Tesseract's models were trained for."""

MAX_PIXELS = 40_000_000
"""An A3 page at 300 dpi has 17 million; posters are drawn smaller."""

SECONDS_A_PAGE = 60
_LANGUAGES = ("por", "eng")


def missing_part() -> str:
    """Return what has to be installed before pages can be recognised, ``""`` if nothing."""
    if importlib.util.find_spec("pytesseract") is None:
        return 'pip install "oraculo_kit[ocr]", and Tesseract with Portuguese'
    if shutil.which(_program()) is None:
        return "install Tesseract with Portuguese (Debian: apt install tesseract-ocr-por; conda: tesseract)"
    return ""


def _program() -> str:
    import pytesseract

    return str(pytesseract.pytesseract.tesseract_cmd)


def recognise(image: Image) -> str:
    """Return the text in a picture of a page, in Portuguese and English.

    Raises
    ------
    ExtractionError
        If Tesseract fails or takes longer than a minute.
    """
    import pytesseract

    try:
        installed = pytesseract.get_languages()
        languages = [name for name in _LANGUAGES if name in installed] or [
            name for name in installed if name != "osd"
        ][:1]
        text = pytesseract.image_to_string(
            image, lang="+".join(languages) or None, config=f"--dpi {DPI}", timeout=SECONDS_A_PAGE
        )
    except (RuntimeError, OSError) as exc:  # TesseractError and a timeout are RuntimeErrors
        raise ExtractionError(f"text recognition failed: {exc}") from exc
    return str(text).strip("\x0c\n ")
