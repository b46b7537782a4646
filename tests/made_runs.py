"""Runs for tests that predict, made without training: a random network with its record."""

import numpy as np
import torch

from medsam_adapt.core.files import write_json
from medsam_adapt.core.versions import versions
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.networks import build_segmenter
from medsam_adapt.runs.record import AdapterRecord, RunRecord

NAMES = ("liver", "right kidney", "spleen")


def make_run(
    folder,
    prompt="none",
    overlapping=False,
    names=NAMES,
    seed=0,
    image_size=32,
    adapter=None,
    backbone="vit_nano",
    **changes,
):
    """A run's folder with random weights, none of them as they start; returns the folder."""
    from medsam_adapt.methods import DecoderLoRA

    adapter = adapter or DecoderLoRA(rank=2)
    segmenter = build_segmenter(
        backbone, image_size, len(names), adapter, prompt, "random", overlapping=overlapping, seed=seed
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in segmenter.named_parameters():
            scale = 0.3 if "output_hypernetworks" in name else 0.02  # or all voxels would be of one class
            parameter += scale * torch.randn_like(parameter)
    (folder / "models").mkdir(parents=True)
    torch.save(segmenter.state_dict(), folder / "models" / "model.pt")
    record = RunRecord(
        bundle="blosam",
        versions=versions(),
        dataset_dir="data",
        layout="folder",
        class_names=list(names),
        label_ids=changes.pop("label_ids", list(range(1, len(names) + 1))),
        absent=[],
        train=["a"],
        held_out=[],
        halves="patients",
        backbone=backbone,
        image_size=image_size,
        axis="axial",
        channels="repeat",
        prompt=prompt,
        overlapping=overlapping,
        policy=IntensityPolicy(kind="window", low=-160, high=240, modality="CT"),
        adapter=AdapterRecord(
            name=f"{type(adapter).__module__}.{type(adapter).__qualname__}", settings=adapter.settings()
        ),
        learn_prompt=False,
        tune_encoder=False,
        trainable={},
        knobs={"seed": seed, "checkpoint": "random"},
    )
    write_json(folder / "run.json", {**record.model_dump(), **changes})
    return folder


def differing(first, second):
    """Share of the voxels that differ."""
    return float(np.mean(np.asarray(first) != np.asarray(second)))
