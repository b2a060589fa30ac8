"""What the store browser does to a base, each with progress, and how it tells what came of it. Knows nothing of widgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from oraculo_kit.display import size_text
from oraculo_kit.errors import QueryError
from oraculo_kit.messages import N_
from oraculo_kit.report import IngestReport
from oraculo_kit.storage.base import Progress, VetorStorage
from oraculo_kit.storage.compaction import CompactReport
from oraculo_kit.storage.health import HealthReport
from oraculo_kit.storage.optimizing import OptimizeReport
from oraculo_kit.storage.verify import VerifyReport
from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.storing import origin, shown_key

__all__ = [
    "TASKS",
    "StoppedError",
    "delete_sources",
    "ingest_again",
    "told_health",
    "told_progress",
    "told_report",
]

Translator = Callable[[str], str]

TASKS = {
    "verify": (N_("Verify"), N_("Check that everything stored is sound; changes nothing.")),
    "compact": (N_("Compact"), N_("Merge small files and give the space of what was deleted back.")),
    "optimize": (N_("Optimise"), N_("Build indexes that make searches of a large base faster.")),
}
"""What can be done to the base as a whole: a method of the store, what it is called and what it does."""

_LOOK = 0.1  # seconds between two looks at an ingestion
_LISTED = 10  # problems and reasons that are listed


class StoppedError(Exception):
    """Somebody pressed the stop button; raised through the progress of the work."""


def delete_sources(store: VetorStorage, sources: Sequence[str], progress: Progress) -> int:
    """Delete sources one after the other; return how many chunks there were."""
    chunks = 0
    for done, source in enumerate(sources):
        progress(done, len(sources))
        chunks += store.remove_by_metadata("source", source)
    return chunks


def ingest_again(store: VetorStorage, sources: Sequence[str], progress: Progress) -> IngestReport:
    """Ingest sources once more from where they came; what has not changed is left as it is.

    Raises
    ------
    QueryError
        When the store is not that of the services, which alone is ingested into; or when a source is no file and no
        address.
    """
    from oraculo_kit.ingestion import ingest
    from oraculo_kit.services import ensure_services

    current = ensure_services().vetor_storage.location
    if store.location != current:
        raise QueryError(
            f"this explorer shows {store.location}, and ingestions go to {current}: "
            f"call oraculo_kit.use({store.location!r}) first"
        )
    others = [source for source in sources if not origin(source)]
    if others:
        raise QueryError(
            f"{others[0]!r} is no file and no address, so it cannot be read again; ingest its documents or table anew"
        )
    handle = ingest(list(dict.fromkeys(map(origin, sources))), background=True, allow_urls=True)
    stopped: StoppedError | None = None
    while not handle.done:
        time.sleep(_LOOK)
        try:
            progress(handle.progress.done, handle.progress.sources)
        except StoppedError as exc:
            stopped = exc
            handle.cancel()
            break
    report = handle.result()
    if stopped is not None and report.unsettled:
        raise stopped
    return report


def told_progress(name: str, done: int, total: int, _: Translator, *, stopping: bool = False) -> Node:
    """Return a progress bar with a stop button; without a total it only shows that something goes on."""
    share = f"{min(done, total) / total:.0%}" if total else ""
    bar = (
        node("progress", value=done, max=total, aria_label=name)
        if total and done
        else node("progress", aria_label=name)
    )
    label = _("Stopping...") if stopping else f"{name} {share}".rstrip()
    stop = node("button", _("Stop"), event="stop", key="stop", disabled=stopping, class_="oraculo-button")
    return node(
        "div", node("span", label, role="status"), bar, stop, class_="oraculo-work oraculo-toolbar", live=True
    )


def told_health(report: HealthReport, _: Translator) -> Node:
    """Return what the base would want done."""
    if report.ok:
        return node("p", _("There is nothing to do."), class_="oraculo-good")
    rows = [
        node("li", node("span", finding.what), node("code", finding.fix, class_="oraculo-muted"))
        for finding in report.findings
    ]
    return node(
        "div", node("p", _("What the base would want done:")), node("ul", *rows, class_="oraculo-findings")
    )


def told_report(report: object, _: Translator) -> Node:
    """Return what came of a piece of work.

    Parameters
    ----------
    report : VerifyReport, CompactReport, OptimizeReport, IngestReport, or int for a deletion
    """
    if isinstance(report, VerifyReport):
        return _verified(report, _)
    if isinstance(report, CompactReport):
        text = _(
            "Compacted: files {before} to {after}, size {size_before} to {size}, deleted vectors dropped: {dropped}"
        )
        said = text.format(
            before=report.segments_before,
            after=report.segments,
            size_before=size_text(report.bytes_before),
            size=size_text(report.bytes),
            dropped=f"{report.dropped:,}",
        )
        return _good(said, report.seconds)
    if isinstance(report, OptimizeReport):
        return _good(_optimized(report, _), report.seconds)
    if isinstance(report, IngestReport):
        return _ingested(report, _)
    return node("p", _("Deleted chunks: {count}").format(count=f"{report:,}"), class_="oraculo-good")


def _good(text: str, seconds: float) -> Node:
    return node("p", f"{text} ({seconds:.1f} s)", class_="oraculo-good")


def _verified(report: VerifyReport, _: Translator) -> Node:
    checked = _("checked: {chunks} chunks of {sources} sources").format(
        chunks=f"{report.chunks:,}", sources=f"{report.sources:,}"
    )
    if report.ok:
        return _good(_("No problem found") + f"; {checked}", report.seconds)
    head = _("Problems found: {count}").format(count=len(report.problems))
    return node(
        "div",
        node("p", node("strong", head), f"; {checked}"),
        node("ul", *(node("li", each) for each in report.problems[:_LISTED])),
        node("p", _("oraculo_kit.repair_store() rebuilds what can be rebuilt.")),
        class_="oraculo-error",
    )


def _optimized(report: OptimizeReport, _: Translator) -> str:
    if not report.indexes:
        return _("The base is small: its {count} vectors are searched exactly, and fast").format(
            count=f"{report.exact:,}"
        )
    text = _("Indexed vectors: {count}, recall {recall}, milliseconds per query: {after} instead of {before}")
    return text.format(
        count=f"{report.indexed:,}",
        recall=f"{report.recall or 0:.3f}",
        after=f"{sum(each.seconds_per_query for each in report.indexes) * 1e3:.1f}",
        before=f"{sum(each.exact_seconds_per_query for each in report.indexes) * 1e3:.1f}",
    )


def _ingested(report: IngestReport, _: Translator) -> Node:
    counts = ", ".join(f"{_(status)} {count:,}" for status, count in report.counts.items() if count)
    said = _good(_("Ingested again") + f": {counts}", report.seconds)
    failed = report.failed
    if not failed:
        return said
    reasons = [
        node("li", node("span", shown_key(each.source), dir="auto"), ": ", each.message)
        for each in failed[:_LISTED]
    ]
    return node("div", said, node("ul", *reasons, class_="oraculo-error"))
