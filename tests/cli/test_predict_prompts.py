"""Predictions of runs that need prompts: from labels, a file, and another run."""

import json

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.files import write_json
from medsam_adapt.inference.predictor import load_run
from tests.made_runs import differing, make_run

from .predicting import SHAPE, call, refused, voxels_of


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
    code, out, _ = call(capsys, *arguments, "--report", report)
    assert code == 0
    assert "the model saw where the answer is" in out
    assert "the model saw where the answer is" in json.loads(report.read_text())["notes"][0]
    mask = voxels_of(tmp_path / "out" / "case_0_seg.nii.gz")
    assert set(np.unique(mask)) == {0, 2, 7}
    assert not (mask[..., 0] == 7).any()  # spleen (2 in the labels) has no box on the first slice
    assert not (mask[..., 3] == 2).any()
    (labels / "case_2_seg.nii.gz").unlink()
    nib.save(nib.Nifti1Image(blocks()[:5], np.eye(4)), labels / "case_3_seg.nii.gz")
    err = refused(capsys, *arguments[:-1], labels, "--overwrite")
    assert "has no label for case_2" in err
    assert "case_3_seg.nii.gz: it has 5 × 18 × 4 voxels" in err


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
