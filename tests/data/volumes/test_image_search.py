"""The images of cases, found by name, by number, in folders, in 4D files and in DICOM studies."""

import json
import shutil

import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases, images_in_order
from medsam_adapt.data.datasets.convert import convert_cases
from medsam_adapt.data.datasets.scans import find_inputs
from medsam_adapt.data.volumes.image_search import find_image_sets
from medsam_adapt.data.volumes.image_set import refuse_misplaced
from medsam_adapt.data.volumes.io import read_volume, write_label
from tests.data import dicom_files, samples

VOXELS = np.random.default_rng(0).normal(100, 10, (12, 10, 4)).astype(np.float32)
LABEL = np.zeros(VOXELS.shape, np.uint8)
LABEL[3:8, 3:8, 1:3] = 1
NAMES = ("T2", "ADC")


def names_of(found):
    """Case -> file name, or its folder's, of each image."""
    return {
        case: [None if path is None else f"{path.parent.name}/{path.name}" for path in each.files]
        for case, each in found.items()
    }


@pytest.fixture
def scans(tmp_path):
    def make(*paths):
        for number, path in enumerate(paths):
            samples.volume(tmp_path / "scans" / path, VOXELS + number)
        return tmp_path / "scans"

    return make


@pytest.mark.parametrize(
    "files",
    [
        ["a/ADC.nii.gz", "a/T2.nii.gz", "b/adc.nii.gz", "b/t2.nii.gz"],
        ["a_ADC.nii.gz", "a_T2.nii.gz", "b-ADC.nii.gz", "b-T2.nii.gz"],
    ],
)
def test_images_are_found_by_their_names(scans, files):
    found = find_image_sets(scans(*files), NAMES)
    assert list(found) == ["a", "b"]
    for each in found.values():
        assert each.names == NAMES
        assert ["t2" in path.name.lower() for path in each.files] == [True, False]


def test_nnunets_numbers_are_in_the_runs_order_and_that_is_reported(scans):
    root = scans("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
    assert names_of(find_image_sets(root, NAMES))["b"] == ["scans/b_0000.nii.gz", "scans/b_0001.nii.gz"]
    assert "_0000, _0001, … are taken to be T2, ADC, in this order" in find_inputs(root, images=NAMES).notes[0]


def test_4d_files_are_in_the_runs_order_and_that_is_reported(tmp_path):
    for name in "ab":
        samples.volume(tmp_path / f"scans/{name}.nii.gz", np.stack([VOXELS, VOXELS + 50], axis=-1))
    found = find_inputs(tmp_path / "scans", images=NAMES)
    assert list(found.volumes) == ["a", "b"]
    assert "its images are taken to be T2, ADC, in this order, which 4D files do not name" in found.notes[0]
    np.testing.assert_array_equal(read_volume(found.volumes["a"])[0][..., 1], VOXELS + 50)
    with pytest.raises(InputError, match=r"a.nii.gz: it holds 2 images, and this run takes T2, ADC and DWI together"):
        find_image_sets(tmp_path / "scans/a.nii.gz", ("T2", "ADC", "DWI"))


def test_a_missing_image_is_named_or_may_be_missing(scans):
    root = scans("a/T2.nii.gz", "a/ADC.nii.gz", "b/ADC.nii.gz")
    with pytest.raises(InputError, match=r"the case b has no image T2. Add it: T2 and ADC are taken together"):
        find_image_sets(root, NAMES)
    found = find_inputs(root, images=NAMES, may_lack=True)
    assert names_of(found.volumes)["b"] == [None, "b/ADC.nii.gz"]
    assert f"{root}: the case b has no T2; it is segmented without." in found.notes
    with pytest.raises(InputError, match="it holds no case with the images FLAIR and T1"):
        find_image_sets(root, ("FLAIR", "T1"))


def nnunet(root, channels, order=None):
    for number in range(3):
        for index, name in enumerate(channels):
            samples.volume(root / f"imagesTr/case_{number}_{index:04d}.nii.gz", VOXELS + len(name))
        samples.volume(root / f"labelsTr/case_{number}.nii.gz", LABEL)
    names = {str(index): name for index, name in enumerate(channels)}
    content = {"channel_names": names, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    samples.text(root / "dataset.json", content)
    return root


def test_nnunets_channels_are_taken_together(tmp_path):
    root = nnunet(tmp_path, ["T2", "ADC", "B1000"])
    found = find_cases(root)
    assert found.images == ("T2", "ADC", "B1000")
    assert check_cases(found).headers["case_0"].shape == VOXELS.shape
    chosen = find_cases(root, "nnunet:B1000,T2")
    assert chosen.images == ("B1000", "T2")
    assert [path.name for path in chosen.cases[0].image.files] == ["case_0_0002.nii.gz", "case_0_0000.nii.gz"]
    (root / "imagesTr/case_1_0001.nii.gz").unlink()
    with pytest.raises(InputError, match="the case case_1 has no image ADC"):
        find_cases(root)
    nnunet(root, ["a", "b", "c", "d", "e"])
    with pytest.raises(
        InputError, match=r"4 are the most that are taken together\. Choose some as in --layout nnunet:a,b"
    ):
        find_cases(root)


def test_another_order_is_put_right_by_names_and_reported(tmp_path):
    root = nnunet(tmp_path, ["ADC", "T2"])
    found = find_inputs(root, images=NAMES)
    assert found.volumes["case_0"].names == NAMES
    assert [path.name for path in found.volumes["case_0"].files] == ["case_0_0001.nii.gz", "case_0_0000.nii.gz"]
    assert f"{root}: its images are ADC, T2; the run takes them as T2, ADC." in found.notes
    with pytest.raises(InputError, match=r"trained on T2, FLAIR together, and .* gives ADC, T2 together"):
        find_inputs(root, images=("T2", "FLAIR"))


def test_cases_get_the_order_of_a_run_unless_their_images_are_others(tmp_path):
    found = find_cases(nnunet(tmp_path, ["ADC", "T2"]))
    turned = images_in_order(found, NAMES)
    assert turned.images == turned.cases[0].image.names == NAMES
    assert [path.name for path in turned.cases[2].image.files] == ["case_2_0001.nii.gz", "case_2_0000.nii.gz"]
    assert images_in_order(found, ("T2", "DWI")) is found
    assert images_in_order(turned, NAMES) is turned
    assert images_in_order(found, ()) is found


def test_the_decathlons_4d_files_hold_what_dataset_json_names(tmp_path):
    for number in range(3):
        samples.volume(tmp_path / f"imagesTr/prostate_0{number}.nii.gz", np.stack([VOXELS, VOXELS + 50], axis=-1))
        samples.volume(tmp_path / f"labelsTr/prostate_0{number}.nii.gz", LABEL)
    listed = [
        {"image": f"./imagesTr/prostate_0{n}.nii.gz", "label": f"./labelsTr/prostate_0{n}.nii.gz"} for n in range(3)
    ]
    content = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "PZ"}, "training": listed}
    samples.text(tmp_path / "dataset.json", content)
    found = find_cases(tmp_path)
    assert (found.layout, found.images, next(case.id for case in found.cases)) == ("msd", NAMES, "prostate_00")
    assert check_cases(found).voxels["prostate_00"] == {1: LABEL.sum()}
    with pytest.raises(
        InputError, match=r"trained on ADC, T2 together, and .* gives T2, ADC together in another order"
    ):
        find_inputs(tmp_path, images=("ADC", "T2"))
    samples.text(tmp_path / "dataset.json", {**content, "modality": {"0": "T2", "1": "ADC", "2": "DWI"}})
    with pytest.raises(InputError, match=r"it holds 2 images and 3 are named \(T2, ADC, DWI\)"):
        check_cases(find_cases(tmp_path))


