"""A LangChain vector store as an engine that finds candidates: made by the user's factory, once per process.

A chunk stands there under an id derived from its own (a UUID, which every engine takes), with its text, those of its
metadata that are plain values, and two marks: which catalog it belongs to, and its number there. Nothing else of what
the engine returns is believed: texts, metadata and scores come from the catalog.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import OraculoError, SettingsError, StorageError, StoreUnsupportedError

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore
    from numpy.typing import NDArray

    from oraculo_kit.embed import Embedder
    from oraculo_kit.storage.adapted.embeddings import ReadyEmbeddings
    from oraculo_kit.storage.adapted.location import AdaptedLocation
    from oraculo_kit.storage.snapshot import StoredChunk

BASE, NUMBER = "oraculo_base", "oraculo_number"
"""Marks in the metadata of a chunk: the catalog it belongs to, and its number there."""

_LARGEST = 1 << 62  # engines hold integers of 64 bits

_PAUSE = 5.0  # seconds until a vector store that could not be opened is tried again

_opened: dict[tuple[int, str, str], _Shared] = {}
_opening = threading.RLock()


class EngineFailedError(Exception):
    """The vector store cannot be opened; no user sees it, because the catalog can do without."""


class _Shared:
    """A vector store that several store objects of this process use; the last one closes it."""

    def __init__(self) -> None:
        self.users = 0
        self.closing = ExitStack()
        self.turn = threading.RLock()  # not every vector store may be used by several threads
        self.store: VectorStore
        self.embeddings: ReadyEmbeddings


class Engine:
    """The vector store of a base, opened when it is first needed.

    Parameters
    ----------
    location : AdaptedLocation
    embedder : Embedder
        What the factory gets, as a LangChain ``Embeddings``.
    base : str
        Id of the catalog.
    """

    def __init__(self, location: AdaptedLocation, embedder: Embedder, base: str) -> None:
        self._location = location
        self._embedder = embedder
        self._base = base
        self._key: tuple[int, str, str] | None = None
        self._failure: tuple[float, EngineFailedError] | None = None

    @contextmanager
    def _used(self) -> Iterator[_Shared]:
        shared = self._shared()
        with shared.turn:
            yield shared

    def _shared(self) -> _Shared:
        with _opening:
            key = os.getpid(), self._location.engine, str(self._location.catalog)
            if self._key != key:
                if key not in _opened:
                    if self._failure is not None and time.monotonic() < self._failure[0] + _PAUSE:
                        raise self._failure[1]  # not at every write of a worker while another process has it
                    try:
                        _opened[key] = self._made()
                    except EngineFailedError as exc:
                        self._failure = time.monotonic(), exc
                        raise
                _opened[key].users += 1
                self._key = key
            return _opened[key]

    def _made(self) -> _Shared:
        from oraculo_kit.storage.adapted.embeddings import ReadyEmbeddings

        factory = self._factory()
        shared = _Shared()
        shared.embeddings = ReadyEmbeddings(self._embedder)
        try:
            made = factory(shared.embeddings)
            if isinstance(made, AbstractContextManager):
                made = shared.closing.enter_context(made)
        except Exception as exc:
            raise EngineFailedError(
                f"{self._location.engine} could not open its vector store: {type(exc).__name__}: {exc}"
            ) from exc
        try:
            shared.store = _checked(made, self._location.engine)
        except BaseException:
            shared.closing.close()
            raise
        return shared

    def _factory(self) -> Any:
        name = self._location.engine
        try:
            factory = getattr(importlib.import_module(self._location.module), self._location.factory)
        except ImportError as exc:
            raise SettingsError(
                f"the store's factory {name} cannot be imported ({exc}). Check ORACULO_STORE; the module must be importable "
                "in every process, as an installed package or through PYTHONPATH"
            ) from exc
        except AttributeError as exc:
            raise SettingsError(
                f"the module {self._location.module} has no {self._location.factory!r}, which ORACULO_STORE names"
            ) from exc
        if not callable(factory):
            raise SettingsError(f"{name} is {type(factory).__name__}, expected a function of the embedder")
        return factory

    def check_ours(self) -> None:
        """Refuse a vector store that holds what this catalog does not know.

        Raises
        ------
        StorageError
            Or when it does not answer.
        """
        try:
            with self._used() as shared:
                here = _nearest(shared, self._embedder.probe(), 10)
        except OraculoError:
            raise
        except Exception as exc:
            raise StorageError(
                f"the vector store of {self._location.engine} does not answer: {type(exc).__name__}: {exc}. A base can be "
                "made only where it does"
            ) from exc
        for found in here:
            if found.metadata.get(BASE) != self._base:
                raise StorageError(
                    f"the vector store of {self._location.engine} holds chunks that the catalog "
                    f"{self._location.catalog} does not know: another program's, or those of another machine's or an "
                    "older catalog. Give the base an empty collection, or name the catalog that belongs to this one "
                    "(ORACULO_STORE=langchain:...?catalog=/folder)"
                )

    def nearest(self, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the numbers of the chunks that the engine takes for the nearest; int64, fewer than k when it has no more."""
        with self._used() as shared:
            found = _nearest(shared, query, k)
        mine = [document.metadata for document in found if document.metadata.get(BASE) == self._base]
        return np.array([int(metadata[NUMBER]) for metadata in mine if NUMBER in metadata], np.int64)

    def add(self, chunks: Sequence[StoredChunk], vectors: NDArray[np.float32]) -> None:
        """Put chunks in."""
        with self._used() as shared:
            for places in _distinct([chunk.text for chunk in chunks]):
                texts = [chunks[place].text.replace("\0", "\ufffd") for place in places]
                ready = {text: vectors[place] for text, place in zip(texts, places, strict=True)}
                with shared.embeddings.answering(ready):
                    shared.store.add_texts(
                        texts,
                        [self._payload(chunks[place]) for place in places],
                        ids=[self._id(chunks[place].id) for place in places],
                    )

    def delete(self, ids: Sequence[str]) -> None:
        """Take chunks out, by their own ids."""
        if ids:
            with self._used() as shared:
                shared.store.delete([self._id(each) for each in ids])

    def missing(self, ids: Sequence[str]) -> int | None:
        """Return how many of these chunks the engine does not have; None when it cannot say."""
        with self._used() as shared:
            try:
                found = shared.store.get_by_ids([self._id(each) for each in ids])
            except NotImplementedError:
                return None
        return len(ids) - len(found)

    def _id(self, chunk: str) -> str:
        return str(uuid.uuid5(uuid.UUID(self._base), chunk))

    def _payload(self, chunk: StoredChunk) -> dict[str, Any]:
        return {**_plain_values(chunk.metadata), BASE: self._base, NUMBER: chunk.number}

    def close(self) -> None:
        """Let go of the vector store; its context manager, if it has one, ends with its last user."""
        with _opening:
            key, self._key = self._key, None
            shared = _opened.get(key) if key is not None and key[0] == os.getpid() else None
            if shared is None or key is None:
                return
            shared.users -= 1
            if shared.users:
                return
            del _opened[key]
        shared.closing.close()


