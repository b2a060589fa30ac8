"""Probes of the set-up: environment, settings, services, packages, kernel."""

from __future__ import annotations

import os
import shlex
import stat
import sys

from oraculo_kit.diagnostics.probes_case import Answer, Case, error_text, named_unknown, unknown_variables
from oraculo_kit.environment import fetch_environ, redact
from oraculo_kit.services import CONTEXTS, State


def environment(case: Case) -> Answer:
    """Ask whether ``.env`` and the environment sources are there, and what they say is acceptable."""
    _ = case.translate
    plan = fetch_environ(case.root)
    case.plan = plan
    case.environ.update(plan.values)
    sources = ", ".join(plan.sources)
    if plan.warnings:
        fix = _("Mend the source, or take it out of ORACULO_ENV_SOURCE.")
        return Answer("warning", redact(" ".join(plan.warnings)), fix)
    if not sources:
        return Answer("ok", _("no .env and no remote source; only the process's own variables count"))
    text = _("read: {sources}; names they set: {count}").format(sources=sources, count=len(plan.values))
    if plan.refused:
        text += "; " + _("left out: {names}").format(names=", ".join(sorted(plan.refused)))
    return Answer("ok", text)


def settings(case: Case) -> Answer:
    """Ask whether every setting is well-formed, whether they go together, and whether a name is misspelt."""
    _ = case.translate
    resolved, faults = case.resolved()
    if case.look.services is None:
        case.settings = resolved
    if faults:
        fix = _(
            "Correct these variables where they are set (environment, .env or remote source) and start again."
        )
        return Answer("problem", " ".join(faults), fix)
    unknown = unknown_variables(case.environ)
    if unknown:
        text = _("variables that nothing reads: {names}").format(names=named_unknown(unknown))
        return Answer("warning", text, _("Correct these names where they are set, or take them away."))
    chosen = [name for name, origin in case.settings.origins if origin != "default"]
    return Answer("ok", _("all valid; differing from the default: {count}").format(count=len(chosen)))


def services(case: Case) -> Answer:
    """Ask whether the services of this process started."""
    _ = case.translate
    look = case.look
    again = _("Mend the cause, then run oraculo_kit.start_services() or restart the kernel.")
    if look.failure is not None:
        text = error_text(look.failure.__cause__ or look.failure)
        if look.services is None:
            return Answer("problem", text, again)
        return Answer(
            "warning", _("the last reload failed, the old ones go on: {reason}").format(reason=text), again
        )
    if look.services is not None:
        seconds = sum(look.services.seconds.values())
        where = _(CONTEXTS[look.services.context])
        return Answer(
            "ok", _("ready for {context} in {seconds:.2f} s").format(context=where, seconds=seconds)
        )
    if look.state is State.STARTING:
        return Answer("ok", _("still starting"))
    return Answer(
        "ok", _("not started in this process; start_services() or %load_ext oraculo_kit starts them")
    )


def private_files(case: Case) -> Answer:
    """Ask whether other users of this machine can read files that hold secrets."""
    from oraculo_kit.environment.cache import cache_path

    _ = case.translate
    if os.name != "posix":
        return Answer("ok", _("protected by the permissions of the project folder"))
    paths = [
        path for path in (os.path.join(case.root, ".env"), cache_path(case.root)) if os.path.isfile(path)
    ]
    loose = [path for path in paths if stat.S_IMODE(os.stat(path).st_mode) & 0o077]
    if loose:
        text = _("other users of this machine can use: {paths}").format(paths=", ".join(loose))
        return Answer("warning", text, "chmod 600 " + " ".join(map(shlex.quote, loose)))
    return Answer("ok", _("only you can read them") if paths else _("there are none"))


def packages(case: Case) -> Answer:
    """Ask whether Python and our packages are within the bounds that this version was made for."""
    from importlib.metadata import PackageNotFoundError, distribution, version

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    _ = case.translate
    try:
        own = distribution("oraculo_kit")
    except PackageNotFoundError:
        text = _("oraculo_kit runs from its source folder and is not installed, so its bounds are not known")
        return Answer("warning", text, "pip install -e .")
    wrong = []
    python = ".".join(map(str, sys.version_info[:3]))
    # A missing key gives None today and is to raise one day.
    bounds = str(own.metadata["Requires-Python"]) if "Requires-Python" in own.metadata else ""
    if python not in SpecifierSet(bounds):
        wrong.append(f"Python {python} ({bounds})")
    needed = [Requirement(text) for text in own.requires or []]
    needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    for each in needed:
        try:
            found = version(each.name)
        except PackageNotFoundError:
            wrong.append(_("{name} is missing").format(name=each.name))
            continue
        if not each.specifier.contains(found, prereleases=True):
            wrong.append(f"{each.name} {found} ({each.specifier})")
    if wrong:
        fix = "pip install --upgrade oraculo_kit"
        return Answer("problem", _("out of bounds: {names}").format(names=", ".join(wrong)), fix)
    return Answer(
        "ok",
        _("Python {python} and {count} packages are within bounds").format(python=python, count=len(needed)),
    )


def kernel(case: Case) -> Answer:
    """Ask for a Jupyter kernel that loads the extension, and whether its Python still exists."""
    from jupyter_client.kernelspec import KernelSpecManager

    _ = case.translate
    ours = {
        name: entry["spec"]["argv"]
        for name, entry in KernelSpecManager().get_all_specs().items()
        if any("oraculo_kit" in argument for argument in entry["spec"]["argv"])
    }
    install = "oraculo kernel install"
    gone = sorted(
        name for name, argv in ours.items() if os.path.isabs(argv[0]) and not os.path.exists(argv[0])
    )
    if gone:
        return Answer(
            "warning", _("its Python no longer exists: {names}").format(names=", ".join(gone)), install
        )
    if ours:
        return Answer("ok", _("installed: {names}").format(names=", ".join(sorted(ours))))
    return Answer(
        "ok", _("none yet: `oraculo kernel install` makes one; %load_ext oraculo_kit works in any kernel")
    )
