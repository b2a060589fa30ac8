"""The base that browser tests look at: a few documents that overlap, and some that are hostile."""

from __future__ import annotations

from pathlib import Path

from langchain_core.documents import Document

from oraculo_kit.split import split_documents
from oraculo_kit.storage.faiss import FaissVetorStorage

TOPICS = {
    "notas": "A nota fiscal de serviço é emitida no portal da prefeitura até o quinto dia útil do mês.",
    "ferias": "O pedido de férias é feito ao gestor com trinta dias de antecedência, pelo sistema de pessoal.",
    "viagens": "A diária de hospedagem tem limite de R$ 380,00 e o táxi de R$ 120,00 por dia de viagem.",
    "compras": "Compras acima de dez mil reais precisam de três cotações e da nota de empenho assinada.",
    "senhas": "A senha da rede vence a cada noventa dias e não pode repetir as cinco últimas.",
}
STEPS = (
    "Confira antes os dados do tomador e o código do serviço.",
    "Guarde o comprovante por cinco anos na pasta do setor.",
    "Em caso de erro, cancele no mesmo dia e peça outra via.",
    "A chefia recebe uma cópia por correio eletrônico.",
    "Dúvidas são respondidas pela central em até dois dias.",
)
SECRET = "NAO-VAZAR-7f3a"
HOSTILE = (
    '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>'
    '<a href="javascript:window.hacked=3">nota hostil</a> \x1b[31mvermelho\x1b[0m \u202egnp.exe $x^2$ '
    "<svg onload=window.hacked=4></svg> {{7*7}} nota fiscal hostil"
)


def make_base(folder: Path) -> Path:
    """Make the base and return its folder."""
    secret = folder.parent / "segredo.txt"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text(SECRET, encoding="utf-8")
    with FaissVetorStorage(folder, durability="process") as store:
        for place, (name, topic) in enumerate(TOPICS.items()):
            for year in (2023, 2024):
                source = f"manuais/{name}-{year}.md"
                paragraphs = [
                    f"{topic} {STEPS[(step + place) % 5]} Passo {step + 1} de {year}." for step in range(12)
                ]
                text = "\n\n".join(paragraphs)
                metadata = {
                    "source": source,
                    "title": name.title(),
                    "lang": "pt",
                    "ano": year,
                    "final": year == 2024,
                }
                chunks = split_documents(
                    [Document(text, metadata=metadata)], chunk_size=420, chunk_overlap=200
                )
                store.replace(source, chunks)
        hostile = {
            "source": HOSTILE[:60],
            "title": HOSTILE,
            HOSTILE[:40]: HOSTILE[:150],
            "lang": "<b>xx</b>",
            "page": 1,
        }
        store.replace(HOSTILE[:60], [Document(HOSTILE, metadata=hostile)])
        store.replace(
            "caminho.txt", [Document(str(secret), metadata={"source": "caminho.txt", "lang": "pt"})]
        )
    return folder
