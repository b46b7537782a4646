"""Fine-tune SAM on labelled volumes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from medsam_adapt.bundle.catalogue import DEFAULT_BUNDLE, resolve_knobs
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.bundle.untrusted import require_trust
from medsam_adapt.config import Knobs
from medsam_adapt.core.cache import borrowed_cache
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.folder_lock import FolderLock
from medsam_adapt.core.literals import plain_path
from medsam_adapt.core.output_folder import check_output
from medsam_adapt.data.slices.clean_up import describe_clean_up
from medsam_adapt.runs.record import RUN_FILE, data_of, read_run, require_trained, same_origin
from medsam_adapt.runs.resume import changed_setting, is_false_start, is_finished
from medsam_adapt.workflows.arguments import Names, PathLike, names, path_or_none
from medsam_adapt.workflows.backbone_choice import why_backbone
from medsam_adapt.workflows.processes import count_processes, is_main_process, train_together
from medsam_adapt.workflows.reporter import SILENT, Reporter
from medsam_adapt.workflows.training_notes import plan_of
from medsam_adapt.workflows.training_run import (
    TrainingOrder,
    kept_or_restored,
    prepare,
    run_training,
    training_logs,
    with_epochs_that_fit,
)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# Arguments that are settings of a run under the same name.
_SETTINGS = (
    "layout", "backbone", "image_size", "epochs", "minutes", "prompt", "precision", "low_memory", "seed", "fold",
    "folds",
)  # fmt: skip
_OF_THE_DATA = ("layout", "split_file", "fold", "unlabelled")  # settings that a run from another one does not take over


def train(
    data: PathLike | None = None,
    output: PathLike | None = None,
    *,
    bundle: PathLike | None = None,
    layout: str | None = None,
    backbone: str | None = None,
    checkpoint: PathLike | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    unlabelled: PathLike | None = None,
    recipe: str = "default",
    prompt: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    low_memory: bool | None = None,
    gpus: int | None = None,
    seed: int | None = None,
    classes: Names | None = None,
    fold: int | None = None,
    folds: int | None = None,
    split_file: PathLike | None = None,
    cache_dir: PathLike | None = None,
    from_run: PathLike | None = None,
    repeat: PathLike | None = None,
    resume: bool = False,
    trust_bundle: bool = False,
    sets: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Fine-tune SAM, as ``medsam-adapt train`` does; each argument is the option of its name.

    Args:
        data: folder of the labelled volumes; None where ``repeat`` or ``resume`` takes it from a run.
        output: folder of the run.
        bundle: method, or a changed copy's folder.
        layout: of the data on disk; recognised when None.
        backbone: such as vit_b. It is the bundle's when None, as are all settings below.
        checkpoint: name from ``medsam-adapt weights list``, a file, or ``random``.
        image_size: side of a slice in pixels.
        epochs: passes over the training slices.
        minutes: total time budget, including preparation and validation; replaces ``epochs``.
        unlabelled: folder of scans without labels, which are learned from too.
        recipe: ``default`` (ours) or ``paper`` (the paper's settings).
        prompt: simulated from the labels during training: none, box or points.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: fp32, bf16, or auto.
        low_memory: train in less memory, with more time per step.
        gpus: GPUs that train together; with the device cpu, processes.
        seed: random seed.
        classes: names of the classes to learn.
        fold: held out in a cross-validation, counted from 0.
        folds: of the cross-validation, where ``split_file`` gives none.
        split_file: splits made by ``medsam-adapt data split``.
        cache_dir: folder of the slice cache.
        from_run: start another run from this run's weights and settings, on the data of ``data`` (``--from``).
        repeat: train this run again from the beginning: same data, bundle and settings.
        resume: continue the interrupted run in ``output``; start it if there is none yet.
        trust_bundle: run the code of a changed copy of a bundle.
        sets: any other setting by name (``--set``).
        overwrite: replace the run in ``output``.
        reporter: receives notes and progress.

    Returns:
        The run's folder.

    Raises:
        InputError: options, settings, files or labels that do not fit; nothing is written then.
        RunError: the training failed; its message states how to resume it.
        Stopped: Ctrl-C or SIGTERM came; a checkpoint was written after the current step. It is a SystemExit.
    """
    options = dict(locals())
    if output is None:
        raise InputError("--output: it is missing, the folder of the run to make. Add --output.")
    order, begun = _order_of(options)
    if begun and is_finished(order.output):
        reporter.note(f"{order.output} is finished: there is nothing to continue.")
        return order.output
    started_from = order.output if begun else path_or_none(repeat)
    count = count_processes(gpus, device, started_from, begun)
    reporter = reporter if is_main_process() else SILENT
    if is_main_process():
        FolderLock.refuse_if_held(order.output)
        if not (begun or is_false_start(order.output)):
            check_output(order.output, overwrite, RUN_FILE)
    with training_logs(reporter):
        if order.knobs.minutes is not None and not begun:
            if order.knobs.cache_frozen == "off":  # nothing depends on the number of epochs: no step is measured
                order = replace(order, knobs=order.knobs.model_copy(update={"val_interval": order.knobs.epochs}))
            else:
                order = with_epochs_that_fit(order, reporter)
        if count == 1:
            run_training(order, reporter)
        else:
            with kept_or_restored(order.output, overwrite and not resume, reporter):
                train_together(count, order.output, reporter.worker, order.as_json())
    run = order.output
    if is_main_process() and (line := describe_clean_up(read_run(run).cleaning)):
        reporter.note(line)
    reporter.note(f"Trained: {run}\nNext: medsam-adapt evaluate {run}, or medsam-adapt predict {run} -i SCAN -o MASKS")
    return run


