"""Measured settings: figures that a hand computes, intervals, and nothing left out silently."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.errors import QueryError, QuestionsError
from oraculo_kit.evaluating.evaluation import Evaluation
from oraculo_kit.storage import VetorStorage, open_storage
from tests.storage.kit import TinyEmbeddings, texts

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"


class OneHot:
    """A LangChain embedder whose vectors point at the number that a text ends with."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        ending = text.rsplit(" ", 1)[-1]
        place = int(ending) if ending.isdigit() else 7
        return [1 / (1 + abs(place - axis)) ** 2 for axis in range(8)]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[VetorStorage]:
    """Return a store of the sources 0.md ... 6.md; "x 2" finds 2.md first, then 1.md and 3.md, and so on."""
    with open_storage(tmp_path / "linha", OneHot()) as store:
        store.write(
            [Document(f"texto {n}", metadata={"source": f"docs/{n}.md", "docno": n}) for n in range(7)]
        )
        yield store


@pytest.fixture
def real(tmp_path: Path) -> Iterator[VetorStorage]:
    """Return a store of real paragraphs with vectors that mean nothing: only words find anything."""
    with open_storage(tmp_path / "base", TinyEmbeddings()) as store:
        store.write([Document(text, metadata={"source": f"{n}.md"}) for n, text in enumerate(texts())])
        yield store


def value(found: Evaluation, configuration: str, measure: str, column: str = "value") -> float:
    frame = found.to_pandas().set_index(["configuration", "measure"])
    return float(frame.loc[(configuration, measure), column])


def test_the_figures_are_what_a_hand_computes(line: VetorStorage) -> None:
    ranked = [hit.source[5] for hit in line.search("x 2", 4, mode="vector")]
    rows = [
        {"question": "x 2", "source": f"{ranked[0]}.md", "relevance": 1},
        {"question": "x 2", "source": f"{ranked[2]}.md", "relevance": 3},
        {"question": "x 2", "source": "fora.md", "relevance": 2},
        {"question": "y 2", "source": f"{ranked[1]}.md"},
    ]
    found = oraculo.evaluate(rows, ["vector"], k=4, cutoffs=(1, 2, 9), store=line, timed=0)
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    first = (1 + 3 / 2) / ideal
    assert value(found, "vector", "ndcg@4") == pytest.approx((first + 1 / math.log2(3)) / 2)
    assert value(found, "vector", "mrr@4") == pytest.approx((1 + 1 / 2) / 2)
    assert value(found, "vector", "recall@1") == pytest.approx((1 / 3 + 0) / 2)
    assert value(found, "vector", "recall@2") == pytest.approx((1 / 3 + 1) / 2)
    assert value(found, "vector", "recall@4") == pytest.approx((2 / 3 + 1) / 2)
    assert value(found, "vector", "hit@1") == 0.5
    assert not any("@9" in measure for measure in found.measures)


def test_a_configuration_with_a_smaller_k_finds_what_stands_in_it(line: VetorStorage) -> None:
    rows = [{"question": f"x {n}", "source": f"{n + 1}.md"} for n in range(5)]
    configurations = ["vector", {"mode": "vector", "k": 1}]
    found = oraculo.evaluate(rows, configurations, store=line, timed=0)
    assert value(found, "vector", "hit@10") == 1
    with pytest.warns(UserWarning, match="nothing relevant was found"):
        alone = oraculo.evaluate(rows, configurations[1:], store=line, timed=0)
    assert value(alone, "vector, k=1", "hit@10") == 0


def test_hits_beyond_k_do_not_count(line: VetorStorage) -> None:
    rows = [{"question": f"x {n}", "source": f"{6 - n}.md"} for n in range(7)]
    configurations = {"2": {"mode": "vector", "k": 2}, "7": {"mode": "vector", "k": 7}}
    found = oraculo.evaluate(rows, configurations, k=2, store=line, timed=0)
    assert np.array_equal(found.values[0], found.values[1])


