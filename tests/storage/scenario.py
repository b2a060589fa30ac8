"""A short life of a store that takes every path of the commit protocol, and what must be there after each step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from langchain_core.documents import Document

from oraculo_kit.errors import StorageError
from oraculo_kit.storage import commit
from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.kit import vectors

State = dict[str, list[str]]


class Step(NamedTuple):
    """One call of the store."""

    call: str
    source: str
    count: int = 0
    version: int = 0

    def texts(self) -> list[str]:
        """Return the texts that it stores."""
        return [f"{self.source} versão {self.version} parte {place}" for place in range(self.count)]

    def sorted_texts(self) -> list[str]:
        """Return them as `stored` does."""
        return sorted(self.texts())

    def run(self, store: FaissVetorStorage) -> None:
        """Do it."""
        made = [
            Document(page_content=text, metadata={"source": self.source, "version": self.version})
            for text in self.texts()
        ]
        if self.call == "remove":
            store.remove_by_metadata("source", self.source)
        elif self.call in ("compact", "purge"):
            store.compact(purge=self.call == "purge")
        elif self.call == "write":
            store.write(made, vectors(self.count, self.version))
        else:
            store.replace(self.source, made, vectors(self.count, self.version))

    def after(self, state: State) -> State:
        """Return what the store holds after it."""
        if self.call in ("compact", "purge"):
            return state
        before = {key: texts for key, texts in state.items() if key != self.source}
        if self.call == "remove":
            return before
        kept = state.get(self.source, []) if self.call == "write" else []
        return before | {self.source: sorted(kept + self.texts())}


STEPS = [
    Step("write", "a", 3, 1),
    Step("replace", "b", 4, 1),
    Step("replace", "a", 5, 2),
    Step("write", "c", 4, 1),  # the twelfth pending vector: flushed
    Step("replace", "d", 15, 1),  # large: a segment of its own
    Step("remove", "b"),
    Step("replace", "d", 2, 2),
    Step("replace", "e", 14, 1),
    Step("write", "a", 2, 3),
    Step("replace", "c", 9, 2),  # flushed
    Step("remove", "d"),
    Step("compact", ""),
    Step("write", "f", 5, 1),
    Step("remove", "e"),
    Step("purge", ""),
    Step("replace", "g", 13, 1),
]
STATES: list[State] = [{}]
for _step in STEPS:
    STATES.append(_step.after(STATES[-1]))


def shrink_limits() -> None:
    """Let a few rows make a segment and a few pages a checkpoint; in a process of its own."""
    commit.SEGMENT_ROWS = 12
    commit.CHECKPOINT_PAGES = 40
    commit.TRUNCATE_PAGES = 90


def live(folder: Path, acknowledge: Callable[[int], None], durability: str = "power") -> None:
    """Make a store, take all steps, and acknowledge each with its number, from 1."""
    with FaissVetorStorage(folder, durability=durability) as store:
        for number, step in enumerate(STEPS, 1):
            step.run(store)
            acknowledge(number)


def stored(store: FaissVetorStorage) -> State:
    """Return what a store holds."""
    found: State = {}
    for page in store.iter_documents():
        for document in page:
            found.setdefault(document.metadata["source"], []).append(document.page_content)
    return {source: sorted(texts) for source, texts in found.items()}


def examine(folder: Path, acknowledged: int) -> tuple[bool, list[str]]:
    """Open what a crash left, and go on with it.

    Returns
    -------
    lost : bool
        Something acknowledged is not there.
    problems : list of str
        Whatever else is wrong: it does not open, verify finds something, a step is half done, it cannot be written.
    """
    try:
        with FaissVetorStorage(folder) as store:
            state, report = stored(store), store.verify()
            problems = list(report.problems)
            if state not in STATES[: acknowledged + 2]:
                problems.append(f"after step {acknowledged} there is {state}")
            lost = state not in STATES[acknowledged : acknowledged + 2]
            Step("replace", "later", 13, 1).run(store)
            if stored(store).get("later") != Step("replace", "later", 13, 1).sorted_texts():
                problems.append("what was written afterwards is not there")
            problems += [f"afterwards: {problem}" for problem in store.verify().problems]
    except StorageError as exc:
        return True, [f"{type(exc).__name__}: {exc}"]
    return lost, problems
