"""Plain data of a commit: identity, checksums and metadata as JSON."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document

from oraculo_kit.errors import SourceError, VectorsError
from oraculo_kit.storage.prepare import check_vectors, prepare_source
from oraculo_kit.storage.records import (
    chunk_id,
    clean_text,
    grouped,
    merge_metadata,
    metadata_json,
    row_checksum,
    shared_metadata,
)
from tests.storage.kit import documents, vectors

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Color(enum.StrEnum):
    """A text with a name."""

    BLUE = "azul"


class Size(str, enum.Enum):
    """The older way to name a text, whose ``str()`` is the name."""

    BIG = "grande"


def nested(levels: int) -> Any:
    """Return a list in a list in a list..."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def same_types(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are equal and of the same types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_types(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_types, one, other))
    return bool(one == other)


def test_a_chunk_id_depends_on_source_place_and_text() -> None:
    ids = {chunk_id(source, place, text) for source in ("a", "b") for place in (0, 1) for text in ("x", "y")}
    assert len(ids) == 8
    assert chunk_id("a", 0, "olá") == chunk_id("a", 0, "olá")
    assert len(chunk_id("a", 0, "olá")) == 32


def test_a_checksum_covers_every_part_of_the_row() -> None:
    row = ("id", 3, "texto", '{"a":1}')
    others = [
        ("ie", 3, "texto", '{"a":1}'),
        ("id", 4, "texto", '{"a":1}'),
        ("id", 3, "textp", '{"a":1}'),
        ("id", 3, "texto", '{"a":2}'),
    ]
    assert len({row_checksum(*each) for each in [row, *others]}) == 5


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_metadata_comes_back_with_the_same_types(metadata: dict[str, Any]) -> None:
    assert same_types(json.loads(metadata_json(metadata)), metadata)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.datetime64("2024-03-01"), "2024-03-01"),
        (np.float64("nan"), None),
        (float("inf"), None),
        (pd.NaT, None),
        (pd.NA, None),
        (pd.Timestamp("2024-03-01 10:00"), "2024-03-01T10:00:00"),
        (datetime.date(2024, 3, 1), "2024-03-01"),
        (datetime.time(10, 30), "10:30:00"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (PurePosixPath("a/b"), "a/b"),
        ((1, "a"), [1, "a"]),
        ({5}, [5]),
        (Color.BLUE, "azul"),
        (Size.BIG, "grande"),
        ("\ud800x", "?x"),
        (2**70, 2**70),
    ],
)
def test_values_from_elsewhere_become_json(value: Any, stored: Any) -> None:
    assert same_types(json.loads(metadata_json({"k": value}))["k"], stored)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({1: "a"}, "metadata key 1 is int, expected a text"),
        ({"k": object()}, "metadata 'k' holds a object, expected text, number"),
        ({"k": b"x"}, "metadata 'k' holds a bytes"),
        ({"k": np.zeros(3)}, "metadata 'k' holds a ndarray"),
        ({"k": 10**5000}, "integer of 16610 bits; store it as text"),
        ({"k": nested(150)}, "nested more than 100 levels deep"),
        ({"k": nested(100_000)}, "nested more than 100 levels deep"),
    ],
)
def test_metadata_that_json_cannot_hold_is_refused(metadata: dict[Any, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        metadata_json(metadata)


def test_text_without_a_utf8_form_is_mended() -> None:
    assert clean_text("a\udcffb") == "a?b"
    assert clean_text("ação 😀") == "ação 😀"


def test_only_items_equal_in_type_and_value_are_shared() -> None:
    one = {"a": 1, "b": True, "c": "x", "d": 1.0, "e": [1], "f": None}
    other = {"a": 1, "b": 1, "c": "x", "d": 1, "e": [1], "f": None, "g": 0}
    assert shared_metadata([one, other]) == {"a": 1, "c": "x", "f": None}
    assert shared_metadata([]) == {}


def test_a_chunks_own_metadata_wins_over_the_sources() -> None:
    assert merge_metadata("s", '{"a":1,"b":2}', '{"b":3}', True) == {"source": "s", "a": 1, "b": 3}
    assert merge_metadata("s", '{"a":1}', '{"b":3}', False) == {"source": "s", "b": 3}
    assert merge_metadata("", "{}", "{}", True) == {}


def test_positions_are_grouped_in_order() -> None:
    assert list(grouped("abac").items()) == [("a", [0, 2]), ("b", [1]), ("c", [3])]


def test_the_last_chunk_of_equal_ids_counts_and_keeps_its_vector() -> None:
    matrix = vectors(4)
    write = prepare_source("s", documents("s", 4), matrix, ["x", "y", "x", None], whole=True)
    by_id = dict(zip([row.id for row in write.rows], write.vectors, strict=True))
    assert [row.ordinal for row in write.rows] == [1, 2, 3]
    np.testing.assert_array_equal(by_id["x"], matrix[2])
    np.testing.assert_array_equal(by_id["y"], matrix[1])


def test_metadata_that_all_chunks_share_is_stored_with_the_source() -> None:
    write = prepare_source("s", documents("s", 3, lang="pt"), vectors(3), [None] * 3, whole=True)
    assert json.loads(write.metadata) == {"lang": "pt"}
    assert [json.loads(row.metadata) for row in write.rows] == [{"place": 0}, {"place": 1}, {"place": 2}]
    assert (write.shared_keys, write.metadata_keys) == ({"lang"}, {"place"})
    added = prepare_source("s", documents("s", 3, lang="pt"), vectors(3), [None] * 3, whole=False)
    assert json.loads(added.metadata) == {}
    assert json.loads(added.rows[0].metadata) == {"lang": "pt", "place": 0}


def test_a_document_whose_text_is_no_text_is_refused() -> None:
    document = Document.model_construct(page_content=7, metadata={})
    with pytest.raises(SourceError, match="a document's text is int, expected str"):
        prepare_source("s", [document], vectors(1), [None], whole=False)


@pytest.mark.parametrize(
    ("given", "count", "message"),
    [
        (np.zeros((2, 4)), 2, "2 of 2 vectors hold NaN, infinity or only zeros, the first in row 0"),
        (np.array([[1, np.nan]]), 1, "1 of 1 vectors hold NaN"),
        (np.array([[1, np.inf]]), 1, "1 of 1 vectors hold NaN, infinity"),
        (np.ones((2, 4)), 3, r"shape \(2, 4\), expected \(3, dimension\)"),
        (np.ones(4), 1, r"shape \(4,\), expected \(1, dimension\)"),
        (np.ones((2, 0)), 2, r"shape \(2, 0\)"),
        ([[1, 2], [1]], 2, "got list as vectors, expected a matrix of numbers"),
        ("abc", 1, "got str as vectors"),
    ],
)
def test_vectors_that_must_not_be_stored_are_refused(given: Any, count: int, message: str) -> None:
    with pytest.raises(VectorsError, match=message):
        check_vectors(given, count)


@pytest.mark.parametrize("factor", [1e-30, 1.0, 7.5, 1e30])
def test_vectors_are_scaled_to_length_one(factor: float) -> None:
    scaled = check_vectors((vectors(5).astype(np.float64) * factor).tolist(), 5)
    assert scaled.dtype == np.float32
    assert scaled.flags.c_contiguous
    np.testing.assert_allclose(scaled, vectors(5), atol=1e-6)
