"""The cache of vectors: found again, bounded, and never worth an error."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

import oraculo_kit as oraculo
from oraculo_kit import open_storage
from oraculo_kit.embed import Embedder, EmbedOptions, StaticEmbedder
from oraculo_kit.embedding import cache as cache_module
from oraculo_kit.embedding.cache import EmbeddingCache
from oraculo_kit.errors import EmbeddingError

PROBE = np.eye(1, 16, dtype=np.float32)[0]
MIB = 1024 * 1024


class Slow:
    """A local model that takes longer than the cache, and notes what it was asked."""

    def __init__(self, direction: int = 0, noise: float = 0.0) -> None:
        self.direction, self.noise = direction, noise
        self.asked: list[str] = []

    def embed_documents(self, texts: list[str]) -> Any:
        self.asked += texts
        time.sleep(0.002 * len(texts))
        return [self.vector(text) for text in texts]

    def vector(self, text: str) -> Any:
        vector = np.full(16, 0.1 + len(text) / 1000) + self.noise * np.arange(16)
        vector[self.direction] = 5
        return vector

    def embed_query(self, text: str) -> Any:
        return self.vector(text)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Return where the cache lies; nothing of it may be open in the end."""
    path = tmp_path / "p" / "cache" / "embeddings.sqlite3"
    yield path
    assert not any(apsw_connection.db_filename("main") == str(path) for apsw_connection in apsw.connections())


def embedder(path: Path, **slow: Any) -> tuple[Embedder, Slow]:
    """Return an embedder with a cache, and its model, of which nothing was asked yet."""
    made = Embedder(Slow(**slow), EmbedOptions(cache=str(path)))
    model = made._loaded()
    assert isinstance(model, Slow)
    return made, model


def asked(model: Slow) -> list[str]:
    return [text for text in model.asked if "identifica" not in text]


def filled(path: Path, count: int, limit: int = 512 * MIB, first: int = 0) -> EmbeddingCache:
    cache = EmbeddingCache(path, limit)
    model = cache.model("m", PROBE)
    assert model is not None
    texts = [f"text {number}" for number in range(first, first + count)]
    cache.put(model, texts, np.tile(PROBE, (count, 1)))
    return cache


def found(cache: EmbeddingCache, texts: list[str]) -> list[int]:
    model = cache.model("m", PROBE)
    assert model is not None
    return cache.get(model, texts, 16)[0]


def test_a_text_is_embedded_once_by_all_embedders_of_a_model(path: Path) -> None:
    one, model = embedder(path)
    first = one.embed(["a", "bb", "a"])
    assert asked(model) == ["a", "bb"]
    other, model = embedder(path)
    second = other.embed(["bb", "ccc", "a"])
    assert asked(model) == ["ccc"]
    assert np.array_equal(second[[2, 0]], first[[0, 1]])


def test_two_models_of_one_name_never_mix(path: Path) -> None:
    embedder(path)[0].embed(["a"])
    other, model = embedder(path, direction=3)
    vector = other.embed(["a"])[0]
    assert asked(model) == ["a"]
    assert int(vector.argmax()) == 3


def test_a_model_is_recognised_although_its_numbers_differ_a_little(path: Path) -> None:
    embedder(path)[0].embed(["a"])
    other, model = embedder(path, noise=1e-4)
    other.embed(["a"])
    assert asked(model) == []


def test_a_model_that_is_faster_than_the_cache_is_not_cached(path: Path) -> None:
    Embedder("wordllama", EmbedOptions(cache=str(path))).embed(["a", "b"])

    class Fast(Slow):
        def embed_documents(self, texts: list[str]) -> Any:
            return [self.vector(text) for text in texts]

    Embedder(Fast(), EmbedOptions(cache=str(path))).embed(["a"] * 10)
    assert not path.exists()
    assert StaticEmbedder.name == Embedder().name


def test_what_was_embedded_before_a_failure_is_kept(path: Path) -> None:
    class Failing(Slow):
        def embed_documents(self, texts: list[str]) -> Any:
            if "t20" in texts and not self.direction:
                raise RuntimeError("out of order")
            return super().embed_documents(texts)

    texts = [f"t{number}" for number in range(60)]
    failing = Embedder(Failing(), EmbedOptions(cache=str(path)))
    with pytest.raises(EmbeddingError, match="out of order") as caught:
        failing.embed(texts)
    assert 20 in caught.value.rows
    model = failing._loaded()
    assert isinstance(model, Failing)
    model.direction, model.asked = 1, []
    failing.embed(texts)
    assert [texts.index(text) for text in asked(model)] == list(caught.value.rows)


