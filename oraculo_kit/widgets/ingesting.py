"""What the ingestion monitor is told to do: the folder that somebody types, and the call that comes of it.

Knows nothing of widgets; what a run then shows is in ``runviews.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oraculo_kit.discovery import is_passed_over
from oraculo_kit.display import size_text, visible
from oraculo_kit.errors import SourceError
from oraculo_kit.inputs import find_sources
from oraculo_kit.inputs.urls import url_scheme
from oraculo_kit.widgets.coding import IMPORT, call

if TYPE_CHECKING:
    from oraculo_kit.handles import IngestHandle
    from oraculo_kit.storage.base import VetorStorage
    from oraculo_kit.widgets.searching import Translator

__all__ = ["Call", "Choice", "Look", "folders_like", "gone_below", "look_at"]

_LISTED = 50  # folders offered while somebody types
_LOOK_SECONDS = 2.0
_CHECKED = 256  # sources between two looks at the clock


@dataclass(frozen=True, slots=True)
class Choice:
    """What the controls say.

    Attributes
    ----------
    path : str
    glob : str
        Empty for all files.
    prune : bool
    n_jobs : int or None
    """

    path: str = ""
    glob: str = ""
    prune: bool = False
    n_jobs: int | None = None

    def keywords(self) -> dict[str, Any]:
        """Return the keywords of `oraculo_kit.ingest` that are not at their defaults.

        Examples
        --------
        >>> Choice("docs", "*.pdf", prune=True).keywords()
        {'glob': '*.pdf', 'prune': True}
        >>> Choice("https://example.org/manual.pdf").keywords()
        {'allow_urls': True}
        """
        given = {
            "glob": self.glob.strip() or None,
            "prune": self.prune or None,
            # Who types an address and starts asks for it to be fetched.
            "allow_urls": url_scheme(self.path.strip()) in ("http", "https") or None,
            "n_jobs": self.n_jobs,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Call:
    """What a run on the screen came from.

    Attributes
    ----------
    kind : {"ingest", "resume", "retry", "report"}
        "report" is an earlier run that was only opened.
    choice : Choice
        Of "ingest".
    dry_run : bool
    run : str
        Id of the run that is taken up again or shown.
    sources : list
        Of "retry".
    """

    kind: str = "ingest"
    choice: Choice = field(default_factory=Choice)
    dry_run: bool = False
    run: str = ""
    sources: list[Any] = field(default_factory=list)

    def launch(self) -> IngestHandle:
        """Start it.

        Raises
        ------
        OraculoError
            As `oraculo_kit.ingest` raises before it runs.
        """
        from oraculo_kit.ingestion import ingest

        if self.kind == "resume":
            return ingest(resume=True, background=True, n_jobs=self.choice.n_jobs)
        if self.kind == "retry":
            return ingest(self.sources, background=True, n_jobs=self.choice.n_jobs)
        path = os.path.expanduser(self.choice.path.strip())
        return ingest(path, dry_run=self.dry_run, background=True, **self.choice.keywords())

    def code(self, store: VetorStorage | None) -> str:
        """Return Python that does, or shows, the same.

        Parameters
        ----------
        store : VetorStorage or None
            None is the base of the services.

        Examples
        --------
        >>> print(Call(choice=Choice("docs", prune=True), dry_run=True).code(None), end="")
        import oraculo_kit as oraculo
        <BLANKLINE>
        report = oraculo.ingest('docs', prune=True, dry_run=True)
        report
        >>> print(Call("retry", run="1a2b").code(None), end="")
        import oraculo_kit as oraculo
        <BLANKLINE>
        report = oraculo.run_report('1a2b').retry()
        report
        """
        opening = "" if store is None else f"{call('oraculo.use', store.location)}\n"
        path = self.choice.path.strip()
        jobs = {} if self.choice.n_jobs is None else {"n_jobs": self.choice.n_jobs}
        if self.kind == "resume":
            made = call("oraculo.ingest", resume=True, **jobs)
        elif self.kind == "retry":
            made = f"{call('oraculo.run_report', self.run)}.{call('retry', **jobs)}"
        elif self.kind == "report":
            made = call("oraculo.run_report", self.run)
        elif path:
            dry = {"dry_run": True} if self.dry_run else {}
            made = call("oraculo.ingest", os.path.expanduser(path), **self.choice.keywords(), **dry)
        else:
            return f"{IMPORT}\n{opening}oraculo.runs()\n"
        return f"{IMPORT}\n{opening}report = {made}\nreport\n"


@dataclass(frozen=True, slots=True)
class Look:
    """What there is at a path.

    Attributes
    ----------
    kind : {"nothing", "file", "folder", "address", "wrong"}
        "nothing" while nothing is typed; "address" is looked at only when the run starts.
    files, bytes, faults : int
        How many can be ingested, their size, and how many cannot, as far as listing them tells.
    is_whole : bool
        Whether all were counted: a look takes two seconds at most.
    problem : str
        Of "wrong".
    """

    kind: str = "nothing"
    files: int = 0
    bytes: int = 0
    faults: int = 0
    is_whole: bool = True
    problem: str = ""

    def text(self, _: Translator) -> str:
        """Return it as a line."""
        if self.kind == "wrong":
            return self.problem
        if self.kind == "nothing":
            return _("A folder or a file, from where the notebook stands; or upload files.")
        if self.kind == "address":
            return _("An address; what is there is listed when the run starts.")
        if not self.files and not self.faults and self.is_whole:
            return _("There is nothing in it that could be ingested.")
        counted = _("{count} files, {size}") if self.is_whole else _("More than {count} files, {size}")
        said = counted.format(count=f"{self.files:,}", size=size_text(self.bytes))
        if not self.faults:
            return said
        faults = _("{count} cannot be read").format(count=f"{self.faults:,}")
        return f"{said}; {faults}"


def look_at(choice: Choice, checkpoint: Callable[[], object] = lambda: None) -> Look:
    """Look at what would be ingested.

    Parameters
    ----------
    choice : Choice
    checkpoint : callable, optional
        Called now and then; may raise.

    Examples
    --------
    >>> look_at(Choice()).kind, look_at(Choice("s3://bucket/docs")).kind
    ('nothing', 'address')
    >>> look_at(Choice("no/such/folder")).kind
    'wrong'
    """
    path = os.path.expanduser(choice.path.strip())
    if not path:
        return Look()
    if url_scheme(path) not in (None, "file"):
        return Look("address")
    kind = "folder" if os.path.isdir(path) else "file"
    files = total = faults = 0
    started = time.monotonic()
    try:
        for place, source in enumerate(find_sources(path, glob=choice.glob.strip() or None)):
            if place % _CHECKED == 0:
                checkpoint()
                if time.monotonic() - started > _LOOK_SECONDS:
                    return Look(kind, files, total, faults, is_whole=False)
            if source.error is None:
                files, total = files + 1, total + source.size
            elif kind == "file" or source.key == os.path.abspath(path):
                raise source.error
            else:
                faults += 1
    except SourceError as exc:
        return Look("wrong", problem=str(exc))
    return Look(kind, files, total, faults)


def folders_like(text: str, limit: int = _LISTED) -> list[str]:
    """Return the folders that what is typed so far may become; each ends with a separator.

    Parameters
    ----------
    text : str
        Of a path; relative to the working folder, or from ``~``.
    limit : int

    Notes
    -----
    A name that cannot be shown as it is (it steers a terminal, or turns the reading direction) is left out.
    """
    if url_scheme(text) is not None or "\0" in text:
        return []
    head, start = os.path.split(text)
    parent = os.path.expanduser(head) or os.curdir
    try:
        with os.scandir(parent) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.casefold().startswith(start.casefold())
                and not is_passed_over(entry.name)
                and visible(entry.name) == entry.name
                and entry.name.isprintable()
                and entry.is_dir()
            )
    except OSError:
        return []  # what is typed leads nowhere so far; the look says so
    return [os.path.join(head, name, "") for name in names[:limit]]


def gone_below(
    storage: VetorStorage, choice: Choice, checkpoint: Callable[[], object] = lambda: None
) -> list[str]:
    """Return the keys of sources that pruning would take out of the base, files that only moved among them.

    Raises
    ------
    SourceError
        When there is nothing that can be listed.
    """
    from oraculo_kit.pruning import missing_sources

    path = os.path.expanduser(choice.path.strip())
    glob = choice.glob.strip() or None
    found = set()
    for place, source in enumerate(find_sources(path, glob=glob)):
        if place % _CHECKED == 0:
            checkpoint()
        found.add(source.key)
    return missing_sources(storage, path, found, glob=glob).gone
