"""The images of a case as one volume: one grid, what is missing, and a run on image and contrast image."""

import json
import shutil

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pydantic import ValidationError

from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.data.slices.volume_transforms import mask_transforms, volume_transforms, volumes_in
from medsam_adapt.data.volumes import io
from medsam_adapt.data.volumes.image_set import ImageSet
from medsam_adapt.runs.record import read_run
from tests.cli.test_layouts_cli import SMALL, call, scores, tiny_sam  # noqa: F401
from tests.data import samples
from tests.slicing import training_data


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


def test_the_images_are_plain_and_contrast(data):
    found = find_cases(data, "segrap:both")
    assert (found.layout, found.images) == ("segrap:both", ("image", "image_contrast"))
    voxels, header = io.read_volume(found.cases[0].image)
    plain, _ = io.read_volume(case(data) / "image.nii.gz")
    assert (voxels.shape, header.shape, header.path) == (
        (*samples.SHAPE, 2),
        samples.SHAPE,
        case(data) / "image.nii.gz",
    )
    np.testing.assert_array_equal(voxels, np.stack([plain, plain + 40], axis=-1))
    assert [path.name for path in found.cases[0].files()] == [
        "image.nii.gz",
        "image_contrast.nii.gz",
        "segrap_0000.nii.gz",
    ]


def test_both_are_needed(data):
    with pytest.raises(InputError, match="contrast and both exclude each other"):
        find_cases(data, "segrap:contrast,both")
    with pytest.raises(InputError, match=r"image and image_contrast fill SAM's channels. Leave out channels"):
        training_data(data, layout="segrap:both", channels="adjacent")
    (case(data) / "image_contrast.nii.gz").unlink()
    with pytest.raises(InputError, match=r"segrap_0000: it has no image_contrast\.nii\.gz\. Add it"):
        find_cases(data, "segrap:both")


LINEAR = np.add.outer(np.add.outer(np.arange(8.0), 10 * np.arange(6.0)), 100 * np.arange(4.0))  # along x, y and z, mm


def saved(path, voxels, spacing=(1, 1, 1), origin=(0, 0, 0)):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    samples.nib.save(samples.nib.Nifti1Image(np.asarray(voxels, np.float32), affine), path)
    return path


def test_another_grid_is_resampled_to_the_first_and_reported(tmp_path):
    first = saved(tmp_path / "t2.nii.gz", LINEAR)
    fine = np.add.outer(np.add.outer(np.arange(15) / 2, 10 * np.arange(11) / 2), 100 * np.arange(4.0))
    second = saved(tmp_path / "adc.nii.gz", fine, (0.5, 0.5, 1))
    voxels, header = io.read_volume(ImageSet(("T2", "ADC"), (first, second)))
    np.testing.assert_allclose(voxels[..., 1], LINEAR, atol=1e-4)
    assert header.notes == (f"{second}: ADC has another grid than t2.nii.gz, and is resampled to it.",)
    np.testing.assert_array_equal(io.read_volume([first, first])[0], np.stack([LINEAR, LINEAR], axis=-1))


def test_an_image_that_covers_a_part_is_dark_elsewhere_and_one_elsewhere_is_refused(tmp_path):
    first = saved(tmp_path / "t2.nii.gz", LINEAR)
    part = saved(tmp_path / "part.nii.gz", LINEAR[:, :, :3] + 7, origin=(0.25, 0, 0))
    voxels, header = io.read_volume(ImageSet(("T2", "ADC"), (first, part)))
    assert "of which it covers 7" in header.notes[0]
    assert (voxels[:, :, 3, 1] == 7).all()
    np.testing.assert_allclose(voxels[1:, :, :3, 1], LINEAR[1:, :, :3] - 0.25 + 7, atol=1e-4)
    elsewhere = saved(tmp_path / "elsewhere.nii.gz", LINEAR, origin=(300, 0, 0))
    with pytest.raises(InputError, match=r"elsewhere.nii.gz: it covers 0% of t2.nii.gz. Give the images of one case"):
        io.read_header([first, elsewhere])


