"""Ingestion over real Dask workers: the caller alone writes, and what workers die of is found."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from distributed import Client, LocalCluster

import oraculo_kit as oraculo
from oraculo_kit.distributing import secrets
from oraculo_kit.distributing.blocks import BlockCollector
from oraculo_kit.distributing.examining import basic_facts
from oraculo_kit.distributing.secrets import is_protected
from oraculo_kit.errors import OraculoError, SettingsError, SourceError, WorkerMismatchError
from oraculo_kit.events import IngestEvent
from oraculo_kit.inputs import BytesSource
from oraculo_kit.services import get_services
from oraculo_kit.settings import Settings
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.records import LedgerEntry
from oraculo_kit.storage.values import SourceDocuments
from tests.conftest import clean_environment, open_files
from tests.storage.postgres.server import new_base
from tests.test_cli import run as run_cli
from tests.tools import ftp_server

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Yield two worker processes in a folder of their own."""
    before, folder = dict(os.environ), os.getcwd()
    clean_environment()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    try:
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
            yield cluster
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def client(cluster: LocalCluster, project: Path) -> Iterator[Client]:
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=90)
        yield client
        wait_until(lambda: client.run_on_scheduler(held_tasks) == [], 5)  # nothing is left there


def held_tasks(dask_scheduler: Any) -> list[str]:
    return sorted(str(key) for key in dask_scheduler.tasks)


def wait_until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def make_files(folder: Path, count: int, words: int = 40) -> Path:
    folder.mkdir()
    for number in range(count):
        text = f"Documento {number} sobre a emissão de nota fiscal número {number}. " * words
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8")
        os.utime(folder / f"{number:04}.txt", (1_700_000_000 + number, 1_700_000_000 + number))
    return folder


def stored() -> tuple[Any, Any]:
    """Return ledger and chunks with vectors, without what differs between runs."""
    import pyarrow.parquet

    storage = get_services().vetor_storage
    ledger = [
        (row.source, row.chunks, row.language, dict(row.metadata), row.ledger.content_hash, row.ledger.bytes,
         row.ledger.mtime_ns, row.ledger.pipeline)
        for row in storage.sources()
    ]  # fmt: skip
    storage.to_parquet("chunks.parquet")
    frame = pyarrow.parquet.read_table("chunks.parquet").to_pandas().sort_values("id")
    return ledger, (frame.drop(columns="vector").to_numpy().tolist(), np.stack(frame["vector"].to_list()))


def ingest(sources: Any, **options: Any) -> Any:
    return oraculo.ingest(sources, backend="dask", progress=False, **options)


# --- the same store -----------------------------------------------------------------------------------------


def test_ledger_chunks_and_vectors_are_those_of_a_run_in_this_process(client: Client, project: Path) -> None:
    docs = make_files(project / "docs", 90)
    (docs / "empty.txt").touch()
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7 nothing of the kind")
    (docs / "guia.md").write_text(
        "# Guia\n\n" + "Como pedir férias. " * 90 + "\n\n## Prazo\n\nTrinta dias.\n"
    )
    (docs / "tabela.csv").write_text("produto;preço\n" + "".join(f"item {n};{n},50\n" for n in range(300)))
    for path in docs.iterdir():  # the ledger keeps no time of a file that was written just before it was read
        os.utime(path, (1_700_000_000, 1_700_000_000))
    here = os.getpid()
    found = {}
    for name, options in {
        "dask": {"backend": "dask"},
        "serial": {"n_jobs": 1},
        "loky": {"n_jobs": 2},
    }.items():
        oraculo.use(name)
        first = oraculo.ingest("docs", progress=False, **options)
        noted = get_services().vetor_storage.outcomes(first.run)
        again = oraculo.ingest("docs", progress=False, **options)
        assert (here in {outcome.pid for outcome in first}) is (name == "serial")
        statuses = [
            (outcome.source, outcome.status, outcome.error, outcome.message, outcome.chunks)
            for outcome in first
        ]
        found[name] = (
            statuses, sorted((outcome.source, outcome.status) for outcome in noted), again.counts, *stored()
        )  # fmt: skip
        assert get_services().vetor_storage.verify().ok
    *dask, (dask_rows, dask_vectors) = found["dask"]
    assert found["dask"][2] == {"unchanged": 92, "skipped": 1, "failed": 1}
    for name in ("serial", "loky"):
        *other, (rows, vectors) = found[name]
        assert dask == other, name
        assert dask_rows == rows, name
        np.testing.assert_allclose(dask_vectors, vectors, atol=1e-6)


