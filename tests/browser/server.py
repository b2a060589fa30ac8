"""A real JupyterLab on a free port of this machine, for browser tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.conftest import clean_environment

_NO_NEWS = {"checkForUpdates": False, "fetchNews": "false", "doNotDisturbMode": True}
_START = 120.0  # seconds


class Lab:
    """A JupyterLab server whose every file lies below one folder.

    Parameters
    ----------
    folder : pathlib.Path
    **environ : str
        Environment variables of the server, and so of its kernels.
    """

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.root = folder / "notebooks"
        self.root.mkdir(parents=True)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = (folder / "server.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", f"--config={self._configured()}"],
            cwd=self.root,
            env=self._environ(environ),
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _configured(self) -> Path:
        settings = self.folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        text = json.dumps(_NO_NEWS)
        (settings / "notification.jupyterlab-settings").write_text(text, encoding="utf-8")
        path = self.folder / "jupyter_server_config.py"
        config = f"""
            from jupyterlab.galata import configure_jupyter_server

            configure_jupyter_server(c)
            c.ServerApp.ip = "127.0.0.1"
            c.ServerApp.port = {self.port}
            c.ServerApp.allow_root = True
            c.ServerApp.root_dir = {str(self.root)!r}
            c.LabApp.workspaces_dir = {str(self.folder / "workspaces")!r}
            c.LabApp.user_settings_dir = {str(self.folder / "settings")!r}
            c.LabApp.extension_manager = "readonly"
            c.LabApp.news_url = None
            """
        path.write_text(textwrap.dedent(config), encoding="utf-8")
        return path

    def _environ(self, more: dict[str, str]) -> dict[str, str]:
        before = dict(os.environ)
        try:
            clean_environment()
            environ = dict(os.environ)
        finally:
            os.environ.clear()
            os.environ.update(before)
        own = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "IPYTHONDIR": "ipython",
            "TMPDIR": "tmp",  # the galata configuration makes folders that it never removes
        }
        for name, folder in own.items():
            (self.folder / folder).mkdir()
            environ[name] = str(self.folder / folder)
        return {**environ, "JUPYTER_PREFER_ENV_PATH": "1", **more}

    def _wait(self) -> None:
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/api/status", timeout=2):
                    return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.1)
        log = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"JupyterLab did not answer within {_START:.0f} s:\n{log[-3000:]}")

    def end_kernels(self) -> None:
        """End every kernel that runs."""
        with urllib.request.urlopen(f"{self.url}/api/kernels", timeout=20) as answer:
            kernels = json.load(answer)
        for kernel in kernels:
            request = urllib.request.Request(f"{self.url}/api/kernels/{kernel['id']}", method="DELETE")
            urllib.request.urlopen(request, timeout=20).close()

    def close(self) -> None:
        """End the server and its kernels, and remove what it left."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
