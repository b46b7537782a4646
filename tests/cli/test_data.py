"""``data`` and ``cache``; and data that cannot be end in one sentence, with exit code 2, and leave nothing behind."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from tests.data.dicom_files import save as save_series
from tests.data.dicom_files import segmentation, series
from tests.data.volumes.test_dicom_labels import MASKS

from .test_train import call


@pytest.fixture
def data(phantoms, tmp_path):
    return shutil.copytree(phantoms, tmp_path / "data")


def save(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 2, 1]) if affine is None else affine), path)


def changed_header(path, **fields):
    """Change raw fields of a header, whatever nibabel thinks of them."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)))


def empty(image, label):
    image.write_bytes(b"")


def missing(image, label):
    image.unlink()


def cut(image, label):
    image.write_bytes(image.read_bytes()[:3000])


def corrupt(image, label):
    content = bytearray(image.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 60] = bytes(60)
    image.write_bytes(content)


def wrong_magic(image, label):
    changed_header(image, magic=b"abc")


def two_dimensional(image, label):
    save(image, np.zeros((8, 8), np.int16))


def five_dimensional(image, label):
    save(image, np.zeros((8, 8, 8, 2, 3), np.int16))


def zero_spacing(image, label):
    changed_header(image, pixdim=[1, 2, 0, 2, 0, 0, 0, 0])


def nan_spacing(image, label):
    changed_header(image, pixdim=[1, 2, np.nan, 2, 0, 0, 0, 0])


def flat_affine(image, label):
    changed_header(image, srow_x=[1, 0, 0, 0], srow_y=[1, 0, 0, 0], srow_z=[0, 0, 1, 0], sform_code=1, qform_code=0)


def infinite(image, label):
    array = np.asarray(nib.load(image).dataobj).astype(np.float32)
    array[0, 0, 0] = np.inf
    save(image, array, nib.load(image).affine)


def fractional_label(image, label):
    array = np.asarray(nib.load(label).dataobj).astype(np.float32)
    array[0, 0, 0] = 1.5
    save(label, array, nib.load(label).affine)


def negative_label(image, label):
    array = np.asarray(nib.load(label).dataobj).astype(np.int16)
    array[0, 0, 0] = -1
    save(label, array, nib.load(label).affine)


def renamed(image, label):
    shutil.move(image, image.with_name("phantom_001.txt"))


@pytest.mark.parametrize("command", ["check", "train", "convert"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (empty, "images/phantom_001.nii.gz: it is empty. Copy"),
        (missing, "labels/phantom_001.nii.gz: it has no image. Add the image or remove the label"),
        (cut, "images/phantom_001.nii.gz: it cannot be read"),
        (corrupt, "images/phantom_001.nii.gz: it cannot be read"),
        (wrong_magic, "images/phantom_001.nii.gz: it is not a NIfTI volume"),
        (two_dimensional, "images/phantom_001.nii.gz: it is 2D (8 × 8), not 3D"),
        (five_dimensional, "images/phantom_001.nii.gz: it is 5D (8 × 8 × 8 × 2 × 3), not 3D"),
        (zero_spacing, "images/phantom_001.nii.gz: its voxel spacing is impossible (2, 0, 2)"),
        (nan_spacing, "images/phantom_001.nii.gz: its voxel spacing is impossible (2, nan, 2)"),
        (flat_affine, "images/phantom_001.nii.gz: it has an affine that cannot be inverted"),
        (infinite, "images/phantom_001.nii.gz: it has 1 NaN or infinite voxels"),
        (fractional_label, "labels/phantom_001.nii.gz: it is not a label map, since it holds 1.5"),
        (negative_label, "labels/phantom_001.nii.gz: it holds the label -1"),
        (renamed, "labels/phantom_001.nii.gz: it has no image"),
    ],
)
def test_data_that_cannot_be(data, tmp_path, capsys, spoil, words, command):
    spoil(data / "images/phantom_001.nii.gz", data / "labels/phantom_001.nii.gz")
    output = tmp_path / "out"
    more = {
        "check": ["data", "check", data],
        "train": ["train", "--data", data, "--output", output, "--device", "cpu", "--image-size", 32],
        "convert": ["data", "convert", data, "-o", output],
    }
    code, _, err = call(capsys, *more[command])
    assert code == 2
    assert "error: " in err
    assert words in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_check_tells_the_cases_and_the_classes(data, capsys):
    code, out, err = call(capsys, "data", "check", data)
    assert (code, err) == (0, "")
    for words in ("3 cases in layout 'folder'", "phantom_002", "40 × 36 × 12", "RAI", "spleen", "No problems found."):
        assert words in out


def test_check_prints_json_alone(data, capsys):
    code, out, err = call(capsys, "data", "check", data, "--json")
    facts = json.loads(out)
    assert (code, err, facts["problems"], len(facts["cases"])) == (0, "", [], 3)
    (data / "labels/phantom_001.nii.gz").unlink()
    code, out, err = call(capsys, "data", "check", data, "--json")
    assert (code, err) == (2, "")
    (problem,) = json.loads(out)["problems"]
    assert "phantom_001.nii.gz: it has no label" in problem


def test_check_tells_all_problems_behind_the_table(data, capsys):
    for index in (0, 2):
        (data / f"labels/phantom_00{index}.nii.gz").write_bytes(b"")
    code, out, err = call(capsys, "data", "check", data)
    assert code == 2
    assert "phantom_002" in out
    assert err.startswith(f"error: 2 problems in {data}:\n")
    assert err.count("it is empty. Copy") == 2


