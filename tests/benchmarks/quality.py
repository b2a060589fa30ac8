"""Measure how well search finds: nDCG@10, hit@5 and MRR@10 of text alone, vectors alone and both.

    python tests/benchmarks/quality.py train.json            # SQuAD style: contexts are passages
    python tests/benchmarks/quality.py folder/               # TREC or BEIR style, see below
    python tests/benchmarks/quality.py docstrings packages   # made of what is installed with Python

It goes through the public interface only: the documents are written into a new store in a temporary folder
and searched with its default settings, one document one chunk.

SQuAD style: every paragraph's ``context`` is a document, and the only relevant one for its questions. TREC
style: a folder with ``corpus.jsonl`` or ``docs.jsonl`` (fields ``_id`` or ``id``, ``text``, ``title``),
``queries.jsonl`` (same fields) or ``queries.tsv``, and ``qrels.txt`` (query, iteration, document, grade),
``qrels.tsv`` or ``qrels/test.tsv`` (query, document, grade). ``docstrings`` and ``packages`` need no file:
the first line of a docstring of the standard library, or the summary of an installed package, is the query,
and the rest of the text the document to be found.

nDCG uses the grades as gains; hit@5 is the share of queries with a relevant document among the first five.
The interval is the 95 % bootstrap interval of nDCG@10 over the queries.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import inspect
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from langchain_core.documents import Document

from oraculo_kit.storage import VetorStorage, open_storage

Mode = Literal["text", "vector", "hybrid"]

_DEPTH = 10
_BATCH = 1_000
_MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass
class Collection:
    """Documents, queries, and which documents answer which query.

    Attributes
    ----------
    documents, queries : dict of str to str
        Id to text.
    relevant : dict of str to dict of str to int
        Query id to document id to grade.
    """

    name: str
    documents: dict[str, str] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)
    relevant: dict[str, dict[str, int]] = field(default_factory=dict)

    def add_pair(self, name: str, query: str, text: str) -> None:
        """Add a document with the one query that it answers."""
        self.documents[name] = text
        self.queries[name] = query
        self.relevant[name] = {name: 1}

    def sampled(self, count: int | None) -> Collection:
        """Return it with `count` of its queries at most, evenly spread; one without an answer is left out."""
        names = [name for name in self.queries if any(self.relevant.get(name, {}).values())]
        step = max(1, math.ceil(len(names) / count)) if count else 1
        return Collection(
            self.name, self.documents, {name: self.queries[name] for name in names[::step]}, self.relevant
        )


def load(source: str) -> Collection:
    """Read a collection by path, or make one of the built-in ones by name."""
    if source in _BUILT_IN:
        return _BUILT_IN[source]()
    path = Path(source)
    if path.is_dir():
        return _trec(path)
    if path.is_file():
        return _squad(path)
    raise SystemExit(f"{source}: expected a SQuAD JSON file, a TREC folder, or one of {', '.join(_BUILT_IN)}")


def _squad(path: Path) -> Collection:
    collection = Collection(path.stem)
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            document = f"passage-{len(collection.documents)}"
            collection.documents[document] = paragraph["context"]
            for question in paragraph["qas"]:
                query = str(question["id"])
                collection.queries[query] = question["question"]
                collection.relevant[query] = {document: 1}
    return collection


def _trec(folder: Path) -> Collection:
    collection = Collection(folder.name)
    for document, text in _records(_first(folder, "corpus.jsonl", "docs.jsonl", "documents.jsonl")):
        collection.documents[document] = text
    for query, text in _records(_first(folder, "queries.jsonl", "queries.tsv")):
        collection.queries[query] = text
    for line in (
        _first(folder, "qrels.txt", "qrels.tsv", "qrels/test.tsv").read_text(encoding="utf-8").splitlines()
    ):
        columns = line.split()
        if len(columns) > 2 and columns[-1].lstrip("-").isdigit():  # the first line may be a heading
            query, document, grade = columns[0], columns[-2], int(columns[-1])
            if document in collection.documents:
                collection.relevant.setdefault(query, {})[document] = grade
    return collection


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise SystemExit(f"{folder}: expected one of the files {', '.join(names)}")


def _records(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if path.suffix == ".tsv":
            name, _, text = line.partition("\t")
            yield name, text
        elif line.strip():
            record: dict[str, Any] = json.loads(line)
            name = next(str(record[key]) for key in ("_id", "id", "doc_id", "query_id") if key in record)
            yield name, f"{record.get('title') or ''}\n{record.get('text') or ''}".strip()


def _docstrings() -> Collection:
    collection = Collection("docstrings")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated modules are text too
        for name in sorted(sys.stdlib_module_names - {"antigravity", "idlelib", "this", "turtledemo"}):
            if name.startswith("_"):
                continue
            try:
                module = importlib.import_module(name)
            except ImportError:  # modules of other systems
                continue
            for place, text in _documented(module):
                heading, _, body = inspect.cleandoc(text).partition("\n\n")
                query = " ".join(heading.split())
                if len(query.split()) > 3 and len(query) < 250 and len(body) > 150:
                    collection.add_pair(place, query, body[:2000])
    return _without_repeats(collection)


def _documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    if module.__doc__:
        yield module.__name__, module.__doc__
    for name, value in sorted(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for place, item in [(name, value), *(_members(name, value) if inspect.isclass(value) else ())]:
            text = getattr(item, "__doc__", None)
            if isinstance(text, str) and (callable(item) or isinstance(item, property)):
                yield f"{module.__name__}.{place}", text


def _members(name: str, value: type) -> Iterator[tuple[str, Any]]:
    for member, item in sorted(vars(value).items()):
        yield f"{name}.{member}", item


def _packages() -> Collection:
    collection = Collection("packages")
    for package in importlib.metadata.distributions():
        summary = str(package.metadata["Summary"] or "")
        text = (
            str(package.metadata.json.get("description") or "").replace(summary.rstrip("."), " ")
            if summary
            else ""
        )
        if len(summary.split()) > 3 and len(text) > 400:
            collection.add_pair(package.metadata["Name"], summary, text[:3000])
    return _without_repeats(collection)


def _without_repeats(collection: Collection) -> Collection:
    """Keep the first of documents or queries that are equal: only one could be right."""
    kept, seen = Collection(collection.name), set[str]()
    for name, text in collection.documents.items():
        query = collection.queries[name]
        if query not in seen and text[:200] not in seen:
            seen |= {query, text[:200]}
            kept.add_pair(name, query, text)
    return kept


_BUILT_IN: dict[str, Callable[[], Collection]] = {"docstrings": _docstrings, "packages": _packages}


@dataclass(frozen=True)
class Figures:
    """What one mode achieved on one collection; `ndcg` holds a value per query, `seconds` too."""

    mode: Mode
    ndcg: list[float]
    hit: float
    reciprocal_rank: float
    seconds: list[float]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean of `ndcg`."""
        values = np.array(self.ndcg)
        means = [
            values[np.random.default_rng(seed).integers(0, len(values), len(values))].mean()
            for seed in range(500)
        ]
        low, high = np.percentile(means, [2.5, 97.5])
        return float(low), float(high)


