"""`--help` of every command: whole texts, real defaults, short panels, and examples that can be typed."""

import re
import shlex

import pytest

from medsam_adapt.bundle.catalogue import DEFAULT_BUNDLE, recipe_values
from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.cli.lazy_group import SUMMARIES, load_command
from medsam_adapt.cli.main import app, main
from medsam_adapt.config import Knobs
from tests.doc_blocks import parse

LONGEST_PANEL = 15  # options
GROUPS = {name: load_command(name) for name in SUMMARIES}
COMMANDS = {name: command for name, command in GROUPS.items() if not hasattr(command, "commands")}
COMMANDS |= {
    f"{group} {name}": command
    for group, each in GROUPS.items()
    for name, command in getattr(each, "commands", {}).items()
}
every_command = pytest.mark.parametrize("name", COMMANDS)


def printed_help(words, monkeypatch, capsys):
    """Lines of the help on a wide terminal, without frames, and with single spaces."""
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert not stopped.value.code
    return [" ".join(line.strip("│ ").split()) for line in capsys.readouterr().out.splitlines()]


@every_command
def test_no_text_is_swallowed_or_broken(name, monkeypatch, capsys):
    """Rich takes words in square brackets for styles and does not print them."""
    command, lines = COMMANDS[name], printed_help(name.split(), monkeypatch, capsys)
    for parameter in command.params:
        wanted = " ".join((parameter.help or "").split())
        if isinstance(parameter.show_default, str):
            wanted += f" [default: ({parameter.show_default})]"
        elif parameter.show_default and parameter.default and not parameter.required:
            wanted += " [default: "
        assert any(wanted in line for line in lines), wanted
    for paragraph in command.help.split("\n\n"):
        assert " ".join(paragraph.split()) in lines
    for line in (command.epilog or "").splitlines():
        assert line in lines


def test_the_help_of_all_commands_shows_where_to_start(monkeypatch, capsys):
    lines = printed_help([], monkeypatch, capsys)
    assert app.info.epilog in lines
    for name, summary in SUMMARIES.items():
        assert f"{name} {summary}" in lines


@every_command
def test_no_panel_is_long(name):
    panels = [getattr(parameter, "rich_help_panel", None) for parameter in COMMANDS[name].params]
    assert max(map(panels.count, panels), default=0) < LONGEST_PANEL  # --help itself is added to one of them


@pytest.mark.parametrize("name", ["train", "compare"])
def test_defaults_named_are_those_of_every_bundle(name):
    named = {}
    for parameter in COMMANDS[name].params:
        if isinstance(parameter.show_default, str) and parameter.name in Knobs.model_fields:
            named[parameter.name] = parameter.show_default.removesuffix(", or the paper's")
    assert named.items() >= {"epochs": "40", "prompt": "none", "precision": "auto"}.items()
    if name == "train":
        assert next(each for each in COMMANDS[name].params if each.name == "bundle").show_default == DEFAULT_BUNDLE
        assert named.items() >= {"seed": "0", "folds": "5", "layout": "auto"}.items()
    for key in named.keys() & {"epochs", "prompt", "precision", "seed", "folds", "layout"}:
        for bundle in bundle_names():
            value = recipe_values(bundle, "default").get(key, Knobs.model_fields[key].default)
            assert str(value) == named[key], (bundle, key)


@pytest.mark.parametrize("name", ["train", "compare", "evaluate", "predict"])
def test_examples_can_be_typed(name):
    examples = re.findall(r"^medsam-adapt .*", COMMANDS[name].epilog, re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        assert parse(shlex.split(example))["name"] == name
        assert len(example) < 80
