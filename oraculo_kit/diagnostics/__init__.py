"""``status`` and ``doctor``: how things stand, and what to do where they do not stand well.

Both answer whatever state the services are in: they never raise, start nothing and change nothing. What cannot be
read becomes a line that says so. ``status`` looks at this process and at the files that workers left; ``doctor``
also tries things out (see `oraculo_kit.diagnostics.probes`).

No value of a secret gets here: environment names are shown as set or unset, a store's password is masked, free
text is redacted (`oraculo_kit.diagnostics.status_facts`), and everything is escaped when it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from oraculo_kit.diagnostics.probes import examine
from oraculo_kit.diagnostics.probes_case import Finding
from oraculo_kit.diagnostics.sections import Page, Section
from oraculo_kit.diagnostics.status_facts import gather_facts
from oraculo_kit.diagnostics.status_page import Status
from oraculo_kit.messages import N_, translator
from oraculo_kit.services import ServicesState, _early_choices, services_state

__all__ = ["Doctor", "Finding", "Status", "doctor", "status"]

_OUTCOMES = {"problem": N_("problem"), "warning": N_("warning"), "ok": N_("ok")}


def status() -> Status:
    """Look at the services of this process, their settings, their store and the workers seen.

    Starts nothing, changes nothing and never raises.

    Returns
    -------
    Status
        Shows itself in a terminal and in a notebook; ``to_dict()`` gives it as plain data.

    Examples
    --------
    >>> from oraculo_kit import status
    >>> sorted(status().to_dict()["versions"])[:2]
    ['APSW', 'FAISS']
    """
    look = services_state()
    return Status(gather_facts(look), _language(look))


def doctor() -> Doctor:
    """Examine everything the services need, and say how to mend what is wrong.

    Takes about a second; a probe that hangs is given up after ten. Nothing is changed, and nothing is raised.

    Returns
    -------
    Doctor
        Shows itself in a terminal and in a notebook; ``to_dict()`` gives it as plain data.

    Examples
    --------
    >>> from oraculo_kit import doctor
    >>> [finding.outcome for finding in doctor().findings if finding.probe == "sqlite"]
    ['ok']
    """
    look = services_state()
    language = _language(look)
    return Doctor(examine(look, translator(language)), language)


class Doctor(Page):
    """What `doctor` found.

    Attributes
    ----------
    findings : tuple of Finding
        One per probe.
    language : str
        Of the findings.
    """

    def __init__(self, findings: Sequence[Finding], language: str) -> None:
        super().__init__(language)
        self.findings = tuple(findings)

    @property
    def problems(self) -> list[Finding]:
        """What does not work, or will lose data."""
        return [finding for finding in self.findings if finding.outcome == "problem"]

    @property
    def warnings(self) -> list[Finding]:
        """What works, but may not do so for long."""
        return [finding for finding in self.findings if finding.outcome == "warning"]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data that JSON can hold."""
        return {
            "problems": len(self.problems),
            "warnings": len(self.warnings),
            "language": self.language,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def _headline(self) -> str:
        _ = translator(self.language)
        problems, warnings = len(self.problems), len(self.warnings)
        if not problems and not warnings:
            return _("Everything is in order.")
        text = _("problems: {problems}, warnings: {warnings}, in order: {fine}")
        return text.format(
            problems=problems, warnings=warnings, fine=len(self.findings) - problems - warnings
        )

    def _sections(self) -> list[Section]:
        _ = translator(self.language)
        rows = []
        # What needs attention comes first.
        for finding in (
            *self.problems,
            *self.warnings,
            *(each for each in self.findings if each.outcome == "ok"),
        ):
            rows.append((_(_OUTCOMES[finding.outcome]), finding.name, finding.text))
            if finding.fix:
                rows.append(("", "", _("What to do: {fix}").format(fix=finding.fix)))
        return [Section("", rows)]


def _language(look: ServicesState) -> str:
    if look.services is not None:
        return look.services.settings.lang
    # The language of the start-up lines that were said so far.
    return _early_choices()[0]
