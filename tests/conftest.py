"""What every test may use: a project of its own, and notebooks with a real kernel."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from oraculo_kit.environment.names import is_provider_name
from oraculo_kit.services import stop_services

if TYPE_CHECKING:
    from jupyter_client.manager import KernelManager

_LOCALE = ("LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES")


def pytest_collection_finish() -> None:
    """Keep the collected tests and all that they import from being searched for garbage again and again.

    Those are a million objects: with them one collection of the oldest generation takes half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty project that is the working folder; settings at their defaults, services stopped."""
    before = dict(os.environ)
    clean_environment()
    (tmp_path / ".env").touch()
    monkeypatch.chdir(tmp_path)
    stop_services()
    yield tmp_path
    stop_services()
    close_widgets()
    # The start-up changes os.environ itself, so monkeypatch alone would not restore it.
    os.environ.clear()
    os.environ.update(before)


def close_widgets() -> None:
    """Close what widgets a test left: ipywidgets keeps every one, and an explorer its store with the model."""
    if "ipywidgets" in sys.modules:
        from ipywidgets import Widget

        Widget.close_all()


def clean_environment() -> None:
    """Remove every variable that could configure oraculo_kit, and make its messages English."""
    for name in list(os.environ):
        if name.startswith("ORACULO_") or is_provider_name(name) or name in _LOCALE:
            del os.environ[name]
    os.environ["LANG"] = "C.UTF-8"


@dataclass
class Cell:
    """What a cell gave back, and when the kernel began with it (seconds since 1970)."""

    stdout: str = ""
    stderr: str = ""
    result: str | None = None
    error: str | None = None
    started: float = 0.0
    seconds: float = 0.0


class Notebook:
    """A real kernel, driven like a notebook.

    Parameters
    ----------
    folder : pathlib.Path
        Its working folder.
    *arguments : str
        Of the kernel's command line, such as ``--ext=oraculo_kit``.
    kernel : str
        Name of its kernel spec.
    **environ : str
        Environment variables besides those of this process.
    """

    def __init__(self, folder: Path, *arguments: str, kernel: str = "python3", **environ: str) -> None:
        from jupyter_client.manager import KernelManager

        self.manager: KernelManager = KernelManager(kernel_name=kernel)
        started = time.perf_counter()
        self.manager.start_kernel(
            extra_arguments=list(arguments), cwd=str(folder), env={**os.environ, **environ}
        )
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=60)
        except BaseException:
            self.close()
            raise
        self.seconds = time.perf_counter() - started

    def run(self, code: str) -> Cell:
        """Run a cell and wait for it."""
        return self.run_all(code)[0]

    def run_all(self, *codes: str) -> list[Cell]:
        """Queue cells, as "run all" does, and wait for them."""
        return [self._wait_for(request) for request in [self.client.execute(code) for code in codes]]

    def _wait_for(self, request: str) -> Cell:
        cell = Cell()
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and content["name"] == "stdout":
                cell.stdout += content["text"]
            elif kind == "stream":
                cell.stderr += content["text"]
            elif kind in ("execute_result", "display_data"):
                cell.result = content["data"]["text/plain"]
            elif kind == "error":
                cell.error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "busy":
                cell.started = message["header"]["date"].timestamp()
            elif kind == "status" and content["execution_state"] == "idle":
                cell.seconds = message["header"]["date"].timestamp() - cell.started
                return cell

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def notebook(project: Path) -> Iterator[Callable[..., Notebook]]:
    """Return the function that starts a kernel in the project; the kernels end with the test."""
    opened: list[Notebook] = []

    def start(*arguments: str, **options: Any) -> Notebook:
        opened.append(Notebook(project, *arguments, **options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def run_script(folder: Path, code: str, *, timeout: float = 120, **environ: str) -> Any:
    """Run a real script in a folder and return what it gave to ``report``, a function that it finds.

    ``report`` takes any JSON value; the last one counts.
    """
    path = folder / "script.py"
    path.write_text(_REPORT + textwrap.dedent(code), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=folder,
        env={**os.environ, "PYTHONUTF8": "1", **environ},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("REPORT ")[2])


_REPORT = """
def report(value):
    import json
    print("REPORT", json.dumps(value), flush=True)

"""


def open_files(folder: Path | str, pid: int | str = "self") -> list[str]:
    """Return the files below a folder that a process has open or mapped; Linux only."""
    found = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{entry}"))
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        found.update(line.split(maxsplit=5)[-1].strip() for line in file)
    return sorted(name for name in found if name.startswith(str(folder)))
