"""LangChain's FAISS stores in ours: the real files, older ones, damaged ones and hostile ones."""

from __future__ import annotations

import base64
import builtins
import datetime
import functools
import io
import os
import pathlib
import pickle
import struct
import sys
import types
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from oraculo_kit.errors import (
    EmbedderMismatchError,
    ExtractionError,
    OraculoError,
    SourceError,
    SourceNotFoundError,
    UnsupportedFormatError,
    VectorsError,
)
from oraculo_kit.langchain import OraculoVectorStore, import_langchain_faiss
from oraculo_kit.plain_pickle import read_plain_pickle
from oraculo_kit.storage import VetorStorage, open_storage

# What FAISS.from_documents(...).save_local(folder) of langchain-community 0.4.2 wrote, with langchain-core 1.7.2,
# for DeterministicFakeEmbedding(size=8) and two documents.
REAL_PKL = base64.b64decode(
    "gASV0AEAAAAAAACMJmxhbmdjaGFpbl9jb21tdW5pdHkuZG9jc3RvcmUuaW5fbWVtb3J5lIwQSW5NZW1vcnlEb2NzdG9yZZSTlCmBlH2UjAVf"
    "ZGljdJR9lCiMJGUxMDZlZWMzLWQ3OWYtNGNkOC04YmJkLTFmMTYwM2E2YzJiY5SMHWxhbmdjaGFpbl9jb3JlLmRvY3VtZW50cy5iYXNllIwI"
    "RG9jdW1lbnSUk5QpgZR9lCiMCF9fZGljdF9flH2UKIwCaWSUaAeMCG1ldGFkYXRhlH2UKIwGc291cmNllIwEYS5tZJSMBHBhZ2WUSwF1jAxw"
    "YWdlX2NvbnRlbnSUjAtub3RhIGZpc2NhbJSMBHR5cGWUaAl1jBJfX3B5ZGFudGljX2V4dHJhX1+UTowXX19weWRhbnRpY19maWVsZHNfc2V0"
    "X1+Uj5QoaA9oFWgQkIwUX19weWRhbnRpY19wcml2YXRlX1+UTnVijCQ5NDFhYjdiMi1iODBiLTQ1ZmQtYjNhYi0wNTY2ZDJlMTlhYjmUaAop"
    "gZR9lChoDX2UKGgPaBxoEH2UaBWMBGdhdG+UaBdoCXVoGE5oGY+UKGgPaBVoEJBoG051YnVzYn2UKEsAaAdLAWgcdYaULg=="
)
REAL_FAISS = base64.b64decode(
    "SXhGMggAAAACAAAAAAAAAAAAEAAAAAAAAAAQAAAAAAABAQAAABAAAAAAAAAAALpRP9oT4T8iGD+/JUZgP1/cKT/xuo2/sSqzvoJ8Az+m7Q6+"
    "y6MmP103xb/ykdC/18XBvyz+TL/rnXi/rgv2vg=="
)
EMBEDDING = DeterministicFakeEmbedding(size=8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return the folder of the real store."""
    return write_files(tmp_path / "faiss_index", REAL_PKL, REAL_FAISS)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[VetorStorage]:
    """Return an empty store with the embedder of the real one."""
    with open_storage(tmp_path / "store", EMBEDDING) as opened:
        yield opened
        assert opened.verify().ok


def write_files(folder: Path, content: bytes, index: bytes, name: str = "index") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.pkl").write_bytes(content)
    (folder / f"{name}.faiss").write_bytes(index)
    return folder


class _Docstore:
    def __init__(self, documents: dict[str, Any]) -> None:
        self._dict = documents


class _PydanticV1Document:
    def __init__(self, document: Document) -> None:
        self.document = document

    def __getstate__(self) -> dict[str, Any]:
        fields = {"page_content": self.document.page_content, "metadata": self.document.metadata}
        return {"__dict__": fields, "__fields_set__": set(fields), "__private_attribute_values__": {}}


def pickled(
    documents: dict[str, Any],
    ids: dict[int, str],
    *,
    docstore: str = "langchain_community.docstore.in_memory",
    document: str | None = None,
    protocol: int = 4,
) -> bytes:
    """Return what LangChain's `save_local` dumps, with classes of the names that it had in some version."""
    named = {docstore: _renamed(_Docstore, docstore, "InMemoryDocstore")}
    content: dict[str, Any] = documents
    if document is not None:
        named[document] = _renamed(_PydanticV1Document, document, "Document")
        content = {name: named[document](each) for name, each in documents.items()}
    modules = {module: types.ModuleType(module) for module in named}
    for module, kind in named.items():
        parents = [".".join(module.split(".")[:depth]) for depth in range(1, module.count(".") + 1)]
        modules.update({each: types.ModuleType(each) for each in parents if each not in sys.modules})
        setattr(modules[module], kind.__name__, kind)
    with mock.patch.dict(sys.modules, modules):
        return pickle.dumps((named[docstore](content), ids), protocol=protocol)


def _renamed(kind: type, module: str, name: str) -> type:
    return type(name, (kind,), {"__module__": module, "__qualname__": name})


def flat(matrix: Any, kind: type = faiss.IndexFlatL2) -> bytes:
    """Return the bytes that FAISS writes for a flat index."""
    index = kind(matrix.shape[1])
    index.add(np.ascontiguousarray(matrix, np.float32))
    return bytes(faiss.serialize_index(index).tobytes())


def save(folder: Path, documents: Sequence[Document], matrix: Any = None, **options: Any) -> Path:
    """Save documents as LangChain does."""
    if matrix is None:
        matrix = np.array(EMBEDDING.embed_documents([each.page_content for each in documents]))
    by_id = {f"id-{place}": document for place, document in enumerate(documents)}
    return write_files(folder, pickled(by_id, dict(enumerate(by_id)), **options), flat(matrix))


def unit(matrix: Any) -> Any:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_a_real_store_comes_over_with_texts_metadata_ids_and_vectors(
    saved: Path, storage: VetorStorage
) -> None:
    assert import_langchain_faiss(saved, storage) == 2
    first, second = storage.get(
        ["e106eec3-d79f-4cd8-8bbd-1f1603a6c2bc", "941ab7b2-b80b-45fd-b3ab-0566d2e19ab9"]
    )
    assert (first.page_content, first.metadata) == ("nota fiscal", {"source": "a.md", "page": 1})
    assert second.page_content == "gato"
    hits = storage.search("gato", k=1, mode="vector")
    assert hits[0].text == "gato"
    assert hits[0].score == pytest.approx(1)


def test_a_chunk_without_a_source_gets_the_index_file_as_its_source(
    saved: Path, storage: VetorStorage
) -> None:
    import_langchain_faiss(saved, storage)
    assert [row.source for row in storage.sources()] == sorted(["a.md", str(saved / "index.faiss")])
    assert storage.remove_by_metadata("source", str(saved / "index.faiss")) == 1


def test_the_same_import_again_changes_nothing(saved: Path, storage: VetorStorage) -> None:
    import_langchain_faiss(saved, storage)
    before = storage.to_pandas()
    assert import_langchain_faiss(str(saved), storage) == 2
    assert storage.to_pandas().equals(before)


def test_by_default_the_services_store_is_filled(project: Path, saved: Path) -> None:
    from oraculo_kit import vetor_storage

    assert import_langchain_faiss(saved, check_embedder=False) == 2
    assert len(vetor_storage()) == 2


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("docstore", "document"),
    [
        ("langchain_community.docstore.in_memory", None),
        ("langchain.docstore.in_memory", "langchain.schema.document"),
        ("langchain.docstore.in_memory", "langchain.schema"),
        ("langchain.docstore.in_memory", "langchain.docstore.document"),
        ("langchain_community.docstore.in_memory", "langchain_core.documents.base"),
    ],
)
def test_stores_of_older_versions_come_over(
    tmp_path: Path, storage: VetorStorage, docstore: str, document: str | None, protocol: int
) -> None:
    documents = [Document(f"texto {place}", metadata={"source": "a.md", "n": place}) for place in range(3)]
    folder = save(tmp_path / "old", documents, docstore=docstore, document=document, protocol=protocol)
    assert import_langchain_faiss(folder, storage) == 3
    assert [(each.page_content, each.metadata) for each in storage.get(["id-0", "id-1", "id-2"])] == [
        (each.page_content, each.metadata) for each in documents
    ]


