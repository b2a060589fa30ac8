"""The URL of a store in PostgreSQL: read once, checked, and shown without its password.

::

    postgresql://user:password@host:5432/database?schema=name&sslmode=require

As libpq reads it, as far as it goes: ``postgres://`` too, percent signs, a folder of a Unix socket as ``host``, and
``PGUSER``, ``PGPASSWORD``, ``PGHOST``, ``PGPORT`` and ``PGDATABASE`` for what the URL leaves out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from oraculo_kit.errors import SettingsError

DEFAULT_SCHEMA = "oraculo"
SSL_MODES = ("disable", "prefer", "require", "verify-full")
_PARAMETERS = ("host", "schema", "sslmode", "sslrootcert")
_SCHEMES = ("postgresql", "postgres")
_LONGEST_NAME = 63  # bytes; PostgreSQL cuts longer names off


def is_postgres(location: str) -> bool:
    """Tell whether a location is a URL of PostgreSQL.

    Examples
    --------
    >>> is_postgres("postgresql://host/base"), is_postgres("/data/base")
    (True, False)
    """
    return location.partition(":")[0].lower() in _SCHEMES


@dataclass(frozen=True)
class PostgresLocation:
    """Where a store is, and who asks; made by `parse_location`.

    Attributes
    ----------
    host : str
        A name, an address, or the folder of a Unix socket.
    port : int
    database, schema, user : str
    password : str or None
        Never shown: not by ``repr``, nor by `shown`.
    sslmode : {"disable", "prefer", "require", "verify-full"}
        As libpq has it: "prefer" encrypts where the server can, and only "verify-full" makes sure who it is.
    sslrootcert : str or None
        File of the authority that signed the server's certificate.
    """

    host: str
    port: int
    database: str
    schema: str
    user: str
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"
    sslrootcert: str | None = None

    @property
    def shown(self) -> str:
        """The URL without its password: what errors, reports and results name.

        Examples
        --------
        >>> parse_location("postgresql://ana:s3nha@host/base", {}).shown
        'postgresql://ana@host:5432/base?schema=oraculo'
        """
        user = f"{quote(self.user, safe='')}@"
        schema = f"schema={quote(self.schema, safe='')}"
        database = quote(self.database, safe="")
        if self.socket is not None:
            return f"postgresql://{user}/{database}?host={quote(self.host)}&{schema}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{user}{host}:{self.port}/{database}?{schema}"

    @property
    def socket(self) -> str | None:
        """The path of the Unix socket; None for a network address."""
        return os.path.join(self.host, f".s.PGSQL.{self.port}") if self.host.startswith("/") else None


def parse_location(location: str, environ: Mapping[str, str] | None = None) -> PostgresLocation:
    """Read the URL of a store.

    Parameters
    ----------
    location : str
    environ : mapping, optional
        ``os.environ`` by default.

    Raises
    ------
    SettingsError
        For a URL that cannot be understood; the message never holds the password.

    Examples
    --------
    >>> parse_location("postgresql://ana:s3nha@host/base?schema=rh", {})
    PostgresLocation(host='host', port=5432, database='base', schema='rh', user='ana', sslmode='prefer', ...)
    """
    environ = os.environ if environ is None else environ
    expected = "expected postgresql://user:password@host:5432/database?schema=name (ORACULO_STORE)"
    try:
        parts = urlsplit(location)
        port = parts.port or int(environ.get("PGPORT") or 5432)
        asked = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        # What urlsplit says may hold a part of the URL, and so of the password.
        raise SettingsError(
            f"the URL of the store cannot be understood, {expected}; write special characters of user and password in "
            "percent form, such as %40 for @"
        ) from None
    unknown = sorted(set(asked) - set(_PARAMETERS))
    if unknown or parts.fragment:
        what = ", ".join(unknown) if unknown else "a part after #"
        raise SettingsError(
            f"the URL of the store has {what}, expected none but {', '.join(_PARAMETERS)} after the question mark"
        )
    sslmode = asked.get("sslmode", "prefer")
    if sslmode not in SSL_MODES:
        raise SettingsError(f"sslmode is {sslmode!r}, expected one of {', '.join(SSL_MODES)}")
    user = unquote(parts.username or "") or environ.get("PGUSER") or environ.get("USER") or "postgres"
    return PostgresLocation(
        host=asked.get("host") or unquote(parts.hostname or "") or environ.get("PGHOST") or "localhost",
        port=port,
        database=unquote(parts.path.lstrip("/")) or environ.get("PGDATABASE") or user,
        schema=_checked_schema(asked.get("schema", DEFAULT_SCHEMA)),
        user=user,
        password=unquote(parts.password or "") or environ.get("PGPASSWORD") or None,
        sslmode=sslmode,
        sslrootcert=asked.get("sslrootcert"),
    )


def _checked_schema(name: str) -> str:
    if not name.strip() or "\0" in name or len(name.encode()) > _LONGEST_NAME:
        raise SettingsError(f"schema is {name!r:.80}, expected a name of 1 to {_LONGEST_NAME} bytes")
    if re.match(r"pg_|information_schema$", name):
        raise SettingsError(f"schema is {name!r}, which belongs to PostgreSQL itself; choose another name")
    return name


def quoted(name: str) -> str:
    """Return a name as SQL, whatever is in it.

    Examples
    --------
    >>> print(quoted('my "base"; --'))
    "my ""base""; --"
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    r"""Return a text as SQL, for the places where PostgreSQL takes no parameter (the key of an index).

    Examples
    --------
    >>> print(literal("it's"), literal("back\\slash"))
    'it''s' E'back\\slash'
    """
    plain = text.replace("'", "''")
    return "E'" + plain.replace("\\", "\\\\") + "'" if "\\" in text else f"'{plain}'"
