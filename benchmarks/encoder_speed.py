"""Print how fast SAM's image encoder is here, against segment-anything's own with the same weights, and its memory.

    python benchmarks/encoder_speed.py [--backbone vit_b] [--encoders 256:8 512:1 1024:1] [--device cpu] [--threads 2]
        [--bf16] [--rounds 5] [--cpu-time] [--no-memory] [--quick] [--json FILE] [--page docs/speed.md]

Rows are the encoder alone (forward), of images in --encoders' pixels and batches; the encoder of vit_nano at its
default size, which demo and tests run on (forward, and with backward); and attention alone: a global block of 64 x 64
tokens, and windows of the same grid (forward, and with backward). Weights are random, tables of relative positions too.
The *share* is what ours reaches of the rate of a product of two large matrices on this machine; of an encoder's work
the products of linear layers, convolutions and attention are counted, without what segment-anything computes for
padding. *Extra memory* is the most that a process takes beyond what it had when the work began, and the *difference* is
the largest between the two outputs.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import torch
from segment_anything.modeling.image_encoder import Block
from timing import Work, add_options, extra_memory, interleaved_medians, markdown_table, matrix_rate, show, start
from timing import write_results as write
from torch import Tensor, nn

from medsam_adapt.kernels import install
from medsam_adapt.kernels.attention import EncoderAttention
from medsam_adapt.networks.sam import plain_encoder
from medsam_adapt.weights.backbones import Variant, get_variant

NAMES = ("segment-anything", "ours")
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One measurement: an encoder at ``size`` pixels, or with ``part`` one attention on a grid of ``size`` tokens."""

    variant: str
    size: int
    batch: int = 1
    part: str = "encoder"  # or global, windows
    backward: bool = False

    def __str__(self) -> str:
        what = (
            f"{self.variant}, {self.size} pixels"
            if self.part == "encoder"
            else f"{self.part} {self.size} x {self.size}"
        )
        way = "with backward" if self.backward else "forward"
        return f"{what}, batch {self.batch}, {way}"


def rows_of(variant: str, shapes: list[str], quick: bool) -> list[Row]:
    """What is measured; ``shapes`` of the encoder's images are such as 1024:1, pixels and batch."""
    grid = 20 if quick else 64
    encoders = [Row(variant, *map(int, shape.split(":"))) for shape in (["128:2"] if quick else shapes)]
    small = [Row("vit_nano", 128, batch, backward=way) for batch in (1, 4) for way in (False, True)]
    parts = [Row(variant, grid, 1, part, way) for part in ("global", "windows") for way in (False, True)]
    return [*encoders, *small, *parts]


def networks(row: Row) -> tuple[nn.Module, nn.Module]:
    """segment-anything's network and ours with the same weights."""
    torch.manual_seed(0)
    sizes = get_variant(row.variant)
    plain: Any = (
        plain_encoder(sizes, row.size) if row.part == "encoder" else _block(sizes, row.size, row.part == "windows")
    )
    for name, parameter in plain.named_parameters():
        if "pos" in name:  # zeros in a new network
            nn.init.normal_(parameter, std=0.02)
    fast = copy.deepcopy(plain)
    if row.part == "encoder":
        install(fast)
        return plain, fast
    fast.attn, fast.window_size = EncoderAttention(fast.attn, fast.window_size), 0
    return plain, fast


def prepare(row: Row, name: str, device: torch.device, bf16: bool = False) -> Work:
    """One pass through the network called ``name``; it returns the output, without gradients where it has none."""
    network = networks(row)[NAMES.index(name)].to(device)
    inputs = _inputs(row, device)

    def work() -> Tensor:
        network.zero_grad()  # without gradients there is nothing to do
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16), torch.set_grad_enabled(row.backward):
            output = network(inputs)
        if row.backward:
            output.float().square().mean().backward()
        return output.detach()

    return work


