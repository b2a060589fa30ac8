"""CSV, spreadsheets and parquet: rows with named columns."""

from __future__ import annotations

import csv
import io
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oraculo_kit.errors import EmptySourceError, ExtractionError
from oraculo_kit.formats.tabular import find_delimiter
from tests.tools.documents import (
    HARD,
    make_docx,
    make_ods,
    make_parquet,
    make_vendas,
    make_xlsx,
    repack,
    saved,
)
from tests.tools.loading import load, loads_or_says_why, metadata, sample, text_of, texts_of


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_in_any_usual_dialect_becomes_rows_with_named_columns(delimiter: str) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerows(
        [["produto", "preço", "obs"], ["Café", "1.234,50", "linha 1\nlinha 2"], ["Pão", "0,75", ""]]
    )
    documents = load(buffer.getvalue().encode("cp1252"), "a.csv")
    assert [document.page_content for document in documents] == [
        "produto: Café\npreço: 1.234,50\nobs: linha 1\nlinha 2",
        "produto: Pão\npreço: 0,75",
    ]
    assert metadata(documents, "row") == [(2,), (3,)]


def test_a_decimal_comma_is_no_delimiter() -> None:
    documents = load("nome;preço\n" + "A;1,50\n" * 40, "a.csv")
    assert documents[0].page_content == "nome: A\npreço: 1,50"
    assert len(documents) == 40


def test_the_row_numbers_are_those_of_a_spreadsheet() -> None:
    documents = load("a,b\n\n1,2\n,\n3,4\n", "a.csv")
    assert metadata(documents, "row") == [(3,), (5,)]


def test_title_lines_above_a_table_are_not_its_header() -> None:
    documents = load("Relatório de 2024;;\n;;\nmês;2023;2024\njan;1,5;2,5\n", "a.csv")
    assert [document.page_content for document in documents] == [
        "Relatório de 2024",
        "mês: jan\n2023: 1,5\n2024: 2,5",
    ]
    assert metadata(documents, "row") == [(1,), (4,)]


def test_a_table_without_header_gives_its_values() -> None:
    assert [
        document.page_content for document in load("Ana,31/01/2024,1.5\nBia,01/02/2024,2\n", "a.csv")
    ] == [
        "Ana | 31/01/2024 | 1.5",
        "Bia | 01/02/2024 | 2",
    ]


def test_columns_without_name_get_their_letter() -> None:
    assert text_of(",b,c\n1,2,3,4\n", "a.csv") == "A: 1\nb: 2\nc: 3\nD: 4"


def test_one_column_of_prose_is_not_cut_at_its_commas() -> None:
    documents = load("frase\nUm, dois e três.\nSem vírgula.\nA, b, c, d.\n", "a.csv")
    assert documents[0].page_content == "frase: Um, dois e três."


def test_a_csv_of_separators_alone_is_empty() -> None:
    for text in ("\n\n\n", ",,,\n,,,\n"):
        with pytest.raises(EmptySourceError, match=r"a\.csv: there is no text in it"):
            load(text, "a.csv")


def test_a_hostile_cell_takes_time_in_proportion_to_its_size() -> None:
    started = time.process_time()
    load("-" + " " * 100_000 + "x;b\n1;2\n", "a.csv")
    assert time.process_time() - started < 2


def test_the_delimiter_that_excel_declares_is_taken() -> None:
    assert text_of("sep=;\na;b\n1,5;2,5\n", "a.csv") == "a: 1,5\nb: 2,5"


def test_xlsx_rows_carry_sheet_and_row_and_iso_dates() -> None:
    documents = load(make_xlsx(), "a.xlsx")
    assert metadata(documents, "sheet", "row") == [
        ("Vendas", 1), ("Vendas", 3), ("Vendas", 5), ("Vendas", 7), ("Números", 1),
    ]  # fmt: skip
    assert [document.page_content for document in documents] == [
        "Relatório de vendas",
        f"data: 2024-01-31\nproduto: {HARD}\nvalor: 12.5\nD: x\npago: TRUE",
        "data: 2024-02-01 13:30:00\nproduto: Pão\nvalor: 0.3",
        "produto: mesclada\nD: 13:05:00",
        "1 | 2.5",
    ]


