import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.bundle.contents import bundle_folder
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.slices.slice_store import StoredCase
from medsam_adapt.prediction.quality_flags import class_flags
from medsam_adapt.runs.record import read_run, write_run
from medsam_adapt.runs.statistics import ClassStatistics, read_statistics, training_statistics
from tests.made_runs import make_run
from tests.slicing import training_data

KNOWN = ClassStatistics(volume_ml=[100.0, 120.0, 200.0], grey_level=[100.0, 140.0])


@pytest.mark.parametrize(
    ("volume", "grey", "pieces", "kinds"),
    [
        (150, 120, [1000], []),
        (67, 81, [1000, 9], []),  # just inside the margins; a crumb is no piece
        (150, 120, [1000, 11], ["pieces"]),
        (66, 120, [1000], ["volume"]),
        (301, 120, [1000], ["volume"]),
        (150, 79, [1000], ["intensity"]),
        (150, 161, [1000], ["intensity"]),
        (0, float("nan"), [], ["empty"]),
        (400, 10, [500, 500], ["pieces", "volume", "intensity"]),
    ],
)
def test_what_is_flagged(volume, grey, pieces, kinds):
    flags = class_flags("liver", volume, grey, pieces, KNOWN)
    assert [flag.kind for flag in flags] == kinds
    assert all("liver" in flag.text for flag in flags)


def test_without_statistics_only_the_mask_itself_tells():
    assert [flag.kind for flag in class_flags("liver", 1e6, 0, [1, 1], None)] == ["pieces"]


def stored(folder, table=None):
    """A case of two slices: class 1 has grey 10 and 20, class 2 grey 40."""
    labels = np.array([[[1, 1, 0, 2]], [[1, 0, 0, 0]]], np.uint8)
    images = np.array([[[10, 10, 99, 40]], [[40, 99, 99, 99]]], np.uint8)
    voxels = np.array([[1, 20, 10], [3, 10, 0]])
    folder.mkdir()
    for name, array in {"images": images, "labels": labels, "voxels": voxels}.items():
        np.save(folder / f"{name}.npy", array)
    if table is not None:
        np.save(folder / "table.npy", table)
    return StoredCase("a", folder, "axial")


@pytest.mark.parametrize("overlapping", [False, True])
def test_statistics_of_the_training_cases(tmp_path, overlapping):
    # with parts, the second one belongs to both classes
    table = np.array([[0, 0], [1, 0], [1, 1]], np.uint8) if overlapping else None
    case = stored(tmp_path / "case", table)
    header = SimpleNamespace(affine=np.diag([2.0, -2.0, 5.0, 1]))  # 0.02 ml a voxel
    check = SimpleNamespace(headers={"a": header, "b": header})
    data = SimpleNamespace(class_names=["liver", "spleen"], store=lambda: {"b": case, "a": case}, check=check)
    found = training_statistics(data).classes
    assert found["liver"].volume_ml == [0.6, 0.6]
    assert found["spleen"].volume_ml == [0.2, 0.2]
    assert found["spleen"].grey_level == [40.0, 40.0]
    assert found["liver"].grey_level == ([25.0, 25.0] if overlapping else [20.0, 20.0])


def test_a_run_without_statistics_has_none(tmp_path):
    assert read_statistics(tmp_path) is None
    (tmp_path / "statistics.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(InputError, match=r"statistics\.json: it is damaged"):
        read_statistics(tmp_path)


def test_a_runs_folder_holds_the_statistics_of_its_training_cases(phantoms, tmp_path):
    data = training_data(phantoms, image_size=32, cache_dir=tmp_path / "cache")
    found = training_statistics(data)
    for label_id, name in zip(data.label_ids, data.class_names, strict=True):
        volumes = []
        for case in data.split.train:
            label = nib.load(phantoms / "labels" / f"{case}.nii.gz")
            voxels = np.count_nonzero(np.asarray(label.dataobj) == label_id)
            volumes.append(voxels * np.prod(label.header.get_zooms()) / 1000)
        np.testing.assert_allclose(found.classes[name].volume_ml, sorted(volumes), rtol=1e-3)
        grey = found.classes[name].grey_level
        assert 0 < grey[0] <= grey[-1] < 255
    run = make_run(tmp_path / "run")
    record = read_run(run).model_copy(update={"statistics": found})
    write_run(run, record, bundle_folder("blosam"))
    assert read_statistics(run) == found
    assert "statistics" not in json.loads((run / "run.json").read_text())
