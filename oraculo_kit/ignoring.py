r"""What `.oraculoignore` files leave out of a folder: the patterns of gitignore.

- A file counts for the folder it lies in and everything below; one further down wins over one further up, and a later
  line over an earlier one.
- ``notes.md`` and ``*.log`` match at any depth, a pattern with a slash (``/drafts``, ``2023/*.pdf``) only from the
  file's own folder on. ``drafts/`` matches folders only; ``**`` stands for any number of folders; ``!`` takes back in.
- Nothing below a folder that is left out is looked at, so nothing there can be taken back in.
- Names that are passed over anyway (a leading dot, ``node_modules``) are taken in by naming them: ``!.github``.

Matching goes folder by folder, each name by a pattern that never backtracks: a hostile file costs no time. ``pathspec``
does the same, but its licence (MPL) asks more of those who pass it on than ours does.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

IGNORE_FILE = ".oraculoignore"

MAX_IGNORE_BYTES = 1 << 20

_FLAGS = re.DOTALL | (re.IGNORECASE if os.name == "nt" else 0)
_MANY_STARS = re.compile(r"\*{2,}")
_ANY_FOLDERS = None  # what "**" is in a rule's parts


@dataclass(frozen=True)
class IgnoreRule:
    """One line of an ignore file.

    Attributes
    ----------
    parts : tuple of (re.Pattern or None)
        One pattern for each name of a path; None for any number of folders.
    takes_in : bool
        Begins with ``!``.
    folders_only : bool
        Ends with a slash.
    """

    parts: tuple[re.Pattern[str] | None, ...]
    takes_in: bool
    folders_only: bool

    def matches(self, names: Sequence[str], *, is_folder: bool) -> bool:
        """Tell whether the rule is about a path, given as its names from the ignore file's folder on."""
        if self.folders_only and not is_folder:
            return False
        if len(self.parts) == 2 and self.parts[0] is _ANY_FOLDERS and self.parts[1] is not _ANY_FOLDERS:
            return self.parts[1].fullmatch(names[-1]) is not None  # most rules: a name at any depth
        # reached[i]: the first i names are matched by the parts so far.
        reached = [True] + [False] * len(names)
        for place, part in enumerate(self.parts):
            if part is _ANY_FOLDERS:
                first = next((i for i, yes in enumerate(reached) if yes), len(names) + 1)
                # At the end "**" stands for what is in a folder, at least one name, and not for the folder itself.
                first += place == len(self.parts) - 1
                reached = [i >= first for i in range(len(names) + 1)]
            else:
                reached = [
                    i > 0 and reached[i - 1] and part.fullmatch(names[i - 1]) is not None
                    for i in range(len(names) + 1)
                ]
        return reached[-1]


@dataclass(frozen=True)
class IgnoreRules:
    """The rules of one ignore file.

    Attributes
    ----------
    folder : str
        Where it lies.
    rules : tuple of IgnoreRule
        In the file's order.
    """

    folder: str
    rules: tuple[IgnoreRule, ...]

    def verdict(self, path: str, *, is_folder: bool) -> bool | None:
        """Return True to leave a path below the folder out, False to take it in, None to say nothing about it."""
        below = path[len(self.folder.rstrip(os.sep)) + 1 :]
        if not below.isascii():
            below = unicodedata.normalize("NFC", below)
        names = below.split(os.sep)
        for rule in reversed(self.rules):
            if rule.matches(names, is_folder=is_folder):
                return not rule.takes_in
        return None


def is_left_out(path: str, stack: Sequence[IgnoreRules], *, is_folder: bool) -> bool | None:
    """Return the verdict of the innermost ignore file that says anything about a path; None when none does.

    Parameters
    ----------
    path : str
    stack : sequence of IgnoreRules
        Outermost first.
    is_folder : bool
    """
    for rules in reversed(stack):
        verdict = rules.verdict(path, is_folder=is_folder)
        if verdict is not None:
            return verdict
    return None


