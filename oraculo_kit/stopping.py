"""How a run is told to stop: one signal that threads and worker processes of this machine see.

Nothing is killed. The pipeline asks between two documents, two batches of texts, and while it waits; then it raises
`Stopped`, and what was not committed by then was never begun, as far as the store is concerned.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


class Stopped(BaseException):
    """The run was told to stop."""


class StopSignal:
    """A signal that is set once; its pickled copies see it too.

    Between processes a file carries it: it works for every joblib backend, needs no channel to a worker that
    somebody else started, and costs a look at the file system (1 µs) to ask.

    Use it in a ``with`` block: afterwards the file is gone.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="oraculo-run-")
        self._set = False

    @property
    def _file(self) -> Path:
        return Path(self._folder) / "stop"

    def set(self) -> None:
        """Ask the run to stop; may be called from any thread, at any time, more than once."""
        self._set = True
        try:
            self._file.touch()
        except FileNotFoundError:
            return  # the run has ended meanwhile

    def is_set(self) -> bool:
        """Tell whether the run was asked to stop."""
        if not self._set:
            self._set = os.path.exists(self._file)
        return self._set

    def check(self) -> None:
        """Raise `Stopped` when the run was asked to stop."""
        if self.is_set():
            raise Stopped("the ingestion was asked to stop")

    def __enter__(self) -> StopSignal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.unlink(missing_ok=True)
        # Windows refuses to delete a folder in which somebody looks just now; an empty one left there harms nobody.
        try:
            os.rmdir(self._folder)
        except OSError:
            return
