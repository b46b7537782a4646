"""Volumes and mean grey levels of a segmentation, whatever its form and however it lies in memory."""

from types import SimpleNamespace

import numpy as np
import pytest

from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.outputs import Segmentation
from medsam_adapt.prediction.case_runner import CaseRunner
from medsam_adapt.runs.statistics import ClassStatistics, TrainingStatistics

NAMES, LABEL_IDS = ["liver", "lost", "spleen"], [300, 7, 2]
VOXEL_ML = 0.5  # of 5 x 10 x 10 mm


def label_map() -> np.ndarray:
    """20 voxels of liver with the grey level 50, and spleen in pieces of 6 and 2 voxels with 100 and 180."""
    voxels = np.zeros((7, 6, 5), np.uint16)
    voxels[1:5, 1:6, 2] = 300
    voxels[0, 0:3, 0:2], voxels[6, 4:6, 4] = 2, 2
    return voxels


def grey_image(voxels: np.ndarray) -> np.ndarray:
    image = np.select([voxels == 300, voxels == 2], [50, 100], 255)
    image[6, 4:6, 4] = 180
    return image


@pytest.mark.parametrize("layout", ["C", "F", "backwards"])
@pytest.mark.parametrize("form", ["labels", "masks", "colours"])
def test_volumes_and_means(form, layout):
    voxels = label_map()
    image = grey_image(voxels)
    if form == "colours":
        image = np.stack([image - 10, image, image + 10], axis=-1)
    if form == "masks":
        voxels = np.stack([voxels == label_id for label_id in LABEL_IDS]).astype(np.uint8)
    if layout == "F":
        voxels = np.asfortranarray(voxels)
    elif layout == "backwards":
        voxels = np.ascontiguousarray(voxels[..., ::-1])[..., ::-1]
    policy = IntensityPolicy(kind="window", low=0, high=255)
    far = ClassStatistics(volume_ml=[], grey_level=[0.0])  # so that a flag shows the mean
    runner = CaseRunner(
        SimpleNamespace(record=SimpleNamespace(policy=policy, absent=[])),
        statistics=TrainingStatistics(classes=dict.fromkeys(NAMES, far)),
    )
    header = SimpleNamespace(affine=np.diag([-5.0, 10.0, 10.0, 1.0]))
    volumes, flags = runner._measure(Segmentation(voxels, NAMES, LABEL_IDS), image, header)
    assert volumes == {"liver": 20 * VOXEL_ML, "lost": 0.0, "spleen": 8 * VOXEL_ML}
    reported = [(flag.structure, flag.kind, flag.text) for flag in flags]
    assert reported == [
        ("liver", "intensity", "liver has a mean grey level of 50; in the training cases 0 to 0"),
        ("lost", "empty", "lost was not found"),
        ("spleen", "pieces", "spleen is in 2 pieces, the largest of which has 75 %"),
        ("spleen", "intensity", "spleen has a mean grey level of 120; in the training cases 0 to 0"),
    ]
