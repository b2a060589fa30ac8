"""An ingestion run as nodes: its progress, what became of its sources, and the runs before it. Knows nothing of widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from oraculo_kit.display import short_source, size_text
from oraculo_kit.messages import N_
from oraculo_kit.report import reason
from oraculo_kit.storage.runs import SourceOutcome
from oraculo_kit.widgets.nodes import Node, node
from oraculo_kit.widgets.paging import page_row
from oraculo_kit.widgets.runviews import (
    STATE_NAMES,
    STATUS_NAMES,
    RunView,
    duration,
    moment,
    ordered,
    plain,
    what_of,
)

if TYPE_CHECKING:
    from oraculo_kit.storage.runs import RunRecord
    from oraculo_kit.widgets.searching import Translator

__all__ = ["PAGE", "cut_off", "history", "outcome_list", "progress", "prune_question", "status_row"]

PAGE = 20
"""Sources on a page."""
_SHOWN = 1000  # characters of a reason
_NAMED = 8  # sources named before something is done to them

_STAGES: Mapping[str, str] = {
    "load": N_("Reading"),
    "split": N_("Splitting"),
    "embed": N_("Embedding"),
    "write": N_("Writing"),
}


def progress(view: RunView, _: Translator) -> Node:
    """Return state, bar, figures and stages of a run."""
    title = _("Dry run") if view.dry and not view.has_ended else _(STATE_NAMES[view.state])
    if view.dry and view.state == "finished":
        title = _("Dry run finished, nothing was stored")
    head = node(
        "header",
        node(
            "h4",
            title,
            node("span", "  ", view.what, class_="oraculo-muted", dir="auto") if view.what else None,
        ),
        node("span", view.began or _percent(view), class_="oraculo-muted oraculo-figure"),
        class_="oraculo-run-head",
    )
    error = node("p", plain(view.error), class_="oraculo-error") if view.error else None
    warnings = [node("p", plain(text), class_="oraculo-warning") for text in view.warnings]
    return node(
        "section",
        head,
        _bar(view, title, _),
        node("p", " · ".join(_figures(view, _)), class_="oraculo-muted oraculo-figure"),
        _doing(view, _),
        _stages(view, _),
        *warnings,
        error,
        class_="oraculo-run",
        aria_label=_("Progress"),
    )


def _percent(view: RunView) -> str:
    return f"{view.share:.0%}" if view.sources and not view.has_ended else ""


def _bar(view: RunView, title: str, _: Translator) -> Node | None:
    if view.began:
        return None
    is_open = view.state in ("starting", "listing")
    kind = {"failed": " oraculo-stopped", "cancelled": " oraculo-stopped"}.get(view.state, "")
    return node(
        "div",
        node("div", width=0.0 if is_open else view.share, class_="oraculo-run-done"),
        role="progressbar",
        aria_label=_("Share of the bytes that is done"),
        aria_valuenow=None if is_open else round(view.share * 100),
        aria_valuemin=0,
        aria_valuemax=100,
        aria_valuetext=f"{title}, {_percent(view)}",
        class_=f"oraculo-run-bar{kind}{' oraculo-open' if is_open else ''}",
    )


def _figures(view: RunView, _: Translator) -> list[str]:
    if view.state == "starting":
        return [_("The services start and the sources are listed.")]
    if view.state == "listing":
        return [_("The sources are being listed.")]
    said = [
        _("{done} of {sources} sources").format(done=f"{view.done:,}", sources=f"{view.sources:,}")
        if view.done != view.sources
        else _("1 source")
        if view.sources == 1
        else _("{sources} sources").format(sources=f"{view.sources:,}")
    ]
    if view.bytes:
        sizes = size_text(view.done_bytes), size_text(view.bytes)
        said.append(
            sizes[1]
            if view.done == view.sources
            else _("{done} of {bytes}").format(done=sizes[0], bytes=sizes[1])
        )
    if view.chunks:
        said.append(_chunks(view.chunks, _))
    if view.elapsed >= 0.5 and view.done:
        said.append(_("{rate} sources/s").format(rate=_rate(view.done / view.elapsed)))
        if view.chunks:
            said.append(_("{rate} chunks/s").format(rate=_rate(view.chunks / view.elapsed)))
    if view.elapsed:
        said.append(duration(view.elapsed, _))
    if view.eta is not None:
        said.append(_("about {time} left").format(time=duration(view.eta, _)))
    return said


def _doing(view: RunView, _: Translator) -> Node | None:
    """Return what is done just now; its place is kept while a run goes on, so that nothing jumps."""
    if view.has_ended or view.state in ("starting", "listing"):
        return None
    doing, said = view.doing, ""
    if doing is not None:
        name = plain(str(short_source(doing.source, view.root)))
        more = f" (+{doing.sources - 1})" if doing.sources > 1 else ""
        share = f", {doing.share:.0%}" if doing.stage == "embed" else ""
        said = f"{_(_STAGES.get(doing.stage, doing.stage))}: {name}{more}{share}"
    return node("p", said, class_="oraculo-muted oraculo-now", dir="auto")


def _chunks(count: int, _: Translator) -> str:
    return _("1 chunk") if count == 1 else _("{count} chunks").format(count=f"{count:,}")


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _stages(view: RunView, _: Translator) -> Node | None:
    total = sum(view.stages.values())
    if not total:
        return None
    shown = [
        node(
            "li",
            node("span", _(label)),
            " ",  # between the two where no style is: GitHub, a screen reader, text
            node("span", duration(view.stages[stage], _), class_="oraculo-muted oraculo-figure"),
            node(
                "div",
                node("div", width=view.stages[stage] / total, class_="oraculo-run-done"),
                class_="oraculo-stage-bar",
                aria_hidden=True,
            ),
        )
        for stage, label in _STAGES.items()
        if stage in view.stages
    ]
    return node("ul", *shown, class_="oraculo-stages", aria_label=_("Time per stage, all workers together"))


def status_row(view: RunView, chosen: str, _: Translator, *, can_retry: bool) -> Node | None:
    """Return how many sources have each status, each a button that lists them; and the button that retries."""
    counted = ordered(view.counts)
    if not counted:
        return None
    chips = [
        node(
            "button",
            node("strong", f"{count:,}"),
            f" {_(STATUS_NAMES[status])}",
            event="status",
            payload=status,
            key=f"status-{status}",
            aria_pressed=status == chosen,
            disabled=not view.settled.get(status),
            title=None if view.settled.get(status) else _("These were only counted"),
            class_=f"oraculo-chip oraculo-status-{status}",
        )
        for status, count in counted
    ]
    retry = None
    if view.settled.get("failed") and view.has_ended and not view.dry:
        retry = node(
            "button",
            _("Retry failed"),
            event="retry",
            key="retry",
            disabled=not can_retry,
            class_="oraculo-button",
            live=True,
        )
    return node(
        "div",
        node("div", *chips, class_="oraculo-toolbar", arrows=True),
        node("span", class_="oraculo-fill"),
        retry,
        class_="oraculo-toolbar",
    )


def outcome_list(view: RunView, status: str, page: int, _: Translator) -> Node | None:
    """Return a page of the sources with a status, with reasons; None when there are none."""
    outcomes = view.outcomes(status) if status else ()
    count = len(outcomes)
    if not count:
        return None
    first = min(page, (count - 1) // PAGE) * PAGE
    rows = [_outcome(view, outcome, _) for outcome in outcomes[first : first + PAGE]]
    listed = node("ul", *rows, class_="oraculo-outcomes oraculo-scrolled", key=f"list-{status}", tabindex=0)
    return node(
        "section",
        listed,
        page_row(first // PAGE, PAGE, count, _),
        aria_label=_(STATUS_NAMES[status]).capitalize(),
    )


def _outcome(view: RunView, outcome: SourceOutcome, _: Translator) -> Node:
    source = str(short_source(outcome.source, view.root))
    facts = [size_text(outcome.bytes)] if outcome.bytes else []
    if outcome.chunks:
        facts.append(_chunks(outcome.chunks, _))
    return node(
        "li",
        node("span", plain(source), class_="oraculo-outcome-source", dir="auto"),
        node("span", " ", " · ".join(facts), class_="oraculo-muted oraculo-small") if facts else None,
        node("p", _reason(outcome), class_="oraculo-reason", dir="auto") if outcome.message else None,
        class_=f"oraculo-outcome oraculo-outcome-{outcome.status}",
    )


def _reason(outcome: SourceOutcome) -> str:
    said = plain(reason(outcome))
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}…"


def cut_off(record: RunRecord, _: Translator) -> Node:
    """Return what to know of the last run that did not come to its end, and the button that goes on with it."""
    settled = sum(record.counts.values())
    said = _("The run of {time} over {what} was cut off after {count} sources.").format(
        time=moment(record.started_at), what=what_of(record.options), count=f"{settled:,}"
    )
    if record.options.get("paths") is None:
        advice = _("It was over data in memory: give the same again to ingest(..., resume=True).")
        return node("div", node("span", said, " ", advice, dir="auto"), class_="oraculo-notice")
    button = node("button", _("Resume"), event="resume", key="resume", class_="oraculo-button", live=True)
    return node("div", node("span", said, dir="auto"), button, class_="oraculo-notice")


def prune_question(keys: Sequence[str], root: str, _: Translator) -> Node:
    """Return what would be taken out of the base, and the buttons that decide."""
    said = _("No longer there: {count}. They leave the base, unless their files only moved.").format(
        count=f"{len(keys):,}"
    )
    named = [node("li", plain(str(short_source(key, root))), dir="auto") for key in keys[:_NAMED]]
    if len(keys) > _NAMED:
        named.append(node("li", _("and {count} more").format(count=f"{len(keys) - _NAMED:,}")))
    buttons = node(
        "div",
        node(
            "button",
            _("Take out and ingest"),
            event="prune",
            key="prune",
            class_="oraculo-button oraculo-danger",
        ),
        node("button", _("Back"), event="back", key="back", class_="oraculo-button"),
        class_="oraculo-toolbar",
        live=True,
    )
    return node(
        "div",
        node("p", said, key="question", tabindex=-1),
        node("ul", *named, class_="oraculo-named"),
        buttons,
        class_="oraculo-notice oraculo-question",
        role="group",
        aria_label=_("Confirm"),
    )


def history(records: Sequence[RunRecord], opened: str, _: Translator) -> Node | None:
    """Return the earlier runs of a base, the newest first; None when there are none."""
    if not records:
        return None
    header = (_("Started"), _("State"), _("Over"), _("Sources"), "")
    head = node("thead", node("tr", *(node("th", title, scope="col") for title in header)))
    rows = [_record(record, record.id == opened, _) for record in records]
    shown = node("table", head, node("tbody", *rows), class_="oraculo-table oraculo-runs")
    title = _("Earlier runs ({count})").format(count=len(records))
    return node("details", node("summary", title), shown, key="history")


def _record(record: RunRecord, is_open: bool, _: Translator) -> Node:
    state = _("Running") if record.state == "running" else _(STATE_NAMES[record.state])
    counts = ", ".join(
        f"{count:,} {_(STATUS_NAMES.get(status, status))}" for status, count in ordered(record.counts)
    )
    button = node(
        "button",
        _("Open"),
        event="open",
        payload=record.id,
        key=f"open-{record.id}",
        aria_label=_("Open the run of {time}").format(time=moment(record.started_at)),
        aria_pressed=is_open,
        class_="oraculo-button",
        live=True,
    )
    cells = [
        node("td", moment(record.started_at), class_="oraculo-figure"),
        node("td", state),
        node("td", what_of(record.options), dir="auto"),
        node("td", counts),
        node("td", button),
    ]
    return node("tr", *cells)
