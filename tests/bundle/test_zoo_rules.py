"""The model zoo's rules: kept by every shipped bundle, and each of them noticed when it is broken."""

import json

import pytest

from medsam_adapt.bundle import zoo_rules
from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.bundle.untrusted import copy_bundle
from medsam_adapt.bundle.zoo_rules import network_problem, zoo_problems
from medsam_adapt.cli.main import main


@pytest.mark.parametrize("bundle", bundle_names())
def test_a_copied_bundle_keeps_them(bundle, tmp_path):
    copy_bundle(bundle, tmp_path / bundle)
    assert list(zoo_problems(tmp_path / bundle)) == []


@pytest.fixture
def folder(tmp_path):
    copy_bundle("decoder", tmp_path / "decoder")
    return tmp_path / "decoder"


def change(folder, **values):
    path = folder / "configs" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", zoo_rules.FILES)
def test_a_missing_file_is_told(folder, name):
    (folder / name).unlink()
    (problem,) = zoo_problems(folder)
    assert problem == f"{folder}/{name} is missing: the model zoo asks for it."


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"version": "1"}, "version is '1'. Write three numbers"),
        ({"version": "0.2.0"}, "changelog has no line on version 0.2.0"),
        ({"changelog": "first"}, "changelog has no line on version"),
        ({"required_packages_version": {"nibabel": 5}}, "required_packages_version has to give versions"),
    ],
)
def test_faults_of_the_metadata_are_told(folder, values, words):
    change(folder, **values)
    (problem,) = zoo_problems(folder)
    assert words in problem


def test_what_is_no_metadata_is_told(folder):
    path = folder / "configs" / "metadata.json"
    for text, words in (("{", "is not JSON"), ("[]", "holds no JSON object")):
        path.write_text(text)
        assert words in zoo_problems(folder)[0]


def test_a_large_file_has_to_be_named(folder, monkeypatch):
    monkeypatch.setattr(zoo_rules, "LARGEST_FILE", 1 << 16)
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").write_bytes(bytes(1 << 17))
    assert "model.pt: it is larger than 25 MB" in zoo_problems(folder)[0]
    (folder / "large_files.yml").write_text("large_files:\n  - path: models/model.pt\n    url: https://example.org/m\n")
    assert zoo_problems(folder) == []


def test_an_odd_name_is_told(folder):
    renamed = folder.rename(folder.with_name("my bundle"))
    assert "Rename the folder" in zoo_problems(renamed)[0]


def test_the_network_has_to_give_what_the_metadata_say(folder):
    formats = json.loads((folder / "configs" / "metadata.json").read_text())["network_data_format"]
    formats["outputs"]["pred"]["num_channels"] = 7
    change(folder, network_data_format=formats)
    assert "output channel number `2` doesn't match: `7`" in network_problem(folder)


def test_the_command_holds_a_bundle_to_them(folder, capsys):
    assert call("bundles", "check", "decoder", "--zoo") == 0
    assert "No problems found" in capsys.readouterr().out
    (folder / "LICENSE").unlink()
    renamed = folder.rename(folder.with_name("mine"))
    assert call("bundles", "check", renamed) == 0
    assert call("bundles", "check", renamed, "--zoo") == 2
    assert "LICENSE is missing" in capsys.readouterr().err


def call(*arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0
