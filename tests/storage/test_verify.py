"""`verify` finds every kind of damage, names it, and changes nothing."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import apsw
import pytest

from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.records import row_checksum
from oraculo_kit.storage.segments import Segment, write_segment
from oraculo_kit.storage.verify import VerifyReport, verify_store
from tests.storage.kit import catalog_of, contents, documents, flip_bit, vectors


@pytest.fixture
def filled(folder: Path, small_segments: int) -> Path:
    """Return the folder of a closed store: numbers 1-30 in a segment (5 dead), 31-33 pending."""
    with FaissVetorStorage(folder) as store:
        names = store.replace("a", documents("a", 30, lang="pt"), vectors(30))
        store.replace("b", documents("b", 3), vectors(3, 1))
        store.remove(names[:5])
    report = verify_store(folder)
    assert report.ok, report
    return folder


def problems(folder: Path) -> str:
    """Return what verify finds, by the open store and by the function; nothing may change."""
    before = contents(folder)
    found = verify_store(folder).problems
    assert contents(folder) == before
    assert found
    return "\n".join(found)


def test_a_sound_store_is_counted(filled: Path) -> None:
    with FaissVetorStorage(filled, read_only=True) as store:
        report = store.verify()
    assert report.ok
    assert (report.chunks, report.sources, report.segments, report.pending) == (28, 2, 1, 3)
    assert repr(report).startswith(
        f"no problem in {filled}: checked 28 chunks of 2 sources, 1 segment and 3 pending"
    )


def test_an_empty_store_is_sound(store: FaissVetorStorage) -> None:
    assert store.verify().ok


CHANGES = {
    "UPDATE chunks SET text = 'x' WHERE number = 7": "chunk .* of source 'a' is damaged: its text or metadata does",
    "UPDATE chunks SET text = CAST(x'ff' AS TEXT) WHERE number = 7": "chunk .* of source 'a' is damaged",
    "UPDATE chunks SET metadata = '{}' WHERE number = 7": "chunk .* is damaged",
    "UPDATE chunks SET ordinal = 99 WHERE number = 7": "chunk .* is damaged",
    "UPDATE chunks SET id = 'x' WHERE number = 7": "the chunk x of source 'a' is damaged",
    "UPDATE pending SET vector = zeroblob(32) WHERE number = 31": "vector of chunk number 31 is damaged",
    "UPDATE pending SET vector = x'00' WHERE number = 31": "vector of chunk number 31 is damaged",
    "DELETE FROM pending WHERE number = 31": "1 chunk numbers have no vector, the first: 31",
    "DELETE FROM chunks WHERE number = 31": "1 chunk numbers have a vector, but are not in the catalog, the first: 31",
    "DELETE FROM chunks WHERE number = 7": "the ledger counts 25 chunks of source 'a', and there are 24",
    "UPDATE sources SET chunk_count = 7 WHERE key = 'b'": "the ledger counts 7 chunks of source 'b', and there are 3",
    "DELETE FROM sources WHERE key = 'b'": "chunk .* belongs to a source that is not in the ledger",
    "UPDATE sources SET metadata = '{' WHERE key = 'a'": "the metadata of source 'a' is not JSON",
    "INSERT INTO tombstones VALUES (31, 1, 0)": "1 chunk numbers are in the catalog, but marked as deleted, the first: 31",
    "DELETE FROM tombstones WHERE number = 3": "1 chunk numbers have a vector, but are not in the catalog, the first: 3",
    "INSERT INTO tombstones VALUES (999, 1, 0)": "tombstones has the number 999, but only numbers up to 33 were given out",
    "INSERT INTO pending SELECT 6, checksum, vector FROM pending LIMIT 1": "1 chunk numbers have more than one vector, the first: 6",
    "DELETE FROM chunk_text WHERE rowid = 8": "1 chunk numbers are not in the full-text index, the first: 8",
    "INSERT INTO chunk_text(rowid, stems) VALUES (40, 'x')": "are in the full-text index, but not in the catalog, the first: 40",
    "UPDATE meta SET value = 0 WHERE key = 'commit'": "is at commit 0, but commit 3 was made",
    "UPDATE meta SET value = NULL WHERE key = 'dimension'": "the catalog does not know their dimension",
    "UPDATE meta SET value = 5 WHERE key = 'dimension'": r"has the shape \(30, 8\), expected \(30, 5\)",
    "UPDATE segments SET digest = 'x'": "do not match the digest in the catalog",
    "UPDATE segments SET rows = 31": r"has the shape \(30, 8\), expected \(31, 8\)",
    "UPDATE segments SET bytes = 31": "do not match the digest",
    "DELETE FROM segments": "25 chunk numbers have no vector, the first: 6",
    "PRAGMA application_id = 5": "is a SQLite database, but not a catalog of oraculo_kit",
    "PRAGMA user_version = 99": "has format 99, and this oraculo_kit reads up to",
}


@pytest.mark.parametrize(("statement", "expected"), CHANGES.items())
def test_every_change_of_the_catalog_is_found(filled: Path, statement: str, expected: str) -> None:
    with catalog_of(filled) as db:
        db.execute(statement)
    found = problems(filled)
    assert re.search(expected, found), found


def test_a_chunk_whose_metadata_was_written_wrong_is_found(filled: Path) -> None:
    with catalog_of(filled) as db:
        name, ordinal, text = db.execute("SELECT id, ordinal, text FROM chunks WHERE number = 7").fetchone()
        checksum = row_checksum(name, ordinal, text, "{")
        db.execute("UPDATE chunks SET metadata = '{', checksum = ? WHERE number = 7", (checksum,))
    assert f"the metadata of chunk {name} of source 'a' is not JSON" in problems(filled)


def test_a_full_text_index_that_lost_words_is_found(filled: Path) -> None:
    with catalog_of(filled) as db:
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        db.execute("DELETE FROM chunk_text_data WHERE id > 10")
    assert "chunk_text" in problems(filled)


def segment_of(folder: Path) -> Path:
    """Return the store's one segment."""
    (path,) = (folder / "segments").iterdir()
    return path


