"""Cutting documents into chunks that know their place."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_text_splitters import RecursiveCharacterTextSplitter

from oraculo_kit.cutting import cut_text
from oraculo_kit.errors import SettingsError
from oraculo_kit.formats.text import FORMAT_KEY
from oraculo_kit.load import load_bytes
from oraculo_kit.settings import SPLITTERS
from oraculo_kit.split import split_documents, splitter_fingerprint
from oraculo_kit.tokens import count_tokens

MANUAL = """Before any heading.

# Manual

## Install

Run it.

```
# a comment, no heading
```

## Use
Call it.

# Annex
End.
"""


def split(
    text: str, size: int = 40, overlap: int = 10, *, splitter: str = "recursive", **metadata: object
) -> list[Document]:
    return split_documents(
        [Document(page_content=text, metadata=metadata)],
        chunk_size=size,
        chunk_overlap=overlap,
        splitter=splitter,
    )


def length(text: str, splitter: str) -> int:
    """Return the length in the splitter's unit; a single character is never too long."""
    return count_tokens([text])[0] if splitter == "token" and len(text) > 1 else len(text)


def covers(text: str, chunks: list[Document]) -> bool:
    """Tell whether only whitespace lies outside the chunks, which come in order."""
    position = 0
    for chunk in chunks:
        if text[position : chunk.metadata["start"]].strip():
            return False
        position = max(position, chunk.metadata["end"])
    starts = [chunk.metadata["start"] for chunk in chunks]
    return not text[position:].strip() and starts == sorted(starts)


texts = st.one_of(
    st.text(max_size=400),
    st.text(alphabet="ab \n", max_size=400),
    st.text(alphabet="a# \n`\t\u00a0\u2003é\U0001f600", max_size=400),
    st.lists(
        st.sampled_from(
            [
                "Sr. ",
                "Fim. ",
                "Fim? ",
                "\r\n",
                "def f():\n",
                "    @x\n",
                "# n\n",
                "```\n",
                "====\n",
                "\n\n",
                "\U0001f9ff",
                "。",
            ]
        ),
        max_size=40,
    ).map("".join),
    st.builds(lambda part, times: part * times, st.text(min_size=1, max_size=12), st.integers(1, 60)),
)


@settings(max_examples=300, deadline=None)
@given(
    text=texts,
    size=st.integers(2, 60),
    overlap=st.integers(0, 59),
    format=st.sampled_from(["markdown", "text", "rst", "py", "ts"]),
    splitter=st.sampled_from(SPLITTERS),
)
@example(text="ab " * 100, size=30, overlap=12, format="text", splitter="recursive")
@example(text="\ud800 lone surrogate " * 5, size=20, overlap=5, format="text", splitter="recursive")
@example(text="\ud800 lone surrogate " * 5, size=20, overlap=5, format="text", splitter="token")
@example(text="\U0001f9ff" * 40, size=2, overlap=1, format="text", splitter="token")
def test_offsets_say_exactly_where_a_chunk_stands(
    text: str, size: int, overlap: int, format: str, splitter: str
) -> None:
    chunks = split(text, size, min(overlap, size - 1), splitter=splitter, format=format)
    for chunk in chunks:
        assert text[chunk.metadata["start"] : chunk.metadata["end"]] == chunk.page_content
        assert chunk.page_content.strip() == chunk.page_content != ""
        assert length(chunk.page_content.replace("\ud800", "?"), splitter) <= size
    assert covers(text, chunks)


