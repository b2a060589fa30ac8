"""A base in a LangChain vector store: what it holds, what it is asked, and what happens when it fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from langchain_core.documents import Document

from oraculo_kit.errors import SettingsError, StorageError, StoreUnsupportedError
from oraculo_kit.settings import Settings
from oraculo_kit.storage import VetorStorage, open_storage
from oraculo_kit.storage.adapted import outbox, versions
from oraculo_kit.storage.adapted.engine import BASE, NUMBER, _opened
from oraculo_kit.storage.capabilities import ADAPTED, EMBEDDED, POSTGRES
from tests.engines import factories
from tests.engines.engines import ENGINES
from tests.engines.factories import FOLDER, Counting
from tests.storage.kit import ROOT, TinyEmbeddings, documents, nearest, vectors


def location(folder: Path, factory: str = "counting") -> str:
    return f"langchain:tests.engines.factories:{factory}?catalog={quote(str(folder / 'catalog'))}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VetorStorage]:
    """Return an empty base in a vector store that can be watched."""
    with open_storage(location(tmp_path), TinyEmbeddings()) as store:
        yield store
    factories.made.clear()
    assert not _opened


@pytest.fixture
def engine(store: VetorStorage) -> Counting:
    """Return that vector store."""
    store.search(vectors(1)[0], 1)
    (made,) = factories.made
    made.asked.clear()
    return made


def held(engine: Counting) -> set[str]:
    return {entry["text"] for entry in engine.store.values()}


def test_the_vector_store_holds_a_copy_that_others_can_read(store: VetorStorage, engine: Counting) -> None:
    store.write(
        [Document("um \0", metadata={"source": "a", "page": 1, "list": [1], "big": 2**70})], vectors(1)
    )
    ((_, entry),) = engine.store.items()
    assert entry["text"] == "um \ufffd"
    assert {key: entry["metadata"][key] for key in ("source", "page")} == {"source": "a", "page": 1}
    assert set(entry["metadata"]) == {"source", "page", BASE, NUMBER}
    assert np.allclose(entry["vector"], vectors(1)[0])


def test_replaced_moved_and_removed_chunks_are_so_there_too(store: VetorStorage, engine: Counting) -> None:
    store.replace("a", documents("a", 3), vectors(3))
    store.replace("a", documents("a", 2, first=5), vectors(2))
    assert held(engine) == {chunk.text for chunk in store.source_chunks("a")}
    store.write([Document("again", id="x")], vectors(1))
    store.write([Document("anew", id="x")], vectors(1))
    assert "anew" in held(engine)
    assert "again" not in held(engine)
    store.remove(["x"])
    store.remove_by_metadata("source", "a")
    assert engine.store == {}


def test_equal_texts_keep_vectors_of_their_own(store: VetorStorage, engine: Counting) -> None:
    store.write(
        [Document("the same"), Document("the same"), Document("other")], vectors(3), ids=["1", "2", "3"]
    )
    there = np.array([entry["vector"] for entry in engine.store.values()])
    assert len(np.unique(there.round(4), axis=0)) == 3


def test_searches_ask_it_for_candidates_and_rank_by_the_stored_vectors(
    store: VetorStorage, engine: Counting
) -> None:
    matrix = vectors(200, 3)
    ids = store.write(documents("a", 200), matrix)
    query = vectors(1, 9)[0]
    expected = [name for name, _ in nearest(query, matrix, ids, 10)]
    assert [hit.id for hit in store.search(query, 10)] == expected
    assert engine.asked == [26]
    for entry in engine.store.values():
        entry["text"] = "changed behind our back"
    assert "changed" not in store.search(query, 1)[0].text
    engine.asked.clear()
    assert [hit.id for hit in store.search(query, 10, exact=True)] == expected
    assert engine.asked == []


def test_a_filter_costs_no_results(
    store: VetorStorage, engine: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = vectors(300, 3)
    ids = store.write(documents("a", 300), matrix)
    monkeypatch.setattr(versions, "_FEW", 0)
    query = vectors(1, 9)[0]
    for least in (100, 290):
        found = store.search(query, 10, filter={"place": {"$gte": least}})
        assert [hit.id for hit in found] == [
            name for name, _ in nearest(query, matrix[least:], ids[least:], 10)
        ]
    assert engine.asked[0] == 31
    assert len(engine.asked) >= 2


def test_candidates_of_another_version_change_nothing(store: VetorStorage, engine: Counting) -> None:
    matrix = vectors(50, 3)
    ids = store.write(documents("a", 50), matrix)
    first = next(iter(engine.store.values()))
    stale = {**first, "metadata": {**first["metadata"], NUMBER: 10**6}}
    foreign = {**first, "metadata": {**first["metadata"], BASE: "another"}}
    engine.store.update({"stale": {**stale, "id": "stale"}, "foreign": {**foreign, "id": "foreign"}})
    for name in list(engine.store)[:20]:
        engine.delete([name])  # lost there
    found = store.search(matrix[0], 45)
    assert [hit.id for hit in found] == [name for name, _ in nearest(matrix[0], matrix, ids, 45)]


def test_while_it_is_down_nothing_is_lost_and_everything_is_found(
    store: VetorStorage, engine: Counting
) -> None:
    store.write(documents("a", 5))
    engine.broken = True
    with pytest.warns(UserWarning, match=r"changes wait to be sent .* the server is down\. Nothing is lost"):
        ids = store.replace("b", documents("b", 3))
    store.replace("a", documents("a", 2))  # told once
    assert len(store.search("texto", 20, mode="vector")) == 5
    assert "wait to be sent" in str(store.health())
    assert store.verify().ok
    engine.broken = False
    store.write(documents("c", 1))
    assert len(engine.store) == 6
    assert "wait to be sent" not in str(store.health())
    assert store.search(store.get(ids)[0].page_content, 1, mode="vector")[0].id == ids[0]


def test_what_waits_to_be_sent_is_searched_and_what_was_deleted_is_not_found(
    store: VetorStorage, engine: Counting
) -> None:
    matrix = vectors(300, 3)
    store.replace("old", documents("old", 50), matrix[:50])
    kept = store.replace("kept", documents("kept", 200), matrix[50:250])
    engine.full = True
    with pytest.warns(UserWarning, match="the disk is full"):
        new = store.replace("old", documents("old", 50, first=50), matrix[250:])
    for query in (matrix[3], matrix[251], vectors(1, 8)[0]):
        found = [hit.id for hit in store.search(query, 5)]
        assert found == [name for name, _ in nearest(query, matrix[50:], [*kept, *new], 5)]
    assert engine.asked == [21, 21, 21]
    engine.full = False


def test_a_search_goes_on_without_it_and_says_so(store: VetorStorage, engine: Counting) -> None:
    store.write(documents("a", 5))
    engine.broken = True
    with pytest.warns(UserWarning, match="does not answer .*answered from the catalog"):
        assert len(store.search("texto", 5, mode="vector")) == 5


def test_more_than_can_be_listed_is_compared_here(
    store: VetorStorage, engine: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_LISTED", 3)
    engine.broken = True
    with pytest.warns(UserWarning, match="wait to be sent"):
        store.write(documents("a", 5))
    assert len(store.search("texto", 5, mode="vector")) == 5
    assert engine.asked == []


def test_verify_finds_what_is_lost_there_and_repair_sends_it(store: VetorStorage, engine: Counting) -> None:
    store.write(documents("a", 5))
    engine.delete(list(engine.store)[:2])
    report = store.verify()
    assert "of 5 chunks that the vector store" in report.problems[0]
    assert "2 are missing there" in report.problems[0]
    repaired = store.repair()
    assert "all chunks were sent to the vector store again" in repaired.done
    assert store.verify().ok
    assert len(engine.store) == 5


def test_a_snapshot_is_a_plain_store_without_the_outbox(
    store: VetorStorage, engine: Counting, tmp_path: Path
) -> None:
    store.write(documents("a", 3))
    with open_storage(store.snapshot(tmp_path / "copy"), TinyEmbeddings()) as copy:
        copy.write(documents("b", 1))
        assert copy.verify().ok
        with copy._reading().pin() as snapshot:  # type: ignore[attr-defined]
            assert not outbox.has_outbox(snapshot.catalog)
    assert len(engine.store) == 3


def test_a_collection_with_other_contents_is_refused(tmp_path: Path) -> None:
    try:
        with open_storage(location(tmp_path), TinyEmbeddings()) as store:
            store.write(documents("a", 1))
        with pytest.raises(StorageError, match="holds chunks that the catalog .* does not know"):
            open_storage(location(tmp_path / "other"), TinyEmbeddings())
        with pytest.raises(SettingsError, match="belongs to tests.engines.factories:counting, not to"):
            open_storage(location(tmp_path, "by_text"), TinyEmbeddings())
        assert not _opened
    finally:
        factories.made.clear()


def test_a_vector_store_without_search_by_vector_will_do(tmp_path: Path) -> None:
    with open_storage(location(tmp_path, "by_text"), TinyEmbeddings()) as store:
        ids = store.write(documents("a", 30), vectors(30, 1))
        assert store.search(vectors(30, 1)[7], 1)[0].id == ids[7]


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("langchain:tests.engines.factories:keeping", StoreUnsupportedError, "a Keeping cannot delete"),
        ("langchain:tests.engines.factories:failing", StorageError, "ConnectionError: no server"),
        (
            "langchain:tests.engines.factories:nothing",
            SettingsError,
            "gave a int, expected a LangChain VectorStore",
        ),
        ("langchain:tests.engines.factories:absent", SettingsError, "has no 'absent'"),
        ("langchain:tests.engines.factories:FOLDER", SettingsError, "is str, expected a function"),
        ("langchain:no.such.module:factory", SettingsError, "cannot be imported"),
        ("langchain:nomodule", SettingsError, "expected langchain:package.module:factory"),
        ("langchain:a.b:c?x=1", SettingsError, "expected catalog=/folder"),
    ],
)
def test_what_cannot_be_an_engine_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        open_storage(place, TinyEmbeddings())
    assert not _opened


def test_settings_complete_the_location_by_the_projects_folder(tmp_path: Path) -> None:
    given = {"ORACULO_STORE": "langchain:base.engines:qdrant"}
    settings = Settings.resolve(environ=given, project_root=tmp_path)
    name, _, catalog = settings.store.partition("?catalog=")
    assert name == "langchain:base.engines:qdrant"
    assert catalog == quote(str(tmp_path / ".oraculo" / "engines" / "base.engines.qdrant"), safe="/:\\")
    again = Settings.resolve(environ={"ORACULO_STORE": f"{name}?catalog=here"}, project_root=tmp_path)
    assert again.store.endswith(quote(str(tmp_path / "here"), safe="/:\\"))


def test_capabilities_say_what_is_refused(tmp_path: Path) -> None:
    for name, expected in {"faiss": EMBEDDED, "postgres": POSTGRES, "qdrant": ADAPTED}.items():
        with ENGINES[name](tmp_path) as engine:
            assert engine.lacks == expected.lacks
            assert engine.open(TinyEmbeddings()).capabilities is expected
            engine.close()


_KILLED = """
import os, signal, sys
from oraculo_kit.storage import open_storage
from oraculo_kit.storage.adapted.engine import Engine
from tests.storage.kit import TinyEmbeddings, documents
store = open_storage(sys.argv[1], TinyEmbeddings())
store.replace("a", documents("a", 5))
add, delete = Engine.add, Engine.delete
def killed_before(*given):
    os.kill(os.getpid(), signal.SIGKILL)
def killed_after(self, *given):
    add(self, *given)
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before":
    Engine.delete = killed_before
elif sys.argv[2] == "between":
    Engine.add = killed_before
else:
    Engine.add = killed_after
store.replace("a", documents("a", 3, first=10))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_killed_sender_is_made_up_for_at_the_next_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    pytest.importorskip("langchain_qdrant")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    place = location(tmp_path, "qdrant")
    command = [sys.executable, "-c", _KILLED, place, moment]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert child.returncode == -9, child.stderr
    with open_storage(place, TinyEmbeddings(), read_only=True) as store:
        assert sorted(hit.metadata["place"] for hit in store.search("x", 9, mode="vector")) == [10, 11, 12]
    with open_storage(place, TinyEmbeddings()) as store:
        assert store.health().ok
        assert sorted(hit.metadata["place"] for hit in store.search("x", 9, mode="vector")) == [10, 11, 12]
        shared = next(iter(_opened.values()))
        there = shared.store.similarity_search_by_vector(vectors(1)[0].tolist(), 50)
        assert sorted(document.metadata["place"] for document in there) == [10, 11, 12]
        assert store.verify().ok
