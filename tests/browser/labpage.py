"""A browser's page with a notebook in JupyterLab, used as a person would."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nbformat

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, Request, Route

    from tests.browser.server import Lab

ARTEFACTS = Path(__file__).parent / "artefacts"
TIMEOUT = 30_000  # milliseconds; a busy machine with two cores needs them
_LATE = "[anywidget] Failed to initialize model."


class LabPage:
    """A page on a lab.

    Every request to another host is blocked and noted in `outside`; what the console calls an error in `errors`. That a
    widget's script was not loaded within two seconds is counted in `late`: it works nevertheless, see ``hearing.js``.

    Parameters
    ----------
    context : BrowserContext
    lab : Lab
    """

    def __init__(self, context: BrowserContext, lab: Lab) -> None:
        self.lab = lab
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        self.late = 0
        self.path = Path()
        self._is_loaded = False
        context.set_default_timeout(TIMEOUT)
        context.route("**/*", self._routed)
        self.page: Page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self._failed(str(error)))
        self.page.on("websocket", lambda socket: self._check(socket.url))
        self.page.on("dialog", self._asked)

    def _check(self, url: str) -> bool:
        parts = urlsplit(url)
        local = parts.scheme in ("data", "blob", "about") or parts.hostname == "127.0.0.1"
        if not local:
            self.outside.append(url)
        return local

    def _routed(self, route: Route, request: Request) -> None:
        if self._check(request.url):
            route.continue_()
        else:
            route.abort()

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _failed(self, error: str) -> None:
        if _LATE in error:
            self.late += 1
        else:
            self.errors.append(error)

    def _asked(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self, *cells: str, name: str = "notebook.ipynb") -> None:
        """Open a new notebook with these cells; JupyterLab itself is loaded for the first one only."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        self.path = self.lab.root / name
        nbformat.write(notebook, self.path)
        if self._is_loaded:
            self.command("docmanager:open", path=name)
            self._wait_for(name)
        else:
            self.goto(name)
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )

    def goto(self, name: str) -> None:
        """Open a notebook that exists."""
        self.page.goto(f"{self.lab.url}/lab/tree/{name}?reset")
        self._wait_for(name)
        self._is_loaded = True

    def _wait_for(self, name: str) -> None:
        self.page.wait_for_function(
            """name => {
                const context = window.jupyterapp?.shell?.currentWidget?.context;
                return context?.path === name && context.isReady;
            }""",
            arg=name,
        )
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()

    def command(self, name: str, **arguments: Any) -> None:
        """Run a command of JupyterLab and wait for it."""
        self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args).then(() => null)",
            [name, arguments],
        )

    def run_all(self) -> None:
        """Run all cells and wait for them."""
        self.command("notebook:run-all-cells")
        self.page.evaluate(
            "() => window.jupyterapp.shell.activateById(window.jupyterapp.shell.currentWidget.id)"
        )

    def run(self, code: str) -> str:
        """Run code in the kernel, past the notebook, and return what it printed."""
        reply = self.page.evaluate(
            """code => new Promise((resolve, reject) => {
                const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                const future = kernel.requestExecute({ code, store_history: false, silent: false });
                let printed = "";
                future.onIOPub = message => {
                    if (message.header.msg_type === "stream") printed += message.content.text;
                    if (message.header.msg_type === "error") reject(new Error(message.content.traceback.join("\\n")));
                };
                future.done.then(() => resolve(printed), reject);
            })""",
            code,
        )
        return str(reply)

    def saved(self) -> dict[str, Any]:
        """Save the notebook and return what stands in its file."""
        self.command("docmanager:save")
        content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return content

    def theme(self, *, dark: bool) -> None:
        """Switch JupyterLab's theme."""
        self.command("apputils:change-theme", theme="JupyterLab Dark" if dark else "JupyterLab Light")
        self.page.wait_for_function("dark => document.body.dataset.jpThemeLight === String(!dark)", arg=dark)

    def picture(self, name: str, folder: Path | None) -> None:
        """Keep a picture of the explorer, and in `folder`, if one is given, for the README."""
        for each in (None, folder) if folder is not None else (None,):
            path = self.screenshot(name, self.explorer, each)
            assert each is None or path.stat().st_size < 150_000

    def clear(self) -> None:
        """Make the page ready for the next test: no notebook, no kernel, the light theme, nothing noted."""
        self.shut_down()
        self.page.evaluate(
            "() => [...(window.jupyterapp?.shell?.widgets('main') ?? [])].forEach((one) => one.dispose())"
        )
        theme = self.page.evaluate("() => window.jupyterapp && document.body.dataset.jpThemeLight")
        self._is_loaded = theme is not None  # a test may have gone to another page
        if theme == "false":
            self.theme(dark=False)
        for noted in (self.outside, self.errors, self.dialogs):
            noted.clear()
        self.late = 0

    def shut_down(self) -> None:
        """End the notebook's kernel, and every other: a notebook of the same name would go on with it."""
        self.page.evaluate(
            "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.shutdown?.().then(() => null)"
        )
        self.lab.end_kernels()

    @property
    def explorer(self) -> Locator:
        """The live view of the first explorer."""
        return self.page.locator(".oraculo-explorer").first

    def screenshot(self, name: str, of: Locator | None = None, folder: Path | None = None) -> Path:
        """Keep a picture of an element, or of the page, among the artefacts or in another folder."""
        folder = folder or ARTEFACTS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name.casefold())}.png"
        (of or self.page).screenshot(path=path, animations="disabled")
        return path
