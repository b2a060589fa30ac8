"""The IPython extension, in real kernels: up before the first cell, never silent, never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oraculo_kit.extension import _CellGate
from tests.conftest import Notebook, run_script

Start = Callable[..., Notebook]

AUTOLOAD = "--ext=oraculo_kit"
LINES = [
    "INFO - Starting services for the Jupyter kernel...",
    "INFO - Environment variables loaded successfully!",
    "INFO - VetorStorage configured successfully!",
    "INFO - Services started successfully for the Jupyter kernel!",
]
LEFT_BEHIND = """
import os, threading
shell = get_ipython()
def links():
    for entry in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:  # closed by another thread, or the listing's own
            pass
print({
    "magic": "oraculo" in shell.magics_manager.magics["line"],
    "name": "oraculo" in shell.user_ns,
    "hooks": [str(hook) for hooks in shell.events.callbacks.values() for hook in hooks if "oraculo" in str(hook)],
    "threads": [thread.name for thread in threading.enumerate() if "oraculo" in thread.name],
    "files": [name for name in links() if "/.oraculo/" in name],
    "maps": [line.split()[-1] for line in open("/proc/self/maps") if "/.oraculo/" in line],
})
"""
NOTHING = "{'magic': False, 'name': False, 'hooks': [], 'threads': [], 'files': [], 'maps': []}"


def write_source(project: Path, code: str) -> None:
    """Make a callable the project's environment source, through ``.env``."""
    text = "import os, sys, time\n\ndef fetch():\n" + textwrap.indent(code, "    ")
    (project / "my_source.py").write_text(text, encoding="utf-8")
    (project / ".env").write_text("ORACULO_ENV_SOURCE=my_source:fetch\n", encoding="utf-8")


# --- autoload -----------------------------------------------------------------------------------------------


def test_autoload_has_services_and_environment_ready_for_the_first_cell(
    project: Path, notebook: Start
) -> None:
    (project / ".env").write_text("OPENAI_API_KEY=sk-from-dotenv\n")
    kernel = notebook(AUTOLOAD)
    first = kernel.run("import os; (os.environ['OPENAI_API_KEY'], oraculo.get_services().settings.store)")
    store = str(project / ".oraculo" / "store")
    assert eval(str(first.result)) == ("sk-from-dotenv", store)
    assert first.error is None
    assert first.stderr == ""
    assert first.stdout.count("\n") == 1
    assert first.stdout.startswith("oraculo_kit ")
    assert f"base {store} with 0 chunks" in first.stdout
    second = kernel.run("oraculo.get_services().context")
    assert (second.stdout, second.stderr, second.result) == ("", "", "'kernel'")
    awaited = kernel.run(
        "import asyncio; await asyncio.sleep(0.01); oraculo.get_services().pid == os.getpid()"
    )
    assert (awaited.stdout, awaited.result) == ("", "True")
    again = kernel.run("%load_ext oraculo_kit")
    assert again.error is None
    assert "already loaded" in again.stdout + again.stderr
    assert kernel.run("1/0").error == "ZeroDivisionError: division by zero"
    assert "services" in str(kernel.run("%oraculo").result).casefold()


