"""``medsam-adapt predict``: segment new volumes with a run, or with several as an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsam_adapt.config import checked_precision
from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.parts import Part, local_rank, parse_part, part_of_environment
from medsam_adapt.inference.zero_shot import names_weights, predictor_of, record_for_prompts
from medsam_adapt.outputs import format_names
from medsam_adapt.prediction.json_report import complete_report, earlier_cases
from medsam_adapt.prediction.plan import Case, Outputs, Plan, plan_cases
from medsam_adapt.prediction.prompt_sources import SEES_THE_ANSWER, PromptOptions, read_case_prompts
from medsam_adapt.runs.record import RunRecord, read_runs
from medsam_adapt.weights.registry import get_weights
from medsam_adapt.weights.store import resolve

from .console import (
    IN_BF16,
    Device,
    Json,
    Overwrite,
    Series,
    only_json,
    print_json,
    progress_bar,
    say,
    shortened,
    warn,
)

if TYPE_CHECKING:  # it imports torch
    from medsam_adapt.prediction.case_runner import CaseRunner
    from medsam_adapt.prediction.json_report import Report

_FORMATS = " | ".join(format_names())
_OUTPUT, _PROMPTS, _CLEANING = "What is written", "Prompts, for a run trained with them", "Clean-up, class by class"


def predict(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folder of a finished run, or several; or a name from 'weights list'."),
    ],
    inputs: Annotated[
        Path,
        typer.Option("--input", "-i", help="A volume, a DICOM folder, a zip, a folder of volumes, or a data set."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the masks.")],
    layout: Annotated[str, typer.Option(help="Layout of a data set on disk; recognised when not given.")] = "auto",
    series: Series = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 on a GPU, else fp32.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Slices at a time.", show_default="8; on a GPU by its memory")
    ] = None,
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip volumes whose outputs all exist.")
    ] = False,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", help="Stop at the first volume that cannot be read."),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(help="K/N: only part K of N of the volumes.", show_default="that of torchrun or SLURM, else all"),
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over mirrored slices too: four times slower.")
    ] = False,
    format: Annotated[str, typer.Option(help=_FORMATS, rich_help_panel=_OUTPUT)] = "nifti",
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Write one folder per volume, one file per class.", rich_help_panel=_OUTPUT),
    ] = False,
    itk_snap: Annotated[
        bool, typer.Option("--itk-snap", help="Names and colours for ITK-SNAP, beside NIfTI.", rich_help_panel=_OUTPUT)
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="A map (0 to 1) for each class.", rich_help_panel=_OUTPUT)
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="A map: entropy, from 0 to 1.", rich_help_panel=_OUTPUT)
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="JSON report: volumes in ml, and flags for review.", rich_help_panel=_OUTPUT),
    ] = None,
    keep_identifiers: Annotated[
        bool,
        typer.Option("--keep-identifiers", help="Write complete input paths to the report.", rich_help_panel=_OUTPUT),
    ] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON of boxes and points; see docs/prompts.md.", rich_help_panel=_PROMPTS)
    ] = None,
    prompts_from_run: Annotated[
        Path | None, typer.Option(help="A run without prompts proposes, this one refines.", rich_help_panel=_PROMPTS)
    ] = None,
    prompts_from: Annotated[
        Path | None,
        typer.Option(help="Labels (a file or a folder): it sees the answer, for evaluation.", rich_help_panel=_PROMPTS),
    ] = None,
    propagate: Annotated[
        bool, typer.Option("--propagate", help="Follow --prompts to neighbouring slices.", rich_help_panel=_PROMPTS)
    ] = False,
    largest_component: Annotated[
        bool, typer.Option("--largest-component", help="Keep the largest piece.", rich_help_panel=_CLEANING)
    ] = False,
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", help="Fill enclosed background.", rich_help_panel=_CLEANING)
    ] = False,
    no_clean_up: Annotated[
        bool,
        typer.Option("--no-clean-up", help="Keep fragments of classes that are one piece.", rich_help_panel=_CLEANING),
    ] = False,
    min_volume: Annotated[
        float, typer.Option(min=0, help="Remove pieces smaller than this many ml.", rich_help_panel=_CLEANING)
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Segment volumes; each gives OUTPUT/<name>_seg.nii.gz, or another format, in its own geometry."""
    only_json(as_json)
    files = run_prediction(
        runs,
        inputs,
        output,
        device,
        batch_size,
        overwrite,
        skip_existing=skip_existing,
        outputs=Outputs(format, per_class, itk_snap, probabilities, uncertainty),
        report=report,
        series=series,
        layout=layout,
        fail_fast=fail_fast,
        part=part_of_environment() if part is None else parse_part(part),
        flips=flips,
        prompts=PromptOptions(prompts, prompts_from_run, prompts_from, propagate),
        cleaning={"largest_component": largest_component, "fill_holes": fill_holes, "min_volume_ml": min_volume},
        keep_identifiers=keep_identifiers,
        precision=precision,
        clean_up=not no_clean_up,
    )
    if as_json:
        print_json({"masks": [str(path) for path in files], "report": None if report is None else str(report)})
    if files:
        say(f"Written: {files[0] if len(files) == 1 else f'{len(files)} masks in {output}'}")
    else:
        say(f"All masks are there already: {output}")


