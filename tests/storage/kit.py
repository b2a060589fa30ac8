"""What the tests of the store share: real texts, ready-made vectors, a plain oracle, and child processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from langchain_core.documents import Document
from numpy.typing import NDArray

from oraculo_kit.storage.faiss import FaissVetorStorage

ROOT = Path(__file__).parent.parent.parent
DIMENSION = 8

Vectors = NDArray[np.float32]


def texts() -> list[str]:
    """Return paragraphs of real documents, about fifty."""
    folder = ROOT / "notebooks" / "dados"
    whole = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md")))
    return [part.strip() for part in whole.split("\n\n") if part.strip()]


_TEXTS = texts()


def vectors(count: int, seed: int = 0, dimension: int = DIMENSION) -> Vectors:
    """Return float32 vectors of length one, shape (count, dimension)."""
    matrix = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def documents(source: str, count: int, first: int = 0, **metadata: Any) -> list[Document]:
    """Return chunks of a source, with real text; ``metadata`` is shared, ``place`` their own."""
    return [
        Document(
            page_content=f"{_TEXTS[place % len(_TEXTS)]} ({source} {place})",
            metadata={"source": source, "place": place, **metadata},
        )
        for place in range(first, first + count)
    ]


class TinyEmbeddings:
    """A LangChain embedder without a model: a text's vector comes from its hash."""

    def __init__(self, dimension: int = DIMENSION, salt: str = "") -> None:
        self.dimension = dimension
        self.salt = salt

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        seed = int.from_bytes(hashlib.blake2b(f"{self.salt}{text}".encode(), digest_size=8).digest())
        return list(map(float, vectors(1, seed, self.dimension)[0]))


def nearest(query: Vectors, matrix: Vectors, ids: Sequence[str], k: int) -> list[tuple[str, float]]:
    """Return the k ids with the highest cosine, by brute force in float64, best first."""
    scores = matrix.astype(np.float64) @ query.astype(np.float64)
    order = np.argsort(-scores, kind="stable")[:k]
    return [(ids[place], float(scores[place])) for place in order]


def stored_ids(store: FaissVetorStorage) -> set[str]:
    """Return the ids of all chunks, read back from the store."""
    return {str(document.id) for page in store.iter_documents() for document in page}


@contextmanager
def catalog_of(folder: Path) -> Iterator[apsw.Connection]:
    """Open a store's catalog behind its back; what is written becomes part of the database."""
    db = apsw.Connection(str(folder / "catalog.sqlite3"))
    db.pragma("user_version")  # before it has read anything a connection does not know of the log
    try:
        yield db
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        db.close()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a store but the ones that change by being looked at; no empty log."""
    changing = ("catalog.sqlite3-shm", "writer.lock", "writer.queue")
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in changing
    }
    return {name: content for name, content in found.items() if content or not name.endswith("-wal")}


def flip_bit(path: Path, offset: int) -> None:
    """Flip the lowest bit of one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


class Child:
    """A process that runs a function of `tests.storage.children`, or of another module beside it.

    Its arguments go there as JSON, and so does what it returns; see `result`.
    """

    def __init__(
        self,
        name: str,
        *arguments: Any,
        prefix: Sequence[str] = (),
        module: str = "children",
        **options: Any,
    ) -> None:
        self.process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                "-m",
                f"tests.storage.{module}",
                name,
                json.dumps(arguments, default=str),
            ],
            cwd=ROOT,
            env={**os.environ, "ORACULO_LANG": "en", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def line(self) -> str:
        """Return the next line that the child prints; empty when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        """Give the word that `tests.storage.children.wait_for_parent` waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self, timeout: float = 60) -> Any:
        """Wait for the child's end and return what its function returned."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"the child did not end within {timeout} s:\n{out}\n{err}") from None
        assert self.process.returncode == 0, f"exit code {self.process.returncode}:\n{out}\n{err}"
        return json.loads(out.splitlines()[-1])

    def kill(self) -> None:
        """End the child with SIGKILL and wait for it."""
        self.process.kill()
        self.process.communicate()
