"""The store against a dict: whatever is done in whatever order, both hold and find the same."""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from langchain_core.documents import Document
from numpy.typing import NDArray

from oraculo_kit.storage import commit, compaction, optimizing, reembedding
from oraculo_kit.storage.copies import restore_store
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.records import chunk_id
from tests.storage.kit import TinyEmbeddings, nearest, vectors

SOURCES = st.sampled_from(["a", "b", "c.md", "ção"])
COLORS = st.sampled_from(["azul", "verde", 1, True, None])
COUNTS = st.sampled_from([1, 2, 3, 5, 18])  # eighteen make a segment of their own
WORDS = ["nota", "fiscal", "bolo", "férias", "contrato", "milho"]


@dataclass
class Chunk:
    """What the model knows of a chunk."""

    source: str
    text: str
    metadata: dict[str, Any]
    vector: NDArray[np.float32]


class StoreMachine(RuleBasedStateMachine):
    """Rules change the store and the model alike; invariants compare them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(commit, "SEGMENT_ROWS", 15)
        self.patch.setattr(compaction, "MERGE_SEGMENTS", 3)
        self.patch.setattr(reembedding, "STAGE_ROWS", 8)
        self.patch.setattr(reembedding, "_EMBED_ROWS", 4)
        self.patch.setattr(optimizing, "INDEX_ROWS", 25)
        self.model: dict[str, Chunk] = {}
        self.seed = 0
        self.stores: list[FaissVetorStorage] = []
        self.readers: list[FaissVetorStorage] = []
        self.staged = False  # an unfinished reembed() keeps tombstones
        self.snapshot: dict[str, Chunk] | None = None

    def teardown(self) -> None:
        self.patch.undo()
        report = self.stores[0].verify()
        for store in self.handles():
            store.close()
        shutil.rmtree(self.folder)
        assert report.ok, report

    def opened(self) -> FaissVetorStorage:
        return FaissVetorStorage(self.folder / "store", durability="process", lock_timeout=5)

    @initialize()
    def open_two_handles(self) -> None:
        self.stores = [self.opened(), self.opened()]
        # These are never closed: one looks after every step, the other only now and then.
        self.readers = [FaissVetorStorage(self.folder / "store", read_only=True) for _ in range(2)]

    def handles(self) -> list[FaissVetorStorage]:
        return [*self.stores, *self.readers]

    def looking(self) -> list[FaissVetorStorage]:
        return self.handles() if self.seed % 5 == 0 else self.handles()[:-1]

    def any_store(self) -> FaissVetorStorage:
        return self.stores[self.seed % 2]

    def made(self, source: str, count: int, color: Any) -> list[Chunk]:
        self.seed += 1
        chunks = []
        for place, vector in enumerate(vectors(count, self.seed)):
            text = f"{WORDS[(self.seed + place) % 6]} {WORDS[place % 6]} {self.seed % 4} {place}"
            chunks.append(Chunk(source, text, {"color": color, "seed": self.seed}, vector))
        return chunks

    @rule(source=SOURCES, count=COUNTS, color=COLORS)
    def write(self, source: str, count: int, color: Any) -> None:
        chunks = self.made(source, count, color)
        names = self.any_store().write(documents_of(chunks), matrix_of(chunks))
        assert names == [chunk_id(source, place, chunk.text) for place, chunk in enumerate(chunks)]
        self.model.update(zip(names, chunks, strict=True))

    @rule(source=SOURCES, count=COUNTS, color=COLORS)
    def replace(self, source: str, count: int, color: Any) -> None:
        chunks = self.made(source, count, color)
        names = self.any_store().replace(source, documents_of(chunks), matrix_of(chunks))
        self.forget(lambda chunk: chunk.source == source)
        self.model.update(zip(names, chunks, strict=True))

    @rule(source=SOURCES)
    def replace_by_nothing(self, source: str) -> None:
        self.seed += 1
        assert self.any_store().replace(source, []) == []
        self.forget(lambda chunk: chunk.source == source)

    @rule(data=st.data())
    def write_known_ids_into_another_source(self, data: st.DataObject) -> None:
        names = data.draw(
            st.lists(st.sampled_from([*sorted(self.model), "mine", "yours"]), min_size=1, max_size=4)
        )
        chunks = self.made("other", len(names), "azul")
        assert self.any_store().write(documents_of(chunks), matrix_of(chunks), ids=names) == names
        self.model.update(zip(names, chunks, strict=True))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.seed += 1
        names = data.draw(
            st.lists(st.sampled_from([*sorted(self.model), "unknown"]), max_size=6, unique=True)
        )
        known = [name for name in names if name in self.model]
        assert self.any_store().remove(names) == len(known)
        for name in known:
            del self.model[name]

    @rule(color=COLORS)
    def remove_by_metadata(self, color: Any) -> None:
        self.seed += 1
        doomed = sum(same(chunk.metadata["color"], color) for chunk in self.model.values())
        assert self.any_store().remove_by_metadata("color", color) == doomed
        self.forget(lambda chunk: same(chunk.metadata["color"], color))

    @rule()
    def flush(self) -> None:
        writer = self.any_store()._writer
        assert writer is not None
        assert writer.flush()

    @rule(purge=st.booleans())
    def compact(self, purge: bool) -> None:
        self.seed += 1
        store = self.any_store()
        store.compact(purge=purge)
        self.staged &= not purge
        stats = store.stats()
        assert (stats.pending, stats.segments) == (0, min(len(self.model), 1))
        assert self.staged or not stats.dead

    @rule()
    def merge_small(self) -> None:
        writer = self.any_store()._writer
        assert writer is not None
        compaction.merge_small(writer, 30)

    @rule()
    def optimize(self) -> None:
        self.seed += 1
        report = self.any_store().optimize(0.9)
        assert report.exact == 0 or not report.indexes

    @rule(key=st.sampled_from(["color", "seed"]), create=st.booleans())
    def change_filter_indexes(self, key: str, create: bool) -> None:
        store = self.any_store()
        store.create_filter_index(key) if create else store.drop_filter_index(key)

    @rule()
    def make_snapshot(self) -> None:
        shutil.rmtree(self.folder / "snapshot", ignore_errors=True)
        self.any_store().snapshot(self.folder / "snapshot")
        self.snapshot = {name: copy(chunk) for name, chunk in self.model.items()}

    @rule()
    def restore(self) -> None:
        if self.snapshot is not None and sys.platform != "win32":
            self.seed += 1
            restore_store(self.folder / "snapshot", self.folder / "store", overwrite=True)
            self.model = {name: copy(chunk) for name, chunk in self.snapshot.items()}
            self.staged = False

    @rule(salt=st.sampled_from(["one", "two"]), after=st.integers(1, 3))
    def reembed_in_vain(self, salt: str, after: int) -> None:
        self.seed += 1
        calls = []

        def interrupt(*_: int) -> None:
            calls.append(_)
            if len(calls) == after:
                raise KeyboardInterrupt

        store = self.any_store()
        if len(self.model) > 8 * after:
            # What an earlier run staged may leave less to do than is counted on here.
            with suppress(KeyboardInterrupt):
                store.reembed(TinyEmbeddings(salt=salt), interrupt)
            self.staged = len(calls) == after
            if not self.staged:
                self.made_by(TinyEmbeddings(salt=salt))

    @rule(salt=st.sampled_from(["one", "two"]))
    def reembed(self, salt: str) -> None:
        self.seed += 1
        model = TinyEmbeddings(salt=salt)
        self.any_store().reembed(model)
        self.made_by(model)
        self.staged = False

    def made_by(self, model: TinyEmbeddings) -> None:
        for chunk in self.model.values():
            chunk.vector = np.array(model.embed_query(chunk.text), np.float32)

    @rule()
    def reopen(self) -> None:
        self.stores.pop(0).close()
        self.stores.append(self.opened())

    @rule()
    def collect_garbage(self) -> None:
        writer = self.any_store()._writer
        assert writer is not None
        assert writer.collect_garbage() == []

    @rule(
        k=st.sampled_from([1, 3, 10, 200]),
        queries=st.sampled_from([1, 12]),
        color=COLORS,
        filtered=st.booleans(),
    )
    def search(self, k: int, queries: int, color: Any, filtered: bool) -> None:
        passing = {
            name: chunk
            for name, chunk in self.model.items()
            if not filtered or same(chunk.metadata["color"], color)
        }
        asked = vectors(queries, self.seed + 1000)
        names = list(passing)
        matrix = matrix_of(list(passing.values()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a key that nobody has yet
            results = self.any_store().search(
                asked, k=k, filter={"color": color} if filtered else None, exact=True
            )
        for query, hits in zip(asked, results, strict=True):
            assert [hit.id for hit in hits] == [name for name, _ in nearest(query, matrix, names, k)]
            for hit in hits:
                chunk = passing[hit.id]
                assert (hit.text, hit.metadata) == (chunk.text, {"source": chunk.source, **chunk.metadata})

    @rule(word=st.sampled_from(WORDS))
    def search_text(self, word: str) -> None:
        found = {hit.id for hit in self.any_store().search(word, k=1000, mode="text")}
        assert found == {name for name, chunk in self.model.items() if word in chunk.text.split()}

    @invariant()
    def every_handle_holds_what_the_model_holds(self) -> None:
        for store in self.looking():
            assert len(store) == len(self.model)
            counts: dict[str, int] = {}
            for chunk in self.model.values():
                counts[chunk.source] = counts.get(chunk.source, 0) + 1
            assert {row.source: row.chunks for row in store.sources()} == counts
            there = {
                str(document.id): document.page_content
                for page in store.iter_documents()
                for document in page
            }
            assert there == {name: chunk.text for name, chunk in self.model.items()}

    @invariant()
    def every_handle_finds_what_the_model_finds(self) -> None:
        query = vectors(1, self.seed + 2000)[0]
        expected = nearest(query, matrix_of(list(self.model.values())), list(self.model), 3)
        for store in self.looking():
            assert [hit.id for hit in store.search(query, k=3, exact=True)] == [name for name, _ in expected]

    def forget(self, doomed: Any) -> None:
        self.model = {name: chunk for name, chunk in self.model.items() if not doomed(chunk)}


def same(stored: Any, asked: Any) -> bool:
    """Tell whether two values are equal and of one type."""
    return type(stored) is type(asked) and bool(stored == asked)


def documents_of(chunks: list[Chunk]) -> list[Document]:
    """Return chunks as a caller brings them."""
    return [
        Document(page_content=chunk.text, metadata={"source": chunk.source, **chunk.metadata})
        for chunk in chunks
    ]


def matrix_of(chunks: list[Chunk]) -> NDArray[np.float32]:
    """Return the vectors of chunks."""
    return np.array([chunk.vector for chunk in chunks], np.float32).reshape(len(chunks), 8)


class TestStore(StoreMachine.TestCase):  # type: ignore[misc, name-defined]
    """The short run."""

    settings = settings(
        max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.full
class TestStoreForLong(StoreMachine.TestCase):  # type: ignore[misc, name-defined]
    """The long run."""

    settings = settings(
        max_examples=1000, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
    )
