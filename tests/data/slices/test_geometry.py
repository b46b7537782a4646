import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, slices_to_volume, volume_to_slices
from medsam_adapt.data.slices.padding import pad_image, pad_label
from medsam_adapt.data.volumes.io import from_ras, read_label, to_ras
from medsam_adapt.weights.backbones import PIXEL_MEAN
from tests.data.volumes.test_io import ORIENTATIONS

AXES = ("axial", "coronal", "sagittal")
on_each_axis = pytest.mark.parametrize("axis", AXES)


def affine_of(codes, spacing):
    """A slightly oblique affine whose stored axes have these codes and this spacing."""
    affine = np.diag([0.0, 0, 0, 1])
    for stored, (axis, direction) in enumerate(nib.orientations.axcodes2ornt(codes)):
        affine[int(axis), stored] = direction * spacing[stored]
    tilt = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.05, -0.08), (-31, 12, 400))
    return tilt @ affine


@pytest.mark.parametrize("codes", ORIENTATIONS)
@on_each_axis
def test_labels_go_round_in_each_orientation(codes, axis):
    random = np.random.default_rng(0)
    for shape, spacing, sizes in [
        ((13, 10, 7), (1.0, 1.7, 3.1), (22, 37, 64)),  # anisotropic, no side equal to another
        ((9, 9, 9), (2.0, 2.0, 2.0), (9, 10, 17)),  # from the native size on
        ((1, 6, 5), (1.0, 1.0, 1.0), (6, 13)),
    ]:
        label = random.integers(0, 400, shape)
        affine = affine_of(codes, spacing)
        ras, ras_affine = to_ras(label, affine)
        for size in sizes:
            plan = SlicePlan.of(ras.shape, tuple(nib.affines.voxel_sizes(ras_affine)), axis, size)
            assert all(new >= old for new, old in zip(plan.resized, plan.native, strict=True))
            resized = plan.resize_label(as_tensor(volume_to_slices(ras, axis), torch.int64))
            assert resized.shape[1:] == plan.resized
            restored = slices_to_volume(plan.restore_label(resized).numpy(), axis)
            np.testing.assert_array_equal(from_ras(restored, affine), label)


@on_each_axis
def test_a_real_label_goes_round(real_data, axis):
    label, header = read_label(real_data / "mr_abdomen" / "labels.nii.gz")
    ras, ras_affine = to_ras(label, header.affine)
    plan = SlicePlan.of(ras.shape, tuple(nib.affines.voxel_sizes(ras_affine)), axis, 256)
    restored = plan.restore_label(plan.resize_label(as_tensor(volume_to_slices(ras, axis), torch.uint8))).numpy()
    np.testing.assert_array_equal(from_ras(slices_to_volume(restored, axis), header.affine), label)


@pytest.mark.parametrize(("native", "size"), [*((n, 255) for n in range(1, 256)), (511, 512), (4093, 4096)])
def test_no_pixel_is_lost_by_enlarging(native, size):  # 4093 -> 4096 is where torch's float32 loses one
    plan = SlicePlan((1, native), (1, size), size)
    line = torch.arange(native)[None, None]
    assert torch.equal(plan.restore_label(plan.resize_label(line)), line)