def _with_arguments_of(
    other: Callable[_Arguments, Any],
) -> Callable[[Callable[..., _Result]], Callable[_Arguments, _Result]]:
    """Give a function the signature of another one, for readers, type checkers and `help`."""

    def decorated(function: Callable[..., _Result]) -> Callable[_Arguments, _Result]:
        own, signature = inspect.signature(function), inspect.signature(other)
        function.__signature__ = signature.replace(return_annotation=own.return_annotation)  # type: ignore[attr-defined]
        return function

    return decorated


@_with_arguments_of(train)
def plan_training(*arguments: Any, **options: Any) -> dict[str, Any]:
    """What `train` with the same arguments would do, as ``medsam-adapt train --dry-run`` shows; nothing is written.

    Returns:
        The backbone and why it is taken, classes, training and held-out cases, slices, steps, trainable values, and the
        seconds and bytes estimated from one real step. Empty where ``resume`` finds that the run in ``output`` is
        finished.

    Raises:
        InputError: as `train`.
    """
    bound = inspect.signature(train).bind(*arguments, **options)
    bound.apply_defaults()
    reporter: Reporter = bound.arguments["reporter"]
    order, begun = _order_of(bound.arguments)
    if begun and is_finished(order.output):
        reporter.note(f"{order.output} is finished: there is nothing to continue.")
        return {}
    with borrowed_cache(order.knobs.cache_dir) as cache, training_logs(reporter):
        # The output is borrowed too: MONAI's TensorBoard handler writes as soon as it is made.
        borrowed = order.knobs.model_copy(update={"cache_dir": str(cache)})
        order = replace(order, output=cache / "run", knobs=borrowed, resume=False)
        if order.knobs.minutes is not None:
            order = with_epochs_that_fit(order, reporter)
        flow = prepare(order, reporter)
        knobs, data = (flow.parser.get_parsed_content(name) for name in ("knobs", "data"))
        plan = plan_of(flow)
    return {"backbone": knobs.backbone, "why_backbone": order.why_backbone or data.why_backbone, **plan}


