"""Measure the approximate index: time to build, recall, latency, filters, shared memory.

    python tests/benchmarks/approximate.py
    python tests/benchmarks/approximate.py --rows 100000 --half

The vectors are drawn by a fixed generator (`clustered`): 4,000 Gaussian clusters, of which the r-th largest has a
size in proportion to 1/r, on the unit sphere. A row is its cluster's centre plus noise of the same length, whose
spread falls along random axes as the axis number to the power of -1/2, scaled to length one. So a row's cosine with
its centre is about 0.7, and clusters overlap. The parameters were chosen to be as hard as real text, measured as
the local intrinsic dimension at 100 neighbours (Amsaleg et al., 2015), tenth, fiftieth and ninetieth percentile:
10, 28, 49 here (500,000 rows, 2,000 clusters); 19, 31, 48 for questions (FaQuAD) and 9, 18, 32 for passages among
44,278 passages.
Mean cosine of the 1st, 10th, 100th neighbour: 0.73, 0.68, 0.59 here; 0.69, 0.60, 0.53 for those questions.

Queries of the table are fresh draws from the generator: neither stored nor seen by the tuning.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oraculo_kit.storage.approximate import ApproximateIndex, build_index, open_index
from oraculo_kit.storage.tuning import exact_top, recall

Vectors = NDArray[np.float32]

QUERIES = 1000
_BLOCK = 65_536


def clustered(rows: int, dimension: int = 384, clusters: int = 4000, seed: int = 7) -> Vectors:
    """Return float32 vectors of length one, shape (rows, dimension); see the module's text."""
    rng = np.random.default_rng(seed)
    spread = (1.0 + np.arange(dimension)) ** -0.5
    spread = (spread / np.linalg.norm(spread)).astype(np.float32)
    axes = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
    centres = rng.standard_normal((clusters, dimension))
    centres = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
    sizes = 1.0 / (1 + np.arange(clusters))
    made = np.empty((rows, dimension), np.float32)
    for start in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - start)
        own = rng.choice(clusters, count, p=sizes / sizes.sum())
        block = centres[own] + (rng.standard_normal((count, dimension), np.float32) * spread) @ axes
        made[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="default 1,000,000")
    parser.add_argument("--dimension", type=int, default=384, metavar="D", help="default 384")
    parser.add_argument("--recall", type=float, default=0.95, metavar="R", help="target; default 0.95")
    parser.add_argument("--half", action="store_true", help="store the vectors as float16")
    options = parser.parse_args(arguments)
    if options.rows < 1000 or options.dimension < 8 or not 0 < options.recall < 1:
        parser.error("expected at least 1000 rows of 8 dimensions, and a recall between 0 and 1")
    with tempfile.TemporaryDirectory() as folder:
        vectors, queries = _stored(Path(folder), options.rows, options.dimension, options.half)
        print(f"{options.rows:,} rows of {options.dimension}, {vectors.dtype}, {os.cpu_count()} cores")
        before = _anonymous()
        path = Path(folder, "index.faiss")
        facts = build_index(path, vectors, recall=options.recall)
        print(
            f"built and tuned in {facts.build_seconds:.0f} s; {facts.lists} lists, re-ranking {facts.rerank} k"
        )
        print(f"file {facts.bytes / 2**20:.0f} MB, vectors {vectors.nbytes / 2**20:.0f} MB")
        print(f"most memory of its own while building: {_peak(before)}")
        for effort in facts.efforts:
            print(f"made queries: recall@{effort.k} {effort.recall:.3f}, {effort.probes} lists")
        index = open_index(path, facts, vectors)
        if index is None:
            raise RuntimeError("the index that was just built cannot be opened")
        measure(index, vectors, queries)
    return 0


