"""``%oraculo``: the words of the command line, and the package's functions behind them."""

from __future__ import annotations

from pathlib import Path

import pytest

import oraculo_kit as oraculo
from oraculo_kit.errors import QueryError
from oraculo_kit.magic import USAGE, run_magic


def test_ingest_search_and_sources_return_what_the_functions_return(project: Path) -> None:
    (project / "nota fiscal.txt").write_text("Como emitir uma nota fiscal de serviço", encoding="utf-8")
    (project / "ferias.txt").write_text("Como pedir férias ao gestor", encoding="utf-8")
    report = run_magic('ingest "nota fiscal.txt" ferias.txt')
    assert report.counts == {"added": 2}
    assert [Path(hit.source).name for hit in run_magic("search emitir nota")][0] == "nota fiscal.txt"
    assert [Path(hit.source).name for hit in run_magic("search 'pedir férias'")][0] == "ferias.txt"
    assert len(run_magic("sources")) == 2


def text_of(value: object) -> str:
    """Return what is shown, without the line breaks of a narrow terminal."""
    return " ".join(str(value).split())


@pytest.mark.parametrize("line", ["", "  ", "status", " status "])
def test_status_is_what_an_empty_line_means(project: Path, line: str) -> None:
    assert str(project) in text_of(run_magic(line))


def test_use_switches_the_store_and_shows_where_one_is(project: Path) -> None:
    assert str(project / "outra base") in text_of(run_magic('use "outra base"'))
    assert oraculo.vetor_storage().location == str(project / "outra base")


def test_doctor_runs(project: Path) -> None:
    assert str(project) in text_of(run_magic("doctor"))


@pytest.mark.parametrize("line", ["ingest", "search", "use", "search   "])
def test_a_word_without_what_it_needs_is_refused(line: str) -> None:
    with pytest.raises(QueryError, match=f"%oraculo {line.strip()} needs more: ") as caught:
        run_magic(line)
    assert USAGE in str(caught.value)


def test_an_unknown_word_is_refused_with_the_known_ones() -> None:
    with pytest.raises(QueryError, match="does not know 'serach': ") as caught:
        run_magic("serach nota")
    assert USAGE in str(caught.value)


def test_a_quote_that_is_not_closed_is_refused(project: Path) -> None:
    with pytest.raises(QueryError, match="No closing quotation. Close every quote that you open"):
        run_magic('ingest "meu arquivo.txt')
    assert run_magic("ingest l'avenue.txt").counts == {"failed": 1}
    assert len(run_magic("search l'avenue")) == 0
