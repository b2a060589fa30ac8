"""Filter indexes: found rows stay the same, whatever the key; the plan shows that no chunk is looked at in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from oraculo_kit.errors import FilterError
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.filter_indexes import KeyPlaces, create_index, drop_index, indexed_keys
from oraculo_kit.storage.filters import CompiledFilter
from tests.storage.kit import documents, vectors
from tests.storage.test_filters import KEYS, fill, filters, found, matches, metadatas

OpenStore = Callable[..., FaissVetorStorage]

INDEXED = ["a", 'q"q', "ção", "nul\0", "'; DROP TABLE chunks; --", ""]


def index(store: FaissVetorStorage, key: str) -> bool:
    """Make an index in a transaction of the store's writer."""
    with store._writing().transaction("create a filter index") as catalog:
        return create_index(catalog, key)


def unindex(store: FaissVetorStorage, key: str) -> bool:
    """Drop an index in a transaction of the store's writer."""
    with store._writing().transaction("drop a filter index") as catalog:
        return drop_index(catalog, key)


def indexes(store: FaissVetorStorage) -> list[str]:
    """Return the keys that have an index, as a reader sees them."""
    with store._reader.pin() as snapshot:
        return indexed_keys(snapshot.catalog)


def plan(store: FaissVetorStorage, wanted: dict[str, Any]) -> list[str]:
    """Return how SQLite goes about a filter: one line per step."""
    with store._reader.pin() as snapshot:
        compiled = CompiledFilter(wanted, KeyPlaces(snapshot.catalog))
        rows = snapshot.catalog.rows(
            f"EXPLAIN QUERY PLAN SELECT group_concat(c.number) FROM chunks c WHERE {compiled.sql}",
            compiled.bindings,
        )
    return [row[3] for row in rows]


def steps_on(table: str, steps: list[str]) -> list[str]:
    """Return the steps that look at a table, by its alias."""
    return [step for step in steps if step.startswith((f"SCAN {table}", f"SEARCH {table}"))]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaissVetorStorage]:
    """Return a store with indexes, which the examples fill in turn."""
    with FaissVetorStorage(tmp_path_factory.mktemp("indexes") / "store", durability="process") as store:
        for key in INDEXED:
            index(store, key)
        yield store


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(metadatas, min_size=1, max_size=4),
    metadatas,
    st.lists(metadatas, min_size=1, max_size=4),
    filters,
)
@example([{"a": 2**63 + 1}], {}, [{"a": 1}], {"a": {"$gte": 2**63 + 1}})
@example([{"a": -(2**70)}], {"b": 1}, [{"a": -(2**70) - 1}], {"a": {"$lt": -(2**70)}})
@example([{"a": [1]}, {"a": "[1]"}], {}, [{"a": {"x": 1}}], {"$or": [{"a": [1]}, {"a": {"x": 1}}]})
@example([{}], {"a": 1}, [{"a": 1.0}, {"a": True}], {"a": 1, "b": None})
@example([{"a": 1}, {"a": None}], {}, [{}], {"$not": {"a": {"$not": {"$exists": True}}}})
def test_indexes_change_nothing_of_what_a_filter_passes(
    indexed: FaissVetorStorage,
    inherited: list[dict[str, Any]],
    shared: dict[str, Any],
    own: list[dict[str, Any]],
    wanted: dict[str, Any],
) -> None:
    known = fill(indexed, [{**shared, **each} for each in inherited], own)
    expected = {name for name, metadata in known.items() if matches(metadata, wanted)}
    assert found(indexed, wanted) == expected


@pytest.fixture
def filled(store: FaissVetorStorage) -> FaissVetorStorage:
    """Return a store with own keys (place, both), shared keys (team, both), and indexes on all but ``plain``."""
    store.replace(
        "one",
        [
            Document(page_content=f"{n}", metadata={"team": "red", "place": n, "both": 1, "plain": n})
            for n in range(5)
        ],
        vectors(5),
    )
    store.write(
        [Document(page_content=f"{n}", metadata={"source": "two", "place": n, "both": n}) for n in range(5)],
        vectors(5, 1),
    )
    for key in ("team", "place", "both"):
        assert index(store, key)
    return store


