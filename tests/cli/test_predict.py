import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medsam_adapt.cli.main import main
from medsam_adapt.data.io import read_header, read_volume
from medsam_adapt.files import write_json
from medsam_adapt.prediction import plan
from medsam_adapt.prediction.predictor import load_run
from tests.data.dicom_files import save, series
from tests.made_runs import NAMES, differing, make_run

SHAPE = (20, 18, 4)


def call(capsys, *arguments):
    """Exit code, standard output and standard error of ``predict``."""
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments), "--device", "cpu"])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def refused(capsys, *arguments):
    """The sentence of a prediction that was refused."""
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
    return err


def scan(number):
    """A smooth CT in whole numbers."""
    coarse = np.random.default_rng(number).normal(40, 250, (4, 3, 2))
    return sitk.GetArrayFromImage(
        sitk.Resample(
            sitk.GetImageFromArray(coarse),
            SHAPE[::-1],
            sitk.Transform(),
            sitk.sitkLinear,
            (0, 0, 0),
            (1 / SHAPE[2], 2 / SHAPE[1], 3 / SHAPE[0]),
        )
    ).astype(np.int16)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs, and a folder ``scans`` of four volumes."""
    folder = tmp_path_factory.mktemp("made")
    make_run(folder / "run")
    make_run(folder / "second", seed=1)
    make_run(folder / "overlapping", overlapping=True)
    make_run(folder / "box", "box", names=("spleen", "liver"), label_ids=[7, 2])
    (folder / "scans").mkdir()
    for number in range(4):
        nib.save(nib.Nifti1Image(scan(number), np.diag([-2, 2, 5, 1])), folder / "scans" / f"case_{number}.nii.gz")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def voxels_of(path):
    return np.asarray(nib.load(path).dataobj)


def test_one_file_or_a_folder_gives_the_same_bytes(made, tmp_path, capsys):
    assert call(capsys, made / "run", "-i", made / "scans", "-o", tmp_path / "all")[0] == 0
    for number in range(2):
        one = made / "scans" / f"case_{number}.nii.gz"
        assert call(capsys, made / "run", "-i", one, "-o", tmp_path / "one")[0] == 0
    assert set(contents(tmp_path / "all")) == {f"case_{number}_seg.nii.gz" for number in range(4)}
    assert contents(tmp_path / "one").items() <= contents(tmp_path / "all").items()
    assert len(np.unique(voxels_of(tmp_path / "all" / "case_0_seg.nii.gz"))) > 1


def test_python_gives_the_same_as_the_command_line(made, tmp_path, capsys):
    image = nib.load(made / "scans" / "case_0.nii.gz")
    options = ["--batch-size", 3]
    assert call(capsys, made / "run", made / "second", "-i", image.get_filename(), "-o", tmp_path, *options)[0] == 0
    predictor = load_run(made / "run", "cpu", 3, also=[made / "second"])
    ours = predictor(np.asarray(image.dataobj), image.affine)
    assert differing(ours, voxels_of(tmp_path / "case_0_seg.nii.gz")) == 0


def test_everything_beside_the_mask(made, tmp_path, capsys):
    options = ["--itk-snap", "--probabilities", "--uncertainty", "--report", tmp_path / "report.json"]
    statistics = {"volume_ml": [1.0, 1.1], "grey_level": [1.0]}
    run = shutil.copytree(made / "run", tmp_path / "run")
    write_json(run / "statistics.json", {"format": 1, "classes": {"liver": statistics}})
    one = made / "scans" / "case_1.nii.gz"
    assert call(capsys, run, "-i", one, "-o", tmp_path / "out", *options)[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "case_1_seg.nii.gz", "case_1_seg.label.txt", "case_1_probabilities", "case_1_uncertainty.nii.gz",
    }  # fmt: skip
    maps = {path.name: nib.load(path) for path in (tmp_path / "out" / "case_1_probabilities").iterdir()}
    assert set(maps) == {"liver.nii.gz", "right_kidney.nii.gz", "spleen.nii.gz"}
    for found in (*maps.values(), nib.load(tmp_path / "out" / "case_1_uncertainty.nii.gz")):
        assert found.get_data_dtype() == np.uint8
        assert found.get_fdata().max() <= 1 + 1e-6
        np.testing.assert_array_equal(found.affine, nib.load(one).affine)
    image = nib.load(one)
    expected = load_run(run, "cpu").probabilities(np.asarray(image.dataobj), image.affine)
    np.testing.assert_allclose(maps["liver.nii.gz"].get_fdata(), expected[0], atol=3e-3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["classes"] == {name: number for number, name in enumerate(NAMES, start=1)}
    assert {"medsam-adapt", "torch"} <= set(report["versions"])
    assert (report["device"], report["failed"], report["options"]["uncertainty"]) == ("cpu", {}, True)
    entry = report["cases"]["case_1"]
    mask = voxels_of(tmp_path / "out" / "case_1_seg.nii.gz")
    assert entry["volumes_ml"] == {name: round(float((mask == i + 1).sum()) * 0.02, 4) for i, name in enumerate(NAMES)}
    assert {"volume", "intensity"} <= {flag["kind"] for flag in entry["flags"] if flag["structure"] == "liver"}
    assert entry["seconds"] > 0
    assert all(Path(path).exists() for path in entry["files"].values())


@pytest.mark.parametrize(("asked", "used"), [("auto", "fp32"), ("bf16", "bf16")])  # auto: bf16 on a GPU alone
def test_half_precision_is_told_and_recorded(made, tmp_path, capsys, asked, used):
    options = ["--precision", asked, "--report", tmp_path / "report.json"]
    code, out, _ = call(capsys, made / "run", "-i", made / "scans" / "case_1.nii.gz", "-o", tmp_path / "out", *options)
    assert code == 0
    assert ("computes in bf16" in out) is (used == "bf16")
    assert json.loads((tmp_path / "report.json").read_text())["options"]["precision"] == used


def test_an_image_of_another_modality_is_flagged(made, tmp_path, capsys):
    nib.save(nib.Nifti1Image(np.abs(scan(0)), np.eye(4)), tmp_path / "mr.nii.gz")
    report = tmp_path / "report.json"
    code, out, _ = call(capsys, made / "run", "-i", tmp_path / "mr.nii.gz", "-o", tmp_path / "out", "--report", report)
    assert code == 0
    assert "mr: it looks like no CT in Hounsfield units" in out
    assert json.loads(report.read_text())["cases"]["mr"]["flags"][0]["kind"] == "modality"


def test_clean_up_is_off_unless_asked_for(made, tmp_path, capsys):
    one = made / "scans" / "case_2.nii.gz"
    assert call(capsys, made / "run", "-i", one, "-o", tmp_path / "raw")[0] == 0
    options = ["--largest-component", "--fill-holes", "--min-volume", 0.1]
    assert call(capsys, made / "run", "-i", one, "-o", tmp_path / "clean", *options)[0] == 0
    raw, clean = (voxels_of(tmp_path / name / "case_2_seg.nii.gz") for name in ("raw", "clean"))
    pieces = [sitk.ConnectedComponent(sitk.GetImageFromArray((raw == i).astype(np.uint8)), True) for i in (1, 2, 3)]
    assert any(sitk.GetArrayFromImage(found).max() > 1 for found in pieces)
    for label_id in (1, 2, 3):
        found = sitk.ConnectedComponent(sitk.GetImageFromArray((clean == label_id).astype(np.uint8)), True)
        assert sitk.GetArrayFromImage(found).max() <= 1


@pytest.mark.parametrize("format", ["nifti", "nrrd", "mha", "seg-nrrd"])
def test_every_class_in_a_file_of_its_own(made, tmp_path, capsys, format):
    one = made / "scans" / "case_0.nii.gz"
    assert call(capsys, made / "run", "-i", one, "-o", tmp_path / "whole")[0] == 0
    options = ["--per-class", "--format", format]
    assert call(capsys, made / "run", "-i", one, "-o", tmp_path / "parts", *options)[0] == 0
    whole = voxels_of(tmp_path / "whole" / "case_0_seg.nii.gz")
    files = sorted((tmp_path / "parts" / "case_0_seg").iterdir())
    assert [path.name.partition(".")[0] for path in files] == ["liver", "right_kidney", "spleen"]
    for label_id, path in enumerate(files, start=1):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)
        np.testing.assert_array_equal(mask, whole == label_id)


def test_overlapping_classes_get_a_file_each_or_layers(made, tmp_path, capsys):
    image = nib.load(made / "scans" / "case_0.nii.gz")
    for format in ("nifti", "seg-nrrd"):
        options = ["--format", format, "-o", tmp_path / format]
        assert call(capsys, made / "overlapping", "-i", image.get_filename(), *options)[0] == 0
    expected = load_run(made / "overlapping", "cpu", merge=True)(np.asarray(image.dataobj), image.affine)
    assert (expected.sum(axis=0) > 1).any()
    layers = sitk.ReadImage(str(tmp_path / "seg-nrrd" / "case_0.seg.nrrd"))
    stacked = sitk.GetArrayFromImage(layers).transpose(2, 1, 0, 3)
    for index, name in enumerate(("liver", "right_kidney", "spleen")):
        found = voxels_of(tmp_path / "nifti" / "case_0_seg" / f"{name}.nii.gz")
        assert differing(found, expected[index]) < 1e-3
        layer, value = (int(layers.GetMetaData(f"Segment{index}_{key}")) for key in ("Layer", "LabelValue"))
        np.testing.assert_array_equal(stacked[..., layer] == value, found)


def test_dicom_in_and_out(made, tmp_path, capsys):
    for number in range(2):
        save(tmp_path / "scans" / f"series_{number}", series(scan(number).transpose(2, 1, 0) + 1024))
    save(tmp_path / "scans" / "series_1", [])
    for format in ("nifti", "dicom-seg", "rtstruct"):
        options = ["-o", tmp_path / format, "--format", format]
        code, _, err = call(capsys, made / "run", "-i", tmp_path / "scans", *options)
        assert code == 0, err
    for number in range(2):
        mask = voxels_of(tmp_path / "nifti" / f"series_{number}_seg.nii.gz")
        header = read_header(tmp_path / "scans" / f"series_{number}")
        found = highdicom.seg.segread(tmp_path / "dicom-seg" / f"series_{number}_seg.dcm")
        frames = found.get_pixels_by_source_instance(
            [item.instance_uid for item in header.slices],
            combine_segments=True,
            ignore_spatial_locations=True,
            assert_missing_frames_are_empty=True,
        )
        np.testing.assert_array_equal(frames.transpose(2, 1, 0), mask)
        contours = pydicom.dcmread(tmp_path / "rtstruct" / f"series_{number}_rtstruct.dcm").ROIContourSequence
        drawn = [bool(structure.ContourSequence) for structure in contours]
        assert drawn == [bool((mask == label_id).any()) for label_id in (1, 2, 3)]
    err = refused(capsys, made / "run", "-i", made / "scans", "-o", tmp_path / "x", "--format", "rtstruct")
    assert err.count("is no DICOM series, to which --format rtstruct refers") == 4


def test_dicom_gives_the_voxels_of_the_same_data_as_nifti(made, tmp_path, capsys):
    """A series stored head first, oblique, and its copies as NIfTI: in its own axis order, and in RAS."""
    tilt = np.deg2rad(12)
    orientation = (1, 0, 0, 0, np.cos(tilt), np.sin(tilt))
    save(tmp_path / "scans" / "series", series(scan(0).transpose(2, 1, 0) + 1024, orientation))
    image, header = read_volume(tmp_path / "scans" / "series")
    copy = nib.Nifti1Image(image.astype(np.int16), header.affine)
    nib.save(copy, tmp_path / "scans" / "copy.nii.gz")
    nib.save(nib.as_closest_canonical(copy), tmp_path / "scans" / "turned.nii.gz")
    code, _, err = call(capsys, made / "run", "-i", tmp_path / "scans", "-o", tmp_path / "out")
    assert code == 0, err
    masks = {name: nib.load(tmp_path / "out" / f"{name}_seg.nii.gz") for name in ("series", "copy", "turned")}
    for mask in masks.values():
        assert len(np.unique(mask.dataobj)) == 4
        found = nib.as_closest_canonical(mask)
        np.testing.assert_allclose(found.affine, masks["turned"].affine, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(masks["turned"].dataobj))


def test_a_zip_archive_is_segmented_as_its_content(made, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for path in (made / "scans").iterdir():
            archive.write(path, f"any/{path.name}")
    for source, folder in ((tmp_path / "scans.zip", "zipped"), (made / "scans", "plain")):
        report = tmp_path / f"{folder}.json"
        options = ["--report", report, "--keep-identifiers"]
        assert call(capsys, made / "run", "-i", source, "-o", tmp_path / folder, *options)[0] == 0
        assert json.loads(report.read_text())["cases"]["case_1"]["input"].startswith(str(source))
    assert contents(tmp_path / "zipped") == contents(tmp_path / "plain")


# ---------------------------------------------------------------------------------------------------- what goes wrong


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
        "medsam_adapt.prediction.predictor.load_run", lambda *_, **__: pytest.fail("the model was loaded")
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
        "medsam_adapt.prediction.predictor.load_run", lambda *_, **__: pytest.fail("the model was loaded")
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


# ------------------------------------------------------------------------------------------------------------ prompts


def blocks():
    """Label ids by the box run's names in the order of another data set: 1 liver, 2 spleen."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:10, 4:12, 0:3], label[12:18, 6:14, 1:4] = 1, 2
    return label


