r"""Where source code is best cut: before a top-level definition, else before an indented one, then as any text.

A definition is a line that begins with what its language defines things with. Comments, decorators and annotations
directly above it stay with it. LangChain's separators for languages were looked at and not taken: they know no
indented method of Java, no decorator, no ``async def``, and importing them costs 0.4 s.
"""

from __future__ import annotations

from functools import lru_cache

from oraculo_kit.cutting import RECURSIVE, Level, at_matches

_MODIFIERS = (
    "public|protected|private|internal|static|abstract|final|override|virtual|async|open|sealed|suspend|export|default"
    "|partial|unsafe|extern|inline|operator|synchronized|native|data|case|implicit|lazy|readonly|declare"
)
_TYPES = (
    "class|interface|enum|record|struct|object|trait|namespace|module|delegate|extension|protocol|mixin|actor"
)
_CALLABLES = "fun|func|def|val|var|let|init|constructor|function|type|typealias|typedef"
_C_FAMILY = rf"(?:{_MODIFIERS}|{_TYPES}|{_CALLABLES})\b"

# What a line begins with that defines something, by file extensions.
_DEFINITIONS = {
    "py pyi": r"(?:class|def|async[ ]def)\b",
    "js mjs cjs jsx ts tsx vue svelte": rf"(?:{_MODIFIERS}|class|interface|enum|namespace|function|const|let|var|type)\b"
    r"|(?:get[ ]|set[ ])?[\w$#]++\([^\n;{]*+\{",
    "java kt scala groovy cs swift dart": rf"{_C_FAMILY}",
    "c h cc cpp cxx hpp m": rf"(?:{_TYPES}|template|typedef|union|static|extern|inline|void)\b|[A-Za-z_][\w\t *&:<>,~]*+\(",
    "go": r"(?:func|type|var|const)\b",
    "rs": r"(?:pub|fn|struct|enum|trait|impl|mod|async|unsafe|const|static|type|macro_rules!)(?:\b|[ ({])",
    "rb": r"(?:class|module|def)\b",
    "php": rf"(?:{_MODIFIERS}|{_TYPES}|function)\b",
    "sql": r"(?i:create|alter|drop|insert|update|delete|select|with|merge|grant|begin|declare|truncate|comment)\b",
    "r": r"[\w.`]++[ \t]*+(?:<-|=)[ \t]*+function\b|set(?:Class|Method|Generic|RefClass)\(",
    "jl": r"(?:function|struct|mutable|macro|module|abstract|const)\b",
    "lua": r"(?:local|function)\b",
    "pl pm": r"(?:sub|package)\b",
    "sh bash zsh": r"function\b|[\w-]++[ \t]*+\(\)",
    "ps1": r"(?i:function|class|param|enum|filter)\b",
    "ex exs": r"(?:def\w*+|@doc|@spec)\b",
    "erl hs": r"[a-z]\w*+[ \t]*+(?:::|\()|(?:data|newtype|type|class|instance|module)\b",
    "clj": r"\(",
    "f90": r"(?i:module|subroutine|function|program|contains|type)\b",
    "vb bas": r"(?i:public|private|friend|global|static|sub|function|property|class|module|type|enum)\b",
    "pas": r"(?i:procedure|function|type|var|const|begin|unit|interface|implementation)\b",
    "proto graphql": r"(?:message|service|enum|extend|type|input|interface|query|mutation|fragment|scalar|schema)\b",
    "tf": r"(?:resource|data|module|variable|output|provider|locals|terraform)\b",
    "tex": r"\\(?:part|chapter|section|subsection|subsubsection|begin)\b",
}
_PATTERNS = {
    extension: pattern for extensions, pattern in _DEFINITIONS.items() for extension in extensions.split()
}
# A line above a definition that belongs to it. In Python, R, shells and the like "#" is a comment; in C, a directive.
_ABOVE = r"(?:@|#|//|/\*|\*|--|;;|%|\"\"\")"


@lru_cache(maxsize=64)
def code_levels(extension: str) -> tuple[Level, ...] | None:
    r"""Return the levels for source code in a language, by the extension of its files, or None where it is unknown.

    Examples
    --------
    >>> cut_before_definitions = code_levels("py")[0]
    >>> cut_before_definitions("import os\n\n@cache\ndef f():\n    pass\n", 0, 36)
    [10]
    >>> code_levels("txt") is None
    True
    """
    pattern = _PATTERNS.get(extension)
    if pattern is None:
        return None
    return (_definitions(pattern, ""), _definitions(pattern, r"[ \t]++"), *RECURSIVE)


def _definitions(pattern: str, indent: str) -> Level:
    # What is matched is passed over: however many lines stand above no definition, each is looked at once.
    return at_matches(
        rf"(?:\n{indent}(?:[ ](?=\*))?{_ABOVE}[^\n]*+)++(?:\n{indent}(?:{pattern}))?+|\n{indent}(?:{pattern})"
    )
