"""``medsam-adapt compare``: train methods on the same splits, or take finished runs, and report which is better."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from medsam_adapt.bundle.catalogue import parse_sets, resolve_knobs
from medsam_adapt.bundle.contents import bundle_folder
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.runs.record import read_run, require_trained
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.protocols import choose_rules
from medsam_adapt.scoring.summary import METRICS_FILE
from medsam_adapt.weights.store import resolve

from .console import (
    Device,
    Json,
    Overwrite,
    check_output,
    console,
    only_json,
    print_json,
    say,
    show_table,
    warn,
)

if TYPE_CHECKING:
    from medsam_adapt.comparison.plan import Plan

_SPLIT_SETTINGS = ("split_file", "fold", "folds", "seed")


def compare(
    more_runs: Annotated[list[Path] | None, typer.Argument(help="More runs for --from.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the comparison.", show_default=False)] = None,
    bundles: Annotated[str | None, typer.Option(help="Methods to train, as in blosam,infosam,lora.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the labelled volumes.", show_default=False)] = None,
    layout: Annotated[str, typer.Option(help="Layout of the data on disk.")] = "auto",
    from_runs: Annotated[
        list[Path] | None, typer.Option("--from", help="Compare finished runs instead: --from RUN RUN …")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="vit_nano, vit_b, …, for all methods; see 'train'.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Name from 'weights list', a file, or random.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of a slice in pixels, a multiple of 16.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training slices.")] = None,
    prompt: Annotated[str | None, typer.Option(help="none, box or points.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, or auto; see 'bundles show'.")] = None,
    low_memory: Annotated[
        bool | None, typer.Option("--low-memory", help="Train in less memory, with more time a step.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Classes to learn, as in liver,spleen.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder of the slice cache.", show_default=False)] = None,
    folds: Annotated[int, typer.Option(min=1, help="Of a cross-validation; 1 holds one part out.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each method and fold, with seeds from 0.")] = 1,
    recipe: Annotated[str, typer.Option(help="default (ours) or paper (the papers' settings).")] = "default",
    protocol: Annotated[str, typer.Option(help="default, segrap or papers; see docs/metrics.md.")] = "default",
    device: Device = "auto",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for all methods, or method.key=value for one.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare methods on the same cases: scores, significance, parameters, time and memory.

    Trains what is not trained yet (the same command goes on after an interruption), or compares finished runs with
    --from. Writes compare.md, compare.csv, compare_cases.csv and compare.json.
    """
    from medsam_adapt.comparison.plan import name_runs, scored_run
    from medsam_adapt.comparison.run import compare_runs
    from medsam_adapt.comparison.tables import write_comparison

    if output is None:
        raise InputError("compare needs --output, the folder of the comparison.")
    only_json(as_json)
    rules = choose_rules(protocol)
    options = {
        "backbone": backbone,
        "checkpoint": checkpoint,
        "image_size": image_size,
        "epochs": epochs,
        "prompt": prompt,
        "precision": precision,
        "low_memory": low_memory,
        "classes": None if classes is None else [name.strip() for name in classes.split(",") if name.strip()],
        "cache_dir": None if cache_dir is None else str(cache_dir.resolve()),
    }
    given = {name: value for name, value in options.items() if value is not None}
    finished = [*(from_runs or []), *(more_runs or [])]
    if finished:
        if not from_runs or bundles or data or sets or given:
            raise InputError("compare takes --from RUN RUN …, or --bundles, --data and settings: not both.")
        check_output(output, overwrite, "compare.json")
        unscored = [run for run in finished if not (run / METRICS_FILE).is_file()]
        for run in unscored:
            read_run(run)
            require_trained(run)
        for run in unscored:
            _score(run, rules, device)
        runs = [scored_run(folder, name) for name, folder in name_runs(finished).items()]
    else:
        plan, splits = _prepare(
            output, bundles, data, layout, folds, seeds, recipe, given | parse_sets(sets or []), overwrite
        )
        runs = _train_all(plan, splits, output, rules, device)
    content = compare_runs(runs)
    written = write_comparison(output, content, runs)
    if as_json:
        print_json(content)
    _print(content)
    say(f"Written: {', '.join(map(str, written))}")


