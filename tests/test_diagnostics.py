"""``status`` and ``doctor`` answer in every state, say what to do, and show no secret."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

import oraculo_kit
from oraculo_kit.diagnostics import Doctor, Status, doctor, status
from oraculo_kit.diagnostics.probes_case import unknown_variables
from oraculo_kit.errors import ServicesFailedError
from oraculo_kit.services import reload_services, services_state, start_services, use
from oraculo_kit.settings import Settings
from oraculo_kit.workers import WorkerRecord, record_worker

SECRET = "sk-plantado-0123456789"


class ModelX(Embeddings):
    """An embedder of four dimensions; another seed is another model of the same name."""

    model = "x"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[1.0, float(self.seed), float(len(text)), -float(self.seed**2)] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture
def portuguese(project: Path) -> Path:
    os.environ["ORACULO_LANG"] = "pt_BR"
    return project


@pytest.fixture
def broken_source(portuguese: Path) -> Path:
    """A project whose environment source does not exist, and whose services failed for it."""
    os.environ["ORACULO_ENV_SOURCE"] = "missing.json"
    with pytest.raises(ServicesFailedError):
        start_services()
    return portuguese


def everything_shown(page: Status | Doctor) -> str:
    """Return all that a page can show anywhere."""
    return "\n".join([repr(page), page._repr_html_(), json.dumps(page.to_dict(), ensure_ascii=False)])


def finding(page: Doctor, probe: str) -> dict[str, Any]:
    return next(each for each in page.to_dict()["findings"] if each["probe"] == probe)


def settings_of(page: Status) -> dict[str, tuple[Any, str]]:
    return {each["name"]: (each["value"], each["origin"]) for each in page.to_dict()["settings"]}


def one_line(text: str) -> str:
    return " ".join(text.split())


# -- every state ----------------------------------------------------------------------------------------------


def test_stopped_services_are_shown_and_stay_stopped(project: Path) -> None:
    import threadpoolctl  # sets a variable when it is imported; not our doing

    assert threadpoolctl
    before = dict(os.environ)
    page, examined = status(), doctor()
    assert page.state == "stopped"
    assert "services not started" in repr(page)
    assert str(project / ".oraculo" / "store") in repr(page)
    assert finding(examined, "services")["outcome"] == "ok"
    assert services_state().state == "stopped"
    assert dict(os.environ) == before
    assert sorted(path.name for path in project.iterdir()) == [".env"], "nothing may be left behind"


def test_ready_services_are_shown_in_portuguese_with_times_and_start_up_lines(portuguese: Path) -> None:
    start_services(context="kernel")
    page = status()
    facts = page.to_dict()
    assert page.state == "ready"
    assert "serviços prontos · kernel Jupyter · pid" in repr(page)
    assert "INFO - VetorStorage configurado com sucesso!" in repr(page)
    assert "motor embutido (SQLite e FAISS) quem grava processos de uma máquina" in one_line(repr(page))
    assert [part["state"] for part in facts["services"]] == ["ready", "ready"]
    assert all(part["seconds"] > 0 for part in facts["services"])


def test_the_base_is_summed_up_when_it_is_ready(project: Path) -> None:
    storage = start_services().vetor_storage
    storage.write([Document("Como emitir nota fiscal", metadata={"source": "ajuda.md"})])
    facts = status().to_dict()
    assert facts["store_summary"]["chunks"] == 1
    assert facts["store_summary"]["sources"] == 1
    assert facts["store_summary"]["embedder"] == "wordllama:l2_supercat_256"
    assert "chunks: 1, sources: 1, " in one_line(repr(status()))
    found = finding(doctor(), "store")
    assert found["outcome"] == "ok"
    assert "a search took" in found["text"]


def test_what_the_engine_can_do_is_shown(project: Path, tmp_path: Path) -> None:
    start_services()
    able = status().to_dict()["store_summary"]["capabilities"]
    assert (able["engine"], able["lacks"]) == ("embedded (SQLite and FAISS)", [])
    shown = one_line(repr(status()))
    assert "engine embedded (SQLite and FAISS) writers processes of one machine" in shown
    assert "cannot" not in shown
    use(f"langchain:tests.engines.factories:counting?catalog={tmp_path / 'catalog'}")
    able = status().to_dict()["store_summary"]["capabilities"]
    assert able["lacks"] == ["optimize", "others_see_whole_sources", "reembed"]
    shown = one_line(repr(status()))
    assert "engine LangChain vector store with a local catalog writers processes of one machine" in shown
    assert "cannot optimize, show other programs whole sources only, reembed" in shown


def test_failed_services_are_shown_with_cause_and_fix(broken_source: Path) -> None:
    page, examined = status(), doctor()
    facts = page.to_dict()
    assert page.state == "failed"
    assert [part["state"] for part in facts["services"]] == ["failed", "stopped"]
    assert "missing.json" in facts["failure"]["cause"]
    assert "O que falhou" in repr(page)
    assert "Corrija a causa e rode oraculo_kit.start_services()" in one_line(repr(page))
    assert finding(examined, "environment")["outcome"] == "problem"
    assert "missing.json" in finding(examined, "environment")["text"]
    assert "ORACULO_ENV_SOURCE" in finding(examined, "environment")["fix"]
    # The cause is told once, where it belongs.
    assert finding(examined, "services")["text"] == "não iniciaram; a causa está em: fontes do ambiente"


def test_a_reload_that_failed_is_shown_beside_the_services_that_go_on(portuguese: Path) -> None:
    start_services()
    os.environ["ORACULO_ENV_SOURCE"] = "missing.json"
    with pytest.raises(ServicesFailedError):
        reload_services()
    assert status().state == "ready"
    assert "A última recarga falhou; os serviços anteriores continuam" in repr(status())
    found = finding(doctor(), "services")
    assert found["outcome"] == "warning"
    assert "missing.json" in found["text"]


def test_services_that_are_just_starting_are_shown_at_once(project: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    (project / "slow_source.py").write_text(
        "def fetch():\n    import oraculo_kit\n    oraculo_kit.begun.set()\n    oraculo_kit.go_on.wait(30)\n    return {}\n"
    )
    import oraculo_kit

    oraculo_kit.begun, oraculo_kit.go_on = begun, go_on  # type: ignore[attr-defined]
    os.environ["ORACULO_ENV_SOURCE"] = "slow_source:fetch"
    thread = threading.Thread(target=start_services)
    thread.start()
    try:
        assert begun.wait(30)
        page = status()
    finally:
        go_on.set()
        thread.join()
        del oraculo_kit.begun, oraculo_kit.go_on  # type: ignore[attr-defined]
    assert page.state == "starting"
    assert page.to_dict()["lines"] == ["INFO - Starting services for a Python program..."]
    assert "services are starting" in repr(page)


def test_a_working_folder_that_is_gone_stops_neither(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = project / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "FileNotFoundError" in status().to_dict()["faults"]["project"]
    assert "Could not be read" in repr(status())
    assert [each.probe for each in doctor().problems] == ["project"]


def test_the_language_is_that_of_dotenv_even_when_the_services_failed(project: Path) -> None:
    (project / ".env").write_text("ORACULO_LANG=pt_BR\nORACULO_CHUNK_SIZE=abc\n")
    with pytest.raises(ServicesFailedError):
        start_services()
    assert "os serviços falharam" in repr(status())
    assert "problemas: " in repr(doctor())


# -- settings and environment -----------------------------------------------------------------------------------


def test_every_setting_shows_its_value_and_where_it_comes_from(project: Path) -> None:
    (project / ".env").write_text("ORACULO_CHUNK_OVERLAP=30\nORACULO_ENV_SOURCE=remote.json\n")
    (project / "remote.json").write_text('{"ORACULO_MAX_FILE_MB": 7, "OPENAI_API_KEY": "' + SECRET + '"}')
    os.environ["ORACULO_CHUNK_SIZE"] = "300"
    start_services()
    use(project / "other")
    shown = settings_of(status())
    assert shown["store"] == (str(project / "other"), "argument")
    assert shown["chunk_size"] == (300, "environment")
    assert shown["chunk_overlap"] == (30, "dotenv")
    assert shown["max_file_mb"] == (7.0, "remote")
    assert shown["durability"] == ("power", "default")
    names = {each["name"]: each for each in status().to_dict()["environment"]["names"]}
    assert names["OPENAI_API_KEY"] == {"name": "OPENAI_API_KEY", "set": True, "origin": "remote"}
    assert names["COHERE_API_KEY"] == {"name": "COHERE_API_KEY", "set": False, "origin": None}
    assert "OPENAI_API_KEY set remote" in one_line(repr(status()))
    assert "ORACULO_CHUNK_OVERLAP .env 30" in one_line(repr(status()))


def test_all_malformed_settings_are_named_at_once(project: Path) -> None:
    os.environ.update(ORACULO_CHUNK_SIZE="abc", ORACULO_LANG="klingon", ORACULO_LOG_LEVEL="DEBUG")
    with pytest.raises(ServicesFailedError):
        start_services()
    found = finding(doctor(), "settings")
    assert found["outcome"] == "problem"
    assert "ORACULO_CHUNK_SIZE is 'abc'" in found["text"]
    assert "ORACULO_LANG is 'klingon'" in found["text"]
    assert settings_of(status())["log_level"] == ("DEBUG", "environment")
    assert "ORACULO_LANG is 'klingon'" in one_line(repr(status()))


def test_settings_that_contradict_each_other_are_a_problem(project: Path) -> None:
    os.environ.update(ORACULO_CHUNK_SIZE="100", ORACULO_CHUNK_OVERLAP="100")
    found = finding(doctor(), "settings")
    assert found["outcome"] == "problem"
    assert "the overlap must be smaller than the size" in found["text"]


def test_names_that_dotenv_may_not_set_are_listed_without_their_values(project: Path) -> None:
    (project / ".env").write_text(f"DB_PASSWORD={SECRET}\n")
    start_services()
    assert status().to_dict()["environment"]["refused"].keys() == {"DB_PASSWORD"}
    assert "left out: DB_PASSWORD" in repr(status())
    assert "left out: DB_PASSWORD" in finding(doctor(), "environment")["text"]


# -- secrets and hostile text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["stopped", "ready", "failed"])
def test_no_secret_is_shown_in_any_state(project: Path, state: str) -> None:
    planted = {
        name: f"{SECRET}-{name.lower()}"
        for name in ("OPENAI_API_KEY", "COHERE_API_KEY", "MISTRAL_API_KEY", "DB_PASSWORD", "STORE_PASSWORD")
    }
    os.environ["OPENAI_API_KEY"] = planted["OPENAI_API_KEY"]
    os.environ["ORACULO_ENV_TOKEN"] = f"{SECRET}-token"
    source = (
        "remote.json" if state != "failed" else f"https://ana:{SECRET}-url@127.0.0.1:9/env?key={SECRET}-query"
    )
    (project / "remote.json").write_text(json.dumps({"MISTRAL_API_KEY": planted["MISTRAL_API_KEY"]}))
    (project / ".env").write_text(
        f"COHERE_API_KEY={planted['COHERE_API_KEY']}\nDB_PASSWORD={planted['DB_PASSWORD']}\n"
        f"ORACULO_ENV_SOURCE={source}\nORACULO_ENV_TIMEOUT=1\n"
    )
    if state == "ready":
        start_services()
    elif state == "failed":
        os.environ["ORACULO_STORE"] = (
            f"postgresql://ana:{planted['STORE_PASSWORD']}@host/base?password={SECRET}"
        )
        with pytest.raises(ServicesFailedError):
            start_services()
    record_worker(str(project), worker(lines=("INFO - key " + planted["OPENAI_API_KEY"],)))
    shown = everything_shown(status()) + everything_shown(doctor())
    assert SECRET not in shown
    assert SECRET not in repr(status().__dict__)
    assert "OPENAI_API_KEY" in shown
    if state == "failed":
        assert settings_of(status())["store"][0] == "postgresql://ana:***@host/base?***"


def test_names_of_folders_and_lines_of_workers_cannot_become_html_or_steer_the_terminal(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = project / "<img src=x onerror=alert(1)>"
    (hostile / ".oraculo").mkdir(parents=True)
    monkeypatch.chdir(hostile)
    start_services()
    record_worker(str(hostile), worker(context="<b>joblib</b>", lines=("<script>alert(1)</script>\x1b[2J",)))
    for page in (status(), doctor()):
        assert "<img" not in page._repr_html_()
        assert "<script" not in page._repr_html_()
        assert "<b>joblib" not in page._repr_html_()
        assert "\x1b" not in page._repr_html_() + repr(page)
    assert "&lt;script&gt;" in status()._repr_html_()


# -- workers ------------------------------------------------------------------------------------------------------


def worker(**values: Any) -> WorkerRecord:
    plain: dict[str, Any] = {
        "pid": os.getpid(),
        "context": "joblib",
        "state": "ready",
        "fingerprint": "0" * 12,
        "threads": 1,
        "lines": ("INFO - ready",),
        "started": 1e9,
    }
    return WorkerRecord(**{**plain, **values})


def test_real_workers_are_shown_with_pid_settings_threads_and_lines(portuguese: Path) -> None:
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    from oraculo_kit.parallel import initialize_worker

    settings = start_services().settings
    try:
        run = Parallel(n_jobs=2, initializer=initialize_worker, initargs=(settings, 1))
        pids = set(run(delayed(os.getpid)() for _ in range(8)))
        alive = status().to_dict()["workers"]
    finally:
        get_reusable_executor().shutdown(wait=True)
    assert pids <= {each["pid"] for each in alive}
    assert all(each["alive"] and each["same_settings"] and each["threads"] == 1 for each in alive)
    assert alive[0]["lines"][-1] == "INFO - Serviços inicializados com sucesso para workers joblib!"
    page = status()
    assert not any(each["alive"] for each in page.to_dict()["workers"])
    assert "encerrado" in repr(page)
    assert repr(page).count("INFO - Inicializando serviços para workers joblib...") == 1, "equal lines once"


def test_a_worker_with_other_settings_stands_out(project: Path) -> None:
    settings = start_services().settings
    record_worker(str(project), worker(fingerprint=settings.fingerprint, started=1.7e9))
    record_worker(str(project), worker(pid=os.getppid(), fingerprint="f" * 12, state="failed", started=1.8e9))
    same = [each["same_settings"] for each in status().to_dict()["workers"]]
    assert same == [True, False]
    assert "different" in repr(status())
    assert "failed" in repr(status())


def test_a_damaged_worker_file_hides_nothing_else(project: Path) -> None:
    start_services()
    record_worker(str(project), worker(started="yesterday"))
    facts = status().to_dict()
    assert facts["state"] == "ready"
    assert "workers" in facts["faults"]
    assert "Could not be read" in repr(status())


# -- what goes wrong with a base ----------------------------------------------------------------------------------


def test_a_damaged_catalogue_is_named_with_a_way_out(portuguese: Path) -> None:
    from oraculo_kit.services import stop_services

    start_services().vetor_storage.write([Document("texto", metadata={"source": "a"})])
    stop_services()
    catalog = portuguese / ".oraculo" / "store" / "catalog.sqlite3"
    catalog.write_bytes(os.urandom(8192))
    with pytest.raises(ServicesFailedError):
        start_services()
    page, examined = status(), doctor()
    assert [part["state"] for part in page.to_dict()["services"]] == ["ready", "failed"]
    assert "StoreCorruptedError" in page.to_dict()["failure"]["cause"]
    found = finding(examined, "store")
    assert (found["outcome"], "catalog.sqlite3" in found["text"]) == ("problem", True)
    assert "Restaure a pasta de um backup" in found["fix"]
    assert finding(examined, "services")["text"] == "não iniciaram; a causa está em: base"


def test_segments_without_a_catalogue_are_a_problem_not_a_new_base(project: Path) -> None:
    segments = project / ".oraculo" / "store" / "segments"
    segments.mkdir(parents=True)
    (segments / "a.f32").write_bytes(b"vectors")
    found = finding(doctor(), "store")
    assert found["outcome"] == "problem"
    assert "catalog.sqlite3 is missing" in found["text"]
    assert "backup" in found["fix"]


def test_a_base_of_another_embedder_is_named_with_both_ways_out(portuguese: Path) -> None:
    from oraculo_kit.services import stop_services

    own = Settings.resolve(embedder=ModelX(1))
    start_services(own).vetor_storage.write([Document("texto", metadata={"source": "a"})])
    stop_services()
    with pytest.raises(ServicesFailedError, match="EmbedderMismatchError"):
        start_services()
    found = finding(doctor(), "store")
    assert found["outcome"] == "problem"
    assert "ModelX" in found["text"]
    assert "ORACULO_EMBEDDER" in found["fix"]
    assert "ORACULO_STORE" in found["fix"]


def test_a_base_of_another_model_with_the_same_name_is_found_by_the_search(project: Path) -> None:
    from oraculo_kit.services import stop_services

    storage = start_services(Settings.resolve(embedder=ModelX(1))).vetor_storage
    storage.write([Document("texto", metadata={"source": "a"})])
    stop_services()
    start_services(Settings.resolve(embedder=ModelX(9)))
    found = finding(doctor(), "store")
    assert found["outcome"] == "problem"
    assert "EmbedderMismatchError" in found["text"]


# -- the pages ----------------------------------------------------------------------------------------------------


def test_a_healthy_project_has_no_problem_and_says_so_in_both_languages(portuguese: Path) -> None:
    (portuguese / ".env").chmod(0o600)
    start_services()
    page = doctor()
    assert page.problems == []
    assert all(each.seconds >= 0 for each in page.findings)
    wordings = {each.name for each in page.findings}
    assert {
        "permissão de escrita",
        "espaço em disco",
        "sistema de arquivos",
        "SQLite",
        "embedder",
    } <= wordings
    start_services(services_state().services.settings.with_values(lang="en"))  # type: ignore[union-attr]
    assert {"write permission", "disk space", "file system"} <= {each.name for each in doctor().findings}
    assert "services ready" in repr(status())


@pytest.mark.parametrize("make", [status, doctor])
def test_the_plain_data_is_json_and_a_copy(project: Path, make: Callable[[], Status | Doctor]) -> None:
    page = make()
    data = page.to_dict()
    assert json.loads(json.dumps(data)) == data
    data.clear()
    assert page.to_dict()


def test_nothing_that_a_person_must_copy_is_cut_in_a_narrow_terminal(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project / ("a" * 100) / "b"
    os.environ["ORACULO_STORE"] = str(folder)
    monkeypatch.setenv("COLUMNS", "40")
    for page in (status(), doctor()):
        assert str(folder) in repr(page)
        assert "…" not in repr(page)


def test_problems_come_before_warnings_and_these_before_the_rest(project: Path) -> None:
    (project / ".env").chmod(0o644)
    os.environ["ORACULO_CHUNK_SIZE"] = "abc"
    outcomes = [line.split()[0] for line in repr(doctor()).splitlines() if line[:3].strip()]
    shown = [word for word in outcomes if word in ("problem", "warning", "ok")]
    assert shown == sorted(shown, key=["problem", "warning", "ok"].index)
    assert shown[0] == "problem"


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("oraculo-doctor")]
    assert left == []


# -- names that nothing reads -----------------------------------------------------------------------------------


def test_a_misspelt_variable_is_told_with_the_nearest_that_is_read(portuguese: Path) -> None:
    (portuguese / ".env").write_text("ORACULO_CHUNKSIZE=500\n", encoding="utf-8")
    os.environ.update({"ORACULO_STOREE": SECRET, "ORACULO_ENV_TOKEN": SECRET, "ORACULO_NO_AUTOLOAD": "1"})
    start_services()
    page, examined = status(), doctor()
    found = finding(examined, "settings")
    expected = (
        "variáveis que nada lê: ORACULO_CHUNKSIZE (ORACULO_CHUNK_SIZE?), ORACULO_STOREE (ORACULO_STORE?)"
    )
    assert (found["outcome"], found["text"]) == ("warning", expected)
    assert page.to_dict()["unknown_variables"] == {
        "ORACULO_CHUNKSIZE": "ORACULO_CHUNK_SIZE",
        "ORACULO_STOREE": "ORACULO_STORE",
    }
    assert expected in one_line(repr(page))
    assert SECRET not in everything_shown(page) + everything_shown(examined)


def test_every_variable_that_the_package_reads_is_known() -> None:
    package = Path(oraculo_kit.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    read = {name for text in texts for name in re.findall(r'(?:= |get\()"(ORACULO_[A-Z_]+)"', text)}
    assert "ORACULO_ENV_SOURCE" in read
    assert unknown_variables(read) == {}
