"""Local models: batches of a size that was measured, stopped between two of them, faults named by their texts."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oraculo_kit.embed import Embedder, StaticEmbedder
from oraculo_kit.embedding.batching import BatchSizer, batches
from oraculo_kit.errors import EmbedderNotFoundError, EmbeddingError


class Model:
    """A model that takes so many seconds per text, and notes the size of its batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []

    def embed_documents(self, texts: list[str]) -> Any:
        self.batches.append(len(texts))
        time.sleep(self.seconds * len(texts))
        return [[1.0, float(len(text))] for text in texts]

    def embed_query(self, text: str) -> Any:
        return self.embed_documents([text])[0]


def embedder(model: Model) -> tuple[Embedder, Any]:
    made = Embedder(model)
    return made, made._loaded()


TEXTS = [f"text {number}" for number in range(3000)]


def test_the_batch_size_is_found_by_measurement() -> None:
    made, model = embedder(Model(0.002))
    made.embed([f"text {number}" for number in range(600)])
    assert model.batches[0] == 8
    assert 40 <= model.batches[2] <= 130  # 100 texts take 0.2 s
    assert sum(model.batches) == 600


def test_a_fast_model_gets_large_batches_and_never_more_than_1024_texts() -> None:
    made, model = embedder(Model())
    made.embed(TEXTS)
    assert model.batches == [8, 32, 128, 512, 1024, 1024, 272]


def test_long_texts_make_small_batches() -> None:
    made, model = embedder(Model())
    made.embed([f"{number}" + "x" * 300_000 for number in range(20)])
    assert max(model.batches) == 3


def test_a_slow_call_makes_the_next_batch_smaller() -> None:
    sizer = BatchSizer()
    sizer.note(8, 8000, 0.01)
    sizer.note(32, 32_000, 4.0)
    sizer.note(32, 32_000, 4.0)
    assert len(sizer.batch(["x" * 1000] * 200, 0)) < 50


def test_batches_hold_every_text_once_in_order() -> None:
    texts = ["x" * (number % 7 * 3) for number in range(100)]
    cut = list(batches(texts, most=9, characters=40))
    assert [place for batch in cut for place in batch] == list(range(100))
    assert all(len(batch) <= 9 for batch in cut)
    assert all(len(batch) == 1 or sum(len(texts[place]) for place in batch) <= 40 for batch in cut)


def test_checkpoint_is_called_between_batches_and_what_it_raises_goes_through() -> None:
    made, model = embedder(Model(0.002))
    made.embed(TEXTS[:100])
    model.batches.clear()
    times: list[float] = []

    def checkpoint() -> None:
        times.append(time.monotonic())
        if len(times) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.embed(TEXTS, checkpoint=checkpoint)
    assert len(model.batches) == 3
    assert np.diff(times).max() < 0.6


def test_a_checkpoint_ends_a_wait_before_another_try() -> None:
    class Unreachable(Model):
        def embed_documents(self, texts: list[str]) -> Any:
            raise ConnectionRefusedError("nobody there")

    calls = iter(range(3))
    started = time.monotonic()
    with pytest.raises(StopIteration):
        Embedder(Unreachable()).embed(["a"], checkpoint=lambda: next(calls) and None)
    assert time.monotonic() - started < 0.4


def test_a_text_that_comes_again_is_embedded_once() -> None:
    made, model = embedder(Model())
    vectors = made.embed(["a", "bb", "a", "a", "bb"])
    assert model.batches == [2]
    assert np.array_equal(vectors, vectors[[0, 1, 0, 0, 1]])


def test_a_batch_that_fails_costs_its_own_texts_and_the_others_are_named_as_well() -> None:
    class EveryTenth(Model):
        calls = 0

        def embed_documents(self, texts: list[str]) -> Any:
            self.calls += 1
            if self.calls % 10 == 0:
                raise ValueError("cannot do this one")
            return super().embed_documents(texts)

    made, model = embedder(EveryTenth(0.001))
    made._asker()._sizer._texts = 8
    made._asker()._sizer.note = lambda *sizes: None  # type: ignore[method-assign]
    with pytest.raises(EmbeddingError, match="failed on 8 texts: ValueError: cannot do this one") as caught:
        made.embed(TEXTS[:160])
    assert caught.value.rows == (*range(72, 80), *range(152, 160))
    assert model.calls == 20


def test_a_model_that_always_fails_is_given_up_for_all_texts() -> None:
    class Broken(Model):
        def embed_documents(self, texts: list[str]) -> Any:
            self.batches.append(len(texts))
            raise ValueError("broken")

    made, model = embedder(Broken())
    with pytest.raises(EmbeddingError, match=r"\(3000 of 3000 texts have no vector\)") as caught:
        made.embed(TEXTS)
    assert caught.value.rows == tuple(range(3000))
    assert len(model.batches) == 4


def test_rows_of_an_error_are_places_among_the_given_texts() -> None:
    class Zero(Model):
        def embed_documents(self, texts: list[str]) -> Any:
            return [[0.0, 0.0] if text == "bad" else [1.0, 1.0] for text in texts]

    with pytest.raises(EmbeddingError, match="zero vector for 1 of 3 texts, the first: 'bad'") as caught:
        Embedder(Zero()).embed(["a", "bad", "b", "a", "bad"])
    assert caught.value.rows == (1, 4)


def test_memory_does_not_grow_with_the_length_of_a_text() -> None:
    model = StaticEmbedder()
    model.embed_documents(["gato"])
    tracemalloc.start()
    model.embed_documents(["gato preto " * 60_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24_000_000  # 240,000 token vectors are 245 MB


# --- sentence-transformers ----------------------------------------------------------------------------------


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "sentence_transformers" else find_spec(name),
    )
    with pytest.raises(EmbedderNotFoundError, match=r'pip install "oraculo_kit\[transformers\]"'):
        Embedder("sentence-transformers:all-MiniLM-L6-v2").embed(["a"])


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a real transformer of two small layers, made here: nothing is fetched."""
    pytest.importorskip("sentence_transformers", reason="the extra `transformers` is not installed")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer  # type: ignore[attr-defined,unused-ignore]
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("transformer")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        "nota",
        "fiscal",
        "gato",
    ]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(folder / "whole"))
    return folder / "whole"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_sentence_transformer_is_loaded_by_the_library_itself(small_model: Path) -> None:
    made = Embedder(f"sentence-transformers:{small_model}")
    texts = ["nota fiscal", "gato", "um texto mais longo do que os outros " * 5]
    vectors = made.embed(texts)
    assert vectors.shape == (3, 32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    model: Any = made._loaded()
    assert model.device in ("cpu", "cuda:0", "mps:0")
    assert model.max_tokens == 64
    own = model._model.encode(texts, normalize_embeddings=True)
    assert np.allclose(vectors, own, atol=1e-5)
    assert np.allclose(made.embed_queries(["gato"])[0], vectors[1], atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_embeds_on_its_own() -> None:
    made = Embedder()
    with made._lock:  # as a thread that loads the model would hold it
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            try:
                os._exit(0 if made.embed(["b"]).shape == (1, 256) else 1)
            finally:
                os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
