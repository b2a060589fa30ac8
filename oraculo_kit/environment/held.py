"""What models and their providers must not show: keys that an object holds, and keys in an error's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oraculo_kit.environment.record import redact, remember_secrets

_LOOKS_LIKE_A_KEY = re.compile(
    r"\b(?:sk|gsk|xai|hf|pplx)[-_][\w*-]{6,}|\bAIza[\w-]{10,}|(?i:bearer)\s+[\w.~+/=-]{6,}"
)
_SECRET_NAME = re.compile(r"key|token|secret|password|authorization", re.IGNORECASE)


def remember_keys(model: Any) -> None:
    """Let `redact` hide the keys that a model object holds, for the rest of the process's life."""
    remember_secrets(held_secrets(model))


def held_secrets(model: Any) -> set[str]:
    """Return the keys that a model object holds, also one inside another (fallbacks, bound arguments)."""
    found: set[str] = set()
    todo, seen = [model], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        reveal = getattr(one, "get_secret_value", None)
        if callable(reveal):
            value = reveal()
            found.update([value] if isinstance(value, str) else [])
        elif isinstance(one, Mapping):
            # Headers and other arguments are plain texts; their names tell.
            found.update(v for k, v in one.items() if isinstance(v, str) and _SECRET_NAME.search(str(k)))
            todo.extend(value for value in one.values() if not isinstance(value, str))
        elif isinstance(one, list | tuple):
            todo.extend(one)
        elif hasattr(type(one), "model_fields"):
            todo.append(dict(vars(one)))
    return {secret for secret in found if secret.strip()}


def short_reason(exc: BaseException) -> str:
    """Return an error's class and the beginning of its text, without secrets."""
    text = _LOOKS_LIKE_A_KEY.sub("***", redact(" ".join(str(exc).split())))
    return f"{type(exc).__name__}: {text[:300]}"
