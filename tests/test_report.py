"""What an ingestion says: every outcome counted, the faults first, nothing of a document obeyed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from oraculo_kit.display import columns
from oraculo_kit.errors import (
    EmptySourceError,
    ExtractionError,
    NotAFileError,
    OraculoError,
    SourceTooLargeError,
    SourceUnreadableError,
    UnsupportedFormatError,
)
from oraculo_kit.report import STATUSES, IngestReport, SourceOutcome, failed_outcome

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\nsegunda linha.txt"


def outcomes(added: int, failed: int = 0) -> list[SourceOutcome]:
    return [
        *(
            SourceOutcome(f"{n}.txt", "added", chunks=2, bytes=10, seconds={"load": 0.25, "write": 0.5})
            for n in range(added)
        ),
        *(SourceOutcome(f"ruim{n}.pdf", "failed", "ExtractionError", "corrupt") for n in range(failed)),
    ]


def test_counts_come_in_the_order_of_the_statuses() -> None:
    report = IngestReport(SourceOutcome(str(n), status) for n, status in enumerate(reversed(STATUSES)))
    assert list(report.counts) == list(STATUSES)
    assert set(report.counts.values()) == {1}


def test_the_summary_is_one_line_with_all_that_matters() -> None:
    report = IngestReport([SourceOutcome("a", "added", chunks=3, bytes=2048, store="/base")], seconds=1.25)
    assert report.summary() == "1 added; 3 chunks, 2.0 KiB in 1.2 s (2 chunks/s) -> /base"
    assert IngestReport([]).summary() == "no sources; 0 chunks, 0 B"
    assert repr(IngestReport([])) == IngestReport([]).summary()


def test_thousands_of_outcomes_show_the_faults_and_say_how_many_more_there_are() -> None:
    report = IngestReport(outcomes(5000, failed=3))
    for shown in (repr(report), report._repr_html_()):
        assert shown.count("corrupt") == 3
        assert "... and 4973 more; .to_pandas() has them all" in shown
        assert shown.count(".txt") == 27
        assert len(shown) < 10_000
    assert repr(report).index("ruim2.pdf") < repr(report).index("0.txt")
    assert [item.source for item in report.failed] == ["ruim0.pdf", "ruim1.pdf", "ruim2.pdf"]


def test_the_reason_stands_beside_the_source_without_naming_it_again() -> None:
    said = "not a regular file but a FIFO"
    found = [
        SourceOutcome("/docs/cano", "failed", "SourceUnreadableError", f"/docs/cano: {said}"),
        SourceOutcome("/docs/a.zip!/b/c.pdf", "failed", "ExtractionError", "c.pdf: encrypted"),
    ]
    report = IngestReport(found)
    rows = [line.split("  ") for line in repr(report).splitlines()[2:4]]
    assert [row[-1] for row in rows] == [said, "encrypted"]
    assert "c.pdf: encrypted" not in report._repr_html_()
    assert list(report.to_pandas()["message"]) == [item.message for item in found]


def test_what_was_not_read_does_not_count_as_ingested() -> None:
    large = SourceOutcome("b.txt", "failed", "SourceTooLargeError", "b.txt: too large", bytes=1 << 30)
    assert IngestReport([SourceOutcome("a", "added", bytes=2048), large]).bytes == 2048


def test_nothing_of_a_file_name_message_or_store_is_obeyed() -> None:
    report = IngestReport(
        [SourceOutcome(HOSTILE, "failed", "ExtractionError", HOSTILE, store="/\x1b]0;x\x07")]
    )
    text, html = repr(report), report._repr_html_()
    for shown in (text, html, report.summary()):
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "<script" not in html
    assert len(text.split("\n")) == 4
    assert all(columns(line) <= 100 for line in text.split("\n")[:3])


def test_sources_below_the_project_are_shown_short(tmp_path: Path) -> None:
    store = str(tmp_path / ".oraculo" / "store")
    report = IngestReport([SourceOutcome(str(tmp_path / "docs" / "a.txt"), "added", store=store)])
    assert "docs" in repr(report).split("\n")[2]
    assert str(tmp_path) not in repr(report).split("\n")[2]


def test_a_report_is_a_sequence_whose_slices_are_reports() -> None:
    report = IngestReport(outcomes(3))
    assert len(report) == 3
    assert report[-1].source == "2.txt"
    assert isinstance(report[:2], IngestReport)
    assert report[:2].counts == {"added": 2}
    assert not IngestReport([])


def test_a_frame_has_one_row_per_outcome_and_seconds_in_all() -> None:
    frame = IngestReport(outcomes(2, failed=1)).to_pandas()
    assert list(frame.columns) == [
        "source", "status", "chunks", "bytes", "seconds", "pid", "error", "message", "store"
    ]  # fmt: skip
    assert list(frame["seconds"]) == [0.75, 0.75, 0.0]
    assert list(IngestReport([]).to_pandas().columns) == list(frame.columns)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EmptySourceError("empty"), "skipped"),
        (UnsupportedFormatError("unknown"), "skipped"),
        (NotAFileError("a FIFO"), "skipped"),
        (SourceUnreadableError("permission denied"), "failed"),
        (SourceTooLargeError("large"), "failed"),
        (ExtractionError("corrupt"), "failed"),
    ],
)
def test_nothing_to_index_is_skipped_and_every_other_fault_failed(error: OraculoError, status: str) -> None:
    outcome = failed_outcome("a", error, bytes=7, pid=3, store="/base")
    assert (outcome.status, outcome.error, outcome.message) == (status, type(error).__name__, str(error))
    assert (outcome.bytes, outcome.pid, outcome.store, outcome.chunks) == (7, 3, "/base", 0)


def test_a_secret_in_an_error_does_not_reach_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret-123")
    outcome = failed_outcome("a", ExtractionError("401 for key sk-planted-secret-123"))
    assert "planted" not in outcome.message


def test_outcomes_and_reports_travel_and_outcomes_are_hashable() -> None:
    report = IngestReport(outcomes(2), seconds=1.0)
    copy = pickle.loads(pickle.dumps(report))
    assert (list(copy), copy.seconds, copy.store) == (list(report), report.seconds, report.store)
    assert len({*report, *copy}) == 2