@pytest.fixture
def labels(tmp_path):
    """A folder of labels for the scans, with names."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for number in range(4):
        nib.save(nib.Nifti1Image(blocks(), np.diag([-2, 2, 5, 1])), folder / f"case_{number}_seg.nii.gz")
    write_json(folder / "labels.json", {"1": "Liver", "2": "spleen"})
    return folder


def test_prompts_from_labels_are_matched_by_name_and_said_loudly(made, labels, tmp_path, capsys):
    report = tmp_path / "report.json"
    arguments = [made / "box", "-i", made / "scans", "-o", tmp_path / "out", "--prompts-from", labels]
    code, said, _ = call(capsys, *arguments, "--report", report)
    assert code == 0
    assert "the model saw where the answer is" in said
    assert "the model saw where the answer is" in json.loads(report.read_text())["notes"][0]
    mask = voxels_of(tmp_path / "out" / "case_0_seg.nii.gz")
    assert set(np.unique(mask)) == {0, 2, 7}
    assert not (mask[..., 0] == 7).any()  # spleen (2 in the labels) has no box on the first slice
    assert not (mask[..., 3] == 2).any()
    (labels / "case_2_seg.nii.gz").unlink()
    nib.save(nib.Nifti1Image(blocks()[:5], np.eye(4)), labels / "case_3_seg.nii.gz")
    err = refused(capsys, *arguments[:-1], labels, "--overwrite")
    assert "has no label for case_2" in err
    assert "case_3_seg.nii.gz has 5 × 18 × 4 voxels" in err


def test_prompts_from_a_file(made, tmp_path, capsys):
    image = nib.load(made / "scans" / "case_0.nii.gz")
    corners = np.array([[3, 4, 0, 1], [9, 11, 2, 1]]) @ image.affine.T * (-1, -1, 1, 1)
    content = {"units": "mm-lps", "prompts": [{"label": "liver", "box": corners[:, :3].tolist()}]}
    write_json(tmp_path / "prompts.json", content)
    options = ["--prompts", tmp_path / "prompts.json"]
    assert call(capsys, made / "box", "-i", image.get_filename(), "-o", tmp_path / "out", *options)[0] == 0
    mask = voxels_of(tmp_path / "out" / "case_0_seg.nii.gz")
    assert set(np.unique(mask)) == {0, 2}
    assert not mask[..., 3].any()
    content["prompts"][0]["label"] = "lung"
    write_json(tmp_path / "prompts.json", content)
    err = refused(capsys, made / "box", "-i", image.get_filename(), "-o", tmp_path / "again", *options)
    assert "prompts.json, prompts[0]: the run has no class 'lung'" in err


def test_prompts_are_followed_on_request(made, tmp_path, capsys):
    box = {"label": "liver", "units": "voxel", "box": [[3, 4, 1], [16, 14, 1]]}
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(2):
        (scans / f"case_{number}.nii.gz").symlink_to(made / "scans" / f"case_{number}.nii.gz")
    write_json(tmp_path / "prompts.json", {"cases": {f"case_{number}": [box] for number in range(2)}})
    arguments = [made / "box", "-i", scans, "--prompts", tmp_path / "prompts.json"]
    assert call(capsys, *arguments, "-o", tmp_path / "one")[0] == 0
    assert call(capsys, *arguments, "-o", tmp_path / "more", "--propagate")[0] == 0
    drawn = [
        [voxels_of(tmp_path / name / f"case_{number}_seg.nii.gz").any(axis=(0, 1)) for number in range(2)]
        for name in ("one", "more")
    ]
    assert all(not slices[[0, 2, 3]].any() for slices in drawn[0])
    assert np.sum(drawn[1]) > np.sum(drawn[0])


def test_another_run_proposes(made, tmp_path, capsys):
    arguments = [made / "box", "-i", made / "scans" / "case_0.nii.gz", "-o", tmp_path / "out"]
    assert call(capsys, *arguments, "--prompts-from-run", made / "run")[0] == 0
    image = nib.load(made / "scans" / "case_0.nii.gz")
    proposed = load_run(made / "run", "cpu")(np.asarray(image.dataobj), image.affine)
    reference = np.select([proposed == 1, proposed == 3], [2, 7]).astype(np.uint8)
    expected = load_run(made / "box", "cpu")(np.asarray(image.dataobj), image.affine, reference=reference)
    assert expected.any()
    assert differing(expected, voxels_of(tmp_path / "out" / "case_0_seg.nii.gz")) < 1e-2
    other = make_run(tmp_path / "other", names=("liver", "heart"))
    assert "does not segment spleen" in refused(capsys, *arguments, "--overwrite", "--prompts-from-run", other)


def test_file_names_of_classes_are_plain_and_differ():
    names = ["left kidney", "Left_Kidney", "../etc", "…", "T1/T2"]
    assert list(plan.file_names(names, [1, 2, 3, 4, 5])) == [
        "left_kidney_1", "Left_Kidney_2", "etc", "class_4", "T1_T2",
    ]  # fmt: skip
