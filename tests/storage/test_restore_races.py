"""A snapshot is restored under the hands of whoever is at work: neither store may lose anything by it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oraculo_kit.errors import StorageError
from oraculo_kit.storage import commit, copies, reembedding, snapshot
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.commit import Writer
from oraculo_kit.storage.copies import restore_store
from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.kit import TinyEmbeddings, documents, stored_ids, vectors

OpenStore = Callable[..., FaissVetorStorage]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be renamed there")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return where a snapshot may be made."""
    return tmp_path / "copies" / "snapshot"


@pytest.fixture
def store(open_store: OpenStore, small_segments: int) -> FaissVetorStorage:
    """Return a store with a segment and pending vectors."""
    store = open_store(embedder=TinyEmbeddings())
    store.write(documents("large", 30))
    store.write(documents("small", 4))
    return store


def found(store: FaissVetorStorage) -> list[str]:
    """Return all chunks that a search by vector finds."""
    return sorted(hit.id for hit in store.search(vectors(1, 9)[0], 1000))


def before_transaction(monkeypatch: pytest.MonkeyPatch, what: str, action: Callable[[], object]) -> None:
    """Do something once, just before a transaction of this name."""
    transaction, done = Writer.transaction, []

    @contextmanager
    def then(self: Writer, name: str) -> Iterator[Catalog]:
        if name == what and not done:
            done.append(name)
            action()
        with transaction(self, name) as catalog:
            yield catalog

    monkeypatch.setattr(Writer, "transaction", then)


@pytest.mark.parametrize("what", ["claim a segment", "merge segments", "flush"])
@pytest.mark.parametrize("removed", ["everything", "what is pending", "nothing"])
def test_a_compaction_takes_nothing_from_a_store_that_is_restored_meanwhile(
    store: FaissVetorStorage,
    folder: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    removed: str,
) -> None:
    before = found(store)
    store.snapshot(target)
    if removed != "nothing":
        store.remove(sorted(stored_ids(store)) if removed == "everything" else names_of(store, "small"))
    before_transaction(monkeypatch, what, lambda: restore_store(target, folder, overwrite=True))
    store.compact()
    monkeypatch.undo()
    if what != "merge segments" or removed != "what is pending":  # then there was nothing to merge
        assert found(store) == before
    assert store.verify().problems == ()


def names_of(store: FaissVetorStorage, source: str) -> list[str]:
    return [hit.id for hit in store.search(vectors(1, 9)[0], 1000, filter={"source": source})]


