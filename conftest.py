"""Doctests of the package run like tests: in an empty project of their own."""

from __future__ import annotations

import pytest

from tests.conftest import project

__all__ = ["project"]


@pytest.fixture(autouse=True)
def _doctests_in_a_project_of_their_own(request: pytest.FixtureRequest) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("project")
