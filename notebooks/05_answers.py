# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Answers with citations
#
# *Em português: perguntas respondidas a partir dos documentos, com as fontes conferidas.*

# %%
# %load_ext oraculo_kit

# %%
oraculo.ingest("dados").summary()

# %% [markdown]
# ## Without a model
#
# `ask` needs no model: the best extracts are the answer, each with its source.

# %%
oraculo.ask("Errei o valor da nota. Até quando posso cancelar?", k=2)

# %% [markdown]
# ## With a chat model
#
# Any LangChain chat model writes the answer from those passages. So that this notebook runs anywhere, without network and
# key, a stand-in takes the model's place: it says the sentences that were given to it. What happens around it is real:
# retrieval, prompt, and the check of citations. For a real model the one line to change is
#
# ```python
# model = "openai:gpt-4o-mini"    # or "ollama:llama3.2", or ORACULO_CHAT_MODEL in .env
# ```

# %%
from langchain_core.language_models import FakeListChatModel

model = FakeListChatModel(
    responses=[
        "O portal aceita o cancelamento em até 72 horas após a emissão [1]. Depois disso, é preciso abrir um "
        "processo administrativo na prefeitura [1][9]."
    ]
)
answer = oraculo.ask("Errei o valor da nota. Até quando posso cancelar?", model=model, k=2)
answer

# %% [markdown]
# There were two passages, so the citation [9] pointed at nothing. It was taken out, and the answer says so. Every number
# that is left is a passage that was really read.

# %%
print(answer.citations[1].text)

# %% [markdown]
# What a model puts in quotation marks must stand in the source that it cites.

# %%
model = FakeListChatModel(responses=["A política diz “até R$ 500,00 por diária” [1]."])
oraculo.ask("Qual o limite da diária de hotel?", model=model, k=2).unverified_quotes

# %% [markdown]
# A model is told to write a certain word when the passages do not hold the answer. That is said plainly, and is no answer.

# %%
model = FakeListChatModel(responses=["SEM_RESPOSTA_NAS_FONTES"])
missing = oraculo.ask("Qual é a capital da Austrália?", model=model, k=2)
missing.kind, missing.text

# %% [markdown]
# ## As it is written
#
# `stream=True` gives the pieces as they come; `stream.answer` is the whole, checked.

# %%
model = FakeListChatModel(responses=["Com 45 dias de antecedência [1]."])
stream = oraculo.ask("Com quanta antecedência peço férias?", model=model, k=3, stream=True)
print(*stream, sep="")
stream.answer.grounded

# %% [markdown]
# ## When the model fails
#
# The error says what to do, and what was retrieved is not lost.

# %%
try:
    oraculo.ask("Qual o limite da diária de hotel?", model="opnai:gpt-4o-mini", k=1)
except oraculo.errors.ChatModelError as error:
    print(error)
    extracts = error.extracts
extracts

# %% [markdown]
# ## What people say of answers
#
# `good()`, `bad(comment)` and `correct(text)` are kept in the base, with the sources.

# %%
answer.correct("Até 72 horas após a emissão; depois, só com processo na prefeitura.")
oraculo.feedback()[["question", "verdict", "correction"]]
