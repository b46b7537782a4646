"""Surface metrics against MONAI's, SimpleITK's and every pair of voxels compared."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import binary_dilation, shift

from medsam_adapt.data.volumes.io import read_label
from medsam_adapt.scoring import surface
from medsam_adapt.scoring.metrics import MetricRules, score_volume
from medsam_adapt.scoring.surface import (
    hausdorff95,
    surface_dice,
    surface_dice_by_area,
    surface_distances,
    surface_voxels,
)

SPACING = (0.8, 1.5, 5.0)


def blob(seed, shape=(9, 8, 7), share=0.35):
    """A ragged mask, never empty."""
    random = np.random.default_rng(seed)
    mask = random.random(shape) < share
    mask[tuple(side // 2 for side in shape)] = True
    return mask


def brute_force(first, second, spacing):
    """Directed distances between the surfaces by comparing every pair of voxels."""
    surfaces = []
    for mask in (first, second):
        voxels = []
        for index in np.argwhere(mask):
            neighbours = [index + step for step in [*np.eye(3, dtype=int), *-np.eye(3, dtype=int)]]
            inside = [
                all(0 <= part < side for part, side in zip(neighbour, mask.shape, strict=True))
                and mask[tuple(neighbour)]
                for neighbour in neighbours
            ]
            if not all(inside):
                voxels.append(index * np.asarray(spacing))
        surfaces.append(np.array(voxels))
    apart = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=-1)
    return apart.min(axis=1), apart.min(axis=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dense", [0.0, 1.0])
def test_distances_are_those_of_every_pair_of_voxels(seed, dense, monkeypatch):
    monkeypatch.setattr(surface, "_DENSE", dense)  # by distance transform, and by search
    first, second = blob(seed), blob(seed + 100)
    found, expected = surface_distances(first, second, SPACING), brute_force(first, second, SPACING)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert hausdorff95(found) == pytest.approx(max(np.percentile(directed, 95) for directed in expected))
    together = np.concatenate(expected)
    assert surface_dice(found, 1.5) == pytest.approx((together <= 1.5).mean())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_monai(seed, spacing):
    first, second = blob(seed, (20, 17, 9), 0.6), blob(seed + 7, (20, 17, 9), 0.5)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (first, second)]
    options = {"include_background": True, "spacing": list(spacing)}
    distances = surface_distances(first, second, spacing)
    expected = float(compute_hausdorff_distance(*tensors, percentile=95, **options))
    assert hausdorff95(distances) == pytest.approx(expected, abs=1e-5)
    for tolerance in (1.0, 1.7):
        expected = float(compute_surface_dice(*tensors, [tolerance], **options))
        assert surface_dice(distances, tolerance) == pytest.approx(expected, abs=1e-6)
        expected = float(compute_surface_dice(*tensors, [tolerance], use_subvoxels=True, **options))
        assert surface_dice_by_area(first, second, spacing, tolerance) == pytest.approx(expected, abs=1e-6)


def test_the_border_of_the_volume_is_a_surface():
    mask = np.ones((4, 5, 6), bool)
    expected = np.ones_like(mask)
    expected[1:-1, 1:-1, 1:-1] = False
    np.testing.assert_array_equal(surface_voxels(mask), expected)
    assert surface_voxels(np.ones((3, 3, 1), bool)).all()


def test_single_voxels_are_as_far_apart_as_their_centres():
    first, second = np.zeros((2, 6, 6, 6), bool)
    first[1, 1, 1] = second[3, 4, 2] = True
    distances = surface_distances(first, second, SPACING)
    apart = np.linalg.norm(np.array([2, 3, 1]) * SPACING)
    assert [directed.tolist() for directed in distances] == [[pytest.approx(apart)]] * 2
    assert (surface_dice(distances, apart - 0.01), surface_dice(distances, apart + 0.01)) == (0, 1)


@pytest.mark.parametrize("axis", range(3))
def test_a_shift_along_an_axis_is_measured_in_its_mm(axis):
    ball = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0) < 6
    moved = shift(ball.astype(np.uint8), np.eye(3)[axis] * 2, order=0) > 0
    distances = surface_distances(ball, moved, SPACING)
    assert max(directed.max() for directed in distances) <= 2 * SPACING[axis] + 1e-9
    assert hausdorff95(distances) > 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_surface_elements_weigh_by_their_mm2(order):
    short = np.zeros((30, 30, 14), bool)
    short[5:25, 5:25, 2:4] = True
    long = short.copy()
    long[5:25, 5:25, 4:12] = True  # eight slices of 5 mm too long
    masks = [mask.transpose(order) for mask in (short, long)]
    spacing = [(1, 1, 5)[axis] for axis in order]
    sides, ends = (4 * 20 * 10, 4 * 20 * 50), 2 * 20 * 20  # mm2
    expected = (2 * sides[0] + ends) / (sum(sides) + 2 * ends)  # both have the short one's sides and one end
    assert surface_dice_by_area(*masks, spacing, 0.6) == pytest.approx(expected, abs=0.05)


def itk_distances(first, second, spacing):
    """Directed distances between SimpleITK's contours, by its distance map; axes are its own, (Z, Y, X)."""
    images = []
    for mask in (first, second):
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing([float(side) for side in spacing[::-1]])
        images.append(image)
    contours = [sitk.LabelContour(sitk.ConstantPad(image, [1] * 3, [1] * 3, 0), False) for image in images]
    maps = [
        sitk.GetArrayFromImage(
            sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True, insideIsPositive=False)
        )
        for contour in contours
    ]
    voxels = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
    return np.abs(maps[1][voxels[0]]), np.abs(maps[0][voxels[1]])


def cropped(first, second):
    box = np.argwhere(first | second)
    part = tuple(slice(low, high + 1) for low, high in zip(box.min(axis=0), box.max(axis=0), strict=True))
    return first[part], second[part]


@pytest.mark.parametrize("volume", ["ct_abdomen", "mr_abdomen"])
def test_real_labels_against_simpleitk(real_data, volume):
    label, header = read_label(real_data / volume / "labels.nii.gz")
    spacing = (header.spacing[0], header.spacing[1] * 1.5, header.spacing[2] * 2.5)  # as if thicker
    rules = MetricRules(tolerance_mm=4.0)
    largest = np.argsort(np.bincount(label.ravel())[1:])[::-1][[0, 3, 8, 15]] + 1
    for class_id, (kind, moved) in zip(largest, itertools.product(("shift", "grow"), (1, 2)), strict=True):
        mask = label == class_id
        other = np.roll(mask, moved, axis=moved - 1) if kind == "shift" else binary_dilation(mask, iterations=moved)
        ours = score_volume(other.astype(np.uint8), mask.astype(np.uint8), ["organ"], spacing, rules)["organ"]
        first, second = cropped(other, mask)
        theirs = itk_distances(first, second, spacing)
        assert ours["hd95"] == pytest.approx(hausdorff95(theirs), abs=1e-4)
        assert ours["nsd"] == pytest.approx(surface_dice(theirs, 4.0), abs=1e-6)
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*(sitk.GetImageFromArray(part.astype(np.uint8)) for part in (first, second)))
        assert ours["dsc"] == pytest.approx(overlap.GetDiceCoefficient(), abs=1e-6)
        assert ours["iou"] == pytest.approx(overlap.GetJaccardCoefficient(), abs=1e-6)
        assert 0 < ours["dsc"] < 1
