"""Files in object stores and on servers, through fsspec: ``s3://``, ``gs://``, ``az://``, ``sftp://``, ``ftp://``.

Who may read comes from where the library behind a scheme looks for it (``AWS_*`` variables, ``~/.ssh``, fsspec's own
configuration), in the workers too. A folder is listed with all it holds, hidden names passed over. Archives there are
not gone into, and ``.oraculoignore`` does not count.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from oraculo_kit.discovery import is_passed_over, matches_glob
from oraculo_kit.environment.record import redact, remember_secrets
from oraculo_kit.errors import SourceError, SourceNotFoundError, SourceUnreadableError, UnsupportedFormatError
from oraculo_kit.formats import extension_of, is_supported
from oraculo_kit.inputs.base import as_time, iso_time, too_large, with_facts
from oraculo_kit.storage.records import clean_text

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from oraculo_kit.inputs.base import Extract

REMOTE_SCHEMES: Mapping[str, str] = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "ftp": "fsspec",
    "memory": "fsspec",
}
"""What may be named, and the package that fsspec needs for it."""

# Not "created": content may change after it.
_TIMES = ("mtime", "LastModified", "last_modified", "updated")
_TAGS = ("ETag", "etag", "md5Hash", "content_settings")
# Stand-ins for a time are later than any real one is early: a year after 1970 there was nothing to ingest.
_TAG_BITS = 55


@dataclass(frozen=True)
class RemoteSource:
    """A file that fsspec reads.

    Attributes
    ----------
    url : str
        As fsspec takes it; may hold credentials, so it is never shown.
    key : str
        The URL without them.
    size : int
    mtime_ns : int or None
        The time that the store tells, or a number that stands for its tag of the content.
    modified : str or None
    error : SourceError or None
    """

    url: str = field(repr=False)
    key: str
    size: int = 0
    mtime_ns: int | None = None
    modified: str | None = None
    error: SourceError | None = None

    def content(self, max_bytes: int) -> bytes:
        """Read the file."""
        if self.size > max_bytes:
            raise too_large(self.key, self.size, max_bytes)
        with _explained(self.key):
            files, path = _opened(self.url)
            with files.open(path, "rb") as file:
                data: bytes = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise too_large(self.key, None, max_bytes)
        return data

    def documents(self, content: bytes, extract: Extract) -> list[Document]:
        """Extract the text."""
        documents = extract(content, posixpath.basename(self.key))
        return with_facts(documents, bytes=len(content), modified=self.modified)


def remote_sources(url: str, glob: str | None) -> Iterator[RemoteSource]:
    """List a file, or a folder with all it holds, in the order of their names; a fault is a source with an error.

    Parameters
    ----------
    url : str
        With a scheme of `REMOTE_SCHEMES`.
    glob : str or None
        As for files of this machine.
    """
    try:
        with _explained(remote_key(url)):
            files, root = _opened(url)
            listed = _listed(files, root)
    except SourceError as exc:
        yield RemoteSource(url, remote_key(url), error=exc)
        return
    root = root.rstrip("/")
    for path, info in sorted(listed.items()):
        below = path[len(root) :].lstrip("/")
        if below:
            if any(is_passed_over(name) for name in below.split("/")) or not matches_glob(glob, below):
                continue
            if not info.get("size") and path.endswith("/"):
                continue  # what some programs make of a folder
        address = f"{url.rstrip('/')}/{below}" if below else url
        mtime_ns, modified = _stamp(info)
        key = remote_key(address)
        yield RemoteSource(address, key, int(info.get("size") or 0), mtime_ns, modified, _name_error(key))


def remote_key(url: str) -> str:
    """Return a URL without user and password, as it is stored.

    Examples
    --------
    >>> remote_key("sftp://ana:s3nha@host/docs/a.pdf")
    'sftp://host/docs/a.pdf'
    """
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    userinfo, _, host = place.rpartition("@")
    # abfs://container@account.dfs.core.windows.net: what stands before the @ is no user.
    if userinfo and not scheme.startswith("abfs"):
        remember_secrets([unquote(userinfo.partition(":")[2])])
        place = host
    return clean_text(f"{scheme.lower()}://{place}{slash}{path}")


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system for a URL, and its path there."""
    scheme = url.partition("://")[0].lower()
    if "::" in url:
        raise SourceError(
            f"{remote_key(url)}: chained URLs of fsspec are not read; give the one URL of the files"
        )
    try:
        import fsspec
    except ImportError as exc:
        raise SourceError(
            f"{scheme}:// URLs are read through fsspec: pip install 'oraculo_kit[remote]' {REMOTE_SCHEMES[scheme]}"
        ) from exc
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as exc:
        raise SourceError(
            f"{scheme}:// URLs need one more package: pip install {REMOTE_SCHEMES[scheme]}"
        ) from exc
    return files, path


def _listed(files: Any, root: str) -> dict[str, Mapping[str, Any]]:
    info = files.info(root)
    if info["type"] == "file":
        return {info["name"]: info}
    # Not what an earlier listing left behind: files come and go.
    files.invalidate_cache()
    found: dict[str, Mapping[str, Any]] = files.find(root, detail=True)
    return found


def _stamp(info: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Return what stands for a file's version, and its time of modification as documents carry it."""
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, int | float) and value > 0:
            mtime_ns = as_time(int(value * 1e6) * 1000)
            return mtime_ns, iso_time(mtime_ns)
    for name in _TAGS:
        if tag := info.get(name):
            digest = hashlib.blake2b(str(tag).encode("utf-8", "replace"), digest_size=8).digest()
            return int.from_bytes(digest, "big") >> (64 - _TAG_BITS), None
    return None, None


def _name_error(key: str) -> SourceError | None:
    if is_supported(key):
        return None
    extension = extension_of(key)
    named = f"the extension {extension!r} is not read here" if extension else "the name has no extension"
    return UnsupportedFormatError(f"{key}: {named}; convert the file, or teach it with register_loader()")


@contextlib.contextmanager
def _explained(key: str) -> Iterator[None]:
    """Turn whatever fsspec and the libraries behind it raise into errors of ours, without secrets."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError as exc:
        raise SourceNotFoundError(f"{key}: no such file or folder; check the URL") from exc
    except PermissionError as exc:
        raise SourceUnreadableError(f"{key}: permission denied; check the credentials") from exc
    except Exception as exc:
        raise SourceUnreadableError(
            redact(f"{key}: cannot be read: {type(exc).__name__}: {str(exc)[:200]}")
        ) from exc
