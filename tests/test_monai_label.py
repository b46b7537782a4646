"""A run's folder as a model of MONAI Label's server; see docs/monai_label.md."""

import nibabel as nib
import numpy as np
import pytest
import torch

pytest.importorskip("monailabel", reason="MONAI Label is not installed: see docs/monai_label.md", exc_type=ImportError)


@pytest.fixture(scope="module")
def run(phantoms, tmp_path_factory):
    from medsam_adapt.bundle import resolve_knobs
    from medsam_adapt.cli.train import run_training

    folder = tmp_path_factory.mktemp("label") / "run"
    sets = {"image_size": 32, "min_steps": 1, "epochs": 1, "batch_size": 2}
    run_training("lora", phantoms, folder, resolve_knobs("lora", sets=sets), "cpu")
    (folder / "models" / "state.pt").unlink()  # or MONAI Label may take it for the model
    weights, random = torch.load(folder / "models" / "model.pt"), torch.Generator().manual_seed(0)
    for name, tensor in weights.items():
        if "output_hypernetworks" in name:  # after so little training all voxels would be background
            tensor += 0.3 * torch.randn(tensor.shape, generator=random)
    torch.save(weights, folder / "models" / "model.pt")
    return folder


@pytest.fixture
def turned(phantoms, tmp_path):
    """A volume that is not stored in RAS order."""
    image = nib.load(sorted((phantoms / "images").iterdir())[0])
    path = tmp_path / "turned.nii.gz"
    nib.save(image.as_reoriented(np.array([[1, 1], [2, -1], [0, -1]])), path)
    return path


def test_monai_label_segments_as_predict_does(run, turned, tmp_path):
    from monailabel.tasks.infer.bundle import BundleInferTask

    from medsam_adapt.cli.predict import run_prediction

    task = BundleInferTask(str(run), {})
    assert task.is_valid()
    assert task.labels == {"liver": 1, "right kidney": 2, "spleen": 3, "left kidney": 4, "aorta": 5}
    theirs, _ = task({"image": str(turned), "device": "cpu"})
    (ours,) = run_prediction(run, turned, tmp_path / "masks", "cpu")
    expected, mask = nib.load(ours), nib.load(theirs)
    assert np.allclose(mask.affine, expected.affine)
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(expected.dataobj))
    assert len(np.unique(expected.dataobj)) > 2
