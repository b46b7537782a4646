"""Compile the fused attention for graphics cards that need not be here, and print what each kernel takes of them.

    python benchmarks/compile_kernels.py [--architectures 80 86 89 90] [--dims 64 80]

One line for each architecture and length of the vectors of a head (64 in ViT-B and L, 80 in ViT-H): KiB of shared
memory of each kernel in bfloat16, of which a program may take 99 at least on those architectures, 163 on 80 and 227 on
90. Nothing is run, and nothing is said of speed.
"""

from __future__ import annotations

import argparse

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from medsam_adapt.networks import attention_kernels
from medsam_adapt.networks.attention_fused import options_of, sides_of

KERNELS = ("mix", "query_gradients", "key_gradients")
COLUMNS = 64  # of the grid at 1024 pixels
_SINGLE, _WHOLE = ("logsumexp", "along"), ("count", "rows", "columns", "dim")


def compiled(architecture: int, dim: int) -> dict[str, int]:
    """KiB of shared memory by kernel.

    Args:
        architecture: ``90`` for compute capability 9.0, say.
        dim: length of the vectors of a head.
    """
    sides = sides_of(torch.bfloat16, COLUMNS, dim)
    taken = {}
    for name in KERNELS:
        kernel = getattr(attention_kernels, name)
        types = {each: _type(each, sides) for each in kernel.arg_names}
        whole = {
            (i,): [["tt.divisibility", 16]] for i, each in enumerate(types.values()) if each == "i32" or "*" in each
        }
        source = ASTSource(kernel, types, sides, whole)  # sizes and addresses are multiples of 16, as at 1024 pixels
        found = triton.compile(source, GPUTarget("cuda", architecture, 32), options_of(sides))
        taken[name] = found.metadata.shared // 1024
    return taken


def _type(argument: str, sides: dict[str, int]) -> str:
    if argument in sides:
        return "constexpr"
    if argument in _WHOLE:
        return "i32"
    return "fp32" if argument == "scale" else "*fp32" if argument in _SINGLE else "*bf16"


def main() -> None:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", type=int, default=[80, 86, 89, 90], help="compute capabilities")
    parser.add_argument("--dims", nargs="+", type=int, default=[64, 80], help="lengths of vectors")
    options = parser.parse_args()
    for architecture in options.architectures:
        for dim in options.dims:
            print(f"sm_{architecture}, vectors of {dim}: {compiled(architecture, dim)} KiB", flush=True)


if __name__ == "__main__":
    main()
