"""Measure how long the map explorer takes until its points are seen in a browser, and what it sends there.

    python -m tests.benchmarks.explorers --points 100000
    python -m tests.benchmarks.explorers --points 1000000 --folder /tmp/large   # built once, then reused

The base is made by rule: twelve clusters of random vectors with 256 dimensions. ``first`` draws a base that has no map
yet, ``again`` one whose projection is kept; both count from the moment the cell runs, in a kernel that has imported
oraculo_kit only, to the first frame in which the canvas has points. The browser draws without a graphics card here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from langchain_core.documents import Document
from playwright.sync_api import sync_playwright

from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.browser.conftest import _FLAGS, CHROMIUM
from tests.browser.labpage import LabPage
from tests.browser.server import Lab

CELL = "explorer = oraculo.MapExplorer(store=store)\nexplorer"
BATCH = 20_000
LONG = 300_000  # milliseconds


def make_base(folder: Path, points: int) -> None:
    """Make the base, unless it is there."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 256))
    with FaissVetorStorage(folder, durability="process") as store:
        for first in range(len(store), points, BATCH):
            count = min(BATCH, points - first)
            groups = rng.integers(0, 12, count)
            vectors = (centres[groups] + 1.2 * rng.normal(size=(count, 256))).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            documents = [
                Document(
                    f"text {first + place}",
                    metadata={"source": f"{(first + place) // 50}.md", "group": f"g{groups[place]}"},
                )
                for place in range(count)
            ]
            store.write(documents, vectors=vectors)


def measure(page: LabPage, store: Path, name: str) -> None:
    """Show the map in a fresh kernel and print how long that took."""
    page.open(CELL, name=f"{name}.ipynb")
    page.run(f"import oraculo_kit as oraculo\nstore = oraculo.open_storage({str(store)!r})")
    started = time.perf_counter()
    page.command("notebook:run-all-cells")
    page.page.locator(".oraculo-map canvas").first.wait_for(timeout=LONG)
    page.page.locator(".oraculo-status", has_text="sent to the browser").wait_for(timeout=LONG)
    page.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    seconds = time.perf_counter() - started
    sent = page.run("print(explorer._scatter.payload)").strip()
    print(f"{name}: {seconds:.1f} s until visible, {int(sent):,} bytes sent, errors: {page.errors}")
    page.page.wait_for_timeout(3000)
    page.screenshot(f"map benchmark {name}", page.explorer)
    page.shut_down()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the base here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = given.folder or Path(scratch) / "base"
        make_base(store, given.points)
        (store / "cache" / "map.bin").unlink(missing_ok=True)
        lab = Lab(Path(scratch) / "server")
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=CHROMIUM, args=_FLAGS.split())
                for name in ("first", "again"):
                    context = browser.new_context(viewport={"width": 1280, "height": 1000})
                    measure(LabPage(context, lab), store, name)
                    context.close()
                browser.close()
        finally:
            lab.close()


if __name__ == "__main__":
    main()
