"""Settings: one precedence, refusals that say how to mend them, and an object that travels unchanged."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from oraculo_kit import start_services
from oraculo_kit.errors import EmbedderError, SettingsError
from oraculo_kit.settings import Settings, find_project_root, setting_variables

SECRET = "sk-planted-4c1e77aa90"


class Model:
    """An embedder as users write one: compared by identity, with a key that its repr shows."""

    def __init__(self, key: str = SECRET, model: str = "m1") -> None:
        self.api_key = key
        self.model = model

    def __repr__(self) -> str:
        return f"Model(api_key={self.api_key!r})"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[1.0, float(len(text))] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [1.0, float(len(text))]


def resolve(**arguments: Any) -> Settings:
    return Settings.resolve(project_root="/p", environ={}, **arguments)


# --- precedence ---------------------------------------------------------------------------------------------


def test_argument_beats_environment_beats_dotenv_beats_remote_beats_default(project: Path) -> None:
    (project / ".env").write_text(
        "ORACULO_ENV_SOURCE=remote.json\nORACULO_CHUNK_SIZE=701\nORACULO_MAX_FILE_MB=71\nORACULO_LOCK_TIMEOUT=72\n"
    )
    (project / "remote.json").write_text(
        '{"ORACULO_CHUNK_SIZE": 801, "ORACULO_MAX_FILE_MB": 81, "ORACULO_LOCK_TIMEOUT": 82, "ORACULO_WORKER_THREADS": 3}'
    )
    os.environ["ORACULO_CHUNK_SIZE"] = "601"
    os.environ["ORACULO_MAX_FILE_MB"] = "61"

    settings = start_services().settings.with_values(chunk_size=501)

    expected = {
        "chunk_size": (501, "argument"),
        "max_file_mb": (61.0, "environment"),
        "lock_timeout": (72.0, "dotenv"),
        "worker_threads": (3, "remote"),
        "chunk_overlap": (200, "default"),
    }
    assert {name: (getattr(settings, name), settings.origin(name)) for name in expected} == expected


def test_every_setting_says_its_variable_what_it_accepts_and_what_it_means() -> None:
    for name, (variable, accepts, meaning) in setting_variables().items():
        assert variable == f"ORACULO_{name.upper()}"
        assert accepts
        assert meaning


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("ORACULO_CHUNK_SIZE", "abc", "a whole number from 50 to 100000"),
        ("ORACULO_CHUNK_SIZE", "12.5", "a whole number from 50 to 100000"),
        ("ORACULO_CHUNK_SIZE", "49", "a whole number from 50 to 100000"),
        ("ORACULO_CHUNK_SIZE", "100001", "a whole number from 50 to 100000"),
        ("ORACULO_CHUNK_OVERLAP", "-1", "a whole number from 0 to 99999"),
        ("ORACULO_MAX_FILE_MB", "nan", "a number from 0.001 to 100000"),
        ("ORACULO_MAX_FILE_MB", "inf", "a number from 0.001 to 100000"),
        ("ORACULO_MAX_FILE_MB", "0", "a number from 0.001 to 100000"),
        ("ORACULO_LOCK_TIMEOUT", "1,5", "a number from 0.1 to 86400"),
        ("ORACULO_WORKER_THREADS", "many", "a whole number from 0 to 1024"),
        ("ORACULO_EMBED_REQUESTS", "0", "a whole number from 1 to 256"),
        ("ORACULO_EMBED_RATE", "-1", "a number from 0 to 1e+06"),
        ("ORACULO_EMBEDDING_CACHE_MB", "big", "a number from 0 to 1e+06"),
        ("ORACULO_FIX_TEXT", "maybe", "true or false"),
        ("ORACULO_DURABILITY", "full", "one of power, process"),
        ("ORACULO_LANG", "de", "one of en, pt_BR"),
        ("ORACULO_LOG_LEVEL", "loud", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    ],
)
def test_a_malformed_value_is_refused_with_name_value_and_what_is_accepted(
    variable: str, value: str, accepted: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.resolve(environ={variable: value})
    assert str(caught.value).startswith(f"{variable} is {value!r}, expected {accepted}. ")
    assert str(caught.value).endswith("Correct it, or remove it to use the default.")


@pytest.mark.parametrize("blank", ["", "  ", "\t\n"])
@pytest.mark.parametrize("name", sorted(setting_variables()))
def test_a_blank_value_is_refused_by_name(name: str, blank: str) -> None:
    variable, accepted, _ = setting_variables()[name]
    with pytest.raises(SettingsError) as caught:
        Settings.resolve(environ={variable: blank})
    assert str(caught.value).startswith(f"{variable} is blank, expected {accepted} (")


@pytest.mark.parametrize("overlap", ["300", "301"])
def test_an_overlap_as_large_as_the_size_is_refused_with_both_names(overlap: str) -> None:
    with pytest.raises(
        SettingsError, match=f"ORACULO_CHUNK_OVERLAP is {overlap} and ORACULO_CHUNK_SIZE is 300: "
    ):
        Settings.resolve(environ={"ORACULO_CHUNK_SIZE": "300", "ORACULO_CHUNK_OVERLAP": overlap})


def test_arguments_are_checked_like_variables_and_unknown_ones_are_named() -> None:
    with pytest.raises(SettingsError, match=r"chunk_size \(argument\) is 'abc', expected a whole number"):
        resolve(chunk_size="abc")
    with pytest.raises(SettingsError, match=r"store \(argument\) is blank"):
        resolve().with_values(store=" ")
    with pytest.raises(SettingsError, match="unknown setting 'chunksize', expected one of store, embedder, "):
        resolve(chunksize=3)
    with pytest.raises(SettingsError, match="unknown setting 'chunksize'"):
        resolve().with_values(chunksize=3)


def test_values_are_read_without_regard_to_case_and_surrounding_blanks() -> None:
    environ = {"ORACULO_LOG_LEVEL": " debug ", "ORACULO_DURABILITY": "Process", "ORACULO_LANG": "pt-br"}
    settings = Settings.resolve(environ=environ)
    assert (settings.log_level, settings.durability, settings.lang) == ("DEBUG", "process", "pt_BR")


@pytest.mark.parametrize("given", ["true", "True", "1", " yes ", "ON", True])
def test_a_flag_is_set_by_any_usual_word(given: object) -> None:
    assert Settings.resolve(environ={"ORACULO_FIX_TEXT": str(given)}).fix_text is True
    assert resolve(fix_text=given).fix_text is True


@pytest.mark.parametrize("given", ["false", "0", "No", "off", False])
def test_a_flag_is_cleared_by_any_usual_word(given: object) -> None:
    assert Settings.resolve(environ={"ORACULO_FIX_TEXT": str(given)}).fix_text is False
    assert resolve(fix_text=given).fix_text is False


def test_with_values_compares_with_the_present_values_not_with_the_defaults() -> None:
    large = resolve(chunk_size=5000)
    assert large.with_values(chunk_overlap=1200).chunk_overlap == 1200
    small = resolve(chunk_size=300, chunk_overlap=10)
    assert small.with_values(chunk_size=100).chunk_size == 100
    with pytest.raises(SettingsError, match="ORACULO_CHUNK_OVERLAP is 300 and ORACULO_CHUNK_SIZE is 300"):
        small.with_values(chunk_overlap=300)


def test_with_values_keeps_what_is_not_given_and_notes_what_is() -> None:
    settings = Settings.resolve(
        project_root="/p", environ={"ORACULO_CHUNK_SIZE": "500"}, environ_names=("XAI_API_KEY",)
    ).with_values(store="base", embedder=None)
    assert (settings.chunk_size, settings.origin("chunk_size")) == (500, "environment")
    assert (settings.store, settings.origin("store")) == (os.path.join("/p", "base"), "argument")
    assert (settings.origin("embedder"), settings.environ_names) == ("default", ("XAI_API_KEY",))


# --- travelling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_pickled_copy_is_equal_has_the_same_hash_fingerprint_and_origins(dumps: Any) -> None:
    settings = Settings.resolve(environ={"ORACULO_CHUNK_SIZE": "500", "ORACULO_LANG": "pt_BR"})
    copy = pickle.loads(dumps(settings))
    assert copy == settings
    assert (hash(copy), copy.fingerprint) == (hash(settings), settings.fingerprint)
    assert copy.origin("chunk_size") == "environment"


def test_where_a_value_came_from_does_not_make_settings_differ() -> None:
    one = Settings.resolve(project_root="/p", environ={"ORACULO_CHUNK_SIZE": "500"})
    other = resolve(chunk_size=500)
    assert one == other
    assert hash(one) == hash(other)
    assert one.fingerprint == other.fingerprint
    assert one.origins != other.origins


@pytest.mark.parametrize(
    "change",
    [
        {"store": "/else"},
        {"chunk_size": 999},
        {"chunk_overlap": 199},
        {"embedder": "openai:text-embedding-3-small"},
        {"durability": "process"},
        {"lang": "pt_BR"},
        {"log_level": "ERROR"},
        {"max_file_mb": 99},
        {"fix_text": True},
        {"worker_threads": 1},
        {"lock_timeout": 1},
    ],
)
def test_any_changed_value_makes_settings_and_fingerprint_differ(change: dict[str, Any]) -> None:
    assert resolve(**change) != resolve()
    assert resolve(**change).fingerprint != resolve().fingerprint


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "from oraculo_kit.settings import Settings;"
        "print(Settings.resolve(project_root='/p', environ={}, chunk_size=500).fingerprint)"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == resolve(chunk_size=500).fingerprint


def test_an_embedder_object_equals_its_pickled_copy_and_shows_no_key() -> None:
    settings = resolve(embedder=Model())
    copy = pickle.loads(cloudpickle.dumps(settings))
    assert copy == settings
    assert hash(copy) == hash(settings)
    assert pickle.loads(cloudpickle.dumps(copy)) == settings
    assert resolve(embedder=Model()) == settings
    assert resolve(embedder=Model(model="m2")) != settings
    for text in (repr(settings), str(settings), repr(copy), settings.fingerprint, repr(settings.embedder)):
        assert SECRET not in text
    assert "Model:m1" in repr(settings)


def test_an_object_that_is_no_embedder_or_cannot_travel_is_refused() -> None:
    with pytest.raises(EmbedderError, match="got list as embedder, expected a LangChain Embeddings object"):
        resolve(embedder=[])
    model = Model()
    model.model = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(EmbedderError, match="cannot be sent to worker processes"):
        resolve(embedder=model)


def test_the_password_of_a_store_url_is_not_shown() -> None:
    settings = resolve(store="postgresql://ana:s3nha-longa@host/base")
    assert settings.store == "postgresql://ana:s3nha-longa@host/base"
    assert "s3nha-longa" not in f"{settings} {settings!r}"


# --- project root and store ---------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", [".oraculo/", ".env", "pyproject.toml"])
def test_the_project_root_is_the_nearest_folder_with_a_marker(marker: str, tmp_path: Path) -> None:
    outer, inner = tmp_path / "fora", tmp_path / "fora" / "dentro"
    below = inner / "notebooks" / "mais"
    below.mkdir(parents=True)
    for folder in (outer, inner):
        if marker.endswith("/"):
            (folder / marker).mkdir()
        else:
            (folder / marker).touch()
    assert find_project_root(below) == inner
    assert find_project_root(inner) == inner
    assert find_project_root(outer) == outer


def test_without_a_marker_the_working_folder_is_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_project_root(tmp_path) != tmp_path:
        pytest.skip("the folder for temporary files lies in a project")
    monkeypatch.chdir(tmp_path)
    assert find_project_root() == tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_folder_that_may_not_be_looked_into_does_not_stop_the_search(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    inside = closed / "inside"
    inside.mkdir(parents=True)
    user = os.geteuid()
    closed.chmod(0)
    try:
        if user == 0:
            os.seteuid(65534)  # root may look into everything
        root = find_project_root(inside)
    finally:
        os.seteuid(user)
        closed.chmod(0o755)
    assert root in (inside, *inside.parents)


def test_the_store_is_the_same_absolute_path_from_any_folder_of_the_project(project: Path) -> None:
    below = project / "notebooks" / "mais"
    below.mkdir(parents=True)
    os.environ["ORACULO_STORE"] = os.path.join("bases", "..", "base")
    stores = set()
    for folder in (project, below):
        os.chdir(folder)
        settings = Settings.resolve()
        assert settings.project_root == str(project)
        stores.add(settings.store)
    assert stores == {str(project / "base")}
    del os.environ["ORACULO_STORE"]
    assert Settings.resolve().store == str(project / ".oraculo" / "store")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgresql://host/base", True),
        ("langchain:pkg.mod:factory?catalog=/p/base", True),
        ("base", False),
        ("C:\\base", False),
        ("d:/base", False),
        ("./a:b", False),
    ],
)
def test_a_url_is_kept_as_it_is_and_anything_else_is_a_path(given: str, kept: bool) -> None:
    store = resolve(store=given).store
    assert store == (given if kept else os.path.normpath(os.path.join("/p", given)))


def test_a_store_may_begin_with_the_home_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project / "casa"))
    monkeypatch.setenv("USERPROFILE", str(project / "casa"))
    for given in ("~/base", Path("~/base")):
        assert resolve(store=given).store == str(project / "casa" / "base")
    assert Settings.resolve(environ={"ORACULO_STORE": "~/base"}).store == str(project / "casa" / "base")


# --- language -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({}, "en"),
        ({"LANG": "pt_BR.UTF-8"}, "pt_BR"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "pt_BR.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8", "LANGUAGE": "pt_BR:en"}, "pt_BR"),
        ({"LANG": "pt_BR.UTF-8", "ORACULO_LANG": "en"}, "en"),
    ],
)
def test_without_a_setting_the_locale_chooses_the_language(environ: dict[str, str], language: str) -> None:
    assert Settings.resolve(environ=environ).lang == language
