"""`.oraculoignore` means what the same file means to git."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oraculo_kit.discovery import find_files
from oraculo_kit.errors import SourceUnreadableError
from oraculo_kit.ignoring import parse_ignore_file


def listed(root: Path, **arguments: str) -> list[str]:
    return sorted(found.path.relative_to(root).as_posix() for found in find_files(root, **arguments))


def make(root: Path, *names: str, **files: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x", encoding="utf-8")


def ignore(folder: Path, text: str) -> None:
    (folder / ".oraculoignore").write_text(text, encoding="utf-8")


def test_what_the_file_names_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "a.log", "drafts/b.txt", "sub/drafts/c.txt", "sub/d.log", "sub/e.txt", "keep.log")
    ignore(tmp_path, "# rascunhos\n*.log\n!keep.log\n/drafts/\n")
    assert listed(tmp_path) == ["a.txt", "keep.log", "sub/drafts/c.txt", "sub/e.txt"]
    assert listed(tmp_path, glob="*.txt") == ["a.txt", "sub/drafts/c.txt", "sub/e.txt"]


def test_a_file_further_down_wins(tmp_path: Path) -> None:
    make(tmp_path, "a.md", "sub/a.md", "sub/b.txt")
    ignore(tmp_path, "*.md\n")
    ignore(tmp_path / "sub", "!a.md\nb.txt\n")
    assert listed(tmp_path) == ["sub/a.md"]
    assert listed(tmp_path / "sub") == ["a.md"]


def test_hidden_names_are_taken_in_by_naming_them_but_never_our_own(tmp_path: Path) -> None:
    make(tmp_path, ".github/a.md", ".b.txt", ".oraculo/store/c.txt", "node_modules/d.md")
    ignore(tmp_path, "!.*\n.b.txt\n")
    assert listed(tmp_path) == [".github/a.md"]


def test_a_file_that_is_named_itself_is_never_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.log")
    ignore(tmp_path, "*\n")
    assert [found.error for found in find_files(tmp_path / "a.log")] == [None]


def test_what_is_left_out_is_no_fault_either(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "photo.heic")
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    ignore(tmp_path, "*.heic\nbroken\n")
    assert listed(tmp_path) == ["a.txt"]


def test_links_to_folders_obey_the_file_where_the_link_is(tmp_path: Path) -> None:
    make(tmp_path, "out/a.txt", "out/b.log", "root/c.txt")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "out")
    ignore(tmp_path / "root", "*.log\n")
    assert listed(tmp_path / "root") == ["c.txt", "link/a.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are of POSIX systems")
def test_a_folder_whose_ignore_file_cannot_be_read_is_not_listed(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "sub/secret.txt", "zsub/secret.txt", "y/b.txt")
    os.mkfifo(tmp_path / "sub" / ".oraculoignore")
    (tmp_path / "zsub" / ".oraculoignore").write_bytes(b"#" * (1 << 21))
    found = {item.path.relative_to(tmp_path).as_posix(): item.error for item in find_files(tmp_path)}
    assert found.keys() == {"a.txt", "y/b.txt", "sub/.oraculoignore", "zsub/.oraculoignore"}
    assert isinstance(found["sub/.oraculoignore"], SourceUnreadableError)
    assert "over 1 MiB" in str(found["zsub/.oraculoignore"])


def test_names_in_either_unicode_form_are_matched(tmp_path: Path) -> None:
    rules = parse_ignore_file("ção*\n".encode(), "/docs")
    assert rules.verdict("/docs/c\u0327a\u0303o.txt", is_folder=False) is True


@pytest.mark.parametrize("line", ["[", "a[b", "a[b/c", "a[\\", "!", "/", ""])
def test_a_line_that_makes_no_sense_matches_nothing(line: str) -> None:
    rules = parse_ignore_file(line.encode(), "/docs")
    assert [rules.verdict(f"/docs/{name}", is_folder=True) for name in ("a", "[", "a[b", "b")] == [None] * 4


def test_a_hostile_pattern_costs_no_time() -> None:
    rules = parse_ignore_file(("*a" * 40 + "b\n" + "**/" * 60 + "x\n").encode(), "/docs")
    started = time.perf_counter()
    assert rules.verdict("/docs/" + "a" * 250, is_folder=False) is None
    assert rules.verdict("/docs/" + "a/" * 200 + "b", is_folder=False) is None
    assert time.perf_counter() - started < 0.5


# Without an open bracket: git lets one reach over a slash.
_PARTS = st.sampled_from(
    [
        "a",
        "b",
        "ab",
        "*",
        "**",
        "?",
        "a*",
        "*b",
        "[ab]",
        "[!a]",
        "[^b]x",
        "[a-c]*",
        "\\*",
        "\\a",
        "a b",
        "]",
        "***",
    ]
)
_LINES = st.builds(
    lambda negated, anchored, parts, folders, end: negated + anchored + "/".join(parts) + folders + end,
    st.sampled_from(["", "", "", "!", "\\!", "#", "\\#"]),
    st.sampled_from(["", "/"]),
    st.lists(_PARTS, min_size=1, max_size=4),
    st.sampled_from(["", "/"]),
    st.sampled_from(["", " ", "\\ ", "\r"]),
)
_PATHS = st.lists(
    st.sampled_from(["a", "b", "ab", "c", "*", "a b", "bx", "[", "#a", "!a", "a "]), min_size=1, max_size=4
)


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
@given(st.lists(_LINES, min_size=1, max_size=5), st.lists(_PATHS, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_it_means_what_it_means_to_git(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], paths: list[list[str]]
) -> None:
    root = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".gitignore").write_bytes("\n".join(lines).encode())
    rules = parse_ignore_file("\n".join(lines).encode(), "/r")
    given = ["/".join(path) for path in paths]

    def is_ignored(names: list[str]) -> bool:
        # As the walk does it: nothing below a folder that is left out is looked at.
        return any(
            rules.verdict("/r/" + "/".join(names[:depth]), is_folder=depth < len(names)) is True
            for depth in range(1, len(names) + 1)
        )

    ran = subprocess.run(
        ["git", "-c", "core.excludesFile=", "check-ignore", "-z", "--no-index", "--stdin"],
        cwd=root,
        input="\0".join(given).encode(),
        capture_output=True,
    )
    assert ran.returncode in (0, 1), ran.stderr
    by_git = set(ran.stdout.decode().split("\0")) - {""}
    assert {path for path, names in zip(given, paths, strict=True) if is_ignored(names)} == by_git
    shutil.rmtree(root)