def _checked(made: Any, name: str) -> VectorStore:
    from langchain_core.vectorstores import VectorStore

    if not isinstance(made, VectorStore):
        raise SettingsError(
            f"{name} gave a {type(made).__name__}, expected a LangChain VectorStore, or a context manager that gives one"
        )
    if type(made).delete is VectorStore.delete:
        raise StoreUnsupportedError(
            f"a {type(made).__name__} cannot delete, so a base in it could never be brought up to date. Use a vector store "
            "that has delete()"
        )
    return made


def _nearest(shared: _Shared, query: NDArray[np.float32], k: int) -> Sequence[Any]:
    from langchain_core.vectorstores import VectorStore

    if type(shared.store).similarity_search_by_vector is not VectorStore.similarity_search_by_vector:
        return shared.store.similarity_search_by_vector(query.tolist(), k)
    asked = f"oraculo {uuid.uuid4().hex}"  # a text that stands for the vector
    with shared.embeddings.answering({asked: query}):
        return shared.store.similarity_search(asked, k)


def _distinct(texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield places in groups without two equal texts, which may have different vectors."""
    left = list(range(len(texts)))
    while left:
        seen: dict[str, int] = {}
        for place in left:
            seen.setdefault(texts[place].replace("\0", "\ufffd"), place)
        group = list(seen.values())
        yield group
        taken = set(group)
        left = [place for place in left if place not in taken]


def _plain_values(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every engine can hold: texts, numbers and truth values."""
    return {
        key.replace("\0", "\ufffd"): value.replace("\0", "\ufffd") if isinstance(value, str) else value
        for key, value in metadata.items()
        if isinstance(value, bool | float | str) or (isinstance(value, int) and abs(value) < _LARGEST)
    }
