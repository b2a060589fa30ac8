"""Search as its users feel it: every option against a plain oracle, and no query that could break it."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from oraculo_kit.errors import QueryError, StoreClosedError
from oraculo_kit.storage import hybrid
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.results import SearchResults
from oraculo_kit.storage.snapshot import Snapshot, StoredChunk
from oraculo_kit.storage.stems import words_of
from tests.storage.kit import TinyEmbeddings, vectors

OpenStore = Callable[..., FaissVetorStorage]
Mode = Literal["hybrid", "vector", "text"]
MODES: tuple[Mode, ...] = ("hybrid", "vector", "text")

_WORDS = ["nota", "fiscal", "prazo", "casa", "gato", "imposto", "serviço", "férias"]


def made_documents(count: int) -> list[Document]:
    """Return short texts over few words, in four sources and five colours; some texts stand there twice."""
    chance = np.random.default_rng(11)
    made = []
    for number in range(count):
        text = " ".join(chance.choice(_WORDS, int(chance.integers(1, 6))))
        metadata: dict[str, Any] = {"source": f"s{number % 4}", "number": number}
        if number % 3:
            metadata["colour"] = ["red", "green", 1, "1", True][number % 5]
        made.append(Document(page_content=text, metadata=metadata))
    return made


class World(NamedTuple):
    """A store, its documents and their vectors, in the order of writing."""

    store: FaissVetorStorage
    made: list[Document]
    matrix: np.ndarray

    def __repr__(self) -> str:  # hypothesis shows arguments
        return "world"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a store of 300 chunks, its documents and their vectors, in order."""
    folder = tmp_path_factory.mktemp("world") / "store"
    with FaissVetorStorage(folder, TinyEmbeddings()) as store:
        made, matrix = made_documents(300), vectors(300, 4)
        for document, name in zip(made, store.write(made, matrix), strict=True):
            document.id = name
        yield World(store, made, matrix)


def group_of(document: Document, key: str) -> tuple[type, Any]:
    """Return the group of a document, types kept apart."""
    value = document.metadata.get(key)
    return type(value), value


def expected_by_vector(
    made: list[Document], matrix: np.ndarray, query: np.ndarray, options: dict[str, Any]
) -> list[str]:
    """Return the ids that a search by vector must give: sort, leave out, choose; nothing clever."""
    cosines = matrix.astype(np.float64) @ query.astype(np.float64)
    pool = []
    texts: set[str] = set()
    groups: set[tuple[type, Any]] = set()
    colour = options.get("filter", {}).get("colour")
    for place in np.argsort(-cosines, kind="stable"):
        document = made[place]
        if colour is not None and document.metadata.get("colour") != colour:
            continue
        if options.get("min_score") is not None and cosines[place] < options["min_score"]:
            continue
        if options.get("unique") and document.page_content in texts:
            continue
        if options.get("group_by"):
            group = group_of(document, options["group_by"])
            if group in groups:
                continue
            groups.add(group)
        texts.add(document.page_content)
        pool.append(int(place))
    if options.get("mmr") is None:
        return [str(made[place].id) for place in pool[: options["k"]]]
    return [str(made[place].id) for place in expected_mmr(pool, cosines, matrix, options)]


def expected_mmr(
    pool: list[int], cosines: np.ndarray, matrix: np.ndarray, options: dict[str, Any]
) -> list[int]:
    """Return maximal marginal relevance as its paper writes it."""
    weight = 0.5 if options["mmr"] is True else options["mmr"]
    left, chosen = pool[: max(4 * options["k"], 20)], list[int]()
    while left and len(chosen) < options["k"]:
        best = max(
            left,
            key=lambda place: round(
                weight * cosines[place]
                - (1 - weight) * max(float(matrix[place] @ matrix[other]) for other in chosen)
                if chosen
                else cosines[place],
                6,
            ),
        )
        chosen.append(best)
        left.remove(best)
    return chosen


_options = st.fixed_dictionaries(
    {"k": st.integers(1, 12)},
    optional={
        "filter": st.sampled_from([{"colour": "red"}, {"colour": "green"}]),
        "min_score": st.sampled_from([-1.0, 0.0, 0.3, 0.6, 0.9]),
        "mmr": st.sampled_from([True, 0.25, 0.7]),
        "group_by": st.sampled_from(["source", "colour", "number"]),
        "unique": st.booleans(),
    },
)


