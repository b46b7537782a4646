"""Predictions that are refused, that fail for a volume, and that are killed."""

import gzip
import json
import os
import shutil
import signal
import time

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.core.files import owner_tag
from medsam_adapt.data.volumes.io import read_volume
from medsam_adapt.prediction.json_report import earlier_cases
from tests.warm import running_anew

from .predicting import SHAPE, call, contents, refused, scan, voxels_of


def test_outputs_that_exist_are_kept_skipped_or_replaced(made, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "case_1_seg.nii.gz").write_text("mine")
    arguments = [made / "run", "-i", made / "scans", "-o", out]
    err = refused(capsys, *arguments)
    assert "case_1_seg.nii.gz: it already exists" in err
    assert list(contents(out)) == ["case_1_seg.nii.gz"]
    assert call(capsys, *arguments, "--skip-existing")[0] == 0
    assert len(contents(out)) == 4
    assert (out / "case_1_seg.nii.gz").read_text() == "mine"
    before = contents(out)
    code, printed, _ = call(capsys, *arguments, "--skip-existing")
    assert (code, contents(out)) == (0, before)
    assert "All masks are there already" in printed
    assert call(capsys, *arguments, "--overwrite")[0] == 0
    assert nib.load(out / "case_1_seg.nii.gz").shape == SHAPE
    error = refused(capsys, *arguments, "--overwrite", "--skip-existing")
    assert "--overwrite" in error
    assert "--skip-existing" in error


def damaged(path, how):
    """Damage a volume in one of the ways that a header, or only the voxels, shows."""
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "no volume":
        path.write_bytes(gzip.compress(b"x" * 1000))
    elif how == "not finite":
        spoilt = scan(1).astype(np.float32)
        spoilt[3, 3, 3] = np.nan
        nib.save(nib.Nifti1Image(spoilt, np.eye(4)), path)
    else:
        voxels = bytearray(gzip.decompress(content))
        path.write_bytes(gzip.compress(bytes(voxels[:400])))


def no_model(monkeypatch):
    monkeypatch.setattr(
        "medsam_adapt.inference.predictor.load_run", lambda *_, **__: pytest.fail("the model was loaded")
    )


@pytest.mark.parametrize("bad", [["empty"], ["half"], ["no volume"], ["cut"], ["not finite"], ["empty", "not finite"]])
def test_damaged_volumes_stop_no_other(made, tmp_path, capsys, bad):
    scans = shutil.copytree(made / "scans", tmp_path / "scans")
    for number, how in enumerate(bad):
        damaged(scans / f"case_{number}.nii.gz", how)
    spoilt, whole = ({f"case_{number}" for number in range(*ends)} for ends in ((0, len(bad)), (len(bad), 4)))
    report = tmp_path / "report.json"
    err = refused(capsys, made / "run", "-i", scans, "-o", tmp_path / "out", "--report", report)
    for name in spoilt:
        assert f"{name}.nii.gz" in err
    assert f"{len(bad)} of 4 volumes could not be segmented, listed under 'failed' in {report}" in err
    assert set(contents(tmp_path / "out")) == {f"{name}_seg.nii.gz" for name in whole}
    content = json.loads(report.read_text())
    assert (set(content["cases"]), set(content["failed"])) == (whole, spoilt)

    arguments = [made / "run", "-i", scans, "-o", tmp_path / "out", "--report", report, "--skip-existing"]
    assert "case_0.nii.gz" in refused(capsys, *arguments)
    for name in spoilt:  # once it is repaired, the same command does what is left
        shutil.copy(made / "scans" / f"{name}.nii.gz", scans)
    assert call(capsys, *arguments)[0] == 0
    content = json.loads(report.read_text())
    assert (set(content["cases"]), content["failed"]) == (spoilt | whole, {})


def test_fail_fast_refuses_bad_headers_before_the_model_is_loaded(made, tmp_path, capsys, monkeypatch):
    scans = shutil.copytree(made / "scans", tmp_path / "scans")
    damaged(scans / "case_0.nii.gz", "empty")
    damaged(scans / "case_2.nii.gz", "half")
    no_model(monkeypatch)
    err = refused(capsys, made / "run", "-i", scans, "-o", tmp_path / "out", "--fail-fast")
    assert "case_0.nii.gz: it is empty" in err
    assert "case_2.nii.gz" in err
    assert not (tmp_path / "out").exists()


def test_fail_fast_begins_no_case_after_bad_voxels(made, tmp_path, capsys):
    scans = shutil.copytree(made / "scans", tmp_path / "scans")
    damaged(scans / "case_1.nii.gz", "not finite")
    report = tmp_path / "report.json"
    options = ["--report", report, "--fail-fast"]
    err = refused(capsys, made / "run", "-i", scans, "-o", tmp_path / "out", *options)
    assert "case_1.nii.gz: it has 1 NaN or infinite voxels" in err
    assert set(contents(tmp_path / "out")) == {"case_0_seg.nii.gz"}
    assert set(json.loads(report.read_text())["cases"]) == {"case_0"}


