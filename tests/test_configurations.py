"""Settings of a search under a name each: checked before the first question, stores opened and closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.errors import QueryError, StoreNotFoundError
from oraculo_kit.evaluating.configurations import configured
from oraculo_kit.storage import VetorStorage, open_storage
from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.kit import TinyEmbeddings, documents


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VetorStorage]:
    with open_storage(tmp_path / "base", TinyEmbeddings()) as opened:
        opened.write(documents("fonte", 300))
        yield opened


def names(given: Any, store: VetorStorage) -> list[str]:
    with configured(given, 5, store) as settings:
        return [setting.name for setting in settings]


def test_names_are_given_or_made_of_what_is_set(store: VetorStorage) -> None:
    assert names({"híbrida": {}, "vetores": {"mode": "vector"}}, store) == ["híbrida", "vetores"]
    made = names(
        ["text", {"k": 20}, {"mode": "vector", "filter": {"ano": 2024}}, {"store": store}, "text", {}], store
    )
    assert made == ["text", "k=20", 'vector, filter={"ano": 2024}', "store=base", "text (2)", "hybrid"]


def test_a_configuration_that_says_nothing_has_the_common_k_and_store(store: VetorStorage) -> None:
    with configured([{"mode": "text"}, {"mode": "text", "k": 2}], 3, store) as settings:
        assert [dict(setting.options) for setting in settings] == [
            {"k": 3, "mode": "text"},
            {"k": 2, "mode": "text"},
        ]
        assert [setting.store for setting in settings] == [store, store]
        assert len(settings[1].ask_one("nota")) == 2


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
def test_a_batch_finds_what_single_questions_find(store: VetorStorage, mode: str) -> None:
    queries = ["nota fiscal", 'quem disse "nota fiscal"?', "férias em janeiro", "", "nota -fiscal"]
    with configured([mode], 5, store) as (setting,):
        assert setting.ask(queries) == [setting.ask_one(query) for query in queries]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "got no configuration"),
        ([], "got no configuration"),
        ("hybrid", "got str as configurations"),
        (3, "got int as configurations"),
        ([3], "a configuration is 3"),
        ({"mode": "hybrid"}, "come in a list"),
        ([{"mod": "text"}], "'mod', which search.. has not; did you mean 'mode'"),
        ([{"stor": "x"}], "did you mean 'store'"),
        ([{"query": "x"}], "'query', which search.. has not"),
        ([{"zzz": 1}], "expected some of k, mode, filter"),
        ({"a": {"k": 0}}, "configuration 'a': k is 0"),
        ([{"store": 3}], "store is int"),
        ([{"rernk": len}], "did you mean 'rerank'"),
    ],
)
def test_what_is_no_configuration_is_refused(store: VetorStorage, given: Any, said: str) -> None:
    with pytest.raises(QueryError, match=said), configured(given, 5, store):
        pass


def test_a_store_given_by_path_is_opened_once_and_closed_and_an_open_one_stays(project: Path) -> None:
    oraculo.ingest(Document("uma nota", metadata={"source": "a"}), progress=False)
    path = oraculo.vetor_storage().location
    with configured([{"store": path}, {"store": os.path.relpath(path)}, "text"], 5) as settings:
        first, second, services = settings
        assert first.store is second.store
        assert services.store is oraculo.vetor_storage()
        assert len(first.ask_one("nota")) == 1
    with pytest.raises(ValueError, match="closed"):
        first.ask_one("nota")
    assert len(services.ask_one("nota")) == 1


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, store: VetorStorage) -> None:
    given = ["text", {"store": tmp_path / "nada"}]
    with pytest.raises(StoreNotFoundError, match="there is no store"), configured(given, 5, store):
        pass
    assert not (tmp_path / "nada").exists()


class OpenEnded(FaissVetorStorage):
    def search(self, query: Any, k: int = 5, **options: Any) -> Any:
        raise NotImplementedError


def test_an_object_in_a_name_is_shown_by_its_class(tmp_path: Path) -> None:
    with OpenEnded(tmp_path / "outra") as store:
        made = names([{"rerank": TinyEmbeddings()}, {"rerank": len}, {"rerank": None}], store)
    assert made == ["rerank=TinyEmbeddings", "rerank=len", "rerank=None"]


def test_a_reranker_orders_the_hits_of_its_configuration(store: VetorStorage) -> None:
    def shortest_first(query: str, texts: list[str]) -> list[float]:
        return [-float(len(text)) for text in texts]

    with configured({"a": {}, "b": {"rerank": shortest_first, "mode": "text"}}, 3, store) as (
        plain,
        reranked,
    ):
        [found] = reranked.ask(["texto"])
        assert [hit.score for hit in found] == sorted((-float(len(hit.text)) for hit in found), reverse=True)
        assert len(found) == 3
        assert found == reranked.ask_one("texto")
        assert plain.ask_one("texto") != found


def test_an_order_of_its_own_and_a_reranker_do_not_go_together(store: VetorStorage) -> None:
    with (
        configured([{"rerank": len, "mmr": True}], 3, store) as (setting,),
        pytest.raises(QueryError, match="got mmr and rerank"),
    ):
        setting.ask_one("texto")
