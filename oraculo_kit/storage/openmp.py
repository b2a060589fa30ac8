"""How many threads FAISS uses for a call, and when it may use BLAS.

Both are settings of the process or thread, not of a call: they are set around a call and restored after it.
A child forked after OpenMP ran has none of its threads, and a call on more than one would wait for them for ever:
there every call gets one.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# FAISS's flat scan of one query is fastest on one OpenMP thread; BLAS pays from about ten queries on (measured on
# two cores, 384 dimensions: 1.5 to 5 times the throughput of a batch).
BLAS_FROM_QUERIES = 10

_forked = False


class _BlasForBatches:
    """FAISS's BLAS threshold is one number for the whole process: lowered while any batch runs, then restored."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._default = 0

    def __enter__(self) -> None:
        import faiss

        with self._lock:
            if self._running == 0:
                self._default = faiss.cvar.distance_compute_blas_threshold
                faiss.cvar.distance_compute_blas_threshold = 1
            self._running += 1

    def __exit__(self, *_exc_info: object) -> None:
        import faiss

        with self._lock:
            self._running -= 1
            if self._running == 0:
                faiss.cvar.distance_compute_blas_threshold = self._default

    def reset(self) -> None:
        """In a forked child: the batches that ran in the parent do not run here."""
        import faiss

        if self._running:
            faiss.cvar.distance_compute_blas_threshold = self._default
        self.__init__()  # type: ignore[misc]


_blas_for_batches = _BlasForBatches()


def load_faiss() -> Any:
    """Import FAISS, at its first use: it takes 0.35 s. Its type stubs lack much of what it has, hence ``Any``."""
    import faiss

    return faiss


@contextmanager
def one_thread() -> Iterator[None]:
    """One OpenMP thread for the FAISS calls of the calling thread."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


@contextmanager
def tuned(queries: int) -> Iterator[None]:
    """Choose threads and BLAS for FAISS calls with so many queries: one thread and none for a few, else all."""
    with ExitStack() as stack:
        if queries >= BLAS_FROM_QUERIES:
            stack.enter_context(_blas_for_batches)
        if queries < BLAS_FROM_QUERIES or _forked:
            stack.enter_context(one_thread())
        yield


def _after_fork_in_child() -> None:
    global _forked
    if "faiss" in sys.modules:
        _forked = True
        _blas_for_batches.reset()
        logging.getLogger("oraculo_kit.storage").info(
            "process %d was forked after a search: its searches run on one thread. Start processes by spawn or loky "
            "to use all cores",
            os.getpid(),
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
