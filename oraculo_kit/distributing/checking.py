"""What Dask workers must have in common with the caller, checked before the first task.

Python's minor version (pickles), this package's version, the settings as they arrive, the embedder's name and the vector
that it gives for `PROBE_TEXT`, the stems of a sentence. Other packages may differ: then the log has a table of them.
"""

from __future__ import annotations

import inspect
import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import dask

from oraculo_kit.distributing import examining
from oraculo_kit.distributing.secrets import (
    give_secrets,
    names_to_send,
    refuse_open_ways,
    scheduler_address,
    without_password,
)
from oraculo_kit.distributing.working import SAME_VECTOR, STEMMED, Reply
from oraculo_kit.errors import WorkerMismatchError
from oraculo_kit.storage.fulltext import stem_text

if TYPE_CHECKING:
    from distributed import Client, Future

    from oraculo_kit.embed import Embedder
    from oraculo_kit.services import Services
    from oraculo_kit.settings import Settings
    from oraculo_kit.stopping import StopSignal

_log = logging.getLogger("oraculo_kit.distributing")
_COMPARED = ("python", "oraculo_kit", "settings", "embedder", "its answer", "stems")
_ANSWER_SECONDS = 60.0  # a worker that is busy for longer is examined with its first task
_NO_WARNING = "1TB"
_CALL = "exec(code, globals()) or examined(expected, settings, work)"


@dataclass(frozen=True)
class Examination:
    """The caller's own facts and settings, as every task carries them.

    Attributes
    ----------
    expected : dict
    settings : bytes
        Pickled.
    """

    expected: dict[str, Any]
    settings: bytes

    @classmethod
    def of(cls, settings: Settings, embedder: Embedder, names: frozenset[str] = frozenset()) -> Examination:
        """Look at this process.

        Parameters
        ----------
        settings : Settings
        embedder : Embedder
        names : frozenset of str
            Environment variables to send to workers that lack them.

        Raises
        ------
        EmbedderError
            When the embedder does not answer even here.
        """
        import cloudpickle

        facts = examining.basic_facts()
        expected = {
            **facts,
            "settings": settings.fingerprint,
            "embedder": embedder.name,
            "its answer": SAME_VECTOR,
            "stems": stem_text(STEMMED),
            "probe": embedder.probe(),
            "packages": _own_packages(),
            "names": names,
        }
        # cloudpickle: an embedder that was defined in a notebook travels whole.
        return cls(expected, cloudpickle.dumps(settings))

    def submit(self, client: Client, work: bytes | None, **options: Any) -> Future[Any]:
        """Send a piece of work, or with None only the examination, to a worker."""
        scope = {
            "code": inspect.getsource(examining),
            "expected": self.expected,
            "settings": self.settings,
            "work": work,
        }
        # A document that the caller holds in memory travels with its task, however large; Dask would warn.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": _NO_WARNING}):
            return client.submit(eval, _CALL, scope, pure=False, **options)

    def differences(self, facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Return what differs: name, here, there; what was not looked at because of another difference is left out."""
        return [
            (name, str(self.expected[name]), str(facts[name]))
            for name in _COMPARED
            if name in facts and facts[name] != self.expected[name]
        ]


def check_workers(
    client: Client, services: Services, *, send_secrets: bool = False, stop: StopSignal | None = None
) -> Examination:
    """Examine all workers that are there now.

    Parameters
    ----------
    client : distributed.Client
    services : Services
        The caller's.
    send_secrets : bool
        Send keys to workers that lack them; see `oraculo_kit.distributing.secrets`.
    stop : StopSignal, optional

    Returns
    -------
    Examination
        For workers that join later. Those that give no answer within a minute are examined with their first task, too.

    Raises
    ------
    SettingsError
        When secrets would travel openly.
    EmbedderError
        When the embedder does not answer even here.
    WorkerMismatchError
        With a table of what differs.
    Stopped
    """
    if send_secrets:
        refuse_open_ways([scheduler_address(client), *client.nthreads()])
    names = names_to_send(services.settings) if send_secrets else frozenset()
    examination = Examination.of(without_password(services.settings), services.vetor_storage.embedder, names)
    addresses = list(client.nthreads())
    found = _examined(client, examination, addresses, stop)
    bare = [address for address, reply in found.items() if isinstance(reply, Reply)]
    if bare:
        give_secrets(client, names, bare)
        found |= _examined(client, examination, bare, stop)
    found = {address: facts for address, facts in found.items() if isinstance(facts, dict)}
    rows = [
        (address, *difference)
        for address, facts in found.items()
        for difference in examination.differences(facts)
    ]
    if rows:
        bad = len({address for address, *_ in rows})
        raise WorkerMismatchError(
            f"{bad} of {len(addresses)} Dask workers differ from this process, and nothing was given to any of them:\n\n"
            f"{difference_table(rows)}\n\n{_advice(rows)}"
        )
    _compare_packages(examination.expected["packages"], found)
    return examination


def _examined(
    client: Client, examination: Examination, addresses: Sequence[str], stop: StopSignal | None
) -> dict[str, Any]:
    """Return what workers said, by address."""
    futures = {
        address: examination.submit(
            client,
            None,
            workers=[address],
            allow_other_workers=False,
            key=f"oraculo_check-{uuid.uuid4().hex}",
        )
        for address in addresses
    }
    deadline = time.monotonic() + _ANSWER_SECONDS
    try:
        while time.monotonic() < deadline and not all(future.done() for future in futures.values()):
            if stop is not None:
                stop.check()
            time.sleep(0.01)
        return {
            address: future.result() for address, future in futures.items() if future.status == "finished"
        }
    finally:
        for future in futures.values():
            future.release()


def difference_table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Return a table of what differs, as plain text.

    Examples
    --------
    >>> print(difference_table([("tcp://10.0.0.7:4000", "python", "3.11", "3.12")]))
    worker               what    here  there
    tcp://10.0.0.7:4000  python  3.11  3.12
    """
    table = [("worker", "what", "here", "there"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def _advice(rows: Sequence[tuple[str, str, str, str]]) -> str:
    names = {name for _, name, *_ in rows}
    if names & {"python", "oraculo_kit"}:
        return "Install the same versions there, and start these workers again."
    if "stems" in names:
        return "PyStemmer makes other stems there, and words would not be found; install the same version."
    if "its answer" in names:
        return (
            "The embedder must be the same model there. Keys of model providers do not travel by themselves: set them "
            "where the workers start, or give send_secrets=True."
        )
    return "The settings must arrive as they are here: install there what they need."


def _compare_packages(expected: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        (address, name, version, facts["packages"][name])
        for address, facts in found.items()
        for name, version in expected.items()
        if facts["packages"][name] != version
    ]
    if rows:
        _log.warning("packages of Dask workers differ from this process:\n%s", difference_table(rows))


def _own_packages() -> dict[str, str]:
    """Return the versions of what this package needs, extras included, as far as it is installed here."""
    try:
        required = metadata.requires("oraculo_kit") or []
    except metadata.PackageNotFoundError:  # run from its source folder
        required = []
    names = sorted({re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required} - {"oraculo_kit"})
    return {name: version for name, version in installed_versions(names).items() if version != "missing"}


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages in this process; "missing" for those that are not installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found
