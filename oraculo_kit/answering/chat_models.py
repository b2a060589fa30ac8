"""Any LangChain chat model: loaded by name, bounded in time, its failures said in one way.

A model is an object with LangChain's ``invoke``, ``stream``, ``ainvoke`` and ``astream``, or a name for
``langchain.chat_models.init_chat_model``. No tool is ever bound to it.

Providers raise what they like. What they have in common is read from an error: an HTTP status, a name that says
time-out or connection. The provider's own words follow, shortened, and never with a key in them: keys that the model
object holds are made known to `oraculo_kit.environment.redact` before the first request.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any

from oraculo_kit.embedding.failures import error_chain, http_status
from oraculo_kit.environment import redact
from oraculo_kit.environment.held import remember_keys, short_reason
from oraculo_kit.environment.record import safe_cause
from oraculo_kit.errors import ChatModelError

TIMEOUT = 60.0
"""Seconds that a provider's client waits for the next bytes, per attempt, for a model given by name."""

RETRIES = 2
"""Further attempts of a provider's client after a transient failure: 408, 409, 429, 5xx, no connection."""

# Whose classes take `timeout` and `max_retries`; some of the others refuse arguments that they do not know.
_LIMITED = frozenset(
    {
        "anthropic",
        "azure_openai",
        "deepseek",
        "google_genai",
        "groq",
        "mistralai",
        "openai",
        "together",
        "xai",
    }
)
_KEYS = {
    "anthropic": "ANTHROPIC_API_KEY",
    "azure_openai": "AZURE_OPENAI_API_KEY",
    "cohere": "COHERE_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "fireworks": "FIREWORKS_API_KEY",
    "google_genai": "GOOGLE_API_KEY",
    "groq": "GROQ_API_KEY",
    "huggingface": "HUGGINGFACEHUB_API_TOKEN",
    "mistralai": "MISTRAL_API_KEY",
    "nvidia": "NVIDIA_API_KEY",
    "openai": "OPENAI_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "perplexity": "PPLX_API_KEY",
    "together": "TOGETHER_API_KEY",
    "upstage": "UPSTAGE_API_KEY",
    "xai": "XAI_API_KEY",
}
_METHODS = ("invoke", "stream", "ainvoke", "astream")
_EXAMPLES = '"openai:gpt-4o-mini" or "ollama:llama3.2"'
_TOO_LONG = re.compile(r"context[ _](?:length|window|size)|prompt is too long|too many tokens", re.IGNORECASE)


def load_chat_model(choice: Any, timeout: float = TIMEOUT) -> Any:
    """Return the chat model that was chosen.

    Parameters
    ----------
    choice : str or BaseChatModel
        ``"provider:model"`` for ``init_chat_model``, or an object.
    timeout : float
        Seconds, for a model given by name; an object has its own limits.

    Raises
    ------
    ChatModelError
        When it is neither, or cannot be loaded: says which package to install or which variable to set.
    """
    if not isinstance(choice, str):
        if not all(callable(getattr(choice, name, None)) for name in _METHODS) or isinstance(choice, type):
            raise ChatModelError(
                f"got {_kind(choice)} as chat model, expected a LangChain chat model or a name such as "
                f"{_EXAMPLES}"
            )
        remember_keys(choice)
        return choice
    provider = choice.partition(":")[0] if ":" in choice else ""
    limits: dict[str, Any] = {}
    if provider in _LIMITED:
        limits = {"timeout": timeout, "max_retries": RETRIES}
    elif provider == "ollama":
        limits = {"client_kwargs": {"timeout": timeout}}
    from langchain.chat_models import init_chat_model

    failure = None
    try:
        model = init_chat_model(choice, **limits)
    except Exception as exc:
        failure = _not_loaded(choice, provider, exc)
    if failure is not None:
        raise failure  # outside the handler: the context of an error travels with it, and may hold a key
    remember_keys(model)
    return model


