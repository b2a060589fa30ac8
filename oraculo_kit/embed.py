"""Texts in, unit vectors out: the default static embedder, and any LangChain ``Embeddings`` in its place.

The default needs no download, no account and no GPU: token vectors and tokenizer are read from the files that
the ``wordllama`` wheel installs. A text's vector is the mean of its tokens' vectors (the pooling those vectors
were trained with: Miller, "WordLlama", 2024), scaled to length one.

`Embedder` is what the rest of the package sees. It loads its model at first use, checks everything a model
returns (a wrong shape, NaN or a zero vector is an error for the texts concerned, never stored), and carries the
name that a store remembers, so that two models never mix in one base.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from oraculo_kit.errors import EmbedderError, EmbedderNotFoundError, EmbeddingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

PROBE_TEXT = "O vetor desta frase identifica o modelo. This sentence's vector identifies the model."
"""Embedded once per store and compared at the embedder's first use: equal names may hide different models."""

_TOKENS_AT_ONCE = 65_536  # 64 MiB of gathered token vectors: bounds memory, whatever the length of a text


class EmbeddingsLike(Protocol):
    """The two methods of LangChain's ``Embeddings`` that are used."""

    def embed_documents(self, texts: list[str]) -> Any:
        """Return one vector per text."""

    def embed_query(self, text: str) -> Any:
        """Return the vector of a question."""


