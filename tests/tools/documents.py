"""Small documents, made by the libraries that people make them with."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

HARD = 'P&D <tag> 5 > 3 "aspas" é'  # what a careless reader of XML loses


def saved(save: Callable[[Any], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def repack(data: bytes, **changes: Callable[[bytes], bytes]) -> bytes:
    """Return a zip container with members changed; the dots and slashes of their names written as underscores."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            change = changes.get(name.replace("/", "_").replace(".", "_"))
            new.writestr(name, change(old.read(name)) if change else old.read(name))
    return buffer.getvalue()


def make_pdf(pages: list[str], title: str = "", password: str = "") -> bytes:
    from fpdf import FPDF

    pdf = FPDF()
    pdf.set_font("helvetica", size=12)
    if title:
        pdf.set_title(title)
    if password:
        pdf.set_encryption(owner_password="owner", user_password=password)
    for page in pages:
        pdf.add_page()
        if page:
            pdf.multi_cell(0, 8, page)
        else:
            pdf.rect(10, 10, 50, 50, style="F")
    return bytes(pdf.output())


def make_docx() -> bytes:
    import docx

    document = docx.Document()
    document.add_heading("Manual de uso", 0)
    document.add_heading("Introdução", 1)
    paragraph = document.add_paragraph("Parte ")
    paragraph.add_run("neg").bold = True
    paragraph.add_run("rito\tdepois")
    document.add_paragraph(HARD)
    document.add_heading("Tabela", 2)
    table = document.add_table(2, 2)
    for place, value in zip(
        [(0, 0), (0, 1), (1, 0), (1, 1)], ["Item", "Valor", "Café", "12,50"], strict=True
    ):
        table.cell(*place).text = value
    document.add_paragraph("Fim.")
    document.sections[0].header.paragraphs[0].text = "cabeçalho de página"
    return saved(document.save)


def make_xlsx() -> bytes:
    import openpyxl

    workbook = openpyxl.Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet.title = "Vendas"
    sheet["A1"] = "Relatório de vendas"
    for row in (
        ["data", "produto", "valor", None, "pago"],
        [datetime.date(2024, 1, 31), HARD, 12.5, "x", True],
    ):
        sheet.append(row)
    sheet["A5"], sheet["B5"], sheet["C5"] = datetime.datetime(2024, 2, 1, 13, 30), "Pão", 0.1 + 0.2
    sheet["B7"], sheet["D7"] = "mesclada", datetime.time(13, 5)
    sheet.merge_cells("B7:C8")
    other = workbook.create_sheet("Números")
    other.append([1, 2.5])
    workbook.create_sheet("Vazia")
    return saved(workbook.save)


def make_pptx() -> bytes:
    from pptx import Presentation

    presentation = Presentation()
    presentation.core_properties.title = "Apresentação"
    for title, body in (("Primeiro", HARD), ("Segundo", "a\tb")):
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = body
    slide.notes_slide.notes_text_frame.text = "nota do orador"
    # The second slide comes first now, while its member keeps its number.
    order = presentation.slides._sldIdLst
    order.insert(0, order[1])
    return saved(presentation.save)


def make_odt() -> bytes:
    from odf.opendocument import OpenDocumentText
    from odf.table import Table, TableCell, TableRow
    from odf.text import H, List, ListItem, P, Tab

    document = OpenDocumentText()
    document.text.addElement(H(outlinelevel=2, text="Seção"))
    paragraph = P(text="antes")
    paragraph.addElement(Tab())
    paragraph.addText(HARD)
    document.text.addElement(paragraph)
    items = List()
    for text in ("um", "dois"):
        item = ListItem()
        item.addElement(P(text=text))
        items.addElement(item)
    document.text.addElement(items)
    table, row = Table(), TableRow()
    for text in ("Café", "12,50"):
        cell = TableCell()
        cell.addElement(P(text=text))
        row.addElement(cell)
    table.addElement(row)
    document.text.addElement(table)
    return saved(document.write)