@pytest.mark.parametrize("kind", [faiss.IndexFlatL2, faiss.IndexFlatIP])
def test_vectors_are_brought_to_length_one_in_both_kinds_of_flat_index(
    tmp_path: Path, storage: VetorStorage, kind: type
) -> None:
    matrix = 3 * np.random.default_rng(0).standard_normal((20, 8))
    folder = save(tmp_path / "f", [Document(f"t {place}") for place in range(20)])
    (folder / "index.faiss").write_bytes(flat(matrix, kind))
    import_langchain_faiss(folder, storage, check_embedder=False)
    for place, vector in enumerate(unit(matrix)):
        hit = storage.search(vector, k=1)[0]
        assert (hit.id, hit.score) == (f"id-{place}", pytest.approx(1, abs=1e-5))


def test_an_l2_index_of_vectors_of_length_one_gives_the_order_it_gave_in_faiss(
    tmp_path: Path, storage: VetorStorage
) -> None:
    matrix = unit(np.random.default_rng(0).standard_normal((200, 1536))).astype(np.float32)
    documents = [Document(f"texto {place}", metadata={"source": f"s{place % 7}"}) for place in range(200)]
    folder = save(tmp_path / "openai", documents, matrix)
    import_langchain_faiss(folder, storage, check_embedder=False)
    query = unit(np.random.default_rng(1).standard_normal((1, 1536))).astype(np.float32)
    _, expected = faiss.deserialize_index(np.frombuffer(flat(matrix), np.uint8)).search(query, 10)
    assert [hit.id for hit in storage.search(query[0], k=10)] == [f"id-{place}" for place in expected[0]]


