"""The commands of ``oraculo`` that ingest, and that show what earlier runs did."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oraculo_kit.report import IngestReport

Command = Callable[[str, Any, str], argparse.ArgumentParser]
Start = Callable[..., None]


def add_ingest_commands(command: Command, start: Start) -> None:
    """Add ``ingest`` and ``runs``."""

    def ingest(options: argparse.Namespace) -> int:
        start(options)
        return _ingest(options)

    def runs(options: argparse.Namespace) -> int:
        start(options, to_read=True)
        return _runs(options)

    sub = command("ingest", ingest, "make files and folders searchable")
    sub.add_argument("paths", nargs="*", metavar="PATH", help="may be left out with --resume")
    sub.add_argument("--jobs", type=int, metavar="N", help="worker processes; -1 for all cores")
    sub.add_argument(
        "--backend",
        default="loky",
        help="who works: loky (default), multiprocessing, threading, sequential, or dask, the workers of a cluster",
    )
    sub.add_argument(
        "--address",
        metavar="URL",
        help="with --backend dask: the scheduler, such as tls://dask.example.org:8786 (default: Dask's configuration)",
    )
    sub.add_argument(
        "--send-secrets",
        action="store_true",
        help="with --backend dask: give keys of model providers to workers that lack them, over TLS or on this machine "
        "only; whoever may submit tasks to the cluster can read them there",
    )
    sub.add_argument("--prune", action="store_true", help="take files that are gone out of the base")
    sub.add_argument("--dry-run", action="store_true", help="say what would happen, and store nothing")
    sub.add_argument("--resume", action="store_true", help="go on with a run that was cut off")
    sub.add_argument("--allow-urls", action="store_true", help="fetch what is given as an http(s) URL")
    sub.add_argument("--glob", metavar="PATTERN", help='of folders take only such files, e.g. "*.pdf"')
    _add_format(sub)
    sub = command("runs", runs, "list the ingestions of this base, or show what one did")
    sub.add_argument("id", nargs="?", metavar="RUN", help="the first letters of a run's id")
    _add_format(sub)


def _add_format(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--format", choices=["table", "json"], default="table", help="of the result (default table)"
    )


def _ingest(options: argparse.Namespace) -> int:
    from oraculo_kit.ingestion import ingest

    try:
        report = ingest(
            options.paths or None,
            glob=options.glob,
            allow_urls=options.allow_urls,
            prune=options.prune,
            dry_run=options.dry_run,
            resume=options.resume,
            n_jobs=options.jobs,
            backend=options.backend,
            address=options.address,
            send_secrets=options.send_secrets,
            progress=not options.quiet,
        )
    except KeyboardInterrupt:
        said = (
            "nothing was stored"
            if options.dry_run
            else ("what was stored stays stored, and the same command with --resume goes on with the rest")
        )
        print(f"oraculo: interrupted; {said}", file=sys.stderr)
        return 130
    _show(report, options.format)
    if not report:
        print("oraculo: nothing was found to ingest; check the path and --glob", file=sys.stderr)
        return 1
    return 1 if report.failed else 0


def _show(report: IngestReport, form: str) -> None:
    from oraculo_kit.display import visible
    from oraculo_kit.report import reason

    if form == "json":
        facts = {
            "run": report.run,
            "state": report.state,
            "dry_run": report.dry_run,
            "store": report.store,
            "seconds": round(report.seconds, 3),
            "counts": report.counts,
            "outcomes": [asdict(outcome) for outcome in report],
        }
        # ASCII: a file name that is no text survives, and so do terminals.
        print(json.dumps(facts, indent=2))
        return
    print(report.text("--format json lists them all"))
    for outcome in report.failed:
        # Whole, and all of them: the table cuts what a shell cannot show again.
        print(f"\n{visible(outcome.source)}\n  {outcome.error}: {visible(reason(outcome))}")


def _runs(options: argparse.Namespace) -> int:
    from oraculo_kit.display import text_table
    from oraculo_kit.history import run_report, runs
    from oraculo_kit.report import STATUSES

    if options.id:
        _show(run_report(options.id), options.format)
        return 0
    found = runs()
    if options.format == "json":
        print(found.to_json(orient="records", indent=2))
        return 0
    rows = []
    for row in found.to_dict("records"):
        counts = ", ".join(f"{row[status]} {status}" for status in STATUSES if row[status])
        rows.append([row["run"], row["state"], row["started"][:16].replace("T", " "), counts, row["what"]])
    print(text_table(["run", "state", "started (UTC)", "sources", "of"], rows))
    return 0
