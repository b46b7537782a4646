"""The adapter protocol: what a parameter-efficient method adds to SAM."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any

from segment_anything.modeling import Sam

from medsam_adapt.core.errors import InputError

#: Parts of a mask decoder that judge what was drawn, mask quality and SAM 2's "is it there": no loss reaches them.
UNREACHED = ("iou_prediction_head.", "pred_obj_score_head.")


class Adapter(ABC):
    """A change to SAM with few trainable tensors.

    A subclass takes its settings as constructor arguments of the same names as its attributes, and attaches itself
    to a SAM in place. What it leaves with ``requires_grad`` is what is trained, counted, saved and loaded.
    """

    #: Whether :meth:`merge` can fold the adapter into plain SAM weights exactly.
    mergeable: bool = False

    @abstractmethod
    def attach(self, sam: Sam) -> Sam:
        """Add the adapter to ``sam`` (already frozen by the caller) and mark what it trains; returns ``sam``."""

    def merge(self, sam: Sam) -> Sam:
        """Fold the adapter into plain SAM weights, in place, so that inference costs nothing extra.

        Raises:
            InputError: for an adapter that is not linear in its input.
        """
        raise InputError(f"{type(self).__name__} is not linear in its input, so it cannot be merged into SAM.")

    def settings(self) -> dict[str, Any]:
        """The constructor arguments that build this adapter again."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


class DecoderOnly(Adapter):
    """No layer is added: SAM's mask decoder is tuned, the baseline of the papers."""

    mergeable = True

    def attach(self, sam: Sam) -> Sam:
        train_decoder(sam)
        return sam

    def merge(self, sam: Sam) -> Sam:
        return sam


def block_width(block: Any) -> int:
    """Channels of the tokens behind a transformer block's attention and MLP; those of some encoders differ by stage."""
    width: int = block.norm2.normalized_shape[0]
    return width


def train_decoder(sam: Sam, transformer: bool = True) -> None:
    """Mark the mask decoder as trainable, with or without its transformer, but for what no loss reaches."""
    for name, parameter in sam.mask_decoder.named_parameters():
        inside_transformer = name.startswith("transformer.")
        parameter.requires_grad_(not name.startswith(UNREACHED) and (transformer or not inside_transformer))