def write(store: VetorStorage, collection: Collection) -> None:
    """Write each document as a chunk of its own."""
    names = list(collection.documents)
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        documents = [
            Document(page_content=collection.documents[name], metadata={"source": name}) for name in batch
        ]
        store.write(documents, ids=batch)


def measure(store: VetorStorage, collection: Collection, mode: Mode) -> Figures:
    """Ask every query of a collection."""
    ndcg, hits, ranks, seconds = [], [], [], []
    for name, query in collection.queries.items():
        results = store.search(query, _DEPTH, mode=mode)
        grades = [collection.relevant[name].get(hit.id, 0) for hit in results]
        ndcg.append(_gain(grades) / _gain(sorted(collection.relevant[name].values(), reverse=True)[:_DEPTH]))
        hits.append(any(grade > 0 for grade in grades[:5]))
        ranks.append(next((1 / place for place, grade in enumerate(grades, 1) if grade > 0), 0.0))
        seconds.append(results.seconds)
    return Figures(mode, ndcg, float(np.mean(hits)), float(np.mean(ranks)), seconds)


def _gain(grades: Sequence[int]) -> float:
    return sum(max(grade, 0) / math.log2(place + 1) for place, grade in enumerate(grades, 1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table per collection."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "collections", nargs="+", metavar="COLLECTION", help="file, folder, docstrings or packages"
    )
    parser.add_argument("--modes", nargs="+", choices=_MODES, default=_MODES)
    parser.add_argument("--queries", type=int, metavar="N", help="ask N queries at most, evenly spread")
    options = parser.parse_args(arguments)
    for source in options.collections:
        collection = load(source).sampled(options.queries)
        if not collection.queries:
            raise SystemExit(f"{source}: no query has a relevant document")
        print(f"{collection.name}: {len(collection.documents)} documents, {len(collection.queries)} queries")
        print(f"  mode      nDCG@10{'95 % interval':>18}{'hit@5':>8}{'MRR@10':>8}{'p50 ms':>8}{'p95 ms':>8}")
        with tempfile.TemporaryDirectory() as folder, open_storage(Path(folder, "store")) as store:
            write(store, collection)
            for mode in options.modes:
                found = measure(store, collection, mode)
                low, high = found.interval
                p50, p95 = np.percentile(found.seconds, [50, 95]) * 1000
                print(
                    f"  {mode:8}{np.mean(found.ndcg):9.4f}{f'{low:.3f} to {high:.3f}':>18}{found.hit:8.4f}"
                    f"{found.reciprocal_rank:8.4f}{p50:8.1f}{p95:8.1f}"
                )


if __name__ == "__main__":
    main()
