"""Snapshots are whole versions of a store, and restoring one is noticed by everybody who has the store open."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oraculo_kit.errors import (
    StorageError,
    StoreCorruptedError,
    StoreFormatError,
    StoreLocationError,
    StoreLockTimeoutError,
    StoreNotFoundError,
)
from oraculo_kit.storage import commit, copies
from oraculo_kit.storage.copies import restore_store
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.verify import verify_store
from tests.storage.kit import Child, catalog_of, contents, documents, flip_bit, stored_ids, vectors

OpenStore = Callable[..., FaissVetorStorage]


@pytest.fixture
def filled(store: FaissVetorStorage, small_segments: int) -> FaissVetorStorage:
    """Return a store with two segments, tombstones and pending vectors."""
    store.replace("a", documents("a", 30, lang="pt"), vectors(30))
    store.replace("b", documents("b", 25), vectors(25, 1))
    store.replace("c", documents("c", 4), vectors(4, 2))
    store.remove(sorted(stored_ids(store))[::7])
    return store


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return where a snapshot may be made."""
    return tmp_path / "copies" / "snapshot"


def everything(store: FaissVetorStorage) -> dict[str, Any]:
    """Return what a user can see of a store."""
    return {
        "chunks": {d.id: (d.page_content, d.metadata) for page in store.iter_documents() for d in page},
        "sources": [(row.source, row.chunks) for row in store.sources()],
        "nearest": [[(hit.id, hit.score) for hit in found] for found in store.search(vectors(5, 99), 30)],
        "text": [hit.id for hit in store.search("nota fiscal", 20, mode="text")],
    }


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_snapshot_is_a_store_with_the_same_contents(filled: FaissVetorStorage, target: Path) -> None:
    assert filled.snapshot(target) == target

    assert verify_store(target).problems == ()
    with FaissVetorStorage(target, read_only=True) as copy:
        assert everything(copy) == everything(filled)
        assert copy.stats().commit == filled.stats().commit
    assert WriterLock(target, 1).commit_number() == filled.stats().commit
    assert entries(target.parent) == {"snapshot"}
    with FaissVetorStorage(target) as copy:
        copy.write(documents("only here", 2), vectors(2))
    assert "only here" not in [row.source for row in filled.sources()]


def test_a_snapshot_holds_no_log_and_no_unfinished_work(filled: FaissVetorStorage, target: Path) -> None:
    with filled._writing().transaction("claim") as catalog:
        catalog.db.execute("INSERT INTO claims VALUES ('1-x.f32', 'write', 'elsewhere', 1, 1.0)")
    filled.snapshot(target)

    assert entries(target) == {"catalog.sqlite3", "segments", "indexes", "writer.lock", "writer.queue"}
    with catalog_of(target) as db:
        assert db.execute("SELECT count(*) FROM claims").fetchall() == [(0,)]


def test_a_snapshot_can_be_made_of_a_store_that_is_open_read_only(
    filled: FaissVetorStorage, open_store: OpenStore, target: Path
) -> None:
    open_store(read_only=True).snapshot(target)
    assert verify_store(target).ok


def test_a_snapshot_of_an_empty_store_is_an_empty_store(store: FaissVetorStorage, target: Path) -> None:
    store.snapshot(target)
    with FaissVetorStorage(target) as copy:
        assert len(copy) == 0


def test_an_empty_folder_may_become_a_snapshot_and_nothing_else_may(
    filled: FaissVetorStorage, target: Path, folder: Path
) -> None:
    target.mkdir(parents=True)
    filled.snapshot(target)
    before = contents(target)
    with pytest.raises(
        StoreLocationError, match="exists and is not empty: choose a new name for the snapshot"
    ):
        filled.snapshot(target)
    file = target.with_name("file")
    file.write_text("mine")
    with pytest.raises(StoreLocationError, match="exists and is not empty"):
        filled.snapshot(file)
    with pytest.raises(StoreLocationError, match="would lie inside the store"):
        filled.snapshot(folder / "copy")
    assert contents(target) == before
    assert file.read_text() == "mine"
    assert entries(target.parent) == {"snapshot", "file"}


def test_a_damaged_or_missing_segment_is_not_copied(
    filled: FaissVetorStorage, target: Path, folder: Path
) -> None:
    path = min((folder / "segments").iterdir())
    flip_bit(path, 700)
    with pytest.raises(
        StoreCorruptedError, match="do not match the digest in the catalog. No snapshot was made"
    ):
        filled.snapshot(target)
    path.unlink()
    with pytest.raises(
        StoreCorruptedError, match="is missing, and the catalog needs it. No snapshot was made"
    ):
        filled.snapshot(target)
    assert entries(target.parent) == set()


def test_a_catalog_that_is_behind_is_not_copied(filled: FaissVetorStorage, target: Path) -> None:
    with filled._writing().lock.held("test"):
        filled._writing().lock.record_commit(99)
    with pytest.raises(StoreCorruptedError, match="but commit 99 was made"):
        filled.snapshot(target)
    assert entries(target.parent) == set()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of this kind")