def run_prediction(
    runs: Path | list[Path],
    inputs: Path,
    output: Path,
    device: str = "auto",
    batch_size: int | None = None,
    overwrite: bool = False,
    *,
    skip_existing: bool = False,
    outputs: Outputs | None = None,
    report: Path | None = None,
    series: str | None = None,
    layout: str = "auto",
    fail_fast: bool = False,
    part: Part | None = None,
    flips: bool = False,
    prompts: PromptOptions | None = None,
    cleaning: Mapping[str, Any] | None = None,
    keep_identifiers: bool = False,
    precision: str = "auto",
    clean_up: bool = True,
) -> list[Path]:
    """Segment every volume of ``inputs``; returns the masks written, each a file or a folder.

    Raises:
        InputError: anything wrong that shows before the model is loaded; after all other volumes are done, those that
            could not be read, or with ``fail_fast`` the first one of them at once.
    """
    folders = [runs] if isinstance(runs, Path) else runs
    prompts = prompts or PromptOptions()
    records = _weights_of(folders, prompts) or read_runs(folders)
    record = records[folders[0]]
    prompts.check(record, folders[0])
    checked_precision(precision)
    if overwrite and skip_existing:
        raise InputError("--overwrite and --skip-existing exclude each other: choose one.")
    if report is not None and report.is_dir():
        raise InputError(f"{report} is a folder: name a file for the report, such as {report / 'report.json'}.")
    if part is not None:
        report = None if report is None else report.with_name(f"{report.stem}.{part}{report.suffix}")
        device = _own_device(device)
    outputs = (outputs or Outputs()).checked(record.overlapping, record.class_names, bool(record.painted))
    with _content_of(inputs) as found:
        plan = plan_cases(found, output, outputs, overwrite, skip_existing, series, record, layout, fail_fast, part)
        given = None if prompts.file is None else read_case_prompts(prompts.file, plan.cases, plan.names, record)
        reference_of = prompts.reference(plan.cases, record)
        for note in plan.notes:
            say(note)
        if not plan.cases:
            if report is not None:
                complete_report(report)
            return []

        from medsam_adapt.inference.predictor import load_run
        from medsam_adapt.prediction.case_runner import CaseRunner
        from medsam_adapt.prediction.json_report import Report
        from medsam_adapt.prediction.postprocessing import Cleaning
        from medsam_adapt.runs.statistics import read_statistics

        clean = Cleaning(**(cleaning or {}))
        if names_weights(folders[0]):
            predictor = predictor_of(record, device, batch_size, precision)
        else:
            predictor = load_run(
                folders[0], device, batch_size, merge=True, also=folders[1:], precision=precision, clean_up=clean_up
            )
        if predictor.precision == "bf16":
            say(IN_BF16)
        reference = reference_of(device, batch_size)
        statistics = read_statistics(folders[0])
        runner = CaseRunner(predictor, outputs, clean, statistics, flips, prompts.propagate, given, reference)
        speed = {"batch_size": batch_size or "auto", "precision": predictor.precision}
        options = {**vars(outputs), **vars(clean), "flips": flips, **speed, **prompts.given_options()}
        notes = [] if prompts.from_labels is None else [SEES_THE_ANSWER]
        for note in (*notes, *shortened([note for case in plan.cases for note in case.header.notes])):
            warn(note)
        log = Report(report, records, str(predictor.device), options, _earlier(report, plan), notes, keep_identifiers)
        with log, _without_empty(output):
            for each in plan.failed:
                log.fail(each.name, each.error, each.path)
            written, failed = _segment(runner, plan.cases, log, inputs if found != inputs else None, fail_fast)
    if failed := [*(each.error for each in plan.failed), *failed]:
        raise _failures(failed, len(plan.cases) + len(plan.failed), len(written), report)
    return written


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


