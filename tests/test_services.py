"""The state machine: one instance, whatever happens at start-up, and nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import cloudpickle
import pytest
from langchain_core.documents import Document

from oraculo_kit import (
    ensure_services,
    get_services,
    ingest_task,
    reload_services,
    search,
    start_services,
    stop_services,
    use,
    vetor_storage,
)
from oraculo_kit.errors import (
    EnvironmentSourceError,
    ServicesFailedError,
    ServicesNotStartedError,
    SettingsError,
    StoreClosedError,
    StoreNotFoundError,
)
from oraculo_kit.services import CONTEXTS, State, prefetch, services_state
from oraculo_kit.settings import Settings
from tests.conftest import open_files, run_script

linux = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
LINES = [
    "INFO - Starting services for {}...",
    "INFO - Environment variables loaded successfully!",
    "INFO - VetorStorage configured successfully!",
    "INFO - Services started successfully for {}!",
]
LINHAS = [
    "INFO - Inicializando serviços para {}...",
    "INFO - Variáveis de ambiente carregadas com sucesso!",
    "INFO - VetorStorage configurado com sucesso!",
    "INFO - Serviços inicializados com sucesso para {}!",
]


def write_source(project: Path, code: str) -> None:
    """Make a callable the project's environment source; it counts its calls in the file ``calls``."""
    name = f"source_{time.monotonic_ns()}"
    text = "import os, sys, time\n\ndef fetch():\n"
    text += f"    with open({str(project / 'calls')!r}, 'a') as file:\n        file.write('.')\n"
    (project / f"{name}.py").write_text(text + "".join(f"    {line}\n" for line in code.splitlines()))
    os.environ["ORACULO_ENV_SOURCE"] = f"{name}:fetch"


def calls(project: Path) -> int:
    path = project / "calls"
    return len(path.read_text()) if path.exists() else 0


def block_store(project: Path) -> Path:
    """Put a file where the store should be."""
    path = project / ".oraculo" / "store"
    path.parent.mkdir(exist_ok=True)
    path.write_text("not a folder")
    return path


def start_up_records(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{record.levelname} - {record.getMessage()}"
        for record in caplog.records
        if record.name == "oraculo_kit.services"
    ]


# --- start-up lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "english", "portuguese"),
    [
        ("kernel", "the Jupyter kernel", "kernel Jupyter"),
        ("joblib", "joblib workers", "workers joblib"),
        ("dask", "Dask workers", "workers Dask"),
        ("cli", "the command line", "linha de comando"),
        ("script", "a Python program", "programa Python"),
    ],
)
def test_the_start_up_lines_are_exactly_these_in_both_languages(
    project: Path, caplog: pytest.LogCaptureFixture, context: str, english: str, portuguese: str
) -> None:
    assert list(start_services(context=context).lines) == [line.format(english) for line in LINES]
    assert start_up_records(caplog) == [line.format(english) for line in LINES]
    stop_services()
    caplog.clear()
    (project / ".env").write_text("ORACULO_LANG=pt_BR\n")
    assert list(start_services(context=context).lines) == [line.format(portuguese) for line in LINHAS]
    assert start_up_records(caplog) == [line.format(portuguese) for line in LINHAS]


def test_every_context_is_in_the_test_above() -> None:
    assert set(CONTEXTS) == {"kernel", "joblib", "dask", "cli", "script"}
    with pytest.raises(SettingsError, match="context is 'notebook', expected one of kernel, joblib, dask"):
        start_services(context="notebook")


