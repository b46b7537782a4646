import shutil

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.survey import survey


@pytest.fixture
def data(phantoms, tmp_path):
    return shutil.copytree(phantoms, tmp_path / "data")


def test_a_sound_data_set_is_described(data):
    seen = survey(data)
    label = np.asarray(nib.load(data / "labels/phantom_001.nii.gz").dataobj)
    image = np.asarray(nib.load(data / "images/phantom_001.nii.gz").dataobj)
    assert seen.problems == ()
    row = seen.as_json()["cases"][1]
    assert (row["id"], row["shape"], row["orientation"]) == ("phantom_001", [40, 36, 12], "RAI")
    assert row["intensities"] == [image.min(), image.max()]
    assert row["voxels"]["spleen"] == np.sum(label == 3)
    assert list(seen.as_json()["classes"].values())[:2] == ["liver", "right kidney"]


def test_every_problem_of_every_file_is_told(data):
    (data / "images/phantom_000.nii.gz").write_bytes(b"")
    label = nib.load(data / "labels/phantom_001.nii.gz")
    spoilt = np.asarray(label.dataobj).copy()
    spoilt[0, 0, 0] = 77
    affine = label.affine.copy()
    affine[0, 3] += 40
    nib.save(nib.Nifti1Image(spoilt, affine), data / "labels/phantom_001.nii.gz")
    image = nib.load(data / "images/phantom_002.nii.gz")
    nan = np.asarray(image.dataobj).astype(np.float32)
    nan[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(nan, image.affine), data / "images/phantom_002.nii.gz")
    seen = survey(data)
    reported = (
        "images/phantom_000.nii.gz: it is empty. Copy",
        "labels/phantom_001.nii.gz: it lies up to 40 mm from its image",
        "labels/phantom_001.nii.gz: it holds the label 77",
        "images/phantom_002.nii.gz: it has 1 NaN or infinite voxels. Replace",
    )
    assert len(seen.problems) == len(reported)
    for words, problem in zip(reported, seen.problems, strict=True):
        assert words in problem
    rows = seen.as_json()["cases"]
    assert [row["shape"] is None for row in rows] == [True, False, False]
    assert rows[0]["voxels"] is not None
    assert rows[1]["voxels"] is rows[2]["intensities"] is None


def test_a_missing_label_hides_no_other_problem(data):
    (data / "labels/phantom_000.nii.gz").unlink()
    (data / "labels/phantom_002.nii.gz").write_bytes(b"no gzip")
    missing, damaged = survey(data).problems
    assert "images/phantom_000.nii.gz: it has no label. Add" in missing
    assert "labels/phantom_002.nii.gz: it is not gzip-compressed" in damaged


def test_volumes_are_looked_at_even_where_they_are_no_data_set(data):
    (data / "images/phantom_000.nii.gz").unlink()
    (data / "images/phantom_001.nii.gz").write_bytes(b"")
    seen = survey(data)
    assert seen.cases is None
    orphan, damaged = seen.problems
    assert "labels/phantom_000.nii.gz: it has no image. Add" in orphan
    assert "images/phantom_001.nii.gz: it is empty" in damaged


def test_more_than_ten_problems_are_all_told(data):
    for path in (data / "labels").iterdir():
        path.unlink()
    for index in range(12):
        shutil.copy(data / "images/phantom_000.nii.gz", data / f"images/more_{index}.nii.gz")
    assert len(survey(data).problems) == 15


def test_no_folder_and_an_unknown_layout_are_errors(tmp_path):
    with pytest.raises(InputError, match="nowhere: it does not exist"):
        survey(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"--layout foldr: .*Did you mean 'folder'"):
        survey(tmp_path / "nowhere", "foldr")
