"""Measure how well search finds: nDCG@10, hit@5 and MRR@10 of text alone, vectors alone and both.

    python tests/benchmarks/quality.py train.json            # SQuAD style: contexts are passages
    python tests/benchmarks/quality.py folder/               # TREC or BEIR style, see below
    python tests/benchmarks/quality.py docstrings packages   # made of what is installed with Python

The documents are written into a new store in a temporary folder, one document one chunk, and `oraculo_kit.evaluate`
asks the questions with the default settings of the modes.

SQuAD style: every paragraph's ``context`` is a document, and the only relevant one for its questions. TREC
style: a folder with ``corpus.jsonl`` or ``docs.jsonl`` (fields ``_id`` or ``id``, ``text``, ``title``),
``queries.jsonl`` (same fields) or ``queries.tsv``, and ``qrels.txt`` (query, iteration, document, grade),
``qrels.tsv`` or ``qrels/test.tsv`` (query, document, grade). ``docstrings`` and ``packages`` need no file:
the first line of a docstring of the standard library, or the summary of an installed package, is the query,
and the rest of the text the document to be found.

hit@5 is the share of queries with a relevant document among the first five; the interval is that of nDCG@10. What
the measures are, and what counts as the right passage, is said in `oraculo_kit.evaluating.measures` and `oraculo_kit.evaluating.judgements`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import inspect
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.evaluating.evaluation import Evaluation
from oraculo_kit.evaluating.judgements import Judgement
from oraculo_kit.evaluating.questions import QuestionSet, load_questions
from oraculo_kit.storage import VetorStorage, open_storage

_MODES = ("text", "vector", "hybrid")
_BATCH = 1_000
_CORPUS = ("corpus.jsonl", "docs.jsonl", "documents.jsonl")


@dataclass(frozen=True)
class Collection:
    """Documents by id, and questions with what answers them."""

    name: str
    documents: dict[str, str]
    questions: QuestionSet

    def sampled(self, count: int | None) -> Collection:
        """Return it with `count` of its questions at most, evenly spread."""
        asked = self.questions.questions
        step = -(-len(asked) // count) if count else 1
        return replace(self, questions=replace(self.questions, questions=asked[::step]))


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
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    contexts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    ids = {context: f"passage-{place}" for place, context in enumerate(contexts)}
    # By id, not by text: each passage is a chunk here, and one that says nearly the same is not the right one.
    asked = load_questions(path)
    questions = tuple(
        replace(question, judgements=tuple(Judgement((ids[one.wanted[0]],)) for one in question.judgements))
        for question in asked.questions
    )
    return Collection(
        path.stem,
        {id: context for context, id in ids.items()},
        replace(asked, by="chunk", questions=questions),
    )


def _trec(folder: Path) -> Collection:
    corpus = next((folder / name for name in _CORPUS if (folder / name).is_file()), None)
    if corpus is None:
        raise SystemExit(f"{folder}: expected one of the files {', '.join(_CORPUS)}")
    return Collection(folder.name, dict(_records(corpus)), load_questions(folder, by="chunk"))


def _records(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            record: dict[str, Any] = json.loads(line)
            name = next(str(record[key]) for key in ("_id", "id", "doc_id") if key in record)
            yield name, f"{record.get('title') or ''}\n{record.get('text') or ''}".strip()


def _of_pairs(name: str, pairs: Iterator[tuple[str, str, str]]) -> Collection:
    """Make a collection of documents, each with an id and the one query that it answers.

    Of documents or queries that are equal the first is kept: only one could be right.
    """
    documents: dict[str, str] = {}
    rows, seen = [], set[str]()
    for id, query, text in pairs:
        if query not in seen and text[:200] not in seen:
            seen |= {query, text[:200]}
            documents[id] = text
            rows.append({"question": query, "id": id})
    return Collection(name, documents, load_questions(rows, by="chunk"))


def _docstrings() -> Iterator[tuple[str, str, str]]:
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
                    yield place, query, body[:2000]


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


def _packages() -> Iterator[tuple[str, str, str]]:
    for package in importlib.metadata.distributions():
        summary = str(package.metadata["Summary"] or "")
        text = (
            str(package.metadata.json.get("description") or "").replace(summary.rstrip("."), " ")
            if summary
            else ""
        )
        if len(summary.split()) > 3 and len(text) > 400:
            yield package.metadata["Name"], summary, text[:3000]


_BUILT_IN: dict[str, Callable[[], Collection]] = {
    "docstrings": lambda: _of_pairs("docstrings", _docstrings()),
    "packages": lambda: _of_pairs("packages", _packages()),
}


def write(store: VetorStorage, documents: dict[str, str]) -> None:
    """Write each document as a chunk of its own."""
    names = list(documents)
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        store.write(
            [Document(page_content=documents[name], metadata={"source": name}) for name in batch], ids=batch
        )


def show(found: Evaluation) -> None:
    """Print a line per mode."""
    print(f"  mode      nDCG@10{'95 % interval':>18}{'hit@5':>8}{'MRR@10':>8}{'p50 ms':>8}{'p95 ms':>8}")
    for mode, rows in found.to_pandas().groupby("configuration", sort=False):
        figures = rows.set_index("measure")
        value, ndcg = figures["value"], figures.loc["ndcg@10"]
        interval = f"{ndcg['low']:.3f} to {ndcg['high']:.3f}"
        print(
            f"  {mode:8}{value['ndcg@10']:9.4f}{interval:>18}{value['hit@5']:8.4f}{value['mrr@10']:8.4f}"
            f"{value['p50_ms']:8.1f}{value['p95_ms']:8.1f}"
        )


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
        count = len(collection.questions.questions)
        print(f"{collection.name}: {len(collection.documents)} documents, {count} queries")
        with tempfile.TemporaryDirectory() as folder, open_storage(Path(folder, "store")) as store:
            write(store, collection.documents)
            show(oraculo.evaluate(collection.questions, options.modes, store=store, timed=count))


if __name__ == "__main__":
    main()
