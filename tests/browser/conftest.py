"""A real JupyterLab in a real browser. One server per test process, one browser per module.

The browser ends with its module, because Playwright's event loop would be in the way of other modules' asynchronous
tests in the same process.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.base import make_base
from tests.browser.labpage import LabPage
from tests.browser.server import Lab

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --force-color-profile=srgb"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each of these tests two more tries: browser, server and kernel share few cores, and one may be late."""
    here = os.path.dirname(__file__) + os.sep
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return a running JupyterLab; its kernels use a base with a few documents."""
    folder = tmp_path_factory.mktemp("lab")
    store = make_base(folder / "base")
    server = Lab(folder / "server", ORACULO_STORE=str(store))
    yield server
    server.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """Return a running browser."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium, or set CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=_FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: object, lab: Lab, request: pytest.FixtureRequest) -> Iterator[LabPage]:
    """Return a page; the test fails if it asked another host for anything, or if the console showed an error."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})  # type: ignore[attr-defined]
    shown = LabPage(context, lab)
    failed_before = request.session.testsfailed
    try:
        yield shown
        if request.session.testsfailed != failed_before:
            shown.screenshot(f"failed {request.node.name}")
        assert shown.outside == []
        assert shown.errors == []
        assert shown.dialogs == []
    finally:
        shown.shut_down()
        context.close()


@pytest.fixture
def pictures() -> Path | None:
    """Return the folder for the README's pictures: ``ORACULO_PICTURES=docs/images pytest tests/browser`` makes new ones."""
    asked = os.environ.get("ORACULO_PICTURES")
    return Path(asked) if asked else None
