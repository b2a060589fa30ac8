"""The environment: precedence, allow-list, all or nothing, who set what, files and callables as sources."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from oraculo_kit.environment import (
    EnvironmentPlan,
    apply_environ,
    environ_origin,
    fetch_environ,
    record,
    redact,
    set_environ_remote,
)
from oraculo_kit.environment.names import danger, is_provider_name, refusal
from oraculo_kit.errors import EnvironmentSourceError, SettingsError

SECRET = "sk-planted-7f3a9c1e5b"
KEEP = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name not in KEEP and not name.startswith("PYTHON"):
            del os.environ[name]
    monkeypatch.setattr(record, "_known_secrets", set())
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "meu projeto"
    folder.mkdir()
    return folder


def write_module(project: Path, name: str, code: str) -> str:
    (project / f"{name}.py").write_text(textwrap.dedent(code), encoding="utf-8")
    return f"{name}:fetch"


def everything_said(error: BaseException) -> str:
    return str(error) + repr(error) + "".join(traceback.format_exception(error))


# --- precedence ---------------------------------------------------------------------------------------------


def test_the_environment_is_stronger_than_dotenv_and_dotenv_than_a_remote_source(project: Path) -> None:
    os.environ["OPENAI_API_KEY"] = "from-environment"
    os.environ["ORACULO_ENV_SOURCE"] = "remote.json"
    (project / ".env").write_text("OPENAI_API_KEY=from-dotenv\nCOHERE_API_KEY=from-dotenv\n")
    (project / "remote.json").write_text(
        json.dumps(dict.fromkeys(("OPENAI_API_KEY", "COHERE_API_KEY", "XAI_API_KEY"), "from-remote"))
    )

    plan = set_environ_remote(project)

    assert dict(plan.values) == {"COHERE_API_KEY": "from-dotenv", "XAI_API_KEY": "from-remote"}
    assert os.environ["OPENAI_API_KEY"] == "from-environment"
    assert [
        environ_origin(name) for name in ("OPENAI_API_KEY", "COHERE_API_KEY", "XAI_API_KEY", "NOT_SET")
    ] == [
        "environment",
        "dotenv",
        "remote",
        None,
    ]


def test_a_later_source_fills_only_what_earlier_ones_left_out(project: Path) -> None:
    (project / "a.env").write_text("OPENAI_API_KEY=first\n")
    (project / "b c.json").write_text('{"OPENAI_API_KEY": "second", "GROQ_API_KEY": "second"}')
    os.environ["ORACULO_ENV_SOURCE"] = f"a.env ;\n {project / 'b c.json'};"

    plan = fetch_environ(project)

    assert dict(plan.values) == {"OPENAI_API_KEY": "first", "GROQ_API_KEY": "second"}
    assert plan.sources == ("a.env", str(project / "b c.json"))


def test_a_blank_value_counts_as_not_given_wherever_it_stands(project: Path) -> None:
    os.environ["OPENAI_API_KEY"] = "  "
    (project / ".env").write_text("OPENAI_API_KEY=\nGROQ_API_KEY=' '\nORACULO_ENV_SOURCE=remote.json\n")
    (project / "remote.json").write_text('{"OPENAI_API_KEY": "from-remote", "XAI_API_KEY": null}')

    plan = set_environ_remote(project)

    assert os.environ["OPENAI_API_KEY"] == "from-remote"
    assert dict(plan.refused) == {"GROQ_API_KEY": "blank", "XAI_API_KEY": "blank"}


def test_the_environment_chooses_the_source_before_dotenv_does_and_a_source_never_does(project: Path) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = "a.json"
    (project / ".env").write_text("ORACULO_ENV_SOURCE=b.json\n")
    (project / "a.json").write_text('{"ORACULO_ENV_SOURCE": "b.json", "ORACULO_ENV_ALLOW": "X", "X": "1"}')

    plan = fetch_environ(project)

    assert dict(plan.values) == {}
    assert set(plan.refused) == {"ORACULO_ENV_SOURCE", "ORACULO_ENV_ALLOW", "X"}
    assert "where the environment comes from" in plan.refused["ORACULO_ENV_SOURCE"]


def test_fetching_changes_nothing(project: Path) -> None:
    (project / ".env").write_text(f"OPENAI_API_KEY={SECRET}\n")
    before = dict(os.environ)
    fetch_environ(project)
    assert dict(os.environ) == before


def test_a_project_without_dotenv_and_sources_gives_an_empty_plan_without_a_thread(project: Path) -> None:
    threads = threading.active_count()
    plan = set_environ_remote(project)
    assert (dict(plan.values), plan.sources, plan.warnings) == ({}, (), ())
    assert "ORACULO_ENV_ORIGINS" not in os.environ
    assert threading.active_count() == threads


def test_another_mapping_can_stand_for_the_environment(project: Path) -> None:
    (project / ".env").write_text("OPENAI_API_KEY=abc\nGROQ_API_KEY=abc\n")
    assert dict(fetch_environ(project, environ={"GROQ_API_KEY": "mine"}).values) == {"OPENAI_API_KEY": "abc"}


def test_without_a_root_the_project_of_the_working_folder_is_meant_as_for_settings(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oraculo_kit.settings import find_project_root

    (project / ".env").write_text("OPENAI_API_KEY=abc\n")
    (project / "notebooks" / "deep").mkdir(parents=True)
    for folder in (project, project / "notebooks" / "deep"):
        monkeypatch.chdir(folder)
        assert set_environ_remote().sources == (str(find_project_root() / ".env"),)
    for marker in (".oraculo", "pyproject.toml"):
        (project / "notebooks" / marker).touch()
        assert set_environ_remote().sources == ()
        assert find_project_root() == project / "notebooks"
        (project / "notebooks" / marker).unlink()


# --- the allow-list -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "PATH",
            "Path",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "DYLD_INSERT_LIBRARIES",
        ),
        *("HOME", "USER", "SHELL", "IFS", "ENV", "BASH_ENV", "BASH_FUNC_ls", "PERL5OPT", "NODE_OPTIONS"),
        *("GIT_SSH_COMMAND", "SSL_CERT_FILE", "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("AWS_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "no_proxy", "ALL_PROXY", "OPENAI_PROXY", "LANG"),
        *(
            "LC_ALL",
            "TMPDIR",
            "TEMP",
            "JUPYTER_PATH",
            "IPYTHONDIR",
            "LOKY_PICKLER",
            "MPLBACKEND",
            "PIP_INDEX_URL",
        ),
        *("DASK_DISTRIBUTED__WORKER__PRELOAD", "JAVA_TOOL_OPTIONS", "OPENSSL_CONF", "OMP_TOOL_LIBRARIES"),
        *(
            "AWS_CONFIG_FILE",
            "EDITOR",
            "COMSPEC",
            "XDG_CONFIG_HOME",
            "GLIBC_TUNABLES",
            "CUDA_INJECTION64_PATH",
        ),
    ],
)
def test_a_dangerous_name_is_refused_whoever_lists_it(name: str, project: Path) -> None:
    assert danger(name) is not None
    assert "dangerous" in (refusal(name, "dotenv", frozenset({name})) or "")
    os.environ["ORACULO_ENV_ALLOW"] = name
    with pytest.raises(SettingsError, match=f"ORACULO_ENV_ALLOW lists {name}"):
        fetch_environ(project)


def test_a_source_with_a_dangerous_name_is_refused_whole_and_the_name_is_said(project: Path) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = "good.json;bad.json"
    (project / "good.json").write_text(f'{{"OPENAI_API_KEY": "{SECRET}"}}')
    (project / "bad.json").write_text('{"GROQ_API_KEY": "fine", "LD_PRELOAD": "/tmp/x.so", "PATH": ""}')
    before = dict(os.environ)
    with pytest.raises(EnvironmentSourceError, match=r"bad\.json holds names .*LD_PRELOAD .*PATH ") as caught:
        set_environ_remote(project)
    assert dict(os.environ) == before
    assert SECRET not in everything_said(caught.value)


def test_a_flood_of_names_does_not_become_a_flood_of_text(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    os.environ["ORACULO_ENV_SOURCE"] = "remote.json"
    (project / "remote.json").write_text(json.dumps({f"LD_{number}": "" for number in range(9_000)}))
    with pytest.raises(EnvironmentSourceError, match="and 8995 more") as caught:
        fetch_environ(project)
    assert len(str(caught.value)) < 1_000
    (project / "remote.json").write_text(json.dumps({f"name{number}": "" for number in range(9_000)}))
    assert len(fetch_environ(project).refused) == 9_000
    assert len(caplog.text) < 1_000


def test_dangerous_names_in_dotenv_are_for_other_tools_and_are_left_out(project: Path) -> None:
    (project / ".env").write_text("PYTHONPATH=src\nGROQ_API_KEY=abc\nORACULO_ENV_ORIGINS={}\nhttp_proxy=x\n")
    plan = set_environ_remote(project)
    assert set(plan.values) == {"GROQ_API_KEY"}
    assert set(plan.refused) == {"PYTHONPATH", "ORACULO_ENV_ORIGINS", "http_proxy"}


def test_the_user_allows_more_names_in_dotenv_or_environment(project: Path) -> None:
    (project / ".env").write_text(
        "ORACULO_ENV_ALLOW='MY_KEY, OPENAI_BASE_URL'\nORACULO_ENV_SOURCE=remote.json\n"
    )
    (project / "remote.json").write_text('{"MY_KEY": 12, "OPENAI_BASE_URL": "https://x", "OLLAMA_HOST": "y"}')
    plan = fetch_environ(project)
    assert plan.values["MY_KEY"] == "12"
    assert plan.values["OPENAI_BASE_URL"] == "https://x"
    assert "ORACULO_ENV_ALLOW lists it" in plan.refused["OLLAMA_HOST"]


def test_dotenv_may_set_the_address_of_a_service_and_a_remote_source_may_not() -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "AZURE_OPENAI_ENDPOINT", "OLLAMA_HOST", "WATSONX_URL"):
        assert refusal(name, "dotenv", frozenset()) is None
        assert refusal(name, "remote", frozenset()) is not None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "OPENAI_API_KEY",
            "OPENAI_API_VERSION",
            "AZURE_OPENAI_AD_TOKEN",
            "ANTHROPIC_API_KEY",
            "GOOGLE_API_KEY",
        ),
        *("GEMINI_API_KEY", "MISTRAL_API_KEY", "COHERE_API_KEY", "CO_API_KEY", "HF_TOKEN", "VOYAGE_API_KEY"),
        *(
            "HUGGINGFACEHUB_API_TOKEN",
            "GROQ_API_KEY",
            "TOGETHER_API_KEY",
            "NVIDIA_API_KEY",
            "LANGSMITH_API_KEY",
        ),
        *(
            "AWS_SECRET_ACCESS_KEY",
            "WATSONX_APIKEY",
            "MODEL_API_KEY",
            "DEEPSEEK_API_KEY",
            "FIREWORKS_API_KEY",
        ),
    ],
)
def test_key_names_of_langchain_providers_pass_from_every_source(name: str) -> None:
    assert is_provider_name(name)
    assert refusal(name, "remote", frozenset()) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[1]", "is a list"),
        ('{"a": 1}', "is a dict"),
        (r'"a\u0000b"', "NUL"),
        (r'"\ud800"', "surrogate"),
        (json.dumps("x" * 32_769), "32,769 characters"),
    ],
)
def test_a_value_that_no_variable_can_hold_is_refused_with_its_name(
    value: str, said: str, project: Path
) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = "remote.json"
    (project / "remote.json").write_text(f'{{"GROQ_API_KEY": "{SECRET}", "OPENAI_API_KEY": {value}}}')
    with pytest.raises(EnvironmentSourceError, match=f"OPENAI_API_KEY .*{said}") as caught:
        set_environ_remote(project)
    assert SECRET not in everything_said(caught.value)
    assert "GROQ_API_KEY" not in os.environ


def test_numbers_and_booleans_become_the_text_they_were_written_with(project: Path) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = "remote.json"
    (project / "remote.json").write_text(
        '{"ORACULO_CHUNK_SIZE": 500, "ORACULO_LOCK_TIMEOUT": 1.50, "LANGSMITH_TRACING": true, "nested": {}}'
    )
    assert dict(fetch_environ(project).values) == {
        "ORACULO_CHUNK_SIZE": "500",
        "ORACULO_LOCK_TIMEOUT": "1.50",
        "LANGSMITH_TRACING": "true",
    }


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ORACULO_ENV_TIMEOUT", "abc", "'abc', expected a number of seconds"),
        ("ORACULO_ENV_TIMEOUT", "nan", "'nan', expected a number of seconds"),
        ("ORACULO_ENV_TIMEOUT", "-1", "'-1', expected a number of seconds"),
        ("ORACULO_ENV_CACHE", "maybe", "'maybe', expected 1 or 0"),
        ("ORACULO_ENV_ALLOW", "my-key", "'my-key', expected names of capital letters"),
        ("ORACULO_ENV_HEADERS", f"X-Key: {SECRET}", "malformed, expected a JSON object"),
        ("ORACULO_ENV_HEADERS", json.dumps({"X-Key": f"{SECRET}\r\nHost: evil"}), "malformed"),
        ("ORACULO_ENV_TOKEN", f"Bearer {SECRET}", "without the word Bearer"),
    ],
)
def test_a_malformed_steering_variable_is_named_and_no_secret_shown(
    variable: str, value: str, said: str, project: Path
) -> None:
    os.environ[variable] = value
    with pytest.raises(SettingsError, match=f"{variable} .*{said}") as caught:
        fetch_environ(project)
    assert SECRET not in everything_said(caught.value)


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"A=1\n\nOPENAI_API_KEY='{SECRET}\nB=2\n".encode(), "line 3"),
        (f"# a token file by mistake\n{SECRET}\n".encode(), "line 2"),
        (f"OPENAI_API_KEY={SECRET}\n".encode("utf-16"), "not UTF-8"),
        (b"A=1\n" * 300_000, "larger than 1 MiB"),
    ],
)
def test_a_broken_dotenv_says_where_and_shows_nothing(content: bytes, said: str, project: Path) -> None:
    (project / ".env").write_bytes(content)
    with pytest.raises(EnvironmentSourceError, match=said) as caught:
        fetch_environ(project)
    assert SECRET not in everything_said(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f'{{"OPENAI_API_KEY": "{SECRET}"'.encode(), "is not JSON .line 1"),
        (f'["{SECRET}"]'.encode(), "is a JSON list"),
        (f'"{SECRET}"'.encode(), "is a JSON str"),
        (b'{"a": "\xff"}', "is not Unicode"),
        (b"[" * 200_000, "nested too deeply"),
        (b"", "is not JSON"),
    ],
)
def test_a_broken_json_document_says_where_and_shows_nothing(
    content: bytes, said: str, project: Path
) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = "remote.json"
    (project / "remote.json").write_bytes(content)
    with pytest.raises(EnvironmentSourceError, match=said) as caught:
        fetch_environ(project)
    assert SECRET not in everything_said(caught.value)
    assert caught.value.__context__ is None


def test_dotenv_is_read_as_python_dotenv_does_but_without_interpolation(project: Path) -> None:
    os.environ["GROQ_API_KEY"] = SECRET
    (project / ".env").write_bytes(
        b"\xef\xbb\xbfexport OPENAI_API_KEY='a#b' # comment\r\nXAI_API_KEY=${GROQ_API_KEY}\r\n"
        b'COHERE_API_KEY="l1\\nl2"'
    )
    assert dict(fetch_environ(project).values) == {
        "OPENAI_API_KEY": "a#b",
        "XAI_API_KEY": "${GROQ_API_KEY}",
        "COHERE_API_KEY": "l1\nl2",
    }


def test_a_folder_named_dotenv_is_no_dotenv(project: Path) -> None:
    (project / ".env").mkdir()
    assert fetch_environ(project).sources == ()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_dotenv_that_is_a_pipe_nobody_writes_to_ends_in_time(project: Path) -> None:
    os.mkfifo(project / ".env")
    os.environ["ORACULO_ENV_TIMEOUT"] = "0.2"
    with pytest.raises(EnvironmentSourceError, match=r"no complete answer in time; all sources .* 0\.2 s"):
        fetch_environ(project)
    with open(project / ".env", "wb"):  # lets the helper thread end
        pass


def test_a_missing_source_is_named_with_what_to_do(project: Path) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = "nowhere.json"
    with pytest.raises(
        EnvironmentSourceError, match=r"nowhere\.json cannot be read: No such file.*relative to"
    ):
        fetch_environ(project)


# --- callables ----------------------------------------------------------------------------------------------


def test_a_callable_in_the_project_root_is_a_source_and_sys_path_stays_as_it_was(project: Path) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = write_module(
        project, "env_good", "def fetch():\n    return {'OPENAI_API_KEY': 'abc', 'OTHER': 'x'}"
    )
    before = list(sys.path)
    plan = set_environ_remote(project)
    assert (os.environ["OPENAI_API_KEY"], plan.sources) == ("abc", ("env_good:fetch",))
    assert sys.path == before


def test_an_async_callable_works_inside_a_running_event_loop(project: Path) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = write_module(
        project,
        "env_async",
        """
        import asyncio

        async def fetch():
            await asyncio.sleep(0.01)
            return {"OPENAI_API_KEY": "abc"}
        """,
    )

    async def cell() -> str:
        set_environ_remote(project)
        return os.environ["OPENAI_API_KEY"]

    assert asyncio.run(cell()) == "abc"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('bad region')", "ValueError: bad region"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import does_not_exist_anywhere", "ModuleNotFoundError: No module named 'does_not_exist_anywhere'"),
        ("return ['OPENAI_API_KEY']", "returned list, expected a mapping"),
        ("return {1: 'x'}", "names that are not texts"),
    ],
)
def test_a_failing_callable_is_named_with_its_error_and_nothing_is_set(
    body: str, said: str, project: Path
) -> None:
    name = "env_failing_" + "".join(filter(str.isalnum, body))
    os.environ["ORACULO_ENV_SOURCE"] = write_module(project, name, f"def fetch():\n    {body}")
    (project / ".env").write_text("GROQ_API_KEY=abc\n")
    with pytest.raises(EnvironmentSourceError, match=f"{name}:fetch .*{said}") as caught:
        set_environ_remote(project)
    assert "GROQ_API_KEY" not in os.environ
    if "Error" in said:
        assert type(caught.value.__cause__).__name__ == said.partition(":")[0]


@pytest.mark.parametrize(
    "source", ["no_such_module_here:fetch", "json:no_such_function", "json.decoder:WHITESPACE"]
)
def test_a_callable_that_is_not_there_is_named(source: str, project: Path) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = source
    with pytest.raises(EnvironmentSourceError, match=f"{source} failed: .*must be importable"):
        fetch_environ(project)


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_callable_that_never_returns_ends_in_time(word: str, project: Path) -> None:
    pause = "await asyncio.sleep(3)" if "async" in word else "time.sleep(3)"
    os.environ["ORACULO_ENV_TIMEOUT"] = "0.2"
    os.environ["ORACULO_ENV_SOURCE"] = write_module(
        project,
        f"env_slow_{len(word)}",
        f"import asyncio, time\n{word} fetch():\n    {pause}\n    return {{}}",
    )
    start = time.monotonic()
    with pytest.raises(EnvironmentSourceError, match=r"in time|TimeoutError"):
        fetch_environ(project)
    assert time.monotonic() - start < 1.5


def test_the_time_limit_is_for_all_sources_together(project: Path) -> None:
    os.environ["ORACULO_ENV_TIMEOUT"] = "0.3"
    slow = write_module(
        project, "env_slowish", "import time\ndef fetch():\n    time.sleep(0.2)\n    return {}"
    )
    os.environ["ORACULO_ENV_SOURCE"] = f"{slow};{slow};{slow}"
    with pytest.raises(EnvironmentSourceError, match="env_slowish:fetch gave no complete answer"):
        fetch_environ(project)


def test_a_callable_that_tells_a_secret_in_its_error_is_redacted_and_not_chained(project: Path) -> None:
    os.environ["ORACULO_ENV_TOKEN"] = SECRET
    os.environ["ORACULO_ENV_SOURCE"] = write_module(
        project,
        "env_telltale",
        """
        import os

        def fetch():
            raise ValueError("no: " + os.environ["ORACULO_ENV_TOKEN"])
        """,
    )
    with pytest.raises(EnvironmentSourceError, match=r"ValueError: no: \*\*\*") as caught:
        fetch_environ(project)
    assert SECRET not in everything_said(caught.value)


# --- applying -----------------------------------------------------------------------------------------------


def test_a_value_that_the_system_refuses_undoes_every_change() -> None:
    os.environ["COHERE_API_KEY"] = ""
    before = dict(os.environ)
    plan = EnvironmentPlan(
        values={"COHERE_API_KEY": SECRET, "GROQ_API_KEY": SECRET, "XAI_API_KEY": f"{SECRET}\0"},
        origins=dict.fromkeys(("COHERE_API_KEY", "GROQ_API_KEY", "XAI_API_KEY"), "remote"),
    )
    with pytest.raises(
        EnvironmentSourceError, match="refused to set the environment variable XAI_API_KEY"
    ) as caught:
        apply_environ(plan)
    assert dict(os.environ) == before
    assert SECRET not in everything_said(caught.value)


def test_a_reload_updates_and_removes_what_we_set_and_nothing_else(project: Path) -> None:
    (project / ".env").write_text(
        "OPENAI_API_KEY=old\nGROQ_API_KEY=old\nXAI_API_KEY=old\nCOHERE_API_KEY=old\n"
    )
    set_environ_remote(project)
    os.environ["XAI_API_KEY"] = "the user's own"
    os.environ["COHERE_API_KEY"] = "the user's own"
    (project / ".env").write_text("OPENAI_API_KEY=new\nXAI_API_KEY=new\n")

    plan = fetch_environ(project)
    assert apply_environ(plan) == ("OPENAI_API_KEY",)

    assert "GROQ_API_KEY" not in os.environ
    assert {name: environ_origin(name) for name in ("OPENAI_API_KEY", "XAI_API_KEY", "COHERE_API_KEY")} == {
        "OPENAI_API_KEY": "dotenv",
        "XAI_API_KEY": "environment",
        "COHERE_API_KEY": "environment",
    }
    (project / ".env").unlink()
    set_environ_remote(project)
    assert "OPENAI_API_KEY" not in os.environ
    assert "ORACULO_ENV_ORIGINS" not in os.environ


def test_a_name_that_the_user_sets_between_fetching_and_applying_is_left_alone(project: Path) -> None:
    (project / ".env").write_text("OPENAI_API_KEY=abc\n")
    plan = fetch_environ(project)
    os.environ["OPENAI_API_KEY"] = "mine"
    assert apply_environ(plan) == ()
    assert os.environ["OPENAI_API_KEY"] == "mine"


def test_a_child_process_knows_what_its_parent_set(project: Path) -> None:
    (project / ".env").write_text("OPENAI_API_KEY=abc\nORACULO_ENV_SOURCE=remote.json\n")
    (project / "remote.json").write_text('{"GROQ_API_KEY": "abc"}')
    os.environ["XAI_API_KEY"] = "mine"
    set_environ_remote(project)
    code = """
        import os, sys
        from oraculo_kit.environment import environ_origin, set_environ_remote
        names = ("OPENAI_API_KEY", "GROQ_API_KEY", "XAI_API_KEY")
        print(*(environ_origin(name) for name in names))
        open(os.path.join(sys.argv[1], ".env"), "w").write("OPENAI_API_KEY=newer\\n")
        set_environ_remote(sys.argv[1])
        print(*(os.environ.get(name) for name in names))
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(project)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=True,
    )
    assert child.stdout.split("\n")[:2] == ["dotenv remote environment", "newer None mine"]


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"OPENAI_API_KEY": 1}', '{"OPENAI_API_KEY": ["remote", "0"]}']
)
def test_a_record_that_is_not_ours_makes_every_value_the_users_own(record: str) -> None:
    environ = {"OPENAI_API_KEY": "abc", "ORACULO_ENV_ORIGINS": record}
    assert environ_origin("OPENAI_API_KEY", environ) == "environment"


