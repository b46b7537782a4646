"""Classes of an enlarged slice against those of the enlarged logits, which they must equal bit for bit."""

import pytest
import torch
import torch.nn.functional as F

from medsam_adapt.inference.enlarged_classes import enlarged_classes


def by_interpolation(logits, size):
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].max(dim=0).indices


def structures(seed, classes, height, width):
    """Logits of smooth structures, as networks draw them: (classes, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 8 * torch.randn(1, classes, max(2, height // 12), max(2, width // 12), generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((64, 64), (256, 256)),
        ((60, 41), (131, 157)),
        ((33, 50), (240, 101)),
        ((48, 20), (49, 300)),
        ((16, 16), (17, 7)),
    ],
)
@pytest.mark.parametrize("classes", [2, 5, 14])
def test_classes_are_those_of_the_enlarged_logits(old, new, classes):
    found = 0
    for seed in range(4):
        logits = structures(seed, classes, *old)
        enlarged = enlarged_classes(logits, new)
        if enlarged is not None:
            found += 1
            assert enlarged.dtype == torch.uint8
            assert torch.equal(enlarged, by_interpolation(logits, new).to(torch.uint8))
    assert found >= 2  # borders are few


def test_a_class_may_be_highest_between_pixels_where_it_is_highest_at_none():
    logits = torch.zeros(3, 8, 8)
    logits[0, :, :4], logits[0, :, 4:] = 4.0, -4.0
    logits[1] = -logits[0]
    logits[2] = 1.6
    enlarged = enlarged_classes(logits, (64, 64))
    assert 2 not in logits.max(dim=0).indices
    assert enlarged is not None
    assert torch.equal(enlarged, by_interpolation(logits, (64, 64)).to(torch.uint8))
    assert (enlarged == 2).any()


def test_classes_that_a_network_never_gives_do_not_hide_what_rounding_decides():
    logits = structures(0, 6, 64, 64)
    without = enlarged_classes(logits, (200, 200))
    logits = torch.cat([logits, torch.full((1, 64, 64), -1e4)])
    with_one = enlarged_classes(logits, (200, 200))
    assert without is not None
    assert with_one is not None
    assert torch.equal(with_one, without)


def test_cropped_and_shared_logits_are_left_as_they_are():
    whole = structures(1, 4, 40, 40)
    kept = whole.clone()
    enlarged = enlarged_classes(whole[:, :31], (124, 160))
    assert enlarged is not None
    assert torch.equal(enlarged, by_interpolation(kept[:, :31], (124, 160)).to(torch.uint8))
    assert torch.equal(whole, kept)


@pytest.mark.parametrize("what", ["noise", "equal", "nearly equal", "no number"])
def test_what_rounding_decides_is_left_to_interpolation(what):
    logits = structures(2, 4, 32, 32)
    if what == "noise":
        logits = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(0))
    elif what == "equal":  # along a border; the first one of equal classes is taken there
        logits[1:3, 8:12] = 50.0
    elif what == "nearly equal":
        logits[1, 8:12], logits[2, 8:12] = 50.0, 50.0 * (1 + 2**-23)
    else:
        logits[0, 5, 5] = torch.nan
    assert enlarged_classes(logits, (128, 128)) is None
