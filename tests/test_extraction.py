"""Extraction in helpers: the documents of `load_bytes`, and nothing that a document does gets further than itself."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from langchain_core.documents import Document

from oraculo_kit import extraction, formats
from oraculo_kit.errors import (
    EmptySourceError,
    ExtractionError,
    ExtractionHelperError,
    SourceError,
    UnsupportedFormatError,
)
from oraculo_kit.extraction import ExtractionLimits, HelperPool, extract, stop_helpers
from oraculo_kit.extraction_process import HelperProcess, helper_command
from oraculo_kit.formats import register_loader
from oraculo_kit.load import load_bytes
from oraculo_kit.settings import Settings
from tests.tools.documents import (
    make_docx,
    make_eml,
    make_epub,
    make_notebook,
    make_odt,
    make_pdf,
    make_pptx,
    make_xlsx,
)

# A helper that does what a document tells it: .html is read there, whatever this process does with it.
OBEDIENT = r"""
import ctypes, os, sys, time
from langchain_core.documents import Document
from oraculo_kit.extraction_helper import main
from oraculo_kit.formats import register_loader

def obey(data, name):
    order = data.decode()
    if order == "hang":
        time.sleep(1000)
    elif order == "hold the interpreter":
        if os.name == "nt":
            ctypes.PyDLL("kernel32").Sleep(1000_000)
        ctypes.PyDLL(None).sleep(1000)
    elif order == "abort":
        os.abort()
    elif order == "exit":
        print("cannot go on", file=sys.stderr)
        os._exit(3)
    elif order == "abort when used":
        if hasattr(obey, "used"):
            os.abort()
    elif order == "grow":
        parts = []
        while True:
            parts.append(b"x" * 5_000_000)
            time.sleep(0.005)
    elif order == "allocate":
        bytearray(1 << 42)
    elif order == "keep":
        obey.kept = b"x" * 150_000_000
    elif order == "print":
        print("noise" * 100_000)
        os.write(1, b"noise" * 100_000)
        os.write(2, b"noise" * 100_000)
    elif order == "read":
        order = sys.stdin.read() + "nothing"
    elif order == "environment":
        order = " ".join(sorted(os.environ))
    elif order == "deaf":
        raise SystemExit(4)
    obey.used = True
    return [Document(page_content=order, metadata={"pid": os.getpid()})]

register_loader(".html", obey)
main()
"""

LIMITS = ExtractionLimits(seconds=30.0, memory_bytes=400 << 20)


@pytest.fixture
def no_helper() -> Iterator[None]:
    """Begin without helpers, and check that the test leaves none, nor a thread."""
    stop_helpers()
    threads = threading.active_count()
    yield
    assert helpers() == []
    assert threading.active_count() <= threads
    gc.collect()  # a process that nobody waited for would warn now


@pytest.fixture
def pool(no_helper: None) -> Iterator[HelperPool]:
    """Return a pool of obedient helpers."""
    pool = HelperPool([sys.executable, "-P", "-c", OBEDIENT])
    yield pool
    pool.close()


@pytest.fixture(autouse=True, scope="module")
def _helpers_end_with_the_tests() -> Iterator[None]:
    yield
    stop_helpers()
    assert helpers() == []


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_registered", {})


def helpers(pid: int | None = None) -> list[psutil.Process]:
    """Return a process's children that look like helpers, zombies too."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if child.status() == psutil.STATUS_ZOMBIE or "extraction_helper" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def order(pool: HelperPool, what: str, limits: ExtractionLimits = LIMITS, **options: object) -> Document:
    (document,) = pool.extract(what.encode(), "folder/a.html", limits=limits, **options)  # type: ignore[arg-type]
    return document


def pid_of(pool: HelperPool) -> int:
    return int(order(pool, "pid").metadata["pid"])