def test_which_questions_failed_under_which_configuration(line: VetorStorage) -> None:
    rows = [{"question": f"x {n}", "source": f"docs/{n}.md"} for n in range(7)]
    configurations = {
        "todos": {"mode": "vector"},
        "sem 3": {"mode": "vector", "filter": {"docno": {"$ne": 3}}},
    }
    found = oraculo.evaluate(rows, configurations, store=line, timed=0)
    frame = found.per_question
    assert list(frame.columns) == [
        "id", "question", "todos rank", "todos ndcg@10", "sem 3 rank", "sem 3 ndcg@10"
    ]  # fmt: skip
    assert frame["todos rank"].tolist() == [1] * 7
    assert list(frame.loc[frame["sem 3 rank"].isna(), "question"]) == ["x 3"]
    assert value(found, "sem 3", "ndcg@10", "difference") == pytest.approx(-1 / 7)
    # One question of seven: that it is worse at all cannot be said.
    assert "sem 3 cannot be told from todos: -0.143 [-0.429, +0.000] in nDCG@10" in repr(found)


def test_intervals_hold_the_value_and_a_clear_difference_is_called_better(real: VetorStorage) -> None:
    rows = [{"question": text[:60], "text": text} for text in texts()]
    found = oraculo.evaluate(rows, ["vector", "text"], store=real, timed=0)
    frame = found.to_pandas()
    assert ((frame["low"] <= frame["value"]) & (frame["value"] <= frame["high"])).all()
    against = frame[frame["configuration"] == "text"]
    assert (against["difference_low"] <= against["difference"]).all()
    assert (against["difference"] <= against["difference_high"]).all()
    assert frame.loc[frame["configuration"] == "vector", "difference"].isna().all()
    assert value(found, "text", "ndcg@10", "difference_low") > 0.2
    (line_,) = found.differences()
    assert line_.startswith("text is better than vector by 0.")
    pd.testing.assert_frame_equal(
        frame, oraculo.evaluate(rows, ["vector", "text"], store=real, timed=0).to_pandas()
    )


def test_a_squad_file_finds_its_passages_in_a_base_that_is_cut_otherwise(
    tmp_path: Path, real: VetorStorage
) -> None:
    passages = [text for text in texts() if len(text) > 200][:8]
    articles = [
        {
            "title": "",
            "paragraphs": [
                {
                    "context": passage,
                    "qas": [
                        {"id": f"q{n}", "question": passage[40:120], "answers": [{"text": passage[60:80]}]},
                        {"id": f"i{n}", "question": "?", "is_impossible": True, "answers": []},
                    ],
                }
            ],
        }
        for n, passage in enumerate(passages)
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")
    found = oraculo.evaluate(path, ["text"], store=real, timed=0)
    assert found.places.tolist() == [[1] * 8]
    assert len(found.skipped) == 8
    assert "8 questions matched by text; 8 skipped that their passage does not answer" in found.summary()
    with open_storage(tmp_path / "metades", TinyEmbeddings()) as halves:
        cuts = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in passages]
        halves.write(
            [
                Document(part, metadata={"source": f"{n}"})
                for n, part in enumerate(part for cut in cuts for part in cut)
            ]
        )
        again = oraculo.evaluate(str(path), ["text"], store=halves, timed=0)
    assert again.places.all()
    # Both halves are the passage: finding both is no better than finding one.
    assert value(again, "text", "ndcg@10") <= 1


