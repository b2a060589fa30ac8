# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: from a folder of documents to answers
#
# *Em português: da pasta de documentos às respostas, em cinco células. O mesmo código serve para a sua pasta.*
#
# `%load_ext oraculo_kit` starts the services (environment, then the `VetorStorage`) and puts the package into the
# notebook as `oraculo`. With the kernel that `oraculo kernel install` makes, this cell is not needed.

# %%
# %load_ext oraculo_kit

# %% [markdown]
# ## Ingest
#
# `dados/` holds fifteen small files of a Brazilian office: Markdown, PDF, Word, Excel, HTML, a notebook, a `;` CSV
# in cp1252 with decimal commas, and a text whose encoding is broken. Run the cell again: what did not change is skipped.

# %%
oraculo.ingest("dados")

# %% [markdown]
# ## Search
#
# Full text (stemmed, in Portuguese and English) and vectors together. `score` orders the hits.

# %%
oraculo.search("como cancelar uma nota fiscal emitida com erro?", k=3)

# %%
oraculo.search("qual o limite da diária de hotel em viagem?", k=3)

# %% [markdown]
# A filter keeps to metadata, and never costs results: `k` matches come back if `k` exist.

# %%
oraculo.search("prazo de retenção", k=3, filter={"lang": "pt", "page": {"$gte": 2}})

# %% [markdown]
# ## The base, as DataFrames

# %%
from pathlib import Path

sources = oraculo.sources()
sources.assign(source=sources["source"].map(lambda key: Path(key).name))[["source", "chunks", "lang", "bytes"]]

# %%
oraculo.search("férias", k=5).to_pandas()[["score", "vector_score", "text_score", "text"]]

# %% [markdown]
# ## The same task, in batch
#
# `ingest_task` is the function behind `ingest`. In a joblib batch every worker has the same services and writes to the
# same base; what was ingested above is found unchanged.

# %%
from joblib import Parallel, delayed
from oraculo_kit import IngestReport, ingest_task, parallel_services

with parallel_services(n_jobs=2):
    outcomes = Parallel()(delayed(ingest_task)(path) for path in sorted(Path("dados").iterdir()))
IngestReport(outcomes).counts

# %% [markdown]
# Next: `%oraculo status` shows services, settings and workers; `%oraculo doctor` checks the machine.