def ends(pid: int, seconds: float = 5.0) -> bool:
    """Tell whether a process that is no child of ours ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


# --- the same documents, the same errors ----------------------------------------------------------------------

DOCUMENTS: dict[str, bytes] = {
    "a.pdf": make_pdf(["uma página", "", "outra"], title="Título"),
    "a.docx": make_docx(),
    "a.xlsx": make_xlsx(),
    "a.pptx": make_pptx(),
    "a.odt": make_odt(),
    "a.epub": make_epub(),
    "a.eml": make_eml(),
    "a.ipynb": make_notebook(),
    "a.html": "<title>ç</title><h1>Um</h1><p>informaÃ§Ã£o".encode(),
    "a.xml": b"<a><b c='1'>texto</b></a>",
    "a.json": b'[{"a": 1.50}, {"b": "\\ud800"}]',
    "a.jsonl": b'{"a": 1}\n\n{"b": [1, 2]}\n',
    "a.csv": "produto;preço\nCafé;12,50\n".encode("cp1252"),
    "a.md": b"# Um\ntexto",
    "a.py": b"def f(): pass",
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_and_metadata_are_those_of_load_bytes(name: str) -> None:
    expected = load_bytes(DOCUMENTS[name], name=name)
    found = extract(DOCUMENTS[name], name)
    assert found == expected
    # == takes True for 1
    types = [{key: type(value) for key, value in each.metadata.items()} for each in found]
    assert types == [{key: type(value) for key, value in each.metadata.items()} for each in expected]
    assert len({id(each.metadata) for each in found}) == len(found)


@pytest.mark.parametrize(
    ("data", "name", "error"),
    [
        (b"", "a.pdf", EmptySourceError),
        (b"<p> </p>", "a.html", EmptySourceError),
        (b"%PDF-1.4 broken", "folder/a.pdf", ExtractionError),
        (b"not a zip", "a\n\udcff.docx", ExtractionError),
        (b'{"a": ', "a.json", ExtractionError),
        (b"[" * 100_000, "a.json", ExtractionError),
        (b"x", "a.heic", UnsupportedFormatError),
        (make_pdf([""]), "scanned.pdf", EmptySourceError),
    ],
)
def test_errors_are_those_of_load_bytes(data: bytes, name: str, error: type[SourceError]) -> None:
    with pytest.raises(error) as expected:
        load_bytes(data, name=name)
    with pytest.raises(error) as found:
        extract(data, name)
    assert (type(found.value), str(found.value)) == (type(expected.value), str(expected.value))


def test_the_mime_type_decides_where_the_name_says_nothing() -> None:
    (document,) = extract(b"<title>T</title>text", "page", mime="text/html; charset=utf-8")
    assert document.metadata["title"] == "T"
    assert helpers() != []


# --- what runs where --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.py", "a.md", "a.csv", "a.rst"])
def test_small_plain_text_is_read_here_and_large_text_in_a_helper(name: str) -> None:
    stop_helpers()
    extract(b"a,b\nc,d\n" * 1000, name)
    assert helpers() == []
    large = b"a line of text, for example\n" * (10_000 if name == "a.csv" else 150_000)
    assert extract(large, name) == load_bytes(large, name=name)
    assert len(helpers()) == 1


@pytest.mark.usefixtures("registry")
def test_a_users_loader_runs_here_even_for_a_format_that_we_know() -> None:
    stop_helpers()
    seen = []

    @register_loader(".pdf")
    def load(data: bytes, name: str) -> list[Document]:
        seen.append(os.getpid())
        return [Document(page_content="mine")]

    (document,) = extract(b"%PDF", "a.pdf")
    assert (document.page_content, seen, helpers()) == ("mine", [os.getpid()], [])


def test_a_helper_imports_nothing_heavy_and_takes_no_module_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "html.py").write_text("raise SystemExit('a module of the documents')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    report = "import atexit, sys; from oraculo_kit.extraction_helper import main; import os; "
    report += (
        "end = os._exit; os._exit = lambda code: (print(*sys.modules, file=sys.stderr), end(code)); main()"
    )
    helper = HelperProcess([sys.executable, "-P", "-c", report])
    request = json.dumps({"options": {"name": "a.html"}, "seconds": 9, "memory_bytes": 1 << 30}).encode()
    assert b"P&D" in helper.ask(request, b"<p>P&amp;D", seconds=9, memory_bytes=1 << 30)
    assert helper._process.stdin is not None
    helper._process.stdin.close()
    helper._process.wait(10)
    helper._threads[-1].join(10)
    modules = set(helper._errors.decode().split())
    helper.kill()
    assert modules
    heavy = {"pandas", "numpy", "faiss", "langchain_core.vectorstores", "psutil", "openpyxl", "pypdfium2"}
    assert not modules & heavy


def test_keys_and_settings_do_not_reach_a_helper(pool: HelperPool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ORACULO_STORE", "AWS_SECRET_ACCESS_KEY", "MY_DATABASE_PASSWORD"):
        monkeypatch.setenv(name, "planted")
    names = order(pool, "environment").page_content.split()
    assert "PATH" in names
    assert not {"OPENAI_API_KEY", "ORACULO_STORE", "AWS_SECRET_ACCESS_KEY", "MY_DATABASE_PASSWORD"} & {*names}


# --- reuse ------------------------------------------------------------------------------------------------------


def test_hundreds_of_documents_are_read_by_one_process(pool: HelperPool) -> None:
    assert len({pid_of(pool) for _ in range(500)}) == 1
    assert len(helpers()) == 1


def test_a_helper_is_replaced_after_many_documents(pool: HelperPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "_MOST_DOCUMENTS", 3)
    pids = [pid_of(pool) for _ in range(6)]
    assert pids[0] == pids[2] != pids[3] == pids[5]


def test_a_helper_that_holds_much_memory_is_replaced(pool: HelperPool) -> None:
    first = pid_of(pool)
    keeping = ExtractionLimits(30.0, 320 << 20)
    assert order(pool, "keep", keeping).metadata["pid"] == first  # more than 150 MB: nearly half the limit
    assert pid_of(pool) != first


def test_a_helper_that_waited_for_long_is_not_trusted(
    pool: HelperPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pid_of(pool)
    monkeypatch.setattr("oraculo_kit.extraction_process._TRUSTED_IDLE_SECONDS", 0.0)
    assert pid_of(pool) != first


@pytest.mark.usefixtures("no_helper")
def test_a_helper_without_work_ends_by_itself_and_leaves_no_zombie() -> None:
    code = "import oraculo_kit.extraction_helper as h; h.IDLE_SECONDS = 0.2; h.main()"
    impatient = HelperPool([sys.executable, "-P", "-c", code])
    impatient.extract(b"<p>a", "a.html")
    deadline = time.monotonic() + 10
    while helpers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert helpers() == []
    assert impatient.extract(b"<p>b", "a.html")[0].page_content == "b"
    impatient.close()


def test_threads_have_a_helper_each_and_share_them_afterwards(pool: HelperPool) -> None:
    together = threading.Barrier(4)

    def work(_: int) -> set[int]:
        together.wait(30)
        return {pid_of(pool) for _ in range(50)}

    with ThreadPoolExecutor(4) as threads:
        pids = set().union(*threads.map(work, range(4)))
    assert 2 <= len(pids) <= 4
    assert {helper.pid for helper in helpers()} == pids
    assert pid_of(pool) in pids


# --- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["hang", "hold the interpreter"])
def test_a_document_that_takes_too_long_costs_itself_only(pool: HelperPool, what: str) -> None:
    before = pid_of(pool)
    started = time.monotonic()
    with pytest.raises(
        ExtractionError, match=r"^a\.html: reading it takes more than 0\.4 s, .* ORACULO_EXTRACT_SECONDS"
    ):
        order(pool, what, ExtractionLimits(0.4, LIMITS.memory_bytes))
    assert time.monotonic() - started < 2
    assert helpers() == []
    assert pid_of(pool) != before


@pytest.mark.parametrize("what", ["grow", "allocate"])
def test_a_document_that_takes_too_much_memory_costs_itself_only(pool: HelperPool, what: str) -> None:
    if what == "allocate" and sys.platform != "linux":
        pytest.skip("elsewhere the system itself refuses, or lends, so much")
    with pytest.raises(
        ExtractionError,
        match=r"^a\.html: reading it takes more than 400 MiB of memory, .* ORACULO_EXTRACT_MEMORY_MB",
    ):
        order(pool, what)
    assert helpers() == []
    assert order(pool, "next").page_content == "next"


@pytest.mark.usefixtures("no_helper")
def test_the_parent_watches_the_memory_where_the_system_sets_no_limit() -> None:
    unlimited = "import oraculo_kit.extraction_helper as helper\nhelper._limit_memory = lambda size: None\n"
    pool = HelperPool([sys.executable, "-P", "-c", unlimited + OBEDIENT])
    with pytest.raises(ExtractionError, match="takes more than 400 MiB of memory"):
        order(pool, "grow")
    assert helpers() == []
    pool.close()


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the parent's look at the memory is all there is"
)
def test_a_single_allocation_cannot_overtake_the_parents_look() -> None:
    code = "import oraculo_kit.extraction_helper as h; h._limit_memory(300 << 20)\n"
    code += "try: bytearray(400 << 20)\nexcept MemoryError: print('refused')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout == "refused\n", done.stderr


def test_content_that_cannot_fit_is_refused_without_a_helper(pool: HelperPool) -> None:
    with pytest.raises(ExtractionError, match="more than 1 MiB of memory"):
        order(pool, "x" * 600_000, ExtractionLimits(30.0, 1 << 20))
    assert helpers() == []


def test_limits_come_from_settings() -> None:
    settings = Settings.resolve(
        environ={"ORACULO_EXTRACT_SECONDS": "2.5", "ORACULO_EXTRACT_MEMORY_MB": "512"}, project_root="/p"
    )
    assert (settings.extract_seconds, settings.extract_memory_mb) == (2.5, 512)
    defaults = Settings.resolve(environ={}, project_root="/p")
    assert ExtractionLimits(defaults.extract_seconds, defaults.extract_memory_mb << 20) == ExtractionLimits()


# --- helpers that break -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("abort", "it was ended by SIGABRT: Fatal Python error: Aborted"),
        ("exit", "exit code 3: cannot go on"),
        ("deaf", "exit code 4"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="the numbers are those of POSIX")
def test_a_document_that_breaks_its_reader_is_named_with_the_reason(
    pool: HelperPool, what: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExtractionError, match=rf"^a\.html: it broke the process that read it: {reason}"):
        order(pool, what)
    assert order(pool, "next").page_content == "next"
    assert capfd.readouterr() == ("", "")


def test_a_used_helper_that_breaks_gives_the_document_a_second_try_in_a_new_one(pool: HelperPool) -> None:
    first = order(pool, "abort when used").metadata["pid"]
    second = order(pool, "abort when used").metadata["pid"]
    assert first != second


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_a_helper_killed_in_the_middle_is_an_error_of_its_document(pool: HelperPool) -> None:
    def kill() -> None:
        while not (found := helpers()):
            time.sleep(0.01)
        time.sleep(0.7)  # its start
        found[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ExtractionError, match=r"a\.html: it broke the process .* ended by SIGKILL"):
        order(pool, "hang")
    killer.join()
    assert order(pool, "next").page_content == "next"


def test_a_helper_killed_between_documents_costs_none(pool: HelperPool) -> None:
    psutil.Process(pid_of(pool)).kill()
    assert order(pool, "next").page_content == "next"


def test_what_a_library_prints_or_reads_does_not_touch_the_messages(
    pool: HelperPool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert order(pool, "print").page_content == "print"
    assert order(pool, "read").page_content == "nothing"
    assert capfd.readouterr() == ("", "")


# --- stopping ---------------------------------------------------------------------------------------------------


class Stop(BaseException):
    pass


def test_a_checkpoint_is_called_often_and_stops_the_extraction(pool: HelperPool) -> None:
    calls: list[float] = []

    def checkpoint() -> None:
        calls.append(time.monotonic())
        if len(calls) == 12:
            raise Stop

    pid_of(pool)
    with pytest.raises(Stop):
        order(pool, "hang", checkpoint=checkpoint)
    assert max(later - earlier for earlier, later in itertools.pairwise(calls)) < 0.2
    assert helpers() == []


@pytest.mark.usefixtures("no_helper")
def test_a_checkpoint_stops_the_start_of_a_helper_too() -> None:
    before = set(psutil.Process().children())

    def checkpoint() -> None:
        raise Stop

    with pytest.raises(Stop):
        HelperProcess([sys.executable, "-c", "input()"], checkpoint)
    assert set(psutil.Process().children()) <= before


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_an_interrupt_goes_through_at_once(pool: HelperPool) -> None:
    pid_of(pool)
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        order(pool, "hang")
    timer.join()
    assert time.monotonic() - started < 1.5
    assert helpers() == []


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_an_interrupt_of_the_helper_is_ignored(pool: HelperPool) -> None:
    pid = pid_of(pool)
    os.kill(pid, signal.SIGINT)
    assert pid_of(pool) == pid
    assert os.getpgid(pid) != os.getpgid(0)


# --- machines that start none -----------------------------------------------------------------------------------


def test_a_command_that_is_missing_is_said_clearly() -> None:
    pool = HelperPool(["/nowhere/python"])
    with pytest.raises(
        ExtractionHelperError, match=r"cannot be started: .*/nowhere/python; allow this process"
    ) as caught:
        pool.extract(b"<p>a", "a.html")
    assert not isinstance(caught.value, SourceError)


@pytest.mark.usefixtures("no_helper")
def test_a_command_that_ends_at_once_is_said_clearly_with_its_last_words() -> None:
    before = set(psutil.Process().children())
    pool = HelperPool([sys.executable, "-c", "import sys; sys.exit('no room here')"])
    with pytest.raises(
        ExtractionHelperError, match=r"did not start: exit code 1: no room here\. Its command is"
    ):
        pool.extract(b"<p>a", "a.html")
    assert set(psutil.Process().children()) <= before


@pytest.mark.skipif(sys.platform != "linux", reason="limits the processes of a user")
def test_a_machine_that_refuses_processes_is_said_clearly() -> None:
    code = """
