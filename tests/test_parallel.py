"""joblib: the caller's services in every worker, however it was started, or an error that says why not."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joblib import Parallel, delayed

from oraculo_kit import parallel_services, start_services
from oraculo_kit.errors import ServicesFailedError, SettingsError
from oraculo_kit.parallel import threads_per_worker, worker_services
from oraculo_kit.services import services_state
from oraculo_kit.settings import Settings
from oraculo_kit.workers import read_workers
from tests.conftest import run_script

# Each script is a program of its own: its functions live in __main__, as a notebook's do.
HEAD = """
import json, multiprocessing, os, shutil, time, warnings
from pathlib import Path

warnings.simplefilter("error")
# From 3.12 on; joblib's multiprocessing backend forks, whatever other threads there are.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

from joblib import Parallel, delayed

import oraculo_kit as oraculo
from oraculo_kit import ingest_task, initialize_worker, parallel_services
from oraculo_kit.errors import ServicesFailedError
from oraculo_kit.services import services_state
from oraculo_kit.workers import read_workers

PATHS = [f"{number}.txt" for number in range(6)]

def my_task(path):
    outcome = ingest_task(path)
    services = services_state().services
    return {
        "status": outcome.status, "pid": outcome.pid, "store": outcome.store,
        "fingerprint": services.settings.fingerprint, "context": services.context,
        "key": os.environ.get("XAI_API_KEY"),
    }

def pid(_number):
    time.sleep(0.2)  # so that every worker gets some
    return os.getpid()

def thread_limits(_number):
    import faiss, threadpoolctl
    time.sleep(0.2)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    limits = {library["num_threads"] for library in threadpoolctl.threadpool_info()}
    return sorted({*limits, faiss.omp_get_max_threads(), *(int(os.environ[name]) for name in names)})

def texts(store):
    with oraculo.open_storage(store, read_only=True) as storage:
        return sorted(storage.to_pandas()["text"])

def failure(work):
    started = time.monotonic()
    try:
        work()
    except BaseException as exc:
        return {
            "type": type(exc).__name__, "text": str(exc), "elsewhere": getattr(exc, "pid", None) != os.getpid(),
            "cause": getattr(exc, "cause_type", None), "quick": time.monotonic() - started < 20,
        }
    return None

def block(store):
    shutil.rmtree(store)
    Path(store).write_text("not a folder")
"""


def started_lines(workers: str) -> tuple[str, ...]:
    """Return the start-up lines of a worker, in Portuguese."""
    return (
        f"INFO - Inicializando serviços para {workers}...",
        "INFO - Variáveis de ambiente carregadas com sucesso!",
        "INFO - VetorStorage configurado com sucesso!",
        f"INFO - Serviços inicializados com sucesso para {workers}!",
    )


def assert_failed(failed: dict[str, Any], text: str, cause: str, *, elsewhere: bool) -> None:
    """Check what the script's ``failure`` says of a task whose services could not start."""
    assert text in failed["text"]
    facts = {name: failed[name] for name in ("type", "cause", "elsewhere", "quick")}
    assert facts == {"type": "ServicesFailedError", "cause": cause, "elsewhere": elsewhere, "quick": True}


@pytest.fixture
def files(project: Path) -> Path:
    """Return a project with six small files."""
    for number in range(6):
        (project / f"{number}.txt").write_text(f"documento número {number}", encoding="utf-8")
    return project


