import shutil
import threading
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from medsam_adapt.core.errors import RunError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.slices import slice_store as slices
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.slice_store import SliceSettings, StoredCase, renumber, store_cases
from medsam_adapt.data.slices.transforms import training_transforms
from medsam_adapt.data.slices.volume_transforms import volume_transforms
from medsam_adapt.inference.inferer import SlicewiseInferer
from tests.slicing import slicing_of

WINDOW = IntensityPolicy(kind="window", low=-160, high=240, modality="CT")
SETTINGS = SliceSettings(64, "axial", WINDOW, (1, 2, 3, 4, 5))


@pytest.fixture
def case(phantoms):
    return find_cases(phantoms).cases[0]


@pytest.fixture
def reads(monkeypatch):
    """Paths of the images decompressed."""
    paths = []
    read_volume = slices.read_volume
    monkeypatch.setattr(slices, "read_volume", lambda path, **more: paths.append(path) or read_volume(path, **more))
    return paths


def test_a_volume_is_decompressed_once(case, reads, tmp_path):
    made = store_cases([case], SETTINGS, tmp_path)[case.id]
    found = store_cases([case], SETTINGS, tmp_path)[case.id]
    assert reads == [case.image]
    np.testing.assert_array_equal(found.images, made.images)
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.uint8)


def test_slices_are_found_again_when_the_files_move(case, reads, tmp_path):
    store_cases([case], SETTINGS, tmp_path / "cache")
    moved = replace(case, id="moved", image=tmp_path / "i.nii.gz", label=tmp_path / "l.nii.gz")
    shutil.copy(case.image, moved.image)
    shutil.copy(case.label, moved.label)
    assert store_cases([moved], SETTINGS, tmp_path / "cache")["moved"].case_id == "moved"
    assert reads == [case.image]


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 48},
        {"axis": "coronal"},
        {"policy": IntensityPolicy(kind="window", low=-160, high=250, modality="CT")},
        {"label_ids": (1, 2, 3, 5, 4)},
    ],
)
def test_other_settings_are_other_slices(case, reads, tmp_path, change):
    store_cases([case], SETTINGS, tmp_path)
    store_cases([case], replace(SETTINGS, **change), tmp_path)
    assert len(reads) == len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("part", ["image", "label"])
def test_other_voxels_are_other_slices(case, reads, tmp_path, part):
    store_cases([case], SETTINGS, tmp_path / "cache")
    nifti = nib.load(getattr(case, part))
    voxels = np.asarray(nifti.dataobj).copy()
    voxels[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(voxels, nifti.affine), tmp_path / "changed.nii.gz")
    store_cases([replace(case, **{part: tmp_path / "changed.nii.gz"})], SETTINGS, tmp_path / "cache")
    assert len(reads) == 2


def test_what_a_killed_run_left_is_not_used(case, tmp_path):
    (tmp_path / ".making-killed").mkdir()
    (tmp_path / ".making-killed" / "images.npy").write_bytes(b"half")
    assert np.any(store_cases([case], SETTINGS, tmp_path)[case.id].images)


def test_a_failure_leaves_nothing_behind(case, tmp_path, monkeypatch):
    def full(path, array):
        path.write_bytes(b"half")
        if path.name == "labels.npy":
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(slices.np, "save", full)
        with pytest.raises(RunError, match="No space left"):
            store_cases([case], SETTINGS, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert np.any(store_cases([case], SETTINGS, tmp_path)[case.id].images)


def test_two_runs_make_the_same_case_at_once(case, tmp_path, monkeypatch):
    together = threading.Barrier(2, timeout=60)
    read_volume = slices.read_volume

    def read_together(path, **more):
        together.wait()  # neither finds the slices of the other
        return read_volume(path, **more)

    monkeypatch.setattr(slices, "read_volume", read_together)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(store_cases([case], SETTINGS, tmp_path)[case.id]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    np.testing.assert_array_equal(results[0].images, results[1].images)
    assert len(list(tmp_path.iterdir())) == 1


class Recorder(torch.nn.Module):
    """Stands for a segmenter and keeps the images it is given."""

    head = "exclusive"

    def __init__(self, image_size):
        super().__init__()
        self.image_size, self.images = image_size, []
        self.sam = torch.nn.Module()
        self.sam.pixel_mean = torch.zeros(1)

    def forward(self, images):
        self.images.append(images)
        return torch.zeros(len(images), 6, self.image_size, self.image_size)


def without_air(images):
    """Prediction shows air to the network only once; what is neither 0 nor the three colours of the border is more."""
    return [image for image in images if image.unique().numel() > 4]


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("channels", ["repeat", "adjacent"])
@pytest.mark.parametrize("policy", [WINDOW, IntensityPolicy(kind="percentile")], ids=["window", "percentile"])
@pytest.mark.parametrize("size", [32, 96], ids=["shrunk", "enlarged"])
def test_training_and_prediction_see_the_same_bits(phantoms, tmp_path, axis, channels, policy, size):
    for case in find_cases(phantoms).cases[:2]:  # of different orientations
        stored = store_cases([case], SliceSettings(size, axis, policy, (1, 2, 3, 4, 5)), tmp_path)
        sample = training_transforms(stored, size, channels=channels, augment="none")
        recorder = Recorder(size)
        volume = volume_transforms(policy)({"image": str(case.image)})["image"]
        SlicewiseInferer(slicing_of(axis, channels, num_classes=5), batch_size=5)(volume[None], recorder)
        trained = [sample({"case": case.id, "slice": index})["image"] for index in range(len(stored[case.id].images))]
        predicted, trained = without_air(torch.cat(recorder.images)), without_air(trained)
        assert len(predicted) == len(trained) > 0
        assert all(torch.equal(*pair) for pair in zip(predicted, trained, strict=True))


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_training_and_prediction_see_pixels_at_the_same_coordinates(phantoms, tmp_path, axis):
    case = find_cases(phantoms).cases[0]
    stored = store_cases([case], SliceSettings(32, axis, WINDOW, (1, 2, 3, 4, 5)), tmp_path)
    sample = training_transforms(stored, 32, augment="none", coordinates=True)
    recorder = Recorder(32)
    volume = volume_transforms(WINDOW)({"image": str(case.image)})["image"]
    spec = slicing_of(axis, num_classes=5, coordinates=True)
    SlicewiseInferer(spec, batch_size=5)(volume[None], recorder)
    predicted = torch.cat(recorder.images)  # those without signal too
    trained = torch.stack([sample({"case": case.id, "slice": index})["image"] for index in range(len(predicted))])
    assert predicted.shape == (len(stored[case.id].images), 6, 32, 32)
    assert torch.equal(predicted, trained)


def write_stored(folder, voxels):
    count = len(voxels)
    for name, shape in (("images", (count, 4, 4)), ("labels", (count, 4, 4))):
        np.save(folder / f"{name}.npy", np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], shape))
    np.save(folder / "voxels.npy", voxels)
    return StoredCase("a", folder, "axial")


