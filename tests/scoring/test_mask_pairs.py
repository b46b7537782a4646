"""Two folders of masks, through the command line: no network is involved."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.scoring.mask_pairs import find_labels, match_masks, score_masks
from medsam_adapt.scoring.metrics import MetricRules, score_volume
from tests.data.slices.test_geometry import affine_of
from tests.warm import fork_server

SPACING = (1.0, 2.0, 4.0)


def masks_of(case):
    """(prediction, reference) of a case: three classes, 1 and 2 and 7, the last of them in the reference alone."""
    prediction, reference = np.zeros((2, 12, 10, 8), np.uint8)
    reference[1:7, 1:6, 1:7], reference[8:11, 2:8, 2:6] = 1, 2
    prediction[1 : 6 + case, 1:6, 1:7], prediction[8:11, 3:8, 2:6] = 1, 2
    reference[0, 0, 0] = 7
    return prediction, reference


def save(path, label, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(label, affine_of("RAS", SPACING) if affine is None else affine), path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Three cases, named as programs name their masks."""
    for case, suffix in enumerate(("_seg", "_0000_seg", "")):
        prediction, reference = masks_of(case)
        save(tmp_path / "pred" / f"case_{case}{suffix}.nii.gz", prediction)
        save(tmp_path / "ref" / f"case_{case}{'_label' if case == 1 else ''}.nii.gz", reference)
    return tmp_path


def call(capsys, *arguments):
    """Exit code, standard output and standard error of ``evaluate``."""
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def evaluate(capsys, folders, *options):
    return call(capsys, "--pred", folders / "pred", "--ref", folders / "ref", "--output", folders / "scores", *options)


def scores(folders):
    return json.loads((folders / "scores" / "metrics.json").read_text())


def test_masks_are_scored_in_mm(folders, capsys):
    code, out, _ = evaluate(capsys, folders)
    assert code == 0
    assert "HD95 mm" in out
    summary = scores(folders)
    assert list(summary["cases"]) == ["case_0", "case_1_label", "case_2"]
    assert list(summary["classes"]) == ["1", "2", "7"]
    assert summary["classes"]["7"]["missed"] == 3
    assert summary["mean"]["iou_with_background"] > summary["mean"]["iou"]
    for case, name in enumerate(summary["cases"]):
        expected = score_volume(*masks_of(case), [str(number) for number in range(1, 8)], SPACING, MetricRules())
        found = summary["cases"][name]
        assert (found["spacing_mm"], found["shape"]) == (list(SPACING), [12, 10, 8])
        for label in ("1", "2"):
            assert {**found["classes"][label], "outcome": None} == pytest.approx({**expected[label], "outcome": None})


def test_labels_get_their_names_and_others_are_told(folders, capsys):
    (folders / "labels.json").write_text('{"labels": {"2": "spleen", "1": "liver"}}')
    code, out, _ = evaluate(capsys, folders, "--labels", folders / "labels.json", "--metrics", "dsc")
    assert code == 0
    assert "not scored: label 7" in out
    assert list(scores(folders)["classes"]) == ["liver", "spleen"]
    assert "hd95" not in scores(folders)["classes"]["liver"]


def test_several_processes_score_the_same(folders):
    pairs = match_masks(folders / "pred", folders / "ref").pairs
    seen = []
    assert find_labels(pairs, 2, seen.append) == {pair.id: {1, 2, 7} for pair in pairs}
    assert seen == [pair.id for pair in pairs]
    classes, rules = {1: "1", 2: "2"}, MetricRules()
    assert score_masks(pairs, classes, rules, workers=2) == score_masks(pairs, classes, rules)


def test_files_without_a_counterpart_are_told(folders, capsys):
    save(folders / "pred" / "stray.nii.gz", masks_of(0)[0])
    (folders / "pred" / "case_2.nii.gz").unlink()
    code, out, _ = evaluate(capsys, folders)
    assert code == 0
    reported = [note for note in scores(folders)["notes"] if "no counterpart" in note]
    assert [name in note for name, note in zip(("stray.nii.gz", "case_2.nii.gz"), reported, strict=True)] == [True] * 2
    assert "stray.nii.gz has no counterpart and was not scored" in out
    assert len(scores(folders)["cases"]) == 2


def test_all_problems_are_told_before_anything_is_scored(folders, capsys):
    save(folders / "pred" / "case_0_seg.nii.gz", masks_of(0)[0][:-1])
    save(folders / "pred" / "case_1_0000_seg.nii.gz", masks_of(1)[0], affine_of("RAS", (1, 2, 5)))
    (folders / "ref" / "case_2.nii.gz").write_bytes(b"no volume")
    code, _, err = evaluate(capsys, folders)
    assert code == 2
    first, second, third = err.removeprefix("error: ").splitlines()
    assert "case_0_seg.nii.gz: it has 11 × 10 × 8 voxels and the reference " in first
    assert first.endswith("case_0.nii.gz 12 × 10 × 8. Write the prediction in the reference's own geometry.")
    assert "case_1_0000_seg.nii.gz: it lies up to " in second
    assert "case_1_label.nii.gz. Write the prediction in" in second
    assert "case_2.nii.gz" in third
    assert not (folders / "scores").exists()


