"""A segmenter whose computation can be recorded once and run elsewhere, in TorchScript or ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medsam_adapt.networks.segmenter import Prediction, Segmenter

ABSENT_LOGIT = -1e4  # as in prediction: no softmax and no argmax brings it back, finite in half precision too

_CORNER_LABELS = (2.0, 3.0)  # SAM's labels of a box's first and second corner


class PortableSegmenter(Segmenter):
    """The segmenter, with its prompts embedded in the same steps whatever their values are.

    SAM assigns to the points that have a certain label, which a recording cannot follow; here the label looks up what
    is added. Classes that no training label held get logits out of reach, as in prediction. Weights are shared with
    ``segmenter``.

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
        self, embedding: Tensor, boxes: Tensor | None = None, points: Tensor | None = None, upsample: bool = True
    ) -> Prediction:
        """As :meth:`Segmenter.decode`, absent classes out of reach."""
        prediction = super().decode(embedding, boxes, points, upsample)
        return prediction._replace(logits=prediction.logits.masked_fill(self.absent, ABSENT_LOGIT))

    def _embed_prompts(self, batch: int, boxes: Tensor | None, points: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        no_mask = self.sam.prompt_encoder.no_mask_embed.weight
        if boxes is not None:
            sparse = self._embed_points(boxes.reshape(-1, 2, 2), self.corners.expand(batch, -1))
        elif points is not None:
            labels = F.pad(points[..., 2], (0, 1), value=-1.0)  # SAM pads points that come without a box
            sparse = self._embed_points(F.pad(points[..., :2], (0, 0, 0, 1)), labels)
        else:
            sparse = no_mask[None, :0].expand(batch, -1, -1)
        dense = no_mask[:, :, None, None].expand(batch, -1, *self.position.shape[-2:])
        return sparse, dense, self.position.expand(batch, -1, -1, -1)

    def _embed_points(self, coordinates: Tensor, labels: Tensor) -> Tensor:
        """(B, N, D) of coordinates (B, N, 2) in pixels and SAM's labels (B, N) from -1 to 3."""
        encoder = self.sam.prompt_encoder
        place = encoder.pe_layer.forward_with_coords(coordinates + 0.5, encoder.input_image_size)
        learned = [encoder.not_a_point_embed.weight, *(each.weight for each in encoder.point_embeddings)]
        return place * (labels >= 0)[..., None] + torch.cat(learned)[labels.long() + 1]
