"""AGENTS.md: its commands work, and the folders that it names exist."""

import json
import re
import shlex

import pytest

from medsam_adapt.cli.main import main

from .doc_blocks import REPOSITORY, parse

TEXT = (REPOSITORY / "AGENTS.md").read_text(encoding="utf-8")
BLOCKS = [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)]
OURS = [shlex.split(line, comments=True) for block in BLOCKS for line in block if line.startswith("medsam-adapt")]
ALONE = [words for words in OURS if not any(word.isupper() for word in words)]


def test_commands_are_named():
    assert len(ALONE) >= 6
    assert {words[1] for words in OURS} >= {
        "info",
        "bundles",
        "weights",
        "data",
        "train",
        "evaluate",
        "compare",
        "predict",
    }


@pytest.mark.parametrize("words", ALONE, ids=" ".join)
def test_a_command_that_needs_nothing_prints_json(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words[1:])
    assert not stopped.value.code
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_takes_its_options(words):
    assert parse(words)["as_json"] is True


def test_tools_and_tests_named_exist():
    for line in BLOCKS[0]:
        if "pytest" in line:
            assert (REPOSITORY / shlex.split(line)[-1]).exists(), line
    assert re.search(r"^ruff check", "\n".join(BLOCKS[0]), re.MULTILINE)
    for name in re.findall(r"`(\.ci/\w+)`", TEXT):
        assert (REPOSITORY / name).is_file(), name


def test_every_folder_named_exists():
    rows = re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)
    assert len(rows) >= 10
    for row in rows:
        first, *others = re.findall(r"`([\w/]+)/`", row)
        for folder in (first, *others):
            places = (REPOSITORY / folder, REPOSITORY / "medsam_adapt" / folder)
            assert any(place.is_dir() for place in places), folder
