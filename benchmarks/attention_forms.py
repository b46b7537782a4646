"""Print how long each exact form of the encoder's attention takes here: which is chosen, and what the others would.

    python benchmarks/attention_forms.py [--backbone vit_b] [--batch 1] [--device cpu] [--threads 2] [--bf16]
        [--rounds 5] [--quick] [--json FILE] [--page FILE]

Queries, keys, values and biases are given; what a block makes them of is left out (encoder_speed.py has the whole).
Global attention over 64 x 64 and 32 x 32 tokens, and windows of 14 x 14, forward and with backward:

- *plain*: scores and biases in memory, as segment-anything has them.
- *matrix*: PyTorch's own attention, with the matrix of biases as its mask.
- *widened*: the same with longer vectors, which hold the biases.
- *tiled*: ours on a processor. *fused*: our kernel, on a GPU in bfloat16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timing import Work, add_options, interleaved_medians, markdown_table, show, start, write_results
from torch import Tensor

from medsam_adapt.networks.attention import widened
from medsam_adapt.networks.attention_fused import can_fuse, fused
from medsam_adapt.networks.attention_tiles import plain, tiled
from medsam_adapt.networks.variants import Variant, get_variant


def with_matrix(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Plain attention with a mask (N, Q, H W) of the biases."""
    mask = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(2)
    tensors = (each[:, None] for each in (query, key, value))
    return F.scaled_dot_product_attention(*tensors, mask[:, None], scale=scale)[:, 0]


def forms(device: torch.device) -> dict[str, Callable[..., Tensor]]:
    """What is compared on a device; the first is the baseline."""
    own = {"tiled": tiled} if device.type == "cpu" else {"fused": fused}
    return {"plain": plain, "matrix": with_matrix, "widened": widened, **own}


def given(sizes: Variant, side: int, number: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Random inputs for ``number`` grids of ``side`` x ``side`` tokens."""
    heads, dim = number * sizes.num_heads, sizes.embed_dim // sizes.num_heads
    lengths = [dim, dim, dim, side, side]
    return [torch.randn(heads, side**2, length, device=device, dtype=dtype) for length in lengths]


def work_of(attend: Callable[..., Tensor], inputs: list[Tensor], backward: bool) -> Work:
    """One pass through a form."""
    tensors = [each.clone().requires_grad_(backward) for each in inputs]
    scale = tensors[0].shape[2] ** -0.5

    def work() -> None:
        output = attend(*tensors, scale)
        if backward:
            torch.autograd.grad(output, tensors, torch.ones_like(output))

    return work


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--backbone", default="vit_b", help="vit_b, vit_l or vit_h")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--bf16", action="store_true", help="in bfloat16")
    options = parser.parse_args()
    device, sizes = start(options), get_variant(options.backbone)
    window = sizes.window_size
    shapes = {f"global {side} x {side}": (side, options.batch) for side in ([8] if options.quick else [64, 32])}
    shapes[f"windows {window} x {window} of 64 x 64"] = (window, (1 if options.quick else 25) * options.batch)
    results: list[dict[str, Any]] = []
    for name, (side, number) in shapes.items():
        inputs = given(sizes, side, number, device, torch.bfloat16 if options.bf16 else torch.float32)
        for backward in (False, True):
            compared = forms(device)
            if device.type == "cuda" and not can_fuse(inputs[0], inputs[1], backward):
                del compared["fused"]
            works = {form: work_of(attend, inputs, backward) for form, attend in compared.items()}
            seconds = interleaved_medians(works, options.rounds, device)
            results.append({"what": f"{name}, {'with backward' if backward else 'forward'}", "seconds": seconds})
    names = list(forms(device))
    rows = [[each["what"], *(_cell(each["seconds"], form) for form in names)] for each in results]
    show(markdown_table(["ms (× plain)", *names], rows), "forms", options.page)
    write_results(options.json, results, device)


def _cell(seconds: dict[str, float], form: str) -> str:
    if form not in seconds:
        return ""
    return f"{1000 * seconds[form]:.3g} ({seconds['plain'] / seconds[form]:.2f})"


if __name__ == "__main__":
    main()
