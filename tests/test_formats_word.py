"""Word documents before .docx: .rtf and .doc, and the containers that the latter is in."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oraculo_kit.errors import EmptySourceError, ExtractionError, SourceError
from oraculo_kit.formats.ole import OLE_MAGIC, OleContainer
from oraculo_kit.load import load_bytes
from tests.tools.documents import HARD, make_docx
from tests.tools.loading import SAMPLES, load, loads_or_says_why, sample, text_of

FERIAS = f"""# Política de férias

Todo colaborador tem direito a 30 dias. {HARD} – à vista.

## Prazos e valores

- Aviso com 30 dias
- Abono até 15 de janeiro

Item | Valor
Café da manhã | R$ 1.234,56
 | só à direita

Parte negrito\tdepois; veja a ligação. Привет 😀

Nota de rodapé."""


def rtf(body: str) -> str:
    return text_of("{\\rtf1\\ansi\\ansicpg1252 " + body + "}", "a.rtf")


@pytest.mark.parametrize("name", ["ferias.doc", "ferias.rtf"])
def test_a_real_document_keeps_headings_lists_tables_notes_and_every_character(name: str) -> None:
    (document,) = load(sample(name), name)
    assert document.page_content == FERIAS
    assert document.metadata["title"] == "Manual nas propriedades"


# RTF


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (r"a\'e7\'e3o", "ação"),
        (r"a\u231\'e7\u227?o", "ação"),
        (r"\uc0 a\u231\u227 o", "ação"),
        (r"\uc2 a\u231 xxb{\uc1\u227 x}o", "açbão"),
        (r"\u-10179?\u-8704?", "😀"),
        (r"a\{b\}\\c\~d\_e\-f", "a{b}\\c\u00a0d-ef"),
        ("a\\\nb\r\nc", "a\n\nbc"),
        (r"\ldblquote a\rdblquote\emdash b\tab c\line d", "“a”—b\tc\nd"),
        (r"a{\v escondido}b{\deleted apagado}c\v x\plain d", "abcd"),
        (r"a{\*\desconhecido b{c}}d", "ad"),
        (r"a{\pict ffd8ff}b{\bin3 }}}}c{\header topo}d", "abcd"),
        (r"{\field{\*\fldinst HYPERLINK x}{\fldrslt texto}}", "texto"),
        (r"{\upr{ac?}{\*\ud{a\u231?o}}}", "aço"),
        (r"{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Arial Cyr;}}\f1 \'ef\f0 \'ef", "пï"),
        (r"{\pntext\'b7\tab}um\par{\pntext\'b7\tab}dois\par\pard fim", "- um\n- dois\n\nfim"),
        (r"{\shp{\*\shpinst{\sp{\sn a}{\sv b}}{\shptxt caixa\par}}{\shprslt x}}fora", "caixa\n\nfora"),
    ],
)
def test_rtf_is_the_text_that_a_reader_sees(body: str, text: str) -> None:
    assert rtf(body) == text


def test_rtf_headings_come_from_styles_by_name_by_base_and_from_outline_levels() -> None:
    styles = r"{\stylesheet{\s0 Normal;}{\s1 heading 1;}{\s2\sbasedon1 Capitulo;}{\s3 Title;}{\s4\sbasedon5 a;}{\s5\sbasedon4 b;}}"
    text = rtf(styles + r"\pard\s3 T\par\pard\s2 Um\par\pard\s4 x\par\pard\outlinelevel2 Dois\par\pard y\par")
    assert text == "T\n\n# Um\n\nx\n\n### Dois\n\ny"


def test_rtf_rows_keep_their_empty_cells() -> None:
    body = r"\trowd\intbl a\cell\cell c\par d\cell\row\trowd\intbl 1\cell 2\cell 3\cell\row\pard fim"
    assert rtf(body) == "a |  | c d\n1 | 2 | 3\n\nfim"


def test_the_title_of_rtf_may_stand_in_unicode() -> None:
    (document,) = load(r"{\rtf1{\info{\upr{\title A?}{\*\ud{\title A\u231?}}}{\author x}}texto}", "a.rtf")
    assert (document.page_content, document.metadata["title"]) == ("texto", "Aç")


def test_rtf_that_is_cut_off_or_endless_or_no_rtf_says_so() -> None:
    with pytest.raises(ExtractionError, match=r"^a\.rtf: cut off: 2 groups are still open at its end"):
        load(r"{\rtf1 {texto", "a.rtf")
    with pytest.raises(ExtractionError, match=r"^a\.rtf: nested too deeply: more than 10,000 groups"):
        load(r"{\rtf1 " + "{" * 100_000, "a.rtf")
    with pytest.raises(ExtractionError, match=r"^a\.rtf: not RTF: expected it to begin with"):
        load("texto", "a.rtf")
    with pytest.raises(EmptySourceError, match="no text in it"):
        load(r"{\rtf1{\info{\title a}}}", "a.rtf")


@pytest.mark.parametrize(
    "part", [r"\u231 ", r"\'e7", "{}", r"\par ", r"\cell ", r"\bin0 ", "\\", r"{\*\x}", r"\pard\s9 "]
)
def test_hostile_rtf_takes_time_in_proportion_to_its_size(part: str) -> None:
    started = time.process_time()
    load_bytes((r"{\rtf1 a" + part * 100_000 + " b}").encode(), name="a.rtf")
    assert time.process_time() - started < 5  # quadratic would be minutes


_RTF_PARTS = st.sampled_from(
    [rb"{", rb"}", rb"\par ", rb"\u231 ", rb"\u-1", rb"\'e7", rb"\'", rb"\*", rb"\bin5 ", rb"\bin-5 ", rb"\upr", rb"\ud ",
     rb"\footnote ", rb"\info", rb"\title ", rb"\stylesheet", rb"\s1 ", rb"\sbasedon1 ", rb"\cell ", rb"\row ", rb"\intbl ",
     rb"\fonttbl", rb"\f1", rb"\fcharset128 ", rb"\ansicpg0 ", rb"\cpg9999 ", rb"\uc-1 ", rb"\uc3 ", b"\\", b"\n", b"\x00"]
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(_RTF_PARTS | st.binary(max_size=5), max_size=60))
def test_any_rtf_gives_documents_or_a_named_error(parts: list[bytes]) -> None:
    loads_or_says_why(b"{\\rtf1" + b"".join(parts), "a.rtf")


# .doc


def patched(data: bytes, stream_start: bytes, offset: int, value: bytes) -> bytes:
    """Return the file with bytes changed in a stream that lies in one piece and begins as given."""
    start = data.index(stream_start, 512) + offset
    return data[:start] + value + data[start + len(value) :]


def test_a_doc_whose_text_is_stored_in_eight_bits_is_read() -> None:
    data = sample("ferias.doc")
    start = data.index("Política".encode("utf-16-le"))
    container = OleContainer(data)
    main, table = (
        container.read("WordDocument"),
        container.read("1Table" if "1Table" in container else "0Table"),
    )
    length = struct.unpack_from("<I", main, 0x4C)[0]
    body = data[start : start + 2 * length].decode("utf-16-le")
    stored = body.encode("cp1252", "replace").ljust(2 * length, b"\0")
    packed = struct.pack("<I", main.index("Política".encode("utf-16-le")))
    place = data.index(table[table.rindex(packed) - 2 : table.rindex(packed) + 4]) + 2
    offset = main.index("Política".encode("utf-16-le"))
    narrow = data[:start] + stored + data[start + len(stored) :]
    narrow = narrow[:place] + struct.pack("<I", 2 * offset | 0x4000_0000) + narrow[place + 4 :]
    text = text_of(narrow, "a.doc")
    assert "Política de férias\n" in text
    assert "R$ 1.234,56" in text


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0x0B, b"\x13", "encrypted: it opens only with a password"),
        (0x02, b"\x65\x00", r"written by Word 95 or older; save it again as \.docx"),
        (0x00, b"\xdc\xa5\x65\x00", "written by Word 95 or older"),
        (0x00, b"\x00\x00", "not a Word document: it begins with 0x0000, expected 0xa5ec"),
        (0x1A2, b"\xff\xff\xff\x7f", "corrupt"),
    ],
)
def test_a_doc_that_cannot_be_read_says_why(offset: int, value: bytes, reason: str) -> None:
    with pytest.raises(ExtractionError, match=rf"^a\.doc: {reason}"):
        load(patched(sample("ferias.doc"), b"\xec\xa5", offset, value), "a.doc")


def test_what_programs_call_doc_is_read_as_what_it_is() -> None:
    assert text_of(sample("ferias.rtf"), "a.doc") == FERIAS
    assert text_of("<html><p>ação</p></html>", "a.doc") == "ação"
    assert text_of(make_docx(), "a.doc").startswith("Manual de uso")
    with pytest.raises(ExtractionError, match=r"^a\.doc: corrupt, or not a Word file"):
        load("plain text", "a.doc")
    with pytest.raises(ExtractionError, match=r"^a\.doc: not the document .*: WordDocument is missing in it"):
        load(sample("vendas.xls"), "a.doc")


def test_a_chain_of_sectors_that_runs_in_a_circle_ends() -> None:
    data = bytearray(sample("vendas.xls"))
    (fat,) = struct.unpack_from("<I", data, 76)
    for number in range(128):
        struct.pack_into("<I", data, (fat + 1) * 512 + 4 * number, number)
    with pytest.raises(SourceError, match=r"^a\.xls: "):
        load(bytes(data), "a.xls")


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1, max_size=30), st.booleans()
)
def test_any_damage_to_a_doc_gives_documents_or_a_named_error(
    changes: list[tuple[int, int]], near: bool
) -> None:
    data = bytearray(sample("ferias.doc"))
    first = data.index(b"\xec\xa5", 512) if near else 0  # the FIB, where every offset stands
    for place, value in changes:
        data[(first + place % (900 if near else len(data))) % len(data)] = value
    loads_or_says_why(bytes(data), "a.doc")


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=2000))
def test_anything_behind_the_mark_of_a_container_is_a_named_error(data: bytes) -> None:
    with pytest.raises(SourceError, match=r"^a\.doc: "):
        load_bytes(OLE_MAGIC + data, name="a.doc")


def test_the_samples_are_small() -> None:
    assert all(path.stat().st_size < 40_000 for path in Path(SAMPLES).iterdir())
