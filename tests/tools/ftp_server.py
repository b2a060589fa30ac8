"""A small FTP server on loopback: real sockets for what fsspec's own client asks, and nothing to install."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class FtpServer(socketserver.ThreadingTCPServer):
    """Serves files from memory, to one user.

    Attributes
    ----------
    files : dict of str to bytes
        By absolute path.
    password : str
        Of the user ``ana``.
    read : list of (str, int)
        The paths that were read, each with the port of the connection that asked: one per client.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, files: dict[str, bytes], password: str) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.files = files
        self.password = password
        self.read: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        """The URL of the root, with user and password."""
        return f"ftp://ana:{self.password}@127.0.0.1:{self.server_address[1]}"


class _Conversation(socketserver.StreamRequestHandler):
    server: FtpServer

    def handle(self) -> None:
        self.folder, self.start = "/", 0
        self._say("220 ready")
        while line := self.rfile.readline().decode().strip():
            command, _, argument = line.partition(" ")
            answer = getattr(self, f"do_{command.lower()}", None)
            self._say("502 unknown" if answer is None else answer(argument))
            if command == "QUIT":
                return

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def _path(self, argument: str) -> str:
        whole = argument if argument.startswith("/") else f"{self.folder.rstrip('/')}/{argument}"
        return "/" + whole.strip("/")

    def _below(self, folder: str) -> dict[str, int | None]:
        """Return names with sizes, None for folders."""
        inside: dict[str, int | None] = {}
        for path, content in self.server.files.items():
            if path.startswith(folder.rstrip("/") + "/"):
                name, deeper, _ = path[len(folder.rstrip("/")) + 1 :].partition("/")
                inside[name] = None if deeper else len(content)
        return inside

    def do_user(self, name: str) -> str:
        return "331 password" if name == "ana" else "530 unknown user"

    def do_pass(self, password: str) -> str:
        return "230 welcome" if password == self.server.password else "530 wrong"

    def do_type(self, _: str) -> str:
        return "200 ok"

    do_noop = do_type

    def do_quit(self, _: str) -> str:
        return "221 bye"

    def do_pwd(self, _: str) -> str:
        return f'257 "{self.folder}"'

    def do_cwd(self, argument: str) -> str:
        path = self._path(argument)
        if path != "/" and not self._below(path):
            return "550 no such folder"
        self.folder = path
        return "250 ok"

    def do_size(self, argument: str) -> str:
        content = self.server.files.get(self._path(argument))
        return "550 no such file" if content is None else f"213 {len(content)}"

    def do_rest(self, argument: str) -> str:
        self.start = int(argument)
        return "350 ok"

    def do_pasv(self, _: str) -> str:
        self.passive = socket.create_server(("127.0.0.1", 0))
        high, low = divmod(self.passive.getsockname()[1], 256)
        return f"227 entering passive mode (127,0,0,1,{high},{low})"

    def do_mlsd(self, argument: str) -> str:
        lines = [
            f"type=dir; {name}" if size is None else f"type=file;size={size}; {name}"
            for name, size in self._below(self._path(argument)).items()
        ]
        return self._send("".join(f"{line}\r\n" for line in lines).encode())

    def do_retr(self, argument: str) -> str:
        path = self._path(argument)
        content = self.server.files.get(path)
        if content is None:
            self.passive.close()
            return "550 no such file"
        self.server.read.append((path, self.client_address[1]))
        start, self.start = self.start, 0
        return self._send(content[start:])

    def _send(self, content: bytes) -> str:
        self._say("150 here it comes")
        with self.passive, self.passive.accept()[0] as line:
            try:
                line.sendall(content)
            except OSError:
                return "426 enough"  # who reads a part closes the line
        return "226 that was all"


@contextmanager
def serving(files: dict[str, bytes], password: str = "s3nha") -> Iterator[Any]:
    """Run a server while the body runs."""
    with FtpServer(files, password) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
