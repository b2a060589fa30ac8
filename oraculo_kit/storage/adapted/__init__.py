"""Any LangChain vector store as the search engine of a base; `oraculo_kit.storage.adapted.store` is the way in."""
