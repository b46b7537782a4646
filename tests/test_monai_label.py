"""A run's folder as a model of MONAI Label's task class; `python -m tests.monai_label_check` tests its server."""

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed: see docs/monai_label.md", exc_type=ImportError)


@pytest.fixture(scope="module")
def run(phantoms, tmp_path_factory):
    from tests.monai_label_check import make_run

    return make_run(phantoms, tmp_path_factory.mktemp("label") / "run")


@pytest.fixture
def turned(phantoms, tmp_path):
    """A volume that is not stored in RAS order."""
    from tests.monai_label_check import turned_volume

    return turned_volume(phantoms, tmp_path / "turned.nii.gz")


def test_monai_label_segments_as_predict_does(run, turned, tmp_path):
    from monailabel.tasks.infer.bundle import BundleInferTask

    from medsam_adapt.workflows.predict import predict

    task = BundleInferTask(str(run), {})
    assert task.is_valid()
    assert task.labels == {"liver": 1, "right kidney": 2, "spleen": 3, "left kidney": 4, "aorta": 5}
    theirs, _ = task({"image": str(turned), "device": "cpu"})
    (ours,) = predict(run, turned, tmp_path / "masks", device="cpu")
    expected, mask = nib.load(ours), nib.load(theirs)
    assert np.allclose(mask.affine, expected.affine)
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(expected.dataobj))
    assert len(np.unique(expected.dataobj)) > 2