@given(seed=st.integers(0, 10_000), options=_options)
@example(seed=4, options={"k": 2, "mmr": True})  # the query is a chunk's own vector: all gains are equal
@settings(max_examples=120, deadline=None)
def test_search_by_vector_equals_the_oracle_whatever_the_options(
    world: World, seed: int, options: dict[str, Any]
) -> None:
    store, made, matrix = world
    query = vectors(1, seed)[0]
    found = store.search(query, **options)
    assert [hit.id for hit in found] == expected_by_vector(made, matrix, query, options)
    batch = store.search(np.stack([query, vectors(1, seed + 1)[0]]), **options)
    assert batch[0].hits == found.hits


_text = st.text(max_size=30) | st.lists(
    st.sampled_from(
        [*_WORDS, '"nota fiscal"', "-casa", '-"gato casa"', '"', "-", "NEAR(", "*", "\u200b", "?"]
    ),
    max_size=6,
).map(" ".join)


@given(query=_text, mode=st.sampled_from(MODES), options=_options, context=st.integers(0, 2))
@settings(max_examples=250, deadline=None)
def test_no_query_and_no_options_are_an_error_and_every_hit_meets_them(
    world: World,
    query: str,
    mode: Mode,
    options: dict[str, Any],
    context: int,
) -> None:
    store, made, _ = world
    by_id = {str(document.id): document for document in made}
    results = store.search(query, mode=mode, context=context, explain=True, **options)
    assert len(results) <= options["k"]
    assert len({hit.id for hit in results}) == len(results)
    for hit in results:
        if "filter" in options:
            assert hit.metadata["colour"] == options["filter"]["colour"]
        if "min_score" in options:
            assert hit.vector_score is not None
            assert hit.vector_score >= options["min_score"]
        assert hit.explanation is not None
        assert sum(part.value for part in hit.explanation.parts) == pytest.approx(hit.score)
        assert sum(part.weight for part in hit.explanation.parts) == pytest.approx(1)
        assert hit.text in hit.context_text
    if options.get("unique"):
        assert len({hit.text for hit in results}) == len(results)
    if "group_by" in options:
        groups = [group_of(by_id[hit.id], options["group_by"]) for hit in results]
        assert len(set(groups)) == len(groups)
    if "mmr" not in options:
        assert [hit.score for hit in results] == sorted((hit.score for hit in results), reverse=True)
    repr(results)
    results._repr_html_()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "query",
    ["", " ", "-", "?", "...", "\u200b", "\u200b\ufeff", "- -", "-casa", '-"nota fiscal"', '""', "\x00"],
)
def test_a_query_that_asks_nothing_finds_nothing(world: World, query: str, mode: Mode) -> None:
    assert len(world[0].search(query, mode=mode)) == 0
    assert [len(found) for found in world[0].search([query, "nota"], 2, mode=mode)] == [0, 2]


def accepted(document: Document, phrase: str, excluded: str) -> bool:
    """Tell whether a text has a phrase and not an excluded word."""
    words = f" {' '.join(words_of(document.page_content))} "
    return f" {phrase} " in words and (not excluded or f" {excluded} " not in words)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("query", "phrase", "excluded"),
    [
        ('"nota fiscal"', "nota fiscal", ""),
        ('prazo "gato gato"', "gato gato", ""),
        ('"casa" -nota', "casa", "nota"),
        ('"imposto prazo" -"prazo imposto"', "imposto prazo", "prazo imposto"),
    ],
)
def test_every_chunk_that_has_the_phrase_is_found_however_many_are_asked_for(
    world: World,
    mode: Mode,
    query: str,
    phrase: str,
    excluded: str,
) -> None:
    store, made, _ = world
    expected = {str(document.id) for document in made if accepted(document, phrase, excluded)}
    assert expected
    assert {hit.id for hit in store.search(query, 300, mode=mode)} == expected
    assert len(store.search(query, 3, mode=mode)) == min(3, len(expected))


@pytest.mark.parametrize("mode", MODES)
def test_an_exclusion_that_fits_nearly_all_chunks_leaves_the_others(
    open_store: OpenStore, mode: Mode
) -> None:
    store = open_store(embedder=TinyEmbeddings())
    many = [Document(page_content=f"prazo comum {number}") for number in range(700)]
    store.write([*many, Document(page_content="prazo raro")])
    assert [hit.text for hit in store.search("prazo -comum", mode=mode)] == ["prazo raro"]


