"""The commands of ``oraculo`` that ingest, and that show what earlier runs did."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import StoreNotFoundError

if TYPE_CHECKING:
    from oraculo_kit.report import IngestReport

Command = Callable[[str, Any, str], argparse.ArgumentParser]
Start = Callable[..., None]


def add_ingest_commands(command: Command, start: Start) -> None:
    """Add ``ingest`` and ``runs``."""

    def ingest(options: argparse.Namespace) -> int:
        if _nothing_is_there(options.paths):
            try:
                start(options, to_read=True)
            except StoreNotFoundError:
                return _tell_missing(options)  # a mistyped path must not leave an empty base
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
    sub.add_argument(
        "--glob",
        action=_Once,
        metavar="PATTERN",
        help='of folders take only such files, e.g. "*.pdf"; one pattern a run',
    )
    _add_format(sub)
    sub = command("runs", runs, "list the ingestions of this base, or show what one did")
    sub.add_argument("id", nargs="?", metavar="RUN", help="the first letters of a run's id")
    _add_format(sub)


def _add_format(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--format", choices=["table", "json"], default="table", help="of the result (default table)"
    )


class _Once(argparse.Action):
    """An option whose second value would silently take the place of the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest)
        if given is not None:
            parser.error(
                f"{option_string} was given {given!r} and {values!r}, expected one pattern; "
                "run the command once for each"
            )
        setattr(namespace, self.dest, values)


def _nothing_is_there(paths: Sequence[str]) -> bool:
    from oraculo_kit.settings import is_url

    return bool(paths) and not any(
        is_url(path) or os.path.lexists(os.path.expanduser(path)) for path in paths
    )


def _tell_missing(options: argparse.Namespace) -> int:
    """Report paths that are not there as the ingestion does, without a base to note it in."""
    from oraculo_kit.discovery import find_files
    from oraculo_kit.report import IngestReport, failed_outcome

    faults = ((found.key, found.error) for found in find_files(options.paths))
    outcomes = [failed_outcome(key, error) for key, error in faults if error is not None]
    _show(IngestReport(outcomes, dry_run=options.dry_run), options.format)
    _tell_of_patterns(options.paths)
    return 1


def _tell_of_patterns(paths: Sequence[str]) -> None:
    patterns = [path for path in paths if set("*?[") & set(path) and not os.path.lexists(path)]
    if patterns:
        from oraculo_kit.display import visible

        shown = visible(patterns[0])
        print(
            f"oraculo: {shown} is no file; a pattern is for --glob, as in: oraculo ingest FOLDER --glob '*.txt'",
            file=sys.stderr,
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
    _tell_of_patterns(options.paths)
    if not report:
        several = "; --glob takes one pattern, so run it once for each" if "," in (options.glob or "") else ""
        print(f"oraculo: nothing was found to ingest; check the path and --glob{several}", file=sys.stderr)
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
