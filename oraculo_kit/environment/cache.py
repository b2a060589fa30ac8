"""The last good values of remote sources, so that a notebook starts offline (``ORACULO_ENV_CACHE=1``).

The file ``<project root>/.oraculo/environment.json`` holds secrets, hence:

* it is written only when the user asks for it, only with names that passed the allow-list, and only after
  every source was read and checked;
* it is created with mode 0600 and put in place by an atomic rename: nobody can read it in between, and a
  reader sees the old or the new version;
* it is refused when it is not a regular file, belongs to another user, or others may read or write it.
  Windows has no such modes: there the folder's own permissions protect it;
* what is read from it passes the same checks as an answer of the source.

Each source has its own entry, found by a digest of the source's whole text and of the allow-list: a changed
query string or list is another entry. Entries of sources that are no longer configured go with the next
write. Two processes that write at once are both right; the last one stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from oraculo_kit.environment.names import policy_digest
from oraculo_kit.environment.sources import Source
from oraculo_kit.errors import EnvironmentSourceError

_VERSION = 1
_MAX_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class CacheEntry:
    """What one source answered last: checked values, names that were left out, ETag, and when (UTC)."""

    values: Mapping[str, str] = field(repr=False)
    refused: Mapping[str, str]
    etag: str
    fetched: datetime

    @property
    def age(self) -> str:
        """When the values were fetched, for a warning: ``"2026-11-20 14:03 UTC, 2 days ago"``."""
        passed = max(0, int((datetime.now(UTC) - self.fetched).total_seconds()))
        ago = next(
            f"{passed // size} {unit}{'s' * (passed // size != 1)} ago"
            for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
            if passed >= size or size == 1
        )
        return f"{self.fetched:%Y-%m-%d %H:%M} UTC, {ago}"


def cache_path(root: str) -> str:
    """Return the path of the project's cache file."""
    return os.path.join(root, ".oraculo", "environment.json")


def cache_key(source: Source, listed: frozenset[str]) -> str:
    """Return the entry's name: the source's label to be read, and a digest to tell entries apart."""
    digest = hashlib.sha256(f"{source.target}\n{policy_digest(listed)}".encode()).hexdigest()[:16]
    return f"{source.label} {digest}"


def read_cache(root: str) -> dict[str, CacheEntry]:
    """Return the entries of the cache file; none when there is no file.

    Raises
    ------
    EnvironmentSourceError
        When the file must not be trusted or cannot be read; the message says why and what to do.
    """
    path = cache_path(root)
    try:
        content = _read_private(path)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise _refused(path, exc.strerror or type(exc).__name__) from exc
    entries = _parse(content)
    if entries is None:
        raise _refused(path, "it is not a cache that this version wrote")
    return entries


def write_cache(root: str, entries: Mapping[str, CacheEntry]) -> None:
    """Replace the cache file by these entries.

    Raises
    ------
    OSError
        When it cannot be written; the old file then is untouched.
    """
    path = cache_path(root)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    document = {
        "version": _VERSION,
        "sources": {
            key: {
                "values": dict(entry.values),
                "refused": dict(entry.refused),
                "etag": entry.etag,
                "fetched": entry.fetched.isoformat(timespec="seconds"),
            }
            for key, entry in sorted(entries.items())
        },
    }
    temporary = f"{path}.{secrets.token_hex(8)}"
    try:
        # O_EXCL: the mode holds only for a file that this call creates.
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            json.dump(document, file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _read_private(path: str) -> bytes:
    # A symbolic link could lead to a file that its owner never meant for us; a FIFO would block the open.
    flags = (
        os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "it is not a regular file")
        if os.name == "posix" and status.st_uid != os.geteuid():
            raise _refused(path, "it belongs to another user")
        if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
            raise _refused(
                path, f"others may use it (mode {stat.S_IMODE(status.st_mode):04o}, expected 0600)"
            )
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise _refused(path, "it is larger than 8 MiB")
    return content


def _parse(content: bytes) -> dict[str, CacheEntry] | None:
    try:
        document = json.loads(content)
        if document["version"] != _VERSION:
            return None
        return {
            str(key): CacheEntry(
                values={str(name): str(value) for name, value in entry["values"].items()},
                refused={str(name): str(reason) for name, reason in entry["refused"].items()},
                etag=str(entry["etag"]),
                fetched=datetime.fromisoformat(entry["fetched"]).astimezone(UTC),
            )
            for key, entry in document["sources"].items()
        }
    # Whatever is wrong with the text, the answer is the same: it was not written here.
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _refused(path: str, reason: str) -> EnvironmentSourceError:
    return EnvironmentSourceError(
        f"the cache of environment values {path} is not used: {reason}. Delete it; "
        "the next start with the source in reach writes a new one."
    )