@settings(max_examples=1000, deadline=None)
@given(
    text=st.one_of(
        texts,
        st.lists(
            st.sampled_from([" ", "\n", "\n\n", "\n\n\n", "a", "bb", "x" * 25, "\r\n", "\u00a0"]), max_size=99
        ).map("".join),
    ),
    size=st.integers(2, 60),
    overlap=st.integers(0, 59),
)
def test_the_cuts_are_those_of_langchain(text: str, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    theirs = RecursiveCharacterTextSplitter(chunk_size=size, chunk_overlap=overlap).split_text(text)
    cuts = cut_text(text, 0, len(text), size=size, overlap=overlap)
    assert [piece for start, end in cuts if (piece := text[start:end].strip())] == theirs


@pytest.mark.parametrize("splitter", ["recursive", "sentence", pytest.param("token", marks=pytest.mark.full)])
def test_a_book_of_five_megabytes_is_cut_whole(splitter: str) -> None:
    text = "Esta é uma frase repetida, como as outras. \U0001f600\r\n" * 100_000
    chunks = split(text, 1000, 200, splitter=splitter)
    assert covers(text, chunks)
    assert all(text[part.metadata["start"] : part.metadata["end"]] == part.page_content for part in chunks)


def test_overlap_is_at_most_what_was_asked_for() -> None:
    chunks = split("palavra " * 200, 100, 30)
    overlaps = [one.metadata["end"] - two.metadata["start"] for one, two in itertools.pairwise(chunks)]
    assert min(overlaps) > 0
    assert max(overlaps) <= 30


@pytest.mark.parametrize("splitter", ["recursive", "sentence"])
@pytest.mark.parametrize(
    "unit",
    ["palavra repetida\n", "x", "Frase curta. ", "\n \n", ". ", "@a\n", "# a\n", "\n    @a", "a(\n", "“ "],
)
@pytest.mark.parametrize("format", ["", "py", "js", "rst"])
def test_the_time_is_linear_in_the_length_whatever_the_text(splitter: str, unit: str, format: str) -> None:
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    chunks = split(text, 1000, 200, splitter=splitter, format=format)
    assert time.process_time() - started < 2
    assert covers(text, chunks)
    assert not chunks or chunks[-1].metadata["end"] == len(text.rstrip())


def test_markdown_is_cut_at_its_headings_and_chunks_carry_them() -> None:
    chunks = split(MANUAL, 1000, 200, format="markdown", title="Manual")
    assert [(chunk.metadata.get("heading"), chunk.page_content.partition("\n")[0]) for chunk in chunks] == [
        (None, "Before any heading."),
        ("Manual > Install", "# Manual"),
        ("Manual > Use", "## Use"),
        ("Annex", "# Annex"),
    ]
    assert {(chunk.metadata["title"], chunk.metadata["format"]) for chunk in chunks} == {
        ("Manual", "markdown")
    }


def test_a_long_section_is_cut_further_and_keeps_its_heading() -> None:
    chunks = split("# One\n" + "word " * 50 + "\n# Two\nend", 60, 10, format="markdown")
    assert [chunk.metadata["heading"] for chunk in chunks] == ["One"] * (len(chunks) - 1) + ["Two"]
    assert len(chunks) > 4


def test_other_text_is_not_cut_at_lines_that_begin_with_a_hash() -> None:
    assert len(split("# a comment\nx = 1\n# another\n", 1000, 200)) == 1


def test_the_heading_of_a_loader_stays_where_the_text_has_none() -> None:
    (chunk,) = split("slide text", 1000, 200, heading="Slide")
    assert chunk.metadata["heading"] == "Slide"


def test_no_two_chunks_share_metadata() -> None:
    document = Document(page_content="word " * 60, metadata={"tags": ["a"], "page": 1})
    one, two = split_documents([document], chunk_size=200, chunk_overlap=20)[:2]
    one.metadata["page"] = 2
    one.metadata["tags"].append("b")
    assert (two.metadata["page"], two.metadata["tags"]) == (1, ["a"])
    assert document.metadata == {"tags": ["a"], "page": 1}


def test_blank_documents_give_no_chunks_and_others_keep_their_order() -> None:
    documents = [Document(page_content=text) for text in ("b", " \n", "a")]
    chunks = split_documents(documents, chunk_size=10, chunk_overlap=0)
    assert [chunk.page_content for chunk in chunks] == ["b", "a"]


@pytest.mark.parametrize(("size", "overlap"), [(10, 10), (0, 0), (10, -1)])
def test_sizes_that_contradict_each_other_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= chunk_overlap < chunk_size"):
        split_documents([], chunk_size=size, chunk_overlap=overlap)


def test_the_fingerprint_tells_sizes_apart() -> None:
    assert splitter_fingerprint(1000, 200) == "recursive:1000:200:v2"
    sizes = itertools.product((500, 1000), (0, 100), SPLITTERS)
    assert len(set(itertools.starmap(splitter_fingerprint, sizes))) == 12


def test_an_unknown_splitter_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="'senttence', expected one of recursive, sentence, token"):
        split("text", splitter="senttence")


