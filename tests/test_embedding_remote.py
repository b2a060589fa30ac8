"""Remote embedding models: real clients that talk to a real server on the loopback interface."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_openai import OpenAIEmbeddings

from oraculo_kit.embed import Embedder, EmbedderObject, EmbedOptions
from oraculo_kit.embedding import failures, providers
from oraculo_kit.environment import record
from oraculo_kit.errors import EmbedderNotFoundError, EmbeddingError
from tests.openai_server import (
    KEY,
    OpenAIServer,
    Route,
    embeds,
    fails,
    hangs_up,
    in_turn,
    refuses,
    server,
    vector_of,
)

__all__ = ["server"]

MODEL = "openai:text-embedding-test"
TEXTS = [f"texto número {number}" for number in range(1000)]
NO_CACHE = EmbedOptions()


@pytest.fixture(autouse=True)
def provider(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """Return the server, with key and address in the environment; no thread may be left in the end."""
    monkeypatch.setattr(record, "_known_secrets", set())
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
    server.route = embeds()
    yield server
    assert_no_thread_is_left()


def assert_no_thread_is_left() -> None:
    end = time.monotonic() + 8
    while any(thread.name == "oraculo-embed" for thread in threading.enumerate()):
        assert time.monotonic() < end, "a thread of a request is still there"
        time.sleep(0.02)


def unit(texts: list[str]) -> Any:
    vectors = np.array([vector_of(text) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1)[:, None]


def failed(texts: list[str], said: str, embedder: Embedder | None = None) -> EmbeddingError:
    with pytest.raises(EmbeddingError, match=said) as caught:
        (embedder or Embedder(MODEL, NO_CACHE)).embed(texts)
    error = caught.value
    assert KEY not in str(error) + repr(error) + "".join(traceback.format_exception(error))
    assert pickle.loads(pickle.dumps(error)).rows == error.rows
    return error


@pytest.mark.parametrize("model", [MODEL, "ollama:nomic-test"])
def test_vectors_come_back_in_the_order_of_their_texts(model: str, server: OpenAIServer) -> None:
    vectors = Embedder(model, NO_CACHE).embed(TEXTS)
    assert np.allclose(vectors, unit(TEXTS), atol=1e-6)
    assert len(server.requests) == 11
    assert max(len(request.texts) for request in server.requests) == 96


def test_a_text_is_sent_once_as_it_is_and_a_blank_one_never(server: OpenAIServer) -> None:
    vectors = Embedder(MODEL, NO_CACHE).embed(["a", "b", " \n", "a", ""])
    assert sorted(server.texts) == sorted(
        ["a", "b", *[text for text in server.texts if "identifica" in text]]
    )
    assert np.allclose(vectors[[0, 1, 3]], unit(["a", "b", "a"]), atol=1e-6)
    assert not vectors[[2, 4]].any()


def test_long_texts_make_small_requests(server: OpenAIServer) -> None:
    Embedder(MODEL, NO_CACHE).embed([f"{number} " + "x" * 40_000 for number in range(5)])
    assert sorted(len(request.texts) for request in server.requests) == [1, 2, 2]


def test_several_requests_are_under_way_at_a_time_and_no_more_than_allowed(server: OpenAIServer) -> None:
    lock, under_way, most = threading.Lock(), [0], [0]

    def counted(handler: Any) -> None:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.05)
        with lock:
            under_way[0] -= 1
        embeds()(handler)

    server.route = counted
    Embedder(MODEL, EmbedOptions(requests=3)).embed(TEXTS)
    assert most[0] == 3


def test_questions_are_asked_several_at_a_time_too(server: OpenAIServer) -> None:
    server.route = embeds(seconds=0.1)
    started = time.monotonic()
    vectors = Embedder(MODEL, NO_CACHE).embed_queries(TEXTS[:8])
    assert time.monotonic() - started < 0.7
    assert np.allclose(vectors, unit(TEXTS[:8]), atol=1e-6)


def test_the_rate_is_kept(server: OpenAIServer) -> None:
    embedder = Embedder(MODEL, EmbedOptions(rate=60 / 0.1))
    started = time.monotonic()
    embedder.embed(TEXTS[:400])  # five requests, the first at once
    assert 0.4 <= time.monotonic() - started < 2


def test_the_rate_is_one_for_all_processes_that_share_a_cache(server: OpenAIServer, tmp_path: Path) -> None:
    options = EmbedOptions(rate=60 / 0.1, cache=str(tmp_path / "cache.sqlite3"))
    embedders = [Embedder(MODEL, options) for _ in range(2)]
    started = time.monotonic()
    for number, embedder in enumerate(embedders):
        embedder.embed(TEXTS[number * 96 : number * 96 + 96])  # the probe and one request, each
    assert time.monotonic() - started >= 0.3


# --- what passes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [fails(500), fails(503), fails(408), fails(429, "Rate limit reached.", Retry_After="0.1"), hangs_up],
    ids=["500", "503", "408", "429", "connection"],
)
def test_a_passing_failure_is_tried_again(
    trouble: Route, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_FIRST_WAIT", 0.05)
    server.route = in_turn(trouble, embeds())
    assert np.allclose(Embedder(MODEL, NO_CACHE).embed(["a"]), unit(["a"]), atol=1e-6)
    assert len(server.requests) == 2


def test_retry_after_is_waited_for_by_all_requests(server: OpenAIServer) -> None:
    times: list[float] = []

    def limited(handler: Any) -> None:
        times.append(time.monotonic())
        (fails(429, Retry_After="0.6") if len(times) == 1 else embeds(seconds=0.3))(handler)

    server.route = limited
    Embedder(MODEL, EmbedOptions(requests=2)).embed(TEXTS[:400])
    began = [moment - times[0] for moment in times[1:]]
    assert sum(moment < 0.55 for moment in began) <= 1  # the one that was under way
    assert len(times) == 6


def test_it_is_tried_four_times_and_then_fails_for_all_texts(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_FIRST_WAIT", 0.01)
    server.route = fails(503, "Overloaded.")
    error = failed(
        TEXTS, r"failed on 96 texts: .*Overloaded.*can be reached.* \(1000 of 1000 texts have no vector\)"
    )
    assert error.rows == tuple(range(1000))
    assert len(server.requests) <= 4 * 4


def test_a_wait_beyond_all_patience_is_not_begun(server: OpenAIServer) -> None:
    server.route = fails(429, "Come back tomorrow.", Retry_After="86400")
    started = time.monotonic()
    failed(["a"], "Come back tomorrow")
    assert time.monotonic() - started < 2
    assert len(server.requests) == 1


def test_want_of_credit_does_not_pass(server: OpenAIServer) -> None:
    server.route = fails(429, "You exceeded your current quota.", "insufficient_quota")
    failed(["a"], "ORACULO_EMBED_RATE")
    assert len(server.requests) == 1


def test_a_client_that_tries_again_itself_is_asked_once(server: OpenAIServer) -> None:
    server.route = fails(500)
    model = OpenAIEmbeddings(model="m", max_retries=1, check_embedding_ctx_length=False)
    failed(["a"], "500", Embedder(model, NO_CACHE))
    assert len(server.requests) == 2


# --- what does not pass -------------------------------------------------------------------------------------


def test_a_wrong_key_is_said_at_once_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, server: OpenAIServer
) -> None:
    wrong = "planted-wrong-key-55aa"
    model = OpenAIEmbeddings(model="m", api_key=wrong, max_retries=0, check_embedding_ctx_length=False)
    with pytest.raises(EmbeddingError, match="Check the provider's API key") as caught:
        Embedder(model, NO_CACHE).embed(TEXTS)
    assert wrong not in "".join(traceback.format_exception(caught.value))
    assert caught.value.rows == tuple(range(1000))
    assert (
        len(server.requests) < 20
    )  # of 32: those that were under way when the first answer came, and the next


def test_a_text_that_is_refused_costs_itself_and_not_its_neighbours(server: OpenAIServer) -> None:
    server.route = refuses(lambda text: text in (TEXTS[17], TEXTS[500]))
    error = failed(TEXTS, "failed on 1 text: .*too long.*ORACULO_CHUNK_SIZE")
    assert error.rows == (17, 500)


def test_a_model_that_refuses_everything_is_not_asked_for_ever(server: OpenAIServer) -> None:
    server.route = fails(400, "Unknown parameter.")
    assert failed(TEXTS, "Unknown parameter").rows == tuple(range(1000))
    assert len(server.requests) < 60


def nan_for(number: int) -> Route:
    def change(texts: list[str], vectors: list[Any]) -> list[Any]:
        return [
            [float("nan")] * 8 if text == TEXTS[number] else one
            for text, one in zip(texts, vectors, strict=True)
        ]

    return embeds(change)


def test_nan_is_the_fault_of_its_text_alone(server: OpenAIServer) -> None:
    server.route = nan_for(123)
    texts = [*TEXTS[:200], TEXTS[123]]
    assert failed(texts, "NaN, infinity or a zero vector .* 'texto número 123'").rows == (123, 200)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda texts, vectors: [one[:5] for one in vectors], "length 5, expected 8"),
        (lambda texts, vectors: vectors[1:], r"shape \(95, 8\) for 96 texts"),
    ],
    ids=["dimension", "count"],
)
def test_a_batch_of_a_wrong_shape_is_the_fault_of_its_texts(
    change: Any, said: str, server: OpenAIServer
) -> None:
    embedder = Embedder(MODEL, NO_CACHE)
    embedder.embed(["a"])
    server.route = embeds(lambda texts, vectors: change(texts, vectors) if TEXTS[100] in texts else vectors)
    assert failed(TEXTS, said, embedder).rows == tuple(range(96, 192))


def test_what_was_embedded_before_a_failure_is_not_asked_for_again(
    server: OpenAIServer, tmp_path: Path
) -> None:
    options = EmbedOptions(cache=str(tmp_path / "cache.sqlite3"))
    server.route = nan_for(123)
    failed(TEXTS, "NaN", Embedder(MODEL, options))
    server.route = embeds()
    server.requests.clear()
    assert np.allclose(Embedder(MODEL, options).embed(TEXTS), unit(TEXTS), atol=1e-6)
    assert [text for text in server.texts if "identifica" not in text] == [TEXTS[123]]


def test_a_provider_whose_package_is_missing_names_it() -> None:
    with pytest.raises(EmbedderNotFoundError, match="pip install langchain-cohere"):
        Embedder("cohere:embed-v4").embed(["a"])


# --- stopping -----------------------------------------------------------------------------------------------


class _StopAfter:
    """A checkpoint that raises after so many seconds, and measures the time between its calls."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.last = time.monotonic()
        self.longest = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now
        if now > self.end:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "route",
    [embeds(seconds=3), fails(429, Retry_After="30"), fails(500)],
    ids=["slow", "told to wait", "backoff"],
)
def test_a_checkpoint_that_raises_ends_it_at_once(route: Route, server: OpenAIServer) -> None:
    embedder = Embedder(MODEL, NO_CACHE)
    embedder.embed(["the model is loaded"])
    server.route = route
    checkpoint = _StopAfter(0.5)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        embedder.embed(TEXTS, checkpoint=checkpoint)
    assert time.monotonic() - started < 2
    assert checkpoint.longest < 0.6  # 0.2 and what a busy machine adds
    asked = len(server.requests)
    time.sleep(0.3)
    assert len(server.requests) <= asked  # no request is begun any more


