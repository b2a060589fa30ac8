"""What users said about answers: one row per verdict, in the catalog beside the chunks that the answers cite.

Chunk ids stand in a row as plain text: feedback outlives its chunks, until ``compact(purge=True)`` erases what cites
a chunk that is no more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from oraculo_kit.storage.catalog import Catalog

__all__ = ["Feedback", "Verdict", "insert_feedback", "read_feedback"]

Verdict = Literal["good", "bad", "corrected"]

_COLUMNS = "at, question, answer, verdict, correction, model, sources"


@dataclass(frozen=True, slots=True)
class Feedback:
    """One verdict on one answer.

    Attributes
    ----------
    at : str
        When, ISO 8601 in UTC.
    question, answer : str
    verdict : {"good", "bad", "corrected"}
    correction : str
        The right answer for ``"corrected"``; a comment, maybe empty, for ``"bad"``.
    model : str
        Name of the chat model; empty for extracts.
    sources : tuple of str
        Ids of the chunks that the answer cited.

    Raises
    ------
    ValueError
        For another verdict.
    """

    at: str
    question: str
    answer: str
    verdict: Verdict
    correction: str = ""
    model: str = ""
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"verdict is {self.verdict!r}, expected one of {', '.join(get_args(Verdict))}")


def insert_feedback(catalog: Catalog, feedback: Feedback) -> int:
    """Add a row and return its number; part of the write transaction that is open."""
    from oraculo_kit.storage.records import clean_text

    texts = (feedback.question, feedback.answer, feedback.verdict, feedback.correction, feedback.model)
    values = (feedback.at, *map(clean_text, texts), json.dumps(list(feedback.sources)))
    return int(
        catalog.one(f"INSERT INTO feedback({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id", values)
    )


def read_feedback(catalog: Catalog) -> list[Feedback]:
    """Return all rows, oldest first."""
    return [
        Feedback(at, question, answer, verdict, correction, model, tuple(json.loads(sources)))
        for at, question, answer, verdict, correction, model, sources in catalog.rows(
            f"SELECT {_COLUMNS} FROM feedback ORDER BY id"
        )
    ]
