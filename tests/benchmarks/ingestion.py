"""How fast ingestion is: first, again, over workers, and how much memory it takes.

    python -m tests.benchmarks.ingestion [PART ...] [--files N] [--many N] [--rounds N] [--peers PYTHON]

Parts (all by default):

``text``     --files text files with an embedder that costs nothing, until they are durable and searchable, by stemmed
             full text too. Raw: read, split (with LangChain's splitter, and with ours), append texts and vectors to a
             file, fsync per 64 files. Peers, where they are installed: LangChain FAISS, LangChain's index(), LlamaIndex,
             Chroma, LanceDB, sqlite-vec, Qdrant local, Milvus Lite.
``again``    the same files once more, and after a change of every hundredth; --files and --many of them. Peers:
             LangChain's index(), LlamaIndex.
``workers``  --many files with the default embedder: by two workers, by one of them alone (with the one thread that it has
             beside the other), and by one process, whose tokenizer uses all cores. Raw: the embedder alone, given the
             same chunks, in two processes and in one.
``memory``   peak memory of a process over --files and over --many files, in this process and in two workers.

Every figure is of a whole process, from its start to its end, with its children's time of the processor. What is
compared runs in turn, --rounds times. The corpus is made anew each time, always the same: half Portuguese, half English,
of 40,000 words by Zipf's law, in paragraphs; 5.3 chunks a file of 1,000 characters with 200 of overlap.

No peer is a dependency; --peers names the interpreter of a virtual environment that has some of them.
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
from functools import partial
from itertools import accumulate, count, product
from pathlib import Path
from typing import Any, NamedTuple

PARTS = ("text", "again", "workers", "memory")
DIMENSION = 256
CHUNK = {"chunk_size": 1000, "chunk_overlap": 200}

# --- the corpus ---------------------------------------------------------------------------------------------

_LANGUAGES = {
    "pt": (
        "a o e de da do que em para com não uma um os as no na por mais se como dos das ao pelo pela são foi ser "
        "também até já está pode entre sobre sem seu sua quando muito nos nas você",
        "fisc emit nota receb prefeit contribu declar ajust calcul imped trabalh organiz",
        "ção ções ado ada ar ando amento mente dade dades al ais or ores ável",
    ),
    "en": (
        "the of and to in is that it for was on are as with his they be at one have this from or had by not but what "
        "all were when we there can an your which their said if do will each about",
        "form issu receiv record declar comput present connect report transfer invoic organ",
        "tion tions ed ing ment ments er ers ly able ness s ity ities al",
    ),
}
_SYLLABLES = [onset + vowel for onset in (*"bdfgjlmnprstvxz", "br", "cr") for vowel in "aeo"][:38]
_FUNCTION_SHARE = 0.45  # of running text
_MODIFIED = 1_700_000_000  # long ago: a file that changed just now is read again


def make_corpus(folder: Path, files: int) -> Path:
    """Write the corpus; the first files are the same whatever the number."""
    sentences = [_sentences(*parts) for parts in _LANGUAGES.values()]
    for number in range(files):
        target = folder / f"{number // 500:03}" / f"{number:06}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, _text(random.Random(number), sentences[number % 2]), _MODIFIED)
    return folder


def change_corpus(folder: Path, modified: int) -> int:
    """Add a sentence to every hundredth file."""
    files = sorted(folder.rglob("*.txt"))[::100]
    for file in files:
        write_text(file, f"Texto {modified} mudado. " + file.read_text("utf-8"), modified)
    return len(files)


def write_text(target: Path, text: str, modified: int) -> None:
    target.write_bytes(text.encode())
    os.utime(target, (modified, modified))


def _sentences(function_words: str, roots: str, endings: str) -> list[str]:
    chance = random.Random(1)
    starts = roots.split() + ["".join(pair) for pair in product(_SYLLABLES, repeat=2)]
    content = ["".join(pair) for pair in product(starts, endings.split())]
    chance.shuffle(content)
    weights = _zipf(function_words.split(), _FUNCTION_SHARE) | _zipf(content, 1 - _FUNCTION_SHARE)
    words, cumulated = list(weights), list(accumulate(weights.values()))
    return [
        " ".join(chance.choices(words, cum_weights=cumulated, k=chance.randint(7, 31))).capitalize() + "."
        for _ in range(10_000)
    ]


def _zipf(words: list[str], share: float) -> dict[str, float]:
    total = sum(1 / rank for rank in range(1, len(words) + 1))
    return {word: share / total / rank for rank, word in enumerate(words, 1)}


def _text(chance: random.Random, sentences: list[str]) -> str:
    paragraphs = [" ".join(chance.choices(sentences, k=chance.randint(2, 6))) for _ in range(8)]
    return "\n\n".join(paragraphs)


class NullEmbedder:
    """Unit vectors at no cost, for ours and for whoever takes LangChain's embedders."""

    def embed_documents(self, texts: list[str]) -> Any:
        import numpy as np

        vectors = np.full((len(texts), DIMENSION), 0.01, np.float32)
        vectors[np.arange(len(texts)), [len(text) % DIMENSION for text in texts]] = 1.0
        return vectors / np.linalg.norm(vectors[0])

    def embed_query(self, text: str) -> Any:
        return self.embed_documents([text])[0]


