"""The network of a run from its record and its weights; nothing of the run's folder is executed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from medsam_adapt.core.errors import InputError
from medsam_adapt.networks.adapter import Adapter
from medsam_adapt.networks.adapter_config import saved_base
from medsam_adapt.networks.build import build_segmenter
from medsam_adapt.networks.image_channels import merge_images
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.runs.record import ADAPTER_FOLDER, AdapterRecord, RunRecord, require_trained
from medsam_adapt.weights.reading import read_weights
from medsam_adapt.weights.store import RANDOM


def load_network(folder: str | Path, record: RunRecord, merge: bool = False) -> Segmenter:
    """The run's network with its weights.

    Args:
        folder: the run's.
        record: what its ``run.json`` holds.
        merge: whether a linear adapter is folded into SAM's weights.

    Raises:
        InputError: no weights, or weights or an adapter that do not fit the record.
    """
    weights = require_trained(folder)
    segmenter = build_network(record, RANDOM)  # the run's own weights replace them
    try:
        segmenter.load_state_dict(read_weights(weights))
    except RuntimeError as error:
        raise InputError(f"{weights}: it does not fit {folder}/run.json. Restore the run folder.") from error
    segmenter.base_sha256 = saved_base(Path(folder) / ADAPTER_FOLDER)  # not of the random weights just replaced
    if merge and segmenter.adapter is not None and segmenter.adapter.mergeable:
        segmenter.adapter.merge(segmenter.sam)
        merge_images(segmenter.sam)
    return segmenter


def build_network(record: RunRecord, checkpoint: str | Path, seed: int = 0) -> Segmenter:
    """The run's network as it was before training.

    Args:
        record: of the run.
        checkpoint: a name of pretrained weights, a file, or ``random``.
        seed: of what the checkpoint does not hold.

    Raises:
        InputError: an adapter that this version does not have, or weights that do not fit.
    """
    return build_segmenter(
        record.backbone,
        record.image_size,
        len(record.class_names),
        build_adapter(record.adapter),
        prompt=record.prompt,
        checkpoint=checkpoint,
        learn_prompt=record.learn_prompt,
        tune_encoder=record.tune_encoder,
        overlapping=record.overlapping,
        seed=seed,
        detail=record.detail,
        input_scaling=record.input_scaling,
        kernels=record.knobs.get("kernels") is not False,
        images=len(record.images),
        coordinates=record.coordinates,
    )


def build_adapter(record: AdapterRecord) -> Adapter:
    """An adapter of this package by name; the record's pattern admits no other module.

    Raises:
        InputError: there is no such adapter, or its settings are not what it takes.
    """
    module, _, name = record.name.rpartition(".")
    kind = getattr(importlib.import_module(module), name, None) if importlib.util.find_spec(module) else None
    if not (isinstance(kind, type) and issubclass(kind, Adapter) and not inspect.isabstract(kind)):
        raise InputError(
            f"{record.name}: this version of medsam-adapt has no such adapter. Train again with train --repeat, or "
            "install the version of the run."
        )
    try:
        settings = _settings_model(kind).model_validate(record.settings)
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(
            f"run.json: its adapter {name} cannot be made ({fault['loc'][0]}: {fault['msg']}). Restore the file."
        ) from error
    return kind(**settings.model_dump())


def _settings_model(kind: type[Adapter]) -> type[BaseModel]:
    """What an adapter's constructor takes, by the types that it declares."""
    types = get_type_hints(kind.__init__)
    fields: dict[str, Any] = {
        name: (types.get(name, Any), ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(kind).parameters.items()
    }
    return create_model(f"{kind.__name__}_settings", __config__=ConfigDict(extra="forbid", strict=True), **fields)