def model_name(choice: Any) -> str:
    """Return what an answer calls its model; never the object's own ``repr``, which may show a key."""
    if isinstance(choice, str):
        return choice
    name = next(
        (
            value
            for key in ("model_name", "model", "model_id")
            if isinstance(value := getattr(choice, key, None), str)
        ),
        None,
    )
    return redact(type(choice).__name__ + (f":{name}" if name else ""))


def chat_error(choice: Any, exc: BaseException, timeout: float | None = None) -> ChatModelError:
    """Return the error to raise for what a chat model raised; raise it outside the ``except`` clause.

    Parameters
    ----------
    choice : str or BaseChatModel
    exc : BaseException
    timeout : float, optional
        The limit that was set, for the message.
    """
    status = http_status(exc)
    error = ChatModelError(f"the chat model {model_name(choice)} {_what(choice, exc, status, timeout)}")
    error.status = status
    error.__cause__ = safe_cause(exc)
    return error


def _not_loaded(choice: str, provider: str, exc: Exception) -> ChatModelError:
    variable = _KEYS.get(provider)
    if isinstance(exc, ImportError):
        found = re.search(r"pip install ([\w.-]+)", str(exc))
        package = found[1] if found else f"langchain-{provider.replace('_', '-')}"
        extra = ' (or "oraculo_kit[chat]")' if package == "langchain-openai" else ""
        fix = f"its package is not installed: pip install {package}{extra}"
        if importlib.util.find_spec(package.replace("-", "_")) is not None:
            fix = f"its package cannot be imported: {short_reason(exc)}"
    elif variable is not None and not os.environ.get(variable, "").strip():
        fix = f"{variable} is not set. Set it in the environment, in .env or in the remote environment"
    elif isinstance(exc, ValueError) and "provider" in str(exc):
        known = f"no provider {provider!r}" if provider else "no provider of a model of this name"
        fix = f"LangChain knows {known}; expected a name such as {_EXAMPLES}"
    else:
        fix = f"{short_reason(exc)} -- expected a name such as {_EXAMPLES}"
    error = ChatModelError(
        f"the chat model {redact(choice)!r} cannot be loaded: {fix} (ORACULO_CHAT_MODEL or model=)"
    )
    error.__cause__ = safe_cause(exc)
    return error


def _what(choice: Any, exc: BaseException, status: int | None, timeout: float | None) -> str:
    """Return what a failure means and what to do about it."""
    said = f" It said: {short_reason(exc)}"
    provider = choice.partition(":")[0] if isinstance(choice, str) else ""
    key = _KEYS.get(provider, "its API key")
    names = " ".join(kind.__name__ for each in error_chain(exc) for kind in type(each).__mro__).casefold()
    if status in (401, 403):
        return f"refused the request (HTTP {status}). Check {key} and what that key may use.{said}"
    if status == 404:
        return f"does not exist at its provider (HTTP 404). Check the model's name and the base URL.{said}"
    if status == 429:
        return f"has no capacity for us now (HTTP 429: rate limit or quota). Wait, or check the quota.{said}"
    if "contextoverflow" in names or status == 413 or (status == 400 and _TOO_LONG.search(said)):
        return f"cannot read that much at once. Ask with a smaller k= or max_chars=.{said}"
    if status is not None and status >= 500:
        return (
            f"failed on its side (HTTP {status}), after {RETRIES} retries where its client makes them.{said}"
        )
    if status is not None:
        return f"refused the request (HTTP {status}).{said}"
    if "timeout" in names:
        limit = f" within {timeout:g} s" if timeout is not None and isinstance(choice, str) else " in time"
        return f"did not answer{limit}. Try again, or allow more with timeout=.{said}"
    if "connect" in names or "protocolerror" in names:
        return f"cannot be reached, or broke the connection. Check the network and the base URL.{said}"
    return f"failed.{said}"


def _kind(choice: Any) -> str:
    return f"the class {choice.__name__} itself" if isinstance(choice, type) else type(choice).__name__
