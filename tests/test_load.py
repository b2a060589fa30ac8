"""Reading files once, and what holds for every loader."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from langchain_core.documents import Document

from oraculo_kit import formats
from oraculo_kit.errors import (
    EmptySourceError,
    ExtractionError,
    SettingsError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnreadableError,
    UnsupportedFormatError,
)
from oraculo_kit.formats import find_loader, pdf, register_loader
from oraculo_kit.load import load_bytes, read_file
from tests.tools.documents import make_pdf

LIMIT = 1_000_000


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test registers from the others."""
    monkeypatch.setattr(formats, "_registered", {})


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "a.bin").write_bytes(content)
    assert read_file(tmp_path / "a.bin", max_bytes=len(content)) == content


def test_an_empty_file_is_read_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert read_file(tmp_path / "a.txt", max_bytes=LIMIT) == b""


def test_a_file_of_a_gigabyte_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.txt"
    path.touch()
    os.truncate(path, 1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(
            SourceTooLargeError, match=r"sparse\.txt: 1\.0 GiB .* limit of 976\.6 KiB.*ORACULO_MAX_FILE_MB"
        ):
            read_file(path, max_bytes=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux has files that hide their size"
)
def test_a_file_that_hides_its_size_is_read_to_its_end_and_no_further_than_the_limit() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    assert b"Pid:" in read_file("/proc/self/status", max_bytes=LIMIT)
    with pytest.raises(SourceTooLargeError, match="over the limit"):
        read_file("/proc/self/status", max_bytes=10)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are of POSIX systems")
def test_an_endless_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(SourceUnreadableError, match=r"pipe\.txt: not a regular file"):
        read_file(tmp_path / "pipe.txt", max_bytes=LIMIT)


def test_a_folder_or_a_vanished_file_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadableError, match=r"not a regular file|directory"):
        read_file(tmp_path, max_bytes=LIMIT)
    with pytest.raises(SourceNotFoundError, match="the file is gone"):
        read_file(tmp_path / "gone.txt", max_bytes=LIMIT)


@pytest.mark.parametrize(("data", "reason"), [(b"", "the file is empty"), (b" \r\n\t", "no text in it")])
def test_a_source_without_text_is_empty(data: bytes, reason: str) -> None:
    with pytest.raises(EmptySourceError, match=rf"a\.txt: .*{reason}"):
        load_bytes(data, name="a.txt")


def test_an_unknown_format_says_what_to_do() -> None:
    with pytest.raises(UnsupportedFormatError, match=r"a\.xyz: no loader reads '\.xyz'.*register_loader"):
        load_bytes(b"text", name="/some/folder/a.xyz")


def test_the_mime_type_decides_where_the_name_says_nothing() -> None:
    (document,) = load_bytes(b"<title>T</title>text", name="page", mime="text/html; charset=utf-8")
    assert document.metadata["title"] == "T"
    (document,) = load_bytes(b"<b>text</b>", name="page.txt", mime="text/html")
    assert document.page_content == "<b>text</b>"


@pytest.mark.usefixtures("registry")
def test_a_user_adds_a_format_and_replaces_one() -> None:
    @register_loader(".shout")
    def load_shout(data: bytes, name: str) -> list[Document]:
        return [Document(page_content=data.decode().lower(), metadata={"title": name})]

    register_loader(".TXT", load_shout)
    for name in ("a.SHOUT", "a.txt"):
        (document,) = load_bytes(b"LOUD", name=name)
        assert (document.page_content, document.metadata) == ("loud", {"title": name})


@pytest.mark.parametrize("extension", ["srt", "", ".", ".tar.gz", ".a/b"])
def test_an_extension_that_no_name_can_have_is_refused(extension: str) -> None:
    with pytest.raises(SettingsError, match="expected a dot and a name"):
        register_loader(extension, find_loader("a.txt"))


def test_a_loader_that_cannot_be_called_is_refused_when_it_is_registered() -> None:
    with pytest.raises(SettingsError, match="got int as loader of .srt, expected a function"):
        register_loader(".srt", 5)  # type: ignore[call-overload]


