"""What a plan of many cases costs, and which outputs it trusts."""

import json
import os

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core import files
from medsam_adapt.prediction.json_report import recorded_cases
from medsam_adapt.prediction.plan import Outputs, plan_cases

CASES = 40


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    volume = nib.Nifti1Image(np.zeros((3, 3, 2), np.int16), np.diag([-2, 2, 5, 1]))
    for number in range(CASES):
        nib.save(volume, folder / f"case_{number:02d}.nii.gz")
    return folder


def test_the_output_folder_is_listed_once_and_headers_keep_their_order(scans, tmp_path, monkeypatch):
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(0, CASES, 2):
        (masks / f"case_{number:02d}_seg.nii.gz").write_bytes(b"mask")
    listed = []
    monkeypatch.setattr(
        files.os, "scandir", lambda folder, scandir=os.scandir: listed.append(folder) or scandir(folder)
    )
    plan = plan_cases(scans, masks, Outputs(), skip_existing=True)
    assert listed.count(masks) == 1
    assert plan.skipped == [f"case_{number:02d}" for number in range(0, CASES, 2)]
    assert [case.name for case in plan.cases] == [f"case_{number:02d}" for number in range(1, CASES, 2)]
    assert [case.header.path.name for case in plan.cases] == [f"{case.name}.nii.gz" for case in plan.cases]


def test_an_empty_mask_and_one_without_a_record_are_done_again(scans, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(CASES):
        (masks / f"case_{number:02d}_seg.nii.gz").write_bytes(b"mask" if number else b"")
    plan = plan_cases(scans, masks, Outputs(), skip_existing=True)
    assert [case.name for case in plan.cases] == ["case_00"]
    known = {f"case_{number:02d}" for number in range(CASES - 1)}
    plan = plan_cases(scans, masks, Outputs(), skip_existing=True, recorded=known)
    assert [case.name for case in plan.cases] == ["case_00", f"case_{CASES - 1}"]


def test_the_records_of_an_interrupted_command_are_known(tmp_path):
    path = tmp_path / "report.json"
    assert recorded_cases(path) is None
    path.write_text(json.dumps({"finished": False, "cases": {"a": {}}}))
    (tmp_path / "report.jsonl").write_text('["cases","b",{}]\n["failed","c","why"]\n["cases","d",{"sec')
    assert recorded_cases(path) == {"a", "b"}
    path.write_text(json.dumps({"finished": True, "cases": {"a": {}}}))
    assert recorded_cases(path) is None