def test_every_backend_writes_the_same_rows_into_the_callers_store_with_its_settings(files: Path) -> None:
    (files / ".env").write_text("XAI_API_KEY=xai-dotenv\nORACULO_CHUNK_SIZE=300\n")
    found = run_script(
        files,
        HEAD
        + """
def nested(paths):
    return Parallel(n_jobs=2)(delayed(my_task)(path) for path in paths)

def run(name):
    store = oraculo.use(name).vetor_storage.location
    if name == "fresh":
        rows = Parallel(n_jobs=2)(delayed(my_task)(path) for path in PATHS)
    elif name == "alone":
        rows = Parallel(n_jobs=1)(delayed(my_task)(path) for path in PATHS)
    elif name == "nested":
        # joblib skips the configured initializer here without a word.
        with parallel_services(n_jobs=2):
            rows = Parallel(backend="loky", n_jobs=2)(delayed(my_task)(path) for path in PATHS)
    elif name == "below":
        with parallel_services(n_jobs=2):
            rows = sum(Parallel()(delayed(nested)(PATHS[i::2]) for i in range(2)), [])
    else:
        with parallel_services(n_jobs=2, backend=name):
            rows = Parallel()(delayed(my_task)(path) for path in PATHS)
    settings = oraculo.get_services().settings
    return {
        "rows": len(rows), "texts": texts(store),
        "same": all(r["store"] == store and r["fingerprint"] == settings.fingerprint for r in rows),
        "statuses": sorted({r["status"] for r in rows}), "keys": sorted({str(r["key"]) for r in rows}),
        "contexts": sorted({r["context"] for r in rows}),
        "here": os.getpid() in {r["pid"] for r in rows},
        "context": oraculo.get_services().context,
    }

if __name__ == "__main__":
    names = ["loky", "multiprocessing", "threading", "sequential", "fresh", "alone", "nested", "below"]
    report({name: run(name) for name in names})
""",
    )
    for name, run in found.items():
        here = name in ("threading", "sequential", "alone")
        assert run == {
            "rows": 6,
            "texts": [f"documento número {number}" for number in range(6)],
            "same": True,
            "statuses": ["added"],
            "keys": ["xai-dotenv"],
            "contexts": ["script"] if here else ["joblib"],
            "here": here,
            "context": "script",
        }, name


def test_workers_that_joblib_started_before_the_services_existed_follow_the_caller(files: Path) -> None:
    (files / ".env").write_text("XAI_API_KEY=xai-dotenv\n")
    found = run_script(
        files,
        HEAD
        + """
if __name__ == "__main__":
    warmed = set(Parallel(n_jobs=2)(delayed(pid)(number) for number in range(6)))
    assert services_state().state == "stopped"
    found = {"warmed": len(warmed)}
    for name in ("um", "dois", "um"):
        services = oraculo.use(name)
        rows = Parallel(n_jobs=2)(delayed(my_task)(path) for path in PATHS)
        found[name] = {
            "reused": {r["pid"] for r in rows} <= warmed,
            "stores": sorted({r["store"] for r in rows}),
            "same": {r["fingerprint"] for r in rows} == {services.settings.fingerprint},
            "keys": sorted({str(r["key"]) for r in rows}),
            "statuses": sorted({r["status"] for r in rows}),
        }
    # The task itself, not a function that calls it.
    oraculo.use("tres")
    outcomes = Parallel(n_jobs=2)(delayed(ingest_task)(path) for path in PATHS)
    found["tres"] = [sorted({o.store for o in outcomes}), {o.pid for o in outcomes} <= warmed]
    found["recorded"] = {w.pid for w in read_workers(".")} <= warmed
    report(found)
""",
    )
    expected = {"reused": True, "same": True, "keys": ["xai-dotenv"]}
    assert found == {
        "warmed": 2,
        "um": {**expected, "stores": [str(files / "um")], "statuses": ["unchanged"]},
        "dois": {**expected, "stores": [str(files / "dois")], "statuses": ["added"]},
        "tres": [[str(files / "tres")], True],
        "recorded": True,
    }


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_two_workers_report_the_callers_fingerprint_their_lines_and_their_thread_limit(
    files: Path, backend: str
) -> None:
    (files / ".env").write_text("ORACULO_WORKER_THREADS=3\nORACULO_LANG=pt_BR\n")
    found = run_script(
        files,
        HEAD
        + f"""
if __name__ == "__main__":
    import faiss  # loaded before a fork: an environment variable alone comes too late for it
    with parallel_services(n_jobs=2, backend={backend!r}) as settings:
        pids = Parallel()(delayed(pid)(number) for number in range(6))
        limits = Parallel()(delayed(thread_limits)(number) for number in range(4))
    report([sorted(set(pids)), settings.fingerprint, limits])
""",
    )
    pids, fingerprint, limits = found
    assert limits == [[3]] * 4
    records = read_workers(str(files))
    assert len(pids) >= 2
    assert {record.pid for record in records} >= set(pids)
    for record in records:
        assert (record.context, record.state, record.fingerprint, record.threads) == (
            "joblib",
            "ready",
            fingerprint,
            3,
        )
        assert record.lines == started_lines("workers joblib")
        assert not record.lives()


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_a_broken_worker_start_raises_its_cause_and_pid_within_seconds(files: Path, backend: str) -> None:
    found = run_script(
        files,
        HEAD
        + f"""
if __name__ == "__main__":
    oraculo.start_services()
    store = oraculo.vetor_storage().location
    block(store)  # after the caller's own start: only the workers meet it

    def batch():
        with parallel_services(n_jobs=2, backend={backend!r}):
            return Parallel()(delayed(ingest_task)(path) for path in PATHS)

    def plain():
        return Parallel(n_jobs=2, backend={backend!r})(delayed(my_task)(path) for path in PATHS)

    failures = [failure(batch), failure(plain)]
    workers = [[w.state, w.lines[-1].partition(": ")[0]] for w in read_workers(".")]
    os.unlink(store)
    oraculo.stop_services()
    report([failures, workers, sorted({{o.status for o in batch()}})])
""",
    )
    failures, workers, mended = found
    for failed in failures:
        assert "(joblib workers)" in failed["text"]
        assert_failed(failed, "StoreNotFoundError: ", "StoreNotFoundError", elsewhere=True)
    assert len(workers) >= 2
    for state, line in workers:
        assert (state, line) == ("failed", "ERROR - Starting services for joblib workers failed")
    assert mended == ["added"]


