"""A run scored on labelled volumes: all of them by the run's bundle, or in parts that are put together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from medsam_adapt.bundle.catalogue import read_config, workflow
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.core.literals import plain_path
from medsam_adapt.core.parts import Part, device_of_process, local_rank
from medsam_adapt.core.text import class_key, counted
from medsam_adapt.data.datasets.cases import find_cases, images_in_order
from medsam_adapt.data.volumes.case import CaseList
from medsam_adapt.data.volumes.image_set import refuse_other_images
from medsam_adapt.evaluation.shown_cases import SHOWN_FILE, choose_cases
from medsam_adapt.runs.record import RunRecord, data_of, read_run, require_trained
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.parts import PartScores, read_parts, scored_by, write_part
from medsam_adapt.scoring.protocols import SEES_THE_ANSWER
from medsam_adapt.scoring.summary import read_metrics, summarise, write_metrics
from medsam_adapt.workflows.reporter import Reporter, quiet_logs

_FROM_RUN = ("settings", "slicing")  # of the config, filled in with the run's values


@dataclass(frozen=True)
class RunScoring:
    """How a run is scored.

    Attributes:
        run: its folder.
        data: other labelled volumes than its held-out ones.
        layout: of ``data``.
        device: as the user gave it.
        rules: which metrics, and how.
        output: folder of the scores.
    """

    run: Path
    data: Path | None
    layout: str
    device: str
    rules: MetricRules
    output: Path

    def elsewhere(self) -> RunScoring:
        """The same for processes with another working folder."""
        data = None if self.data is None else self.data.absolute()
        return replace(self, run=self.run.absolute(), data=data, output=self.output.absolute())

    def on(self, device: str) -> RunScoring:
        """The same on another device."""
        return replace(self, device=device)

    @cached_property
    def record(self) -> RunRecord:
        """Of the run."""
        return read_run(self.run)

    @cached_property
    def _values(self) -> dict[str, Any]:
        """What the run's bundle is filled in with."""
        record = self.record
        values = {**run_knobs(record.bundle, **record.knobs).model_dump(), **record.config_values()}
        if self.data is not None:
            found = images_in_order(self._found, record.images)
            refuse_other_images(found.images, record.images, self.data, self.run)
            values |= {"layout": found.layout, "cases": None, "label_ids": matching_ids(found, record)}
        return values

    @cached_property
    def _found(self) -> CaseList:
        """The cases of ``data``."""
        assert self.data is not None, "asked for where it is given"
        return find_cases(self.data, self.layout)

    @cached_property
    def _root(self) -> Path:
        return self.data or data_of(self.record, self.run)

    @cached_property
    def ids(self) -> list[str]:
        """All cases, in the order of the data set."""
        wanted = None if self._values["cases"] is None else {*self._values["cases"]}
        found = find_cases(self._root, self._values["layout"]).cases
        return [case.id for case in found if wanted is None or case.id in wanted]

    @property
    def _notes(self) -> list[str]:
        own_cases = self.data is None and self._values["cases"] is not None
        notes = notes_on(self.record, own_cases, self.rules)
        if self.data is not None and list(self._found.images) != self.record.images:
            theirs, ours = (", ".join(names) for names in (self._found.images, self.record.images))
            notes.append(f"The data set's images are {theirs}; the run takes them as {ours}.")
        return notes

    def whole(self, reporter: Reporter) -> dict[str, Any]:
        """Score all cases; the content of ``metrics.json``."""
        self._check()
        self._run_bundle(self._values["cases"], self.output, reporter)
        return read_metrics(self.output)

    def _check(self) -> None:
        """Refuse a run without weights, or with an adapter that this version does not have."""
        from medsam_adapt.inference.run_network import build_adapter

        require_trained(self.run)
        build_adapter(self.record.adapter)

    def do_part(self, part: Part, reporter: Reporter) -> None:
        """Score one part of the cases, and store its scores."""
        self._check()
        own = {*part.of(self.ids)}
        reporter.note(f"part {part.number} of {part.count}: {len(own)} of {counted(len(self.ids), 'case')}.")
        scores = PartScores()
        if own:
            with tempfile.TemporaryDirectory(prefix="medsam-adapt-") as scratch:
                done = self._run_bundle([case for case in self.ids if case in own], Path(scratch), reporter)
            scores = PartScores(done.cases, done.facts)
        write_part(self.output, part, self._settings, scores)

    def merged(self, count: int, reporter: Reporter) -> tuple[dict[str, Any], list[int]]:
        """The content of ``metrics.json``, which is written where no part is missing, and the parts that are."""
        whole, missing = read_parts(self.output, count, self._settings)
        if missing:
            return {}, missing
        from medsam_adapt.evaluation.pictures import mean_dsc

        # Which cases are shown is known only now, and no part has kept their volumes.
        shown = {*choose_cases(mean_dsc(whole.cases)).values()}
        if shown:
            with tempfile.TemporaryDirectory(prefix="medsam-adapt-") as scratch:
                self._run_bundle([case for case in self.ids if case in shown], Path(scratch), reporter)
                shutil.copytree(Path(scratch, "pictures"), self.output / "pictures", dirs_exist_ok=True)
                with written_whole(self.output / SHOWN_FILE) as temporary:
                    shutil.copyfile(Path(scratch, SHOWN_FILE), temporary)
        record = self.record
        summary = summarise(whole.cases, record.class_names, self.rules, whole.facts, record.absent, self._notes)
        write_metrics(self.output, summary)
        return read_metrics(self.output), []

    @property
    def _settings(self) -> dict[str, Any]:
        """What parts must agree on."""
        weights = require_trained(self.run).stat()
        return scored_by(
            self.rules,
            self.ids,
            data=str(self._root.resolve()),
            weights=[weights.st_size, weights.st_mtime_ns],
            notes=self._notes,
        )

    def _run_bundle(self, cases: Sequence[str] | None, output: Path, reporter: Reporter) -> Any:
        """Run the bundle's ``evaluate.json`` on some cases, or on all; the scores that its evaluator holds."""
        from medsam_adapt.core.devices import select_device

        record, values = self.record, {**self._values, "cases": cases}
        config = read_config(record.bundle, "evaluate")
        with quiet_logs(reporter):
            flow = workflow(
                record.bundle,
                "evaluate",
                {
                    **{block: {key: values.get(key, own) for key, own in config[block].items()} for block in _FROM_RUN},
                    "adapter": {"_target_": record.adapter.name, **record.adapter.settings},
                    "dataset_dir": plain_path(self._root),
                    "output_dir": plain_path(output),
                    "bundle_root": plain_path(self.run),
                    "device": select_device(device_of_process(self.device, local_rank())),
                },
                workflow_type="infer",
            )
            evaluator = flow.evaluator
            evaluator.scores.rules = self.rules
            evaluator.scores.notes += self._notes
            with reporter.progress("scoring", evaluator.state.epoch_length) as progress:
                from ignite.engine import Events

                evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: progress.update(1))
                flow.run()
        return evaluator.scores


