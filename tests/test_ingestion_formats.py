"""Every format through the whole ingestion, and a damaged twin of each: what is good is stored, the rest says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oraculo_kit import ingest
from oraculo_kit.services import vetor_storage
from tests.test_formats_damage import MAKERS
from tests.test_ingestion_runs import check_whole

PLAIN = {
    "a.rst": "Título\n======\n\nUm parágrafo sobre férias.\n".encode(),
    "a.py": b'def total(valores):\n    """Soma os valores."""\n    return sum(valores)\n',
}
# Where reading part of a file is worth nothing, half of one is refused; half a text is a text.
REFUSED = {
    "a.docx", "a.pptx", "a.odt", "a.ods", "a.xlsx", "a.epub", "a.parquet", "a.pdf", "a.doc", "a.xls", "a.ipynb", "a.json"
}  # fmt: skip


@pytest.fixture
def folder(project: Path) -> Path:
    """Return a folder with a file of every format and, below "meio", the first half of each."""
    docs = project / "docs"
    (docs / "meio").mkdir(parents=True)
    for name, data in ({name: make() for name, make in MAKERS.items()} | PLAIN).items():
        (docs / name).write_bytes(data)
        (docs / "meio" / name).write_bytes(data[: len(data) // 2])
    return docs


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_file_of_every_format_is_stored_and_its_damaged_twin_costs_itself(
    folder: Path, n_jobs: int
) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    report = ingest(folder, n_jobs=n_jobs, progress=False)
    whole = {Path(o.source).name: o for o in report if "meio" not in Path(o.source).parts}
    assert {outcome.status for outcome in whole.values()} == {"added"}
    assert set(whole) == {*MAKERS, *PLAIN}
    halves = {Path(o.source).name: o for o in report if "meio" in Path(o.source).parts}
    assert {name for name, outcome in halves.items() if outcome.status == "failed"} >= REFUSED
    for outcome in report.failed:
        assert outcome.error == "ExtractionError"
        assert re.match(rf"{re.escape(Path(outcome.source).name)}: \w", outcome.message)
    stored = {row.source for row in vetor_storage().sources()}
    assert stored == {outcome.source for outcome in report if outcome.status == "added"}
    check_whole(vetor_storage())


def test_metadata_arrives_under_the_names_of_the_design(folder: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    ingest(folder, glob="a.*", n_jobs=1, progress=False)
    rows = vetor_storage().to_pandas()
    found = {
        name: set().union(*group["metadata"])
        for name, group in rows.groupby(rows["source"].map(lambda source: Path(source).name))
    }
    for name, keys in found.items():
        assert keys >= {"source", "bytes", "modified", "start", "end"}, name
    assert "page" in found["a.pdf"]
    for name in ("a.xlsx", "a.xls", "a.ods"):
        assert found[name] >= {"sheet", "row"}, name
    for name in ("a.csv", "a.tsv", "a.parquet"):
        assert "row" in found[name], name
    for name in ("a.md", "a.docx", "a.odt", "a.html", "a.doc", "a.rtf"):
        assert "heading" in found[name], name
    for name in ("a.md", "a.epub", "a.eml"):
        assert "title" in found[name], name
    assert "lang" in set().union(*found.values())
