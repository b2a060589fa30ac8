"""What callers hand to a store by mistake is named, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

import oraculo_kit
from oraculo_kit.errors import QueryError, SettingsError
from oraculo_kit.storage import VetorStorage, open_storage, restore_store
from tests.storage.kit import TinyEmbeddings

ONE = Document("O prazo é de dez dias", metadata={"source": "a.md"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VetorStorage]:
    with open_storage(tmp_path / "base", TinyEmbeddings()) as opened:
        opened.write([ONE], ids=["um"])
        yield opened


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda store: store.write("texto"), "got str, expected LangChain documents"),
        (lambda store: store.write(ONE), "got Document, expected LangChain documents, such as"),
        (lambda store: store.write(None), "got NoneType, expected LangChain documents"),
        (lambda store: store.write([ONE, "texto"]), "got list with a str in it"),
        (lambda store: store.write([ONE], ids=[5]), "got an id of type int"),
        (lambda store: store.replace("a.md", "texto"), "got str, expected LangChain documents"),
        (lambda store: store.replace(5, [ONE]), "got int as source, expected its key"),
        (lambda store: store.get("um"), "got str as ids, expected a list"),
        (lambda store: store.get(None), "got NoneType as ids"),
        (lambda store: store.remove("um"), "got str as ids"),
        (lambda store: store.remove([5]), "got an id of type int"),
        (lambda store: store.vectors("um"), "got str as ids"),
        (lambda store: store.iter_documents(0), "batch is 0, expected a whole number"),
        (lambda store: store.iter_vectors("a"), "batch is 'a', expected a whole number"),
        (lambda store: store.compact(purge="não"), "purge is 'não', expected True or False"),
        (lambda store: store.search("prazo").similar("um"), "got str as hit, expected one of the hits"),
        (lambda store: store.search("prazo").context(0), "got int as hit, expected one of the hits"),
    ],
)
def test_a_wrong_type_is_named_and_changes_nothing(
    store: VetorStorage, call: Callable[[Any], Any], said: str
) -> None:
    before = store.stats().commit
    with pytest.raises(QueryError, match=said):
        call(store)
    assert store.stats().commit == before
    assert store.get(["um"])[0].page_content == ONE.page_content


@pytest.mark.parametrize(
    ("location", "options", "said"),
    [
        ("", {}, "the store is '', expected a path"),
        (" ", {}, "the store is ' ', expected a path"),
        (None, {}, "the store is NoneType, expected a path"),
        ("base", {"lock_timeout": "x"}, "lock_timeout is 'x', expected seconds"),
        ("base", {"lock_timeout": float("nan")}, "lock_timeout is nan"),
    ],
)
def test_a_store_is_not_made_where_nobody_meant_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: Any, options: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=said):
        open_storage(location, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_is_restored_by_a_function_that_is_easy_to_find(
    store: VetorStorage, tmp_path: Path
) -> None:
    assert oraculo_kit.restore_store is restore_store
    assert "restore_store" in dir(oraculo_kit)
    oraculo_kit.restore_store(store.snapshot(tmp_path / "copy"), tmp_path / "back")
    with open_storage(tmp_path / "back", TinyEmbeddings()) as back:
        assert len(back) == 1


def test_a_report_is_a_sentence_in_a_notebook_too(store: VetorStorage) -> None:
    # A notebook shows the repr of what a cell gives.
    assert repr(store.health()) == f"{store.location}: all well"
    assert repr(store.compact()).endswith(" s")
    assert repr(store.optimize()).startswith("1 vectors are searched exactly")
    assert repr(store.reembed(TinyEmbeddings())).startswith("1 chunks embedded with ")
