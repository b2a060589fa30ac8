"""Every message has a translation, and the start-up lines are the ones that were promised."""

from __future__ import annotations

import ast
import gettext
import io
import os
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog

from oraculo_kit.messages import N_, current_translator, locale_language, supported_language, translator
from oraculo_kit.services import start_services
from tests.tools import catalogues

CONTEXT_NAMES = {
    "kernel": "kernel Jupyter",
    "joblib": "workers joblib",
    "dask": "workers Dask",
    "cli": "linha de comando",
    "script": "programa Python",
}
LANGUAGES = pytest.mark.parametrize("language", catalogues.LANGUAGES)


@pytest.mark.parametrize(("context", "name"), CONTEXT_NAMES.items())
def test_the_start_up_lines_in_portuguese_are_exactly_the_promised_ones(
    project: Path, context: str, name: str
) -> None:
    os.environ["ORACULO_LANG"] = "pt_BR"
    assert start_services(context=context).lines == (
        f"INFO - Inicializando serviços para {name}...",
        "INFO - Variáveis de ambiente carregadas com sucesso!",
        "INFO - VetorStorage configurado com sucesso!",
        f"INFO - Serviços inicializados com sucesso para {name}!",
    )


@LANGUAGES
def test_every_message_of_the_source_has_a_translation_with_the_same_placeholders(language: str) -> None:
    catalogue = catalogues.updated(language, catalogues.read(language))
    assert catalogues.faults(catalogue) == [], "translate these, then run: python -m tests.tools.catalogues"


@LANGUAGES
def test_the_committed_catalogue_is_the_one_that_the_tool_writes(language: str) -> None:
    committed = catalogues.po_path(language).read_text(encoding="utf-8")
    written = catalogues.as_po(catalogues.updated(language, catalogues.read(language))).decode()
    assert committed == written, "run: python -m tests.tools.catalogues"


@LANGUAGES
def test_the_compiled_catalogue_says_what_the_readable_one_says(language: str) -> None:
    with catalogues.po_path(language).with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    readable = catalogues.read(language)
    assert {message.id: compiled.gettext(str(message.id)) for message in readable if message.id} == {
        message.id: message.string for message in readable if message.id
    }
    assert catalogues.po_path(language).with_suffix(".mo").read_bytes() == catalogues.as_mo(
        catalogues.updated(language, readable)
    ), "run: python -m tests.tools.catalogues"


def test_the_extraction_finds_messages_of_several_modules_and_only_whole_ones() -> None:
    found = catalogues.extract()
    assert {
        "oraculo_kit/services.py",
        "oraculo_kit/extension.py",
        "oraculo_kit/diagnostics/probes_store.py",
    } <= {name for files in found.values() for name in files}
    assert "Starting services for {context}..." in found
    # Literals that stand side by side in the source are one message.
    assert any(
        message.startswith("Keep the base on a local disk: ") and message.endswith("write.")
        for message in found
    )


def _calls_that_babel_would_misread(source: str) -> list[int]:
    tree = ast.parse(source)
    # The text of an f-string is one token before Python 3.12: what is called in it would be found by some versions only.
    inside = {
        id(each) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for each in ast.walk(node)
    }
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "translated"
        and any(isinstance(each, ast.Constant) for each in node.args)
    ]
    for node in ast.walk(tree):
        if (
            not isinstance(node, ast.Call)
            or not isinstance(node.func, ast.Name)
            or node.func.id not in ("_", "N_")
        ):
            continue
        is_literal = isinstance(node.args[0], ast.Constant)
        holds_text = any(isinstance(each, ast.Constant | ast.JoinedStr) for each in ast.walk(node.args[0]))
        is_hidden = is_literal and id(node) in inside
        is_wrong = not is_literal and (holds_text or node.func.id == "N_")
        if len(node.args) != 1 or node.keywords or is_hidden or is_wrong:
            lines.append(node.lineno)
    return lines


def test_texts_are_handed_to_a_translator_in_a_form_that_the_extraction_can_read() -> None:
    wrong = {
        str(path.relative_to(catalogues.PACKAGE)): lines
        for path in catalogues.PACKAGE.rglob("*.py")
        if (lines := _calls_that_babel_would_misread(path.read_text(encoding="utf-8")))
    }
    assert wrong == {}, 'write _("a literal") or _(a_variable), and put values in afterwards with .format()'