def test_training_slices_are_the_labelled_range_and_a_share_of_the_rest(tmp_path):
    voxels = np.zeros((20, 3), int)
    voxels[:, 0] = 16
    voxels[5, 1] = voxels[9, 2] = 3  # 6, 7 and 8 are empty and inside the range
    stored = write_stored(tmp_path, voxels)
    drawn = {share: stored.training_slices(share, np.random.default_rng(0)).tolist() for share in (0, 0.4, 1)}
    assert drawn[0] == [5, 6, 7, 8, 9]
    assert len(drawn[0.4]) == 5 + 6
    assert set(drawn[0]) < set(drawn[0.4])
    assert drawn[0.4] == sorted(drawn[0.4])
    assert drawn[1] == list(range(20))
    assert stored.training_slices(0.4, np.random.default_rng(1)).tolist() != drawn[0.4]


def test_neighbours_stay_in_the_volume(tmp_path):
    stored = write_stored(tmp_path, np.ones((3, 2), int))
    assert [stored.channels(index, "adjacent")[:, 0, 0].tolist() for index in range(3)] == [
        [0, 0, 1],
        [0, 1, 2],
        [1, 2, 2],
    ]
    assert stored.channels(2, "repeat")[:, 0, 0].tolist() == [2, 2, 2]


def test_voxels_are_counted_in_native_slices(case, tmp_path):
    stored = store_cases([case], SETTINGS, tmp_path)[case.id]
    label = np.asarray(nib.as_closest_canonical(nib.load(case.label)).dataobj)
    for number in range(6):
        np.testing.assert_array_equal(stored.voxels[:, number], (label == number).sum(axis=(0, 1)))


def test_ids_become_classes_in_their_order_and_others_background():
    label = np.array([0, 3, 300, 7, 65535], np.uint16)
    assert renumber(label, (300, 3)).tolist() == [0, 2, 1, 0, 0]
    assert renumber(label[:1], (300, 3)).tolist() == [0]


def test_a_fourth_axis_and_rescaled_labels_are_read_alike_in_training_and_evaluation(case, tmp_path):
    paths = {"image": tmp_path / "image.nii.gz", "label": tmp_path / "label.nii.gz"}
    image, label = nib.load(case.image), nib.load(case.label)
    classes = np.asarray(label.dataobj)
    almost = classes - np.float32(1e-3) * (classes > 0)  # what a slope in the header leaves
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine), paths["image"])
    nib.save(nib.Nifti1Image(almost[..., None], label.affine), paths["label"])
    read = volume_transforms(WINDOW, [1, 2, 3, 4, 5], ("image", "label"))({key: str(paths[key]) for key in paths})
    np.testing.assert_array_equal(read["label"][0], nib.as_closest_canonical(label).dataobj)
    np.testing.assert_array_equal(read["image"][0], WINDOW.apply(nib.as_closest_canonical(image).get_fdata()))
    stored = store_cases([replace(case, **paths)], SETTINGS, tmp_path)[case.id]
    np.testing.assert_array_equal(np.bincount(classes.ravel()), stored.voxels.sum(axis=0))
