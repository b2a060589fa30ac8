"""Whatever the disk does, the last version stays whole, the damage is named, and nothing wrong is given out."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oraculo_kit.errors import StorageError
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.verify import verify_store
from tests.storage.kit import Child, contents, documents, flip_bit, stored_ids, vectors
from tests.storage.test_lock import posix

StartChild = Callable[..., Child]
EVERY = 197  # operations between two refused ones; most steps of the scenario have fewer


# A disk that refuses


FAULTS = [(error, lasting) for error in (errno.ENOSPC, errno.EIO) for lasting in (False, True)]


@posix
@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="the files behind descriptors are looked up in /proc"
)
@pytest.mark.parametrize("step", [67, pytest.param(1, marks=pytest.mark.full)])
def test_every_operation_may_be_refused_and_the_store_goes_on(
    tmp_path: Path, child: StartChild, step: int
) -> None:
    faults = [
        (*fault, first)
        for place, fault in enumerate(FAULTS)
        for first in range(place * 17 % step, EVERY, step)
    ]
    result = child("survive_faults", tmp_path, faults, EVERY, module="fault_children").result(
        timeout=60 if step > 1 else 1800
    )
    assert result["problems"] == []
    assert result["operations"] > 500
    assert result["raised"] > 2 * len(faults)
    assert result["quiet"] > 3, "no fault struck what follows a commit"


@posix
@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="the files behind descriptors are looked up in /proc"
)
@pytest.mark.parametrize("every", [149, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_process_may_end_with_its_disk_still_refusing(
    tmp_path: Path, child: StartChild, error: int, every: int
) -> None:
    result = child("die_after_faults", tmp_path, error, every, module="fault_children").result(
        timeout=60 if every > 1 else 1800
    )
    assert result["problems"] == []
    assert result["lost"] == 0
    assert result["operations"] > 500


# Files that are damaged


class Truth:
    """What a sound store gives, and how it may be told from what a damaged one gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts: dict[str, str] = {}
        self.answers = self.ask(folder)
        self.texts = self.answers["texts"]

    def ask(self, folder: Path) -> dict[str, Any]:
        """Ask a store everything; no text may be wrong even while the rest is."""
        with FaissVetorStorage(folder, read_only=True) as store:
            answers: dict[str, Any] = {"texts": {}, "hits": []}
            for page in store.iter_documents(7):
                answers["texts"] |= {str(document.id): document.page_content for document in page}
            for document in store.get(list(self.texts)):
                assert document.page_content == self.texts[str(document.id)]
            queries: list[Any] = [*vectors(40, 1), *vectors(6, 2)]
            for hits in (store.search(queries, k=3), [store.search("nota fiscal", k=9, mode="text")]):
                for found in hits:
                    answers["hits"].append(
                        [(hit.id, hit.source, hit.metadata, round(hit.score, 5)) for hit in found]
                    )
                    if self.texts:
                        assert all(self.texts.get(hit.id) == hit.text for hit in found)
            answers["sources"] = [(row.source, row.chunks, row.metadata) for row in store.sources()]
        if self.texts:
            assert answers["texts"].items() <= self.texts.items()
        return answers

    def check(self, folder: Path) -> str:
        """Return how a damaged copy behaved: refused, reported or harmless; anything else is an error."""
        before = contents(folder)
        try:
            answers = self.ask(folder)
        except StorageError as exc:
            outcome = "refused" if str(folder) in str(exc) else f"refused without a name: {exc}"
        else:
            outcome = "harmless" if answers == self.answers else "different"
        problems = verify_store(folder).problems
        try:
            FaissVetorStorage(folder).close()
        except StorageError:
            assert problems
        assert contents(folder) == before, "the damaged files were changed"
        assert not outcome.startswith("refused without")
        if problems:
            return "reported"
        assert outcome == "harmless", outcome
        return outcome


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Truth]:
    """Return two stores: a closed one, and one whose process was killed while the log held its last commits."""
    found = {}
    for state in ("closed", "killed"):
        folder = tmp_path_factory.mktemp(state) / "store"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("oraculo_kit.storage.commit.SEGMENT_ROWS", 20)
            with FaissVetorStorage(folder) as store:
                names = store.replace("a", documents("a", 40, lang="pt"), vectors(40, 1))
                store.remove(names[3:6])
            store = FaissVetorStorage(folder)
            store.replace("b", documents("b", 6, lang="pt"), vectors(6, 2))
            store.write(documents("c", 2), vectors(2, 3))
            if state == "killed":
                store._rest()  # leaves the log, as a killed process would
            store.close()
        found[state] = Truth(folder)
    return found


def file_of(folder: Path, kind: str) -> Path:
    """Return a file of a store."""
    return next((folder / "segments").iterdir()) if kind == "segment" else folder / kind


KINDS = [
    ("closed", "catalog.sqlite3"),
    ("killed", "catalog.sqlite3"),
    ("killed", "catalog.sqlite3-wal"),
    ("closed", "segment"),
]


