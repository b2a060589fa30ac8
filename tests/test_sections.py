"""Pages of sections: everything wraps in a terminal, everything is escaped in a notebook."""

from __future__ import annotations

from oraculo_kit.diagnostics.sections import Section, sections_html, sections_text

HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J"


def test_every_text_of_a_page_is_escaped() -> None:
    section = Section(HOSTILE, [(HOSTILE, HOSTILE)], (HOSTILE, HOSTILE), [HOSTILE])
    page = sections_html(HOSTILE, [section, Section(HOSTILE, notes=[HOSTILE])])
    assert "<img" not in page
    assert "\x1b" not in page
    assert page.count("&lt;img") == 9


def test_nothing_steers_the_terminal() -> None:
    page = sections_text(HOSTILE, [Section(HOSTILE, [(HOSTILE, HOSTILE)], (HOSTILE, HOSTILE), [HOSTILE])])
    assert "\x1b" not in page


def test_the_last_column_wraps_below_itself_and_no_word_is_broken() -> None:
    path = "/a/very/long/path/" + "x" * 60
    page = sections_text("h", [Section("Base", [("store", f"the folder {path} is there")])], width=40)
    assert page.splitlines() == [
        "h",
        "",
        "Base",
        "  store  the folder",
        f"         {path}",
        "         is there",
    ]


def test_labels_with_wide_characters_stay_aligned() -> None:
    page = sections_text("h", [Section("", [("检索", "1"), ("abcd", "2")])])
    assert page.splitlines()[-2:] == ["  检索  1", "  abcd  2"]


def test_empty_sections_are_left_out() -> None:
    assert sections_text("h", [Section("empty"), Section("", notes=["note"])]) == "h\n\n  note"