def test_it_stays_within_its_limit_and_forgets_what_was_used_least_recently(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_now", lambda: 1)
    cache = filled(path, 5000, MIB)
    monkeypatch.setattr(cache_module, "_now", lambda: 2)
    assert sorted(found(cache, ["text 7", "text 8"])) == [0, 1]
    for start in range(5000, 9000, 500):
        filled(path, 500, MIB, start)
        assert path.stat().st_size <= 1.05 * MIB
    kept = found(cache, [f"text {number}" for number in range(9000)])
    assert {7, 8} <= set(kept)
    assert not set(range(6)) & set(kept)
    assert 8999 in kept
    assert len(kept) > 5000


def test_a_lower_limit_makes_the_file_smaller(path: Path) -> None:
    filled(path, 20_000, 8 * MIB)
    assert path.stat().st_size > 2 * MIB
    filled(path, 10, MIB, 20_000)
    assert path.stat().st_size <= 1.05 * MIB


def test_more_than_fits_is_kept_as_far_as_there_is_room(path: Path) -> None:
    cache = filled(path, 20_000, MIB)
    assert path.stat().st_size <= 1.05 * MIB
    assert found(cache, ["text 0"]) == [0]


def test_a_damaged_row_counts_as_not_there(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, _ = embedder(path)
    vectors = one.embed(["a", "bb"])
    db = apsw.Connection(str(path))
    db.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE rowid = 1")
    db.close()
    other, model = embedder(path)
    assert np.array_equal(other.embed(["a", "bb"]), vectors)
    assert len(asked(model)) == 1
    assert "1 vectors" in caplog.text


@pytest.mark.parametrize(
    "damage", [b"", b"no database at all " * 500, None], ids=["empty", "garbage", "middle"]
)
def test_a_damaged_file_is_begun_anew_with_a_warning(
    path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    filled(path, 3000)
    content = bytearray(path.read_bytes())
    if damage is None:
        content[4096 : len(content) // 2] = b"\xa5" * (len(content) // 2 - 4096)
    path.write_bytes(content if damage is None else damage)
    for _ in range(2):
        made, model = embedder(path)
        assert made.embed(["a"]).shape == (1, 16)
    assert asked(model) == []
    assert ("damaged, and is begun anew" in caplog.text) == (damage != b"")


def test_another_program_s_database_is_left_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir(parents=True)
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE theirs(a); INSERT INTO theirs VALUES (1)")
    db.close()
    assert embedder(path)[0].embed(["a"]).shape == (1, 16)
    assert "not an embedding cache" in caplog.text
    db = apsw.Connection(str(path))
    assert db.execute("SELECT a FROM theirs").get == 1
    db.close()


def test_a_place_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    made, model = embedder(tmp_path / "file" / "cache.sqlite3")
    for _ in range(3):
        made.embed(["a"])
    assert asked(model) == ["a"] * 3
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 1


def test_a_lock_that_is_held_is_waited_for_a_second_at_most(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = embedder(path)
    made.embed(["a"])
    db = apsw.Connection(str(path))
    db.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    assert made.embed(["a", "bb"]).shape == (2, 16)
    assert time.monotonic() - started < 1.6
    db.close()
    assert "busy" in caplog.text
    other, model = embedder(path)
    other.embed(["a", "bb"])
    assert asked(model) == ["bb"]


_WRITER = """
import sys, numpy as np
from oraculo_kit.embedding.cache import EmbeddingCache
cache = EmbeddingCache(sys.argv[1], 2**29)
probe = np.eye(1, 16, dtype=np.float32)[0]
model = cache.model("m", probe)
print("ready", flush=True)
for start in range(0, 10**9, 64):
    cache.put(model, [f"text {n}" for n in range(start, start + 64)], np.tile(probe, (64, 1)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_leaves_it_usable(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for wait in (0.05, 0.11, 0.18):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_WRITER), str(path)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == b"ready"
            time.sleep(wait)
            child.send_signal(signal.SIGKILL)
    made, _ = embedder(path)
    made.embed(["a"])
    assert found(filled(path, 0), ["text 0"]) == [0]
    assert not caplog.records


def _work(path: str, start: int) -> list[str]:
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logging.getLogger("oraculo_kit").addHandler(Listener())
    for number in range(start, start + 2000, 50):
        filled(Path(path), 50, first=number)
    return messages


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_many_processes_make_and_fill_it_together(path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    with multiprocessing.get_context(method).Pool(4) as pool:
        messages = pool.starmap(_work, [(str(path), start) for start in range(0, 8000, 2000)])
    assert messages == [[]] * 4
    assert len(found(filled(path, 0), [f"text {number}" for number in range(8000)])) == 8000


def test_the_services_cache_in_their_project_and_a_store_opened_by_its_path_nowhere(project: Path) -> None:
    (project / ".oraculo").mkdir()
    with open_storage(project / "base", Slow()) as store:
        store.embedder.embed(["a"])
    assert not (project / ".oraculo" / "cache").exists()
    oraculo.use(embedder=Slow())
    oraculo.vetor_storage().embedder.embed(["a"])
    assert (project / ".oraculo" / "cache" / "embeddings.sqlite3").is_file()


def test_zero_megabytes_are_no_cache(project: Path) -> None:
    os.environ["ORACULO_EMBEDDING_CACHE_MB"] = "0"
    oraculo.use(embedder=Slow())
    oraculo.vetor_storage().embedder.embed(["a"])
    assert not (project / ".oraculo" / "cache").exists()
