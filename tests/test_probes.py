"""Each probe of ``doctor``: what it finds, and that one that breaks or hangs costs only itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from oraculo_kit.diagnostics import probes
from oraculo_kit.diagnostics.probes import examine
from oraculo_kit.diagnostics.probes_case import Answer, Case, Finding, masked_location
from oraculo_kit.messages import translator
from oraculo_kit.services import services_state
from oraculo_kit.storage import filesystems

POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has no POSIX modes")


def examined(probe: str) -> Finding:
    """Return the answer of one probe, run after those that it builds on."""
    return next(each for each in examine(services_state(), translator("en")) if each.probe == probe)


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave only these probes, to keep a test short."""
    monkeypatch.setattr(probes, "PROBES", tuple(each for each in probes.PROBES if each[0] in names))


def test_a_probe_that_breaks_or_hangs_costs_only_itself(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.environ["OPENAI_API_KEY"] = "sk-plantado-0123456789"
    go_on = threading.Event()

    def hangs(case: Case) -> Answer:
        go_on.wait(30)
        return Answer("ok", "too late")

    def exits(case: Case) -> Answer:
        sys.exit("key " + os.environ["OPENAI_API_KEY"])

    only(monkeypatch, "disk_space")
    broken = (("hangs", "hangs", hangs, "look at it"), ("exits", "exits", exits, "look at it"))
    monkeypatch.setattr(probes, "PROBES", (*broken, *probes.PROBES))
    monkeypatch.setattr(probes, "TIME_LIMIT", 0.3)
    started = time.perf_counter()
    found = examine(services_state(), translator("en"))
    assert time.perf_counter() - started < 5
    go_on.set()
    assert [(each.probe, each.outcome, each.text, each.fix) for each in found[:2]] == [
        ("hangs", "problem", "no answer within 0.3 s", "look at it"),
        ("exits", "problem", "SystemExit: key ***", "look at it"),
    ]
    assert found[2].probe == "disk_space"
    assert found[2].outcome in ("ok", "warning")


def test_a_source_that_never_answers_is_given_up_in_its_own_time(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "environment")
    monkeypatch.setattr(probes, "TIME_LIMIT", 0.1)
    (project / "silent_source.py").write_text("import time\ndef fetch():\n    time.sleep(3)\n")
    (project / ".env").write_text(
        "ORACULO_ENV_SOURCE=silent_source:fetch\nORACULO_ENV_TIMEOUT=0.5\nORACULO_LANG=pt_BR\n"
    )
    found = examined("environment")
    assert found.outcome == "problem"
    assert "gave no complete answer in time" in found.text
    assert 0.4 < found.seconds < 3
    assert "ORACULO_LANG" not in os.environ, "nothing may be applied"


def test_settings_of_dotenv_count_although_nothing_is_applied(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "environment", "settings", "embedder")
    (project / ".env").write_text("ORACULO_CHUNK_SIZE=abc\nORACULO_EMBEDDER=klingon:model\n")
    assert "ORACULO_CHUNK_SIZE is 'abc'" in examined("settings").text
    assert examined("embedder").outcome == "problem"
    assert "klingon" in examined("embedder").text
    assert "ORACULO_EMBEDDER=wordllama" in examined("embedder").fix


@POSIX
def test_files_with_secrets_that_others_can_read_are_a_warning_with_the_command(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "private_files")
    cache = project / ".oraculo" / "environment.json"
    cache.parent.mkdir()
    cache.touch()
    (project / ".env").chmod(0o640)
    cache.chmod(0o604)
    found = examined("private_files")
    assert found.outcome == "warning"
    assert found.fix == f"chmod 600 {project / '.env'} {cache}"
    subprocess.run(found.fix, shell=True, check=True)
    assert examined("private_files").outcome == "ok"
    (project / ".env").unlink()
    cache.unlink()
    assert examined("private_files").text == "there are none"


def test_a_base_below_a_file_cannot_be_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "settings", "write_permission")
    (project / "file.txt").touch()
    os.environ["ORACULO_STORE"] = str(project / "file.txt" / "store")
    found = examined("write_permission")
    assert found.outcome == "problem"
    assert "file.txt cannot be written" in found.text
    assert "ORACULO_STORE" in found.fix


@POSIX
def test_folders_and_files_of_somebody_else_are_problems() -> None:
    # Root can write everything, so a process that gives up being root looks at it.
    folder = Path(tempfile.mkdtemp())
    try:
        closed, sudo = folder / "closed", folder / "sudo"
        closed.mkdir()
        sudo.mkdir()
        (sudo / "catalog.sqlite3").touch()
        (sudo / "catalog.sqlite3").chmod(0o444)
        sudo.chmod(0o777)
        closed.chmod(0o555)
        folder.chmod(0o555)
        code = (
            "import json, os, sys\n"
            "from oraculo_kit.diagnostics import doctor, status\n"
            "doctor()\n"  # imports everything: the other user may not even read the interpreter's folder
            "if os.geteuid() == 0: os.setuid(65534)\n"
            "found = {}\n"
            "for name in ('closed', 'sudo'):\n"
            "    os.environ['ORACULO_STORE'] = os.path.join(os.getcwd(), name)\n"
            "    status()\n"
            "    found[name] = [f for f in doctor().to_dict()['findings'] if f['probe'] == 'write_permission'][0]\n"
            "print(json.dumps(found))\n"
        )
        root = Path(probes.__file__).parents[1]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
        environ.pop("ORACULO_LANG", None)
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**environ, "LANG": "C.UTF-8", "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
    finally:
        folder.chmod(0o755)
        closed.chmod(0o755)
        shutil.rmtree(folder)
    assert found["closed"]["outcome"] == "problem"
    assert found["closed"]["text"].endswith("closed cannot be written: Permission denied")
    assert found["sudo"]["outcome"] == "problem"
    assert found["sudo"]["text"].startswith("1 files of the base cannot be written, the first: ")


