"""Embedders for runs over several processes, in a module that is imported in no time: every worker does that."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


class Slow:
    """An embedder that takes its time, and remembers what it was asked."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.texts: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        time.sleep(self.seconds * len(texts))
        self.texts += texts
        return [[1.0, 1.0 + len(text)] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [1.0, 1.0 + len(text)]


class Deadly:
    """Kills the process that embeds a text in which "mata" stands: always, or so many times in all."""

    def __init__(self, counter: Path | None = None, times: int = 0) -> None:
        self.counter = counter
        self.times = times

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if any("mata" in text for text in texts):
            if self.counter is not None:
                with self.counter.open("a") as file:
                    file.write("x")
            if self.counter is None or self.counter.stat().st_size <= self.times:
                os.kill(os.getpid(), signal.SIGKILL)
        return [[1.0, float(len(text))] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [1.0, float(len(text))]
