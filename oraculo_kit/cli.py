"""The command line ``oraculo``: the same functions, from a shell.

Results go to standard output, progress and start-up lines to standard error. Exit codes: 0 all well, 1 some
documents failed or nothing was found to do, 2 the command could not run.
"""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from oraculo_kit import __version__
from oraculo_kit.cli_ingest import add_ingest_commands
from oraculo_kit.cli_store import add_store_commands
from oraculo_kit.errors import OraculoError, QueryError, ServicesFailedError, StoreNotFoundError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; ``sys.argv`` by default.

    Returns
    -------
    int
        The exit code.
    """
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0].partition("=")[0] in ("-q", "--quiet", "--store"):
        parser.error(
            f"{arguments[0]} stands before the command, expected after it: oraculo COMMAND {arguments[0]} ..."
        )
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 2
    handler = _log_to_stderr(options.quiet)
    for stream in (sys.stdout, sys.stderr):
        # A terminal or file that cannot hold a character shows its code; that must not cost the answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = int(options.run(options))
        sys.stdout.flush()  # here, where a pipe that was closed is no error
        return code
    except ServicesFailedError:
        # What failed was just logged, with its reason.
        print("oraculo: mend the cause and run it again; `oraculo doctor` checks everything", file=sys.stderr)
        return 2
    except OraculoError as exc:
        _tell(exc)
        return 2
    except KeyboardInterrupt:
        print("oraculo: interrupted; what was stored stays stored", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `oraculo search ... | head`: the reader has seen enough.
        _discard_output()
        return 0
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        _discard_output()
        print(f"oraculo: the result could not be written: {exc.strerror}", file=sys.stderr)
        return 2
    finally:
        logging.getLogger("oraculo_kit").removeHandler(handler)


def _discard_output() -> None:
    """Let what is still buffered go nowhere, or the interpreter would try to write it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(exc: OraculoError) -> None:
    from oraculo_kit.display import visible
    from oraculo_kit.environment import redact

    print(f"oraculo: {visible(redact(str(exc)))}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="oraculo", description="Turn documents into a searchable vector base, and ask it."
    )
    parser.add_argument("--version", action="version", version=f"oraculo_kit {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--store",
        metavar="STORE",
        help="the base: a path, postgresql://... or langchain:module:factory (default: ORACULO_STORE, or that of the "
        "project)",
    )
    shared.add_argument("--quiet", "-q", action="store_true", help="no start-up lines and no progress")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary, parents=[shared])
        sub.set_defaults(run=run)
        return sub

    add_ingest_commands(command, _start)
    sub = command("search", _search, "find the chunks that answer a question best")
    sub.add_argument("query", nargs="+")
    sub.add_argument("-k", type=int, default=5, help="how many (default 5)")
    sub.add_argument("--mode", default="hybrid", choices=["hybrid", "vector", "text"])
    command("sources", _sources, "list what is in the base")
    sub = command("remove", _remove, "delete a source from the base (the file stays)")
    sub.add_argument("source")
    command("status", _status, "show services, settings and base")
    command("doctor", _doctor, "check everything and say how to mend it")
    add_store_commands(command)
    sub = command(
        "demo", _demo, "ingest real text from this machine, or a folder, and answer three questions"
    )
    sub.add_argument("folder", nargs="?")
    kernel = commands.add_parser("kernel", help="install or remove a Jupyter kernel that loads the extension")
    actions = kernel.add_subparsers(title="actions", metavar="{install,remove}", required=True)
    for action, run in (("install", _kernel_install), ("remove", _kernel_remove)):
        sub = actions.add_parser(action, help=f"{action} the kernel")
        sub.add_argument("--name", default="oraculo_kit", help="kernel name (default oraculo_kit)")
        where = sub.add_mutually_exclusive_group()
        where.add_argument("--user", action="store_true", help="for this user")
        where.add_argument("--prefix", metavar="FOLDER", help="below this prefix (default: this environment)")
        sub.set_defaults(run=run, quiet=False)
    return parser


def _log_to_stderr(quiet: bool) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s - %(message)s"))
    handler.setLevel(logging.WARNING if quiet else logging.NOTSET)
    # The start-up lines, and whatever is wrong; details such as names of variables are for a log file.
    handler.addFilter(
        lambda record: record.levelno >= logging.WARNING or record.name == "oraculo_kit.services"
    )
    # Our own logger only: the root logger belongs to the program.
    logging.getLogger("oraculo_kit").addHandler(handler)
    return handler


def _start(options: argparse.Namespace, *, to_read: bool = False) -> None:
    from oraculo_kit.services import start_services
    from oraculo_kit.settings import absolute_location

    if options.store is not None:
        # As if it had been exported: so that --store wins over .env and remote, and the services start once.
        os.environ["ORACULO_STORE"] = absolute_location(options.store)
    # A misspelt path, or the wrong folder to stand in, must not become an empty base in which nothing is found.
    start_services(context="cli", make_store=not to_read)


def _search(options: argparse.Namespace) -> int:
    from oraculo_kit.retrieval import search

    question = " ".join(options.query)
    if not question.strip():  # as an unset variable of a shell is
        raise QueryError("the question is empty, expected words to search for")
    _start(options, to_read=True)
    results = search(question, options.k, mode=options.mode)
    print(results)
    return 0 if len(results) else 1


def _sources(options: argparse.Namespace) -> int:
    from oraculo_kit.display import counted, short_source, text_table
    from oraculo_kit.services import get_services
    from oraculo_kit.storage.results import root_of

    _start(options, to_read=True)
    storage = get_services().vetor_storage
    root = root_of(storage.location)
    rows = [
        [row.chunks, row.language or "", row.written_at[:19], short_source(row.source, root)]
        for row in storage.sources()
    ]
    print(text_table(["chunks", "lang", "written", "source"], rows))
    print(f"{counted(len(rows), 'source')} in {storage.location}")
    return 0


def _remove(options: argparse.Namespace) -> int:
    from oraculo_kit.display import counted
    from oraculo_kit.retrieval import remove

    _start(options, to_read=True)
    print(f"{counted(remove(options.source), 'chunk')} deleted")
    return 0


def _status(options: argparse.Namespace) -> int:
    from oraculo_kit.diagnostics import status

    well = _is_well(options)
    print(status())
    return 0 if well else 2


def _doctor(options: argparse.Namespace) -> int:
    from oraculo_kit.diagnostics import doctor

    well = _is_well(options)
    found = doctor()
    print(found)
    if not well:
        return 2
    return 1 if found.problems else 0


def _is_well(options: argparse.Namespace) -> bool:
    """Start the services, where there is a base; that there is none yet is told, and no fault."""
    try:
        _start(options, to_read=True)
    except ServicesFailedError:
        return False
    except StoreNotFoundError as exc:
        if not options.quiet:
            _tell(exc)
    return True


def _demo(options: argparse.Namespace) -> int:
    from oraculo_kit.demo import run_demo

    return run_demo(options.folder, store=options.store, progress=not options.quiet)


def _kernel_install(options: argparse.Namespace) -> int:
    from oraculo_kit.kernelspec import install_kernel

    print(install_kernel(options.name, user=options.user, prefix=options.prefix))
    return 0


def _kernel_remove(options: argparse.Namespace) -> int:
    from oraculo_kit.kernelspec import remove_kernel

    print(remove_kernel(options.name, user=options.user, prefix=options.prefix))
    return 0