def operations(row: Row) -> int:
    """Of the matrix products of a forward pass, twice the multiplications; padding does not count."""
    sizes = get_variant(row.variant)
    side = row.size if row.part != "encoder" else sizes.grid(row.size)
    tokens, dim = side**2, sizes.embed_dim
    reach = {True: min(sizes.window_size, side) ** 2, False: tokens}  # keys of a query, in windows or not
    if row.part != "encoder":
        return row.batch * 2 * tokens * (4 * dim**2 + 2 * dim * reach[row.part == "windows"])
    blocks = sum(12 * dim**2 + 2 * dim * reach[index not in sizes.global_attention] for index in range(sizes.depth))
    ends = 3 * sizes.patch_size**2 * dim + dim * sizes.prompt_dim + 9 * sizes.prompt_dim**2
    return row.batch * 2 * tokens * (blocks + ends)


def measure(row: Row, device: torch.device, options: argparse.Namespace, rate: float) -> dict[str, Any]:
    """All figures of one row."""
    works = {name: prepare(row, name, device, options.bf16) for name in NAMES}
    difference = (works[NAMES[0]]() - works[NAMES[1]]()).abs().max().item()
    seconds = interleaved_medians(works, options.rounds, device, process_time if options.cpu_time else perf_counter)
    del works
    memory = {
        name: None if options.no_memory else extra_memory(prepare, row, name, device, options.bf16, device=device)
        for name in NAMES
    }
    return {
        "what": str(row),
        "seconds": seconds,
        "ratio": seconds[NAMES[0]] / seconds[NAMES[1]],
        "share": None if row.backward else operations(row) / seconds[NAMES[1]] / rate,
        "extra_memory_bytes": memory,
        "difference": difference,
    }


def as_cells(figures: dict[str, Any]) -> list[str]:
    """A row of the table."""
    seconds = [f"{1000 * figures['seconds'][name]:.1f}" for name in NAMES]
    memory = ["" if (taken := figures["extra_memory_bytes"][name]) is None else f"{taken / MIB:.0f}" for name in NAMES]
    share = "" if figures["share"] is None else f"{100 * figures['share']:.0f} %"
    return [figures["what"], *seconds, f"{figures['ratio']:.2f} x", share, *memory, f"{figures['difference']:.0e}"]


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--backbone", default="vit_b", help="vit_b, vit_l or vit_h")
    shapes = ["256:8", "512:1", "1024:1"]
    parser.add_argument("--encoders", nargs="+", default=shapes, metavar="PIXELS:BATCH", help="images of the encoder")
    parser.add_argument("--bf16", action="store_true", help="under autocast in bfloat16, both")
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for one thread on a busy machine")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory, which takes new processes")
    options = parser.parse_args()
    device = start(options)
    if options.quick:
        options.rounds = 1
    precision = torch.bfloat16 if options.bf16 else torch.float32
    side = 8192 if device.type == "cuda" else 2048  # a GPU is faster at larger ones
    rate = matrix_rate(device, precision, 512 if options.quick else side)
    print(f"{torch.get_num_threads()} threads, {precision}, matrix products at {rate / 1e9:.0f} GFLOP/s\n")
    results = [
        measure(row, device, options, rate) for row in rows_of(options.backbone, options.encoders, options.quick)
    ]
    header = ["", "segment-anything, ms", "ours, ms", "ratio", "share", "its extra MiB", "our extra MiB", "difference"]
    show(markdown_table(header, [as_cells(figures) for figures in results]), "encoder", options.page)
    write(options.json, {"matrix_rate": rate, "precision": str(precision), "rows": results}, device)


def _block(sizes: Variant, grid: int, windowed: bool) -> Block:
    """A block in which nothing but its attention takes time."""
    window = sizes.window_size if windowed else 0
    block = Block(sizes.embed_dim, sizes.num_heads, use_rel_pos=True, window_size=window, input_size=(grid, grid))
    block.norm1 = block.norm2 = block.mlp = nn.Identity()
    return block


def _inputs(row: Row, device: torch.device) -> Tensor:
    sizes = get_variant(row.variant)
    if row.part == "encoder":
        return torch.randn(row.batch, 3, row.size, row.size, device=device)
    tokens = torch.randn(row.batch, row.size, row.size, sizes.embed_dim, device=device)
    return tokens.requires_grad_(row.backward)


if __name__ == "__main__":
    main()
