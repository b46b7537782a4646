"""Kernels for a GPU are used on a device after a self-test there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 4e-2}  # of the largest value
_ARCHITECTURE = (8, 0)  # Ampere: below, there is no bfloat16, and compiling did not come to an end


def runs_kernels(device: torch.device) -> bool:
    """Whether there is something to be tried: a card of the kind that is known here, and the package triton."""
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= _ARCHITECTURE


def agrees(what: str, trial: Callable[[], float], tolerance: float) -> bool:
    """Whether a trial comes to an end, and what it finds is within the tolerance.

    Otherwise a warning states why: results are as right then, and come slower.

    Args:
        what: name of the kernel, for the message.
        trial: the largest difference from the plain form, relative to the largest value; see :func:`worst_difference`.
        tolerance: of it.
    """
    try:
        worst = trial()
    except Exception as error:  # whatever a compiler or driver of another version may raise
        reason = f"does not run here ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    else:
        if worst <= tolerance:
            return True
        reason = f"is off by {worst:.1g} here"
    warnings.warn(f"{what} {reason}; PyTorch's own is used instead, which is slower", stacklevel=2)
    return False


def worst_difference(
    device: torch.device, found: Callable[[], Sequence[Tensor]], right: Callable[[], Sequence[Tensor]]
) -> float:
    """The largest difference between results, relative to the largest value of each; not a number where one is none.

    Args:
        device: where they are computed, with gradients and without autocast.
        found: computes the results of a kernel.
        right: computes the same plainly.
    """
    # What is computed around this, for instance by torch.utils.checkpoint, is not to count what is kept here.
    own = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False), own:
        pairs = zip(found(), right(), strict=True)
        differences = [(one - other).abs().max() / other.abs().max() for one, other in pairs]
    return torch.stack(differences).max().item()  # Python's own would pass over what is not a number
