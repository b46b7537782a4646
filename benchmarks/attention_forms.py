"""Print how long each exact form of the encoder's attention takes here: which is chosen, and what the others would.

    python benchmarks/attention_forms.py [--backbone vit_b] [--batch 1] [--device cpu] [--threads 2] [--bf16]
        [--rounds 5] [--no-memory] [--quick] [--json FILE] [--page FILE]

Queries, keys and values are given as the layer before leaves them; the layers around are left out (encoder_speed.py has
the whole). Extra memory is the most that a process takes beyond what it had. Global attention over 64 x 64 and 32 x 32
tokens, and windows of 14 x 14, of which the last ones are filled up, forward and with backward:

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
from timing import Work, add_options, extra_memory, interleaved_medians, markdown_table, show, start, write_results
from torch import Tensor

from medsam_adapt.kernels.attention import widened
from medsam_adapt.kernels.attention_fused import fused
from medsam_adapt.kernels.attention_tiles import flattened, plain, tiled
from medsam_adapt.kernels.attention_windows import by_windows
from medsam_adapt.weights.backbones import Variant, get_variant


def with_matrix(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Plain attention with a mask (N, Q, H W) of the biases."""
    mask = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(2)
    tensors = (each[:, None] for each in (query, key, value))
    return F.scaled_dot_product_attention(*tensors, mask[:, None], scale=scale)[:, 0]


FORMS: dict[str, Callable[..., Tensor]] = {"plain": plain, "matrix": with_matrix, "widened": widened}
MIB = 2**20


def prepare(
    form: str, sizes: Variant, side: int, window: int, number: int, device: torch.device, bf16: bool, backward: bool
) -> Work:
    """One pass through a form for ``number`` grids of ``side`` x ``side`` tokens."""
    dim, reach = sizes.embed_dim // sizes.num_heads, window or side
    kind: dict[str, Any] = {"device": device, "dtype": torch.bfloat16 if bf16 else torch.float32}
    layer = torch.randn(number, side, side, 3 * sizes.embed_dim, **kind).requires_grad_(backward)
    fill = torch.randn(3 * sizes.embed_dim, **kind) if window else None
    tables = [torch.randn(2 * reach - 1, dim, **kind).requires_grad_(backward) for _ in range(2)]
    along = torch.randn(number, side, side, sizes.embed_dim, **kind)

    def attend(tensors: Any, table_h: Tensor, table_w: Tensor, scale: float) -> Tensor:
        if form == "tiled":
            return tiled(tensors, table_h, table_w, scale)
        return FORMS[form](*flattened(tensors, table_h, table_w), scale).view(-1, *tensors[0].shape[-3:])

    def work() -> Any:
        given: Any = layer, fill, *tables, sizes.num_heads, window, dim**-0.5
        output = fused(*given) if form == "fused" else by_windows(*given, attend)
        return torch.autograd.grad(output, [layer, *tables], along) if backward else output

    return work


def forms(device: torch.device, bf16: bool) -> list[str]:
    """What is compared on a device; the first is the baseline."""
    own = {"cpu": ["tiled"], "cuda": ["fused"] if bf16 else []}.get(device.type, [])
    return ["plain", "matrix", "widened", *own]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--backbone", default="vit_b", help="vit_b, vit_l or vit_h")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--bf16", action="store_true", help="in bfloat16")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory, which takes new processes")
    options = parser.parse_args()
    device, sizes = start(options), get_variant(options.backbone)
    window, names = sizes.window_size, forms(device, options.bf16)
    sides = [8] if options.quick else [64, 32]
    shapes = {f"global {side} x {side}": (side, 0) for side in sides}
    shapes |= {f"windows {window} x {window} of {side} x {side}": (side, window) for side in sides}
    results: list[dict[str, Any]] = []
    for name, shape in shapes.items():
        for backward in (False, True):
            given = (sizes, *shape, options.batch, device, options.bf16, backward)
            seconds = interleaved_medians({form: prepare(form, *given) for form in names}, options.rounds, device)
            taken = {} if options.no_memory else {f: extra_memory(prepare, f, *given, device=device) for f in names}
            what = f"{name}, {'with backward' if backward else 'forward'}"
            results.append({"what": what, "seconds": seconds, "extra_memory_bytes": taken})
    rows = [[each["what"], *(_cell(each, form) for form in names)] for each in results]
    show(markdown_table(["ms (× plain), extra MiB", *names], rows), "forms", options.page)
    write_results(options.json, results, device)


def _cell(figures: dict[str, Any], form: str) -> str:
    seconds, taken = figures["seconds"], figures["extra_memory_bytes"]
    memory = f", {taken[form] / MIB:.0f}" if form in taken else ""
    return f"{1000 * seconds[form]:.3g} ({seconds['plain'] / seconds[form]:.2f}){memory}"


if __name__ == "__main__":
    main()
