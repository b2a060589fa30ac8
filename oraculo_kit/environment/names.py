"""Which names a ``.env`` file or a remote source may put into ``os.environ``, and with which values.

A name passes when it belongs to this package (``ORACULO_*``), to a model provider that LangChain's
``init_embeddings`` and ``init_chat_model`` know, or when the user listed it in ``ORACULO_ENV_ALLOW``.
Three rules stand above that list:

* **Dangerous names never pass**, whoever lists them: those that decide which code runs or who can read the
  traffic. ``.env`` files hold such names for other tools, so there they are left out; a remote source that
  sends one is hostile or a mistake, so the whole document is refused.
* **A remote source may not say where the environment comes from** (``ORACULO_ENV_*``): it could name another
  source, or lengthen the allow-list.
* **A remote source may not redirect a secret** (``OPENAI_BASE_URL``, ``OLLAMA_HOST``, ...) unless the user
  lists that name: the user's own key would go to the address that the source chose. ``.env`` is trusted like
  the project's code, and may.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from oraculo_kit.errors import EnvironmentSourceError, SettingsError

Origin = Literal["dotenv", "remote"]
ORIGINS: tuple[Origin, ...] = ("dotenv", "remote")

RECORD_VARIABLE = "ORACULO_ENV_ORIGINS"
ALLOW_VARIABLE = "ORACULO_ENV_ALLOW"
# Windows refuses "NAME=value" beyond 32,767 characters; the longest name that we accept is 255.
MAX_VALUE_LENGTH = 32_768 - 512

_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,254}")

# Texts, compiled at their first use: that takes 5 ms, which a kernel without .env and sources need not spend.
_DANGEROUS = {
    "decides which programs and libraries run": (
        r"PATH|PATHEXT|COMSPEC|SYSTEMROOT|WINDIR|LD_.*|DYLD_.*|GCONV_PATH|GLIBC_.*|MALLOC_.*|OMP_TOOL.*|"
        r"CUDA_INJECTION.*|COR_.*|CORECLR_.*|DOTNET_.*|LESSOPEN|LESSCLOSE|EDITOR|VISUAL|PAGER|BROWSER|MANPAGER"
    ),
    "decides which code an interpreter or a tool loads": (
        r"PYTHON.*|_PYTHON.*|IPYTHON.*|JUPYTER.*|MPLBACKEND|MPLCONFIGDIR|LOKY_.*|JOBLIB_.*|DASK_.*|PERL.*|RUBY.*|"
        r"GEM_.*|NODE_.*|NPM_.*|JAVA_.*|_JAVA_.*|JDK_JAVA_.*|CLASSPATH|LUA_.*|R_.*|PIP_.*|UV_.*|CONDA_.*|MAMBA_.*|"
        r"VIRTUAL_ENV|GIT_.*|SSH_.*|DOCKER_.*|KUBECONFIG|AWS_CONFIG_FILE|AWS_SHARED_CREDENTIALS_FILE|"
        r"GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES"
    ),
    "decides how shells start and split words": (
        r"SHELL|SHELLOPTS|BASHOPTS|BASH_.*|ENV|IFS|PS4|PROMPT_COMMAND|CDPATH|FPATH|ZDOTDIR|GLOBIGNORE"
    ),
    "decides whose files are read and written": (
        r"HOME|HOMEDRIVE|HOMEPATH|USERPROFILE|APPDATA|LOCALAPPDATA|PROGRAMDATA|USER|LOGNAME|USERNAME|PWD|OLDPWD|"
        r"TMPDIR|TEMP|TMP|SQLITE_TMPDIR|XDG_.*|NETRC|WGETRC|CURL_HOME"
    ),
    "decides who can read the traffic": (
        r".*_PROXY|.*_CA_BUNDLE|.*_CA_CERTS?|SSL.*|OPENSSL_.*|HOSTALIASES|LOCALDOMAIN|RES_OPTIONS|"
        r"RESOLV_HOST_CONF|GRPC_DEFAULT_SSL_.*"
    ),
    "changes the locale of every program": r"LANG|LANGUAGE|LC_.*|LOCPATH|NLSPATH",
}

# The providers in langchain 1.x's tables behind init_embeddings and init_chat_model, and a few more.
_PROVIDER = (
    r"(?:OPENAI|AZURE_OPENAI|AZURE_AI|ANTHROPIC|LANGSMITH|WATSONX)_.+"
    r"|(?:AI21|BASETEN|CO|COHERE|DEEPSEEK|FIREWORKS|GEMINI|GOOGLE|GROQ|JINA|LANGCHAIN|LLAMA|META|MISTRAL|MODEL|"
    r"NOMIC|NVIDIA|OLLAMA|OPENROUTER|PERPLEXITY|PPLX|TOGETHER|UPSTAGE|VOYAGE|XAI)"
    r"_(?:API_KEY|API_TOKEN|API_BASE|API_BASE_URL|API_URL|BASE_URL|ENDPOINT)"
    r"|AWS_(?:ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|BEARER_TOKEN_BEDROCK|REGION|DEFAULT_REGION)"
    r"|GOOGLE_(?:APPLICATION_CREDENTIALS|CLOUD_PROJECT|CLOUD_LOCATION|GENAI_USE_VERTEXAI)"
    r"|HF_TOKEN|HUGGING_FACE_HUB_TOKEN|HUGGINGFACEHUB_API_TOKEN|REPLICATE_API_TOKEN"
    r"|LANGCHAIN_(?:PROJECT|TRACING_V2)|OLLAMA_HOST"
)
_LOCATION = r".*(?:URL|URI|HOST|_BASE|ENDPOINTS?)(?:_.*)?|GOOGLE_APPLICATION_CREDENTIALS"
_SECRET = re.compile(r".*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH|HEADERS|CONNECTION_STRING).*")


def danger(name: str) -> str | None:
    """Return why `name` must never be set from a file or a source, or None.

    Upper and lower case count alike: Windows does not tell them apart, and ``no_proxy`` works like
    ``NO_PROXY``.

    Examples
    --------
    >>> danger("LD_PRELOAD"), danger("https_proxy"), danger("OPENAI_API_KEY")
    ('decides which programs and libraries run', 'decides who can read the traffic', None)
    """
    folded = name.upper()
    return next((reason for reason, pattern in _DANGEROUS.items() if re.fullmatch(pattern, folded)), None)


def is_provider_name(name: str) -> bool:
    """Tell whether `name` configures one of the model providers that LangChain knows.

    Examples
    --------
    >>> is_provider_name("VOYAGE_API_KEY"), is_provider_name("MY_API_KEY")
    (True, False)
    """
    return re.fullmatch(_PROVIDER, name) is not None


def looks_secret(name: str) -> bool:
    """Tell from the name alone whether its value is likely a secret.

    Examples
    --------
    >>> looks_secret("AZURE_OPENAI_AD_TOKEN"), looks_secret("OPENAI_API_VERSION")
    (True, False)
    """
    return _SECRET.fullmatch(name) is not None


def listed_names(text: str) -> frozenset[str]:
    """Return the names in a comma-separated ``ORACULO_ENV_ALLOW``.

    Raises
    ------
    SettingsError
        When an entry can never be allowed: it is not a name, or a dangerous one.

    Examples
    --------
    >>> sorted(listed_names("MY_API_KEY, OPENAI_BASE_URL,"))
    ['MY_API_KEY', 'OPENAI_BASE_URL']
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        reason = danger(name)
        if reason is not None:
            raise SettingsError(
                f"{ALLOW_VARIABLE} lists {name}, which {reason}: no file or source may set it. "
                f"Remove it from the list, and set {name} where the process is started."
            )
        if not _NAME.fullmatch(name):
            raise SettingsError(
                f"{ALLOW_VARIABLE} lists {name!r}, expected names of capital letters, digits and _, "
                "separated by commas. Correct the list."
            )
    return frozenset(names)


