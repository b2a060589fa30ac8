"""The default embedder: the mean of static token vectors, read from the files of the ``wordllama`` wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import EmbedderNotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

_TOKENS_AT_ONCE = 4096  # 4 MiB of gathered token vectors: bounds memory, whatever the length of a text


class StaticEmbedder:
    """Mean of static token vectors; the embedder that works everywhere.

    Notes
    -----
    Thread-safe after construction: the tokenizer and the token vectors are only read.

    Of 0.32 ms for a text of 1,000 characters the tokenizer takes 0.26. Token vectors are gathered into one buffer
    that stays in the processor's cache; adding them up by a product with ones is no faster where all cores are busy,
    because BLAS spreads it over threads, and ``np.add.reduceat`` over a whole batch takes 0.64 ms a text.
    """

    name = "wordllama:l2_supercat_256"
    dimension = 256

    def __init__(self) -> None:
        from safetensors import safe_open

        self._tokenizer = load_tokenizer()
        with safe_open(str(_wordllama_file("weights", "l2_supercat_256.safetensors")), "numpy") as tensors:
            # Stored as float16; sums of float32 rows are five times as fast, for 16 MB more.
            self._token_vectors = tensors.get_tensor("embedding.weight").astype("float32")

    def embed_documents(self, texts: list[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), 256), not scaled; zeros for a text without a token."""
        import numpy as np

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        gathered = np.empty((_TOKENS_AT_ONCE, self.dimension), dtype=np.float32)
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        for row, encoding in enumerate(encodings):
            ids = np.array(encoding.ids, dtype=np.intp)
            for start in range(0, len(ids), _TOKENS_AT_ONCE):
                some = ids[start : start + _TOKENS_AT_ONCE]
                # "clip": take() copies its output once more when it must check each id; the tokenizer's are valid.
                tokens = np.take(self._token_vectors, some, axis=0, out=gathered[: len(some)], mode="clip")
                vectors[row] += tokens.sum(axis=0)
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """Return the float32 vector of shape (256,); questions and documents share one space."""
        row: Vectors = self.embed_documents([text])[0]
        return row


def load_tokenizer() -> Any:
    """Return a new tokenizer of the default embedder, a ``tokenizers.Tokenizer`` that cuts nothing off."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_wordllama_file("tokenizers", "l2_supercat_tokenizer_config.json")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _wordllama_file(folder: str, name: str) -> Path:
    path = _wordllama_folder() / folder / name
    if not path.is_file():
        raise EmbedderNotFoundError(
            f"the default embedder's file {name} is missing from the installed wordllama package. "
            "Reinstall it: pip install --force-reinstall wordllama"
        )
    return path


def _wordllama_folder() -> Path:
    # find_spec: the package itself imports a trainer's worth of modules that are not needed here.
    spec = importlib.util.find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderNotFoundError(
            "the default embedder needs the package wordllama, which is not installed. Install it "
            "(pip install wordllama) or choose another embedder with ORACULO_EMBEDDER=provider:model"
        )
    return Path(next(iter(spec.submodule_search_locations)))
