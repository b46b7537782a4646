"""Data sets in every layout with several images of a case open as ``train`` and ``predict`` read them."""

import json

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.annotation.opening import open_session
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.scans import find_inputs
from medsam_adapt.data.volumes.io import read_volume
from tests.data import samples
from tests.data.dicom_files import save, series

LABELS = {"0": "background", "1": "liver", "2": "spleen"}
BOTH = {"0": "T2", "1": "ADC"}


def nnunet(root):
    samples.nnunet(root, channels=("T2", "ADC"))
    return root


def msd(root):
    """4D files."""
    for number in range(2):
        hu, label = samples.body(number)
        samples.volume(root / f"imagesTr/p{number}.nii.gz", np.stack([hu, 2 * hu], axis=-1))
        samples.volume(root / f"labelsTr/p{number}.nii.gz", label)
    cases = samples.listed("imagesTr/p{}.nii.gz", "labelsTr/p{}.nii.gz", range(2))
    samples.text(root / "dataset.json", {"modality": BOTH, "labels": LABELS, "training": cases})
    return root


def datalist(root):
    """The JSON file of a list in which one of two cases has a label."""
    cases = []
    for number in range(2):
        hu, label = samples.body(number)
        images = [f"{number}_t2.nii.gz", f"{number}_adc.nii.gz"]
        for scale, name in enumerate(images, start=1):
            samples.volume(root / name, scale * hu)
        samples.volume(root / f"{number}_seg.nii.gz", label)
        cases.append({"image": images, "id": f"p{number}", **({} if number else {"label": "0_seg.nii.gz"})})
    samples.text(root / "study.json", {"channel_names": BOTH, "labels": LABELS, "training": cases})
    return root / "study.json"


def folder(root):
    hu, label = samples.body(0)
    for scale, name in ((1, "T2"), (2, "ADC")):
        samples.volume(root / f"images/p0/{name}.nii.gz", scale * hu)
    samples.volume(root / "labels/p0.nii.gz", label)
    samples.text(root / "labels.json", {"1": "liver", "2": "spleen"})
    return root


def dicom(root):
    for case in ("p0", "p1"):
        for name in ("T2", "ADC"):
            save(root / case / name, series(modality="MR"))
    return root


@pytest.mark.parametrize(
    ("make", "layout", "images", "labelled"),
    [
        (nnunet, "auto", ("T2", "ADC"), 3),
        (nnunet, "nnunet", ("T2", "ADC"), 3),
        (nnunet, "nnunet:ADC,T2", ("ADC", "T2"), 3),
        (nnunet, "nnunet:ADC", (), 3),
        (msd, "auto", ("T2", "ADC"), 2),
        (msd, "msd", ("T2", "ADC"), 2),
        (datalist, "auto", ("T2", "ADC"), 1),
        (datalist, "datalist", ("T2", "ADC"), 1),
        (folder, "folder", ("ADC", "T2"), 1),
        (dicom, "dicom:T2,ADC", ("T2", "ADC"), 0),
        (dicom, "dicom:ADC,T2", ("ADC", "T2"), 0),
    ],
)
def test_cases_open_as_train_and_predict_read_them(tmp_path, make, layout, images, labelled):
    given, notes = make(tmp_path / "data"), []
    session = open_session(given, ["liver", "spleen"], tmp_path / "out", layout=layout, report=notes.append)
    assert session.images == images
    trained = {case.id: case for case in find_cases(given, layout, need_labels=False).cases}
    predicted = find_inputs(given, layout, images=None).volumes
    assert {*session.scans} == {*trained} == {*predicted}
    for id, scan in session.scans.items():
        assert scan.image == trained[id].image == predicted[id]
        assert session.status(id) == ("labelled" if trained[id].label else "open")
    assert sum(case.label is not None for case in trained.values()) == labelled
    name = layout.partition(":")[0] if layout != "auto" else make.__name__
    assert len(notes) == 1
    assert f"looks like the layout '{name}" in notes[0]
    assert f": {len(trained)} {'case' if images else 'image'}{'s' * (len(trained) > 1)}." in notes[0]

    first = next(iter(session.scans))
    drawing = session.drawing(first)
    voxels, _ = read_volume(session.scans[first].image)
    for number in range(len(images)):
        np.testing.assert_array_equal(drawing.native(drawing.grey(number)), voxels[..., number])
    if (label := trained[first].label) is not None:
        np.testing.assert_array_equal(drawing.native(drawing.label), np.asarray(nib.load(label).dataobj))


def test_labels_of_a_datalist_lie_beside_its_file(tmp_path):
    session = open_session(datalist(tmp_path / "data"))
    assert session.output == tmp_path / "data" / "study_annotated"
    assert [*session.classes.values()] == ["liver", "spleen"]


def test_labels_that_cannot_be_drawn_as_one_map_are_reported(tmp_path):
    notes = []
    samples.nnunet_regions(tmp_path / "data")
    session = open_session(tmp_path / "data", ["liver"], tmp_path / "out", report=notes.append)
    assert {session.status(scan) for scan in session.scans} == {"open"}
    assert any("may overlap or be ignored in places" in note for note in notes)


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("nnunt", r"--layout nnunt: there is no such layout. Did you mean 'nnunet'"),
        ("msd", r"dataset\.json: it has no list \"training\""),
        ("nnunet:FLAIR", r"it has no channel 'FLAIR'.*Choose one of 0000 \(T2\), 0001 \(ADC\)"),
        ("btcv:T2", r"--layout btcv: it has no choices"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_in_a_sentence(tmp_path, layout, sentence):
    with pytest.raises(InputError, match=sentence):
        open_session(nnunet(tmp_path / "data"), ["liver"], layout=layout)


def test_another_file_than_a_datalist_is_refused(tmp_path):
    path = folder(tmp_path / "data") / "images/p0/T2.nii.gz"
    with pytest.raises(
        InputError, match=r"it is not a folder\. Give a folder of scans, or the JSON file of a datalist"
    ):
        open_session(path, ["liver"])
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(InputError, match='it has no list "training"'):
        open_session(tmp_path / "other.json", ["liver"])
