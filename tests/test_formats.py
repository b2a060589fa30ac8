"""Every format, on files made by real writers, with a corrupted twin and hostile ones."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.text import FORMAT_KEY
from oraculo_kit.load import load_bytes
from oraculo_kit.split import split_documents
from tests.tools.documents import (
    HARD,
    make_docx,
    make_eml,
    make_epub,
    make_notebook,
    make_odt,
    make_pdf,
    make_pptx,
    make_xlsx,
    repack,
)
from tests.tools.loading import load, metadata, text_of


def spoil(data: bytes, member: str) -> bytes:
    """Return a zip container in which the packed bytes of one member are overwritten."""
    info = zipfile.ZipFile(io.BytesIO(data)).getinfo(member)
    start = info.header_offset + 30 + len(member) + 20
    return data[:start] + b"\xff" * 40 + data[start + 40 :]


# HTML and XML


def test_html_is_the_text_that_a_reader_sees() -> None:
    page = """<!doctype html><html><head><title>Nota &amp; prazo</title><style>p {color: red}</style>
    <script>if (a < b) document.write("<p>não</p>")</script></head><body><nav><a href="/">menu</a></nav>
    <!-- comentário <p>não</p> --><h1><span>Como emitir</span></h1>
    <p>Texto com <b>neg</b>rito,
    quebra<br>e <a title="x > y" href='#'>ligação</a> &euro; 5 &lt; 6.</p>
    <ul><li><p>um</p></li><li>dois</ul><table><tr><th>A</th><th>B</th></tr><tr><td><p>1</p></td><td>2</td></tr></table>
    <pre>def f():
        return 1</pre><svg><text>não</text></svg><h2></h2></body></html>"""
    (document,) = load(page, "a.html")
    assert document.metadata == {"title": "Nota & prazo", FORMAT_KEY: "markdown"}
    assert document.page_content == (
        "# Como emitir\n\nTexto com negrito, quebra\ne ligação € 5 < 6.\n\n- um\n\n- dois\n\nA | B\n1 | 2\n\n"
        "def f():\n        return 1"
    )


def test_html_headings_reach_the_chunks() -> None:
    documents = load("<h1>Guia</h1><p>a</p><h2>Prazo</h2><p>b</p>", "a.htm")
    chunks = split_documents(documents, chunk_size=1000, chunk_overlap=0)
    assert metadata(chunks, "heading") == [("Guia",), ("Guia > Prazo",)]


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("cp1252", "windows-1252"),
        ("cp1252", ""),
        ("utf-8", "utf-8"),
        ("utf-8", "iso-8859-1"),
        ("koi8-r", "koi8-r"),
    ],
)
def test_html_in_the_encoding_that_it_declares_or_hides(encoding: str, declared: str) -> None:
    word = "привет" if encoding == "koi8-r" else "informação"
    page = f'<meta charset="{declared}"><p>{word}</p>' if declared else f"<p>{word}</p>"
    assert text_of(page.encode(encoding), "a.html") == word


@pytest.mark.parametrize(
    "part",
    [
        "<div>",
        "<b><i><table><tr><td>",
        "<a ",
        '<a b="',
        "<!--",
        "<nav>",
        "<script></",
        "<title>",
        "</",
        "&",
        "= ",
        "<p/ ",
        " ",
    ],
)
def test_hostile_html_takes_time_in_proportion_to_its_size(part: str) -> None:
    started = time.process_time()
    text_of(f"<p>texto</p><pre>{part * 100_000}fim", "a.html")
    assert time.process_time() - started < 5  # quadratic would be minutes


def test_xml_becomes_lines_of_elements_and_attributes() -> None:
    nota = """<?xml version="1.0" encoding="windows-1252"?><!-- c --><n:nota xmlns:n="urn:n" versao="4.00">
    <emit><xNome>P&amp;D Café</xNome><vazio/></emit><p>um <b>dois</b> três</p></n:nota>"""
    assert text_of(nota.encode("cp1252"), "nota.xml") == (
        "nota@versao: 4.00\nxNome: P&D Café\np: um\nb: dois\np: três"
    )


def test_deeply_nested_xml_is_read() -> None:
    assert text_of("<a>" * 100_000 + "fundo" + "</a>" * 100_000, "a.xml") == "a: fundo"


def test_a_billion_laughs_and_external_entities_are_refused(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<!DOCTYPE l [<!ENTITY l0 "lol">{laughs}]><l>&l9;</l>'
    (tmp_path / "secret.txt").write_text("segredo", encoding="utf-8")
    external = f'<!DOCTYPE l [<!ENTITY x SYSTEM "{(tmp_path / "secret.txt").as_uri()}">]><l>&x;</l>'
    for document in (bomb, external):
        with pytest.raises(ExtractionError, match=r"^a\.xml: declares the XML entity"):
            load(document, "a.xml")
    for data, member, name in (
        (make_docx(), "word_document_xml", "a.docx"),
        (make_odt(), "content_xml", "a.odt"),
        (make_epub(), "EPUB_content_opf", "a.epub"),
    ):
        with pytest.raises(ExtractionError, match="declares the XML entity"):
            load(repack(data, **{member: lambda _: bomb.encode()}), name)
    sheet = repack(
        make_xlsx(),
        xl_worksheets_sheet1_xml=lambda xml: (
            bomb.partition("<l>")[0].encode() + xml.replace(b"mesclada", b"&l9;")
        ),
    )
    with pytest.raises(ExtractionError, match=r"a\.xlsx: cannot be read as \.xlsx"):
        load(sheet, "a.xlsx")


# JSON and notebooks


def test_a_json_list_of_objects_is_a_document_per_element() -> None:
    value = [
        {"nome": "Café", "preço": 1.50, "tags": ["a", "b"], "nada": None},
        {"itens": [{"n": 1}, {"n": True}]},
    ]
    documents = load(json.dumps(value), "a.json")
    assert [document.page_content for document in documents] == [
        "nome: Café\npreço: 1.5\ntags: a, b",
        "itens[0].n: 1\nitens[1].n: true",
    ]
    assert metadata(documents, "row") == [(1,), (2,)]


def test_a_json_object_is_one_document_and_numbers_stay_as_written() -> None:
    assert text_of('{"a": {"b": 1.50, "c": NaN}, "d": ' + "9" * 5000 + "}", "a.json") == (
        "a.b: 1.50\na.c: NaN\nd: " + "9" * 5000
    )


def test_json_lines_are_numbered_and_a_bad_one_is_named() -> None:
    documents = load('{"a": "x\u2028y"}\n\n{"a": 2}\n', "a.jsonl")
    assert metadata(documents, "row") == [(1,), (3,)]
    with pytest.raises(ExtractionError, match=r"a\.jsonl: line 2 is not JSON"):
        load('{"a": 1}\n{"a": ', "a.jsonl")


@pytest.mark.parametrize("bomb", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "1" + "]" * 100_000])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ipynb"])
def test_deeply_nested_json_is_refused(bomb: str, name: str) -> None:
    with pytest.raises(ExtractionError, match=f"{name}: nested too deeply"):
        load(bomb, name)


def test_a_notebook_gives_its_cells_in_order_without_outputs() -> None:
    (document,) = load(make_notebook(), "a.ipynb")
    assert document.metadata == {"title": "Análise", FORMAT_KEY: "markdown"}
    assert document.page_content == (
        "# Análise\n\nTexto com ![figura]().\n\n````\n# comentário\nprint('```')\n````\n\n## Fim"
    )
    chunks = split_documents([document], chunk_size=1000, chunk_overlap=0)
    assert metadata(chunks, "heading") == [("Análise",), ("Análise > Fim",)]


def test_a_notebook_of_the_third_format_is_read() -> None:
    cells = [{"cell_type": "code", "input": ["a = 1\n", "b = 2"]}, {"cell_type": "markdown", "source": "# T"}]
    assert (
        text_of(json.dumps({"worksheets": [{"cells": cells}]}), "a.ipynb") == "```\na = 1\nb = 2\n```\n\n# T"
    )


# Office, books, mail


def test_docx_keeps_headings_tables_and_every_character() -> None:
    (document,) = load(make_docx(), "a.docx")
    assert document.metadata == {"title": "Manual de uso", FORMAT_KEY: "markdown"}
    assert document.page_content == (
        f"Manual de uso\n\n# Introdução\n\nParte negrito\tdepois\n\n{HARD}\n\n## Tabela\n\n"
        "Item | Valor\nCafé | 12,50\n\nFim."
    )


def test_docx_text_boxes_controls_and_insertions_are_read_and_deletions_are_not() -> None:
    xml = (
        '<w:p xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
        'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        "<w:pPr><w:tabs><w:tab w:val='left'/></w:tabs><w:numPr/></w:pPr>"
        "<w:r><w:t>linha</w:t><w:br/><w:t>dois</w:t></w:r><w:ins><w:r><w:t> nova</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText> apagada</w:delText></w:r></w:del><w:r><w:instrText>PAGE</w:instrText></w:r>"
        "<w:r><mc:AlternateContent><mc:Choice><w:txbxContent><w:p><w:r><w:t>caixa</w:t></w:r></w:p></w:txbxContent>"
        "</mc:Choice><mc:Fallback><w:p><w:r><w:t>caixa</w:t></w:r></w:p></mc:Fallback></mc:AlternateContent></w:r></w:p>"
        '<w:sdt xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:sdtContent><w:p><w:r>'
        "<w:t>controle</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    )
    data = repack(
        make_docx(), word_document_xml=lambda old: old.replace(b"<w:sectPr", xml.encode() + b"<w:sectPr", 1)
    )
    assert text_of(data, "a.docx").endswith("Fim.\n\ncaixa\n\n- linha\ndois nova\n\ncontrole")


def test_docx_headings_are_known_in_the_language_of_their_word() -> None:
    def translate(xml: bytes) -> bytes:
        return xml.replace(b'w:styleId="Heading', b'w:styleId="Ttulo').replace(
            b'w:val="Heading', b'w:val="Ttulo'
        )

    data = repack(make_docx(), word_document_xml=translate, word_styles_xml=translate)
    assert "\n# Introdução\n" in text_of(data, "a.docx")


def test_docx_outline_levels_nested_tables_and_notes_are_read() -> None:
    namespace = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    outline = f'<w:p {namespace}><w:pPr><w:outlineLvl w:val="2"/></w:pPr><w:r><w:t>Nível</w:t></w:r></w:p>'
    inner = "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>dentro</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
    outer = (
        f"<w:tbl {namespace}><w:tr><w:tc><w:p><w:r><w:t>fora</w:t></w:r></w:p>{inner}</w:tc></w:tr></w:tbl>"
    )
    note = f"<w:footnotes {namespace}><w:footnote><w:p><w:r><w:t>nota</w:t></w:r></w:p></w:footnote></w:footnotes>"

    def add(xml: bytes) -> bytes:
        return xml.replace(b"<w:sectPr", (outline + outer).encode() + b"<w:sectPr", 1)

    data = io.BytesIO(repack(make_docx(), word_document_xml=add))
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("word/footnotes.xml", note)
    assert text_of(data.getvalue(), "a.docx").endswith("Fim.\n\n### Nível\n\nfora dentro\n\nnota")


def test_pptx_is_a_document_per_slide_in_the_order_of_the_presentation() -> None:
    documents = load(make_pptx(), "a.pptx")
    assert metadata(documents, "page", "heading", "title") == [
        (1, "Segundo", "Apresentação"),
        (2, "Primeiro", "Apresentação"),
    ]
    assert [document.page_content for document in documents] == [
        "Segundo\n\na\tb\n\nnota do orador",
        f"Primeiro\n\n{HARD}",
    ]


def test_odt_keeps_headings_lists_and_tables() -> None:
    (document,) = load(make_odt(), "a.odt")
    assert document.page_content == f"## Seção\n\nantes\t{HARD}\n\n- um\n- dois\n\nCafé | 12,50"
    assert document.metadata["title"] == "Seção"


def test_epub_parts_come_in_reading_order_without_the_contents() -> None:
    documents = load(make_epub(), "a.epub")
    assert [document.page_content for document in documents] == [
        f"# Capítulo {number}\n\nEra não P&D." for number in (2, 1)
    ]
    assert metadata(documents, "title") == [("O livro",)] * 2


@pytest.mark.parametrize(
    ("body", "subtype"), [("Olá, P&D <x>", "plain"), ("<p>Olá, P&amp;D &lt;x&gt;</p>", "html")]
)
def test_eml_gives_headers_text_and_names_of_attachments(body: str, subtype: str) -> None:
    (document,) = load(make_eml(body, subtype), "a.eml")
    assert document.page_content.strip() == (
        "Subject: Reunião\nFrom: José <a@example.org>\nTo: b@example.org\nAttachments: anexo.csv\n\nOlá, P&D <x>"
    )
    assert document.metadata == {"title": "Reunião"}


def test_eml_is_read_with_the_messages_that_are_forwarded_in_it() -> None:
    message = EmailMessage()
    message["Subject"], message["From"] = "Prazo", "ana@example.org"
    message.set_content("O prazo é sexta-feira.")
    for level in range(1, 13):
        outer = EmailMessage()
        outer["Subject"], outer["From"] = f"Enc {level}", "bia@example.org"
        outer.set_content(f"segue {level}")
        outer.add_attachment(message)
        message = outer
        if level == 2:
            (document,) = load(message.as_bytes(), "a.eml")
    text = " ".join(document.page_content.split())
    assert document.metadata == {"title": "Enc 2"}
    assert text.startswith("Subject: Enc 2 From: bia@example.org Attachments: Enc 1 segue 2 Subject: Enc 1")
    assert text.endswith("segue 1 Subject: Prazo From: ana@example.org O prazo é sexta-feira.")
    (deep,) = load(message.as_bytes(), "a.eml")
    assert "segue 2" in deep.page_content
    assert "segue 1\n" not in deep.page_content  # ten levels are enough


# The same for all


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: make_pdf(["texto"])[:300], "a.pdf"),
        (lambda: b"not a PDF at all", "a.pdf"),
        (lambda: make_docx()[:5000], "a.docx"),
        (lambda: make_xlsx(), "a.docx"),
        (lambda: make_docx(), "a.xlsx"),
        (lambda: make_xlsx()[:2000], "a.xlsx"),
        (lambda: repack(make_xlsx(), xl_worksheets_sheet1_xml=lambda xml: xml[: len(xml) // 2]), "a.xlsx"),
        (lambda: repack(make_docx(), word_document_xml=lambda xml: xml[: len(xml) // 2]), "a.docx"),
        (lambda: make_docx().replace(b"word/document.xml", b"word/document.xxx"), "a.docx"),
        (lambda: spoil(make_docx(), "word/document.xml"), "a.docx"),
        (lambda: make_pptx()[:9000], "a.pptx"),
        (lambda: make_docx(), "a.pptx"),
        (lambda: make_odt()[:500], "a.odt"),
        (lambda: make_docx(), "a.odt"),
        (lambda: make_epub()[:900], "a.epub"),
        (lambda: make_odt(), "a.epub"),
        (lambda: b"no header of a mail", "a.eml"),
        (lambda: make_notebook()[:200], "a.ipynb"),
        (lambda: b'["no", "notebook"]', "a.ipynb"),
        (lambda: b'{"a": [1, 2', "a.json"),
        (lambda: b"<a><b>text</a>", "a.xml"),
        (lambda: b'a,b\n1,"open\n2,3\n', "a.csv"),
        (lambda: b'a,b\n1,"x"y\n', "a.csv"),
        (lambda: b"a\n" + b"x" * 200_000, "a.csv"),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "a.md"),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "a.html"),
    ],
)  # fmt: skip
def test_a_corrupted_twin_is_an_extraction_error_that_names_the_file(
    make: Callable[[], bytes], name: str
) -> None:
    with pytest.raises(ExtractionError, match=rf"^{name}: \w") as caught:
        load_bytes(make(), name=f"/folder/{name}")
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.docx", "a.xlsx", "a.pptx"])
def test_an_encrypted_office_file_says_so(name: str) -> None:
    with pytest.raises(
        ExtractionError, match=f"{name}: encrypted with a password, or an old binary Office file"
    ):
        load(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(4096), name)


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    document = zipfile.ZipFile(io.BytesIO(make_docx())).getinfo("word/document.xml")
    # The directory now declares 4 GB, as that of a bomb does.
    bomb = make_docx().replace(document.file_size.to_bytes(4, "little"), (0xFFFF_FFF0).to_bytes(4, "little"))
    with pytest.raises(ExtractionError, match=r"a\.docx: expands from [\d,]+ to 4,29[\d,]+ bytes"):
        load(bomb, "a.docx")


@pytest.mark.parametrize(
    ("make", "member", "name", "tag"),
    [
        (make_docx, "word_document_xml", "a.docx", b"w:tbl"),
        (make_odt, "content_xml", "a.odt", b"text:list"),
        (make_pptx, "ppt_slides_slide1_xml", "a.pptx", b"p:grpSp"),
        (make_epub, "EPUB_text_c 2_xhtml", "a.epub", b"div"),
    ],
)
def test_deeply_nested_office_xml_is_read(
    make: Callable[[], bytes], member: str, name: str, tag: bytes
) -> None:
    def nest(xml: bytes) -> bytes:
        end = xml.rindex(b"</", 0, xml.rindex(b"</", 0, xml.rindex(b"</")))  # inside the body
        return xml[:end] + b"<%b>" % tag * 50_000 + b"</%b>" % tag * 50_000 + xml[end:]

    plain = [document.page_content for document in load(make(), name)]
    nested = [document.page_content for document in load(repack(make(), **{member: nest}), name)]
    assert nested == plain


def test_every_loader_gives_metadata_of_json_types() -> None:
    samples = {
        "a.pdf": make_pdf(["texto"], title="T"), "a.docx": make_docx(), "a.xlsx": make_xlsx(), "a.pptx": make_pptx(),
        "a.odt": make_odt(), "a.epub": make_epub(), "a.eml": make_eml(), "a.ipynb": make_notebook(),
        "a.csv": b"a,b\n1,2\n", "a.json": b'[{"a": 1}]', "a.html": b"<title>t</title>x", "a.md": b"# t", "a.xml": b"<a>b</a>",
    }  # fmt: skip
    for name, data in samples.items():
        chunks = split_documents(load(data, name), chunk_size=1000, chunk_overlap=200)
        assert chunks, name
        for chunk in chunks:
            assert json.loads(json.dumps(chunk.metadata)) == chunk.metadata
            assert FORMAT_KEY not in chunk.metadata
