"""A repair rebuilds what can be rebuilt, names what is lost, and touches nothing else."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from oraculo_kit.embed import Embedder
from oraculo_kit.errors import (
    EmbeddingError,
    StoreCorruptedError,
    StoreFormatError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.pages import leaf_rows
from oraculo_kit.storage.repairing import RepairReport, repair_store
from oraculo_kit.storage.verify import verify_store
from tests.storage.kit import (
    Child,
    TinyEmbeddings,
    catalog_of,
    contents,
    documents,
    flip_bit,
    vectors,
)

EMBEDDER = Embedder(TinyEmbeddings())
PAGE = 4096


def fill(folder: Path) -> None:
    """Make a store of some hundred chunks: a segment with dead rows, and pending vectors."""
    with FaissVetorStorage(folder, TinyEmbeddings()) as store:
        for name in "abcdef":
            store.replace(name, documents(name, 60, lang="pt"))
        store._writing().flush()
        store.replace("a", documents("a", 50, lang="pt"))
        store.write(documents("loose", 40))
        store.remove([str(each.id) for each in next(store.iter_documents())[::9]])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return such a store, closed, with a filter index."""
    folder = tmp_path_factory.mktemp("original") / "store"
    fill(folder)
    with FaissVetorStorage(folder, TinyEmbeddings()) as store:
        store.create_filter_index("place")
    return folder


@pytest.fixture
def filled(original: Path, folder: Path) -> Path:
    """Return a copy of it, to be damaged."""
    shutil.copytree(original, folder)
    return folder


@pytest.fixture
def plain(folder: Path) -> Path:
    """Return a store without one: with it the list of tables has pages of its own, and one no repair can do without."""
    fill(folder)
    return folder


