"""Slices reach the image encoder as its weights were trained: in training, at prediction, cached and exported."""

import json

import numpy as np
import pytest
import torch

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.data import TrainingData
from medsam_adapt.data.slices.padding import pad_image
from medsam_adapt.inference.slice_logits import SliceLogits
from medsam_adapt.methods import LoRA
from medsam_adapt.networks import build_sam, build_segmenter
from medsam_adapt.networks.build import build_teacher
from medsam_adapt.networks.parameters import load_adapter, save_adapter
from medsam_adapt.runs.record import read_run
from medsam_adapt.weights.registry import WEIGHTS, Weights
from tests.made_runs import make_run
from tests.slicing import slicing_of, training_data

SIZE = 32


def seen_by(segmenter, image):
    """What the encoder of ``segmenter`` is given for images on the 0-255 scale."""
    seen = []
    patches = segmenter.sam.image_encoder.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        segmenter.encode(image)
    patches.remove()
    return seen[0]


def medsam_pixels(image):
    """The published preprocessing of MedSAM: each image minus its minimum, divided by its range; zeros around it."""
    scaled = (image - image.min()) / np.clip(image.max() - image.min(), 1e-8, None)
    return np.pad(scaled, [(0, 0), (0, SIZE - image.shape[1]), (0, SIZE - image.shape[2])])


def test_unit_scaling_is_that_of_medsam_and_sam_scaling_that_of_sam():
    slices = np.random.default_rng(0).integers(40, 180, (2, 3, SIZE, 20)).astype(np.float32)
    for name in ("unit", "sam"):
        segmenter = build_segmenter("vit_nano", SIZE, 2, LoRA(), checkpoint="random", input_scaling=name)
        assert segmenter.input_scaling == name
        seen = seen_by(segmenter, pad_image(torch.from_numpy(slices), SIZE, name)).numpy()
        if name == "unit":
            expected = np.stack([medsam_pixels(each) for each in slices])
        else:
            mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
            normal = (slices - mean[:, None, None]) / std[:, None, None]
            expected = np.pad(normal, [(0, 0), (0, 0), (0, 0), (0, SIZE - 20)])
        np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_a_slice_without_contrast_is_black_and_its_noise_is_not_enlarged():
    flat = torch.full((1, 3, 8, 8), 77.0)
    assert (pad_image(flat, 8, "unit") == 0).all()
    assert pad_image(flat + 0.01 * torch.rand(1, 3, 8, 8), 8, "unit").max() < 3


@pytest.mark.parametrize("channels", ["repeat", "adjacent"])
@pytest.mark.parametrize("scaling", ["unit", "sam"])
def test_training_and_prediction_show_the_network_the_same(phantoms, tmp_path, scaling, channels):
    from medsam_adapt.data.volumes.io import read_volume, to_ras

    settings = {"image_size": SIZE, "augment": "none", "channels": channels, "cache_dir": tmp_path, "held_out": 0.0}
    data = training_data(phantoms, checkpoint="random", input_scaling=scaling, **settings)
    sample = data.dataset()[0]
    case = next(each for each in data.cases.cases if each.id == sample["case"])
    image, header = read_volume(case.image)
    volume, affine = to_ras(image, header.affine)
    segmenter = build_segmenter("vit_nano", SIZE, 2, LoRA(), checkpoint="random", input_scaling=scaling)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    slicing = slicing_of("axial", channels, "none", 2)
    slices = SliceLogits(slicing, volume, spacing, segmenter, window=data.policy.window_of(volume))
    shown = slices.images(np.array([sample["slice"]]))[0]
    assert (shown - sample["image"]).abs().max() < 3  # the stored slice holds whole grey levels
    if scaling == "unit":
        assert sample["image"].min() == 0
        assert float(sample["image"].max()) == pytest.approx(255)


