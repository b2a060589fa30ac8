"""Answers with sources: retrieval, a fenced prompt, any LangChain chat model, citations that are checked."""
