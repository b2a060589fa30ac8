"""Runs on a Dask worker before anything of ours is unpickled there.

It travels as source text: a worker may have another version of this package, none at all, or another Python, and then
neither pickled functions nor byte code would arrive. So it uses nothing but the standard library until it has seen that
both sides are the same.
"""

from __future__ import annotations

import os
import platform
import socket
from typing import Any


def basic_facts() -> dict[str, Any]:
    """Return what can be told of any worker."""
    facts = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    try:
        import oraculo_kit

        facts["oraculo_kit"] = oraculo_kit.__version__
    except Exception as exc:  # noqa: BLE001 - whatever it raises, the caller's table says it
        facts["oraculo_kit"] = f"cannot be imported: {type(exc).__name__}: {exc}"
    return facts


def examined(expected: dict[str, Any], settings: bytes, work: bytes | None) -> Any:
    """Do a piece of work where this worker is like the caller.

    Parameters
    ----------
    expected : dict
        The caller's facts.
    settings : bytes
        Its settings, pickled.
    work : bytes or None
        A pickled piece of work; None only examines.

    Returns
    -------
    Reply, or dict
        The facts, when they are not the caller's.
    """
    from distributed import get_worker

    facts = {**basic_facts(), "address": get_worker().address}
    if any(facts[name] != expected[name] for name in ("python", "oraculo_kit")):
        return facts
    from oraculo_kit.distributing.working import work_here

    return work_here(expected, settings, work, facts)
