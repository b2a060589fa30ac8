"""What worker processes tell the notebook: a small file each, so that ``status`` can show them.

A worker writes ``<project>/.oraculo/run/<pid>.json`` once its services are ready or failed, and again when it gets
other settings: pid, context, settings fingerprint, thread limit and start-up lines. It works for every joblib backend and for Dask on
one machine, needs no channel back to the caller, and holds no secret.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_log = logging.getLogger("oraculo_kit.services")
_KEEP_SECONDS = 86_400.0
_KEEP_FILES = 200


@dataclass(frozen=True)
class WorkerRecord:
    """One worker, as it described itself.

    Attributes
    ----------
    pid : int
    context : str
        A key of `oraculo_kit.services.CONTEXTS`.
    state : str
        "ready" or "failed".
    fingerprint : str
        Of its settings; workers and notebook must show the same.
    threads : int
        Limit on numerical threads; 0 when there is none.
    lines : tuple of str
        Its start-up lines.
    started : float
        Seconds since 1970.
    """

    pid: int
    context: str
    state: str
    fingerprint: str
    threads: int
    lines: tuple[str, ...]
    started: float

    def lives(self) -> bool:
        """Tell whether the process still runs (a pid that was given to a younger process does not count)."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            # A zombie is dead: it only waits for its parent to take note.
            return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= self.started + 1.0
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


def _folder(project_root: str) -> Path:
    return Path(project_root) / ".oraculo" / "run"


def record_worker(project_root: str, record: WorkerRecord) -> None:
    """Write this worker's file; a folder that cannot be written costs only the line in ``status``."""
    folder = _folder(project_root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _forget_old(folder)
        descriptor, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(record), file, ensure_ascii=False)
        os.replace(temporary, folder / f"{record.pid}.json")
    except OSError as exc:
        _log.warning("this worker will not appear in status: %s cannot be written (%s)", folder, exc)


def _forget_old(folder: Path) -> None:
    files = sorted(folder.iterdir(), key=_modified, reverse=True)
    oldest = time.time() - _KEEP_SECONDS
    for place, path in enumerate(files):
        if place >= _KEEP_FILES or _modified(path) < oldest:
            path.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another worker tidied up at the same moment
        return 0.0


def read_workers(project_root: str) -> list[WorkerRecord]:
    """Return the workers of the last day, oldest first; files that cannot be read are left out."""
    records = []
    folder = _folder(project_root)
    for path in folder.glob("*.json") if folder.is_dir() else ():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            records.append(WorkerRecord(**{**content, "lines": tuple(content["lines"])}))
        except (OSError, ValueError, TypeError, KeyError) as exc:
            _log.debug("worker file %s was left out: %s", path.name, exc)
    return sorted(records, key=lambda record: record.started)
