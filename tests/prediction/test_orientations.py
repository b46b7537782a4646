"""A trained run gives the same anatomy however the axes of a file run."""

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt import load_run
from medsam_adapt.data.phantom.phantom import write_phantoms
from medsam_adapt.data.volumes.io import from_ras, to_ras
from medsam_adapt.prediction.case_runner import CaseRunner
from medsam_adapt.prediction.plan import Outputs, plan_cases
from medsam_adapt.workflows.train import train
from tests.data.slices.test_geometry import affine_of
from tests.data.volumes.test_io import ORIENTATIONS
from tests.made_runs import differing

SPACING = (2.0, 3.0, 5.0)
OBLIQUE = np.array([[1.9, -0.6, 0.2, 7], [0.4, 2.9, -0.3, -30], [-0.1, 0.3, 4.9, 12], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def trained(tiny_nano, tmp_path_factory):
    """A run of a few steps on asymmetric phantoms, and a patient that it did not see: voxels and labels in RAS."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_phantoms(folder / "data", 4, seed=3, shape=(40, 36, 10), orientation="RAS")
    new = [data / kind / "phantom_003.nii.gz" for kind in ("images", "labels")]
    image, label = (np.asarray(nib.load(path).dataobj) for path in new)
    for path in new:
        path.unlink()
    sets = {"image_size": 64, "epochs": 1, "min_steps": 100, "held_out": 0.0, "val_interval": 2, "learning_rate": 2e-3}
    train(data, folder / "run", bundle="decoder", sets=sets, device="cpu")
    return folder / "run", image, label


def test_a_trained_run_finds_the_same_anatomy_in_every_orientation(trained, tmp_path):
    run, image, label = trained
    axes = {codes: nib.orientations.axcodes2ornt(codes)[:, 0].astype(int) for codes in ORIENTATIONS}
    places = {codes: affine_of(codes, np.take(SPACING, stored)) for codes, stored in axes.items()}
    places["oblique"] = OBLIQUE
    (tmp_path / "in").mkdir()
    for codes, affine in places.items():
        nib.save(nib.Nifti1Image(from_ras(image, affine), affine), tmp_path / "in" / f"{codes}.nii.gz")
    runner = CaseRunner(load_run(run, "cpu"))
    found = {}
    for case in plan_cases(tmp_path / "in", tmp_path / "out", Outputs()).cases:
        runner.run(case)
        mask = nib.load(case.outputs["segmentation"])
        found[case.header.path.name.split(".")[0]] = to_ras(np.asarray(mask.dataobj), mask.affine)[0]
    assert set(found) == set(places)
    liver = 2 * ((found["RAS"] == 1) & (label == 1)).sum() / ((found["RAS"] == 1).sum() + (label == 1).sum())
    assert liver > 0.5  # so that it is an answer at all
    oblique = found.pop("oblique")
    assert max(differing(mask, found["RAS"]) for mask in found.values()) <= 1e-5
    assert differing(oblique, found["RAS"]) < 0.05  # its voxels are of slightly other proportions
