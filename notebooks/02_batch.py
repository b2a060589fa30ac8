# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A batch: many documents, all cores, nothing lost
#
# *Em português: o mesmo `ingest` em lote, em segundo plano, interrompido e retomado.*
#
# The batch works on `lote/`, a copy of the documents in `dados/`, which the last cell deletes again.

# %%
# %load_ext oraculo_kit

# %%
import shutil
from pathlib import Path

lote = Path("lote")
shutil.copytree("dados", lote, dirs_exist_ok=True)
oraculo.ingest(lote, dry_run=True).summary()

# %% [markdown]
# `dry_run=True` says what would happen and stores nothing.
#
# ## joblib
#
# `ingest_task` takes one source and gives its outcome. `parallel_services` configures joblib so that every worker has
# the environment and the base of this notebook; joblib is used as always.

# %%
from joblib import Parallel, delayed
from oraculo_kit import IngestReport, ingest_task, parallel_services

with parallel_services(n_jobs=2):
    outcomes = Parallel()(delayed(ingest_task)(path) for path in sorted(lote.iterdir()))

report = IngestReport(outcomes)
report[:4]

# %% [markdown]
# An `IngestReport` is a sequence of outcomes, a table, and a DataFrame.

# %%
frame = report.to_pandas()
frame.groupby(frame["source"].str.rsplit(".").str[-1].rename("format"))[["chunks", "bytes"]].sum()

# %% [markdown]
# ## A bad file is one line in the report
#
# A PDF that was cut off in the download fails, with its reason. The others are not touched: they are unchanged.

# %%
whole = (lote / "retencao_dados_lgpd.pdf").read_bytes()
edital = lote / "edital.pdf"
edital.write_bytes(whole[:9000])

report = oraculo.ingest(lote, n_jobs=2)
print(report.counts, report.failed[0].message, sep="\n")
IngestReport(report.failed)

# %% [markdown]
# Once the file is mended, `retry()` takes what failed, and only that.

# %%
edital.write_bytes(whole)
report.retry()

# %% [markdown]
# ## In the background
#
# With `background=True` the cell returns at once, and the kernel stays free. The handle says how far it is; `cancel()`
# stops within half a second. Here, ten copies of the folder are ingested, and cancelled at the fiftieth document.

# %%
for year in range(2016, 2026):
    shutil.copytree("dados", lote / str(year), dirs_exist_ok=True)

handle = oraculo.ingest(lote, background=True, n_jobs=1)
handle.subscribe(lambda event: handle.cancel() if handle.progress.done >= 50 else None)
handle.result().state

# %% tags=["varies"]
handle

# %% [markdown]
# What was stored stays. `resume=True` goes on with the rest, in this kernel or in a new one: the base itself keeps the
# record of the run.

# %%
report = oraculo.ingest(resume=True)
report.state, report.counts

# %%
oraculo.runs()[["state", "added", "unchanged", "failed"]]

# %% [markdown]
# ## What is gone from the folder
#
# `prune=True` takes files out of the base that are no longer there.

# %%
shutil.rmtree(lote / "2016")
report = oraculo.ingest(lote, prune=True)
report.counts

# %% [markdown]
# Had the whole folder become empty, nothing would be pruned, with a warning: the drive may just not be mounted. `remove()`
# takes a source out by name.

# %%
gone = [source for source in oraculo.sources()["source"] if Path(source).is_relative_to(lote.absolute())]
shutil.rmtree(lote)
len(gone), sum(map(oraculo.remove, gone))
