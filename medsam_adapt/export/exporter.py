"""Export of a run's network to TorchScript or ONNX; the file is compared with the run before it is kept."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from medsam_adapt.config import PromptMode
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import owner_tag, remove_leftovers, write_json
from medsam_adapt.runs.record import RunRecord, read_run, require_trained
from medsam_adapt.weights.pixel_scaling import get_scaling

if TYPE_CHECKING:  # they import torch
    from torch import Tensor

    from medsam_adapt.export.check import Agreement, Inputs
    from medsam_adapt.export.portable import PortableSegmenter
    from medsam_adapt.networks.segmenter import Segmenter

Format = Literal["torchscript", "onnx"]
SUFFIXES: dict[str, str] = {"torchscript": ".ts", "onnx": ".onnx"}
METADATA_KEY = "medsam_adapt"  # of the description inside an ONNX file

_NEEDED = {"torchscript": (), "onnx": ("onnx", "onnxruntime")}
_OPSET = 17
_LARGEST_FILE = 1_900_000_000  # bytes: an ONNX file is one protocol buffer, which ends at 2 GiB
_PROMPTS: dict[PromptMode, str] = {"box": "boxes", "points": "points"}


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the run.

    Attributes:
        path: the model.
        description: the JSON beside it.
        agreement: with the run's network.
    """

    path: Path
    description: Path
    agreement: Agreement


def export_run(folder: Path, to: str, output: Path | None = None, overwrite: bool = False) -> Exported:
    """Write a run's network, adapters merged where that is exact, and check what was written.

    Args:
        folder: of the run.
        to: ``torchscript`` or ``onnx``.
        output: the file; RUN/models/model.ts or model.onnx when None.
        overwrite: whether a file that is there is replaced.

    Raises:
        InputError: no finished run, an unknown format, a library that is missing, or a file that cannot be written.
        RunError: what was written does not compute what the run does; nothing is left of it.
    """
    record = read_run(folder)
    require_trained(folder)
    output = _checked_output(folder, to, output, overwrite)

    from medsam_adapt.export.check import compare
    from medsam_adapt.export.portable import PortableSegmenter
    from medsam_adapt.inference.predictor import load_run

    merged, plain = (load_run(folder, "cpu", merge=merge).segmenter for merge in (True, False))
    absent = _absent_channels(record, plain)
    network, reference = PortableSegmenter(merged, absent), PortableSegmenter(plain, absent)
    content = describe(record, plain)
    with _workplace(output) as place:
        path = place / output.name
        if to == "onnx":
            write_onnx(network, path, record.prompt, content)
        else:
            write_torchscript(network, path, record.prompt, content)
        agreement = compare(load_exported(path), lambda inputs: _run(reference, inputs), record)
        write_json(description_of(path), content)
        _move(place, output)
    return Exported(output, description_of(output), agreement)


def describe(record: RunRecord, segmenter: Segmenter) -> dict[str, Any]:
    """Description needed to use an exported run, without any information about the patients."""
    names = ["structure"] if segmenter.head == "structure" else record.class_names
    background = ["background"] if segmenter.head == "exclusive" else []
    merged = segmenter.adapter is not None and segmenter.adapter.mergeable
    return {
        "format": 1,
        "medsam_adapt": metadata.version("medsam-adapt"),
        "bundle": record.bundle,
        "backbone": record.backbone,
        "adapter": record.adapter.model_dump(),
        "adapter_merged": merged,
        "class_names": record.class_names,
        "label_ids": record.label_ids,
        "absent_classes": record.absent,
        "head": segmenter.head,
        "output_channels": [*background, *names],
        "prompt": record.prompt,
        "inputs": ["image", *_prompt_name(record.prompt)],
        "image_size": record.image_size,
        "axis": record.axis,
        "three_planes": record.three_planes,
        "slice_size": record.slice_size,
        "slice_sigma": record.slice_sigma,
        "channels": record.channels,
        "images": record.images,
        "image_channels": record.network_channels,
        "intensity_policy": record.policy.model_dump(),
        "input_scaling": record.input_scaling,
        "stretch_slices": get_scaling(record.input_scaling).stretched,
        "padding": list(get_scaling(record.input_scaling).mean),
    }


def write_torchscript(network: PortableSegmenter, path: Path, prompt: PromptMode, content: dict[str, Any]) -> None:
    """Record the network with the description inside, as MONAI's ``load_net_with_metadata`` reads it."""
    import torch
    from monai.data import save_net_with_metadata

    from medsam_adapt.export.check import random_inputs

    with _quietly(), torch.no_grad():
        inputs = random_inputs(network.image_size, prompt, batch=2, channels=network.image_channels)
        recorded = torch.jit.trace(network, example_kwarg_inputs=inputs, check_trace=False)
        save_net_with_metadata(recorded, str(path), include_config_vals=False, meta_values=content)


