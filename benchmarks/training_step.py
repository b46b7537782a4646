"""Print time and memory of a training step of each method: in this package's ways, and as the authors' code does it.

    python benchmarks/training_step.py [--methods samparser blosam-first ...] [--backbone vit_b] [--image-size 1024]
        [--batch 1] [--rounds 5] [--device cpu] [--threads 2] [--bf16] [--compile] [--no-memory]
        [--quick] [--json FILE] [--page docs/speed.md]

A step is one image, or --batch of them, with one structure and a box, or for BLO-SAM (256 pixels, no prompt) as many of
each half: forward pass, loss, backward pass, optimiser. Weights are random, for they make no difference to the time.

- *cached*: this package, with cached features of the frozen layers. *online*: this package without the cache.
- *low memory*: with `--low-memory`, where gradients go through the encoder; online unless it is marked *cached*.
- *reference*: authors_steps.py, as the authors' code does the work. segment-anything's own attention; encoder and
  teacher in every step; InfoSAM's boundary weights by one pooling of 31 x 31; BLO-SAM with a data loader that is begun
  again in every step and, in the second order, a copy of the network and five passes through the encoder. Nothing is
  augmented, as in their loaders.
- *fill*: what a slice costs once, before the cached steps. *25 epochs* is computed from these medians: 25 reference
  steps a slice, against 25 cached steps and one fill.

Where training reaches the first block there is nothing to cache. Steps of less than a second are repeated for a second
in each turn, for in a training they follow one another.

InfoSAM compares the images of a batch, which takes two at least; where there is one, it goes through all of its work,
and the Gram matrices of 1 x 1 are left out on both sides. Extra memory is the most that a process takes beyond what it
had when its step began, without the cache itself. Loading slices is left out but for BLO-SAM's reference;
slice_loading.py measures it. With --bf16 the image encoders of this package's steps run in bfloat16, as with
`--precision bf16`. With --compile the network is compiled, as with `--set compile=true`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from authors_steps import Step, blosam_step, infosam_step, plain_segmenter, plain_step
from timing import add_options, extra_memory, interleaved_medians, markdown_table, show, start, write_results
from torch import Tensor

from medsam_adapt.core.update import PlainUpdate, Update
from medsam_adapt.methods import (
    AdaptFormer,
    BiLevelUpdate,
    CobotAdaptFormer,
    CobotLoRA,
    DecoderLoRA,
    DistillationUpdate,
    InformationDistillation,
    LoRA,
    Parser,
    SegmentationLoss,
    SeriesAdapters,
    StructureLoss,
)
from medsam_adapt.networks import (
    DecoderOnly,
    Segmenter,
    build_segmenter,
    build_teacher,
    model_weights,
    prompt_embedding,
)

ADAPTERS: dict[str, Callable] = {
    "samparser": Parser,
    "infosam": SeriesAdapters,
    "samcobot-lora": CobotLoRA,
    "samcobot-adaptformer": CobotAdaptFormer,
    "blosam-first": DecoderLoRA,
    "blosam-second": DecoderLoRA,
    "decoder": DecoderOnly,
    "lora": LoRA,
    "adaptformer": AdaptFormer,
}
PAPERS = ["samparser", "infosam", "samcobot-lora", "samcobot-adaptformer", "blosam-first", "blosam-second"]
CACHED = ["samparser", "infosam", "blosam-first", "blosam-second", "decoder"]
DEEP = ["infosam", "samcobot-lora", "samcobot-adaptformer", "lora", "adaptformer"]  # gradients through the encoder
EPOCHS = 25
TURN = 1.0  # seconds: in a training, short steps follow steps of the same kind, not others that evict the caches


class OneImage(InformationDistillation):
    """The relations of teacher and student for one image, without the Gram matrices, which would be of 1 x 1."""

    def forward(self, *features: Tensor, transfer: bool = True) -> Tensor:
        teacher, student = features[:2], features[2:]
        relations = [self.relation(*map(self._tokens, each)) for each in (teacher, student)]
        return (relations[0] * relations[1]).sum()


def prepare(
    method: str,
    kind: str,
    variant: str,
    size: int,
    batch_size: int,
    device: torch.device,
    bf16: bool = False,
    compiled: bool = False,
) -> Step:
    """What one step of a method does, ready to be run."""
    torch.manual_seed(0)
    image = torch.rand(batch_size, 3, size, size, device=device) * 255
    label = torch.zeros(batch_size, 1, size, size, dtype=torch.int64, device=device)
    label[..., size // 4 : size // 2, size // 3 : size // 2] = 1
    boxes = torch.tensor([[size / 3, size / 4, size / 2, size / 2]] * batch_size, device=device)
    bi_level = method.startswith("blosam")
    adapter = ADAPTERS[method]()
    if kind == "reference":
        segmenter = plain_segmenter(variant, size, adapter, not bi_level, learn_prompt=bi_level).to(device).train()
        if bi_level:
            return blosam_step(segmenter, image, label, method == "blosam-second")
        if method == "infosam":
            teacher = plain_segmenter(variant, size, DecoderOnly(), prompted=True).to(device).requires_grad_(False)
            return infosam_step(segmenter, teacher, _distillation(segmenter, image), image, label, boxes)
        return plain_step(segmenter, image, label, boxes)
    prompt = "none" if bi_level else "box"
    running: dict[str, Any] = {"precision": "bf16" if bf16 else "fp32"}
    low_memory = "low memory" in kind
    segmenter = build_segmenter(
        variant, size, 1, adapter, prompt, "random", bi_level, tune_encoder=False, low_memory=low_memory, **running
    ).to(device)
    batch = {"image": image, "label": label} | ({} if bi_level else {"boxes": boxes})
    teacher = build_teacher(variant, size, "random", **running).to(device) if method == "infosam" else None
    return _own_step(method, kind, segmenter, teacher, batch, compiled)


def _own_step(
    method: str, kind: str, segmenter: Segmenter, teacher: Segmenter | None, batch: dict[str, Tensor], compiled: bool
) -> Step:
    image, frozen = batch["image"], segmenter.frozen_features
    with torch.no_grad():
        if kind == "fill":
            return lambda: _fill(image, segmenter, teacher)
        given = dict(batch)
        if kind.startswith("cached"):
            given["features"] = frozen(image)
            given |= {} if teacher is None else {"teacher_embedding": teacher.encode(image)}
    trainer = _trainer(method, segmenter, given)
    if compiled:
        trainer.network = torch.compile(segmenter)
    update: Update = PlainUpdate()
    if method == "infosam":
        assert teacher is not None
        distillation = _distillation(segmenter, image)
        loader: Any = SimpleNamespace(dataset=range(2), batch_size=2)  # of which the update asks the sizes
        update = DistillationUpdate(teacher, distillation, loader)
        trainer.optimizer.add_param_group({"params": list(distillation.parameters())})
    elif method.startswith("blosam"):
        prompt_optimizer = torch.optim.AdamW([prompt_embedding(segmenter)], lr=1e-6, fused=True)
        second: Any = iter(lambda: given, None)
        update = BiLevelUpdate(method.removeprefix("blosam-"), None, prompt_optimizer, second)  # type: ignore[arg-type]
    return lambda: update(trainer, given)


@torch.no_grad()
def _fill(image: Tensor, segmenter: Segmenter, teacher: Segmenter | None) -> None:
    segmenter.frozen_features(image)
    if teacher is not None:
        teacher.encode(image)


def _distillation(segmenter: Segmenter, image: Tensor) -> InformationDistillation:
    kind = OneImage if len(image) == 1 else InformationDistillation
    return kind(segmenter.sam.prompt_encoder.embed_dim).to(image.device)


def _trainer(method: str, segmenter: Segmenter, given: dict[str, Tensor]) -> Any:
    """What the updates ask of MONAI's trainer."""
    weights = (0.2, 0.8) if method.startswith("blosam") else (1.0, 1.0)
    others = {name: value for name, value in given.items() if name not in ("image", "label")}
    kwargs = {**others, "low_res": method != "infosam"}
    return SimpleNamespace(
        network=segmenter,
        optimizer=torch.optim.AdamW(model_weights(segmenter), lr=1e-6, fused=True),
        loss_function=StructureLoss() if method == "infosam" else SegmentationLoss(segmenter.head, *weights),
        inferer=lambda image, network, *args, **kwargs: network(image, *args, **kwargs),
        prepare_batch=lambda *_, **__: (given["image"], given["label"], (), dict(kwargs)),
        state=SimpleNamespace(device=given["image"].device, epoch=1),
        non_blocking=False,
        to_kwargs={},
    )


