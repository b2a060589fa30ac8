"""Files that are gone leave the base when that is asked for, and only then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import oraculo_kit as oraculo
from oraculo_kit import pruning
from oraculo_kit.cli import main
from oraculo_kit.discovery import source_key


@pytest.fixture
def docs(project: Path) -> Path:
    """Return a folder of five files in two folders, ingested."""
    folder = project / "docs"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "ção.txt", "sub/c.txt", "sub/d.txt"):
        (folder / name).write_text(f"nota fiscal {name}", encoding="utf-8")
    (project / "other.txt").write_text("fora", encoding="utf-8")
    oraculo.ingest([folder, project / "other.txt"], progress=False)
    return folder


def names() -> set[str]:
    return {Path(source).name for source in oraculo.sources()["source"]}


def test_a_file_that_is_gone_is_pruned_and_reported(docs: Path) -> None:
    (docs / "a.txt").unlink()
    assert oraculo.ingest(docs, progress=False).counts == {"unchanged": 4}
    assert "a.txt" in names()

    report = oraculo.ingest(docs, prune=True, progress=False)

    assert report.counts == {"unchanged": 4, "pruned": 1}
    assert names() == {"b.txt", "ção.txt", "c.txt", "d.txt", "other.txt"}
    assert oraculo.ingest(docs, prune=True, progress=False).counts == {"unchanged": 4}


def test_a_folder_that_is_gone_is_pruned_with_all_it_held(docs: Path) -> None:
    shutil.rmtree(docs / "sub")
    assert oraculo.ingest(docs, prune=True, progress=False).counts == {"unchanged": 3, "pruned": 2}


def test_below_an_empty_folder_nothing_is_gone(docs: Path) -> None:
    shutil.rmtree(docs / "sub")
    (docs / "sub").mkdir()  # as a drive that is not mounted
    with pytest.warns(
        UserWarning, match="2 files are missing from folders that are empty or cannot be listed, and stay"
    ):
        report = oraculo.ingest(docs, prune=True, progress=False)
    assert "pruned" not in report.counts
    assert len(names()) == 6


def test_an_empty_root_prunes_nothing(docs: Path) -> None:
    shutil.rmtree(docs)
    docs.mkdir()
    with pytest.warns(UserWarning, match="5 files are missing"):
        oraculo.ingest(docs, prune=True, progress=False)
    assert len(names()) == 6


def test_what_a_glob_leaves_out_is_not_gone(docs: Path) -> None:
    report = oraculo.ingest(docs, glob="*.md", prune=True, progress=False)
    assert report.counts == {}
    assert len(names()) == 6


def test_only_given_folders_are_pruned(docs: Path) -> None:
    (docs / "a.txt").unlink()
    (docs.parent / "other.txt").unlink()
    assert oraculo.ingest(docs / "sub", prune=True, progress=False).counts == {"unchanged": 2}
    assert oraculo.ingest(docs, prune=True, progress=False).counts == {"unchanged": 4, "pruned": 1}
    assert "other.txt" in names()


def test_a_name_in_decomposed_unicode_is_not_taken_for_gone(docs: Path) -> None:
    (docs / "ção.txt").unlink()
    (docs / unicodedata.normalize("NFD", "ção.txt")).write_text("nota fiscal ção.txt", encoding="utf-8")
    assert "pruned" not in oraculo.ingest(docs, glob="*.md", prune=True, progress=False).counts


def test_what_cannot_be_looked_at_is_not_gone() -> None:
    assert not pruning.is_gone(os.sep + "x" * 5000)  # the system refuses to say, as for want of rights


def test_the_command_line_prunes_too(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (docs / "a.txt").unlink()
    assert main(["ingest", str(docs), "--prune", "--quiet"]) == 0
    assert "1 pruned" in capsys.readouterr().out


def test_a_file_written_anew_with_the_same_content_is_read_once(docs: Path) -> None:
    path = docs / "a.txt"
    key = source_key(path)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert oraculo.vetor_storage().ledger([key])[key].mtime_ns != path.stat().st_mtime_ns

    assert oraculo.ingest(docs, progress=False).counts == {"unchanged": 5}

    assert oraculo.vetor_storage().ledger([key])[key].mtime_ns == path.stat().st_mtime_ns
    path.write_text("nota fiscal b.txt", encoding="utf-8")  # of the same size
    os.utime(path, (1_000_000_001, 1_000_000_001))
    assert oraculo.ingest(docs, progress=False).counts == {"replaced": 1, "unchanged": 4}


def test_a_time_is_not_noted_for_content_that_somebody_else_replaced(docs: Path) -> None:
    storage, key = oraculo.vetor_storage(), source_key(docs / "a.txt")
    entry = storage.ledger([key])[key]
    storage.touch({key: replace(entry, content_hash="another", mtime_ns=7)})
    assert storage.ledger([key])[key] == entry


def test_what_a_glob_does_not_choose_is_left_alone_even_when_it_is_gone(docs: Path) -> None:
    (docs / "a.txt").unlink()
    (docs / "sub" / "c.txt").unlink()
    storage = oraculo.vetor_storage()
    assert pruning.gone_sources(storage, docs, set(), glob="*.md") == []
    assert pruning.gone_sources(storage, docs, set(), glob="a.*") == [source_key(docs / "a.txt")]
    assert pruning.gone_sources(storage, docs, set(), glob="sub/*") == [source_key(docs / "sub" / "c.txt")]


def test_what_an_ignore_file_leaves_out_is_not_gone(docs: Path) -> None:
    (docs / ".oraculoignore").write_text("sub/\n", encoding="utf-8")
    assert oraculo.ingest(docs, prune=True, progress=False).counts == {"unchanged": 3}
    assert len(names()) == 6


_PRUNE_AS_NOBODY = """
import os, sys, warnings
from types import SimpleNamespace
from oraculo_kit.pruning import gone_sources
root = sys.argv[1]
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
warnings.simplefilter("ignore")
known = [SimpleNamespace(source=os.path.join(root, name)) for name in ("a.txt", "closed/b.txt", "closed/open/c.txt")]
print(gone_sources(SimpleNamespace(sources=lambda: known), root, set()) == [os.path.join(root, "a.txt")])
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permission bits are of POSIX systems")
def test_below_a_folder_that_cannot_be_listed_nothing_is_gone() -> None:
    # It may be entered but not listed, so that each path below can be seen to be missing; nobody knows why.
    root = Path(tempfile.mkdtemp())
    try:
        (root / "closed" / "open").mkdir(parents=True)
        for name in ("x.txt", "closed/y.txt", "closed/open/z.txt"):
            (root / name).touch()
        root.chmod(0o755)
        (root / "closed" / "open").chmod(0o755)
        (root / "closed").chmod(0o711)
        ran = subprocess.run(
            [sys.executable, "-c", _PRUNE_AS_NOBODY, str(root)], capture_output=True, text=True, timeout=30
        )
    finally:
        shutil.rmtree(root)
    assert (ran.stdout, ran.stderr) == ("True\n", "")