def test_volumes_that_are_all_bad_are_refused_before_the_model_is_loaded(made, tmp_path, capsys, monkeypatch):
    (tmp_path / "scans").mkdir()
    for number in range(2):
        (tmp_path / "scans" / f"{number}.nii.gz").write_bytes(b"")
    no_model(monkeypatch)
    err = refused(capsys, made / "run", "-i", tmp_path / "scans", "-o", tmp_path / "out")
    assert err.count("is empty") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "20 × 18 × 4 voxels need more memory than there is"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "20 × 18 × 4 voxels need more memory"),
        (OSError(12, "Cannot allocate memory"), "20 × 18 × 4 voxels need more memory"),
        (OSError(5, "Input/output error"), "case_2.nii.gz: Input/output error"),
    ],
)
def test_a_volume_too_large_or_on_a_bad_disk_stops_no_other(made, tmp_path, capsys, monkeypatch, error, words):
    def read(path, series=None, suv=()):
        if path.name == "case_2.nii.gz":
            raise error
        return read_volume(path, series, suv)

    monkeypatch.setattr("medsam_adapt.prediction.case_runner.read_volume", read)
    err = refused(capsys, made / "run", "-i", made / "scans", "-o", tmp_path / "out")
    assert words in err
    assert set(contents(tmp_path / "out")) == {f"case_{number}_seg.nii.gz" for number in (0, 1, 3)}


def test_a_fault_of_this_package_is_no_bad_volume(made, tmp_path, monkeypatch):
    monkeypatch.setattr("medsam_adapt.prediction.case_runner.read_volume", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["predict", *map(str, (made / "run", "-i", made / "scans", "-o", tmp_path / "out")), "--device", "cpu"])


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        ("run", ["--format", "nfti"], "--format nfti: there is no such format. Did you mean 'nifti'"),
        ("run", ["--itk-snap", "--format", "nrrd"], "--itk-snap: it describes one NIfTI label map"),
        ("run", ["--propagate"], "--propagate: it follows the boxes and points of --prompts"),
        ("run", ["--prompts-from", "scans"], "was trained without prompts and takes none. Leave out --prompts-from"),
        ("run", ["--report", "scans"], "scans: it is a folder. Name a file for the report"),
        ("run", ["-o", "scans"], "scans: it holds the volumes themselves. Name another folder"),
        ("box", [], "cannot segment without one. Train with --prompt none, or give --prompts"),
        ("box", ["--prompts", "p.json", "--prompts-from", "x"], "--prompts and --prompts-from: both give prompts"),
        ("box", ["--prompts", "nowhere.json"], "nowhere.json"),
        ("box", ["--prompts-from", "nowhere"], "nowhere: it does not exist"),
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
    no_model(monkeypatch)
    err = refused(capsys, made / "run", "-i", made / "scans", "-o", tmp_path / "out")
    assert f"{tmp_path}: it cannot be written to" in err


def test_two_inputs_of_one_name_are_refused(made, tmp_path, capsys):
    scans = shutil.copytree(made / "scans", tmp_path / "scans")
    image = nib.load(scans / "case_0.nii.gz")
    nib.save(image, scans / "case_0.nii")
    assert "would have the same name" in refused(capsys, made / "run", "-i", scans, "-o", tmp_path / "out")


def test_a_killed_folder_leaves_whole_masks_and_goes_on(made, tmp_path, capsys):
    scans, out, report = tmp_path / "scans", tmp_path / "out", tmp_path / "report.json"
    scans.mkdir()
    for number in range(24):
        (scans / f"case_{number:02d}.nii.gz").symlink_to(made / "scans" / f"case_{number % 4}.nii.gz")
    options = ["-i", scans, "-o", out, "--report", report, "--probabilities", "--device", "cpu"]
    code = "import sys; from medsam_adapt.cli.main import main; main(sys.argv[1:])"
    with running_anew(code, "predict", made / "run", *options) as (process, _):
        # Masks are written ahead of their records, by another thread: the kill waits for both.
        while (len([*out.glob("case_*_seg.nii.gz")]) < 3 or len(earlier_cases(report)) < 2) and process.is_alive():
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    done = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert 3 <= len([path for path in done if path.is_file()]) < 24
    for path in done:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        assert len(files) == (3 if path.is_dir() else 1)
        for file in files:
            assert voxels_of(file).shape == SHAPE
    reported = set(earlier_cases(report))
    assert len(reported) >= 2
    assert reported <= {path.name.removesuffix("_seg.nii.gz") for path in done}
    host, _, random = owner_tag().split("-")
    elsewhere = [f".{tag}.case_23_seg.nii.gz" for tag in (owner_tag(), f"node7-{process.pid}-{random}")]
    for name in (f".{host}-{process.pid}-{random}.case_23_seg.nii.gz", *elsewhere):  # as a kill while writing leaves it
        (out / name).write_bytes(b"half")  # the others are of a process that lives, and of another host
    kept = [out / f"{name}_seg.nii.gz" for name in reported]  # those that the report lacks are made again
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert call(capsys, made / "run", *options, "--skip-existing")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path.name for path in out.glob(".*case_23*")} == {*elsewhere}
    cases = json.loads(report.read_text())["cases"]
    assert set(cases) == {f"case_{number:02d}" for number in range(24)}
    for number in range(4, 24):
        first, same = (voxels_of(out / f"case_{each:02d}_seg.nii.gz") for each in (number % 4, number))
        np.testing.assert_array_equal(first, same)