def test_the_metadata_that_a_document_brings_is_kept_whatever_its_names() -> None:
    brought = {"format": "A4", "start": 12.5, "end": 14.0, "document_end": "x", "source": "a"}
    (chunk,) = split(" fala", 100, 0, **brought)
    assert chunk.metadata == {
        "format": "A4",
        "document_start": 12.5,
        "document_document_end": 14.0,
        "document_end": "x",
        "source": "a",
        "start": 1,
        "end": 5,
    }


def test_what_a_loader_says_of_the_layout_counts_more_than_the_documents_own_format_and_goes() -> None:
    (chunk,) = split("# a\nx", 100, 0, **{FORMAT_KEY: "markdown", "format": "py"})
    assert chunk.metadata == {"format": "py", "heading": "a", "start": 0, "end": 5}


def test_sentences_are_kept_whole_and_repeated_whole() -> None:
    text = "O Sr. Silva chegou. Ele leu o art. 5º da lei. Depois saiu. Ninguém o viu mais."
    chunks = split(text, 50, 20, splitter="sentence")
    assert [chunk.page_content for chunk in chunks] == [
        "O Sr. Silva chegou. Ele leu o art. 5º da lei.",
        "Depois saiu. Ninguém o viu mais.",
    ]
    chunks = split(text, 60, 20, splitter="sentence")
    assert [chunk.page_content for chunk in chunks] == [
        "O Sr. Silva chegou. Ele leu o art. 5º da lei. Depois saiu.",
        "Depois saiu. Ninguém o viu mais.",
    ]


def test_a_sentence_longer_than_a_chunk_is_cut_at_spaces() -> None:
    chunks = split("Curta. Palavra " + "palavra " * 20 + "fim. Outra.", 50, 0, splitter="sentence")
    assert chunks[0].page_content == "Curta."
    assert {word for chunk in chunks for word in chunk.page_content.split()} == {
        "Curta.",
        "Palavra",
        "palavra",
        "fim.",
        "Outra.",
    }


def test_sizes_are_tokens_with_the_splitter_of_that_name() -> None:
    text = "O contrato trata de prazos, multas e rescisão, conforme a legislação em vigor. " * 50
    chunks = split(text, 100, 20, splitter="token")
    counts = count_tokens([chunk.page_content for chunk in chunks])
    assert max(counts) <= 100
    assert min(counts[:-1]) > 85
    shared = [text[two.metadata["start"] : one.metadata["end"]] for one, two in itertools.pairwise(chunks)]
    assert all(0 < count <= 20 for count in count_tokens(shared))