@pytest.mark.parametrize("step", range(1, 9))
def test_a_disk_that_fails_leaves_nothing_behind(
    filled: FaissVetorStorage, target: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    left = step

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(28, "No space left on device")
            return function(*arguments)

        return call

    for name in ("sync_file", "sync_folder", "sync_path", "share"):
        monkeypatch.setattr(copies, name, failing(getattr(copies, name)))
    with pytest.raises(StorageError, match="No space left on device"):
        filled.snapshot(target)
    monkeypatch.undo()
    assert entries(target.parent) == set()
    filled.snapshot(target)
    assert verify_store(target).ok


def test_a_segment_that_is_dropped_meanwhile_makes_the_copy_begin_anew(
    filled: FaissVetorStorage, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file, compacted = copies._copy_file, []

    def compacting(*arguments: Any) -> bool:
        if not compacted:
            compacted.append(filled.compact())
        return copy_file(*arguments)

    monkeypatch.setattr(copies, "_copy_file", compacting)
    filled.snapshot(target)
    assert compacted[0].segments == 1
    assert verify_store(target).problems == ()
    with FaissVetorStorage(target, read_only=True) as copy:
        assert everything(copy) == everything(filled)
    assert len(entries(target / "segments")) == 1


def test_a_copy_that_never_catches_up_is_given_up(
    filled: FaissVetorStorage, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_copy_file", lambda *_: False)
    with pytest.raises(StorageError, match="segments were replaced faster than they could be read"):
        filled.snapshot(target)
    assert entries(target.parent) == set()


def test_snapshots_beside_writing_and_compacting_processes_are_whole_versions(
    folder: Path, open_store: OpenStore, child: Callable[..., Child], tmp_path: Path
) -> None:
    store = open_store()
    store.write(documents("base", 50), vectors(50))
    writers = [child("write_and_replace", folder, who, 2.5) for who in ("a", "b")]
    for each in writers:
        assert each.line() == "ready"
    for each in writers:
        each.go()
    made = 0
    while any(each.process.poll() is None for each in writers):
        copy = store.snapshot(tmp_path / f"copy {made}")
        made += 1
        if made % 3 == 0:
            store.compact()
        report = verify_store(copy)
        assert report.problems == ()
        with FaissVetorStorage(copy, read_only=True) as opened:
            for who in sorted({row.source for row in opened.sources()} & {"a changes", "b changes"}):
                versions = [
                    hit.metadata["version"]
                    for hit in opened.search(vectors(1)[0], 100, filter={"source": who})
                ]
                assert len(set(versions)) == 1
                assert len(versions) == 3 + versions[0] % 5
            assert len(opened.search(vectors(1)[0], 100_000)) == len(opened)
        shutil.rmtree(copy)
    for each in writers:
        each.result()
    assert made > 5
    assert store.verify().problems == ()


def test_a_snapshot_is_restored_to_a_new_place(
    filled: FaissVetorStorage, target: Path, tmp_path: Path
) -> None:
    filled.snapshot(target)
    before = contents(target)
    assert restore_store(target, tmp_path / "new" / "store") is None

    with FaissVetorStorage(tmp_path / "new" / "store") as restored:
        assert everything(restored) == everything(filled)
        assert restored.verify().problems == ()
        restored.write(documents("more", 1), vectors(1))
    assert contents(target) == before
    assert entries(tmp_path / "new") == {"store"}


def test_a_store_is_replaced_only_when_that_was_asked_for_and_is_kept(
    filled: FaissVetorStorage, target: Path, folder: Path, tmp_path: Path
) -> None:
    filled.snapshot(target)
    filled.write(documents("later", 3), vectors(3, 5))
    later, commit = everything(filled), filled.stats().commit

    with pytest.raises(StoreLocationError, match="restore with overwrite=True to set that store aside"):
        restore_store(target, folder)
    assert everything(filled) == later

    aside = restore_store(target, folder, overwrite=True)

    assert aside is not None
    assert aside.name.startswith("store.replaced-")
    assert entries(tmp_path) == {"copies", "store", aside.name}
    with FaissVetorStorage(aside, read_only=True) as old:
        assert everything(old) == later
    assert "later" not in [row.source for row in filled.sources()]
    assert filled.stats().commit > commit  # nobody takes it for a catalog that is behind
    filled.write(documents("again", 2), vectors(2))
    assert filled.verify().problems == ()


def test_a_second_restore_in_the_same_second_gets_a_name_of_its_own(
    filled: FaissVetorStorage, target: Path, folder: Path
) -> None:
    filled.snapshot(target)
    names = {restore_store(target, folder, overwrite=True) for _ in range(3)}
    assert len(names) == 3
    assert filled.verify().ok


def test_what_is_no_store_is_never_replaced(filled: FaissVetorStorage, target: Path, tmp_path: Path) -> None:
    filled.snapshot(target)
    place = tmp_path / "documents"
    place.mkdir()
    (place / "thesis.txt").write_text("mine")
    with pytest.raises(StoreLocationError, match="what is there is no store"):
        restore_store(target, place, overwrite=True)
    with pytest.raises(StoreLocationError, match="one lies in the other"):
        restore_store(target, target / "x")
    with pytest.raises(StoreNotFoundError, match="there is no snapshot at"):
        restore_store(place, tmp_path / "new")
    assert entries(place) == {"thesis.txt"}


@pytest.mark.parametrize("damage", ["segment", "text", "page"])
def test_a_damaged_snapshot_is_refused_and_nothing_changes(
    filled: FaissVetorStorage, target: Path, folder: Path, tmp_path: Path, damage: str
) -> None:
    filled.snapshot(target)
    if damage == "segment":
        flip_bit(min((target / "segments").iterdir()), 800)
    elif damage == "text":
        with catalog_of(target) as db:
            db.execute("UPDATE chunks SET text = 'x' WHERE number = 40")
    else:
        content = bytearray((target / "catalog.sqlite3").read_bytes())
        content[6 * 4096 : 7 * 4096] = bytes(4096)
        (target / "catalog.sqlite3").write_bytes(content)
    before = everything(filled)

    with pytest.raises(StoreCorruptedError, match="damaged"):
        restore_store(target, folder, overwrite=True)

    assert everything(filled) == before
    assert entries(tmp_path) == {"store", "copies"}


def test_a_snapshot_of_an_earlier_format_is_brought_forward_in_the_copy(tmp_path: Path) -> None:
    sample = Path(__file__).parent / "samples" / "format-1" / "store"
    shutil.copytree(sample, tmp_path / "snapshot")
    restore_store(tmp_path / "snapshot", tmp_path / "store")
    assert verify_store(tmp_path / "store").ok
    with pytest.raises(StoreFormatError, match="has format 1"):
        FaissVetorStorage(tmp_path / "snapshot", read_only=True)


@pytest.fixture
def busy(filled: FaissVetorStorage) -> Iterator[None]:
    """Hold the writer lock for the time of a test."""
    lock = WriterLock(Path(filled.location), 1)
    with lock.held("something long"):
        yield
    lock.close()


def test_a_store_that_is_being_written_is_not_replaced(
    filled: FaissVetorStorage, busy: None, target: Path, folder: Path, tmp_path: Path
) -> None:
    filled.snapshot(target)
    before = everything(filled)
    with pytest.raises(StoreLockTimeoutError, match="something long"):
        restore_store(target, folder, overwrite=True, lock_timeout=0.1)
    assert everything(filled) == before
    assert entries(tmp_path) == {"store", "copies"}


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be renamed there")
def test_a_process_that_has_the_store_open_sees_what_was_restored_and_writes_to_it(
    filled: FaissVetorStorage, target: Path, folder: Path, child: Callable[..., Child]
) -> None:
    filled.snapshot(target)
    names, count = stored_ids(filled), len(filled)
    other = child("keep_open", folder, module="repair_children")
    assert other.line() == "searched"
    filled.replace("a", documents("z", 3), vectors(3, 9))

    aside = restore_store(target, folder, overwrite=True)
    other.go()
    assert other.line() == "searched"
    other.go()
    first, second, after = other.result()

    assert "before" in first[0]
    assert second[:2] == [["a", "b", "c"], count]
    assert len(after) == count + 2
    assert names < set(after) == stored_ids(filled)
    assert filled.verify().problems == ()
    assert aside is not None
    with FaissVetorStorage(aside, read_only=True) as old:
        assert "after" not in [row.source for row in old.sources()]
        assert "before" in [row.source for row in old.sources()]


def test_a_store_whose_catalog_is_lost_can_be_replaced(
    filled: FaissVetorStorage, target: Path, folder: Path
) -> None:
    filled.snapshot(target)
    before = everything(filled)
    filled.close()
    (folder / "catalog.sqlite3").unlink()
    restore_store(target, folder, overwrite=True)
    with FaissVetorStorage(folder) as restored:
        assert everything(restored) == before


def test_a_store_that_somebody_makes_in_the_gap_is_set_aside_too(
    filled: FaissVetorStorage, target: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.snapshot(target)
    before, set_aside, made = everything(filled), copies._set_aside, []

    def then_open(place: Path, *arguments: Any) -> None:
        set_aside(place, *arguments)
        if not made:
            made.append(place)
            with FaissVetorStorage(place) as new:
                new.write(documents("gap", 1), vectors(1))

    monkeypatch.setattr(commit, "check_not_restoring", lambda _folder: None)  # as an earlier oraculo_kit
    monkeypatch.setattr(copies, "_set_aside", then_open)
    aside = restore_store(target, folder, overwrite=True)
    assert everything(filled) == before
    assert len(list(folder.parent.glob("store.replaced-*"))) == 2
    assert aside is not None
    with FaissVetorStorage(aside) as old:
        assert everything(old) == before


@pytest.mark.skipif(sys.platform == "win32", reason="rights are inherited from the folder there")
def test_a_snapshot_in_a_folder_of_a_group_belongs_to_the_group(
    filled: FaissVetorStorage, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2770)
    mask = os.umask(0o077)
    try:
        filled.snapshot(shared / "copy")
    finally:
        os.umask(mask)
    for path in (shared / "copy").rglob("*"):
        wanted = 0o070 if path.is_dir() else 0o060
        assert stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path
