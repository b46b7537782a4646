"""Anybody's masks scored on a reference: all of them, or in parts that are put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.parts import Part
from medsam_adapt.core.text import counted
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.parts import PartScores, read_parts, scored_by, write_part
from medsam_adapt.scoring.protocols import check_tolerances
from medsam_adapt.scoring.summary import summarise, write_metrics
from medsam_adapt.workflows.reporter import Reporter

if TYPE_CHECKING:  # it imports SciPy
    from medsam_adapt.scoring.mask_pairs import Label, MaskPair, Matched


@dataclass(frozen=True)
class MaskScoring:
    """Masks to score, and how.

    Attributes:
        predictions: a mask, or a folder of masks.
        references: the same.
        labels: JSON file with the names of the labels.
        rules: which metrics, and how.
        tolerance: of NSD, as the user gave it.
        workers: processes.
        output: folder of the scores; None to write none.
        device: none is used.
    """

    predictions: Path
    references: Path
    labels: Path | None
    rules: MetricRules
    tolerance: str | None
    workers: int
    output: Path | None
    device: str = "cpu"

    def elsewhere(self) -> MaskScoring:
        """The same for processes with another working folder."""
        labels, output = (None if path is None else path.absolute() for path in (self.labels, self.output))
        predictions, references = self.predictions.absolute(), self.references.absolute()
        return replace(self, predictions=predictions, references=references, labels=labels, output=output)

    def on(self, device: str) -> MaskScoring:
        """The same: no device is used."""
        return self

    @cached_property
    def _matched(self) -> Matched:
        from medsam_adapt.scoring.mask_pairs import match_masks

        return match_masks(self.predictions, self.references)

    @property
    def ids(self) -> list[str]:
        """All cases."""
        return [pair.id for pair in self._matched.pairs]

    @cached_property
    def _named(self) -> dict[int, str] | None:
        from medsam_adapt.scoring.mask_pairs import read_class_names

        named = None if self.labels is None else read_class_names(self.labels)
        if named is not None:
            check_tolerances(self.tolerance, list(named.values()))
        return named

    def whole(self, reporter: Reporter) -> dict[str, Any]:
        """Score all cases; the content of ``metrics.json``."""
        pairs = list(self._matched.pairs)
        classes, scores = self._score(pairs, pairs, reporter)
        return self._summary(classes, scores)

    def do_part(self, part: Part, reporter: Reporter) -> None:
        """Score one part of the cases, and store its scores."""
        pairs, own = list(self._matched.pairs), {*part.of(self.ids)}
        reporter.note(f"part {part.number} of {part.count}: {len(own)} of {counted(len(pairs), 'case')}.")
        mine = [pair for pair in pairs if pair.id in own]
        # Without names, which classes there are is known when all files are read, whatever part they are in.
        classes, scores = self._score(pairs if self._named is None else mine, mine, reporter)
        scores.classes = {str(label): name for label, name in classes.items()}
        write_part(self._folder, part, self._settings, scores)

    def merged(self, count: int, reporter: Reporter) -> tuple[dict[str, Any], list[int]]:
        """The content of ``metrics.json``, which is written where no part is missing, and the parts that are."""
        scores, missing = read_parts(self._folder, count, self._settings)
        if missing:
            return {}, missing
        named = scores.classes if self._named is None else {str(label): name for label, name in self._named.items()}
        return self._summary(named, scores), []

    @property
    def _folder(self) -> Path:
        assert self.output is not None
        return self.output

    @property
    def _settings(self) -> dict[str, Any]:
        """What parts must agree on."""
        places = [str(path.resolve()) for path in (self.predictions, self.references)]
        return scored_by(self.rules, self.ids, masks=places, classes=self._named)

    def _score(
        self, read: list[MaskPair], pairs: list[MaskPair], reporter: Reporter
    ) -> tuple[dict[Label, str], PartScores]:
        """The classes in ``read``, and the scores of ``pairs``."""
        from medsam_adapt.scoring.mask_pairs import find_labels, missing_masks, score_masks

        named = self._named
        with reporter.progress("checking", len(read)) as progress:
            found = find_labels(read, self.workers, lambda case: progress.update(1))
        ids: list[Any] = sorted(set().union(*found.values()))
        if named is not None and any(isinstance(label_id, str) for label_id in ids):
            raise InputError(
                f"{self.references}: it has one file for each structure, which names it. Leave out --labels."
            )
        classes: dict[Any, str] = {label_id: str(label_id) for label_id in ids} if named is None else dict(named)
        if len(read) == len(self._matched.pairs) and (not classes or not ids):
            raise self._empty()
        check_tolerances(self.tolerance, list(classes.values()))
        with reporter.progress("scoring", len(pairs)) as progress:
            scores, facts = score_masks(pairs, classes, self.rules, self.workers, lambda case: progress.update(1))
        return classes, PartScores(scores, facts, ids, missing_masks(pairs))

    def _summary(self, classes: dict[Any, str], scores: PartScores) -> dict[str, Any]:
        if not classes or not scores.label_ids:
            raise self._empty()
        notes = [f"{path} has no counterpart and was not scored." for path in self._matched.unmatched]
        notes += scores.notes
        if unnamed := [label_id for label_id in sorted(scores.label_ids) if str(label_id) not in map(str, classes)]:
            notes.append(f"not in {self.labels}, and not scored: label {', '.join(map(str, unnamed))}.")
        summary = summarise(scores.cases, list(classes.values()), self.rules, scores.facts, notes=notes)
        if self.output is not None:
            write_metrics(self.output, summary)
        return summary

    def _empty(self) -> InputError:
        return InputError(
            f"{self.predictions}: neither these masks nor those of {self.references} have a labelled voxel. Give "
            "masks with labels."
        )