@pytest.mark.parametrize("unit", ["palavra repetida. ", "x", "\U0001f9ff", "a\r\n"])
def test_long_texts_are_counted_in_windows(unit: str) -> None:
    text = unit * (50_000 // len(unit))
    chunks = split(text, 500, 100, splitter="token")
    assert covers(text, chunks)
    assert max(count_tokens([chunk.page_content for chunk in chunks])) <= 500


PYTHON = '''import os


# Reads.
@cache
def read(path):
    with open(path) as file:

        return file.read()


class Writer:
    """Writes."""

    @property
    def name(self):
        return "a"

    async def write(self, text):
        await self.file.write(text)
'''
JAVA = """class Nota {
    private int numero;

    /** Emite.
     * Agora.
     */
    @Override
    public void emitir() {
        int passo = 1;

        enviar(passo);
    }
}
"""


@pytest.mark.parametrize("splitter", ["recursive", "sentence"])
@pytest.mark.parametrize(
    ("name", "code", "starts"),
    [
        (
            "a.py",
            PYTHON,
            [
                "import os",
                "# Reads.\n@cache\ndef read",
                "class Writer",
                "async def",
            ],
        ),
        ("A.JAVA", JAVA, ["class Nota", "/** Emite."]),
        (
            "a.sql",
            "select 1\nfrom tabela_de_notas_fiscais;\n\ncreate table t (a int,\n\n b int);\n",
            ["select 1", "create"],
        ),
        (
            "a.R",
            "x <- 1\n\ny <- 2 # um comentario longo\nsoma <- function(a, b) {\n\n  a + b\n}\n",
            ["x <- 1", "soma <-"],
        ),
        (
            "a.js",
            "const a = 1;\nconst b = 'um texto bem mais longo';\nexport function f() {\n\n  g()\n}\n",
            ["const a", "export"],
        ),
    ],
)
def test_code_is_cut_before_definitions_with_what_stands_above_them(
    name: str, code: str, starts: list[str], splitter: str
) -> None:
    size = {"a.py": 95, "A.JAVA": 160}.get(name, 70)
    documents = load_bytes(code.encode(), name=name)
    chunks = split_documents(documents, chunk_size=size, chunk_overlap=0, splitter=splitter)
    assert [chunk.page_content[: len(start)] for chunk, start in zip(chunks, starts, strict=True)] == starts
    assert all(set(chunk.metadata) == {"start", "end"} for chunk in chunks)


def test_cells_of_a_notebook_are_not_cut_in_two_where_they_fit() -> None:
    prose, code = "Texto. " * 9, "a = 1\n\nb = 2\n\nc = 3"
    text = f"# Um\n\n{prose}\n\n```\n{code}\n```\n\n{prose}"
    chunks = split(text, 80, 0, **{FORMAT_KEY: "markdown"})
    assert [chunk.page_content for chunk in chunks if "```" in chunk.page_content] == [f"```\n{code}\n```"]


def test_the_headings_of_html_arrive_as_headings() -> None:
    code = "<ul><li><pre># nada\nx</pre></ul><pre><b># nada</b>\n```</pre>"
    page = f"<h1>Manual</h1><h2>Instalar</h2><p>Rode.</p>{code}<h2>Usar</h2><p>Chame.</p>"
    chunks = split_documents(load_bytes(page.encode(), name="a.html"), chunk_size=1000, chunk_overlap=0)
    assert [chunk.metadata["heading"] for chunk in chunks] == ["Manual > Instalar", "Manual > Usar"]


def test_the_headings_of_restructuredtext_arrive_as_headings() -> None:
    text = "======\nManual\n======\n\nUso\n---\nTexto.\n\n=== ===\na   b\n=== ===\n\nFim\n---\nTexto.\n\n----\n\nx\n"
    chunks = split_documents(load_bytes(text.encode(), name="a.rst"), chunk_size=1000, chunk_overlap=0)
    assert [(chunk.metadata["heading"], chunk.page_content[:6]) for chunk in chunks] == [
        ("Manual > Uso", "======"),
        ("Manual > Fim", "Fim\n--"),
    ]


def test_text_is_cut_without_importing_langchains_splitters() -> None:
    code = (
        "import sys; from langchain_core.documents import Document; from oraculo_kit.split import split_documents;"
        "split_documents([Document(page_content='row ' * 900)] * 3, chunk_size=1000, chunk_overlap=200);"
        "print({'langchain_text_splitters', 'numpy', 'tokenizers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "set()"
