"""Everything of a store into another one, whatever the engines."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from oraculo_kit.copying import copy_store
from oraculo_kit.errors import EmbedderMismatchError, StorageError, StoreReadOnlyError
from oraculo_kit.storage import VetorStorage, open_storage
from oraculo_kit.storage.feedback import Feedback
from oraculo_kit.storage.records import LedgerEntry
from oraculo_kit.storage.values import SourceDocuments
from tests.engines.engines import ENGINES, Engine
from tests.storage.kit import ROOT, TinyEmbeddings, documents, vectors


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[dict[str, Engine]]:
    """Return an empty engine of each kind."""
    with ExitStack() as stack:
        made = {}
        for name, new in ENGINES.items():
            (tmp_path / name).mkdir()
            made[name] = stack.enter_context(new(tmp_path / name))
        yield made
        for engine in made.values():
            engine.close()


def fill(store: VetorStorage, sources: int = 12) -> None:
    """Write what makes copying hard: ids of users, gaps, chunks of no source, empty sources, odd metadata."""
    store.replace_many(
        [
            SourceDocuments(
                f"docs/{n:02}.md",
                documents(f"docs/{n:02}.md", n % 5, lang="pt"),
                vectors(n % 5, n),
                LedgerEntry(f"h{n}", n, n, f"split|{store.embedder.name}", "r1"),
            )
            for n in range(sources)
        ]
    )
    store.write([Document(f"no source {n} \0", metadata={"x": [1, None, {"k": 2**70}]}) for n in range(3)])
    store.write([Document("mine", metadata={"source": "given"})], ids=["an id of a user"])
    (gone, *_) = [chunk.id for chunk in store.source_chunks("docs/04.md")]
    store.remove([gone])
    for n in range(3):
        store.add_feedback(Feedback(f"2026-01-0{n + 1}", "q", "a", "good", sources=(gone,)))


def everything(store: VetorStorage) -> Any:
    """Return all that a copy must keep, in an order of its own."""
    frame = store.to_pandas().sort_values("id")
    rows = [tuple(row) for row in frame.itertuples(index=False)]
    _, matrix = store.vectors([row[0] for row in rows])
    ledger = [(row.source, row.chunks, row.language, row.ledger) for row in store.sources()]
    return rows, matrix.tobytes(), ledger, store.feedback()


@pytest.mark.parametrize(
    "way", [("faiss", "postgres", "qdrant"), ("faiss", "qdrant", "postgres")], ids="-".join
)
def test_a_copy_through_every_engine_and_back_keeps_everything(
    engines: dict[str, Engine], tmp_path: Path, way: tuple[str, ...]
) -> None:
    stores = [engines[name].open(TinyEmbeddings()) for name in way]
    fill(stores[0])
    with open_storage(tmp_path / "back", TinyEmbeddings()) as back:
        for one, other in itertools.pairwise([*stores, back]):
            report = copy_store(one, other)
            assert report.ok, report
            assert (report.copied, report.compared) == (report.sources, report.chunks)
            assert report.searches > 0
            assert other.verify().ok, other.verify()
        assert everything(back) == everything(stores[0])
        again = copy_store(stores[0], back)
        assert (again.ok, again.copied, again.feedback) == (True, 0, 0)


def test_only_what_changed_is_copied_again(tmp_path: Path) -> None:
    with open_storage(tmp_path / "a", TinyEmbeddings()) as one, open_storage(tmp_path / "b") as other:
        fill(one)
        copy_store(one, other)
        one.replace("docs/03.md", documents("docs/03.md", 2, first=9))
        steps: list[tuple[int, int]] = []
        report = copy_store(one, other, progress=lambda done, total: steps.append((done, total)))
        assert (report.ok, report.copied) == (True, 1)
        assert steps[-1] == (len(one), len(one))
        assert everything(one) == everything(other)


def test_half_precision_comes_out_as_float32_and_goes_in_within_its_rounding(tmp_path: Path) -> None:
    half = open_storage(tmp_path / "half", TinyEmbeddings(), precision="float16")
    with (
        half,
        open_storage(tmp_path / "b") as whole,
        open_storage(tmp_path / "c", precision="float16") as again,
    ):
        half.write(documents("a", 3000), vectors(3000, 1))
        half.compact()
        assert copy_store(half, whole).ok
        assert whole.vectors(["x"])[1].dtype == np.float32
        assert whole.stats().precision == "float32"
        report = copy_store(whole, again)
        assert report.ok, report


def test_what_the_target_must_not_be(tmp_path: Path) -> None:
    with open_storage(tmp_path / "a", TinyEmbeddings()) as one:
        fill(one)
        with (
            open_storage(tmp_path / "a") as same,
            pytest.raises(StorageError, match="source and target are both"),
        ):
            copy_store(one, same)
        with open_storage(tmp_path / "b", TinyEmbeddings()) as other:
            other.replace("theirs", documents("theirs", 1))
            with pytest.raises(StorageError, match="holds 1 sources that .* does not have, such as 'theirs'"):
                copy_store(one, other)
            assert [row.source for row in other.sources()] == ["theirs"]
        with open_storage(tmp_path / "c", TinyEmbeddings(salt="other")) as other:
            other.replace("given", documents("given", 1))
            with pytest.raises(EmbedderMismatchError, match="the one of the source"):
                copy_store(one, other)
        with open_storage(tmp_path / "a", read_only=True) as closed, open_storage(tmp_path / "d") as new:
            assert copy_store(closed, new).ok
            with open_storage(tmp_path / "e"):
                pass
            with open_storage(tmp_path / "e", read_only=True) as shut, pytest.raises(StoreReadOnlyError):
                copy_store(new, shut)


def test_a_comparison_names_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_storage(tmp_path / "a", TinyEmbeddings()) as one, open_storage(tmp_path / "b") as other:
        fill(one)
        copy_store(one, other)
        (chunk, *_) = other.source_chunks("docs/03.md")
        document = Document("another text", metadata=chunk.metadata)
        monkeypatch.setattr("oraculo_kit.copying._missing", lambda *stores: [])
        other.write([document], vectors(1, 77), ids=[chunk.id])
        other.add_feedback(Feedback("2026-02-01", "q", "a", "bad"))
        report = copy_store(one, other)
        assert not report.ok
        assert any("'docs/03.md' has other chunks" in each for each in report.problems)
        assert any("other feedback" in each for each in report.problems)
        assert any("searches give other hits" in each for each in report.problems)


_COPIER = """
import sys
from oraculo_kit import copying
from oraculo_kit.storage import open_storage
from tests.storage.kit import TinyEmbeddings
copying._BATCH_SOURCES = 1
def tell(done, total):
    print(done, flush=True)
    if done > total // 2:
        sys.stdin.readline()
with open_storage(sys.argv[1]) as source, open_storage(sys.argv[2], TinyEmbeddings()) as target:
    copying.copy_store(source, target, progress=tell)
"""


@pytest.mark.parametrize("kind", sorted(ENGINES))
def test_a_killed_copy_goes_on_where_it_was(engines: dict[str, Engine], tmp_path: Path, kind: str) -> None:
    with open_storage(tmp_path / "source", TinyEmbeddings()) as source:
        fill(source)
        child = subprocess.Popen(
            [sys.executable, "-c", _COPIER, str(tmp_path / "source"), engines[kind].location],
            cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        while int(child.stdout.readline() or len(source)) <= len(source) // 2:
            pass
        child.kill()
        _, err = child.communicate()
        assert child.returncode != 0, err
        target = engines[kind].open(TinyEmbeddings())
        there = len(target.sources())
        assert 0 < there < len(source.sources()), err
        report = copy_store(source, target)
        assert report.ok, report
        assert report.present == there
        assert everything(target) == everything(source)
        assert target.verify().ok, target.verify()
