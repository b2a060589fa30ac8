"""Fit the cost model to what `scale` measured, check it on a size that it has not seen, and predict.

    python -m tests.benchmarks.scale_model FILE [FILE ...]

Every cost is a line, ``a + b N``, fitted with relative weights to all sizes but the largest; that one is the check.
Seconds are of the processor. `docs/scale.md` has the tables of one run, with what follows from them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]
LARGE = (10_000_000, 100_000_000, 1_000_000_000)
CORES = (2, 64)


class Line(NamedTuple):
    """``a + b N``."""

    a: float
    b: float

    def at(self, size: float) -> float:
        """Return the value for so many chunks."""
        return self.a + self.b * size


def fitted(points: Sequence[tuple[int, float]]) -> Line:
    """Fit a line that is off by about the same share everywhere; it never falls, nor begins below zero.

    Examples
    --------
    >>> fitted([(10, 25.0), (20, 45.0), (40, 85.0)])
    Line(a=5.0, b=2.0)
    """
    sizes, values = (np.array(column, float) for column in zip(*points, strict=True))
    design = np.stack([1 / values, sizes / values], axis=1)
    a, b = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)[0]
    if a < 0 or b < 0:
        a, b = 0.0, float(np.mean(values / sizes))
    return Line(round(float(a), 12), round(float(b), 12))


COSTS: dict[str, tuple[str, Callable[[Row], float]]] = {
    "disk, bytes": ("write", lambda row: row["bytes"]),
    "own memory of a reader, bytes": ("ask", lambda row: row["own"]),
    "exact vector search, s": ("ask", lambda row: row["exact"][1]),
    "search by words, s": ("ask", lambda row: row["text"][1]),
    "hybrid search, s": ("ask", lambda row: row["hybrid"][1]),
}


def measured(
    rows: Sequence[Row], engine: str, do: str, value: Callable[[Row], float]
) -> list[tuple[int, float]]:
    """Return sizes with values, by size."""
    found = [(row["size"], value(row)) for row in rows if row.get("engine") == engine and row["do"] == do]
    return sorted(found)


def write_points(rows: Sequence[Row], engine: str) -> list[tuple[int, float]]:
    """Return sizes with the seconds that it took to come there."""
    total, points = 0.0, []
    for row in sorted(
        (row for row in rows if row.get("engine") == engine and row["do"] == "write"), key=lambda r: r["size"]
    ):
        before = points[-1][0] if points else 0
        total += row["cpu"] / row["chunks"] * (row["size"] - before)
        points.append((row["size"], total))
    return points


def engine_table(rows: Sequence[Row], engine: str) -> tuple[list[list[str]], dict[str, Line]]:
    """Return the rows of an engine's table, and its lines by cost."""
    table, lines = [], {}
    every = {"writing, s": write_points(rows, engine)}
    every |= {name: measured(rows, engine, do, value) for name, (do, value) in COSTS.items()}
    for name, points in every.items():
        line = lines[name] = fitted(points[:-1])
        size, value = points[-1]
        off = 100 * (line.at(size) / value - 1)
        table.append(
            [
                name,
                f"{line.a:.3g}",
                f"{line.b * 1e6:.3g}",
                f"{size:,}",
                f"{value:.3g}",
                f"{line.at(size):.3g}",
                f"{off:+.0f} %",
            ]
        )
    return table, lines


def hours(rows: Sequence[Row], engine: str, line: Line, size: int, cores: int) -> float:
    """Return the hours from HTML files to a base, on so many cores.

    Reading, embedding and preparing spread over the cores. The embedded store commits one source group at a time, so
    that part takes one core's time however many there are; a server's part spreads, too.
    """
    costs = {row["stage"]: row["cpu"] / row["chunks"] for row in rows if "stage" in row}
    spread = costs["read html"] + costs["embed"] + costs["prepare"]
    commit = max(line.b - costs["prepare"], 0.0)
    if engine == "postgres":
        return size * (spread + commit) / cores / 3600
    return size * max((spread + commit) / cores, commit) / 3600


def predicted(rows: Sequence[Row], engine: str, lines: dict[str, Line]) -> list[list[str]]:
    """Return what the lines say of large bases."""
    table = []
    for size in LARGE:
        spent = [f"{hours(rows, engine, lines['writing, s'], size, cores):,.1f}" for cores in CORES]
        disk, exact = lines["disk, bytes"].at(size), lines["exact vector search, s"].at(size)
        words = lines["search by words, s"].at(size)
        table.append([f"{size / 1e6:,.0f} M", f"{disk / 1e9:,.0f}", *spent, f"{exact:,.1f}", f"{words:,.1f}"])
    return table


def shown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="what `scale --out` wrote")
    rows: list[Row] = [
        row for name in parser.parse_args().files for row in json.loads(Path(name).read_text())
    ]
    stages = [
        [row["stage"], f"{1e6 * row['cpu'] / row['chunks']:.0f}", f"{row['chunks']:,}"]
        for row in rows
        if "stage" in row
    ]
    print(shown(["stage", "CPU s per million chunks", "measured over"], stages))
    for engine in dict.fromkeys(row["engine"] for row in rows if "engine" in row):
        table, lines = engine_table(rows, engine)
        print(f"{engine}\n")
        print(shown(["cost", "a", "b per million", "check at", "measured", "predicted", "off"], table))
        if engine != "langchain":
            heads = [
                "chunks",
                "GB of disk",
                *(f"hours, {cores} cores" for cores in CORES),
                "exact, s",
                "words, s",
            ]
            print(shown(heads, predicted(rows, engine, lines)))


if __name__ == "__main__":
    main()
