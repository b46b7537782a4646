"""3D Slicer's segmentations, and the names of labels of every format."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.survey import survey
from medsam_adapt.data.volumes import io
from medsam_adapt.data.volumes.io import VolumeHeader, case_stem
from medsam_adapt.data.volumes.label_coding import read_classes
from medsam_adapt.data.volumes.slicer_labels import read_segments, segments_of
from medsam_adapt.outputs import Segmentation, get_format
from medsam_adapt.scoring.mask_pairs import find_labels, match_masks, score_masks
from medsam_adapt.scoring.metrics import MetricRules
from tests.data import samples

NAMES = ["liver", "spleen"]
HU, LABEL = samples.body(0)


def slicer(path, array, segments=(), affine=samples.AFFINE, offset=None):
    """A label map as Slicer saves it; ``segments``: (name, value)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    for number, (name, value) in enumerate(segments):
        fields = {"ID": f"Segment_{number}", "Name": name, "LabelValue": str(value), "Layer": "0"}
        for key, text in fields.items():
            image.SetMetaData(f"Segment{number}_{key}", text)
    if offset is not None:
        image.SetMetaData("Segmentation_ReferenceImageExtentOffset", " ".join(map(str, offset)))
    sitk.WriteImage(image, str(path), True)
    return path


def ours(path, voxels, names=NAMES, label_ids=(1, 2)):
    """What ``predict --format seg-nrrd`` writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    like = VolumeHeader(path, samples.SHAPE, samples.AFFINE)
    get_format("seg-nrrd").write(path, Segmentation(voxels, names, list(label_ids)), like)
    return path


def overlapping():
    inside = LABEL == 1
    inside[:6] = False
    return np.stack([LABEL == 1, inside]).astype(np.uint8)


def data_set(root, write_label, classes=None, count=3):
    for number in range(count):
        samples.volume(root / f"images/c{number}.nii.gz", HU + number)
        write_label(root / "labels", number)
    if classes:
        (root / "labels.json").write_text(json.dumps(classes))
    return root


@pytest.mark.parametrize(
    "name",
    [
        *("c0.seg.nrrd", "C0.SEG.NRRD", "c0.nrrd", "c0_seg.nii.gz", "c0.seg.nii.gz", "c0.label.nii.gz"),
        *("c0-label.nrrd", "c0_labels.mha", "c0.segmentation.nii", "c0_mask.nii.gz"),
    ],
)
def test_the_case_of_a_label_is_its_name_without_what_marks_it(tmp_path, name):
    assert case_stem(tmp_path / name).lower() == "c0"


@pytest.mark.parametrize("ending", [".seg.nrrd", ".label.nii.gz", "-label.nrrd", "_seg.nii.gz", ".nrrd"])
def test_labels_of_every_name_are_found_and_scored(tmp_path, ending):
    def write(folder, number):
        slicer(folder / f"c{number}{ending}", LABEL)

    root = data_set(tmp_path / "data", write)
    seen = survey(root)
    assert seen.problems == ()
    assert seen.check.voxels["c0"] == {1: int((LABEL == 1).sum()), 2: int((LABEL == 2).sum())}
    assert [pair.id for pair in match_masks(root / "labels", root / "images").pairs] == ["c0", "c1", "c2"]


def test_a_case_that_is_named_as_a_label_keeps_its_label(tmp_path):
    for folder in ("images", "labels"):
        samples.volume(tmp_path / folder / "scan_seg.nii.gz", HU if folder == "images" else LABEL)
    assert [case.id for case in find_cases(tmp_path).cases] == ["scan_seg"]


def test_our_own_output_is_a_label(tmp_path):
    def write(folder, number):
        ours(folder / f"c{number}.seg.nrrd", LABEL)

    found = find_cases(data_set(tmp_path, write))
    assert found.classes == {1: "liver", 2: "spleen"}
    np.testing.assert_array_equal(io.read_label(found.cases[0].label, found.cases[0].image)[0], LABEL)


def test_segments_are_known_by_name_whatever_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))

    def write(folder, number):
        order = (1, 2) if number else (2, 1)
        numbered = np.choose(LABEL, (0, *order)).astype(np.uint8)
        slicer(folder / f"c{number}.seg.nrrd", numbered, [("Liver", order[0]), ("spleen", order[1]), ("other", 9)])

    root = data_set(tmp_path / "data", write, {"1": "liver", "2": "spleen"})
    seen = survey(root)
    assert seen.problems == ()
    assert len({str(count) for count in seen.check.voxels.values()}) == 1
    (root / "labels.json").unlink()
    assert set(find_cases(root).classes.values()) == {"Liver", "spleen", "other"}


def test_layers_are_masks_that_overlap(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))

    def write(folder, number):
        ours(folder / f"c{number}.seg.nrrd", overlapping(), ["liver", "tumour"])

    root = data_set(tmp_path / "data", write)
    path = root / "labels/c0.seg.nrrd"
    assert [(segment.name, segment.layer) for segment in segments_of(path)] == [("liver", 0), ("tumour", 1)]
    for name, mask in zip(("liver", "tumour"), overlapping(), strict=True):
        np.testing.assert_array_equal(read_segments(path)[name], mask > 0)
    with pytest.raises(InputError, match="segments overlap"):
        io.read_label(path)
    with pytest.raises(InputError, match="is a segmentation in layers, not an image"):
        io.read_volume(path)
    found = find_cases(root)
    assert (found.coding.overlapping, survey(root).problems) == (True, ())
    case = found.cases[0]
    parts, table = read_classes(case.label_source, [*found.classes], found.coding, io.read_header(case.image))
    for index, name in enumerate(found.classes.values()):
        expected = overlapping()[["liver", "tumour"].index(name)]
        np.testing.assert_array_equal(table[:, index][parts], expected)


def test_layers_that_share_no_voxel_are_one_label_map(tmp_path):
    apart = ours(tmp_path / "a.seg.nrrd", overlapping())
    image = sitk.ReadImage(str(apart))
    layers = sitk.GetArrayFromImage(image)
    layers[..., 0][layers[..., 1] > 0] = 0
    joined = sitk.GetImageFromArray(layers, isVector=True)
    joined.CopyInformation(image)
    sitk.WriteImage(joined, str(tmp_path / "b.seg.nrrd"))
    np.testing.assert_array_equal(
        io.read_label(tmp_path / "b.seg.nrrd")[0], np.where(overlapping()[1], 2, overlapping()[0])
    )


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nrrd"])
@pytest.mark.parametrize("first", [(2, 2, 1), (0, 0, 0)])
def test_slicers_cropped_extent_is_placed(tmp_path, suffix, first):
    place = samples.AFFINE.copy()
    place[:3, 3] = (samples.AFFINE @ [*first, 1])[:3]
    crop = LABEL[first[0] : 18, first[1] : 14, first[2] : 4]
    image = tmp_path / "images/a.nii.gz"
    samples.volume(image, HU)
    path = slicer(tmp_path / f"a{suffix}", crop, affine=place, offset=first)
    np.testing.assert_array_equal(io.read_label(path, image)[0], LABEL)


def test_slicers_files_beside_the_images_are_no_images(tmp_path):
    root = data_set(tmp_path, lambda folder, number: samples.volume(folder / f"c{number}.nii.gz", LABEL))
    ours(root / "images/c0.seg.nrrd", LABEL)
    assert [case.id for case in find_cases(root).cases] == ["c0", "c1", "c2"]


def test_named_segmentations_are_scored_by_name(tmp_path):
    ours(tmp_path / "pred/a.seg.nrrd", overlapping(), ["liver", "tumour"])
    swapped = overlapping()[::-1]
    ours(tmp_path / "ref/a.seg.nrrd", swapped, ["tumour", "liver"])
    pairs = match_masks(tmp_path / "pred", tmp_path / "ref").pairs
    assert find_labels(pairs) == {"a": {"liver", "tumour"}}
    scores, _ = score_masks(pairs, {"liver": "liver", "tumour": "tumour"}, MetricRules())
    assert scores["a"]["liver"]["dsc"] == scores["a"]["tumour"]["dsc"] == 1
    samples.volume(tmp_path / "maps/a.nii.gz", LABEL)
    ours(tmp_path / "one/a.seg.nrrd", LABEL)
    pairs = match_masks(tmp_path / "one", tmp_path / "maps").pairs
    assert find_labels(pairs) == {"a": {1, 2}}


@pytest.mark.parametrize(
    ("segments", "sentence"),
    [
        ([("", 1)], None),
        ([("a", 1), ("a", 2)], "two segments have the same name"),
        ([("a", "x")], "without a name, a value"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, segments, sentence):
    path = slicer(tmp_path / "a.seg.nrrd", LABEL, segments)
    if sentence is None:
        assert segments_of(path)[0].name == "Segment_0"
        return
    with pytest.raises(InputError, match=sentence):
        segments_of(path)
