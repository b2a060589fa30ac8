"""The files of TREC and BEIR: topics, queries and relevance judgements ("qrels").

Topics are the SGML of the early tracks (``<top> <num> Number: 301 <title> ...``), lines ``id <tab> question``, or
JSON lines with ``_id`` or ``id`` and ``text``. Qrels are lines ``question iteration document grade`` (TREC), or
``question document grade`` (BEIR, with or without a heading), separated by blanks, or by tabs where names of documents
have blanks in them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from oraculo_kit.errors import QuestionsError
from oraculo_kit.evaluating.judgements import By, Judgement
from oraculo_kit.evaluating.questions import Collector, QuestionSet, read_text

TOPICS = ("queries.jsonl", "queries.tsv", "topics.tsv", "topics.txt")
QRELS = ("qrels.txt", "qrels.tsv", "qrels/test.tsv")

_TOP = re.compile(r"<top>(.*?)(?=</top>|<top>|\Z)", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"<num>\s*(?:Number:)?\s*([^\s<]+)", re.IGNORECASE)
_TITLE = re.compile(r"<title>\s*(?:Topic:)?\s*([^<]*)", re.IGNORECASE)
_DESCRIPTION = re.compile(r"<desc>\s*(?:Description:)?\s*([^<]*)", re.IGNORECASE)


def from_folder(folder: Path, qrels: str | os.PathLike[str] | None, by: By | None) -> QuestionSet:
    """Read a folder that holds topics and qrels under their usual names."""
    judged = Path(qrels).expanduser() if qrels is not None else _first(folder, QRELS)
    return from_topics(_first(folder, TOPICS), judged, by, name=str(folder))


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise QuestionsError(f"the folder {folder} has none of the files {', '.join(names)}; give them by name")


def from_topics(topics: Path, qrels: Path, by: By | None, name: str = "") -> QuestionSet:
    """Read a file of topics and one of qrels; a topic's question is its title, else its description."""
    if by not in (None, "source", "chunk"):
        raise QuestionsError(
            f"by is {by!r}, but qrels name documents; expected 'source' (a document is a source; match= names a "
            "metadata field) or 'chunk' (a document is a chunk)"
        )
    collector = Collector(name or str(topics), by or "source")
    for id, text in read_topics(topics):
        collector.add(id, text)
    for id, document, grade in read_qrels(qrels):
        collector.judge(id, Judgement((document,), grade))
    return collector.result()


def read_topics(path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and text of each topic.

    Raises
    ------
    QuestionsError
        With the number of the line that cannot be understood.
    """
    text = read_text(path)
    if path.suffix.lower() == ".jsonl":
        yield from _json_lines(text, path)
    elif re.search("<top>", text, re.IGNORECASE):
        yield from _sgml(text, path)
    else:
        for number, line in _lines(text):
            id, tab, question = line.partition("\t")
            if not tab:
                raise QuestionsError(f"{path}, line {number}: got no tab, expected 'id<tab>question'")
            yield id.strip(), question


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines(): a question may hold U+2028 and the like.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def _json_lines(text: str, path: Path) -> Iterator[tuple[str, str]]:
    for number, line in _lines(text):
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as exc:
            raise QuestionsError(f"{path}, line {number}: not JSON: {exc}") from exc
        id = record.get("_id", record.get("id")) if isinstance(record, dict) else None
        if id is None or not isinstance(record.get("text"), str):
            raise QuestionsError(f"{path}, line {number}: expected an object with '_id' or 'id', and 'text'")
        yield str(id), record["text"]


def _sgml(text: str, path: Path) -> Iterator[tuple[str, str]]:
    for top in _TOP.finditer(text):
        number = _NUMBER.search(top[1])
        fields = (field.search(top[1]) for field in (_TITLE, _DESCRIPTION))
        asked = next((found[1] for found in fields if found and found[1].strip()), "")
        if number is None or not asked:
            line = text.count("\n", 0, top.start()) + 1
            missing = "<num>" if number is None else "<title> and no <desc>"
            raise QuestionsError(f"{path}, line {line}: the <top> that begins here has no {missing}")
        yield number[1], " ".join(asked.split())


def read_qrels(path: Path) -> Iterator[tuple[str, str, float]]:
    """Yield question id, document id and grade of each judgement.

    Raises
    ------
    QuestionsError
        With the number of the line that cannot be understood.
    """
    for number, line in _lines(read_text(path)):
        columns = line.split("\t") if "\t" in line.strip() else line.split()
        grade = _grade(columns[-1])
        if len(columns) not in (3, 4) or (grade is None and number > 1):
            raise QuestionsError(
                f"{path}, line {number}: got {line.strip()[:80]!r}, expected 'question iteration document grade' or "
                "'question document grade'; separate by tabs where a document has blanks in its name"
            )
        if grade is not None:  # else the heading
            yield columns[0].strip(), columns[-2].strip(), grade


def _grade(text: str) -> float | None:
    try:
        grade = float(text)
    except ValueError:
        return None
    return grade if math.isfinite(grade) else None