def test_a_large_store_comes_in_batches_source_by_source(
    tmp_path: Path, storage: VetorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oraculo_kit.langchain_import._BATCH_ROWS", 40)
    documents = [Document(f"texto {place}", metadata={"source": f"s{place % 9}"}) for place in range(180)]
    folder = save(tmp_path / "large", documents)
    assert import_langchain_faiss(folder, storage) == 180
    assert storage.stats().commit == 5
    by_source: dict[str, list[str]] = {}
    for row in storage.to_pandas().sort_values("ordinal").itertuples():
        by_source.setdefault(str(row.source), []).append(str(row.id))
    assert by_source == {f"s{n}": [f"id-{place}" for place in range(n, 180, 9)] for n in range(9)}


def test_metadata_keeps_what_the_store_can_hold(tmp_path: Path, storage: VetorStorage) -> None:
    number = uuid.uuid4()
    zone = datetime.timezone(datetime.timedelta(hours=-3))
    metadata = {
        "source": pathlib.PurePosixPath("/docs/a.md"),
        "when": datetime.datetime(2024, 5, 1, 12, 30, tzinfo=zone),
        "day": datetime.date(2024, 5, 1),
        "at": datetime.time(8, 15),
        "uuid": number,
        "nested": {"list": [1, -2, 2.5, None, True, 2**70], "tuple": ("a", "b"), "set": {"x"}},
        "bytes_are_too_large_for_a_byte": 70_000,
    }
    import_langchain_faiss(save(tmp_path / "m", [Document("texto", metadata=metadata)]), storage)
    assert storage.get(["id-0"])[0].metadata == {
        "source": "/docs/a.md",
        "when": "2024-05-01T12:30:00-03:00",
        "day": "2024-05-01",
        "at": "08:15:00",
        "uuid": str(number),
        "nested": {"list": [1, -2, 2.5, None, True, 2**70], "tuple": ["a", "b"], "set": ["x"]},
        "bytes_are_too_large_for_a_byte": 70_000,
    }


def test_a_windows_path_stays_one_on_every_system(tmp_path: Path, storage: VetorStorage) -> None:
    path = pathlib.PureWindowsPath(r"C:\docs\a.md")
    folder = save(tmp_path / "w", [Document("texto", metadata={"source": path})])
    import_langchain_faiss(folder, storage)
    assert storage.sources()[0].source == r"C:\docs\a.md"


def test_an_empty_store_brings_nothing(tmp_path: Path, storage: VetorStorage) -> None:
    assert import_langchain_faiss(save(tmp_path / "e", [], np.zeros((0, 8))), storage) == 0


def test_another_index_name_is_found(tmp_path: Path, storage: VetorStorage) -> None:
    folder = write_files(tmp_path / "named", REAL_PKL, REAL_FAISS, "leis")
    assert import_langchain_faiss(folder, storage, index_name="leis") == 2
    with pytest.raises(SourceNotFoundError, match=r"no file .*index\.faiss; expected the folder"):
        import_langchain_faiss(folder, storage)


def test_documents_without_a_vector_are_left_out_with_a_warning(
    tmp_path: Path, storage: VetorStorage
) -> None:
    documents = {"a": Document("um"), "b": Document("dois")}
    matrix = np.array(EMBEDDING.embed_documents(["um"]))
    folder = write_files(tmp_path / "w", pickled(documents, {0: "a"}), flat(matrix))
    with pytest.warns(UserWarning, match="1 documents of .* have no vector") as caught:
        assert import_langchain_faiss(folder, storage) == 1
    assert caught[0].filename == __file__


def refused(folder: Path, storage: VetorStorage, kind: type[OraculoError], match: str) -> None:
    """Import what must be refused, and see that nothing of it is there."""
    with pytest.raises(kind, match=match):
        import_langchain_faiss(folder, storage)
    assert len(storage) == 0
    assert storage.sources() == []


class Calls:
    """An object that unpickles into a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "os.system": (lambda path: Calls(os.system, f"echo > {path}"), r"(posix|nt)\.system"),
    "eval": (lambda path: Calls(builtins.eval, f"open({str(path)!r}, 'w')"), r"builtins\.eval"),
    "open": (lambda path: Calls(open, str(path), "w"), r"(_?io)\.open"),
    "getattr": (lambda _: Calls(getattr, "text", "upper"), r"builtins\.getattr"),
    "partial": (lambda path: functools.partial(os.mkdir, str(path)), r"functools\.partial"),
    "numpy": (lambda _: np.zeros(3), r"numpy\.(_core|core)\.(multiarray|numeric)\._"),
    "numpy scalar": (lambda _: np.float64(2), r"numpy\.(_core|core)\.multiarray\.scalar"),
    "pathlib": (lambda path: Calls(Path.touch, path), r"pathlib\.(_local\.)?Path\.touch"),
    "a class of ours": (lambda _: OraculoVectorStore, r"oraculo_kit\.langchain\.OraculoVectorStore"),
    "exception": (lambda _: Calls(ValueError, "x"), r"builtins\.ValueError"),
}


@pytest.mark.parametrize("where", ["docstore", "document", "metadata"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_names_anything_else_is_refused_and_nothing_runs(
    tmp_path: Path, storage: VetorStorage, name: str, where: str
) -> None:
    make, called = HOSTILE[name]
    mark = tmp_path / "executed"
    bad = make(mark)
    content = {
        "docstore": lambda: pickle.dumps((bad, {0: "a"})),
        "document": lambda: pickled({"a": bad}, {0: "a"}),
        "metadata": lambda: pickled({"a": Document("um", metadata={"x": bad})}, {0: "a"}),
    }[where]()
    folder = write_files(tmp_path / "hostile", content, flat(np.ones((1, 8))))
    refused(folder, storage, ExtractionError, f"asks for {called}.*nothing of it was run")
    assert not mark.exists()


def test_a_document_inside_metadata_is_refused(tmp_path: Path, storage: VetorStorage) -> None:
    folder = save(tmp_path / "d", [Document("um", metadata={"x": Document("dois")})])
    refused(folder, storage, SourceError, "document 'id-0': its metadata holds a langchain_core")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04Nr\xff\xff\xff\xff.",  # a memo index of four billion
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a text of 2**63 bytes
        b"\x80\x04X\xff\xff\xff\xff.",
        b"\x80\x04}" + b")" + b"\x85" * 20_000 + b"Ns.",  # a deeply nested tuple as a key
        b"\x80\x04" + b"]" * 1_000_000 + b".",
        b"\x80\x04" + b"(" * 1_000_000 + b".",
        b"\x80\x04]" + b"(" + b"]" * 90_000 + b"e.",  # far more empty lists than bytes to fill them
        b"\x80\x04}(" + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(3)) + b"u.",
        b"\x80\x04]\x94h\x00a.",  # a list that holds itself
        b"\x80\x09N.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x04\x82\x01.",  # a name by number, from the registry of the process
        b"\x80\x04Q.",  # a persistent id
        b"\x80\x05\x97.",  # a buffer from outside
        b"\x80\x04.",
        b".",
        b"",
        b"\x00" * 100,
        b"NNNN.",
        b"u.",
    ],
)  # fmt: skip
def test_crafted_bytes_are_refused_without_harm(
    tmp_path: Path, storage: VetorStorage, content: bytes
) -> None:
    folder = write_files(tmp_path / "crafted", content, REAL_FAISS)
    refused(folder, storage, ExtractionError, "crafted")


def test_metadata_that_would_be_endless_as_text_is_refused(tmp_path: Path, storage: VetorStorage) -> None:
    laughs: Any = "ha"
    for _ in range(40):
        laughs = [laughs] * 10
    own: dict[str, Any] = {}
    own["own"] = own
    for metadata, match in (({"x": laughs}, "more than 100000 values"), (own, "or 100 levels")):
        document = Document.model_construct(page_content="um", metadata=metadata)
        content = pickled({"a": document}, {0: "a"})
        refused(write_files(tmp_path / "f", content, flat(np.ones((1, 8)))), storage, SourceError, match)


def test_no_cut_and_no_flipped_bit_of_the_pickle_raises_anything_but_our_errors() -> None:
    records = {
        ("langchain_community.docstore.in_memory", "InMemoryDocstore"),
        ("langchain_core.documents.base", "Document"),
    }
    for length in range(len(REAL_PKL)):
        with pytest.raises(ExtractionError):
            read_plain_pickle(REAL_PKL[:length], file="index.pkl", records=records)
    for place in range(len(REAL_PKL)):
        for bit in range(8):
            damaged = bytearray(REAL_PKL)
            damaged[place] ^= 1 << bit
            try:
                read_plain_pickle(bytes(damaged), file="index.pkl", records=records)
            except ExtractionError:
                continue


def test_python_reads_the_same_from_plain_data_in_every_protocol() -> None:
    value = {
        "texts": ["", "olá", "x" * 300, "\ud800", "y" * 70_000],
        "numbers": [0, 255, 256, 65_536, -1, 2**31, -(2**31), 2**200, 0.1, float("inf")],
        "others": [None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), set(), {"a", "b"}],
        "many": {f"key {place}": place for place in range(3000)},
    }
    for protocol in (2, 3, 4, 5):
        data = pickle.dumps(value, protocol=protocol)
        assert read_plain_pickle(data, file="x", records=()) == value
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=4).dump(value)
    assert read_plain_pickle(buffer.getvalue(), file="x", records=()) == value


@pytest.mark.parametrize("length", [0, 3, 4, 20, 44, 45, 46, len(REAL_FAISS) - 1])
def test_an_index_that_was_cut_off_is_refused(saved: Path, storage: VetorStorage, length: int) -> None:
    (saved / "index.faiss").write_bytes(REAL_FAISS[:length])
    refused(saved, storage, SourceError, r"index\.faiss is (damaged: it has|a FAISS index of type)")


def test_an_index_with_bytes_after_its_end_is_refused(saved: Path, storage: VetorStorage) -> None:
    (saved / "index.faiss").write_bytes(REAL_FAISS + b"\0")
    refused(saved, storage, ExtractionError, "it has 110 bytes, expected 109")


def test_every_flipped_bit_of_the_header_that_counts_is_refused(saved: Path, storage: VetorStorage) -> None:
    unused = range(16, 33)
    for place in set(range(45)) - set(unused):
        for bit in range(8):
            damaged = bytearray(REAL_FAISS)
            damaged[place] ^= 1 << bit
            (saved / "index.faiss").write_bytes(damaged)
            refused(saved, storage, SourceError, r"index\.faiss")


@pytest.mark.parametrize("dimension", [0, -8, 2**31 - 1])
def test_an_index_of_an_absurd_dimension_is_refused(
    saved: Path, storage: VetorStorage, dimension: int
) -> None:
    damaged = bytearray(REAL_FAISS)
    struct.pack_into("<i", damaged, 4, dimension)
    (saved / "index.faiss").write_bytes(damaged)
    refused(saved, storage, ExtractionError, f"2 rows of dimension {dimension}")


@pytest.mark.parametrize(
    ("description", "name"),
    [("HNSW8", "HNSW"), ("IDMap,Flat", "IDMap"), ("SQ8", "scalar"), ("IVF1,Flat", "IVF")],
)
def test_another_type_of_index_is_named_with_the_way_out(
    saved: Path, storage: VetorStorage, description: str, name: str
) -> None:
    index = faiss.index_factory(8, description)
    (saved / "index.faiss").write_bytes(faiss.serialize_index(index).tobytes())
    refused(
        saved, storage, UnsupportedFormatError, rf"\({name}|\(.*{name}.*expected a flat one.*reconstruct_n"
    )


@pytest.mark.parametrize("ids", [{0: "a"}, {0: "a", 1: "b", 2: "c"}, {0: "a", 2: "b"}, {1: "a", 2: "b"}])
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, storage: VetorStorage, ids: dict[int, str]
) -> None:
    documents = {name: Document(name) for name in "abc"}
    folder = write_files(tmp_path / "f", pickled(documents, ids), REAL_FAISS)
    refused(folder, storage, ExtractionError, "do not belong together")


def test_rows_without_a_document_of_their_own_are_refused(tmp_path: Path, storage: VetorStorage) -> None:
    folder = write_files(tmp_path / "f", pickled({"a": Document("a")}, {0: "a", 1: "b"}), REAL_FAISS)
    refused(folder, storage, ExtractionError, "no document with text and metadata for the id 'b'")
    write_files(folder, pickled({"a": Document("a")}, {0: "a", 1: "a"}), REAL_FAISS)
    refused(folder, storage, ExtractionError, "several rows to one document")
    write_files(folder, pickle.dumps([1, 2]), REAL_FAISS)
    refused(folder, storage, ExtractionError, "is no LangChain FAISS store")


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_refused_before_anything_is_stored(
    tmp_path: Path, storage: VetorStorage, value: float
) -> None:
    matrix = np.array(EMBEDDING.embed_documents(["a", "b", "c"]))
    matrix[2] = value
    folder = save(tmp_path / "z", [Document(text) for text in "abc"], matrix)
    refused(folder, storage, VectorsError, "row 2 of .* holds NaN, infinity or only zeros")


def test_metadata_that_cannot_be_stored_is_refused_before_anything_is_stored(
    tmp_path: Path, storage: VetorStorage
) -> None:
    documents = [Document("um"), Document("dois", metadata={"x": b"bytes"})]
    folder = save(tmp_path / "b", documents)
    refused(folder, storage, SourceError, "document 'id-1': metadata 'x' holds a bytes")


def test_a_store_of_another_dimension_is_refused(saved: Path, tmp_path: Path) -> None:
    with open_storage(tmp_path / "other", DeterministicFakeEmbedding(size=4)) as storage:
        storage.write([Document("um")])
        with pytest.raises(VectorsError, match="vectors of dimension 8, expected 4 as the store"):
            import_langchain_faiss(saved, storage)
        assert len(storage) == 1


def test_an_embedder_that_makes_other_vectors_is_refused(saved: Path, tmp_path: Path) -> None:
    class Other(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents([f"other {text}" for text in texts])

    for embedder, match in (
        (DeterministicFakeEmbedding(size=4), "embedder .* makes 4; nothing was stored"),
        (Other(size=8), "gives other vectors .*check_embedder=False"),
    ):
        with open_storage(tmp_path / type(embedder).__name__, embedder) as storage:
            refused(saved, storage, EmbedderMismatchError, match)
            assert import_langchain_faiss(saved, storage, check_embedder=False) == 2


def test_no_text_is_embedded_but_the_samples(tmp_path: Path) -> None:
    asked: list[str] = []

    class Counting(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            asked.extend(texts)
            return super().embed_documents(texts)

    folder = save(tmp_path / "many", [Document(f"texto {place}") for place in range(50)])
    with open_storage(tmp_path / "store", Counting(size=8)) as storage:
        import_langchain_faiss(folder, storage)
        assert len(asked) == 3
        import_langchain_faiss(folder, storage, check_embedder=False)
        assert len(asked) == 3


def test_an_import_needs_no_module_of_langchain_community(saved: Path, storage: VetorStorage) -> None:
    with mock.patch.dict(sys.modules, {"langchain_community": None, "langchain": None}):
        assert import_langchain_faiss(saved, storage) == 2