@pytest.mark.parametrize(
    ("free", "total", "outcome"),
    [
        (500 * 1024**3, 1000 * 1024**3, "ok"),
        (1024**3 - 1, 5 * 1024**3, "warning"),
        (50 * 1024**3, 1024**4, "warning"),
    ],
)
def test_little_free_space_is_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch, free: int, total: int, outcome: str
) -> None:
    only(monkeypatch, "disk_space")
    usage = shutil.disk_usage(project)._replace(total=total, used=total - free, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert examined("disk_space").outcome == outcome


@pytest.mark.parametrize(
    ("kind", "outcome", "said"),
    [
        ("ext4", "ok", "mounted at /dados"),
        ("nfs4", "problem", "writes could be lost"),
        ("9p", "problem", "writes could be lost"),
        ("fuse.sshfs", "problem", "writes could be lost"),
        ("fuse.mine", "warning", "not known"),
        ("tmpfs", "warning", "gone after a restart"),
    ],
)
def test_the_kind_of_file_system_decides(
    project: Path, monkeypatch: pytest.MonkeyPatch, kind: str, outcome: str, said: str
) -> None:
    only(monkeypatch, "file_system")
    monkeypatch.setattr(filesystems, "file_system", lambda path: filesystems.FileSystem(kind, "/dados"))
    found = examined("file_system")
    assert found.outcome == outcome
    assert said in found.text
    assert ("local disk" in found.fix) is (outcome != "ok")


def test_a_folder_that_a_cloud_program_copies_is_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "settings", "file_system")
    folder = project / "OneDrive - Empresa" / "base"
    folder.mkdir(parents=True)
    os.environ["ORACULO_STORE"] = str(folder)
    found = examined("file_system")
    assert found.outcome == "warning"
    assert "OneDrive - Empresa" in found.text


def test_a_base_that_is_a_url_has_no_folder_to_probe(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "settings", "write_permission", "disk_space", "file_system", "store")
    os.environ["ORACULO_STORE"] = "postgresql://ana:s3nha-secreta@host/base"
    found = examine(services_state(), translator("en"))[1:]
    assert {each.text for each in found[:3]} == {"the base is not a folder: postgresql://ana:***@host/base"}
    assert found[3].outcome == "problem"
    assert "s3nha" not in str(found)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/data/base", "/data/base"),
        ("postgresql://ana:s3nha@host:5432/base", "postgresql://ana:***@host:5432/base"),
        ("postgresql://ana:s3%40nha:x@host/base", "postgresql://ana:***@host/base"),
        ("postgresql://token@host/base", "postgresql://***@host/base"),
        ("postgresql://host/base?password=s3nha", "postgresql://host/base?***"),
        ("langchain:package.module", "langchain:package.module"),
    ],
)
def test_a_store_is_shown_without_its_password(location: str, shown: str) -> None:
    assert masked_location(location) == shown


def test_an_old_sqlite_is_a_problem(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import apsw

    only(monkeypatch, "sqlite")
    assert examined("sqlite").outcome == "ok"
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.40.1")
    found = examined("sqlite")
    assert found.outcome == "problem"
    assert found.text == "SQLite 3.40.1 can lose commits; 3.51.3 or newer is needed"
    assert found.fix == "pip install --upgrade apsw"


def test_two_openmp_runtimes_are_a_warning(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threadpoolctl

    only(monkeypatch, "openmp")
    pools = [
        {"user_api": "openmp", "filepath": "/a/libgomp.so"},
        {"user_api": "openmp", "filepath": "/b/libiomp5.so"},
        {"user_api": "blas", "filepath": "/b/libopenblas.so"},
    ]
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: pools)
    found = examined("openmp")
    assert found.outcome == "warning"
    assert found.text == "several runtimes are loaded: libgomp.so, libiomp5.so"


def test_torch_beside_faiss_is_a_warning(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "openmp")
    (project / "torch.py").touch()
    monkeypatch.syspath_prepend(str(project))
    found = examined("openmp")
    assert found.outcome == "warning"
    assert "torch" in found.text
    assert "torch" not in sys.modules, "looking must not import it"


def test_packages_out_of_bounds_are_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "packages")
    folder = project / "site" / "oraculo_kit-9.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: oraculo_kit\nVersion: 9\nRequires-Python: >=3.99\n"
        "Requires-Dist: numpy>=99\nRequires-Dist: joblib>=1\nRequires-Dist: no-such-package\n"
        'Requires-Dist: not-asked-for; extra == "dask"\n'
    )
    monkeypatch.syspath_prepend(str(folder.parent))
    found = examined("packages")
    assert found.outcome == "problem"
    assert "Python 3." in found.text
    assert "(>=3.99)" in found.text
    assert "numpy" in found.text
    assert "no-such-package is missing" in found.text
    assert "joblib" not in found.text
    assert "not-asked-for" not in found.text


def test_a_kernel_whose_python_is_gone_is_a_warning(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "kernel")
    folder = project / "jupyter" / "kernels" / "oraculo_probe"
    folder.mkdir(parents=True)
    monkeypatch.setenv("JUPYTER_PATH", str(project / "jupyter"))

    def write(python: str) -> None:
        argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--ext=oraculo_kit"]
        (folder / "kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": "x", "language": "python"})
        )

    write(sys.executable)
    assert "oraculo_probe" in examined("kernel").text
    assert examined("kernel").outcome == "ok"
    write(str(project / "gone" / "python"))
    assert examined("kernel").outcome == "warning"
    assert examined("kernel").fix == "oraculo kernel install"