def test_changed_moved_and_touched_files_are_told_apart(client: Client, project: Path) -> None:
    docs = make_files(project / "docs", 6)
    ingest(docs)
    (docs / "0000.txt").rename(docs / "renamed.txt")
    (docs / "0001.txt").write_text("outro texto sobre férias")
    os.utime(docs / "0002.txt", (1_650_000_000, 1_650_000_000))
    report = ingest(docs)
    assert {Path(outcome.source).name: outcome.status for outcome in report} == {
        "renamed.txt": "moved", "0001.txt": "replaced", "0002.txt": "unchanged",
        "0003.txt": "unchanged", "0004.txt": "unchanged", "0005.txt": "unchanged",
    }  # fmt: skip
    assert len(get_services().vetor_storage.sources()) == 6
    ledger = get_services().vetor_storage.ledger([str(docs / "0002.txt")])
    assert ledger[str(docs / "0002.txt")].mtime_ns == 1_650_000_000 * 10**9


@linux
def test_workers_never_open_the_store_and_hold_nothing_afterwards(client: Client, project: Path) -> None:
    make_files(project / "docs", 120)
    store = get_store()
    seen: list[str] = []
    held: list[int] = []

    def look(event: IngestEvent) -> None:
        if event.kind == "outcome":
            held.append(len(client.run_on_scheduler(held_tasks)))
            for pid in pids:
                seen.extend(open_files(store, pid))

    pids = list(client.run(os.getpid).values())
    report = ingest("docs", on_event=look)
    assert report.counts == {"added": 120}
    assert len(held) == 120
    assert max(held) <= 2 * len(pids)  # two tasks for each thread: blocks do not pile up
    assert seen == []
    assert {outcome.pid for outcome in report} <= set(pids)


def get_store() -> str:
    return oraculo.start_services().vetor_storage.location


@linux
def test_a_worker_on_another_machine_makes_no_store_and_says_which_files_it_cannot_see(
    client: Client, project: Path
) -> None:
    make_files(project / "docs", 3)
    # A path that is another one in every process: what this folder is here, workers do not see.
    here = "/proc/self/cwd"
    workers = client.run(os.getcwd)
    before = {folder: sorted(os.listdir(folder)) for folder in workers.values()}
    oraculo.use(f"{here}/base")
    report = ingest(f"{here}/docs")
    assert report.counts == {"failed": 3}
    for outcome in report:
        assert outcome.error == "SourceNotFoundError"
        assert "the Dask worker at tcp://127.0.0.1:" in outcome.message
        assert "cannot see this file. Put the files into a folder that all workers share" in outcome.message
    assert ingest(b"bytes travel with the task", name="a.txt").counts == {"added": 1}
    failed = failure(client, oraculo.ingest_task, "docs/0000.txt")
    assert f"there is no store at {here}/base on" in failed
    assert {folder: sorted(os.listdir(folder)) for folder in workers.values()} == before


def failure(client: Client, task: Any, *arguments: Any) -> str:
    future = client.submit(task, *arguments, pure=False)
    with pytest.raises(OraculoError) as caught:
        future.result(timeout=20)
    future.release()
    return str(caught.value)


