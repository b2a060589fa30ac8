"""Filters in PostgreSQL pass what Python would pass, exactly as in the embedded store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from oraculo_kit.errors import FilterError
from oraculo_kit.storage.postgres.encoding import fields_json, read, read_json, written, written_json
from oraculo_kit.storage.postgres.filters import PostgresFilter
from oraculo_kit.storage.postgres.store import PostgresVetorStorage
from oraculo_kit.storage.records import metadata_json
from tests.storage.kit import TinyEmbeddings
from tests.storage.postgres.server import new_base
from tests.storage.test_filters import MISSING, equal, fill, filters, found, keys, matches, metadatas, values


@pytest.fixture(scope="module")
def store() -> Iterator[PostgresVetorStorage]:
    """Return a store that the examples fill in turn."""
    with new_base() as url, PostgresVetorStorage(url, TinyEmbeddings(), durability="process") as store:
        yield store


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(metadatas, min_size=1, max_size=4),
    metadatas,
    st.lists(metadatas, min_size=1, max_size=4),
    st.lists(filters, min_size=3, max_size=3),
)
@example([{"a": -(2**63) - 1}], {}, [{"a": 1}], [{"a": -(2**63)}])
@example([{"a": 2**63 + 1}], {}, [{"a": 1e20}], [{"a": {"$lte": float(2**63)}}, {"a": 10**20}])
@example([{'q"q': 2**70}], {}, [{'q"q': 2**70 + 1}], [{'q"q': 2**70}])
@example(
    [{"a": [2**70, True, "x"]}], {}, [{"a": [1]}], [{"a": {"$contains": 2**70}}, {"a": [1.0]}, {"a": [1]}]
)
@example([{"a": 1e23}], {}, [{"a": 10**23}], [{"a": 1e23}, {"a": 10**23}, {"a": {"$lt": 10**23}}])
@example(
    [{"a": "\2"}],
    {},
    [{"a": "\0"}],
    [{"a": {"$contains": "\2"}}, {"a": {"$contains": "\1"}}, {"a": {"$gt": "\0"}}],
)
def test_a_filter_passes_exactly_what_python_would_pass(
    store: PostgresVetorStorage,
    inherited: list[dict[str, Any]],
    shared: dict[str, Any],
    own: list[dict[str, Any]],
    wanted: list[dict[str, Any]],
) -> None:
    known = fill(store, [{**shared, **each} for each in inherited], own)  # type: ignore[arg-type]
    for each in wanted:
        expected = {name for name, metadata in known.items() if matches(metadata, each)}
        assert found(store, each) == expected, each  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(metadatas, min_size=1, max_size=4), st.lists(metadatas, min_size=1, max_size=4), keys, values)
def test_removing_by_metadata_removes_exactly_what_python_would(
    store: PostgresVetorStorage,
    inherited: list[dict[str, Any]],
    own: list[dict[str, Any]],
    key: str,
    value: Any,
) -> None:
    known = fill(store, inherited, own)  # type: ignore[arg-type]
    doomed = {name for name, metadata in known.items() if equal(metadata.get(key, MISSING), value)}
    assert store.remove_by_metadata(key, value) == len(doomed)
    assert {str(each.id) for each in store.get(list(known))} == set(known) - doomed


def test_the_source_itself_can_be_asked_for(store: PostgresVetorStorage) -> None:
    fill(store, [{}], [{}, {}])  # type: ignore[arg-type]
    cases: list[tuple[dict[str, Any], int]] = [
        ({"source": "own"}, 2),
        ({"source": {"$in": ["own", "shared", "none", 3]}}, 3),
        ({"source": {"$contains": "har"}}, 1),
        ({"source": {"$gt": "own"}}, 1),
        ({"source": {"$ne": "own"}, "$not": {"source": "shared"}}, 0),
        ({"source": {"$exists": True}}, 3),
        ({"source": None}, 0),
    ]
    for wanted, count in cases:
        assert len(found(store, wanted)) == count, wanted  # type: ignore[arg-type]


def test_thousands_of_values_are_one_condition(store: PostgresVetorStorage) -> None:
    known = fill(store, [{"n": 1}, {"n": "v7"}], [{"n": 2**63}, {"n": None}, {}, {"n": 0.5}])  # type: ignore[arg-type]
    names, many = list(known), [f"v{number}" for number in range(20_000)]
    assert found(store, {"n": {"$in": many}}) == {names[1]}  # type: ignore[arg-type]
    assert found(store, {"n": {"$in": [*many, *range(20_000), 2**63, None, 0.5]}}) == set(names)  # type: ignore[arg-type]
    assert found(store, {"$or": [{"n": number} for number in range(1500)]}) == {names[0]}  # type: ignore[arg-type]
    with pytest.raises(FilterError, match=r"too many conditions; write many values of one key as .*\$in"):
        found(store, {"$or": [{f"k{number}": number} for number in range(20_000)]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", "x'; DROP TABLE oraculo_chunks; --", "\\'; --", "$1", "a) OR (1", "%", "}{"]
)
def test_sql_in_keys_and_values_is_data(store: PostgresVetorStorage, text: str) -> None:
    names = list(fill(store, [{"k": text}], [{text: "v"}, {"k": "other"}]))  # type: ignore[arg-type]

    def check() -> None:
        assert found(store, {"k": text}) == {names[0]}  # type: ignore[arg-type]
        assert found(store, {"k": {"$contains": text}}) == {names[0]}  # type: ignore[arg-type]
        if not text.startswith("$"):  # those are operators
            assert found(store, {text: "v"}) == {names[1]}  # type: ignore[arg-type]

    check()
    if not text.startswith("$"):
        assert store.create_filter_index(text)
        assert text in store.filter_indexes()
        check()
    assert len(store) == 3


def test_values_and_keys_are_parameters() -> None:
    compiled = PostgresFilter({"' OR 1=1": {"$in": ["'; DROP TABLE x", 5], "$gt": "' OR"}})
    assert "DROP" not in compiled.sql
    assert "OR 1=1" not in compiled.sql
    assert '["\'; DROP TABLE x",5]' in compiled.values


@given(
    st.text(alphabet=st.characters(codec="utf-8")),
    st.text(alphabet="\0\1\2\3\4az"),
    st.text(alphabet="\0\1\2\3\4az"),
)
def test_written_texts_come_back_in_their_order_and_with_their_parts(
    any_text: str, one: str, other: str
) -> None:
    assert read(written(any_text)) == any_text
    assert read(written(one)) == one
    assert "\0" not in written(one)
    assert (one < other) == (written(one) < written(other))
    assert (one in other) == (written(one) in written(other))


@given(metadatas, metadatas)
def test_written_metadata_come_back_to_the_letter(shared: dict[str, Any], own: dict[str, Any]) -> None:
    text = metadata_json(own)
    assert read_json(written_json(text)) == text
    assert "\\u0000" not in fields_json(metadata_json(shared), text)
