"""The cases of a prediction, segmented once all options and inputs are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapt.config import Axis
from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.files import look_for_outputs
from medsam_adapt.core.parts import Part, device_of_process, local_rank
from medsam_adapt.core.process_pool import run_in_processes
from medsam_adapt.core.text import counted, shortened
from medsam_adapt.prediction.job import CasePaths, PredictionJob
from medsam_adapt.prediction.json_report import (
    JsonReport,
    complete_report,
    earlier_cases,
    merge_reports,
    ran_on,
    report_of_part,
)
from medsam_adapt.prediction.plan import Outputs, PlannedCase, PredictionPlan
from medsam_adapt.prediction.prompt_sources import SEES_THE_ANSWER, PromptOptions
from medsam_adapt.runs.record import RunRecord
from medsam_adapt.workflows.reporter import Reporter

if TYPE_CHECKING:  # they import torch, or Dask
    from medsam_adapt.core.cluster import Cluster
    from medsam_adapt.prediction.case_runner import Outcome

Advance = Callable[[PlannedCase, int], None]  # a case, and how many of its slices were just done


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
    gpus: int = 1
    cluster: str | None = None
    part: Part | None = None
    whole_report: Path | None = None

    def of_part(self, part: Part) -> PredictionOptions:
        """The options for one part of the volumes: a report and a device that no other part uses."""
        report = None if self.report is None else report_of_part(self.report, part)
        device = device_of_process(self.device, local_rank())
        return replace(self, report=report, whole_report=self.report, device=device, part=part)


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
        _nothing_to_do(plan, records, options, reporter)
        return []

    job = _job(records, options)
    notes = [] if options.prompts.from_labels is None else [SEES_THE_ANSWER]
    for note in (*notes, *shortened([note for case in plan.cases for note in case.header.notes])):
        reporter.warn(note)
    with _workers(job, options, given, reference_of, reporter) as workers:
        log = JsonReport(
            options.report,
            records,
            workers.device,
            _used(options, workers.precision),
            _earlier(options, plan),
            notes,
            options.keep_identifiers,
        )
        with log, _without_empty(folder):
            for each in plan.failed:
                log.fail(each.name, each.error, each.path)
            written, failed = _run(workers, plan.cases, record.axis, log, archive, options.fail_fast, reporter)
    _merge_parts(options, reporter)
    if failed := [*(each.error for each in plan.failed), *failed]:
        raise _failures(failed, len(plan.cases) + len(plan.failed), len(written), options.report)
    return written


def _nothing_to_do(
    plan: PredictionPlan, records: Mapping[Path, RunRecord], options: PredictionOptions, reporter: Reporter
) -> None:
    """Complete the report where all masks exist; a part has one even if it never had a case."""
    if options.report is not None and options.part is None:
        complete_report(options.report)
    elif options.report is not None:
        device, precision = ran_on(options.report, options.whole_report) or (options.device, options.precision)
        earlier, used = _earlier(options, plan), _used(options, precision)
        with JsonReport(options.report, records, device, used, earlier, (), options.keep_identifiers):
            pass
        _merge_parts(options, reporter)


def _merge_parts(options: PredictionOptions, reporter: Reporter) -> None:
    """The report of all parts, if this was the last one."""
    whole = options.whole_report
    if whole is None or options.part is None:
        return
    if missing := merge_reports(whole, options.part.count):
        left = ", ".join(map(str, missing))
        reporter.note(f"{whole}: written once these parts of {options.part.count} are done: {left}.")
    else:
        reporter.note(f"{whole}: the report of {counted(options.part.count, 'part')}.")


def _used(options: PredictionOptions, precision: str) -> dict[str, Any]:
    """The options as the report has them."""
    return {
        **vars(options.outputs),
        **options.cleaning,
        "flips": options.flips,
        "batch_size": options.batch_size or "auto",
        "precision": precision,
        **options.prompts.given_options(),
    }


def _job(records: Mapping[Path, RunRecord], options: PredictionOptions) -> PredictionJob:
    return PredictionJob(
        runs=tuple(records),
        record=next(iter(records.values())),
        outputs=options.outputs,
        cleaning=options.cleaning,
        device=options.device,
        precision=options.precision,
        batch_size=options.batch_size,
        flips=options.flips,
        prompts=options.prompts,
        clean_up=options.clean_up,
    )


@dataclass(frozen=True)
class _Workers:
    """What segments the cases: results of planned cases, given as they are done, and on which device."""

    results: Callable[[list[PlannedCase], Advance, bool], Iterable[tuple[PlannedCase, Outcome]]]
    device: str
    precision: str


@contextmanager
def _workers(
    job: PredictionJob,
    options: PredictionOptions,
    prompts: Mapping[str, Any] | None,
    reference_of: Callable[[str, int | None], Any],
    reporter: Reporter,
) -> Iterator[_Workers]:
    """This process, several of this machine, or a cluster."""
    if options.cluster is not None:
        from medsam_adapt.core.cluster import open_cluster

        with open_cluster(options.cluster) as cluster:
            if not cluster.workers:
                reporter.note(f"--cluster {options.cluster}: it has no worker yet. Waiting for one.")
            yield _Workers(partial(_on_cluster, cluster, job), options.device, options.precision)
    elif options.gpus > 1:
        yield _Workers(partial(_in_processes, options.gpus, job), options.device, options.precision)
    else:
        from medsam_adapt.core.precision import IN_BF16

        predictor = job.predictor()
        if predictor.precision == "bf16":
            reporter.note(IN_BF16)
        runner = job.runner(predictor, prompts, reference_of(options.device, options.batch_size))
        yield _Workers(runner.run_all, str(predictor.device), predictor.precision)


@contextmanager
def _without_leftovers(cases: list[PlannedCase]) -> Iterator[None]:
    """Remove what processes that were killed in the block left of writing the outputs; others did their cases again."""
    try:
        yield
    finally:
        names: dict[Path, set[str]] = {}
        for path in (path for case in cases for path in case.outputs.values()):
            names.setdefault(path.parent, set()).add(path.name)
        for folder, of_folder in names.items():
            look_for_outputs(folder, of_folder)


def _in_processes(
    count: int, job: PredictionJob, cases: list[PlannedCase], advance: Advance, fail_fast: bool
) -> Iterator[tuple[PlannedCase, Outcome]]:
    of = {case.name: case for case in cases}
    results = run_in_processes(count, job, cases, lambda case, slices: advance(of[case.name], slices))
    with _without_leftovers(cases), closing(results):
        for case, outcome in results:
            yield of[case.name], outcome
            if fail_fast and isinstance(outcome, InputError):
                return


def _on_cluster(
    cluster: Cluster, job: PredictionJob, cases: list[PlannedCase], advance: Advance, fail_fast: bool
) -> Iterator[tuple[PlannedCase, Outcome]]:
    from medsam_adapt.data.slices.geometry import count_slices

    of = {case.name: case for case in cases}
    results = cluster.run(job.elsewhere(), map(CasePaths.of, cases))
    with _without_leftovers(cases), closing(results):
        for item, outcome in results:
            case = of[item.name]
            if not isinstance(outcome, InputError):  # the paths as they were given
                outcome = {**outcome, "files": {kind: str(path) for kind, path in case.outputs.items()}}
            advance(case, count_slices(case.header.shape, case.header.affine, job.record.axis))
            yield case, outcome
            if fail_fast and isinstance(outcome, InputError):
                return


def _run(
    workers: _Workers,
    cases: list[PlannedCase],
    axis: Axis,
    log: JsonReport,
    archive: Path | None,
    fail_fast: bool,
    reporter: Reporter,
) -> tuple[list[Path], list[InputError]]:
    """Every case; the masks written, and what was wrong with the other cases, both in the order of ``cases``."""
    from medsam_adapt.data.slices.geometry import count_slices

    written: dict[str, Path] = {}
    failed: dict[str, InputError] = {}
    total = sum(count_slices(case.header.shape, case.header.affine, axis) for case in cases)
    number = {case.name: index for index, case in enumerate(cases)}
    with reporter.progress("slices", total) as progress:

        def advance(case: PlannedCase, count: int) -> None:
            progress.update(count, detail=f"{case.name} ({number[case.name] + 1} of {len(cases)})")

        for case, entry in workers.results(cases, advance, fail_fast):
            if isinstance(entry, InputError):
                log.fail(case.name, entry, case.header.path)
                failed[case.name] = entry
                continue
            if "ran_on" in entry:
                log.ran_on(*entry.pop("ran_on"))
            for flag in entry["flags"]:
                if flag["kind"] == "modality":
                    reporter.warn(f"{case.name}: {flag['text']}.")
            log.add(case.name, entry, archive or case.header.path)
            written[case.name] = case.outputs["segmentation"]
    return [written[name] for name in number if name in written], [failed[name] for name in number if name in failed]


def _failures(failed: list[InputError], count: int, written: int, report: Path | None) -> InputError:
    """What was wrong with volumes, and how many there are of them where there were several volumes."""
    problems = [str(error) for error in failed]
    if count == 1:
        return problems_error(problems)
    listed = "" if report is None else f", listed under 'failed' in {report}"
    share, masks = f"{len(failed)} of {counted(count, 'volume')}", counted(written, "mask")
    last = f"{share} could not be segmented{listed}. Written: {masks}."
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


def _earlier(options: PredictionOptions, plan: PredictionPlan) -> dict[str, Any]:
    """Entries of the skipped cases, from the report that is there."""
    report = options.report
    if report is None or not plan.skipped:
        return {}
    whole = {} if options.whole_report is None else earlier_cases(options.whole_report)
    cases = {**whole, **earlier_cases(report)}
    return {name: cases.get(name, {"skipped": True}) for name in plan.skipped}
