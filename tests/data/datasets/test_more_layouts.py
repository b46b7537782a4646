"""The layouts of whole data sets: what each reads from its sample, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.layouts import segrap
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.data.volumes.io import read_header, read_label, read_volume, to_ras
from medsam_adapt.data.volumes.label_coding import LabelCoding
from tests.data import samples
from tests.data.samples import text, volume


@pytest.mark.parametrize("sample", samples.SAMPLES)
def test_a_sample_is_recognised_and_its_labels_are_read(tmp_path, sample):
    samples.SAMPLES[sample](tmp_path)
    found = find_cases(tmp_path)
    assert found.layout == samples.layout_of(sample)
    assert found == find_cases(tmp_path, found.layout)
    assert len(found.cases) == samples.COUNT
    check = check_cases(found)
    assert all(any(counts.values()) for counts in check.voxels.values())
    assert found.coding.overlapping == (sample in ("nnunet_regions", "segrap", "segrap_masks"))


def test_nnunet_ignores_what_it_is_told_to(tmp_path):
    samples.nnunet(tmp_path, {"background": 0, "liver": 1, "ignore": 2})
    found = find_cases(tmp_path)
    assert (found.classes, found.coding) == ({1: "liver"}, LabelCoding(ignored=(2,)))
    assert check_cases(found).voxels["organ_000"] == {1: 216}


def test_any_labels_json_may_name_an_ignored_label(tmp_path):
    samples.folder(tmp_path)
    text(tmp_path / "labels.json", {"1": "liver", "255": "Ignore", "2": "spleen"})
    found = find_cases(tmp_path)
    assert (list(found.classes.values()), found.coding.ignored) == (["liver", "spleen"], (255,))


def test_nnunet_regions_overlap(tmp_path):
    samples.nnunet(tmp_path, {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3})
    described = json.loads((tmp_path / "dataset.json").read_text())
    samples.text(tmp_path / "dataset.json", {**described, "regions_class_order": [1]})
    with pytest.raises(InputError, match="does not give 2 labels, one for each region"):
        find_cases(tmp_path)
    samples.text(tmp_path / "dataset.json", {**described, "regions_class_order": [1, 2]})
    found = find_cases(tmp_path)
    assert found.classes == {1: "whole", 2: "core"}
    assert found.coding == LabelCoding({1: (1,), 2: (1, 2)}, ignored=(3,), overlapping=True, painted={1: 1, 2: 2})


@pytest.mark.parametrize("regions", [{"a": []}, {"a": [1, "2"]}, {"a": [-1]}, {"a": [0, 1]}, {"a": [True]}])
def test_nnunet_regions_that_are_none_are_told(tmp_path, regions):
    samples.nnunet(tmp_path, {"background": 0, **regions})
    with pytest.raises(InputError, match=r"dataset\.json: it gives 'a' the labels .*Give a whole number above 0"):
        find_cases(tmp_path)


def test_one_of_nnunets_channels_is_chosen(tmp_path):
    samples.nnunet(tmp_path, channels=("T1", "T2"))
    assert find_cases(tmp_path).images == ("T1", "T2")
    for choice in ("T2", "0001", "1"):
        found = find_cases(tmp_path, f"nnunet:{choice}")
        assert found.layout == f"nnunet:{choice}"
        assert [case.image.name for case in found.cases] == [f"organ_00{number}_0001.nii.gz" for number in range(3)]
    with pytest.raises(InputError, match=r"has no channel 'T3'\. Did you mean 'T\d'\? Choose one of 0000"):
        find_cases(tmp_path, "nnunet:T3")


def test_amos_asks_which_modality(tmp_path):
    samples.amos(tmp_path, numbers=(1, 2, 500))
    with pytest.raises(InputError, match=r"holds 2 CT and 1 MR cases\. Choose with --layout amos:ct or amos:mr"):
        find_cases(tmp_path)
    ids = {choice: [case.id for case in find_cases(tmp_path, f"amos:{choice}").cases] for choice in ("ct", "mr")}
    assert ids == {"ct": ["amos_0001", "amos_0002"], "mr": ["amos_0500"]}
    assert len(find_cases(tmp_path, "amos:ct,mr").cases) == 3
    with pytest.raises(InputError, match=r"--layout amos: it has no choice 'mri'\. Did you mean 'mr'\?"):
        find_cases(tmp_path, "amos:mri")


@pytest.mark.parametrize("below", ["", "RawData/Training"])
@pytest.mark.parametrize(("images", "labels"), [("img", "label"), ("imagesTr", "labelsTr")])
def test_btcv_in_its_forms(tmp_path, below, images, labels):
    samples.pairs(tmp_path / below, images + "/img000{}.nii.gz", labels + "/label000{}.nii.gz", numbers=(1, 2))
    found = find_cases(tmp_path)
    assert (found.layout, [case.id for case in found.cases], len(found.classes)) == ("btcv", ["0001", "0002"], 13)


def test_msd_images_may_be_called_img(tmp_path):
    samples.msd(tmp_path)
    for folder, stem in (("imagesTr", "img"), ("labelsTr", "label")):
        for path in sorted((tmp_path / folder).iterdir()):
            path.rename(path.with_name(path.name.replace("organ_", f"{stem}0")))
    entries = samples.listed("imagesTr/img000{}.nii.gz", "labelsTr/label000{}.nii.gz")
    text(tmp_path / "dataset.json", {"labels": {"1": "lesion", "2": "x"}, "training": entries})
    assert find_cases(tmp_path).classes[1] == "lesion"


def test_segrap_has_45_organs_of_54_parts(tmp_path):
    samples.segrap_maps(tmp_path)
    found = find_cases(tmp_path)
    assert list(found.classes.values()) == list(segrap.PARTS)
    assert len(found.classes) == 45
    assert set(found.coding.parts) == set(range(1, 55))
    named = {found.classes[class_id] for class_id in found.coding.parts[20]}
    assert named == {"MiddleEar_L", "TympanicCavity_L"}
    assert {case.image.name for case in found.cases} == {"image.nii.gz"}
    assert (found.intensity, found.cases[0].label.parent.name) == ("ct-head-neck", "Task001")
    below = find_cases(tmp_path / samples.SEGRAP_CASES, "segrap:contrast,tumours")
    assert {case.image.name for case in below.cases} == {"image_contrast.nii.gz"}
    assert (below.classes, below.cases[0].label.parent.name) == ({1: "GTVp", 2: "GTVnd"}, "Task002")


def test_segrap_cases_without_what_is_needed_are_told(tmp_path):
    samples.segrap_masks(tmp_path)
    with pytest.raises(InputError, match=r"segrap_0000: it has no label in Task002 and no mask\. Add one"):
        find_cases(tmp_path, "segrap:tumours")
    (tmp_path / samples.SEGRAP_CASES / "segrap_0001/image.nii.gz").unlink()
    with pytest.raises(InputError, match=r"segrap_0001: it has no image\.nii\.gz\. Add it"):
        find_cases(tmp_path)


def test_masks_off_their_image_are_told(tmp_path):
    samples.segrap_masks(tmp_path)
    volume(tmp_path / samples.SEGRAP_CASES / "segrap_0002/Chiasm.nii.gz", np.ones((3, 3, 3), np.uint8))
    with pytest.raises(InputError, match=r"Chiasm\.nii\.gz: it has 3 × 3 × 3 voxels and its image"):
        check_cases(find_cases(tmp_path))


def test_a_layout_without_choices_takes_none(tmp_path):
    samples.folder(tmp_path)
    with pytest.raises(InputError, match=r"--layout folder: it has no choices, and 'folder:ct' is one"):
        find_cases(tmp_path, "folder:ct")


def test_a_picture_is_a_slice_that_lies_as_it_is_seen(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    voxels, header = read_volume(tmp_path / "a.png")
    assert (voxels.shape, header.shape, header.spacing) == ((7, 5, 1, 3), (7, 5, 1), (1, 1, 1))
    turned, _ = to_ras(voxels, header.affine)
    np.testing.assert_array_equal(volume_to_slices(turned, "axial")[0], pixels)


def test_masks_of_pictures(tmp_path):
    samples.image2d(tmp_path / "jpg")
    samples.image2d_png(tmp_path / "png")
    blurred = np.unique(read_label(tmp_path / "jpg/masks/cju0.jpg")[0])
    assert len(blurred) > 2  # JPEG leaves noise about black and white
    jpg, png = (find_cases(tmp_path / kind) for kind in ("jpg", "png"))
    assert (jpg.classes, png.classes, jpg.intensity) == ({1: "structure"}, {1: "polyp"}, "picture")
    assert check_cases(jpg).voxels["cju0"] == check_cases(png).voxels["cju0"] == {1: 14 * 18}
    text(tmp_path / "jpg/labels.json", {"1": "polyp", "2": "tool"})
    with pytest.raises(InputError, match=r"cju0\.jpg: a JPEG cannot hold the numbers of 2 classes"):
        find_cases(tmp_path / "jpg")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.png", b"", "is empty"),
        ("a.png", b"GIF89a", "is neither PNG nor JPEG"),
        ("a.jpg", b"\xff\xd8\xff\xe0 cut", "neither PNG nor JPEG|cannot be read"),
    ],
)
def test_damaged_pictures_are_told(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_header(tmp_path / name)


def test_a_truncated_picture_and_a_coloured_label_are_told(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: it is in colour, and a label is one number per pixel"):
        read_label(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"a\.png: it is truncated or corrupt"):
        read_volume(tmp_path / "a.png")
