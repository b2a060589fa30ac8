"""`IngestMonitor`: choose documents, try out, ingest, watch, cancel, resume, retry."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets

from oraculo_kit.errors import OraculoError, SettingsError, SourceError
from oraculo_kit.handles import IngestHandle, running
from oraculo_kit.messages import N_
from oraculo_kit.report import IngestReport
from oraculo_kit.services import ensure_services
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.ingestcontrols import IngestControls
from oraculo_kit.widgets.ingesting import Call, Choice, gone_below
from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.pane import Pane
from oraculo_kit.widgets.runnodes import (
    cut_off,
    history,
    outcome_list,
    progress,
    prune_question,
    status_row,
)
from oraculo_kit.widgets.runviews import RunView, glob_of

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.storage.base import VetorStorage
    from oraculo_kit.storage.runs import RunRecord
    from oraculo_kit.widgets.background import Job

_EVERY = 0.2  # seconds between two updates, at least
_STILL = 1.0  # seconds after which time itself is news
_SAID = 0.25  # share of a run after which the status line, which is read aloud, says something
_KEPT = 20  # earlier runs that are listed
_CUT_OFF = ("interrupted", "cancelled", "failed")


class IngestMonitor(Explorer):
    """Ingest documents, and watch it.

    A run goes on whatever happens to the monitor: another one, or this one in a cell that is run again, finds it. When
    the kernel itself ended, the monitor offers to resume.

    Parameters
    ----------
    path : path, optional
        What is in the field at first; nothing is started.
    glob : str, optional
        Take only files of a folder whose name matches.
    prune : bool
        Take files that are gone out of the base; asks before it does.
    n_jobs : int, optional
        As in `oraculo_kit.ingest`.
    store : VetorStorage, optional
        By default the base of the services. Ingestions go there always: for another one say ``oraculo_kit.use`` first.

    Attributes
    ----------
    handle : IngestHandle or None
        The run that is on the screen, if this process runs it or ran it.
    view : RunView or None
        What is on the screen of it.

    Raises
    ------
    SettingsError
        For a `glob` or an `n_jobs` that is none.

    Examples
    --------
    >>> from pathlib import Path
    >>> import oraculo_kit as oraculo
    >>> _ = Path("docs").mkdir(), Path("docs/ajuda.txt").write_text("Como emitir nota fiscal")
    >>> monitor = oraculo.IngestMonitor("docs")
    >>> monitor.start()
    >>> monitor.wait()
    True
    >>> monitor.view.counts
    {'added': 1}
    >>> print(monitor.code())
    import oraculo_kit as oraculo
    <BLANKLINE>
    report = oraculo.ingest('docs')
    report
    <BLANKLINE>
    """

    title: ClassVar[str] = N_("Ingest")

    def __init__(
        self,
        path: str | os.PathLike[str] = "",
        *,
        glob: str | None = None,
        prune: bool = False,
        n_jobs: int | None = None,
        store: VetorStorage | None = None,
    ) -> None:
        if glob is not None and not isinstance(glob, str):
            raise SettingsError(f"glob is {glob!r}, expected a pattern of file names, such as '*.pdf'")
        if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or n_jobs == 0):
            raise SettingsError(f"n_jobs is {n_jobs!r}, expected a number of processes, or -1 for all cores")
        super().__init__(store)
        self.handle: IngestHandle | None = None
        self.view: RunView | None = None
        self._call = Call()
        self._busy = False  # between a click and the run's handle
        self._stopping = False
        self._given_up = threading.Event()
        self._status: str | None = None  # chosen by hand
        self._page = 0
        self._said = 0
        self._gone: list[str] = []
        self._records: Sequence[RunRecord] = ()
        choice = Choice(os.fspath(path), glob or "", prune, n_jobs)
        self._controls = IngestControls(self, choice, self._choice_changed)
        self._actions, self._notice, self._run_pane, self._list, self._history = (Pane() for _ in range(5))
        for pane in (self._actions, self._notice, self._list, self._history):
            pane.on_event(self.handler(self._told))
        self._below = ipywidgets.VBox()
        self._below.add_class("oraculo-below")
        self._controls.second_row.children = (*self._controls.second_row.children, self._actions)
        self.compose(*self._controls.rows, self._below)
        self._call = Call("ingest", choice)
        self._show()
        self._controls.look()
        self.handler(self._begin)()

    # What it does

    @property
    def is_active(self) -> bool:
        """Whether a run is being started, or goes on."""
        return self._busy or (self.handle is not None and not self.handle.done)

    def start(self, *, dry_run: bool = False) -> None:
        """Ingest what the controls say, in the background.

        Parameters
        ----------
        dry_run : bool
            Say what would happen, and store nothing.

        Raises
        ------
        SourceError
            When no path is given, a run goes on, or the services use another base.
        """
        with self.lock:
            choice = self._controls.choice
            if not choice.path.strip():
                raise SourceError("got no path, expected a folder or a file; type one, or upload files")
            self._check_idle()
            if choice.prune and not dry_run:
                self._ask_before_pruning(choice)
            else:
                self._launch(Call("ingest", choice, dry_run))

    def cancel(self) -> None:
        """Ask the run on the screen to stop; whole documents stay, and `resume` goes on with the rest."""
        with self.lock:
            if not self.is_active:
                return
            self._stopping = True
            if self.handle is not None and not self._busy:
                self.handle.cancel()
            else:
                self._given_up.set()
            _ = self.translated
            self.say(_("Stopping; what is stored stays."))
            self._update()
            self._show_actions()

    def resume(self) -> None:
        """Go on with the last run that was cut off.

        Raises
        ------
        SourceError
            When a run goes on, or the services use another base.
        """
        with self.lock:
            self._check_idle()
            self._launch(Call("resume", self._controls.choice))

    def retry(self) -> None:
        """Ingest again what failed in the run on the screen.

        Raises
        ------
        SourceError
            When nothing failed or it was a dry run, a run goes on, or the services use another base.
        """
        with self.lock:
            self._check_idle()
            view = self.view
            if view is None or not view.settled.get("failed"):
                raise SourceError("no source failed in the run on the screen, so there is nothing to retry")
            if view.dry:
                raise SourceError(
                    "the run on the screen was a dry run, so nothing was ingested; start instead"
                )
            report = None
            if self.handle is not None and self.handle.run == view.run:
                report = self._report_of(self.handle)
            report = report or IngestReport(view.outcomes("failed"))
            self._launch(Call("retry", self._controls.choice, run=view.run, sources=report.retried()))

    def open_run(self, run: str) -> None:
        """Show an earlier run.

        Parameters
        ----------
        run : str
            The first letters of its id, as `oraculo_kit.runs` lists it.

        Raises
        ------
        SourceError
            When a run goes on here: it stays on the screen.
        """
        with self.lock:
            self._check_idle()
            store = self.store

            def work(_job: Job) -> RunView:
                found = [record for record in store.runs(50) if record.id.startswith(run)]
                if len(found) != 1:
                    raise SourceError(
                        f"there is no run {run}, or more than one; oraculo_kit.runs() lists them"
                    )
                return RunView.of_record(found[0], store.outcomes(found[0].id), store.location)

            self.background(work, self._opened, lane="open")

    def _opened(self, view: RunView) -> None:
        if self.is_active:
            return  # somebody was quicker, and a run that goes on stays on the screen
        self.handle, self.view, self._call = None, view, Call("report", run=view.run)
        self._status, self._page = None, 0
        self.say(view.told(self.translated))
        self._show()

    def _check_idle(self) -> None:
        if self.is_active:
            raise SourceError("a run goes on; wait for it, or cancel it")
        location = ensure_services().vetor_storage.location
        if self._store is not None and self._store.location != location:
            raise SourceError(
                f"this explorer looks at the base {self._store.location}, and the services use {location}: "
                "say oraculo_kit.use(explorer.store.location) first"
            )

    def _ask_before_pruning(self, choice: Choice) -> None:
        _ = self.translated
        store = self.store
        self._set_busy(_("Looking for what is gone..."))

        def done(gone: list[str] | None) -> None:
            self._busy = False
            if gone is None or self._given_up.is_set():
                self._not_started(None)
                self.say("")
            elif not gone:
                self._launch(Call("ingest", choice))
            else:
                self._gone = gone
                self.say("")
                self._show()
                self._notice.focus("question")

        def checkpoint(job: Job) -> None:
            job.checkpoint()
            if self._given_up.is_set():
                raise _GivenUp

        def work(job: Job) -> list[str] | None:
            try:
                return gone_below(store, choice, partial(checkpoint, job))
            except _GivenUp:
                return None

        self.background(work, done, lane="start", failed=self._not_started)

    def _launch(self, call: Call) -> None:
        _ = self.translated
        self._gone = []
        self._set_busy(_("Starting..."))
        self.view = RunView(what=call.choice.path.strip() if call.kind == "ingest" else "", dry=call.dry_run)
        self._status, self._page = None, 0
        self._show()
        self._actions.focus("cancel")

        def work(_job: Job) -> IngestHandle:
            handle = call.launch()
            if self._given_up.is_set():
                handle.cancel()
            return handle

        self.background(work, partial(self._follow, call), lane="start", failed=self._not_started)

    def _set_busy(self, said: str) -> None:
        self._busy, self._stopping = True, False
        self._given_up.clear()
        self.say(said)
        self._show_actions()

    def _not_started(self, _exc: Exception | None) -> None:
        self._busy, self._stopping = False, False
        if self.view is not None and self.view.state == "starting":
            self.view = None
        self._show()

    def _begin(self) -> None:
        """Follow a run that goes on in this process, and read what ran before."""
        location = self.store.location
        found = running(location)
        if found:
            handle = found[0]
            paths = handle.options.get("paths") or []
            call = Call("report", run=handle.run)
            if len(paths) == 1:
                choice = Choice(paths[0], glob_of(handle.options), bool(handle.options.get("prune")))
                call = Call("ingest", choice, bool(handle.options.get("dry_run")))
            self._follow(call, handle)
        self._read_history()

    def _read_history(self) -> None:
        store = self.store

        def done(records: Sequence[RunRecord]) -> None:
            self._records = records
            self._show()

        self.background(lambda _job: store.runs(_KEPT), done, lane="history")

    def _follow(self, call: Call, handle: IngestHandle) -> None:
        self.handle, self._call = handle, call
        self._busy, self._said = False, 0
        self._status, self._page = None, 0
        if not self._stopping:
            self.say(
                self.translated(N_("The run goes on in the background; other cells can be run meanwhile."))
            )
        self._update()
        self.background(partial(self._watch, handle), self._ended, lane="run")

    def _watch(self, handle: IngestHandle, job: Job) -> IngestHandle:
        """Show a run while it goes on; its thread only rings."""
        news = threading.Event()
        end = handle.subscribe(lambda _event: news.set())
        update = self.handler(self._update)
        try:
            while not handle.done:
                job.checkpoint()
                news.wait(_STILL)
                news.clear()
                update()
                handle.wait(_EVERY)
            return handle
        finally:
            end()

    def _update(self) -> None:
        if self.handle is None:
            return
        self.view = RunView.of_handle(self.handle, stopping=self._stopping)
        passed = int(self.view.share / _SAID)
        if self.view.state == "running" and passed > self._said:
            self._said = passed
            _ = self.translated
            self.say(_("More than {share} is done").format(share=f"{passed * _SAID:.0%}"))
        self._show_run()

    def _ended(self, handle: IngestHandle) -> None:
        self._stopping = False
        self.view = RunView.of_handle(handle)
        self.say(self.view.told(self.translated))
        self._read_history()
        self._controls.look()
        self._show()
        handle.result(0)  # what it raises is shown

    def _report_of(self, handle: IngestHandle) -> IngestReport | None:
        try:
            return handle.result(0)
        except (OraculoError, TimeoutError):
            return None

    def _choice_changed(self) -> None:
        self._call = Call("ingest", self._controls.choice)
        if self._gone:
            self._gone = []
            self._show()
        self.refresh()

    # What was clicked

    def _told(self, event: str, payload: Any, _checked: bool | None) -> None:
        if event in ("start", "try"):
            self.start(dry_run=event == "try")
        elif event == "cancel":
            self.cancel()
        elif event == "resume":
            self.resume()
        elif event == "retry":
            self.retry()
        elif event == "prune" and self._gone:
            self._check_idle()
            self._launch(Call("ingest", self._controls.choice))
        elif event == "back":
            self._gone = []
            self._show()
            self._actions.focus("start")
        elif event == "open":
            self.open_run(str(payload))
        elif event == "status":
            self._status, self._page = (None if self._listed() == payload else payload), 0
            if self._status is None and self._listed() == payload:
                self._status = ""
            self._show()
        elif event == "page" and isinstance(payload, int):
            self._page = max(payload, 0)
            self._show()

    # What it shows

    def _listed(self) -> str:
        if self._status is not None:
            return self._status
        return self.view.status if self.view is not None else ""

    def _show_actions(self) -> None:
        _ = self.translated
        idle = not self.is_active

        def button(text: str, event: str, enabled: bool, kind: str = "") -> Node:
            return node(
                "button",
                text,
                event=event,
                key=event,
                disabled=not enabled,
                class_=f"oraculo-button {kind}".rstrip(),
                live=True,
            )

        cancel = _("Stopping...") if self._stopping and not idle else _("Cancel")
        self._actions.show(
            node(
                "div",
                button(_("Start"), "start", idle, "oraculo-primary"),
                button(_("Dry run"), "try", idle),
                button(cancel, "cancel", not idle and not self._stopping),
                class_="oraculo-toolbar",
            )
        )

    def _notice_node(self) -> Node | None:
        if self._gone:
            return prune_question(self._gone, self.view.root if self.view else "", self.translated)
        last = self._records[0] if self._records else None
        if last is None or self.is_active or last.state not in _CUT_OFF:
            return None
        return cut_off(last, self.translated)

    def _run_nodes(self) -> tuple[Node | None, Node | None]:
        _ = self.translated
        if self.view is None:
            return None, None
        status = self._listed()
        row = status_row(self.view, status, _, can_retry=not self.is_active)
        listed = outcome_list(self.view, status, self._page, _)
        return progress(self.view, _), node("div", row, listed, class_="oraculo-settled") if row else None

    def _show_run(self) -> None:
        """Show what changes while a run goes on."""
        shown, listed = self._run_nodes()
        self._run_pane.show(shown)
        self._list.show(listed)
        self._show_actions()
        self.refresh()
        self._arrange()

    def _show(self) -> None:
        self._notice.show(self._notice_node())
        opened = self.view.run if self.view is not None else ""
        self._history.show(history(self._records, opened, self.translated))
        self._show_run()

    def _arrange(self) -> None:
        panes = (self._notice, self._run_pane, self._list, self._history)
        filled = tuple(pane for pane in panes if pane.children)
        if self._below.children != filled:
            self._below.children = filled

    # What it answers

    @property
    def report(self) -> IngestReport | None:
        """The report of the run on the screen, once it has ended."""
        with self.lock:
            if self.handle is not None and self.handle.done:
                return self._report_of(self.handle)
            if self.view is not None and self.view.has_ended:
                return IngestReport(self.view.outcomes(""), run=self.view.run, state=self.view.state)
            return None

    @property
    def selection(self) -> pd.DataFrame:
        """The sources with the status that is listed, else all that are settled, as `IngestReport.to_pandas` has them."""
        with self.lock:
            outcomes = self.view.outcomes(self._listed()) if self.view is not None else ()
        return IngestReport(tuple(outcomes)).to_pandas()

    def code(self) -> str:
        """Return Python that does what the run on the screen did, or what the controls say."""
        with self.lock:
            return self._call.code(self._store)

    def summary(self) -> Node:
        """Return the run on the screen with its counts and what was listed, and the runs before it."""
        _ = self.translated
        shown, listed = self._run_nodes()
        earlier = history(self._records, "", _)
        empty = node("p", _("Nothing was ingested yet."), class_="oraculo-muted")
        return node(
            "div",
            node("h3", _("Ingest")),
            shown or (None if earlier else empty),
            listed,
            earlier,
            class_="oraculo-static",
        )

    def close(self) -> None:
        """Take the monitor off the screen; a run goes on, and another monitor finds it."""
        if "_controls" in self.__dict__:  # not in one whose arguments were refused
            self._controls.uploader.close()
        super().close()


class _GivenUp(BaseException):
    """Somebody cancelled before the run began."""