def test_a_converted_data_set_trains(data, tmp_path, capsys):
    (tmp_path / "map.json").write_text('{"left kidney": "kidney", "right kidney": "kidney", "spleen": 1}')
    code, out, _ = call(capsys, "data", "convert", data, "-o", tmp_path / "out", "--map", tmp_path / "map.json")
    assert code == 0
    assert "Converted 3 cases" in out
    assert "labels: 1 spleen, 2 kidney" in out
    small = ["--image-size", 32, "--device", "cpu", "--epochs", 1, "--set", "min_steps=1", "--bundle", "decoder"]
    assert call(capsys, "train", "--data", tmp_path / "out", *small, "--output", tmp_path / "run")[0] == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["class_names"] == ["spleen", "kidney"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rename", "livr=a"], "there is no label 'livr'. Did you mean 'liver'"),
        (["--rename", "liver"], "is not OLD=NEW"),
        (["--map", "nowhere.json"], "nowhere.json: it cannot be read"),
        (["--map", "a.json", "--rename", "a=b"], "--rename: it excludes --map"),
        (["--classes", "splen"], "there is no 'splen'. Did you mean 'spleen'"),
    ],
)
def test_conversions_that_cannot_be(data, tmp_path, capsys, options, words):
    code, _, err = call(capsys, "data", "convert", data, "-o", tmp_path / "out", *options)
    assert code == 2
    assert words in err
    assert not (tmp_path / "out").exists()


def test_folds_are_dealt_and_trained_on(data, tmp_path, capsys):
    splits = tmp_path / "splits.json"
    code, out, _ = call(capsys, "data", "split", data, "-o", splits, "--folds", 3, "--seed", 4)
    assert code == 0
    assert "3 patients in 3 folds" in out
    folds = json.loads(splits.read_text())["folds"]
    small = ["--image-size", 32, "--device", "cpu", "--epochs", 1, "--set", "min_steps=1", "--bundle", "decoder"]
    train = ["train", "--data", data, *small, "--fold", 1]
    assert call(capsys, *train, "--split-file", splits, "--output", tmp_path / "a")[0] == 0
    assert call(capsys, *train, "--folds", 3, "--seed", 4, "--output", tmp_path / "b")[0] == 0
    for name in "ab":
        record = json.loads((tmp_path / name / "run.json").read_text())
        assert {part: record[part] for part in ("train", "held_out")} == folds[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--folds", 4], "--folds 4: there are only 3 patients"),
        (["-o", "nowhere/splits.json"], "Name a JSON file in a folder that exists"),
    ],
)
def test_splits_that_cannot_be(data, tmp_path, capsys, options, words):
    code, _, err = call(capsys, "data", "split", data, "-o", tmp_path / "splits.json", *options)
    assert code == 2
    assert words in err
    assert not (tmp_path / "splits.json").exists()


def test_a_split_that_exists_is_kept(data, tmp_path, capsys):
    (tmp_path / "splits.json").write_text("mine")
    code, _, err = call(capsys, "data", "split", data, "-o", tmp_path / "splits.json", "--folds", 3)
    assert code == 2
    assert "already exists" in err
    assert (tmp_path / "splits.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fold", 5], "--fold 5: there are 5 folds"),
        (["--fold", 0], "--folds 5: there are only 3 patients"),
        (["--split-file", "nowhere.json"], "nowhere.json: it cannot be read"),
        (["--cache-dir", "{data}/labels.json"], "labels.json: this slice cache cannot be written to"),
    ],
)
def test_training_that_cannot_be(data, tmp_path, capsys, options, words):
    options = [str(option).format(data=data) for option in options]
    code, _, err = call(
        capsys, "train", "--data", data, *options, "--output", tmp_path / "run", "--image-size", 32, "--device", "cpu"
    )
    assert code == 2
    assert words in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_cache_is_shown_and_emptied(data, tmp_path, capsys):
    cache = tmp_path / "cache"
    options = ["--image-size", 32, "--device", "cpu", "--cache-dir", cache, "--set", "min_steps=1", "--epochs", 1]
    options += ["--bundle", "decoder", "--set", "tune_encoder=true"]
    code, out, _ = call(capsys, "train", "--data", data, *options, "--output", tmp_path / "run")
    assert code == 0
    assert f"kB in {cache}" in out
    (cache / ".making-x").mkdir()
    code, out, _ = call(capsys, "cache", "info", "--cache-dir", cache)
    assert code == 0
    assert "in 2 sliced cases" in out
    assert str(data) in out
    assert "Killed runs left 0 bytes behind" in out
    facts = json.loads(call(capsys, "cache", "info", "--cache-dir", cache, "--json")[1])
    assert (facts["cases"], facts["leftovers"], facts["datasets"]) == (2, 1, {str(data): 2})
    code, out, _ = call(capsys, "cache", "clear", "--cache-dir", cache)
    assert code == 0
    assert "Removed 2 sliced cases and 1 that killed runs left unfinished" in out
    assert list(cache.iterdir()) == []


def test_converted_labels_are_counted_and_removed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))
    for name in "ab":
        slices = series()
        save_series(tmp_path / "data" / name, slices)
        segmentation(slices, MASKS, ["liver", "spleen"]).save_as(tmp_path / "data" / name / "seg.dcm")
    assert call(capsys, "data", "check", tmp_path / "data")[0] == 0
    (tmp_path / "home/labels/notes").mkdir()
    assert "in 2 labels that were DICOM" in call(capsys, "cache", "info")[1]
    assert json.loads(call(capsys, "cache", "info", "--json")[1])["labels"] == 2
    assert "Removed 0 sliced cases, 2 converted labels from" in call(capsys, "cache", "clear")[1]
    assert [path.name for path in (tmp_path / "home/labels").iterdir()] == ["notes"]
