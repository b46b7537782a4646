"""Predictions that are refused, that fail for a volume, and that are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from .predicting import SHAPE, call, contents, refused, scan, voxels_of


def test_outputs_that_exist_are_kept_skipped_or_replaced(made, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "case_1_seg.nii.gz").write_text("mine")
    arguments = [made / "run", "-i", made / "scans", "-o", out]
    err = refused(capsys, *arguments)
    assert "case_1_seg.nii.gz already exists" in err
    assert list(contents(out)) == ["case_1_seg.nii.gz"]
    assert call(capsys, *arguments, "--skip-existing")[0] == 0
    assert len(contents(out)) == 4
    assert (out / "case_1_seg.nii.gz").read_text() == "mine"
    before = contents(out)
    code, said, _ = call(capsys, *arguments, "--skip-existing")
    assert (code, contents(out)) == (0, before)
    assert "All masks are there already" in said
    assert call(capsys, *arguments, "--overwrite")[0] == 0
    assert nib.load(out / "case_1_seg.nii.gz").shape == SHAPE
    assert "exclude each other" in refused(capsys, *arguments, "--overwrite", "--skip-existing")


def test_all_bad_volumes_are_told_before_the_model_is_loaded(made, tmp_path, capsys, monkeypatch):
    scans = shutil.copytree(made / "scans", tmp_path / "scans")
    (scans / "case_0.nii.gz").write_bytes(b"")
    content = (scans / "case_2.nii.gz").read_bytes()
    (scans / "case_2.nii.gz").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(
        "medsam_adapt.inference.predictor.load_run", lambda *_, **__: pytest.fail("the model was loaded")
    )
    err = refused(capsys, made / "run", "-i", scans, "-o", tmp_path / "out")
    assert "case_0.nii.gz is empty" in err
    assert "case_2.nii.gz" in err
    assert not (tmp_path / "out").exists()


def test_a_volume_that_fails_on_the_way_stops_no_other(made, tmp_path, capsys):
    scans = shutil.copytree(made / "scans", tmp_path / "scans")
    spoilt = scan(1).astype(np.float32)
    spoilt[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(spoilt, np.eye(4)), scans / "case_1.nii.gz")
    report = tmp_path / "report.json"
    err = refused(capsys, made / "run", "-i", scans, "-o", tmp_path / "out", "--report", report)
    assert "case_1.nii.gz has 1 NaN or infinite voxels" in err
    assert set(contents(tmp_path / "out")) == {f"case_{number}_seg.nii.gz" for number in (0, 2, 3)}
    content = json.loads(report.read_text())
    assert (set(content["cases"]), set(content["failed"])) == ({"case_0", "case_2", "case_3"}, {"case_1"})


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        ("run", ["--format", "nfti"], "no output format 'nfti', did you mean 'nifti'"),
        ("run", ["--itk-snap", "--format", "nrrd"], "--itk-snap goes with one NIfTI label map"),
        ("run", ["--propagate"], "--propagate follows the boxes and points of --prompts"),
        ("run", ["--prompts-from", "scans"], "was trained without prompts and takes none: leave out --prompts-from"),
        ("run", ["--report", "scans"], "scans is a folder: name a file for the report"),
        ("run", ["-o", "scans"], "scans holds the volumes themselves: name another folder"),
        ("box", [], "cannot segment without one: train with --prompt none, or give --prompts"),
        ("box", ["--prompts", "p.json", "--prompts-from", "x"], "--prompts and --prompts-from both give prompts"),
        ("box", ["--prompts", "nowhere.json"], "nowhere.json"),
        ("box", ["--prompts-from", "nowhere"], "nowhere does not exist"),
        ("box", ["--prompts-from-run", "box"], "needs prompts itself"),
    ],
)
def test_options_that_do_not_go_together(made, tmp_path, capsys, monkeypatch, run, options, words):
    monkeypatch.chdir(made)
    before = contents(made / "scans")
    assert words in refused(capsys, run, "-i", "scans", "-o", tmp_path / "out", *options)
    assert contents(made / "scans") == before
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_told_first(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode, **_: mode != os.W_OK)
    monkeypatch.setattr(
        "medsam_adapt.inference.predictor.load_run", lambda *_, **__: pytest.fail("the model was loaded")
    )
    err = refused(capsys, made / "run", "-i", made / "scans", "-o", tmp_path / "out")
    assert f"{tmp_path} cannot be written to" in err


def test_two_inputs_of_one_name_are_refused(made, tmp_path, capsys):
    scans = shutil.copytree(made / "scans", tmp_path / "scans")
    image = nib.load(scans / "case_0.nii.gz")
    nib.save(image, scans / "case_0.nii")
    assert "outputs of the same name" in refused(capsys, made / "run", "-i", scans, "-o", tmp_path / "out")


def test_a_killed_folder_leaves_whole_masks_and_goes_on(made, tmp_path, capsys):
    scans, out, report = tmp_path / "scans", tmp_path / "out", tmp_path / "report.json"
    scans.mkdir()
    for number in range(12):
        (scans / f"case_{number:02d}.nii.gz").symlink_to(made / "scans" / f"case_{number % 4}.nii.gz")
    options = ["-i", scans, "-o", out, "--report", report, "--probabilities", "--device", "cpu"]
    command = [sys.executable, "-m", "medsam_adapt.cli", "predict", made / "run", *options]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(list(out.glob("case_*_seg.nii.gz"))) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, process.stderr.read()
    done = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert 3 <= len([path for path in done if path.is_file()]) < 12
    for path in done:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        assert len(files) == (3 if path.is_dir() else 1)
        for file in files:
            assert voxels_of(file).shape == SHAPE
    told = set(json.loads(report.read_text())["cases"])
    assert told <= {path.name.removesuffix("_seg.nii.gz") for path in done}
    (out / f".{process.pid}.case_11_seg.nii.gz").write_bytes(b"half")  # as a kill while writing leaves it
    (out / f".{os.getpid()}.case_11_seg.nii.gz").write_bytes(b"half")  # and one of a process that lives
    before = {path: path.stat().st_mtime_ns for path in done if path.is_file()}
    assert call(capsys, *command[4:], "--skip-existing")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [path.name for path in out.glob(".*")] == [f".{os.getpid()}.case_11_seg.nii.gz"] or not [*out.glob(".*")]
    cases = json.loads(report.read_text())["cases"]
    assert set(cases) == {f"case_{number:02d}" for number in range(12)}
    for number in range(4, 12):
        first, same = (voxels_of(out / f"case_{each:02d}_seg.nii.gz") for each in (number % 4, number))
        np.testing.assert_array_equal(first, same)
