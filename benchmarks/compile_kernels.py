"""Compile the fused attention for GPU architectures, without a GPU, and print the resources of each kernel.

    python benchmarks/compile_kernels.py [--architectures 80 86 89 90] [--dims 64 80]

One line for each architecture and length of the vectors of a head (64 in ViT-B and L, 80 in ViT-H): KiB of shared
memory of each kernel in bfloat16, of which a program may take 99 at least on those architectures, 163 on 80 and 227 on
90. Nothing is run, and no speed is measured.
"""

from __future__ import annotations

import argparse

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from medsam_adapt.kernels import attention_triton as attention_kernels
from medsam_adapt.kernels.attention_fused import options_of, sides_of

KERNELS = ("mix", "query_gradients", "key_gradients")
SIDES = {"global": 64, "windows": 14}  # columns, at 1024 pixels
_SINGLE = ("logsumexp", "along", "to_fill")
_WHOLE = ("height", "width", "rows", "down", "across", "heads", "images", "span")


def compiled(architecture: int, dim: int, kind: str = "global") -> dict[str, int]:
    """KiB of shared memory by kernel.

    Args:
        architecture: such as ``90`` for compute capability 9.0.
        dim: length of the vectors of a head.
        kind: ``global`` or ``windows``.
    """
    taken = {}
    for name in KERNELS:
        kernel = getattr(attention_kernels, name)
        sides = sides_of(torch.bfloat16, SIDES[kind], SIDES[kind], dim)
        fixed = {"columns": SIDES[kind], "dim": dim, "PADDED": kind == "windows", "FILLED": False, **sides}
        constants = {each: fixed[each] for each in kernel.arg_names if each in fixed}
        types = {each: "constexpr" if each in fixed else _type(each) for each in kernel.arg_names}
        whole = {(i,): [["tt.divisibility", 16]] for i, each in enumerate(types.values()) if "*" in each}
        source = ASTSource(kernel, types, constants, whole)  # addresses are multiples of 16
        found = triton.compile(source, GPUTarget("cuda", architecture, 32), options_of(fixed, name))
        taken[name] = found.metadata.shared // 1024
    return taken


def _type(argument: str) -> str:
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
            for kind in SIDES:
                taken = compiled(architecture, dim, kind)
                print(f"sm_{architecture}, vectors of {dim}, {kind}: {taken} KiB", flush=True)


if __name__ == "__main__":
    main()