def _segment(
    runner: CaseRunner, cases: list[Case], log: Report, archive: Path | None, fail_fast: bool
) -> tuple[list[Path], list[InputError]]:
    """Every case in turn; the masks written, and what was wrong with the other cases."""
    written, failed = [], []
    with progress_bar() as progress:
        total = sum(runner.predictor.slices_in(case.header.shape, case.header.affine) for case in cases)
        task = progress.add_task("slices", total=total, detail="")
        number = {case.name: f"{index} of {len(cases)}" for index, case in enumerate(cases, start=1)}

        def advance(case: Case, count: int) -> None:
            progress.update(task, advance=count, detail=f"{case.name} ({number[case.name]})")

        for case, entry in runner.run_all(cases, advance, fail_fast):
            if isinstance(entry, InputError):
                log.fail(case.name, entry, case.header.path)
                failed.append(entry)
                continue
            for flag in entry["flags"]:
                if flag["kind"] == "modality":
                    warn(f"{case.name}: {flag['text']}.")
            log.add(case.name, entry, archive or case.header.path)
            written.append(case.outputs["segmentation"])
    return written, failed


def _failures(failed: list[InputError], count: int, written: int, report: Path | None) -> InputError:
    """What was wrong with volumes, and how many there are of them where there were several volumes."""
    problems = [str(error) for error in failed]
    if count == 1:
        return problems_error(problems)
    listed = "" if report is None else f", listed under 'failed' in {report}"
    last = f"{len(failed)} of {count} volumes could not be segmented{listed}. {written} masks were written."
    return InputError(f"{problems_error(problems)}\n{last}", [*problems, last])


@contextmanager
def _without_empty(folder: Path) -> Iterator[None]:
    """Remove a folder that the block made and left empty, as when its one volume could not be written."""
    was_there = folder.exists()
    try:
        yield
    finally:
        if not was_there and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _own_device(device: str) -> str:
    """A GPU for each process of this machine, where there are several and the user names none."""
    rank = local_rank()
    if device != "auto" or rank is None:
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{rank % count}" if count > 1 else device


def _content_of(inputs: Path) -> AbstractContextManager[Path]:
    """The input, or for the time of the block what a zip archive holds."""
    if inputs.suffix.lower() != ".zip":
        return nullcontext(inputs)
    from medsam_adapt.data.volumes.archives import unpacked

    return unpacked(inputs)


def _earlier(report: Path | None, plan: Plan) -> dict[str, Any]:
    """Entries of the skipped cases, from the report that is there."""
    if report is None or not plan.skipped:
        return {}
    cases = earlier_cases(report)
    return {name: cases.get(name, {"skipped": True}) for name in plan.skipped}
