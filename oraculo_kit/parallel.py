"""The same services in every joblib worker and Dask worker.

Facts about joblib that shape this module (measured with 1.6):

- An ``initializer`` runs once per new worker process, for loky and multiprocessing only. With ``n_jobs=1``, with
  threads, and in ``Parallel(backend="loky")`` inside a configured context it is skipped without a word. So the
  initializer only warms workers up, and every task calls `ensure_services` itself.
- An initializer that raises breaks the pool: a bare ``TerminatedWorkerError`` on loky, endless respawning on
  multiprocessing. So ours never raises: the failure is recorded, and the task raises it with its cause.
- loky reuses workers while initializer and arguments compare equal; `Settings` are frozen and comparable.
- Dask makes joblib's extra keywords into task keywords, so Dask gets a `ServicesPlugin` instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import ServicesFailedError, SettingsError
from oraculo_kit.services import (
    Services,
    ensure_services,
    expect_services,
    found_context,
    services_state,
    start_services,
)
from oraculo_kit.settings import Settings
from oraculo_kit.workers import WorkerRecord, record_worker

if TYPE_CHECKING:
    from distributed import Client

BACKENDS = ("loky", "multiprocessing", "threading", "sequential", "dask")

_WORKERS = ("joblib", "dask")
_FAILURE_PAUSE = 0.1
_prepared: tuple[int, str] | None = None


def initialize_worker(settings: Settings, threads: int = 0) -> None:
    """Start the services of a worker process; give it to joblib as ``initializer``.

    Never raises: a failure is kept, and the task that needs the services raises it with its cause.

    Parameters
    ----------
    settings : Settings
        The caller's resolved settings.
    threads : int
        Limit on this worker's numerical threads; 0 reads what joblib or the settings say.

    Examples
    --------
    >>> from joblib import Parallel
    >>> from oraculo_kit import initialize_worker, start_services
    >>> settings = start_services().settings
    >>> Parallel(n_jobs=2, initializer=initialize_worker, initargs=(settings,))
    Parallel(n_jobs=2)
    """
    # Whatever it was: the task comes to the same place, and raises it where the caller looks.
    with suppress(BaseException):
        worker_services(settings, "joblib", threads)


def worker_services(settings: Settings, context: str | None = None, threads: int = 0) -> Services:
    """Return services with the caller's settings, in whatever process this is.

    Threads and nested calls run in the caller's own process, which is no worker: it has them. In a worker they
    are started, its threads limited, and the worker recorded for ``status``. Called by initializers and by every
    task; free once this process is ready with these settings.

    Raises
    ------
    ServicesFailedError
        When the services cannot start.
    """
    global _prepared
    ready = services_state().services
    if ready is not None and ready.context not in _WORKERS and ready.settings == settings:
        return ready
    key = (os.getpid(), settings.fingerprint)
    if _prepared == key:
        return ensure_services(settings)
    context = context or found_context()
    limit = threads or settings.worker_threads or _given_threads()
    limit_threads(limit)
    failure: ServicesFailedError | None = None
    try:
        services = ensure_services(settings, context=context)
    except ServicesFailedError as exc:
        failure = exc
    _record(settings, context, limit, failed=failure is not None)
    if failure is not None:
        # joblib ends a multiprocessing pool at the first error by killing its workers, and CPython hangs when one
        # of them is just writing (python/cpython#96995): one run in 250 did. So the others wait before they write.
        time.sleep(_FAILURE_PAUSE)
        raise failure
    _prepared = key
    return services


def prepare_dask_worker(settings: Settings, threads: int) -> None:
    """Give a Dask worker the caller's environment and its share of threads; its services start when asked for.

    Parameters
    ----------
    settings : Settings
        The caller's resolved settings.
    threads : int
        Of the worker; each of its tasks uses one.

    Raises
    ------
    EnvironmentSourceError, ServicesFailedError
        As `expect_services`.
    """
    ready = services_state().services
    if ready is not None and ready.context not in _WORKERS:
        return  # a thread of the caller's own process
    limit = settings.worker_threads or threads
    limit_threads(limit)
    expect_services(settings, "dask")
    _record(settings, "dask", limit)


def _record(settings: Settings, context: str, threads: int, *, failed: bool = False) -> None:
    """Let ``status`` show this worker, where it sees the caller's project; on another machine nothing is made."""
    if os.path.isdir(settings.project_root):
        record_worker(
            settings.project_root,
            WorkerRecord(
                pid=os.getpid(),
                context=context,
                state="failed" if failed else "ready",
                fingerprint=settings.fingerprint,
                threads=threads,
                lines=services_state().lines,
                started=time.time(),
            ),
        )


