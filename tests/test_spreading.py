"""Which sources workers get, and how many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest

from oraculo_kit.errors import SettingsError
from oraculo_kit.spreading import SourceTasks, Spread


@dataclass(frozen=True)
class Source:
    key: str
    size: int


def sources(count: int, size: int = 100) -> list[Source]:
    return [Source(f"{number}", size) for number in range(count)]


def test_every_source_is_in_one_task_in_order() -> None:
    given = sources(1000)
    tasks = SourceTasks(given)  # type: ignore[arg-type]
    found = []
    for task in tasks:
        assert task
        found += task
        tasks.learn(len(task), 0.01)
        assert tasks.left == 1000 - len(found)
    assert found == given


def test_a_task_is_bounded_by_its_bytes_and_a_large_source_is_one_of_its_own() -> None:
    given = [*sources(5, 400), Source("large", 5000), *sources(5, 400)]
    tasks = list(SourceTasks(given, most_bytes=1000))  # type: ignore[arg-type]
    assert [len(task) for task in tasks] == [2, 2, 1, 1, 2, 2, 1]
    assert [task[0].key for task in tasks if len(task) == 1][1] == "large"


def test_slow_documents_make_small_tasks_and_quick_ones_large_ones() -> None:
    tasks = SourceTasks(sources(5000))  # type: ignore[arg-type]
    given = iter(tasks)
    first = len(next(given))
    for _ in range(10):
        tasks.learn(first, 100.0)
    assert len(next(given)) == 1
    sizes = []
    for _ in range(12):
        tasks.learn(100, 0.05)
        sizes.append(len(next(given)))
    assert sizes == sorted(sizes)
    assert sizes[-1] > 100
    assert all(after <= 2 * before for before, after in pairwise(sizes))  # no leap


def test_what_is_for_dask_alone_is_refused_elsewhere() -> None:
    with pytest.raises(SettingsError, match="are for backend='dask', and the backend is 'loky'"):
        Spread(address="tcp://10.0.0.7:8786")
