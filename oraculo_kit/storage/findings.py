"""What a repair finds: sentences for its report, and the folder where damaged things are set aside."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oraculo_kit.storage.segments import sync_file, sync_folder
from oraculo_kit.storage.sharing import share

_NAMES_LISTED = 20


class Findings:
    """The course of one repair.

    Parameters
    ----------
    store : pathlib.Path
        The store's folder.

    Attributes
    ----------
    done : list of str
        What was rebuilt, a sentence each.
    """

    def __init__(self, store: Path) -> None:
        self.done: list[str] = []
        self._store = store
        self._lost: list[str] = []
        self._chunks: dict[tuple[str, str], list[str]] = {}
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """Where damaged things are set aside: ``<store>/damaged/<time>``, made at its first use."""
        if self._folder is None:
            above = self._store / "damaged"
            above.mkdir(exist_ok=True)
            share(above)
            stamp, number = time.strftime("%Y%m%d-%H%M%S"), 1
            while True:
                folder = above / (stamp if number == 1 else f"{stamp}-{number}")
                try:
                    folder.mkdir()
                    break
                except FileExistsError:
                    number += 1
            share(folder)
            sync_folder(above)
            sync_folder(self._store)
            self._folder = folder
        return self._folder

    @property
    def has_folder(self) -> bool:
        """Whether anything was set aside."""
        return self._folder is not None

    def set_aside(self, path: Path) -> None:
        """Keep a damaged file as it is: under a second name, or as a copy where the file system has no links."""
        target = self.folder / path.name
        try:
            os.link(path, target)
        except FileNotFoundError:
            return  # there is nothing to keep
        except OSError:
            shutil.copyfile(path, target)
            share(target)
        sync_folder(self.folder)

    def set_aside_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows that are going to be removed, in ``lost.jsonl``."""
        path = self.folder / "lost.jsonl"
        with open(path, "a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            share(path)
            sync_file(file.fileno())
        sync_folder(self.folder)

    def lose(self, sentence: str) -> None:
        """Name something that is lost."""
        self._lost.append(sentence)

    def lose_chunk(self, why: str, source: str | None, name: str) -> None:
        """Name a chunk that is lost; those of one source make one sentence."""
        of = f"source {source!r}" if source is not None else "an unknown source"
        self._chunks.setdefault((of, why), []).append(name)

    def chunks_lost(self, source: str) -> int:
        """Return how many chunks of a source were named so far."""
        return sum(len(names) for (of, _), names in self._chunks.items() if of == f"source {source!r}")

    def lost(self) -> tuple[str, ...]:
        """Return a sentence for each thing that is lost."""
        sentences = list(self._lost)
        for (of, why), names in self._chunks.items():
            more = len(names) - _NAMES_LISTED
            listed = ", ".join(names[:_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
            sentences.append(f"{len(names)} chunks of {of} ({why}): {listed}")
        return tuple(sentences)