@linux
def test_a_worker_that_reads_another_file_at_the_same_path_stores_nothing_of_it(
    client: Client, project: Path
) -> None:
    docs = make_files(project / "docs", 2)
    folders = [Path(folder) for folder in client.run(os.getcwd).values()]
    for folder in folders:  # as on a machine with a copy of last week
        (folder / "docs").mkdir(exist_ok=True)
        (folder / "docs" / "0000.txt").write_text("a versão da semana passada")
        shutil.copy(docs / "0001.txt", folder / "docs")
    try:
        report = ingest("/proc/self/cwd/docs")
    finally:
        for folder in folders:
            shutil.rmtree(folder / "docs", ignore_errors=True)
    assert report.counts == {"added": 1, "failed": 1}
    (failed,) = report.failed
    size = (docs / "0000.txt").stat().st_size
    assert f"has {size} bytes here and 27 for the Dask worker at tcp://127.0.0.1:" in failed.message
    storage = get_services().vetor_storage
    assert [row.source for row in storage.sources()] == ["/proc/self/cwd/docs/0001.txt"]
    assert {each.source: each.status for each in storage.outcomes(report.run)}[failed.source] == "failed"


# --- URLs that workers read themselves ----------------------------------------------------------------------


def test_workers_read_urls_themselves_and_the_caller_commits(client: Client, project: Path) -> None:
    files = {f"/docs/{n % 3}/{n:02}.txt": f"documento {n} sobre férias".encode() for n in range(24)}
    pids = set(client.run(os.getpid).values())
    with ftp_server.serving({**files, "/docs/foto.heic": b"?"}) as server:
        report = ingest(f"{server.url}/docs")
        assert report.counts == {"added": 24, "skipped": 1}
        assert {outcome.pid for outcome in report if outcome.status == "added"} <= pids
        assert sorted(path for path, _ in server.read) == sorted(files)
        storage = get_services().vetor_storage
        assert sorted(row.source.partition("/docs/")[2] for row in storage.sources()) == sorted(
            path.removeprefix("/docs/") for path in files
        )
        assert storage.search("documento 7", 1)[0].source.startswith("ftp://127.0.0.1:")
        server.files["/docs/0/00.txt"] = b"outro texto"
        del server.files["/docs/1/01.txt"]
        assert ingest(f"{server.url}/docs", prune=True).counts == {
            "replaced": 1, "unchanged": 22, "skipped": 1, "pruned": 1,
        }  # fmt: skip
    shown = repr(report) + repr(storage.sources()) + repr(storage.outcomes(report.run)) + repr(oraculo.runs())
    assert server.password not in shown


def test_a_password_in_a_url_travels_where_nobody_can_listen(
    client: Client, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "is_protected", lambda address: False)
    with ftp_server.serving({"/docs/a.txt": b"um texto"}) as server:
        with pytest.raises(SettingsError, match=r"leave the secret out of the URL \(ftp://127") as caught:
            ingest(f"{server.url}/docs")
        assert server.password not in str(caught.value)
        assert server.read == []
    assert ingest(b"texto", name="a.txt").counts == {"added": 1}


def test_the_password_of_a_store_stays_here(
    client: Client, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "a.txt").write_text("um texto")
    sent: list[Any] = []
    submit = Client.submit

    def noting(self: Client, *given: Any, **options: Any) -> Any:
        sent.append(cloudpickle.dumps((given, options)))
        return submit(self, *given, **options)

    monkeypatch.setattr(Client, "submit", noting)
    with new_base() as url:
        oraculo.use(url.replace("postgres:@", "postgres:s3nha-da-base@"))
        assert "s3nha-da-base" in get_services().settings.store
        assert ingest("a.txt").counts == {"added": 1}
        assert len(sent) == 3  # two examinations and a task
        assert not any(b"s3nha-da-base" in each for each in sent)
        monkeypatch.setattr(secrets, "is_protected", lambda address: False)
        with (
            pytest.raises(SettingsError, match="leave the password out of ORACULO_STORE"),
            oraculo.parallel_services(backend="dask"),
        ):
            pass
        oraculo.stop_services()