import resource, oraculo_kit.extraction as e
from oraculo_kit.errors import ExtractionHelperError
resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))
try:
    e.extract(b"<p>a", "a.html")
except ExtractionHelperError as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert "the process that reads documents cannot be started: " in done.stdout, done.stderr


# --- processes --------------------------------------------------------------------------------------------------

PARENT = r"""
import json, os, sys, threading, time
from oraculo_kit.extraction import ExtractionLimits, HelperPool
pool = HelperPool([sys.executable, "-P", "-c", sys.argv[1]])
pid = pool.extract(b"pid", "a.html", limits=ExtractionLimits(100, 1 << 30))[0].metadata["pid"]
if sys.argv[3:] == ["fork"] and os.fork() == 0:
    time.sleep(1000)
print(pid, flush=True)
if sys.argv[2] == "nothing":
    time.sleep(1000)
pool.extract(sys.argv[2].encode(), "a.html", limits=ExtractionLimits(100, 1 << 30))
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
@pytest.mark.parametrize(
    ("doing", "forked"),
    [("nothing", []), ("hang", ["fork"]), ("hold the interpreter", [])],
)
def test_a_helper_does_not_outlive_a_parent_that_was_killed(doing: str, forked: list[str]) -> None:
    if doing == "hold the interpreter" and sys.platform != "linux":
        pytest.skip("ends at its time limit there")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, OBEDIENT, doing, *forked],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    children = psutil.Process(parent.pid).children()
    time.sleep(0.3)
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    try:
        assert ends(pid)
    finally:
        parent.stdout.close()
        for child in children:
            if child.pid != pid:
                child.kill()


def test_a_process_that_ends_normally_leaves_no_helper_and_no_noise() -> None:
    code = "from oraculo_kit.extraction import extract, _pool; extract(b'<p>a', 'a.html'); print(_pool._idle[0].pid)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stderr == ""
    assert not psutil.pid_exists(int(done.stdout))  # waited for, too


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_uses_helpers_of_its_own_and_leaves_the_parents_alone() -> None:
    code = r"""
