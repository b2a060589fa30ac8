"""The kernel that ``oraculo kernel install`` makes: it works, and nobody else's kernel is touched."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oraculo_kit.errors import SettingsError
from oraculo_kit.kernelspec import install_kernel, remove_kernel
from tests.conftest import Notebook


@pytest.fixture
def jupyter(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a prefix whose kernels Jupyter finds; the user's own folder is a temporary one."""
    prefix = project / "prefix"
    monkeypatch.setenv("JUPYTER_PATH", str(prefix / "share" / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(project / "user"))
    return prefix


def kernels(prefix: Path) -> Path:
    return prefix / "share" / "jupyter" / "kernels"


def test_a_notebook_with_the_installed_kernel_has_the_services_at_once(
    jupyter: Path, notebook: Callable[..., Notebook]
) -> None:
    said = install_kernel("Minha_Base", prefix=str(jupyter))
    folder = kernels(jupyter) / "minha_base"
    assert (
        said == f"kernel 'minha_base' installed in {folder}; choose it in JupyterLab as 'Python (minha_base)'"
    )
    first = notebook(kernel="minha_base").run("oraculo.get_services().context")
    assert (first.result, first.error) == ("'kernel'", None)


def test_the_specification_runs_this_python_and_is_readable_by_others(jupyter: Path) -> None:
    install_kernel(prefix=str(jupyter))
    folder = kernels(jupyter) / "oraculo_kit"
    spec = json.loads((folder / "kernel.json").read_text(encoding="utf-8"))
    assert spec["argv"][0] == sys.executable
    assert spec["argv"][-1] == "--ext=oraculo_kit"
    assert spec["display_name"] == "Python (oraculo_kit)"
    if os.name == "posix":
        umask = os.umask(0)
        os.umask(umask)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_installing_again_replaces_our_own_and_removing_leaves_nothing(jupyter: Path) -> None:
    install_kernel("base", prefix=str(jupyter))
    install_kernel("BASE", prefix=str(jupyter))
    assert [path.name for path in kernels(jupyter).iterdir()] == ["base"]
    assert remove_kernel("Base") == f"kernel 'base' removed from {kernels(jupyter) / 'base'}"
    assert list(kernels(jupyter).iterdir()) == []
    with pytest.raises(SettingsError, match="there is no kernel 'base'; `jupyter kernelspec list`"):
        remove_kernel("base")


def test_user_and_prefix_say_which_of_two_is_removed(jupyter: Path, project: Path) -> None:
    install_kernel("base", prefix=str(jupyter))
    install_kernel("base", user=True)
    remove_kernel("base", prefix=str(jupyter))
    assert (project / "user" / "kernels" / "base").is_dir()
    with pytest.raises(SettingsError, match="there is no kernel 'base'"):
        remove_kernel("base", prefix=str(jupyter))
    remove_kernel("base", user=True)
    assert list((project / "user" / "kernels").iterdir()) == []


def test_a_prefix_that_jupyter_does_not_search_is_removed_from_as_well(project: Path) -> None:
    elsewhere = project / "elsewhere"
    install_kernel("base", prefix=str(elsewhere))
    remove_kernel("base", prefix=str(elsewhere))
    assert list(kernels(elsewhere).iterdir()) == []


@pytest.mark.parametrize(
    "content", ['{"argv": [], "metadata": {}}', '{"metadata": null}', "[]", "broken", None]
)
def test_a_kernel_of_somebody_else_is_left_alone(jupyter: Path, project: Path, content: str | None) -> None:
    for name, prefix in (("base", jupyter), ("other", project / "not searched by jupyter")):
        folder = kernels(prefix) / name
        folder.mkdir(parents=True)
        (folder / "mine").touch()
        if content is not None:
            (folder / "kernel.json").write_text(content)
        with pytest.raises(SettingsError, match="something that oraculo_kit did not make; it was left alone"):
            install_kernel(name.title(), prefix=str(prefix))
        with pytest.raises(SettingsError, match="left alone"):
            remove_kernel(name, prefix=str(prefix))
        assert (folder / "mine").exists()


def test_a_kernel_of_somebody_else_is_not_hidden_by_ours(jupyter: Path) -> None:
    folder = kernels(jupyter) / "base"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text('{"argv": ["x"], "display_name": "x", "language": "x"}')
    with pytest.raises(SettingsError, match="left alone"):
        install_kernel("base", user=True)
    with pytest.raises(SettingsError, match="left alone"):
        install_kernel("python3", prefix=str(jupyter))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "com espaço", "a\nb"])
def test_a_name_that_is_none_is_refused_and_nothing_is_touched(jupyter: Path, name: str) -> None:
    kernels(jupyter).mkdir(parents=True)
    with pytest.raises(SettingsError, match="kernel name is .*, expected letters"):
        install_kernel(name, prefix=str(jupyter))
    with pytest.raises(SettingsError, match="kernel name is .*, expected letters"):
        remove_kernel(name, prefix=str(jupyter))
    assert list(kernels(jupyter).iterdir()) == []
