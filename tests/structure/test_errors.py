"""Errors have one style: ``<file or option>: <what is wrong>. <What to do>.``, as far as source code shows it."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ERRORS = {"InputError", "RunError"}
VALUE = "\0"  # in place of what is computed
# Messages to which their callers prefix the place: of a prompt within its file.
PREFIXED = {"data/prompts/placement.py"}


_VERB = re.compile(r" (?:is|are|was|has|have|holds|does|cannot|needs|already exists)\b")


def text_of(node: ast.expr) -> str | None:
    """A string with ``VALUE`` for its fields; None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
    return None


def messages(folder: str) -> list[tuple[str, str]]:
    """(place, message) of every error that is raised with a message written out."""
    found = []
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS and node.args:
                text = text_of(node.args[0])
                if text is not None:
                    found.append((f"{path.relative_to(REPOSITORY)}:{node.lineno}", text))
    return found


def fault(text: str, prefixed: bool = False) -> str:
    """What is wrong with the style of a message; nothing where that is fine."""
    text = text.replace(f".{VALUE} ", ". ")  # a sentence that may be empty, see `did_you_mean`
    if not text.endswith((".", "…", VALUE)):
        return "it has no full stop at its end"
    first = re.split(r"\. (?=[A-Z])", text)[0]
    subject = first.partition(": ")[0]
    is_said_elsewhere = re.match(rf"{VALUE}(?:\.|$|\n| \()", first)
    if not prefixed and not is_said_elsewhere and (subject == first or _VERB.search(subject)):
        return "it does not begin with a file or an option and a colon"
    if not re.search(rf"[.…] [A-Z{VALUE}]", text) and not text.startswith(VALUE):
        return "it does not end in a sentence that states what to do"
    if re.search(r"[;:] (?:give|choose|use|name|add|copy|export|leave|run|train|write|correct)\b", text):
        return "what to do is not a separate sentence"
    return ""


@pytest.mark.parametrize("folder", ["medsam_adapt", "cli"])
def test_every_error_names_what_is_wrong_and_what_to_do(folder):
    found = messages(folder)
    assert len(found) >= 8
    wrong = []
    for place, text in found:
        prefixed = any(name in place for name in PREFIXED)
        if why := fault(text, prefixed):
            wrong.append(f"{place}: {why}: {text.replace(VALUE, '{}')}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (f"{VALUE}: it is empty. Copy it again.", True),
        ("--set: there is no such setting. Use one of these.", True),
        (f"{VALUE}: it is empty. Copy it again", False),
        (f"{VALUE} is empty. Copy it again.", False),
        (f"{VALUE}: it is empty; copy it again.", False),
        ("--set: there is no such setting.", False),
        (f"--set: there is no such setting.{VALUE} Use one of these.", True),
    ],
)
def test_the_style_is_recognised(text, right):
    assert (fault(text) == "") is right


def hints(tree: ast.AST) -> set[int]:
    """Ids of the expressions that are `did_you_mean(...)`, or a name that a function gives it."""
    found = set()
    for function in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]:
        names = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and "did_you_mean(" in ast.unparse(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(function):
            is_call = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "did_you_mean"
            if is_call or (function is not tree and isinstance(node, ast.Name) and node.id in names):
                found.add(id(node))
    return found


def misplaced_hints(source: str) -> list[str]:
    """The f-strings in which a hint, which is a whole sentence or nothing, is not between two sentences."""
    tree = ast.parse(source)
    known, wrong = hints(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for place, part in enumerate(node.values):
            if not (isinstance(part, ast.FormattedValue) and id(part.value) in known):
                continue
            before, after = (
                text_of(node.values[at]) if 0 <= at < len(node.values) else None for at in (place - 1, place + 1)
            )
            if not (before or "").endswith(".") or not (after is None or after.startswith(" ")):
                wrong.append(f"{node.lineno}: {ast.unparse(node)}")
    return wrong


def test_a_hint_is_a_sentence_between_two_others():
    """No ``?.``: a question ends with its mark."""
    wrong, uses = [], 0
    for folder in ("medsam_adapt", "cli"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            source, name = path.read_text(encoding="utf-8"), path.relative_to(REPOSITORY).as_posix()
            if "did_you_mean(" in source:
                uses += 1
                wrong += [f"{name}:{text}" for text in misplaced_hints(source)]
            if "get_close_matches" in source and name != "medsam_adapt/core/text.py":
                wrong.append(f"{name}: use core.text.did_you_mean")
            strings = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant | ast.JoinedStr))
            texts = [text_of(node) or "" for node in strings]
            wrong += [f"{name}: {text}" for text in texts if re.search(r"[a-z'\")]\?[.;,]", text)]
    assert uses > 8
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("f'no such layout.{did_you_mean(name, known)} Choose one.'", True),
        ("f'no such layout.{did_you_mean(name, known)}'", True),
        ("f'no such layout{did_you_mean(name, known)}. Choose one.'", False),
        ("f'no such layout.{hint}. Choose one.'", False),
        ("f'no such layout.{hint} Choose one.'", True),
    ],
)
def test_a_misplaced_hint_is_found(line, right):
    source = f"def refuse(name, known):\n    hint = did_you_mean(name, known)\n    return {line}\n"
    assert (not misplaced_hints(source)) is right
