"""Every layout's sample goes the whole path: found, checked, split, trained on, scored, and segmented."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file

from medsam_adapt.cli.main import main
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.splits import split_cases
from medsam_adapt.data.volumes.io import read_header
from medsam_adapt.weights.backbones import VARIANTS
from tests.data import samples

SMALL = ["--image-size", "32", "--epochs", "1", "--device", "cpu", "--checkpoint", "random"]
SMALL += ["--set", "min_steps=1", "--set", "batch_size=4"]
LAYOUTS = {"segrap": "segrap:contrast"}  # a choice must be found again when the run is scored


@pytest.fixture(autouse=True)
def tiny_sam(monkeypatch):
    """vit_nano with one small block: what is tested here is the path, not what is learnt on it."""
    sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2, "global_attention": (0,)}
    decoder = {"prompt_dim": 32, "decoder_mlp_dim": 64, "iou_hidden_dim": 32}
    monkeypatch.setitem(VARIANTS, "vit_nano", replace(VARIANTS["vit_nano"], **sizes, **decoder))


def call(capsys, *arguments):
    """Standard output of a command that succeeds."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    reported = capsys.readouterr()
    assert not stopped.value.code, reported.err
    return reported.out


def scores(capsys, run, *options):
    call(capsys, "evaluate", run, "--device", "cpu", *options)
    return {name: row["dsc"] for name, row in json.loads((run / "metrics.json").read_text())["classes"].items()}


@pytest.mark.parametrize("sample", [name for name in samples.SAMPLES if samples.layout_of(name) == name])
def test_the_whole_path(tmp_path, capsys, monkeypatch, sample):
    samples.SAMPLES[sample](tmp_path / "data")
    layout = LAYOUTS.get(sample, sample)
    found = find_cases(tmp_path / "data", layout)
    check = check_cases(found)
    split = split_cases(found.cases, seed=0)
    assert (len(split.train), len(split.held_out)) == (2, 1)
    if sample not in ("image2d", "segrap"):  # colours and masks are what pictures may stumble over
        monkeypatch.setattr("medsam_adapt.evaluation.write_scores.save_pictures", lambda *arguments: None)
    run, masks = tmp_path / "run", tmp_path / "masks"
    classes = list(check.classes.values())[:3]
    options = ["--bundle", "decoder", "--classes", ",".join(classes), *SMALL]
    options += ["--layout", layout] if layout != sample else []
    out = call(capsys, "train", "--data", tmp_path / "data", *options, "--output", run)
    assert layout != sample or f"looks like the layout '{sample}'" in out
    record = json.loads((run / "run.json").read_text())
    assert (record["layout"], record["overlapping"]) == (layout, found.coding.overlapping)
    assert set(scores(capsys, run)) == set(classes)
    image = next(case.image for case in found.cases if case.id == split.held_out[0])
    call(capsys, "predict", run, "-i", image, "-o", masks, "--device", "cpu")
    written = [np.asarray(nib.load(path).dataobj) for path in sorted(masks.rglob("*.nii.gz"))]
    assert len(written) == (len(classes) if found.coding.overlapping else 1)
    assert {array.shape for array in written} == {read_header(image).shape}


@pytest.mark.parametrize("bundle", ["blosam", "lora", "detail"])
@pytest.mark.parametrize("prompt", ["none", "box"])
def test_overlapping_classes_with_and_without_prompts(tmp_path, capsys, monkeypatch, bundle, prompt):
    monkeypatch.setattr("medsam_adapt.evaluation.write_scores.save_pictures", lambda *arguments: None)
    samples.nnunet_regions(tmp_path / "data")
    run = tmp_path / "run"
    options = ["--bundle", bundle, "--prompt", prompt, *SMALL, *["--set", "order=first"] * (bundle == "blosam")]
    call(capsys, "train", "--data", tmp_path / "data", *options, "--output", run)
    found = scores(capsys, run)
    assert list(found) == ["organs", "liver"]
    assert None not in found.values()
    settings = json.loads((run / "configs/inference.json").read_text())["slicing"]
    assert settings["overlapping"] is True
    if (bundle, prompt) == ("lora", "none"):  # its classes may overlap, those of other labels need not
        samples.folder(tmp_path / "other")
        samples.text(tmp_path / "other/labels.json", {"1": "liver", "2": "organs"})
        assert list(scores(capsys, run, "--data", tmp_path / "other")) == ["organs", "liver"]


@pytest.mark.parametrize(
    ("bundle", "prompt"),
    [("adaptformer", "none"), ("infosam", "none"), ("infosam", "box"), ("samcobot", "none"), ("samparser", "none")],
)
def test_the_other_methods_train_on_overlapping_organs(tmp_path, capsys, monkeypatch, bundle, prompt):
    monkeypatch.setattr("medsam_adapt.evaluation.write_scores.save_pictures", lambda *arguments: None)
    monkeypatch.setitem(VARIANTS, "vit_nano", replace(VARIANTS["vit_nano"], depth=3))  # InfoSAM adapts inner blocks
    samples.segrap_maps(tmp_path / "data")
    run, organs = tmp_path / "run", ["Brain", "BrainStem", "Hippocampus_L"]
    options = ["--bundle", bundle, "--prompt", prompt, "--classes", ",".join(organs), *SMALL, "--set", "min_steps=3"]
    call(capsys, "train", "--data", tmp_path / "data", *options, "--output", run)
    assert json.loads((run / "run.json").read_text())["overlapping"] is True
    trained = load_file(run / "models/adapter/adapter_model.safetensors")
    assert trained
    assert all(tensor.isfinite().all() for tensor in trained.values())
    found = scores(capsys, run)
    assert list(found) == organs
    assert None not in found.values()
