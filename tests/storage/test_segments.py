"""Segment files: what is written is read back, and damage of header or size is seen on open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oraculo_kit.errors import StoreCorruptedError
from oraculo_kit.storage import segments
from oraculo_kit.storage.segments import Segment, file_digest, sorted_positions, write_segment
from tests.storage.kit import flip_bit, vectors


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """Return a segment of ten vectors."""
    path = tmp_path / "one.f32"
    write_segment(path, np.arange(5, 25, 2), [vectors(10)], 8)
    return path


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 1000])
@pytest.mark.parametrize("dimension", [1, 3, 256])
def test_a_segment_gives_back_what_was_written(tmp_path: Path, rows: int, dimension: int) -> None:
    path, matrix = tmp_path / "one.f32", vectors(rows, dimension=dimension)
    numbers = np.arange(rows, dtype=np.int64) * 3 + 2**40
    blocks = [block for block in np.array_split(matrix, 3) if len(block)]
    size, digest = write_segment(path, numbers, blocks, dimension)
    read = Segment(path)
    np.testing.assert_array_equal(read.numbers, numbers)
    np.testing.assert_array_equal(read.vectors, matrix)
    assert (path.stat().st_size, file_digest(path)) == (size, digest)
    assert read.vectors.ctypes.data % 64 == 0
    assert list(tmp_path.iterdir()) == [path]


def test_mapped_vectors_cannot_be_changed(segment: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Segment(segment).vectors[0, 0] = 1.0


@pytest.mark.parametrize("left", [0, 1, 63, 64, 143, -1])
def test_a_truncated_segment_is_refused(segment: Path, left: int) -> None:
    os.truncate(segment, left if left >= 0 else segment.stat().st_size + left)
    with pytest.raises(StoreCorruptedError, match=r"one\.f32 is damaged: it has \d+ bytes") as caught:
        Segment(segment)
    assert "oraculo repair" in str(caught.value)


def test_a_longer_segment_is_refused(segment: Path) -> None:
    with segment.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(StoreCorruptedError, match="it has 513 bytes, expected 512"):
        Segment(segment)


@pytest.mark.parametrize("offset", range(36))
def test_every_bit_of_the_header_is_guarded(segment: Path, offset: int) -> None:
    flip_bit(segment, offset)
    with pytest.raises(StoreCorruptedError, match="its header is not that of a segment"):
        Segment(segment)


@pytest.mark.parametrize("offset", [64, 100, 200, 511])
def test_a_flipped_bit_behind_the_header_changes_the_digest(segment: Path, offset: int) -> None:
    before = file_digest(segment)
    flip_bit(segment, offset)
    assert file_digest(segment) != before


def test_the_file_is_durable_before_it_has_its_name_and_the_name_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "one.f32", []
    sync_file, sync_folder, replace = segments.sync_file, segments.sync_folder, os.replace

    def seen_sync(descriptor: int) -> None:
        steps.append(("sync", os.fstat(descriptor).st_size, path.exists()))
        sync_file(descriptor)

    monkeypatch.setattr(segments, "sync_file", seen_sync)
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("rename"), replace(*names))[1])
    monkeypatch.setattr(
        segments, "sync_folder", lambda at: (steps.append(("folder", at)), sync_folder(at))[1]
    )
    size, _ = write_segment(path, np.arange(4), [vectors(4)], 8)
    assert steps == [("sync", size, False), "rename", ("folder", tmp_path)]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(segments, "sync_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_segment(tmp_path / "one.f32", np.arange(4), [vectors(4)], 8)
    assert list(tmp_path.iterdir()) == []


def test_vectors_and_numbers_that_do_not_match_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bytes of vectors for 4 numbers of dimension 8"):
        write_segment(tmp_path / "one.f32", np.arange(4), [vectors(3)], 8)
    assert list(tmp_path.iterdir()) == []


@given(st.sets(st.integers(-50, 50)), st.lists(st.integers(-60, 60)))
def test_positions_are_found_as_a_list_would_find_them(haystack: set[int], needles: list[int]) -> None:
    rising = sorted(haystack)
    positions, found = sorted_positions(np.array(rising, np.int64), np.array(needles, np.int64))
    assert found.tolist() == [needle in haystack for needle in needles]
    assert all(rising[at] == needle for at, needle, ok in zip(positions, needles, found, strict=True) if ok)