def _prepare(
    output: Path,
    bundles: str | None,
    data: Path | None,
    layout: str,
    folds: int,
    seeds: int,
    recipe: str,
    given: Mapping[str, Any],
    overwrite: bool,
) -> tuple[Plan, Path]:
    """The plan and its splits; all errors in settings, files and labels are reported here."""
    from medsam_adapt.comparison.plan import PLAN_FILE, Plan, begin
    from medsam_adapt.data.datasets.case_checks import check_cases
    from medsam_adapt.data.datasets.cases import find_cases, select_classes

    names = list(dict.fromkeys(name.strip() for name in (bundles or "").split(",") if name.strip()))
    if not names or data is None:
        raise InputError("compare needs --bundles (as in blosam,lora) and --data, or --from RUN RUN …")
    settings = _settings(names, recipe, given)
    if overwrite or not (output / PLAN_FILE).is_file():
        check_output(output, overwrite, PLAN_FILE)
    found = find_cases(data, layout)
    if chosen := settings[names[0]].get("classes"):
        found = select_classes(found, chosen)
    say("Checking labels …")
    check_cases(found)
    if overwrite and output.is_dir():
        shutil.rmtree(output)
    plan = Plan(str(data.resolve()), found.layout, tuple(names), settings, recipe, folds, seeds)
    return begin(plan, output, found)


def _settings(names: Sequence[str], recipe: str, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings given for each method, checked as a training would check them."""
    for name in names:
        bundle_folder(name)
    for key in given:
        method, dot, setting = key.rpartition(".")
        if dot and method not in names:
            raise InputError(f"--set {key}: {method} is none of the methods that are compared.")
        if setting in _SPLIT_SETTINGS:
            raise InputError(f"--set {key}: compare decides this itself; use --folds and --seeds.")
    shared = {key: value for key, value in given.items() if "." not in key}
    settings = {}
    for name in names:
        own = {key.split(".", 1)[1]: value for key, value in given.items() if key.startswith(f"{name}.")}
        knobs = resolve_knobs(name, recipe, sets={**shared, **own})
        resolve(knobs.checkpoint, knobs.backbone)
        # The last weights, not the best: an epoch chosen on the cases that are scored would flatter the scores.
        settings[name] = {"val_interval": knobs.epochs, **shared, **own}
    return settings


def _train_all(plan: Plan, splits: Path, output: Path, rules: MetricRules, device: str) -> list[Any]:
    """Train and score every run that is not there yet; the runs."""
    from medsam_adapt.comparison.plan import scored_run

    planned = list(plan.runs(output))
    for number, run in enumerate(planned, start=1):
        title = f"{run.bundle}, seed {run.seed}" + ("" if run.fold is None else f", fold {run.fold}")
        if run.state() != "trained":
            say(f"\n[{number} of {len(planned)}] {title}")
            run_command(run.train_arguments(plan, splits.resolve(), device), title)
        _score(run.folder, rules, device)
    return [scored_run(run.folder, run.bundle, run.seed) for run in planned]


def _score(run: Path, rules: MetricRules, device: str) -> None:
    """Evaluate a run, unless it has its scores."""
    from medsam_adapt.comparison.plan import is_scored

    if not is_scored(run, rules):
        say(f"Scoring {run} …")
        arguments = ["evaluate", str(run), "--protocol", rules.protocol, "--device", device]
        run_command(arguments, f"evaluation of {run}", quiet=True)


def run_command(arguments: Sequence[str], title: str, quiet: bool = False) -> None:
    """Run one of our commands in a separate process, which gives its memory back and ends with this one.

    Args:
        arguments: of ``medsam-adapt``.
        title: for the message when it fails.
        quiet: whether to keep back what it prints, but for its errors.

    Raises:
        RunError: it failed.
    """
    command = [sys.executable, "-m", "medsam_adapt.cli", *arguments]
    asked: list[int] = []  # signals that came; the child gets the first of them, once it is there
    children: list[subprocess.Popen] = []

    def pass_on(number: int, _: object = None) -> None:
        asked.append(number)
        if children and len(asked) == 1:
            children[0].send_signal(number)

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet or console.quiet else None) as child:
            if asked:
                child.send_signal(asked[0])
            children.append(child)
            try:
                code = child.wait()
            except KeyboardInterrupt:  # the child got it too, and keeps a checkpoint
                child.wait()
                raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        sys.exit(128 + signal.SIGTERM)
    if code:
        raise RunError(
            f"the {title if title.startswith('evaluation') else f'training of {title}'} ended with exit code "
            f"{code}: fix the error above and run the same command again, which continues from here."
        )


def _print(content: Mapping[str, Any]) -> None:
    from medsam_adapt.comparison.tables import class_table, cost_table, score_table

    for heads, rows in (score_table(content, narrow=True), cost_table(content), class_table(content)):
        table = Table(*map(escape, heads), box=None)
        for row in rows:
            table.add_row(*map(escape, row))
        show_table(table)
        console.print()
    say("± standard deviation over cases; p: DSC against the best, Wilcoxon's test over cases, Holm's correction.")
    for note in content["notes"]:
        warn(note)
