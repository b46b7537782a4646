"""Wrong input ends in one sentence that names the file and the fix, with exit code 2, and leaves nothing behind."""

import errno
import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.data.slices.training_data import TrainingData


def call(capsys, *arguments):
    """Exit code and standard error of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code, capsys.readouterr().err


@pytest.fixture
def data(phantoms, tmp_path):
    """A copy of the phantoms that a test may spoil."""
    return shutil.copytree(phantoms, tmp_path / "data")


def refused(capsys, output, *arguments):
    """The sentence of a training that was refused."""
    code, err = call(
        capsys, "train", *arguments, "--output", output, "--device", "cpu", "--image-size", 32, "--epochs", 1
    )
    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not output.exists()
    return err


def resave(path, array=None, affine=None):
    image = nib.load(path)
    array = np.asarray(image.dataobj) if array is None else array
    nib.save(nib.Nifti1Image(array, image.affine if affine is None else affine), path)


def no_label(data):
    (data / "labels" / "phantom_001.nii.gz").unlink()


def other_shape(data):
    resave(data / "labels" / "phantom_001.nii.gz", np.zeros((8, 8, 8), np.uint8))


def other_affine(data):
    path = data / "labels" / "phantom_001.nii.gz"
    affine = nib.load(path).affine.copy()
    affine[0, 3] += 40
    resave(path, affine=affine)


def truncated(data):
    path = data / "images" / "phantom_001.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])


def four_dimensional(data):
    path = data / "images" / "phantom_001.nii.gz"
    resave(path, np.stack([np.asarray(nib.load(path).dataobj)] * 2, axis=-1))


def not_finite(data):
    path = data / "images" / "phantom_001.nii.gz"
    array = np.asarray(nib.load(path).dataobj).astype(np.float32)
    array[3, 3, 3] = np.nan
    resave(path, array)


def outside_the_map(data):
    path = data / "labels" / "phantom_001.nii.gz"
    array = np.asarray(nib.load(path).dataobj).copy()
    array[0, 0, 0] = 77
    resave(path, array)


def code_for_a_name(data):
    (data / "labels.json").write_text(
        json.dumps({"1": "$__import__('os').system('touch ran')"} | {str(i): f"c{i}" for i in range(2, 6)})
    )


def all_background(data):
    for path in (data / "labels").glob("*.nii.gz"):
        resave(path, np.zeros(nib.load(path).shape, np.uint8))


def not_gzip(data):
    path = data / "images" / "phantom_001.nii.gz"
    path.write_bytes(gzip.decompress(path.read_bytes())[::-1])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_label, ["phantom_001", "label"]),
        (other_shape, ["phantom_001", "8 × 8 × 8 voxels", "Resample"]),
        (other_affine, ["phantom_001", "40 mm", "Resample"]),
        (truncated, ["images/phantom_001.nii.gz: it cannot be read", "Copy or download it again"]),
        (
            four_dimensional,
            ["images/phantom_001.nii.gz: it is 4D (40 × 36 × 12 × 2), not 3D. Give each volume in a separate file"],
        ),
        (not_finite, ["images/phantom_001.nii.gz: it has 1 NaN or infinite voxels. Replace them"]),
        (outside_the_map, ["phantom_001", "77", "label map"]),
        (all_background, ["no case has a labelled voxel"]),
        (code_for_a_name, ["MONAI would run"]),
        (not_gzip, ["images/phantom_001.nii.gz: it is not gzip-compressed"]),
    ],
)
def test_bad_volumes(data, tmp_path, capsys, spoil, words):
    spoil(data)
    sentence = refused(capsys, tmp_path / "run", "--data", data)
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bundle", "blosan"], ["--bundle blosan", "Did you mean 'blosam'"]),
        (["--layout", "adomee"], ["adomee", "adome"]),
        (["--classes", "liver,splen"], ["splen", "spleen"]),
        (["--set", "epoch=3"], ["no setting 'epoch'", "Did you mean 'epochs'"]),
        (["--bundle", "lora", "--set", "rank=four"], ["rank", "integer", "'four'"]),
        (["--bundle", "lora", "--set", "rank=0", "--set", "held_out=2"], ["rank", "held_out"]),
        (["--bundle", "lora", "--set", "rank=1000"], ["rank 1000"]),
        (["--set", "seed=$__import__('os')"], ["begins with $"]),
        (["--set", "rank"], ["key=value"]),
        (["--set", 'cache_dir=["$x"]'], ["cache_dir"]),
        (["--checkpoint", "$print(1)"], ["$print(1)"]),
        (["--recipe", "papers"], ["--recipe papers"]),
        (["--prompt", "boxes"], ["prompt", "'boxes'"]),
        (["--backbone", "vit_x"], ["backbone", "'vit_x'"]),
        (["--checkpoint", "nowhere.pth"], ["nowhere.pth: this checkpoint does not exist"]),
        (["--set", "intensity=ct-liver"], ["intensity", "'ct-liver'"]),
    ],
)
def test_bad_options(phantoms, tmp_path, capsys, options, words):
    sentence = refused(capsys, tmp_path / "run", "--data", phantoms, *options)
    for word in words:
        assert word in sentence


def test_a_missing_folder(tmp_path, capsys):
    assert "nowhere: it does not exist" in refused(capsys, tmp_path / "run", "--data", tmp_path / "nowhere")


def test_an_unknown_device(phantoms, tmp_path, capsys):
    code, err = call(capsys, "train", "--data", phantoms, "--output", tmp_path / "run", "--device", "cuda:99")
    assert code == 2
    assert "--device cuda:99" in err


def test_existing_outputs_are_kept(phantoms, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    for options in ([], ["--overwrite"]):
        code, err = call(capsys, "train", "--data", phantoms, "--output", tmp_path / "run", *options)
        assert code == 2
        assert str(tmp_path / "run") in err
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


SMALL = ["--device", "cpu", "--image-size", 32, "--epochs", 1]


def test_an_output_that_cannot_be_written(phantoms, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    commands = {
        "train": ["train", "--data", phantoms, *SMALL, "--output"],
        "convert": ["data", "convert", phantoms, "-o"],
        "split": ["data", "split", phantoms, "--folds", 3, "-o"],
    }
    for name, command in commands.items():
        code, err = call(capsys, *command, tmp_path / "file" / "below")
        assert code == 2, name
        assert err.startswith("error: ")
        assert f"{tmp_path / 'file'}" in err
        assert any(words in err for words in ("cannot be written", "cannot be written to"))
        assert "Name a" in err
    monkeypatch.setattr("medsam_adapt.core.output_folder._writable", lambda folder: False)
    code, err = call(capsys, *commands["train"], tmp_path / "run")
    assert code == 2
    assert f"{tmp_path}: it cannot be written to" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk(phantoms, tmp_path, capsys, monkeypatch):
    """While it runs the disk is full: exit code 1, or 2 where another folder fixes it; no half file is left."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("numpy.save", full)
        command = ["train", "--data", phantoms, *SMALL, "--cache-dir", tmp_path / "cache", "--output", tmp_path / "run"]
        code, err = call(capsys, *command)
        assert code == 1
        assert "could not take the slices (No space left on device)" in err
        assert not (tmp_path / "run").exists()
        assert not list((tmp_path / "cache").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("medsam_adapt.data.volumes.io.gzip_compressed", full)
        code, err = call(capsys, "data", "convert", phantoms, "-o", tmp_path / "copy")
        assert code == 2
        assert "phantom_000.nii.gz: it cannot be written (No space left on device). Choose another folder" in err
        assert not list((tmp_path / "copy").rglob("*.nii.gz"))
    code, _ = call(capsys, "data", "convert", phantoms, "-o", tmp_path / "copy")  # goes on
    assert (code or 0, len(list((tmp_path / "copy").rglob("*.nii.gz")))) == (0, 6)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_what_is_no_run_is_refused(phantoms, tmp_path, capsys, command):
    options = ["-i", phantoms / "images", "-o", tmp_path / "masks"] if command == "predict" else []
    code, err = call(capsys, command, tmp_path, *options)
    assert code == 2
    assert "is not a run" in err
    (tmp_path / "run.json").write_text(json.dumps({"format": 1}))
    code, err = call(capsys, command, tmp_path, *options)
    assert code == 2
    assert "run.json" in err


def test_a_way_to_compile_that_does_not_exist(capsys, data, tmp_path, monkeypatch):
    """Reported before slices are made."""
    monkeypatch.setattr(TrainingData, "store", lambda *_: pytest.fail("slices are being made"))
    error = refused(capsys, tmp_path / "run", "--data", data, "--set", "compile=graphs")
    assert "compile" in error
    assert "'graphs'" in error
