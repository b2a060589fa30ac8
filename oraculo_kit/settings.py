"""One frozen object says how this process is configured, and where each value came from.

Precedence, strongest first::

    argument > environment variable > .env > remote environment > default

``.env`` and remote values reach this module through ``os.environ``: `oraculo_kit.environment` puts them there
and records that it did, so that they keep their rank and their origin in ``status``, in child processes too.

`Settings` is frozen, hashable and picklable because loky reuses its workers only while the initializer's
arguments compare equal, and because a pickled task carries it. It holds no secret: keys of model providers
stay in ``os.environ``.

**One base per project, wherever you stand.** The project root is the nearest folder, upwards from the working
folder, that holds ``.oraculo/``, ``.env`` or ``pyproject.toml``; without one it is the working folder. The
default store is ``<root>/.oraculo/store``, as an absolute path, so a notebook in ``notebooks/`` and the command
line at the root mean the same store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from oraculo_kit.errors import SettingsError

DEFAULT_EMBEDDER = "wordllama"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DURABILITIES = ("power", "process")
SPLITTERS = ("recursive", "sentence", "token")
PROJECT_MARKERS = (".oraculo", ".env", "pyproject.toml")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def find_project_root(start: str | os.PathLike[str] | None = None) -> Path:
    """Return the project folder that `start` belongs to.

    Parameters
    ----------
    start : path, optional
        Folder to look upwards from; the working folder by default.

    Returns
    -------
    pathlib.Path
        The nearest folder with ``.oraculo/``, ``.env`` or ``pyproject.toml``, else `start` itself. Absolute.
    """
    folder = Path(os.path.abspath(start if start is not None else os.getcwd()))
    for candidate in (folder, *folder.parents):
        # os.path: Path.exists raises where an ancestor may not be looked into.
        if any(os.path.exists(candidate / marker) for marker in PROJECT_MARKERS):
            return candidate
    return folder


def is_url(location: str) -> bool:
    r"""Tell a store URL (``postgresql://...``, ``langchain:...``) from a path; ``C:\base`` is a path.

    Examples
    --------
    >>> is_url("postgresql://host/base"), is_url("C:/base"), is_url("data/base")
    (True, False, False)
    """
    return _URL.match(location) is not None


def absolute_location(location: str | os.PathLike[str]) -> str:
    """Return the location of a store that a user named in the working folder: an absolute path, or a URL as it is.

    Raises
    ------
    SettingsError
        When it is no path, or blank, as an unset variable of a shell is; that must not mean the working folder.
    """
    if not isinstance(location, str | os.PathLike):
        raise SettingsError(f"the store is {type(location).__name__}, expected a path or URL")
    text = os.fspath(location)
    if not text.strip():
        raise SettingsError(f"the store is {text!r}, expected a path or URL")
    if is_url(text):
        return _with_catalog(text, str(find_project_root()), os.getcwd())
    return os.path.abspath(os.path.expanduser(text))


def _integer(minimum: int, maximum: int) -> tuple[Callable[[str], int], str]:
    def parse(text: str) -> int:
        value = int(text)
        if not minimum <= value <= maximum:
            raise ValueError
        return value

    return parse, f"a whole number from {minimum} to {maximum}"


def _number(minimum: float, maximum: float) -> tuple[Callable[[str], float], str]:
    def parse(text: str) -> float:
        value = float(text)
        if not minimum <= value <= maximum:  # also refuses NaN
            raise ValueError
        return value

    return parse, f"a number from {minimum:g} to {maximum:g}"


def _choice(*accepted: str) -> tuple[Callable[[str], str], str]:
    folded = {name.casefold(): name for name in accepted}

    def parse(text: str) -> str:
        return folded[text.casefold()]

    return parse, "one of " + ", ".join(accepted)


_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def _flag() -> tuple[Callable[[str], bool], str]:
    values = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)

    def parse(text: str) -> bool:
        return values[text.casefold()]

    return parse, "true or false"


def _language(text: str) -> str:
    from oraculo_kit.messages import supported_language

    language = supported_language(text)
    if language is None:
        raise ValueError
    return language


def _setting(variable: str, default: Any, parser: tuple[Callable[[str], Any], str], meaning: str) -> Any:
    parse, accepts = parser
    return field(
        default=default,
        metadata={"variable": variable, "parse": parse, "accepts": accepts, "meaning": meaning},
    )


_TEXT = (str, "a text")


@dataclass(frozen=True)
class Settings:
    """The resolved configuration of a process; make one with `Settings.resolve`.

    Two settings are equal when their values are: where a value came from (`origins`) does not count, so that a
    worker that got everything as an argument equals the kernel that read it from the environment.
    """

    project_root: str
    store: str = _setting("ORACULO_STORE", "", _TEXT, "path or URL of the store")
    embedder: Any = _setting(  # noqa: RUF009 - makes a field
        "ORACULO_EMBEDDER", DEFAULT_EMBEDDER, _TEXT, 'embedder: "wordllama" or LangChain\'s "provider:model"'
    )
    embed_requests: int = _setting(
        "ORACULO_EMBED_REQUESTS",
        4,
        _integer(1, 256),
        "requests to a remote embedding model at a time, per process",
    )
    embed_rate: float = _setting(
        "ORACULO_EMBED_RATE",
        0.0,
        _number(0, 1_000_000),
        "requests to a remote embedding model per minute, by all processes; 0 for no limit",
    )
    embedding_cache_mb: float = _setting(
        "ORACULO_EMBEDDING_CACHE_MB",
        512.0,
        _number(0, 1_000_000),
        "largest cache of vectors, in MiB; 0 for none",
    )
    chat_model: str = _setting(
        "ORACULO_CHAT_MODEL",
        "",
        _TEXT,
        'chat model of ask(): LangChain\'s "provider:model"; without one it gives extracts',
    )
    splitter: str = _setting(
        "ORACULO_SPLITTER", "recursive", _choice(*SPLITTERS), "how texts are cut into chunks"
    )
    chunk_size: int = _setting(
        "ORACULO_CHUNK_SIZE",
        1000,
        _integer(50, 100_000),
        'longest chunk, in characters; in tokens with the splitter "token"',
    )
    chunk_overlap: int = _setting(
        "ORACULO_CHUNK_OVERLAP",
        200,
        _integer(0, 99_999),
        "characters shared by neighbouring chunks, at most; or tokens",
    )
    max_file_mb: float = _setting(
        "ORACULO_MAX_FILE_MB", 100.0, _number(0.001, 100_000), "largest document that is read, in MiB"
    )
    fix_text: bool = _setting(
        "ORACULO_FIX_TEXT", False, _flag(), "repair text that was once decoded with the wrong encoding"
    )
    extract_seconds: float = _setting(
        "ORACULO_EXTRACT_SECONDS",
        120.0,
        _number(0.1, 86_400),
        "longest time to read one document, in seconds",
    )
    extract_memory_mb: int = _setting(
        "ORACULO_EXTRACT_MEMORY_MB",
        2048,
        _integer(128, 1_000_000),
        "most memory to read one document with, in MiB",
    )
    url_allow: str = _setting(
        "ORACULO_URL_ALLOW",
        "",
        _TEXT,
        "hosts and networks that documents may be fetched from, besides public ones",
    )
    url_timeout: float = _setting(
        "ORACULO_URL_TIMEOUT", 60.0, _number(0.1, 3600), "longest time to fetch one document, in seconds"
    )
    durability: str = _setting(
        "ORACULO_DURABILITY", "power", _choice(*DURABILITIES), "what an acknowledged write survives"
    )
    lock_timeout: float = _setting(
        "ORACULO_LOCK_TIMEOUT",
        60.0,
        _number(0.1, 86_400),
        "longest wait for the store's writer lock, in seconds",
    )
    worker_threads: int = _setting(
        "ORACULO_WORKER_THREADS",
        0,
        _integer(0, 1024),
        "threads of each worker process; 0 shares the cores out",
    )
    lang: str = _setting("ORACULO_LANG", "en", (_language, "one of en, pt_BR"), "language of messages")
    log_level: str = _setting("ORACULO_LOG_LEVEL", "INFO", _choice(*LOG_LEVELS), "least level that is logged")
    environ_names: tuple[str, ...] = field(default=(), compare=False)
    origins: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        from oraculo_kit.environment import redact

        shown = [f"{name}={getattr(self, name)!r}" for name in ("project_root", *_specs())]
        return redact(f"Settings({', '.join(shown)})")  # the URL of a store may hold a password

    def __post_init__(self) -> None:
        if self.chunk_overlap >= self.chunk_size:
            raise SettingsError(
                f"ORACULO_CHUNK_OVERLAP is {self.chunk_overlap} and ORACULO_CHUNK_SIZE is {self.chunk_size}: "
                "the overlap must be smaller than the size. Lower the overlap or raise the size."
            )

    @classmethod
    def resolve(
        cls,
        *,
        project_root: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
        origin_of: Callable[[str], str | None] | None = None,
        environ_names: tuple[str, ...] = (),
        **arguments: Any,
    ) -> Settings:
        """Resolve the settings of this process from arguments, environment and defaults.

        Parameters
        ----------
        project_root : path, optional
            The project folder; found from the working folder by default.
        environ : mapping, optional
            The environment; ``os.environ`` by default.
        origin_of : callable, optional
            Tells who set an environment variable: ``"environment"``, ``"dotenv"`` or ``"remote"``.
        environ_names : tuple of str, optional
            Names that the start-up itself put into the environment; a worker that lacks one fetches them.
        **arguments
            Values for any field; None means "not given".

        Returns
        -------
        Settings

        Raises
        ------
        SettingsError
            When a value is blank, malformed or unknown; the message names the variable, what was got and
            what is accepted.

        Examples
        --------
        >>> Settings.resolve(environ={"ORACULO_CHUNK_SIZE": "500"}).chunk_size
        500
        >>> Settings.resolve(environ={"ORACULO_CHUNK_SIZE": "abc"})
        Traceback (most recent call last):
        ...
        oraculo_kit.errors.SettingsError: ORACULO_CHUNK_SIZE is 'abc', expected a whole number from 50 to 100000. ...
        """
        environ = os.environ if environ is None else environ
        root = str(find_project_root() if project_root is None else os.path.abspath(project_root))
        values = _checked_arguments(arguments)
        origins = dict.fromkeys(values, "argument")
        for name, spec in _specs().items():
            variable = spec.metadata["variable"]
            if name in values:
                continue
            if variable in environ:
                values[name] = _checked(spec.metadata, variable, environ[variable])
                origins[name] = (origin_of(variable) if origin_of is not None else None) or "environment"
            else:
                values[name] = spec.default
                origins[name] = "default"
        if origins["lang"] == "default":
            from oraculo_kit.messages import locale_language

            values["lang"] = locale_language(environ)
        values["store"] = _absolute_store(values["store"], root)
        return cls(
            project_root=root, environ_names=environ_names, origins=tuple(sorted(origins.items())), **values
        )

    def with_values(self, **arguments: Any) -> Settings:
        """Return a copy with some values replaced and checked as arguments are.

        Raises
        ------
        SettingsError
            As `resolve`.

        Examples
        --------
        >>> Settings.resolve(environ={}).with_values(chunk_size=300, chunk_overlap=30).chunk_size
        300
        """
        changed = _checked_arguments(arguments)
        if "store" in changed:
            changed["store"] = _absolute_store(changed["store"], self.project_root)
        origins = {**dict(self.origins), **dict.fromkeys(changed, "argument")}
        return replace(self, **changed, origins=tuple(sorted(origins.items())))

    def origin(self, name: str) -> str:
        """Return where a value came from: argument, environment, dotenv, remote or default."""
        return dict(self.origins).get(name, "argument")

    @property
    def max_file_bytes(self) -> int:
        """The largest document that is read, in bytes."""
        return int(self.max_file_mb * 1024 * 1024)

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that are equal exactly when the settings are; shown by ``status`` and workers."""
        import hashlib

        shown = [f"{spec.name}={getattr(self, spec.name)!r}" for spec in fields(self) if spec.compare]
        return hashlib.sha256("\n".join(shown).encode()).hexdigest()[:12]


def _specs() -> dict[str, Field[Any]]:
    return {spec.name: spec for spec in fields(Settings) if spec.metadata}


def setting_variables() -> dict[str, tuple[str, str, str]]:
    """Return, for each setting, its environment variable, what it accepts and what it means."""
    return {
        name: (spec.metadata["variable"], spec.metadata["accepts"], spec.metadata["meaning"])
        for name, spec in _specs().items()
    }


def _checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    specs = _specs()
    unknown = sorted(set(arguments) - set(specs))
    if unknown:
        raise SettingsError(
            f"unknown setting {', '.join(map(repr, unknown))}, expected one of {', '.join(specs)}."
        )
    return {
        name: _checked(specs[name].metadata, f"{name} (argument)", value)
        for name, value in arguments.items()
        if value is not None
    }


def _checked(metadata: Mapping[str, Any], name: str, value: Any) -> Any:
    if metadata["variable"] == "ORACULO_EMBEDDER" and not isinstance(value, str):
        from oraculo_kit.embed import EmbedderObject

        return EmbedderObject.wrap(value)
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if not text.strip():
        raise SettingsError(
            f"{name} is blank, expected {metadata['accepts']} ({metadata['meaning']}). "
            "Give it a value, or remove it to use the default."
        )
    try:
        return metadata["parse"](text.strip())
    except (ValueError, KeyError):
        raise SettingsError(
            f"{name} is {text!r}, expected {metadata['accepts']}. "
            f"It means: {metadata['meaning']}. Correct it, or remove it to use the default."
        ) from None


def _absolute_store(store: str, root: str) -> str:
    if not store:
        return os.path.join(root, ".oraculo", "store")
    if is_url(store):
        return _with_catalog(store, root, root)
    return os.path.normpath(os.path.join(root, os.path.expanduser(store)))


def _with_catalog(store: str, root: str, folder: str) -> str:
    """Complete ``langchain:package.module:factory`` by the absolute folder of its catalog; other URLs stay.

    Examples
    --------
    >>> _with_catalog("langchain:base.engines:qdrant", "/project", "/project").replace(os.sep, "/")
    'langchain:base.engines:qdrant?catalog=/project/.oraculo/engines/base.engines.qdrant'
    """
    name, _, query = store.partition("?")
    scheme, _, engine = name.partition(":")
    if scheme.lower() != "langchain":
        return store
    from urllib.parse import quote, unquote

    if query and not query.startswith("catalog="):
        return store  # the store refuses it when it is opened
    given = unquote(query.removeprefix("catalog="))
    default = os.path.join(root, ".oraculo", "engines", engine.replace(":", "."))
    catalog = os.path.normpath(os.path.join(folder, os.path.expanduser(given))) if given else default
    return f"{name}?catalog={quote(catalog, safe=chr(92) + '/:')}"
