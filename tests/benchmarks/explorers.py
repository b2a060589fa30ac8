"""Measure the explorers on large bases, in a browser: how long each interaction takes, and what is sent there.

    python -m tests.benchmarks.explorers                                     # map, search and store, 100,000 chunks
    python -m tests.benchmarks.explorers --chunks 1000000 --folder /tmp/large   # the base is built once, then reused
    python -m tests.benchmarks.explorers --what store --per-source 1            # 100,000 sources

The base is made by rule: twelve clusters of random vectors with 256 dimensions, texts of 40 words that are as frequent
as words of a language are. The map is drawn ``first`` on a base that has none yet, then ``again`` from the one that is
kept; both count from the moment the cell runs, in a kernel that has imported oraculo_kit only, to the first frame in
which the canvas has points. All else is the time from a click or a key to the frame that shows what came of it, measured
in the page itself. The browser draws without a graphics card here. Processor time is that of kernel, server and browser
together: on a machine that others use too, it says more than the clock.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from langchain_core.documents import Document
from playwright.sync_api import sync_playwright

from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.browser.conftest import _FLAGS, CHROMIUM
from tests.browser.labpage import LabPage
from tests.browser.server import Lab

BATCH = 20_000
LONG = 300_000  # milliseconds
VOCABULARY = 30_000
MAP = "explorer = oraculo.MapExplorer(store=store)\nexplorer"
SEARCH = "explorer = oraculo.SearchExplorer(store=store)\nexplorer"
STORE = "explorer = oraculo.StoreBrowser(store=store)\nexplorer"

# Acts, and tells how many milliseconds later the page showed it.
_TIMED = """() => new Promise((resolve) => {{
    const explorer = document.querySelector(".oraculo-explorer");
    const find = (selector) => explorer.querySelector(selector);
    const button = (text) => [...explorer.querySelectorAll("button")].find((one) => one.textContent.trim() === text);
    const control = (label) => {{
        const found = [...explorer.querySelectorAll("label, .widget-label")].find((one) => one.textContent === label);
        return found.parentElement.querySelector("input, select");
    }};
    const set = (input, value) => {{
        input.value = value;
        for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, {{ bubbles: true }}));
    }};
    const choose = (select, index) => {{
        select.selectedIndex = index;
        select.dispatchEvent(new Event("change", {{ bubbles: true }}));
    }};
    const seen = () => explorer.querySelector(".oraculo-hits, table")?.textContent + find(".oraculo-status").textContent;
    const before = seen();
    const changed = () => seen() !== before;
    const told = () => changed() && / ms$/.test(find(".oraculo-status").textContent);
    const isDone = () => {done};
    const look = () => {{
        if (!isDone()) return;
        watch.disconnect();
        requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
    }};
    const watch = new MutationObserver(look);
    watch.observe(explorer, {{ subtree: true, childList: true, characterData: true, attributes: true }});
    const start = performance.now();
    {act};
    look();
}})"""


def words() -> list[str]:
    """Return the vocabulary: syllables, so that stems and accents have something to do."""
    syllables = [first + second for first in "bcdfglmnprstvz" for second in "aeiou"]
    rng = np.random.default_rng(1)
    return ["".join(rng.choice(syllables, size=rng.integers(2, 5))) for _ in range(VOCABULARY)]


def texts(vocabulary: list[str], rng: np.random.Generator, count: int) -> Iterator[str]:
    """Yield texts of 40 words, whose frequencies follow Zipf's law."""
    shares = 1 / np.arange(1, len(vocabulary) + 1)
    drawn = np.searchsorted(np.cumsum(shares / shares.sum()), rng.random((count, 40)))
    for row in np.minimum(drawn, len(vocabulary) - 1):
        yield " ".join(vocabulary[each] for each in row)


def make_base(folder: Path, chunks: int, per_source: int = 50) -> None:
    """Make the base, unless it is there."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 256))
    vocabulary = words()
    with FaissVetorStorage(folder, durability="process") as store:
        for first in range(len(store), chunks, BATCH):
            count = min(BATCH, chunks - first)
            groups = rng.integers(0, 12, count)
            vectors = (centres[groups] + 1.2 * rng.normal(size=(count, 256))).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            documents = [
                Document(
                    text,
                    metadata={
                        "source": f"docs/{(first + place) // per_source}.md",
                        "group": f"g{groups[place]}",
                        "year": 2000 + (first + place) % 25,
                    },
                )
                for place, text in enumerate(texts(vocabulary, rng, count))
            ]
            store.write(documents, vectors=vectors)


def processor_seconds() -> float:
    """Return the processor time of this process's children: kernel, server and browser."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def begin(page: LabPage, cell: str, store: Path, name: str) -> None:
    """Open a notebook with the cell, in a kernel that has imported the package and opened the base."""
    page.open(cell, name=f"{name.replace(' ', '-')}.ipynb")
    page.run(f"import oraculo_kit as oraculo\nstore = oraculo.open_storage({str(store)!r})")


def measure_map(page: LabPage, store: Path, name: str) -> None:
    """Show the map in a fresh kernel and print how long that took."""
    begin(page, MAP, store, name)
    before, started = processor_seconds(), time.perf_counter()
    page.command("notebook:run-all-cells")
    page.page.locator(".oraculo-map canvas").first.wait_for(timeout=LONG)
    page.page.locator(".oraculo-status", has_text="sent to the browser").wait_for(timeout=LONG)
    page.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    seconds, used = time.perf_counter() - started, processor_seconds() - before
    sent = int(page.run("print(explorer._scatter.payload)").strip())
    print(
        f"{name}: {seconds:.1f} s until visible, {used:.1f} s of processor time, {sent:,} bytes sent, {page.errors}"
    )
    page.page.wait_for_timeout(3000)
    page.screenshot(f"benchmark {name}", page.explorer)


