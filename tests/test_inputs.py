"""What was given becomes sources: each with a key of its own, nothing dropped and nothing changed."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document
from pyarrow import parquet

from oraculo_kit.errors import (
    EmptySourceError,
    ExtractionError,
    SourceError,
    SourceNotFoundError,
    SourceTooLargeError,
)
from oraculo_kit.inputs import (
    BytesSource,
    DocumentsSource,
    FileSource,
    IngestSource,
    TextSource,
    find_sources,
)
from oraculo_kit.load import load_bytes
from oraculo_kit.settings import Settings

LIMIT = 1_000_000


def extract(content: bytes, name: str) -> list[Document]:
    return load_bytes(content, name=name)


def texts(source: IngestSource) -> list[str]:
    return [document.page_content for document in source.documents(source.content(LIMIT), extract)]


# --- files --------------------------------------------------------------------------------------------------


def test_a_file_gives_its_bytes_and_documents_that_know_its_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("olá", encoding="utf-8")
    os.utime(path, ns=(0, 1_700_000_000_999_999_999))
    (source,) = find_sources(path)
    content = source.content(LIMIT)
    assert content == "olá".encode()
    assert source.documents(content, extract)[0].metadata == {
        "modified": "2023-11-14T22:13:20+00:00",
        "bytes": 4,
    }
    with pytest.raises(SourceTooLargeError):
        source.content(3)


@pytest.mark.parametrize("seconds", [-1, 10**12])
def test_a_time_that_no_calendar_has_is_no_time(tmp_path: Path, seconds: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("texto", encoding="utf-8")
    os.utime(path, (seconds, seconds))
    if int(path.stat().st_mtime) != seconds:
        pytest.skip("this file system keeps no such time")
    (source,) = find_sources(path)
    assert source.mtime_ns is None
    assert source.documents(b"texto", extract)[0].metadata == {"bytes": 5}


def test_files_that_cannot_be_read_are_sources_with_an_error(tmp_path: Path) -> None:
    (source,) = find_sources([tmp_path / "missing.txt"])
    assert type(source.error).__name__ == "SourceNotFoundError"
    assert source.size == 0


# --- DataFrames ---------------------------------------------------------------------------------------------


def test_rows_are_named_by_the_index_or_by_a_column() -> None:
    frame = pd.DataFrame({"texto": ["um", "dois"], "código": ["x/1", "x/2"]}, index=[10, 20])
    assert [source.key for source in find_sources(frame, text="texto")] == ["dataframe/10", "dataframe/20"]
    named = find_sources(frame, text="texto", id="código", name="chamados")
    assert [source.key for source in named] == ["chamados/x/1", "chamados/x/2"]


def test_a_row_has_the_other_columns_as_metadata_and_no_missing_values() -> None:
    frame = pd.DataFrame(
        {
            "texto": ["a", "b"],
            "ano": pd.array([2024, None], dtype="Int64"),
            "valor": [1.5, float("nan")],
            "quando": pd.to_datetime(["2024-01-02", None]),
            "ok": [True, None],
        }
    )
    first, second = (
        source.documents(b"", extract)[0].metadata for source in find_sources(frame, text="texto")
    )
    assert first == {"ano": 2024, "valor": 1.5, "quando": pd.Timestamp("2024-01-02"), "ok": True}
    assert second == {}


def test_columns_may_be_named_by_numbers() -> None:
    (source,) = find_sources(pd.DataFrame([["um texto", "x"]]), text="0")
    assert isinstance(source, TextSource)
    assert (source.text, source.metadata) == ("um texto", {"1": "x"})


def test_a_subclass_of_dataframe_is_one() -> None:
    class Frame(pd.DataFrame):
        pass

    assert [source.key for source in find_sources(Frame({"t": ["a"]}), text="t")] == ["dataframe/0"]


def test_a_missing_or_blank_text_is_nothing_to_index() -> None:
    frame = pd.DataFrame({"t": [None, float("nan"), "  \n"]})
    for source in find_sources(frame, text="t"):
        with pytest.raises(EmptySourceError, match="the text is empty"):
            source.documents(b"", extract)


def test_a_change_of_text_or_metadata_changes_the_content() -> None:
    contents = {
        TextSource("k", text, metadata).content(LIMIT)
        for text, metadata in [("a", {}), ("b", {}), ("a", {"n": 1}), ("a", {"n": "1"}), ("a", {"m": 1})]
    }
    assert len(contents) == 5


@pytest.mark.parametrize(
    ("columns", "arguments", "said"),
    [
        (["t"], {}, "needs text=, the name of the column to index; it has 't'"),
        (["t", "x"], {"text": "nope"}, "text='nope' is no column of the DataFrame; it has 't', 'x'"),
        (["t"], {"text": "t", "id": "nope"}, "id='nope' is no column"),
        (["t", "t"], {"text": "t"}, "more than one column 't'"),
        (["t", "start"], {"text": "t"}, "has the column 'start', a name under which .* rename it"),
        (["t", "source"], {"text": "t"}, "has the column 'source'"),
        (["t"], {"text": "t", "glob": "*.txt"}, "glob='.*' chooses files of a folder"),
    ],
)
def test_a_dataframe_that_would_lose_something_is_refused(
    columns: list[str], arguments: dict[str, str], said: str
) -> None:
    frame = pd.DataFrame([["x"] * len(columns)], columns=columns)
    with pytest.raises(SourceError, match=said):
        list(find_sources(frame, **arguments))


@pytest.mark.parametrize("column", ["source", "start"])
def test_such_a_column_may_hold_the_text_or_the_names(column: str) -> None:
    frame = pd.DataFrame({column: ["a"], "t": ["b"]})
    assert [source.key for source in find_sources(frame, text="t", id=column)] == ["dataframe/a"]


def test_names_that_are_not_unique_are_refused_at_once_however_many() -> None:
    frame = pd.DataFrame({"t": ["x"] * 200_000, "n": [*range(199_999), 199_998]})
    with pytest.raises(SourceError, match="column 'n' holds '199998' more than once"):
        list(find_sources(frame, text="t", id="n"))


def test_a_series_is_refused() -> None:
    with pytest.raises(SourceError, match="got a Series with float"):
        find_sources(pd.Series([1.5]))


def test_options_of_a_dataframe_are_refused_for_files() -> None:
    with pytest.raises(
        SourceError, match="text= and id= name columns of a DataFrame or a parquet file, got str"
    ):
        find_sources("dados.csv", text="texto")


# --- documents ----------------------------------------------------------------------------------------------


def test_documents_are_grouped_by_source_in_order() -> None:
    given = [Document("um", metadata={"source": "x"}), Document("só", metadata={"source": "y"})]
    x, y = find_sources([*given, Document("dois", metadata={"source": "x"})])
    assert (x.key, texts(x)) == ("x", ["um", "dois"])
    assert (y.key, texts(y)) == ("y", ["só"])


def test_documents_without_a_source_never_replace_each_other() -> None:
    keys = [source.key for source in find_sources([Document("um"), Document("dois"), Document("um")])]
    assert len(keys) == len(set(keys)) == 2
    assert keys[0] == next(find_sources(Document("um"))).key
    assert next(find_sources(Document("um", id="meu-id"))).key == "meu-id"


def test_what_a_source_gives_shares_nothing_with_the_callers_document() -> None:
    given = Document("um", metadata={"source": "x"})
    (source,) = find_sources(given)
    source.documents(b"", extract)[0].metadata["mine"] = True
    assert given.metadata == {"source": "x"}


def test_a_document_named_like_a_file_is_a_fault_and_not_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("arquivo", encoding="utf-8")
    file, document = find_sources([path, Document("outro", metadata={"source": str(path)})])
    assert isinstance(file, FileSource)
    assert isinstance(document, DocumentsSource)
    assert file.error is None
    assert "a file of that name is given too" in str(document.error)


def test_documents_without_text_are_nothing_to_index() -> None:
    (source,) = find_sources([Document(" \n", metadata={"source": "x"})])
    with pytest.raises(EmptySourceError, match="hold no text"):
        source.documents(b"", extract)


# --- all ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["antes \ud800 depois", "com \0 zero"])
def test_text_that_no_database_can_hold_is_made_storable(text: str) -> None:
    # As object: with pyarrow installed pandas makes Arrow texts, which cannot hold a lone surrogate.
    frame = pd.DataFrame([[text, text]], columns=pd.Index(["t", "\udcff"], dtype=object), dtype=object)
    for source in (
        *find_sources(frame, text="t", name="\udcff"),
        *find_sources([Document(text, metadata={"source": "\udcff", "m": text})]),
    ):
        source.key.encode()
        assert source.content(LIMIT)
        texts(source)[0].encode()


def test_a_generator_is_taken_as_a_list(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).touch()
    found = find_sources(tmp_path / name for name in ("b.txt", "a.txt"))
    assert [Path(source.key).name for source in found] == ["b.txt", "a.txt"]


@pytest.mark.parametrize(
    "given", [42, None, [object()], [1, "a.txt"], "", [""], [b"a.txt"], [["a.txt"]], "gopher://host/a.txt"]
)
def test_what_is_no_source_is_refused_with_what_is(given: Any) -> None:
    with pytest.raises(SourceError, match="expected|in a call of its own"):
        find_sources(given)


def test_every_source_travels_to_a_worker(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("um", encoding="utf-8")
    frame = pd.DataFrame({"t": ["dois"], "quando": [pd.Timestamp("2024-01-02")]})
    for source in (*find_sources([tmp_path, Document("três")]), *find_sources(frame, text="t")):
        copy = pickle.loads(pickle.dumps(source))
        assert copy == source
        assert texts(copy) == texts(source)


def test_finding_files_does_not_import_pandas(tmp_path: Path) -> None:
    script = "import sys; from oraculo_kit.inputs import find_sources; list(find_sources('.'))\n"
    script += "sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_finding_files_imports_no_client_of_the_network(tmp_path: Path) -> None:
    script = "import sys; from oraculo_kit.inputs import find_sources; list(find_sources('.'))\n"
    script += "sys.exit(' '.join({'fsspec', 'pyarrow', 'http.client', 'urllib3'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


# --- bytes and open files -----------------------------------------------------------------------------------


def test_bytes_are_a_source_under_the_name_that_they_are_given() -> None:
    (source,) = find_sources(b"nota fiscal", name="nota.md")
    assert (source.key, source.size, source.mtime_ns) == ("nota.md", 11, None)
    assert texts(source) == ["nota fiscal"]
    assert source.documents(b"x", extract)[0].metadata["bytes"] == 1
    assert pickle.loads(pickle.dumps(source)) == source
    assert "fiscal" not in repr(source)
    with pytest.raises(SourceTooLargeError, match=r"nota\.md: more, over the limit"):
        source.content(3)


@pytest.mark.parametrize("name", [None, "nota", "dataframe"])
def test_bytes_without_a_name_that_tells_their_format_are_refused(name: str | None) -> None:
    with pytest.raises(
        SourceError, match='bytes needs name=, a file name whose extension .* name="nota.pdf"'
    ):
        find_sources(b"%PDF", name=name)


def test_an_open_file_is_the_same_source_as_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("do disco", encoding="utf-8")
    with path.open("rb") as file:
        (source,) = find_sources(file)
    assert (source.key, texts(source)) == (next(find_sources(path)).key, ["do disco"])
    assert texts(next(find_sources(io.StringIO("da memória"), name="m.txt"))) == ["da memória"]
    with pytest.raises(SourceError, match="the open file cannot be read: .* closed file"):
        find_sources(file)


def test_an_endless_open_file_is_read_to_the_limit_only(tmp_path: Path) -> None:
    settings = Settings.resolve(environ={"ORACULO_MAX_FILE_MB": "0.1"}, project_root=tmp_path)
    with open("/dev/zero" if os.path.exists("/dev/zero") else os.devnull, "rb") as endless:
        (source,) = find_sources(endless, name="zeros.txt", settings=settings)
    assert isinstance(source, BytesSource)
    assert len(source.data) <= settings.max_file_bytes + 1


# --- LangChain loaders --------------------------------------------------------------------------------------


class Pages(BaseLoader):
    """Gives documents, and raises where it finds an exception among them."""

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.given = 0

    def lazy_load(self) -> Iterator[Document]:
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            self.given += 1
            yield item


def page(text: str, source: str) -> Document:
    return Document(text, metadata={"source": source})


def test_a_loader_gives_a_source_for_each_run_of_documents_without_being_read_ahead() -> None:
    loader = Pages(page("1", "a.pdf"), page("2", "a.pdf"), page("3", "b.pdf"), page("4", "c.pdf"))
    found = find_sources(loader)
    first = next(found)
    assert (first.key, texts(first), loader.given) == ("a.pdf", ["1", "2"], 3)
    assert [(source.key, texts(source)) for source in found] == [("b.pdf", ["3"]), ("c.pdf", ["4"])]


def test_a_real_loader_among_paths_and_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("arquivo", encoding="utf-8")
    found = find_sources([Pages(page("carregado", "x")), tmp_path / "a.txt", page("documento", "y")])
    assert [texts(source) for source in found] == [["arquivo"], ["carregado"], ["documento"]]


def test_a_loader_that_raises_is_a_failed_source_and_what_came_before_is_whole() -> None:
    loader = Pages(page("1", "a.pdf"), page("2", "b.pdf"), ConnectionError("https://ana:s3nha@host/ is gone"))
    whole, broken = find_sources(loader)
    assert (whole.key, whole.error, texts(whole)) == ("a.pdf", None, ["1"])
    assert broken.key == "b.pdf"
    assert "the loader Pages failed, while it gave b.pdf: ConnectionError: https://***@host/" in str(
        broken.error
    )
    (nothing,) = find_sources(Pages(ValueError("no")))
    assert (nothing.key, str(nothing.error)) == ("loader/Pages", "the loader Pages failed: ValueError: no")
    (wrong,) = find_sources(Pages("text"))
    assert "it gave a str, expected LangChain documents" in str(wrong.error)


def test_a_source_that_a_loader_gives_twice_is_a_fault_and_never_replaces_its_first_part() -> None:
    loader = Pages(page("1", "a"), page("2", "b"), page("3", "a"))
    first, _, again = find_sources(loader)
    assert (texts(first), first.error) == (["1"], None)
    assert again.key != first.key
    assert "give list(loader.lazy_load()), which is grouped as a whole" in str(again.error)
    assert [texts(source) for source in find_sources(loader.load())] == [["1", "3"], ["2"]]


# --- parquet ------------------------------------------------------------------------------------------------


def write_table(path: Path, rows: int = 3, **columns: list[Any]) -> Path:
    given = columns or {"texto": [f"linha {n}" for n in range(rows)], "n": list(range(rows))}
    parquet.write_table(pa.table(given), path, row_group_size=2)
    return path


def test_rows_of_a_parquet_file_are_sources_as_those_of_a_dataframe(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.parquet", 5)
    found = list(find_sources(path, text="texto"))
    assert [source.key for source in found] == [f"{path}!/{n}" for n in range(5)]
    assert texts(found[4]) == ["linha 4"]
    assert found[4].documents(b"", extract)[0].metadata == {"n": 4}
    frame = pd.DataFrame({"texto": ["linha 0"], "n": [0]})
    (same,) = find_sources(frame, text="texto")
    assert same.content(LIMIT) == found[0].content(LIMIT)


def test_rows_of_a_parquet_file_are_named_by_a_column_and_by_name(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.parquet", texto=["a", None], código=["x/1", "x/2"], m=[None, 1.5])
    first, second = find_sources(str(path), text="texto", id="código", name="chamados")
    assert (first.key, second.key) == ("chamados/x/1", "chamados/x/2")
    assert first.documents(b"", extract)[0].metadata == {}
    with pytest.raises(EmptySourceError):
        second.documents(b"", extract)


def test_a_large_parquet_file_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with parquet.ParquetWriter(path, pa.schema([("t", pa.string())])) as writer:
        for _ in range(20):
            writer.write_table(pa.table({"t": [f"{n:05} ".ljust(2000, "x") for n in range(1000)]}))
    pool = pa.default_memory_pool()
    before, most, count = pool.bytes_allocated(), 0, 0
    for _ in find_sources(path, text="t"):
        count += 1
        most = max(most, pool.bytes_allocated() - before)
    assert count == 20_000
    assert most < 12_000_000  # of 40 MB of text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": "nope"}, "text='nope' is no column of the table; it has 'texto', 'n'"),
        ({"text": "texto", "id": "nope"}, "id='nope' is no column of the table"),
        ({"text": "texto", "id": "same"}, "id='same' is no column"),
        ({"text": "texto", "glob": "*"}, "and a table was given"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_at_once(
    tmp_path: Path, arguments: dict[str, str], said: str
) -> None:
    path = write_table(tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=said):
        find_sources(path, **arguments)


def test_a_table_that_is_missing_broken_or_names_a_row_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such file"):
        find_sources(tmp_path / "t.parquet", text="t")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(ExtractionError, match="cannot be read as parquet"):
        find_sources(tmp_path / "t.parquet", text="t")
    path = write_table(tmp_path / "u.parquet", texto=["a", "b"], id=["x", "x"])
    with pytest.raises(SourceError, match="column 'id' holds 'x' more than once"):
        find_sources(path, text="texto", id="id")


# --- URLs of files ------------------------------------------------------------------------------------------


def test_a_file_url_is_its_path(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("texto", encoding="utf-8")
    (source,) = find_sources((tmp_path / "a b.txt").as_uri())
    assert (source.key, texts(source)) == (str(tmp_path / "a b.txt"), ["texto"])
    with pytest.raises(SourceError, match="file://host is a file of another machine"):
        find_sources("file://host/a.txt")
