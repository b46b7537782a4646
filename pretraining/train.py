"""The pretraining loop: a fixed number of steps, the same weights for the same seed, stoppable and resumable."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.networks.sam import build_sam
from pretraining.images import make_sample
from pretraining.objective import AllMasks, objective, true_quality
from pretraining.prompts import draw_box, draw_longest, draw_points, exact_box
from pretraining.reading import Reader
from pretraining.start import prepare

HELD_OUT = 1 << 40  # samples from this index on are never trained on
_COLUMNS = (
    *("step", "seconds", "rate", "loss", "single", "ambiguous", "quality", "iou", "iou_best", "reading"),
    "held_out_iou",
)


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, apart from the number of steps.

    Attributes:
        seed: of weights, images and prompts.
        batch_size: images a step.
        boxes: box prompts an image.
        points: point prompts an image.
        tight: share of the boxes that are exact.
        rate: highest learning rate of AdamW.
        decay: its weight decay, of matrices and filters.
        warm_up: share of the steps in which the rate rises; it then falls to zero along a cosine.
        clip: largest norm of the gradient.
        reading: weight of the error with which grey levels and place are read from the embedding; see `Reader`.
        average: decay of the running mean of the weights, which is what is saved.
        bfloat16: whether matrix products are in half precision; prompts, losses and weights stay in float32.
    """

    seed: int = 0
    batch_size: int = 8
    boxes: int = 4
    points: int = 1
    tight: float = 0.5
    rate: float = 2e-3
    decay: float = 0.05
    warm_up: float = 0.02
    clip: float = 1.0
    reading: float = 0.0
    average: float = 0.999
    bfloat16: bool = True


class Batch(NamedTuple):
    """What one step sees; B images with K = k1 + k2 prompts each, the box prompts of all images first.

    Attributes:
        images: (B, 3, S, S) on the 0-255 scale.
        boxes: (B k1, 4).
        points: (B k2, N, 3).
        targets: (B K, S, S) float.
    """

    images: Tensor
    boxes: Tensor
    points: Tensor
    targets: Tensor


def make_batch(recipe: Recipe, step: int) -> Batch:
    """The batch of a step (0, 1, …): it follows from the recipe and the step alone."""
    each = recipe.boxes + recipe.points
    first = step * recipe.batch_size
    samples = [make_sample(recipe.seed, first + index, each) for index in range(recipe.batch_size)]
    rng = np.random.RandomState(np.random.SeedSequence([recipe.seed, step]).generate_state(4))
    for_boxes = np.concatenate([sample.masks[: recipe.boxes] for sample in samples])
    for_points = np.concatenate([sample.masks[recipe.boxes :] for sample in samples])
    longest = draw_longest(rng)
    return Batch(
        torch.from_numpy(np.stack([sample.image for sample in samples])).float(),
        torch.from_numpy(np.stack([draw_box(mask, recipe.tight, rng) for mask in for_boxes])),
        torch.from_numpy(np.stack([draw_points(mask, longest, rng) for mask in for_points])),
        torch.from_numpy(np.concatenate([for_boxes, for_points])).float(),
    )


