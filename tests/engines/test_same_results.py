"""The same code, changed only in ``backend=`` and the store: the same answers."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oraculo_kit.storage.postgres.location import is_postgres
from tests.engines.engines import ENGINES
from tests.storage.kit import ROOT, texts

QUESTIONS = [
    "como emitir nota fiscal?",
    "reembolso de viagens",
    "prazo para pedir férias",
    "retenção de dados pessoais",
    '"nota fiscal" -compra',
    "ciclovias consulta pública",
    "API integration guide",
]
_TIE = 1e-4
"""Hits whose cosines or BM25 are that near may stand in another order."""
_FUSED = 0.02
"""The same for the fused scores of a hybrid search, from 0 to 1."""


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the notebooks' documents and more than a hundred texts."""
    folder = tmp_path_factory.mktemp("same") / "docs"
    shutil.copytree(ROOT / "notebooks" / "dados", folder)
    words = sorted({word for text in texts() for word in text.split()})
    chosen = random.Random(7)
    for place in range(120):
        text = " ".join([QUESTIONS[place % 7], *chosen.sample(words, 30)])
        (folder / f"aviso_{place:03}.txt").write_text(text, encoding="utf-8")
    return folder


def notebook(docs: Path, backend: str) -> dict[str, Any]:
    """Do what a notebook does, with nothing in it that names the engine."""
    import oraculo_kit as oraculo

    oraculo.start_services()
    try:
        report = oraculo.ingest(docs, backend=backend, n_jobs=2, progress=False)
        answers: dict[str, Any] = {"counts": report.counts}
        for mode in ("vector", "text", "hybrid"):
            for asked in QUESTIONS:
                found = oraculo.search(asked, k=10, mode=mode, unique=False)
                answers[f"{mode} {asked}"] = [(hit.id, hit.score) for hit in found]
        found = oraculo.search(QUESTIONS[0], k=5, mode="vector", filter={"bytes": {"$lt": 200}}, unique=False)
        answers["vector filtered"] = [(hit.id, hit.score) for hit in found]
        return answers
    finally:
        oraculo.stop_services()


@pytest.fixture(scope="module")
def expected(docs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return the answers of the embedded store, ingested in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORACULO_STORE", str(tmp_path_factory.mktemp("base") / "store"))
        yield notebook(docs, "sequential")


@pytest.mark.parametrize("backend", ["sequential", "loky"])
@pytest.mark.parametrize("kind", sorted(ENGINES))
def test_the_same_notebook_gives_the_same_answers(
    docs: Path,
    expected: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    backend: str,
) -> None:
    with ENGINES[kind](tmp_path) as engine:
        monkeypatch.setenv("ORACULO_STORE", engine.location)
        answers = notebook(docs, backend)
    assert is_postgres(engine.location) == (kind == "postgres")
    assert answers["counts"] == expected["counts"]
    assert answers["counts"]["added"] > 120
    for asked, hits in expected.items():
        if asked.startswith("vector"):
            # Equal texts have equal cosines; which comes first depends on the order in which they were stored.
            assert rounded(answers[asked]) == rounded(hits), asked
            assert certain(answers[asked]) == certain(hits), asked
        elif asked != "counts":
            # What fuses depends on which of equal candidates came into the last places of both rankings.
            near = _FUSED if asked.startswith("hybrid") else _TIE
            scores = [score for _, score in answers[asked]]
            assert scores == pytest.approx([score for _, score in hits], abs=near), asked
            assert certain(hits, near) <= {name for name, _ in answers[asked]}, asked


def rounded(hits: list[tuple[str, float]]) -> list[float]:
    return [round(score, 4) for _, score in hits]


def certain(hits: list[tuple[str, float]], near: float = _TIE) -> set[str]:
    """Return the ids of the hits that no equal score outside the list could replace."""
    return {name for name, score in hits if score > hits[-1][1] + near}