def test_a_datalist_lists_images_and_names_them(tmp_path):
    for number in range(2):
        for name in NAMES:
            samples.volume(tmp_path / f"{number}/{name}.nii.gz", VOXELS)
        samples.volume(tmp_path / f"{number}/seg.nii.gz", LABEL)
    entries = [{"image": [f"{n}/T2.nii.gz", f"{n}/ADC.nii.gz"], "label": f"{n}/seg.nii.gz"} for n in range(2)]
    content = {"labels": {"1": "lesion"}, "training": entries}
    samples.text(tmp_path / "datalist.json", content)
    found = find_cases(tmp_path)
    assert (found.images, [case.id for case in found.cases]) == (("image 1", "image 2"), ["0", "1"])
    samples.text(tmp_path / "datalist.json", {**content, "channel_names": {"0": "T2", "1": "ADC"}})
    assert find_cases(tmp_path).images == NAMES
    assert find_cases(tmp_path).cases[0].entry()["image"] == [
        str(tmp_path / "0/T2.nii.gz"),
        str(tmp_path / "0/ADC.nii.gz"),
    ]
    samples.text(tmp_path / "datalist.json", {**content, "channel_names": ["T2"]})
    with pytest.raises(InputError, match=r"lists 2 images for a case and names 1 \(T2\)"):
        find_cases(tmp_path)
    samples.text(
        tmp_path / "datalist.json", {**content, "training": [entries[0], {**entries[1], "image": "1/T2.nii.gz"}]}
    )
    with pytest.raises(InputError, match="different numbers of images"):
        find_cases(tmp_path)


def test_folders_of_images_are_cases(scans):
    root = scans("images/a/T2.nii.gz", "images/a/ADC.nii.gz", "images/b/T2.nii.gz", "images/b/ADC.nii.gz")
    for case in "ab":
        samples.volume(root / f"labels/{case}.nii.gz", LABEL)
    found = find_cases(root)
    assert (found.layout, found.images) == ("folder", ("ADC", "T2"))
    assert [case.label.name for case in found.cases] == ["a.nii.gz", "b.nii.gz"]
    (root / "images/b/ADC.nii.gz").unlink()
    with pytest.raises(InputError, match=r"the case b has no image ADC, which others have"):
        find_cases(root)


