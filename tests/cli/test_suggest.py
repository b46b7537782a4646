"""``suggest``: unlabelled scans in their order, and what it refuses."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

import medsam_adapt
from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from tests.made_runs import make_run


def call(capsys, *arguments):
    """Exit code, standard output and standard error of ``suggest``."""
    with pytest.raises(SystemExit) as stopped:
        main(["suggest", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """A run whose data set, one labelled case, is there."""
    folder = tmp_path_factory.mktemp("trained")
    for part in ("images", "labels"):
        (folder / "data" / part).mkdir(parents=True)
    shutil.copyfile(made / "scans" / "case_0.nii.gz", folder / "data" / "images" / "a.nii.gz")
    label = np.zeros(nib.load(made / "scans" / "case_0.nii.gz").shape, np.uint8)
    nib.save(nib.Nifti1Image(label, np.diag([-2, 2, 5, 1])), folder / "data" / "labels" / "a.nii.gz")
    return make_run(folder / "run", dataset_dir=str(folder / "data"))


def test_all_parts_are_in_the_json(made, trained, capsys):
    code, out, _ = call(capsys, trained, made / "second", made / "scans", "--count", "3", "--json", "--device", "cpu")
    assert code == 0
    found = json.loads(out)
    assert [each["rank"] for each in found["scans"]] == [1, 2, 3]
    assert {each["name"] for each in found["scans"]} < {f"case_{number}" for number in range(4)}
    assert found["considered"] == 4
    assert found["labelled"] == 1
    for each in found["scans"]:
        assert 0 < each["uncertainty"] <= 1
        assert 0 < each["disagreement"] <= 1
        assert each["distance"] >= 0
        assert 0 <= each["score"] <= 1
    assert found["scans"][0]["score"] >= found["scans"][1]["score"]


def test_the_table_has_the_first_scan_on_top_and_nothing_is_written(made, trained, capsys):
    before = {path for folder in (made, trained) for path in folder.rglob("*")}
    code, out, _ = call(capsys, trained, made / "scans", "--device", "cpu", "-n", "1")
    assert code == 0
    best = medsam_adapt.suggest(trained, made / "scans", 1, device="cpu").scans[0]
    row = next(line for line in out.splitlines() if line.strip().startswith("1"))
    assert best.name in row
    assert f"{best.uncertainty:.3f}" in row
    assert "–" in row  # one run disagrees with nobody
    assert {path for folder in (made, trained) for path in folder.rglob("*")} == before


def test_training_cases_and_labelled_scans_are_left_out(made, trained, tmp_path):
    folder = tmp_path / "mixed"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name, number in (("a", 0), ("labelled", 1), ("open", 2)):
        shutil.copyfile(made / "scans" / f"case_{number}.nii.gz", folder / "images" / f"{name}.nii.gz")
    shutil.copyfile(made / "scans" / "case_3.nii.gz", folder / "images" / "other.nii.gz")
    label = nib.Nifti1Image(np.zeros((20, 18, 4), np.uint8), np.diag([-2, 2, 5, 1]))
    nib.save(label, folder / "labels" / "labelled.nii.gz")
    found = medsam_adapt.suggest(trained, folder, device="cpu")
    assert {each.name for each in found.scans} == {"open", "other"}
    assert found.left_out == {"a": "it is a case of the run's data set", "labelled": "it has a label"}


def test_a_copy_of_a_training_scan_is_recognised_by_its_bytes_and_another_scan_of_its_name_is_not(
    made, trained, tmp_path
):
    shutil.copyfile(made / "scans" / "case_1.nii.gz", tmp_path / "a.nii.gz")
    assert [each.name for each in medsam_adapt.suggest(trained, tmp_path, device="cpu").scans] == ["a"]
    shutil.copyfile(made / "scans" / "case_0.nii.gz", tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="it holds no scan without a label"):
        medsam_adapt.suggest(trained, tmp_path, device="cpu")


def test_a_scan_twice_is_not_suggested_twice_before_another(made, trained, tmp_path):
    for name, number in (("x", 1), ("x_again", 1), ("y", 2)):
        shutil.copyfile(made / "scans" / f"case_{number}.nii.gz", tmp_path / f"{name}.nii.gz")
    first, second = medsam_adapt.suggest("sam_nano", tmp_path, 2, device="cpu").scans
    assert {first.name[0], second.name[0]} == {"x", "y"}
    assert first.uncertainty is None
    assert first.found is None
    assert first.distance is None
    assert second.distance > 0


def test_a_damaged_scan_stops_no_other_and_is_named(made, trained, tmp_path, capsys):
    shutil.copyfile(made / "scans" / "case_1.nii.gz", tmp_path / "good.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
    code, out, err = call(capsys, trained, tmp_path, "--json", "--device", "cpu")
    assert code == 2
    found = json.loads(out)
    assert [each["name"] for each in found["scans"]] == ["good"]
    assert list(found["failed"]) == ["bad"]
    assert "bad.nii.gz" in err
    assert "Left out of the ranking, since unreadable: 1 scan" in err


def test_a_data_set_that_is_gone_is_noted(made, capsys):
    code, out, _ = call(capsys, made / "run", made / "scans", "--device", "cpu")
    assert code == 0
    assert "note: the run's data set was not found" in out
    assert "compared with 0 labelled" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["scans"], "the only argument"),
        (["box", "scans"], "trained with a box prompt"),
        (["run", "nowhere"], "nowhere: it does not exist"),
        (["nowhere", "scans"], "nowhere: it is not a run"),
        (["run", "scans", "--data", "scans"], "layout folder needs this folder"),
        (["run", "overlapping", "scans"], "cannot segment together"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(made, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(made)
    code, _, err = call(capsys, *arguments, "--device", "cpu")
    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert re.search(sentence, err)
