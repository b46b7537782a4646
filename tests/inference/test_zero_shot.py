"""Pretrained weights in the place of a run: structures from the prompts, no training."""

import json

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt import load_weights
from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.prompts.file import Prompt
from medsam_adapt.inference.zero_shot import names_weights, record_for_prompts, weights_record


def write(path, content):
    path.write_text(json.dumps({"units": "voxel", **content}))
    return path


def box(label, index=3):
    return {"label": label, "box": [[4, 4, index], [15, 12, index]]}


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments)])
    return stopped.value.code or 0, capsys.readouterr().err


@pytest.fixture
def scan(tmp_path):
    voxels = np.random.default_rng(0).normal(100, 20, (24, 20, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 3, 1])), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_classes_come_from_the_prompts(tmp_path):
    content = {"cases": {"a": [box("spleen"), box(1)], "b": [box("liver"), box("spleen"), box("7")]}}
    record = record_for_prompts("sam_nano", write(tmp_path / "p.json", content))
    assert record.class_names == ["spleen", "structure 1", "liver", "structure 7"]
    assert record.label_ids == [2, 1, 3, 7]
    assert (record.prompt, record.image_size, record.input_scaling) == ("box", 128, "sam")


def test_each_file_of_weights_has_its_image_size_and_scaling():
    records = {name: weights_record(name, ["liver"]) for name in ("lite_medsam", "sam2_hiera_tiny", "medsam2")}
    found = {name: (record.backbone, record.image_size, record.input_scaling) for name, record in records.items()}
    assert found == {
        "lite_medsam": ("lite_medsam", 256, "unit"),
        "sam2_hiera_tiny": ("sam2_hiera_tiny", 1024, "sam"),
        "medsam2": ("sam2_hiera_tiny", 512, "sam"),
    }


def test_the_command_and_python_draw_what_boxes_point_at(scan, tmp_path, capsys):
    prompts = write(tmp_path / "p.json", {"prompts": [box("liver"), box("spleen", 1)]})
    code, err = command(
        capsys, "sam_nano", "-i", scan, "--prompts", prompts, "-o", tmp_path / "masks", "--device", "cpu"
    )
    assert code == 0, err
    mask = np.asarray(nib.load(tmp_path / "masks" / "scan_seg.nii.gz").dataobj)
    assert {*np.unique(mask[..., 3])} <= {0, 1}
    assert {*np.unique(mask[..., 1])} <= {0, 2}
    assert not mask[..., [0, 2, 4, 5]].any()
    assert mask.any()
    image = nib.load(scan)
    predictor = load_weights("sam_nano", ["liver", "spleen"], device="cpu")
    given = [Prompt(units="voxel", **each) for each in (box("liver"), box("spleen", 1))]
    assert np.array_equal(predictor(np.asarray(image.dataobj), image.affine, prompts=given), mask)


def test_prompts_are_followed_from_slice_to_slice(scan):
    image = nib.load(scan)
    predictor = load_weights("sam_nano", ["liver"], device="cpu")
    given = [Prompt(units="voxel", **box("liver"))]
    alone, followed = (
        predictor(np.asarray(image.dataobj), image.affine, prompts=given, propagate=follow) for follow in (False, True)
    )
    assert np.array_equal(alone[..., 3], followed[..., 3])
    assert followed.any(axis=(0, 1)).sum() >= alone.any(axis=(0, 1)).sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sam_nano"], "sam_nano: weights segment what prompts point at. Give --prompts FILE."),
        (["sam_nano", "sam_nano", "--prompts", "p.json"], "weights segment alone"),
        (["medsam_vit_b", "--prompts", "p.json"], "medsam_vit_b: these weights are not on this machine"),
        (["lite_medsan", "--prompts", "p.json"], "lite_medsan: it is not a run"),
    ],
)
def test_bad_input_ends_in_one_sentence(arguments, message, scan, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.json", {"prompts": [box("liver")]})
    code, err = command(capsys, *arguments, "-i", scan, "-o", tmp_path / "masks")
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "masks").exists()


def test_weights_that_know_boxes_alone_take_no_points(tmp_path):
    with pytest.raises(InputError, match="trained with boxes and take no points"):
        weights_record("medsam_vit_b", ["liver"], prompt="points")
    point = {"label": "liver", "box": [[4, 4, 3], [9, 9, 3]], "points": [{"at": [5, 5, 3]}]}
    with pytest.raises(InputError, match="takes no points"):
        record_for_prompts("medsam_vit_b", write(tmp_path / "p.json", {"prompts": [point]}))


def test_a_folder_of_that_name_is_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names_weights("sam_nano")
    (tmp_path / "sam_nano").mkdir()
    assert not names_weights("sam_nano")