def notes_on(record: RunRecord, own_cases: bool, rules: MetricRules) -> list[str]:
    """What a reader must know of a run's scores."""
    notes = []
    if own_cases and not record.held_out:
        notes.append("The run held nothing out: these are scores on its own training cases.")
    if own_cases and record.held_out and record.knobs["val_interval"] < record.knobs["epochs"]:
        notes.append(
            "The weights are those of the best validation on these very cases, which flatters the scores; with "
            "val_interval equal to epochs they are the last ones."
        )
    if own_cases and record.held_out and any(each.step != "none" for each in record.cleaning):
        notes.append("The clean-up of the masks was chosen on these very cases, which flatters the scores.")
    if record.prompt != "none":
        notes.append(f"{SEES_THE_ANSWER} (The prompts are taken from the labels: {record.prompt}.)")
    elif rules.protocol == "papers":
        notes.append("The papers prompt with a box or a point from the label; this run segments without a prompt.")
    return notes


def matching_ids(found: CaseList, record: RunRecord) -> list[int]:
    """The ids that the run's classes have in another data set: by name, or the run's own where it names none."""
    if not found.classes:
        return record.label_ids
    ids = {class_key(name): label_id for label_id, name in found.classes.items()}
    missing = [name for name in record.class_names if class_key(name) not in ids]
    if missing:
        raise InputError(
            f"{found.root}: it has no class '{missing[0]}', which the run segments. Score it on data that has."
        )
    return [ids[class_key(name)] for name in record.class_names]
