"""An ``Embeddings`` object that a user gave: named, compared by content, and cheap to send to workers."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any, Protocol

from oraculo_kit.errors import EmbedderError


class EmbeddingsLike(Protocol):
    """The two methods of LangChain's ``Embeddings`` that are used."""

    def embed_documents(self, texts: list[str]) -> Any:
        """Return one vector per text."""

    def embed_query(self, text: str) -> Any:
        """Return the vector of a question."""


class EmbedderObject:
    """An ``Embeddings`` object inside `Settings`: compared and hashed by content, so that copies are equal.

    The pickled copy that reaches a worker must equal the original, or workers would start anew at every task;
    most model classes compare by identity. The key is made once, where the object was given.

    Notes
    -----
    It travels with every task. So the object is pickled once, where it was given, and unpickled once per process, at
    its first use; a task's own share is a copy of the bytes (7 ms for a model of 10 MB, 13 ms when it was pickled
    each time; 0.01 ms for a small object). It may make a client or a lock at its first use without harm.

    LangChain's classes hold clients from the start (``OpenAIEmbeddings``) and cannot be pickled: such an object
    travels as its class with the arguments it was made from.
    """

    def __init__(self, name: str, key: str, content: bytes, embeddings: EmbeddingsLike | None = None) -> None:
        self.name = name
        self.key = key
        self._content = content
        self._embeddings = embeddings

    @classmethod
    def wrap(cls, embeddings: Any) -> EmbedderObject:
        """Wrap an object that has ``embed_documents`` and ``embed_query``.

        Raises
        ------
        EmbedderError
            When it has not, or when it cannot be pickled and so could not travel to a worker.
        """
        if isinstance(embeddings, EmbedderObject):
            return embeddings
        if not all(callable(getattr(embeddings, name, None)) for name in ("embed_documents", "embed_query")):
            raise EmbedderError(
                f"got {type(embeddings).__name__} as embedder, expected a LangChain Embeddings object (with "
                'embed_documents and embed_query), "wordllama" or "provider:model"'
            )
        name = object_name(embeddings)
        try:
            content = _pickled(embeddings)
        except Exception as exc:
            raise EmbedderError(
                f"the embedder {name} cannot be sent to worker processes "
                f'({type(exc).__name__} while pickling it). Give it as a "provider:model" string, or create '
                "what cannot be pickled (clients, locks) at its first use"
            ) from exc
        return cls(name, hashlib.sha256(content).hexdigest()[:16], content, embeddings)

    @property
    def embeddings(self) -> EmbeddingsLike:
        """The object; a copy is unpickled at its first use.

        Raises
        ------
        EmbedderError
            When it cannot be unpickled here.
        """
        # No lock: `Embedder` loads its model under one, and a fork would copy a held one.
        if self._embeddings is None:
            self._embeddings = _unpickled(self.name, self._content)
        return self._embeddings

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.name, self.key, self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EmbedderObject) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        # Never the object's own repr: it may show an API key.
        return f"<embedder {self.name} {self.key}>"


_held: weakref.WeakValueDictionary[str, EmbedderObject] = weakref.WeakValueDictionary()


def _received(name: str, key: str, content: bytes) -> EmbedderObject:
    # One object per process for all its tasks: it may be a model that takes seconds to load. setdefault of a weak
    # dictionary is not atomic; a thread that loses the race only loads its copy once more.
    return _held.setdefault(key, EmbedderObject(name, key, content))


def _pickled(embeddings: Any) -> bytes:
    import cloudpickle

    try:
        content: bytes = cloudpickle.dumps(embeddings)
    except Exception:
        # LangChain's classes hold clients (connections, locks), and make them from their own fields.
        fields = getattr(type(embeddings), "model_fields", None)
        if fields is None:
            raise
        given = sorted(
            name for name in embeddings.model_fields_set if name in fields and not fields[name].exclude
        )
        arguments = {fields[name].alias or name: getattr(embeddings, name) for name in given}
        _made(type(embeddings), arguments)  # here and now: an error in a worker would come too late
        content = cloudpickle.dumps(_Recipe(type(embeddings), arguments))
    return content


class _Recipe:
    """Unpickles as an object of a class with these arguments."""

    def __init__(self, kind: type[Any], arguments: dict[str, Any]) -> None:
        self.kind = kind
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.kind, self.arguments)


def _made(kind: type[Any], arguments: dict[str, Any]) -> Any:
    return kind(**arguments)


def _unpickled(name: str, content: bytes) -> EmbeddingsLike:
    import cloudpickle

    try:
        embeddings: EmbeddingsLike = cloudpickle.loads(content)
    except Exception as exc:
        raise EmbedderError(
            f"the embedder {name} arrived in this process but cannot be made here: {type(exc).__name__}. Install "
            'what it imports for the workers too, or give it as a "provider:model" string'
        ) from exc
    return embeddings


def object_name(embeddings: object) -> str:
    """Return what a store remembers of an object: its class, and its model where it has a name."""
    kind = type(embeddings)
    model = next(
        (
            value
            for name in ("model", "model_name")
            if isinstance(value := getattr(embeddings, name, None), str)
        ),
        None,
    )
    return f"{kind.__module__}.{kind.__qualname__}" + (f":{model}" if model else "")