@pytest.mark.parametrize(
    ("source", "is_wrong"),
    [
        ('_("files: {count}").format(count=3)', False),
        ("_(message)", False),
        ('_("one " "text")', False),
        ('_(f"{count} files")', True),
        ('''f"{count} {_('files')}"''', True),
        ('f"{count} {_(name)}"', False),
        ('self.translated("files")', True),
        ('self.translated(N_("files"))', False),
        ('_("files: " + name)', True),
        ('_(NAMES["ready"])', True),
        ("N_(message)", True),
    ],
)
def test_the_check_of_the_form_knows_right_from_wrong(source: str, is_wrong: bool) -> None:
    assert bool(_calls_that_babel_would_misread(source)) is is_wrong


@pytest.mark.parametrize(
    ("translation", "flags", "fault"),
    [
        ("arquivos: {count}", (), None),
        ("", (), "no translation: files: {count}"),
        (" ", (), "no translation: files: {count}"),
        ("arquivos: {count}", ("fuzzy",), "fuzzy translation: files: {count}"),
        ("arquivos: {quantos}", (), "other placeholders: files: {count}"),
        ("arquivos: {count:.1f}", (), "other placeholders: files: {count}"),
        ("arquivos", (), "other placeholders: files: {count}"),
    ],
)
def test_the_check_of_translations_names_what_is_wrong(
    translation: str, flags: tuple[str, ...], fault: str | None
) -> None:
    catalogue = Catalog("pt_BR")
    catalogue.add("files: {count}", translation, flags=flags)
    assert catalogues.faults(catalogue) == ([fault] if fault else [])


def test_a_new_message_starts_empty_and_a_known_one_keeps_its_translation() -> None:
    old = Catalog("pt_BR")
    old.add("joblib workers", "workers joblib")
    old.add("gone for long", "sumiu")
    fresh = catalogues.updated("pt_BR", old)
    assert fresh.get("joblib workers").string == "workers joblib"
    assert fresh.get("Dask workers").string == ""
    assert fresh.get("gone for long") is None


def test_a_compiled_catalogue_can_be_read_by_gettext_with_its_accents() -> None:
    catalogue = Catalog("pt_BR")
    catalogue.add("settings", "configurações")
    compiled = gettext.GNUTranslations(io.BytesIO(catalogues.as_mo(catalogue)))
    assert compiled.gettext("settings") == "configurações"


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({}, "en"),
        ({"LANG": "pt_BR.UTF-8"}, "pt_BR"),
        ({"LANG": "pt_PT"}, "pt_BR"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "pt_BR.UTF-8"}, "pt_BR"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "pt_BR.UTF-8"}, "pt_BR"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "pt_BR:en"}, "pt_BR"),
        ({"LC_ALL": "", "LANG": "pt_BR.UTF-8"}, "pt_BR"),
    ],
)
def test_the_language_follows_the_locale_as_gettext_does(environ: dict[str, str], language: str) -> None:
    assert locale_language(environ) == language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("pt", "pt_BR"),
        ("pt-br", "pt_BR"),
        ("pt_BR@euro", "pt_BR"),
        ("Portuguese_Brazil.1252", "pt_BR"),
        ("English_United States.1252", "en"),
        ("POSIX", "en"),
        ("eng", None),
        ("ptolemaic", None),
        ("", None),
    ],
)
def test_a_language_tag_is_understood_or_refused(text: str, language: str | None) -> None:
    assert supported_language(text) == language


def test_english_is_what_the_source_says_and_an_unknown_text_stays_as_it_is() -> None:
    assert translator("en")(N_("joblib workers")) == "joblib workers"
    assert translator("pt_BR")("joblib workers") == "workers joblib"
    assert translator("pt_BR")("/no/such/text") == "/no/such/text"


def test_a_language_that_is_not_supported_counts_as_not_chosen(project: Path) -> None:
    os.environ["ORACULO_LANG"] = "klingon"
    os.environ["LANG"] = "pt_BR.UTF-8"
    assert current_translator()("joblib workers") == "workers joblib"