def refusal(name: str, origin: Origin, listed: frozenset[str]) -> str | None:
    """Return why `name` may not come from `origin`, or None when it may.

    Parameters
    ----------
    name : str
        The variable's name.
    origin : {"dotenv", "remote"}
        The project's ``.env``, or any source in ``ORACULO_ENV_SOURCE``.
    listed : frozenset of str
        What the user allows, from `listed_names`.

    Examples
    --------
    >>> refusal("OPENAI_BASE_URL", "dotenv", frozenset()) is None
    True
    >>> refusal("OPENAI_BASE_URL", "remote", frozenset())
    'says where a service or its credentials are; from a remote source only when ORACULO_ENV_ALLOW lists it'
    """
    reason = danger(name)
    if reason is not None:
        return f"dangerous: {reason}"
    if not _NAME.fullmatch(name):
        return "not a name of capital letters, digits and _"
    if name == RECORD_VARIABLE:
        return "kept by oraculo_kit itself"
    if name.startswith("ORACULO_"):
        if origin == "remote" and name.startswith("ORACULO_ENV_"):
            return "only the environment and .env may say where the environment comes from"
        return None
    if name in listed:
        return None
    if not is_provider_name(name):
        return f"not allow-listed; add it to {ALLOW_VARIABLE}"
    if origin == "remote" and re.fullmatch(_LOCATION, name):
        return (
            "says where a service or its credentials are; from a remote source only when "
            f"{ALLOW_VARIABLE} lists it"
        )
    return None


