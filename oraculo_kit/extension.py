"""The IPython extension: services that are up before the first cell, and the ``%oraculo`` magic.

Two ways in:

- ``%load_ext oraculo_kit`` in a cell waits for the services, ready or failed, and shows the start-up lines.
- At kernel start (``--ext oraculo_kit``, or the kernel that ``oraculo kernel install`` makes) the services start
  on a thread, so that the kernel is not delayed. The first cell waits for them, at most `FIRST_CELL_WAIT`
  seconds, and shows one line; if that was too short, a later cell shows it. ``ORACULO_NO_AUTOLOAD=1`` opts out.

A kernel is never killed and a failure is never silent: whatever is raised, ``SystemExit`` included, becomes a
line in the cell and stays in ``%oraculo status``. ``os.environ`` changes only while no cell runs (`_CellGate`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FIRST_CELL_WAIT = 3.0
NAME = "oraculo"


class _CellGate:
    """Lets the start-up thread work between cells only, and never makes a cell wait without bound."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._cells = 0
        self._due = False
        self._working = False
        self.cancelled = False

    def enter_cell(self, timeout: float) -> None:
        with self._changed:
            # Work that is due goes before the cell, or queued cells would leave it no gap. While another cell runs
            # (a subshell's) it cannot go, so there is nothing to wait for.
            self._changed.wait_for(lambda: not self._working and (self._cells or not self._due), timeout)
            self._cells += 1

    def leave_cell(self) -> None:
        with self._changed:
            # The cell that loaded the extension was never counted in.
            self._cells = max(0, self._cells - 1)
            self._changed.notify_all()

    def cancel(self) -> None:
        with self._changed:
            self.cancelled = True
            self._changed.notify_all()

    @contextmanager
    def between_cells(self) -> Iterator[bool]:
        """Wait until no cell runs; gives False when the extension was unloaded meanwhile."""
        with self._changed:
            self._due = True
            self._changed.wait_for(lambda: self.cancelled or self._cells == 0)
            self._due, self._working = False, True
        try:
            yield not self.cancelled
        finally:
            with self._changed:
                self._working = False
                self._changed.notify_all()


