"""Zip archives become one source per member: bounded, read from memory, and skipped while they are unchanged."""

from __future__ import annotations

import contextlib
import os
import pickle
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.errors import EmptySourceError, SourceTooLargeError
from oraculo_kit.inputs import IngestSource, MemberSource, find_sources, zip_directory
from oraculo_kit.load import load_bytes

LIMIT = 1_000_000


def pack(path: Path, members: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def extract(content: bytes, name: str) -> list[Document]:
    return load_bytes(content, name=name)


def texts(found: list[IngestSource]) -> dict[str, str]:
    return {
        source.key.partition("!/")[2]: source.documents(source.content(LIMIT), extract)[0].page_content
        for source in found
    }


def errors(path: Path, **arguments: Any) -> dict[str, str]:
    return {
        Path(source.key).name: str(source.error) for source in find_sources(path, **arguments) if source.error
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_every_member_is_a_source(tmp_path: Path, method: int) -> None:
    path = pack(tmp_path / "a.zip", {"a.txt": "um", "sub/ção.txt": "dois", "sub/": ""}, method)
    found = list(find_sources(path))
    assert [source.key for source in found] == [f"{path}!/a.txt", f"{path}!/sub/ção.txt"]
    assert texts(found) == {"a.txt": "um", "sub/ção.txt": "dois"}
    assert [source.mtime_ns for source in found] == [path.stat().st_mtime_ns] * 2
    assert pickle.loads(pickle.dumps(found)) == found
    assert len(pickle.dumps(found[0])) < 1000


def test_a_member_carries_its_own_time_and_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt", (2023, 11, 14, 22, 13, 20)), "texto")
    (source,) = find_sources(tmp_path)
    assert source.documents(b"texto", extract)[0].metadata == {"bytes": 5, "modified": "2023-11-14T22:13:20"}


def test_archives_in_a_folder_are_gone_into_and_their_junk_is_passed_over(tmp_path: Path) -> None:
    pack(
        tmp_path / "B.ZIP",
        {"a.txt": "x", "__MACOSX/._a.txt": "x", ".git/c.txt": "x", "node_modules/d.md": "x"},
    )
    (tmp_path / "c.txt").write_text("x", encoding="utf-8")
    assert [os.path.relpath(source.key, tmp_path) for source in find_sources(tmp_path)] == [
        "B.ZIP!/a.txt",
        "c.txt",
    ]


def test_a_glob_chooses_members_of_a_given_archive_and_files_of_a_folder(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.txt": "x", "sub/b.md": "x"})
    assert [source.key for source in find_sources(path, glob="*.md")] == [f"{path}!/sub/b.md"]
    assert [source.key for source in find_sources(path, glob="sub/*")] == [f"{path}!/sub/b.md"]
    assert len(list(find_sources(tmp_path, glob="*.zip"))) == 2
    assert not list(find_sources(tmp_path, glob="*.md"))


def test_names_that_lead_out_are_refused_and_roots_are_taken_off(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    path = pack(
        tmp_path / "a.zip",
        {"../outside.txt": "x", "a/../../b.txt": "x", "/etc/passwd.txt": "root", "C:\\docs\\c.txt": "c"},
    )
    found = list(find_sources(path))
    assert {source.key for source in found if source.error is None} == {
        f"{path}!/etc/passwd.txt",
        f"{path}!/docs/c.txt",
    }
    refused = [str(source.error) for source in found if source.error]
    assert len(refused) == 2
    assert all("leads out of the archive, or nowhere, so it is not read" in said for said in refused)
    assert not outside.exists()
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_member_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    inner = pack(tmp_path / "inner.zip", {"a.txt": "x"})
    path = pack(
        tmp_path / "a.zip", {"ok.txt": "x", "b.zip": inner.read_bytes(), "c.xyz": "x", "LICENSE": "x"}
    )
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    said = errors(path)
    assert set(said) == {"b.zip", "c.xyz", "LICENSE", "link.txt"}
    assert "an archive in an archive is not gone into" in said["b.zip"]
    assert "the extension '.xyz' is unknown" in said["c.xyz"]
    assert "a symbolic link in an archive" in said["link.txt"]


def test_an_encrypted_member_fails_alone(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"s.txt": "segredo", "t.txt": "aberto"})
    data = bytearray(path.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(header) + flags] |= 1
    path.write_bytes(data)
    encrypted, plain = find_sources(path)
    assert "s.txt: encrypted with a password" in str(encrypted.error)
    assert texts([plain]) == {"t.txt": "aberto"}


def test_of_two_members_of_one_name_the_last_counts_and_the_first_is_a_fault(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "velho")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.txt", "novo")
    first, last = find_sources(tmp_path)
    assert first.key.endswith("a.txt (entry 1)")
    assert "holds it more than once, and the last one counts" in str(first.error)
    assert texts([last]) == {"a.txt": "novo"}


@pytest.mark.parametrize(
    ("raw", "flags", "name"),
    [
        ("ação.txt".encode(), 0, "ação.txt"),  # as macOS
        ("ação.txt".encode("cp850"), 0, "ação.txt"),  # as Windows
        (b"a\xff.txt", 0x800, "a\\udcff.txt"),
        (b"a\n.txt", 0x800, "a\n.txt"),
    ],
)
def test_names_in_any_encoding_are_text_that_can_be_stored(
    tmp_path: Path, raw: bytes, flags: int, name: str
) -> None:
    path = pack(tmp_path / "a.zip", {"x" * len(raw): "texto"}, zipfile.ZIP_STORED)
    data = path.read_bytes().replace(b"x" * len(raw), raw)
    place = data.index(b"PK\1\2") + 8
    path.write_bytes(data[:place] + struct.pack("<H", flags) + data[place + 2 :])
    (source,) = find_sources(path)
    assert source.key == f"{path}!/{name}"
    assert source.key.encode()
    assert source.content(LIMIT) == b"texto"


def test_an_archive_that_expands_too_far_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_directory, "_ALWAYS_ALLOWED_BYTES", 1_000_000)
    path = pack(tmp_path / "a.zip", {"a.txt": b"0" * 3_000_000})
    (source,) = find_sources(path)
    assert source.key == str(path)
    assert "expands from" in str(source.error)


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.txt": b"0" * 5000, "b.txt": b"1" * 5000}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = struct.pack("<L", 0)  # the second member is the first one's bytes
    path.write_bytes(data)
    (source,) = find_sources(path)
    assert "its members overlap, as those of a zip bomb do" in str(source.error)


def test_a_member_gives_no_more_than_it_declares(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.txt": b"0" * 100_000_000})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2")
    data[entry + 24 : entry + 28] = struct.pack("<L", 10)
    path.write_bytes(data)
    (source,) = find_sources(path)
    assert source.size == 10
    assert errors_of(source) == "a.txt: corrupt: not the bytes that the archive declares"


def errors_of(source: IngestSource) -> str:
    with pytest.raises(Exception, match=":") as caught:
        source.content(LIMIT)
    return str(caught.value)


def test_a_large_member_is_not_expanded(tmp_path: Path) -> None:
    (source,) = find_sources(pack(tmp_path / "a.zip", {"a.txt": b"0" * 2_000_000}))
    with pytest.raises(SourceTooLargeError, match=r"a\.txt: .* 1\.9 MiB, over the limit of 976\.6 KiB"):
        source.content(LIMIT)


def test_a_damaged_member_fails_alone_and_a_damaged_archive_whole(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.txt": os.urandom(5000).hex(), "b.txt": "inteiro"})
    data = bytearray(path.read_bytes())
    data[500:520] = bytes(20)
    path.write_bytes(data)
    broken, whole = find_sources(path)
    assert errors_of(broken).startswith("a.txt: corrupt")
    assert texts([whole]) == {"b.txt": "inteiro"}
    for cut in (0, 10, 2000, len(data) - 1, len(data) - 30):
        path.write_bytes(data[:cut])
        (source,) = find_sources(path)
        assert source.key == str(path)
        assert source.error is not None


def test_any_damage_to_a_directory_is_a_fault_and_never_an_exception(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {f"{n}.txt": f"texto {n}" for n in range(3)})
    data = path.read_bytes()
    for place in range(data.index(b"PK\1\2"), len(data)):
        for value in (0, 0xFF):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            for source in find_sources(path):
                if source.error is None:
                    with contextlib.suppress(oraculo.errors.SourceError):
                        source.content(LIMIT)


def test_an_archive_of_more_than_65535_members_and_one_with_something_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(65_600):
            archive.writestr(f"{number}.txt", b"x")
    found = list(find_sources(path))
    assert len(found) == 65_600
    assert found[-1].content(LIMIT) == b"x"
    small = pack(tmp_path / "b.zip", {"a.txt": "depois"})
    small.write_bytes(b"#!/bin/sh\n" * 100 + small.read_bytes())
    assert texts(list(find_sources(small))) == {"a.txt": "depois"}


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_directory, "MAX_MEMBERS", 2)
    assert "over 2 members" in errors(pack(tmp_path / "a.zip", {f"{n}.txt": "x" for n in range(3)}))["a.zip"]


def test_an_empty_file_named_zip_is_nothing_to_index_as_any_empty_file_is(tmp_path: Path) -> None:
    (tmp_path / "vazio.zip").touch()
    (found,) = find_sources(tmp_path)
    assert isinstance(found.error, EmptySourceError)
    assert str(found.error) == f"{tmp_path / 'vazio.zip'}: the file is empty"


def test_a_loader_for_zip_files_is_given_the_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oraculo_kit import formats

    path = pack(tmp_path / "a.zip", {"a.txt": "x"})
    monkeypatch.setitem(formats._registered, ".zip", lambda data, name: [Document("meu")])
    (source,) = find_sources(path)
    assert source.key == str(path)
    assert source.error is None


# --- in the pipeline ----------------------------------------------------------------------------------------


def test_an_unchanged_archive_is_skipped_without_expanding_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(project / "a.zip", {"a.txt": "nota fiscal", "b.txt": "boleto"})
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert oraculo.ingest(path, progress=False).counts == {"added": 2}
    assert oraculo.search("nota fiscal", k=1)[0].source == f"{path}!/a.txt"

    with monkeypatch.context() as patched:
        patched.setattr(MemberSource, "content", lambda *_: pytest.fail("expanded again"))
        assert oraculo.ingest(path, progress=False).counts == {"unchanged": 2}

    pack(path, {"a.txt": "nota fiscal", "b.txt": "cartão"})
    os.utime(path, (1_700_000_100, 1_700_000_100))
    assert oraculo.ingest(path, progress=False).counts == {"unchanged": 1, "replaced": 1}


def test_members_that_are_gone_are_pruned_and_those_of_a_damaged_archive_stay(project: Path) -> None:
    folder = project / "docs"
    folder.mkdir()
    (folder / "c.txt").write_text("outro", encoding="utf-8")
    path = pack(folder / "a.zip", {"a.txt": "nota fiscal", "b.txt": "boleto", "c.md": "x"})
    assert oraculo.ingest(folder, progress=False).counts == {"added": 4}

    pack(path, {"a.txt": "nota fiscal"})
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert oraculo.ingest(folder, prune=True, progress=False).counts == {"unchanged": 1, "failed": 1}
    path.write_bytes(whole)
    report = oraculo.ingest(path, prune=True, progress=False)
    assert report.counts == {"unchanged": 1, "pruned": 2}

    path.unlink()
    assert oraculo.ingest(folder, prune=True, progress=False).counts == {"unchanged": 1, "pruned": 1}
