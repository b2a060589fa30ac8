"""Plain text, source code and Markdown; encodings found, flagged and repaired."""

from __future__ import annotations

import pytest

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats import is_supported
from oraculo_kit.formats.text import FORMAT_KEY, decode, find_headings, looks_broken
from tests.tools.documents import make_xlsx
from tests.tools.loading import load, metadata, text_of


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1"])
@pytest.mark.parametrize("text", ["é", "Não há pães.", "à vista – 10 % “já”", "MAÇÃ, ÁREA TÉCNICA; coração"])
def test_text_in_any_usual_encoding_comes_out_right(text: str, encoding: str) -> None:
    if encoding == "latin-1":
        text = text.translate({ord("–"): "-", ord("“"): '"', ord("”"): '"'})  # it has no typographic marks
    (document,) = load(text.encode(encoding), "a.txt")
    assert document.page_content == text
    assert "encoding_suspect" not in document.metadata


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_its_mark_is_known_by_its_zeros(encoding: str) -> None:
    text = "Relatório de produção – “já”: às vezes há atrasos.\r\n" * 100
    assert decode(text.encode(encoding)) == text
    assert decode("não".encode(encoding)) == "não"
    with pytest.raises(ExtractionError, match="not text"):
        decode(b"\0\1\2\3" * 1000)


def test_bytes_that_cp1252_lacks_are_latin_1() -> None:
    assert decode("ação \x81".encode("latin-1")) == "ação \x81"


def test_utf8_that_is_cut_in_mid_character_stays_utf8_and_is_flagged() -> None:
    (document,) = load("informação e emoção".encode()[:-2] + b"\xc3", "a.txt")
    assert document.page_content.startswith("informação e emoç")
    assert document.metadata["encoding_suspect"] is True


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_text_that_was_decoded_wrongly_before_is_flagged(encoding: str) -> None:
    (document,) = load("informação, São João".encode().decode(encoding), "a.md")
    assert document.metadata["encoding_suspect"] is True


@pytest.mark.parametrize("text", ["“MAÇÔ", "CÂMARA À VISTA; Nº 1ª", "IRMÃ\u00a0ROSA", "10 € – 5 °C"])
def test_good_portuguese_is_not_flagged(text: str) -> None:
    assert not looks_broken(text)


def test_a_binary_file_named_txt_is_refused() -> None:
    with pytest.raises(ExtractionError, match=r"^a\.txt: not text: .* control characters"):
        load(make_xlsx(), "a.txt")
    with pytest.raises(ExtractionError, match="not text"):
        load(bytes(range(256)) * 10, "a.txt")


def test_a_log_with_a_few_nuls_is_text() -> None:
    (document,) = load("line of a log\n" * 100 + "\0\0", "a.log")
    assert document.page_content.endswith("log\n\ufffd\ufffd")


def test_source_code_is_text() -> None:
    assert text_of("def f():\r\n    return 1  # ção\n", "a.py") == "def f():\n    return 1  # ção\n"


def test_markdown_is_titled_by_front_matter_or_first_heading() -> None:
    assert metadata(
        load("---\nlang: pt\ntitle: 'O título'\n---\n# Outro\n", "a.md"), "title", FORMAT_KEY
    ) == [("O título", "markdown")]
    assert metadata(load("intro\n\n## **Um** [link](http://x) ##\n", "a.md"), "title") == [("**Um** link",)]
    assert metadata(load("no heading", "a.md"), "title") == [(None,)]


def test_headings_inside_fences_are_none() -> None:
    text = "~~~\n# a\n```\n# b\n~~~\n# c\n````\n```\n# d\n````\n#e\n####### f\n### *g*\n"
    assert [(level, title) for _, level, title in find_headings(text)] == [(1, "c"), (3, "g")]
    assert all(text[offset] == "#" for offset, _, _ in find_headings(text))


def test_portuguese_of_old_dos_programs_comes_out_right() -> None:
    text = "Relação de débitos do município: três órgãos, água e coração."
    assert decode(text.encode("cp850")) == text
    assert decode("naïve façade “ok” 5 ¢ each".encode("cp1252")) == "naïve façade “ok” 5 ¢ each"


BROKEN = "informação – “São João”, até".encode().decode("cp1252", "replace").replace("\ufffd", "\x9d")


def test_a_wrong_encoding_is_repaired_if_that_is_asked_for() -> None:
    (kept,) = load(BROKEN, "a.md")
    assert (kept.page_content, kept.metadata["encoding_suspect"]) == (BROKEN, True)
    (repaired,) = load("# título bom\n\n" + BROKEN + "\n\nMAÇÃ “boa”", "a.md", fix_text=True)
    assert repaired.page_content == "# título bom\n\ninformação – “São João”, até\n\nMAÇÃ “boa”"
    assert repaired.metadata == {"title": "título bom", FORMAT_KEY: "markdown", "encoding_repaired": True}


def test_a_broken_title_is_repaired_too_and_what_is_lost_stays_flagged() -> None:
    page = "<title>InformaÃ§Ã£o</title><p>informaÃ§Ã£o e emo\ufffd\ufffdo</p>"
    (document,) = load(page, "a.html", fix_text=True)
    assert document.metadata["title"] == "Informação"
    assert document.page_content.startswith("informação e emo\ufffd")
    assert document.metadata["encoding_repaired"] is document.metadata["encoding_suspect"] is True


def test_good_text_is_not_touched_by_the_repair() -> None:
    good = "IRMÃ\u00a0ROSA, “aspas” e ﬁm; MAÇÔ"
    (document,) = load(good, "a.txt", fix_text=True)
    assert document.page_content == good
    assert not {"encoding_repaired", "encoding_suspect"} & set(document.metadata)


@pytest.mark.parametrize(
    "name", ["a.log", "a.yaml", "a.toml", "a.rst", "a.sql", "a.java", "a.ipynb", "a.xhtml", "a.ods"]
)
def test_usual_names_are_supported(name: str) -> None:
    assert is_supported(name)


@pytest.mark.parametrize(
    ("data", "name", "language"),
    [
        ('<html lang="es-MX"><p>hola</p>', "a.html", "es"),
        ('<html lang="en"><p>A nota fiscal é emitida pelo município.</p>', "a.html", "pt"),
        ("---\nlang: pt-BR\n---\ntexto", "a.md", "pt"),
        ("<html lang='$x'><p>hola</p>", "a.html", None),
        ("texto", "a.md", None),
    ],
)
def test_the_language_is_that_of_the_text_or_else_the_declared_one(
    data: str, name: str, language: str | None
) -> None:
    (document,) = load(data, name)
    assert document.metadata.get("lang") == language