class StaticEmbedder:
    """Mean of static token vectors; the embedder that works everywhere.

    Notes
    -----
    Thread-safe after construction: the tokenizer and the token vectors are only read.
    """

    name = "wordllama:l2_supercat_256"
    dimension = 256

    def __init__(self) -> None:
        from safetensors import safe_open
        from tokenizers import Tokenizer

        folder = _wordllama_folder()
        weights = folder / "weights" / "l2_supercat_256.safetensors"
        tokenizer = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
        for path in (weights, tokenizer):
            if not path.is_file():
                raise EmbedderNotFoundError(
                    f"the default embedder's file {path.name} is missing from the installed wordllama package. "
                    "Reinstall it: pip install --force-reinstall wordllama"
                )
        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        with safe_open(str(weights), "numpy") as tensors:
            # Stored as float16; sums of float32 rows are five times as fast, for 16 MB more.
            self._token_vectors = tensors.get_tensor("embedding.weight").astype("float32")

    def embed_documents(self, texts: list[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), 256); zeros for a text without a token."""
        import numpy as np

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        for row, encoding in enumerate(encodings):
            ids = encoding.ids
            for start in range(0, len(ids), _TOKENS_AT_ONCE):
                tokens = self._token_vectors[ids[start : start + _TOKENS_AT_ONCE]]
                vectors[row] += tokens.sum(axis=0)
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """Return the float32 vector of shape (256,); questions and documents share one space."""
        row: Vectors = self.embed_documents([text])[0]
        return row


def _wordllama_folder() -> Path:
    # find_spec: the package itself imports a trainer's worth of modules that are not needed here.
    spec = importlib.util.find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderNotFoundError(
            "the default embedder needs the package wordllama, which is not installed. Install it "
            "(pip install wordllama) or choose another embedder with ORACULO_EMBEDDER=provider:model"
        )
    return Path(next(iter(spec.submodule_search_locations)))


class EmbedderObject:
    """An ``Embeddings`` object inside `Settings`: compared and hashed by content, so that copies are equal.

    The pickled copy that reaches a worker must equal the original, or workers would start anew at every task;
    most model classes compare by identity. The key is made once, where the object was given.
    """

    def __init__(self, embeddings: EmbeddingsLike, key: str) -> None:
        self.embeddings = embeddings
        self.key = key

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
        import cloudpickle

        try:
            content = cloudpickle.dumps(embeddings)
        except Exception as exc:
            raise EmbedderError(
                f"the embedder {_object_name(embeddings)} cannot be sent to worker processes "
                f'({type(exc).__name__} while pickling it). Give it as a "provider:model" string, or create '
                "what cannot be pickled (clients, locks) at its first use"
            ) from exc
        return cls(embeddings, hashlib.sha256(content).hexdigest()[:16])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EmbedderObject) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        # Never the object's own repr: it may show an API key.
        return f"<embedder {_object_name(self.embeddings)} {self.key}>"


def _object_name(embeddings: object) -> str:
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


class Embedder:
    """A named embedder that loads its model at first use and checks what it returns.

    Parameters
    ----------
    choice : str, EmbedderObject or Embeddings
        ``"wordllama"`` (the default model), ``"provider:model"`` for
        ``langchain.embeddings.init_embeddings``, or an object.

    Attributes
    ----------
    name : str
        What a store remembers; equal names are checked further by a probe vector.

    Examples
    --------
    >>> embedder = Embedder("wordllama")
    >>> embedder.embed(["nota fiscal", "invoice"]).shape
    (2, 256)
    """

    def __init__(self, choice: Any = "wordllama") -> None:
        self._choice: str | EmbedderObject = (
            choice if isinstance(choice, str) else EmbedderObject.wrap(choice)
        )
        self._model: EmbeddingsLike | None = None
        self._dimension: int | None = None
        self._lock = threading.Lock()
        if isinstance(self._choice, EmbedderObject):
            self.name = _object_name(self._choice.embeddings)
        elif self._choice == "wordllama":
            self.name = StaticEmbedder.name
        elif ":" in self._choice:
            self.name = self._choice
        else:
            raise EmbedderNotFoundError(
                f'embedder is {self._choice!r}, expected "wordllama" or "provider:model", for example '
                '"openai:text-embedding-3-small" or "ollama:nomic-embed-text" (ORACULO_EMBEDDER)'
            )

    def __repr__(self) -> str:
        return f"Embedder({self.name!r})"

    def _loaded(self) -> EmbeddingsLike:
        if self._model is None:
            with self._lock:
                if self._model is None:
                    self._model = self._load()
        return self._model

    def _load(self) -> EmbeddingsLike:
        if isinstance(self._choice, EmbedderObject):
            return self._choice.embeddings
        if self._choice == "wordllama":
            return StaticEmbedder()
        from langchain.embeddings import init_embeddings

        try:
            model: EmbeddingsLike = init_embeddings(self._choice)
        except Exception as exc:
            raise EmbedderNotFoundError(
                f"embedder {self._choice!r} cannot be loaded: {_short(exc).rstrip('.')}. "
                "Install the provider's package, set its API key, or choose another ORACULO_EMBEDDER"
            ) from exc
        return model

    @property
    def dimension(self) -> int:
        """Length of the vectors; loads the model and embeds one text when it is not known yet."""
        if self._dimension is None:
            self.probe()
        assert self._dimension is not None
        return self._dimension

    def probe(self) -> Vectors:
        """Return the vector of `PROBE_TEXT`, float32 of shape (dimension,)."""
        vector: Vectors = self.embed([PROBE_TEXT])[0]
        return vector

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed documents.

        Parameters
        ----------
        texts : sequence of str

        Returns
        -------
        numpy.ndarray
            float32, shape (len(texts), dimension), rows of length one; a blank text gives a row of zeros.

        Raises
        ------
        EmbeddingError
            When the model fails, or returns a wrong shape, NaN, infinity or zeros for a text that is not blank.
        """
        import numpy as np

        if not texts:
            return np.zeros((0, self._dimension or 0), dtype=np.float32)
        model = self._loaded()
        try:
            result = model.embed_documents(list(texts))
        except Exception as exc:
            raise EmbeddingError(
                f"embedder {self.name} failed on {len(texts)} text{'s' if len(texts) != 1 else ''}: {_short(exc)}"
            ) from exc
        return self._checked(result, texts)

    def embed_queries(self, queries: Sequence[str]) -> Vectors:
        """Embed questions; some models embed them differently from documents.

        Returns
        -------
        numpy.ndarray
            float32, shape (len(queries), dimension), rows of length one or zero as in `embed`.

        Raises
        ------
        EmbeddingError
            As `embed`.
        """
        model = self._loaded()
        if isinstance(model, StaticEmbedder) or not queries:
            return self.embed(queries)
        try:
            result = [model.embed_query(query) for query in queries]
        except Exception as exc:
            raise EmbeddingError(f"embedder {self.name} failed on a query: {_short(exc)}") from exc
        return self._checked(result, queries)

    def _checked(self, result: Any, texts: Sequence[str]) -> Vectors:
        import numpy as np

        try:
            vectors = np.asarray(result, dtype=np.float32)
        except (TypeError, ValueError) as exc:
            raise EmbeddingError(
                f"embedder {self.name} returned no matrix of numbers: {_short(exc)}"
            ) from exc
        if vectors.ndim != 2 or len(vectors) != len(texts) or vectors.shape[1] == 0:
            raise EmbeddingError(
                f"embedder {self.name} returned shape {vectors.shape} for {len(texts)} texts, "
                f"expected ({len(texts)}, dimension)"
            )
        if self._dimension is None:
            self._dimension = int(vectors.shape[1])
        if vectors.shape[1] != self._dimension:
            raise EmbeddingError(
                f"embedder {self.name} returned vectors of length {vectors.shape[1]}, "
                f"expected {self._dimension} as before"
            )
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        wrong = [
            row
            for row in np.flatnonzero(~np.isfinite(lengths) | (lengths == 0)).tolist()
            if lengths[row] != 0 or texts[row].strip()
        ]
        if wrong:
            raise EmbeddingError(
                f"embedder {self.name} returned NaN, infinity or a zero vector for {len(wrong)} of "
                f"{len(texts)} texts, the first: {texts[wrong[0]][:60]!r}. Nothing of them was stored"
            )
        unit: Vectors = (vectors / np.where(lengths == 0, 1.0, lengths)[:, None]).astype(np.float32)
        return unit


def _short(exc: BaseException) -> str:
    from oraculo_kit.environment import redact

    text = redact(" ".join(str(exc).split()))
    return f"{type(exc).__name__}: {text[:300]}"