def measure(index: ApproximateIndex, vectors: Vectors, queries: Vectors) -> None:
    """Print recall and time for several k, batches and filters."""
    print(f"{'':34} {'recall':>7} {'p50 ms':>8} {'p95 ms':>8} {'exact ms':>9}")
    ks = [k for k in (10, 50, 100, 1000) if 20 * k <= len(vectors)]
    truth = exact_top(queries, vectors, ks[-1])
    exact = _exact_time(queries, vectors)
    for k in ks:
        found, times = _one_by_one(index, queries, k, None)
        _show(f"k = {k}", recall(found, truth[: len(found), :k]).mean(), times, exact)
    index.search(queries[:200], 10)
    started = time.perf_counter()
    index.search(queries[:200], 10)
    print(
        f"{'k = 10, a batch of 200':34} {'':7} {1000 * (time.perf_counter() - started) / 200:8.2f} per query"
    )
    for name, allowed in _filters(vectors, queries):
        rows = np.flatnonzero(allowed)
        found, times = _one_by_one(index, queries[:200], 10, allowed)
        best = exact_top(queries[:200], np.ascontiguousarray(vectors[rows]), 10)
        _show(f"k = 10, {name}", recall(found, best).mean(), times, exact)
    print(f"mapped: {_mapped()}")


def _stored(folder: Path, rows: int, dimension: int, half: bool) -> tuple[Vectors, Vectors]:
    """Return mapped vectors, as in a segment, and queries."""
    made = clustered(rows + QUERIES, dimension)
    made[:rows].astype(np.float16 if half else np.float32).tofile(folder / "vectors")
    dtype = np.float16 if half else np.float32
    return np.memmap(folder / "vectors", dtype, "r", shape=(rows, dimension)), made[rows:].copy()


def _filters(vectors: Vectors, queries: Vectors) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return filters that have nothing to do with the query, and one whose rows all lie in one corner."""
    rng = np.random.default_rng(0)
    drawn = rng.random(len(vectors))
    corner = np.concatenate(
        [vectors[start : start + _BLOCK] @ queries[-1] for start in range(0, len(vectors), _BLOCK)]
    )
    near = corner >= np.partition(corner, -len(vectors) // 20)[-len(vectors) // 20]
    return [
        ("1 % deleted", drawn >= 0.01),
        ("a random half", drawn < 0.5),
        ("a random tenth", drawn < 0.1),
        ("5 % in one corner", near),
        ("all but that corner", ~near),
    ]


def _one_by_one(
    index: ApproximateIndex, queries: Vectors, k: int, allowed: NDArray[np.bool_] | None
) -> tuple[Vectors, list[float]]:
    found, times = [], []
    for row in range(min(len(queries), 500 if k <= 100 else 100)):
        started = time.perf_counter()
        found.append(index.search(queries[row : row + 1], k, allowed)[0])
        times.append(1000 * (time.perf_counter() - started))
    return np.concatenate(found), times


def _exact_time(queries: Vectors, vectors: Vectors) -> float:
    times = []
    for row in range(5):
        started = time.perf_counter()
        exact_top(queries[row : row + 1], vectors, 10)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times))


def _show(what: str, found: float, times: Sequence[float], exact: float) -> None:
    middle, most = np.percentile(times, [50, 95])
    print(f"{what:34} {found:7.3f} {middle:8.2f} {most:8.2f} {exact:9.1f}", flush=True)


def _anonymous() -> int:
    """Return this process's own memory in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("RssAnon"))
    except FileNotFoundError:
        return 0


def _peak(before: int) -> str:
    if sys.platform == "win32":
        return "unknown"
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"at most {peak / 2**20:.0f} MB with mapped pages, {before / 2**20:.0f} MB before"


def _mapped() -> str:
    """Return how the index file lies in memory; from /proc."""
    try:
        with open("/proc/self/smaps", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return "unknown on this system"
    at = next(number for number, line in enumerate(lines) if line.endswith("index.faiss"))
    facts = dict(line.split(":") for line in lines[at + 1 : at + 20] if ":" in line and "kB" in line)
    wanted = ("Rss", "Private_Dirty", "Anonymous")
    return ", ".join(f"{name} {int(facts[name].split()[0]) // 1024} MB" for name in wanted)


if __name__ == "__main__":
    raise SystemExit(main())
