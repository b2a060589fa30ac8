"""The command line, run as a user runs it: real processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oraculo_kit.cli import main

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
    assert "1 source in" in run("sources", cwd=filled).stdout


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
    (project / "docs").mkdir()
    (project / "docs" / "bom.txt").write_text("um texto", encoding="utf-8")
    (project / "docs" / "laço").symlink_to(project / "docs", target_is_directory=True)
    (project / "ruim.pdf").write_bytes(b"%PDF-1.4 broken")
    well = run("ingest", "docs", cwd=project)
    assert (well.returncode, "symlink loop" in well.stdout) == (0, True)
    some = run("ingest", "docs", "ruim.pdf", cwd=project)
    assert some.returncode == 1
    assert "ruim.pdf" in some.stdout
    none = run("ingest", "docs", cwd=project, ORACULO_CHUNK_OVERLAP="2000")
    assert none.returncode == 2
    assert "ORACULO_CHUNK_OVERLAP is 2000" in none.stderr
    assert "Traceback" not in none.stderr


def test_a_store_can_be_named(filled: Path, tmp_path: Path) -> None:
    other = tmp_path / "outra base"
    assert run("ingest", "--store", str(other), "docs/emissao_nfse.md", cwd=filled).returncode == 0
    assert "1 source in" in run("sources", "--store", str(other), cwd=filled).stdout


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


def list_sources_into(output: Any, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own that writes to a file or descriptor."""
    return subprocess.run(
        [sys.executable, "-m", "oraculo_kit", "sources", "-q"],
        cwd=folder,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )


def test_a_pipe_that_is_closed_early_is_no_error(filled: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = list_sources_into(writer, filled)
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


# -- where there is no base ------------------------------------------------------------------------------------


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run ``oraculo`` in this process."""
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", [["search", "nota"], ["sources"], ["runs"], ["remove", "a.txt"]])
@pytest.mark.parametrize("store", [[], ["--store", "wrong/path"]])
def test_what_only_reads_makes_no_base(
    project: Path, capsys: pytest.CaptureFixture[str], command: list[str], store: list[str]
) -> None:
    code, out, err = run_here(capsys, *command, *store)
    assert (code, out) == (2, "")
    folder = project / "wrong/path" if store else project / ".oraculo" / "store"
    assert f"oraculo: there is no base at {folder}. Check --store or ORACULO_STORE" in err
    assert "failed" not in err
    assert [each.name for each in project.iterdir()] == [".env"]


@pytest.mark.parametrize("store", [[], ["--store", "wrong/path"]])
def test_status_and_doctor_tell_that_there_is_no_base_yet_and_make_none(
    project: Path, capsys: pytest.CaptureFixture[str], store: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACULO_LANG", "en")
    (project / ".env").write_text("ORACULO_CHUNK_SIZE=700\n", encoding="utf-8")
    code, out, err = run_here(capsys, "status", *store)
    assert code == 0
    assert "there is no base yet; the first ingestion makes it" in out
    assert ".env" in out
    assert "700" in out  # the environment was loaded all the same
    assert "there is no base at" in err
    code, out, err = run_here(capsys, "doctor", "-q", *store)
    assert "there is no base at" in " ".join(out.split())
    assert "did not start" not in out
    assert err == ""
    assert [each.name for each in project.iterdir()] == [".env"]


def test_a_store_that_is_a_file_is_a_failure_of_the_start_up(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "a.txt").write_text("um texto", encoding="utf-8")
    code, out, _ = run_here(capsys, "status", "--store", "a.txt")
    assert code == 2
    assert "which is a file" in " ".join(out.split())


def test_a_base_that_is_made_elsewhere_later_is_found(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(capsys, "sources", "-q")[0] == 2
    (project / "a.txt").write_text("um texto", encoding="utf-8")
    assert run_here(capsys, "ingest", "-q", "a.txt")[0] == 0
    assert "1 source in" in run_here(capsys, "sources", "-q")[1]


@pytest.mark.parametrize("form", ["table", "json"])
def test_ingesting_what_is_not_there_reports_it_and_leaves_no_base(
    project: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    code, out, _ = run_here(capsys, "ingest", "-q", "nada.txt", "x*.txt", "--format", form)
    assert code == 1
    assert "no such file or folder" in out
    if form == "json":
        assert json.loads(out)["counts"] == {"failed": 2}
    assert not (project / ".oraculo").exists()
    (project / "a.txt").write_text("um texto", encoding="utf-8")
    assert run_here(capsys, "ingest", "-q", "a.txt", "nada.txt")[0] == 1
    assert (project / ".oraculo" / "store").exists()


# -- what was meant --------------------------------------------------------------------------------------------


def test_a_pattern_as_a_path_and_several_patterns_are_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "a.txt").write_text("um texto", encoding="utf-8")
    assert "a pattern is for --glob" in run_here(capsys, "ingest", "-q", "x*.txt")[2]
    with pytest.raises(SystemExit, match="2"):
        main(["ingest", ".", "--glob", "*.md", "--glob", "*.pdf"])
    assert "--glob was given '*.md' and '*.pdf', expected one pattern" in capsys.readouterr().err
    code, _, err = run_here(capsys, "ingest", "-q", ".", "--glob", "*.md,*.pdf")
    assert (code, "run it once for each" in err) == (1, True)
    assert "run it once" not in run_here(capsys, "ingest", "-q", ".", "--glob", "*.md")[2]


@pytest.mark.parametrize("option", ["-q", "--quiet", "--store", "--store=x"])
def test_an_option_before_the_command_is_told_to_follow_it(
    project: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([option, "runs"])
    assert f"expected after it: oraculo COMMAND {option}" in capsys.readouterr().err


def test_an_empty_question_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_here(capsys, "search", " ", "")
    assert (code, "the question is empty" in err) == (2, True)


def test_a_source_that_is_not_there_is_told_with_the_command_that_lists_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "utf16.txt").write_text("um texto", encoding="utf-8")
    run_here(capsys, "ingest", "-q", "utf16.txt")
    code, _, err = run_here(capsys, "remove", "ata reunião.txt")
    assert (code, "`oraculo sources` lists what there is" in err) == (2, True)
    assert "did you mean" not in err
    assert "did you mean" in run_here(capsys, "remove", "elsewhere/utf-16.txt")[2]
    assert run_here(capsys, "remove", "utf16.txt")[1] == "1 chunk deleted\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_result_that_cannot_be_written_is_one_line(filled: Path) -> None:
    with open("/dev/full", "w") as full:
        done = list_sources_into(full, filled)
    assert done.returncode == 2
    assert done.stderr.startswith("oraculo: the result could not be written: ")
    assert done.stderr.count("\n") == 1
