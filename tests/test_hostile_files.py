"""Files made to harm: each costs itself at most, and its neighbours are stored."""

from __future__ import annotations

import io
import os
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from langchain_core.documents import Document

from oraculo_kit import ingest
from oraculo_kit.errors import ExtractionError, SourceError
from oraculo_kit.extraction import ExtractionLimits, extract, stop_helpers
from oraculo_kit.services import vetor_storage
from tests.tools.documents import make_docx, make_epub, make_xlsx, repack

LIMITS = ExtractionLimits(seconds=8.0, memory_bytes=256 << 20)
NEIGHBOUR = "Como emitir nota fiscal eletrônica"
SECRET = "planted-in-another-file"


@pytest.fixture(autouse=True, scope="module")
def _no_helper_is_left() -> Iterator[None]:
    yield
    stop_helpers()
    left = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    assert not [command for command in left if "extraction_helper" in command]


def bomb(container: bytes, member: str, head: bytes, repeated: bytes, tail: bytes, megabytes: int) -> bytes:
    """Return a zip container of which one member expands to so many megabytes."""
    block = repeated * ((1 << 20) // len(repeated))
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(container)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for name in old.namelist():
            if name != member:
                new.writestr(name, old.read(name))
        with new.open(member, "w", force_zip64=True) as file:
            file.write(head)
            for _ in range(megabytes):
                file.write(block)
            file.write(tail)
    return buffer.getvalue()


def docx_bomb(megabytes: int = 300) -> bytes:
    namespace = b'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    head = b"<w:document " + namespace + b"><w:body>"
    paragraph = b"<w:p><w:r><w:t>nota</w:t></w:r></w:p>"
    return bomb(make_docx(), "word/document.xml", head, paragraph, b"</w:body></w:document>", megabytes)


def xlsx_of_rows() -> bytes:
    head = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    row = b'<row><c t="inlineStr"><is><t>nota</t></is></c></row>'
    return bomb(make_xlsx(), "xl/worksheets/sheet1.xml", head, row, b"</sheetData></worksheet>", 100)


def xlsx_of_strings() -> bytes:
    """Return a workbook whose table of texts expands to 300 MB; openpyxl itself writes none, so it is declared here."""
    kind = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    part = b'<Override PartName="/xl/sharedStrings.xml" ContentType="' + kind + b'"/></Types>'
    workbook = repack(make_xlsx(), **{"[Content_Types]_xml": lambda types: types.replace(b"</Types>", part)})
    head = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    return bomb(workbook, "xl/sharedStrings.xml", head, b"<si><t>nota</t></si>", b"</sst>", 300)


def epub_bomb() -> bytes:
    return bomb(make_epub(), "EPUB/text/c 1.xhtml", b"<html><body>", b"<p>nota</p>", b"</body></html>", 300)


def pdf_of_pages(pages: int) -> bytes:
    """Return a PDF of so many pages that share their content."""
    stream = b"BT /F1 12 Tf 72 720 Td (uma pagina) Tj ET"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>"
        % (pages, b" ".join(b"%d 0 R" % (5 + number) for number in range(pages))),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
    ]
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
    objects += [page] * pages
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start)
    return bytes(out)


def billion_laughs() -> bytes:
    entities = b'<!ENTITY a0 "lol">' + b"".join(
        b'<!ENTITY a%d "%s">' % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 12)
    )
    return b'<?xml version="1.0"?><!DOCTYPE a [' + entities + b"]><a>&a11;</a>"


def external_entity(target: Path) -> bytes:
    return f'<!DOCTYPE a [<!ENTITY f SYSTEM "{target.as_uri()}">]><a>texto &f;</a>'.encode()


def within(seconds: float, read: Callable[[], list[Document]]) -> list[Document] | SourceError:
    """Return the documents or the error, which must come in time."""
    started = time.monotonic()
    try:
        found: list[Document] | SourceError = read()
    except SourceError as exc:
        found = exc
    assert time.monotonic() - started < seconds
    return found


# --- containers that expand -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "make"), [("a.docx", docx_bomb), ("a.epub", epub_bomb)])
def test_a_zip_bomb_ends_at_the_memory_limit(name: str, make: Callable[[], bytes]) -> None:
    data = make()
    assert len(data) < 3_000_000
    before = psutil.Process().memory_info().rss
    with pytest.raises(ExtractionError, match=rf"^{name}: reading it takes more than 256 MiB of memory"):
        extract(data, name, limits=LIMITS)
    assert psutil.Process().memory_info().rss - before < 50_000_000


