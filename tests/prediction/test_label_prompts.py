import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import write_json
from medsam_adapt.data.volumes.io import read_header
from medsam_adapt.prediction.label_prompts import PromptsFromLabels
from medsam_adapt.prediction.plan import PlannedCase
from medsam_adapt.runs.record import read_run
from tests.data.dicom_files import STORED, save, segmentation, series, structure_set
from tests.made_runs import make_run

SHAPE = STORED.T.shape
NAMES = ("spleen", "liver")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Of a run whose classes exclude each other, and of one whose classes may overlap."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        read_run(make_run(folder / str(overlapping), "box", overlapping, names=NAMES, label_ids=[7, 2]))
        for overlapping in (False, True)
    ]


@pytest.fixture
def sources():
    """Data sets of a DICOM series."""
    return series()


@pytest.fixture
def case(tmp_path, sources):
    save(tmp_path / "scans" / "patient", sources)
    return PlannedCase("patient", read_header(tmp_path / "scans" / "patient"), {})


def masks(overlap):
    """Liver and spleen (X, Y, Z)."""
    liver, spleen = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    liver[0:3, 0:3, 1:4], spleen[2 if overlap else 3 : 5, 1:4, 2:5] = True, True
    return liver, spleen


def as_files(folder, image, **structures):
    folder.mkdir(parents=True)
    for name, mask in structures.items():
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), image.affine), folder / f"{name}.nii.gz")


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("name", ["patient.dcm", "patient_seg.dcm"])
def test_a_dicom_segmentation_gives_its_structures_by_name(tmp_path, records, case, sources, name, overlap):
    liver, spleen = masks(overlap)
    stored = np.stack([spleen.T, liver.T], axis=-1).astype(np.uint8)
    labels = tmp_path / "labels"
    labels.mkdir()
    segmentation(sources, stored, ["Spleen", "LIVER"]).save_as(labels / name)
    found = PromptsFromLabels(labels, [case], records[0])(case, None)
    if overlap:
        np.testing.assert_array_equal(found, [spleen, liver])
    else:
        np.testing.assert_array_equal(found, 7 * spleen + 2 * liver)


def test_a_structure_set_is_found_beside_labels_of_other_cases(tmp_path, records, case, sources):
    corner = np.array([1.0, 1, 1])
    affine = case.header.affine
    square = [
        (affine @ (*(corner + step), 1))[:3] * (-1, -1, 1) for step in ((0, 0, 0), (2, 0, 0), (2, 2, 0), (0, 2, 0))
    ]
    labels = tmp_path / "labels"
    labels.mkdir()
    structure_set(sources, {"spleen": [np.array(square)], "heart": []}).save_as(
        labels / "patient_rtstruct.dcm", enforce_file_format=True
    )
    found = PromptsFromLabels(labels, [case], records[0])(case, None)
    assert set(np.unique(found)) == {0, 7}
    assert np.flatnonzero(found.any(axis=(0, 1))).tolist() == [1]


def test_a_folder_of_masks_gives_structures_that_overlap(tmp_path, records, case):
    liver, spleen = masks(overlap=True)
    as_files(tmp_path / "labels" / "patient_seg", case.header, Spleen=3 * spleen, liver=liver, heart=liver)
    for record in records:
        found = PromptsFromLabels(tmp_path / "labels", [case], record)(case, None)
        np.testing.assert_array_equal(found, [spleen, liver])


def test_a_label_map_prompts_a_run_whose_classes_may_overlap(tmp_path, records, case):
    liver, spleen = masks(overlap=False)
    as_files(tmp_path / "labels", case.header, patient=4 * spleen + 9 * liver)
    write_json(tmp_path / "labels" / "labels.json", {"4": "spleen", "9": "Liver"})
    found = PromptsFromLabels(tmp_path / "labels", [case], records[1])(case, None)
    np.testing.assert_array_equal(found, 7 * spleen + 2 * liver)


def test_labels_that_do_not_fit_are_told(tmp_path, records, case, sources):
    stored = np.stack([mask.T for mask in masks(False)], axis=-1).astype(np.uint8)
    segmentation(sources, stored, ["heart", "lung"]).save_as(tmp_path / "heart.dcm")
    with pytest.raises(InputError, match=r"heart.dcm: it has none of the run's structures \(spleen, liver\)"):
        PromptsFromLabels(tmp_path / "heart.dcm", [case], records[0])
    as_files(tmp_path / "labels" / "patient", case.header, spleen=np.zeros((3, 3, 3)))
    with pytest.raises(InputError, match=r"spleen.nii.gz: it has 3 × 3 × 3 voxels"):
        PromptsFromLabels(tmp_path / "labels", [case], records[0])