def parse_ignore_file(content: bytes, folder: str) -> IgnoreRules:
    r"""Return the rules of an ignore file.

    Parameters
    ----------
    content : bytes
        UTF-8; bytes that are no text match nothing.
    folder : str
        The folder that it lies in.

    Examples
    --------
    >>> rules = parse_ignore_file(b"*.log\n!keep.log\n/drafts/\n", "/docs")
    >>> [rules.verdict(f"/docs/{name}", is_folder=False) for name in ("sub/a.log", "keep.log", "a.txt")]
    [True, False, None]
    >>> rules.verdict("/docs/drafts", is_folder=True), rules.verdict("/docs/sub/drafts", is_folder=True)
    (True, None)
    """
    text = unicodedata.normalize("NFC", content.decode("utf-8-sig", "surrogateescape"))
    rules = (_rule(line.removesuffix("\r")) for line in text.split("\n"))
    return IgnoreRules(folder, tuple(rule for rule in rules if rule is not None))


def _rule(line: str) -> IgnoreRule | None:
    line = _without_trailing_spaces(line)
    if not line or line.startswith("#"):
        return None
    takes_in = line.startswith("!")
    pattern = line[takes_in:]
    folders_only = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    if not pattern:
        return None
    anchored = "/" in pattern
    names = pattern.removeprefix("/").split("/")
    try:
        parts = [
            _ANY_FOLDERS if _MANY_STARS.fullmatch(name) else re.compile(_translated(name), _FLAGS)
            for name in names
        ]
    except _MalformedError:
        return None  # git lets such a line match nothing
    return IgnoreRule(tuple(parts if anchored else [_ANY_FOLDERS, *parts]), takes_in, folders_only)


def _without_trailing_spaces(line: str) -> str:
    stripped = line.rstrip(" ")
    # An odd number of backslashes before it: the first of the spaces is meant.
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and len(stripped) < len(line) else stripped


class _MalformedError(Exception):
    """A bracket that never closes, or a backslash with nothing behind it."""


def _translated(name: str) -> str:
    """Return a regular expression for one name.

    What stands between two stars has a fixed length, so its first occurrence is as good as any: each star but the last
    is an atomic group, and the search never goes back.
    """
    pieces: list[str] = [""]
    place = 0
    while place < len(name):
        letter = name[place]
        place += 1
        if letter == "*":
            pieces.append("")
        elif letter == "?":
            pieces[-1] += "."
        elif letter == "[":
            place, group = _bracket(name, place)
            pieces[-1] += group
        elif letter == "\\":
            if place == len(name):
                raise _MalformedError
            pieces[-1] += re.escape(name[place])
            place += 1
        else:
            pieces[-1] += re.escape(letter)
    if len(pieces) == 1:
        return pieces[0]
    between = "".join(f"(?>.*?{piece})" for piece in pieces[1:-1] if piece)
    return f"{pieces[0]}{between}.*{pieces[-1]}"


def _bracket(name: str, place: int) -> tuple[int, str]:
    """Return where a bracket ends, and what it means."""
    negated = name[place : place + 1] in ("!", "^")
    place += negated
    letters: list[str] = []
    first = True
    while True:
        letter = name[place : place + 1]
        if not letter:
            raise _MalformedError
        place += 1
        if letter == "]" and not first:
            break
        first = False
        if letter == "\\":
            letter = name[place : place + 1]
            if not letter:
                raise _MalformedError
            place += 1
        if name[place : place + 1] == "-" and name[place + 1 : place + 2] not in ("", "]"):
            last = name[place + 1]
            place += 2
            if last == "\\":
                last = name[place : place + 1]
                if not last:
                    raise _MalformedError
                place += 1
            if letter <= last:
                letters.append(f"{re.escape(letter)}-{re.escape(last)}")
        else:
            letters.append(re.escape(letter))
    if not letters:
        return place, "." if negated else r"(?!)"
    return place, f"[{'^' if negated else ''}{''.join(letters)}]"
