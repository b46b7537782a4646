import io

import numpy as np
import pytest
from PIL import Image

from medsam_adapt.evaluation import packing as module
from medsam_adapt.evaluation.packing import Volumes, pack
from medsam_adapt.evaluation.shown_cases import PackedCase
from tests.evaluation.test_contours import filled


def make_case(shape=(20, 16, 12), spacing=(1.0, 1.0, 2.0), **changes):
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, shape).astype(np.float32)
    labels = {name: rng.integers(0, 3, shape).astype(np.uint8) for name in ("prediction", "reference")}
    return Volumes(**{"case": "a", "image": image, "spacing": spacing, **labels, **changes})


def test_slices_lie_as_a_radiologist_views_them_and_are_counted_as_in_the_volume():
    image = np.zeros((20, 16, 12), np.float32)
    reference = np.zeros((20, 16, 12), np.uint8)
    image[-4:, -4:, 7] = 255  # right and anterior in RAS order
    reference[-4:, -4:, 7] = 1
    packed = pack(make_case(image=image, reference=reference, prediction=reference * 0), "axial", classes=1)
    assert (packed.width, packed.height, packed.slices, packed.key_index) == (20, 16, 12, 7)
    assert packed.numbers == list(range(1, 13))
    sheet = np.asarray(Image.open(io.BytesIO(packed.sheets[0])))
    bright = sheet[7 * 16 : 8 * 16] > 128
    assert bright[:4, :4].all()
    assert not bright[6:, 6:].any()
    assert (filled(packed.reference[7][1], (16, 20)) == bright).all()
    assert packed.prediction[7] == packed.reference[6] == {}


def test_a_long_volume_is_thinned_out_and_sheets_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "_SIZES", ((256, 80, 5),))
    monkeypatch.setattr(module, "SHEET_ROWS", 33)
    packed = pack(make_case(), "axial", classes=2)
    assert packed.numbers == [1, 4, 7, 10]
    assert packed.per_sheet == 2
    assert [Image.open(io.BytesIO(sheet)).size for sheet in packed.sheets] == [(20, 32), (20, 32)]
    assert len(packed.prediction) == len(packed.reference) == 4


def test_a_case_that_takes_too_much_is_made_smaller():
    smooth = np.zeros((300, 300, 2), np.uint8)
    smooth[50:90, 50:90] = 1
    case = make_case((300, 300, 2), prediction=smooth, reference=smooth)
    sizes = {size: pack(case, "axial", 1, size) for size in (10**7, 60_000, 1)}
    assert [packed.width for packed in sizes.values()] == [256, 192, 96]
    assert sizes[60_000].packed_bytes <= 60_000
    noisy = make_case((100, 100, 1), image=np.zeros((100, 100, 1), np.float32))  # outlines count too
    assert pack(noisy, "axial", 2, 10_000).width == 96


def test_pixels_are_square_in_mm():
    packed = pack(make_case(), "coronal", classes=2)
    assert packed.width / packed.height == pytest.approx(20 / 24, abs=0.03)


def test_classes_may_overlap_and_images_be_in_colour():
    masks = np.zeros((2, 20, 16, 12), np.uint8)
    masks[:, 5:9, 5:9, 3] = 1
    packed = pack(make_case(image=np.zeros((3, 20, 16, 12), np.float32), reference=masks), "axial", classes=2)
    assert packed.reference[3][1] == packed.reference[3][2]
    assert Image.open(io.BytesIO(packed.sheets[0])).mode == "RGB"


def test_each_image_of_a_case_has_its_sheets_and_the_first_is_the_key_slice():
    levels = np.stack([np.full((20, 16, 12), level, np.float32) for level in (40, 120, 200)])
    packed = pack(make_case(image=levels, images=("T2", "ADC", "DWI")), "axial", classes=2)
    assert packed.images == ["T2", "ADC", "DWI"]
    shown = [np.asarray(Image.open(io.BytesIO(sheets[0]))) for sheets in packed.each_image]
    assert [(sheet.ndim, round(sheet.mean())) for sheet in shown] == [(2, 40), (2, 120), (2, 200)]
    assert round(np.asarray(Image.open(io.BytesIO(packed.key_slice))).mean()) == 40
    one = pack(make_case(image=levels[0]), "axial", classes=2)
    assert (one.images, one.further_sheets) == ([], [])
    assert packed.packed_bytes > one.packed_bytes


def test_images_without_names_or_sheets_are_refused():
    content = pack(make_case(), "axial", classes=2).model_dump()
    for change in ({"images": ["T2", "ADC"]}, {"images": ["T2"], "further_sheets": [content["sheets"]]}):
        with pytest.raises(ValueError, match="the images and their names differ"):
            PackedCase(**{**content, **change})
    with pytest.raises(ValueError, match="the sheets do not hold the slices"):
        PackedCase(**{**content, "images": ["T2", "ADC"], "further_sheets": [[]]})
