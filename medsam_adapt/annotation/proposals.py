"""Masks that a model proposes while a person draws: of a box or points at once, of neighbouring slices, of all slices.

The embedding of a slice, which takes almost all of the time, is kept, and the slices that are likely to be needed next
are embedded in the background.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.annotation.clicks import apply_points
from medsam_adapt.annotation.drawing import Drawing
from medsam_adapt.annotation.following import follow
from medsam_adapt.annotation.proposing_models import Model, check_images, default_weights, pretrained_model, run_model
from medsam_adapt.config import Axis
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import class_key
from medsam_adapt.data.prompts.simulated import SlicePrompt
from medsam_adapt.inference.prompted_slices import PromptSource
from medsam_adapt.inference.slice_logits import SliceLogits
from medsam_adapt.inference.zero_shot import names_weights

_VOLUMES = 4  # whose embeddings are kept
_AHEAD = 6  # slices on each side of the one that is shown


class Proposals:
    """What draws for a person; safe to use from several threads.

    Args:
        prompted: draws what a box or points show.
        automatic: segments whole scans without any prompt; None where there is no such run.

    Attributes:
        prompted: as given.
        automatic: as given.
    """

    def __init__(self, prompted: Model, automatic: Model | None = None) -> None:
        self.prompted, self.automatic = prompted, automatic
        self._volumes: OrderedDict[tuple[str, Axis, int], tuple[Drawing, SliceLogits]] = OrderedDict()
        self._lock = threading.Lock()  # of what is above and below
        self._encoding = threading.Lock()  # one slice at a time
        self._waiting = 0  # requests that wait for a slice, which go before those in the background
        self._wanted: list[tuple[SliceLogits, int]] = []
        self._news = threading.Condition(self._lock)
        self._closed = False
        self._worker = threading.Thread(target=self._embed_ahead, name="embeddings", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """End the background work; proposals still work afterwards."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._worker.join()

    def propose(self, drawing: Drawing, axis: Axis, index: int, prompt: SlicePrompt, image: int = 0) -> np.ndarray:
        """The mask (rows, columns) bool of a prompt on one slice; the slices beside it are then embedded.

        ``image`` is the number of the one that is shown, which a model of one image sees; one that was trained on
        several images of a case sees these.

        Raises:
            InputError: a plane or a kind of prompt that the model does not take.
        """
        self.check(axis, prompt)
        slices = self._slices(drawing, axis, image)
        mask = self._draw(slices, index, prompt)
        self.prepare(drawing, axis, index, image)
        return mask

    def check(self, axis: Axis, prompt: SlicePrompt) -> None:
        """Refuse a plane or a kind of prompt that the model does not take; raises InputError."""
        model = self.prompted
        if axis not in model.axes:
            raise InputError(f"{model.author.name}: this run was trained on {model.axes[0]} slices. Draw there.")
        if prompt.box is not None and not model.boxes:
            raise InputError(f"{model.author.name}: this run takes points. Set one inside the structure.")
        if prompt.box is None and not (model.points and any(inside for _, _, inside in prompt.points)):
            wanted = "a point inside the structure" if model.points else "a box"
            raise InputError(f"{model.author.name}: it needs {wanted} on this slice. Draw it first.")

    def propagate(
        self,
        drawing: Drawing,
        axis: Axis,
        keys: Mapping[int, SlicePrompt],
        reach: range,
        empty: Container[int] = (),
        image: int = 0,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Index and mask of the slices without a prompt that belong to the structure, as they are drawn.

        Args:
            drawing: of the scan.
            axis: the plane.
            keys: slice -> what a person drew there.
            reach: the slices that may be drawn on.
            empty: slices that do not show the structure.
            image: as for `propose`.

        Raises:
            InputError: as `check`, or no slice to start from.
        """
        if not keys:
            raise InputError("propagate: the structure is on no slice yet. Draw a box on a slice first.")
        for prompt in keys.values():
            self.check(axis, prompt)
        slices = self._slices(drawing, axis, image)
        return follow(lambda index, prompt: self._draw(slices, index, prompt), keys, reach, empty)

    def prepare(self, drawing: Drawing, axis: Axis, index: int, image: int = 0) -> None:
        """Embed a slice and those beside it in the background, the nearest first."""
        if axis not in self.prompted.axes:
            return
        slices = self._slices(drawing, axis, image)
        near = sorted(range(index - _AHEAD, index + _AHEAD + 1), key=lambda each: abs(each - index))
        with self._news:
            self._wanted = [(slices, each) for each in near if 0 <= each < slices.shape[0]]
            self._news.notify()

    def segment(self, drawing: Drawing, classes: Mapping[int, str], progress: Any = None) -> np.ndarray:
        """The label (X, Y, Z) uint8 of a whole scan by the automatic run, in the axis order of the scan's file.

        Args:
            drawing: of the scan.
            classes: label id -> name of the session; other classes of the run are left out.
            progress: called with the number of slices just done.

        Raises:
            InputError: there is no automatic run.
        """
        if self.automatic is None:
            raise InputError("--model: only a run that was trained without prompts labels whole scans. Give one.")
        predictor = self.automatic.predictor
        taken = predictor.record.images
        check_images(self.automatic, drawing.images)
        numbers = {class_key(name): number for number, name in classes.items()}
        seen = drawing.native(drawing.seen_by(taken))
        found = predictor.segment(seen, drawing.header.affine, progress=progress).voxels
        label = np.zeros(drawing.header.shape, np.uint8)
        for place, (name, label_id) in enumerate(zip(predictor.class_names, predictor.label_ids, strict=True)):
            if class_key(name) in numbers:
                label[found[place] > 0 if found.ndim == 4 else found == label_id] = numbers[class_key(name)]
        return label

    def forget(self, drawing: Drawing) -> None:
        """Release what is kept of a scan."""
        with self._news:
            self._wanted = []
            for key in [key for key, (known, _) in self._volumes.items() if known is drawing]:
                del self._volumes[key]

    def has_embedding(self, drawing: Drawing, axis: Axis, index: int, image: int = 0) -> bool:
        """Whether the embedding of a slice is kept, so that a proposal takes a fraction of a second."""
        return self._slices(drawing, axis, image).prompted.has_embedding(index)

    def _slices(self, drawing: Drawing, axis: Axis, image: int) -> SliceLogits:
        predictor = self.prompted.predictor
        taken = predictor.record.images
        key = (drawing.id, axis, 0 if taken else image)
        with self._lock:
            known = self._volumes.get(key)
            if known is not None and known[0] is drawing:
                self._volumes.move_to_end(key)
                return known[1]
        spec = predictor.record.slicing.model_copy(update={"axis": axis})
        seen = drawing.seen_by(taken, image)
        source = PromptSource(prompts={})
        slices = SliceLogits(spec, seen, drawing.spacing, predictor.segmenter, source, spec.policy.window_of(seen))
        with self._lock:
            self._volumes[key] = (drawing, slices)
            while len(self._volumes) > _VOLUMES:
                self._volumes.popitem(last=False)
        return slices

    def _draw(self, slices: SliceLogits, index: int, prompt: SlicePrompt) -> np.ndarray:
        if not slices.prompted.has_embedding(index):
            with self._before_the_background():
                slices.prompted.embed(index)
        if self.prompted.predictor.segmenter.detail is None:
            return self._mask(slices, index, prompt)
        with self._before_the_background():  # it looks at the image, of which one slice is prepared at a time
            return self._mask(slices, index, prompt)

    def _mask(self, slices: SliceLogits, index: int, prompt: SlicePrompt) -> np.ndarray:
        if self.prompted.points or prompt.box is None or not prompt.points:
            return slices.prompted.draw(index, prompt)
        logits = slices.prompted.draw_logits(index, SlicePrompt(box=prompt.box)).cpu().numpy()
        return apply_points(logits, slices.grey_levels(index), prompt.points, prompt.box) > 0

    @contextmanager
    def _before_the_background(self) -> Iterator[None]:
        with self._lock:
            self._waiting += 1
        try:
            with self._encoding:
                yield
        finally:
            with self._news:
                self._waiting -= 1
                self._news.notify()

    def _embed_ahead(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or (self._wanted and not self._waiting))
                if self._closed:
                    return
                slices, index = self._wanted.pop(0)
            if not slices.prompted.has_embedding(index):
                with self._encoding:
                    slices.prompted.embed(index)


def load_proposals(model: str | None, classes: Sequence[str] = (), device: str = "auto") -> Proposals:
    """What ``--model`` names: pretrained weights, or a run; a run without prompts is joined by pretrained weights.

    Args:
        model: the name of weights or the folder of a run; None for LiteMedSAM where it is installed, else sam_nano.
        classes: names of the structures.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        InputError: no such run or weights, or weights that are not on this machine.
    """
    if model is None or names_weights(model):
        return Proposals(pretrained_model(model or default_weights(), classes, device))
    run = run_model(Path(model), device)
    if run.predictor.record.prompt == "none":
        return Proposals(pretrained_model(default_weights(), classes, device), run)
    return Proposals(run)
