import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.volume_transforms import mask_transforms, volume_transforms
from medsam_adapt.data.volumes import io
from tests.data import dicom_files
from tests.data.dicom_files import OBLIQUE

from . import test_formats

POLICY = IntensityPolicy(kind="window", low=-1000, high=1000)


def series(folder):
    return dicom_files.save(folder / "case_1", dicom_files.series(orientation=OBLIQUE))


def nrrd(folder):
    return test_formats.save(folder / "case_1.nrrd", affine=test_formats.upright("PSL"))


def test_loading_a_volume_says_nothing_of_decoders(recwarn, caplog):
    volume_transforms(POLICY)
    assert (recwarn.list, caplog.text) == ([], "")


@pytest.mark.parametrize("write", [series, nrrd])
def test_each_format_goes_through_monais_transforms_and_its_mask_comes_back_on_its_grid(tmp_path, write):
    path = write(tmp_path)
    voxels, header = io.read_volume(path)
    pipeline = volume_transforms(POLICY)
    sample = pipeline({"image": str(path)})
    expected, affine = io.to_ras(voxels, header.affine)
    np.testing.assert_allclose(sample["image"][0], POLICY.apply(expected), atol=1e-3)
    np.testing.assert_allclose(sample["image"].affine, affine, atol=1e-6)
    inside = torch.from_numpy(np.stack([expected < 0, expected >= 0]).astype(np.float32))
    sample["pred"] = MetaTensor(inside, affine=sample["image"].affine)
    mask_transforms(pipeline, [1], tmp_path)(sample)
    mask = nib.load(tmp_path / "case_1_seg.nii.gz")
    np.testing.assert_array_equal(mask.get_fdata(), voxels >= 0)
    np.testing.assert_allclose(mask.affine, header.affine, atol=1e-4)
