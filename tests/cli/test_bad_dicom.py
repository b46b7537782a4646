"""DICOM folders that are no volume end in one sentence, with exit code 2, whatever command reads them; and --series."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.data.volumes import io
from tests.data.dicom_files import BIRTH, HU, IDENTIFIER, SECRET, STORED, save, segmentation, series
from tests.data.volumes.test_dicom_folders import drop, tilted
from tests.data.volumes.test_dicom_labels import LABEL, MASKS
from tests.made_runs import make_run

from .test_train import call


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run", names=("liver", "spleen"))


@pytest.fixture
def data(tmp_path):
    """Three cases, each a series with a label beside it."""
    for name in "abc":
        folder = save(tmp_path / "data" / name, series())
        io.write_label(folder / "label.nii.gz", LABEL.astype(np.uint8), folder)
    return tmp_path / "data"


def replace_slices(folder, datasets):
    for path in folder.glob("IM*"):
        path.unlink()
    save(folder, datasets)


def incomplete(folder):
    replace_slices(folder, drop(2))


def leaning(folder):
    replace_slices(folder, tilted())


def two_series(folder):
    save(folder, series(STORED + 1, number=7, modality="MR", SeriesDescription="T2 axial"), prefix="T2")


def cut(folder):
    replace_slices(folder, series(np.zeros((6, 64, 64), np.int16)))
    file = sorted(folder.glob("IM*"))[1]
    file.write_bytes(file.read_bytes()[:-4000])


def other_grid(folder):
    label = nib.load(folder / "label.nii.gz")
    affine = label.affine.copy()
    affine[2, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj), affine), folder / "label.nii.gz")


COMMANDS = {
    "check": ["data", "check", "{data}"],
    "train": ["train", "--data", "{data}", "--output", "{out}", "--device", "cpu", "--image-size", "32"],
    "convert": ["data", "convert", "{data}", "-o", "{out}"],
    "predict": ["predict", "{run}", "-i", "{data}", "-o", "{out}", "--device", "cpu"],
}


def reported(capsys, command, tmp_path, run, *options):
    """The sentence of a command on the data set, of which nothing that was refused is left behind."""
    places = {"data": tmp_path / "data", "out": tmp_path / "out", "run": run}
    code, _, err = call(capsys, *(word.format(**places) for word in COMMANDS[command]), *options)
    assert code == 2
    assert "error: " in err
    assert "Traceback" not in err
    assert not [word for word in (SECRET, IDENTIFIER, BIRTH, "1.2.826") if word in err]
    masks = {path.name for path in tmp_path.glob("out/*.nii.gz")}  # of the other cases, which predict segments
    assert "b_seg.nii.gz" not in masks
    assert command == "predict" or sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    return err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            incomplete,
            "data/b: it misses 1 slice between 102.5 and 107.5 mm (slices are 2.5 mm apart). Export the whole",
        ),
        (leaning, "data/b: it is a tilted stack"),
        (
            two_series,
            "data/b: it holds 2 series: series 3 (CT, 6 slices), series 7 (MR, 6 slices). Choose one with --series",
        ),
        (cut, "data/b: it holds a truncated or damaged DICOM file, number 2 of its files by name"),
        (other_grid, "data/b/label.nii.gz: it lies up to 5 mm from its image b. Resample the label"),
    ],
)
def test_dicom_that_cannot_be(data, run, tmp_path, capsys, spoil, words, command):
    if spoil is other_grid and command == "predict":
        return  # which reads no label
    spoil(data / "b")
    assert words in reported(capsys, command, tmp_path, run)


@pytest.mark.parametrize("command", ["check", "convert", "predict"])
def test_a_series_is_chosen_from_each_folder(data, run, tmp_path, capsys, command):
    for name in "abc":
        two_series(data / name)
    assert "data/a: it has no series T1, but series 3" in reported(capsys, command, tmp_path, run, "--series", "T1")
    places = {"data": data, "out": tmp_path / "out", "run": run}
    arguments = [word.format(**places) for word in COMMANDS[command]]
    for number, name in ((7, "t2 AXIAL"), (3, "3")):
        code, out, err = call(capsys, *arguments, "--series", name)
        assert (code, err) == (0, "")
        if command == "check":
            assert f"{HU.min() + (number == 7):g} to {HU.max() + (number == 7):g}" in out
            continue
        if command == "convert":
            voxels, _ = io.read_volume(tmp_path / "out/images/a.nii.gz")
            np.testing.assert_array_equal(voxels, HU + (number == 7))
        shutil.rmtree(tmp_path / "out")


def test_a_series_is_chosen_among_folders_and_its_label_converted(tmp_path, capsys):
    slices = series(SeriesDescription="portal")
    save(tmp_path / "data/a/one", slices)
    save(tmp_path / "data/a/two", series(STORED[:4], number=7))
    segmentation(slices, MASKS, ["liver", "spleen"]).save_as(tmp_path / "data/a/seg.dcm")
    code, _, err = call(capsys, "data", "check", tmp_path / "data")
    assert code == 2
    assert "data/a: it has several folders of DICOM images" in err
    assert "choose one series with --series" in err
    code, out, _ = call(capsys, "data", "check", tmp_path / "data", "--series", "Portal", "--json")
    (case,) = json.loads(out)["cases"]
    assert (code, case["shape"], case["voxels"]) == (0, [4, 5, 6], {"liver": 6, "spleen": 12})


def test_a_series_where_there_is_none(phantoms, run, tmp_path, capsys):
    for command in (["data", "check", phantoms], ["predict", run, "-i", phantoms / "images", "-o", tmp_path / "out"]):
        code, _, err = call(capsys, *command, "--series", "3")
        assert code == 2
        assert "holds no DICOM series to choose from" in err
    assert not (tmp_path / "out").exists()
