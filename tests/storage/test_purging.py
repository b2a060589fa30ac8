"""After a purge no byte of what was deleted is left in any file of the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import numpy as np
import pytest
from langchain_core.documents import Document

from oraculo_kit.errors import StoreLockTimeoutError
from oraculo_kit.storage import compaction
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.feedback import Feedback
from tests.storage.kit import DIMENSION, TinyEmbeddings, Vectors, catalog_of, documents, stored_ids, vectors

OpenStore = Callable[..., FaissVetorStorage]
NAME = "Zacarias Quintanilha"
STEM = "quintanilh"
KEY = "cadastro_sigiloso"


@pytest.fixture
def secret() -> Vectors:
    """Return a vector whose bytes stand out."""
    return vectors(1, 4242)


@pytest.fixture
def filled(store: FaissVetorStorage, small_segments: int, secret: Vectors) -> FaissVetorStorage:
    """Return a store from which everything about one person was removed, in each of the ways that leave traces."""
    person = f"Ficha de {NAME}, morador da Rua das Acácias."
    for number in range(6):
        kept = store.replace(f"s{number}", documents(f"s{number}", 25), vectors(25, number))
    for source, count in (("few", 1), ("many", 30)):  # pending, and in a segment of its own
        made = [
            Document(f"{person} Folha {place}.", metadata={"source": f"{NAME} {source}", KEY: NAME})
            for place in range(count)
        ]
        ids = store.write(made, np.repeat(secret, count, axis=0))
    store.add_feedback(
        Feedback("2026-01-01T00:00:00+00:00", f"Onde mora {NAME}?", person, "good", sources=(ids[0],))
    )
    store.add_feedback(Feedback("2026-01-02T00:00:00+00:00", "Outra?", "Sim.", "good", sources=(kept[0],)))
    for source in ("few", "many"):
        assert store.remove_by_metadata("source", f"{NAME} {source}")
    return store


def traces(folder: Path, secret: Vectors) -> dict[str, list[str]]:
    """Return what of the person is left in which file."""
    wanted = {
        "name": NAME.encode(),
        "stem": STEM[3:].encode(),
        "key": KEY.encode(),
        "vector": secret.astype("<f4").tobytes()[: DIMENSION * 2],
    }
    found: dict[str, list[str]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for what, pattern in wanted.items():
                if pattern in content:
                    found.setdefault(path.name, []).append(what)
    return found


def test_a_removal_alone_leaves_traces_that_this_test_can_see(
    filled: FaissVetorStorage, folder: Path, secret: Vectors
) -> None:
    assert {what for found in traces(folder, secret).values() for what in found} == {
        "name",
        "stem",
        "key",
        "vector",
    }


def test_a_purge_leaves_no_trace(filled: FaissVetorStorage, folder: Path, secret: Vectors) -> None:
    before = stored_ids(filled)

    report = filled.compact(purge=True)

    assert traces(folder, secret) == {}
    assert report.purged
    assert report.dropped >= 30
    assert stored_ids(filled) == before
    assert [each.question for each in filled.feedback()] == ["Outra?"]
    assert filled.verify().problems == ()
    filled.close()
    assert traces(folder, secret) == {}


def test_a_purge_forgets_what_an_unfinished_reembed_staged(
    filled: FaissVetorStorage, folder: Path, secret: Vectors
) -> None:
    with catalog_of(folder) as db:
        db.execute("INSERT INTO staged VALUES ('0-x.f32', 1, 1, '', NULL)")
    (folder / "segments" / "0-x.f32").write_bytes(secret.astype("<f4").tobytes())
    filled.compact(purge=True)
    assert traces(folder, secret) == {}
    assert not (folder / "segments" / "0-x.f32").exists()


def test_a_purge_drops_tombstones_that_an_unfinished_reembed_held_back(
    open_store: Callable[..., FaissVetorStorage], small_segments: int
) -> None:
    store = open_store(embedder=TinyEmbeddings())
    ids = store.write(documents("large", 30))  # in a segment at once, so that no flush ever marks its numbers

    def stopped(_done: int, _total: int) -> None:
        store.remove(ids[:3])
        store.compact()  # while something is staged no tombstone goes
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.reembed(TinyEmbeddings(salt="other"), stopped)
    store.compact(purge=True)
    assert store.stats().dead == 0
    assert store.verify().problems == ()


def test_a_purge_that_a_reader_keeps_from_emptying_the_log_says_so_and_loses_nothing(
    filled: FaissVetorStorage, folder: Path, open_store: OpenStore
) -> None:
    filled.close()
    store, before = open_store(lock_timeout=0.3), len(stored_ids(filled_again := open_store()))
    filled_again.close()
    reader = apsw.Connection(str(folder / "catalog.sqlite3"))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM chunks").fetchall()
    try:
        with pytest.raises(StoreLockTimeoutError, match="readers left no moment to empty it"):
            store.compact(purge=True)
    finally:
        reader.close()
    assert len(stored_ids(store)) == before
    assert store.compact(purge=True).purged


def test_a_purge_beside_somebody_who_goes_on_deleting_starts_over(
    filled: FaissVetorStorage,
    open_store: OpenStore,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    secret: Vectors,
) -> None:
    other = open_store()
    doomed = sorted(stored_ids(filled))[:3]
    reclaim = compaction.reclaim

    def meanwhile(writer: object) -> None:
        reclaim(writer)  # type: ignore[arg-type]
        if doomed:
            other.remove([doomed.pop()])

    monkeypatch.setattr(compaction, "reclaim", meanwhile)
    filled.compact(purge=True)
    assert filled.stats().dead == 0
    assert filled.verify().problems == ()
    assert traces(folder, secret) == {}