def measure(method: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds and bytes of each kind of step, and what they are to the reference."""
    size = options.image_size or (256 if method.startswith("blosam") else 1024)
    size = 64 if options.quick else size
    given = ("vit_nano" if options.quick else options.backbone, size, options.batch, device)
    kinds = ["reference", "online"]
    kinds += ["low memory"] if method in DEEP else []
    kinds += ["cached", "fill"] if method in CACHED else []
    kinds += ["cached, low memory"] if method in DEEP and method in CACHED else []
    ours = options.bf16, options.compile
    works = {kind: prepare(method, kind, *given, *(ours if kind != "reference" else ())) for kind in kinds}
    seconds = interleaved_medians(works, options.rounds, device, at_least=0.0 if options.quick else TURN)
    del works
    found: dict[str, Any] = {"method": method, "backbone": given[0], "image_size": size, "seconds": seconds}
    found["batch"] = options.batch
    found["extra_bytes"] = {
        kind: extra_memory(prepare, method, kind, *given, *(ours if kind != "reference" else ()), device=device)
        for kind in kinds
        if kind != "fill" and not options.no_memory
    }
    found["times"] = {kind: seconds["reference"] / seconds[kind] for kind in kinds if kind != "fill"}
    if "cached" in kinds:
        run = seconds["fill"] + EPOCHS * seconds["cached"]  # of as many slices as a batch has
        found["times"]["run"] = EPOCHS * seconds["reference"] / run
    return found


def rows_of(found: dict[str, Any]) -> list[list[Any]]:
    """The lines of one method in the table."""
    rows = []
    for kind, seconds in found["seconds"].items():
        extra, against = found["extra_bytes"].get(kind), found["times"].get(kind, "")
        run = found["times"]["run"] if kind == "cached" else ""
        memory = "" if extra is None else f"{extra / 1e9:.2f}"
        batch = "" if found["batch"] == 1 else f", batch {found['batch']}"
        name = f"{found['method']}, {found['backbone']} {found['image_size']}{batch}, {kind}"
        rows.append([name, seconds * 1e3, found["batch"] / seconds, against, run, memory])
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--methods", nargs="+", default=PAPERS, choices=[*ADAPTERS], help="methods to measure")
    parser.add_argument("--backbone", default="vit_b", help="size of the SAM")
    parser.add_argument("--image-size", type=int, help="side of the image; 1024, and 256 for BLO-SAM, when not given")
    parser.add_argument("--batch", type=int, default=1, help="images a step")
    parser.add_argument("--bf16", action="store_true", help="this package's image encoders in bfloat16")
    parser.add_argument("--compile", action="store_true", help="this package's steps compiled")
    parser.add_argument("--no-memory", action="store_true", help="times alone")
    options = parser.parse_args()
    device = start(options)
    header = ["step", "ms", "samples / s", "× reference", f"{EPOCHS} epochs × reference", "extra memory, GB"]
    results, rows = [], []
    for number, method in enumerate(options.methods, 1):
        print(f"{method}, {number} of {len(options.methods)}", file=sys.stderr, flush=True)
        results.append(measure(method, options, device))
        rows += rows_of(results[-1])
        write_results(options.json, results, device)
    show(markdown_table(header, rows), "bf16 steps" if options.bf16 else "steps", options.page)


if __name__ == "__main__":
    main()
