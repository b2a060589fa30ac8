"""Zip containers, which most office formats are: opened with limits, read by member."""

from __future__ import annotations

import io
import zipfile
import zlib

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.ole import OLE_MAGIC

MAX_EXPANDED_BYTES = 1 << 30
"""A container that says it expands to more than 1 GiB is refused. The readers stop at the size that a member
declares, so a false declaration expands no further."""


def open_archive(data: bytes) -> zipfile.ZipFile:
    """Open a zip container held in memory.

    Raises
    ------
    ExtractionError
        If it is no zip file, encrypted, or expands too far.
    """
    if data.startswith(OLE_MAGIC):
        raise ExtractionError(
            "encrypted with a password, or an old binary Office file under a new name; "
            "save it again in the current format without a password"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as exc:
        raise ExtractionError(f"corrupt or cut off: {exc}") from exc
    expanded = sum(member.file_size for member in archive.infolist())
    if expanded > MAX_EXPANDED_BYTES:
        raise ExtractionError(
            f"expands from {len(data):,} to {expanded:,} bytes; containers over {MAX_EXPANDED_BYTES:,} are refused"
        )
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member's bytes.

    Raises
    ------
    ExtractionError
        If it is missing or damaged.
    """
    try:
        return archive.read(name)
    except KeyError as exc:
        raise ExtractionError(f"not the document that its name says: {name} is missing in it") from exc
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as exc:
        raise ExtractionError(f"corrupt or encrypted: {name} cannot be unpacked: {exc}") from exc
