"""A trained run as a function: ``predictor = load_run("runs/liver"); mask = predictor(image, affine)``."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from medsam_adapt.data.io import from_ras, to_ras
from medsam_adapt.engine import select_device
from medsam_adapt.errors import InputError
from medsam_adapt.inference import SlicewiseInferer
from medsam_adapt.networks.adapter import Adapter, saved_base
from medsam_adapt.networks.build import build_segmenter
from medsam_adapt.networks.checkpoints import read_weights
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.runs import ADAPTER_FOLDER, AdapterRecord, RunRecord, read_run, require_trained
from medsam_adapt.weights.store import RANDOM


class Predictor:
    """Segments volumes as the run was trained to.

    Attributes:
        record: what was trained on what; ``record.class_names[i - 1]`` is the name of class i of a mask.
        segmenter: the network, in evaluation mode.

    Args:
        record: of the run.
        segmenter: with the run's weights.
        batch_size: slices at a time.
    """

    def __init__(self, record: RunRecord, segmenter: Segmenter, batch_size: int = 8) -> None:
        self.record = record
        self.segmenter = segmenter.eval()
        self.inferer = SlicewiseInferer(
            record.axis,
            record.channels,
            record.prompt,
            len(record.class_names),
            record.absent_classes,
            batch_size,
        )

    def __call__(self, image: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Segment a volume.

        Args:
            image: (X, Y, Z) in the scanner's units (Hounsfield for CT), in any orientation.
            affine: (4, 4) from voxels to mm, as in NIfTI (RAS+).

        Returns:
            label ids as in the training files, (X, Y, Z) uint8 or uint16, in the image's own voxels.

        Raises:
            InputError: for a run that needs prompts.
        """
        volume, affine_ras = to_ras(image, affine)
        grey = torch.from_numpy(np.ascontiguousarray(self.record.policy.apply(volume)))[None, None]
        device = self.segmenter.sam.pixel_mean.device
        classes = self.inferer(MetaTensor(grey.to(device), affine=torch.from_numpy(affine_ras)), self.segmenter)
        ids = np.array([0, *self.record.label_ids], dtype=np.uint16 if max(self.record.label_ids) > 255 else np.uint8)
        return from_ras(ids[classes[0, 0].cpu().numpy()], affine)


def load_run(folder: str | Path, device: str = "auto", batch_size: int = 8) -> Predictor:
    """A trained run, ready to segment; reads ``run.json`` and weights, and executes nothing of the folder.

    Args:
        folder: the run's.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: slices at a time.

    Raises:
        InputError: no such run, a damaged one, one that was not finished, or an unknown device.
    """
    record = read_run(folder)
    weights = require_trained(folder)
    target = select_device(device)
    segmenter = build_segmenter(
        record.backbone,
        record.image_size,
        len(record.class_names),
        _adapter(record.adapter),
        prompt=record.prompt,
        checkpoint=RANDOM,  # the run's own weights replace them
        learn_prompt=record.learn_prompt,
        tune_encoder=record.tune_encoder,
        overlapping=record.overlapping,
    )
    try:
        segmenter.load_state_dict(read_weights(weights))
    except RuntimeError as error:
        raise InputError(f"{weights} does not fit {folder}/run.json: restore the run's folder.") from error
    segmenter.base_sha256 = saved_base(Path(folder) / ADAPTER_FOLDER)  # not of the random weights just replaced
    return Predictor(record, segmenter.to(target), batch_size)


def _adapter(record: AdapterRecord) -> Adapter:
    """An adapter of this package by name; the record's pattern admits no other module."""
    module, _, name = record.name.rpartition(".")
    kind = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Adapter)):
        raise InputError(f"{record.name} is no adapter of this version of medsam-adapt: install the run's version.")
    return kind(**record.settings)
