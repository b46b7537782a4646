"""The fenced blocks of README and docs, read as a reader would type them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import typer

from medsam_adapt.cli.main import app

REPOSITORY = Path(__file__).parents[1]
_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_COMMENT = re.compile(r"(^|\s)#(\s.*)?$")  # as for a shell, a # in a word is none
SHELL = ("bash", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``not_run`` is the reason that a comment above it gives, None where there is none."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [command for line in lines for command in _commands(shlex.split(_COMMENT.sub("", line)))]


def pages() -> list[Path]:
    """README and every page of docs."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in its order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(REPOSITORY).as_posix()
    return [
        Block(name, text.count("\n", 0, found.start()) + 1, found["language"], found["text"], found["reason"])
        for found in _FENCE.finditer(text)
    ]


def parse(words: list[str]) -> dict[str, object]:
    """The values of a ``medsam-adapt`` command's parameters, and its ``name``; typer refuses what it does not know."""
    command, arguments, parents = typer.main.get_command(app), words[1:], []
    context = None
    while hasattr(command, "resolve_command"):
        context = command.make_context(words[0], arguments, parent=context, resilient_parsing=True)
        name, command, arguments = command.resolve_command(context, arguments)
        parents.append(name)
    context = command.make_context(name, list(arguments), parent=context)
    return {**context.params, "name": " ".join(parents)}


def _commands(words: list[str]) -> list[list[str]]:
    """A line's commands, which && divides, without the variables that are set in front of them."""
    found: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            found[-1].append(word)
    return [command for command in found if command]
