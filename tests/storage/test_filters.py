"""Filters against a plain-Python oracle: every operator, types kept, own and inherited metadata, odd keys."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from oraculo_kit.errors import FilterError
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.filters import CompiledFilter
from oraculo_kit.storage.records import metadata_json
from tests.storage.kit import vectors

KEYS = [
    "a",
    "b",
    "a.b",
    'q"q',
    "back\\slash",
    "ção",
    "",
    "nul\0",
    "[0]",
    "'; DROP TABLE chunks; --",
    "new\nline",
]
TEXTS = ["", "1", "true", "null", "nota", "Nota fiscal", "ção", "z\0z", '"', "'", "%", "😀", "' OR 1=1 --"]
NUMBERS = [
    0, 1, -1, 2, 1.0, 0.5, -0.0, 1e300, 5e-324, 0.1 + 0.2, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, 2**63, 2**63 + 1,
    -(2**63), -(2**63) - 1, float(2**63), -float(2**63), 2**64, 10**20, 1e20, 10**20 + 1, 10**309,
]  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.sampled_from(TEXTS)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)
lists = st.lists(scalars, max_size=3)
values = scalars | lists | st.dictionaries(st.sampled_from(["x", "y"]), scalars, min_size=1, max_size=2)
keys = st.sampled_from(KEYS)
metadatas = st.dictionaries(
    st.sampled_from([*KEYS, "$"]), values, max_size=4
)  # "$..." is an operator, and cannot be asked for

plain = st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS)
ordered = st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.integers()
operators = st.one_of(
    st.fixed_dictionaries({"$eq": values}),
    st.fixed_dictionaries({"$ne": values}),
    st.fixed_dictionaries({"$in": st.lists(values, max_size=4)}),
    st.fixed_dictionaries({"$nin": st.lists(values, max_size=4)}),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries({"$contains": plain}),
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ordered, min_size=1, max_size=2),
)
filters = st.recursive(
    st.dictionaries(
        keys, scalars | lists | operators | operators.map(lambda each: {"$not": each}), max_size=2
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)

MISSING = object()


def is_number(value: Any) -> bool:
    """Tell whether JSON calls it a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(stored: Any, operand: Any) -> bool:
    """Tell whether a stored value equals an operand, types kept."""
    if operand is None:
        return stored is MISSING or stored is None
    if stored is MISSING:
        return False
    if is_number(stored) and is_number(operand):
        return bool(stored == operand)
    if isinstance(operand, list | dict):
        return metadata_json({"": stored}) == metadata_json({"": operand})
    return type(stored) is type(operand) and bool(stored == operand)


def passes(stored: Any, operator: str, operand: Any) -> bool:
    """Tell whether a stored value passes one operator: the oracle."""
    if operator == "$not":
        return not all(passes(stored, name, value) for name, value in operand.items())
    if operator == "$eq":
        return equal(stored, operand)
    if operator == "$ne":
        return not equal(stored, operand)
    if operator in ("$in", "$nin"):
        return any(equal(stored, item) for item in operand) == (operator == "$in")
    if operator == "$exists":
        return (stored is not MISSING) == operand
    if operator == "$contains":
        if isinstance(stored, str) and isinstance(operand, str):
            return operand in stored
        return isinstance(stored, list) and any(item is not None and equal(item, operand) for item in stored)
    comparable = (is_number(stored) and is_number(operand)) or (
        isinstance(stored, str) and isinstance(operand, str)
    )
    if not comparable:
        return False
    return bool(
        {
            "$gt": stored > operand,
            "$gte": stored >= operand,
            "$lt": stored < operand,
            "$lte": stored <= operand,
        }[operator]
    )


def matches(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether a chunk's metadata passes a filter: the oracle."""
    for key, value in wanted.items():
        if key == "$and":
            good = all(matches(metadata, each) for each in value)
        elif key == "$or":
            good = any(matches(metadata, each) for each in value)
        elif key == "$not":
            good = not matches(metadata, value)
        else:
            tests = (
                value
                if isinstance(value, dict) and any(name.startswith("$") for name in value)
                else {"$eq": value}
            )
            good = all(passes(metadata.get(key, MISSING), name, operand) for name, operand in tests.items())
        if not good:
            return False
    return True


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaissVetorStorage]:
    """Return a store that the examples fill in turn."""
    with FaissVetorStorage(tmp_path_factory.mktemp("filters") / "store", durability="process") as store:
        yield store


