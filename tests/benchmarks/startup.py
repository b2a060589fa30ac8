"""Measure what start-up costs: kernel start with autoload, first cell, workers, and services that are ready.

    python tests/benchmarks/startup.py
    python tests/benchmarks/startup.py --pairs 20 kernel workers

kernel    a bare kernel and one with ``--ext=oraculo_kit``, by turns: until it answers, and until the first cell
          has returned (``1`` in the bare one, ``oraculo.get_services()`` in the other)
workers   two loky workers, bare and with `parallel_services`, by turns, each time in a new program: until both
          have answered a task
import    ``import oraculo_kit`` in a new interpreter, against none
ready     `ensure_services` and what a task calls, when the services are ready: nanoseconds per call

The differences are paired: each is between two runs that follow each other, so that a slow minute of the
machine hits both. The table shows their median and quartiles; a target is what the project promises.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path

PARTS = ("kernel", "workers", "import", "ready")
_HEADER = f"{'':44} {'without':>9} {'with':>9} {'difference':>11}  {'quartiles':>17}  target"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--pairs", type=int, default=10, metavar="N", help="paired runs (default 10)")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(PARTS)
    if unknown or options.pairs < 1:
        parser.error(f"expected parts of {', '.join(PARTS)}, and at least one pair")
    for name in list(os.environ):
        if name.startswith("ORACULO_"):
            del os.environ[name]
    measures = {"kernel": _kernel, "workers": _workers, "import": _import, "ready": _ready}
    print(
        f"{options.pairs} pairs, {os.cpu_count()} cores, Python {sys.version.split()[0]}; milliseconds\n{_HEADER}"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, ".env").write_text("XAI_API_KEY=xai-of-the-benchmark\n", encoding="utf-8")
        for part in options.parts or PARTS:
            measures[part](Path(folder), options.pairs)
    return 0


def _show(what: str, without: Sequence[float], with_: Sequence[float], target: str = "") -> None:
    differences = [b - a for a, b in zip(without, with_, strict=True)]
    low, middle, high = statistics.quantiles(differences, n=4) if len(differences) > 1 else differences * 3
    print(
        f"{what:44} {statistics.median(without):9.1f} {statistics.median(with_):9.1f} {middle:11.1f}  "
        f"{low:7.1f} .. {high:6.1f}  {target}",
        flush=True,
    )


def _paired(
    count: int, without: Callable[[], float], with_: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Run both by turns, after one run of each that fills the file caches; milliseconds."""
    without(), with_()
    pairs = [(without(), with_()) for _ in range(count)]
    return [1000 * a for a, _ in pairs], [1000 * b for _, b in pairs]


# --- kernel -------------------------------------------------------------------------------------------------


def _kernel(folder: Path, pairs: int) -> None:
    firsts: list[float] = []

    def start(arguments: list[str], cell: str) -> float:
        ready, first = _start_kernel(folder, arguments, cell)
        firsts.append(1000 * first)
        return ready

    bare, loaded = _paired(
        pairs,
        lambda: start([], "1"),
        lambda: start(["--ext=oraculo_kit"], "oraculo.get_services().context"),
    )
    _show("kernel start: until it answers", bare, loaded, "difference < 150")
    _show("kernel start: until the first cell returned", firsts[2::2], firsts[3::2])


def _start_kernel(folder: Path, arguments: list[str], cell: str) -> tuple[float, float]:
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    started = time.perf_counter()
    manager.start_kernel(extra_arguments=arguments, cwd=str(folder), stderr=subprocess.DEVNULL)
    # ZeroMQ tries again every 100 ms when nobody listens yet, which would drown what is measured.
    _wait_for_port(manager.ip, manager.shell_port)
    client = manager.blocking_client()
    client.start_channels(hb=False)
    try:
        client.kernel_info(reply=True, timeout=60)
        ready = time.perf_counter() - started
        reply = client.execute(cell, reply=True, timeout=60)
        first = time.perf_counter() - started
        if reply["content"]["status"] != "ok":
            raise RuntimeError(reply["content"]["evalue"])
        return ready, first
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def _wait_for_port(host: str, port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, port)):
            return
        time.sleep(0.001)
    raise TimeoutError(f"no kernel listens on {host}:{port}")


# --- workers ------------------------------------------------------------------------------------------------

_WORKERS = """
import contextlib, os, sys, time
from joblib import Parallel, delayed
from oraculo_kit import parallel_services, start_services, get_services

def task(number):
    if SERVICES:
        get_services()
    time.sleep(0.05)  # so that both workers get one
    return os.getpid()

SERVICES = sys.argv[1] == "services"
if __name__ == "__main__":
    start_services()
    with parallel_services(n_jobs=2) if SERVICES else contextlib.nullcontext():
        started = time.perf_counter()
        pids = Parallel(n_jobs=2)(delayed(task)(number) for number in range(2))
        seconds = time.perf_counter() - started
    assert len(set(pids)) == 2
    print(seconds)
"""


def _workers(folder: Path, pairs: int) -> None:
    script = folder / "workers.py"
    script.write_text(_WORKERS, encoding="utf-8")

    def run(kind: str) -> float:
        while True:
            done = subprocess.run([sys.executable, script, kind], cwd=folder, capture_output=True, text=True)
            if done.returncode == 0:
                return float(done.stdout)
            if "assert len(set(pids))" not in done.stderr:  # one worker did both tasks: not what is measured
                raise RuntimeError(done.stderr)

    _show(
        "two loky workers: until both have answered",
        *_paired(pairs, lambda: run("bare"), lambda: run("services")),
    )


# --- import and ready ---------------------------------------------------------------------------------------


def _import(folder: Path, pairs: int) -> None:
    def run(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
        return time.perf_counter() - started

    _show(
        "import oraculo_kit", *_paired(pairs, lambda: run("pass"), lambda: run("import oraculo_kit")), "< 100"
    )


_READY = """
import json, pickle, sys, timeit
from oraculo_kit.parallel import worker_services
from oraculo_kit.services import ensure_services, start_services

settings = start_services().settings
copy = pickle.loads(pickle.dumps(settings))
calls = {
    "ensure_services()": lambda: ensure_services(),
    "ensure_services(settings)": lambda: ensure_services(settings),
    "ensure_services(an equal copy)": lambda: ensure_services(copy),
    "worker_services(an equal copy): what a task calls": lambda: worker_services(copy),
}
print(json.dumps({name: min(timeit.repeat(call, number=20_000, repeat=5)) / 20_000 for name, call in calls.items()}))
"""


def _ready(folder: Path, _pairs: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _READY], cwd=folder, capture_output=True, text=True, check=True
    )
    empty = min(timeit.repeat(lambda: None, number=20_000, repeat=5)) / 20_000
    for number, (name, seconds) in enumerate(json.loads(done.stdout).items()):
        print(f"{name:50} {1e9 * (seconds - empty):9.0f} ns per call  {'' if number else 'target < 2000'}")


if __name__ == "__main__":
    sys.exit(main())
