"""Texts in, unit vectors out: the default static embedder, and any LangChain ``Embeddings`` in its place.

The default needs no download, no account and no GPU: token vectors and tokenizer are read from the files that
the ``wordllama`` wheel installs. A text's vector is the mean of its tokens' vectors (the pooling those vectors
were trained with: Miller, "WordLlama", 2024), scaled to length one.

`Embedder` is what the rest of the package sees. It loads its model at first use, gives it batches that suit it,
checks everything it returns (a wrong shape, NaN or a zero vector is an error for the texts concerned, never stored),
and carries the name that a store remembers, so that two models never mix in one base.

**Which vectors are cached.** A text that was embedded before is not embedded again (`oraculo_kit.embedding.cache`):
always for a remote model, where a text costs money and a tenth of a second; for a local one where it takes at least
1 ms a text (a MiniLM transformer takes 45 ms). The default embedder takes 0.32 ms for 1,000 characters, the cache 0.03
for a text that is new to it, and most are: it would make ingestion a tenth slower, and the disk fuller by 1.4 KB a
chunk, to save the third of a millisecond of the few that come again.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from oraculo_kit.embedding import providers
from oraculo_kit.embedding.asking import Asker
from oraculo_kit.embedding.checking import Gathering
from oraculo_kit.embedding.objects import EmbedderObject, EmbeddingsLike
from oraculo_kit.embedding.options import EmbedOptions
from oraculo_kit.embedding.static import StaticEmbedder
from oraculo_kit.environment.held import remember_keys

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oraculo_kit.embedding.cache import CachedModel, EmbeddingCache

    Vectors = NDArray[np.float32]

__all__ = ["PROBE_TEXT", "EmbedOptions", "Embedder", "EmbedderObject", "EmbeddingsLike", "StaticEmbedder"]

PROBE_TEXT = "O vetor desta frase identifica o modelo. This sentence's vector identifies the model."
"""Embedded once per store and compared at the embedder's first use: equal names may hide different models."""


def _nothing() -> None:
    """Stand in for a `checkpoint` that was not given."""