def test_turned_axes_are_turned_back_without_resampling(tmp_path):
    first = saved(tmp_path / "t2.nii.gz", LINEAR)
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = 7
    second = tmp_path / "adc.nii.gz"
    samples.nib.save(samples.nib.Nifti1Image(LINEAR[::-1].astype(np.float32), affine), second)
    voxels, header = io.read_volume([first, second])
    np.testing.assert_array_equal(voxels[..., 1], LINEAR)
    assert header.notes == ()


def test_what_is_missing_is_no_number(tmp_path):
    first = saved(tmp_path / "t2.nii.gz", LINEAR)
    voxels, header = io.read_volume(ImageSet(("ADC", "T2"), (None, first)))
    assert np.isnan(voxels[..., 0]).all()
    np.testing.assert_array_equal(voxels[..., 1], LINEAR)
    assert header.path == first


def test_one_file_holds_as_many_images_as_are_named(tmp_path):
    stacked = saved(tmp_path / "both.nii.gz", np.stack([LINEAR, -LINEAR], axis=-1))
    voxels, header = io.read_volume(ImageSet(("T2", "ADC"), (stacked,)))
    np.testing.assert_array_equal(voxels, np.stack([LINEAR, -LINEAR], axis=-1))
    assert header.shape == LINEAR.shape
    np.testing.assert_array_equal(io.read_volume([stacked])[0], voxels)
    io.write_label(tmp_path / "label.nii.gz", (LINEAR > 50).astype(np.uint8), header)
    assert samples.nib.load(tmp_path / "label.nii.gz").shape == LINEAR.shape
    with pytest.raises(InputError, match=r"it holds 2 images and 3 are named \(a, b, c\)"):
        io.read_header(ImageSet(("a", "b", "c"), (stacked,)))
    with pytest.raises(InputError, match="is 4D"):
        io.read_header(stacked)


def test_pairs_go_through_monais_transforms(data, tmp_path):
    window = IntensityPolicy(kind="window", low=-1000, high=1000)
    policy = IntensityPolicy(kind="channels", channels=(window, window))
    preprocessing = volume_transforms(policy)
    for folder in (case(data, 1), case(data, 1).parent):
        items = volumes_in(folder, ["image", "image_contrast"])
        assert str(case(data, 1) / "image.nii.gz") in [item["image"][0] for item in items]
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
        with pytest.raises(InputError, match=r"no case with the images image and image_contrast|it holds 1 image"):
            volumes_in(folder, ["image", "image_contrast"])


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
    assert config["slicing"]["images"] == ["image", "image_contrast"]

    one, out = tmp_path / "one", tmp_path / "out"
    predict = ["-o", out, "--device", "cpu"]
    shutil.copytree(case(data), one)
    (one / "image_contrast.nii.gz").unlink()
    assert "the case one has no image image_contrast. Add it" in refused(capsys, "predict", run, "-i", one, *predict)
    file = case(data) / "image.nii.gz"
    assert "it holds 1 image, and this run takes image and image_contrast together" in refused(
        capsys, "predict", run, "-i", file, *predict
    )
    evaluate = ["evaluate", run, "--data", data, "--output", out, "--device", "cpu"]
    assert f"{data} gives one image a case" in refused(capsys, *evaluate)
    more = ["train", "--from", run, "--data", data, "--output", out, "--device", "cpu"]
    assert f"{data} gives one image a case" in refused(capsys, *more)
    assert not out.exists()


def test_a_run_from_before_each_image_had_its_own_rule_has_one_for_both():
    window = {"kind": "window", "low": -160, "high": 350, "modality": "CT"}
    values = {"class_names": ["a"], "label_ids": [1], "images": ["image", "image_contrast"], "policy": window}
    spec = SlicingSpec.model_validate(values)
    assert [policy.low for policy in spec.policy.channels] == [-160, -160]
    assert spec.input_channels == ["image", "image_contrast", "mean of both"]
    with pytest.raises(ValidationError, match="one intensity policy for each image"):
        SlicingSpec.model_validate({**values, "policy": {"kind": "channels", "channels": [window]}})
