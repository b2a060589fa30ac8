"""Listing files: order, policies, and every fault as an item."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from oraculo_kit.discovery import FoundFile, find_files, source_key
from oraculo_kit.errors import (
    NotAFileError,
    SourceNotFoundError,
    SourceUnreadableError,
    UnsupportedFormatError,
)


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text", encoding="utf-8")


def names(found: Iterator[FoundFile], root: Path) -> list[str]:
    return [str(item.path.relative_to(root)) for item in found]


def fault(found: Iterator[FoundFile], name: str) -> FoundFile:
    (item,) = [item for item in found if item.path.name == name]
    assert item.error is not None
    return item


def test_files_come_sorted_and_depth_first(tmp_path: Path) -> None:
    make(tmp_path, "b.txt", "a/z.txt", "a/b/c.txt", "c/a.txt", "B.txt")
    assert names(find_files([tmp_path]), tmp_path) == ["B.txt", "a/b/c.txt", "a/z.txt", "b.txt", "c/a.txt"]


def test_a_found_file_carries_key_size_and_time(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    (found,) = find_files(tmp_path)
    info = (tmp_path / "a.txt").stat()
    assert (found.key, found.size, found.mtime_ns, found.error) == (
        str(tmp_path / "a.txt"),
        4,
        info.st_mtime_ns,
        None,
    )


def test_a_relative_path_and_a_home_path_become_absolute_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [item.key for item in find_files(["a.txt"])] == [str(tmp_path / "a.txt")]
    assert [item.key for item in find_files(["~/a.txt"])] == [str(tmp_path / "a.txt")]


def test_what_is_named_twice_is_listed_once(tmp_path: Path) -> None:
    make(tmp_path, "a/b.txt", "c.txt")
    given = [tmp_path / "a" / "b.txt", tmp_path, tmp_path / "a", tmp_path / "c.txt"]
    assert names(find_files(given), tmp_path) == ["a/b.txt", "c.txt"]


def test_hidden_and_junk_names_are_passed_over_inside_a_folder(tmp_path: Path) -> None:
    junk = [
        ".a.txt",
        ".git/b.txt",
        "__pycache__/c.txt",
        "node_modules/d.txt",
        ".ipynb_checkpoints/e.ipynb",
        "~$f.docx",
    ]
    make(tmp_path, "kept.txt", *junk)
    assert names(find_files(tmp_path), tmp_path) == ["kept.txt"]


def test_a_base_in_a_folder_is_passed_over_whatever_its_name(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.txt",
        "base/catalog.sqlite3",
        "base/writer.lock",
        "base/segments/x.txt",
        "b/catalog.sqlite3.md",
    )
    assert names(find_files(tmp_path), tmp_path) == ["a.txt", "b/catalog.sqlite3.md"]


def test_hidden_names_are_listed_when_they_are_named_themselves(tmp_path: Path) -> None:
    make(tmp_path, ".notes/a.txt", ".b.txt")
    assert names(find_files([tmp_path / ".notes", tmp_path / ".b.txt"]), tmp_path) == [
        ".notes/a.txt",
        ".b.txt",
    ]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.md", ["a.md", "sub/deep/b.md"]),
        ("sub/*.md", ["sub/deep/b.md"]),
        ("**/*.md", ["a.md", "sub/deep/b.md"]),
        ("*.pdf", []),
    ],
)
def test_a_glob_takes_only_the_files_that_match(tmp_path: Path, glob: str, expected: list[str]) -> None:
    make(tmp_path, "a.md", "a.txt", "x.unknown", "sub/deep/b.md")
    assert names(find_files(tmp_path, glob=glob), tmp_path) == expected


def test_an_unknown_extension_is_an_item_that_says_so(tmp_path: Path) -> None:
    make(tmp_path, "a.xyz", "LICENSE")
    assert all(isinstance(item.error, UnsupportedFormatError) for item in find_files(tmp_path))
    assert "'.xyz' is unknown" in str(fault(find_files(tmp_path / "a.xyz"), "a.xyz").error)
    assert "no extension" in str(fault(find_files(tmp_path), "LICENSE").error)


def test_a_missing_path_is_an_item_and_the_walk_goes_on(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    missing, found = find_files([tmp_path / "missing", tmp_path / "a.txt"])
    assert isinstance(missing.error, SourceNotFoundError)
    assert "no such file or folder" in str(missing.error)
    assert found.error is None


@pytest.mark.parametrize("given", ["", "a\0b"])
def test_what_is_no_path_is_an_item(given: str) -> None:
    (item,) = find_files([given])
    assert isinstance(item.error, SourceNotFoundError)


def test_a_path_below_a_file_does_not_exist(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    (item,) = find_files(tmp_path / "a.txt" / "b.txt")
    assert isinstance(item.error, SourceNotFoundError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are of POSIX systems")
def test_fifos_sockets_and_devices_are_named_and_never_opened(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.join(short, "s.txt"))  # the path of a socket has 107 bytes at most
        assert "a socket" in str(fault(find_files(short), "s.txt").error)
    pipe = fault(find_files(tmp_path), "pipe.txt")
    assert type(pipe.error) is NotAFileError  # no document is missing: skipped
    assert "not a regular file but a FIFO" in str(pipe.error)
    for given in (tmp_path / "pipe.txt", Path("/dev/null")):
        assert type(fault(find_files(given), given.name).error) is SourceUnreadableError  # asked for: failed
    assert "a device" in str(fault(find_files("/dev/null"), "null").error)


def test_links_to_files_and_folders_are_followed_once(tmp_path: Path) -> None:
    make(tmp_path, "outside/o.txt", "root/real/r.txt")
    (tmp_path / "root" / "a_link").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "b_link").symlink_to(tmp_path / "root" / "real")
    (tmp_path / "root" / "c.txt").symlink_to(tmp_path / "outside" / "o.txt")
    # The folder behind b_link is listed already, under its real name.
    assert names(find_files(tmp_path / "root"), tmp_path / "root") == ["c.txt", "real/r.txt", "a_link/o.txt"]


def test_a_symlink_loop_ends_and_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "root/sub/a.txt")
    (tmp_path / "root" / "sub" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "above").symlink_to(tmp_path)
    (tmp_path / "root" / "self.txt").symlink_to("self.txt")
    found = list(find_files(tmp_path / "root"))
    assert {item.path.name for item in found} == {"a.txt", "up", "above", "self.txt"}
    for name in ("up", "above", "self.txt"):
        item = fault(iter(found), name)
        assert type(item.error) is NotAFileError
        assert "symlink loop" in str(item.error)
    (named,) = find_files(tmp_path / "root" / "self.txt")
    assert type(named.error) is SourceUnreadableError
    assert "leads back to itself" in str(named.error)


def test_a_glob_leaves_out_what_is_no_file_but_not_what_may_be_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "a.md")
    (tmp_path / "self.txt").symlink_to("self.txt")
    (tmp_path / "unmounted").symlink_to(tmp_path / "gone")
    assert names(find_files(tmp_path, glob="*.md"), tmp_path) == ["a.md", "unmounted"]


def test_a_folder_link_that_is_removed_while_its_root_is_listed_is_an_item(tmp_path: Path) -> None:
    make(tmp_path, "outside/o.txt", "root/z.txt")
    link = tmp_path / "root" / "link"
    link.symlink_to(tmp_path / "outside")
    found = find_files(tmp_path / "root")
    assert next(found).path.name == "z.txt"
    link.unlink()
    (gone,) = found
    assert isinstance(gone.error, SourceNotFoundError)


def test_a_broken_symlink_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
    item = fault(find_files(tmp_path), "a.txt")
    assert isinstance(item.error, SourceNotFoundError)  # a fault: a document is missing that was there
    assert "leads to nothing" in str(item.error)


def test_a_key_is_nfc_and_keeps_symlinks(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Relatório.txt")
    make(tmp_path, decomposed)
    (tmp_path / "link").symlink_to(tmp_path)
    assert source_key(tmp_path / "link" / decomposed) == str(tmp_path / "link" / "Relatório.txt")
    (found,) = [item for item in find_files(tmp_path) if item.error is None]
    assert found.key == str(tmp_path / "Relatório.txt")
    assert found.path.exists()


def test_two_names_that_differ_only_in_unicode_form_do_not_replace_each_other(tmp_path: Path) -> None:
    make(tmp_path, unicodedata.normalize("NFC", "é.txt"), unicodedata.normalize("NFD", "é.txt"))
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system holds both names to be one")
    good, bad = sorted(find_files(tmp_path), key=lambda item: item.error is not None)
    assert good.error is None
    assert "the same name once it is written in Unicode NFC" in str(bad.error)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stores any bytes as a file name")
def test_a_name_with_newline_and_invalid_utf8_has_a_key_that_can_be_stored(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\n\xff.txt")).write_bytes(b"text")
    (found,) = find_files(tmp_path)
    assert found.key == f"{tmp_path}/a\n\\udcff.txt"
    assert found.key.encode()
    assert found.error is None
    assert found.path.read_bytes() == b"text"


_AS_NOBODY = """
import os, sys
from oraculo_kit.discovery import find_files
from oraculo_kit.load import read_file
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for found in find_files(sys.argv[1]):
    error = found.error
    if error is None:
        try:
            read_file(found.path, max_bytes=100)
        except OSError as exc:
            error = exc
    print(found.path.name, type(error).__name__, error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permission bits are of POSIX systems")
def test_a_folder_and_a_file_without_permission_are_reported_and_the_rest_goes_on() -> None:
    # Not in tmp_path, which only its owner may enter. Root ignores permission bits, so root becomes nobody.
    root = Path(tempfile.mkdtemp())
    try:
        make(root, "a.txt", "closed/b.txt", "secret.txt", "z/c.txt")
        root.chmod(0o755)
        (root / "closed").chmod(0)
        (root / "secret.txt").chmod(0)
        ran = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, str(root)],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    finally:
        (root / "closed").chmod(0o755)
        shutil.rmtree(root)
    assert ran.stdout.splitlines() == [
        "a.txt NoneType None",
        f"closed SourceUnreadableError {root}/closed: permission denied; grant read access to it",
        "secret.txt SourceUnreadableError secret.txt: Permission denied; check the permissions and the disk",
        "c.txt NoneType None",
    ]


def test_a_path_a_thousand_folders_deep_is_listed(tmp_path: Path) -> None:
    # Made and removed step by step: makedirs and rmtree recurse.
    folders = [str(tmp_path)]
    for _ in range(1100):
        folders.append(folders[-1] + "/d")
        os.mkdir(folders[-1])
    deepest = Path(folders[-1]) / "a.txt"
    deepest.write_text("text", encoding="utf-8")
    try:
        assert [item.path for item in find_files(tmp_path)] == [deepest]
    finally:
        deepest.unlink()
        for folder in reversed(folders[1:]):
            os.rmdir(folder)


def test_a_found_file_travels_to_a_worker_with_its_error(tmp_path: Path) -> None:
    (item,) = find_files(tmp_path / "missing.txt")
    copy = pickle.loads(pickle.dumps(item))
    assert (copy.key, type(copy.error), str(copy.error)) == (item.key, SourceNotFoundError, str(item.error))
