"""The demo's steps, on tiny phantoms; `.ci/run` runs it as it is."""

import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.data.phantom.phantom import write_phantoms
from medsam_adapt.workflows import demo as module
from medsam_adapt.workflows.demo import demo

SETTINGS = {"held_out": 0.2, "image_size": 32, "batch_size": 16, "min_steps": 1, "max_steps": 2, "average": 0}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(module, "SETTINGS", SETTINGS)
    monkeypatch.setattr(module, "_baseline", lambda train, held_out, seed: 0.25)
    monkeypatch.setattr(
        module,
        "_make_data",
        lambda output, seed, reporter: write_phantoms(output / "data", 3, seed, shape=(40, 36, 12)),
    )


def test_the_command_and_the_function_show_the_same_result(tiny, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--output", str(tmp_path / "command"), "--epochs", "1", "--device", "cpu"])
    assert not stopped.value.code
    out = capsys.readouterr().out
    done = demo(tmp_path / "function", epochs=1, device="cpu")
    assert not capsys.readouterr().out
    assert f"Mean DSC on 1 scan that it did not train on: {done.mean_dsc:.3f} (seed 0)" in out
    assert "nearest mean intensity scores 0.250" in out
    assert done.mask.is_file()
    assert (done.run / "metrics.json").is_file()
    assert len(done.held_out) == 1