@pytest.mark.parametrize(
    ("dotenv", "source", "reason"),
    [
        (
            "ORACULO_CHUNK_SIZE=abc\n",
            "",
            "SettingsError: ORACULO_CHUNK_SIZE is 'abc', expected a whole number",
        ),
        ("", "raise RuntimeError('the vault is sealed')", "RuntimeError: the vault is sealed"),
        ("", "sys.exit(1)", "SystemExit: 1"),
        ("", "raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
    ids=["setting", "raising", "exiting", "interrupting"],
)
def test_a_failed_autoload_is_told_at_the_first_cell_and_the_kernel_lives_on(
    project: Path, notebook: Start, dotenv: str, source: str, reason: str
) -> None:
    if source:
        write_source(project, source)
    else:
        (project / ".env").write_text(dotenv)
    kernel = notebook(AUTOLOAD)
    first = kernel.run("1 + 1")
    assert (first.result, first.error, first.stdout) == ("2", None, "")
    assert first.stderr.startswith("oraculo_kit: the services did not start. ServicesFailedError: ")
    assert first.stderr.count("\n") == 1
    assert reason in first.stderr
    second = kernel.run("oraculo.get_services()")
    assert second.stderr == ""
    assert str(second.error).startswith("ServicesFailedError: ")
    assert reason in str(second.error)
    (project / ".env").write_text("")
    assert kernel.run("oraculo.start_services().context").result == "'kernel'"


def test_a_slow_source_delays_neither_kernel_nor_cells_and_comes_in_between_cells(
    project: Path, notebook: Start
) -> None:
    write_source(project, "time.sleep(4.5)\nreturn {'XAI_API_KEY': 'xai-remote'}")
    kernel = notebook(AUTOLOAD)
    assert kernel.seconds < 4
    watch = """
    import os, time
    before = dict(os.environ)
    time.sleep(2.5)
    print("unchanged" if dict(os.environ) == before else "changed", os.environ.get("XAI_API_KEY"))
    """
    # Queued, as "run all" does: no pause between them.
    cells = kernel.run_all(
        "1 + 1",
        textwrap.dedent(watch),
        "import os; (os.environ['XAI_API_KEY'], oraculo.get_services().context)",
        "2",
    )
    assert cells[0].result == "2"
    assert 2.5 < cells[0].seconds < 3.5
    assert cells[0].stderr == (
        "oraculo_kit: the services are still starting; %oraculo status shows how far they are.\n"
    )
    assert (cells[1].stdout, cells[1].stderr) == ("unchanged None\n", "")
    assert cells[1].seconds < 3
    assert cells[2].result == "('xai-remote', 'kernel')"
    assert cells[2].stdout.startswith("oraculo_kit ")
    assert cells[2].stdout.count("\n") == 1
    assert (cells[3].stdout, cells[3].result) == ("", "2")


def test_a_cell_that_asks_for_the_services_waits_for_a_slow_source(project: Path, notebook: Start) -> None:
    write_source(project, "time.sleep(3.3)\nreturn {'XAI_API_KEY': 'xai-remote'}")
    first = notebook(AUTOLOAD).run("import os; oraculo.get_services(); os.environ['XAI_API_KEY']")
    assert first.error is None
    assert first.result == "'xai-remote'"


def test_autoload_can_be_opted_out_and_an_explicit_load_still_works(project: Path, notebook: Start) -> None:
    kernel = notebook(AUTOLOAD, ORACULO_NO_AUTOLOAD="1")
    first = kernel.run("'oraculo' in globals(), 'oraculo' in get_ipython().magics_manager.magics['line']")
    assert (first.result, first.stdout, first.stderr) == ("(False, False)", "", "")
    assert not (project / ".oraculo").exists()
    assert kernel.run("%load_ext oraculo_kit").stdout.splitlines() == LINES
    hooks = kernel.run("[str(hook) for hook in get_ipython().events.callbacks['pre_run_cell']]")
    assert "_allow_loading_later" not in str(hooks.result)


def test_services_that_a_cell_stopped_do_not_come_back_by_themselves(project: Path, notebook: Start) -> None:
    write_source(project, "time.sleep(3.3)\nreturn {'XAI_API_KEY': 'xai-remote'}")
    kernel = notebook(AUTOLOAD)
    kernel.run("oraculo.stop_services()")
    cells = kernel.run_all(
        "import time; time.sleep(1)",
        "from oraculo_kit.services import services_state; services_state().state",
    )
    assert "STOPPED" in str(cells[1].result)
    assert cells[1].stdout + cells[1].stderr == ""


def test_functions_of_a_notebook_run_in_workers_and_a_failing_batch_leaves_the_notebook_alive(
    project: Path, notebook: Start
) -> None:
    for number in range(4):
        (project / f"{number}.txt").write_text(f"documento {number}", encoding="utf-8")
    kernel = notebook(AUTOLOAD)
    kernel.run("""
        import os, shutil
        from joblib import Parallel, delayed
        from oraculo_kit import ingest_task, parallel_services
        oraculo.use("outra")
        def tarefa(number):
            outcome = ingest_task(f"{number}.txt")
            return outcome.pid != here, outcome.store, outcome.status
        here = os.getpid()
    """)
    batch = "Parallel(n_jobs=2)(delayed(tarefa)(number) for number in range(4))"
    plain = kernel.run(f"set({batch})")
    assert eval(str(plain.result)) == {(True, str(project / "outra"), "added")}
    kernel.run("oraculo.use('quebrada'); shutil.rmtree('quebrada'); open('quebrada', 'w').close()")
    failed = kernel.run(f"with parallel_services(n_jobs=2):\n    {batch}")
    assert str(failed.error).startswith("ServicesFailedError: the services could not start in process ")
    assert "(joblib workers): StoreNotFoundError: " in str(failed.error)
    assert kernel.run("1 + 1").result == "2"


# --- %load_ext ----------------------------------------------------------------------------------------------


def test_load_ext_shows_the_four_lines_once_and_spares_the_users_variable(
    project: Path, notebook: Start
) -> None:
    kernel = notebook()
    first = kernel.run("oraculo = 'minha variável'\n%load_ext oraculo_kit")
    assert first.stderr == ""
    assert first.stdout.splitlines()[:4] == LINES
    assert first.stdout.splitlines()[4:] == [
        "The name `oraculo` is a variable of yours and was left alone: use `import oraculo_kit`."
    ]
    second = kernel.run("import oraculo_kit; oraculo_kit.get_services(); oraculo")
    assert (second.stdout, second.result) == ("", "'minha variável'")
    kernel.run("%unload_ext oraculo_kit")
    assert kernel.run("oraculo").result == "'minha variável'"


def test_load_ext_speaks_portuguese(project: Path, notebook: Start) -> None:
    kernel = notebook(ORACULO_LANG="pt_BR")
    assert kernel.run("%load_ext oraculo_kit").stdout.splitlines() == [
        "INFO - Inicializando serviços para kernel Jupyter...",
        "INFO - Variáveis de ambiente carregadas com sucesso!",
        "INFO - VetorStorage configurado com sucesso!",
        "INFO - Serviços inicializados com sucesso para kernel Jupyter!",
    ]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_reload_and_unload_leave_no_magic_hook_thread_name_or_file_behind(
    project: Path, notebook: Start
) -> None:
    kernel = notebook(AUTOLOAD)
    kernel.run(
        "from langchain_core.documents import Document\n"
        "oraculo.vetor_storage().write([Document('texto', metadata={'source': 'a'})]); oraculo.search('texto')"
    )
    held = kernel.run(LEFT_BEHIND)
    assert "'magic': True, 'name': True" in held.stdout
    assert held.stdout.count("Extension._") == 2
    assert "/.oraculo/store/" in held.stdout

    reloaded = kernel.run("%reload_ext oraculo_kit")
    assert reloaded.stdout.splitlines() == LINES
    assert kernel.run(LEFT_BEHIND).stdout.count("Extension._") == 2
    assert kernel.run("len(oraculo.vetor_storage())").result == "1"
    assert kernel.run("get_ipython().extension_manager.loaded").result is not None
    kernel.run(
        "import oraculo_kit; oraculo_kit.load_ipython_extension(get_ipython())"
    )  # by hand, a second time
    assert kernel.run(LEFT_BEHIND).stdout.count("Extension._") == 2

    unloaded = kernel.run("%unload_ext oraculo_kit")
    assert (unloaded.stdout, unloaded.stderr, unloaded.error) == ("", "", None)
    assert kernel.run(LEFT_BEHIND).stdout.strip() == NOTHING
    assert kernel.run("%load_ext oraculo_kit").stdout.splitlines() == LINES


def test_load_ext_with_a_broken_source_says_why_and_the_next_cell_runs(
    project: Path, notebook: Start
) -> None:
    write_source(project, "raise RuntimeError('the vault is sealed')")
    kernel = notebook()
    first = kernel.run("%load_ext oraculo_kit")
    assert first.error is None
    assert first.stdout.splitlines()[0] == LINES[0]
    assert first.stdout.splitlines()[1].startswith(
        "ERROR - Starting services for the Jupyter kernel failed: "
    )
    assert first.stderr.startswith("oraculo_kit: the services did not start. ServicesFailedError: ")
    assert "RuntimeError: the vault is sealed" in first.stderr
    second = kernel.run("oraculo.__name__")
    assert (second.result, second.stderr) == ("'oraculo_kit'", "")


def test_an_interrupted_load_ext_can_be_repeated(project: Path, notebook: Start) -> None:
    write_source(project, "time.sleep(30 if not os.path.exists('second') else 0)\nreturn {}")
    kernel = notebook()
    request = kernel.client.execute("%load_ext oraculo_kit")
    time.sleep(0.7)
    kernel.manager.interrupt_kernel()
    assert str(kernel._wait_for(request).error).startswith("KeyboardInterrupt")
    assert kernel.run(LEFT_BEHIND).stdout.startswith("{'magic': False, 'name': False, 'hooks': []")
    (project / "second").touch()
    assert kernel.run("%load_ext oraculo_kit").stdout.splitlines() == LINES
    hooks = kernel.run("[str(hook) for hook in get_ipython().events.callbacks['pre_run_cell']]")
    assert str(hooks.result).count("Extension._") == 1


def test_work_that_is_due_goes_before_the_next_of_many_queued_cells() -> None:
    gate = _CellGate()
    for _ in range(50):
        order: list[str] = []

        def work(order: list[str] = order) -> None:
            with gate.between_cells():
                order.append("work")

        gate.enter_cell(1)
        thread = threading.Thread(target=work)
        thread.start()
        while not gate._due:
            time.sleep(0)
        order.append("cell")
        gate.leave_cell()
        gate.enter_cell(5)
        order.append("next cell")
        gate.leave_cell()
        thread.join()
        assert order == ["cell", "work", "next cell"]


def test_a_cell_of_a_subshell_does_not_wait_for_work_that_another_cell_holds_up() -> None:
    gate = _CellGate()
    gate.enter_cell(1)
    thread = threading.Thread(target=gate.between_cells().__enter__, daemon=True)
    thread.start()
    while not gate._due:
        time.sleep(0)
    started = time.perf_counter()
    gate.enter_cell(3)
    assert time.perf_counter() - started < 0.5
    gate.cancel()
    thread.join()


# --- without a kernel ---------------------------------------------------------------------------------------


def test_unloading_while_a_source_is_still_being_fetched_ends_the_start_up_thread(project: Path) -> None:
    write_source(project, "time.sleep(1.5)\nreturn {'XAI_API_KEY': 'xai-remote'}")
    found = run_script(
        project,
        """
        import os, threading, time
        from IPython.core.interactiveshell import InteractiveShell
        import oraculo_kit
        from oraculo_kit.services import services_state

        shell = InteractiveShell.instance()
        shell.kernel = "a shell of a kernel has one"
        oraculo_kit.load_ipython_extension(shell)
        time.sleep(0.3)
        started = time.perf_counter()
        state = services_state().state
        oraculo_kit.unload_ipython_extension(shell)
        seconds = time.perf_counter() - started
        threads = [thread.name for thread in threading.enumerate() if thread.name == "oraculo-start"]
        time.sleep(1.5)
        report([state, seconds < 1, threads, services_state().state, os.environ.get("XAI_API_KEY")])
        """,
    )
    assert found == ["starting", True, [], "stopped", None]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (
            [],
            "get_ipython().run_line_magic('load_ext', 'oraculo_kit'); print(oraculo.get_services().context)",
        ),
        (["--ext=oraculo_kit"], "print(oraculo.get_services().context)"),
    ],
    ids=["load_ext", "ext"],
)
def test_a_terminal_shows_the_four_lines_too(project: Path, arguments: list[str], code: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "IPython",
            "--no-banner",
            "--colors=NoColor",
            "--quick",
            *arguments,
            "-c",
            code,
        ],
        cwd=project,
        env={**os.environ, "IPYTHONDIR": str(project / "ipython")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        line.replace("the Jupyter kernel", "a Python program") for line in LINES
    ] + ["script"]
    assert "oraculo" not in done.stderr