def test_threads_share_the_bound_of_one_embedder(server: OpenAIServer) -> None:
    server.route = embeds(seconds=0.02)
    embedder = Embedder(MODEL, EmbedOptions(requests=2))
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(embedder.embed(TEXTS[:300]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 4
    assert all(np.allclose(each, unit(TEXTS[:300]), atol=1e-6) for each in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_asks_on_its_own(server: OpenAIServer) -> None:
    embedder = Embedder(MODEL, EmbedOptions(requests=1))
    embedder.embed(["a"])
    with embedder._asker()._pace.slots:  # as the request of another thread would hold it
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            try:
                os._exit(0 if embedder.embed(["b"]).shape == (1, 8) else 1)
            finally:
                os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_langchain_object_that_holds_a_client_travels_by_its_arguments(server: OpenAIServer) -> None:
    model = OpenAIEmbeddings(model="m", timeout=7, max_retries=0, check_embedding_ctx_length=False)
    wrapped = EmbedderObject.wrap(model)
    copy = pickle.loads(pickle.dumps(wrapped))
    assert copy == wrapped
    assert copy.embeddings is not model
    assert (copy.embeddings.model, copy.embeddings.request_timeout) == ("m", 7)
    assert np.allclose(Embedder(copy, NO_CACHE).embed(["a"]), unit(["a"]), atol=1e-6)


def test_who_is_remote() -> None:
    class Own:
        remote = True

    class Derived(OpenAIEmbeddings):
        pass

    assert providers.is_remote(Own())
    assert providers.is_remote(Derived(model="m"))
    assert not providers.is_remote(object())