# --- systems: each in a process of its own ------------------------------------------------------------------


def ours(corpus: Path, target: Path, jobs: int | None = None, embedder: Any = None) -> None:
    """Ingest the corpus into a store at `target`, with our embedder by default."""
    os.chdir(corpus.parent)
    import oraculo_kit as oraculo

    oraculo.use(str(target), **({"embedder": embedder} if embedder else {}))
    report = oraculo.ingest(corpus, n_jobs=jobs, progress=False)
    assert not report.failed, report.failed[0]
    oraculo.stop_services()


def one_worker(corpus: Path, target: Path) -> None:
    """Ingest as one of two workers on two cores would, alone: with one thread."""
    from oraculo_kit.parallel import limit_threads

    limit_threads(1)
    ours(corpus, target, 1)


def texts_of(corpus: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(corpus.rglob("*.txt")):
        yield file, file.read_text("utf-8")


def langchain_splits(corpus: Path) -> Iterator[tuple[Path, list[str]]]:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(**CHUNK)
    for file, text in texts_of(corpus):
        yield file, splitter.split_text(text)


def our_splits(corpus: Path) -> Iterator[tuple[Path, list[str]]]:
    from oraculo_kit.cutting import cut_text

    for file, text in texts_of(corpus):
        spans = cut_text(text, 0, len(text), size=1000, overlap=200)
        yield file, [text[start:end].strip() for start, end in spans]


def raw(corpus: Path, target: Path, splits: Callable[[Path], Iterator[tuple[Path, list[str]]]]) -> None:
    embedder = NullEmbedder()
    with target.open("wb") as log:
        for place, (file, chunks) in enumerate(splits(corpus)):
            for text, vector in zip(chunks, embedder.embed_documents(chunks), strict=True):
                log.write(json.dumps({"source": str(file), "text": text}).encode() + b"\n" + vector.tobytes())
            if place % 64 == 63:
                log.flush()
                os.fsync(log.fileno())
        log.flush()
        os.fsync(log.fileno())


def chunk_batches(corpus: Path, size: int = 1000) -> Iterator[tuple[list[str], list[str], Any]]:
    """Give ids, texts and vectors of the corpus's chunks, so many at a time."""
    embedder = NullEmbedder()
    ids: list[str] = []
    texts: list[str] = []
    for file, chunks in langchain_splits(corpus):
        ids += [f"{file}:{place}" for place in range(len(chunks))]
        texts += chunks
        if len(texts) >= size:
            yield ids, texts, embedder.embed_documents(texts)
            ids, texts = [], []
    if texts:
        yield ids, texts, embedder.embed_documents(texts)


def _langchain_faiss(embedder: Any) -> Any:
    import faiss
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS

    return FAISS(embedder.embed_query, faiss.IndexFlatIP(DIMENSION), InMemoryDocstore({}), {})


def langchain_faiss(corpus: Path, target: Path) -> None:
    store = _langchain_faiss(NullEmbedder())
    for ids, texts, vectors in chunk_batches(corpus):
        store.add_embeddings(list(zip(texts, vectors, strict=True)), ids=ids)
    store.save_local(str(target))


def langchain_index(corpus: Path, target: Path) -> None:
    from langchain_classic.indexes import SQLRecordManager
    from langchain_community.vectorstores import FAISS
    from langchain_core.documents import Document
    from langchain_core.indexing import index

    store: Any
    embedder: Any = _LangChainEmbedder()
    if target.exists():
        store = FAISS.load_local(str(target), embedder, allow_dangerous_deserialization=True)
    else:
        store = _langchain_faiss(embedder)
    target.mkdir(exist_ok=True)
    records = SQLRecordManager("corpus", db_url=f"sqlite:///{target}/records.db")
    records.create_schema()
    documents = (
        Document(text, metadata={"source": str(file)})
        for file, chunks in langchain_splits(corpus)
        for text in chunks
    )
    index(documents, records, store, cleanup="incremental", source_id_key="source", key_encoder="sha256")
    store.save_local(str(target))


def _LangChainEmbedder() -> Any:
    from langchain_core.embeddings import Embeddings

    return type("Null", (NullEmbedder, Embeddings), {})()


def llamaindex(corpus: Path, target: Path) -> None:
    from langchain_text_splitters import RecursiveCharacterTextSplitter
    from llama_index.core import Document
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.node_parser import LangchainNodeParser
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.core.vector_stores import SimpleVectorStore

    class Null(BaseEmbedding):  # type: ignore[misc]
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            found: list[list[float]] = NullEmbedder().embed_documents(texts).tolist()
            return found

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        _get_query_embedding = _get_text_embedding

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    pipeline = IngestionPipeline(
        transformations=[LangchainNodeParser(RecursiveCharacterTextSplitter(**CHUNK)), Null()],
        docstore=SimpleDocumentStore(),
        vector_store=SimpleVectorStore(),
    )
    if target.exists():
        pipeline.load(str(target))
        pipeline.vector_store = SimpleVectorStore.from_persist_path(str(target / "vectors.json"))
    pipeline.run(documents=[Document(text=text, doc_id=str(file)) for file, text in texts_of(corpus)])
    pipeline.persist(str(target))
    pipeline.vector_store.persist(str(target / "vectors.json"))


def chroma(corpus: Path, target: Path) -> None:
    import chromadb

    collection = chromadb.PersistentClient(str(target)).create_collection("chunks")
    for ids, texts, vectors in chunk_batches(corpus):
        collection.add(ids=ids, documents=texts, embeddings=vectors)


def lancedb(corpus: Path, target: Path) -> None:
    import lancedb as library

    table = None
    for ids, texts, vectors in chunk_batches(corpus):
        rows = [
            {"id": name, "text": text, "vector": vector}
            for name, text, vector in zip(ids, texts, vectors, strict=True)
        ]
        if table is None:
            table = library.connect(str(target)).create_table("chunks", rows)
        else:
            table.add(rows)
    assert table is not None
    table.create_fts_index("text")


def sqlite_vec(corpus: Path, target: Path) -> None:
    import apsw
    import sqlite_vec as library

    db = apsw.Connection(str(target))
    db.enable_load_extension(True)
    db.load_extension(library.loadable_path())
    db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE c(id, text)").fetchall()
    db.execute(f"CREATE VIRTUAL TABLE v USING vec0(e float[{DIMENSION}])")
    for ids, texts, vectors in chunk_batches(corpus):
        with db:
            db.executemany("INSERT INTO c VALUES (?, ?)", zip(ids, texts, strict=True))
            db.executemany("INSERT INTO v(e) VALUES (?)", [(vector.tobytes(),) for vector in vectors])
    db.close()


def qdrant(corpus: Path, target: Path) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(target))
    size = models.VectorParams(size=DIMENSION, distance=models.Distance.DOT)
    client.create_collection("chunks", vectors_config=size)
    first = 0
    for _, texts, vectors in chunk_batches(corpus):
        points = [
            models.PointStruct(id=first + place, vector=vector.tolist(), payload={"text": text})
            for place, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        ]
        client.upsert("chunks", points)
        first += len(points)
    client.close()


