"""Regions as nnU-Net writes them: painted one over the other into one label map."""

import numpy as np

from medsam_adapt.outputs import Segmentation
from medsam_adapt.prediction.case_runner import paint
from medsam_adapt.prediction.plan import Outputs


def test_each_region_is_painted_over_those_before_it():
    whole, core, enhancing = (np.zeros((6, 1, 1), np.uint8) for _ in range(3))
    whole[1:5], core[2:4], enhancing[3] = 1, 1, 1
    found = paint(
        Segmentation(np.stack([whole, core, enhancing]), ["whole", "core", "enhancing"], [1, 2, 3]), [2, 1, 4]
    )
    np.testing.assert_array_equal(found.voxels[:, 0, 0], [0, 2, 1, 4, 2, 0])
    assert (found.names, found.label_ids, found.overlapping) == (["whole", "core", "enhancing"], [2, 1, 4], False)


def test_one_file_holds_painted_regions_unless_masks_are_asked_for():
    assert not Outputs().checked(overlapping=True, painted=True).per_class
    assert Outputs().checked(overlapping=True).per_class
    assert Outputs(per_class=True).checked(overlapping=True, painted=True).per_class
