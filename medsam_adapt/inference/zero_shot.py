"""Pretrained weights as a predictor, without a training: structures are drawn from the prompts that are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medsam_adapt.config import checked_precision
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.versions import versions
from medsam_adapt.data.prompts.file import prompts_in
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.runs.record import AdapterRecord, RunRecord
from medsam_adapt.weights.backbones import get_variant
from medsam_adapt.weights.registry import WEIGHTS, get_weights
from medsam_adapt.weights.store import resolve

if TYPE_CHECKING:  # it imports torch
    from medsam_adapt.inference.predictor import Predictor


def names_weights(run: str | Path) -> bool:
    """Whether what is in the place of a run is the name of pretrained weights, and no folder has that name."""
    return str(run) in WEIGHTS and not Path(run).exists()


def weights_record(
    name: str,
    class_names: Sequence[str],
    label_ids: Sequence[int] | None = None,
    prompt: Literal["box", "points"] = "box",
) -> RunRecord:
    """What a run's record would hold for weights that segment as they are.

    Slices are axial, of the size that the weights were trained with; grey levels are chosen for each volume as
    ``intensity=auto`` chooses them for a data set.

    Args:
        name: of registered weights.
        class_names: the structures that prompts may point at.
        label_ids: of the structures in the masks; 1, 2, … when None.
        prompt: what points at them.

    Raises:
        InputError: unknown weights, or weights that were trained with boxes alone and are to take points.
    """
    weights = get_weights(name)
    if prompt == "points" and weights.boxes_only:
        raise InputError(f"{name}: these weights were trained with boxes and take no points. Give boxes.")
    values: dict[str, Any] = {"backbone": weights.backbone, "processes": 1, "statistics": None}
    return RunRecord(
        bundle=name,
        versions=versions(),
        dataset_dir="",
        layout="",
        class_names=list(class_names),
        label_ids=list(label_ids or range(1, len(class_names) + 1)),
        absent=[],
        train=[],
        held_out=[],
        halves="patients",
        image_size=weights.image_size or get_variant(weights.backbone).pretraining_size,
        axis="axial",
        channels="repeat",
        prompt=prompt,
        policy=IntensityPolicy(kind="auto"),
        input_scaling=weights.input_scaling,
        adapter=AdapterRecord(name="medsam_adapt.networks.adapter.DecoderOnly", settings={}),
        learn_prompt=False,
        tune_encoder=False,
        trainable={},
        knobs={},
        started_from=weights.file_name,
        **values,
    )


def record_for_prompts(name: str, path: Path) -> RunRecord:
    """The record of weights for the structures that a prompts file names, in the order in which it names them.

    A label that is a number is the structure's label id; ids of the others are the smallest that are free.

    Raises:
        InputError: as :func:`weights_record`; a damaged file, or one without any prompt.
    """
    prompts = [prompt for case in prompts_in(path).values() for prompt in case]
    labels = list(dict.fromkeys(str(prompt.label) for prompt in prompts))
    taken = {int(label) for label in labels if label.isdecimal()}
    free = (number for number in range(1, len(labels) + len(taken) + 1) if number not in taken)
    ids = [int(label) if label.isdecimal() else next(free) for label in labels]
    names = [f"structure {label}" if label.isdecimal() else label for label in labels]
    boxes = any(prompt.box is not None for prompt in prompts)
    try:
        record = weights_record(name, names, ids, "box" if boxes else "points")
    except ValueError as error:  # label ids out of range, two structures of one name
        raise InputError(
            f"{path}: its structures cannot be distinguished ({', '.join(labels)}). Rename them."
        ) from error
    if any(prompt.points for prompt in prompts) and get_weights(name).boxes_only:
        raise InputError(f"{path}: {name} was trained with boxes and takes no points. Give boxes alone.")
    return record


def load_weights(
    name: str,
    class_names: Sequence[str] = ("structure",),
    prompt: Literal["box", "points"] = "box",
    device: str = "auto",
    batch_size: int | None = None,
    precision: str = "auto",
) -> Predictor:
    """Registered weights, ready to segment what prompts point at: ``load_weights("lite_medsam", ["liver"])``.

    Args:
        name: of the weights.
        class_names: the structures that prompts may point at; their label ids are 1, 2, ….
        prompt: what points at them, ``box`` or ``points``.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: slices at a time; by the device when None.
        precision: of the image encoder: ``fp32``, ``bf16``, or ``auto`` for bf16 on a GPU and fp32 elsewhere.

    Raises:
        InputError: as :func:`weights_record`; weights that are not on this machine, an unknown device or precision.
    """
    return predictor_of(weights_record(name, class_names, None, prompt), device, batch_size, precision)


def predictor_of(
    record: RunRecord, device: str = "auto", batch_size: int | None = None, precision: str = "auto"
) -> Predictor:
    """The predictor of a record from :func:`weights_record`; other arguments and errors as :func:`load_weights`."""
    wanted = checked_precision(precision)
    path = resolve(record.bundle, record.backbone)

    from medsam_adapt.core.devices import select_device
    from medsam_adapt.inference.predictor import Predictor
    from medsam_adapt.networks.build import build_teacher

    target = select_device(device)
    segmenter = build_teacher(
        record.backbone, record.image_size, path, precision=wanted, input_scaling=record.input_scaling
    )
    return Predictor(record, segmenter.to(target), batch_size)
