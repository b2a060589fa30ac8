"""The README is true: its Python runs as a notebook, its commands exist, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import oraculo_kit
from oraculo_kit.settings import setting_variables
from tests.openai_server import KEY, OpenAIServer, says, server

__all__ = ["server"]  # a fixture

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

# What the README's reader is assumed to have: some documents, a DataFrame, a list of paths.
_PREPARATION = """
import pandas as pd
from pathlib import Path
from langchain_core.documents import Document
df = pd.DataFrame({"id": [1, 2], "texto": ["prazo de entrega", "nota fiscal"], "ano": [2023, 2024]})
paths = [str(path) for path in sorted(Path("docs").iterdir())]
documents = [Document("uma pergunta", metadata={"source": "a.md"})]
"""


# A SQuAD-style file, as `evaluate` takes it.
_QUESTIONS = {
    "data": [
        {
            "title": "Notas",
            "paragraphs": [
                {
                    "context": "Prazo de entrega: dez dias.",
                    "qas": [{"id": "1", "question": "Qual o prazo?", "answers": [{"text": "dez dias"}]}],
                }
            ],
        }
    ]
}


def test_the_python_blocks_run_in_order_as_cells_of_one_notebook(
    project: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.route = says("Por dois anos [1].")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    shutil.copytree(ROOT / "notebooks" / "dados", project / "docs")
    (project / "notes.md").write_text("# Notas\n\nPrazo de entrega: dez dias.", encoding="utf-8")
    (project / "faquad.json").write_text(json.dumps(_QUESTIONS), encoding="utf-8")
    cells = [block for block in BLOCKS if "firebase_admin" not in block]
    assert len(cells) >= 6
    script = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "for cell in sys.argv[1:]:\n"
        "    shell.run_cell(cell, store_history=True).raise_error()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, _PREPARATION, *cells],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def test_the_firebase_example_is_valid_and_short() -> None:
    block = next(block for block in BLOCKS if "firebase_admin" in block)
    compile(block, "README.md", "exec")


def test_it_sells_in_its_first_thirty_lines() -> None:
    top = "\n".join(README.splitlines()[:30])
    for expected in ("%load_ext oraculo_kit", "oraculo.ingest", "oraculo.search"):
        assert expected in top


def test_every_setting_is_in_the_table_and_no_other() -> None:
    table = README[README.index("| setting |") : README.index("An argument wins")]
    named = set(re.findall(r"`(ORACULO_[A-Z_]+)`", table))
    known = {variable for variable, _, _ in setting_variables().values()}
    assert named - {"ORACULO_ENV_SOURCE"} == known


def test_links_lead_to_files_of_the_project() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    for target in targets:
        if "://" not in target:
            assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", sorted(set(re.findall(r"oraculo_kit import ([a-zA-Z_, ]+)", README))))
def test_imported_names_are_public(name: str) -> None:
    for one in name.split(","):
        assert one.strip() in oraculo_kit.__all__


def test_the_commands_exist() -> None:
    shell = "\n".join(re.findall(r"```\n(.*?)```", README, re.DOTALL))
    for command in set(re.findall(r"\boraculo ([a-z]+)", shell)):
        subprocess.run(
            [sys.executable, "-m", "oraculo_kit", command, "--help"],
            check=True,
            capture_output=True,
            timeout=30,
        )
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert f"\n{target}:" in makefile
