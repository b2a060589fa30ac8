"""Ingestion over a Dask cluster: workers load, split and embed; the caller alone writes.

No disk needs to be shared for the store, and nothing is stored twice however often Dask runs a task again: a source is
committed once, by this process. One module per step:

========== =============================================================================================
examining  runs on a worker before anything else; travels there as source text
checking   what workers must have in common with the caller, and a table of what differs
working    what a worker does: load -> split -> embed, never with the store open
blocks     what comes back: rows ready to be written, with their vectors, bounded in size
running    the caller's side: tasks out, blocks in, commits; lost workers, stops, late joiners
seeing     files that a worker does not see, or sees otherwise
secrets    when keys travel, and what protects them
========== =============================================================================================
"""
