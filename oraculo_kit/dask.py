"""Dask workers with the same services: a `WorkerPlugin`, which workers that join later get too."""

from __future__ import annotations

from contextlib import suppress

from distributed import Client, Worker, WorkerPlugin, get_client

from oraculo_kit.errors import SettingsError
from oraculo_kit.parallel import worker_services
from oraculo_kit.settings import Settings


class ServicesPlugin(WorkerPlugin):
    """Start the services of every Dask worker, present and future.

    Parameters
    ----------
    settings : Settings
        The caller's resolved settings.

    Notes
    -----
    ``setup`` never raises: a failure is recorded, and the task that needs the services raises it with its cause.

    Examples
    --------
    ``client.register_plugin(ServicesPlugin(start_services().settings))``
    """

    name = "oraculo_kit-services"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def setup(self, worker: Worker) -> None:
        """Start the services; called by Dask in the worker."""
        with suppress(BaseException):
            worker_services(self.settings, "dask", int(worker.state.nthreads))


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
            "from dask.distributed import Client; client = Client()"
        ) from exc
