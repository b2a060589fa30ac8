"""Files that are brought into the project by the browser, piece by piece.

`ipywidgets.FileUpload` sends a file in one message, which a Jupyter server refuses from 10 MiB on (it closes the
connection), and keeps it in memory. Here the kernel asks for one piece after the other and writes each to the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import unicodedata
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import traitlets

from oraculo_kit.display import size_text, visible
from oraculo_kit.errors import SourceError, SourceTooLargeError
from oraculo_kit.widgets.scripted import Scripted, script

__all__ = ["FOLDER", "Incoming", "Uploader", "safe_name"]

FOLDER = "uploads"
"""Below the project's root; ordinary files, so that they can be ingested again at any time."""

_PIECE = 1 << 20  # bytes asked for at a time
_TEMPORARY = ".upload-"  # hidden, so that no listing of the folder gives it
_STALE_SECONDS = 24 * 3600
_LONGEST = 150  # bytes of a name: file systems take 255, and a number may be added
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def safe_name(name: str) -> str:
    r"""Return a file name that every system takes and every listing gives, as much like `name` as can be.

    Examples
    --------
    >>> safe_name("../../etc/passwd"), safe_name(".env"), safe_name("nota\u202efdp.exe"), safe_name("CON.txt")
    ('passwd', 'env', 'nota_fdp.exe', '_CON.txt')
    >>> safe_name("<img src=x onerror=alert(1)>.txt"), safe_name("   ")
    ('_img src=x onerror=alert(1)_.txt', 'file')
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name).rstrip("/\\"))[-1]
    clean = visible(last).encode("utf-8", "replace").decode("utf-8")
    clean = _FORBIDDEN.sub("_", clean.replace("\ufffd", "_")).lstrip(".~$ ").rstrip(". ")
    clean = f"_{clean}" if _RESERVED.match(clean) else clean
    stem, extension = os.path.splitext(clean)
    while len(f"{stem}{extension}".encode()) > _LONGEST:
        stem, extension = (stem[:-1], extension) if stem else (extension[:-1], "")
    return f"{stem}{extension}" or "file"


class Incoming:
    """A file on its way: written beside its place, and put there when it is whole.

    Parameters
    ----------
    folder : path
        Made when it is not there.
    name : str
        As the browser says it.
    size : int
        Bytes to come.

    Raises
    ------
    OSError
    """

    def __init__(self, folder: str | os.PathLike[str], name: str, size: int) -> None:
        self.folder = Path(folder)
        self.name = safe_name(name)
        self.size = size
        self.received = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._forget_stale()
        self._path = self.folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
        self._file: BinaryIO = self._path.open("xb")
        self._hash = hashlib.blake2b()

    def _forget_stale(self) -> None:
        for left in self.folder.glob(f"{_TEMPORARY}*"):
            with contextlib.suppress(OSError):  # another process's; it looks after it
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    left.unlink()

    def write(self, piece: bytes | memoryview) -> None:
        """Take the next piece.

        Raises
        ------
        SourceError
            When more comes than was announced.
        """
        self.received += len(piece)
        if self.received > self.size:
            raise SourceError(f"{self.name}: got more than the {self.size} bytes that it was to have")
        self._file.write(piece)
        self._hash.update(piece)

    def finish(self) -> Path:
        """Put the file into its place, and return that; one that is there already is never overwritten.

        The same content under the same name is kept as it is; other content gets a number: ``nota (2).pdf``.

        Raises
        ------
        SourceError
            When it is not whole.
        """
        if self.received != self.size:
            raise SourceError(f"{self.name}: got {self.received} of {self.size} bytes; upload it again")
        self._file.close()
        stem, extension = os.path.splitext(self.name)
        number = 1
        try:
            while True:
                place = self.folder / (self.name if number == 1 else f"{stem} ({number}){extension}")
                if self._claim(place) or self._holds_the_same(place):
                    return place
                number += 1
        finally:
            self._path.unlink(missing_ok=True)

    def _claim(self, place: Path) -> bool:
        try:
            place.open("xb").close()  # nobody else gets this name from here on
        except FileExistsError:
            return False
        os.replace(self._path, place)
        return True

    def _holds_the_same(self, place: Path) -> bool:
        if not place.is_file() or place.stat().st_size != self.size:
            return False
        with place.open("rb") as file:
            return hashlib.file_digest(file, hashlib.blake2b).digest() == self._hash.digest()

    def give_up(self) -> None:
        """Remove what came so far."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class Uploader(Scripted):
    """A button that takes files, also by dropping them on it.

    Parameters
    ----------
    folder : callable
        Returns where files go.
    limit : callable
        Returns the most bytes that a file may have.
    told : callable
        Called with (name, received, size) while files come.
    done : callable
        Called with the path of each file that has come.
    """

    _esm = script("upload.js")
    label = traitlets.Unicode().tag(sync=True)
    hint = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        folder: Callable[[], str],
        limit: Callable[[], int],
        told: Callable[[str, int, int], object],
        done: Callable[[Path], object],
        **texts: str,
    ) -> None:
        super().__init__(**texts)
        self._folder = folder
        self._limit = limit
        self._told = told
        self._done = done
        self._incoming: dict[str, Incoming] = {}

    def take(self, content: Any, buffers: Any) -> None:
        """Take what the browser sends: the announcement of a file, or its next piece.

        Raises
        ------
        SourceError
            When a file is too large, or not what was announced.
        """
        if not isinstance(content, dict) or not isinstance(content.get("file"), str):
            return
        key = content["file"]
        try:
            self._take(key, content, buffers)
        except BaseException:
            incoming = self._incoming.pop(key, None)
            if incoming is not None:
                incoming.give_up()
            self.send({"file": key, "stop": True})
            raise

    def _take(self, key: str, content: dict[str, Any], buffers: Any) -> None:
        if "name" in content:
            name, size = str(content["name"]), int(content["size"])
            if size > self._limit():
                raise SourceTooLargeError(
                    f"{safe_name(name)} has {size_text(size)}, more than the {size_text(self._limit())} that are "
                    "ingested; set ORACULO_MAX_FILE_MB higher"
                )
            self._incoming[key] = Incoming(self._folder(), name, size)
        incoming = self._incoming.get(key)
        if incoming is None:
            return  # it was given up meanwhile
        if buffers:
            incoming.write(memoryview(buffers[0]).cast("B"))
        self._told(incoming.name, incoming.received, incoming.size)
        if incoming.received < incoming.size and not content.get("end"):
            self.send({"file": key, "from": incoming.received, "to": incoming.received + _PIECE})
            return
        del self._incoming[key]
        try:
            place = incoming.finish()
        finally:
            incoming.give_up()
        self.send({"file": key, "stop": True})
        self._done(place)

    def close(self) -> None:
        """Take it off the screen, and remove what had not come whole."""
        for incoming in self._incoming.values():
            incoming.give_up()
        self._incoming.clear()
        super().close()