def test_a_stray_cell_in_the_last_corner_of_a_sheet_costs_nothing() -> None:
    import openpyxl

    workbook = openpyxl.Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet["A1"], sheet["A2"], sheet["XFD1048576"] = "nome", "x", "longe"
    documents = load(saved(workbook.save), "a.xlsx")
    assert metadata(documents, "row") == [(2,), (1_048_576,)]
    assert documents[1].page_content == "XFD: longe"


def test_a_sheet_that_claims_an_endless_row_number_ends() -> None:
    data = repack(make_xlsx(), xl_worksheets_sheet1_xml=lambda xml: xml.replace(b'r="7"', b'r="99999999999"'))
    assert ("Vendas", 5) in metadata(load(data, "a.xlsx"), "sheet", "row")


# Brazilian exports


def test_a_report_of_a_brazilian_system_is_rows_with_named_columns() -> None:
    report = (
        "\ufeffPrefeitura Municipal de São João;;;\r\nRelatório de empenhos;;;\r\nPeríodo: 01/01/2024 a 31/01/2024;Usuário: ana;;\r\n"
        ';;;\r\nNº;Credor;"Descrição";Valor (R$)\r\n1;"Padaria ""Pão & Cia""";"linha 1\r\nlinha 2; fim";1.234,56\r\n'
        "2;Açaí Ltda.;;-12,00\r\n;;Total;1.222,56\r\n"
    )
    documents = load(report.encode(), "empenhos.csv")
    assert [document.page_content for document in documents[3:]] == [
        'Nº: 1\nCredor: Padaria "Pão & Cia"\nDescrição: linha 1\nlinha 2; fim\nValor (R$): 1.234,56',
        "Nº: 2\nCredor: Açaí Ltda.\nValor (R$): -12,00",
        "Descrição: Total\nValor (R$): 1.222,56",
    ]
    assert metadata(documents, "row")[3:] == [(6,), (7,), (8,)]
    old = load(report.removeprefix("\ufeff").encode("cp1252"), "empenhos.csv")
    assert [document.page_content for document in old] == [document.page_content for document in documents]


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("1,50;2,50;3,50\n4,50;5,50;6,50\n", ";"),
        ("a;b\n1,5;2,5\n", ";"),
        ("a\tb, c\n1\t2,5\n", "\t"),
        ("nome,obs,uf\nAna,x; y,SP\nBia,w; z,RJ\nCau,,MG\n", ","),
        ("\n".join(["linha do cabeçalho, com vírgula"] * 10) + "\na;b;c\n1;2;3\n4;5;6\n", ";"),
        ("x\n" * 20, "\x1f"),
        ("só\numa,coluna\nde texto\ncom, duas, vírgulas\n", "\x1f"),
    ],
)
def test_the_delimiter_is_what_cuts_the_rows_evenly(text: str, delimiter: str) -> None:
    assert find_delimiter(text) == delimiter


def test_lines_above_a_table_that_hold_values_are_not_its_header() -> None:
    lines = "Empresa;ACME;CNPJ;12\n\ndata;hora;loja;item;valor;obs\n01/02/2024;10:00;A;B;1,00;x\n02/02/2024;10:00;A;B;2,00;y\n"
    assert (
        texts_of(lines, "a.csv")[1] == "data: 01/02/2024\nhora: 10:00\nloja: A\nitem: B\nvalor: 1,00\nobs: x"
    )


# Old Excel, OpenDocument, parquet

CELLS = "data: 2024-01-31\nproduto: P&D <tag> é\nvalor: 1234.5\ndesconto: 12.5%\nhora: 13:05:00\npago: TRUE\nquando: 2024-02-01 13:30:00\nduração: 30:00:00"