def test_a_worker_without_the_package_that_reads_a_url_says_so(project: Path, tmp_path: Path) -> None:
    with (
        ftp_server.serving({"/a.txt": b"um texto"}) as server,
        LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        Client(empty) as client,
        worker(client, tmp_path, "import sys\nsys.modules['ftplib'] = None\n") as address,
    ):
        (failed,) = ingest(f"{server.url}/a.txt").failed
    assert "ftp:// URLs need one more package: pip install" in failed.message
    assert f"(on the Dask worker at {address} (" in failed.message


# --- workers that die, come late or differ -----------------------------------------------------------------


def test_a_run_outlives_a_worker_that_is_killed(client: Client, project: Path) -> None:
    make_files(project / "docs", 500, words=10)
    pids = set(client.run(os.getpid).values())
    victims: list[int] = []

    def kill(event: IngestEvent) -> None:
        if event.kind == "outcome" and not victims:
            victims.append(min(pids))
            os.kill(victims[0], signal.SIGKILL)

    report = ingest("docs", on_event=kill)  # the nanny starts another worker meanwhile
    assert report.counts == {"added": 500}
    storage = get_services().vetor_storage
    assert len(storage.sources()) == 500
    assert storage.verify().ok
    wait_until(lambda: len(set(client.run(os.getpid, on_error="ignore").values()) - set(victims)) == 2, 90)


@dataclass(frozen=True)
class _Slow(BytesSource):
    """Takes its time, but none of the processor's."""

    def content(self, max_bytes: int) -> bytes:
        time.sleep(0.02)
        return super().content(max_bytes)


def slow_sources() -> list[BytesSource]:
    """Return 200 sources. Two workers have no more than 64 of them under way, so others are left for one that joins late."""
    return [_Slow(f"s{number}.txt", f"texto {number}".encode()) for number in range(200)]


def test_a_worker_that_joins_late_gets_services_secrets_and_work(
    client: Client, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAI_API_KEY", "xai-only-here")
    late = worker(client, tmp_path, "import os\nos.environ.pop('XAI_API_KEY', None)\n")
    joined: list[str] = []

    def join(event: IngestEvent) -> None:
        if event.kind == "outcome" and not joined:
            joined.append(late.__enter__())

    try:
        with by_value():
            report = ingest(slow_sources(), send_secrets=True, on_event=join)
        assert report.counts == {"added": 200}
        (pid,) = client.run(os.getpid, workers=joined).values()
        assert pid in {outcome.pid for outcome in report}
        assert client.run(os.getenv, "XAI_API_KEY", workers=joined) == {joined[0]: "xai-only-here"}
    finally:
        client.run(forget_key)
        late.__exit__(None, None, None)


def test_a_cluster_of_threads_uses_the_services_of_this_process(project: Path) -> None:
    make_files(project / "docs", 40)
    services = oraculo.start_services()
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        assert ingest("docs").counts == {"added": 40}
        assert ingest(b"x " * 6_000_000, name="large.txt").counts == {"added": 1}  # Dask has no word to say
    assert get_services() is services
    assert services.vetor_storage.verify().ok


@dataclass(frozen=True)
class _Poison(BytesSource):
    """Kills the worker that reads it."""

    def content(self, max_bytes: int) -> bytes:
        if "distributed.worker" in sys.modules and os.getpid() != int(self.data):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().content(max_bytes)


def test_the_document_that_kills_workers_is_named_and_the_others_are_stored(
    client: Client, project: Path
) -> None:
    import dask

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 1))
    try:
        good = [BytesSource(f"g{number}.txt", f"texto {number}".encode()) for number in range(5)]
        report = ingest([*good, _Poison("poison.txt", str(os.getpid()).encode())])
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        client.run_on_scheduler(
            lambda dask_scheduler, most: setattr(dask_scheduler, "allowed_failures", most),
            most=dask.config.get("distributed.scheduler.allowed-failures"),
        )
    assert report.counts == {"added": 5, "failed": 1}
    (failed,) = report.failed
    assert failed.source == "poison.txt"
    assert "every Dask worker that read it died, the last one at tcp://127.0.0.1:" in failed.message
    assert len(get_services().vetor_storage.sources()) == 5
    client.wait_for_workers(2, timeout=90)


