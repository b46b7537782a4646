"""The commands on a GPU: from a folder of scans to masks, against the same on the processor."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from medsam_adapt.cli.main import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SMALL = [part for name in ("batch_size=2", "min_steps=2", "val_interval=1") for part in ("--set", name)]


def call(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 0


@pytest.mark.parametrize("bundle", ["blosam", "infosam", "samcobot", "samparser"])
def test_train_evaluate_predict(phantoms, tmp_path, bundle):
    run = tmp_path / "run"
    settings = ["--image-size", 64, "--epochs", 3, *SMALL]
    call("train", "--bundle", bundle, "--data", phantoms, "--output", run, "--device", "cuda", *settings)
    masks = {}
    for device in ("cuda", "cpu"):
        call("evaluate", run, "--device", device, "--output", tmp_path / f"{device} scores")
        images = phantoms / "images"
        out = tmp_path / f"{device} masks"
        call("predict", run, "-i", images, "-o", out, "--device", device, "--precision", "fp32", "--probabilities")
        masks[device] = [np.asarray(nib.load(path).dataobj) for path in sorted(out.glob("*_seg.nii.gz"))]
    scores = [json.loads((tmp_path / f"{device} scores" / "metrics.json").read_text()) for device in ("cuda", "cpu")]
    assert scores[0]["cases"].keys() == scores[1]["cases"].keys()
    assert len(masks["cuda"]) == 3
    for ours, theirs in zip(masks["cuda"], masks["cpu"], strict=True):
        assert (ours != theirs).mean() < 0.01  # levels of grey that are rounded the other way