def test_log_records_carry_level_pid_and_time(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = time.time()
    start_services()
    records = [record for record in caplog.records if record.name == "oraculo_kit.services"]
    assert [record.levelno for record in records] == [logging.INFO] * 4
    assert {record.process for record in records} == {os.getpid()}
    times = [record.created for record in records]
    assert before <= times[0] <= times[-1] <= time.time()
    assert times == sorted(times)


def test_a_second_start_says_nothing_and_the_root_logger_is_left_alone(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    services = start_services()
    caplog.clear()
    assert start_services() is services
    assert ensure_services() is services
    assert start_services(pickle.loads(pickle.dumps(services.settings))) is services
    assert start_up_records(caplog) == []
    assert (list(root.handlers), root.level) == before


def test_the_log_level_is_a_setting_that_counts_from_the_first_line(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (project / ".env").write_text("ORACULO_LOG_LEVEL=error\n")
    services = start_services()
    assert start_up_records(caplog) == []
    assert len(services.lines) == 4


# --- one instance -------------------------------------------------------------------------------------------


def test_fifty_threads_that_start_at_once_get_one_instance(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_source(project, "time.sleep(0.2)\nreturn {'XAI_API_KEY': 'from-remote'}")
    barrier = threading.Barrier(50)
    found: list[object] = []

    def work(number: int) -> None:
        barrier.wait()
        found.append((start_services, ensure_services)[number % 2]())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 50
    assert len({id(services) for services in found}) == 1
    assert start_up_records(caplog) == [line.format("a Python program") for line in LINES]
    assert calls(project) == 1


def test_settings_that_differ_replace_the_services_and_keep_an_equal_store_open(project: Path) -> None:
    first = start_services()
    second = start_services(first.settings.with_values(chunk_size=500))
    assert second.settings.chunk_size == 500
    assert second.vetor_storage is first.vetor_storage
    third = start_services(first.settings.with_values(store=str(project / "other")))
    assert third.vetor_storage.location == str(project / "other")
    with pytest.raises(StoreClosedError):
        len(first.vetor_storage)
    assert get_services() is third


def test_a_start_inside_a_running_event_loop_works_with_an_asynchronous_source(project: Path) -> None:
    (project / "asynchronous.py").write_text(
        "import asyncio\n\nasync def fetch():\n    await asyncio.sleep(0.01)\n    return {'XAI_API_KEY': 'x-remote'}\n"
    )
    os.environ["ORACULO_ENV_SOURCE"] = "asynchronous:fetch"

    async def cell() -> State:
        start_services()
        return services_state().state

    assert asyncio.run(cell()) is State.READY
    assert os.environ["XAI_API_KEY"] == "x-remote"


# --- failures -----------------------------------------------------------------------------------------------


def test_a_failed_start_keeps_its_cause_and_works_once_the_cause_is_mended(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = block_store(project)
    with pytest.raises(ServicesFailedError, match="expected a folder") as caught:
        start_services()
    for failure in (caught.value, pytest.raises(ServicesFailedError, get_services).value):
        assert isinstance(failure.__cause__, StoreNotFoundError)
        assert (failure.pid, failure.cause_type) == (os.getpid(), "StoreNotFoundError")
        assert f"process {os.getpid()} (a Python program): StoreNotFoundError: {blocked} is a file" in str(
            failure
        )
        assert "call oraculo_kit.start_services()" in str(failure)
    look = services_state()
    assert (look.state, look.services) == (State.FAILED, None)
    assert look.failure is not None
    assert start_up_records(caplog)[-1].startswith(
        "ERROR - Starting services for a Python program failed: StoreNotFoundError: "
    )
    assert look.lines == tuple(start_up_records(caplog))

    blocked.unlink()
    assert start_services() is get_services()
    assert (services_state().state, services_state().failure) == (State.READY, None)


def test_a_failure_travels_between_processes_with_pid_and_cause(project: Path) -> None:
    block_store(project)
    failure = pytest.raises(ServicesFailedError, start_services).value
    copy = pickle.loads(pickle.dumps(failure))
    assert (str(copy), copy.pid, copy.cause_type) == (str(failure), os.getpid(), "StoreNotFoundError")


def test_a_batch_does_not_wait_for_a_broken_source_at_every_task(project: Path) -> None:
    write_source(project, "raise ConnectionError('no route')")
    for _ in range(20):
        with pytest.raises(ServicesFailedError, match="no route"):
            ensure_services()
    assert calls(project) == 1
    with pytest.raises(ServicesFailedError):
        start_services()
    assert calls(project) == 2


def test_raising_a_failure_again_and_again_does_not_grow_its_traceback(project: Path) -> None:
    block_store(project)
    pytest.raises(ServicesFailedError, start_services)
    depths = [
        len(traceback.extract_tb(pytest.raises(ServicesFailedError, get_services).value.__traceback__))
        for _ in range(5)
    ]
    assert len(set(depths)) == 1


def test_sys_exit_during_the_start_is_a_failure_and_ends_nothing(project: Path) -> None:
    write_source(project, "sys.exit(3)")
    with pytest.raises(ServicesFailedError, match="SystemExit"):
        start_services()

    class Exiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "VetorStorage" in record.getMessage():
                raise SystemExit("bye")

    del os.environ["ORACULO_ENV_SOURCE"]
    handler = Exiting()
    logging.getLogger("oraculo_kit").addHandler(handler)
    try:
        with pytest.raises(ServicesFailedError, match="SystemExit: bye") as caught:
            start_services()
    finally:
        logging.getLogger("oraculo_kit").removeHandler(handler)
    assert isinstance(caught.value.__cause__, SystemExit)
    assert services_state().state is State.FAILED
    start_services()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupted_start_leaves_everything_as_it_was(project: Path) -> None:
    write_source(project, "time.sleep(1)\nreturn {}")
    main = threading.main_thread().ident
    assert main is not None
    for before in (State.STOPPED, State.READY):
        if before is State.READY:
            source = os.environ.pop("ORACULO_ENV_SOURCE")
            services = start_services()
            os.environ["ORACULO_ENV_SOURCE"] = source
        timer = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            reload_services()
        timer.join()
        assert services_state().state is before
    assert get_services() is services


@pytest.mark.parametrize("fault", ["latin-1", "folder", "malformed"])
def test_a_broken_dotenv_is_a_failed_start_that_names_it(project: Path, fault: str) -> None:
    path = project / ".env"
    if fault == "folder":
        path.unlink()
        path.mkdir()
        start_services()  # a folder of that name is not a .env file
        return
    path.write_bytes("CHAVE=ção".encode("latin-1") if fault == "latin-1" else b"sem sinal de igual\n")
    with pytest.raises(ServicesFailedError, match=r"\.env (is not UTF-8|cannot be read in line 1)") as caught:
        start_services()
    assert isinstance(caught.value.__cause__, EnvironmentSourceError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_a_dotenv_that_never_answers_is_a_failed_start_within_the_time_limit(project: Path) -> None:
    (project / ".env").unlink()
    os.mkfifo(project / ".env")
    os.environ["ORACULO_ENV_TIMEOUT"] = "0.3"
    # Lets the reader that stays behind end, and this test too if it hangs.
    ends = threading.Timer(1.5, (project / ".env").write_bytes, [b""])
    ends.start()
    started = time.monotonic()
    with pytest.raises(ServicesFailedError, match="no complete answer in time"):
        start_services()
    assert time.monotonic() - started < 1.4
    ends.join()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a working folder from being deleted")
def test_a_working_folder_that_was_deleted_is_a_failed_start(project: Path) -> None:
    gone = project / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    with pytest.raises(ServicesFailedError, match="FileNotFoundError"):
        start_services()
    os.chdir(project)
    start_services()


def test_looking_at_the_state_never_waits_and_never_starts_anything(project: Path) -> None:
    assert services_state().state is State.STOPPED
    write_source(project, "time.sleep(1)\nreturn {}")
    thread = threading.Thread(target=start_services)
    thread.start()
    while not services_state().lines:
        time.sleep(0.01)
    started = time.monotonic()
    look = services_state()
    assert time.monotonic() - started < 0.5
    assert (look.state, look.services) == (State.STARTING, None)
    assert list(look.lines) == [LINES[0].format("a Python program")]
    thread.join()
    assert services_state().state is State.READY


# --- reload and use -----------------------------------------------------------------------------------------


def test_a_reload_takes_new_values_and_removes_old_ones(project: Path) -> None:
    (project / ".env").write_text("ORACULO_CHUNK_SIZE=500\nXAI_API_KEY=first-key\n")
    start_services()
    (project / ".env").write_text("ORACULO_CHUNK_SIZE=600\nGROQ_API_KEY=second-key\n")
    assert reload_services().settings.chunk_size == 600
    assert "XAI_API_KEY" not in os.environ
    assert os.environ["GROQ_API_KEY"] == "second-key"
    (project / ".env").write_text("")
    assert reload_services().settings.chunk_size == 1000
    assert "ORACULO_CHUNK_SIZE" not in os.environ


def test_a_reload_with_a_broken_source_keeps_services_and_environment(project: Path) -> None:
    (project / ".env").write_text("XAI_API_KEY=first-key\n")
    services = start_services()
    write_source(project, "raise ConnectionError('no route')")
    with pytest.raises(ServicesFailedError, match="no route"):
        reload_services()
    assert get_services() is services
    assert services_state().state is State.READY
    assert "no route" in str(services_state().failure)
    assert len(services.vetor_storage) == 0
    assert os.environ["XAI_API_KEY"] == "first-key"


def test_a_malformed_setting_in_a_source_leaves_the_environment_as_it_was(project: Path) -> None:
    (project / ".env").write_text("ORACULO_CHUNK_SIZE=500\nXAI_API_KEY=first-key\n")
    start_services()
    before = dict(os.environ)
    (project / ".env").write_text("ORACULO_CHUNK_SIZE=abc\nGROQ_API_KEY=second-key\n")
    with pytest.raises(
        ServicesFailedError, match="ORACULO_CHUNK_SIZE is 'abc', expected a whole number"
    ) as caught:
        reload_services()
    assert isinstance(caught.value.__cause__, SettingsError)
    assert dict(os.environ) == before
    assert get_services().settings.chunk_size == 500


def test_use_switches_the_store_and_back_and_a_reload_stays_there(project: Path) -> None:
    home = start_services().vetor_storage.location
    vetor_storage().write([Document("em casa", metadata={"source": "a"})])
    below = project / "below"
    below.mkdir()
    os.chdir(below)
    use("outro")
    assert vetor_storage().location == str(below / "outro")
    assert len(vetor_storage()) == 0
    assert get_services().settings.origin("store") == "argument"
    assert reload_services().vetor_storage.location == str(below / "outro")
    use(home)
    assert [hit.text for hit in search("casa", k=1)] == ["em casa"]


def test_a_store_that_cannot_be_used_leaves_the_services_as_they_were(project: Path) -> None:
    services = start_services()
    (project / "file").touch()
    with pytest.raises(ServicesFailedError, match="is a file.*, expected a folder"):
        use(project / "file")
    with pytest.raises(ServicesFailedError, match="does not answer") as refused:
        use("postgresql://ana:s3nha-longa@127.0.0.1:9/base")
    assert "s3nha" not in str(refused.value)
    assert repr(services).endswith(f"<FaissVetorStorage {services.settings.store} (open)>>")
    with pytest.raises(SettingsError, match="the store is '', expected a path"):
        use("")
    with pytest.raises(SettingsError, match="the store is int, expected a path"):
        use(5)  # type: ignore[arg-type]
    assert not (project / "catalog.sqlite3").exists()
    assert get_services() is services
    assert len(services.vetor_storage) == 0


# --- stop ---------------------------------------------------------------------------------------------------


@linux
def test_a_stop_releases_files_and_threads(project: Path) -> None:
    start_services()
    vetor_storage().write([Document("texto", metadata={"source": "a"})])
    search("texto")
    stop_services()
    files, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    for _ in range(3):
        start_services()
        vetor_storage().write([Document("texto", metadata={"source": "a"})])
        search("texto")
        assert open_files(project)
        stop_services()
    assert open_files(project) == []
    assert len(os.listdir("/proc/self/fd")) == files
    assert set(threading.enumerate()) <= threads


@linux
def test_a_failed_start_leaves_no_file_open(project: Path) -> None:
    (project / ".env").write_text("ORACULO_EMBEDDER=nonsense\n")
    pytest.raises(ServicesFailedError, start_services)
    (project / ".env").write_text("")
    (project / ".oraculo" / "store" / "segments").mkdir(parents=True, exist_ok=True)
    (project / ".oraculo" / "store" / "catalog.sqlite3").write_bytes(b"no database" * 100)
    pytest.raises(ServicesFailedError, start_services)
    assert open_files(project) == []


def test_stopped_services_stay_stopped_until_somebody_starts_them(project: Path) -> None:
    services = start_services()
    stop_services()
    stop_services()
    assert (services_state().state, services_state().context) == (State.STOPPED, "")
    with pytest.raises(ServicesNotStartedError, match=rf"process {os.getpid()} are not started"):
        vetor_storage()
    assert ensure_services() is not services


# --- ahead of the start -------------------------------------------------------------------------------------


def test_fetching_ahead_changes_nothing_until_somebody_asks_for_the_services(project: Path) -> None:
    write_source(project, "time.sleep(0.3)\nreturn {'XAI_API_KEY': 'from-remote'}")
    fetched = prefetch("kernel")
    assert services_state().state is State.STARTING
    assert fetched.wait(5)
    assert "XAI_API_KEY" not in os.environ
    assert get_services().context == "kernel"
    assert os.environ["XAI_API_KEY"] == "from-remote"
    assert calls(project) == 1
    assert prefetch("kernel").is_set()


def test_asking_while_the_environment_is_being_fetched_waits_for_it(project: Path) -> None:
    write_source(project, "time.sleep(0.3)\nraise ConnectionError('no route')")
    prefetch("kernel")
    with pytest.raises(ServicesFailedError, match="no route") as caught:
        get_services()
    assert isinstance(caught.value.__cause__, EnvironmentSourceError)
    assert calls(project) == 1


# --- forks --------------------------------------------------------------------------------------------------

FORK = """
import os, sys
from langchain_core.documents import Document
import oraculo_kit as oraculo
from oraculo_kit.services import services_state

def child(work):
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = str(work())
        except BaseException as exc:
            text = f"{type(exc).__name__}: {exc}"
        os.write(writable, text.encode())
        os._exit(0)
    os.close(writable)
    text = os.read(readable, 65536).decode()
    os.waitpid(pid, 0)
    os.close(readable)
    return text
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_forked_child_starts_its_own_services_with_its_parents_settings(project: Path) -> None:
    found = run_script(
        project,
        FORK
        + """
oraculo.use("outro")
oraculo.vetor_storage().write([Document(f"texto {i}", metadata={"source": str(i)}) for i in range(600)])
oraculo.search(["texto"] * 600, mode="vector")  # many queries at once: OpenMP has run in this process

def starts():
    before = services_state().state
    services = oraculo.ensure_services()
    services.vetor_storage.write([Document("do filho", metadata={"source": "filho"})])
    hits = len(oraculo.search(["texto"] * 600, mode="vector"))
    return [before, services.pid == os.getpid(), services.vetor_storage.location, hits]

report({
    "child": [child(starts), child(lambda: oraculo.get_services().settings.store)],
    "started": child(lambda: oraculo.start_services().settings.store),
    "grandchild": child(lambda: child(lambda: oraculo.vetor_storage().location)),
    "parent": [services_state().state, oraculo.get_services().pid == os.getpid(), len(oraculo.vetor_storage())],
})
""",
    )
    store = str(project / "outro")
    assert found == {
        "child": [
            str(["stopped", True, store, 600]).replace("'stopped'", "<State.STOPPED: 'stopped'>"),
            store,
        ],
        "started": store,
        "grandchild": store,
        "parent": ["ready", True, 601],
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_child_forked_while_another_thread_starts_the_services_does_not_hang(project: Path) -> None:
    write_source(project, "time.sleep(1)\nreturn {}")
    found = run_script(
        project,
        FORK
        + """
import threading, time
thread = threading.Thread(target=oraculo.start_services)
thread.start()
while services_state().state != "starting":
    time.sleep(0.01)
time.sleep(0.2)
report(child(lambda: oraculo.start_services().pid == os.getpid()))
thread.join()
""",
        timeout=20,
    )
    assert found == "True"
    assert calls(project) == 2


# --- secrets ------------------------------------------------------------------------------------------------


def test_planted_secrets_are_in_no_log_line_repr_pickle_or_exception(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = {
        name: f"planted-{name}-7f3a" for name in ("own", "dotenv", "remote", "token", "refused", "url")
    }
    caplog.set_level(logging.DEBUG)
    os.environ["OPENAI_API_KEY"] = secrets["own"]
    os.environ["ORACULO_ENV_TOKEN"] = secrets["token"]
    os.environ["ORACULO_LOG_LEVEL"] = "DEBUG"
    (project / ".env").write_text(f"GROQ_API_KEY={secrets['dotenv']}\n")
    write_source(project, f"return {{'XAI_API_KEY': {secrets['remote']!r}}}")
    services = start_services()
    assert os.environ["XAI_API_KEY"] == secrets["remote"]
    assert services.settings.environ_names == ("GROQ_API_KEY", "XAI_API_KEY")
    look = services_state()
    said = [repr(services), repr(look), str(look.plan), repr(services.settings), *services.lines]
    pickled = [
        dumps(thing)
        for dumps in (pickle.dumps, cloudpickle.dumps)
        for thing in (services.settings, ingest_task)
    ]

    own = secrets["own"]
    faults = [
        "raise RuntimeError('refused ' + os.environ['OPENAI_API_KEY'])",
        f"return {{'PATH': {secrets['refused']!r}}}",
        f"return {{'ORACULO_CHUNK_SIZE': [{secrets['refused']!r}]}}",
        f"return {{'ORACULO_EMBEDDER': {own!r}}}",
        f"return {{'ORACULO_CHUNK_SIZE': {own!r}}}",
    ]
    for code in faults:
        write_source(project, code)
        failure = pytest.raises(ServicesFailedError, reload_services).value
        again = pytest.raises(
            ServicesFailedError, start_services, services.settings.with_values(store=__file__)
        ).value
        assert (failure.__context__, again.__context__) == (None, None)
        for each in (failure, again):
            said += [str(each), repr(each), "".join(traceback.format_exception(each))]
            pickled.append(pickle.dumps(each))
        said += services_state().lines
    failure = pytest.raises(ServicesFailedError, use, f"postgresql://ana:{secrets['url']}@host/base").value
    said += ["".join(traceback.format_exception(failure)), *services_state().lines]
    text = "\n".join([*said, caplog.text, *(record.getMessage() for record in caplog.records)])

    assert [name for name, value in secrets.items() if value in text] == []
    assert [name for name, value in secrets.items() if any(value.encode() in data for data in pickled)] == []


def test_the_settings_of_a_worker_carry_names_of_environment_values_only(project: Path) -> None:
    (project / ".env").write_text("GROQ_API_KEY=planted-7f3a\n")
    settings = start_services().settings
    assert settings.environ_names == ("GROQ_API_KEY",)
    assert isinstance(pickle.loads(pickle.dumps(settings)), Settings)
    assert b"planted-7f3a" not in pickle.dumps(settings)


def test_a_start_that_is_to_make_no_store_loads_the_environment_and_stays_stopped(project: Path) -> None:
    (project / ".env").write_text("ORACULO_CHUNK_SIZE=700\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(StoreNotFoundError, match="there is no base at"):
            start_services(make_store=False)
    look = services_state()
    assert (look.state, look.failure) == (State.STOPPED, None)
    assert os.environ["ORACULO_CHUNK_SIZE"] == "700"
    assert not (project / ".oraculo").exists()
    made = start_services()
    assert start_services(make_store=False) is made
    stop_services()
    assert start_services(make_store=False).settings.chunk_size == 700