@pytest.mark.parametrize(
    ("wanted", "count", "used"),
    [
        ({"place": 3}, 2, ["place"]),
        ({"place": {"$gte": 1, "$lt": 3}}, 4, ["place"]),
        ({"place": {"$in": [1, "x", 4]}}, 4, ["place"]),
        ({"place": {"$exists": True}}, 10, ["place"]),
        ({"place": {"$gt": 2**70}}, 0, ["place"]),
        ({"place": {"$contains": "x"}}, 0, ["place"]),
        ({"place": 3, "plain": 3}, 1, ["place"]),
        ({"plain": {"$gt": 1}, "place": 3}, 1, ["place"]),
        ({"$and": [{"place": 3}, {"$not": {"plain": 3}}]}, 1, ["place"]),
        ({"place": 3, "plain": {"$ne": 3}}, 1, ["place"]),
        ({"$or": [{"place": 3}, {"both": 4}]}, 3, ["place", "both"]),
        ({"$or": [{"place": 3}, {"$and": [{"both": 4}, {"plain": 1}]}]}, 2, ["place", "both"]),
        ({"both": 1}, 6, ["both"]),
        ({"both": {"$gte": 1, "$lt": 2}}, 6, ["both"]),
        ({"source": "two", "place": 3}, 1, ["place"]),
    ],
)
def test_a_filter_with_an_indexed_key_does_not_scan(
    filled: FaissVetorStorage, wanted: dict[str, Any], count: int, used: list[str]
) -> None:
    assert len(found(filled, wanted)) == count
    steps = plan(filled, wanted)
    scans = [step for step in steps if step.startswith(("SCAN c", "SCAN s"))]
    assert all("COVERING INDEX filter_" in step for step in scans), steps  # of all rows that have the key
    for key in used:
        assert any(f"INDEX filter_chunks_{key.encode().hex()}" in step for step in steps), steps


@pytest.mark.parametrize("wanted", [{"place": 3}, {"place": {"$gt": 1}}, {"place": 3, "source": "two"}])
def test_an_own_key_is_resolved_from_the_index_alone(
    filled: FaissVetorStorage, wanted: dict[str, Any]
) -> None:
    (step,) = steps_on("c", plan(filled, wanted))
    assert step.startswith("SEARCH c USING COVERING INDEX filter_chunks_")


def test_the_sources_of_an_indexed_shared_key_are_not_scanned_either(filled: FaissVetorStorage) -> None:
    assert len(found(filled, {"team": "red"})) == 5
    steps = plan(filled, {"team": "red"})
    assert steps_on("c", steps) == ["SEARCH c USING INDEX chunks_by_source (source=?)"]
    assert steps_on("s", steps)[0].startswith("SEARCH s USING COVERING INDEX filter_sources_")


def test_metadata_of_sources_is_resolved_without_scanning_chunks(store: FaissVetorStorage) -> None:
    for source in ("one", "two", "three"):
        store.replace(source, documents(source, 4, team=source), vectors(4))
    assert len(found(store, {"team": {"$in": ["one", "two"]}})) == 8
    for wanted in ({"team": "one"}, {"team": {"$ne": "x"}, "source": "one"}, {"source": {"$contains": "o"}}):
        steps = plan(store, wanted)
        assert steps_on("c", steps), steps
        assert all(" INDEX chunks_by_source" in step for step in steps_on("c", steps)), steps


def test_a_key_that_stands_nowhere_is_answered_without_a_look(store: FaissVetorStorage) -> None:
    store.replace("one", documents("one", 4), vectors(4))
    assert found(store, {"nowhere": 1}) == set()
    assert len(found(store, {"nowhere": {"$ne": 1}})) == 4
    assert "json" not in CompiledFilter({"nowhere": 1}, _places_of(store)).sql


def test_what_a_filter_may_not_ask_is_refused_for_any_key(store: FaissVetorStorage) -> None:
    store.replace("one", documents("one", 4, team="red"), vectors(4))
    for key in ("place", "team", "nowhere"):
        with pytest.raises(FilterError, match=f"of key '{key}' compares numbers or texts, got bool True"):
            store.search(vectors(1)[0], filter={key: {"$gt": True}})


def _places_of(store: FaissVetorStorage) -> Callable[[str], Any]:
    with store._reader.pin() as snapshot:
        places = KeyPlaces(snapshot.catalog)
        return {key: places(key) for key in ("nowhere", "place")}.__getitem__


def test_a_key_that_only_comes_later_is_found(store: FaissVetorStorage) -> None:
    index(store, "late")
    store.replace("one", documents("one", 3), vectors(3))
    assert found(store, {"late": 1}) == set()
    store.replace("two", documents("two", 3, late=1), vectors(3, 1))
    assert len(found(store, {"late": 1})) == 3
    store.write(documents("one", 2, 5, late=1), vectors(2, 2))
    assert len(found(store, {"late": 1})) == 5
    store.replace("two", documents("two", 1, late=2), vectors(1, 1))
    store.remove_by_metadata("source", "one")
    assert found(store, {"late": 1}) == set()
    assert len(found(store, {"late": 2})) == 1