def _given_threads() -> int:
    # What joblib gave this worker, or the user all processes. OpenMP allows a list, one number per level.
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(first)) if first.isascii() and first.isdigit() else 1


def limit_threads(limit: int) -> None:
    """Limit the numerical threads of this process, so that workers together do not oversubscribe the machine.

    Covers OpenMP and BLAS libraries, loaded now (``threadpoolctl``) or later (environment variables), FAISS, and
    the tokenizers' own pool.
    """
    import threadpoolctl

    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(limit)
    if limit == 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threadpoolctl.threadpool_limits(limits=limit)


def threads_per_worker(settings: Settings, n_jobs: int) -> int:
    """Return how many threads each of `n_jobs` workers may use: the setting, or an equal share of the cores."""
    import joblib

    return settings.worker_threads or max(1, joblib.cpu_count() // max(n_jobs, 1))


def missing_dask(cause: ImportError) -> SettingsError:
    """Return the error for a backend whose packages are not there."""
    return SettingsError(
        f"backend 'dask' needs a package that is not installed ({cause}). Install it: "
        'pip install "oraculo_kit[dask]"'
    )


@contextmanager
def parallel_services(
    n_jobs: int | None = None,
    *,
    backend: str = "loky",
    client: Client | None = None,
    send_secrets: bool = False,
    **options: Any,
) -> Iterator[Settings]:
    """Configure joblib so that every worker has the services of this process.

    Parameters
    ----------
    n_jobs : int, optional
        As in joblib; by default all cores (for Dask: all workers).
    backend : {"loky", "multiprocessing", "threading", "sequential", "dask"}
    client : distributed.Client, optional
        For Dask; by default the current client.
    send_secrets : bool
        For Dask: send the model providers' keys, and what the start-up set, to the workers that are there now and lack
        them; over TLS or within this machine only. See `oraculo_kit.distributing.secrets` for what protects them.
        Otherwise workers must have them, or find them as this process did.
    **options
        Given on to ``joblib.parallel_config``.

    Yields
    ------
    Settings
        What the workers are configured with.

    Raises
    ------
    ServicesFailedError
        When the services of this process cannot start; no worker is started then.
    SettingsError
        For an unknown backend, or when secrets would travel openly.
    WorkerMismatchError
        When Dask workers have another Python, another version of this package, or another embedder; with a table.

    Notes
    -----
    multiprocessing: joblib waits for ever for a worker that was killed, for want of memory say. loky tells it, and so
    does `ingest` with either.

    Dask: the services of a worker start, and the store is opened, when a task asks for them. A worker that joins later
    gets them too; one with another version lets its tasks fail with the reason.

    Examples
    --------
    >>> from joblib import Parallel, delayed
    >>> from oraculo_kit import ingest_task, parallel_services
    >>> with parallel_services(n_jobs=1):
    ...     outcomes = Parallel()(delayed(ingest_task)(path) for path in ["missing.txt"])
    >>> outcomes[0].status
    'failed'
    """
    import joblib

    if backend not in BACKENDS:
        raise SettingsError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    services = start_services()
    settings = services.settings
    if backend == "dask":
        try:
            from oraculo_kit.dask import prepared_client
        except ImportError as exc:
            raise missing_dask(exc) from exc

        options["client"] = prepared_client(services, client, send_secrets)
    elif backend in ("loky", "multiprocessing"):
        jobs = joblib.effective_n_jobs(-1 if n_jobs is None else n_jobs)
        threads = options.get("inner_max_num_threads") or threads_per_worker(settings, jobs)
        options.update(initializer=initialize_worker, initargs=(settings, threads))
    with joblib.parallel_config(backend=backend, n_jobs=-1 if n_jobs is None else n_jobs, **options):
        yield settings
