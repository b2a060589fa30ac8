"""Tables: nothing a document says is obeyed by a terminal or a browser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oraculo_kit.display import columns, html_table, one_line, size_text, text_table, visible

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31mred\u202eevil<script>"


def test_html_is_escaped_in_header_cells_and_caption() -> None:
    html = html_table([HOSTILE], [[HOSTILE]], caption=HOSTILE)
    assert "<img" not in html
    assert "<script" not in html
    assert html.count("&lt;img") == 3


def test_terminal_escapes_and_direction_overrides_are_shown_not_obeyed() -> None:
    table = text_table(["text"], [[HOSTILE]])
    assert "\x1b" not in table
    assert "\u202e" not in table


@given(st.text(max_size=200), st.integers(1, 60))
def test_a_cut_line_never_takes_more_columns_than_allowed(text: str, width: int) -> None:
    assert columns(one_line(text, width)) <= width


@given(
    st.lists(st.tuples(st.text(max_size=50), st.floats(allow_nan=False), st.text(max_size=300)), max_size=5)
)
def test_a_table_fits_the_terminal_and_keeps_its_rows(rows: list[tuple[str, float, str]]) -> None:
    table = text_table(["source", "score", "text"], rows, width=80)
    lines = table.split("\n")
    assert len(lines) == 2 + len(rows)
    assert all(columns(line) <= 80 for line in lines)


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024**4, "1.0 TiB")])
def test_sizes_read_well(count: int, text: str) -> None:
    assert size_text(count) == text


def test_visible_leaves_ordinary_text_alone() -> None:
    assert visible("linha 1\n\tação 検索 😀") == "linha 1\n\tação 検索 😀"