def test_series_of_a_dicom_study_are_taken_together(tmp_path):
    stored = np.random.default_rng(1).integers(0, 900, (4, 10, 12)).astype(np.int16)
    root = tmp_path / "studies"
    for case in "ab":
        dicom_files.save(root / case, dicom_files.series(stored, number=3, modality="MR", SeriesDescription="t2_tse"))
        adc = dicom_files.series(stored + 5, number=7, modality="MR", SeriesDescription="ADC map")
        for each in adc:
            each.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
        dicom_files.save(root / case, adc, prefix="AD")
        label = np.zeros((12, 10, 4), np.uint8)
        label[2:5, 2:5, 1:3] = 1
        (image,) = find_image_sets(root / case, ("3", "7")).values()
        write_label(root / f"{case}.nii.gz", label, image)
    for case in "ab":
        shutil.move(root / f"{case}.nii.gz", root / case / "label.nii.gz")
    found = find_cases(root, "dicom:t2_tse,7")
    assert (found.layout, found.images) == ("dicom:t2_tse,7", ("t2_tse", "7"))
    voxels, header = read_volume(found.cases[0].image)
    assert header.modalities == ("MR", "ADC")
    np.testing.assert_array_equal(voxels[..., 1] - voxels[..., 0], 5)
    assert list(find_inputs(root, known_layout=found.layout, images=found.images).volumes) == ["a", "b"]
    turned = find_inputs(root, "dicom:7,t2_tse", images=found.images)
    assert "the run takes them as t2_tse, 7" in turned.notes[-1]
    np.testing.assert_array_equal(read_volume(turned.volumes["a"])[0], voxels)  # each series with its own name
    with pytest.raises(InputError, match="the case a has no image 9"):
        find_cases(root, "dicom:t2_tse,9")
    assert json.dumps([str(each) for each in find_image_sets(root / "a", ("3", "7")).values()])


def test_a_copy_holds_the_images_of_a_case_on_one_grid(tmp_path):
    root = nnunet(tmp_path / "data", ["T2 tse", "ADC"])
    convert_cases(root, tmp_path / "copy")
    found = find_cases(tmp_path / "copy")
    assert (found.images, found.layout) == (("T2 tse", "ADC"), "datalist")
    assert names_of({"case_0": found.cases[0].image}) == {"case_0": ["case_0/T2_tse.nii.gz", "case_0/ADC.nii.gz"]}
    np.testing.assert_array_equal(read_volume(found.cases[0].image)[0][..., 1], VOXELS + 3)


def test_a_datalist_that_lists_images_in_another_order_than_it_names_is_refused(tmp_path):
    for name in ("t2", "adc"):
        samples.volume(tmp_path / f"img/a_{name}.nii.gz", VOXELS)
    samples.volume(tmp_path / "lab/a.nii.gz", LABEL)
    entry = {"image": ["img/a_adc.nii.gz", "img/a_t2.nii.gz"], "label": "lab/a.nii.gz"}
    content = {"labels": {"1": "lesion"}, "channel_names": {"0": "T2", "1": "ADC"}, "training": [entry]}
    samples.text(tmp_path / "datalist.json", content)
    sentence = (
        r"datalist.json: it lists a_adc.nii.gz as T2, and this name ends with ADC\. Give the images in the order T2"
    )
    for read in (find_cases, find_inputs):
        with pytest.raises(InputError, match=sentence):
            read(tmp_path, **({"images": NAMES} if read is find_inputs else {}))
    samples.text(tmp_path / "datalist.json", {**content, "channel_names": {"0": "ADC", "1": "T2"}})
    assert find_cases(tmp_path).images == ("ADC", "T2")
    samples.text(tmp_path / "datalist.json", {**content, "channel_names": {"0": "first", "1": "second"}})
    assert find_cases(tmp_path).images == ("first", "second")  # nothing contradicts these


def test_paths_that_are_named_as_other_images_are_refused(tmp_path):
    files = ["x/case_T2.nii.gz", "x/case-adc.nii.gz", "x/T1_gd.nii.gz"]
    refuse_misplaced(("T2", "ADC", "T1 gd"), files, "image")
    refuse_misplaced(("T2", "ADC"), ["x/a_0000.nii.gz", ""], "image")  # the second one is missing
    refuse_misplaced(("T2", "ADC"), ["x/4d_adc.nii.gz"], "image")  # holds both
    with pytest.raises(InputError, match=r"^image: it lists T1_gd.nii.gz as gd, and this name ends with T1 gd"):
        refuse_misplaced(("T2", "ADC", "gd", "T1 gd"), [*files, "x/gd.nii.gz"], "image")
