"""Measure settings of a search on questions with known answers, and say how sure the figures are."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.display import CLASSES, escape, html_table, one_line, text_table
from oraculo_kit.errors import QueryError, QuestionsError
from oraculo_kit.evaluating import measures
from oraculo_kit.evaluating.configurations import Configuration, Configurations, Store, configured
from oraculo_kit.evaluating.judgements import By, Matcher, judge, matcher
from oraculo_kit.evaluating.questions import Question, QuestionSet, load_questions
from oraculo_kit.storage.base import MODES
from oraculo_kit.storage.snapshot import check_k

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.evaluating.measures import Counts, Floats

_BATCH = 1_000  # questions asked at once: the hits of more would fill memory with texts
_NAME = 30  # columns of a configuration's name that are shown
_WIDE = 200  # the table of figures is as wide as it is: figures must not be cut


def evaluate(
    questions: Any,
    configurations: Configurations = MODES,
    k: int = 10,
    *,
    by: By | None = None,
    match: str | None = None,
    qrels: str | os.PathLike[str] | None = None,
    cutoffs: Sequence[int] = (1, 5),
    store: Store | None = None,
    timed: int = 100,
) -> Evaluation:
    """Measure how well each configuration finds what is known to answer the questions.

    Parameters
    ----------
    questions : DataFrame, sequence of dict, or path
        - A DataFrame or list of dicts with the column ``question`` and one of ``text`` (or ``context``: the passage),
          ``source``, ``answer`` and ``id`` (of the chunk); a cell may hold a list of alternatives. Several rows of one
          question are several things to find. ``relevance`` is their grade (by default 1; 0 and below: not
          relevant).
        - A SQuAD JSON file: what is to be found is the passage of the question; or a JSON list of such dicts.
        - TREC topics (SGML, ``id<tab>question``, or JSON lines) with `qrels`; or a folder with both
          (``queries.jsonl``, ``qrels/test.tsv`` and the like).
    configurations : dict of str to dict, or sequence of dict or str
        As in `compare`. The first is the one that others are compared with.
    k : int
        Places looked at, and hits asked for where a configuration says nothing else.
    by : {"text", "source", "answer", "chunk"}, optional
        What makes a hit relevant: it comes from the passage, from the source (by path, end of path or name, with or
        without extension), holds the answer, or has the id; `oraculo_kit.evaluating.judgements` says it exactly. By default what
        the questions name, in this order; for SQuAD the passage, for TREC the source.
    match : str, optional
        With ``by="source"``: a metadata field that holds the name, instead of the source's key.
    qrels : path, optional
        Judgements of TREC topics.
    cutoffs : sequence of int
        Places of recall and hit besides `k`; those above `k` are left out.
    store : VetorStorage or path, optional
        As in `compare`.
    timed : int
        Questions asked once more, one by one, to measure the time of a search; evenly spread, configurations in
        turn. 0 for none.

    Returns
    -------
    Evaluation
        A table; ``.to_pandas()``, ``.per_question``, ``.skipped``.

    Raises
    ------
    QuestionsError
        For questions or judgements that cannot be understood; names file and line.
    QueryError
        For a configuration or k that cannot be understood.
    SourceNotFoundError
        When there is no such file.

    Warns
    -----
    UserWarning
        When no configuration found anything relevant: most often the base does not hold what the questions are about.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> nota = Document("Como emitir nota fiscal", metadata={"source": "ajuda/nota.md"})
    >>> gato = Document("O gato dorme no telhado", metadata={"source": "gato.md"})
    >>> _ = oraculo.ingest([nota, gato], progress=False)
    >>> perguntas = [{"question": "emissão de notas", "source": "nota.md"}, {"question": "gato", "source": "gato"}]
    >>> found = oraculo.evaluate(perguntas, ["hybrid", {"mode": "vector", "k": 1}], timed=0)
    >>> frame = found.to_pandas()
    >>> frame[frame["measure"] == "ndcg@10"][["configuration", "value"]]
      configuration  value
    0        hybrid    1.0
    8   vector, k=1    1.0
    """
    check_k(k)
    _check_cutoffs(cutoffs)
    if not isinstance(timed, int) or timed < 0:
        raise QueryError(f"timed is {timed!r}, expected a number of questions from 0")
    asked = load_questions(questions, qrels=qrels, by=by)
    if match is not None and asked.by != "source":
        raise QuestionsError(
            f"match={match!r} is for judgements that name sources, but these are matched by {asked.by}"
        )
    matches = matcher(asked.by, match)
    with configured(configurations, k, store) as settings:
        judged = [_judge_all(setting, asked.questions, k, matches) for setting in settings]
        seconds = _time(settings, asked.questions, timed)
    names, values = _measure(judged, asked.questions, k, cutoffs)
    found = Evaluation(
        configurations=tuple(setting.name for setting in settings),
        questions=asked,
        k=k,
        measures=names,
        values=values,
        places=np.stack([measures.first_place(one.found) for one in judged]),
        seconds=seconds,
        match=match,
    )
    if not found.places.any():
        warnings.warn(
            f"nothing relevant was found for any of {len(asked.questions)} questions, matched by {found.matched_by}: "
            "does the base hold what they are about, under these names? See by= and match=",
            stacklevel=2,
        )
    return found


@dataclass(frozen=True)
class _Judged:
    """What one configuration found: arrays of shape (questions, k), see `oraculo_kit.evaluating.measures`."""

    gains: Floats
    found: Counts


def _judge_all(setting: Configuration, questions: Sequence[Question], k: int, matches: Matcher) -> _Judged:
    gains, found = np.zeros((len(questions), k)), np.zeros((len(questions), k), np.int64)
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        for row, results in enumerate(setting.ask([question.text for question in batch]), start):
            hits = results[:k]
            gained, new = judge(hits, questions[row].judgements, matches)
            gains[row, : len(hits)], found[row, : len(hits)] = gained, new
    return _Judged(gains, found)


def _time(settings: Sequence[Configuration], questions: Sequence[Question], count: int) -> Floats:
    """Return seconds per search, shape (configurations, searches)."""
    if not count:
        return np.zeros((len(settings), 0))
    spread = np.unique(np.linspace(0, len(questions) - 1, min(count, len(questions))).round().astype(int))
    seconds = np.zeros((len(settings), len(spread)))
    for column, place in enumerate(spread.tolist()):
        # In turn, so that what else the machine does falls on all of them alike.
        for row, setting in enumerate(settings):
            started = time.perf_counter()
            setting.ask_one(questions[place].text)
            seconds[row, column] = time.perf_counter() - started
    return seconds


def _measure(
    judged: Sequence[_Judged], questions: Sequence[Question], k: int, cutoffs: Sequence[int]
) -> tuple[tuple[str, ...], Floats]:
    """Return the names of the measures and their values, shape (configurations, measures, questions)."""
    relevant = np.array([len(question.judgements) for question in questions], np.int64)
    ideal = np.zeros((len(questions), min(k, int(relevant.max()))))
    for row, question in enumerate(questions):
        grades = [judgement.grade for judgement in question.judgements][: ideal.shape[1]]
        ideal[row, : len(grades)] = grades
    places = sorted({k, *(cutoff for cutoff in cutoffs if cutoff <= k)})
    names = [f"ndcg@{k}", f"mrr@{k}", *(f"{name}@{at}" for name in ("recall", "hit") for at in places)]
    values = [
        [
            measures.ndcg(one.gains, ideal, k),
            measures.reciprocal_rank(one.found, k),
            *(measures.recall(one.found, relevant, at) for at in places),
            *(measures.hit(one.found, at) for at in places),
        ]
        for one in judged
    ]
    return tuple(names), np.array(values)


def _check_cutoffs(cutoffs: Any) -> None:
    given = list(cutoffs) if isinstance(cutoffs, Iterable) else [None]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 1 for one in given):
        raise QueryError(f"cutoffs is {cutoffs!r}, expected places from 1, such as (1, 5)")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Measures of configurations over the same questions, with 95 % bootstrap intervals.

    Intervals are percentile intervals over 1,000 samples of the questions, drawn with a fixed seed; differences are
    paired, that is question by question (`oraculo_kit.evaluating.measures`). They speak of other questions of the same kind,
    asked of the same base.

    Attributes
    ----------
    configurations : tuple of str
        Their names; the first is what the others are compared with.
    questions : QuestionSet
        What was asked, and what was skipped.
    k : int
    measures : tuple of str
        Names such as ``"ndcg@10"``.
    values : numpy.ndarray
        float64, shape (configurations, measures, questions).
    places : numpy.ndarray
        int64, shape (configurations, questions): place of the first relevant hit, 0 where there is none.
    seconds : numpy.ndarray
        float64, shape (configurations, searches): time of single searches, embedding the question included.
    match : str or None
        The metadata field that names were compared with.
    """

    configurations: tuple[str, ...]
    questions: QuestionSet
    k: int
    measures: tuple[str, ...]
    values: Floats
    places: Counts
    seconds: Floats
    match: str | None = None

    @property
    def matched_by(self) -> str:
        """What made a hit relevant."""
        return f"metadata field {self.match!r}" if self.match is not None else self.questions.by

    @cached_property
    def _means(self) -> Floats:
        """Bootstrap means, shape (resamples, configurations, measures)."""
        rows = self.values.reshape(-1, self.values.shape[2])
        return measures.bootstrap_means(rows).reshape(-1, *self.values.shape[:2])

    @cached_property
    def _intervals(self) -> tuple[Floats, Floats]:
        return measures.percentile_interval(self._means)

    @cached_property
    def _differences(self) -> tuple[Floats, Floats]:
        return measures.percentile_interval(self._means - self._means[:, :1])

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with one row per configuration and measure.

        Returns
        -------
        pandas.DataFrame
            Columns configuration, measure, value, low, high (the interval of the value), difference,
            difference_low, difference_high (against the first configuration; missing for itself). The last
            measures are p50_ms and p95_ms, milliseconds of one search, without intervals.
        """
        import pandas as pd

        low, high = self._intervals
        below, above = self._differences
        average = self.values.mean(axis=2)
        rows: list[list[object]] = []
        for row, name in enumerate(self.configurations):
            for column, measure in enumerate(self.measures):
                figures = [average[row, column], low[row, column], high[row, column]]
                against = [average[row, column] - average[0, column], below[row, column], above[row, column]]
                rows.append([name, measure, *figures, *(against if row else [None] * 3)])
            for measure, time_ms in zip(("p50_ms", "p95_ms"), self._latency(row) or (), strict=False):
                rows.append([name, measure, time_ms, *[None] * 5])
        columns = ["configuration", "measure", "value", "low", "high"]
        columns += ["difference", "difference_low", "difference_high"]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype(dict.fromkeys(columns[2:], "float64"))

    @property
    def per_question(self) -> pd.DataFrame:
        """One row per question: which failed under which configuration.

        Columns id, question; for each configuration "NAME rank", the place of the first relevant hit (missing where
        none stands in the first k), and "NAME ndcg@k".
        """
        import pandas as pd

        columns: dict[str, object] = {
            "id": [question.id for question in self.questions.questions],
            "question": [question.text for question in self.questions.questions],
        }
        for row, name in enumerate(self.configurations):
            columns[f"{name} rank"] = pd.array(
                [place or None for place in self.places[row].tolist()], dtype="Int64"
            )
            columns[f"{name} {self.measures[0]}"] = self.values[row, 0]
        return pd.DataFrame(columns)

    @property
    def skipped(self) -> pd.DataFrame:
        """The questions that do not count, with the reason: columns question, reason."""
        import pandas as pd

        return pd.DataFrame(list(self.questions.skipped), columns=["question", "reason"])

    def summary(self) -> str:
        """Return one line: how many questions, how they were judged, how many were skipped and why."""
        count = len(self.questions.questions)
        parts = [f"{count} question{'s' if count != 1 else ''} matched by {one_line(self.matched_by, _NAME)}"]
        lost = int((~self.places.any(axis=0)).sum())
        if lost:
            parts.append(f"{lost} found by no configuration")
        reasons = Counter(reason for _, reason in self.questions.skipped)
        parts += [f"{number} skipped {reason}" for reason, number in reasons.items()]
        return f"{'; '.join(parts)}. [95 % bootstrap interval, {measures.RESAMPLES:,} samples]"

    def differences(self) -> list[str]:
        """Return a line per configuration but the first: better or worse in nDCG, and how surely."""
        low, high = self._differences
        average = self.values.mean(axis=2)
        first = one_line(self.configurations[0], _NAME)
        lines = []
        for row, name in enumerate(self.configurations[1:], 1):
            gap, ends = average[row, 0] - average[0, 0], (low[row, 0], high[row, 0])
            if ends[0] <= 0 <= ends[1]:
                said = f"cannot be told from {first}: {gap:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]"
            else:
                near, far = sorted(map(abs, ends))
                said = f"is {'better' if gap > 0 else 'worse'} than {first} by {abs(gap):.3f} [{near:.3f}, {far:.3f}]"
            lines.append(f"{one_line(name, _NAME)} {said} in {_title(self.measures[0])}")
        return lines

    def _latency(self, row: int) -> tuple[float, float] | None:
        if not self.seconds.shape[1]:
            return None
        middle, slow = np.percentile(self.seconds[row], [50, 95]) * 1000
        return float(middle), float(slow)

    def _table(self) -> tuple[list[str], list[list[object]]]:
        low, high = self._intervals
        average = self.values.mean(axis=2)
        shown = [
            column
            for column, name in enumerate(self.measures)
            if column < 2 or name == f"recall@{self.k}" or (name.startswith("hit@") and name != "hit@1")
        ]
        header = ["configuration", *(_title(self.measures[column]) for column in shown)]
        header += ["p50 ms", "p95 ms"] if self.seconds.shape[1] else []
        rows: list[list[object]] = []
        for row, name in enumerate(self.configurations):
            cells: list[object] = [one_line(name, _NAME)]
            for column in shown:
                interval = f" [{low[row, column]:.3f}, {high[row, column]:.3f}]" if column == 0 else ""
                cells.append(f"{average[row, column]:.4f}{interval}")
            cells += [f"{value:.1f}" for value in self._latency(row) or ()]
            rows.append(cells)
        return header, rows

    def __repr__(self) -> str:
        return "\n".join([text_table(*self._table(), width=_WIDE), *self.differences(), self.summary()])

    def _repr_html_(self) -> str:
        below = [f'<div class="{CLASSES}">{escape(line)}</div>' for line in self.differences()]
        return html_table(*self._table(), caption=self.summary()) + "".join(below)


def _title(measure: str) -> str:
    name, _, place = measure.partition("@")
    return f"{ {'ndcg': 'nDCG', 'mrr': 'MRR'}.get(name, name) }@{place}"