class PanicException(BaseException):
    """Named and derived like the panic of an extension module written in Rust."""


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("error", [ValueError, RuntimeError, MemoryError, PanicException])
def test_whatever_a_loader_raises_names_file_and_reason_in_few_words(error: type[BaseException]) -> None:
    @register_loader(".bad")
    def load_bad(data: bytes, name: str) -> list[Document]:
        raise error("broken at " + "x" * 1000 + "\nsecond line")

    with pytest.raises(
        ExtractionError, match=rf"^a\.bad: cannot be read as \.bad: {error.__name__}: broken"
    ) as caught:
        load_bytes(b"text", name="/long/folder/a.bad")
    assert len(str(caught.value)) <= 300
    assert isinstance(caught.value.__cause__, error)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_not_a_fault_of_the_document(error: type[BaseException]) -> None:
    @register_loader(".bad")
    def load_bad(data: bytes, name: str) -> list[Document]:
        raise error

    with pytest.raises(error):
        load_bytes(b"text", name="a.bad")


@pytest.mark.usefixtures("registry")
def test_a_loader_that_shares_metadata_or_gives_unstorable_text_is_mended() -> None:
    @register_loader(".odd")
    def load_odd(data: bytes, name: str) -> list[Document]:
        shared = {"title": " a\n\ud800 ", "sheet": "", "page": None}
        texts = ["one\r\ntwo\rthree", "nul \0", "lone \ud800 end \U0001f600", "  "]
        return [Document.model_construct(page_content=text, metadata=shared) for text in texts]

    documents = load_bytes(b"x", name="a.odd")
    assert [document.page_content for document in documents] == [
        "one\ntwo\nthree",
        "nul \ufffd",
        "lone \ufffd end \U0001f600",
    ]
    assert [document.metadata.get("encoding_suspect") for document in documents] == [None, True, True]
    assert all(document.metadata["title"] == "a \ufffd" for document in documents)
    assert all("sheet" not in document.metadata and "page" not in document.metadata for document in documents)
    documents[0].metadata["page"] = 1
    assert "page" not in documents[1].metadata


def test_a_name_that_would_break_a_line_is_shown_on_one() -> None:
    with pytest.raises(EmptySourceError, match=r"^a\\nb\\udcff\.txt: the file is empty$"):
        load_bytes(b"", name="a\nb\udcff.txt")


def test_listing_and_reading_import_no_parser() -> None:
    code = (
        "import sys; from oraculo_kit.load import find_files, read_file; list(find_files('.'));"
        "print([name for name in ('langchain_core', 'numpy', 'openpyxl', 'pypdfium2') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"


def test_a_pdf_is_read_in_a_forked_child_after_one_was_read_in_the_parent(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("fork is of POSIX systems")
    (tmp_path / "a.pdf").write_bytes(make_pdf(["Página um"]))
    # Another thread holds PDFium's lock at the moment of the fork, as in a notebook that is ingesting.
    code = (
        "import os, sys, threading; from oraculo_kit.load import load_bytes; from oraculo_kit.formats import pdf\n"
        "data = open(sys.argv[1], 'rb').read(); load_bytes(data, name='a.pdf'); held = threading.Event()\n"
        "def hold():\n    with pdf._lock: held.set(); threading.Event().wait(60)\n"
        "threading.Thread(target=hold, daemon=True).start(); held.wait()\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(len(load_bytes(data, name='a.pdf')))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "a.pdf")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == "1"


def test_a_thread_waits_while_another_is_in_pdfium() -> None:
    data = make_pdf(["Página um"])
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(len(load_bytes(data, name="a.pdf"))))
    with pdf._lock:
        thread.start()
        thread.join(0.3)
        assert results == []
    thread.join()
    assert results == [1]


def test_many_threads_read_pdfs_at_once() -> None:
    data = make_pdf([f"Página {number}" for number in range(20)])
    expected = load_bytes(data, name="a.pdf")
    results: list[bool] = []

    def read() -> None:
        results.extend(load_bytes(data, name="a.pdf") == expected for _ in range(5))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40