def test_weights_are_recognised_by_their_sha256_whatever_their_name(tmp_path, monkeypatch):
    path, other = tmp_path / "mine.pth", tmp_path / "medsam_vit_b.pth"
    torch.save(build_sam("vit_nano", SIZE).state_dict(), path)
    torch.save({**build_sam("vit_nano", SIZE).state_dict()}, other)
    facts = {"size": path.stat().st_size, "sha256": file_sha256(path), "input_scaling": "unit"}
    monkeypatch.setitem(WEIGHTS, "medsam_nano", Weights("medsam_nano", "vit_nano", "x.pth", "Apache-2.0", **facts))
    assert build_sam("vit_nano", SIZE, checkpoint=path).input_scaling == "unit"
    assert build_sam("vit_nano", SIZE, checkpoint=path, input_scaling="sam").input_scaling == "sam"
    assert build_sam("vit_nano", SIZE, checkpoint=other).input_scaling == "sam"
    assert build_sam("vit_nano", SIZE, checkpoint=other, input_scaling="unit").input_scaling == "unit"
    assert build_teacher("vit_nano", SIZE, path).input_scaling == "unit"
    assert WEIGHTS["medsam_vit_b"].input_scaling == "unit"
    assert all(WEIGHTS[name].input_scaling == "sam" for name in ("sam_nano", "sam_vit_b", "sam_vit_l", "sam_vit_h"))


def test_an_unknown_scaling_is_refused():
    with pytest.raises(InputError, match=r"input_scaling: there is no 'half'\. Use sam or unit"):
        build_sam("vit_nano", SIZE, input_scaling="half")


def test_an_adapter_refuses_a_network_of_another_scaling(tmp_path):
    made = {name: build_segmenter("vit_nano", SIZE, 2, LoRA(), input_scaling=name) for name in ("unit", "sam")}
    save_adapter(made["unit"], tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["input_scaling"] == "unit"
    load_adapter(made["unit"], tmp_path)
    with pytest.raises(InputError, match="trained with input_scaling unit, but this network was built with sam"):
        load_adapter(made["sam"], tmp_path)


def test_a_run_keeps_its_scaling_and_an_older_one_has_that_of_sam(tmp_path):
    from medsam_adapt.inference.predictor import load_run

    run = make_run(tmp_path / "run", input_scaling="unit")
    assert load_run(run, "cpu").segmenter.input_scaling == "unit"
    record = json.loads((run / "run.json").read_text())
    del record["input_scaling"]
    (run / "run.json").write_text(json.dumps(record))
    assert read_run(run).input_scaling == "sam"
    assert load_run(run, "cpu").segmenter.input_scaling == "sam"


def test_the_scaling_changes_what_a_run_segments(tmp_path):
    from medsam_adapt.inference.predictor import load_run

    volume = np.random.default_rng(0).uniform(-100, 100, (24, 24, 4)).astype(np.float32)
    masks = []
    for name in ("unit", "sam"):
        run = make_run(tmp_path / name, input_scaling=name)
        masks.append(load_run(run, "cpu").probabilities(volume, np.eye(4)))
    assert np.abs(masks[0] - masks[1]).max() > 1e-3


def test_features_are_cached_for_one_scaling(phantoms, tmp_path):
    settings = {"image_size": SIZE, "augment": "none", "cache_dir": tmp_path, "checkpoint": "random"}
    keys = {training_data(phantoms, input_scaling=name, **settings).views(1, True).sha256() for name in ("sam", "unit")}
    assert len(keys) == 2


def test_a_bundle_whose_network_expects_another_scaling_is_refused(phantoms, tmp_path):
    from medsam_adapt.bundle.catalogue import resolve_knobs
    from medsam_adapt.training.setup import record_of

    knobs = resolve_knobs("lora", sets={"input_scaling": "unit", "cache_dir": str(tmp_path), "image_size": SIZE})
    data = TrainingData.of(phantoms, knobs)
    segmenter = build_segmenter("vit_nano", SIZE, len(data.class_names), LoRA(), input_scaling="sam")
    with pytest.raises(InputError, match="the slices are scaled as unit but the network expects sam"):
        record_of(data, segmenter, knobs)