@pytest.mark.parametrize("make", [xlsx_of_rows, xlsx_of_strings])
def test_a_workbook_without_end_ends_at_a_limit(make: Callable[[], bytes]) -> None:
    with pytest.raises(
        ExtractionError, match=r"^a\.xlsx: reading it takes more than (1 s|256 MiB of memory)"
    ):
        extract(make(), "a.xlsx", limits=ExtractionLimits(1.0, LIMITS.memory_bytes))


@pytest.mark.parametrize("declared", [1 << 31, 100])
def test_a_zip_bomb_is_believed_neither_when_it_boasts_nor_when_it_lies(declared: int) -> None:
    data = bytearray(docx_bomb(20))
    info = zipfile.ZipFile(io.BytesIO(data)).getinfo("word/document.xml")
    size = info.file_size.to_bytes(4, "little")
    place = data.rindex(size)
    data[place : place + 4] = declared.to_bytes(4, "little")
    with pytest.raises(ExtractionError, match=r"^a\.docx: (expands from|corrupt)"):
        extract(bytes(data), "a.docx", limits=LIMITS)


def test_a_pdf_whose_stream_expands_without_end_costs_itself_only() -> None:
    packed = zlib.compress(b"(nota) Tj " * 20_000_000, 1)
    data = pdf_of_pages(1)
    stream = b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(packed), packed)
    start, end = data.index(b"<</Length"), data.index(b"endstream") + len(b"endstream")
    bad = data[:start] + stream + data[end:]
    found = within(10, lambda: extract(bad, "a.pdf", limits=ExtractionLimits(3.0, LIMITS.memory_bytes)))
    assert isinstance(found, ExtractionError)
    assert extract(pdf_of_pages(1), "b.pdf")[0].page_content == "uma pagina"


# --- very many, very deep ---------------------------------------------------------------------------------------


def test_a_pdf_of_ten_thousand_pages_is_read_whole() -> None:
    found = within(20, lambda: extract(pdf_of_pages(10_000), "a.pdf"))
    assert isinstance(found, list)
    assert (len(found), found[-1].metadata["page"], found[-1].page_content) == (10_000, 10_000, "uma pagina")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b"[" * 1_000_000),
        ("a.json", b"[" * 1_000_000 + b"]" * 1_000_000),
        ("a.json", b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
        ("a.jsonl", b'{"a": 1}\n' + b"[" * 1_000_000),
        ("a.ipynb", b'{"cells": [' + b"[" * 1_000_000),
        ("a.xml", b"<a>" * 500_000 + b"x" + b"</a>" * 500_000),
        ("a.xml", b"<a>" * 500_000),
        ("a.html", b"<div>" * 500_000 + b"fim"),
        ("a.html", b"<table><tr><td>" * 200_000 + b"fim"),
        ("a.html", b"<ul><li>" * 200_000 + b"fim" + b"</li></ul>" * 200_000),
    ],
)
def test_what_is_nested_too_deeply_is_read_or_refused_and_breaks_nothing(name: str, data: bytes) -> None:
    found = within(10, lambda: extract(data, name))
    if isinstance(found, SourceError):
        assert type(found) is ExtractionError
        assert "broke the process" not in str(found)
    elif name == "a.html":
        assert "fim" in found[0].page_content


# --- XML that reads or multiplies -------------------------------------------------------------------------------