class BatchesOfSteps(Dataset):
    """The batches of a recipe by step, so that a worker process can draw the next ones during this one."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, step: int) -> Batch:
        return make_batch(self.recipe, step)


class Pretraining:
    """The state of a run: network, optimiser, running mean of the weights, and the step it has reached.

    Args:
        recipe: what decides the weights.
        steps: how many steps the schedule has.
        device: where to compute.
        start_from: weights of an earlier run to start from; None starts from first weights.
    """

    def __init__(self, recipe: Recipe, steps: int, device: str = "cpu", start_from: Path | None = None) -> None:
        self.recipe, self.steps, self.step, self.device = recipe, steps, 0, torch.device(device)
        torch.manual_seed(recipe.seed)
        sam = build_sam("vit_nano", checkpoint=start_from)
        if start_from is None:
            prepare(sam)
        self.network = AllMasks(sam).to(self.device).train()
        self.reader = Reader(sam.prompt_encoder.embed_dim).to(self.device)
        parameters = [weight for weight in self.network.parameters() if weight.requires_grad]
        parameters += self.reader.parameters()
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
        self.mean = {name: tensor.clone() for name, tensor in self.network.sam.state_dict().items()}

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        rising = max(1, round(self.recipe.warm_up * self.steps))
        if self.step < rising:
            return self.recipe.rate * (self.step + 1) / rising
        return self.recipe.rate * 0.5 * (1 + math.cos(math.pi * (self.step - rising) / max(1, self.steps - rising)))

    def advance(self, batch: Batch | None = None) -> dict[str, float]:
        """Take one step and return what to log of it; ``batch`` is that of this step, when it is there already."""
        batch = Batch(*(tensor.to(self.device) for tensor in batch or make_batch(self.recipe, self.step)))
        rate = self.rate
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            embedding = self.network.encode(batch.images)
            boxed = self.network.masks_and_quality(_each(embedding, self.recipe.boxes), boxes=batch.boxes)
            clicked = self.network.masks_and_quality(_each(embedding, self.recipe.points), points=batch.points)
        logits, quality = (torch.cat(pair) for pair in zip(boxed, clicked, strict=True))
        loss, report = objective(logits, quality, batch.targets)
        reading = self.reader(embedding, batch.images)
        loss, report = loss + self.recipe.reading * reading, report | {"reading": reading.item()}
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.step += 1
        self._average()
        return {"step": self.step, "rate": rate, "loss": loss.item(), **report}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))  # young weights are soon forgotten
        for name, tensor in self.network.sam.state_dict().items():
            self.mean[name].lerp_(tensor, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on as if nothing had happened."""
        return {
            "recipe": asdict(self.recipe),
            "steps": self.steps,
            "step": self.step,
            "sam": self.network.sam.state_dict(),
            "mean": self.mean,
            "reader": self.reader.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same recipe and schedule.

        Raises:
            InputError: when it is of another.
        """
        if (state["recipe"], state["steps"]) != (asdict(self.recipe), self.steps):
            raise InputError(
                f"the saved state was reached with {state['recipe']} in {state['steps']} steps: "
                "resume with the same options, or give another output file."
            )
        self.step, self.mean = state["step"], state["mean"]
        self.network.sam.load_state_dict(state["sam"])
        self.reader.load_state_dict(state["reader"])
        self.optimiser.load_state_dict(state["optimiser"])


def _each(embedding: Tensor, prompts: int) -> Tensor:
    return embedding.repeat_interleave(prompts, dim=0)


@torch.no_grad()
def held_out_iou(weights: dict[str, Tensor], seed: int, images: int = 64, each: int = 4) -> float:
    """Mean IoU of mask token 0 under exact boxes, on samples that are not trained on."""
    network = AllMasks(build_sam("vit_nano")).eval()
    network.sam.load_state_dict(weights)
    scores = []
    for index in range(images):
        sample = make_sample(seed, HELD_OUT + index, each)
        boxes = torch.from_numpy(np.stack([exact_box(mask) for mask in sample.masks]))
        embedding = network.encode(torch.from_numpy(sample.image)[None].float())
        logits = network.decode(_each(embedding, each), boxes=boxes, upsample=False).low_res_logits[:, :1]
        enlarged = F.interpolate(logits, sample.masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        scores.append(true_quality(enlarged, torch.from_numpy(sample.masks).float()).mean().item())
    return float(np.mean(scores))


def measure_steps(recipe: Recipe, minutes: float, device: str = "cpu") -> int:
    """How many steps fit into some minutes on this machine, judged by a few throw-away ones."""
    trial = Pretraining(recipe, steps=8, device=device)
    trial.advance()
    start = time.perf_counter()
    while trial.step < trial.steps:
        trial.advance()
    return max(1, int(60 * minutes / ((time.perf_counter() - start) / (trial.steps - 1))))


def run(
    output: Path,
    recipe: Recipe,
    steps: int,
    resume: bool = False,
    device: str = "cpu",
    stop_at: int | None = None,
    start_from: Path | None = None,
    save_minutes: float = 10,
    log_every: int = 50,
    held_out_every: int = 500,
    held_out_images: int = 64,
    workers: int = 0,
    show: Callable[[str], None] = print,
) -> None:
    """Train, and leave the weights in ``output``; beside it a log (.csv) and the state to resume from (.state.pt).

    The weights are written every ``save_minutes`` too, so that a run can be judged before it ends. ``stop_at`` ends it
    after so many of its steps, the schedule unchanged; ``start_from`` names the weights of an earlier run.
    """
    training = Pretraining(recipe, steps, device, start_from)
    log, state = output.with_suffix(".csv"), output.with_suffix(".state.pt")
    if resume and state.is_file():
        training.load_state_dict(torch.load(state, weights_only=True))
        _cut_log(log, training.step)
    else:
        log.write_text(",".join(_COLUMNS) + "\n", encoding="utf-8")
    start = saved = time.perf_counter()
    rows: list[dict[str, float]] = []
    last = min(steps, stop_at or steps)
    batches = BatchesOfSteps(recipe)
    for batch in DataLoader(batches, None, sampler=range(training.step, last), num_workers=workers):
        rows.append(training.advance(batch))
        if training.step % log_every == 0 or training.step == last:
            row = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} | {"step": training.step}
            row["seconds"] = time.perf_counter() - start
            if training.step % held_out_every == 0 or training.step == last:
                row["held_out_iou"] = held_out_iou(training.mean, 0, held_out_images)  # comparable between runs
            _append(log, row)
            show(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
            rows = []
        if time.perf_counter() - saved > 60 * save_minutes or training.step == last:
            save_weights(output, training.mean)
            with written_whole(state) as temporary:
                torch.save(training.state_dict(), temporary)
            saved = time.perf_counter()


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights in half precision, in the layout of SAM's own checkpoints."""
    with written_whole(path) as temporary:
        save_file({name: tensor.detach().cpu().half().contiguous() for name, tensor in weights.items()}, temporary)


def _append(log: Path, row: dict[str, float]) -> None:
    with log.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="")
        writer.writerow({name: f"{value:.5g}" if name != "step" else int(value) for name, value in row.items()})


def _cut_log(log: Path, step: int) -> None:
    """Forget what was logged after the state was saved: it will be logged again."""
    lines = log.read_text(encoding="utf-8").splitlines()
    log.write_text("".join(f"{line}\n" for line in lines if line[:4] == "step" or int(line.split(",")[0]) <= step))