def damages(kind: str, size: int, count: int) -> Iterator[Callable[[Path], None]]:
    """Return what may happen to a file: bits flip, its end is lost."""
    chance = random.Random(5)
    lengths = [0, 1, 100, size // 2, size - 1, size // 4096 * 4096 // 2]
    for length in lengths:
        yield lambda path, length=length: path.write_bytes(path.read_bytes()[:length])
    for number in range(count):
        # The beginning of a file or page decides what is made of the rest: half of the flips go there.
        offset = chance.randrange(size)
        if number % 2:
            offset = min(offset // 4096 * 4096 + chance.randrange(120), size - 1)
        yield lambda path, offset=offset: flip_bit(path, offset)


@pytest.mark.parametrize("count", [25, pytest.param(400, marks=pytest.mark.full)])
@pytest.mark.parametrize(("state", "kind"), KINDS)
def test_damage_to_any_file_is_named_or_does_no_harm(
    sound: dict[str, Truth], tmp_path: Path, state: str, kind: str, count: int
) -> None:
    truth = sound[state]
    outcomes = []
    for damage in damages(kind, file_of(truth.folder, kind).stat().st_size, count):
        copy = tmp_path / "store"
        shutil.copytree(truth.folder, copy)
        damage(file_of(copy, kind))
        outcomes.append(truth.check(copy))
        shutil.rmtree(copy)
    assert outcomes.count("reported") >= 6


# Files that are missing, old or used by others


@pytest.mark.parametrize("state", ["closed", "killed"])
@pytest.mark.parametrize(
    ("missing", "outcome"),
    [
        ("catalog.sqlite3", "reported"),
        ("catalog.sqlite3-wal", {"closed": "harmless", "killed": "reported"}),
        ("catalog.sqlite3-shm", "harmless"),
        ("segment", "reported"),
        ("segments", "reported"),
        ("writer.lock", "harmless"),
        ("writer.queue", "harmless"),
    ],
)
def test_a_missing_file_is_named_or_not_needed(
    sound: dict[str, Truth], tmp_path: Path, state: str, missing: str, outcome: Any
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(sound[state].folder, copy)
    path = file_of(copy, missing)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert sound[state].check(copy) == (outcome if isinstance(outcome, str) else outcome[state])
    if outcome == "reported" and missing != "segments":
        assert path.name in verify_store(copy).problems[0]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Truth]:
    """Return three copies of one store: early, with a log; later, with the log in the database; at last, with a log."""
    root = tmp_path_factory.mktemp("history")
    store = FaissVetorStorage(root / "store")

    def copied(name: str) -> Path:
        shutil.copytree(root / "store", root / name)
        return root / name

    with store:
        for version in range(12):
            store.replace(
                f"s{version % 5}", documents(f"s{version % 5}", 9, version=version), vectors(9, version)
            )
            if version == 3:
                early = copied("early")
            elif version == 7:
                assert store._writer is not None
                assert store._writer._catalog is not None
                store._writer._catalog.checkpoint(truncate=True)
                later = copied("later")
        copied("last")
    return early, later, Truth(root / "last")


@pytest.mark.parametrize("catalog", ["early", "later", "last"])
@pytest.mark.parametrize("log", ["early", "later", "last", "none"])
@pytest.mark.parametrize("with_index", [True, False])
def test_a_catalog_of_one_age_and_a_log_of_another_are_not_taken_for_the_store(
    history: tuple[Path, Path, Truth], tmp_path: Path, catalog: str, log: str, with_index: bool
) -> None:
    early, later, truth = history
    ages = {"early": early, "later": later, "last": truth.folder}
    copy = tmp_path / "store"
    shutil.copytree(truth.folder, copy)
    shutil.copy(ages[catalog] / "catalog.sqlite3", copy)
    (copy / "catalog.sqlite3-wal").unlink()
    if log != "none":
        shutil.copy(ages[log] / "catalog.sqlite3-wal", copy)
    if not with_index:
        (copy / "catalog.sqlite3-shm").unlink()
    # The log of the last version begins where the later one ends.
    is_whole = log == "last" and catalog in ("later", "last")
    assert truth.check(copy) == ("harmless" if is_whole else "reported")


def test_another_sqlite_that_opens_and_closes_the_catalog_loses_nothing(
    folder: Path, child: StartChild
) -> None:
    names: list[str] = []
    with FaissVetorStorage(folder) as store:
        other = child("open_and_close_with_sqlite", folder, module="fault_children")
        assert other.line() == "ready"
        for number in range(80):
            names += store.write(documents("a", 1, number), vectors(1))
            if number % 8 == 0:
                store._rest()  # now the other is the last to close: it empties the log and removes it
            if number % 20 == 0:
                assert store._writer is not None
                with store._writer.lock.held("test"):
                    pass
        other.go()
        assert other.result() > 10
        assert set(names) == stored_ids(store)
        assert store.verify().ok
    with FaissVetorStorage(folder) as store:
        assert set(names) == stored_ids(store)