def test_a_source_that_is_broken_only_in_the_workers_is_named(files: Path) -> None:
    (files / "vault.py").write_text(
        "import multiprocessing\n\ndef fetch():\n"
        "    if multiprocessing.current_process().name != 'MainProcess':\n"
        "        raise RuntimeError('the vault is sealed for workers')\n"
        "    return {'XAI_API_KEY': 'xai-remote'}\n"
    )
    (files / ".env").write_text("ORACULO_ENV_SOURCE=vault:fetch\n")
    found = run_script(
        files,
        HEAD
        + """
if __name__ == "__main__":
    Parallel(n_jobs=2)(delayed(pid)(number) for number in range(4))  # before the environment was loaded
    oraculo.start_services()
    report(failure(lambda: Parallel(n_jobs=2)(delayed(ingest_task)(path) for path in PATHS)))
""",
    )
    assert_failed(
        found, "RuntimeError: the vault is sealed for workers", "EnvironmentSourceError", elsewhere=True
    )


def test_a_broken_source_is_the_same_named_error_whatever_runs_the_task(files: Path) -> None:
    (files / "vault.py").write_text("def fetch():\n    raise RuntimeError('the vault is sealed')\n")
    (files / ".env").write_text("ORACULO_ENV_SOURCE=vault:fetch\n")
    found = run_script(
        files,
        HEAD
        + """
def plain(**options):
    # One task: a pool that is killed while several workers fail at once may hang (python/cpython#96995).
    return lambda: Parallel(**options)(delayed(ingest_task)(path) for path in PATHS[:1])

def within(backend):
    def batch():
        with parallel_services(n_jobs=2, backend=backend):
            raise AssertionError("no worker may be started")
    return batch

if __name__ == "__main__":
    works = [plain(n_jobs=1), plain(n_jobs=2), plain(n_jobs=2, backend="multiprocessing"),
             plain(n_jobs=2, backend="threading"), within("loky"), within("sequential"), lambda: ingest_task("x")]
    report([failure(work) for work in works])
""",
    )
    assert len(found) == 7
    for failed in found:
        assert_failed(failed, "RuntimeError: the vault is sealed", "EnvironmentSourceError", elsewhere=False)


