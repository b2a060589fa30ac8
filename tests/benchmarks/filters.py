"""Measure filtered search: how long it takes by kind of filter, with and without `create_filter_index`.

    python tests/benchmarks/filters.py                    # 1,000,000 rows of 384 dimensions
    python tests/benchmarks/filters.py --rows 100000

It goes through the public interface only: sources of 10,000 chunks are written into a new store in a temporary folder,
with metadata of their own (``group``: 100 values, each 1 % of the rows and spread over all of them; ``n``: a different
number each) and metadata that a source shares with its chunks (``team``: each source has its own). Each search asks
for another value and another vector. The time is that of the whole call, hits with texts and metadata included.

The baseline is what nobody can go below in numpy: copy the rows that pass out of one matrix in memory, multiply them
with the query, take the ten best. ``ratio`` is the p50 against it. Recall compares with an exact search in numpy.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document
from numpy.typing import NDArray

from oraculo_kit.storage import VetorStorage, open_storage

_K = 10
_GROUPS = 100
_PER_SOURCE = 10_000
_BATCH = 200

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass
class Base:
    """The rows of a store, in memory: row i is in source ``i // 10,000``."""

    vectors: Vectors
    groups: NDArray[np.int64]

    @classmethod
    def made(cls, rows: int, dimension: int) -> Base:
        """Make random rows of length one."""
        chance = np.random.default_rng(0)
        vectors = chance.standard_normal((rows, dimension), dtype=np.float32)
        for start in range(0, rows, _PER_SOURCE):
            part = vectors[start : start + _PER_SOURCE]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        return cls(vectors, chance.permutation(rows) % _GROUPS)

    def write(self, store: VetorStorage, text: str) -> None:
        """Write all rows, source by source."""
        for place, start in enumerate(range(0, len(self.vectors), _PER_SOURCE)):
            numbers = range(start, min(start + _PER_SOURCE, len(self.vectors)))
            store.replace(
                f"source-{place}",
                [
                    Document(
                        page_content=f"{number} {text}",
                        id=str(number),
                        metadata={"group": f"g{self.groups[number]}", "n": number, "team": f"t{place}"},
                    )
                    for number in numbers
                ],
                self.vectors[numbers.start : numbers.stop],
            )

    def queries(self, count: int, seed: int) -> Vectors:
        """Return vectors near to stored ones, as queries are."""
        chance = np.random.default_rng(seed)
        near = self.vectors[chance.integers(len(self.vectors), size=count)]
        found = near + 0.05 * chance.standard_normal(near.shape, dtype=np.float32)
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def nearest(self, query: Vectors, rows: Rows) -> set[str]:
        """Return the ids of the k nearest among `rows`: the baseline, and the truth."""
        scores = self.vectors[rows] @ query
        best = np.argpartition(-scores, min(_K, len(rows)) - 1)[:_K]
        return {str(rows[place]) for place in best}


@dataclass
class Case:
    """A kind of filter: how it is asked for, and which rows pass it."""

    name: str
    filter: Callable[[int], dict[str, Any]]
    rows: Callable[[int], Rows]


