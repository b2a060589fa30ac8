"""A real JupyterLab in a real browser. One server, one browser and one page per test process.

They end with this folder's tests, because Playwright's event loop would be in the way of asynchronous tests of other
folders in the same process. The page is used by all tests, because JupyterLab takes eight seconds of processor time to
load; after a test that failed, the next one gets a new page.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.base import make_base
from tests.browser.labpage import TIMEOUT, LabPage
from tests.browser.server import Lab

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --force-color-profile=srgb"
)
_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each of these tests two more tries: browser, server and kernel share few cores, and one may be late."""
    here = os.path.dirname(__file__) + os.sep
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return a running JupyterLab; its kernels use a base with a few documents."""
    folder = tmp_path_factory.mktemp("lab")
    store = make_base(folder / "base")
    server = Lab(folder / "server", ORACULO_STORE=str(store))
    yield server
    server.close()


@pytest.fixture(scope="package")
def chromium() -> Iterator[object]:
    """Return a running browser."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium, or set CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        playwright.expect.set_options(timeout=TIMEOUT)  # else five seconds, whatever the page is told
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=_FLAGS.split())
        yield browser
        browser.close()


class _Pages:
    """Gives the page, and a new one after `forget`."""

    def __init__(self, browser: Any, lab: Lab) -> None:
        self._browser, self._lab = browser, lab
        self._context: Any = None
        self._page: LabPage | None = None

    def give(self) -> LabPage:
        if self._page is None:
            self._context = self._browser.new_context(viewport={"width": 1280, "height": 1000})
            self._page = LabPage(self._context, self._lab)
        return self._page

    def forget(self) -> None:
        if self._page is not None:
            self._page = None
            self._context.close()
            self._lab.end_kernels()


@pytest.fixture(scope="package")
def pages(chromium: object, lab: Lab) -> Iterator[_Pages]:
    """Return what gives the page."""
    held = _Pages(chromium, lab)
    yield held
    held.forget()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Note whether the test failed, for the fixture below."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = bool(report.failed)
    return report


@pytest.fixture
def page(pages: _Pages, request: pytest.FixtureRequest) -> Iterator[LabPage]:
    """Return a page; the test fails if it asked another host for anything, or if the console showed an error."""
    shown, is_fit = pages.give(), False
    try:
        yield shown
        if request.node.stash.get(_FAILED, True):
            shown.screenshot(f"failed {request.node.name}")
        assert shown.outside == []
        assert shown.errors == []
        assert shown.dialogs == []
        is_fit = not request.node.stash.get(_FAILED, True)
        if is_fit:
            shown.clear()
    finally:
        if not is_fit:
            pages.forget()


@pytest.fixture
def pictures() -> Path | None:
    """Return the folder for the README's pictures: ``ORACULO_PICTURES=docs/images pytest tests/browser`` makes new ones."""
    asked = os.environ.get("ORACULO_PICTURES")
    return Path(asked) if asked else None
