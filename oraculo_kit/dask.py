"""Dask clusters: a plugin that gives present and future workers the caller's services, and the client to use.

For joblib code of one's own under ``parallel_services(backend="dask")``: the task, ``ingest_task`` for example, writes to
the store itself, which needs workers on this machine, or a store that other machines reach. `oraculo_kit.ingest` with
``backend="dask"`` needs neither; that is :mod:`oraculo_kit.distributing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dask
from distributed import Client, Worker, WorkerPlugin, get_client

from oraculo_kit.distributing.checking import check_workers
from oraculo_kit.distributing.examining import basic_facts
from oraculo_kit.distributing.secrets import refuse_open_ways, scheduler_address, without_password
from oraculo_kit.errors import SettingsError
from oraculo_kit.parallel import prepare_dask_worker
from oraculo_kit.services import Services, refuse_services
from oraculo_kit.settings import Settings


class ServicesPlugin(WorkerPlugin):
    """Prepare every Dask worker, present and future, for the caller's services.

    The environment is loaded and threads are limited at once. The services start when a task asks for them: a worker
    that never does opens no store.

    Parameters
    ----------
    settings : Settings
        The caller's resolved settings.

    Notes
    -----
    ``setup`` never raises: a failure is recorded, and the task that needs the services raises it with its cause. So
    does a worker that joins later with another Python or another version of this package.

    Examples
    --------
    ``client.register_plugin(ServicesPlugin(start_services().settings))``
    """

    name = "oraculo_kit-services"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.facts = basic_facts()

    def setup(self, worker: Worker) -> None:
        """Prepare the worker; called by Dask there."""
        here = basic_facts()
        different = [name for name in ("python", "oraculo_kit") if here[name] != self.facts[name]]
        if different:
            said = ", ".join(f"{name} {here[name]} instead of {self.facts[name]}" for name in different)
            refuse_services(
                self.settings,
                "dask",
                f"the Dask worker {worker.address} has {said}; install the caller's version there",
            )
            return
        # Whatever it was: the task comes to the same place, and raises it where the caller looks.
        with suppress(BaseException):
            prepare_dask_worker(self.settings, int(worker.state.nthreads))


def current_client() -> Client:
    """Return the Dask client of this process.

    Raises
    ------
    SettingsError
        When there is none.
    """
    try:
        return get_client()
    except ValueError as exc:
        raise SettingsError(
            "backend 'dask' needs a Dask client and there is none. Make one first: "
            "from dask.distributed import Client; client = Client(). Or name a scheduler: address=, --address in a shell, "
            "or DASK_SCHEDULER_ADDRESS"
        ) from exc


def prepared_client(services: Services, client: Client | None, secrets: bool) -> Client:
    """Return a client whose workers were examined and have, now or when they join, the caller's services.

    Parameters
    ----------
    services : Services
        The caller's.
    client : distributed.Client or None
        By default the current one.
    secrets : bool
        Send keys to workers that lack them.

    Raises
    ------
    SettingsError, WorkerMismatchError
    """
    client = client if client is not None else current_client()
    if without_password(services.settings) != services.settings:
        ways = [scheduler_address(client), *client.nthreads()]
        refuse_open_ways(ways, "leave the password out of ORACULO_STORE (PGPASSWORD)")
    check_workers(client, services, send_secrets=secrets)
    client.register_plugin(ServicesPlugin(services.settings))
    return client


@contextmanager
def dask_client(address: str | None) -> Iterator[Client]:
    """Yield a client: of the scheduler at an address, closed in the end, or the current one of this process.

    Without either, the scheduler that Dask's own configuration names (``DASK_SCHEDULER_ADDRESS``).

    Raises
    ------
    SettingsError
        When there is none, or no scheduler answers at the address.
    """
    if address is None:
        address = _configured_address()
    if address is None:
        yield current_client()
        return
    try:
        client = _OwnClient(address)
    except (OSError, ValueError, TypeError, TimeoutError) as exc:  # TypeError: tls:// without certificates
        raise SettingsError(
            f"no Dask scheduler answers at {address!r} ({type(exc).__name__}: {exc}). Expected an address such as "
            "tcp://10.0.0.7:8786 or tls://dask.example.org:8786"
        ) from exc
    with client:
        yield client


class _OwnClient(Client):
    """A client that is closed when it cannot connect; Dask's own tries that as the process ends, and fails loudly."""

    def __init__(self, address: str) -> None:
        connect: Any = super().__init__  # Dask's own functions are not typed
        close: Any = self.close
        try:
            connect(address, set_as_default=False)
        except BaseException:
            with suppress(Exception):
                close()
            raise


def _configured_address() -> str | None:
    try:
        get_client()
    except ValueError:
        return dask.config.get("scheduler-address", None) or None
    return None