def timed(page: LabPage, name: str, *acts: str, done: str) -> None:
    """Print how long it takes until the page shows what an act brings; the median, of several acts."""
    before = processor_seconds()
    taken = [float(page.page.evaluate(_TIMED.format(act=act, done=done))) for act in acts]
    used = (processor_seconds() - before) / len(acts)
    most = f", at most {max(taken):.0f}" if len(taken) > 1 else ""
    print(f"  {name:28} {statistics.median(taken):6.0f} ms{most} (processor {used * 1000:.0f} ms)")


def measure_search(page: LabPage, store: Path, name: str) -> None:
    """Use the search explorer as a person would, and print what each step takes."""
    begin(page, SEARCH, store, name)
    page.run_all()
    page.explorer.get_by_label("Query").wait_for(timeout=LONG)
    vocabulary = words()
    asked = [f"{vocabulary[40 + n]} {vocabulary[700 + n]} {vocabulary[9000 + n]}" for n in range(8)]
    print(f"{name}:")
    timed(
        page, "first question", f'set(control("Query"), "{vocabulary[30]} {vocabulary[800]}")', done="told()"
    )
    timed(page, "question", *(f'set(control("Query"), "{each}")' for each in asked), done="told()")
    timed(page, "next page", 'button("Next page").click()', done='seen().startsWith("11. ")')
    timed(page, "hit in its document", 'find(".oraculo-hits button").click()', done='find(".oraculo-reader")')
    place = 'find(".oraculo-reader header").textContent'
    act = f'explorer.was = {place}; button("Next chunk").click()'
    timed(page, "next chunk", act, done=f"{place} !== explorer.was")
    timed(page, "by meaning only", 'choose(control("Mode"), 1)', done="told()")
    timed(page, "by words only", 'choose(control("Mode"), 2)', done="told()")
    timed(page, "hybrid again", 'choose(control("Mode"), 0)', done="told()")
    timed(
        page,
        "compare",
        'button("Compare").click()',
        done='explorer.querySelectorAll(".oraculo-hits").length === 2',
    )
    timed(page, "compare no more", 'button("Compare").click()', done="told()")
    timed(page, "add a filter", 'button("Add filter").click()', done="""find('[title="Metadata key"]')""")
    key = """find('select[title="Metadata key"]')"""
    act = f'choose({key}, [...{key}.options].findIndex((one) => one.text === "year"))'
    timed(page, "values of a key", act, done="""find('datalist option[value="2007"]')""")
    act = """set(find('input[title="Value"]'), "2007")"""
    timed(page, "filtered", act, done="told()")
    page.run("store.create_filter_index('year')")
    act = """set(find('input[title="Value"]'), "2008")"""
    timed(page, "filtered by an indexed key", act, done="told()")
    page.run("store.drop_filter_index('year')")
    print(f"  errors: {page.errors}")


def measure_store(page: LabPage, store: Path, name: str) -> None:
    """Use the store browser as a person would, and print what each step takes."""
    begin(page, STORE, store, name)
    started = time.perf_counter()
    page.command("notebook:run-all-cells")
    page.page.locator(".oraculo-sources tbody tr").first.wait_for(timeout=LONG)
    print(f"{name}: {time.perf_counter() - started:.2f} s until visible")
    timed(
        page,
        "filter",
        *(f'set(control("Filter"), "{each}")' for each in ("77", "123", "docs/9")),
        done="changed()",
    )
    timed(page, "filter off", 'set(control("Filter"), "")', done="changed()")
    timed(page, "order", 'choose(control("Order"), 4)', 'choose(control("Order"), 0)', done="changed()")
    timed(page, "next page", 'button("Next page").click()', 'button("Next page").click()', done="changed()")
    act = 'find(".oraculo-sources tbody button").click()'
    timed(page, "a source", act, done='find(".oraculo-source .oraculo-chunks li")')
    act = 'find(".oraculo-sources tbody input").click()'
    timed(page, "tick", act, done="/selected: 1/.test(explorer.textContent)")
    timed(page, "statistics", 'button("Statistics").click()', done='find(".oraculo-bar")')
    timed(page, "back to the sources", 'button("Sources").click()', done='find(".oraculo-sources tbody tr")')
    print(f"  errors: {page.errors}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--per-source", type=int, default=50, help="chunks of each source")
    parser.add_argument("--folder", type=Path, help="keep the base here")
    parser.add_argument(
        "--what", nargs="*", default=["map", "search", "store"], choices=["map", "search", "store"]
    )
    given = parser.parse_args()
    steps = {
        "map": [(measure_map, "map first"), (measure_map, "map again")],
        "search": [(measure_search, "search")],
        "store": [(measure_store, "store")],
    }
    with tempfile.TemporaryDirectory() as scratch:
        store = given.folder or Path(scratch) / "base"
        make_base(store, given.chunks, given.per_source)
        (store / "cache" / "map.bin").unlink(missing_ok=True)
        lab = Lab(Path(scratch) / "server")
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=CHROMIUM, args=_FLAGS.split())
                for measure, name in (step for what in given.what for step in steps[what]):
                    context = browser.new_context(viewport={"width": 1280, "height": 1000})
                    page = LabPage(context, lab)
                    measure(page, store, name)
                    page.shut_down()
                    context.close()
                browser.close()
        finally:
            lab.close()


if __name__ == "__main__":
    main()
