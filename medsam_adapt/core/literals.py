"""Text from a user on its way through MONAI's config parser, which takes some of it for its own language.

The parser runs what begins with ``$``, replaces what begins with ``@`` or ``%``, and reads ``#`` as ``::`` everywhere.
Commands of this package write such text as an expression of plain hexadecimal digits. Where MONAI itself took the text
(``python -m monai.bundle run``), what was typed is looked up among the options of the command.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError

_LITERAL = re.compile(r"\$bytes\.fromhex\('([0-9a-f]*)'\)\.decode\(\)")
_CHANGED = re.compile(r"^[$@%]|#|::")
_own: set[str] = set()  # text that this package's commands gave to the parser, unchanged by it


def literal(value: Any) -> Any:
    """The same data, its text written so that MONAI's parser gives back exactly that.

    Args:
        value: text, or mappings and lists of it at any depth; anything else is left alone.
    """
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [literal(item) for item in value]
    if not isinstance(value, str) or not _CHANGED.search(value):
        return value
    _own.add(value)
    return f"$bytes.fromhex('{value.encode().hex()}').decode()"


def is_literal(text: str) -> bool:
    """Whether a config's expression is text that `literal` wrote, which does nothing but give it back."""
    return _LITERAL.fullmatch(text) is not None


def decoded(value: Any) -> Any:
    """Undo `literal`: the content of a config, without running anything."""
    if isinstance(value, Mapping):
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    found = _LITERAL.fullmatch(value) if isinstance(value, str) else None
    return bytes.fromhex(found[1]).decode() if found else value


def plain_path(path: Path | str) -> str:
    """A path as text: an absolute one where it would begin with what MONAI's parser runs or replaces."""
    return str(Path(path).absolute()) if str(path)[:1] in ("$", "@", "%") else str(path)


def as_switch(value: bool | str, name: str) -> bool:
    """A switch as MONAI's command gives it, which hands on ``false`` as text, and text is true.

    Raises:
        InputError: neither true nor false.
    """
    known = {"true": True, "false": False}
    found = value if isinstance(value, bool) else known.get(str(value).strip().lower())
    if found is None:
        raise InputError(f"{name}: {value!r} is not a switch. Write true or false.")
    return found


def as_typed(text: str | Path, name: str) -> str:
    """A path that comes out of MONAI's parser, as the user typed it.

    ``python -m monai.bundle run`` hands every word to Python Fire first, which cuts it off at ``#`` as a comment.

    Args:
        text: what the parser gave.
        name: of the setting, such as ``output_dir``.

    Raises:
        InputError: it was changed, and what was typed cannot be known.
    """
    text = str(text)
    typed = _typed_options()
    given = typed.get(name)
    if text in _own or given == text:
        return text
    if given is not None and text in (given.replace("#", "::"), given.partition("#")[0].strip()):
        return given
    derived = given is None and any("#" in typed.get(root, "") for root in ("bundle_root", "config_file"))
    if "::" in text or (derived and name in ("output_dir", "bundle_root")):
        raise InputError(
            f"{name}: MONAI treats # as a special character and gave {text!r}. Give it without #, or use medsam-adapt."
        )
    return text


def _typed_options() -> dict[str, str]:
    """The options of MONAI's own command as they were typed, by the last part of their name; none in other programs."""
    program, *words = sys.argv or [""]
    if Path(program).parts[-2:-1] != ("bundle",):
        return {}
    options: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            options[re.split("#|::", key)[-1]] = value if equals else following
    return options