def test_an_index_is_made_once_and_dropped_once(store: FaissVetorStorage) -> None:
    store.write(documents("a", 3), vectors(3))
    assert index(store, "place")
    assert not index(store, "place")
    assert indexes(store) == ["place"]
    assert not unindex(store, "other")
    assert unindex(store, "place")
    assert not unindex(store, "place")
    assert indexes(store) == []
    assert len(found(store, {"place": 1})) == 1


def test_the_source_needs_no_index(store: FaissVetorStorage) -> None:
    assert not index(store, "source")
    assert indexes(store) == []


def test_any_key_can_be_indexed_and_keys_that_differ_by_case_too(
    store: FaissVetorStorage, open_store: OpenStore
) -> None:
    keys = [*KEYS, "Lang", "lang", "LANG", "😀" * 100, "x" * 5000, "\u2028", "a\\u0062"]
    for place, key in enumerate(keys):
        assert index(store, key), key
        store.write([Document(page_content=f"{place}", metadata={key: place})], vectors(1, place))
    assert indexes(store) == indexes(open_store(read_only=True)) == sorted(keys)
    for place, key in enumerate(keys):
        assert len(found(store, {key: place})) == 1, key
        (step,) = plan(store, {key: place})
        assert "COVERING INDEX filter_chunks_" in step
    report = store.verify()
    assert report.ok, report
    for key in keys:
        assert unindex(store, key)
    assert indexes(store) == []


def test_a_key_with_half_a_character_is_stored_and_indexed_as_metadata_stores_it(
    store: FaissVetorStorage,
) -> None:
    index(store, "half\ud83d")
    store.write([Document(page_content="x", metadata={"half\ud83d": 1})], vectors(1))
    store.replace("s", [Document(page_content="x", metadata={"half\ud83d": 2})], vectors(1, 1))
    assert indexes(store) == ["half?"]
    assert len(found(store, {"half\ud83d": 1})) == len(found(store, {"half\ud83d": 2})) == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (3, "metadata key 3 is int, expected a text"),
        ("$and", r"got '\$and' as metadata key, but a filter reads names that begin with \$ as operators"),
    ],
)
def test_a_key_that_no_filter_could_ask_for_is_refused(
    store: FaissVetorStorage, key: Any, message: str
) -> None:
    with pytest.raises(FilterError, match=message):
        index(store, key)
    with pytest.raises(FilterError, match=message):
        unindex(store, key)
    assert indexes(store) == []


def test_a_reader_of_an_older_version_does_not_see_the_index(store: FaissVetorStorage) -> None:
    store.write(documents("a", 3), vectors(3))
    with store._reader.pin() as old:
        index(store, "place")
        assert indexed_keys(old.catalog) == []
        numbers = old.resolve({"place": 1})
        assert numbers is not None
        assert len(numbers) == 1
        assert indexes(store) == ["place"]


def test_an_index_that_fails_half_way_leaves_nothing(
    store: FaissVetorStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(documents("a", 3), vectors(3))
    with pytest.raises(KeyboardInterrupt), store._writing().transaction("index") as catalog:
        create_index(catalog, "place")
        raise KeyboardInterrupt
    assert indexes(store) == []
    assert index(store, "place")


def test_text_that_looks_like_a_key_does_not_pass(store: FaissVetorStorage) -> None:
    tricks: list[dict[str, Any]] = [
        {"note": '"lang":"pt"', "lang": "en"},
        {"nested": {"lang": "pt"}, "lang": "en"},
        {"list": [{"lang": "pt"}]},
        {"lang": "pt"},
        {"lang": 'pt"'},
        {"xlang": "pt"},
    ]
    names = store.write(
        [Document(page_content=f"{place}", metadata=each) for place, each in enumerate(tricks)],
        vectors(len(tricks)),
    )
    assert found(store, {"lang": "pt"}) == {names[3]}
    assert found(store, {"lang": {"$exists": True}}) == {names[0], names[1], names[3], names[4]}
    assert found(store, {"lang": 'pt"'}) == {names[4]}
    assert found(store, {"lang": {"$ne": "pt"}}) == set(names) - {names[3]}
    assert found(store, {"$not": {"lang": {"$gt": "a"}}}) == {names[2], names[5]}
