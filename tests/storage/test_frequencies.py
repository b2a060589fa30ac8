"""In how many chunks a stem stands."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from langchain_core.documents import Document

from oraculo_kit.storage import frequencies as module
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.frequencies import Frequencies
from tests.storage.kit import vectors


def write(store: FaissVetorStorage, *texts: str) -> None:
    """Write texts as chunks."""
    store.write([Document(page_content=text) for text in texts], vectors(len(texts)))


def counted(store: FaissVetorStorage, frequencies: Frequencies, *stems: str) -> dict[str, int]:
    """Return what `frequencies` says of the store as it is now."""
    with store._reader.pin() as snapshot:
        return frequencies.of(snapshot, stems, snapshot.count())


def test_stems_are_counted_once_until_the_store_has_doubled(store: FaissVetorStorage) -> None:
    frequencies = Frequencies()
    write(store, "nota a", "nota b", "prazo c", "東京都")
    assert counted(store, frequencies, "not", "praz", "cas", "東 京") == {
        "not": 2,
        "praz": 1,
        "cas": 0,
        "東 京": 1,
    }
    write(store, "nota d", "casa e", "prazo f")
    # Seven chunks: the old counts still do, but what stood nowhere is counted again.
    assert counted(store, frequencies, "not", "cas") == {"not": 2, "cas": 1}
    write(store, "nota g")
    assert counted(store, frequencies, "not", "cas") == {"not": 4, "cas": 1}


def test_counts_of_another_history_are_forgotten(store: FaissVetorStorage) -> None:
    frequencies = Frequencies()
    write(store, "nota")
    assert counted(store, frequencies, "not") == {"not": 1}
    write(store, "nota x")
    with store._reader.pin() as snapshot:
        assert frequencies.of(snapshot, ["not"], 1) == {"not": 1}
        snapshot.manifest = replace(snapshot.manifest, epoch="restored")
        assert frequencies.of(snapshot, ["not"], 1) == {"not": 2}


def test_not_more_stems_are_kept_than_the_limit(
    store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT_STEMS", 3)
    frequencies = Frequencies()
    write(store, " ".join(f"termo{number}" for number in range(10)))
    stems = [f"termo{number}" for number in range(10)]
    assert counted(store, frequencies, *stems) == dict.fromkeys(stems, 1)
    assert len(frequencies._counts) <= 3


def test_threads_share_the_counts(store: FaissVetorStorage) -> None:
    frequencies = Frequencies()
    write(store, "nota prazo casa")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: counted(store, frequencies, "not", "praz", "cas"), range(40)))
    assert found == [{"not": 1, "praz": 1, "cas": 1}] * 40
