"""The demo: its own text is there on every machine, and nobody's base is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit import demo
from oraculo_kit.errors import SettingsError


def test_the_descriptions_of_installed_packages_are_many_and_named() -> None:
    documents = list(demo.installed_descriptions())
    sources = [document.metadata["source"] for document in documents]
    assert len(sources) == len(set(sources)) >= 100
    assert "python-package/joblib" in sources
    assert not any(source.lower().endswith(("oraculo_kit", "oraculo-kit")) for source in sources)
    assert min(len(document.page_content) for document in documents) >= 200


def test_the_portuguese_files_are_found() -> None:
    folder = demo.portuguese_files()
    assert folder is not None
    assert len([path for path in folder.iterdir() if path.is_file()]) == 15


def test_without_a_folder_it_ingests_both_and_answers_from_both(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = [d for d in demo.installed_descriptions() if "stem" in d.metadata["source"].lower()]
    monkeypatch.setattr(demo, "installed_descriptions", lambda: iter([*some, Document("x" * 200)]))
    monkeypatch.setenv("COLUMNS", "200")
    assert demo.run_demo(progress=False) == 0
    said = capsys.readouterr().out
    assert f"{len(some) + 1 + 15} sources" in said
    for expected in (*demo.QUESTIONS, "emissao_nfse.md", "retencao_dados_lgpd.pdf", "PyStemmer"):
        assert expected in said
    assert "oraculo search --store .oraculo/demo " in said
    assert not (project / ".oraculo" / "store").exists()
    assert oraculo.vetor_storage().location == str(project / ".oraculo" / "demo")


def test_a_folder_with_nothing_in_it_and_one_with_faults_say_so(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "vazia").mkdir()
    assert demo.run_demo("vazia", store="outra base", progress=False) == 1
    said = capsys.readouterr()
    assert "nothing was found to ingest" in said.err
    assert "--store 'outra base' " in said.out
    (project / "vazia" / "ru\x1bim.pdf").write_bytes(b"%PDF-1.4 broken")
    assert demo.run_demo("vazia", store="outra base", progress=False) == 1
    said = capsys.readouterr()
    assert "im.pdf: " in said.out
    assert "\x1b" not in said.out


def test_a_blank_store_is_refused(project: Path) -> None:
    with pytest.raises(SettingsError, match="the store is '', expected a path or URL"):
        demo.run_demo(store="")
