"""Explorers: see, search and steer the base in a notebook, one file each.

An explorer is a class that derives from `oraculo_kit.widgets.base.Explorer`. Rules that all of them keep, each because
something went wrong without it:

**What to show and how to show it are two things.** What is on the screen is a value, made by plain functions that know
nothing of widgets (``searching.py``: the question and its code; ``hitlists.py``: a page of hits as nodes). The explorer reads its
controls, hands work to the background and puts such values into its panes.

**Nothing but nodes shows text that comes from a document.** `oraculo_kit.widgets.nodes.node` builds a tree that a `Pane`
turns into elements with ``createElement`` and ``textContent``: no HTML is ever parsed in the browser, and tags and
attributes come from short lists. The same tree as escaped HTML (`as_html`) is the snapshot and the static summary. Not
used: ``HTML``, ``HTMLMath`` (they parse), ``Label`` (it typesets ``$x$``), and document text as the description of a
control (``Checkbox``, ``RadioButtons`` parse it; a ``Text``'s value and the options of a ``Dropdown`` or ``Combobox`` are
safe once they went through `visible`). A ``title`` or an ``aria-`` attribute is text too.

**No cell waits, and no click either.** A handler only reads controls and starts work, ``self.background(work, done)``.
``work(job)`` runs on a thread and touches no widget; ``done(result)`` shows the result. A newer job of the same lane
supersedes the older: its result is dropped, and ``job.checkpoint()`` ends it where it calls that. For work that must not be
superseded (a deletion) take a lane of its own and keep its button disabled meanwhile.

**One lock.** Kernels differ: ipykernel 6 and 7.4 queue clicks while a cell runs, 7.1 to 7.3 run them on another thread. So
everything that changes widgets holds ``self.lock``: functions wrapped by ``self.handler`` and the ``done`` functions do
already; a callback from elsewhere (an ingest handle's event) must be wrapped by ``self.handler``.

**Nothing is printed from a thread**: it would land in whatever cell runs. ``self.say(text)`` writes to the status line, which
screen readers hear.

**No error is swallowed.** What a handler, ``work`` or ``done`` raises stands in the explorer as text (our own errors
say what to do), and is kept as ``explorer.error`` for its traceback.

**The live view is not saved, what it showed is.** Displaying gives two outputs: the live view, and a static summary
(`Explorer.summary` as HTML and as text) which the live view hides. After every ``self.refresh()`` the summary in the
notebook is brought up to date, at most twice a second. So reopening without a kernel, nbconvert and GitHub show the last
state. Widget state is never saved into notebooks, and the summary is all that a reader needs.

**What every explorer answers**: ``selection`` (a DataFrame), ``code()`` (Python that gives what is on the screen; a test
runs it), ``summary()`` (nodes), ``snapshot()`` (a whole HTML page). Messages go through ``_ = self.translated``, so that the
catalogues find them; they are for people, so exceptions and code stay English.

**Looks**: only JupyterLab's own variables (``--jp-...``) colour things, in ``pane.css``, with fall-backs for pages that have
none; classes begin with ``oraculo-``. Buttons are buttons and tables are tables, so that the keyboard reaches them; in a list
marked ``arrows`` the arrow keys walk too. A control without a visible description has a tooltip. Nothing is fetched from
anywhere: script and style lie in the package.

**A widget with a script is a** `oraculo_kit.widgets.scripted.Scripted`: anywidget gives a script two seconds to load, and a
widget whose script came later would show its first state for ever, on a busy machine of all places.

**A new explorer** is a module here, a class in `oraculo_kit._HOMES`, and a line in `oraculo_kit.widgets.tabs.EXPLORERS`. Its
tests: the functions and the widgets with a real store (``tests/test_widgets_search.py`` is the pattern), and the browser
(``tests/browser``, fixture ``page``: open cells, run them, click; every request to another host and every error in the console
fails the test). ``make catalogues`` lists what is left to translate.

**Names**: an explorer is a widget, so `open`, `send`, `keys`, `comm`, `layout`, `children` are taken.

``ipywidgets`` (8) and ``anywidget`` are imported in this package only, at the first use of an explorer.
"""