def policy_digest(listed: frozenset[str]) -> str:
    """Return a digest of every rule above, so that values cached under other rules are not used again."""
    rules = (*sorted(_DANGEROUS.values()), _PROVIDER, _LOCATION, *sorted(listed))
    return hashlib.sha256("\n".join(rules).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CheckedDocument:
    """What one document may set, and what of it is left out and why."""

    accepted: Mapping[str, str] = field(repr=False)
    refused: Mapping[str, str]


def check_document(
    entries: Mapping[str, object], origin: Origin, listed: frozenset[str], label: str
) -> CheckedDocument:
    """Split a document into what may be set and what is left out.

    Parameters
    ----------
    entries : mapping
        Names and values as they were read; numbers of a JSON document as their own text.
    origin, listed
        As for `refusal`.
    label : str
        The source's name in messages.

    Returns
    -------
    CheckedDocument
        Blank values are left out, so that a blank never hides a default.

    Raises
    ------
    EnvironmentSourceError
        When a remote document holds a dangerous name, or a name that may be set holds a list, an object, a
        NUL, a character that is not Unicode text, or more than 32,256 characters. The message names names
        only.

    Examples
    --------
    >>> check_document({"ORACULO_CHUNK_SIZE": 500, "DEBUG": "1"}, "remote", frozenset(), "env.json")
    CheckedDocument(refused={'DEBUG': 'not allow-listed; add it to ORACULO_ENV_ALLOW'})
    """
    dangerous = {name: reason for name in entries if (reason := danger(name)) is not None}
    if origin == "remote" and dangerous:
        named = listing((f"{shown(name)} {reason}" for name, reason in dangerous.items()), 5)
        raise EnvironmentSourceError(
            f"the environment source {label} holds names that no source may set: {named}. "
            "Nothing was applied. Find out who put them there and remove them."
        )
    accepted: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, value in entries.items():
        reason = refusal(name, origin, listed)
        if reason is not None:
            refused[shown(name)] = reason
            continue
        text = _text(name, value, label)
        if text.strip():
            accepted[name] = text
        else:
            refused[name] = "blank"
    return CheckedDocument(accepted, refused)


def shown(name: str) -> str:
    r"""Return a name that a stranger chose, safe to print: one line, no control characters, at most 60 long.

    Examples
    --------
    >>> shown("PATH"), shown("a\x1b[2J\nINFO all is well")
    ('PATH', 'a\\x1b[2J\\nINFO all is well')
    """
    text = name.encode("unicode_escape").decode("ascii")
    return text if len(text) <= 60 else text[:57] + "..."


def listing(names: Iterable[str], most: int) -> str:
    """Return names as one sorted text, however many a stranger sent.

    Examples
    --------
    >>> listing(["B", "C", "A"], 2)
    'A, B and 1 more'
    """
    ordered = sorted(names)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + rest


def _text(name: str, value: object, label: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    problem = ""
    if not isinstance(value, str | int | float):
        problem = f"is a {type(value).__name__}, expected a text, a number, true or false"
    text = "" if problem else str(value)
    if len(text) > MAX_VALUE_LENGTH:
        problem = f"has {len(text):,} characters, expected at most {MAX_VALUE_LENGTH:,}"
    elif "\0" in text:
        problem = "holds a NUL character, which no environment variable can"
    elif any("\ud800" <= character <= "\udfff" for character in text):
        problem = "holds half of a surrogate pair, expected Unicode text"
    if problem:
        raise EnvironmentSourceError(
            f"the environment source {label}: the value of {name} {problem}. Nothing was applied. "
            f"Correct {name} at the source."
        )
    return text
