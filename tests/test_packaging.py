"""What installs, how fast the package imports, and that no name hides another."""

from __future__ import annotations

import importlib
import os
import pkgutil
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import oraculo_kit

ROOT = Path(__file__).parent.parent


def _requirements(lines: list[str]) -> dict[str, str]:
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(item.name): str(item.specifier) for item in parsed}


def test_environment_yml_and_pyproject_name_the_same_packages_and_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    plain = [item for item in conda if isinstance(item, str) and item != "pip"]
    from_pip = next(item["pip"] for item in conda if isinstance(item, dict))
    assert [item for item in from_pip if item.startswith("-e")] == ["-e ."]
    found = _requirements(plain + [item for item in from_pip if not item.startswith("-e")])
    python = found.pop("python")
    assert sorted(python.split(",")) == sorted(project["requires-python"].split(","))
    assert found == _requirements(project["dependencies"])


def test_constraints_pin_every_dependency_and_name_no_download_host() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert " @ " not in text
    pinned = _requirements([line for line in text.splitlines() if line and not line.startswith("#")])
    assert all(version.startswith("==") for version in pinned.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    missing = set(_requirements(wanted)) - set(pinned) - {"oraculo-kit"}
    assert not missing


def test_importing_the_package_costs_well_under_100_ms_and_loads_nothing_heavy() -> None:
    script = (
        "import sys, time; before = set(sys.modules); started = time.perf_counter(); import oraculo_kit; "
        "seconds = time.perf_counter() - started; print(seconds); "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        for _ in range(3)
    ]
    assert min(float(run[0]) for run in runs) < 0.05
    heavy = {
        "numpy",
        "pandas",
        "faiss",
        "langchain_core",
        "joblib",
        "apsw",
        "IPython",
        "logging",
        "tokenizers",
    }
    assert not heavy & set(runs[0][1].split())


def test_every_public_name_is_callable_after_importing_all_modules_in_any_order() -> None:
    names = [
        module.name
        for module in pkgutil.walk_packages(oraculo_kit.__path__, "oraculo_kit.")
        if not module.name.endswith("__main__")
    ]
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "import oraculo_kit\n"
        "wrong = [n for n in oraculo_kit.__all__ if n not in ('__version__', 'errors')"
        " and not callable(getattr(oraculo_kit, n))]\n"
        "sys.exit(f'hidden by modules: {wrong}' if wrong else 0)"
    )
    for seed in range(2):
        random.Random(seed).shuffle(names)
        subprocess.run([sys.executable, "-c", script, *names], check=True, timeout=60)


def test_the_public_names_are_sorted_and_exist() -> None:
    assert oraculo_kit.__all__ == sorted(oraculo_kit.__all__)
    for name in oraculo_kit.__all__:
        assert getattr(oraculo_kit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'ingets'"):
        _ = oraculo_kit.ingets


def test_the_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["version"]["path"] == "oraculo_kit/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", oraculo_kit.__version__)


def test_modules_that_must_stay_light_do_not_import_pandas_or_vectorstores() -> None:
    script = (
        "import sys\n"
        "import oraculo_kit.ingestion, oraculo_kit.parallel, oraculo_kit.storage.faiss, oraculo_kit.load\n"
        "heavy = {'pandas', 'langchain_core.vectorstores', 'IPython', 'langchain'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ})


@pytest.mark.parametrize("module", ["storage.faiss", "storage.commit", "load", "split", "embed"])
def test_lower_layers_know_nothing_of_the_layers_above(module: str) -> None:
    imported = importlib.import_module(f"oraculo_kit.{module}")
    text = Path(str(imported.__file__)).read_text(encoding="utf-8")
    above = ("services", "ingestion", "retrieval", "parallel", "extension", "cli", "widgets")
    assert not re.findall(rf"oraculo_kit\.({'|'.join(above)})\b import", text)
