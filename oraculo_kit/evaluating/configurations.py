"""Settings of a search under a name each, checked before the first question is asked.

A configuration is a mapping of keywords of the store's `search` (``mode``, ``k``, ``filter``, ...), ``rerank`` where
the hits are ordered again, and ``store`` where it asks another base. Which other keywords there are is read from the
store itself.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oraculo_kit.errors import QueryError
from oraculo_kit.reranking import search_reranked
from oraculo_kit.services import ensure_services
from oraculo_kit.storage import VetorStorage, open_storage
from oraculo_kit.storage.results import SearchResults
from oraculo_kit.storage.snapshot import check_k

Store = VetorStorage | str | os.PathLike[str]
Configurations = Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any] | str]


@dataclass(frozen=True)
class Configuration:
    """A named way to search.

    Attributes
    ----------
    name : str
    store : VetorStorage
    options : dict
        Keywords of its `search`, ``k`` among them.
    rerank : object or None
        Orders the hits again, as in `oraculo_kit.search`.
    """

    name: str
    store: VetorStorage
    options: Mapping[str, Any]
    rerank: Any = None

    def ask(self, queries: Sequence[str]) -> list[SearchResults]:
        """Return the results of many queries, asked as one batch."""
        if self.rerank is not None:
            options = {key: value for key, value in self.options.items() if key != "k"}
            return search_reranked(self.store, queries, self.options["k"], self.rerank, options)
        found: list[SearchResults] = self.store.search(list(queries), **self.options)
        return found

    def ask_one(self, query: str) -> SearchResults:
        """Return the results of one query."""
        if self.rerank is not None:
            return self.ask([query])[0]
        found: SearchResults = self.store.search(query, **self.options)
        return found


@contextlib.contextmanager
def configured(given: Configurations, k: int, store: Store | None = None) -> Iterator[list[Configuration]]:
    """Check configurations and open their stores for as long as the block lasts.

    Parameters
    ----------
    given : mapping of str to mapping, or sequence of mapping or str
        By name, or without names; a text is a mode.
    k : int
        For those that bring none.
    store : VetorStorage or path, optional
        For those that bring none; by default that of the services.

    Yields
    ------
    list of Configuration

    Raises
    ------
    QueryError
        For something that is no configuration, an unknown keyword or a wrong k.
    """
    named = _named(given)
    with contextlib.ExitStack() as stack:
        stores = _Stores(stack, store)
        found = []
        for name, keywords in named.items():
            options = {"k": k, **keywords}
            place, reranker = stores.get(options.pop("store", None)), options.pop("rerank", None)
            _check(name, options, place)
            found.append(Configuration(name, place, options, reranker))
        yield found


class _Stores:
    """Opens what is given by path, each path once; what came open stays open."""

    def __init__(self, stack: contextlib.ExitStack, default: Store | None) -> None:
        self._stack = stack
        self._default = default
        self._opened: dict[str, VetorStorage] = {}

    def get(self, given: Any) -> VetorStorage:
        given = self._default if given is None else given
        if given is None:
            return ensure_services().vetor_storage
        if isinstance(given, VetorStorage):
            return given
        if not isinstance(given, str | os.PathLike):
            raise QueryError(f"store is {type(given).__name__}, expected a path or an open VetorStorage")
        path = os.path.abspath(os.path.expanduser(given))
        if path not in self._opened:
            self._opened[path] = self._stack.enter_context(open_storage(path, read_only=True))
        return self._opened[path]


def _check(name: str, options: Mapping[str, Any], store: VetorStorage) -> None:
    parameters = inspect.signature(store.search).parameters
    known = [
        each.name
        for each in parameters.values()
        if each.name != "query" and each.kind is not each.VAR_KEYWORD
    ]
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for key in options:
        if key not in known and not open_ended:
            near = difflib.get_close_matches(str(key), [*known, "rerank", "store"], 1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"expected some of {', '.join([*known, 'rerank', 'store'])}"
            )
            raise QueryError(
                f"configuration {name!r} has the keyword {key!r}, which search() has not; {hint}"
            )
    try:
        check_k(options["k"])
    except QueryError as exc:
        raise QueryError(f"configuration {name!r}: {exc}") from exc


def _named(given: Any) -> dict[str, Mapping[str, Any]]:
    if isinstance(given, Mapping):
        for name, keywords in given.items():
            if not isinstance(keywords, Mapping):
                raise QueryError(
                    f"configuration {name!r} is {keywords!r}, expected a dict of search keywords such as "
                    "{'mode': 'hybrid'}; configurations without names come in a list"
                )
        named = {str(name): keywords for name, keywords in given.items()}
    elif isinstance(given, Sequence) and not isinstance(given, str | bytes):
        named = {}
        for each in given:
            keywords = {"mode": each} if isinstance(each, str) else each
            if not isinstance(keywords, Mapping):
                raise QueryError(
                    f"a configuration is {keywords!r}, expected a dict of search keywords, or a mode as a text"
                )
            named[_free(_derived(keywords), named)] = keywords
    else:
        raise QueryError(
            f"got {type(given).__name__} as configurations, expected a dict of names and search keywords, or a list"
        )
    if not named:
        raise QueryError("got no configuration, expected one at least, such as ['hybrid', 'vector']")
    return named


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


def _derived(keywords: Mapping[str, Any]) -> str:
    """Return a name made of what is set, the mode first: ``"vector, k=20"``; ``"hybrid"`` where nothing is."""
    rest = [f"{key}={_short(value)}" for key, value in keywords.items() if key != "mode"]
    mode = [str(keywords["mode"])] if "mode" in keywords else []
    return ", ".join([*mode, *rest]) or "hybrid"


def _short(value: Any) -> str:
    if isinstance(value, VetorStorage):
        value = value.location
    if isinstance(value, str | os.PathLike):
        return os.path.basename(os.fspath(value).rstrip("/\\")) or os.fspath(value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    if value is None or isinstance(value, int | float):
        return str(value)
    # A function or an object, such as a reranker: its repr holds an address, or more than should be shown.
    return str(getattr(value, "__name__", type(value).__name__))
