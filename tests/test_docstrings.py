"""Docstrings and signatures agree: an ``Args`` section names every argument, in order, and none that is not there.

What stands for ``*args`` and ``**kwargs`` is named as it is passed.
"""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MODULES = sorted([*(REPOSITORY / "medsam_adapt").rglob("*.py"), *(REPOSITORY / "cli").rglob("*.py")])


def documented(docstring):
    """The names under ``Args:``; None without such a section."""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", docstring, re.MULTILINE)
    if section is None:
        return None
    return [
        name for line in re.findall(r"^ {4}(\*{0,2}\w[\w, ]*?):", section[1], re.MULTILINE) for name in line.split(", ")
    ]


def arguments(function):
    """The names of a function's arguments, but for self and cls, and whether it takes others."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")], bool(given.vararg or given.kwarg)


def described(tree):
    """(name, line, docstring, arguments) of every function, and of every class that has ``__init__``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node.lineno, ast.get_docstring(node), arguments(node)
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    yield node.name, node.lineno, ast.get_docstring(node), arguments(part)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_arguments_are_those_that_there_are(module):
    for name, line, docstring, (there, takes_others) in described(ast.parse(module.read_text(encoding="utf-8"))):
        names = documented(docstring or "")
        if names is not None:
            reported = [argument for argument in names if argument in there] if takes_others else names
            assert reported == there, f"{module}:{line} {name}"
