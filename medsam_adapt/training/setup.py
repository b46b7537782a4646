"""What a training is made of, by its settings: network, batches, compiled step, and the record of the run."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import monai.utils
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medsam_adapt.config import PATH_SETTINGS, Knobs, Precision
from medsam_adapt.core.distributed import world_size
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import as_typed
from medsam_adapt.core.versions import versions
from medsam_adapt.data.slices.sampling import SliceDataset, slice_loader
from medsam_adapt.data.slices.training_data import TrainingData
from medsam_adapt.feature_cache.frozen_work import FrozenWork
from medsam_adapt.networks.adapter import Adapter
from medsam_adapt.networks.build import build_segmenter
from medsam_adapt.networks.parameters import count_trainable
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.runs.record import (
    AdapterRecord,
    RunRecord,
    read_run,
)
from medsam_adapt.runs.statistics import training_statistics
from medsam_adapt.training.run_handler import RunHandler as RunHandler  # found here too
from medsam_adapt.training.run_handler import load_start as load_start
from medsam_adapt.training.run_handler import log_validations as log_validations
from medsam_adapt.weights.store import RANDOM, resolve

_PROMPT_KEYS = ("boxes", "points")


def initialize(knobs: Knobs) -> None:
    """Seed all random numbers, and print MONAI's log lines where nobody has set up or silenced logging.

    Raises:
        InputError: a path that MONAI's parser changed, before anything is read or written.
    """
    for name in PATH_SETTINGS:
        if (path := getattr(knobs, name)) is not None:
            setattr(knobs, name, as_typed(path, name))
    monai.utils.set_determinism(knobs.seed)
    if logging.root.manager.disable < logging.INFO:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


def data_of(root: str | Path, knobs: Knobs) -> TrainingData:
    """The training data below ``root``; a run to start from gives its label map and intensities.

    Raises:
        InputError: as :class:`TrainingData` and :func:`read_run`.
    """
    return TrainingData.of(root, knobs, read_run(knobs.from_run) if knobs.from_run else None)


def network_of(data: TrainingData, knobs: Knobs, adapter: Adapter, learn_prompt: bool = False) -> Segmenter:
    """The network for the data and the settings of a run.

    Args:
        data: the training data: its classes and the size of its slices.
        knobs: the settings of the run.
        adapter: what is added to SAM and trained.
        learn_prompt: also train the dense prompt embedding (BLO-SAM).
    """
    return build_segmenter(
        knobs.backbone,
        data.image_size,
        len(data.class_names),
        adapter,
        prompt=knobs.prompt,
        checkpoint=knobs.checkpoint,
        learn_prompt=learn_prompt,
        tune_encoder=knobs.tune_encoder,
        overlapping=data.overlapping,
        seed=knobs.seed,
        precision=_precision(knobs),
        low_memory=knobs.low_memory,
        slices_at_once=knobs.slices_at_once,
        detail=knobs.detail,
        input_scaling=data.input_scaling,
        kernels=knobs.kernels,
        images=len(data.cases.images),
        coordinates=data.coordinates,
    )


def _precision(knobs: Knobs) -> Precision:
    """That of the settings; ``auto`` with a detail branch, whose work is nearly all of a step, is bf16 on AMX too."""
    in_bf16 = knobs.precision == "auto" and knobs.detail > 0 and torch.cpu._is_amx_tile_supported()
    return "bf16" if in_bf16 else knobs.precision


def loader_of(dataset: SliceDataset, knobs: Knobs, seed: int | None = None) -> DataLoader:
    """Batches of training slices by the settings, with another ``seed`` than theirs if it is given."""
    seed = knobs.seed if seed is None else seed
    return slice_loader(
        dataset,
        knobs.batch_size,
        seed,
        knobs.num_workers,
        min_steps=knobs.min_steps,
        max_steps=knobs.max_steps,
    )


def compiles(knobs: Knobs, device: torch.device) -> bool:
    """Whether the training step is to be compiled, by the settings.

    Raises:
        InputError: it is, and what compiles for this device is not on this machine.
    """
    if not knobs.compile:
        return False
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise InputError(
            "compile=true: it needs a C++ compiler on a CPU, and none was found. Install g++, or leave it out."
        )
    if device.type == "cuda" and find_spec("triton") is None:
        raise InputError("compile=true: it needs the package triton on a GPU. Install it, or leave it out.")
    return True


class PrepareSlices:
    """Batch -> (image, label, (), keyword arguments of the segmenter), on the device.

    Args:
        low_res: whether the network shall return the mask decoder's own, small logits.
        frozen: where features of the slices may be kept; the image is None where they replace it.
    """

    def __init__(self, low_res: bool = False, frozen: FrozenWork | None = None) -> None:
        self.low_res = low_res
        self.frozen = frozen

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor | None, Tensor, tuple, dict[str, Any]]:
        moved = {
            key: batch[key].to(device=device, non_blocking=non_blocking, **kwargs)
            for key in ("image", "label", *_PROMPT_KEYS)
            if key in batch
        }
        given: dict[str, Any] = {key: moved[key] for key in _PROMPT_KEYS if key in moved}
        if self.frozen is not None and self.frozen.views is not None:
            given |= self.frozen.of_batch(batch)
        return moved.get("image"), moved["label"], (), {**given, "low_res": self.low_res}


def prepare_volume(
    batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor, tuple, dict[str, Any]]:
    """A batch of one volume; its label goes along as the reference from which prompted runs take their prompts.

    With the label goes the table of its parts, where classes may overlap. Volumes stay where they are, whatever the
    device: the inferer takes slices to it, and scores are computed from what is in the processor's memory.
    """
    table = {"table": batch["table"]} if "table" in batch else {}
    return batch["image"], batch["label"], (), {"reference": batch["label"], **table}


def record_of(data: TrainingData, segmenter: Segmenter, knobs: Knobs, *beside: nn.Module) -> RunRecord:
    """The record of a run that is about to start, with what is trained ``beside`` the network.

    Raises:
        InputError: the network expects another input scaling than the data has.
    """
    adapter = segmenter.adapter
    assert adapter is not None, "build_segmenter attached one"
    assert knobs.backbone != "auto", "TrainingData.of chose one"
    if segmenter.input_scaling != data.input_scaling:
        raise InputError(
            f"input_scaling: the slices are scaled as {data.input_scaling} but the network expects "
            f"{segmenter.input_scaling}. Give build_segmenter the same input_scaling in the bundle's train.json."
        )
    split, earlier = data.split, data.earlier
    trained, held_out = (earlier.ever_trained, earlier.ever_held_out) if earlier else (set(), set())
    return RunRecord(
        **dict(data.slicing),
        bundle=type(knobs).__name__.removesuffix("_knobs"),
        versions=versions(),
        dataset_dir=str(Path(data.cases.root).resolve()),
        layout=data.cases.layout,
        train=list(split.train),
        held_out=list(split.held_out),
        trained_before=sorted(trained - {*split.train}),
        held_out_before=sorted(held_out - {*split.train, *split.held_out}),
        unlabelled=[case.id for case in data.unlabelled.scans.cases] if data.unlabelled else [],
        halves=data.split_by,
        backbone=knobs.backbone,
        image_size=data.image_size,
        adapter=AdapterRecord.of(f"{type(adapter).__module__}.{type(adapter).__qualname__}", adapter.settings()),
        learn_prompt=segmenter.sam.prompt_encoder.no_mask_embed.weight.requires_grad,
        tune_encoder=segmenter.tuned_encoder,
        detail=knobs.detail,
        trainable=count_trainable(segmenter, *beside),
        knobs=knobs.model_dump(),
        started_from=_started_from(knobs),
        processes=world_size(),
        statistics=training_statistics(data),
    )


def _started_from(knobs: Knobs) -> str:
    """The weights behind ``knobs.checkpoint``, where None may be those that ship with the package."""
    if knobs.from_run:
        return "run"
    start = resolve(knobs.checkpoint, knobs.backbone)
    return RANDOM if start is None else start.name
