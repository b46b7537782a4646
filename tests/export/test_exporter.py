"""What export writes, for the adapters of all bundles, on random networks."""

import json
import math

import onnx
import pytest
import torch
from monai.bundle import ConfigParser

from medsam_adapt.bundle.catalogue import read_config
from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.export.check import random_inputs
from medsam_adapt.export.exporter import METADATA_KEY, load_exported, write_onnx, write_torchscript
from medsam_adapt.export.portable import PortableSegmenter
from medsam_adapt.inference.class_scores import ABSENT_LOGIT
from medsam_adapt.methods import DecoderLoRA
from medsam_adapt.networks import DecoderOnly, build_segmenter
from tests.methods.method_tester import add_noise, relative_error

pytestmark = pytest.mark.usefixtures("tiny_nano")
SIZE = 64


def adapter_of(bundle):
    """The adapter that a bundle attaches."""
    config = read_config(bundle, "train")
    parser = ConfigParser({key: config[key] for key in ("imports", "knobs", "adapter")})
    return parser.get_parsed_content("adapter")


def network_of(adapter, prompt="none", overlapping=False):
    """The small SAM, no tensor as it starts."""
    segmenter = build_segmenter("vit_nano", SIZE, 2, adapter, prompt, "random", overlapping=overlapping)
    return add_noise(segmenter).eval().requires_grad_(False)


def difference(segmenter, path, prompt="none"):
    """Of the logits, for a batch and a number of points other than those recorded."""
    inputs = random_inputs(SIZE, prompt, batch=3, points=5)
    return relative_error(load_exported(path)(inputs), segmenter(**inputs))


def axes_of(path):
    """Name -> length or name of each axis, of an ONNX file's inputs and outputs."""
    graph = onnx.load(path).graph
    return {
        value.name: tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output)
    }


@pytest.mark.parametrize("bundle", bundle_names())
def test_every_adapter_exports_merged_or_as_it_is(bundle, tmp_path):
    expected, segmenter = network_of(adapter_of(bundle)), network_of(adapter_of(bundle))
    merged = segmenter.adapter.mergeable
    if merged:
        segmenter.adapter.merge(segmenter.sam)
    network = PortableSegmenter(segmenter)
    write_torchscript(network, tmp_path / "model.ts", "none", {})
    assert difference(expected, tmp_path / "model.ts") <= 1e-4
    if not merged or bundle == "decoder":  # a plain SAM, as the others are once they are merged
        write_onnx(network, tmp_path / "model.onnx", "none", {})
        assert difference(expected, tmp_path / "model.onnx") <= 1e-4
        channels = {"image": ("batch", 3, SIZE, SIZE), "logits": ("batch", 3, SIZE, SIZE)}
        assert axes_of(tmp_path / "model.onnx") == channels


def test_coordinates_are_further_channels_of_the_image(tmp_path):
    segmenter = build_segmenter("vit_nano", SIZE, 2, DecoderOnly(), "none", "random", detail=8, coordinates=True)
    segmenter = add_noise(segmenter).eval().requires_grad_(False)
    inputs = random_inputs(SIZE, "none", batch=3, channels=6)
    write_torchscript(PortableSegmenter(segmenter), tmp_path / "model.ts", "none", {})
    write_onnx(PortableSegmenter(segmenter), tmp_path / "model.onnx", "none", {})
    expected = segmenter(**inputs)
    for name in ("model.ts", "model.onnx"):
        assert relative_error(load_exported(tmp_path / name)(inputs), expected) <= 1e-4
    assert axes_of(tmp_path / "model.onnx")["image"] == ("batch", 6, SIZE, SIZE)
    inputs["image"][:, 3:] += 1
    assert relative_error(segmenter(**inputs), expected) > 1e-3


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_prompts_are_embedded_as_sam_does(prompt, tmp_path):
    segmenter = network_of(DecoderLoRA(rank=2), prompt)
    write_torchscript(PortableSegmenter(segmenter), tmp_path / "model.ts", prompt, {})
    write_onnx(PortableSegmenter(segmenter), tmp_path / "model.onnx", prompt, {})
    assert difference(segmenter, tmp_path / "model.ts", prompt) <= 1e-4
    assert difference(segmenter, tmp_path / "model.onnx", prompt) <= 1e-4
    found = axes_of(tmp_path / "model.onnx")
    assert {axis for axes in found.values() for axis in axes if isinstance(axis, str)} <= {"batch", "points"}
    assert (found["image"], found["logits"][2:]) == (("batch", 3, SIZE, SIZE), (SIZE, SIZE))


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_the_prompt_matters(prompt):
    network = PortableSegmenter(network_of(DecoderLoRA(rank=2), prompt))
    inputs = random_inputs(SIZE, prompt, batch=1)
    name = {"box": "boxes", "points": "points"}[prompt]
    moved = {**inputs, name: inputs[name] / 2}
    assert relative_error(network(**moved), network(**inputs)) > 1e-4


@pytest.mark.parametrize(("overlapping", "channels"), [(False, 3), (True, 2)])
def test_absent_classes_are_out_of_reach(overlapping, channels):
    segmenter = network_of(DecoderLoRA(rank=2), overlapping=overlapping)
    logits = PortableSegmenter(segmenter, [1])(**random_inputs(SIZE, "none", batch=1))
    assert logits.shape == (1, channels, SIZE, SIZE)
    assert (logits[:, 1] == ABSENT_LOGIT).all()
    assert torch.equal(logits[:, 0], segmenter(**random_inputs(SIZE, "none", batch=1))[:, 0])


CONTENT = {"class_names": ["liver", "élan"], "image_size": SIZE}


def test_the_description_is_inside_torchscript(tmp_path):
    from monai.data import load_net_with_metadata

    write_torchscript(PortableSegmenter(network_of(DecoderLoRA(rank=2))), tmp_path / "model.ts", "none", CONTENT)
    assert load_net_with_metadata(tmp_path / "model.ts")[1] == CONTENT


def test_onnx_holds_the_description_and_weights_too_large_for_it_lie_beside_it(tmp_path, monkeypatch):
    import onnx

    from medsam_adapt.export import exporter as export

    segmenter, path = network_of(DecoderLoRA(rank=2)), tmp_path / "model.onnx"
    monkeypatch.setattr(export, "_LARGEST_FILE", 1000)
    write_onnx(PortableSegmenter(segmenter), path, "none", CONTENT)
    properties = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(properties[METADATA_KEY]) == CONTENT
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    stored = onnx.load(path, load_external_data=False).graph.initializer
    large = [each for each in stored if math.prod(each.dims) >= 1024]
    assert sum(math.prod(each.dims) for each in large) > sum(math.prod(each.dims) for each in stored) / 2
    assert {each.data_location for each in large} == {onnx.TensorProto.EXTERNAL}
    assert difference(segmenter, path) <= 1e-4