def fill(
    store: FaissVetorStorage, inherited: list[dict[str, Any]], own: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Store a source that shares metadata and one whose chunks have their own; return the metadata by id."""
    for key in ("shared", "own"):
        store.remove_by_metadata("source", key)
    whole = [Document(page_content=f"shared {place}", metadata=each) for place, each in enumerate(inherited)]
    single = [
        Document(page_content=f"own {place}", metadata={**each, "source": "own"})
        for place, each in enumerate(own)
    ]
    ids = store.replace("shared", whole, vectors(len(whole))) + store.write(single, vectors(len(single)))
    return dict(zip(ids, inherited + own, strict=True))


def found(store: FaissVetorStorage, wanted: Mapping[str, Any]) -> set[str]:
    """Return the ids of the chunks that a filtered search finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # unknown keys are meant here
        return {hit.id for hit in store.search(vectors(1)[0], k=100, filter=wanted)}


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(metadatas, min_size=1, max_size=4),
    metadatas,
    st.lists(metadatas, min_size=1, max_size=4),
    filters,
)
@example([{"a": -(2**63) - 1}], {}, [{"a": 1}], {"a": -(2**63)})
@example([{"a": 2**63 + 1}], {}, [{"a": 1e20}], {"a": {"$lte": float(2**63)}})
@example([{'q"q': 2**70}], {}, [{'q"q': 2**70 + 1}], {'q"q': 2**70})
@example([{"a": [2**70, True, "x"]}], {}, [{"a": [1]}], {"a": {"$contains": 2**70}})
def test_a_filter_passes_exactly_what_python_would_pass(
    store: FaissVetorStorage,
    inherited: list[dict[str, Any]],
    shared: dict[str, Any],
    own: list[dict[str, Any]],
    wanted: dict[str, Any],
) -> None:
    known = fill(store, [{**shared, **each} for each in inherited], own)
    expected = {name for name, metadata in known.items() if matches(metadata, wanted)}
    assert found(store, wanted) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(metadatas, min_size=1, max_size=4), st.lists(metadatas, min_size=1, max_size=4), keys, values)
def test_removing_by_metadata_removes_exactly_what_python_would(
    store: FaissVetorStorage, inherited: list[dict[str, Any]], own: list[dict[str, Any]], key: str, value: Any
) -> None:
    known = fill(store, inherited, own)
    doomed = {name for name, metadata in known.items() if equal(metadata.get(key, MISSING), value)}
    assert store.remove_by_metadata(key, value) == len(doomed)
    assert {str(each.id) for each in store.get(list(known))} == set(known) - doomed


def test_the_sources_own_value_counts_only_where_the_chunk_has_none(store: FaissVetorStorage) -> None:
    known = fill(store, [{"k": 1, "n": None}, {"k": 1, "n": None}], [{"k": 2}, {}])
    names = list(known)
    store.replace(
        "shared",
        [
            Document(page_content="x", metadata={"k": 1}),
            Document(page_content="y", metadata={"k": 1, "j": 0}),
        ],
        vectors(2),
    )
    assert len(found(store, {"source": "shared", "k": 1})) == 2
    assert len(found(store, {"k": {"$exists": False}})) == 1
    assert found(store, {"k": 2}) == {names[2]}


def test_the_source_itself_can_be_asked_for(store: FaissVetorStorage) -> None:
    fill(store, [{}], [{}, {}])
    store.write([Document(page_content="no source")], vectors(1), ids=["alone"])
    assert len(found(store, {"source": "own"})) == 2
    assert len(found(store, {"source": {"$in": ["own", "shared", "none"]}})) == 3
    assert len(found(store, {"source": {"$contains": "har"}})) == 1
    assert len(found(store, {"source": {"$gt": "own"}})) == 1
    assert found(store, {"source": {"$exists": False}}) == found(store, {"source": None}) == {"alone"}
    assert found(store, {"source": {"$ne": "own"}, "$not": {"source": "shared"}}) == {"alone"}
    store.remove(["alone"])