def test_rows_of_a_table_that_are_gone_are_pruned(project: Path) -> None:
    path = project / "t.parquet"
    pd.DataFrame({"t": ["um", "dois"], "id": ["a", "b"]}).to_parquet(path)
    arguments = {"text": "t", "id": "id", "progress": False}
    assert oraculo.ingest(path, **arguments).counts == {"added": 2}
    pd.DataFrame({"t": ["um"], "id": ["a"]}).to_parquet(path)
    assert oraculo.ingest(path, prune=True, **arguments).counts == {"unchanged": 1, "pruned": 1}
    pd.DataFrame({"t": [], "id": []}).astype(str).to_parquet(path)
    assert "pruned" not in oraculo.ingest(path, prune=True, **arguments).counts


@pytest.mark.parametrize(
    "key", ["https://site.example/a.pdf", "chamados/7", "s3://bucket/a.txt", "document/ab12"]
)
def test_what_is_no_file_of_this_machine_is_never_gone(key: str) -> None:
    assert not pruning.is_gone(key)


def test_a_folder_whose_name_ends_like_a_container_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "wow!").mkdir()
    (tmp_path / "a.zip!").mkdir()
    for name in ("wow!/a.txt", "a.zip!/b.txt"):
        assert pruning.is_gone(str(tmp_path / name))
        (tmp_path / name).touch()
        assert not pruning.is_gone(str(tmp_path / name))
