"""The clean-up that a run's record has: done by predict and evaluate alike, unless it is switched off."""

import json

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.data.slices.clean_up import ClassCleanUp
from medsam_adapt.data.slices.volume_transforms import CleanEachd, volume_transforms
from medsam_adapt.data.volumes.cleaning import Cleaning, clean_each
from medsam_adapt.inference.inferer import SlicewiseInferer
from medsam_adapt.inference.predictor import load_run
from tests.made_runs import make_run

CHOSEN = [
    {"name": "liver", "step": "largest", "dsc": {"none": 0.7, "largest": 0.8}, "patients": 6, "held_out": True},
    {"name": "right kidney"},
    {"name": "spleen", "step": "small", "min_volume_ml": 0.02},
]
SIDES = (1, 1, 2)
STEPS = {1: Cleaning(largest_component=True), 3: Cleaning(min_volume_ml=0.02)}


@pytest.fixture
def scan(tmp_path):
    """The path of a scan of noise, with voxels of 2 mm³."""
    voxels = np.random.default_rng(0).normal(40, 90, (24, 20, 9)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([*SIDES, 1])), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def predicted(runs, scan, folder, *options):
    """The mask that `predict` writes."""
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, runs), "-i", str(scan), "-o", str(folder), "--device", "cpu", *options])
    assert not stopped.value.code
    return np.asarray(nib.load(folder / "scan_seg.nii.gz").dataobj)


def test_predict_does_what_was_chosen_unless_it_is_switched_off(tmp_path, scan):
    run = make_run(tmp_path / "run", cleaning=CHOSEN)
    drawn = predicted([run], scan, tmp_path / "drawn", "--no-clean-up")
    cleaned = predicted([run], scan, tmp_path / "cleaned")
    np.testing.assert_array_equal(cleaned, clean_each(drawn, STEPS, SIDES))
    for number in (1, 3):
        assert 0 < (cleaned == number).sum() < (drawn == number).sum()
    np.testing.assert_array_equal(cleaned == 2, drawn == 2)


def test_what_is_asked_for_on_the_command_line_is_done_after_it(tmp_path, scan):
    run = make_run(tmp_path / "run", cleaning=CHOSEN)
    cleaned = predicted([run], scan, tmp_path / "cleaned")
    more = predicted([run], scan, tmp_path / "more", "--largest-component")
    np.testing.assert_array_equal(more, Cleaning(largest_component=True)(cleaned, [1, 2, 3], SIDES))
    assert (more != cleaned).any()


def test_an_earlier_record_has_its_fragments_removed_as_before(tmp_path, scan):
    run = make_run(tmp_path / "run", whole=["liver", "spleen"])
    record = json.loads((run / "run.json").read_text())
    del record["cleaning"]
    (run / "run.json").write_text(json.dumps(record))
    drawn = predicted([run], scan, tmp_path / "drawn", "--no-clean-up")
    quarter = Cleaning(min_share=0.25)
    cleaned = predicted([run], scan, tmp_path / "cleaned")
    np.testing.assert_array_equal(cleaned, clean_each(drawn, {1: quarter, 3: quarter}, SIDES))
    assert (cleaned != drawn).any()


def test_runs_that_segment_together_do_not_what_one_of_them_rejected(tmp_path, scan):
    against = [{"name": "liver", "dsc": {"none": 0.7, "largest": 0.6}, "patients": 6, "held_out": True}]
    runs = [make_run(tmp_path / name, seed=seed, cleaning=CHOSEN) for seed, name in enumerate(("a", "b"))]
    runs.append(make_run(tmp_path / "c", seed=2, cleaning=against))
    drawn = predicted(runs, scan, tmp_path / "drawn", "--no-clean-up")
    cleaned = predicted(runs, scan, tmp_path / "cleaned")
    np.testing.assert_array_equal(cleaned, clean_each(drawn, {3: STEPS[3]}, SIDES))
    assert (cleaned != drawn).any()


def test_a_step_of_a_class_that_the_run_does_not_have_is_refused(tmp_path, scan, capsys):
    run = make_run(tmp_path / "run", cleaning=[{"name": "heart", "step": "largest"}])
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(run), "-i", str(scan), "-o", str(tmp_path / "masks")])
    assert stopped.value.code == 2
    assert "a class in whole or cleaning is none of class_names" in capsys.readouterr().err


def test_evaluate_cleans_up_as_predict_does(tmp_path, scan):
    predictor = load_run(make_run(tmp_path / "run", cleaning=CHOSEN), "cpu")
    slicing = predictor.record.slicing
    image = volume_transforms(slicing.policy)({"id": "scan", "image": str(scan)})["image"][None]
    found = SlicewiseInferer(slicing)(image, predictor.segmenter)
    np.testing.assert_array_equal(found[0, 0], predictor(scan))
    drawn = SlicewiseInferer(slicing.model_copy(update={"cleaning": []}))(image, predictor.segmenter)
    cleaned = CleanEachd("pred", slicing.cleanings)({"pred": drawn[0]})["pred"]  # as MONAI's inference does
    np.testing.assert_array_equal(cleaned[0], predictor(scan))
    assert (drawn[0] != cleaned).any()


def test_the_record_shows_step_and_scores():
    choice = ClassCleanUp(**CHOSEN[0])
    assert json.loads(choice.model_dump_json())["dsc"] == {"none": 0.7, "largest": 0.8}