def milvus(corpus: Path, target: Path) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(str(target.with_suffix(".db")))
    client.create_collection("chunks", dimension=DIMENSION)
    first = 0
    for _, texts, vectors in chunk_batches(corpus):
        rows = [
            {"id": first + place, "vector": vector, "text": text}
            for place, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        ]
        client.insert("chunks", rows)
        first += len(rows)
    client.close()


def embed_alone(corpus: Path, target: Path, processes: int) -> None:
    """Embed the chunks in `target` as the default embedder does, spread over processes; one part of them here."""
    from oraculo_kit.embed import Embedder
    from oraculo_kit.parallel import limit_threads

    if processes > 1:
        children = [
            _start(sys.executable, f"embed-part-{part}-{processes}", corpus, target)
            for part in range(processes)
        ]
        assert not any(each.wait() for each in children)
        return
    part, of = _PART
    if of > 1:
        limit_threads(1)
    texts = json.loads(target.read_text("utf-8"))[part::of]
    Embedder().embed(texts)


_PART = (0, 1)

PEERS: dict[str, Callable[[Path, Path], None]] = {
    "LangChain FAISS": langchain_faiss,
    "LangChain index()": langchain_index,
    "LlamaIndex": llamaindex,
    "Chroma": chroma,
    "LanceDB": lancedb,
    "sqlite-vec": sqlite_vec,
    "Qdrant local": qdrant,
    "Milvus Lite": milvus,
}
SYSTEMS: dict[str, Callable[[Path, Path], None]] = PEERS | {
    "null": lambda corpus, target: ours(corpus, target, None, NullEmbedder()),
    "null-1": lambda corpus, target: ours(corpus, target, 1, NullEmbedder()),
    "null-2": lambda corpus, target: ours(corpus, target, 2, NullEmbedder()),
    "default-1": lambda corpus, target: ours(corpus, target, 1),
    "default-1-thread": lambda corpus, target: one_worker(corpus, target),
    "default-2": lambda corpus, target: ours(corpus, target, 2),
    "raw": lambda corpus, target: raw(corpus, target, langchain_splits),
    "raw-ours": lambda corpus, target: raw(corpus, target, our_splits),
    "embed-1": lambda corpus, target: embed_alone(corpus, target, 1),
    "embed-2": lambda corpus, target: embed_alone(corpus, target, 2),
}

