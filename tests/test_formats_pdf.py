"""PDF: pages with text, pages that are pictures, and what is no PDF."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from oraculo_kit.errors import EmptySourceError, ExtractionError, ScannedDocumentError
from oraculo_kit.formats import ocr, pdf
from tests.tools.documents import HARD, make_pdf, make_scan
from tests.tools.loading import load, metadata, text_of

needs_ocr = pytest.mark.skipif(
    importlib.util.find_spec("pytesseract") is None or shutil.which("tesseract") is None,
    reason="text recognition is an extra: pip install oraculo_kit[ocr], and the Tesseract program",
)


@pytest.fixture
def without_ocr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a machine without the extra, whatever this one has."""
    monkeypatch.setattr(pdf, "missing_part", lambda: 'pip install "oraculo_kit[ocr]"')


@pytest.mark.usefixtures("without_ocr")
def test_a_pdf_is_a_document_per_page_that_has_text() -> None:
    documents = load(make_pdf([f"Página um: {HARD}", "", "Página três"], title="Relatório"), "a.pdf")
    assert metadata(documents, "page", "title") == [(1, "Relatório"), (3, "Relatório")]
    assert [document.page_content for document in documents] == [f"Página um: {HARD}", "Página três"]


def test_a_word_that_is_broken_at_a_line_end_can_be_found() -> None:
    from fpdf import FPDF

    pdf = FPDF()
    pdf.set_font("helvetica", size=12)
    pdf.add_page()
    pdf.multi_cell(
        60,
        6,
        "A infor\u00admação completa encontra-se aqui, extraordi\u00adnariamente hifenizada.",
        align="J",
    )
    assert "extraordinariamente" in text_of(bytes(pdf.output()), "a.pdf").replace("\n", "")


@pytest.mark.usefixtures("without_ocr")
def test_a_scanned_pdf_says_that_it_needs_ocr() -> None:
    with pytest.raises(
        ScannedDocumentError,
        match=r"a\.pdf: 2 pages but no text: it looks scanned and needs OCR .*oraculo_kit\[ocr\]",
    ):
        load(make_pdf(["", ""]), "a.pdf")


def test_an_encrypted_pdf_says_so() -> None:
    with pytest.raises(ExtractionError, match=r"a\.pdf: encrypted: it opens only with a password"):
        load(make_pdf(["segredo"], password="x"), "a.pdf")
    assert text_of(make_pdf(["aberto"]), "a.pdf") == "aberto"


def test_a_pdf_whose_page_tree_is_endless_is_refused() -> None:
    data = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[2 0 R]/Count 1000000>>endobj\ntrailer<</Root 1 0 R>>\n"
    )
    with pytest.raises(ExtractionError, match=r"a\.pdf: page 1 of .* is corrupt"):
        load(data, "a.pdf")


@pytest.mark.usefixtures("without_ocr")
def test_pages_that_nothing_could_read_are_counted_on_the_others() -> None:
    assert metadata(load(make_pdf(["texto", "", ""]), "a.pdf"), "page", "unread_pages") == [(1, 2)]
    assert metadata(load(make_pdf(["texto"]), "a.pdf"), "unread_pages") == [(None,)]


def test_a_pdf_of_blank_pages_is_empty_not_scanned() -> None:
    from fpdf import FPDF

    blank = FPDF()
    blank.add_page()
    with pytest.raises(EmptySourceError, match=r"^a\.pdf: there is no text in it") as caught:
        load(bytes(blank.output()), "a.pdf")
    assert not isinstance(caught.value, ScannedDocumentError)


def test_the_language_that_a_pdf_declares_is_kept() -> None:
    from fpdf import FPDF

    document = FPDF()
    document.set_lang("es-AR")
    document.set_font("helvetica", size=12)
    document.add_page()
    document.multi_cell(0, 8, "hola")
    assert metadata(load(bytes(document.output()), "a.pdf"), "lang") == [("es",)]


def test_what_is_missing_for_ocr_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert ocr.missing_part().startswith('pip install "oraculo_kit[ocr]"')


@needs_ocr
def test_a_scanned_page_is_read_by_text_recognition() -> None:
    text = "Informação: o município emite a nota fiscal até o dia 15 de março."
    (document,) = load(make_scan(text), "a.pdf")
    assert document.page_content == text
    assert (document.metadata["page"], document.metadata["ocr"]) == (1, True)


@needs_ocr
def test_pages_with_text_are_not_recognised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "recognise", lambda image: pytest.fail("asked for a page with text"))
    assert metadata(load(make_pdf(["texto"]), "a.pdf"), "ocr") == [(None,)]