def test_trec_documents_are_sources_chunks_or_a_metadata_field(tmp_path: Path, line: VetorStorage) -> None:
    (tmp_path / "topics.tsv").write_text("1\tx 3\n2\tx 5\n3\tx 1\n", encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("1 0 3 1\n2 0 5 2\n2 0 9 0\n", encoding="utf-8")
    topics, qrels = tmp_path / "topics.tsv", tmp_path / "qrels.txt"
    by_stem = oraculo.evaluate(topics, ["vector"], qrels=qrels, store=line, timed=0)
    by_field = oraculo.evaluate(topics, ["vector"], qrels=qrels, match="docno", store=line, timed=0)
    assert by_stem.places.tolist() == by_field.places.tolist() == [[1, 1]]
    assert "matched by metadata field 'docno'; 1 skipped without a judgement" in by_field.summary()
    with pytest.warns(UserWarning, match="matched by chunk: does the base hold"):
        oraculo.evaluate(topics, ["vector"], qrels=qrels, by="chunk", store=line, timed=0)


def test_a_search_is_timed_one_by_one_on_a_sample(line: VetorStorage) -> None:
    rows = [{"question": f"x {n}", "source": f"{n}.md"} for n in range(7)]
    found = oraculo.evaluate(rows, ["vector", "text"], store=line, timed=3)
    assert found.seconds.shape == (2, 3)
    assert 0 < value(found, "text", "p50_ms") <= value(found, "text", "p95_ms") < 10_000
    assert math.isnan(value(found, "text", "p50_ms", "low"))
    assert "p95 ms" in repr(found)
    assert oraculo.evaluate(rows, ["vector"], store=line, timed=99).seconds.shape == (1, 7)
    assert "p95 ms" not in repr(oraculo.evaluate(rows, ["vector"], store=line, timed=0))


def test_questions_come_in_batches_without_changing_a_figure(
    line: VetorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": f"x {n}", "source": f"{(n * 3) % 7}.md"} for n in range(7)]
    whole = oraculo.evaluate(rows, store=line, timed=0)
    monkeypatch.setattr("oraculo_kit.evaluating.evaluation._BATCH", 2)
    assert np.array_equal(oraculo.evaluate(rows, store=line, timed=0).values, whole.values)


def test_nothing_of_a_question_source_or_name_is_obeyed(line: VetorStorage) -> None:
    rows = [{"question": f"{HOSTILE} 2", "source": "2"}, {"question": HOSTILE, "source": None}]
    found = oraculo.evaluate(rows, {HOSTILE: {"mode": "vector"}, "<b>": {"mode": "vector"}}, store=line)
    for shown in (repr(found), found._repr_html_()):
        assert not {"\x1b", "\u202e"} & set(shown)
    assert "<script" not in found._repr_html_()
    assert "<b>" not in found._repr_html_()


def test_the_table_has_every_figure_that_decides(line: VetorStorage) -> None:
    rows = [{"question": f"x {n}", "source": f"{n}.md"} for n in range(7)]
    shown = repr(oraculo.evaluate(rows, ["vector", "hybrid"], store=line))
    header, _, first, *_ = shown.split("\n")
    assert header.split() == [
        "configuration",
        "nDCG@10",
        "MRR@10",
        "recall@10",
        "hit@5",
        "hit@10",
        *["p50", "ms", "p95", "ms"],
    ]
    assert first.startswith("vector         1.0000 [1.000, 1.000]")
    assert "hybrid cannot be told from vector" in shown
    assert shown.endswith("7 questions matched by source. [95 % bootstrap interval, 1,000 samples]")


def test_an_evaluation_travels(line: VetorStorage) -> None:
    found = oraculo.evaluate([{"question": "x 1", "source": "1.md"}], ["vector"], store=line, timed=0)
    assert repr(pickle.loads(pickle.dumps(found))) == repr(found)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"k": 0}, QueryError, "k is 0"),
        ({"cutoffs": (0,)}, QueryError, "cutoffs is .0,., expected places from 1"),
        ({"cutoffs": 5}, QueryError, "cutoffs is 5, expected places"),
        ({"timed": -1}, QueryError, "timed is -1"),
        ({"configurations": [{"mod": "text"}]}, QueryError, "did you mean 'mode'"),
        ({"by": "answer"}, QuestionsError, "needs 'answer'"),
        ({"questions": pd.DataFrame()}, QuestionsError, "the DataFrame is empty"),
        (
            {"questions": [{"question": "a", "text": "b"}], "match": "docno"},
            QuestionsError,
            "match='docno' is",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    line: VetorStorage, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    arguments: dict[str, Any] = {"questions": [{"question": "x 1", "source": "1.md"}], **options}
    with pytest.raises(error, match=said):
        oraculo.evaluate(arguments.pop("questions"), store=line, **arguments)
