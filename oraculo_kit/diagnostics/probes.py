"""What ``doctor`` looks into: one function per question, its finding, and how to mend what it found.

- Every probe stands alone: it runs on a thread of its own with a time limit, and whatever it raises becomes its
  finding. A network mount or a model server that never answers costs its limit, not the notebook.
- Nothing is changed. The environment is fetched and not applied, the base is opened read-only, and the temporary
  file of the write probe is gone when it ends.
- Texts are in the user's language; what an exception says stays English and is redacted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from oraculo_kit.diagnostics import probes_setup, probes_store
from oraculo_kit.diagnostics.probes_case import Answer, Case, Finding, error_text
from oraculo_kit.messages import N_
from oraculo_kit.services import ServicesState

TIME_LIMIT = 10
"""Seconds for one probe; fetching the environment has its own limit, ``ORACULO_ENV_TIMEOUT``."""


def examine(look: ServicesState, translate: Callable[[str], str]) -> list[Finding]:
    """Run every probe.

    Parameters
    ----------
    look : ServicesState
    translate : callable
        The translator of the user's language.

    Returns
    -------
    list of Finding
        In the order of `PROBES`. Nothing is raised but `KeyboardInterrupt`.
    """
    _ = translate
    try:
        case = Case(look, translate)
    except OSError as exc:
        text, fix = (
            error_text(exc),
            _("Change to a working folder that exists and can be read, then try again."),
        )
        return [Finding("project", _("project"), "problem", text, fix)]
    findings = []
    for key, name, probe, remedy in PROBES:
        started = time.perf_counter()
        # Fetching the environment keeps its own limit, which .env may set.
        limit = None if probe is probes_setup.environment else TIME_LIMIT
        answer = _within(limit, probe, case, remedy)
        seconds = time.perf_counter() - started
        findings.append(Finding(key, _(name), answer.outcome, answer.text, answer.fix, seconds))
    return _without_echo(findings, look, _)


def _without_echo(
    findings: list[Finding], look: ServicesState, translate: Callable[[str], str]
) -> list[Finding]:
    """Let the failed services point to the finding that has their cause, instead of saying all of it again."""
    _ = translate
    cause = look.failure.cause_type if look.failure is not None and look.services is None else ""
    origins = [
        each.name
        for each in findings
        if cause
        and each.probe != "services"
        and each.outcome == "problem"
        and each.text.startswith(f"{cause}:")
    ]
    text = _("did not start; the cause is under: {names}").format(names=", ".join(origins))
    return [replace(each, text=text) if origins and each.probe == "services" else each for each in findings]


def _within(limit: float | None, probe: Callable[[Case], Answer], case: Case, remedy: str) -> Answer:
    _ = case.translate
    answers: list[Answer] = []

    def run() -> None:
        try:
            answers.append(probe(case))
        except BaseException as exc:  # noqa: BLE001 - SystemExit from a user's source or model too: it is a finding
            answers.append(Answer("problem", error_text(exc), _(remedy)))

    thread = threading.Thread(target=run, name=f"oraculo-doctor-{probe.__name__}", daemon=True)
    thread.start()
    thread.join(limit)
    if answers:
        return answers[0]
    return Answer("problem", _("no answer within {limit} s").format(limit=limit), _(remedy))


PROBES: tuple[tuple[str, str, Callable[[Case], Answer], str], ...] = (
    (
        "environment",
        N_("environment sources"),
        probes_setup.environment,
        N_("Mend the source that is named, or take it out of ORACULO_ENV_SOURCE; nothing was applied."),
    ),
    ("settings", N_("settings"), probes_setup.settings, N_("Correct the variable that is named.")),
    ("services", N_("services"), probes_setup.services, N_("Restart the kernel or the program.")),
    (
        "private_files",
        N_("files with secrets"),
        probes_setup.private_files,
        N_("Make these files yours and readable."),
    ),
    (
        "write_permission",
        N_("write permission"),
        probes_store.write_permission,
        N_("Choose a folder that you may write to with ORACULO_STORE."),
    ),
    (
        "disk_space",
        N_("disk space"),
        probes_store.disk_space,
        N_("Check that the disk is there and answers."),
    ),
    (
        "file_system",
        N_("file system"),
        probes_store.file_system,
        N_("Keep the base on a local disk (ORACULO_STORE)."),
    ),
    (
        "store",
        N_("store"),
        probes_store.store,
        N_("Restore the folder from a backup, or choose another base with ORACULO_STORE and ingest into it."),
    ),
    ("sqlite", "SQLite", probes_store.sqlite, N_("Reinstall it: pip install --force-reinstall apsw")),
    (
        "embedder",
        N_("embedder"),
        probes_store.embedder,
        N_("Install the model's package and set its key, or use the default: ORACULO_EMBEDDER=wordllama."),
    ),
    (
        "openmp",
        "OpenMP",
        probes_store.openmp,
        N_("Reinstall it: pip install --force-reinstall threadpoolctl"),
    ),
    (
        "packages",
        N_("packages"),
        probes_setup.packages,
        N_("Reinstall: pip install --force-reinstall oraculo_kit"),
    ),
    (
        "kernel",
        N_("Jupyter kernel"),
        probes_setup.kernel,
        N_("Reinstall Jupyter: pip install --upgrade jupyterlab"),
    ),
)
"""Key, name, function, and what to do when the function itself fails."""