def test_thousands_of_values_are_one_condition(store: FaissVetorStorage) -> None:
    known = fill(store, [{"n": 1}, {"n": "v7"}], [{"n": 2**63}, {"n": None}, {}, {"n": 0.5}])
    names = list(known)
    many: list[Any] = [f"v{number}" for number in range(20_000)]
    assert found(store, {"n": {"$in": many}}) == {names[1]}
    assert found(store, {"n": {"$in": [*many, *range(20_000), 2**63, None, 0.5]}}) == set(names)
    assert found(store, {"n": {"$nin": [*many, *range(5)]}}) == set(names[2:])
    assert found(store, {"$or": [{"n": number} for number in range(1500)]}) == {names[0]}


def test_a_filter_beyond_all_measure_is_refused(store: FaissVetorStorage) -> None:
    with pytest.raises(FilterError, match=r"too many conditions; write many values of one key as .*\$in"):
        store.search(vectors(1)[0], filter={"$or": [{f"k{number}": number} for number in range(20_000)]})


def test_nesting_is_bounded_below_what_sqlite_takes(store: FaissVetorStorage) -> None:
    fill(store, [{"a": 1}], [{"a": 2}])
    wanted: dict[str, Any] = {"a": 1}
    for _ in range(16):
        wanted = {"$not": {"$and": [wanted, {"a": {"$not": {"$in": [5, "x"]}}}]}}
    assert len(found(store, wanted)) == 1
    wanted = {"$not": wanted}
    with pytest.raises(FilterError, match="nested more than 32 levels deep; write it flatter"):
        found(store, wanted)


@pytest.mark.parametrize(
    ("operand", "stored"),
    [
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.float32(0.5), 0.5),
        (np.str_("x"), "x"),
        (np.datetime64("2024-05-01"), "2024-05-01"),
        (date(2024, 5, 1), "2024-05-01"),
        ("\ud800", "?"),
        ((1, "a"), [1, "a"]),
    ],
)
def test_operands_are_read_as_metadata_would_be_stored(
    store: FaissVetorStorage, operand: Any, stored: Any
) -> None:
    known = fill(store, [{"k": operand}], [{"k": stored}, {"k": "other"}])
    names = list(known)
    assert found(store, {"k": operand}) == found(store, {"k": stored}) == {names[0], names[1]}
    assert found(store, {"k": {"$in": [operand]}}) == {names[0], names[1]}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("lang", "got str 'lang' as filter, expected a dict"),
        ({1: 2}, "filter key 1 is int, expected a text"),
        ({"a": {"$above": 3}}, r"unknown operator '\$above' for key 'a', expected one of \$eq"),
        ({"a": {"$gt": 1, "b": 2}}, "unknown operator 'b' for key 'a'"),
        ({"a": {"$and": [1]}}, r"unknown operator '\$and' for key 'a'"),
        ({"$gt": 3}, r"unknown operator '\$gt' where a metadata key was expected"),
        ({"$or": []}, r"\$or takes a list of filters with at least one, got \[\]"),
        ({"$and": {"a": 1}}, r"\$and takes a list of filters"),
        ({"$and": [3]}, "got int 3 as filter"),
        ({"$not": 3}, "got int 3 as filter"),
        ({"a": {"$not": 3}}, r"\$not of key 'a' takes operators"),
        ({"a": {"$in": "abc"}}, r"\$in of key 'a' takes a list of values, got 'abc'"),
        ({"a": {"$exists": 1}}, r"\$exists of key 'a' takes True or False, got 1"),
        ({"a": {"$gt": None}}, r"\$gt of key 'a' takes a text, a number or true/false, got NoneType"),
        ({"a": {"$gt": True}}, r"\$gt of key 'a' compares numbers or texts, got bool True"),
        ({"a": {"$lt": [1]}}, r"\$lt of key 'a' takes a text, a number"),
        ({"a": {"$contains": None}}, r"\$contains of key 'a' takes a text"),
        ({"a": float("nan")}, r"\$eq of key 'a' takes a finite number, got nan"),
        ({"a": np.float32("inf")}, r"\$eq of key 'a' takes a finite number, got inf"),
        ({"a": object()}, r"\$eq of key 'a' takes a text, a number or true/false, got object"),
        ({"a": [object()]}, r"\$eq of key 'a': metadata '' holds a object"),
        ({"a": 10**5000}, "got an integer of 16610 bits; none so large is stored"),
    ],
)
def test_a_filter_that_cannot_be_understood_says_why(
    store: FaissVetorStorage, wanted: Any, message: str
) -> None:
    with pytest.raises(FilterError, match=message):
        store.search(vectors(1)[0], filter=wanted)


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", "x'; DELETE FROM chunks; --", '"] } $', "a) OR (1", "%", "_", "*"]
)
def test_sql_in_keys_and_values_is_data(store: FaissVetorStorage, text: str) -> None:
    known = fill(store, [{"k": text}], [{text: "v"}, {"k": "other"}])
    names = list(known)
    assert found(store, {"k": text}) == {names[0]}
    assert found(store, {text: "v"}) == {names[1]}
    assert found(store, {"k": {"$contains": text}}) == {names[0]}
    assert found(store, {"k": {"$in": [text]}}) == {names[0]}
    assert len(store) == 3


