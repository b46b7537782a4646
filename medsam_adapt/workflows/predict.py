"""Segment volumes with a run, with several as an ensemble, or with pretrained weights and prompts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from medsam_adapt.config import checked_precision
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.parts import parse_part, part_of_environment
from medsam_adapt.inference.zero_shot import names_weights, record_for_prompts
from medsam_adapt.prediction.json_report import recorded_cases
from medsam_adapt.prediction.plan import Outputs, plan_cases
from medsam_adapt.prediction.prompt_sources import PromptOptions
from medsam_adapt.runs.record import RunRecord, read_runs
from medsam_adapt.weights.registry import get_weights
from medsam_adapt.weights.store import resolve
from medsam_adapt.workflows.arguments import PathLike, path_or_none, paths
from medsam_adapt.workflows.prediction_run import PredictionOptions, segment_cases
from medsam_adapt.workflows.processes import count_processes
from medsam_adapt.workflows.reporter import SILENT, Reporter


def predict(
    runs: PathLike | Iterable[PathLike],
    input: PathLike,
    output: PathLike,
    *,
    layout: str = "auto",
    series: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    fail_fast: bool = False,
    part: str | None = None,
    gpus: int | None = None,
    cluster: str | None = None,
    flips: bool = False,
    format: str = "nifti",
    per_class: bool = False,
    itk_snap: bool = False,
    probabilities: bool = False,
    uncertainty: bool = False,
    report: PathLike | None = None,
    keep_identifiers: bool = False,
    prompts: PathLike | None = None,
    prompts_from_run: PathLike | None = None,
    prompts_from: PathLike | None = None,
    propagate: bool = False,
    largest_component: bool = False,
    fill_holes: bool = False,
    no_clean_up: bool = False,
    min_volume: float = 0.0,
    reporter: Reporter = SILENT,
) -> list[Path]:
    """Segment every volume of ``input``, as ``medsam-adapt predict`` does; each argument is the option of its name.

    Args:
        runs: folder of a finished run, or several as an ensemble; or a name from ``medsam-adapt weights list``.
        input: a volume, a DICOM folder, a zip, a folder of volumes, or a data set.
        output: folder of the masks.
        layout: of a data set on disk; recognised when ``auto``.
        series: number, UID or description of a DICOM series, where a folder has several.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: fp32, bf16, or auto: bf16 on a GPU, else fp32.
        batch_size: slices at a time; None chooses by the device's memory.
        overwrite: replace masks that exist.
        skip_existing: skip volumes whose outputs all exist.
        fail_fast: stop at the first volume that cannot be read.
        part: ``K/N`` for part K of N of the volumes; None takes it from torchrun or SLURM, else all.
        gpus: processes of this machine, one for each GPU; with the device cpu, on the CPU.
        cluster: address of a Dask scheduler, or ``local:N`` for N workers of this machine.
        flips: average over mirrored slices too.
        format: of the masks, such as ``nifti`` or ``dicom-seg``.
        per_class: write one folder per volume, one file per class.
        itk_snap: write names and colours for ITK-SNAP.
        probabilities: write a map (0 to 1) for each class.
        uncertainty: write a map of the entropy, 0 to 1.
        report: file of the JSON report: volumes in ml, and flags for review.
        keep_identifiers: write complete input paths to the report.
        prompts: JSON file of boxes and points.
        prompts_from_run: a run without prompts that proposes what this one refines.
        prompts_from: labels that prompts are taken from, for evaluation.
        propagate: follow ``prompts`` to neighbouring slices.
        largest_component: keep the largest piece of each class.
        fill_holes: fill enclosed background.
        no_clean_up: leave out the clean-up that the run's training chose.
        min_volume: remove pieces smaller than this many ml.
        reporter: receives notes and progress.

    Returns:
        The masks written, each a file or a folder.

    Raises:
        InputError: anything wrong that shows before the model is loaded; after all other volumes are done, those that
            could not be read, or with ``fail_fast`` the first one of them at once.
    """
    options = PredictionOptions(
        device=device,
        precision=precision,
        batch_size=batch_size,
        fail_fast=fail_fast,
        flips=flips,
        outputs=Outputs(format, per_class, itk_snap, probabilities, uncertainty),
        report=path_or_none(report),
        keep_identifiers=keep_identifiers,
        prompts=PromptOptions(
            path_or_none(prompts), path_or_none(prompts_from_run), path_or_none(prompts_from), propagate
        ),
        cleaning={"largest_component": largest_component, "fill_holes": fill_holes, "min_volume_ml": min_volume},
        clean_up=not no_clean_up,
        gpus=_processes(gpus, device, cluster),
        cluster=cluster,
    )
    volumes = _Volumes(Path(input), layout, series, part, overwrite, skip_existing)
    return _segment(paths(runs), volumes, Path(output), options, reporter)


@dataclass(frozen=True)
class _Volumes:
    """Which volumes are segmented; as the arguments of their names."""

    source: Path
    layout: str
    series: str | None
    part: str | None
    overwrite: bool
    skip_existing: bool


def _segment(
    folders: list[Path], volumes: _Volumes, output: Path, options: PredictionOptions, reporter: Reporter
) -> list[Path]:
    """Check all that can be checked without a network, then segment; the masks written."""
    source = volumes.source
    share = part_of_environment() if volumes.part is None else parse_part(volumes.part)
    if options.cluster is not None and not options.cluster.startswith("local") and source.suffix.lower() == ".zip":
        raise InputError(f"{source}: the workers of --cluster do not see what is in it. Unpack it on the shared disk.")
    records = _weights_of(folders, options.prompts) or read_runs(folders)
    record = records[folders[0]]
    _check(options, record, folders[0], volumes.overwrite and volumes.skip_existing)
    if share is not None:
        options = options.of_part(share)
    outputs = options.outputs.checked(record.overlapping, record.class_names, bool(record.painted))
    with _content_of(source) as found:
        recorded = None if options.report is None else recorded_cases(options.report)
        plan = plan_cases(
            found,
            output,
            outputs,
            volumes.overwrite,
            volumes.skip_existing,
            volumes.series,
            record,
            volumes.layout,
            options.fail_fast,
            share,
            recorded,
        )
        archive = source if found != source else None
        return segment_cases(plan, output, archive, records, replace(options, outputs=outputs), reporter)


def _processes(gpus: int | None, device: str, cluster: str | None) -> int:
    """How many processes of this machine segment.

    Raises:
        InputError: a cluster too, one device for all, or more than the machine has.
    """
    if gpus is None or gpus == 1:
        return 1
    if cluster is not None:
        raise InputError("--cluster: it excludes --gpus. Choose one.")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--gpus {gpus}: --device {device} is one device. Leave out one of them.")
    return count_processes(gpus, device)


def _weights_of(folders: list[Path], prompts: PromptOptions) -> dict[Path, RunRecord]:
    """The record of pretrained weights that are named in place of a run; empty where runs are given."""
    named = [folder for folder in folders if names_weights(folder)]
    if not named:
        return {}
    if len(folders) > 1:
        raise InputError(f"{named[0]}: weights segment alone. Give them without another run.")
    if prompts.file is None:
        raise InputError(f"{named[0]}: weights segment what prompts point at. Give --prompts FILE.")
    resolve(str(named[0]), get_weights(str(named[0])).backbone)
    return {named[0]: record_for_prompts(str(named[0]), prompts.file)}


def _check(options: PredictionOptions, record: RunRecord, run: Path, contradictory: bool) -> None:
    """Raise an InputError for options that do not go with the run or with each other."""
    options.prompts.check(record, run)
    checked_precision(options.precision)
    if contradictory:
        raise InputError("--skip-existing: it excludes --overwrite. Choose one.")
    if (report := options.report) is not None and report.is_dir():
        raise InputError(f"{report}: it is a folder. Name a file for the report, such as {report / 'report.json'}.")


def _content_of(inputs: Path) -> AbstractContextManager[Path]:
    """The input, or for the time of the block what a zip archive holds."""
    if inputs.suffix.lower() != ".zip":
        return nullcontext(inputs)
    from medsam_adapt.data.volumes.archives import unpacked

    return unpacked(inputs)
