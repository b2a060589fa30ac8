"""The command line, run as a user runs it: real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DADOS = Path(__file__).parent.parent / "notebooks" / "dados"


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``oraculo`` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "oraculo_kit", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "PYTHONUTF8": "1", "COLUMNS": "100", **environ},
    )


@pytest.fixture
def filled(project: Path) -> Path:
    """Return a project whose base holds two of the demo's files."""
    docs = project / "docs"
    docs.mkdir()
    for name in ("emissao_nfse.md", "faq_central_de_servicos.html"):
        shutil.copy(DADOS / name, docs)
    assert run("ingest", "docs", cwd=project).returncode == 0
    return project


def test_ingest_search_sources_and_remove_work_from_anywhere_in_the_project(filled: Path) -> None:
    below = filled / "docs"
    found = run("search", "como", "cancelar", "uma", "nota?", cwd=below)
    assert found.returncode == 0
    assert "emissao_nfse.md" in found.stdout
    listed = run("sources", cwd=filled)
    assert "2 sources in" in listed.stdout
    assert str(filled / ".oraculo" / "store") in listed.stdout
    removed = run("remove", "emissao_nfse.md", cwd=below)
    assert removed.returncode == 0
    assert "1 sources in" in run("sources", cwd=filled).stdout


def test_results_go_to_stdout_and_start_up_lines_to_stderr_in_the_users_language(filled: Path) -> None:
    found = run("search", "nota", cwd=filled, ORACULO_LANG="pt_BR")
    assert found.stderr.splitlines()[:4] == [
        "INFO - Inicializando serviços para linha de comando...",
        "INFO - Variáveis de ambiente carregadas com sucesso!",
        "INFO - VetorStorage configurado com sucesso!",
        "INFO - Serviços inicializados com sucesso para linha de comando!",
    ]
    assert "INFO" not in found.stdout
    assert run("search", "-q", "nota", cwd=filled).stderr == ""


def test_exit_codes_tell_all_well_from_some_failed_from_could_not_run(project: Path) -> None:
    (project / "bom.txt").write_text("um texto", encoding="utf-8")
    (project / "ruim.pdf").write_bytes(b"%PDF-1.4 broken")
    assert run("ingest", "bom.txt", cwd=project).returncode == 0
    some = run("ingest", "bom.txt", "ruim.pdf", cwd=project)
    assert some.returncode == 1
    assert "ruim.pdf" in some.stdout
    none = run("ingest", "bom.txt", cwd=project, ORACULO_CHUNK_OVERLAP="2000")
    assert none.returncode == 2
    assert "ORACULO_CHUNK_OVERLAP is 2000" in none.stderr
    assert "Traceback" not in none.stderr


def test_a_store_can_be_named(filled: Path, tmp_path: Path) -> None:
    other = tmp_path / "outra base"
    assert run("ingest", "--store", str(other), "docs/emissao_nfse.md", cwd=filled).returncode == 0
    assert "1 sources" in run("sources", "--store", str(other), cwd=filled).stdout


def test_status_and_doctor_answer_when_nothing_works(project: Path) -> None:
    for command in ("status", "doctor"):
        answer = run(command, cwd=project, ORACULO_CHUNK_SIZE="abc")
        assert answer.returncode == 2
        assert "ORACULO_CHUNK_SIZE" in answer.stdout
        assert "Traceback" not in answer.stderr


def test_help_and_version_and_no_command(project: Path) -> None:
    assert "oraculo_kit 0." in run("--version", cwd=project).stdout
    assert "ingest" in run("--help", cwd=project).stdout
    assert run(cwd=project).returncode == 2


def test_the_demo_answers_its_questions_from_a_folder(project: Path) -> None:
    answer = run("demo", "-q", str(DADOS), cwd=project)
    assert answer.returncode == 0, answer.stderr
    assert "emissao_nfse.md" in answer.stdout
    assert "retencao_dados_lgpd.pdf" in answer.stdout
    assert "15 sources" in answer.stdout
    assert not (project / ".oraculo" / "store").exists()


def test_a_pipe_that_is_closed_early_is_no_error(filled: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "oraculo_kit", "sources", "-q"],
        cwd=filled,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_that_cannot_hold_a_character_shows_its_code(filled: Path) -> None:
    found = run("search", "-q", "cancelar a nota", cwd=filled, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert (found.returncode, found.stderr) == (0, "")
    assert "\\xe3" in found.stdout


@pytest.mark.parametrize("command", [["search", "nota"], ["sources"], ["demo"], ["ingest", "docs"]])
def test_a_blank_store_does_not_mean_the_default_one(filled: Path, command: list[str]) -> None:
    done = run(*command, "--store", "", cwd=filled)
    assert done.returncode == 2
    assert "the store is '', expected a path or URL" in done.stderr


def test_nothing_to_ingest_and_a_number_of_jobs_that_is_none_are_told(filled: Path) -> None:
    nothing = run("ingest", "docs", "--glob", "*.nada", cwd=filled)
    assert nothing.returncode == 1
    assert "nothing was found to ingest" in nothing.stderr
    jobs = run("ingest", "docs", "--jobs", "0", cwd=filled)
    assert jobs.returncode == 2
    assert "n_jobs is 0" in jobs.stderr
    assert "Traceback" not in jobs.stderr


@pytest.mark.skipif(os.name != "posix", reason="such names exist on POSIX only")
def test_a_hostile_file_name_cannot_steer_the_terminal(project: Path) -> None:
    (project / "a\x1b[31m\u202e\nb.pdf").write_bytes(b"%PDF-1.4 broken")
    done = run("ingest", ".", "missing\x1b[31m.txt", cwd=project)
    assert done.returncode == 1
    for text in (done.stdout, done.stderr):
        assert not {"\x1b", "\u202e"} & set(text)
    assert "\x1b" not in run("remove", "x\x1b[31m", cwd=project).stderr
