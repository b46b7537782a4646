"""Print what a whole training step and a whole prediction gain from each part of medsam_adapt.kernels alone.

    python benchmarks/kernel_gains.py [--works predict-512 lora-512 ...] [--rounds 6] [--threads 1]
        [--parts ...] [--memory] [--quick] [--json FILE] [--page docs/speed.md]

A work is one image (--works ends in its side in pixels) on ViT-B, four on vit_nano at 128 pixels (*nano*), two on
lite_medsam at 256 (*lite*), one on mobile_sam at 1024 (*mobile*) or on sam2_hiera_tiny at 1024 (*hiera*): *predict* is
the network of a prediction, from image to logits; the others are training steps with forward pass, loss, backward pass
and optimiser: *lora* and *adaptformer* are SAM-COBOT's, *lora-low* is with `--low-memory`. In every round each work is
run with all parts, and again without each of them, in turn. A gain is the least time without the part over the least
time with all. Time is processor time, and the least of the rounds counts, for other programs on the machine can only
add to it. Weights are random: they make no difference to the time. With --memory it is the extra memory of one run that
is printed instead, in MiB, with all parts and without each.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from timing import Work, add_options, extra_memory, markdown_table, show, start, write_results
from training_step import prepare

from medsam_adapt.core import precision
from medsam_adapt.kernels import attention, blocks, conv_bands, feed_forward, mask_decoder, onednn
from medsam_adapt.kernels.attention_tiles import flattened, plain
from medsam_adapt.methods import LoRA
from medsam_adapt.networks import build_segmenter

WORKS = ["predict-512", "predict-1024", "lora-512", "lora-low-512", "adaptformer-512", "predict-nano", "lora-nano"]
WORKS += ["predict-lite", "lora-lite", "predict-mobile", "predict-hiera"]
SMALL = {"nano": ("vit_nano", 128, 4), "lite": ("lite_medsam", 256, 2)}
SMALL |= {"mobile": ("mobile_sam", 1024, 1), "hiera": ("sam2_hiera_tiny", 1024, 1)}
NO_LIMIT = 2**40


def _plain_attention(tensors: Any, table_h: Any, table_w: Any, scale: float) -> Any:
    return plain(*flattened(tensors, table_h, table_w), scale).view(-1, *tensors[0].shape[-3:])


PARTS: dict[str, list[tuple[Any, str, Any]]] = {
    "GELU gradients in 16 bits": [(feed_forward, "can_keep_gelu_gradients", lambda *_: False)],
    "malloc_trim": [(precision, "_give_back", lambda _: None)],
    "feed-forward by parts": [(feed_forward, "_at_a_time", lambda _: NO_LIMIT)],
    "tiled attention": [(attention, "attend", _plain_attention)],
    "TinyViT in bands": [(conv_bands, "needs_no_gradient", lambda *_: False)],
    "TinyViT's GELU fused": [(onednn, "_HAS_OPERATORS", False)],
    "linear layers by oneDNN": [(each, "needs_no_gradient", lambda *_: False) for each in (blocks, onednn)],
    "mask decoder by tokens": [(mask_decoder, "needs_no_gradient", lambda *_: False)],
}


def without(part: str | None, work: Work) -> Work:
    """The work as it is without a part; with all of them for None."""

    def run() -> None:
        with ExitStack() as stack:
            for place, name, value in PARTS.get(part or "", []):
                stack.enter_context(patch.object(place, name, value))
            work()

    return run


def prepare_work(name: str) -> Work:
    """A training step or a prediction, ready to be run."""
    kind, _, size = name.rpartition("-")
    variant, pixels, batch = SMALL[size] if size in SMALL else ("vit_b", int(size), 1)
    device = torch.device("cpu")
    if kind != "predict":
        method = f"samcobot-{kind.removesuffix('-low')}"
        return prepare(method, "low memory" if kind.endswith("-low") else "online", variant, pixels, batch, device)
    segmenter = build_segmenter(variant, pixels, 4, LoRA(), checkpoint="random", tune_encoder=False).eval()
    segmenter.adapter.merge(segmenter.sam)
    images = torch.rand(batch, 3, pixels, pixels) * 255
    return lambda: torch.no_grad()(segmenter)(images)


def prepare_without(part: str | None, name: str) -> Work:
    """As :func:`without`, of a work by name: for another process."""
    return without(part, prepare_work(name))


def least(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """The least processor time in seconds of each work, in rounds that run all of them in turn."""
    seconds = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            begun = time.process_time()
            work()
            seconds[name] = min(seconds[name], time.process_time() - begun)
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(threads=1, rounds=6)
    parser.add_argument("--works", nargs="+", default=WORKS, help="what is run")
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS], help="parts that are left out")
    parser.add_argument("--memory", action="store_true", help="extra memory instead of time")
    options = parser.parse_args()
    device = start(options)
    results, rows = [], []
    for name in ["predict-nano"] if options.quick else options.works:
        print(name, file=sys.stderr, flush=True)
        if options.memory:
            taken = {part: extra_memory(prepare_without, part, name) for part in (None, *options.parts)}
            results.append({"work": name, "bytes": {part or "all": value for part, value in taken.items()}})
            rows.append([name, *(f"{value / 2**20:.0f}" for value in taken.values())])
            write_results(options.json, results, device)
            continue
        work = prepare_work(name)
        works = {part: without(None if part == "all" else part, work) for part in ("all", *options.parts)}
        seconds = least(works, 1 if options.quick else options.rounds)
        results.append({"work": name, "seconds": seconds})
        gains = (f"{seconds[part] / seconds['all']:.2f} x" for part in options.parts)
        rows.append([name, f"{seconds['all'] * 1e3:.0f}", *gains])
        write_results(options.json, results, device)
    unit = "MiB" if options.memory else "ms"
    show(markdown_table(["work", f"{unit} with all", *options.parts], rows), "gains", options.page)


if __name__ == "__main__":
    main()