# --- measuring ----------------------------------------------------------------------------------------------


class Taken(NamedTuple):
    """What a process took: seconds, seconds of the processor, and peak bytes by process where they were asked for."""

    seconds: float
    processor: float
    peaks: dict[int, int]


class NotInstalledError(Exception):
    """A peer is not there."""


_NOT_INSTALLED = 77


def _start(python: str, system: str, corpus: Path, target: Path) -> subprocess.Popen[bytes]:
    arguments = ["-m", "tests.benchmarks.ingestion", "--child", system, str(corpus), str(target)]
    # Byte code is kept, as it is wherever a package is installed: compiling ours anew takes 0.3 s.
    quiet = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ORACULO_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    root = Path(__file__).parents[2]
    return subprocess.Popen([python, *arguments], env=quiet, cwd=root)


def run(
    system: str, corpus: Path, target: Path, *, python: str = sys.executable, peaks: bool = False
) -> Taken:
    """Run a system in a process of its own, to its end."""
    started = time.perf_counter()
    process = _start(python, system, corpus, target)
    found: dict[int, int] = {}
    if peaks:
        watch = threading.Thread(target=_watch, args=(process.pid, found), daemon=True)
        watch.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == _NOT_INSTALLED:
        raise NotInstalledError
    if process.returncode:
        raise RuntimeError(f"{system} failed, see above")
    return Taken(seconds, usage.ru_utime + usage.ru_stime, found)


def _watch(pid: int, found: dict[int, int]) -> None:
    """Note the peak memory of a process and those that it starts, until it ends (Linux only)."""
    import psutil

    process = psutil.Process(pid)
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for each in [process, *process.children(recursive=True)]:
            try:
                status = Path(f"/proc/{each.pid}/status").read_text("utf-8")
                found[each.pid] = next(
                    int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")
                )
            except (OSError, StopIteration):  # it has just ended
                continue
        time.sleep(0.05)