def test_eight_threads_at_once_end_with_one_consistent_environment(project: Path) -> None:
    (project / ".env").write_text("".join(f"ORACULO_X{i}=value {i}\n" for i in range(20)))
    plans = [fetch_environ(project), EnvironmentPlan({"ORACULO_X0": "other"}, {"ORACULO_X0": "remote"})]
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        try:
            barrier.wait(5)
            for turn in range(20):
                apply_environ(plans[(number + turn) % 2])
                set_environ_remote(project)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert failures == []
    found = {name: value for name, value in os.environ.items() if name.startswith("ORACULO_X")}
    assert found == dict(plans[0].values)
    assert {environ_origin(name) for name in found} == {"dotenv"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_applies_can_apply_too(project: Path) -> None:
    from oraculo_kit.environment import plan

    (project / ".env").write_text("OPENAI_API_KEY=abc\n")
    with plan._lock:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                set_environ_remote(project)
                status = 0
            finally:
                os._exit(status)
    deadline = time.monotonic() + 5
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)


# --- secrets ------------------------------------------------------------------------------------------------


def test_plan_and_logs_hold_names_and_origins_and_no_value(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    os.environ["ORACULO_ENV_SOURCE"] = "remote.json"
    (project / ".env").write_text(f"OPENAI_API_KEY={SECRET}\nDJANGO_SECRET_KEY={SECRET}\n")
    (project / "remote.json").write_text(f'{{"GROQ_API_KEY": "{SECRET}", "evil\\nname": "{SECRET}"}}')

    plan = set_environ_remote(project)

    assert "OPENAI_API_KEY (dotenv)" in repr(plan)
    assert "GROQ_API_KEY (remote)" in f"{plan}"
    assert "environment variables set: 2: GROQ_API_KEY (remote), OPENAI_API_KEY (dotenv)" in caplog.text
    assert "left out of remote.json: 1: evil\\nname" in caplog.text
    assert {record.name for record in caplog.records} == {"oraculo_kit.environment"}
    assert SECRET not in repr(plan) + str(plan) + caplog.text + os.environ["ORACULO_ENV_ORIGINS"]


def test_a_plan_cannot_be_pickled_because_it_holds_secrets(project: Path) -> None:
    (project / ".env").write_text(f"OPENAI_API_KEY={SECRET}\n")
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(fetch_environ(project))


def test_redact_hides_every_secret_in_every_spelling(project: Path) -> None:
    os.environ["ANTHROPIC_API_KEY"] = "environment-secret"
    os.environ["ORACULO_ENV_TOKEN"] = "token-secret"
    os.environ["ORACULO_ENV_HEADERS"] = '{"Authorization": "Bearer header-secret"}'
    (project / ".env").write_text(
        'OPENAI_API_KEY="two\\nlines=secret"\nORACULO_LANG=pt_BR.UTF-8\nGROQ_API_KEY=abc\n'
    )
    set_environ_remote(project)
    text = " ".join(
        [
            "environment-secret token-secret header-secret two\nlines=secret",
            repr("two\nlines=secret"),
            "https://host/?key=two%0Alines%3Dsecret http://user:pass@proxy:3128 //user@host",
        ]
    )
    hidden = redact(text)
    assert hidden == "*** *** *** *** '***' https://host/?key=*** http://***@proxy:3128 //***@host"
    # Settings are shown in status; short values are part of ordinary words.
    assert redact("pt_BR.UTF-8 abcdef a@b //path/a@b") == "pt_BR.UTF-8 abcdef a@b //path/a@b"


def test_redact_hides_the_longest_secret_first_and_whatever_we_set_for_a_service(project: Path) -> None:
    (project / ".env").write_text("OPENAI_ORG_ID=org-planted-and-longer\nWATSONX_PROJECT_ID=org-planted\n")
    set_environ_remote(project)
    assert redact("org-planted-and-longer org-planted") == "*** ***"


def test_a_secret_that_a_reload_replaced_stays_hidden(project: Path) -> None:
    (project / ".env").write_text(f"OPENAI_API_KEY={SECRET}\n")
    set_environ_remote(project)
    (project / ".env").write_text("OPENAI_API_KEY=another-secret\n")
    set_environ_remote(project)
    assert redact(f"{SECRET} another-secret") == "*** ***"


def test_importing_the_environment_imports_neither_urllib3_nor_asyncio_nor_dotenv() -> None:
    code = (
        "import sys, oraculo_kit.environment; "
        "print([name for name in ('urllib3', 'asyncio', 'dotenv', 'requests') if name in sys.modules])"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=True,
    )
    assert child.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["time.env", "nada"])
def test_a_file_is_no_project_folder_and_is_not_passed_over(project: Path, name: str) -> None:
    (project / "time.env").write_text("ORACULO_LANG=pt_BR\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=f"{name}.*, expected a folder that exists; name sources in"):
        set_environ_remote(project / name)
