"""The worked example of docs/add_a_method.md, taken from the page and run."""

import importlib
import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest

import medsam_adapt.methods
from medsam_adapt.bundle import contents
from medsam_adapt.cli.main import main

PAGE = (Path(__file__).parents[1] / "docs" / "add_a_method.md").read_text(encoding="utf-8")
(LIBRARY, TESTS), CHANGES = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("python", "json"))
CONFIGS = ("metadata", "train")


FOLDER = tempfile.TemporaryDirectory()  # of the page's modules, while the tests run
(Path(FOLDER.name) / "normtuning.py").write_text(LIBRARY, encoding="utf-8")
(Path(FOLDER.name) / "normtuning_tests.py").write_text(TESTS, encoding="utf-8")
medsam_adapt.methods.__path__.append(FOLDER.name)
example = importlib.import_module("medsam_adapt.methods.normtuning_tests")
TestNormTuning, test_counts = example.TestNormTuning, example.test_counts  # pytest finds the page's tests here


def test_the_example_is_short():
    assert sum(len(block.splitlines()) for block in (LIBRARY, TESTS, *CHANGES)) < 75


@pytest.fixture
def only_the_example(tmp_path, monkeypatch):
    """The bundle of the page in place of the shipped ones."""
    configs = tmp_path / "bundles" / "normtuning" / "configs"
    shutil.copytree(contents.bundle_folder("decoder"), configs.parent)
    shutil.copytree(contents.shared_folder(), tmp_path / "bundles" / "shared")
    for name, change in zip(CONFIGS, CHANGES, strict=True):
        path = configs / f"{name}.json"
        path.write_text(json.dumps(merged(json.loads(path.read_text()), json.loads(change))))
    monkeypatch.setattr(contents, "bundles_folder", lambda: tmp_path / "bundles")


def merged(config, change):
    """``config`` with the keys that ``change`` names."""
    if not isinstance(change, dict):
        return change
    return {**config, **{key: merged(config.get(key, {}), value) for key, value in change.items()}}


def command(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code in (0, None)


@pytest.mark.usefixtures("only_the_example")
def test_the_example_runs(phantoms, tmp_path, capsys):
    run = tmp_path / "run"
    small = ("--epochs", 1, "--image-size", 32, "--set", "min_steps=1")
    command("train", "--bundle", "normtuning", "--data", phantoms, "--output", run, *small)
    command("evaluate", run)
    command("predict", run, "-i", phantoms / "images", "-o", tmp_path / "masks")
    assert len(list((tmp_path / "masks").iterdir())) == 3
    assert json.loads((run / "run.json").read_text())["adapter"] == {
        "name": "medsam_adapt.methods.normtuning.NormTuning",
        "settings": {"first_block": 0},
    }
    capsys.readouterr()
    command("bundles", "show", "normtuning", "--json")
    assert json.loads(capsys.readouterr().out)["trainable"]["encoder"] == 36_864
