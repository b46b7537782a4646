import json
import shutil
import zipfile
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medsam_adapt.core.files import write_json
from medsam_adapt.data.volumes.io import read_header, read_volume
from medsam_adapt.inference.predictor import load_run
from medsam_adapt.prediction import plan
from tests.data.dicom_files import save, series
from tests.made_runs import NAMES, differing

from .predicting import call, contents, refused, scan, voxels_of


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
    assert err.count("is not a DICOM series, which --format rtstruct refers to") == 4


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


def test_file_names_of_classes_are_plain_and_differ():
    names = ["left kidney", "Left_Kidney", "../etc", "…", "T1/T2"]
    assert list(plan.file_names(names, [1, 2, 3, 4, 5])) == [
        "left_kidney_1", "Left_Kidney_2", "etc", "class_4", "T1_T2",
    ]  # fmt: skip


def test_parts_together_give_what_one_process_does(made, tmp_path, capsys, monkeypatch):
    arguments = [made / "run", "-i", made / "scans", "--report"]
    assert call(capsys, *arguments, tmp_path / "all.json", "-o", tmp_path / "all")[0] == 0
    parts = [*arguments, tmp_path / "parts.json", "-o", tmp_path / "parts"]
    code, out, _ = call(capsys, *parts, "--part", "1/3")
    assert (code, "part 1 of 3: 2 of 4 volumes" in out) == (0, True)
    assert set(contents(tmp_path / "parts")) == {"case_0_seg.nii.gz", "case_3_seg.nii.gz"}
    for rank in (1, 2):
        monkeypatch.setenv("WORLD_SIZE", "3")
        monkeypatch.setenv("RANK", str(rank))
        assert call(capsys, *parts)[0] == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "all")
    reports = [json.loads((tmp_path / f"parts.{number}-of-3.json").read_text())["cases"] for number in (1, 2, 3)]
    whole = json.loads((tmp_path / "all.json").read_text())["cases"]
    volumes = {name: entry["volumes_ml"] for cases in reports for name, entry in cases.items()}
    assert volumes == {name: entry["volumes_ml"] for name, entry in whole.items()}
    assert sum(map(len, reports)) == len(whole)
    code, out, _ = call(capsys, *arguments[:3], "-o", tmp_path / "none", "--part", "5/5")
    assert (code, "part 5 of 5: 0 of 4 volumes" in out) == (0, True)
    assert "Write it as 2/8" in refused(capsys, *parts, "--part", "4/3")
