"""The pipeline: honest about each source, and the same wherever it runs."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit import ingest, ingest_task
from oraculo_kit.errors import (
    EmbeddingError,
    ServicesFailedError,
    SettingsError,
    SourceError,
    StoreLockTimeoutError,
)
from oraculo_kit.ingestion import ingest_sources
from oraculo_kit.inputs import find_sources
from oraculo_kit.load import read_file
from oraculo_kit.services import use, vetor_storage
from oraculo_kit.storage.lock import WriterLock
from tests.conftest import _REPORT
from tests.tools.embedders import Slow

DADOS = Path(__file__).parent.parent / "notebooks" / "dados"


@pytest.fixture
def folder(project: Path) -> Path:
    """Return a folder with a few real files of several formats."""
    target = project / "docs"
    shutil.copytree(DADOS, target)
    return target


def test_the_demo_files_all_become_searchable(folder: Path) -> None:
    report = ingest(folder, progress=False)
    assert report.counts == {"added": 15}
    assert report.chunks == len(vetor_storage())
    for question in json.loads((Path(__file__).parent / "demo_questions.json").read_text(encoding="utf-8")):
        hits = oraculo.search(question["question"], k=3)
        assert question["source"] in {Path(hit.source).name for hit in hits}, question


def test_every_chunk_carries_the_metadata_users_filter_by(folder: Path) -> None:
    ingest(folder, progress=False)
    rows = vetor_storage().to_pandas()
    for metadata in rows["metadata"]:
        assert os.path.isabs(metadata["source"])
        assert isinstance(metadata["bytes"], int)
        assert metadata["modified"].startswith("20")
    assert {"page"} <= set().union(*rows["metadata"])
    pages = oraculo.search("retenção de dados", k=3, filter={"page": 2})
    assert {hit.metadata["page"] for hit in pages} == {2}


def test_a_second_run_finds_everything_unchanged(folder: Path) -> None:
    ingest(folder, progress=False)
    before = vetor_storage().sources()
    assert ingest(folder, progress=False).counts == {"unchanged": 15}
    assert vetor_storage().sources() == before


def test_a_changed_file_replaces_its_chunks_and_no_others(project: Path) -> None:
    (project / "um.txt").write_text("a capivara nada no lago", encoding="utf-8")
    (project / "dois.txt").write_text("o tucano voa alto", encoding="utf-8")
    ingest(project, progress=False)
    (project / "um.txt").write_text("a capivara dorme na margem", encoding="utf-8")
    report = ingest(project, progress=False)
    assert sorted((Path(item.source).name, item.status) for item in report) == [
        ("dois.txt", "unchanged"),
        ("um.txt", "replaced"),
    ]
    texts = list(vetor_storage().to_pandas()["text"])
    assert sorted(texts) == ["a capivara dorme na margem", "o tucano voa alto"]


def test_a_change_of_same_size_and_time_is_noticed_while_it_is_fresh(project: Path) -> None:
    path = project / "a.txt"
    path.write_text("versão um", encoding="utf-8")
    ingest(path, progress=False)
    times = path.stat().st_mtime_ns
    path.write_text("versão 01", encoding="utf-8")
    os.utime(path, ns=(times, times))
    assert ingest(path, progress=False)[0].status == "replaced"


def test_what_is_unchanged_by_size_and_time_is_not_even_opened(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "b.txt"):
        (project / name).write_text(f"um texto em {name}", encoding="utf-8")
        os.utime(project / name, (1_700_000_000, 1_700_000_000))
    ingest(project, progress=False)
    (project / "b.txt").write_text("outro texto", encoding="utf-8")
    opened: list[Path] = []

    def opening(path: Path, *, max_bytes: int) -> bytes:
        opened.append(Path(path))
        return read_file(path, max_bytes=max_bytes)

    monkeypatch.setattr("oraculo_kit.load.read_file", opening)
    assert ingest(project, progress=False).counts == {"replaced": 1, "unchanged": 1}
    assert opened == [project / "b.txt"]


def test_of_a_changed_file_only_the_changed_chunks_are_embedded(project: Path) -> None:
    paragraphs = [f"Parágrafo {number}: " + f"texto número {number} " * 40 for number in range(12)]
    path = project / "a.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    use(embedder=(embedder := Slow()))
    assert ingest(path, progress=False)[0].chunks >= 12
    paragraphs[5] += " e uma frase nova"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    embedder.texts.clear()
    assert ingest(path, progress=False)[0].status == "replaced"
    asked = [text for text in embedder.texts if text.startswith("Parágrafo") or "frase nova" in text]
    assert 1 <= len(asked) <= 2
    assert all("número 5" in text for text in asked)


def test_whole_sources_share_commits_of_a_bounded_size(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(130):
        (project / f"{number:03}.txt").write_text(f"texto {number}", encoding="utf-8")
    for number in range(5):
        (project / f"longo{number}.txt").write_text(f"palavra {number} " * 150_000, encoding="utf-8")
    use(embedder=Slow(0))
    commits: list[tuple[int, int]] = []
    replace_many = vetor_storage().replace_many

    def noting(blocks: Any) -> list[str]:
        characters = sum(len(chunk.page_content) for block in blocks for chunk in block.documents)
        commits.append((len(blocks), characters))
        return replace_many(blocks)

    monkeypatch.setattr(vetor_storage(), "replace_many", noting)
    assert ingest(project, n_jobs=1, progress=False).counts == {"added": 135}
    assert sum(sources for sources, _ in commits) == 135
    assert max(sources for sources, _ in commits) == 64
    assert (
        max(characters for _, characters in commits) < 4_000_000 + 2_500_000
    )  # the last one may pass the mark
    assert len(commits) <= 6


def test_other_settings_make_everything_be_split_again(project: Path) -> None:
    (project / "a.txt").write_text("palavra " * 200, encoding="utf-8")
    assert ingest(project / "a.txt", progress=False)[0].chunks == 2
    settings = oraculo.get_services().settings
    oraculo.start_services(settings.with_values(chunk_size=300, chunk_overlap=0))
    outcome = ingest(project / "a.txt", progress=False)[0]
    assert (outcome.status, outcome.chunks) == ("replaced", 6)


def test_bad_files_are_reported_with_their_reason_and_the_rest_goes_on(project: Path) -> None:
    (project / "bom.txt").write_text("um texto bom", encoding="utf-8")
    (project / "vazio.txt").write_text("", encoding="utf-8")
    (project / "corrupto.pdf").write_bytes(b"%PDF-1.7 not really")
    (project / "latim.txt").write_bytes("informação pública".encode("cp1252"))
    (project / "estranho.xyz").write_bytes(b"\x00\x01")
    with open(project / "enorme.txt", "wb") as file:
        file.truncate(200 * 1024 * 1024)
    (project / "laço").symlink_to(project, target_is_directory=True)
    report = ingest([project, project / "faltando.txt"], progress=False)
    said = {Path(item.source).name: (item.status, item.error) for item in report}
    assert said["bom.txt"] == ("added", "")
    assert said["latim.txt"] == ("added", "")
    assert said["vazio.txt"] == ("skipped", "EmptySourceError")
    assert said["corrupto.pdf"] == ("failed", "ExtractionError")
    assert said["estranho.xyz"] == ("skipped", "UnsupportedFormatError")
    assert said["enorme.txt"] == ("failed", "SourceTooLargeError")
    assert said["faltando.txt"] == ("failed", "SourceNotFoundError")
    assert said["laço"] == ("skipped", "NotAFileError")
    assert all(item.message for item in report if item.status in ("failed", "skipped"))
    assert oraculo.search("informação", k=1)[0].text == "informação pública"


def test_a_text_that_looks_wrongly_decoded_is_stored_and_the_report_says_so(project: Path) -> None:
    (project / "a.txt").write_text("informação e gestão".encode().decode("latin-1"), encoding="utf-8")
    (project / "b.txt").write_text("informação e gestão", encoding="utf-8")
    broken, good = ingest(project, progress=False)
    assert (broken.status, good.status, good.message) == ("added", "added", "")
    assert "looks wrongly decoded; ORACULO_FIX_TEXT=true repairs" in broken.message


def test_a_file_that_goes_bad_keeps_its_old_version(project: Path) -> None:
    path = project / "a.txt"
    path.write_text("a versão que vale", encoding="utf-8")
    ingest(path, progress=False)
    path.write_bytes(b"\x00\x01\x02" * 50)
    outcome = ingest(path, progress=False)[0]
    assert outcome.status == "failed"
    assert [hit.text for hit in oraculo.search("versão", k=5)] == ["a versão que vale"]


def test_a_failing_embedder_fails_only_the_documents_concerned(project: Path) -> None:
    for name in ("um", "dois", "ruim", "três"):
        (project / f"{name}.txt").write_text(f"documento {name}", encoding="utf-8")
    use(embedder=_Picky())
    report = ingest(project, progress=False)
    assert {Path(item.source).stem: item.status for item in report} == {
        "um": "added",
        "dois": "added",
        "três": "added",
        "ruim": "failed",
    }
    assert report.failed[0].error == EmbeddingError.__name__


def test_a_refused_text_is_found_with_few_requests(project: Path) -> None:
    for number in range(64):
        (project / f"{number:02}.txt").write_text(
            f"documento {'ruim' if number == 40 else number}", encoding="utf-8"
        )
    picky = _Picky()
    use(embedder=picky)
    report = ingest(project, progress=False)
    assert report.counts == {"added": 63, "failed": 1}
    assert Path(report.failed[0].source).name == "40.txt"
    assert picky.requests < 20


class _Picky:
    """Refuses any batch with one certain text."""

    requests = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.requests += 1
        if any("ruim" in text for text in texts):
            raise ValueError("refused")
        return [[1.0, float(len(text))] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [1.0, float(len(text))]


def test_a_dataframe_becomes_one_source_per_row_with_its_columns_as_metadata(project: Path) -> None:
    frame = pd.DataFrame(
        {
            "id": [7, 8, 9],
            "texto": ["nota fiscal de serviço", "férias de janeiro", None],
            "valor": [10.5, np.nan, 3.0],
            "quando": pd.to_datetime(["2024-01-02", None, "2024-05-06"]),
            "ok": [True, False, True],
        }
    )
    report = ingest(frame, text="texto", id="id", progress=False)
    assert report.counts == {"added": 2, "skipped": 1}
    hit = oraculo.search("nota fiscal", k=1, filter={"valor": {"$gt": 10}, "ok": True})[0]
    assert hit.source == "dataframe/7"
    assert hit.metadata["quando"].startswith("2024-01-02")
    frame.loc[0, "texto"] = "nota fiscal eletrônica"
    again = ingest(frame, text="texto", id="id", progress=False)
    assert again.counts == {"replaced": 1, "unchanged": 1, "skipped": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs text="),
        ({"text": "nope"}, "text='nope' is no column"),
        ({"text": "texto", "id": "grupo"}, "more than once"),
        ({"text": "texto"}, "would replace them: give id="),
    ],
)
def test_a_dataframe_without_what_it_needs_is_refused(
    project: Path, arguments: dict[str, str], said: str
) -> None:
    frame = pd.DataFrame({"texto": ["a", "b"], "grupo": [1, 1]})
    with pytest.raises(SourceError, match=said):
        ingest(frame, progress=False, **arguments)


def test_langchain_documents_are_grouped_by_their_source_and_left_unchanged(project: Path) -> None:
    documents = [
        Document("parte um", metadata={"source": "x"}),
        Document("parte dois", metadata={"source": "x"}),
    ]
    report = ingest(documents, progress=False)
    assert [(item.source, item.chunks) for item in report] == [("x", 2)]
    assert documents[0].metadata == {"source": "x"}


def test_a_document_whose_metadata_cannot_be_stored_fails_alone(project: Path) -> None:
    documents = [Document(f"texto {n}", metadata={"source": str(n), "x": n}) for n in range(5)]
    documents[3].metadata["x"] = object()
    report = ingest(documents, progress=False)
    assert [item.status for item in report] == ["added", "added", "added", "failed", "added"]
    assert "metadata 'x' holds a object" in report[3].message


def test_a_loaders_metadata_that_cannot_be_stored_fails_its_file_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oraculo_kit import formats

    monkeypatch.setattr(formats, "_registered", {})
    oraculo.register_loader(
        ".estranho", lambda data, name: [Document(data.decode(), metadata={"x": object()})]
    )
    for name in ("um.txt", "dois.estranho", "três.txt"):
        (project / name).write_text(f"texto {name}", encoding="utf-8")
    report = ingest([project / name for name in ("um.txt", "dois.estranho", "três.txt")], progress=False)
    assert [item.status for item in report] == ["added", "failed", "added"]


def test_text_that_no_database_can_hold_is_stored_as_far_as_it_can_be(project: Path) -> None:
    frame = pd.DataFrame({"t": ["nota \ud800 fiscal"]}, dtype=object)
    assert ingest(frame, text="t", name="quadro", progress=False).counts == {"added": 1}
    assert ingest(Document("outra \ud800 nota"), progress=False).counts == {"added": 1}
    assert oraculo.search("nota fiscal", k=1)[0].text == "nota ? fiscal"


def test_two_names_that_are_one_in_unicode_store_the_first_and_report_the_second(project: Path) -> None:
    (project / "caf\u00e9.txt").write_text("texto um", encoding="utf-8")
    (project / "cafe\u0301.txt").write_text("texto dois", encoding="utf-8")
    if len(os.listdir(project)) < 3:
        pytest.skip("this file system does not tell the two names apart")
    report = ingest(project, progress=False)
    assert report.counts == {"added": 1, "failed": 1}
    assert len(vetor_storage()) == 1


def test_a_file_that_vanishes_after_it_was_listed_is_an_outcome(project: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (project / name).write_text(f"texto {name}", encoding="utf-8")
    services = oraculo.start_services()
    listed = list(find_sources(project))
    (project / "b.txt").unlink()
    outcomes = {Path(item.source).name: item for item in ingest_sources(services, listed)}
    assert [outcomes[name].status for name in ("a.txt", "b.txt", "c.txt")] == ["added", "failed", "added"]
    assert "the file is gone" in outcomes["b.txt"].message


def test_a_run_that_is_left_early_has_stored_whole_sources_only(project: Path) -> None:
    for number in range(150):
        (project / f"{number:03}.txt").write_text("palavra " * 300, encoding="utf-8")
    services = oraculo.start_services()
    outcomes = ingest_sources(services, find_sources(project))
    first = next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert first.status == "added"
    rows = vetor_storage().sources()
    assert {row.chunks for row in rows} == {first.chunks}
    assert ingest(project, progress=False).counts["added"] == 150 - len(rows)


def test_outcomes_come_in_the_order_of_the_sources(project: Path) -> None:
    names = [f"{number:03}.txt" for number in range(80)]
    for name in names[::2]:
        (project / name).write_text(f"texto {name}", encoding="utf-8")
    paths = [project / name for name in names]
    for n_jobs in (1, 2):
        report = ingest(paths, n_jobs=n_jobs, progress=False)
        assert [Path(item.source).name for item in report] == names


@pytest.mark.parametrize("given", [42, [object()], [1, "a.txt"]])
def test_what_cannot_be_ingested_is_refused_with_what_can(project: Path, given: Any) -> None:
    with pytest.raises(SourceError, match="expected"):
        ingest(given, progress=False)
    assert "expected" in ingest_task(given).message


@pytest.mark.parametrize("n_jobs", [0, 2.5, "2", True])
def test_a_number_of_jobs_that_is_none_is_refused(project: Path, n_jobs: Any) -> None:
    with pytest.raises(SettingsError, match="n_jobs is .*, expected a number of processes"):
        ingest(project, n_jobs=n_jobs)


def test_an_unknown_backend_is_refused_even_when_none_is_needed(project: Path) -> None:
    with pytest.raises(SettingsError, match="backend is 'lokey', expected one of loky"):
        ingest(project, n_jobs=1, backend="lokey")


@pytest.mark.parametrize("backend", ["multiprocessing", "threading", "sequential"])
def test_every_backend_of_one_machine_ingests(folder: Path, backend: str) -> None:
    assert ingest(folder, n_jobs=2, backend=backend, progress=False).counts == {"added": 15}


def test_ingest_task_takes_one_source_and_says_so(folder: Path) -> None:
    assert ingest_task(folder / "emissao_nfse.md").status == "added"
    outcome = ingest_task(folder)
    assert outcome.status == "failed"
    assert "got several sources" in outcome.message
    (folder / "vazia").mkdir()
    assert "got nothing" in ingest_task(folder / "vazia").message


def test_workers_are_really_other_processes_and_say_so(folder: Path) -> None:
    report = ingest(folder, n_jobs=2, progress=False)
    assert os.getpid() not in {item.pid for item in report}
    assert {item.status for item in report} == {"added"}


# --- ended from outside -------------------------------------------------------------------------------------


def _many(project: Path, count: int) -> Path:
    folder = project / "docs"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.txt").write_text(f"documento {number} " * 100, encoding="utf-8")
    return folder


@pytest.mark.skipif(os.name != "posix", reason="process groups")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_interrupt_ends_a_run_at_once_and_leaves_whole_documents(project: Path, n_jobs: int) -> None:
    _many(project, 3000)
    script = f"""
        import os, signal, threading, time
        import oraculo_kit as oraculo
        from joblib import parallel_config, Parallel
        oraculo.start_services()
        struck = 0.0
        def strike():
            global struck
            while not len(oraculo.vetor_storage()):
                time.sleep(0.02)
            struck = time.monotonic()
            os.killpg(0, signal.SIGINT)  # as a terminal and JupyterLab do: the workers get it too
        threading.Thread(target=strike, daemon=True).start()
        try:
            oraculo.ingest("docs", n_jobs={n_jobs}, progress=False)
            seconds = None
        except KeyboardInterrupt:
            seconds = time.monotonic() - struck
        chunks = sorted({{row.chunks for row in oraculo.vetor_storage().sources()}})
        ok = oraculo.vetor_storage().verify().ok
        report(dict(seconds=seconds, chunks=chunks, ok=ok, jobs=Parallel().n_jobs))
    """
    (project / "script.py").write_text(_REPORT + textwrap.dedent(script), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=90,
        start_new_session=True,
    )
    said = json.loads(done.stdout.rpartition("REPORT ")[2])
    assert said["seconds"] is not None
    assert said["seconds"] < 3
    assert said["chunks"] == [2]
    assert said["ok"]
    assert said["jobs"] == 1, "joblib is as it was"


def test_a_fault_of_the_store_in_a_worker_raises_as_it_does_here(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _many(project, 40)
    monkeypatch.setenv("ORACULO_LOCK_TIMEOUT", "0.5")
    store = oraculo.start_services().vetor_storage
    store.write([Document("antes", metadata={"source": "x"})])
    with WriterLock(Path(store.location), 5.0).held("a test"):
        for n_jobs in (1, 2):
            # A worker that was not there yet cannot even start; that error tells the same cause.
            with pytest.raises((StoreLockTimeoutError, ServicesFailedError), match="a test"):
                ingest(folder, n_jobs=n_jobs, progress=False)
    assert ingest(folder, n_jobs=2, progress=False).counts == {"added": 40}


def test_a_terminal_sees_a_progress_bar_and_a_file_sees_none(project: Path) -> None:
    _many(project, 3)
    command = [sys.executable, "-m", "oraculo_kit", "ingest", "docs"]
    assert "source" not in subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    # Of no size, as a new one is, tqdm would draw nothing.
    pytest.importorskip("fcntl").ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, timeout=60)
    os.close(theirs)
    assert b"3/3" in os.read(ours, 65_536)
    os.close(ours)


def test_a_pattern_that_is_no_text_is_refused(project: Path) -> None:
    with pytest.raises(SettingsError, match="glob is 5, expected a pattern"):
        oraculo.ingest(project, glob=5, progress=False)  # type: ignore[arg-type]
