"""What was given becomes sources: each with a key of its own, nothing dropped and nothing changed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from langchain_core.documents import Document

from oraculo_kit.errors import EmptySourceError, SourceError, SourceTooLargeError
from oraculo_kit.inputs import DocumentsSource, FileSource, IngestSource, TextSource, find_sources

LIMIT = 1_000_000


def texts(source: IngestSource) -> list[str]:
    return [document.page_content for document in source.documents(source.content(LIMIT))]


# --- files --------------------------------------------------------------------------------------------------


def test_a_file_gives_its_bytes_and_documents_that_know_its_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("olá", encoding="utf-8")
    os.utime(path, ns=(0, 1_700_000_000_999_999_999))
    (source,) = find_sources(path)
    content = source.content(LIMIT)
    assert content == "olá".encode()
    assert source.documents(content)[0].metadata == {"modified": "2023-11-14T22:13:20+00:00", "bytes": 4}
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
    assert source.documents(b"texto")[0].metadata == {"bytes": 5}


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
    first, second = (source.documents(b"")[0].metadata for source in find_sources(frame, text="texto"))
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
            source.documents(b"")


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


@pytest.mark.parametrize("column", ["source", "format"])
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
    with pytest.raises(SourceError, match="text= and id= name columns of a DataFrame, got str"):
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
    source.documents(b"")[0].metadata["mine"] = True
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
        source.documents(b"")


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


@pytest.mark.parametrize("given", [42, None, [object()], [1, "a.txt"], b"a.txt"])
def test_what_is_no_source_is_refused_with_what_is(given: Any) -> None:
    with pytest.raises(SourceError, match="expected"):
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