class Embedder:
    """A named embedder that loads its model at first use and checks what it returns.

    Parameters
    ----------
    choice : str, EmbedderObject or Embeddings
        ``"wordllama"`` (the default model), ``"sentence-transformers:<model or path>"``, ``"provider:model"`` for
        ``langchain.embeddings.init_embeddings``, or an object.
    options : EmbedOptions, optional
        Bounds of requests and the place of the cache; the services give their settings'. By default what the
        environment says, and no cache.

    Attributes
    ----------
    name : str
        What a store remembers; equal names are checked further by a probe vector.
    normalized : bool
        True: every vector that is not zero has length one, whatever the model returns, so that the inner product of
        two is their cosine. Nothing else is done to them.

    Examples
    --------
    >>> embedder = Embedder("wordllama")
    >>> embedder.embed(["nota fiscal", "invoice"]).shape
    (2, 256)
    """

    normalized = True

    def __init__(self, choice: Any = "wordllama", options: EmbedOptions | None = None) -> None:
        self._choice: str | EmbedderObject = (
            choice if isinstance(choice, str) else EmbedderObject.wrap(choice)
        )
        self._options = options
        self._model: EmbeddingsLike | None = None
        self._dimension: int | None = None
        self._probed: Vectors | None = None
        self._cache: EmbeddingCache | None = None
        self._cached_model: CachedModel | None = None
        self._renew()
        _embedders.add(self)
        if isinstance(self._choice, EmbedderObject):
            self.name = self._choice.name
            return
        providers.check_name(self._choice)
        self.name = StaticEmbedder.name if self._choice == providers.STATIC else self._choice

    def _renew(self) -> None:
        """Make what threads share; again in a forked child, where threads of the parent may hold it for ever."""
        self._lock = threading.Lock()
        self._asking: Asker | None = None

    def __repr__(self) -> str:
        return f"Embedder({self.name!r})"

    def _loaded(self) -> EmbeddingsLike:
        if self._model is None:
            with self._lock:
                if self._model is None:
                    self._model = self._load()
        return self._model

    def _load(self) -> EmbeddingsLike:
        if not isinstance(self._choice, EmbedderObject):
            model = providers.load_model(self._choice)
        else:
            model = self._choice.embeddings
        remember_keys(model)
        return model

    @property
    def options(self) -> EmbedOptions:
        """Bounds of requests and the place of the cache."""
        if self._options is None:
            self._options = EmbedOptions.resolve()
        return self._options

    @property
    def is_remote(self) -> bool:
        """Whether texts are sent to a server; loads the model, and asks it nothing.

        Raises
        ------
        EmbedderError
            When the model cannot be loaded.
        """
        return self._asker().is_remote

    @property
    def dimension(self) -> int:
        """Length of the vectors; loads the model and embeds one text when it is not known yet."""
        if self._dimension is None:
            self.probe()
        assert self._dimension is not None
        return self._dimension

    def probe(self) -> Vectors:
        """Return the vector of `PROBE_TEXT`, float32 of shape (dimension,); asks the model, never the cache.

        Raises
        ------
        EmbeddingError
            As `embed`.
        """
        return self._probe(_nothing)

    def embed(
        self,
        texts: Sequence[str],
        *,
        checkpoint: Callable[[], None] | None = None,
        told: Callable[[int], object] | None = None,
    ) -> Vectors:
        """Embed documents; a text that occurs several times is embedded once.

        Parameters
        ----------
        texts : sequence of str
        checkpoint : callable, optional
            Called between batches, and at least every 0.2 s while requests are under way or waited with. It may raise
            to stop: the exception goes through at once, and requests under way are abandoned.
        told : callable, optional
            Called with the number of texts that have got their vectors, each time some have.

        Returns
        -------
        numpy.ndarray
            float32, shape (len(texts), dimension), rows of length one; a blank text gives a row of zeros where the
            model gives one, and is never sent to a remote model.

        Raises
        ------
        EmbeddingError
            When the model fails, or returns a wrong shape, NaN, infinity or zeros for a text that is not blank. Its
            ``rows`` are the places of the texts that have no vector because of it. The other texts were embedded,
            and are found in the cache where one is used, unless the model as a whole failed: then ``rows`` are all
            that it had not embedded yet.
        """
        import numpy as np

        if not texts:
            return np.zeros((0, self._dimension or 0), dtype=np.float32)
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(text, []).append(place)
        gathered = self._embedded(list(places), checkpoint or _nothing, told)
        vectors = gathered.finished(list(places.values()))
        if len(places) == len(texts):
            return vectors
        whole = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
        for row, equal in enumerate(places.values()):
            whole[equal] = vectors[row]
        return whole

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
        if not queries or isinstance(self._loaded(), StaticEmbedder):
            return self.embed(queries)
        gathered = Gathering(self.name, queries, self._dimension)
        self._asker().ask_queries(gathered)
        vectors = gathered.finished([[row] for row in range(len(queries))])
        self._dimension = gathered.dimension
        return vectors

    def _embedded(
        self,
        texts: list[str],
        checkpoint: Callable[[], None],
        told: Callable[[int], object] | None = None,
        *,
        fresh: bool = False,
    ) -> Gathering:
        """Return what became of texts that all differ."""
        asker = self._asker()
        gathered = Gathering(self.name, texts, self._dimension)
        rows = list(range(len(texts)))
        if asker.is_remote and not all(map(str.strip, texts)):  # providers refuse a request with a blank text
            gathered.begin(self.dimension)
            rows = [row for row in rows if texts[row].strip()]
        cached = None if fresh else self._cached(asker, checkpoint)
        if cached is not None and rows:
            places, vectors = cached.get([texts[row] for row in rows])
            gathered.put([rows[place] for place in places], vectors)
            rows = [row for row in rows if not gathered.has(row)]
            if told is not None:
                told(len(places))

        def keep(kept: list[int]) -> None:
            if told is not None:
                told(len(kept))
            if self._dimension is None:
                self._dimension = gathered.dimension
            if cached is not None:
                assert gathered.vectors is not None
                cached.put([texts[row] for row in kept], gathered.vectors[kept])

        asker.ask_documents(gathered, rows, checkpoint, keep)
        return gathered

    def _asker(self) -> Asker:
        model = self._loaded()
        if self._asking is None:
            with self._lock:
                if self._asking is None:
                    self._asking = Asker(model, self.options, self._turn)
        return self._asking

    def _turn(self, interval: float) -> float | None:
        cache = self._cache_file()
        return cache.turn(self.name, interval) if cache is not None else None

    def _cache_file(self) -> EmbeddingCache | None:
        if self._cache is None and self.options.cache is not None:
            from oraculo_kit.embedding.cache import EmbeddingCache

            self._cache = EmbeddingCache(self.options.cache, self.options.cache_bytes)
        return self._cache

    def _cached(self, asker: Asker, checkpoint: Callable[[], None]) -> CachedModel | None:
        """Return the cache of this model, or None where there is none or where it would not pay."""
        if isinstance(asker.model, StaticEmbedder) or self.options.cache is None:
            return None
        if self._probed is None:
            self._probe(checkpoint)  # measures a local model too, and says whose vectors these are
        if not asker.is_worth_caching:
            return None
        if self._cached_model is None:
            from oraculo_kit.embedding.cache import CachedModel

            cache = self._cache_file()
            assert cache is not None
            assert self._probed is not None
            self._cached_model = CachedModel.of(cache, self.name, self._probed)
        return self._cached_model

    def _probe(self, checkpoint: Callable[[], None]) -> Vectors:
        gathered = self._embedded([PROBE_TEXT], checkpoint, fresh=True)
        vector: Vectors = gathered.finished([[0]])[0]
        self._probed = vector
        return vector


_embedders: weakref.WeakSet[Embedder] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for embedder in list(_embedders):
        embedder._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