def test_bindings_hold_all_that_came_from_the_user() -> None:
    compiled = CompiledFilter({"' OR 1=1": {"$in": ["'; DROP TABLE x", 5], "$gt": "' OR"}})
    assert "DROP" not in compiled.sql
    assert "OR 1=1" not in compiled.sql
    assert json.dumps(["'; DROP TABLE x"]) in compiled.bindings.values()


def test_a_key_that_no_chunk_has_warns_with_the_nearest(store: FaissVetorStorage) -> None:
    fill(store, [{"idioma": "pt", "ano": 1}], [{"página": 2}])
    with pytest.warns(
        UserWarning, match="no chunk has the metadata key 'idiomas'; did you mean 'idioma'?"
    ) as caught:
        store.search(vectors(1)[0], filter={"idiomas": "pt"})
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="no chunk has the metadata key 'xyz'; known keys: .*idioma"):
        store.search(vectors(1)[0], filter={"$or": [{"xyz": 1}, {"xyz": 2}]})


def test_a_store_without_any_metadata_warns_too(tmp_path: Path) -> None:
    with FaissVetorStorage(tmp_path / "s") as store:
        store.search(vectors(1)[0], filter={"lang": "pt"})  # an empty store knows no keys, and nobody can err
        store.write([Document(page_content="x", metadata={"source": "a"})], vectors(1))
        with pytest.warns(
            UserWarning, match="no chunk has the metadata key 'lang'; known keys: none but source"
        ):
            assert len(store.search(vectors(1)[0], filter={"lang": "pt"})) == 0


def test_known_keys_and_the_source_do_not_warn(store: FaissVetorStorage) -> None:
    fill(store, [{"a": 1}], [{"b": 2}])
    assert len(store.search(vectors(1)[0], filter={"$or": [{"a": 1}, {"b": 2}, {"source": "x"}]})) == 2


def test_text_search_takes_the_same_filters(store: FaissVetorStorage) -> None:
    store.remove_by_metadata("source", "shared")
    store.remove_by_metadata("source", "own")
    texts = [f"emissão de nota fiscal {number}" for number in range(10)]
    made = [
        Document(page_content=text, metadata={"place": place % 6, "lang": "pt"})
        for place, text in enumerate(texts)
    ]
    store.replace("shared", made[:6], vectors(6))
    store.write(
        [
            Document(page_content=d.page_content, metadata={**d.metadata, "lang": "en", "source": "own"})
            for d in made[6:]
        ],
        vectors(4),
    )
    for wanted, count in (
        ({"lang": "pt"}, 6),
        ({"lang": "en"}, 4),
        ({"place": {"$lt": 2}}, 4),
        ({"lang": "fr"}, 0),
    ):
        hits = store.search("nota fiscal", k=50, mode="text", filter=wanted)
        assert len(hits) == count, wanted
        assert all(matches(hit.metadata, wanted) for hit in hits)