def make_epub() -> bytes:
    """Return an EPUB whose second chapter comes first; zipped by hand, for its writers have stricter licenses."""
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
        '<rootfile full-path="EPUB/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    html = 'media-type="application/xhtml+xml"'
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="id">id</dc:identifier>'
        "<dc:title>O livro</dc:title><dc:language>pt</dc:language></metadata><manifest>"
        f'<item id="nav" href="nav.xhtml" {html} properties="nav"/><item id="c1" href="text/c%201.xhtml" {html}/>'
        f'<item id="c2" href="text/c%202.xhtml" {html}/><item id="style" href="s.css" media-type="text/css"/></manifest>'
        '<spine><itemref idref="nav"/><itemref idref="c2"/><itemref idref="c1"/></spine></package>'
    )
    page = (
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head>'
        "<title>{0}</title></head><body><h1>{0}</h1><p>Era <b>n</b>ão P&amp;D.</p></body></html>"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("EPUB/content.opf", package)
        archive.writestr("EPUB/nav.xhtml", page.format("Sumário"))
        for number in (1, 2):
            archive.writestr(f"EPUB/text/c {number}.xhtml", page.format(f"Capítulo {number}"))
    return buffer.getvalue()


def make_eml(body: str = "Olá, P&D <x>", subtype: str = "plain") -> bytes:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Reunião", "José <a@example.org>", "b@example.org"
    message.set_content(body, subtype=subtype, charset="cp1252")
    message.add_attachment(b"a,b", maintype="text", subtype="csv", filename="anexo.csv")
    return bytes(message)


def make_notebook() -> bytes:
    import nbformat

    version = nbformat.v4
    notebook = version.new_notebook(
        cells=[
            version.new_markdown_cell("# Análise\n\nTexto com ![figura](data:image/png;base64,AAAA+/==)."),
            version.new_code_cell(
                "# comentário\nprint('```')", outputs=[version.new_output("stream", text="SAÍDA")]
            ),
            version.new_markdown_cell("## Fim"),
        ]
    )
    return nbformat.writes(notebook).encode()


def make_vendas() -> bytes:
    """Return the workbook that samples/vendas.xls was converted from: every kind of cell, three kinds of sheet."""
    import openpyxl

    workbook = openpyxl.Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet.title = "Vendas"
    sheet["A1"] = "Relatório de vendas"
    sheet.append(["data", "produto", "valor", "desconto", "hora", "pago", "quando", "duração", "erro"])
    sheet.append([
        datetime.date(2024, 1, 31), "P&D <tag> é", 1234.5, 0.125, datetime.time(13, 5), True,
        datetime.datetime(2024, 2, 1, 13, 30), datetime.timedelta(hours=30), "=1/0",
    ])  # fmt: skip
    sheet["D3"].number_format, sheet["H3"].number_format = "0.0%", "[h]:mm:ss"
    sheet["A5"], sheet["C5"] = "mesclada", 0.1 + 0.2
    sheet.merge_cells("A5:B6")
    hidden = workbook.create_sheet("Oculta")
    hidden["A1"], hidden["A2"], hidden.sheet_state = "segredo", "x", "hidden"
    corner = workbook.create_sheet("Canto")
    corner["A1"], corner["A2"], corner["IV65536"] = "nome", "x", "longe"
    workbook.create_sheet("Vazia")
    return saved(workbook.save)


def make_ods() -> bytes:
    """Return an .ods with every kind of cell and with runs of empty and of equal cells and rows."""
    from odf.office import Annotation
    from odf.opendocument import OpenDocumentSpreadsheet
    from odf.table import CoveredTableCell, Table, TableCell, TableRow
    from odf.text import P

    document = OpenDocumentSpreadsheet()
    table = Table(name="Vendas")

    def add_row(*cells: tuple[str, dict[str, object]], times: int = 1) -> TableRow:
        row = TableRow(numberrowsrepeated=times) if times > 1 else TableRow()
        for shown, attributes in cells:
            cell = TableCell(**attributes)
            for line in shown.split("\n") if shown else []:
                cell.addElement(P(text=line))
            row.addElement(cell)
        table.addElement(row)
        return row

    text: dict[str, object] = {"valuetype": "string"}
    add_row(("Relatório de vendas", text))
    add_row(("", {}), times=2)
    add_row(*((name, text) for name in ("data", "produto", "valor", "desconto", "hora", "pago", "total")))
    row = add_row(
        ("31/01/24", {"valuetype": "date", "datevalue": "2024-01-31"}),
        (f"{HARD}\nsegunda linha", text),
        ("R$ 1.234,50", {"valuetype": "currency", "currency": "BRL", "value": "1234.5"}),
        ("12,5%", {"valuetype": "percentage", "value": "0.125"}),
        ("13:05", {"valuetype": "time", "timevalue": "PT13H05M00S"}),
        ("VERDADEIRO", {"valuetype": "boolean", "booleanvalue": "true"}),
        ("0,3", {"valuetype": "float", "value": str(0.1 + 0.2)}),
    )
    note = Annotation()
    note.addElement(P(text="comentário"))
    row.childNodes[1].insertBefore(note, row.childNodes[1].firstChild)
    merged = add_row(("mesclada", text | {"numbercolumnsspanned": 2}))
    merged.addElement(CoveredTableCell())
    merged.addElement(TableCell(valuetype="float", value="7", numbercolumnsrepeated=2))
    merged.addElement(TableCell(numbercolumnsrepeated=16_000))
    add_row(("igual", text), times=2)
    add_row(("", {}), times=1_048_000)
    document.spreadsheet.addElement(table)
    document.spreadsheet.addElement(Table(name="Vazia"))
    return saved(document.write)


def make_scan(text: str) -> bytes:
    """Return a PDF whose only page is a picture of a text, as a scanner makes it."""
    import pypdfium2

    pdf = pypdfium2.PdfDocument(make_pdf([text]))
    image = pdf[0].render(scale=200 / 72).to_pil().convert("L")
    pdf.close()
    return saved(lambda buffer: image.save(buffer, "PDF", resolution=200))


def make_parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({
        "produto": ["Café", "Pão", None], "valor": [12.5, 0.1 + 0.2, None], "pago": [True, False, None],
        "data": [datetime.date(2024, 1, 31), None, None], "tags": [["a", "b"], [], None],
        "foto": [b"\x89PNG", None, None], "dono": [{"nome": "Ana", "uf": None}, None, None],
    })  # fmt: skip
    return saved(lambda buffer: parquet.write_table(table, buffer))
