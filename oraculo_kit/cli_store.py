"""The commands of ``oraculo`` that look after a base: they open it by its path, without services.

So a base that cannot be opened can still be verified and repaired.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import EmbedderNotFoundError, StorageError

if TYPE_CHECKING:
    from oraculo_kit.storage.base import VetorStorage

Command = Callable[[str, Any, str], argparse.ArgumentParser]


def add_store_commands(command: Command) -> None:
    """Add the commands to the parser.

    Parameters
    ----------
    command : callable
        Makes the parser of a command from its name, its function and a sentence.
    """
    command("health", _health, "tell what the base would want done")
    command("verify", _verify, "check every invariant of the base, and change nothing")
    command("repair", _repair, "rebuild what can be rebuilt of a damaged base, and name what is lost")
    sub = command("compact", _compact, "merge files and give the space of deleted chunks back")
    sub.add_argument(
        "--purge", action="store_true", help="also erase what was deleted from every file (LGPD)"
    )
    sub = command("optimize", _optimize, "build approximate indexes that make a large base faster")
    sub.add_argument(
        "--recall", type=float, default=0.95, help="share of the true nearest to find (default 0.95)"
    )
    sub = command("reembed", _reembed, "embed every text of the base anew with another model")
    sub.add_argument("embedder", help='"wordllama" or "provider:model"')
    sub = command("snapshot", _snapshot, "make a consistent copy of the base, beside readers and writers")
    sub.add_argument("path", help="a new folder")
    sub = command("copy", _copy, "copy a base into another one, of any engine, without embedding again")
    sub.add_argument("source", help="a folder or URL, as in ORACULO_STORE")
    sub.add_argument("target", help="an empty one, or part of a copy that was stopped")
    sub = command("restore", _restore, "put a copy of a snapshot in the place of the base")
    sub.add_argument("snapshot")
    sub.add_argument(
        "--overwrite", action="store_true", help="set a base that is there aside, under another name"
    )


def _location(options: argparse.Namespace, *, must_exist: bool = True) -> str:
    """Return the base's folder or URL, as every other command finds it."""
    from oraculo_kit.environment import set_environ_remote
    from oraculo_kit.services import check_store_exists
    from oraculo_kit.settings import Settings, absolute_location, is_url

    set_environ_remote()
    location = absolute_location(options.store) if options.store is not None else Settings.resolve().store
    if must_exist and not is_url(location):  # a URL is asked when it is opened
        check_store_exists(location)
    return location


def _opened(options: argparse.Namespace, *, read_only: bool = False) -> AbstractContextManager[VetorStorage]:
    from oraculo_kit.services import check_store_exists
    from oraculo_kit.settings import is_url
    from oraculo_kit.storage.faiss import FaissVetorStorage

    location = _location(options)
    if is_url(location):
        if not read_only:
            check_store_exists(location)  # these commands make no base where there is none
        return _open(location, read_only=read_only)
    return FaissVetorStorage(location, None, read_only, **_waiting())


def _open(location: str, embedder: str | None = None, *, read_only: bool = False) -> VetorStorage:
    from oraculo_kit.storage import open_storage

    return open_storage(location, embedder, read_only, **_waiting())


def _waiting() -> dict[str, Any]:
    from oraculo_kit.settings import Settings

    settings = Settings.resolve()
    return {"durability": settings.durability, "lock_timeout": settings.lock_timeout}


def _health(options: argparse.Namespace) -> int:
    with _opened(options, read_only=True) as store:
        report = store.health()
    print(report)
    return 0 if report.ok else 1


def _verify(options: argparse.Namespace) -> int:
    from oraculo_kit.settings import is_url
    from oraculo_kit.storage.verify import verify_store

    location = _location(options)
    if is_url(location):
        with _opened(options, read_only=True) as store:
            report = store.verify()
    else:
        report = verify_store(Path(location))
    print(report)
    return 0 if report.ok else 1


def _repair(options: argparse.Namespace) -> int:
    from oraculo_kit.settings import Settings, is_url
    from oraculo_kit.storage.repairing import repair_store

    location = _location(options)
    if is_url(location):
        with _opened(options) as store:
            report = store.repair()
    else:
        report = repair_store(location, Settings.resolve().embedder)
    print(report)
    return 0 if report.ok and not report.lost else 1


def _compact(options: argparse.Namespace) -> int:
    with _opened(options) as store:
        print(store.compact(purge=options.purge))
    return 0


def _optimize(options: argparse.Namespace) -> int:
    with _opened(options) as store:
        report = store.optimize(options.recall)
    print(report)
    return 0 if report.reached else 1


def _reembed(options: argparse.Namespace) -> int:
    def tell(done: int, total: int) -> None:
        if not options.quiet:
            print(f"{done} of {total} chunks embedded", file=sys.stderr)

    with _opened(options) as store:
        print(store.reembed(options.embedder, tell))
    return 0


def _snapshot(options: argparse.Namespace) -> int:
    with _opened(options, read_only=True) as store:
        print(store.snapshot(options.path))
    return 0


def _copy(options: argparse.Namespace) -> int:
    from oraculo_kit.copying import copy_store
    from oraculo_kit.environment import set_environ_remote
    from oraculo_kit.settings import absolute_location

    def tell(done: int, total: int) -> None:
        if not options.quiet:
            print(f"{done} of {total} chunks copied", file=sys.stderr)

    set_environ_remote()
    with _open(absolute_location(options.source), read_only=True) as source:
        with _target(absolute_location(options.target), source) as target:
            report = copy_store(source, target, progress=tell)
    print(report)
    return 0 if report.ok else 1


def _target(location: str, source: VetorStorage) -> VetorStorage:
    """Open what is copied to with the embedder of the source, which some engines ask for a vector's length."""
    from oraculo_kit.embed import Embedder
    from oraculo_kit.settings import Settings

    embedder, chosen = source.stored_embedder(), Settings.resolve().embedder
    if embedder is None or Embedder(chosen).name == embedder.name:
        return _open(location, chosen)
    try:
        return _open(location, embedder.name)
    except EmbedderNotFoundError:  # an object's class: it has no name that could be loaded, and need not be
        return _open(location)


def _restore(options: argparse.Namespace) -> int:
    from oraculo_kit.settings import is_url
    from oraculo_kit.storage.copies import restore_store

    location = _location(options, must_exist=False)
    if is_url(location):
        raise StorageError(
            "the base is not a folder, where alone a snapshot can be put: `oraculo copy SNAPSHOT URL` copies it into the base"
        )
    aside = restore_store(options.snapshot, location, overwrite=options.overwrite)
    print(f"{location} holds what {options.snapshot} holds")
    if aside is not None:
        print(f"what was there before is now {aside}")
    return 0
