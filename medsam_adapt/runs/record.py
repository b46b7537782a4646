"""A run's folder: what it holds, and the record that is read back, validated, and never executed.

RUN/run.json                what was trained on what; this file decides how the run is loaded
    splits.json             which cases were held out
    statistics.json         volumes and grey levels of the classes in the training cases
    configs/, docs/, …      the bundle with this run's settings, for MONAI
    models/model.pt         all weights
    models/adapter/         the trained tensors alone
    state.pt                the training state, to resume from (not in models/, whose files MONAI Label serves)
    state.previous.pt       the one before it, should that be damaged
    training.json           what the training cost
    logs/                   TensorBoard
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medsam_adapt.bundle.contents import complete_configs, write_bundle
from medsam_adapt.bundle.untrusted import is_untrusted, origin_sha256
from medsam_adapt.config import Backbone, refuse_code
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import read_record, write_json
from medsam_adapt.core.literals import literal
from medsam_adapt.core.versions import newer_error
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.runs.statistics import STATISTICS_FILE, TrainingStatistics

RUN_FILE, SPLIT_FILE = "run.json", "splits.json"
COST_FILE = "training.json"
MODEL_FILE, ADAPTER_FOLDER, STATE_FILE, LOG_FOLDER = "models/model.pt", "models/adapter", "state.pt", "logs"
PREVIOUS_STATE_FILE = "state.previous.pt"

Folder = TypeVar("Folder", bound=str | Path)

_SAME_TASK = {  # what runs that segment together have in common, in words
    "class_names": "classes",
    "label_ids": "label ids",
    "overlapping": "overlap of classes",
    "axis": "slicing direction",
    "prompt": "prompt",
    "images": "images of a case",
}


class AdapterRecord(BaseModel):
    """An adapter of this package by its dotted class name, and its settings."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^medsam_adapt\.(networks|methods)\.\w+\.\w+$")
    settings: dict[str, int | float | str | bool | None]

    @classmethod
    def of(cls, name: str, settings: dict[str, Any]) -> AdapterRecord:
        """The record of an adapter.

        Raises:
            InputError: one that is not of this package, which no run could be loaded with.
        """
        try:
            return cls(name=name, settings=settings)
        except ValidationError as error:
            raise InputError(
                f"{name}: this adapter is not one of this package, so nobody could load the run. Put its class into a "
                "module of medsam_adapt.networks or medsam_adapt.methods, with plain settings."
            ) from error


class CostRecord(BaseModel):
    """What ``training.json`` holds (see `medsam_adapt.runs.cost`), as far as it is read."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    seconds: float | None = Field(None, ge=0, le=1e12)
    peak_memory_bytes: int | None = Field(None, ge=0, lt=1 << 60)
    epochs: int | None = None
    finished: bool = True
    device: str = "not recorded"
    memory: str = "process"


class RunRecord(SlicingSpec):
    """What ``run.json`` holds: enough to build the network, slice a volume as in training, and repeat the run."""

    model_config = ConfigDict(extra="forbid", frozen=False)

    format: Literal[1] = 1
    bundle: str = Field(pattern=r"^\w+$")
    bundle_sha256: str | None = None  # of the train.json of a bundle that is not shipped
    versions: dict[str, str]
    dataset_dir: str  # empty in a run that was pulled
    layout: str
    train: list[str]
    held_out: list[str]
    halves: Literal["patients", "slices"]
    backbone: Backbone
    image_size: int = Field(ge=16, le=4096, multiple_of=16)
    adapter: AdapterRecord
    learn_prompt: bool
    tune_encoder: bool
    detail: int = Field(0, ge=0, le=256, multiple_of=8)  # channels of the detail branch; 0 is none
    trainable: dict[str, int]
    knobs: dict[str, Any]
    trained_before: list[str] = Field([])  # cases that the weights saw before this run, and are not among its cases
    held_out_before: list[str] = Field([])  # cases that an earlier run held out, and are not among its cases
    unlabelled: list[str] = Field([])  # scans without labels that were learned from
    started_from: str = "not recorded"  # the file of the weights, "random", or "run" for those of knobs.from_run
    processes: int = Field(1, ge=1)  # that trained together, each on separate batches
    statistics: TrainingStatistics | None = Field(None, exclude=True)  # of a run about to start; in a separate file

    @property
    def ever_trained(self) -> set[str]:
        """Ids of all cases that the weights have seen, in this run or in those that it continues."""
        return {*self.train, *self.trained_before}

    @property
    def ever_held_out(self) -> set[str]:
        """Ids of all cases that this run, or one that it continues, held out."""
        return {*self.held_out, *self.held_out_before}

    def config_values(self) -> dict[str, Any]:
        """Values of the ``knobs``, ``settings`` and ``slicing`` of the bundle's configs, by name."""
        return {
            **self.knobs,
            **self.slicing.model_dump(),
            "layout": self.layout,
            "cases": (self.held_out or self.train) if self.dataset_dir else None,
            "image_size": self.image_size,
            "detail": self.detail,
            "tune_encoder": self.tune_encoder,
        }

    @property
    def may_lack_images(self) -> bool:
        """Whether training left out images of a case at random, so that prediction may lack one."""
        return bool(self.images) and bool(self.knobs.get("channel_dropout"))