def in_turn(
    rounds: int, systems: dict[str, Callable[[], Taken]], base: str | None = None
) -> Iterator[list[str]]:
    """Run systems by turns; give a row for each: median and least seconds, of the processor, and times the base."""
    taken: dict[str, list[Taken]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, call in systems.items():
            taken[name].append(call())
    for name, each in taken.items():
        seconds = [one.seconds for one in each]
        row = [
            name,
            f"{statistics.median(seconds):.2f}",
            f"{min(seconds):.2f}",
            f"{min(one.processor for one in each):.2f}",
        ]
        if base is not None:
            pairs = [one.seconds / other.seconds for one, other in zip(each, taken[base], strict=True)]
            row.append(f"{statistics.median(pairs):.2f}")
        yield row


def text(options: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    corpus = make_corpus(folder / "corpus", options.files)
    fresh = _fresh(folder)

    def call(system: str) -> Callable[[], Taken]:
        return lambda: run(system, corpus, fresh())

    base = "raw, LangChain's splitter"
    systems = {base: call("raw"), "raw, our splitter": call("raw-ours")}
    systems |= {
        "oraculo_kit, as it comes": call("null"),
        "oraculo_kit, one process": call("null-1"),
    }
    yield from in_turn(options.rounds, systems, base)
    for name in PEERS:
        yield peer_row(partial(run, name, corpus, fresh(), python=options.peers), name, "")


def peer_row(call: Callable[[], Taken], *cells: str) -> list[str]:
    try:
        taken = call()
    except NotInstalledError:
        return [*cells, "not installed"]
    except RuntimeError:  # a peer's trouble, printed above, is no reason to lose the other figures
        return [*cells, "failed"]
    return [*cells, f"{taken.seconds:.2f}", f"{taken.processor:.2f}"]


def again(options: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    for files in (options.files, options.many):
        corpus = make_corpus(folder / f"corpus-{files}", files)
        target = folder / f"store-{files}"
        for row in _again(options.rounds, corpus, target):
            yield [f"{files:,} files", *row]
    corpus = folder / f"corpus-{options.files}"
    for name in ("LangChain index()", "LlamaIndex"):
        yield peer_row(
            partial(_peer_again, name, corpus, folder / name, options.peers), name, "unchanged", ""
        )


def _again(rounds: int, corpus: Path, target: Path) -> Iterator[list[str]]:
    run("null", corpus, target)
    yield from in_turn(rounds, {"unchanged": lambda: run("null", corpus, target)})
    hours = count(1)

    def changed() -> Taken:
        change_corpus(corpus, _MODIFIED + 3600 * next(hours))
        return run("null", corpus, target)

    yield from in_turn(rounds, {"1 % changed": changed})


def _peer_again(name: str, corpus: Path, target: Path, python: str) -> Taken:
    run(name, corpus, target, python=python)
    return run(name, corpus, target, python=python)


def workers(options: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    corpus = make_corpus(folder / "corpus", options.many)
    chunks = folder / "chunks.json"
    chunks.write_text(json.dumps([text for _, each in our_splits(corpus) for text in each]), encoding="utf-8")
    fresh = _fresh(folder)
    systems = {
        "two workers": lambda: run("default-2", corpus, fresh()),
        "one worker": lambda: run("default-1-thread", corpus, fresh()),
        "one process": lambda: run("default-1", corpus, fresh()),
        "embedder alone, two": lambda: run("embed-2", corpus, chunks),
        "embedder alone, one": lambda: run("embed-1", corpus, chunks),
    }
    yield from in_turn(options.rounds, systems, "two workers")


def memory(options: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    for jobs in (1, 2):
        least = None
        for files in (options.files, options.many):
            corpus = make_corpus(folder / f"corpus-{files}", files)
            found = run(f"default-{jobs}", corpus, folder / f"store-{jobs}-{files}", peaks=True).peaks
            own, *others = found.values()
            largest = max(others, default=0) if jobs > 1 else own
            least = least or largest
            yield [
                "the process" if jobs == 1 else "the larger of two workers",
                f"{files:,}",
                f"{largest / 1e6:.0f} MB",
                f"{own / 1e6:.0f} MB",
                f"{largest / least:.2f}",
            ]


def _fresh(folder: Path) -> Callable[[], Path]:
    """Return a function that gives a new place each time, and removes the one before."""
    before: list[Path] = []

    def fresh() -> Path:
        for each in before:
            for path in (each, each.with_suffix(".db")):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        before[:] = [folder / f"target-{time.monotonic_ns()}"]
        return before[0]

    return fresh


HEADERS = {
    "text": ["first ingestion", "median s", "least s", "processor s", "times raw"],
    "again": ["once more", "", "median s", "least s", "processor s"],
    "workers": ["default embedder", "median s", "least s", "processor s", "times two workers"],
    "memory": ["peak memory", "files", "", "calling process", "times fewer files"],
}
RUN = {"text": text, "again": again, "workers": workers, "memory": memory}


def main() -> None:
    """Run the benchmark."""
    global _PART
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--files", type=int, default=2_000, help="in the small corpus (default 2,000)")
    parser.add_argument("--many", type=int, default=20_000, help="in the large corpus (default 20,000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="interpreter with peers")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        corpus, target = map(Path, options.parts)
        system = options.child
        if system.startswith("embed-part-"):
            _PART = tuple(map(int, system.split("-")[2:]))  # type: ignore[assignment]
            system = "embed-1"
        try:
            SYSTEMS[system](corpus, target)
        except ModuleNotFoundError as exc:
            print(f"{system}: {exc}", file=sys.stderr)
            sys.exit(_NOT_INSTALLED)
        return
    wrong = set(options.parts) - set(PARTS)
    if wrong:
        parser.error(f"unknown part {wrong.pop()!r}, expected some of {', '.join(PARTS)}")
    from oraculo_kit.display import text_table

    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="oraculo-benchmark-") as folder:
            rows = [row + [""] * (len(HEADERS[part]) - len(row)) for row in RUN[part](options, Path(folder))]
            print(text_table(HEADERS[part], rows), "\n", flush=True)


if __name__ == "__main__":
    main()
