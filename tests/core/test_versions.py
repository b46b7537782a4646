"""Files of a newer version are distinguished from damaged ones, wherever they are read."""

import json

import pytest
import torch

from medsam_adapt.cli.main import main
from medsam_adapt.comparison.plan import PLAN_FILE
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.versions import installed_version, newer_error
from medsam_adapt.runs.checkpoint import FORMAT, read_checkpoint, save_tensors
from medsam_adapt.runs.record import read_run
from medsam_adapt.runs.statistics import read_statistics
from medsam_adapt.scoring.summary import read_metrics
from tests.made_runs import make_run


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """What ``run.json`` of this version holds."""
    return json.loads((make_run(tmp_path_factory.mktemp("made") / "run") / "run.json").read_text())


def by_newer(content, version="0.10.0", **changes):
    return {**content, "versions": {**content["versions"], "medsam-adapt": version}, **changes}


def written(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"spline_order": 3},
        {"backbone": "vit_t"},
        {"bundle": "futuresam"},
        {"knobs": {"seed": 0, "warp": True}},
        {"adapter": {"name": "medsam_adapt.methods.futuresam.Warp", "settings": {}}},
        {"channels": "polar", "class_names": {"liver": 1}},
    ],
)
def test_a_run_of_a_newer_version_that_cannot_be_read_asks_for_an_upgrade(tmp_path, content, changes):
    with pytest.raises(
        InputError, match=r"run\.json: it was made by a newer medsam-adapt. Upgrade from \S+ to 0\.10\.0"
    ):
        read_run(written(tmp_path, by_newer(content, **changes)))


def test_a_run_of_a_newer_version_that_this_one_has_all_of_is_read(tmp_path, content):
    assert read_run(written(tmp_path, by_newer(content))).bundle == "blosam"


def test_a_damaged_run_of_this_version_is_damaged(tmp_path, content):
    with pytest.raises(InputError, match=r"run\.json: it is damaged \(backbone"):
        read_run(written(tmp_path, {**content, "backbone": "vit_t"}))
    (tmp_path / "run.json").write_text(json.dumps(content)[:-5])
    with pytest.raises(InputError, match=r"run\.json: it is damaged"):
        read_run(tmp_path)
    with pytest.raises(InputError, match=r"by a newer medsam-adapt\. Upgrade from"):
        read_run(written(tmp_path, {**content, "format": 2, "versions": {}}))


def test_every_other_file_with_a_format(tmp_path):
    for name, read in (("metrics.json", read_metrics), ("statistics.json", read_statistics)):
        (tmp_path / name).write_text(json.dumps({"format": 2, "classes": []}))
        with pytest.raises(InputError, match=rf"{name}: it was made by a newer medsam-adapt. Upgrade"):
            read(tmp_path)
    (tmp_path / "run.json").touch()
    save_tensors({"format": FORMAT + 1, "weights": torch.zeros(2)}, tmp_path / "state.pt")
    with pytest.raises(InputError, match=r"state\.pt: it was made by a newer medsam-adapt. Upgrade"):
        read_checkpoint(tmp_path)


def test_a_comparison_of_a_newer_version(tmp_path, phantoms, capsys):
    (tmp_path / PLAN_FILE).write_text('{"format": 2}')
    with pytest.raises(SystemExit):
        main(["compare", "--bundles", "lora,decoder", "--data", str(phantoms), "--output", str(tmp_path)])
    assert "comparison.json: it was made by a newer medsam-adapt. Upgrade" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("maker", "newer"),
    [("0.1.0", False), ("0.1", False), ("0.1.0.dev1", False), ("0.0.9", False), ("0.1.1", True), ("0.10", True),
     ("1.0.0rc1", True), ("unknown", False), (7, False), (None, False)],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(monkeypatch, maker, newer):
    monkeypatch.setattr("medsam_adapt.core.versions.installed_version", lambda: "0.1.0")
    assert (newer_error("run.json", {"versions": {"medsam-adapt": maker}}) is not None) is newer


def test_the_command_line_prints_its_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert not stopped.value.code
    assert capsys.readouterr().out == f"medsam-adapt {installed_version()}\n"