def _order_of(options: Mapping[str, Any]) -> tuple[TrainingOrder, bool]:
    """What is trained, by the arguments of `train`; and whether it is the run in ``output`` that is resumed.

    Raises:
        InputError: options or settings that do not go together.
    """
    if options["minutes"] is not None and options["epochs"] is not None:
        raise InputError("--minutes: it chooses the number of epochs. Leave out --epochs.")
    started = time.monotonic()
    data, start, repeat = (path_or_none(options[name]) for name in ("data", "from_run", "repeat"))
    output, resume = path_or_none(options["output"]), options["resume"]
    bundle = None if options["bundle"] is None else str(options["bundle"])
    given = _given(options)
    begun = resume and output is not None and (output / RUN_FILE).is_file()
    if start is not None and (repeat is not None or resume):
        raise InputError("--from: it starts a separate run. Leave out --repeat and --resume.")
    if start is not None:
        bundle, knobs = _of_start(start, bundle, given)
    elif repeat is not None:
        record = read_run(repeat)
        bundle, data = same_origin(record, bundle, repeat), data or data_of(record, repeat)
        knobs = run_knobs(record.bundle, **{"input_scaling": record.input_scaling, **record.knobs, **given})
    elif resume and output is not None and (begun or data is None):
        bundle, data, knobs = _of_interrupted(output, bundle, given, data)
    else:
        bundle = bundle or DEFAULT_BUNDLE
        knobs = resolve_knobs(bundle, options["recipe"], sets=given)
    if data is None:
        raise InputError("--data: it is missing, the folder of the labelled volumes. Add --data.")
    if not (begun and output is not None and is_finished(output)):
        require_trust(bundle, options["trust_bundle"])
    flags = {name: options[name] for name in ("device", "resume", "overwrite", "trust_bundle")}
    why = why_backbone(knobs.backbone, given, options["recipe"], start or repeat or (output if begun else None))
    order = TrainingOrder(bundle, data, output or Path(), knobs, started=started, why_backbone=why, **flags)
    return order, begun


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the arguments of `train` that were given."""
    given = {name: options[name] for name in _SETTINGS}
    given["checkpoint"] = None if options["checkpoint"] is None else str(options["checkpoint"])
    for name in ("split_file", "cache_dir", "unlabelled"):
        given[name] = None if options[name] is None else plain_path(Path(options[name]))
    given["classes"] = None if options["classes"] is None else names(options["classes"])
    given = {name: value for name, value in given.items() if value is not None} | dict(options["sets"] or {})
    if "epochs" in given and (options["from_run"] is not None or options["repeat"] is not None):
        given["minutes"] = None  # of the earlier run
    return given


def _of_interrupted(
    output: Path, bundle: str | None, given: Mapping[str, Any], data: Path | None
) -> tuple[str, Path, Knobs]:
    """Bundle, data and settings of the run to resume; rejects different settings."""
    record = read_run(output)
    if not record.dataset_dir:
        raise InputError(f"{output}: it was pulled and cannot be resumed. Begin another run with --from {output}.")
    if record.bundle_sha256 is None and bundle not in (None, record.bundle):
        raise InputError(
            f"{output}: it was begun with the bundle {record.bundle}. Resume it without --bundle {bundle}."
        )
    if changed := changed_setting(record, given):
        longer = f", or begin another run with --from {output} to train longer" * (changed == "epochs")
        raise InputError(f"{output}: it was begun with another {changed}. Resume it without that option{longer}.")
    how = {name: value for name, value in given.items() if name != "layout"}
    # A run from before this setting keeps the scaling that it was trained with, whatever its checkpoint expects.
    knobs = run_knobs(record.bundle, **{"input_scaling": record.input_scaling, **record.knobs, **how})
    return same_origin(record, bundle, output), data or Path(record.dataset_dir), knobs


def _of_start(start: Path, bundle: str | None, given: Mapping[str, Any]) -> tuple[str, Knobs]:
    """Bundle and settings of a run to start from; the layout and the split of its data are not those of the new."""
    record = read_run(start)
    require_trained(start)
    kept = {key: value for key, value in record.knobs.items() if key not in _OF_THE_DATA}
    knobs = run_knobs(record.bundle, **{**kept, **given, "from_run": str(start.resolve())})
    return same_origin(record, bundle, start), knobs
