"""How fast and how lean the embedded store is, against the raw operations that it is made of.

    python -m tests.benchmarks.store [SUITE ...] [--rows N] [--dimension D] [--folder F]

Suites (all by default):

``commit``   durable commits of 100 chunks onto a store of --commit-rows: median, p99, and at a tenth of the size. Raw:
             append of the same bytes to a file, with fsync. Peers, where they are installed: LangChain FAISS
             (langchain-community), Chroma, LanceDB, sqlite-vec.
``bulk``     writing --rows ready vectors with short texts and full text, 50,000 at a time; time and peak memory.
``open``     opening that store and the first exact answer, files in the page cache and not. Raw: a mapped matrix.
``memory``   four processes that have searched it: summed PSS.
``scan``     exact single queries and a batch of 200 with 1 % of the rows deleted. Raw: FAISS over the same rows.
``writers``  eight writing processes for ten seconds: fairness and the longest wait.

Vectors are standard normal, length one; texts are ten words drawn from 20,000 by Zipf's law. Every figure is taken in
this run, raw ones in turn with ours. Page cache is dropped with ``posix_fadvise`` (Linux only; no root needed).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document

from oraculo_kit.display import text_table
from oraculo_kit.storage.faiss import FaissVetorStorage

SUITES = ("commit", "bulk", "open", "memory", "scan", "writers")
BATCH = 50_000


def unit(count: int, dimension: int, seed: int) -> np.ndarray:
    """Return float32 rows of length one."""
    matrix = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def chunks(source: str, count: int, seed: int) -> list[Document]:
    """Return short chunks of one source."""
    chance = np.random.default_rng(seed)
    words = np.minimum(chance.zipf(1.3, (count, 10)), 20_000)
    years = chance.integers(1900, 2100, count)
    return [
        Document(" ".join(f"w{word}" for word in row), metadata={"source": source, "year": int(year)})
        for row, year in zip(words.tolist(), years.tolist(), strict=True)
    ]


def fill(folder: Path, rows: int, dimension: int) -> float:
    """Make a store and return the seconds spent writing."""
    seconds = 0.0
    with FaissVetorStorage(folder) as store:
        for start in range(0, rows, BATCH):
            count = min(BATCH, rows - start)
            made, vectors = chunks(f"s{start}", count, start), unit(count, dimension, start)
            started = time.perf_counter()
            store.write(made, vectors)
            seconds += time.perf_counter() - started
    return seconds


def milliseconds(times: list[float]) -> list[str]:
    ordered = sorted(1e3 * each for each in times)
    return [
        f"{statistics.median(ordered):.1f}",
        f"{ordered[int(0.99 * (len(ordered) - 1))]:.1f}",
        f"{ordered[-1]:.1f}",
    ]


# --- commit -------------------------------------------------------------------------------------------------


def commit(options: argparse.Namespace, folder: Path) -> Iterator[list[Any]]:
    batches = [(chunks(f"n{n}", 100, n), unit(100, options.dimension, n)) for n in range(100)]
    raw = raw_appends(folder / "raw.bin", batches)
    yield ["raw append", "", *milliseconds(raw), "1.0"]
    base = statistics.median(raw)
    for rows in (options.commit_rows // 10, options.commit_rows):
        where = folder / f"commit{rows}"
        fill(where, rows, options.dimension)
        with FaissVetorStorage(where) as store:
            times = timed(lambda batch, store=store: store.write(*batch), batches)
        yield ["oraculo_kit", rows, *milliseconds(times), f"{statistics.median(times) / base:.1f}"]
    for name, peer in PEERS.items():
        try:
            write = peer(folder / name.replace(" ", ""), options)
        except ImportError:
            continue
        times = timed(write, batches[:20])
        yield [name, options.commit_rows, *milliseconds(times), f"{statistics.median(times) / base:.1f}"]


def timed(write: Callable[[Any], Any], batches: list[Any]) -> list[float]:
    times = []
    for batch in batches:
        started = time.perf_counter()
        write(batch)
        times.append(time.perf_counter() - started)
    return times


def raw_appends(path: Path, batches: list[Any]) -> list[float]:
    with path.open("ab") as file:

        def append(batch: Any) -> None:
            documents, vectors = batch
            file.write("\n".join(document.page_content for document in documents).encode())
            file.write(vectors.tobytes())
            file.flush()
            os.fsync(file.fileno())

        return timed(append, batches)


def langchain_faiss(folder: Path, options: argparse.Namespace) -> Callable[[Any], Any]:
    import faiss
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS

    store = FAISS(None, faiss.IndexFlatIP(options.dimension), InMemoryDocstore({}), {})  # type: ignore[arg-type]

    def add(batch: Any) -> None:
        documents, vectors = batch
        store.add_embeddings(
            list(zip([d.page_content for d in documents], vectors, strict=True)),
            [d.metadata for d in documents],
        )

    for start in range(0, options.commit_rows, BATCH):
        add((chunks("s", BATCH, start), unit(BATCH, options.dimension, start)))
    return lambda batch: (add(batch), store.save_local(str(folder)))


def chroma(folder: Path, options: argparse.Namespace) -> Callable[[Any], Any]:
    import chromadb

    collection = chromadb.PersistentClient(str(folder)).create_collection("chunks")

    def add(batch: Any) -> None:
        documents, vectors = batch
        ids = [f"{time.perf_counter_ns()}-{n}" for n in range(len(documents))]
        collection.add(
            ids=ids,
            embeddings=vectors,
            documents=[d.page_content for d in documents],
            metadatas=[d.metadata for d in documents],
        )

    for start in range(0, options.commit_rows, 5000):
        add((chunks("s", 5000, start), unit(5000, options.dimension, start)))
    return add


def lancedb_store(folder: Path, options: argparse.Namespace) -> Callable[[Any], Any]:
    import lancedb

    def rows(batch: Any) -> list[dict[str, Any]]:
        return [{"text": d.page_content, "vector": v, **d.metadata} for d, v in zip(*batch, strict=True)]

    first = (chunks("s", 1000, 1), unit(1000, options.dimension, 1))
    table = lancedb.connect(str(folder)).create_table("t", rows(first))
    for start in range(1000, options.commit_rows, 10_000):
        table.add(rows((chunks("s", 10_000, start), unit(10_000, options.dimension, start))))
    return lambda batch: table.add(rows(batch))


def sqlite_vec_store(folder: Path, options: argparse.Namespace) -> Callable[[Any], Any]:
    import apsw
    import sqlite_vec

    folder.mkdir()
    db = apsw.Connection(str(folder / "v.db"))
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE c(text, metadata)").fetchall()
    db.execute(f"CREATE VIRTUAL TABLE v USING vec0(e float[{options.dimension}])")

    def add(batch: Any) -> None:
        documents, vectors = batch
        with db:
            db.executemany(
                "INSERT INTO c VALUES (?, ?)", [(d.page_content, json.dumps(d.metadata)) for d in documents]
            )
            db.executemany("INSERT INTO v(e) VALUES (?)", [(vector.tobytes(),) for vector in vectors])

    for start in range(0, options.commit_rows, 10_000):
        add((chunks("s", 10_000, start), unit(10_000, options.dimension, start)))
    return add


PEERS: dict[str, Callable[[Path, argparse.Namespace], Callable[[Any], Any]]] = {
    "LangChain FAISS": langchain_faiss,
    "Chroma": chroma,
    "LanceDB": lancedb_store,
    "sqlite-vec": sqlite_vec_store,
}

# --- the large store ----------------------------------------------------------------------------------------


def bulk(options: argparse.Namespace, folder: Path) -> Iterator[list[Any]]:
    found = run_child("fill", folder / "large", options)
    yield [
        f"{options.rows:,} vectors with texts",
        f"{found['seconds']:.1f} s",
        f"{found['peak'] / 1e6:.0f} MB",
    ]
    if options.compacted:
        with FaissVetorStorage(folder / "large") as store:
            yield ["compacted", f"{store.compact().seconds:.1f} s", ""]


def open_(options: argparse.Namespace, folder: Path) -> Iterator[list[Any]]:
    large, raw = large_store(options, folder), raw_matrix(options, folder)
    for state in ("not cached", "cached"):
        times: dict[str, list[float]] = {"raw mapped matrix": [], "oraculo_kit": []}
        for _ in range(3):
            for name, path in (("raw mapped matrix", raw), ("oraculo_kit", large)):
                if state == "not cached":
                    forget(path)
                times[name].append(run_child("answer", path, options)["seconds"])
        for name, taken in times.items():
            ratio = statistics.median(taken) / statistics.median(times["raw mapped matrix"])
            yield [name, state, f"{statistics.median(taken):.2f} s", f"{ratio:.1f}"]


def memory(options: argparse.Namespace, folder: Path) -> Iterator[list[Any]]:
    large = large_store(options, folder)
    children = [start_child("stay", large, options) for _ in range(4)]
    for each in children:
        assert each.stdout is not None
        each.stdout.readline()
    total = 0
    for each in children:
        lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    for each in children:
        each.kill()
        each.wait()
    yield ["four processes, summed PSS", f"{total / 1e6:.2f} GB"]


def scan(options: argparse.Namespace, folder: Path) -> Iterator[list[Any]]:
    import faiss

    large, raw = large_store(options, folder), raw_matrix(options, folder)
    matrix = np.load(raw, mmap_mode="r")
    queries = unit(200, options.dimension, 99)
    with FaissVetorStorage(large) as store:
        ours: list[float] = []
        theirs: list[float] = []
        for query in queries[:40]:
            started = time.perf_counter()
            store.search(query, 10, exact=True)
            ours.append(time.perf_counter() - started)
            faiss.omp_set_num_threads(1)
            started = time.perf_counter()
            faiss.knn(query[None, :], matrix, 10, faiss.METRIC_INNER_PRODUCT)
            theirs.append(time.perf_counter() - started)
            faiss.omp_set_num_threads(os.cpu_count() or 1)
        ratio = statistics.median(ours) / statistics.median(theirs)
        yield [
            f"single, {options.rows:,} rows",
            *milliseconds(ours)[:2],
            *milliseconds(theirs)[:1],
            f"{ratio:.2f}",
        ]
        ids = [
            str(d.id)
            for page, _ in zip(store.iter_documents(options.rows // 100), "x", strict=False)
            for d in page
        ]
        if not store.stats().dead:
            store.remove(ids)
        together: list[float] = []
        plain: list[float] = []
        for _ in range(3):
            started = time.perf_counter()
            store.search(queries, 10, exact=True)
            together.append(time.perf_counter() - started)
            threshold = faiss.cvar.distance_compute_blas_threshold
            faiss.cvar.distance_compute_blas_threshold = 1
            started = time.perf_counter()
            faiss.knn(queries, matrix, 10, faiss.METRIC_INNER_PRODUCT)
            plain.append(time.perf_counter() - started)
            faiss.cvar.distance_compute_blas_threshold = threshold
        ratio = statistics.median(together) / statistics.median(plain)
        yield [
            "batch of 200, 1 % deleted",
            *milliseconds(together)[:2],
            *milliseconds(plain)[:1],
            f"{ratio:.2f} (throughput {1 / ratio:.2f})",
        ]


def large_store(options: argparse.Namespace, folder: Path) -> Path:
    if not (folder / "large").exists():
        fill(folder / "large", options.rows, options.dimension)
    return folder / "large"


def raw_matrix(options: argparse.Namespace, folder: Path) -> Path:
    path = folder / "raw.npy"
    if not path.exists():
        whole = np.lib.format.open_memmap(path, "w+", np.float32, (options.rows, options.dimension))
        for start in range(0, options.rows, BATCH):
            count = min(BATCH, options.rows - start)
            whole[start : start + count] = unit(count, options.dimension, start)
        whole.flush()
    return path


def forget(path: Path) -> None:
    """Drop a file's, or a folder's files', pages from the page cache."""
    for each in path.rglob("*") if path.is_dir() else [path]:
        # Only SQLite may open the catalog while others use it; nobody does here.
        if each.is_file():
            descriptor = os.open(each, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


# --- writers ------------------------------------------------------------------------------------------------


def writers(options: argparse.Namespace, folder: Path) -> Iterator[list[Any]]:
    where = folder / "writers"
    FaissVetorStorage(where).close()
    children = [start_child("write", where, options) for _ in range(8)]
    for each in children:
        assert each.stdout is not None
        each.stdout.readline()
    for each in children:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    results = [json.loads(each.communicate()[0]) for each in children]
    counts = [len(each["times"]) for each in results]
    longest = max(max(each["times"]) for each in results)
    yield [
        "commits per writer, fewest and most",
        f"{min(counts)} / {max(counts)}",
        f"{min(counts) / max(counts):.2f}",
    ]
    yield ["longest wait", f"{longest:.2f} s", ""]


# --- children -----------------------------------------------------------------------------------------------


def start_child(what: str, path: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    arguments = ["--child", what, "--folder", str(path), "--rows", str(options.rows)]
    arguments += ["--dimension", str(options.dimension)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.store", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_child(what: str, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    out, _ = start_child(what, path, options).communicate()
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(options: argparse.Namespace) -> dict[str, Any]:
    import faiss  # its import is not what is measured

    folder = Path(options.folder)
    query = unit(1, options.dimension, 5)
    faiss.knn(query, query, 1, faiss.METRIC_INNER_PRODUCT)
    before = peak()
    if options.child == "fill":
        seconds = fill(folder, options.rows, options.dimension)
        return {"seconds": seconds, "peak": peak() - before}
    started = time.perf_counter()
    if options.child == "answer" and folder.suffix == ".npy":
        faiss.omp_set_num_threads(1)
        faiss.knn(query, np.load(folder, mmap_mode="r"), 10, faiss.METRIC_INNER_PRODUCT)
    elif options.child in ("answer", "stay"):
        store = FaissVetorStorage(folder, read_only=True)
        assert len(store.search(query[0], 10, exact=True)) == 10
    seconds = time.perf_counter() - started
    if options.child == "stay":
        print("ready", flush=True)
        time.sleep(600)
    if options.child == "write":
        batch = chunks(f"w{os.getpid()}", 10, os.getpid()), unit(10, options.dimension, os.getpid())
        with FaissVetorStorage(folder) as store:
            print("ready", flush=True)
            sys.stdin.readline()
            times: list[float] = []
            end = time.monotonic() + 10
            while time.monotonic() < end:
                times += timed(lambda each: store.replace(f"w{os.getpid()}", *each), [batch])
        return {"times": times}
    return {"seconds": seconds}


HEADERS = {
    "commit": ["100 chunks", "rows before", "median ms", "p99 ms", "max ms", "times raw"],
    "bulk": ["bulk write", "time", "peak above the interpreter"],
    "open": ["open and first exact answer", "files", "time", "times raw"],
    "memory": ["memory", ""],
    "scan": ["exact search, k = 10", "median ms", "p99 ms", "raw ms", "ratio"],
    "writers": ["eight writers, 10 s", "", "ratio"],
}
RUN = {"commit": commit, "bulk": bulk, "open": open_, "memory": memory, "scan": scan, "writers": writers}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large store (default 1,000,000)")
    parser.add_argument(
        "--commit-rows", type=int, default=100_000, help="before the commits (default 100,000)"
    )
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument(
        "--compacted", action="store_true", help="compact the large store before it is searched"
    )
    parser.add_argument("--folder", help="keep the stores here; a temporary folder by default")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options)))
        return
    wrong = set(options.suites) - set(SUITES)
    if wrong:
        parser.error(f"unknown suite {wrong.pop()!r}, expected some of {', '.join(SUITES)}")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="oraculo-benchmark-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for suite in options.suites or SUITES:
            print(
                text_table(HEADERS[suite], [list(map(str, row)) for row in RUN[suite](options, folder)]),
                "\n",
                flush=True,
            )
    finally:
        if not options.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
