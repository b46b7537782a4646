"""The example of docs/api.md runs, on tiny phantoms and with few steps."""

import runpy
import shutil
from functools import partial

import medsam_adapt
from medsam_adapt.workflows.train import train
from tests.doc_blocks import REPOSITORY, blocks


def test_the_example_of_the_functions_runs(phantoms, tmp_path, monkeypatch, capsys):
    (block,) = [each for each in blocks(REPOSITORY / "docs/api.md") if "medsam_adapt.train(" in each.text]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(phantoms, "scans")
    shutil.copytree(phantoms / "images", "new_scans")
    sets = {"min_steps": 1, "batch_size": 16, "max_steps": 2}
    monkeypatch.setattr(medsam_adapt, "train", partial(train, image_size=32, device="cpu", sets=sets), raising=False)
    script = tmp_path / "example.py"
    script.write_text(block.text.replace("epochs=20", "epochs=1"), encoding="utf-8")
    names = runpy.run_path(str(script))
    assert len(names["masks"]) == 3
    assert (tmp_path / "runs/liver/report.html").is_file()
    assert (tmp_path / "masks/report.json").is_file()
    out = capsys.readouterr().out
    assert f"mean DSC {names['scores'].mean['dsc']:.3f}" in out
    assert "to train on" in out