@pytest.mark.parametrize("name", ["vendas.xls", "vendas.xlsx", "vendas.xlsm"])
def test_every_kind_of_cell_comes_out_alike_from_old_and_new_workbooks(name: str) -> None:
    documents = load(sample(name) if name == "vendas.xls" else make_vendas(), name)
    assert metadata(documents, "sheet", "row") == [
        ("Vendas", 1), ("Vendas", 3), ("Vendas", 5), ("Oculta", 2), ("Canto", 2), ("Canto", 65_536),
    ]  # fmt: skip
    # Only a program that calculates stores the result of =1/0.
    error = "\nerro: #DIV/0!" if name == "vendas.xls" else ""
    assert [document.page_content for document in documents] == [
        "Relatório de vendas", CELLS + error, "data: mesclada\nvalor: 0.3", "segredo: x", "nome: x", "IV: longe",
    ]  # fmt: skip


def test_ods_rows_carry_sheet_and_row_and_no_comments() -> None:
    documents = load(make_ods(), "a.ods")
    assert metadata(documents, "sheet", "row") == [("Vendas", row) for row in (1, 5, 6, 7, 8)]
    assert [document.page_content for document in documents] == [
        "Relatório de vendas",
        f"data: 2024-01-31\nproduto: {HARD}\nsegunda linha\nvalor: 1234.5\ndesconto: 12.5%\nhora: 13:05:00\npago: TRUE\ntotal: 0.3",
        "data: mesclada\nvalor: 7\ndesconto: 7",
        "data: igual",
        "data: igual",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'number-rows-repeated="2"><table:table-cell office:value-type="string"', b'number-rows-repeated="1048576"><table:table-cell office:value-type="string"'),
        (b'number-columns-repeated="2"', b'number-columns-repeated="999999999"'),
    ],
)  # fmt: skip
def test_repetition_in_an_ods_is_no_bomb(old: bytes, new: bytes) -> None:
    started = time.process_time()
    data = repack(make_ods(), content_xml=lambda xml: xml.replace(old, new))
    if loads_or_says_why(data, "a.ods"):
        assert len(load(data, "a.ods")) < 100
    assert time.process_time() - started < 5


def test_what_programs_call_xls_is_read_as_what_it_is() -> None:
    assert texts_of("<html><table><tr><td>ação</td><td>1,5</td></tr></table>", "a.xls") == ["ação | 1,5"]
    assert texts_of("nome;valor\nCafé;1,5\n".encode("cp1252"), "a.xls") == ["nome: Café\nvalor: 1,5"]
    assert texts_of(make_xlsx(), "a.xls") == texts_of(make_xlsx(), "a.xlsx")
    with pytest.raises(ExtractionError, match=r"^a\.xls: not the document .*: Book is missing in it"):
        load(sample("ferias.doc"), "a.xls")
    with pytest.raises(ExtractionError, match=r"^a\.ods: not the document that its name says"):
        load(make_docx(), "a.ods")


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 7_000), st.integers(0, 255)), min_size=1, max_size=20))
def test_any_damage_to_an_xls_gives_documents_or_a_named_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(sample("vendas.xls"))
    for place, value in changes:
        data[place] = value
    loads_or_says_why(bytes(data), "a.xls")


def test_parquet_is_rows_with_named_columns() -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    documents = load(make_parquet(), "a.parquet")
    assert metadata(documents, "row") == [(1,), (2,)]
    assert [document.page_content for document in documents] == [
        "produto: Café\nvalor: 12.5\npago: TRUE\ndata: 2024-01-31\ntags: a, b\ndono: nome: Ana",
        "produto: Pão\nvalor: 0.3\npago: FALSE",
    ]


def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        ExtractionError, match=r"^a\.parquet: .* needs pyarrow: pip install \"oraculo_kit\[parquet\]\""
    ):
        load(b"PAR1", "a.parquet")
