"""Another model for a whole store: all or nothing, taken up after a kill, beside searches and writers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oraculo_kit.errors import EmbedderMismatchError, EmbeddingError, StorageError
from oraculo_kit.storage import reembedding
from oraculo_kit.storage.base import SourceDocuments
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.records import LedgerEntry
from tests.storage.kit import Child, TinyEmbeddings, catalog_of, documents, stored_ids, vectors

OpenStore = Callable[..., FaissVetorStorage]


class OtherEmbeddings(TinyEmbeddings):
    """Another model, of another dimension; does something before it embeds."""

    def __init__(self, dimension: int = 12, salt: str = "other") -> None:
        super().__init__(dimension, salt)


class Meddling(OtherEmbeddings):
    """A model during whose work something happens."""

    def __init__(self, action: Callable[[int], None]) -> None:
        super().__init__()
        self.action: Callable[[int], None] = action
        self.calls = 0
        self.texts = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        self.action(self.calls)
        self.texts += len(texts)
        return super().embed_documents(texts)

    def __reduce__(self) -> Any:
        return OtherEmbeddings, ()


@pytest.fixture(autouse=True)
def small_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reembedding, "STAGE_ROWS", 20)
    monkeypatch.setattr(reembedding, "_EMBED_ROWS", 10)


@pytest.fixture
def store(open_store: OpenStore, small_segments: int) -> FaissVetorStorage:
    """Return a store with segments, pending vectors and tombstones."""
    store = open_store(embedder=TinyEmbeddings())
    for number in range(3):
        store.replace(f"s{number}", documents(f"s{number}", 25))
    store.write(documents("few", 7))
    store.replace("s1", documents("s1", 4, version=2))
    return store


def files(store: FaissVetorStorage) -> set[str]:
    return {path.name for path in (Path(store.location) / "segments").iterdir()}


def nearest_to(store: FaissVetorStorage, text: str, embeddings: TinyEmbeddings) -> str:
    hit = store.search(np.array(embeddings.embed_query(text), np.float32), 1)[0]
    assert hit.score == pytest.approx(1, abs=1e-5)
    return str(hit.text)


def test_every_chunk_is_found_by_its_vector_of_the_new_model(store: FaissVetorStorage) -> None:
    before = {d.id: (d.page_content, d.metadata) for page in store.iter_documents() for d in page}
    seen: list[tuple[int, int]] = []

    report = store.reembed(OtherEmbeddings(), progress=lambda done, total: seen.append((done, total)))

    assert {d.id: (d.page_content, d.metadata) for page in store.iter_documents() for d in page} == before
    for text, _ in before.values():
        assert nearest_to(store, text, OtherEmbeddings()) == text
    assert store.verify().problems == ()
    assert (report.chunks, report.resumed, report.dimension) == (len(before), 0, 12)
    assert str(report).startswith(f"{len(before)} chunks embedded with ")
    assert seen[-1] == (len(before), len(before))
    assert store.stats().embedder == report.embedder == store.embedder.name
    assert store.stats().pending == 0


def test_the_store_goes_on_with_the_new_model_and_refuses_the_old(
    store: FaissVetorStorage, open_store: OpenStore
) -> None:
    old = open_store(embedder=TinyEmbeddings())
    assert old.search("nota fiscal")
    store.reembed(OtherEmbeddings())

    store.write(documents("more", 3))
    assert store.search("nota fiscal", mode="vector")
    for attempt in (
        lambda: old.search("nota fiscal"),
        lambda: old.write(documents("old", 1)),
        lambda: open_store(embedder=TinyEmbeddings()),
    ):
        with pytest.raises(
            EmbedderMismatchError, match=r"was built with embedder .*OtherEmbeddings.*TinyEmbeddings"
        ):
            attempt()
    assert len(old.search("nota fiscal", mode="text")) == 5
    assert store.verify().problems == ()


def test_the_old_version_is_searched_until_the_change(
    store: FaissVetorStorage, open_store: OpenStore
) -> None:
    other = open_store(embedder=TinyEmbeddings())
    found: list[str] = []

    def search(_call: int) -> None:
        text = f"{documents('few', 1)[0].page_content}"
        found.append(nearest_to(other, text, TinyEmbeddings()) == text)  # type: ignore[arg-type]

    store.reembed(Meddling(search))
    assert len(found) > 3
    assert all(found)


def test_what_others_write_and_delete_meanwhile_is_embedded_and_gone(
    store: FaissVetorStorage, open_store: OpenStore
) -> None:
    other = open_store(embedder=TinyEmbeddings())

    def write(call: int) -> None:
        if call in (1, 3, 5, 7):
            other.write(documents(f"small{call}", 2))
            other.replace(f"large{call}", documents(f"large{call}", 22))
            other.remove(sorted(stored_ids(other))[:3])
            other.compact()

    store.reembed(Meddling(write))

    assert {f"small{call}" for call in (1, 3, 5, 7)} <= {row.source for row in store.sources()}
    assert store.verify().problems == ()
    for page in store.iter_documents():
        for document in page:
            assert nearest_to(store, document.page_content, OtherEmbeddings()) == document.page_content
    store.compact()
    assert store.stats().dead == 0
    assert store.verify().problems == ()


def test_a_writer_that_is_in_the_middle_of_a_large_write_is_refused_after_the_change(
    store: FaissVetorStorage, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oraculo_kit.storage.claims import ClaimedSegment

    other, write, before = open_store(embedder=TinyEmbeddings()), ClaimedSegment.write, stored_ids(store)

    def meanwhile(self: ClaimedSegment, *arguments: Any) -> None:
        monkeypatch.undo()
        store.reembed(OtherEmbeddings())
        write(self, *arguments)

    monkeypatch.setattr(ClaimedSegment, "write", meanwhile)
    with pytest.raises(EmbedderMismatchError):
        other.replace("large", documents("large", 25))
    assert stored_ids(store) == before
    assert store.verify().problems == ()


def test_a_failing_model_leaves_the_old_version_and_the_next_run_goes_on_where_it_failed(
    store: FaissVetorStorage, folder: Path
) -> None:
    def fail(call: int) -> None:
        if call == 7:
            raise ValueError("no route")

    with pytest.raises(EmbeddingError, match="no route"):
        store.reembed(Meddling(fail))
    assert store.embedder.name.endswith("TinyEmbeddings")
    assert store.search("nota fiscal", mode="vector")
    assert store.verify().problems == ()

    model = Meddling(lambda _call: None)
    report = store.reembed(model)
    assert report.resumed == 40
    assert model.texts == report.chunks - 40 + 1  # one for the probe
    assert store.verify().problems == ()
    assert len(files(store)) == store.stats().segments


def test_a_run_with_a_third_model_does_not_take_up_what_another_staged(store: FaissVetorStorage) -> None:
    def fail(call: int) -> None:
        if call == 6:
            raise ValueError("no route")

    with pytest.raises(EmbeddingError):
        store.reembed(Meddling(fail))
    assert store.reembed(OtherEmbeddings(9, "third")).resumed == 0
    assert store.stats().dimension == 9
    assert len(files(store)) == store.stats().segments
    assert store.verify().problems == ()


def test_only_one_process_embeds_again_at_a_time(store: FaissVetorStorage, open_store: OpenStore) -> None:
    def second(call: int) -> None:
        if call == 3:
            with pytest.raises(StorageError, match="another process is embedding the store"):
                open_store().reembed(OtherEmbeddings())
            seen.append(call)

    seen: list[int] = []
    store.reembed(Meddling(second))
    assert seen == [3]


def test_the_ledger_knows_the_new_model_so_that_nothing_is_ingested_again(store: FaissVetorStorage) -> None:
    name = store.embedder.name
    entry = LedgerEntry("hash", 1, 2, f"loaders|splitter|{name}", "run")
    store.replace_many([SourceDocuments("kept", documents("kept", 2), vectors(2), entry)])

    report = store.reembed(OtherEmbeddings())

    assert store.ledger(["kept"])["kept"].pipeline == f"loaders|splitter|{report.embedder}"


def test_a_store_of_ready_made_vectors_gets_an_embedder(open_store: OpenStore) -> None:
    store = open_store()
    store.write(documents("a", 5), vectors(5))
    store.reembed(OtherEmbeddings())
    assert store.stats().embedder.endswith("OtherEmbeddings")
    assert store.verify().problems == ()


def test_an_empty_store_gets_the_new_embedder(open_store: OpenStore) -> None:
    store = open_store(embedder=TinyEmbeddings())
    assert store.reembed(OtherEmbeddings()).chunks == 0
    store.write(documents("a", 2))
    assert store.stats().dimension == 12


def test_a_killed_run_is_taken_up_by_another_process(
    store: FaissVetorStorage, folder: Path, child: Callable[..., Child]
) -> None:
    running = child("reembed_slowly", folder)
    while True:
        done = running.line()
        assert done, "the child ended by itself"
        if int(done) >= 40:
            break
    running.kill()
    assert store.verify().problems == ()
    assert store.search("nota fiscal", mode="vector")
    with catalog_of(folder) as db:
        assert db.execute("SELECT count(*) FROM staged").fetchall()[0][0] >= 2

    report = store.reembed(OtherEmbeddings())

    assert report.resumed >= 40
    assert store.verify().problems == ()
    assert len(files(store)) == store.stats().segments
