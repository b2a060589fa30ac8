"""Measure what ingestion over Dask costs against loky: the same files, the same number of workers, by turns.

    python tests/benchmarks/cluster.py
    python tests/benchmarks/cluster.py --files 20000 --rounds 5

Each round ingests the files into new stores: with loky and with Dask, one worker each, then two each. (One job is done
by the calling process itself, without loky.) Workers are started and warmed up before the clock runs, on both sides,
because a cluster stands for hours. The table shows medians
and the median of the paired differences; the target is at most 25 % at 20,000 files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TARGET = 25.0
_SENTENCES = (
    "A nota fiscal é emitida pelo sistema da prefeitura, depois do aceite do serviço.",
    "O pedido de férias vai ao gestor, com trinta dias de antecedência.",
    "Travel expenses are refunded within ten days once the receipts are complete.",
    "O reembolso de viagem exige comprovantes, e o valor sai na folha do mês seguinte.",
)


def make_files(folder: Path, count: int) -> None:
    """Write texts of some 4,000 characters, all different."""
    for number in range(count):
        path = folder / f"{number // 1000:03}" / f"{number:06}.txt"
        path.parent.mkdir(exist_ok=True, parents=True)
        lines = (
            f"{number}.{line} {_SENTENCES[(number + line) % len(_SENTENCES)]} Processo {number * 37 + line}."
            for line in range(40)
        )
        path.write_text("\n\n".join(lines), encoding="utf-8")


def ingest(folder: Path, store: Path, backend: str, workers: int) -> float:
    """Return the seconds of one run into a new store."""
    import oraculo_kit as oraculo

    oraculo.use(store)
    jobs = None if backend == "dask" else workers
    oraculo.ingest(folder.parent / "warm", n_jobs=jobs, backend=backend, progress=False)
    started = time.perf_counter()
    report = oraculo.ingest(folder, n_jobs=jobs, backend=backend, progress=False)
    seconds = time.perf_counter() - started
    if report.failed:
        raise RuntimeError(f"{len(report.failed)} files failed, the first: {report.failed[0].message}")
    shutil.rmtree(store)
    return seconds


@contextmanager
def dask_workers(count: int) -> Iterator[None]:
    """Run a cluster on this machine, one thread per worker as with loky."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        yield


def measure(folder: Path, workers: int, rounds: int) -> list[tuple[float, float]]:
    """Return pairs of seconds: loky, Dask."""
    pairs = []
    for number in range(rounds):
        seconds = {}
        # The order changes with each round: what runs second may find files and caches warmer.
        for backend in ("loky", "dask") if number % 2 else ("dask", "loky"):
            store = folder.parent / f"base-{backend}-{workers}-{number}"
            if backend == "dask":
                with dask_workers(workers):
                    seconds[backend] = ingest(folder, store, backend, workers)
            else:
                seconds[backend] = ingest(folder, store, backend, workers)
        pairs.append((seconds["loky"], seconds["dask"]))
        print(f"  {workers} workers: loky {pairs[-1][0]:.2f} s, dask {pairs[-1][1]:.2f} s", file=sys.stderr)
    return pairs


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary)
        (project / ".env").touch()
        os.chdir(project)
        make_files(project / "docs", options.files)
        make_files(project / "warm", 64)
        print(f"{options.files} files; seconds, medians of {options.rounds} paired runs\n")
        print(f"{'workers':>7} {'loky':>8} {'dask':>8} {'overhead':>9}   target")
        for workers in options.workers:
            pairs = measure(project / "docs", workers, options.rounds)
            loky, dask = (statistics.median(column) for column in zip(*pairs, strict=True))
            overhead = statistics.median(100 * (dask / loky - 1) for loky, dask in pairs)
            print(f"{workers:>7} {loky:>8.2f} {dask:>8.2f} {overhead:>8.1f}%   <= {TARGET:.0f} %")
        os.chdir("/")


if __name__ == "__main__":
    main()