class Extension:
    """What loading put into one shell, so that unloading can take it back."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.gate = _CellGate()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._waited = False
        self._told = False
        self._failure: BaseException | None = None

    def attach(self) -> None:
        """Register magic, hooks and the name `oraculo`."""
        self.shell.register_magic_function(self._magic, magic_kind="line", magic_name=NAME)
        self.shell.events.register("pre_run_cell", self._before_cell)
        self.shell.events.register("post_run_cell", self._after_cell)
        # Never over a variable of the user's.
        self.shell.user_ns.setdefault(NAME, sys.modules["oraculo_kit"])

    def detach(self) -> None:
        """Take everything back and stop the services."""
        self.gate.cancel()
        self.shell.events.unregister("pre_run_cell", self._before_cell)
        self.shell.events.unregister("post_run_cell", self._after_cell)
        self.shell.magics_manager.magics["line"].pop(NAME, None)
        if self.shell.user_ns.get(NAME) is sys.modules["oraculo_kit"]:
            del self.shell.user_ns[NAME]
        if self._thread is not None:
            self._thread.join(FIRST_CELL_WAIT)
        from oraculo_kit.services import stop_services

        stop_services()

    def start_now(self) -> None:
        """Start the services in the calling cell and show the start-up lines."""
        from oraculo_kit.services import services_state, start_services

        self._told = True
        try:
            start_services(context="kernel" if _is_kernel(self.shell) else "script")
        except KeyboardInterrupt:
            unload(self.shell)  # IPython does not count it as loaded: the next %load_ext begins anew
            raise
        except BaseException as exc:  # SystemExit too: a broken source must not end the kernel
            self._failure = exc
        for line in services_state().lines:
            print(line)
        if self._failure is not None:
            print(_failure_text(self._failure), file=sys.stderr)
        if self.shell.user_ns.get(NAME) is not sys.modules["oraculo_kit"]:
            from oraculo_kit.messages import current_translator

            _ = current_translator()
            print(
                _("The name `oraculo` is a variable of yours and was left alone: use `import oraculo_kit`.")
            )

    def start_in_background(self) -> None:
        """Start the services on a thread; the first cell waits for them."""
        self._thread = threading.Thread(target=self._start, name="oraculo-start", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            from oraculo_kit.services import State, prefetch, services_state, start_services

            fetched = prefetch("kernel")
            while not (fetched.wait(0.1) or self.gate.cancelled):
                pass
            with self.gate.between_cells() as go:
                # A cell may have asked for the services meanwhile, or stopped them.
                if go and services_state().state is State.STARTING:
                    start_services(context="kernel")
        except BaseException as exc:  # SystemExit too; shown at the first cell and in status
            self._failure = exc
        finally:
            self._done.set()

    def _before_cell(self, _info: Any = None) -> None:
        deadline = time.monotonic() + FIRST_CELL_WAIT
        if self._thread is not None and not self._waited:
            self._waited = True
            if not self._done.wait(FIRST_CELL_WAIT):
                self._tell_of_waiting()
        self.gate.enter_cell(max(0.0, deadline - time.monotonic()))
        if self._done.is_set() and not self._told:
            self._tell()

    def _after_cell(self, _result: Any = None) -> None:
        self.gate.leave_cell()

    def _tell_of_waiting(self) -> None:
        from oraculo_kit.messages import current_translator

        _ = current_translator()
        print(
            _("oraculo_kit: the services are still starting; %oraculo status shows how far they are."),
            file=sys.stderr,
        )

    def _tell(self) -> None:
        from oraculo_kit.services import services_state

        self._told = True
        look = services_state()
        if look.services is not None:
            print(banner(look.services))
        else:
            failure = look.failure or self._failure
            if failure is not None:
                print(_failure_text(failure), file=sys.stderr)

    def _magic(self, line: str) -> Any:
        """Ask or steer oraculo_kit: status | ingest PATH | search QUERY | sources | use STORE | doctor."""
        from oraculo_kit.magic import run_magic

        return run_magic(line)


def banner(services: Any) -> str:
    """Return the one line that says: ready, how fast, which base, what to try."""
    from oraculo_kit import __version__
    from oraculo_kit.messages import translator

    _ = translator(services.settings.lang)
    return _(
        "oraculo_kit {version}: services ready in {seconds:.1f} s, base {store} with {chunks} chunks. "
        'Try oraculo.search("...") or %oraculo status'
    ).format(
        version=__version__,
        seconds=sum(services.seconds.values()),
        store=services.vetor_storage.location,
        chunks=len(services.vetor_storage),
    )


def _failure_text(failure: BaseException) -> str:
    from oraculo_kit.environment import redact
    from oraculo_kit.messages import current_translator

    _ = current_translator()
    reason = redact(f"{type(failure).__name__}: {failure}")
    return _("oraculo_kit: the services did not start. {reason}").format(reason=reason)


def _is_kernel(shell: Any) -> bool:
    return getattr(shell, "kernel", None) is not None


def _in_cell(shell: Any) -> bool:
    # IPython keeps a cell's input before it runs the cell; at kernel start there is only the empty first one.
    return len(shell.user_ns.get("In", [""])) > 1 or not hasattr(shell, "kernel")


_extensions: dict[int, Extension] = {}


def load(shell: Any) -> None:
    """Load the extension into a shell; see the module docstring."""
    unload(shell)  # loading twice by hand must not leave the hooks of the first behind
    explicit = _in_cell(shell)
    if not explicit and os.environ.get("ORACULO_NO_AUTOLOAD", "0") not in ("", "0"):
        _allow_loading_later(shell)
        return
    extension = Extension(shell)
    _extensions[id(shell)] = extension
    extension.attach()
    if explicit:
        extension.start_now()
    else:
        extension.start_in_background()


def _allow_loading_later(shell: Any) -> None:
    # IPython counts an extension as loaded as soon as `load` returns, and would refuse %load_ext from then on.
    def forget(_info: Any = None) -> None:
        shell.events.unregister("pre_run_cell", forget)
        shell.extension_manager.loaded.discard("oraculo_kit")

    shell.events.register("pre_run_cell", forget)


def unload(shell: Any) -> None:
    """Unload the extension from a shell: no magic, hook, thread or open file stays behind."""
    extension = _extensions.pop(id(shell), None)
    if extension is not None:
        extension.detach()
