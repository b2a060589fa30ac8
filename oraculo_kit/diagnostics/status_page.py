"""The page that ``status`` shows: the facts of `oraculo_kit.diagnostics.status_facts`, in the user's language."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from oraculo_kit.diagnostics.probes_case import named_unknown
from oraculo_kit.diagnostics.sections import Page, Section
from oraculo_kit.display import size_text
from oraculo_kit.messages import N_, translator
from oraculo_kit.services import CONTEXTS

_SHOWN_WORKERS = 12

_STATES = {
    "stopped": N_("stopped"),
    "starting": N_("starting"),
    "ready": N_("ready"),
    "failed": N_("failed"),
    "ended": N_("ended"),
}
_HEADLINES = {
    "stopped": N_("services not started"),
    "starting": N_("services are starting"),
    "ready": N_("services ready"),
    "failed": N_("services failed"),
}
_ORIGINS = {
    "argument": N_("argument"),
    "environment": N_("environment"),
    "dotenv": ".env",
    "remote": N_("remote"),
    "default": N_("default"),
}
_ENGINE_WORDS = {
    word: word
    for word in (
        N_("embedded (SQLite and FAISS)"),
        N_("PostgreSQL with pgvector"),
        N_("LangChain vector store with a local catalog"),
        N_("processes of one machine"),
        N_("any machine"),
    )
} | {"others_see_whole_sources": N_("show other programs whole sources only")}
"""What `Capabilities` say; what is not here is the name of a method, and stays one."""

_PARTS = {"environment": N_("environment"), "VetorStorage": "VetorStorage"}


class Status(Page):
    """How the services of this process stood when `status` was called.

    Attributes
    ----------
    language : str
        Of the page.
    """

    def __init__(self, facts: dict[str, Any], language: str) -> None:
        super().__init__(language)
        self._facts = facts

    @property
    def state(self) -> str:
        """stopped, starting, ready or failed."""
        return str(self._facts["state"])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data that JSON can hold; its keys are the same in every language."""
        return copy.deepcopy(self._facts)

    def _headline(self) -> str:
        _ = translator(self.language)
        facts = self._facts
        parts = [
            f"oraculo_kit {facts['versions'].get('oraculo_kit', '')}".rstrip(),
            _named(_, _HEADLINES, facts["state"]),
        ]
        if facts["context"]:
            parts.append(_named(_, CONTEXTS, facts["context"]))
        return " · ".join([*parts, f"pid {facts['pid']}"])

    def _sections(self) -> list[Section]:
        _ = translator(self.language)
        return [
            self._place(_),
            self._failure(_),
            self._services(_),
            self._settings(_),
            self._environment(_),
            self._workers(_),
            self._machine(_),
            self._unread(_),
        ]

    def _place(self, _: Callable[[str], str]) -> Section:
        facts, store = self._facts, self._facts["store_summary"]
        rows = [(_("project"), facts["project_root"]), (_("store"), facts["store"])]
        if facts["store_exists"] is False:
            rows.append(("", _("there is no base yet; the first ingestion makes it")))
        if store is not None:
            text = _("chunks: {chunks}, sources: {sources}, {size}, embedder: {embedder}, commit: {commit}")
            values = {**store, "size": size_text(store["bytes"]), "embedder": store["embedder"] or "-"}
            rows.append(("", text.format(**values)))
            able = store["capabilities"]
            rows.append((_("engine"), _named(_, _ENGINE_WORDS, able["engine"])))
            rows.append((_("writers"), _named(_, _ENGINE_WORDS, able["writers"])))
            if able["lacks"]:
                rows.append(
                    (_("cannot"), ", ".join(_named(_, _ENGINE_WORDS, name) for name in able["lacks"]))
                )
        return Section("", rows)

    def _failure(self, _: Callable[[str], str]) -> Section:
        failure = self._facts["failure"]
        if failure is None:
            return Section("")
        fix = _(
            "Mend the cause, then run oraculo_kit.start_services(); `%oraculo doctor` examines everything."
        )
        title = (
            _("What failed")
            if self.state == "failed"
            else _("The last reload failed; the old services go on")
        )
        return Section(title, [(_("cause"), failure["cause"]), (_("what to do"), fix)])

    def _services(self, _: Callable[[str], str]) -> Section:
        rows = [
            (_named(_, _PARTS, part["name"]), _named(_, _STATES, part["state"]), _seconds(part["seconds"]))
            for part in self._facts["services"]
        ]
        # What failed stands above already.
        failure = self._facts["failure"]
        lines = [line for line in self._facts["lines"] if failure is None or failure["cause"] not in line]
        return Section(_("Services"), rows, notes=lines)

    def _settings(self, _: Callable[[str], str]) -> Section:
        rows = [
            (each["variable"], _named(_, _ORIGINS, each["origin"]), str(each["value"]))
            for each in self._facts["settings"]
        ]
        # The first fault is often what failed, and stands above already.
        cause = (self._facts["failure"] or {}).get("cause")
        notes = [fault for fault in self._facts["settings_faults"] if fault != cause]
        if self.state != "ready" and not self._facts["environment"]["loaded"]:
            notes.append(_(".env and remote sources were not loaded and do not count here."))
        if unknown := self._facts["unknown_variables"]:
            notes.append(_("variables that nothing reads: {names}").format(names=named_unknown(unknown)))
        return (
            Section(_("Settings"), rows, (_("variable"), _("origin"), _("value")), notes)
            if rows
            else Section("")
        )

    def _environment(self, _: Callable[[str], str]) -> Section:
        environment = self._facts["environment"]
        known = {each["variable"] for each in self._facts["settings"]}
        names = [each for each in environment["names"] if each["name"] not in known]
        rows = [
            (each["name"], _("set"), _named(_, _ORIGINS, each["origin"])) for each in names if each["set"]
        ]
        notes = []
        unset = [each["name"] for each in names if not each["set"]]
        if unset:
            notes.append(_("unset: {names}").format(names=", ".join(unset)))
        if environment["refused"]:
            notes.append(_("left out: {names}").format(names=", ".join(environment["refused"])))
        if environment["sources"]:
            notes.append(_("read: {sources}").format(sources=", ".join(environment["sources"])))
        warning = _("warning")
        notes += [f"{warning}: {text}" for text in environment["warnings"]]
        return Section(_("Environment (names only)"), rows, notes=notes)

    def _workers(self, _: Callable[[str], str]) -> Section:
        workers = self._facts["workers"]
        # Those that live come first, then those that ended last.
        shown = sorted(workers, key=lambda each: (each["alive"], each["started"]), reverse=True)[
            :_SHOWN_WORKERS
        ]
        rows = [
            (
                str(each["pid"]),
                _named(_, CONTEXTS, each["context"]),
                ", ".join(_named(_, _STATES, word) for word in _worker_words(each)),
                {True: _("the same"), False: _("different"), None: "?"}[each["same_settings"]],
                str(each["threads"] or "-"),
                each["started"].replace("T", " "),
            )
            for each in shown
        ]
        notes = []
        if len(workers) > len(shown):
            notes.append(
                _("and {count} more; to_dict() has them all").format(count=len(workers) - len(shown))
            )
        # Workers say the same lines, so each text is shown once with those who said it.
        said: dict[tuple[str, ...], list[str]] = {}
        for each in shown:
            said.setdefault(tuple(each["lines"]), []).append(str(each["pid"]))
        for lines, pids in said.items():
            notes += [f"pid {', '.join(pids)}:", *lines] if lines else []
        header = ("pid", _("context"), _("state"), _("settings"), _("threads"), _("started"))
        return Section(_("Workers of the last day"), rows, header, notes) if rows else Section("")

    def _machine(self, _: Callable[[str], str]) -> Section:
        threads = self._facts["threads"]
        pools = [f"{each['library']} {each['threads']}" for each in threads["pools"]]
        limits = [f"{name}={value}" for name, value in threads["variables"].items() if value is not None]
        limit = ", ".join(limits) or _("OMP_NUM_THREADS is not set")
        cores = _("cores: {count}").format(count=threads["cores"])
        versions = [
            f"{name} {version}" for name, version in self._facts["versions"].items() if name != "oraculo_kit"
        ]
        return Section(
            _("Machine"),
            [(_("threads"), ", ".join([*pools, limit, cores])), (_("versions"), ", ".join(versions))],
        )

    def _unread(self, _: Callable[[str], str]) -> Section:
        rows = list(self._facts["faults"].items())
        notes = [_("`%oraculo doctor` examines everything.")] if rows else []
        return Section(_("Could not be read") if rows else "", rows, notes=notes)


def _named(translate: Callable[[str], str], names: Mapping[str, str], key: str) -> str:
    # A file of another version may hold a word that this one does not know.
    return translate(names.get(key, key))


def _worker_words(worker: Mapping[str, Any]) -> list[str]:
    if worker["alive"]:
        return [worker["state"]]
    return ["ended"] if worker["state"] == "ready" else ["ended", worker["state"]]


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f} s"
