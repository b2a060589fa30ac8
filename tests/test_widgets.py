"""What every explorer is built on: nodes, panes, background work, messages and errors, summaries and code."""

from __future__ import annotations

import html.parser
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.base import VetorStorage
from oraculo_kit.widgets.background import Job, Lane
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.coding import IMPORT, call, literal
from oraculo_kit.widgets.nodes import (
    ATTRIBUTES,
    TAGS,
    Node,
    as_html,
    as_text,
    bars,
    marked,
    node,
    page,
    png,
    table,
)
from oraculo_kit.widgets.pane import Pane

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\x1b[31m\u202e$x$\"'&"
SCRIPT = (Path(__file__).parent.parent / "oraculo_kit" / "widgets" / "pane.js").read_text(encoding="utf-8")


class Clock(Explorer):
    """A small explorer: it counts."""

    title = "Clock"

    def __init__(self, store: VetorStorage | None = None) -> None:
        super().__init__(store)
        self.count = 0
        self.compose()

    @property
    def selection(self) -> pd.DataFrame:
        return pd.DataFrame({"count": [self.count]})

    def code(self) -> str:
        return f"{IMPORT}\n{self.count}\n"

    def summary(self) -> Node:
        return node("p", f"count {self.count} {HOSTILE}")

    def counted(self, count: int) -> None:
        self.count = count
        self.say(f"counted {count}")
        self.refresh()


@pytest.fixture
def clock() -> Iterator[Clock]:
    explorer = Clock()
    yield explorer
    explorer.close()


def message(explorer: Explorer) -> str:
    return "\n".join(as_text(child) for child in explorer._message.children).rstrip()


class Tags(html.parser.HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_a_text_in_a_tree_never_becomes_markup() -> None:
    tree = node(
        "div",
        HOSTILE,
        *marked(HOSTILE, [(0, 4), (10, 20)]),
        table([HOSTILE], [[HOSTILE]], caption=HOSTILE),
        bars([(HOSTILE, 1, HOSTILE)], caption=HOSTILE),
        title=HOSTILE,
        aria_label=HOSTILE,
    )
    found = Tags(as_html(tree))
    assert found.tags <= {"div", "mark", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert found.attributes <= {"title", "aria-label", "class", "scope", "dir", "style"}
    for text in (as_html(tree), as_text(tree)):
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_tags_and_attributes_that_could_act_are_refused() -> None:
    for tag in ("script", "iframe", "a", "style", "object", "form", "svg"):
        with pytest.raises(ValueError, match="tag is"):
            node(tag)
    for name in ("href", "src", "style", "onclick", "srcdoc", "id"):
        with pytest.raises(ValueError, match="attribute is"):
            node("div", **{name: "x"})
    with pytest.raises(ValueError, match="type of an input is 'image'"):
        node("input", type="image")
    with pytest.raises(ValueError, match="else than a PNG"):
        png(b"<svg onload=alert(1)>", "a picture")


def test_the_browser_knows_the_same_tags_and_attributes() -> None:
    words = {word for part in SCRIPT.split('"')[1::2] for word in part.split()}
    assert words >= TAGS
    assert words >= ATTRIBUTES
    for dangerous in (
        "innerHTML",
        "insertAdjacentHTML",
        "outerHTML",
        "document.write",
        "eval(",
        "fetch(",
        "http:",
    ):
        assert dangerous not in SCRIPT


def test_marks_stand_where_they_belong_whatever_part_is_shown() -> None:
    shown = "".join(as_html(part) for part in marked("a nota fiscal", [(2, 6), (7, 13)], 4, 10))
    assert shown == "<mark>ta</mark> <mark>fis</mark>"
    assert marked("", []) == []


def test_what_only_a_live_view_can_do_is_left_out_of_static_html() -> None:
    tree = node(
        "div",
        node("input", type="checkbox", event="tick"),
        node("button", "Open", event="open"),
        node("button", "Next", event="page", live=True),
    )
    assert as_html(tree) == "<div><span>Open</span></div>"


def test_a_page_forbids_scripts_and_requests() -> None:
    text = page(HOSTILE, node("p", HOSTILE), "", "pt-BR")
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert Tags(text).tags == {"html", "head", "meta", "title", "style", "body", "main", "p"}


def test_a_pane_tells_what_was_clicked_and_nothing_that_it_does_not_understand() -> None:
    pane = Pane(None, node("p", "x"))
    assert len(pane.children) == 1
    told: list[Any] = []
    pane.on_event(lambda *values: told.append(values))
    for content in (
        {"event": "open", "payload": 1},
        {"event": 3},
        "open",
        {"event": "tick", "checked": True},
    ):
        pane._handle_custom_msg(content, [])
    assert told == [("open", 1, None), ("tick", None, True)]
    pane.close()


def test_of_many_jobs_only_the_first_and_the_last_run_and_only_the_last_is_heard() -> None:
    lane, began, ended = Lane("test"), [], []
    go = threading.Event()

    def job_of(number: int) -> Callable[[Job], None]:
        def work(job: Job) -> None:
            began.append(number)
            go.wait(10)
            job.checkpoint()
            ended.append(number)

        return work

    lane.submit(job_of(0))
    while not began:
        time.sleep(0.001)
    for number in range(1, 20):
        lane.submit(job_of(number))
    go.set()
    assert lane.wait(10)
    assert (began, ended) == ([0, 19], [19])
    assert not [
        thread for thread in threading.enumerate() if thread.name == "oraculo-test" and thread.is_alive()
    ]


def test_a_result_that_was_superseded_while_it_came_is_not_shown(clock: Clock) -> None:
    began, go, shown = threading.Event(), threading.Event(), list[int]()

    def slow(_job: Job) -> int:
        began.set()
        return int(go.wait(10))

    clock.background(slow, shown.append)
    assert began.wait(10)
    clock.background(lambda job: 2, shown.append)
    go.set()
    assert clock.wait(10)
    assert shown == [2]


def test_what_a_job_raises_is_shown_with_what_to_do(clock: Clock) -> None:
    def fails(_job: Job) -> int:
        raise QueryError("got nothing, expected something; ask again")

    clock.background(fails, clock.counted)
    assert clock.wait(10)
    assert "ask again" in message(clock)
    assert isinstance(clock.error, QueryError)
    clock.background(lambda job: 1, clock.counted)
    assert clock.wait(10)
    assert clock.error is None
    assert message(clock) == "counted 1"


def test_a_mistake_of_ours_is_shown_too_and_keeps_its_traceback(clock: Clock) -> None:
    clock.background(lambda job: 1 / 0, clock.counted)
    assert clock.wait(10)
    assert "ZeroDivisionError" in message(clock)
    assert "raise explorer.error" in message(clock)
    assert clock.error is not None
    assert clock.error.__traceback__ is not None
    clock.handler(lambda: {}["key"])()
    assert "KeyError" in message(clock)
    assert "KeyError" in clock.snapshot()


def test_a_summary_that_fails_is_named_instead_of_ending_a_thread(clock: Clock) -> None:
    clock.summary = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    assert "ZeroDivisionError" in clock.snapshot()


def test_handlers_of_two_threads_take_turns(clock: Clock) -> None:
    inside: list[int] = []
    most: list[int] = []

    def handle() -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()

    threads = [threading.Thread(target=clock.handler(handle)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_a_closed_explorer_shows_nothing_more(clock: Clock) -> None:
    go = threading.Event()
    clock.background(lambda job: go.wait(10) and 5, clock.counted)
    clock.close()
    go.set()
    assert clock.wait(10)
    assert clock.count == 0
    clock.handler(clock.counted)(3)
    assert clock.count == 0


def test_a_snapshot_is_a_page_of_its_own(clock: Clock, tmp_path: Path) -> None:
    clock.counted(7)
    text = clock.snapshot(tmp_path / "clock.html")
    assert (tmp_path / "clock.html").read_text(encoding="utf-8") == text
    assert "count 7" in text
    assert "<img" not in text
    assert "<script" not in text


def test_the_bundle_has_a_text_an_escaped_page_and_the_live_view(clock: Clock) -> None:
    bundle = clock._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert "<img" not in bundle["text/html"]
    assert "\x1b" not in bundle["text/plain"]


def test_nothing_is_printed_and_no_thread_is_left(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    clock.background(lambda job: 1, clock.counted)
    clock.background(lambda job: 1 / 0, clock.counted, lane="other")
    assert clock.wait(10)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "value",
    [
        "nota",
        "a\"b'c\\",
        HOSTILE,
        3,
        -2.5,
        True,
        None,
        {"a": [1, {"$gte": 2}], "'": ()},
        ("x",),
        float("inf"),
        b"\x00",
    ],
)
def test_a_literal_evaluates_to_its_value(value: object) -> None:
    text = literal(value)
    assert eval(text) == value
    assert text.isprintable()


def test_what_has_no_literal_is_refused_and_long_calls_are_broken() -> None:
    with pytest.raises(QueryError, match="type object cannot be written as code"):
        literal(object())
    text = call("f", "a" * 60, option="b" * 60)
    assert text.count("\n") == 3
    assert eval(text, {"f": lambda *values, **keywords: (values, keywords)}) == (
        ("a" * 60,),
        {"option": "b" * 60},
    )
