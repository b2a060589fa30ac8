"""A damaged twin of every format: documents or an error that names the file, in time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from oraculo_kit.formats import _BUILTIN
from tests.tools.documents import (
    make_docx,
    make_eml,
    make_epub,
    make_notebook,
    make_ods,
    make_odt,
    make_parquet,
    make_pdf,
    make_pptx,
    make_xlsx,
)
from tests.tools.loading import loads_or_says_why, sample

MAKERS: dict[str, Callable[[], bytes]] = {
    "a.txt": lambda: "ação e emoção\n".encode() * 20,
    "a.md": lambda: "---\ntitle: T\n---\n# Título\n\ntexto\n".encode() * 5,
    "a.html": lambda: (
        "<html lang='pt'><h1>T</h1><table><tr><td>ação<td>b</table><script>x</script>".encode() * 5
    ),
    "a.xml": lambda: "<?xml version='1.0'?><a b='c'><d>ação</d></a>".encode(),
    "a.csv": lambda: "nome;valor\nCafé;1,5\n".encode("cp1252") * 20,
    "a.tsv": lambda: b"a\tb\n1\t2\n" * 20,
    "a.json": lambda: b'[{"a": 1.5, "b": ["c"]}, {"a": null}]',
    "a.jsonl": lambda: b'{"a": 1}\n' * 20,
    "a.ipynb": make_notebook,
    "a.pdf": lambda: make_pdf(["texto", "mais"]),
    "a.docx": make_docx,
    "a.pptx": make_pptx,
    "a.odt": make_odt,
    "a.ods": make_ods,
    "a.xlsx": make_xlsx,
    "a.epub": make_epub,
    "a.eml": make_eml,
    "a.parquet": make_parquet,
    "a.doc": lambda: sample("ferias.doc"),
    "a.rtf": lambda: sample("ferias.rtf"),
    "a.xls": lambda: sample("vendas.xls"),
}


def test_every_loader_has_a_sample_here() -> None:
    assert {_BUILTIN[name[1:]] for name in MAKERS} == set(_BUILTIN.values())


@pytest.mark.parametrize("name", MAKERS)
def test_a_damaged_twin_gives_documents_or_says_why(name: str) -> None:
    if name == "a.parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    data = MAKERS[name]()
    assert loads_or_says_why(data, name)
    for cut in (1, 10, len(data) // 4, len(data) // 2, len(data) - 10, len(data) - 1):
        loads_or_says_why(data[:cut], name)
    for seed in range(8):
        chance = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 5, 50])):
            damaged[chance.randrange(len(damaged))] = chance.choice([0, 0xFF, chance.randrange(256)])
        started = time.monotonic()
        loads_or_says_why(bytes(damaged), name)
        assert time.monotonic() - started < 20