def test_a_mask_that_is_no_label_map_is_refused(folders, capsys):
    save(folders / "pred" / "case_2.nii.gz", np.full((12, 10, 8), 0.5, np.float32))
    code, _, err = evaluate(capsys, folders)
    assert code == 2
    assert "case_2.nii.gz: it is not a label map" in err


def test_wrong_calls_are_refused(folders, capsys):
    pred, ref, out = folders / "pred", folders / "ref", folders / "scores"
    refused = {
        "evaluate needs the folder of a run, or masks": ["--pred", pred, "--ref", ref],
        "is neither a folder": ["--pred", folders / "none", "--ref", ref, "--output", out],
        "no mask has": ["--pred", pred, "--ref", folders, "--output", out],
        "already exists": ["--pred", pred, "--ref", ref, "--output", ref],
        "there is no 'hd'": ["--pred", pred, "--ref", ref, "--output", out, "--metrics", "hd"],
        "--protocol x": ["--pred", pred, "--ref", ref, "--output", out, "--protocol", "x"],
        "--empty-policy x": ["--pred", pred, "--ref", ref, "--output", out, "--empty-policy", "x"],
        "Write millimetres": ["--pred", pred, "--ref", ref, "--output", out, "--tolerance", "thick"],
        "there is no class 'Larynx'. Choose from 1, 2, 7": [
            "--pred", pred, "--ref", ref, "--output", out, "--tolerance", "1,Larynx=2",
        ],
        "--pred: it excludes a run": [folders, "--pred", pred],
        "--data: it excludes --pred": ["--pred", pred, "--ref", ref, "--output", out, "--data", ref],
    }  # fmt: skip
    for sentence, arguments in refused.items():
        code, _, err = call(capsys, *arguments)
        assert (code, sentence in err) == (2, True), err
    assert not out.exists()
    save(ref / "case_0_seg.nii.gz", masks_of(0)[1])
    code, _, err = evaluate(capsys, folders)
    assert code == 2
    assert "is a mask of 'case_0' too" in err


def test_nothing_labelled_is_refused(tmp_path, capsys):
    for folder in ("pred", "ref"):
        save(tmp_path / folder / "a.nii.gz", np.zeros((4, 4, 4), np.uint8))
    code, _, err = evaluate(capsys, tmp_path)
    assert code == 2
    assert "labelled voxel" in err


def test_segrap_has_its_own_tolerances_and_empty_rule(folders, capsys):
    (folders / "labels.json").write_text('{"1": "Larynx", "2": "Thyroid", "5": "Chiasm"}')
    code, _, _ = evaluate(capsys, folders, "--protocol", "segrap", "--labels", folders / "labels.json")
    assert code == 0
    summary = scores(folders)
    assert summary["rules"]["tolerances_mm"] == {"Larynx": 2, "Thyroid": 1, "Chiasm": 1}
    assert (summary["rules"]["surface"], summary["rules"]["empty_policy"]) == ("area", "challenge")
    assert (summary["classes"]["Chiasm"]["dsc"], summary["classes"]["Chiasm"]["nsd"]) == (1, 1)
    assert "hd95" not in summary["classes"]["Chiasm"]
    assert any("SegRap2023" in note for note in summary["notes"])


def test_folders_of_masks_may_overlap(tmp_path, capsys):
    body, part = np.zeros((2, 12, 10, 8), np.uint8)
    body[1:9, 1:9, 1:7], part[2:6, 2:6, 2:5] = 1, 1
    for case in ("segrap_0000", "segrap_0001"):
        for name, mask in {"Brain": body, "BrainStem": part, "Chiasm": part}.items():
            save(tmp_path / "ref" / case / f"{name}.nii.gz", mask)
            if name != "Chiasm":
                save(tmp_path / "pred" / case / f"{name}.nii.gz", np.roll(mask, 1, axis=0) * 255)
    code, out, _ = evaluate(capsys, tmp_path)
    assert code == 0
    assert "segrap_0001 has no mask of Chiasm: scored as empty" in out
    summary = scores(tmp_path)
    assert list(summary["cases"]) == ["segrap_0000", "segrap_0001"]
    expected = score_volume(np.roll(body, 1, axis=0), body, ["Brain"], SPACING, MetricRules())["Brain"]
    assert summary["classes"]["Brain"]["hd95"] == pytest.approx(expected["hd95"])
    assert (summary["classes"]["BrainStem"]["dsc"], summary["classes"]["Chiasm"]["missed"]) == (0.75, 2)
    save(tmp_path / "pred" / "segrap_0001" / "Brain.nii.gz", body[1:])
    (tmp_path / "labels.json").write_text('{"1": "liver"}')
    for options, sentence in (
        (["--overwrite"], "Brain.nii.gz: it has 11 × 10 × 8 voxels and the reference "),
        ([], "already exists"),
    ):
        code, _, err = evaluate(capsys, tmp_path, *options)
        assert (code, sentence in err) == (2, True), err