@pytest.mark.parametrize("call", ["compact", "reembed"])
def test_files_that_a_restored_store_needs_again_are_not_removed(
    store: FaissVetorStorage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = found(store)
    store.snapshot(target)
    store.remove(names_of(store, "large")[:3])
    remove_dropped, done = Writer.remove_dropped, []

    def restored(self: Writer, files: Any, *more: Any) -> list[str]:
        files = list(files)
        if files and not done:
            done.append(files)
            restore_store(target, folder, overwrite=True)
        return remove_dropped(self, files, *more)

    monkeypatch.setattr(Writer, "remove_dropped", restored)
    store.compact() if call == "compact" else store.reembed(TinyEmbeddings(salt="other"))
    assert done
    assert found(store) == before
    assert store.verify().problems == ()


@pytest.mark.parametrize("what", ["claim a segment", "stage vectors", "change over to another embedder"])
def test_embedding_again_gives_up_when_another_store_is_restored_meanwhile(
    store: FaissVetorStorage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    store.snapshot(target)
    before = found(store)
    store.write(documents("later", 5))  # numbers that the restored store will give to other chunks
    monkeypatch.setattr(reembedding, "STAGE_ROWS", 20)
    before_transaction(monkeypatch, what, lambda: restore_store(target, folder, overwrite=True))
    with pytest.raises(StorageError, match=r"restored or repaired while it was being embedded again"):
        store.reembed(TinyEmbeddings(salt="other"))
    monkeypatch.undo()
    assert found(store) == before
    new = store.write(documents("new", 6))
    assert found(store) == sorted([*before, *new])
    assert store.stats().dead == 0
    store.reembed(TinyEmbeddings(salt="other"))
    assert found(store) == sorted([*before, *new])
    assert store.verify().problems == ()


def test_a_reader_whose_store_is_replaced_between_two_looks_takes_the_new_one(
    store: FaissVetorStorage,
    folder: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_store: OpenStore,
) -> None:
    store.snapshot(target)
    before = found(store)
    store.write(documents("later", 25))
    store.compact()
    reader = open_store(read_only=True)
    reader._reader._manifest = None
    load, done = snapshot.load_manifest, []

    def replaced(*arguments: Any) -> Any:
        if not done:
            done.append(restore_store(target, folder, overwrite=True))
        return load(*arguments)

    monkeypatch.setattr(snapshot, "load_manifest", replaced)
    assert found(reader) == before


def test_nobody_makes_an_empty_store_between_the_two_renames(
    store: FaissVetorStorage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.snapshot(target)
    before, give_name = found(store), copies._give_name

    def then_open(copy: Path, place: Path) -> None:
        with pytest.raises(StorageError, match="one is just being restored there"):
            FaissVetorStorage(place)
        give_name(copy, place)

    monkeypatch.setattr(copies, "_give_name", then_open)
    aside = restore_store(target, folder, overwrite=True)
    assert aside is not None
    assert found(store) == before


def test_a_killed_restore_leaves_no_place_for_an_empty_store(
    store: FaissVetorStorage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.snapshot(target)
    before = found(store)
    store.close()
    if (pid := os.fork()) == 0:
        monkeypatch.setattr(copies, "_give_name", lambda *_: os._exit(0))
        try:
            restore_store(target, folder, overwrite=True)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    with pytest.raises(StorageError, match="or the restore was ended on the way") as caught:
        FaissVetorStorage(folder)
    (copy,) = folder.parent.glob(".store.*.tmp")
    assert f"move {copy} to {folder}" in str(caught.value)
    if folder.exists():
        folder.rmdir()
    copy.rename(folder)
    with FaissVetorStorage(folder, TinyEmbeddings()) as restored:
        assert found(restored) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_restore_that_is_interrupted_between_the_renames_puts_the_store_back(
    store: FaissVetorStorage, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    store.snapshot(target)
    store.write(documents("later", 5))
    before, note = found(store), copies._note_commit

    def interrupted(copy: Path) -> None:
        note(copy)
        if not folder.exists():
            raise error

    monkeypatch.setattr(copies, "_note_commit", interrupted)
    with pytest.raises((KeyboardInterrupt, StorageError)):
        restore_store(target, folder, overwrite=True)
    assert found(store) == before
    assert {path.name for path in folder.parent.iterdir()} == {"store", "copies"}


@pytest.mark.parametrize("call", ["write", "flush", "compact", "optimize", "reembed"])
def test_an_interrupt_just_after_a_claim_was_made_does_not_leave_it_to_a_living_process(
    store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    from oraculo_kit.storage import optimizing

    monkeypatch.setattr(optimizing, "INDEX_ROWS", 10)
    writer, checkpoint = store._writer, Catalog.checkpoint
    assert writer is not None
    calls: dict[str, Callable[[], object]] = {
        "write": lambda: store.write(documents("more", 30)),
        "flush": writer.flush,
        "compact": store.compact,
        "optimize": store.optimize,
        "reembed": lambda: store.reembed(TinyEmbeddings(salt="other")),
    }

    def claims() -> int:
        with writer.reading() as catalog:
            return int(catalog.one("SELECT count(*) FROM claims"))

    def interrupted(self: Catalog, **options: Any) -> bool:
        if claims():
            monkeypatch.setattr(Catalog, "checkpoint", checkpoint)
            raise KeyboardInterrupt
        return checkpoint(self, **options)

    monkeypatch.setattr(commit, "CHECKPOINT_PAGES", 0)
    monkeypatch.setattr(Catalog, "checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calls[call]()
    assert claims() == 0
    calls[call]()
    assert store.verify().problems == ()
