"""A command group that lists its commands without importing them, and imports the one that is called."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

SUMMARIES = {
    "demo": "Run the whole workflow on synthetic scans in a few minutes.",
    "annotate": "Label scans in the browser with model-suggested masks.",
    "train": "Fine-tune SAM on a folder of labelled volumes.",
    "evaluate": "Score a run, or a folder of masks, against reference labels.",
    "compare": "Compare methods on the same cases.",
    "report": "Write one HTML page about a run.",
    "predict": "Segment new volumes with a run.",
    "suggest": "Rank scans without labels: which ones to label next.",
    "export": "Export a run's network to TorchScript or ONNX.",
    "data": "Check, convert and split data sets.",
    "bundles": "List, describe, check and copy bundles.",
    "weights": "List, download and verify pretrained SAM weights.",
    "adapters": "Publish a run's adapter, or make a run from a published one.",
    "cache": "Show and empty the slice cache.",
    "info": "Print versions, devices and folders.",
}


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only notes and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print log lines, and tracebacks of errors.")]


class LazyGroup(TyperGroup):
    """The commands of `SUMMARIES`; the module of the same name in this package defines each of them.

    A module has either a function of the command's name, or a Typer ``app`` of subcommands.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in SUMMARIES.items()}

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Help that looks as that of the commands, but imports no Markdown parser, which took Typer's longest."""
        from rich.console import Console
        from rich.padding import Padding
        from rich.panel import Panel
        from rich.table import Table

        console = Console(highlight=False)
        usage = " ".join(self.collect_usage_pieces(ctx))
        console.print(Padding(f"[bold yellow]Usage:[/] [bold]{ctx.command_path} {escape(usage)}[/]", 1))
        console.print(Padding(escape(self.help or ""), (0, 1, 1, 1)))
        options = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx)]
        for title, rows in (("Options", options), ("Commands", SUMMARIES.items())):
            table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
            for name, text in filter(None, rows):
                table.add_row(f"[bold cyan]{escape(name)}[/]", escape(text))
            console.print(Panel(table, title=title, title_align="left", border_style="dim"))
        if self.epilog:
            console.print(Padding(escape(self.epilog), 1))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called, its module imported."""
        if args and args[0] in SUMMARIES:
            self.commands[args[0]] = load_command(args[0])
        return super().resolve_command(ctx, args)


def load_command(name: str) -> Any:
    """The command of a name, its module imported."""
    module = importlib.import_module(f".{name}", __package__)
    if hasattr(module, "app"):
        for each in module.app.registered_commands:
            each.callback = with_verbosity(each.callback)
        command = get_group(module.app)
    else:
        app = typer.Typer(add_completion=False)
        app.command(name, epilog=getattr(module, "EPILOG", None))(with_verbosity(getattr(module, name)))
        command = get_command(app)
    command.name = name
    return command


def with_verbosity(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command with the options ``--quiet`` and ``--verbose``, which every command has."""
    if hasattr(function, "__wrapped__"):  # it has them already
        return function

    @functools.wraps(function)
    def command(*arguments: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> Any:
        from .console import set_verbosity

        set_verbosity(quiet, verbose)
        return function(*arguments, **options)

    signature = inspect.signature(function, eval_str=True)
    added = {"quiet": Quiet, "verbose": Verbose}
    parameters = [
        *signature.parameters.values(),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=added[name])
            for name in added
        ),
    ]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    if function.__doc__:  # Typer would keep the line ends of all paragraphs but the first
        paragraphs = inspect.cleandoc(function.__doc__).split("\n\n")
        command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    command.__annotations__ = {**{name: each.annotation for name, each in signature.parameters.items()}, **added}
    return command
