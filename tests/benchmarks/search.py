"""Measure searches as a user waits for them: by words, by vectors and by both, over a large corpus.

    python -m tests.benchmarks.search --folder /tmp/store                  # 100,000 chunks; built once, then reused
    python -m tests.benchmarks.search --folder /tmp/store --questions train.json   # SQuAD style
    python -m tests.benchmarks.search --folder /tmp/large --rows 1000000 --optimize

The corpus is made by rule, the same each time:

- 200,000 word forms made of syllables, and the stop words of Portuguese, which are 45 % of all words, each as often as
  in running text. The others follow Zipf's law from rank 100 on, as they do in texts: the most frequent stands in
  about one chunk in twelve, most of them in hardly any.
- One topic to 200 chunks. A topic is 300 draws from that law, and half of a chunk's words are drawn from its topic: so
  the words of a topic stand together, and each is as frequent over all as before.
- A chunk is 135 words in sentences, about 800 characters; 50 chunks are a source.
- A word's vector is random, a text's vector the sum of its words' (stop words have none), of length one. A question's
  vector is made in the same way. With --embed the default embedder makes both.

A question is 10 to 15 words of one chunk, in order: five or six stop words, and among the others at least one of its
rarest and one of its most frequent. ``first`` is the time of a question with words that were not asked for before,
``again`` that of the same question later. The parts are medians, taken with full text and vectors one after the other:
otherwise a hybrid search of a large store has both done at once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
from langchain_core.documents import Document
from numpy.typing import NDArray

from oraculo_kit.display import text_table
from oraculo_kit.embed import Embedder
from oraculo_kit.storage import hybrid
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.frequencies import Frequencies
from oraculo_kit.storage.fulltext import TextQuery
from oraculo_kit.storage.manifest import Manifest
from oraculo_kit.storage.searching import Searcher
from oraculo_kit.storage.snapshot import Snapshot

MODES: tuple[Literal["text", "vector", "hybrid"], ...] = ("text", "vector", "hybrid")
BATCH = 5_000
PER_SOURCE = 50
PER_TOPIC = 200
TOPIC_DRAWS = 300
FORMS = 200_000
FIRST_RANK = 100
WORDS = 135
STOP_SHARE = 0.45

# Per 1,000 words of running Portuguese text, roughly.
STOP_WORDS = {
    "de": 51, "a": 35, "o": 33, "que": 27, "e": 30, "do": 21, "da": 20, "em": 18, "um": 12, "para": 12, "com": 10,
    "não": 10, "uma": 10, "os": 9, "no": 9, "se": 9, "na": 8, "por": 8, "mais": 6, "as": 7, "dos": 8, "como": 6,
    "mas": 4, "ao": 5, "ele": 3, "das": 5, "à": 4, "seu": 3, "sua": 3, "ou": 4, "quando": 2, "muito": 2, "nos": 3,
    "já": 2, "eu": 1, "também": 3, "só": 1, "pelo": 3, "pela": 3, "até": 2, "isso": 1, "ela": 1, "entre": 2,
    "depois": 1, "sem": 2, "mesmo": 1, "aos": 2, "seus": 2, "quem": 1, "nas": 2, "esse": 1, "está": 2, "são": 3,
}  # fmt: skip

# What takes the time of a search: where to look, and under what name.
PARTS: tuple[tuple[str, type, str], ...] = (
    ("embedding", Searcher, "_embedded"),
    ("counting words", Frequencies, "of"),
    ("full text", Snapshot, "text_top"),
    ("vectors", Manifest, "top"),
    ("cosines", Manifest, "vectors_of"),
    ("reading texts", Snapshot, "chunks"),
    ("wording", TextQuery, "wording"),
)


def word_forms() -> list[str]:
    """Return `FORMS` different words of two syllables and more, most frequent first."""
    syllables = [consonant + vowel for consonant in "bcdfglmnprstvz" for vowel in "aeiou"]
    endings = ["", "s", "r", "l", "mento", "dade", "ção", "ções", "ndo", "vel"]
    made = (
        "".join(parts) + ending
        for length in itertools.count(2)
        for parts in itertools.product(syllables, repeat=length)
        for ending in endings
    )
    forms = list(itertools.islice(made, FORMS))
    np.random.default_rng(1).shuffle(forms)  # else all frequent words would begin alike
    return forms


class Corpus:
    """The texts, their vectors and questions about them, each made when it is asked for."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.forms = word_forms()
        self._law = np.cumsum(1 / (FIRST_RANK + np.arange(FORMS)))
        self._law /= self._law[-1]
        topics = max(1, rows // PER_TOPIC)
        self._topics = self._drawn(np.random.default_rng(2), (topics, TOPIC_DRAWS))
        self._stop = np.array(list(STOP_WORDS))
        self._stop_law = np.array(list(STOP_WORDS.values())) / sum(STOP_WORDS.values())

    def _drawn(self, chance: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return np.searchsorted(self._law, chance.random(shape)).astype(np.int64)

    def words(self, start: int, count: int) -> NDArray[np.int64]:
        """Return the words of chunks, int64 (count, `WORDS`): a rank, or -1 - place of a stop word."""
        chance = np.random.default_rng((4, start))
        topics = (np.arange(start, start + count) // PER_TOPIC) % len(self._topics)
        shape = (count, WORDS)
        of_topic = self._topics[topics[:, None], chance.integers(0, TOPIC_DRAWS, shape)]
        content = np.where(chance.random(shape) < 0.5, of_topic, self._drawn(chance, shape))
        stop = -1 - chance.choice(len(self._stop), shape, p=self._stop_law)
        return np.where(chance.random(shape) < STOP_SHARE, stop, content)

    def text(self, words: NDArray[np.int64]) -> str:
        """Return a text with these words, in sentences of 15."""
        spelt = [self.forms[word] if word >= 0 else str(self._stop[-1 - word]) for word in words.tolist()]
        return " ".join(
            " ".join(spelt[place : place + 15]).capitalize() + "." for place in range(0, len(spelt), 15)
        )

    def documents(self, start: int, words: NDArray[np.int64]) -> list[Document]:
        return [
            Document(
                self.text(row), metadata={"source": f"s{number // PER_SOURCE}", "page": number % PER_SOURCE}
            )
            for number, row in enumerate(words, start)
        ]

    def questions(self, count: int) -> list[str]:
        """Return questions about chunks that are spread evenly."""
        batches = range(0, self.rows, BATCH)
        chance = np.random.default_rng(5)
        made: list[str] = []
        for start in itertools.cycle(batches):
            words = self.words(start, min(BATCH, self.rows - start))
            each = -(-count // len(batches))
            made += [self._question(words[row], chance) for row in chance.integers(0, len(words), each)]
            if len(made) >= count:
                return made[:count]
        return made

    def _question(self, words: NDArray[np.int64], chance: np.random.Generator) -> str:
        places = chance.permutation(len(words))
        stop = [place for place in places if words[place] < 0][: chance.integers(5, 7)]
        by_rank = sorted((place for place in places if words[place] >= 0), key=lambda place: words[place])
        some = chance.choice(by_rank[1:-1], chance.integers(4, 8), replace=False)
        chosen = sorted([*stop, by_rank[0], by_rank[-1], *some])
        return self.text(words[chosen]).rstrip(".") + "?"


class WordEmbeddings:
    """A LangChain embedder: the vector of a text is the sum of its words' random ones, of length one."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._ranks: dict[str, int] = {}
        self._vectors = np.zeros((0, dimension), np.float32)

    def of_words(self, words: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of texts whose words `Corpus.words` gave, float32 (len(words), dimension)."""
        if not len(self._vectors):
            chance = np.random.default_rng(3)
            self._vectors = chance.standard_normal((FORMS, self._dimension), dtype=np.float32)
        made = np.stack([self._vectors[row[row >= 0]].sum(axis=0) for row in words])
        return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-6)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self._ranks = self._ranks or {form: rank for rank, form in enumerate(word_forms())}
        known = [self._ranks[word] for word in re.findall(r"\w+", text.lower()) if word in self._ranks]
        return list(map(float, self.of_words(np.array([known or [0]], np.int64))[0]))


def build(folder: Path, corpus: Corpus, embedder: Embedder, ready: WordEmbeddings | None) -> None:
    """Write what is missing: a build that was interrupted goes on where it stopped."""
    with FaissVetorStorage(folder, embedder) as store:
        for start in range(store.stats().chunks, corpus.rows, BATCH):
            words = corpus.words(start, min(BATCH, corpus.rows - start))
            store.write(corpus.documents(start, words), ready.of_words(words) if ready is not None else None)
            print(f"\r{start + len(words):,} of {corpus.rows:,} chunks written", end="", file=sys.stderr)
        print(file=sys.stderr)


def squad_questions(path: Path, count: int) -> list[str]:
    """Return the questions of ten words and more."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    asked = [
        each["question"] for article in articles for part in article["paragraphs"] for each in part["qas"]
    ]
    long = sorted({question for question in asked if len(question.split()) >= 10})
    return long[:: max(1, len(long) // count)][:count]


@contextmanager
def clocked(seconds: dict[str, float]) -> Iterator[None]:
    """Add up how long each of `PARTS` takes in the body."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] += time.perf_counter() - started

        return call

    patches: list[AbstractContextManager[Any]] = [
        patch.object(owner, method, timed(name, getattr(owner, method))) for name, owner, method in PARTS
    ]
    patches.append(
        patch.object(hybrid, "_BESIDE_FROM", sys.maxsize)
    )  # one after the other, or parts would overlap
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


def seconds_of(ask: Callable[[str], object], questions: list[str]) -> NDArray[np.float64]:
    times = []
    for question in questions:
        started = time.perf_counter()
        ask(question)
        times.append(time.perf_counter() - started)
    return np.array(times)


def measure(title: str, folder: Path, embedder: Embedder, questions: list[str], k: int) -> None:
    """Print what each mode takes, and the parts of it."""
    whole: list[list[Any]] = []
    parts: list[list[Any]] = []
    for mode in MODES:
        # Opened anew for each mode: what one of them learns of the words would help the next.
        with FaissVetorStorage(folder, embedder, read_only=True) as store:
            store.search("aquecimento", mode=mode)
            ask = partial(store.search, k=k, mode=mode)
            first, again = seconds_of(ask, questions), seconds_of(ask, questions)
            whole.append([mode, *(shown(np.percentile(t, p)) for t in (first, again) for p in (50, 95))])
            parts.append([mode, *map(shown, parts_of(ask, questions).values())])
    print(f"\n{title}, milliseconds")
    print(text_table(["mode", "first p50", "first p95", "again p50", "again p95"], whole), end="\n\n")
    print(text_table(["mode", *(name for name, _, _ in PARTS), "rest"], parts, width=120), flush=True)


def shown(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def parts_of(ask: Callable[[str], object], questions: list[str]) -> dict[str, float]:
    """Return the median seconds of each part, and of what is left."""
    taken: dict[str, list[float]] = defaultdict(list)
    for question in questions:
        seconds = {name: 0.0 for name, _, _ in PARTS}
        with clocked(seconds):
            whole = float(seconds_of(ask, [question])[0])
        for name, part in {**seconds, "rest": whole - sum(seconds.values())}.items():
            taken[name].append(part)
    return {name: float(np.median(parts)) for name, parts in taken.items()}


def main(options: argparse.Namespace, folder: Path) -> None:
    corpus = Corpus(options.rows)
    ready = None if options.embed else WordEmbeddings(options.dimension)
    embedder = Embedder(ready or "wordllama")
    if not options.as_it_is:
        build(folder, corpus, embedder, ready)
    if options.questions:
        questions = squad_questions(Path(options.questions), options.count)
    else:
        questions = corpus.questions(options.count)
    measure(f"{options.rows:,} chunks", folder, embedder, questions, options.k)
    if options.optimize:
        with FaissVetorStorage(folder, embedder) as store:
            print(store.optimize(0.95))
        measure("After optimize(0.95)", folder, embedder, questions, options.k)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=256, help="of ready vectors (default: 256)")
    parser.add_argument(
        "--folder", help="where the store is made, or stands (default: a temporary one, removed at the end)"
    )
    parser.add_argument(
        "--questions", metavar="FILE", help="SQuAD-style JSON: its questions of ten words and more"
    )
    parser.add_argument("--count", type=int, default=200, help="how many questions (default: 200)")
    parser.add_argument("--k", type=int, default=10, help="hits asked for (default: 10)")
    parser.add_argument("--embed", action="store_true", help="embed with the default embedder")
    parser.add_argument(
        "--as-it-is", action="store_true", help="search the store in --folder and write nothing"
    )
    parser.add_argument("--optimize", action="store_true", help="measure again after optimize(0.95)")
    chosen = parser.parse_args()
    if chosen.folder:
        main(chosen, Path(chosen.folder))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(chosen, Path(made) / "store")
