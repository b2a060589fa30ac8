"""The approximate index: exact scores, no hit lost to a filter, and a file that is checked before it is used."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from oraculo_kit.storage import approximate
from oraculo_kit.storage.approximate import ApproximateIndex, build_index, index_damage, open_index
from oraculo_kit.storage.half import scan_half
from oraculo_kit.storage.index_facts import Effort, IndexFacts
from tests.storage.kit import flip_bit, vectors

ROWS, DIMENSION = 4000, 32


def clustered(rows: int, seed: int = 0) -> NDArray[np.float32]:
    """Return vectors of length one around sixty centres."""
    rng = np.random.default_rng(seed)
    made = vectors(60, seed=99, dimension=DIMENSION)[rng.integers(60, size=rows)]
    made = made + vectors(rows, seed=seed + 1, dimension=DIMENSION)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


STORED, ASKED = clustered(ROWS), clustered(40, seed=7)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IndexFacts]:
    """Return an index file and its facts; no test changes them."""
    path = tmp_path_factory.mktemp("indexes") / "one.faiss"
    return path, build_index(path, STORED, recall=0.95)


@pytest.fixture
def index(built: tuple[Path, IndexFacts]) -> ApproximateIndex:
    """Return the index, open."""
    opened = open_index(*built, STORED)
    assert opened is not None
    return opened


@pytest.fixture
def copied(built: tuple[Path, IndexFacts], tmp_path: Path) -> tuple[Path, IndexFacts]:
    """Return a copy of the file that a test may damage."""
    path = tmp_path / "one.faiss"
    path.write_bytes(built[0].read_bytes())
    return path, built[1]


def best(queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    scores = queries @ STORED.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def share(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]))


def test_facts_survive_json(built: tuple[Path, IndexFacts]) -> None:
    facts = built[1]
    assert IndexFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


def test_facts_say_what_was_measured(built: tuple[Path, IndexFacts]) -> None:
    path, facts = built
    assert (facts.rows, facts.dimension, facts.target) == (ROWS, DIMENSION, 0.95)
    assert facts.recall == facts.efforts[0].recall >= 0.93
    assert [effort.k for effort in facts.efforts] == [10, 50, 100]
    assert 0 < facts.seconds_per_query < 1 > facts.exact_seconds_per_query > 0 < facts.build_seconds
    assert path.stat().st_size == facts.bytes
    assert index_damage(path, facts) is None
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("k", [1, 10, 50, 100])
@pytest.mark.parametrize("count", [1, 9, 40])
def test_it_finds_what_an_exact_search_finds(index: ApproximateIndex, k: int, count: int) -> None:
    scores, positions = index.search(ASKED[:count], k)
    assert scores.shape == positions.shape == (count, k)
    assert (scores.dtype, positions.dtype) == (np.float32, np.int64)
    if count == 40:
        assert share(positions, best(ASKED, k)) >= 0.9


def test_scores_are_exact_and_fall(index: ApproximateIndex) -> None:
    scores, positions = index.search(ASKED, 20)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", ASKED, STORED[positions]), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.02])
def test_a_filter_costs_no_recall(index: ApproximateIndex, kept: float) -> None:
    allowed = np.random.default_rng(1).random(ROWS) < kept
    positions = index.search(ASKED, 10, allowed)[1]
    assert allowed[positions].all()
    assert share(positions, best(ASKED, 10, allowed)) >= 0.93


def test_rows_far_from_the_query_are_found_when_a_filter_leaves_only_them(index: ApproximateIndex) -> None:
    far = STORED @ ASKED[0] < np.quantile(STORED @ ASKED[0], 0.05)
    positions = index.search(ASKED[:1], 10, far)[1]
    assert far[positions].all()
    assert share(positions, best(ASKED[:1], 10, far)) >= 0.9


@pytest.mark.parametrize("available", [0, 1, 9, 10, 11])
def test_as_many_as_exist_are_found(index: ApproximateIndex, available: int) -> None:
    allowed = np.zeros(ROWS, np.bool_)
    allowed[:: ROWS // 11][:available] = True
    allowed[np.flatnonzero(allowed)[available:]] = False
    scores, positions = index.search(ASKED, 10, allowed)
    there = min(available, 10)
    assert (positions[:, there:] == -1).all()
    assert np.isneginf(scores[:, there:]).all()
    np.testing.assert_array_equal(positions[:, :there], best(ASKED, there, allowed))


def test_too_few_lists_are_followed_by_more_until_k_are_found(built: tuple[Path, IndexFacts]) -> None:
    path, facts = built
    index = open_index(path, replace(facts, efforts=(Effort(10, 1, 1, 0.0),)), STORED)
    assert index is not None
    allowed = np.ones(ROWS, np.bool_)
    allowed[best(ASKED[:1], ROWS // 11)[0]] = False
    positions = index.search(ASKED[:1], 1000, allowed)[1]
    assert (positions >= 0).all()
    assert allowed[positions].all()


def test_more_than_all_rows_are_all_rows(index: ApproximateIndex) -> None:
    scores, positions = index.search(ASKED[:2], ROWS + 5)
    assert (np.sort(positions[:, :ROWS], axis=1) == np.arange(ROWS)).all()
    assert (positions[:, ROWS:] == -1).all()
    assert np.isneginf(scores[:, ROWS:]).all()


def test_of_equal_rows_the_smaller_position_comes_first(tmp_path: Path) -> None:
    twins = np.repeat(clustered(300), 2, axis=0)
    path = tmp_path / "one.faiss"
    index = open_index(path, build_index(path, twins, recall=0.9), twins)
    assert index is not None
    positions = index.search(twins[100:101], 2)[1]
    assert positions.tolist() == [[100, 101]]


def test_halves_are_indexed_and_scored_too(tmp_path: Path) -> None:
    halves, path = STORED.astype(np.float16), tmp_path / "half.faiss"
    index = open_index(path, build_index(path, halves, recall=0.9), halves)
    assert index is not None
    scores, positions = index.search(ASKED, 10)
    wide = halves.astype(np.float32)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", ASKED, wide[positions]), atol=1e-6)
    assert share(positions, scan_half(ASKED, halves, 10)[1]) >= 0.85


@pytest.mark.parametrize("rows", [1, 9, 39, 200])
def test_few_rows_can_be_indexed(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "few.faiss"
    index = open_index(path, build_index(path, STORED[:rows], recall=0.95), STORED[:rows])
    assert index is not None
    assert (index.search(STORED[:rows], 1)[1][:, 0] == np.arange(rows)).mean() >= 0.95


def test_the_index_pays_for_few_hits_and_not_for_very_many(built: tuple[Path, IndexFacts]) -> None:
    facts = replace(
        built[1],
        rows=1_000_000,
        lists=2048,
        efforts=(Effort(10, 64, 30_000, 1.0), Effort(100, 128, 60_000, 1.0)),
    )
    assert facts.pays(10)
    assert facts.pays(10, allowed=500_000)
    assert not facts.pays(100_000)
    assert not facts.pays(10, allowed=10)
    assert not facts.pays(10, allowed=0)


# --- the file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 4, 100, 5000, -1])
def test_a_flipped_bit_makes_the_file_unusable(
    copied: tuple[Path, IndexFacts], place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, facts = copied
    flip_bit(path, place % facts.bytes)
    monkeypatch.setattr(approximate, "_open", lambda *_: pytest.fail("FAISS read a damaged file"))
    assert open_index(path, facts, STORED) is None
    assert index_damage(path, facts) == "its digest is not the recorded one"


def test_a_missing_or_truncated_file_is_the_same_as_no_index(
    copied: tuple[Path, IndexFacts], caplog: pytest.LogCaptureFixture
) -> None:
    path, facts = copied
    caplog.set_level("INFO", "oraculo_kit.storage")
    os.truncate(path, facts.bytes - 1)
    assert open_index(path, facts, STORED) is None
    path.unlink()
    assert open_index(path, facts, STORED) is None
    assert f"it has {facts.bytes - 1} bytes, expected {facts.bytes}" in caplog.text
    assert "it is missing" in caplog.text


def test_an_index_of_other_rows_or_of_another_kind_is_not_used(built: tuple[Path, IndexFacts]) -> None:
    path, facts = built
    assert open_index(path, facts, STORED[:-1]) is None
    assert open_index(path, replace(facts, kind="hnsw"), STORED) is None


def test_the_file_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = tmp_path / "one.faiss", []
    move = os.replace

    def seen_replace(*names: Path) -> None:
        steps.append("rename")
        move(*names)

    monkeypatch.setattr(approximate, "sync_file", lambda at: steps.append(("sync", os.fstat(at).st_size)))
    monkeypatch.setattr(os, "replace", seen_replace)
    monkeypatch.setattr(approximate, "sync_folder", lambda at: steps.append(("folder", at)))
    facts = build_index(path, STORED[:500], recall=0.9)
    assert steps == [("sync", facts.bytes), "rename", ("folder", tmp_path)]


@pytest.mark.parametrize("step", ["sync_file", "sync_folder", "_open"])
def test_a_failed_build_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(approximate, step, full)
    with pytest.raises(OSError, match="No space left"):
        build_index(tmp_path / "one.faiss", STORED[:500], recall=0.9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recall", [0, 1, 95, -0.5])
def test_an_impossible_recall_is_refused(tmp_path: Path, recall: float) -> None:
    with pytest.raises(ValueError, match="expected a number between 0 and 1"):
        build_index(tmp_path / "one.faiss", STORED, recall=recall)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's view of memory")
def test_an_open_index_is_mapped_not_copied(built: tuple[Path, IndexFacts]) -> None:
    index = open_index(*built, STORED)
    assert index is not None
    index.search(ASKED, 1000)
    smaps = Path("/proc/self/smaps").read_text(encoding="utf-8").split(str(built[0]))
    assert len(smaps) >= 2, "the file is not mapped"
    kilobytes = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in smaps[1].splitlines()[1:20])
        if value.endswith("kB")
    }
    assert kilobytes["Anonymous"] == 0
    assert kilobytes["Rss"] * 1024 >= built[1].bytes // 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_after_a_batch_searches_and_builds(index: ApproximateIndex, tmp_path: Path) -> None:
    expected = index.search(ASKED, 10)[1]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            same = bool((index.search(ASKED, 10)[1] == expected).all())
            build_index(tmp_path / "one.faiss", STORED[:500], recall=0.9)
            code = 0 if same else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