def write_onnx(network: PortableSegmenter, path: Path, prompt: PromptMode, content: dict[str, Any]) -> None:
    """Record the network with the description among the file's metadata; weights of over 2 GB go to a file beside."""
    import onnx
    import torch

    from medsam_adapt.export.check import random_inputs

    inputs = random_inputs(network.image_size, prompt, batch=2, channels=network.image_channels)
    free = {name: {0: "batch"} for name in (*inputs, "logits")}
    if "points" in free:
        free["points"][1] = "points"
    # torch writes each tensor of a large model to a separate file; they are merged into one below.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quietly(), torch.no_grad():
        recorded = Path(folder) / path.name
        shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        image = inputs.pop("image")
        # torch's newer exporter takes ten times longer for the same graph, and its interface moves between releases.
        torch.onnx.export(
            network,
            (image, inputs) if inputs else (image,),
            str(recorded),
            input_names=["image", *inputs],
            output_names=["logits"],
            dynamic_axes=free,
            opset_version=_OPSET,
            dynamo=False,
        )
        model = onnx.load(recorded)
        shapes["logits"] = tuple(network(image, **inputs).shape)
    _fix_axes(model, shapes, free)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(content)})
    large = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values()) > _LARGEST_FILE
    onnx.save_model(model, path, save_as_external_data=large, location=weights_of(path).name if large else None)


def _fix_axes(model: Any, shapes: Mapping[str, Sequence[int]], free: Mapping[str, Mapping[int, str]]) -> None:
    """Give every axis of the inputs and outputs that is not free its length, which torch leaves as a made-up name."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, length in enumerate(value.type.tensor_type.shape.dim):
            if axis not in free[value.name]:
                length.dim_value = shapes[value.name][axis]  # replaces the name


def load_exported(path: Path) -> Any:
    """What was written, as a function of inputs by name -> logits (B, C', S, S)."""
    import torch

    if path.suffix == SUFFIXES["torchscript"]:
        with _quietly():
            recorded = torch.jit.load(path, map_location="cpu")
        return lambda inputs: _run(recorded, inputs)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(
        session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
    )


def description_of(path: Path) -> Path:
    """The JSON beside an exported model."""
    return path.with_name(f"{path.name}.json")


def weights_of(path: Path) -> Path:
    """Where an ONNX file that is too large keeps its weights."""
    return path.with_name(f"{path.name}.data")


def _checked_output(folder: Path, to: str, output: Path | None, overwrite: bool) -> Path:
    if to not in get_args(Format):
        raise InputError(f"--to {to}: there is no such format. Use {' or '.join(get_args(Format))}.")
    missing = [name for name in _NEEDED[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--to {to}: it needs {' and '.join(missing)}. Run pip install 'medsam-adapt[export]'.")
    output = output or folder / "models" / f"model{SUFFIXES[to]}"
    if output.is_dir():
        raise InputError(f"{output}: it is a folder. Give a file name, such as {output / ('model' + SUFFIXES[to])}.")
    if output.suffix != SUFFIXES[to]:
        raise InputError(f"{output}: its name does not end in {SUFFIXES[to]}. Rename it.")
    existing = next((path for path in (output, description_of(output)) if path.exists()), None)
    if existing is not None and not overwrite:
        raise InputError(f"{existing}: it already exists. Choose another --output, or add --overwrite.")
    parent = next(each for each in output.resolve().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{parent}: it is not writable. Choose another --output.")
    return output


@contextmanager
def _workplace(output: Path) -> Iterator[Path]:
    """A temporary folder beside ``output``; the name of a file of weights stands inside an ONNX file, so keep names."""
    remove_leftovers(output)
    place = output.with_name(f".{owner_tag()}.{output.name}")
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _move(place: Path, output: Path) -> None:
    """Everything from the temporary folder to its place, the model last."""
    weights_of(output).unlink(missing_ok=True)  # of an earlier export, which may have been larger
    for path in sorted(place.iterdir(), key=lambda path: path.name == output.name):
        path.replace(output.with_name(path.name))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings: that a recording fixes the size of the image, which is meant, and that torch has newer ways."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _absent_channels(record: RunRecord, segmenter: Segmenter) -> list[int]:
    """Channels of the classes that no training label held; a prompted network has no channel for each class."""
    if segmenter.head == "structure":
        return []
    return [number - int(segmenter.head == "overlapping") for number in record.absent_classes]


def _prompt_name(prompt: PromptMode) -> list[str]:
    return [_PROMPTS[prompt]] if prompt in _PROMPTS else []


def _run(network: Any, inputs: Inputs) -> Tensor:
    import torch

    with torch.no_grad():
        return network(**inputs)
