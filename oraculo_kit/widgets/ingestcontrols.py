"""The controls of the ingestion monitor: what to ingest, and how. Says while somebody types what is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import ipywidgets

from oraculo_kit.display import size_text
from oraculo_kit.services import ensure_services
from oraculo_kit.widgets.background import Job
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.ingesting import Choice, Look, folders_like, look_at
from oraculo_kit.widgets.nodes import node
from oraculo_kit.widgets.pane import Pane
from oraculo_kit.widgets.uploading import FOLDER, Uploader

__all__ = ["IngestControls"]

_WIDE = {"description_width": "initial"}


class IngestControls:
    """Path, upload, pattern, processes, pruning; for use inside an explorer.

    Parameters
    ----------
    explorer : Explorer
        Whose lock, lanes and language it uses.
    choice : Choice
        What they say at first.
    changed : callable
        Called, with the lock held, when they say something else.

    Attributes
    ----------
    rows : tuple of widgets
        In the order in which they are shown.
    """

    def __init__(self, explorer: Explorer, choice: Choice, changed: Callable[[], object]) -> None:
        self._explorer = explorer
        self._changed = changed
        self._make(choice)
        self._look_line = Pane()
        self.second_row = _row(self.glob, self.jobs, self.prune)
        self.rows = (_row(self.path, self.uploader), self._look_line, self.second_row)
        handle = explorer.handler(lambda _change: self._told())
        for control in (self.path, self.glob, self.jobs, self.prune):
            control.observe(handle, "value")

    def _make(self, choice: Choice) -> None:
        _ = self._explorer.translated
        self.path = ipywidgets.Combobox(
            value=choice.path,
            placeholder=_("docs/"),
            description=_("Folder or file"),
            ensure_option=False,
            continuous_update=True,
            style=_WIDE,
        )
        self.path.add_class("oraculo-grow")
        self.uploader = Uploader(
            lambda: os.path.join(ensure_services().settings.project_root, FOLDER),
            lambda: ensure_services().settings.max_file_bytes,
            self._upload_goes_on,
            self._uploaded,
            label=_("Upload files"),
            hint=_("They are kept in the folder uploads of the project; files can be dropped here, too"),
        )
        self.uploader.on_msg(self._explorer.handler(lambda _uploader, *sent: self.uploader.take(*sent)))
        self.glob = ipywidgets.Text(
            value=choice.glob,
            placeholder="*.pdf",
            description=_("Only files like"),
            style=_WIDE,
            layout=ipywidgets.Layout(width="220px"),
        )
        counts = sorted({*range(1, (os.cpu_count() or 1) + 1), *([choice.n_jobs] if choice.n_jobs else [])})
        self.jobs = ipywidgets.Dropdown(
            options=[(_("automatic"), 0), *((str(count), count) for count in counts)],
            value=choice.n_jobs or 0,
            description=_("Processes"),
            style=_WIDE,
            layout=ipywidgets.Layout(width="190px"),
        )
        hint = _("Sources whose files are not in the folder any more leave the base; you are asked first")
        self.prune = ipywidgets.Checkbox(
            value=choice.prune,
            description=_("Take out what is gone"),
            tooltip=hint,
            indent=False,
            layout={"width": "auto"},
        )

    @property
    def choice(self) -> Choice:
        """What they say."""
        return Choice(self.path.value, self.glob.value, self.prune.value, self.jobs.value or None)

    def _told(self) -> None:
        self._changed()
        self.look()

    def look(self) -> None:
        """Say in the background what is there, and offer folders that go on from what is typed."""
        choice = self.choice

        def work(job: Job) -> tuple[Look, list[str]]:
            return look_at(choice, job.checkpoint), folders_like(choice.path)

        self._explorer.background(work, self._looked, lane="look")

    def _looked(self, found: tuple[Look, list[str]]) -> None:
        look, folders = found
        kind = "oraculo-wrong" if look.kind == "wrong" else "oraculo-muted"
        text = look.text(self._explorer.translated)
        self._look_line.show(node("div", text, role="status", class_=f"{kind} oraculo-look", dir="auto"))
        if self.path.options != tuple(folders):
            self.path.options = tuple(folders)

    def _upload_goes_on(self, name: str, received: int, size: int) -> None:
        _ = self._explorer.translated
        text = _("Uploading {name}: {done} of {size}")
        self._explorer.say(text.format(name=name, done=size_text(received), size=size_text(size)))

    def _uploaded(self, place: Path) -> None:
        _ = self._explorer.translated
        folder = place.parent
        below = folder.is_relative_to(Path.cwd())
        self.path.value = os.path.join(folder.relative_to(Path.cwd()) if below else folder, "")
        self._explorer.say(_("Uploaded {name}").format(name=place.name))
        self._told()


def _row(*widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    row = ipywidgets.HBox(widgets)
    row.add_class("oraculo-bar-row")
    return row
