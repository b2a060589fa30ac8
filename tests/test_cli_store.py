"""The commands that look after a base, as a shell calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from oraculo_kit.cli import main
from oraculo_kit.storage import open_storage
from tests.engines import factories
from tests.storage.kit import documents, flip_bit


@pytest.fixture
def base(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a base in the project, with something deleted in it."""
    folder = project / ".oraculo" / "store"
    monkeypatch.setenv("ORACULO_LANG", "en")
    with open_storage(folder) as store:
        store.replace("a", documents("a", 30))
        store.replace("a", documents("a", 20))
        store.replace("b", documents("b", 5))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_sound_base_is_verified_and_healthy(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify")
    assert code == 0
    assert "25 chunks" in out
    code, out, _ = run(capsys, "compact")
    assert code == 0
    assert "segments: 0 -> 1," in out
    code, out, _ = run(capsys, "health")
    assert (code, out) == (0, f"{base}: all well\n")


def test_a_purge_says_that_deleted_data_was_erased(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "compact", "--purge")
    assert code == 0
    assert "deleted data was erased from every file" in out


def test_a_small_base_needs_no_index_and_a_recall_out_of_range_is_refused(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "optimize")[:2] == (
        0,
        "25 vectors are searched exactly; an index pays from 50000 on\n",
    )
    code, _, err = run(capsys, "optimize", "--recall", "7")
    assert code == 2
    assert "expected a number from 0.5 to 1" in err


def test_a_damaged_base_is_told_repaired_and_sound_again(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_storage(base) as store:
        store.compact()
    (segment,) = (base / "segments").iterdir()
    flip_bit(segment, segment.stat().st_size - 10)

    code, out, _ = run(capsys, "verify")
    assert code == 1
    assert segment.name in out
    code, out, _ = run(capsys, "repair")
    assert code == 0, out
    assert run(capsys, "verify")[0] == 0


def test_a_base_that_cannot_be_opened_can_be_verified(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "catalog.sqlite3").write_bytes(b"no database at all" * 1000)
    code, out, _ = run(capsys, "verify")
    assert code == 1
    assert "catalog.sqlite3" in out


def test_a_snapshot_is_taken_and_restored(
    base: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "snapshot", str(project / "copy"))
    assert code == 0
    assert str(project / "copy") in out
    with open_storage(base) as store:
        store.remove_by_metadata("source", "a")

    code, _, err = run(capsys, "restore", str(project / "copy"))
    assert code == 2
    assert "overwrite" in err
    code, out, _ = run(capsys, "restore", str(project / "copy"), "--overwrite")
    assert code == 0
    assert "what was there before is now" in out
    with open_storage(base) as store:
        assert len(store) == 25


def test_another_embedder_is_given_by_its_name(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "reembed", "wordllama")
    assert code == 0
    assert out.startswith("25 chunks embedded with ")
    assert "25 of 25 chunks embedded" in err
    code, _, err = run(capsys, "reembed", "nonsense")
    assert code == 2
    assert "provider:model" in err


def test_a_base_is_copied_and_copied_again(
    base: Path, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, "copy", str(base), "copy")
    assert code == 0
    assert "2 sources copied" in out
    assert out.endswith("all the same\n")
    assert "25 of 25 chunks copied" in err
    assert "0 sources copied, 2 were there" in run(capsys, "copy", str(base), "copy", "--quiet")[1]
    code, _, err = run(capsys, "copy", str(base), str(base))
    assert (code, "source and target are both" in err) == (2, True)
    code, _, err = run(capsys, "copy", "nothing", "copy")
    assert (code, "there is no store at" in err) == (2, True)
    code, _, err = run(capsys, "copy", str(base), "postgresql://ana:s3nha@localhost:1/base")
    assert code == 2
    assert "s3nha" not in err
    monkeypatch.setattr("oraculo_kit.copying._compare", lambda *stores: (0, ["the source 'a' differs"]))
    code, out, _ = run(capsys, "copy", str(base), "copy")
    assert (code, "- the source 'a' differs" in out) == (1, True)


def test_a_base_in_a_vector_store_is_looked_after_too(
    base: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factories.made.clear()
    url = f"langchain:tests.engines.factories:counting?catalog={quote(str(project / 'catalog'))}"
    assert run(capsys, "compact", "--store", url)[0] == 2  # there is none
    for command in (["search", "nota"], ["sources"], ["remove", "a"]):
        code, _, err = run(capsys, *command, "--store", url)
        assert (code, "oraculo: there is no store at" in err) == (2, True)
    for command in (["status"], ["doctor"]):
        code, out, err = run(capsys, *command, "--store", url)
        assert (code, "oraculo: there is no store at" in err) == (0, True), out
    assert "there is no base at langchain:" in " ".join(out.split())
    assert not (project / "catalog").exists()
    try:
        assert run(capsys, "copy", str(base), url)[0] == 0
        for command in ("verify", "health", "repair", "compact"):
            code, out, _ = run(capsys, command, "--store", url)
            assert code == 0, out
        code, _, err = run(capsys, "optimize", "--store", url)
        assert (code, "has an index of its own" in err) == (2, True)
        code, out, _ = run(capsys, "compact", "--purge", "--store", url)
        assert "whose own files are beyond it" in out
    finally:
        factories.made.clear()


@pytest.mark.parametrize("command", ["health", "verify", "repair", "compact", "optimize"])
def test_a_base_that_is_not_there_is_not_made(
    project: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, _, err = run(capsys, command, "--store", str(project / "none"))
    assert code == 2
    assert "there is no base at" in err
    assert not (project / "none").exists()
    (project / "docs").mkdir()
    code, _, err = run(capsys, command, "--store", str(project / "docs"))
    assert code == 2
    assert "there is no base at" in err


def test_a_snapshot_is_restored_into_a_folder_only(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "restore", "copy", "--store", "postgresql://server/base")
    assert code == 2
    assert "is not a folder" in err


def test_the_base_of_the_remote_environment_is_meant(base: Path, project: Path) -> None:
    (project / "team.env").write_text(f"ORACULO_STORE={base}\n", encoding="utf-8")
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".env").write_text("", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "oraculo_kit", "verify"],
        cwd=elsewhere,
        env={**os.environ, "ORACULO_ENV_SOURCE": str(project / "team.env")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "25 chunks" in done.stdout
