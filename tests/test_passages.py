"""What a chat model reads of the hits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oraculo_kit.answering.passages import select_passages
from oraculo_kit.storage.results import Hit

TEXT = "Um texto longo que foi cortado em pedaços que se sobrepõem um pouco."


def hit(
    ordinal: int, start: int, end: int, score: float = 0.5, source: str = "a.md", text: str = TEXT
) -> Hit:
    return Hit(f"{source}{ordinal}", text[start:end], score, source, {"start": start, "end": end}, ordinal)


def test_neighbours_that_overlap_become_one_passage_in_the_order_of_the_source() -> None:
    [passage] = select_passages([hit(1, 20, 50, 0.9), hit(2, 40, 68), hit(0, 0, 30)])
    assert passage.text == TEXT
    assert [one.ordinal for one in passage.hits] == [0, 1, 2]
    assert passage.hit.ordinal == 1
    assert (passage.start, passage.end) == (0, 68)


@pytest.mark.parametrize(
    "other",
    [
        hit(2, 20, 50),  # not the next chunk
        hit(1, 31, 50),  # no overlap
        hit(1, 20, 50, source="b.md"),
        hit(1, 20, 50, text=TEXT.upper()),  # offsets of another page: the texts do not agree
        Hit("x", TEXT[20:50], 0.5, "a.md", {"start": "20", "end": None}, 1),
    ],
)
def test_other_hits_stay_apart(other: Hit) -> None:
    assert len(select_passages([hit(0, 0, 30), other])) == 2


def test_a_text_that_stands_twice_is_read_once() -> None:
    copies = [
        hit(0, 0, 30),
        hit(0, 0, 30, source="b.md"),
        Hit("c", " ".join(TEXT[:30].split("\n")), 0.1, "c.md", {}),
    ]
    [passage] = select_passages(copies)
    assert passage.ids == ("a.md0",)
    assert select_passages([Hit("1", "  \n", 1.0, "a.md", {})]) == ()


def test_the_budget_takes_the_best_that_fit() -> None:
    hits = [Hit(str(place), str(place) * size, 1.0, "a.md", {}) for place, size in enumerate([50, 60, 40])]
    passages = select_passages(hits, 100)
    assert [passage.ids for passage in passages] == [("0",), ("2",)]
    assert sum(len(passage.text) for passage in passages) <= 100


def test_only_the_best_alone_is_cut() -> None:
    [passage] = select_passages([hit(0, 0, 60), hit(1, 50, 68)], 20)
    assert (passage.text, passage.cut) == (TEXT[:20], True)
    assert (passage.start, passage.end) == (0, 20)


def test_the_neighbours_that_a_search_read_are_read_by_the_model_too() -> None:
    inner = replace(hit(1, 20, 50), before="Antes. ", after=" Depois.")
    passages = select_passages([inner, hit(2, 40, 68)])
    assert [passage.text for passage in passages] == [f"Antes. {TEXT[20:50]} Depois.", TEXT[40:]]
    assert (passages[0].start, passages[0].end) == (None, None)