def cases(base: Base) -> list[Case]:
    """Return the kinds of filters; the number says which value is asked for."""
    count, sources = len(base.vectors), -(-len(base.vectors) // _PER_SOURCE)
    places = np.arange(count)

    def of_groups(many: int) -> Callable[[int], Rows]:
        return lambda turn: np.flatnonzero((base.groups - turn) % _GROUPS < many)

    def in_groups(many: int) -> Callable[[int], dict[str, Any]]:
        return lambda turn: {"group": {"$in": [f"g{(turn + each) % _GROUPS}" for each in range(many)]}}

    def of_source(turn: int) -> Rows:
        return places[places // _PER_SOURCE == turn % sources]

    def range_of(turn: int) -> tuple[int, int]:
        width = count // 100
        return (turn * width) % count, (turn * width) % count + width

    return [
        Case("own key, equal: 1 %", lambda turn: {"group": f"g{turn % _GROUPS}"}, of_groups(1)),
        Case(
            "own key, range: 1 %",
            lambda turn: {"n": {"$gte": range_of(turn)[0], "$lt": range_of(turn)[1]}},
            lambda turn: places[slice(*range_of(turn))],
        ),
        Case("shared key, equal: one source", lambda turn: {"team": f"t{turn % sources}"}, of_source),
        Case("source itself", lambda turn: {"source": f"source-{turn % sources}"}, of_source),
        Case(
            "own key and source",
            lambda turn: {"group": f"g{turn % _GROUPS}", "source": f"source-{turn % sources}"},
            lambda turn: np.intersect1d(of_groups(1)(turn), of_source(turn)),
        ),
        Case("own key, $in: 10 %", in_groups(10), of_groups(10)),
        Case("own key, $in: 50 %", in_groups(50), of_groups(50)),
    ]


def timed(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Return the milliseconds that a call took, and what it returned."""
    started = time.perf_counter()
    found = call(*arguments, **options)
    return (time.perf_counter() - started) * 1000, found


def measure(store: VetorStorage, base: Base, case: Case, turns: int) -> None:
    """Print the row of one case."""
    ours, baseline, right = [], [], 0
    for turn, query in enumerate(base.queries(turns, 1)):
        rows = case.rows(turn)
        milliseconds, hits = timed(store.search, query, k=_K, filter=case.filter(turn))
        ours.append(milliseconds)
        milliseconds, truth = timed(base.nearest, query, rows)
        baseline.append(milliseconds)
        if len(hits) != min(_K, len(rows)):
            raise SystemExit(f"{case.name}: {len(hits)} hits for {case.filter(turn)}, expected {_K}")
        right += len(truth & {hit.id for hit in hits})
    middle, best = statistics.median(ours), statistics.median(baseline)
    print(
        f"  {case.name:<34} {middle:8.1f} {max(ours):8.1f} {best:9.1f} {middle / best:7.1f} "
        f"{right / (turns * _K):7.3f}",
        flush=True,
    )


def measure_batch(store: VetorStorage, base: Base, case: Case) -> None:
    """Print the row of one batch of queries with one filter."""
    queries = base.queries(_BATCH, 2)
    rows = case.rows(1)
    ours, found = timed(store.search, queries, k=_K, filter=case.filter(1))
    baseline, scores = timed(lambda: queries @ base.vectors[rows].T)
    right = 0
    for query_scores, hits in zip(scores, found, strict=True):
        best = np.argpartition(-query_scores, _K - 1)[:_K]
        right += len({str(rows[place]) for place in best} & {hit.id for hit in hits})
    name = f"{_BATCH} queries at once, {case.name}"
    print(
        f"  {name:<50} {ours:8.0f} {baseline:9.0f} {ours / baseline:7.1f} {right / (_BATCH * _K):7.3f}",
        flush=True,
    )


def measure_writes(folder: Path, dimension: int) -> Iterator[str]:
    """Measure 100 commits of 100 chunks with 0, 1 and 3 filter indexes; yield a line for each."""
    base = Base.made(100 * 100, dimension)
    keys = ["group", "n", "team"]
    for count in (0, 1, 3):
        with open_storage(folder / f"writes-{count}") as store:
            for key in keys[:count]:
                store.create_filter_index(key)
            spent = []
            for commit in range(100):
                numbers = range(commit * 100, commit * 100 + 100)
                documents = [
                    Document(
                        page_content=f"texto da parte {number} do documento {commit}",
                        metadata={"group": f"g{number % 7}", "n": number, "team": commit, "place": number},
                    )
                    for number in numbers
                ]
                vectors = base.vectors[numbers.start : numbers.stop]
                spent.append(timed(store.replace, f"s{commit}", documents, vectors)[0])
            yield f"  {count} indexes: {statistics.median(spent):6.1f} ms per commit (p50), {sum(spent):7.0f} ms in all"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many chunks")
    parser.add_argument("--dimension", type=int, default=384, help="length of a vector")
    parser.add_argument("--turns", type=int, default=20, help="searches per kind of filter")
    parser.add_argument("--text", type=int, default=200, help="characters of a chunk's text")
    parser.add_argument("--folder", type=Path, help="where the store is made, and kept; default: temporary")
    options = parser.parse_args()
    base = Base.made(options.rows, options.dimension)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        print("\n100 commits of 100 chunks")
        for line in measure_writes(folder, options.dimension):
            print(line, flush=True)
        with open_storage(folder / "store") as store:
            text = ("lorem ipsum dolor sit amet " * (1 + options.text // 27))[: options.text]
            spent, _ = timed(base.write, store, text)
            print(f"\n{options.rows} rows of {options.dimension} dimensions, written in {spent / 1000:.0f} s")
            print("  milliseconds per search                 p50      max  baseline   ratio  recall")
            known = cases(base)
            print("without an index")
            for case in known:
                measure(store, base, case, max(options.turns // 2, 3))
            for key in ("group", "n", "team"):
                spent, _ = timed(store.create_filter_index, key)
                print(f"create_filter_index({key!r}): {spent / 1000:.1f} s")
            print("with an index")
            for case in known:
                measure(store, base, case, options.turns)
            print("  milliseconds per batch                                 ours  baseline   ratio  recall")
            for case in (known[0], known[-2], known[-1]):
                measure_batch(store, base, case)


if __name__ == "__main__":
    main()