@pytest.mark.parametrize("offset", [64, 200, 700, -1])
def test_a_flipped_bit_in_a_segment_is_found(filled: Path, offset: int) -> None:
    path = segment_of(filled)
    flip_bit(path, offset if offset >= 0 else path.stat().st_size - 1)
    assert f"the segment {path} is damaged: its bytes do not match the digest" in problems(filled)


def test_a_missing_and_a_truncated_segment_are_found_without_a_word_for_every_chunk(filled: Path) -> None:
    path = segment_of(filled)
    path.write_bytes(path.read_bytes()[:-4])
    assert len(verify_store(filled).problems) == 1
    assert "is damaged: it has" in problems(filled)
    path.unlink()
    assert len(verify_store(filled).problems) == 1
    assert "is missing, and the catalog needs it" in problems(filled)


def test_numbers_that_do_not_rise_are_found(filled: Path) -> None:
    path = segment_of(filled)
    numbers = Segment(path).numbers.copy()
    numbers[[4, 5]] = numbers[[5, 4]]
    _, digest = write_segment(path, numbers, [vectors(30)], 8)
    with catalog_of(filled) as db:
        db.execute("UPDATE segments SET digest = ?", (digest,))
    assert f"the chunk numbers in the segment {path} do not rise" in problems(filled)


def test_a_damaged_database_is_reported_not_raised(filled: Path) -> None:
    path = filled / "catalog.sqlite3"
    content = bytearray(path.read_bytes())
    for page in range(3, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    assert "catalog.sqlite3" in problems(filled)
    path.write_bytes(b"no database" * 1000)
    assert "file is not a database" in problems(filled)
    path.unlink()
    assert "is missing or empty, but 3 commits were made" in problems(filled)


def test_a_folder_without_a_store_is_reported(tmp_path: Path) -> None:
    report = verify_store(tmp_path / "nothing")
    assert not report.ok
    assert "cannot be opened" in report.problems[0]


def test_damage_met_while_the_store_is_open_is_reported(store: FaissVetorStorage, folder: Path) -> None:
    store.write(documents("a", 3), vectors(3))
    with catalog_of(folder) as db:
        db.execute("UPDATE pending SET checksum = 0 WHERE number = 2")
    report = store.verify()
    assert report.problems == (
        "the vector of chunk number 2 is damaged: it does not match its checksum, or has not the store's dimension; "
        "ingesting its source again mends it",
    )
    assert repr(report).splitlines()[1].startswith("- the vector of chunk number 2 is damaged")


def test_of_many_problems_some_are_listed_and_the_rest_counted(
    store: FaissVetorStorage, folder: Path
) -> None:
    store.write(documents("a", 300), vectors(300))
    with catalog_of(folder) as db:
        db.execute("UPDATE pending SET checksum = 0")
    found = store.verify().problems
    assert len(found) == 101
    assert found[-1] == "and 200 more"


def test_a_torn_lock_file_is_no_problem(filled: Path) -> None:
    (filled / "writer.lock").write_bytes(b"9")
    assert verify_store(filled).ok
    assert WriterLock(filled, 1).commit_number() == 0


def test_memory_is_bounded_by_a_page(store: FaissVetorStorage) -> None:
    for first in range(0, 900, 300):
        made = documents("a", 300, first)
        for document in made:
            document.page_content = f"{document.metadata['place']} {'x' * 20_000}"
        store.write(made, vectors(300, first))
    tracemalloc.start()
    report = store.verify()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.ok
    assert report.chunks == 900
    assert peak < 3_000_000  # the texts are 18 MB


def test_a_sparse_store_is_checked_without_walking_the_gaps(store: FaissVetorStorage, folder: Path) -> None:
    store.write(documents("a", 2), vectors(2))
    with catalog_of(folder) as db:
        db.execute("UPDATE sqlite_sequence SET seq = 10000000000 WHERE name = 'chunks'")
    store.write(documents("b", 2), vectors(2))
    report = store.verify()
    assert report.ok, report
    assert report.chunks == 4


def test_a_report_is_plain_data() -> None:
    report = VerifyReport("s", ("one", "two"), chunks=3)
    assert not report.ok
    assert repr(report).splitlines()[1:] == ["- one", "- two"]