@pytest.fixture(scope="module")
def ready_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a closed store whose vectors were given: numbers 1-60 in a segment, 61-70 pending."""
    folder = tmp_path_factory.mktemp("ready made") / "store"
    with FaissVetorStorage(folder) as store:
        store.replace("a", documents("a", 60), vectors(60))
        store._writing().flush()
        store.replace("b", documents("b", 10), vectors(10, 1))
    return folder


@pytest.fixture
def given(ready_made: Path, folder: Path) -> Path:
    """Return a copy of the store of ready-made vectors, to be damaged."""
    shutil.copytree(ready_made, folder)
    return folder


def everything(folder: Path) -> dict[str, Any]:
    """Return what a user can see of a store: by id, by vector, by text, by filter."""
    query = np.array(TinyEmbeddings().embed_query("x"), np.float32)
    with FaissVetorStorage(folder) as store:
        return {
            "chunks": {d.id: (d.page_content, d.metadata) for page in store.iter_documents() for d in page},
            "near": {hit.id: pytest.approx(hit.score, abs=1e-5) for hit in store.search(query, 1000)},
            "text": {hit.id for hit in store.search("nota fiscal", 1000, mode="text")},
            "filtered": {hit.id for hit in store.search(query, 1000, filter={"place": {"$lt": 20}})},
        }


def check_the_rest(folder: Path, before: dict[str, Any], lost: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """All but `lost` is there, and found in every way."""
    now = everything(folder)
    assert now["chunks"] == {name: each for name, each in before["chunks"].items() if name not in lost}
    assert now["near"] == {name: each for name, each in before["near"].items() if name not in lost}
    for way in ("text", "filtered"):
        assert now[way] == before[way] - lost
    assert verify_store(folder).problems == ()


def segment_of(folder: Path) -> Path:
    (path,) = (folder / "segments").iterdir()
    return path


def lost_rows(folder: Path) -> dict[str, Any]:
    """Return what ``lost.jsonl`` holds, by id."""
    lines = [
        line for path in folder.glob("damaged/*/lost.jsonl") for line in path.read_text("utf-8").splitlines()
    ]
    return {row["id"]: row for row in map(json.loads, lines)}


def overwrite_pages(folder: Path, pages: list[int], content: bytes = b"\x5a" * PAGE) -> None:
    path = folder / "catalog.sqlite3"
    whole = bytearray(path.read_bytes())
    for page in pages:
        whole[page * PAGE : (page + 1) * PAGE] = content
    path.write_bytes(whole)


def overwrite_page_in_place(folder: Path, page: int) -> None:
    """Damage one page of a catalog that another process has open."""
    with (folder / "catalog.sqlite3").open("r+b") as file:
        file.seek(page * PAGE)
        file.write(b"\x5a" * PAGE)


def root_of_live(folder: Path, table: str) -> int:
    """Return what `root_of` does, without a checkpoint."""
    db = apsw.Connection(str(folder / "catalog.sqlite3"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return (
            int(db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()[0][0])
            - 1
        )
    finally:
        db.close()


def root_of(folder: Path, table: str) -> int:
    """Return the place in the file, from 0, of the page where a table or index begins."""
    with catalog_of(folder) as db:
        return (
            int(db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()[0][0])
            - 1
        )


def leaves_of_chunks(folder: Path) -> list[int]:
    """Return the places in the file of pages that hold chunks."""
    content = (folder / "catalog.sqlite3").read_bytes()
    with catalog_of(folder) as db:
        texts = [
            text.encode() for (text,) in db.execute("SELECT substr(text, -12) FROM chunks ORDER BY number")
        ]
    pages = [content[place : place + PAGE] for place in range(0, len(content), PAGE)]
    return [
        place
        for place, page in enumerate(pages)
        if page[0] == 0x0D and sum(text in page for text in texts) > 4
    ]


def test_a_sound_store_is_left_alone(filled: Path) -> None:
    before = contents(filled)
    report = repair_store(filled, EMBEDDER)
    assert (report.ok, report.done, report.lost, report.aside) == (True, (), (), "")
    assert contents(filled) == before
    with FaissVetorStorage(filled, TinyEmbeddings()) as store:
        assert store.repair().done == ()


def test_a_flipped_bit_in_a_segment_costs_nothing_with_the_embedder(filled: Path) -> None:
    before, path = everything(filled), segment_of(filled)
    damaged = bytearray(path.read_bytes())
    damaged[5000] ^= 1
    path.write_bytes(damaged)

    report = repair_store(filled, EMBEDDER)

    assert report.ok
    assert report.lost == ()
    assert any("vectors of 266 chunks were made again" in each for each in report.done), report
    check_the_rest(filled, before)
    assert (Path(report.aside) / path.name).read_bytes() == damaged
    assert repair_store(filled, EMBEDDER).done == ()


@pytest.mark.parametrize("damage", ["missing", "short", "empty", "magic"])
def test_a_segment_that_cannot_be_read_is_made_again(filled: Path, damage: str) -> None:
    before, path = everything(filled), segment_of(filled)
    if damage == "missing":
        path.unlink()
    elif damage == "magic":
        flip_bit(path, 3)
    else:
        path.write_bytes(path.read_bytes()[: 3000 if damage == "short" else 0])
    report = repair_store(filled, EMBEDDER)
    assert report.ok, report
    assert report.lost == ()
    check_the_rest(filled, before)


def test_a_damaged_header_is_made_again_without_an_embedder(filled: Path) -> None:
    before, path = everything(filled), segment_of(filled)
    flip_bit(path, 12)
    report = repair_store(filled)
    assert report.ok
    assert re.search("the header of segment .* was made again", report.done[0])
    check_the_rest(filled, before)


@pytest.mark.parametrize("embedder", [None, Embedder(TinyEmbeddings(salt="other")), Embedder("wordllama")])
def test_without_the_right_embedder_nothing_is_removed_and_it_is_named(
    filled: Path, embedder: Embedder | None
) -> None:
    before = everything(filled)
    flip_bit(segment_of(filled), 5000)
    files = contents(filled)

    report = repair_store(filled, embedder)

    assert not report.ok
    assert "TinyEmbeddings" in report.lost[0]
    assert re.search("do not match the digest", str(report.problems))
    assert {name: each for name, each in contents(filled).items() if name.endswith(".f32")} == {
        name: each for name, each in files.items() if name.endswith(".f32")
    }
    assert repair_store(filled, EMBEDDER).ok
    check_the_rest(filled, before)


def test_an_embedder_that_fails_loses_nothing(filled: Path) -> None:
    class Failing(TinyEmbeddings):
        __module__, __qualname__ = TinyEmbeddings.__module__, TinyEmbeddings.__qualname__
        failing = False

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if len(texts) > 1:
                raise EmbeddingError("no more quota")
            return super().embed_documents(texts)

    Failing.__name__ = "TinyEmbeddings"
    before = everything(filled)
    flip_bit(segment_of(filled), 5000)
    report = repair_store(filled, Embedder(Failing()))
    assert not report.ok
    assert any("until they are made again" in each and "no more quota" in each for each in report.lost), (
        report
    )
    assert len(list((filled / "segments").iterdir())) == 0
    assert repair_store(filled, EMBEDDER).ok
    check_the_rest(filled, before)


def test_a_chunk_that_is_deleted_while_vectors_are_made_again_stays_deleted(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = TinyEmbeddings.embed_documents
    with FaissVetorStorage(filled, TinyEmbeddings()) as store:
        gone = store.search("nota", 1, filter={"source": "c"})[0].id

        def removing(self: TinyEmbeddings, texts: list[str]) -> list[list[float]]:
            if len(texts) > 1:
                store.remove([gone])
                with store._writing().transaction("drop tombstones, as a compaction does") as catalog:
                    catalog.db.execute("DELETE FROM tombstones WHERE number > 60")
            return embed(self, texts)

        monkeypatch.setattr(TinyEmbeddings, "embed_documents", removing)
        flip_bit(segment_of(filled), 5000)
        assert repair_store(filled, EMBEDDER).ok
        assert store.get([gone]) == []
        assert len(store.search(vectors(1)[0], 1000)) == len(store)
        assert store.verify().problems == ()


CHANGES: dict[str, tuple[str, int]] = {
    # The statement; the sentence; how many chunks it costs.
    "UPDATE pending SET vector = zeroblob(32) WHERE number = 370": ("vectors of 1 chunks were made again", 0),
    "DELETE FROM pending WHERE number = 370": ("vectors of 1 chunks were made again", 0),
    "DELETE FROM segments": ("vectors of 266 chunks were made again", 0),
    "UPDATE segments SET digest = 'x'": ("its vectors are made again", 0),
    "UPDATE segments SET rows = 7, bytes = 1": ("figures of segment .* were corrected", 0),
    "DELETE FROM tombstones": ("vectors that belong to no chunk were marked as deleted", 0),
    "INSERT INTO tombstones VALUES (370, 1, 0), (102, 1, 0)": ("2 chunks were marked as deleted though", 0),
    "INSERT OR REPLACE INTO pending SELECT 102, checksum, vector FROM pending WHERE number = 370; "
    "UPDATE meta SET value = 0 WHERE key = 'flushed'": ("vectors that were stored twice are stored once", 0),
    "UPDATE sources SET chunk_count = 7 WHERE key = 'b'": ("the chunks of 1 sources were counted anew", 0),
    "DELETE FROM chunk_text WHERE rowid IN (102, 103)": ("2 texts were not in the full-text index", 0),
    "INSERT INTO chunk_text(rowid, stems) VALUES (900, 'not')": ("1 entries of the full-text index", 0),
    "UPDATE meta SET value = 5 WHERE key = 'dimension'": ("dimension of the vectors was unknown or wrong; it is 8", 0),
    "UPDATE meta SET value = NULL WHERE key = 'dimension'": ("it is 8", 0),
    "UPDATE meta SET value = 4 WHERE key = 'commit'": (r"commits 5 to \d+: the catalog is an older one", 0),
    "UPDATE sqlite_sequence SET seq = 10 WHERE name = 'chunks'": ("", 0),
    "UPDATE sources SET language = 'xx' WHERE key = 'b'": ("language of source 'b' was damaged, and was found", 0),
    "PRAGMA application_id = 5": ("what could be read of it became a new one", 0),
    "UPDATE chunks SET text = 'x' WHERE number = 102": ("1 chunks of source 'b' .their text or metadata is damaged", 1),
    "UPDATE chunks SET text = CAST(x'ff' AS TEXT) WHERE number = 102": ("1 chunks of source 'b'", 1),
    "UPDATE chunks SET ordinal = 99 WHERE number = 370": ("1 chunks of source 'a'", 1),
    "UPDATE chunks SET metadata = '{\"place\":1}' WHERE number IN (103, 104)": ("2 chunks of source 'b'", 2),
    "UPDATE chunks SET source = 999 WHERE number = 102": ("1 chunks of an unknown source", 1),
    "DELETE FROM chunks WHERE number = 102": ("1 of the 53 chunks of source 'b'; ingest it again", 1),
    "DELETE FROM sources WHERE key = 'b'": ("53 chunks of an unknown source", 53),
    "UPDATE sources SET key = 'B' WHERE key = 'b'": ("53 chunks of source 'B' .the name of their source is damaged", 53),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "sentence"), CHANGES.items())
def test_every_change_of_the_catalog_is_mended_or_named(
    filled: Path, statement: str, sentence: tuple[str, int]
) -> None:
    before = everything(filled)
    with catalog_of(filled) as db:
        db.execute(statement)
    assert not verify_store(filled).ok

    report = repair_store(filled, EMBEDDER)

    assert report.ok, report
    assert re.search(sentence[0], "\n".join((*report.done, *report.lost))), report
    there = set(everything(filled)["chunks"])
    assert there <= set(before["chunks"])
    check_the_rest(filled, before, set(before["chunks"]) - there)
    assert len(before["chunks"]) - len(there) == sentence[1]
    assert repair_store(filled, EMBEDDER).done == ()


def test_a_damaged_chunk_is_kept_aside_and_its_source_is_read_again(filled: Path) -> None:
    with catalog_of(filled) as db:
        db.execute("UPDATE sources SET content_hash = 'h'")
        ((name, text),) = db.execute("SELECT id, text FROM chunks WHERE number = 102").fetchall()
        db.execute("UPDATE chunks SET metadata = '{}' WHERE number = 102")

    report = repair_store(filled, EMBEDDER)

    assert name in report.lost[0]
    row = lost_rows(filled)[name]
    assert (row["source"], row["text"], row["sound"]) == ("b", text, False)
    with FaissVetorStorage(filled, TinyEmbeddings()) as store:
        hashes = {key: entry.content_hash for key, entry in store.ledger(["a", "b"]).items()}
        assert hashes == {"a": "h", "b": None}
        store.compact(purge=True)
    assert not (filled / "damaged").exists()


def test_what_chunks_share_is_lost_alone_when_their_ids_prove_the_source_right(filled: Path) -> None:
    before = everything(filled)["chunks"]
    with catalog_of(filled) as db:
        db.execute("UPDATE sources SET metadata = '{\"lang\":\"qt\"}', content_hash = 'h' WHERE key = 'b'")
    report = repair_store(filled, EMBEDDER)
    assert report.ok
    assert report.lost == (
        "what the chunks of source 'b' share (their metadata and language), until it is ingested again",
    )
    now = everything(filled)["chunks"]
    assert {name: text for name, (text, _) in now.items()} == {
        name: text for name, (text, _) in before.items()
    }
    assert {name for name in now if now[name] != before[name]} == {
        name for name in now if now[name][1]["source"] == "b"
    }


def test_a_full_text_index_that_lost_words_is_made_anew(filled: Path) -> None:
    before = everything(filled)
    with catalog_of(filled) as db:
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        db.execute("DELETE FROM chunk_text_data WHERE id > 10")
    report = repair_store(filled, EMBEDDER)
    assert report.done[0] == "the full-text index was damaged, and is made anew from the texts"
    assert report.lost == ()
    check_the_rest(filled, before)


def test_chunks_on_an_overwritten_page_are_named_one_by_one_and_the_others_stay(filled: Path) -> None:
    before, pages = everything(filled), leaves_of_chunks(filled)
    assert len(pages) > 15
    damaged = pages[3], pages[4], pages[9]
    overwrite_pages(filled, list(damaged))

    report = repair_store(filled, EMBEDDER)

    assert report.ok, report
    lost = set(before["chunks"]) - set(everything(filled)["chunks"])
    assert 20 < len(lost) < 80
    assert set(lost_rows(filled)) == lost
    assert all(
        re.search(r"^\d+ chunks of source '[a-f]' .on damaged pages", each) for each in report.lost[1:]
    )
    check_the_rest(filled, before, lost)
    with FaissVetorStorage(filled, read_only=True) as store:
        assert store.filter_indexes() == ["place"]
    (old,) = (filled / "damaged").rglob("catalog.sqlite3")
    assert b"\x5a" * PAGE in old.read_bytes()


@pytest.mark.parametrize(
    "table",
    [
        "chunks", "sqlite_autoindex_chunks_1", "chunks_by_source", "sqlite_autoindex_sources_1", "pending",
        "tombstones", "segments", "metadata_keys", "chunk_text_data", "chunk_text_docsize", "sqlite_sequence", "meta",
    ],
)  # fmt: skip
@pytest.mark.parametrize("content", [b"\x5a" * PAGE, bytes(PAGE)])
def test_no_chunk_is_lost_when_the_first_page_of_a_table_is(filled: Path, table: str, content: bytes) -> None:
    before = everything(filled)
    overwrite_pages(filled, [root_of(filled, table)], content)
    report = repair_store(filled, EMBEDDER)
    assert report.ok, report
    check_the_rest(filled, before)
    with FaissVetorStorage(filled, TinyEmbeddings()) as store:
        (new,) = store.write(documents("new", 1))
        assert new not in before["chunks"]
        assert store.verify().problems == ()
    assert repair_store(filled, EMBEDDER).done == ()


def test_sources_whose_rows_are_on_a_damaged_page_keep_their_chunks(filled: Path) -> None:
    before = everything(filled)["chunks"]
    overwrite_pages(filled, [root_of(filled, "sources")])
    report = repair_store(filled, EMBEDDER)
    assert report.ok
    assert sum("share (their metadata and language)" in each for each in report.lost) == 7
    now = everything(filled)["chunks"]
    assert {name: (text, each["source"]) for name, (text, each) in now.items()} == {
        name: (text, each["source"]) for name, (text, each) in before.items()
    }


def test_sources_are_found_on_their_pages_when_neither_table_nor_index_leads_there(filled: Path) -> None:
    before = everything(filled)
    with catalog_of(filled) as db:
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        db.pragma("writable_schema", True)
        db.execute(
            "UPDATE sqlite_schema SET rootpage = 9999 WHERE tbl_name = 'sources' AND name NOT LIKE 'filter%'"
        )
    report = repair_store(filled, EMBEDDER)
    assert report.ok, report
    check_the_rest(filled, before)


def leaves_of_the_list_of_tables(folder: Path) -> list[int]:
    """Return the places in the file of the pages that the list has beside the first one, in the order of its rows."""
    first = (folder / "catalog.sqlite3").read_bytes()[:PAGE]
    assert first[100] == 5, "it fits on the first page"
    cells = [int.from_bytes(first[place : place + 2]) for place in range(112, 112 + 2 * first[104], 2)]
    return [int.from_bytes(first[place : place + 4]) - 1 for place in (*cells, 108)]


@pytest.mark.parametrize(
    ("more", "leaf", "left"), [(16, 1, {"x14", "x15"}), (16, 2, {"lang", "place"}), (0, 1, set())]
)
def test_a_damaged_list_of_tables_costs_the_filter_indexes_on_its_page_and_says_so(
    filled: Path, more: int, leaf: int, left: set[str]
) -> None:
    keys = ["place", "lang", *(f"x{number}" for number in range(more))]
    with FaissVetorStorage(filled, TinyEmbeddings()) as store:
        for key in keys:
            store.create_filter_index(key)
    before, pages = everything(filled), leaves_of_the_list_of_tables(filled)
    overwrite_pages(filled, [pages[leaf]])

    report = repair_store(filled, EMBEDDER)

    assert report.ok, report
    assert any(re.search("indexes of filters, .* create_filter_index", each) for each in report.lost), report
    check_the_rest(filled, before)
    with FaissVetorStorage(filled, TinyEmbeddings()) as store:
        assert left <= set(store.filter_indexes()) < set(keys)
        for key in keys:
            store.create_filter_index(key)
    check_the_rest(filled, before)


def test_a_list_of_tables_without_chunks_cannot_be_repaired_and_is_left_as_it_is(filled: Path) -> None:
    overwrite_pages(filled, leaves_of_the_list_of_tables(filled)[:1])
    files = contents(filled)
    with pytest.raises(StoreCorruptedError, match="nothing was changed: only a snapshot helps"):
        repair_store(filled, EMBEDDER)
    assert contents(filled) == files


@pytest.mark.parametrize("seed", range(8))
def test_bits_flipped_anywhere_are_mended_or_named(plain: Path, seed: int) -> None:
    before, chance = everything(plain), random.Random(seed)
    path = plain / "catalog.sqlite3"
    for _ in range(5):
        flip_bit(path, chance.randrange(8 * PAGE, path.stat().st_size))
    report = repair_store(plain, EMBEDDER)
    assert report.ok, report
    now = everything(plain)["chunks"]
    lost = set(before["chunks"]) - set(now)
    assert len(lost) <= 5
    assert lost <= set(lost_rows(plain))
    assert all(before["chunks"][name][0] == now[name][0] for name in now)


def test_a_chunk_that_a_flipped_bit_gave_to_another_source_goes_back(filled: Path) -> None:
    before, path = everything(filled), filled / "catalog.sqlite3"
    with catalog_of(filled) as db:
        ((name, source),) = db.execute("SELECT id, source FROM chunks WHERE number = 102").fetchall()
    content = path.read_bytes()
    places = [each.start() for each in re.finditer(re.escape(bytes([source]) + name.encode()), content)]
    # In a record the id comes first and a small integer after it; in the index by id no source follows.
    place = next(
        each.start()
        for each in re.finditer(re.escape(name.encode() + bytes([source])), content)
        if each.start() not in places
    )
    flip_bit(path, place + len(name))
    assert not verify_store(filled).ok
    report = repair_store(filled, EMBEDDER)
    assert report.ok
    check_the_rest(filled, before)


def test_the_end_of_the_catalog_is_missing(plain: Path) -> None:
    before, path = everything(plain), plain / "catalog.sqlite3"
    path.write_bytes(path.read_bytes()[: path.stat().st_size - 20 * PAGE])
    report = repair_store(plain, EMBEDDER)
    assert report.ok
    there = set(everything(plain)["chunks"])
    assert 100 < len(there) < len(before["chunks"])
    check_the_rest(plain, before, set(before["chunks"]) - there)


def test_a_catalog_whose_log_is_lost_is_accepted_and_the_commits_are_named(filled: Path) -> None:
    path = filled / "catalog.sqlite3"
    old = path.read_bytes()
    with FaissVetorStorage(filled, TinyEmbeddings()) as store:
        commit = store.stats().commit
        store.replace("later", documents("later", 5))
        store.replace("later", documents("later", 6))
        store._writing().flush()
        last = store.stats().commit
    path.write_bytes(old)

    report = repair_store(filled, EMBEDDER)

    assert report.ok
    assert f"commits {commit + 1} to {last}: the catalog is an older one" in report.lost[0]
    assert len(list((filled / "segments").iterdir())) == 1
    assert len(list((filled / "damaged").rglob("*.f32"))) == 1
    with FaissVetorStorage(filled, TinyEmbeddings()) as store:
        assert store.stats().commit > last
        store.write(documents("new", 2))


def test_a_catalog_that_is_missing_or_no_database_cannot_be_rebuilt(plain: Path, tmp_path: Path) -> None:
    path = plain / "catalog.sqlite3"
    flip_bit(path, 3)
    files = contents(plain)
    with pytest.raises(StoreCorruptedError, match="nothing can be rebuilt, .*: only a snapshot helps"):
        repair_store(plain, EMBEDDER)
    assert contents(plain) == files
    flip_bit(path, 3)
    path.write_bytes(path.read_bytes()[: 2 * PAGE])
    files = contents(plain)
    with pytest.raises(
        StoreCorruptedError, match="no chunk can be read .* nothing was changed: only a snapshot helps"
    ):
        repair_store(plain, EMBEDDER)
    assert contents(plain) == files
    path.unlink()
    with pytest.raises(StoreCorruptedError, match="is missing .* nothing can be rebuilt"):
        repair_store(plain, EMBEDDER)
    with pytest.raises(StoreNotFoundError, match="there is no store at"):
        repair_store(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_store_of_a_newer_format_is_not_touched(filled: Path) -> None:
    with catalog_of(filled) as db:
        db.pragma("user_version", 99)
    files = contents(filled)
    with pytest.raises(StoreFormatError, match="Upgrade before you repair it"):
        repair_store(filled)
    assert contents(filled) == files


def test_a_store_that_was_opened_read_only_is_not_repaired(filled: Path) -> None:
    with FaissVetorStorage(filled, read_only=True) as store, pytest.raises(StoreReadOnlyError):
        store.repair()


def test_an_index_file_that_does_not_match_is_dropped(filled: Path) -> None:
    with catalog_of(filled) as db:
        db.execute("INSERT INTO indexes SELECT name, 'x.faiss', '{}' FROM segments")
    (filled / "indexes").mkdir(exist_ok=True)
    (filled / "indexes" / "x.faiss").write_bytes(b"x")
    report = repair_store(filled)
    assert report.ok
    assert "1 damaged indexes were dropped; optimize() makes them anew" in report.done
    assert list((filled / "indexes").iterdir()) == []


def test_ready_made_vectors_that_are_whole_are_kept_and_damaged_ones_are_named(given: Path) -> None:
    before, path = everything(given), segment_of(given)
    with catalog_of(given) as db:
        ((name,),) = db.execute("SELECT id FROM chunks WHERE number = 11").fetchall()
    place = path.stat().st_size - (60 - 10) * 8 * 4 + 3  # number 11's first component: its exponent
    content = bytearray(path.read_bytes())
    content[place] ^= 2
    path.write_bytes(content)

    report = repair_store(given, EMBEDDER)

    assert report.ok, report
    assert re.search("59 of 60 vectors are whole and were kept", report.done[0])
    assert any(
        f"their ready-made vectors are lost; write them again): {name}" in each for each in report.lost
    )
    assert any("certainty about the 59 ready-made vectors" in each for each in report.lost)
    assert lost_rows(given)[name]["sound"]
    check_the_rest(given, before, {name})


def test_ready_made_vectors_beyond_the_end_of_a_truncated_file_are_lost(given: Path) -> None:
    before, path = everything(given), segment_of(given)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - 20 * 32 - 5])
    report = repair_store(given)
    assert report.ok
    lost = set(before["chunks"]) - set(everything(given)["chunks"])
    assert len(lost) == 21
    assert set(lost_rows(given)) == lost
    check_the_rest(given, before, lost)


def test_ready_made_vectors_with_wrong_numbers_go_to_no_other_chunk(given: Path) -> None:
    before, path = everything(given), segment_of(given)
    content = bytearray(path.read_bytes())
    content[64 + 10 * 8 + 7] ^= 1  # number 11 becomes very large
    content[64 + 20 * 8] ^= 1  # number 21 becomes 20
    path.write_bytes(content)
    report = repair_store(given)
    assert report.ok, report
    lost = set(before["chunks"]) - set(everything(given)["chunks"])
    assert len(lost) == 2
    check_the_rest(given, before, lost)


def test_ready_made_vectors_are_found_in_a_segment_that_no_list_names(given: Path) -> None:
    before = everything(given)
    overwrite_pages(given, [root_of(given, "segments")])
    report = repair_store(given)
    assert report.ok
    assert any("60 vectors were found in" in each for each in report.done)
    check_the_rest(given, before)


def test_a_store_that_is_open_goes_on_after_its_repair(filled: Path) -> None:
    before = everything(filled)
    with FaissVetorStorage(filled, TinyEmbeddings()) as store:
        first = store.search("nota fiscal", 5)
        with catalog_of(filled) as db:
            db.execute("UPDATE pending SET checksum = 0 WHERE number = 370; DELETE FROM tombstones")
        flip_bit(segment_of(filled), 4000)
        report = store.repair()
        assert report.ok
        assert [hit.id for hit in store.search("nota fiscal", 5)] == [hit.id for hit in first]
        store.write(documents("more", 2))
        assert store.verify().problems == ()
        store.remove_by_metadata("source", "more")
    check_the_rest(filled, before)


def test_a_reader_in_another_process_goes_on_beside_a_salvage(
    filled: Path, child: Callable[..., Child]
) -> None:
    count, page = len(everything(filled)["chunks"]), root_of(filled, "feedback")
    reader = child("search_until_told", filled, module="repair_children")
    assert reader.line() == "ready"
    reader.go()
    for _ in range(3):
        overwrite_page_in_place(filled, page)  # one that no search reads
        report = repair_store(filled, EMBEDDER)
        assert report.ok
        assert report.done[0].startswith("the catalog had damaged pages")
        with FaissVetorStorage(filled, TinyEmbeddings()) as store:
            store.write(documents("new", 1))
            store._writing().checkpoint()
        page = root_of_live(filled, "feedback")
    reader.go()
    found = reader.result()
    assert found["errors"] == []
    assert found["searches"] > 3
    assert found["most"] == count + 1


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.full) for part in range(1, 6))])
def test_a_repair_that_was_killed_is_repeated(filled: Path, child: Callable[..., Child], part: int) -> None:
    before, pages = everything(filled), leaves_of_chunks(filled)
    flip_bit(segment_of(filled), 5000)
    overwrite_pages(filled, pages[3:4])
    damaged = filled.with_name("damaged store")
    shutil.copytree(filled, damaged)
    steps = child("repair_until", filled, 0, module="repair_children").result()
    lost = set(before["chunks"]) - set(everything(filled)["chunks"])
    assert 5 < len(lost) < 30
    assert steps > 30
    for step in range(1 + part, steps + 1, 6 if part else 12):
        shutil.rmtree(filled)
        shutil.copytree(damaged, filled)
        killed = child("repair_until", filled, step, module="repair_children")
        killed.process.wait(60)
        assert killed.process.returncode == -signal.SIGKILL
        report = repair_store(filled, EMBEDDER)
        assert report.ok, (step, report)
        check_the_rest(filled, before, lost)


def test_leaf_rows_reads_what_sqlite_reads(filled: Path) -> None:
    path = filled / "catalog.sqlite3"
    with catalog_of(filled) as db:
        db.execute("UPDATE chunks SET text = text || ?", ("é" * 9000,))  # onto chains of overflow pages
        expected = db.execute(
            "SELECT number, id, source, ordinal, inherits, checksum, metadata, text FROM chunks"
        ).fetchall()
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    rows = {number: values for number, values in leaf_rows(copy, 8) if values[0] is None}
    for number, *values in expected:
        assert [each.decode() if isinstance(each, bytes) else each for each in rows[number][1:]] == values


def test_leaf_rows_survives_any_content(tmp_path: Path) -> None:
    chance, path = random.Random(1), tmp_path / "noise"
    for _ in range(30):
        path.write_bytes(b"".join(b"\x0d" + chance.randbytes(PAGE - 1) for _ in range(5)))
        assert all(isinstance(number, int) for number, _ in leaf_rows(path, 3))


def test_a_report_reads_well() -> None:
    report = RepairReport("s", ("one",), ("two",), (), "s/damaged/x", 0.25)
    assert report.ok
    assert str(report).splitlines() == [
        "the store s is sound; 0.2 s",
        "rebuilt:",
        "- one",
        "lost:",
        "- two",
        "the damaged files are in:",
        "- s/damaged/x",
    ]
    assert "not sound yet (1 problems)" in str(RepairReport("s", (), (), ("bad",), "", 0))
