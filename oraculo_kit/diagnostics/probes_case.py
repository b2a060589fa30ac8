"""What the probes of ``doctor`` look at, and how they answer."""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from oraculo_kit.environment import EnvironmentPlan, environ_origin, redact
from oraculo_kit.environment.names import ALLOW_VARIABLE, RECORD_VARIABLE
from oraculo_kit.environment.options import CACHE_VARIABLE, SOURCE_VARIABLE, TIMEOUT_VARIABLE
from oraculo_kit.environment.record import HEADERS_VARIABLE, TOKEN_VARIABLE
from oraculo_kit.errors import SettingsError
from oraculo_kit.services import ServicesState
from oraculo_kit.settings import Settings, find_project_root, is_url, setting_variables

_PREFIX = "ORACULO_"

Outcome = Literal["ok", "warning", "problem"]


class Answer(NamedTuple):
    """What a probe found: how it stands, what it saw, and what to do."""

    outcome: Outcome
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Finding:
    """The answer of one probe, ready to be shown.

    Attributes
    ----------
    probe : str
        Its name in `PROBES`; the same in every language.
    name : str
        What it looked at, for people.
    outcome : {"ok", "warning", "problem"}
    text : str
        What it saw.
    fix : str
        What to do; empty when there is nothing to do.
    seconds : float
    """

    probe: str
    name: str
    outcome: Outcome
    text: str
    fix: str = ""
    seconds: float = 0.0


class Case:
    """What the probes examine; the first ones learn what the later ones need.

    Attributes
    ----------
    look : ServicesState
    root : str
        Project root.
    environ : dict
        The process's environment and, once it was fetched, what ``.env`` and sources would add.
    plan : EnvironmentPlan or None
        What was fetched.
    settings : Settings
        Those of the ready services, otherwise what the environment gives, without its malformed values.
    """

    def __init__(self, look: ServicesState, translate: Callable[[str], str]) -> None:
        self.look = look
        self.translate = translate
        ready = look.services
        self.root = ready.settings.project_root if ready is not None else str(find_project_root())
        self.environ = dict(os.environ)
        self.plan: EnvironmentPlan | None = None
        self.settings = ready.settings if ready is not None else self.resolved()[0]

    def resolved(self) -> tuple[Settings, list[str]]:
        """Resolve the settings from `environ`, as `usable_settings` does."""
        planned = self.plan.origins if self.plan is not None else {}
        return usable_settings(
            self.root, self.environ, lambda name: planned.get(name) or environ_origin(name)
        )

    @property
    def folder(self) -> Path | None:
        """The store's folder, or the nearest one above it that exists; None when the store is a URL."""
        if is_url(self.settings.store):
            return None
        path = Path(self.settings.store)
        return next((place for place in (path, *path.parents) if place.exists()), Path(path.anchor))


def usable_settings(
    root: str, environ: Mapping[str, str], origin_of: Callable[[str], str | None]
) -> tuple[Settings, list[str]]:
    """Resolve the settings without the values that are wrong, and say what is wrong with each.

    `Settings.resolve` stops at the first; a person wants to correct all of them at once.

    Parameters
    ----------
    root : str
        Project root.
    environ, origin_of
        As for `Settings.resolve`.

    Examples
    --------
    >>> environ = {"ORACULO_CHUNK_SIZE": "abc", "ORACULO_LANG": "xx", "ORACULO_LOG_LEVEL": "DEBUG"}
    >>> settings, faults = usable_settings("/project", environ, lambda name: None)
    >>> settings.chunk_size, settings.log_level, len(faults)
    (1000, 'DEBUG', 2)
    """

    def resolve(variables: Mapping[str, str]) -> Settings:
        return Settings.resolve(project_root=root, environ=variables, origin_of=origin_of)

    faults = []
    usable = dict(environ)
    for variable, _accepts, _meaning in setting_variables().values():
        if variable not in usable:
            continue
        try:
            # Beside the widest size and overlap: whether those two go together is asked below.
            resolve(
                {"ORACULO_CHUNK_SIZE": "100000", "ORACULO_CHUNK_OVERLAP": "0", variable: usable[variable]}
            )
        except SettingsError as exc:
            faults.append(error_text(exc))
            del usable[variable]
    try:
        return resolve(usable), faults
    except SettingsError as exc:
        faults.append(error_text(exc))
        for variable in ("ORACULO_CHUNK_SIZE", "ORACULO_CHUNK_OVERLAP"):
            usable.pop(variable, None)
        return resolve(usable), faults


_OTHER_VARIABLES = (
    ALLOW_VARIABLE,
    RECORD_VARIABLE,
    SOURCE_VARIABLE,
    TIMEOUT_VARIABLE,
    CACHE_VARIABLE,
    TOKEN_VARIABLE,
    HEADERS_VARIABLE,
    "ORACULO_NO_AUTOLOAD",
)
"""Names that are no settings: where the environment comes from, and whether a kernel starts the services."""


def unknown_variables(environ: Iterable[str]) -> dict[str, str]:
    """Return the names that look like ours and that nothing reads, each with the nearest one that is, or "".

    Parameters
    ----------
    environ : iterable of str
        Names of environment variables.

    Examples
    --------
    >>> unknown_variables(["ORACULO_CHUNKSIZE", "ORACULO_LANG", "ORACULO_XYZ", "ORACULO_ENV_TOKEN", "PATH"])
    {'ORACULO_CHUNKSIZE': 'ORACULO_CHUNK_SIZE', 'ORACULO_XYZ': ''}
    """
    known = {variable for variable, _accepts, _meaning in setting_variables().values()} | {*_OTHER_VARIABLES}
    endings = {name.removeprefix(_PREFIX): name for name in known}
    unknown = sorted(name for name in environ if name.upper().startswith(_PREFIX) and name not in known)
    found = {}
    for name in unknown:
        # Without what all of them begin with, which would make any two of them alike.
        near = difflib.get_close_matches(name.upper().removeprefix(_PREFIX), endings, 1)
        found[name] = endings[near[0]] if near else ""
    return found


def named_unknown(unknown: Mapping[str, str]) -> str:
    """Return what `unknown_variables` found as one text.

    Examples
    --------
    >>> named_unknown({"ORACULO_STOREE": "ORACULO_STORE", "ORACULO_XYZ": ""})
    'ORACULO_STOREE (ORACULO_STORE?), ORACULO_XYZ'
    """
    return ", ".join(f"{name} ({near}?)" if near else name for name, near in unknown.items())


def error_text(error: BaseException) -> str:
    """Return an exception on one line, without secrets; survives exceptions whose own text raises.

    Examples
    --------
    >>> error_text(ValueError("cannot read https://ana:s3nha@host/"))
    'ValueError: cannot read https://***@host/'
    """
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    return redact(text.removeprefix(f"{type(error).__module__}."))


def masked_location(location: str) -> str:
    """Return a store's path or URL without its password.

    Examples
    --------
    >>> masked_location("postgresql://ana:s3nha@host/base"), masked_location("/data/base")
    ('postgresql://ana:***@host/base', '/data/base')
    """
    scheme, separator, rest = location.partition("://")
    if not is_url(location) or not separator:
        return redact(location)
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    user, colon, _password = userinfo.partition(":")
    # Without a colon it may be a token; and a query may hold anything.
    shown = (user if colon else "***") + ":***" * bool(colon) + at if at else ""
    path, question, _query = path.partition("?")
    return f"{scheme}://{shown}{redact(host)}{slash}{redact(path)}{question}{'***' * bool(question)}"
