"""Question sets with judgements: DataFrames, records, SQuAD JSON; the files of TREC are read in `trec`.

Nothing is left out silently: a question that cannot count is in `QuestionSet.skipped`, with the reason, and a file
that cannot be understood is refused with the line that is wrong.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oraculo_kit.errors import QuestionsError, SourceNotFoundError
from oraculo_kit.evaluating.judgements import WAYS, By, Judgement

NO_JUDGEMENT = "without a judgement"
NOT_RELEVANT = "with nothing relevant (grade 0 or below)"
NO_TEXT = "without a text"
IMPOSSIBLE = "that their passage does not answer (is_impossible)"

# The first that a table has is taken. `id` comes last: beside one of the others it most often numbers the questions.
_COLUMNS: Mapping[By, tuple[str, ...]] = {
    "text": ("text", "context"),
    "source": ("source",),
    "answer": ("answer",),
    "chunk": ("id",),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what answers it, highest grade first."""

    id: str
    text: str
    judgements: tuple[Judgement, ...]


@dataclass(frozen=True)
class QuestionSet:
    """Questions that can be counted, and those that cannot.

    Attributes
    ----------
    name : str
    by : {"source", "chunk", "text", "answer"}
        What their judgements name.
    questions : tuple of Question
    skipped : tuple of (str, str)
        Id or text of a question, and the reason why it does not count.
    """

    name: str
    by: By
    questions: tuple[Question, ...]
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass
class Collector:
    """Puts a question set together: merges what is named twice, sets aside what cannot count."""

    name: str
    by: By
    _texts: dict[str, str] = field(default_factory=dict)
    _judged: dict[str, dict[tuple[str, ...], Judgement]] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)

    def add(self, id: str, text: str) -> None:
        """Add a question."""
        self._texts.setdefault(id, text.strip())

    def judge(self, id: str, judgement: Judgement) -> None:
        """Add a judgement of it; of two that name the same the higher grade stands."""
        if judgement.grade <= 0:
            self._reasons.setdefault(id, NOT_RELEVANT)
            return
        judged = self._judged.setdefault(id, {})
        known = judged.get(judgement.wanted)
        if known is None or known.grade < judgement.grade:
            judged[judgement.wanted] = judgement

    def set_aside(self, id: str, reason: str) -> None:
        """Say why a question has no judgement."""
        self._reasons[id] = reason

    def result(self) -> QuestionSet:
        """Return the set.

        Raises
        ------
        QuestionsError
            When no question can be counted.
        """
        questions, skipped = [], []
        for id, text in self._texts.items():
            judged = sorted(self._judged.get(id, {}).values(), key=lambda one: -one.grade)
            if text and judged:
                questions.append(Question(id, text, tuple(judged)))
            else:
                reason = self._reasons.get(id, NO_JUDGEMENT) if text else NO_TEXT
                skipped.append((id if id == text or not text else f"{id}: {text}", reason))
        if not questions:
            of = f"; {len(skipped)} {skipped[0][1]}" if skipped else ""
            raise QuestionsError(f"{self.name} has no question that can be judged{of}; expected one at least")
        return QuestionSet(self.name, self.by, tuple(questions), tuple(skipped))


def load_questions(
    questions: Any, *, qrels: str | os.PathLike[str] | None = None, by: By | None = None
) -> QuestionSet:
    """Read a question set from whatever it is in; parameters and errors as `oraculo_kit.evaluate`.

    A `QuestionSet` is returned as it is.
    """
    if isinstance(questions, QuestionSet):
        return questions
    if by is not None and by not in WAYS:
        raise QuestionsError(f"by is {by!r}, expected one of {', '.join(WAYS)}")
    if isinstance(questions, str | os.PathLike):
        return _from_path(Path(questions).expanduser(), qrels, by)
    if qrels is not None:
        raise QuestionsError(
            f"got qrels with {type(questions).__name__}, expected a file of topics with them"
        )
    if hasattr(questions, "to_dict") and hasattr(questions, "columns"):
        frame = questions.reset_index(drop=True)
        return from_records(_records_of(frame), by, "the DataFrame", list(map(str, frame.columns)))
    if isinstance(questions, Sequence) and all(isinstance(row, Mapping) for row in questions):
        return from_records(questions, by, "the list")
    raise QuestionsError(
        f"got {type(questions).__name__} as questions, expected a DataFrame, a list of dicts, the path of a SQuAD "
        "JSON file, or topics with qrels"
    )


def _from_path(path: Path, qrels: str | os.PathLike[str] | None, by: By | None) -> QuestionSet:
    from oraculo_kit.evaluating.trec import from_folder, from_topics

    if not path.exists():
        raise SourceNotFoundError(f"there is no file of questions at {path}; check the path")
    if path.is_dir():
        return from_folder(path, qrels, by)
    if qrels is not None:
        return from_topics(path, Path(qrels).expanduser(), by)
    if path.suffix.lower() != ".json":
        raise QuestionsError(
            f"got {path} without judgements, expected a SQuAD JSON file, or topics with qrels=; read a table with "
            "pandas and give the DataFrame"
        )
    return from_json(path, by)