def in_docx(document: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", document)
    return buffer.getvalue()


@pytest.mark.parametrize("wrap", [bytes, in_docx])
def test_entities_neither_multiply_nor_read_files(wrap: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    name = "a.xml" if wrap is bytes else "a.docx"
    for data in (billion_laughs(), external_entity(tmp_path / "secret.txt")):
        with pytest.raises(ExtractionError, match=rf"^{name}: declares the XML entity"):
            extract(wrap(data), name, limits=LIMITS)


@pytest.mark.parametrize("name", ["a.xml", "a.xlsx", "a.html", "a.epub"])
def test_an_external_document_type_is_not_fetched(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.dtd").write_text(f'<!ENTITY f "{SECRET}">')
    page = f'<!DOCTYPE html SYSTEM "{(tmp_path / "a.dtd").as_uri()}"><html><body>texto &f;</body></html>'.encode()
    data = page
    if name == "a.epub":
        data = bomb(make_epub(), "EPUB/text/c 1.xhtml", page, b" ", b"", 0)
    elif name == "a.xlsx":
        data = bomb(make_xlsx(), "xl/workbook.xml", page, b" ", b"", 0)
    found = within(10, lambda: extract(data, name))
    assert SECRET not in (str(found) if isinstance(found, SourceError) else repr(found))


# --- text that makes patterns start over ------------------------------------------------------------------------

_SIZE = 250_000  # what starts over for each character would take minutes
TEXTS = {
    "hashes": "#" * _SIZE,
    "hash and spaces": "#" + " " * _SIZE,
    "hash lines": "# \n" * (_SIZE // 3),
    "headings": "# a\n" * (_SIZE // 8),
    "spaces": " " * _SIZE + "x",
    "tabs and line ends": "\t\n" * (_SIZE // 2) + "x",
    "empty lines": "\n" * _SIZE + "x",
    "backticks": "`" * _SIZE,
    "fences": "```\n" * (_SIZE // 4),
    "brackets": "[" * _SIZE,
    "links": "[a](" * (_SIZE // 4),
    "emphasis": "# " + "*" * _SIZE + "x",
    "data URIs": "data:" * (_SIZE // 5),
    "half data URI": "data:" + "a" * _SIZE,
    "front matter": "---\n" + "title\n" * (_SIZE // 6),
    "rules": "---\n" * (_SIZE // 4),
    "tags": "<a " * (_SIZE // 3),
    "comments": "<!--" * (_SIZE // 4),
    "script starts": "<script>" * (_SIZE // 8),
    "entities": "&#" * (_SIZE // 2),
    "quotes": '"' * _SIZE + "x",
    "delimiters": ",;\t|" * (_SIZE // 8),
    "digits": "1" * _SIZE,
    "no control": "\x01" * _SIZE,
    "broken accents": "Ã" * (_SIZE // 2),
    "one word": "a" * _SIZE,
    "sentence ends": ". " * (_SIZE // 2),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_no_text_makes_the_readers_of_plain_text_start_over_and_over(text: str) -> None:
    data = text.encode()
    for name in ("a.md", "a.txt", "a.html"):
        within(20, partial(extract, data, name))
    within(20, partial(extract, data, "a.csv"))


# --- through the whole ingestion ---------------------------------------------------------------------------------


def test_hostile_files_cost_themselves_and_their_neighbours_are_stored(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACULO_EXTRACT_SECONDS", "2")
    monkeypatch.setenv("ORACULO_EXTRACT_MEMORY_MB", "256")
    monkeypatch.setenv("ORACULO_MAX_FILE_MB", "20")
    folder = project / "docs"
    folder.mkdir()
    (project / "secret.txt").write_text(SECRET)
    refused = {
        "bomb.docx": docx_bomb(),
        "bomb.epub": epub_bomb(),
        "bomb.xlsx": xlsx_of_rows(),
        "deep.json": b"[" * 1_000_000,
        "entity.xml": external_entity(project / "secret.txt"),
        "laughs.xml": billion_laughs(),
        "binary.txt": b"\x01" * 100_000,
    }
    for name, data in refused.items():
        (folder / name).write_bytes(data)
    (folder / "sparse.txt").touch()
    os.truncate(folder / "sparse.txt", 1 << 30)
    expected = {*refused, "sparse.txt"}
    no_files: dict[str, str] = {}
    stored = {"deep.html": b"<div>" * 100_000 + b"fim", "spaces.md": b"#" + b" " * 300_000 + b"x"}
    for name, data in stored.items():
        (folder / name).write_bytes(data)
    (folder / "vizinho.md").write_text(NEIGHBOUR, encoding="utf-8")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.txt")
        (folder / "loop.txt").symlink_to("loop.txt")
        no_files |= {"pipe.txt": "FIFO", "loop.txt": "leads back to itself"}
    if sys.platform == "linux":
        (folder / "line\nend.txt").write_text(NEIGHBOUR, encoding="utf-8")
        (folder / os.fsdecode(b"bytes-\xff.txt")).write_text(NEIGHBOUR, encoding="utf-8")
    started = time.monotonic()
    report = ingest(folder, n_jobs=1, progress=False)
    assert time.monotonic() - started < 60
    failed = {Path(outcome.source).name: outcome for outcome in report if outcome.status == "failed"}
    assert set(failed) == expected
    assert all(outcome.error and outcome.message for outcome in failed.values())
    skipped = {
        Path(outcome.source).name: outcome.message for outcome in report if outcome.status == "skipped"
    }
    assert skipped.keys() == no_files.keys()
    assert all(said in skipped[name] for name, said in no_files.items())
    added = {Path(outcome.source).name for outcome in report if outcome.status == "added"}
    assert {"vizinho.md", "deep.html", "spaces.md"} <= added
    if sys.platform == "linux":
        # The byte of a name that is no text stands as an escape in the report and in the base.
        assert {"line\nend.txt", "bytes-\\udcff.txt"} <= added
        stored_keys = {Path(row.source).name for row in vetor_storage().sources()}
        assert {"line\nend.txt", "bytes-\\udcff.txt"} <= stored_keys
        assert ingest(folder, glob="bytes-*", n_jobs=1, progress=False).counts == {"unchanged": 1}
    assert SECRET not in repr([outcome.message for outcome in report])