def read_run(folder: str | Path) -> RunRecord:
    """The record of a run's folder.

    Raises:
        InputError: no such folder, no ``run.json``, one that is damaged or holds what MONAI would take for code, or a
            run of a newer version with a bundle, a setting or an adapter that this one does not have.
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise InputError(
            f"{folder}: it is not a run, since it has no {RUN_FILE}. Give the folder that train --output made."
        )
    record = read_record(path, RunRecord, "Restore it or train again.")
    refuse_code(record.model_dump(), str(path))
    if (newer := newer_error(path, record.model_dump())) is not None and not _is_known(record):
        raise newer
    return record


def _is_known(record: RunRecord) -> bool:
    """Whether this version has the run's bundle with all its settings, and its adapter's module."""
    from medsam_adapt.bundle.contents import bundle_names
    from medsam_adapt.bundle.settings import knobs_model

    module = record.adapter.name.rpartition(".")[0]
    if record.bundle not in bundle_names() or importlib.util.find_spec(module) is None:
        return False
    return {*record.knobs} <= {*knobs_model(record.bundle).model_fields}


def data_of(record: RunRecord, run: str | Path) -> Path:
    """The folder of the data set that a run was trained on.

    Raises:
        InputError: the run was pulled and does not contain it.
    """
    if not record.dataset_dir:
        raise InputError(f"{run}: it was pulled, without the folder of its data. Give --data FOLDER.")
    return Path(record.dataset_dir)


def same_origin(record: RunRecord, bundle: str | None, run: str | Path) -> str:
    """The bundle to train by as a run was: the shipped one, or the same untrusted one, which must be given again.

    Args:
        record: of the run.
        bundle: what the user gave as ``--bundle``.
        run: for the sentence.

    Raises:
        InputError: the run is of a bundle that is not shipped, and that was not given.
    """
    if record.bundle_sha256 is None:
        return record.bundle
    given = origin_sha256(Path(bundle), record.bundle) if bundle is not None and is_untrusted(bundle) else None
    if bundle is not None and given == record.bundle_sha256:
        return bundle
    raise InputError(
        f"{run}: it was trained by a bundle that is not shipped. Give the same again, as --bundle FOLDER "
        "--trust-bundle."
    )


def read_cost(folder: str | Path) -> CostRecord | None:
    """What a run's training cost; None where that was not recorded.

    Raises:
        InputError: a damaged file.
    """
    path = Path(folder) / COST_FILE
    return read_record(path, CostRecord, "Restore it, or remove it to do without.") if path.is_file() else None


def read_runs(folders: Sequence[Folder]) -> dict[Folder, RunRecord]:
    """The records of runs that segment together, by folder.

    Raises:
        InputError: as `read_run` and `require_trained`; a run given twice, or runs that differ in their classes, in
            what their classes may do, in their slicing direction or in their prompts.
    """
    records: dict[Folder, RunRecord] = {}
    for folder in folders:
        if any(Path(folder).resolve() == Path(other).resolve() for other in records):
            raise InputError(f"{folder}: it is given twice. Name each run once.")
        records[folder] = read_run(folder)
        require_trained(folder)
    first, *others = records.items()
    for folder, record in others:
        for name, label in _SAME_TASK.items():
            if name == "axis" and record.prompt == first[1].prompt == "none":
                continue  # the planes are fused in the volume's own voxels
            ours, theirs = getattr(first[1], name), getattr(record, name)
            if ours != theirs:
                raise InputError(
                    f"{folder}: it cannot segment together with {first[0]}, since their {label} differ ({theirs} and "
                    f"{ours}). Give runs that were trained for the same."
                )
    return records


def require_trained(folder: str | Path) -> Path:
    """Path of a run's weights.

    Raises:
        InputError: when the run has none yet.
    """
    path = Path(folder) / MODEL_FILE
    if not path.is_file():
        raise InputError(f"{folder}: it holds no trained weights ({MODEL_FILE}). Finish it with train --resume.")
    return path


def write_run(folder: Path, record: RunRecord, bundle_root: Path) -> None:
    """Make a run's folder a bundle: the configs of ``bundle_root`` with this run's values, and the record.

    Raises:
        InputError: for a class name or another value that MONAI would take for code; nothing is written then.
    """
    refuse_code(record.model_dump(), "run")
    folder.mkdir(parents=True, exist_ok=True)
    if bundle_root.resolve() != folder.resolve():
        record = record.model_copy(update={"bundle_sha256": origin_sha256(bundle_root, record.bundle)})
    configs = complete_configs(bundle_root, record.config_values(), record.knobs)
    _describe_output(configs["metadata"], record)
    for name in ("train", "evaluate"):
        configs[name]["dataset_dir"] = literal(record.dataset_dir) or configs[name]["dataset_dir"]
    write_bundle(bundle_root, folder, configs)
    write_json(folder / SPLIT_FILE, {"seed": record.knobs["seed"], "train": record.train, "held_out": record.held_out})
    if record.statistics is not None:
        write_json(folder / STATISTICS_FILE, record.statistics.model_dump())
    write_json(folder / RUN_FILE, record.model_dump())


def _describe_output(metadata: dict[str, Any], record: RunRecord) -> None:
    names = record.class_names if record.overlapping else ["background", *record.class_names]
    output = metadata["network_data_format"]["outputs"]["pred"]
    output["num_channels"] = len(names)
    if record.images:
        channels = {str(index): name for index, name in enumerate(record.network_channels)}
        metadata["network_data_format"]["inputs"]["image"].update(num_channels=len(channels), channel_def=channels)
    output["channel_def"] = {str(index): name for index, name in enumerate(names)}