def read_text(path: Path) -> str:
    """Return the text of a file of questions or judgements."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as exc:
        raise SourceNotFoundError(f"there is no file {path}; check the path") from exc
    except OSError as exc:
        raise QuestionsError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise QuestionsError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from exc


def from_json(path: Path, by: By | None) -> QuestionSet:
    """Read a JSON file: SQuAD, or a list of records with the columns of a DataFrame."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as exc:
        raise QuestionsError(f"{path}, line {exc.lineno}: not JSON: {exc.msg}") from exc
    except RecursionError as exc:
        raise QuestionsError(f"{path}: the JSON is nested too deeply to be a question set") from exc
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return from_records(content, by, str(path))
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise QuestionsError(
            f"{path} is neither SQuAD (an object with a list 'data') nor a list of objects with 'question'"
        )
    return _from_squad(content["data"], path, by)


def _from_squad(articles: list[Any], path: Path, by: By | None) -> QuestionSet:
    if by not in (None, "text", "answer"):
        raise QuestionsError(
            f"by is {by!r}, but SQuAD names no {by}; expected 'text' (the passage) or 'answer'"
        )
    collector = Collector(str(path), by or "text")
    for place, article in enumerate(articles):
        where = f"data[{place}]"
        for at, paragraph in enumerate(_part(article, "paragraphs", list, path, where)):
            inside = f"{where}.paragraphs[{at}]"
            context = _part(paragraph, "context", str, path, inside)
            for number, asked in enumerate(_part(paragraph, "qas", list, path, inside)):
                text = _part(asked, "question", str, path, f"{inside}.qas[{number}]")
                id = str(asked.get("id") or f"{inside}.qas[{number}]")
                answers = _answers(asked, path, f"{inside}.qas[{number}]")
                collector.add(id, text)
                if asked.get("is_impossible"):
                    collector.set_aside(id, IMPOSSIBLE)
                elif collector.by == "answer":
                    if answers:
                        collector.judge(id, Judgement(answers))
                elif context.strip():
                    collector.judge(id, Judgement((context,), answers=answers))
    return collector.result()


def _part(holder: Any, name: str, kind: type, path: Path, where: str) -> Any:
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        raise QuestionsError(f"{path}: {where} has no {name!r} of type {kind.__name__}, as SQuAD has")
    return value


def _answers(asked: dict[str, Any], path: Path, where: str) -> tuple[str, ...]:
    found = []
    for answer in asked.get("answers") or []:
        text = _part(answer, "text", str, path, f"{where}.answers").strip()
        if text and text not in found:
            found.append(text)
    return tuple(found)


def _records_of(frame: Any) -> list[dict[str, Any]]:
    plain = frame.astype(object)
    records: list[dict[str, Any]] = plain.where(plain.notna(), None).to_dict("records")
    return records


def from_records(
    rows: Sequence[Mapping[str, Any]], by: By | None, name: str, columns: Sequence[str] | None = None
) -> QuestionSet:
    """Read rows: ``question``, one of the columns that name an answer, optionally ``relevance``."""
    if not rows:
        raise QuestionsError(f"{name} is empty, expected one question at least")
    known = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    if "question" not in known:
        raise QuestionsError(f"{name} has the columns {', '.join(known)}, but no column 'question'")
    way, column = _column(known, by, name)
    collector = Collector(name, way)
    for place, row in enumerate(rows):
        question = row.get("question")
        text = "" if question is None else str(question).strip()
        id = text or f"row {place}"
        collector.add(id, text)
        wanted = _wanted(row.get(column))
        if wanted:
            grade = _grade(row.get("relevance"), name, place)
            collector.judge(id, Judgement(wanted, grade))
    return collector.result()


def _column(known: Sequence[str], by: By | None, name: str) -> tuple[By, str]:
    for way, columns in _COLUMNS.items():
        for column in columns:
            if column in known and by in (None, way):
                return way, column
    expected = [column for way, columns in _COLUMNS.items() for column in columns if by in (None, way)]
    raise QuestionsError(
        f"{name} has the columns {', '.join(known)}; to judge hits it needs {' or '.join(map(repr, expected))}"
        + (f" (by={by!r})" if by else "")
    )


def _wanted(value: Any) -> tuple[str, ...]:
    """Return what a cell names: one thing, or a list of alternatives; nothing for an empty cell."""
    values: Iterable[Any] = value if isinstance(value, list | tuple | set | frozenset) else [value]
    return tuple(dict.fromkeys(str(one) for one in values if one is not None and str(one).strip()))


def _grade(value: Any, name: str, row: int) -> float:
    if value is None:
        return 1.0
    try:
        grade = float(value)
    except (TypeError, ValueError):
        grade = math.nan
    if not math.isfinite(grade):
        raise QuestionsError(f"{name}, row {row}: relevance is {value!r}, expected a number")
    return grade