def test_the_initializer_never_raises_whatever_it_meets(files: Path) -> None:
    found = run_script(
        files,
        HEAD
        + """
if __name__ == "__main__":
    from oraculo_kit.settings import Settings

    Path("file").touch()
    initialize_worker(Settings.resolve(store="file"))
    states = [services_state().state]
    initialize_worker(object())
    os.environ["OMP_NUM_THREADS"] = "4,2"  # OpenMP allows a number per level
    initialize_worker(Settings.resolve(store="base"))
    report([*states, services_state().state, os.environ["OMP_NUM_THREADS"], read_workers(".")[-1].threads])
""",
    )
    assert found == ["failed", "ready", "4", 4]


# --- remote requests ----------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Any]:
    """Yield a loopback server of one JSON document that counts its requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.requests += 1  # type: ignore[attr-defined]
            body = json.dumps({"XAI_API_KEY": "xai-remote", "ORACULO_CHUNK_SIZE": 400}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_two_workers_make_no_remote_request_of_their_own(files: Path, server: Any) -> None:
    found = run_script(
        files,
        HEAD
        + """
if __name__ == "__main__":
    rows = []
    for backend in ("loky", "multiprocessing"):
        with parallel_services(n_jobs=2, backend=backend):
            rows += Parallel()(delayed(my_task)(path) for path in PATHS)
    rows += Parallel(n_jobs=2)(delayed(my_task)(path) for path in PATHS)
    report([sorted({r["key"] for r in rows}), len({r["pid"] for r in rows}) >= 2,
            {r["fingerprint"] for r in rows} == {oraculo.get_services().settings.fingerprint}])
""",
        ORACULO_ENV_SOURCE=f"http://127.0.0.1:{server.server_port}/env.json",
    )
    assert found == [["xai-remote"], True, True]
    assert server.requests == 1


# --- in this process ----------------------------------------------------------------------------------------


def test_a_notebook_stays_itself_when_its_own_threads_run_the_tasks(files: Path) -> None:
    services = start_services()
    limits = os.environ.get("OMP_NUM_THREADS")
    with parallel_services(n_jobs=2, backend="threading") as settings:
        assert settings is services.settings
        found = Parallel()(delayed(worker_services)(pickle.loads(pickle.dumps(settings))) for _ in range(4))
    assert {id(each) for each in found} == {id(services)}
    assert os.environ.get("OMP_NUM_THREADS") == limits
    assert read_workers(str(files)) == []


def test_an_unknown_backend_is_refused_before_anything_starts(project: Path) -> None:
    with (
        pytest.raises(
            SettingsError, match="backend is 'ray', expected one of loky, multiprocessing, threading"
        ),
        parallel_services(backend="ray"),
    ):
        pass
    assert services_state().services is None


def test_the_callers_own_failure_starts_no_worker(project: Path) -> None:
    (project / ".env").write_text("ORACULO_CHUNK_SIZE=abc\n")
    with pytest.raises(ServicesFailedError, match="ORACULO_CHUNK_SIZE is 'abc'"), parallel_services(n_jobs=2):
        pass


def test_the_cores_are_shared_out_unless_the_setting_says_otherwise(project: Path) -> None:
    import joblib

    settings = Settings.resolve(environ={})
    cores = joblib.cpu_count()
    assert threads_per_worker(settings, 1) == cores
    assert threads_per_worker(settings, cores) == 1
    assert threads_per_worker(settings, 100 * cores) == 1
    assert threads_per_worker(settings.with_values(worker_threads=5), 2) == 5
