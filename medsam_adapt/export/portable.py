"""A segmenter whose computation can be recorded once and run elsewhere, in TorchScript or ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medsam_adapt.inference.class_scores import ABSENT_LOGIT
from medsam_adapt.networks.sam2 import Sam2PromptEncoder
from medsam_adapt.networks.segmenter import Prediction, Segmenter, padded

_CORNER_LABELS = (2.0, 3.0)  # SAM's labels of a box's first and second corner


class PortableSegmenter(Segmenter):
    """The segmenter, with its prompts embedded in the same steps whatever their values are.

    Boxes are points of two more labels here: SAM assigns to the corners, which a recording cannot follow. Classes that
    no training label held get logits out of reach, as in prediction. Weights are shared with ``segmenter``.

    Args:
        segmenter: the network, in evaluation mode.
        absent: channels of the logits that are never to be chosen.
    """

    position: Tensor
    corners: Tensor
    absent: Tensor

    def __init__(self, segmenter: Segmenter, absent: Sequence[int] = ()) -> None:
        super().__init__(segmenter.sam, segmenter.head)
        channels = torch.zeros(1, self.out_channels, 1, 1, dtype=torch.bool)
        channels[:, list(absent)] = True
        # Buffers rather than constants, which would stay on the CPU when the recording is moved to a GPU.
        self.register_buffer("absent", channels)
        self.register_buffer("corners", torch.tensor(_CORNER_LABELS)[None])
        self.register_buffer("position", segmenter.sam.prompt_encoder.get_dense_pe().detach().clone())
        self.eval()

    def decode(
        self,
        embedding: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        upsample: bool = True,
        image: Tensor | None = None,
    ) -> Prediction:
        """As :meth:`Segmenter.decode`, absent classes out of reach."""
        prediction = super().decode(embedding, boxes, points, upsample, image)
        return prediction._replace(logits=prediction.logits.masked_fill(self.absent, ABSENT_LOGIT))

    def _embed_prompts(self, batch: int, boxes: Tensor | None, points: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        no_mask = self.sam.prompt_encoder.no_mask_embed.weight
        if boxes is not None:
            corners = boxes.reshape(-1, 2, 2), self.corners.expand(batch, -1)
            if isinstance(self.sam.prompt_encoder, Sam2PromptEncoder):
                corners = padded(torch.cat([corners[0], corners[1][..., None]], dim=2))
            sparse = self._embed_points(*corners)
        elif points is not None:
            sparse = self._embed_points(*padded(points))
        else:
            sparse = no_mask[None, :0].expand(batch, -1, -1)
        dense = no_mask[:, :, None, None].expand(batch, -1, *self.position.shape[-2:])
        return sparse, dense, self.position.expand(batch, -1, -1, -1)
