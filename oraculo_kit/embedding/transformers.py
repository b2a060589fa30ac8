"""Transformer models of the ``sentence-transformers`` library, run in this process (extra ``transformers``)."""

from __future__ import annotations

import importlib.util
import threading
from typing import TYPE_CHECKING, Any

from oraculo_kit.embedding.providers import expanded
from oraculo_kit.errors import EmbedderNotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

_TEXTS_AT_ONCE = 32  # the library's own default; it sorts by length first, so that little is padded


class TransformerEmbedder:
    """A ``SentenceTransformer`` as an embedder.

    Parameters
    ----------
    model : str
        Name at Hugging Face, or the path of a folder.

    Attributes
    ----------
    device : str
        What the library chose: ``"cuda"``, ``"mps"`` or ``"cpu"``.
    max_tokens : int or None
        The model reads no further than this in a text: 256 tokens are about 1,000 characters of English and 800 of
        Portuguese. Choose ORACULO_CHUNK_SIZE by it.

    Raises
    ------
    EmbedderNotFoundError
        When the library is not installed.

    Notes
    -----
    Questions and documents are embedded by ``encode_query`` and ``encode_document``, so that a model's own prompts
    are used. Vectors have length one. Calls are made one at a time: the library's tokenizer must not be used by
    two threads at once ("Already borrowed").
    """

    remote = False

    def __init__(self, model: str) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise EmbedderNotFoundError(
                f'embedder "sentence-transformers:{model}" cannot be loaded: the package sentence-transformers is not '
                'installed. Install it: pip install "oraculo_kit[transformers]"'
            )
        from sentence_transformers import SentenceTransformer

        self._model: Any = SentenceTransformer(expanded(model))
        self._lock = threading.Lock()
        self.device = str(self._model.device)
        self.max_tokens: int | None = self._model.max_seq_length

    def embed_documents(self, texts: list[str]) -> Vectors:
        """Return float32 vectors of length one, shape (len(texts), dimension)."""
        return self._encoded(self._model.encode_document, texts)

    def embed_query(self, text: str) -> Vectors:
        """Return the float32 vector of a question, shape (dimension,)."""
        row: Vectors = self._encoded(self._model.encode_query, [text])[0]
        return row

    def _encoded(self, encode: Any, texts: list[str]) -> Vectors:
        import numpy as np

        with self._lock:
            vectors = encode(
                texts,
                batch_size=_TEXTS_AT_ONCE,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        result: Vectors = np.asarray(vectors, dtype=np.float32)
        return result
