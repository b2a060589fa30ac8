"""Files behind URLs that fsspec reads: listed, told to be unchanged, read with a limit; faults are named."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.errors import SourceError, SourceNotFoundError, SourceTooLargeError, UnsupportedFormatError
from oraculo_kit.inputs import RemoteSource, find_sources, remote
from oraculo_kit.load import load_bytes

LIMIT = 1_000_000


@pytest.fixture
def files() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    for name in ("a.txt", "sub/b.md", ".hidden/c.txt", "photo.heic"):
        memory.pipe(f"/docs/{name}", f"texto {name}".encode())
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def extract(content: bytes, name: str) -> list[Document]:
    return load_bytes(content, name=name)


def test_a_folder_is_listed_with_all_it_holds(files: Any) -> None:
    found = list(find_sources("memory://docs/"))
    assert [source.key for source in found] == [
        f"memory://docs/{name}" for name in ("a.txt", "photo.heic", "sub/b.md")
    ]
    assert isinstance(found[1].error, UnsupportedFormatError)
    source = found[2]
    content = source.content(LIMIT)
    assert source.size == len(content) == len("texto sub/b.md")
    (document,) = source.documents(content, extract)
    assert document.page_content == "texto sub/b.md"
    assert document.metadata["bytes"] == source.size
    copy = pickle.loads(pickle.dumps(source))
    assert (copy, copy.content(LIMIT)) == (source, content)


def test_a_file_and_a_glob(files: Any) -> None:
    assert [source.key for source in find_sources("memory://docs/a.txt")] == ["memory://docs/a.txt"]
    assert [source.key for source in find_sources(["memory://docs"], glob="*.md")] == [
        "memory://docs/sub/b.md"
    ]
    assert [source.key for source in find_sources("memory://docs", glob="sub/*")] == [
        "memory://docs/sub/b.md"
    ]


def test_a_file_over_the_limit_is_not_read(files: Any) -> None:
    (source,) = find_sources("memory://docs/a.txt")
    with pytest.raises(SourceTooLargeError, match=r"memory://docs/a\.txt"):
        source.content(3)
    grown = RemoteSource("memory://docs/a.txt", "memory://docs/a.txt", size=1)
    with pytest.raises(SourceTooLargeError):
        grown.content(3)


def test_what_is_missing_or_gone_is_a_fault(files: Any) -> None:
    (missing,) = find_sources("memory://nowhere/")
    assert isinstance(missing.error, SourceNotFoundError)
    (source,) = find_sources("memory://docs/a.txt")
    files.rm("/docs/a.txt")
    with pytest.raises(SourceNotFoundError, match="no such file or folder; check the URL"):
        source.content(LIMIT)


def test_a_version_is_told_by_time_or_else_by_its_tag() -> None:
    moment = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    for info in (
        {"LastModified": moment},
        {"last_modified": moment.replace(tzinfo=None)},
        {"updated": "2023-11-14T22:13:20Z"},
        {"mtime": moment.timestamp()},
    ):
        assert remote._stamp(info) == (1_700_000_000 * 10**9, "2023-11-14T22:13:20+00:00"), info
    one, other = remote._stamp({"ETag": '"abc"'}), remote._stamp({"ETag": '"abd"'})
    assert one == remote._stamp({"ETag": '"abc"'})
    assert one != other
    assert one[1] is None
    assert remote._stamp({}) == (None, None)
    assert remote._stamp({"created": moment}) == (None, None)


def test_unknown_and_chained_urls_are_refused() -> None:
    with pytest.raises(
        SourceError, match="gopher:// is no scheme that can be read, expected one of https, http, file, s3"
    ):
        find_sources("gopher://host/a.txt")
    (source,) = find_sources("s3://bucket/a.zip::file:///etc")
    assert "chained URLs of fsspec are not read" in str(source.error)


@pytest.mark.parametrize("hidden", ["fsspec", "paramiko"])
def test_a_missing_package_is_named(tmp_path: Path, hidden: str) -> None:
    script = (
        f"import sys; sys.modules[{hidden!r}] = None\n"
        "from oraculo_kit.inputs import find_sources\n"
        "print(next(find_sources('sftp://ana:s3nha@host/docs')).error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    wanted = "pip install 'oraculo_kit[remote]' paramiko" if hidden == "fsspec" else "pip install paramiko"
    assert wanted in ran.stdout
    assert "s3nha" not in ran.stdout


def test_credentials_are_in_no_key_and_no_message() -> None:
    assert remote.remote_key("sftp://ana:s3nha-planted@host/a.txt") == "sftp://host/a.txt"
    assert (
        remote.remote_key("abfss://docs@conta.dfs.core.windows.net/a")
        == "abfss://docs@conta.dfs.core.windows.net/a"
    )
    assert "planted" not in repr(RemoteSource("sftp://ana:s3nha-planted@host/a.txt", "sftp://host/a.txt"))


def test_the_pipeline_skips_what_is_unchanged_and_prunes_what_is_gone(project: Path, files: Any) -> None:
    def ingest(**arguments: Any) -> dict[str, int]:
        return oraculo.ingest("memory://docs", glob="*.??*", progress=False, **arguments).counts

    files.rm("/docs/photo.heic")
    assert ingest() == {"added": 2}
    assert ingest() == {"unchanged": 2}
    files.rm("/docs/a.txt")
    assert ingest(prune=True) == {"unchanged": 1, "pruned": 1}
    files.rm("/docs", recursive=True)
    assert "pruned" not in ingest(prune=True)
