"""The part of the style sheet that goes into a notebook with each summary."""

from __future__ import annotations

import re
from pathlib import Path

from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.widgets.pane import STYLE
from oraculo_kit.widgets.styles import _rules, style_for


def page(*classes: str) -> str:
    return f'<div class="oraculo-pane {" ".join(classes)}">x</div>'


def test_a_page_with_every_class_gets_every_rule() -> None:
    names = set(re.findall(r"\.([A-Za-z][\w-]*)", STYLE))
    style = style_for(page(*names))
    assert style.count("{") == len(_rules()) == STYLE.count("{")
    for wanted in (
        "oraculo-swatch-8b9099",
        "light-dark(rgba(255,200,0,0.4)",
        "td:not(:nth-child(3), :nth-child(4))",
    ):
        assert wanted in style


def test_a_rule_stays_only_where_all_its_classes_are() -> None:
    assert ".oraculo-hits > li.oraculo-current{" not in style_for(page("oraculo-hits"))
    assert ".oraculo-hits > li.oraculo-current{" in style_for(page("oraculo-hits", "oraculo-current"))
    assert ".jupyter-button" not in style_for(page())
    assert ".oraculo-state-gone)" in style_for(page("oraculo-table"))  # one of several in :is(...)


def test_words_of_a_document_bring_no_rule_in() -> None:
    told = "&lt;p class=&quot;oraculo-reader&quot;&gt;"
    assert "oraculo-reader" not in style_for(f'<div class="oraculo-pane">{told}</div>')


def test_the_style_of_a_summary_is_small(project: Path) -> None:
    with FaissVetorStorage(project / "base", durability="process") as store:
        store.replace("a.md", [Document("Como emitir nota fiscal", metadata={"source": "a.md"})])
        explorer = oraculo.SearchExplorer("nota", store=store)
        assert explorer.wait()
        assert len(style_for(explorer._static_html())) < len(STYLE) / 3
        explorer.close()
