"""A Jupyter kernel whose notebooks have the services before their first cell."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from oraculo_kit.errors import SettingsError

_MARK = "oraculo_kit"


def install_kernel(name: str = "oraculo_kit", *, user: bool = False, prefix: str | None = None) -> str:
    """Install the kernel.

    Parameters
    ----------
    name : str
        Kernel name, as in ``jupyter kernelspec list``.
    user : bool
        For this user instead of this Python environment.
    prefix : path, optional
        Below this prefix instead.

    Returns
    -------
    str
        What was installed where.

    Raises
    ------
    SettingsError
        For a bad name, or a kernel of that name that is not ours: it is left alone.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    name = _checked(name)
    manager = KernelSpecManager()
    _refuse_foreign(_folder(name, user, prefix or sys.prefix))
    if found := manager.find_kernel_specs().get(name):
        _refuse_foreign(found)  # one of the two would hide the other
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--ext=oraculo_kit"],
        "display_name": "Python (oraculo_kit)" if name == "oraculo_kit" else f"Python ({name})",
        "language": "python",
        "metadata": {"debugger": True, _MARK: True},
    }
    with tempfile.TemporaryDirectory() as temporary:
        # One below: the installed folder keeps its mode, and others must be able to read it.
        folder = Path(temporary) / name
        folder.mkdir()
        (folder / "kernel.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
        where = manager.install_kernel_spec(
            str(folder), name, user=user, prefix=None if user else (prefix or sys.prefix)
        )
    return f"kernel {name!r} installed in {where}; choose it in JupyterLab as {spec['display_name']!r}"


def remove_kernel(name: str = "oraculo_kit", *, user: bool = False, prefix: str | None = None) -> str:
    """Remove a kernel that `install_kernel` made.

    Parameters
    ----------
    name : str
    user, prefix
        As they were given to `install_kernel`; with neither, the kernel that Jupyter finds.

    Returns
    -------
    str
        What was removed from where.

    Raises
    ------
    SettingsError
        When there is none, or it is not ours.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    name = _checked(name)
    folder = (
        _folder(name, user, prefix) if user or prefix else KernelSpecManager().find_kernel_specs().get(name)
    )
    if folder is None or not os.path.isdir(folder):
        raise SettingsError(f"there is no kernel {name!r}; `jupyter kernelspec list` shows what there is")
    _refuse_foreign(folder)
    shutil.rmtree(folder)
    return f"kernel {name!r} removed from {folder}"


def _checked(name: str) -> str:
    # The first character: ".." would name the folder above, and installing replaces what is there.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise SettingsError(
            f"kernel name is {name!r}, expected letters, digits, '.', '_' and '-', the first not '.' or '-'"
        )
    return name.lower()  # as Jupyter does


def _folder(name: str, user: bool, prefix: str | None) -> str:
    from jupyter_core.paths import jupyter_data_dir

    data = (
        jupyter_data_dir()
        if user
        else os.path.join(os.path.abspath(prefix or sys.prefix), "share", "jupyter")
    )
    return os.path.join(data, "kernels", name)


def _refuse_foreign(folder: str) -> None:
    if not os.path.lexists(folder):
        return
    try:
        content = json.loads(Path(folder, "kernel.json").read_text(encoding="utf-8"))
        ours = content["metadata"][_MARK] is True and not os.path.islink(folder)
    except (OSError, ValueError, KeyError, TypeError):  # whatever it is, it is not ours
        ours = False
    if not ours:
        raise SettingsError(
            f"in {folder} is something that oraculo_kit did not make; it was left alone. Choose another --name"
        )
