"""Read the two formats of environment documents, JSON and dotenv, and say what is wrong with one.

**A document's text appears in no error.** Parsers put the text that they reject into their exceptions, so
those are neither quoted nor chained; what is said is where the fault is.
"""

from __future__ import annotations

import io
import json

from oraculo_kit.environment.record import redact
from oraculo_kit.errors import EnvironmentSourceError

MAX_BYTES = 1024 * 1024  # of one document; the environment of a process is far smaller


class SourceUnreachableError(EnvironmentSourceError):
    """The source may be fine but gave no answer: the one failure for which cached values may stand in.

    Attributes
    ----------
    reason : str
        What happened, without the consequence and the advice: cached values may change both.
    """

    reason: str = ""


def source_error(
    label: str, reason: str, advice: str, kind: type[EnvironmentSourceError] = EnvironmentSourceError
) -> EnvironmentSourceError:
    """Return the error for a failing source: which one, why, and what to do, without any known secret."""
    happened = redact(f"the environment source {label} {reason}")
    error = kind(f"{happened}. Nothing was applied. {redact(advice)}")
    if isinstance(error, SourceUnreachableError):
        error.reason = happened
    return error


def parse_json(content: bytes, label: str) -> dict[str, object]:
    """Return the entries of a flat JSON object; numbers keep the text they were written with.

    Raises
    ------
    EnvironmentSourceError
        When the text is no JSON object. The message says where the fault is and shows nothing of the text.

    Examples
    --------
    >>> parse_json(b'{"ORACULO_CHUNK_SIZE": 1e3, "ORACULO_LANG": null}', "env.json")
    {'ORACULO_CHUNK_SIZE': '1e3', 'ORACULO_LANG': None}
    """
    document: object = None
    try:
        document = json.loads(content, parse_int=str, parse_float=str, parse_constant=str)
        problem = f"is a JSON {type(document).__name__}"
    except json.JSONDecodeError as exc:
        problem = f"is not JSON (line {exc.lineno}, column {exc.colno})"
    except UnicodeDecodeError:
        problem = "is not Unicode text"
    except RecursionError:
        problem = "is nested too deeply"
    if not isinstance(document, dict):
        raise source_error(
            label,
            f"{problem}, expected one flat JSON object of names and values",
            'Correct the document, for example to {"OPENAI_API_KEY": "..."}.',
        )
    return document


def parse_dotenv(content: bytes, label: str) -> dict[str, object]:
    r"""Return the entries of a dotenv text, as python-dotenv reads it but without ``${NAME}`` interpolation.

    Interpolation would copy one secret into other values and read variables that no allow-list has seen.

    Raises
    ------
    EnvironmentSourceError
        When a line cannot be read. python-dotenv would skip it, and the service that needs it would fail
        later for no visible reason. The message gives the line's number and nothing of its text.

    Examples
    --------
    >>> parse_dotenv(b"export ORACULO_LANG='pt_BR' # idioma\nOPENAI_API_KEY=$abc", ".env")
    {'ORACULO_LANG': 'pt_BR', 'OPENAI_API_KEY': '$abc'}
    """
    # dotenv.dotenv_values would only log the lines that it skips.
    from dotenv.parser import parse_stream

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise source_error(label, "is not UTF-8 text", "Save it as UTF-8.")
    entries: dict[str, object] = {}
    for binding in parse_stream(io.StringIO(text)):
        # python-dotenv takes a line without "=" for a name without a value; it may be a pasted secret, and
        # must not travel on as a name.
        if binding.error or (binding.key is not None and binding.value is None):
            leading = len(binding.original.string) - len(binding.original.string.lstrip())
            line = binding.original.line + binding.original.string[:leading].count("\n")
            raise source_error(
                label,
                f"cannot be read in line {line}",
                "Write NAME=value, and close every quote that you open.",
            )
        if binding.key is not None:
            entries[binding.key] = binding.value
    return entries