def test_a_resized_label_is_the_nearest_pixel_centre():
    assert SlicePlan((1, 2), (1, 5), 5).resize_label(torch.tensor([[[7, 9]]])).tolist() == [[[7, 7, 9, 9, 9]]]
    assert SlicePlan((1, 9), (1, 3), 3).resize_label(torch.arange(9)[None, None]).tolist() == [[[1, 4, 7]]]
    label = torch.randint(0, 9, (2, 30, 41), generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(label[:, None].float(), (19, 64), mode="nearest-exact")[:, 0]
    assert torch.equal(SlicePlan((30, 41), (19, 64), 64).resize_label(label), expected.long())


@on_each_axis
@pytest.mark.parametrize("size", [64, 95, 128])
def test_soft_logits_lose_less_than_a_hundredth_of_dice(axis, size):
    shape, spacing = (40, 33, 20), (1.0, 1.3, 2.5)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    label = ((grid**2 / np.reshape([0.5, 0.6, 0.7], (3, 1, 1, 1))).sum(axis=0) < 1).astype(np.int64)
    plan = SlicePlan.of(shape, spacing, axis, size)
    classes = F.one_hot(as_tensor(volume_to_slices(label, axis), torch.int64), 2).permute(0, 3, 1, 2).float()
    logits = torch.full((len(classes), 2, size, size), 9.0)  # whatever the network predicts in the padding
    logits[..., : plan.resized[0], : plan.resized[1]] = F.interpolate(classes, plan.resized, mode="bilinear")
    restored = slices_to_volume(plan.restore_logits(logits).argmax(dim=1).numpy(), axis)
    assert 2 * (restored & label).sum() / (restored.sum() + label.sum()) > 0.99


@pytest.mark.parametrize(
    ("axis", "native", "resized"), [("axial", (30, 30), (96, 32)), ("coronal", (20, 30), (96, 72)),
                                    ("sagittal", (20, 30), (43, 96))]
)  # fmt: skip
def test_slices_keep_their_proportion_in_mm(axis, native, resized):
    plan = SlicePlan.of((30, 30, 20), (1.0, 3.0, 2.0), axis, 96)
    assert (plan.native, plan.resized) == (native, resized)


def test_no_side_vanishes():
    assert SlicePlan.of((1000, 1, 1), (1.0, 1.0, 1.0), "axial", 64).resized == (1, 64)


@on_each_axis
def test_slices_lie_as_a_radiologist_views_them(axis):
    volume = np.zeros((4, 5, 6), int)
    volume[3, 4, 5] = 1  # farthest right, anterior and superior
    volume[0, 4, 5], volume[3, 0, 5], volume[3, 4, 0] = 2, 3, 4  # ... left, posterior, inferior instead
    slices = volume_to_slices(volume, axis)
    first, last = slices[0], slices[-1]
    assert last[0, 0] == 1
    if axis == "axial":  # right | left, anterior on top
        assert (last[0, -1], last[-1, 0], first[0, 0]) == (2, 3, 4)
    elif axis == "coronal":  # right | left, superior on top
        assert (last[0, -1], last[-1, 0], first[0, 0]) == (2, 4, 3)
    else:  # anterior | posterior, superior on top
        assert (last[0, -1], last[-1, 0], first[0, 0]) == (3, 4, 2)
    np.testing.assert_array_equal(slices_to_volume(slices, axis), volume)


def test_images_are_whole_grey_levels_in_range():
    image = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0)) * 255
    for resized in ((9, 7), (23, 18), (5, 4), (5, 18)):
        grey = SlicePlan((9, 7), resized, 32).resize_image(image)
        assert grey.shape == (2, *resized)
        assert torch.equal(grey, grey.round())
        assert grey.min() >= 0
        assert grey.max() <= 255


def test_shrinking_averages():
    stripes = torch.tensor([200.0, 0.0, 0.0, 0.0]).repeat(16).expand(1, 64, 64)
    grey = SlicePlan((64, 64), (16, 16), 16).resize_image(stripes)
    assert (grey[:, :, 2:-2] - 50).abs().max() <= 10


def test_padding_is_right_and_bottom_with_the_mean_colour_and_background():
    image, label = torch.ones(2, 3, 4, 6), torch.ones(2, 1, 4, 6)
    padded, mask = pad_image(image, 8), pad_label(label, 8)
    assert torch.equal(padded[..., :4, :6], image)
    assert torch.equal(padded[1, :, 7, 7], torch.tensor(PIXEL_MEAN))
    assert (padded[0, 0] == 1).sum() == mask[0].sum() == 24
    assert mask[..., :4, :6].all()