@pytest.mark.parametrize("mode", MODES)
def test_a_large_source_does_not_stand_before_the_others(
    open_store: OpenStore, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(embedder=TinyEmbeddings())
    query = "nota fiscal"
    near = np.repeat(store.embedder.embed_queries([query]), 1500, axis=0)
    store.replace("large", [Document(page_content=f"nota fiscal {n}") for n in range(1500)], near)
    for source in ("b", "c"):
        store.replace(source, [Document(page_content=f"uma nota {source} {n}") for n in range(3)])
    read: list[int] = []
    chunks = Snapshot.chunks

    def counted(self: Snapshot, numbers: np.ndarray) -> list[StoredChunk]:
        read.extend(numbers.tolist())
        return chunks(self, numbers)

    monkeypatch.setattr(Snapshot, "chunks", counted)
    found = store.search(query, 10, mode=mode, group_by="source")
    assert sorted(hit.source for hit in found) == ["b", "c", "large"]
    assert found[0].source == "large"
    assert len(read) < 300  # not the whole source
    assert [hit.source for hit in store.search(query, 2, mode=mode, group_by="source")][0] == "large"


@pytest.mark.parametrize("mode", MODES)
def test_copies_of_a_text_do_not_take_the_places_of_others(open_store: OpenStore, mode: Mode) -> None:
    store = open_store(embedder=TinyEmbeddings())
    copies = [Document(page_content="nota fiscal", metadata={"source": f"{n}"}) for n in range(300)]
    others = [Document(page_content=f"nota {n}", metadata={"source": "o"}) for n in range(3)]
    store.write([*copies, *others])
    assert len({hit.text for hit in store.search("nota fiscal", 4, mode=mode, unique=True)}) == 4
    assert [hit.text for hit in store.search("nota fiscal", 4, mode=mode)] == ["nota fiscal"] * 4


@pytest.mark.parametrize("mode", MODES)
def test_min_score_is_the_cosine_in_every_mode(world: World, mode: Mode) -> None:
    store, made, matrix = world
    query = store.embedder.embed_queries(["nota"])[0]
    cosines = dict(zip([str(each.id) for each in made], matrix @ query, strict=True))
    found = store.search("nota", 300, mode=mode, min_score=0.2)
    has_word = {str(each.id) for each in made if "nota" in each.page_content.split()}
    passing = {name for name, cosine in cosines.items() if cosine >= 0.2}
    assert {hit.id for hit in found} == (passing & has_word if mode == "text" else passing)
    assert all(hit.vector_score == pytest.approx(cosines[hit.id], abs=1e-6) for hit in found)
    assert len(store.search("nota", mode=mode, min_score=1.0)) == 0


def test_text_mode_needs_no_embedder(open_store: OpenStore) -> None:
    class Broken(TinyEmbeddings):
        def embed_query(self, text: str) -> list[float]:
            raise RuntimeError("no model here")

    store = open_store(embedder=Broken())
    store.write([Document(page_content="nota fiscal")], vectors(1))
    hit = store.search("nota", mode="text", mmr=True, group_by="source", unique=True, explain=True)[0]
    assert hit.vector_score is None
    assert hit.text_score is not None


def test_frequent_words_only_add_to_the_score_in_large_stores(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, _ = world
    question = "nota fiscal prazo casa gato imposto serviço férias inexistente"
    whole = store.search(question, 300, mode="text")
    monkeypatch.setattr(hybrid, "_PRUNED_FROM", 0)
    assert {hit.id for hit in store.search(question, 300, mode="text")} == {hit.id for hit in whole}
    few = store.search(question, 10, mode="text")
    assert len(few) == 10
    scores = {hit.id: hit.text_score for hit in whole}
    assert [hit.text_score for hit in few] == pytest.approx([scores[hit.id] for hit in few])
    assert len(store.search(question, 10)) == 10


def test_in_large_stores_the_best_are_found_without_scoring_all_that_match(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(3)
    law = 1 / np.arange(4, 304)
    store = open_store(embedder=TinyEmbeddings())
    store.write(
        [
            Document(page_content=" ".join(f"w{word}" for word in words), metadata={"even": place % 2 == 0})
            for place, words in enumerate(chance.choice(300, (1500, 30), p=law / law.sum()))
        ]
    )
    asked: list[str | None] = []
    text_top = Snapshot.text_top

    def noted(self: Snapshot, match: str, k: int, *options: Any) -> Any:
        asked.append(options[1] if len(options) > 1 else None)
        return text_top(self, match, k, *options)

    for words in chance.choice(300, (20, 8), p=law / law.sum()):
        question = " ".join(f"w{word}" for word in words)
        for chosen in (None, {"even": True}):
            whole = store.search(question, 10, mode="text", filter=chosen)
            with monkeypatch.context() as patched:
                patched.setattr(hybrid, "_PRUNED_FROM", 0)
                patched.setattr(Snapshot, "text_top", noted)
                pruned = store.search(question, 10, mode="text", filter=chosen)
            assert [hit.id for hit in pruned] == [hit.id for hit in whole]
    assert sum(essential is not None for essential in asked) > 20
    assert asked.count(None) < 30  # most questions were answered without scoring all


def test_a_second_thread_beside_the_full_text_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, made, _ = world
    questions = sorted({document.page_content for document in made})[:20]
    alone = [store.search(question) for question in questions]
    monkeypatch.setattr(hybrid, "_BESIDE_FROM", 0)
    assert [store.search(question).hits for question in questions] == [found.hits for found in alone]

    def none_to_be_had(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_to_be_had)
    assert store.search(questions[0]).hits == alone[0].hits


def test_matches_of_frequent_words_come_when_those_of_rare_ones_do_not_suffice(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "_PRUNED_FROM", 0)
    store = open_store(embedder=TinyEmbeddings())
    copies = [Document(page_content="raro", metadata={"source": f"{n}"}) for n in range(40)]
    store.write([*copies, *(Document(page_content=f"comum {n}") for n in range(400))])
    found = store.search("raro comum", 5, mode="text", unique=True)
    assert [hit.text.split()[0] for hit in found] == ["raro", *["comum"] * 4]


def test_a_word_that_is_new_is_found_though_it_was_asked_for_before(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "_PRUNED_FROM", 0)
    store = open_store(embedder=TinyEmbeddings())
    store.write(made_documents(300))
    question = "abacaxi nota fiscal prazo casa gato"
    assert len(store.search(question, 1, mode="text")) == 1
    store.write([Document(page_content="abacaxi")])
    assert store.search(question, 1, mode="text")[0].text == "abacaxi"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 1.5}, "min_score is 1.5, expected a cosine"),
        ({"min_score": float("nan")}, "min_score is nan"),
        ({"min_score": "0.5"}, "min_score is '0.5'"),
        ({"min_score": True}, "min_score is True"),
        ({"mmr": 2}, "mmr is 2, expected True, or a number from 0"),
        ({"mmr": "yes"}, "mmr is 'yes'"),
        ({"group_by": ""}, "group_by is '', expected a metadata key"),
        ({"group_by": ["source"]}, "group_by is"),
        ({"group_by": "color"}, "did you mean 'colour'"),
        ({"group_by": "sourse"}, "did you mean 'source'"),
        ({"context": -1}, "context is -1, expected how many neighbouring chunks"),
        ({"context": True}, "context is True"),
        ({"context": 101}, "context is 101"),
        ({"unique": 1}, "unique is 1, expected True or False"),
        ({"explain": "yes"}, "explain is 'yes', expected True or False"),
        ({"exact": None}, "exact is None, expected True or False"),
        ({"mode": "fuzzy"}, "mode is 'fuzzy'"),
        ({"mode": ["text"]}, "mode is"),
    ],
)
def test_an_option_that_cannot_be_understood_is_refused(
    world: World, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        world[0].search("nota", **options)


def test_options_that_are_off_change_nothing(
    world: World,
) -> None:
    store, _, _ = world
    plain = store.search("nota fiscal")
    assert store.search("nota fiscal", mmr=False, context=0, min_score=-1, exact=True) == plain
    by_vector = store.search("nota fiscal", mode="vector")
    assert store.search("nota fiscal", mode="vector", mmr=1.0).hits == by_vector.hits


# What results can be asked


def pieces(source: str, size: int, overlap: int, *, offsets: bool) -> tuple[str, list[Document]]:
    """Return a text and its chunks, cut blindly."""
    text = "".join(f"{number} mil e {number} palavras. " for number in range(60)).strip()
    made = []
    for start in range(0, len(text) - overlap, size - overlap):
        part = text[start : start + size]
        metadata = {"start": start, "end": start + len(part)} if offsets else {}
        made.append(Document(page_content=part, metadata={"source": source, **metadata}))
    return text, made


@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_context_is_the_text_around_with_overlaps_once(open_store: OpenStore, offsets: bool, n: int) -> None:
    store = open_store(embedder=TinyEmbeddings())
    text, made = pieces("a", 120, 40, offsets=offsets)
    store.replace("a", made)
    store.replace("b", [Document(page_content="outra fonte")])
    for document in made[3:6]:
        (hit,) = store.search(f'"{document.page_content}"', 1, mode="text", context=n)
        start = text.index(document.page_content)
        assert hit.text == document.page_content
        assert hit.context_text in text
        first = max(0, start - 80 * n)
        assert hit.context_text == text[first : min(len(text), start + 120 + 80 * n)]
        results = store.search(f'"{document.page_content}"', 1, mode="text")
        assert results.context(results[0], n) == hit.context_text
        assert results[0].context_text == document.page_content


def test_similar_hits_are_near_and_others(open_store: OpenStore) -> None:
    store = open_store(embedder=TinyEmbeddings())
    matrix = vectors(6)
    matrix[3] = matrix[0]  # a copy of the first, its text too
    texts = ["um", "dois", "três", "um", "cinco", "seis"]
    store.write([Document(page_content=text, metadata={"n": n}) for n, text in enumerate(texts)], matrix)
    results = store.search(matrix[0], 1)
    found = results.similar(results[0], 3)
    others = [place for place in np.argsort(-(matrix @ matrix[0]), kind="stable") if texts[place] != "um"]
    assert [hit.text for hit in found] == [texts[place] for place in others[:3]]
    assert len(results.similar(results[0], 100)) == 4
    second = store.search(matrix[0], 2)[1]
    assert (second.text, second.metadata["n"]) == ("um", 3)
    assert results.similar(second, 3) == found
    assert [hit.text for hit in results.similar(results[0], filter={"n": 5})] == ["seis"]
    assert found.similar(found[0], 1)[0].text != found[0].text
    with pytest.raises(QueryError, match="k is 0"):
        results.similar(results[0], 0)


def test_results_of_a_closed_or_lost_store_say_so(open_store: OpenStore) -> None:
    store = open_store(embedder=TinyEmbeddings())
    store.write(made_documents(5))
    results = store.search("nota", k=2)
    assert copy.deepcopy(results).context(results[0])
    travelled: SearchResults = pickle.loads(pickle.dumps(results))
    assert travelled == results
    for ask in (travelled.context, travelled.similar):
        with pytest.raises(StoreClosedError, match="come from another process. Search again"):
            ask(results[0])
    with pytest.raises(QueryError, match="context is -1"):
        results.context(results[0], -1)
    store.remove([results[0].id])
    for ask in (results.context, results.similar):
        with pytest.raises(QueryError, match="is not in the store any more"):
            ask(results[0])
    store.close()
    for ask in (results.context, results.similar):
        with pytest.raises(StoreClosedError, match="was closed"):
            ask(results[1])
    with pytest.raises(StoreClosedError, match="not made by a store"):
        SearchResults(()).context(results[0])


def test_explanations_tell_the_parts_and_the_words(open_store: OpenStore) -> None:
    store = open_store(embedder=TinyEmbeddings())
    store.write(
        [Document(page_content="A nota fiscal eletrônica"), Document(page_content="prazo de entrega")]
    )
    results = store.search("notas fiscais de prazo", explain=True)
    hit = results[0]
    assert hit.explanation is not None
    assert (hit.explanation.matched, hit.explanation.missing) == (("notas", "fiscais"), ("prazo",))
    assert hit.explanation.part("vector").raw == hit.vector_score  # type: ignore[union-attr]
    assert hit.explanation.part("text").raw == hit.text_score  # type: ignore[union-attr]
    assert "matched notas, fiscais; missing prazo" in repr(results)
    html = results._repr_html_()
    assert "how the scores came about" in html
    assert html.count("<table>") == 2
    frame = results.to_pandas()
    parts = frame[["vector_part", "text_part", "wording_part"]].sum(axis=1)
    np.testing.assert_allclose(parts, frame["score"])
    assert frame["matched"][0] == ("notas", "fiscais")
    chosen = store.search("nota", mmr=True, explain=True, mode="vector")
    assert [each.explanation is not None and each.explanation.likeness is not None for each in chosen] == [
        False,
        True,
    ]


def test_hostile_context_is_escaped_and_offsets_are_shown(open_store: OpenStore) -> None:
    store = open_store(embedder=TinyEmbeddings())
    texts = ["<img src=x>", "nota fiscal", "<script>alert(1)</script>"]
    store.replace(
        "<b>s</b>",
        [
            Document(page_content=text, metadata={"page": 3, "start": 20 * n, "end": 20 * n + 10})
            for n, text in enumerate(texts)
        ],
    )
    results = store.search('"nota fiscal"', 1, context=1, explain=True)
    html = results._repr_html_()
    for tag in ("<img", "<script", "<b>"):
        assert tag not in html
    assert "page 3" in html
    assert "characters 20-30" in html
    assert "&lt;script&gt;" in html
    assert list(results.to_pandas().columns)[8:10] == ["before", "after"]
