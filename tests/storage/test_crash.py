"""Killed at any moment: what was acknowledged is there, no source is half there, and the store goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storage.kit import Child
from tests.storage.test_lock import posix

pytestmark = posix


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.full)])
def test_a_writer_may_die_at_every_operation_of_the_protocol(
    tmp_path: Path, child: Callable[..., Child], every: int
) -> None:
    result = child("die_at_each_operation", tmp_path, 0, every).result(timeout=60 if every > 1 else 1800)
    assert result["problems"] == []
    assert result["lost"] == 0
    assert result["deaths"] == -(-result["operations"] // every)
    assert result["operations"] > 500


@pytest.mark.parametrize(("rounds", "check_every"), [(20, 4), pytest.param(1000, 20, marks=pytest.mark.full)])
def test_writers_killed_at_random_lose_nothing_acknowledged(
    folder: Path, child: Callable[..., Child], rounds: int, check_every: int
) -> None:
    result = child("kill_writers", folder, rounds, check_every).result(timeout=60 if rounds < 100 else 1800)
    assert result["problems"] == []
    assert result["kills"] == 2 * rounds
    assert result["acknowledged"] > rounds