import json, os, threading, time
from oraculo_kit.extraction import _pool, extract
busy = threading.Thread(target=lambda: [extract(b"<p>a", "a.html") for _ in range(300)])
extract(b"<p>a", "a.html")
extract(b"<p>a", "a.html")
busy.start()
mine = [helper.pid for helper in _pool._idle]
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    text = extract(b"<p>forked", "a.html")[0].page_content
    os.write(writer, json.dumps([text, [helper.pid for helper in _pool._idle]]).encode())
    os._exit(0)
os.close(writer)
text, theirs = json.loads(os.read(reader, 10000))
os.waitpid(child, 0)
busy.join()
after = extract(b"<p>after", "a.html")[0].page_content
print(json.dumps([text, after, sorted(set(mine) & set(theirs)), len(theirs)]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == ["forked", "after", [], 1]


def _pid_in_a_worker(number: int) -> tuple[str, int]:
    return extract(f"<p>{number}".encode(), "a.html")[0].page_content, os.getpid()


@pytest.mark.skipif(os.name == "nt", reason="multiprocessing needs an importable main there")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_it_works_in_daemonic_processes() -> None:
    from joblib import Parallel, delayed

    found = Parallel(n_jobs=2, backend="multiprocessing")(
        delayed(_pid_in_a_worker)(number) for number in range(8)
    )
    assert [text for text, _ in found] == [str(number) for number in range(8)]


# --- cost -------------------------------------------------------------------------------------------------------


def test_a_helper_costs_less_than_a_millisecond_per_document() -> None:
    data = b"<a>" + b"x" * 10_000 + b"</a>"

    def fastest(read: Callable[[], object]) -> float:
        times = []
        for _ in range(300):
            started = time.perf_counter()
            read()
            times.append(time.perf_counter() - started)
        return min(times)

    extract(data, "a.xml")
    cost = fastest(lambda: extract(data, "a.xml")) - fastest(lambda: load_bytes(data, name="a.xml"))
    assert cost < 0.001  # 0.16 to 0.25 ms on an idle machine; the fastest of many, for others work here too


def test_the_default_command_names_this_python() -> None:
    assert helper_command()[0] == sys.executable