def test_the_papers_protocol_looks_along_the_axial_slices_of_any_orientation(tmp_path, capsys):
    prediction, reference = np.zeros((2, 6, 6, 6), np.uint8)
    reference[:, :, 1:3], prediction[:, :, 1:2] = 1, 1
    for name, label in (("pred", prediction), ("ref", reference)):
        save(tmp_path / name / "a.nii.gz", label)
        save(tmp_path / name / "b.nii.gz", label.transpose(2, 0, 1).copy(), affine_of("SRA", SPACING))
    assert evaluate(capsys, tmp_path, "--protocol", "papers")[0] == 0
    cases = scores(tmp_path)["cases"]
    assert {case: row["classes"]["1"]["slice_dsc"] for case, row in cases.items()} == {"a": 0.5, "b": 0.5}


def test_masks_are_scored_without_torch(folders):
    code = (
        "import sys; from pathlib import Path; from medsam_adapt.workflows.evaluate import score_folders; "
        f"score_folders(Path({str(folders / 'pred')!r}), Path({str(folders / 'ref')!r})); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_files_are_a_pair_whatever_their_names(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("medsam_adapt.scoring.mask_pairs.get_context", lambda way: fork_server())
    prediction, reference = masks_of(0)
    pred, ref = save(tmp_path / "a" / "mine_seg.nii.gz", prediction), save(tmp_path / "b" / "doctor.nii.gz", reference)
    code, _, err = call(capsys, "--pred", pred, "--ref", ref, "--output", tmp_path / "scores", "--workers", 2)
    assert code == 0, err
    (case,) = scores(tmp_path)["cases"].items()
    expected = score_volume(prediction == 1, reference == 1, ["1"], SPACING, MetricRules())
    assert case[0] == "doctor"
    assert case[1]["classes"]["1"]["dsc"] == pytest.approx(expected["1"]["dsc"])


def test_a_file_is_scored_on_the_one_of_its_name_in_a_folder(folders, capsys):
    arguments = ["--pred", folders / "pred" / "case_1_0000_seg.nii.gz", "--ref", folders / "ref"]
    assert call(capsys, *arguments, "--output", folders / "scores")[0] == 0
    assert list(scores(folders)["cases"]) == ["case_1_label"]
    assert not any("no counterpart" in note for note in scores(folders)["notes"])
    arguments = ["--pred", folders / "pred", "--ref", folders / "none.nii.gz", "--output", folders / "other"]
    code, _, err = call(capsys, *arguments)
    assert (code, "none.nii.gz: it is neither a folder nor a file" in err) == (2, True)


def test_volumes_too_large_and_too_small_do_not_cancel(tmp_path, capsys):
    """One class is 1 ml too large and the other 1 ml too small; over the cases as well."""
    for case, (first, second) in enumerate(((3, 1), (1, 3))):
        prediction, reference = np.zeros((2, 20, 20, 20), np.uint8)
        reference[:10, :10, :2], reference[10:, 10:, :2] = 1, 2
        prediction[:10, :10, :first], prediction[10:, 10:, :second] = 1, 2
        for name, label in (("pred", prediction), ("ref", reference)):
            save(tmp_path / name / f"{case}.nii.gz", label, np.diag([1.0, 1, 10, 1]))
    assert evaluate(capsys, tmp_path)[0] == 0
    summary = scores(tmp_path)
    assert summary["mean"]["volume_difference_ml"] == pytest.approx(1)
    assert summary["intervals"]["volume_difference_ml"] == pytest.approx([1, 1])
    assert [row["volume_difference_ml"] for row in summary["classes"].values()] == pytest.approx([1, 1])
    assert [row["statistics"]["volume_difference_ml"]["mean"] for row in summary["classes"].values()] == [0, 0]
    assert [case["mean"]["volume_difference_ml"] for case in summary["cases"].values()] == pytest.approx([1, 1])
    signed = [case["classes"]["1"]["volume_difference_ml"] for case in summary["cases"].values()]
    assert signed == pytest.approx([1, -1])


def test_a_mean_of_hd95_over_fewer_structures_says_so(folders, capsys):
    code, out, _ = evaluate(capsys, folders)
    assert code == 0
    sentence = "HD95 has no value for 3 of 9 structures, which were missed or are not in the reference, and 7 has none"
    assert sentence in out
    assert any(sentence in note for note in scores(folders)["notes"])
    assert evaluate(capsys, folders, "--metrics", "dsc", "--overwrite")[0] == 0
    assert not any("HD95" in note for note in scores(folders)["notes"])
