"""The cases of a prediction, segmented once all options and inputs are checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.parts import Part, local_rank
from medsam_adapt.core.text import shortened
from medsam_adapt.inference.zero_shot import names_weights, predictor_of
from medsam_adapt.prediction.json_report import complete_report, earlier_cases
from medsam_adapt.prediction.plan import Outputs, PlannedCase, PredictionPlan
from medsam_adapt.prediction.prompt_sources import SEES_THE_ANSWER, PromptOptions
from medsam_adapt.runs.record import RunRecord
from medsam_adapt.workflows.reporter import Reporter

if TYPE_CHECKING:  # they import torch
    from medsam_adapt.inference.predictor import Predictor
    from medsam_adapt.prediction.case_runner import CaseRunner
    from medsam_adapt.prediction.json_report import JsonReport


@dataclass(frozen=True)
class PredictionOptions:
    """How volumes are segmented, and what is written of them."""

    device: str
    precision: str
    batch_size: int | None
    fail_fast: bool
    flips: bool
    outputs: Outputs
    report: Path | None
    keep_identifiers: bool
    prompts: PromptOptions
    cleaning: dict[str, Any]
    clean_up: bool

    def of_part(self, part: Part) -> PredictionOptions:
        """The options for one part of the volumes: a report and a device that no other part uses."""
        report = self.report
        if report is not None:
            report = report.with_name(f"{report.stem}.{part}{report.suffix}")
        return replace(self, report=report, device=_own_device(self.device))


def segment_cases(
    plan: PredictionPlan,
    folder: Path,
    archive: Path | None,
    records: Mapping[Path, RunRecord],
    options: PredictionOptions,
    reporter: Reporter,
) -> list[Path]:
    """Do what is planned; the masks written.

    Args:
        plan: the cases.
        folder: of the masks.
        archive: the zip file that the cases were unpacked from, for the report.
        records: of the runs, by folder.
        options: how they are segmented.
        reporter: receives notes and progress.
    """
    record = next(iter(records.values()))
    given = options.prompts.of_cases(plan, record)
    reference_of = options.prompts.reference(plan.cases, record)
    for note in plan.notes:
        reporter.note(note)
    if not plan.cases:
        if options.report is not None:
            complete_report(options.report)
        return []

    from medsam_adapt.prediction.case_runner import CaseRunner
    from medsam_adapt.prediction.json_report import JsonReport
    from medsam_adapt.prediction.postprocessing import Cleaning
    from medsam_adapt.runs.statistics import read_statistics

    clean = Cleaning(**options.cleaning)
    predictor = _load(records, options, reporter)
    reference = reference_of(options.device, options.batch_size)
    statistics = read_statistics(next(iter(records)))
    runner = CaseRunner(
        predictor, options.outputs, clean, statistics, options.flips, options.prompts.propagate, given, reference
    )
    notes = [] if options.prompts.from_labels is None else [SEES_THE_ANSWER]
    for note in (*notes, *shortened([note for case in plan.cases for note in case.header.notes])):
        reporter.warn(note)
    used = {
        **vars(options.outputs),
        **vars(clean),
        "flips": options.flips,
        "batch_size": options.batch_size or "auto",
        "precision": predictor.precision,
        **options.prompts.given_options(),
    }
    earlier = _earlier(options.report, plan)
    log = JsonReport(options.report, records, str(predictor.device), used, earlier, notes, options.keep_identifiers)
    with log, _without_empty(folder):
        for each in plan.failed:
            log.fail(each.name, each.error, each.path)
        written, failed = _run(runner, plan.cases, log, archive, options.fail_fast, reporter)
    if failed := [*(each.error for each in plan.failed), *failed]:
        raise _failures(failed, len(plan.cases) + len(plan.failed), len(written), options.report)
    return written


def _load(records: Mapping[Path, RunRecord], options: PredictionOptions, reporter: Reporter) -> Predictor:
    """The predictor of the runs, or of the weights."""
    from medsam_adapt.core.precision import IN_BF16
    from medsam_adapt.inference.predictor import load_run

    run, *others = records
    if names_weights(run):
        predictor = predictor_of(records[run], options.device, options.batch_size, options.precision)
    else:
        predictor = load_run(
            run,
            options.device,
            options.batch_size,
            merge=True,
            also=others,
            precision=options.precision,
            clean_up=options.clean_up,
        )
    if predictor.precision == "bf16":
        reporter.note(IN_BF16)
    return predictor


def _run(
    runner: CaseRunner,
    cases: list[PlannedCase],
    log: JsonReport,
    archive: Path | None,
    fail_fast: bool,
    reporter: Reporter,
) -> tuple[list[Path], list[InputError]]:
    """Every case in turn; the masks written, and what was wrong with the other cases."""
    written, failed = [], []
    total = sum(runner.predictor.slices_in(case.header.shape, case.header.affine) for case in cases)
    number = {case.name: f"{index} of {len(cases)}" for index, case in enumerate(cases, start=1)}
    with reporter.progress("slices", total) as progress:

        def advance(case: PlannedCase, count: int) -> None:
            progress.update(count, detail=f"{case.name} ({number[case.name]})")

        for case, entry in runner.run_all(cases, advance, fail_fast):
            if isinstance(entry, InputError):
                log.fail(case.name, entry, case.header.path)
                failed.append(entry)
                continue
            for flag in entry["flags"]:
                if flag["kind"] == "modality":
                    reporter.warn(f"{case.name}: {flag['text']}.")
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


def _earlier(report: Path | None, plan: PredictionPlan) -> dict[str, Any]:
    """Entries of the skipped cases, from the report that is there."""
    if report is None or not plan.skipped:
        return {}
    cases = earlier_cases(report)
    return {name: cases.get(name, {"skipped": True}) for name in plan.skipped}
