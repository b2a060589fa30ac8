"""The default embedder, and any LangChain embedder in its place."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from oraculo_kit.embed import Embedder, EmbedderObject, StaticEmbedder
from oraculo_kit.errors import EmbedderError, EmbedderNotFoundError, EmbeddingError


class _Broken:
    """An embedder that returns what it was given."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def embed_documents(self, texts: list[str]) -> Any:
        return self.result

    def embed_query(self, text: str) -> Any:
        return self.result[0]


def test_vectors_are_float32_rows_of_length_one() -> None:
    vectors = Embedder().embed(["Como emitir nota fiscal?", "How to issue an invoice?", "日本語 😀"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 256)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_a_blank_text_gives_zeros_and_never_nan() -> None:
    vectors = Embedder().embed(["", "texto"])
    assert np.isfinite(vectors).all()
    assert not vectors[0].any()


def test_near_meanings_are_nearer_than_far_ones() -> None:
    one, near, far = Embedder().embed(["the cat sleeps", "a kitten is asleep", "quarterly tax report"])
    assert one @ near > one @ far


def test_a_long_text_is_averaged_whole() -> None:
    embedder = Embedder()
    whole = embedder.embed(["gato " * 100_000 + "cachorro"])[0]
    assert float(whole @ embedder.embed(["gato " * 100])[0]) > 0.99


def test_the_model_files_are_read_without_importing_wordllama_or_the_network() -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from oraculo_kit.embed import Embedder\n"
        "Embedder().embed(['texto'])\n"
        "sys.exit('wordllama' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_it_equals_the_plain_mean_of_the_token_vectors() -> None:
    model = StaticEmbedder()
    text = "Relatório de férias, 2024"
    ids = model._tokenizer.encode(text, add_special_tokens=False).ids
    mean = model._token_vectors[ids].astype(np.float64).mean(axis=0)
    assert np.allclose(Embedder().embed([text])[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_no_texts_and_no_queries_give_no_rows() -> None:
    for embedder in (Embedder(), Embedder(_Broken([]))):
        assert len(embedder.embed([])) == 0
        assert len(embedder.embed_queries([])) == 0


def test_any_langchain_embedder_works_in_its_place() -> None:
    embedder = Embedder(DeterministicFakeEmbedding(size=32))
    assert embedder.embed(["a", "b"]).shape == (2, 32)
    assert embedder.dimension == 32
    assert "DeterministicFakeEmbedding" in embedder.name


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ([[1.0, float("nan")]], "NaN"),
        ([[0.0, 0.0]], "zero vector"),
        ([[1.0], [1.0]], r"shape \(2, 1\) for 1 texts"),
        ([1.0, 2.0], r"shape \(2,\)"),
        ("none", "no matrix of numbers"),
        ([[1.0, 2.0], [1.0]], "no matrix of numbers"),
    ],
)
def test_what_must_not_be_stored_is_an_error(result: Any, said: str) -> None:
    with pytest.raises(EmbeddingError, match=said):
        Embedder(_Broken(result)).embed(["texto"])


def test_a_dimension_that_changes_is_an_error() -> None:
    model = _Broken([[1.0, 2.0]])
    embedder = Embedder(model)
    embedder.embed(["a"])
    embedder._model.result = [[1.0, 2.0, 3.0]]  # type: ignore[union-attr]
    with pytest.raises(EmbeddingError, match="length 3, expected 2"):
        embedder.embed(["b"])


@pytest.mark.parametrize("choice", ["nonsense", "word llama"])
def test_an_unknown_name_says_what_is_accepted(choice: str) -> None:
    with pytest.raises(EmbedderNotFoundError, match="provider:model"):
        Embedder(choice)


def test_an_object_that_is_no_embedder_is_refused() -> None:
    with pytest.raises(EmbedderError, match="expected a LangChain Embeddings object"):
        Embedder(object())


def test_a_provider_that_is_not_installed_says_so_at_first_use() -> None:
    embedder = Embedder("cohere:embed-v4")
    with pytest.raises(EmbedderNotFoundError, match=r"cannot be loaded: .*[^.]\. Install the provider"):
        embedder.embed(["a"])


def test_copies_of_an_embedder_object_are_equal_and_show_no_secret() -> None:
    wrapped = EmbedderObject.wrap(_Keyed("sk-very-secret-value"))
    copy = pickle.loads(pickle.dumps(wrapped))
    assert copy == wrapped
    assert hash(copy) == hash(wrapped)
    assert "sk-very" not in repr(wrapped)
    assert EmbedderObject.wrap(_Keyed("other")) != wrapped


def test_an_embedder_object_is_unpickled_once_per_process_and_only_when_it_is_used() -> None:
    content = pickle.dumps(EmbedderObject.wrap(_Counted()))
    gc.collect()
    _Counted.unpickled = 0
    copies = [pickle.loads(content) for _ in range(5)]
    assert _Counted.unpickled == 0
    assert len({id(copy.embeddings) for copy in copies}) == 1
    assert _Counted.unpickled == 1


class _Counted(_Broken):
    unpickled = 0

    def __init__(self) -> None:
        super().__init__([[1.0]])

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).unpickled += 1
        self.__dict__.update(state)


class _Keyed(_Broken):
    def __init__(self, key: str) -> None:
        super().__init__([[1.0]])
        self.key = key

    def __repr__(self) -> str:
        return f"Keyed({self.key})"


def test_an_error_of_the_provider_never_shows_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret-123")

    class Leaky(_Broken):
        def embed_documents(self, texts: list[str]) -> Any:
            raise RuntimeError("401 for key sk-planted-secret-123")

    with pytest.raises(EmbeddingError, match="401 for key") as caught:
        Embedder(Leaky(None)).embed(["a"])
    assert "planted" not in str(caught.value)
