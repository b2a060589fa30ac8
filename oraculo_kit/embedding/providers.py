"""Models by name: which exist, how they are loaded, and which of them live behind a network.

``"wordllama"`` is the default static model, ``"sentence-transformers:<model or path>"`` a transformer that the
library of that name runs here, and any other ``"provider:model"`` is LangChain's ``init_embeddings``.

**Remote models** are asked several times at once, and again after transient failures. A model is remote when its
object says so (an attribute ``remote`` that is True or False), else when its class comes from the LangChain package
of a provider that answers over HTTP. Ollama counts: it answers over HTTP even on this machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from typing import Any

from oraculo_kit.embedding.failures import TRIES
from oraculo_kit.embedding.objects import EmbeddingsLike
from oraculo_kit.embedding.static import StaticEmbedder
from oraculo_kit.environment import redact
from oraculo_kit.environment.held import short_reason
from oraculo_kit.environment.record import safe_cause
from oraculo_kit.errors import EmbedderNotFoundError

TIMEOUT = 60.0
"""Seconds that a provider's client waits for the next bytes of an answer."""

OLLAMA_TIMEOUT = 300.0
"""Seconds for Ollama, which loads a model from disk at its first request."""

STATIC = "wordllama"
TRANSFORMERS = "sentence-transformers"

_REMOTE_PACKAGES = frozenset(
    {
        "langchain_aws",
        "langchain_azure_ai",
        "langchain_cohere",
        "langchain_fireworks",
        "langchain_google_genai",
        "langchain_google_vertexai",
        "langchain_ibm",
        "langchain_mistralai",
        "langchain_nvidia_ai_endpoints",
        "langchain_ollama",
        "langchain_openai",
        "langchain_together",
        "langchain_upstage",
        "langchain_voyageai",
    }
)
_REMOTE_CLASSES = frozenset({"HuggingFaceEndpointEmbeddings", "HuggingFaceInferenceAPIEmbeddings"})
_OPENAI = frozenset({"openai", "azure_openai"})


def check_name(choice: str) -> None:
    """Refuse a name that can be no embedder.

    Raises
    ------
    EmbedderNotFoundError
    """
    provider, _, model = choice.partition(":")
    if choice != STATIC and not (provider.strip() and model.strip()):
        raise EmbedderNotFoundError(
            f'embedder is {choice!r}, expected "{STATIC}" or "provider:model", for example '
            '"openai:text-embedding-3-small" or "ollama:nomic-embed-text" (ORACULO_EMBEDDER)'
        )


def load_model(choice: str) -> EmbeddingsLike:
    """Load a model by its name.

    Raises
    ------
    EmbedderNotFoundError
        With the package to install, or what the provider's own class says.
    """
    if choice == STATIC:
        return StaticEmbedder()
    provider, _, model = choice.partition(":")
    failure = None
    try:
        if provider == TRANSFORMERS:
            from oraculo_kit.embedding.transformers import TransformerEmbedder

            return TransformerEmbedder(model)
        from langchain.embeddings import init_embeddings

        loaded: EmbeddingsLike = init_embeddings(choice, **_arguments(provider))
        return loaded
    except EmbedderNotFoundError:
        raise
    except Exception as exc:
        failure = _not_loaded(choice, provider, exc)
    raise failure  # outside the handler: the context of an error travels with it, and may hold a key


def _arguments(provider: str) -> dict[str, Any]:
    if provider in _OPENAI:
        # The client's own retries would multiply with ours. And texts are sent as they are: cut into tokens they
        # would need a vocabulary from the network, and no server but OpenAI's own takes tokens. The vectors are
        # the same; a chunk that is too long for the model is that chunk's error.
        return {"max_retries": 0, "timeout": TIMEOUT, "check_embedding_ctx_length": False}
    if provider == "ollama":
        return {"client_kwargs": {"timeout": OLLAMA_TIMEOUT}}
    return {}


def is_remote(model: object) -> bool:
    """Tell whether a model answers over a network.

    Examples
    --------
    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> is_remote(DeterministicFakeEmbedding(size=8))
    False
    """
    told = getattr(model, "remote", None)
    if isinstance(told, bool):
        return told
    return any(
        kind.__module__.partition(".")[0] in _REMOTE_PACKAGES or kind.__name__ in _REMOTE_CLASSES
        for kind in type(model).__mro__
    )


def tries_of(model: object) -> int:
    """Return how often one batch may be tried: once where the model's own client tries again (``max_retries``)."""
    own = getattr(model, "max_retries", None)
    return 1 if isinstance(own, int) and own > 0 else TRIES


def _not_loaded(choice: str, provider: str, exc: Exception) -> EmbedderNotFoundError:
    fix = "Install the provider's package, set its API key, or choose another ORACULO_EMBEDDER"
    if isinstance(exc, ImportError):
        package = re.search(r"pip install ([\w.-]+)", str(exc))
        if provider == TRANSFORMERS:
            fix = 'Install the provider\'s package: pip install "oraculo_kit[transformers]"'
        elif package is not None and _is_missing(package[1]):
            fix = f"Install the provider's package: pip install {package[1]}"
    error = EmbedderNotFoundError(
        f"embedder {redact(choice)!r} cannot be loaded: {short_reason(exc).rstrip('.')}. {fix}"
    )
    error.__cause__ = safe_cause(exc)
    return error


def _is_missing(package: str) -> bool:
    with contextlib.suppress(ImportError, ValueError):
        return importlib.util.find_spec(package.replace("-", "_")) is None
    return True


def expanded(path: str) -> str:
    """Return a model's name as it is, and a path to one with its ``~`` replaced."""
    return os.path.expanduser(path) if path.startswith("~") else path
