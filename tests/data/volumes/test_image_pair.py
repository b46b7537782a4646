"""Image and contrast image as one volume of three channels, from the layout to a mask."""

import json
import shutil

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.training_data import TrainingData
from medsam_adapt.data.slices.transforms import mask_transforms, volume_transforms, volumes_in
from medsam_adapt.data.volumes import io
from medsam_adapt.runs.record import read_run
from tests.cli.test_layouts_cli import SMALL, call, scores, tiny_sam  # noqa: F401
from tests.data import samples


def refused(capsys, *arguments):
    """The sentence of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    reported = capsys.readouterr()
    assert stopped.value.code == 2
    assert reported.err.startswith("error: ")
    return reported.err


@pytest.fixture
def data(tmp_path):
    samples.segrap_maps(tmp_path / "data")
    return tmp_path / "data"


def case(data, number=0):
    return data / samples.SEGRAP_CASES / f"segrap_000{number}"


def test_the_channels_are_plain_contrast_and_their_mean(data):
    found = find_cases(data, "segrap:both")
    assert (found.layout, found.images) == ("segrap:both", ("image", "image_contrast"))
    voxels, header = io.read_volume(found.cases[0].image)
    plain, _ = io.read_volume(case(data) / "image.nii.gz")
    assert (voxels.shape, header.shape, header.path) == ((*samples.SHAPE, 3), samples.SHAPE, case(data))
    np.testing.assert_array_equal(voxels, np.stack([plain, plain + 40, plain + 20], axis=-1))
    assert [path.name for path in found.cases[0].files()] == [
        "image.nii.gz",
        "image_contrast.nii.gz",
        "segrap_0000.nii.gz",
    ]


def test_both_of_one_grid_are_needed(data):
    with pytest.raises(InputError, match="contrast and both exclude"):
        find_cases(data, "segrap:contrast,both")
    with pytest.raises(InputError, match=r"image and image_contrast fill SAM's channels. Leave out channels"):
        TrainingData(data, "segrap:both", channels="adjacent")
    moved = np.diag([-2.0, -2.0, 3.0, 1.0])
    moved[0, 3] = 7
    samples.nib.save(samples.nib.Nifti1Image(np.zeros(samples.SHAPE), moved), case(data) / "image_contrast.nii.gz")
    with pytest.raises(
        InputError, match=r"image_contrast.nii.gz: it lies up to 7 mm from its image image.nii.gz. Resample it"
    ):
        io.read_header(case(data))
    (case(data) / "image_contrast.nii.gz").unlink()
    with pytest.raises(InputError, match=r"segrap_0000: it has no image_contrast\.nii\.gz\. Add it"):
        find_cases(data, "segrap:both")
    with pytest.raises(InputError, match=r"segrap_0000: it has no image_contrast\.nii\.gz, and both"):
        io.read_header(case(data))


def test_pairs_go_through_monais_transforms(data, tmp_path):
    policy = IntensityPolicy(kind="window", low=-1000, high=1000)
    preprocessing = volume_transforms(policy)
    for folder in (case(data, 1), case(data, 1).parent):
        items = volumes_in(folder, pairs=True)
        assert str(case(data, 1)) in [item["image"] for item in items]
        assert len(items) == (1 if folder == case(data, 1) else 3)
    item = preprocessing(items[1])
    image = item["image"]
    assert image.shape == (3, *samples.SHAPE)
    inside = torch.stack([image[0] > 100, image[1] > 100]).float() - 0.5
    item["pred"] = MetaTensor(inside, meta=image.meta, applied_operations=image.applied_operations)
    mask_transforms(preprocessing, [1, 2], tmp_path / "masks", overlapping=True)(item)
    written = samples.nib.load(tmp_path / "masks" / "segrap_0001_seg.nii.gz")
    assert written.shape == (*samples.SHAPE, 2)
    np.testing.assert_allclose(written.affine, samples.AFFINE)
    for folder in (data, case(data) / "image.nii.gz"):
        with pytest.raises(InputError, match="it has no folder of image and image_contrast"):
            volumes_in(folder, pairs=True)


def test_a_run_on_both_images_asks_for_both(data, tmp_path, capsys, monkeypatch):
    run, masks = tmp_path / "run", tmp_path / "masks"
    options = ["--bundle", "decoder", "--classes", "Brain,BrainStem", "--layout", "segrap:both", *SMALL]
    call(capsys, "train", "--data", data, *options, "--output", run)
    record = read_run(run)
    assert (record.images, record.layout) == (["image", "image_contrast"], "segrap:both")
    assert list(scores(capsys, run)) == ["Brain", "BrainStem"]
    call(capsys, "predict", run, "-i", data / samples.SEGRAP_CASES, "-o", masks, "--device", "cpu")
    assert sorted(path.name for path in masks.iterdir()) == [f"segrap_000{number}_seg" for number in range(3)]
    label, header = io.read_label(masks / "segrap_0000_seg" / "Brain.nii.gz")
    np.testing.assert_array_equal(header.affine, io.read_header(case(data) / "image.nii.gz").affine)
    assert label.shape == samples.SHAPE
    config = json.loads((run / "configs/inference.json").read_text())
    assert config["dataset"]["data"].endswith("volumes_in(@dataset_dir, pairs=True)")

    one, out = tmp_path / "one", tmp_path / "out"
    predict = ["-o", out, "--device", "cpu"]
    shutil.copytree(case(data), one)
    (one / "image_contrast.nii.gz").unlink()
    assert f"{one}: it has no image_contrast.nii.gz, and both" in refused(capsys, "predict", run, "-i", one, *predict)
    file = case(data) / "image.nii.gz"
    assert "it has no folder of image and image_contrast" in refused(capsys, "predict", run, "-i", file, *predict)
    evaluate = ["evaluate", run, "--data", data, "--output", out, "--device", "cpu"]
    assert f"{data} gives one image a case" in refused(capsys, *evaluate)
    more = ["train", "--from", run, "--data", data, "--output", out, "--device", "cpu"]
    assert f"{data} gives one image a case" in refused(capsys, *more)
    convert = ["data", "convert", data, "--layout", "segrap:both", "-o", out]
    assert "a copy holds one image per case. Choose one" in refused(capsys, *convert)
    assert not out.exists()