@contextmanager
def by_value() -> Iterator[None]:
    """Let what this module defines travel to workers whole: they cannot import it."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@contextmanager
def worker(client: Client, folder: Path, preload: str = "", **environ: str) -> Iterator[str]:
    """Start a worker process of its own; yield its address."""
    (folder / "preload.py").write_text(preload or "\n")
    before = set(client.nthreads())
    command = ["dask", "worker", client.scheduler.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--preload", str(folder / "preload.py")],
        cwd=folder,
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: bool(set(client.nthreads()) - before), 30)
        (address,) = set(client.nthreads()) - before
        yield address
    finally:
        process.terminate()
        process.wait(20)
        wait_until(lambda: set(client.nthreads()) <= before, 20)


OLD = "import oraculo_kit\noraculo_kit.__version__ = '0.0.1'\n"
OTHER_MODEL = """
from oraculo_kit.embed import StaticEmbedder

def backwards(embed):
    return lambda self, texts: embed(self, [text[::-1] for text in texts])

if StaticEmbedder.embed_documents.__name__ != "<lambda>":  # Dask runs this twice
    StaticEmbedder.embed_documents = backwards(StaticEmbedder.embed_documents)
"""


OTHER_STEMS = """
from oraculo_kit.distributing import working
working.stem_text = str.upper
"""


@pytest.mark.parametrize(
    ("preload", "what", "there"),
    [
        (OLD, "oraculo_kit", "0.0.1"),
        (OTHER_MODEL, "its answer", "cosine 0."),
        (OTHER_STEMS, "stems", "TAXPAYERS"),
    ],
    ids=["version", "embedder", "stems"],
)
def test_workers_that_differ_are_named_in_a_table_before_the_first_task(
    client: Client, project: Path, tmp_path: Path, preload: str, what: str, there: str
) -> None:
    make_files(project / "docs", 3)
    with worker(client, tmp_path, preload) as address:
        with pytest.raises(
            WorkerMismatchError, match="1 of 3 Dask workers differ from this process"
        ) as caught:
            ingest("docs")
        with (
            pytest.raises(WorkerMismatchError, match="nothing was given to any of them"),
            oraculo.parallel_services(backend="dask"),
        ):
            pass
    (line,) = [line for line in str(caught.value).splitlines() if line.startswith(address)]
    assert what in line
    assert there in line
    assert len(get_services().vetor_storage) == 0


def test_a_worker_that_joins_late_and_differs_gets_nothing_to_do(
    client: Client, project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_files(project / "docs", 1)
    joined: list[str] = []
    late = worker(client, tmp_path, OLD)

    def join(event: IngestEvent) -> None:
        if event.kind == "outcome" and not joined:
            joined.append(late.__enter__())

    try:
        with by_value():
            report = ingest(slow_sources(), on_event=join)
        assert report.counts == {"added": 200}
        assert "a Dask worker differs from this process, and gets nothing to do:\n" in caplog.text
        assert joined[0] in caplog.text
        # Plain joblib code: its tasks say why.
        from oraculo_kit.dask import ServicesPlugin

        client.register_plugin(ServicesPlugin(get_services().settings))
        future = client.submit(oraculo.ingest_task, "docs/0000.txt", workers=joined, pure=False)
        with pytest.raises(oraculo.errors.ServicesFailedError, match="has oraculo_kit 0.0.1 instead of"):
            future.result(timeout=20)
        future.release()
    finally:
        late.__exit__(None, None, None)


# --- stops --------------------------------------------------------------------------------------------------


def test_a_cancelled_run_beside_the_notebook_ends_within_a_second_and_is_resumed(
    client: Client, project: Path
) -> None:
    make_files(project / "docs", 1500, words=10)
    handle = ingest("docs", background=True)
    wait_until(lambda: handle.progress.done > 0, 30)
    started = time.monotonic()
    handle.cancel()
    report = handle.result(timeout=20)
    assert time.monotonic() - started < 1.0
    assert report.state == "cancelled"
    wait_until(lambda: client.run_on_scheduler(held_tasks) == [], 2)
    done = report.counts["added"]
    storage = get_services().vetor_storage
    assert 0 < done < 1500
    assert len(storage.sources()) == done
    assert storage.verify().ok
    assert ingest("docs", resume=True).counts == {"added": 1500}


def test_an_interrupt_leaves_whole_documents_and_nothing_in_the_cluster(
    client: Client, project: Path
) -> None:
    make_files(project / "docs", 600)

    def interrupt(event: IngestEvent) -> None:
        if event.kind == "outcome":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest("docs", on_event=interrupt)
    wait_until(lambda: client.run_on_scheduler(held_tasks) == [], 1)
    storage = get_services().vetor_storage
    assert 0 < len(storage.sources()) < 600
    assert storage.runs(1)[0].state == "cancelled"


# --- clients and secrets ------------------------------------------------------------------------------------


def test_a_scheduler_is_named_by_its_address_and_let_go_afterwards(
    cluster: LocalCluster, project: Path
) -> None:
    make_files(project / "docs", 3)
    address = cluster.scheduler_address
    clients = len(cluster.scheduler.clients)
    assert ingest("docs", address=address).counts == {"added": 3}
    wait_until(lambda: len(cluster.scheduler.clients) == clients, 5)
    with pytest.raises(SettingsError, match="address and send_secrets are for backend='dask'"):
        oraculo.ingest("docs", address=address)
    with pytest.raises(SettingsError, match="no Dask scheduler answers at 'nowhere://x'"):
        ingest(b"x", name="x.txt", address="nowhere://x")


def test_the_command_line_ingests_with_a_cluster(
    client: Client, cluster: LocalCluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAI_API_KEY", "xai-only-here")
    make_files(project / "docs", 20)
    command = ("ingest", "docs", "--backend", "dask", "--format", "json")

    def key() -> set[str | None]:
        return set(client.run(os.getenv, "XAI_API_KEY").values())

    done = run_cli(*command, "--address", cluster.scheduler_address, cwd=project)
    report = json.loads(done.stdout)
    assert (done.returncode, report["counts"]) == (0, {"added": 20})
    assert {each["pid"] for each in report["outcomes"]} <= set(client.run(os.getpid).values())
    assert key() == {None}
    (project / "docs" / "0000.txt").write_text("outro texto")
    try:
        # Without --address: where Dask's configuration says.
        environ = {"DASK_SCHEDULER_ADDRESS": cluster.scheduler_address}
        done = run_cli(*command, "--send-secrets", cwd=project, **environ)
        assert (done.returncode, json.loads(done.stdout)["counts"]) == (0, {"replaced": 1, "unchanged": 19})
        assert key() == {"xai-only-here"}
        assert "xai-only-here" not in done.stdout + done.stderr
    finally:
        client.run(forget_key)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--address", "tcp://127.0.0.1:1"), "address and send_secrets are for backend='dask'"),
        (("--backend", "dask"), "or DASK_SCHEDULER_ADDRESS"),
        (
            ("--backend", "dask", "--address", "tls://127.0.0.1:1"),
            "no Dask scheduler answers at 'tls://127.0.0.1:1'",
        ),
        (("--backend", "dusk"), "backend is 'dusk', expected one of loky"),
    ],
)
def test_the_command_line_says_what_is_wrong_with_a_cluster(
    project: Path, options: tuple[str, ...], said: str
) -> None:
    (project / "a.txt").write_text("um texto")
    done = run_cli("ingest", "-q", "a.txt", *options, cwd=project)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()  # and nothing behind it
    assert said in line


def test_keys_travel_only_when_asked(client: Client, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_API_KEY", "xai-only-here")
    (project / "a.txt").write_text("um texto")

    def keys() -> set[str | None]:
        return set(client.run(os.getenv, "XAI_API_KEY").values())

    ingest("a.txt")
    assert keys() == {None}
    (project / "b.txt").write_text("outro texto")
    try:
        ingest("b.txt", send_secrets=True)
        assert keys() == {"xai-only-here"}
        client.run(forget_key)
        with oraculo.parallel_services(backend="dask", send_secrets=True):
            assert keys() == {"xai-only-here"}
    finally:
        client.run(forget_key)


def forget_key() -> None:
    os.environ.pop("XAI_API_KEY", None)


@pytest.mark.parametrize(
    ("address", "protected"),
    [("tcp://10.1.2.3:8786", False), ("tcp://example.org:8786", False), ("ucx://10.1.2.3:1", False), ("ws://h:1", False),
     ("tls://10.1.2.3:8786", True), ("tcp://[::1]:8786", True), ("tcp://localhost:1", True), ("inproc://10.1.2.3/1/1", True)],
)  # fmt: skip
def test_secrets_need_tls_or_this_machine(address: str, protected: bool) -> None:
    from oraculo_kit.distributing.secrets import refuse_open_ways

    assert is_protected(address) is protected
    if not protected:
        with pytest.raises(SettingsError, match="secrets would travel over .* nothing was sent"):
            refuse_open_ways(["tcp://127.0.0.1:1", address])


# --- pieces -------------------------------------------------------------------------------------------------


def test_a_block_keeps_everything_of_its_documents(project: Path) -> None:
    from langchain_core.documents import Document

    documents = [
        Document("um", metadata={"source": "s", "tags": ["a"], "page": 1, "n": 2**70}, id="x"),
        Document("dois", metadata={"source": "s", "tags": ["a"], "page": 2, "n": 2**70}),
    ]
    vectors = np.eye(2, 4, dtype=np.float32)
    given = SourceDocuments("s", documents, vectors, LedgerEntry("hash", 6, 7, "p", "r"))
    target = BlockCollector(get_embedder(), "store", {})
    target.replace_many([given])
    (write,) = cloudpickle.loads(cloudpickle.dumps(target.embedded))
    with FaissVetorStorage(project / "one") as one, FaissVetorStorage(project / "two") as two:
        assert one.put_sources([write], None) == ["added"]
        assert one.put_sources([write], None) == ["replaced"]
        two.replace("s", documents, vectors)
        pages = [[each for page in store.iter_documents() for each in page] for store in (one, two)]
        assert pages[0] == pages[1]
        assert pages[0][0].metadata == documents[0].metadata
        assert one.ledger(["s"]) == {"s": given.ledger}
        assert [hit.id for hit in one.search("dois", 1, mode="text")] == [pages[0][1].id]
        np.testing.assert_array_equal(one.vectors(["x"])[1], vectors[:1])
        assert one.verify().ok


def test_a_source_that_cannot_be_stored_leaves_a_block_without_it(project: Path) -> None:
    from langchain_core.documents import Document

    bad = SourceDocuments(
        "b", [Document("x", metadata={"o": object()})], np.ones((1, 2), np.float32), LedgerEntry()
    )
    good = SourceDocuments("g", [Document("x")], np.ones((1, 2), np.float32), LedgerEntry())
    target = BlockCollector(get_embedder(), "store", {})
    with pytest.raises(SourceError, match="metadata 'o' holds a object"):
        target.replace_many([good, bad])
    assert target.embedded == []


def get_embedder() -> Any:
    return oraculo.start_services().vetor_storage.embedder


def test_a_task_stops_at_a_full_block_and_gives_the_rest_back(project: Path) -> None:
    from oraculo_kit.distributing.working import Work, _done
    from oraculo_kit.inputs import find_sources
    from oraculo_kit.pipeline import COMMIT_SOURCES, Run

    docs = make_files(project / "docs", 3 * COMMIT_SOURCES)
    sources = list(find_sources(docs))
    embedder = get_embedder()
    work = Work(sources, {}, Run("run"), "store", block_bytes=1)
    reply = _done(get_services().settings, embedder, work, basic_facts())
    assert len(reply.embedded) == len(reply.outcomes) == COMMIT_SOURCES
    assert {outcome.status for outcome in reply.outcomes} == {"added"}
    assert Settings.resolve(environ={}).store != "store"
    assert len(get_services().vetor_storage) == 0
