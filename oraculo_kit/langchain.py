"""The store as a LangChain ``VectorStore``: for chains, agents and retrievers that expect one.

A thin layer: every method is one call of `VetorStorage`, or two. Async methods run the same calls on a thread, as
LangChain's defaults do. A store that LangChain's own ``FAISS`` saved is brought over by `import_langchain_faiss`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore

from oraculo_kit.errors import QueryError
from oraculo_kit.langchain_import import import_langchain_faiss
from oraculo_kit.retriever import OraculoRetriever, search_tool
from oraculo_kit.storage import VetorStorage
from oraculo_kit.storage.base import SearchKeywords
from oraculo_kit.storage.diversity import marginal_relevance

__all__ = [
    "OraculoEmbeddings",
    "OraculoRetriever",
    "OraculoVectorStore",
    "import_langchain_faiss",
    "search_tool",
]


class OraculoEmbeddings(Embeddings):
    """The embedder of a store as LangChain ``Embeddings``.

    Parameters
    ----------
    storage : VetorStorage
    """

    def __init__(self, storage: VetorStorage) -> None:
        self._embedder = storage.embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector of length one per text."""
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        vector: list[float] = self._embedder.embed_queries([text])[0].tolist()
        return vector


class OraculoVectorStore(VectorStore):
    """A `VetorStorage` behind LangChain's interface.

    Parameters
    ----------
    storage : VetorStorage
        An open store; by default that of the services.
    mode : {"hybrid", "vector", "text"}
        How a text is searched for, results that differ (``search_type="mmr"``) included; ``mode=`` in a call or in
        ``search_kwargs`` overrides it. Searches by a given vector are always by vector.

    Notes
    -----
    Searches take the keywords of `VetorStorage.search`: ``filter``, ``min_score``, ``group_by``, ``unique``, ... In
    `similarity_search` and in searches for results that differ, ``score_threshold`` is another name for
    ``min_score``: the least cosine, in every mode. Other keywords are refused.

    LangChain's relevance scores (``search_type="similarity_score_threshold"``) lie between 0 and 1:

    ========  =============================  ==========================================================
    mode      relevance                      a threshold of 0.5 keeps
    ========  =============================  ==========================================================
    vector    cosine, 0 where it is below 0  what is near the query, whatever else there is
    hybrid    the score itself               what is good beside the other candidates of this query
    text      BM25 / BM25 of the best hit    what is at least half as good as the best hit of this query
    ========  =============================  ==========================================================

    Only a cosine means the same for every query: for a threshold take ``mode="vector"``. The order of the hits is
    the same as without relevance in every mode.

    Examples
    --------
    >>> from oraculo_kit import vetor_storage, start_services
    >>> _ = start_services()
    >>> store = OraculoVectorStore(vetor_storage())
    >>> ids = store.add_texts(["Como emitir nota fiscal"], [{"source": "ajuda.md"}])
    >>> store.as_retriever(search_kwargs={"k": 1}).invoke("emissão de notas")[0].metadata["source"]
    'ajuda.md'
    """

    def __init__(self, storage: VetorStorage | None = None, *, mode: str = "hybrid") -> None:
        if storage is None:
            from oraculo_kit.services import ensure_services

            storage = ensure_services().vetor_storage
        self.storage = storage
        self.mode: Any = mode

    @property
    def embeddings(self) -> Embeddings:
        """The store's embedder."""
        return OraculoEmbeddings(self.storage)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Store texts and return their ids; an id that exists is replaced.

        Raises
        ------
        QueryError
            For a single text, and for another number of metadatas than of texts.
        """
        if isinstance(texts, str):
            raise QueryError('got a str as texts, expected a list of them, such as ["texto"]')
        texts = list(texts)
        metadatas = metadatas if metadatas is not None else [{} for _ in texts]
        if len(metadatas) != len(texts):
            raise QueryError(f"got {len(metadatas)} metadatas for {len(texts)} texts, expected one for each")
        documents = [
            Document(page_content=text, metadata=metadata)
            for text, metadata in zip(texts, metadatas, strict=True)
        ]
        return self.add_documents(documents, ids=ids, **kwargs)

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Store documents and return their ids."""
        return self.storage.write(documents, ids=kwargs.get("ids"))

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete chunks by id; unknown ids are no error. Without ids nothing is deleted."""
        if ids is None:
            return None
        self.storage.remove(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the chunks with these ids; unknown ones are left out."""
        return self.storage.get(list(ids))

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the documents that answer a query best; keywords as in the notes of the class."""
        return self._search(query, k, kwargs).documents  # type: ignore[no-any-return]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return documents with their scores, higher is better."""
        results = self._search(query, k, kwargs)
        return [(document, hit.score) for document, hit in zip(results.documents, results, strict=True)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Return the documents nearest to a vector."""
        vector = np.asarray(embedding, np.float32)
        found: list[Document] = self.storage.search(vector, k, **_by_vector(kwargs)).documents
        return found

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return documents that answer a query, as `mode` ranks them, and differ from each other."""
        return self._differing(self._search(query, fetch_k, kwargs), k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return documents near to a vector that differ from each other, by their stored vectors."""
        vector = np.asarray(embedding, np.float32)
        return self._differing(self.storage.search(vector, fetch_k, **_by_vector(kwargs)), k, lambda_mult)

    def _differing(self, found: Any, k: int, lambda_mult: float) -> list[Document]:
        # Between the two calls a document may have been deleted: only those that still are there are chosen from.
        ids, vectors = self.storage.vectors([hit.id for hit in found])
        if not ids:
            return []
        best = found[0].score if found.mode == "text" and found[0].score > 0 else 1.0
        relevance = {hit.id: hit.score / best for hit in found}
        documents = {document.id: document for document in found.documents}
        chosen = marginal_relevance([relevance[each] for each in ids], vectors, k, lambda_mult)
        return [documents[ids[place]] for place, _ in chosen]

    def _search(self, query: str, k: int, options: dict[str, Any]) -> Any:
        return self.storage.search(query, k, **{"mode": self.mode, **_checked(options)})

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return _between_0_and_1

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        found = self.similarity_search_with_score(query, k, **kwargs)
        best = found[0][1] if found and kwargs.get("mode", self.mode) == "text" else 1.0
        return [(document, _between_0_and_1(score / best if best > 0 else 0.0)) for document, score in found]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return await run_in_executor(
            None, self._similarity_search_with_relevance_scores, query, k=k, **kwargs
        )

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        location: str = "",
        **kwargs: Any,
    ) -> OraculoVectorStore:
        """Store texts in the store at `location` (made when missing) and return it.

        Raises
        ------
        ValueError
            Without a location.
        """
        from oraculo_kit.storage import open_storage

        if not location:
            raise ValueError("from_texts needs location=, the folder of the store")
        store = cls(open_storage(location, embedding))
        store.add_texts(texts, metadatas, ids=ids)
        return store


def _by_vector(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("mode", "vector") != "vector":
        raise QueryError(
            f"mode is {options['mode']!r}, and a given vector can only be searched for by vector"
        )
    return _checked(options)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Return LangChain's keywords as those of the store, and refuse what would be ignored."""
    options = dict(options)
    if "score_threshold" in options:
        if "min_score" in options:
            raise TypeError("got score_threshold and min_score, which mean the same; give one of them")
        options["min_score"] = options.pop("score_threshold")
    known = SearchKeywords.__annotations__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(
            f"got the unknown keywords {', '.join(unknown)}, expected some of {', '.join(known)}, score_threshold"
        )
    return options


def _between_0_and_1(score: float) -> float:
    return min(max(score, 0.0), 1.0)
