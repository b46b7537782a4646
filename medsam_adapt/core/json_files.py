"""JSON files that users give, read with errors that name the file and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it cannot be read, or is not JSON (the sentence has the line).
    """
    try:
        content = json.loads(text := path.read_text(encoding="utf-8-sig"))
        if "\\ud" in text.lower():  # halves of characters, which no file can be written with if they stand alone
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except OSError as error:
        raise InputError(
            f"{path}: it cannot be read ({error.strerror}). Check the path and its permissions."
        ) from error
    except UnicodeError as error:
        raise InputError(f"{path}: it is not text in UTF-8. Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: it is not JSON at line {error.lineno} ({error.msg}). Correct that line.") from error
    except ValueError as error:  # Python's own limit
        raise InputError(f"{path}: it has a number of too many digits to be read. Correct it.") from error
    except RecursionError as error:
        raise InputError(f"{path}: it is nested too deeply to be read. Write it again.") from error


def read_object(path: Path) -> dict[str, Any]:
    """`read_json` of a file that must hold an object."""
    if not isinstance(content := read_json(path), dict):
        raise InputError(
            f"{path}: it must hold a JSON object, {{...}}, not {type(content).__name__}. Correct the file."
        )
    return content


def peek_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is none to be read: for `looks_like`, which refuses nothing."""
    try:
        return read_object(path)
    except InputError:
        return {}
