# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explorers: see, search and steer the base
#
# *Em português: veja, busque e cuide da base sem sair do notebook.*
#
# In JupyterLab each of these is alive: type, click, open a hit in its document. What stands below the cells here is the
# summary that an explorer leaves behind for readers without a kernel. `wait()` is for notebooks that run from top to
# bottom; at a desk nobody needs it.

# %%
# %load_ext oraculo_kit

# %% [markdown]
# ## Ingest
#
# `IngestMonitor` shows a run while it goes on: stages, speed, time left, what failed and why. Cancel, resume and retry are
# buttons, and the cell returns at once.

# %%
monitor = oraculo.IngestMonitor("dados")
monitor.start()
monitor.wait()
monitor

# %% [markdown]
# ## Search
#
# Hits with the parts of their scores; a hit opens in its document, with what stands before and after it.

# %%
search = oraculo.SearchExplorer("Errei o valor da nota. Até quando posso cancelar?", k=2)
search.wait()
search.open_hit(0)
search.wait()
search

# %% [markdown]
# What is on the screen is also code, a DataFrame, and a page that needs nothing else.

# %%
print(search.code(), end="")

# %%
search.selection[["score", "text"]]

# %%
page = search.snapshot()  # search.snapshot("busca.html") writes it
"<script" in page, "72 horas" in page

# %% [markdown]
# ## Store
#
# Sources with their chunks, statistics, and the upkeep of the base; deleting asks first.

# %%
browser = oraculo.StoreBrowser("nfse")
browser.wait()
browser

# %% [markdown]
# ## Ask
#
# The answer as it is written, its sources, and what you think of it. Without a chat model it consists of extracts.

# %%
ask = oraculo.AskExplorer("Em que armário está o toner preto?", k=3)
ask.wait()
ask

# %% [markdown]
# ## Map
#
# Every chunk is a point, near those that mean the like; the question and its neighbours are marked. With
# `oraculo_kit[map]` it can be zoomed and lassoed, and the lasso becomes a table.

# %%
points = oraculo.MapExplorer("férias da equipe", color="lang", k=5)
points.draw()
points.wait()
points

# %% [markdown]
# ## All of them
#
# `explore()` shows them behind tabs, and answers as the one in front does.

# %%
explorers = oraculo.explore()
explorers.current.search("férias")
explorers.wait()
explorers
