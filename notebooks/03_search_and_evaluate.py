# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Search, and decide by numbers which search is better
#
# *Em português: as opções da busca, duas buscas lado a lado, e a avaliação com perguntas de resposta conhecida.*

# %%
# %load_ext oraculo_kit

# %%
oraculo.ingest("dados").summary()

# %% [markdown]
# ## What a query may say
#
# Words in quotation marks must stand in a row, and a word after `-` must not occur.

# %%
oraculo.search('prazo "aviso escrito" -certificado', k=3)

# %% [markdown]
# `group_by="source"` gives the best passage of each document, so that one of them does not fill the list.

# %%
oraculo.search("prazo de entrega", k=4, group_by="source")

# %% [markdown]
# `explain=True` shows how each score came about: the words and the vector.

# %%
oraculo.search("descanso anual", k=3, explain=True)

# %% [markdown]
# `context=1` adds the neighbouring chunks, without their overlap: what a reader, or a chat model, needs around a hit.

# %%
hit = oraculo.search("cancelamento da nota", k=1, context=1)[0]
print(hit.context_text)

# %% [markdown]
# A filter keeps to metadata that the loaders found, or that columns of a DataFrame brought. What was found is data, too.

# %%
hits = oraculo.search("toner preto", k=3, filter={"sheet": "Estoque", "row": {"$lte": 10}})
hits.to_pandas()[["score", "vector_score", "text_score", "text"]]

# %% [markdown]
# ## Compare
#
# The same question under several configurations, side by side. Which one is better cannot be seen in one question.

# %%
oraculo.compare(["como pedir o descanso anual?"], ["hybrid", "vector", "text"], k=3)

# %% [markdown]
# ## Evaluate
#
# `perguntas.json` holds sixteen questions whose answers are known, and where they stand.

# %%
import pandas as pd

perguntas = pd.read_json("perguntas.json")
perguntas.head(4)

# %% [markdown]
# A hit is relevant when it holds the answer (`by="answer"`), a harder test than the right document. The intervals say how
# sure a figure is: with so few questions, not very.

# %%
found = oraculo.evaluate(perguntas, by="answer")
found

# %% [markdown]
# Each question has its figures: these are not answered in the first place. One is answered by none, because the contract
# says *mensalidade* where the question says *quanto custa por mês*.

# %%
asked = found.per_question
asked[asked["hybrid ndcg@10"] < 1][["question", "hybrid rank", "vector rank", "text rank"]]
