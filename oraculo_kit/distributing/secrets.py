"""Keys that travel to Dask workers: only when asked, and only where nobody can listen.

Workers find their keys themselves: in the environment they were started with, in ``.env`` of the project where they see
its folder, at ``ORACULO_ENV_SOURCE``. ``send_secrets=True`` sends what this process has instead: the variables that its
start-up set, and those that configure model providers.

What protects them: the TLS of the cluster's connections (``distributed.comm.tls`` in Dask's configuration), or that they
never leave this machine. Over plain TCP to another machine nothing is sent, and that is an error. They are kept in the
workers' ``os.environ``, where every task of every user of that cluster can read them; they stand in no task, no plugin
and no log, so the scheduler keeps none. A URL with a password in it travels within its task, under the same condition:
better leave it out, and set what fsspec reads (``AWS_*``, ``~/.ssh``, ...) where the workers start. So does the password
of a store in PostgreSQL with joblib code of one's own, whose workers open the store; with `oraculo_kit.ingest` they do
not, and it stays here. Who can submit tasks to a Dask cluster runs code on its workers: protect it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from oraculo_kit.environment.names import RECORD_VARIABLE, is_provider_name
from oraculo_kit.environment.record import is_secret, remember_secrets
from oraculo_kit.errors import SettingsError
from oraculo_kit.inputs import IngestSource, RemoteSource
from oraculo_kit.inputs.web import UrlSource
from oraculo_kit.storage.postgres.location import is_postgres, parse_location

if TYPE_CHECKING:
    from distributed import Client

    from oraculo_kit.settings import Settings


def names_to_send(settings: Settings) -> frozenset[str]:
    """Return the variables that configure providers, or that the start-up set, as far as this process has them."""
    named = set(settings.environ_names) | {name for name in os.environ if is_provider_name(name)}
    return frozenset(name for name in named if os.environ.get(name, "").strip() and name != RECORD_VARIABLE)


def without_password(settings: Settings) -> Settings:
    """Return settings whose store is named without its password: workers of an ingestion never open it."""
    if not is_postgres(settings.store):
        return settings
    place = parse_location(settings.store, {})  # what PGPASSWORD holds stands in no setting
    return settings if place.password is None else replace(settings, store=place.shown)


def is_protected(address: str) -> bool:
    """Tell whether nobody can listen to a connection with this address.

    Examples
    --------
    >>> is_protected("tls://10.0.0.7:8786"), is_protected("tcp://127.0.0.1:8786"), is_protected("tcp://10.0.0.7:8786")
    (True, True, False)
    """
    parts = urlsplit(address)
    if parts.scheme in ("tls", "wss", "inproc"):
        return True
    try:
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def scheduler_address(client: Client) -> str:
    """Return the address that a client is connected to."""
    assert client.scheduler is not None
    return str(client.scheduler.address)


def give_secrets(client: Client, names: frozenset[str], workers: Sequence[str]) -> None:
    """Put variables of this process into the environment of workers that lack them.

    Parameters
    ----------
    client : distributed.Client
    names : frozenset of str
    workers : sequence of str
        Their addresses. They must have been examined: what cannot be unpickled, Dask writes into their log.

    Raises
    ------
    SettingsError
        When somebody could listen on the way.
    """
    refuse_open_ways([scheduler_address(client), *workers])
    values = {name: os.environ[name] for name in sorted(names)}
    answers = client.run(take_secrets, values, workers=list(workers), on_error="return")
    for answer in answers.values():
        if isinstance(answer, Exception) and not isinstance(
            answer, OSError
        ):  # a worker that is gone needs none
            raise answer


def refuse_open_ways(addresses: Sequence[str], instead: str = "leave send_secrets out") -> None:
    """Raise a `SettingsError` when one of these connections leaves the machine without TLS."""
    unsafe = [address for address in addresses if not is_protected(address)]
    if unsafe:
        raise SettingsError(
            f"secrets would travel over {', '.join(unsafe[:3])} where everybody on the way can read them, so nothing was "
            "sent. Give the cluster TLS (distributed.comm.tls in Dask's configuration, tls:// addresses), or set the "
            f"keys where its workers start and {instead}"
        )


def tells_a_secret(source: IngestSource) -> bool:
    """Tell whether the address of a source holds a password, or a secret in its query."""
    if not isinstance(source, RemoteSource | UrlSource):
        return False
    given, shown = urlsplit(source.url), urlsplit(source.key)
    return given.password is not None or given.query != shown.query


def take_secrets(values: Mapping[str, str]) -> None:
    """Set what is not set; called on a worker."""
    remember_secrets(value for name, value in values.items() if is_secret(name, ours=True))
    for name, value in values.items():
        if not os.environ.get(name, "").strip():
            os.environ[name] = value
