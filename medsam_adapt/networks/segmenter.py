"""The segmenter: image and optional prompts in, logits out, around any SAM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from medsam_adapt.config import InputScaling
from medsam_adapt.core.precision import in_parts, is_recorded, running_of
from medsam_adapt.networks.detail import DetailBranch
from medsam_adapt.networks.encoder_stages import frozen_stages, run_stages
from medsam_adapt.networks.image_channels import images_of
from medsam_adapt.networks.sam2 import drawn, own_tokens, split_embedding
from medsam_adapt.weights.pixel_scaling import input_scaling_of

if TYPE_CHECKING:
    from medsam_adapt.networks.adapter import Adapter

Head = Literal["exclusive", "overlapping", "structure"]


class Prediction(NamedTuple):
    """What one forward pass knows; C' is the number of output channels of the head.

    Attributes:
        logits: (B, C', S, S), at the size of the input image.
        low_res_logits: (B, C', s, s), as the mask decoder draws them; s is four times the side of the embedding.
        image_embedding: (B, D, h, w), of the image encoder.
        mask_tokens: (B, T, D), the transformer's output at SAM's mask tokens (T = 4 for ``structure``, else C').
    """

    logits: Tensor
    low_res_logits: Tensor
    image_embedding: Tensor
    mask_tokens: Tensor


class Segmenter(nn.Module):
    """SAM as a segmentation network.

    ``head`` decides what the channels mean:

    - ``exclusive``: (B, C + 1, S, S) for C classes that exclude each other: background first, softmax;
    - ``overlapping``: (B, C, S, S) for C classes that may overlap: sigmoid;
    - ``structure``: (B, 1, S, S) for the one structure that the prompt points at: sigmoid, SAM's mask token 0.

    Args:
        sam: from :func:`medsam_adapt.networks.build_sam`, with as many mask tokens as the head needs.
        head: as above.
        slices_at_once: how many images of a batch are kept in memory for the gradient, the rest being computed again;
            all when None. The gradient is the same.
    """

    def __init__(self, sam: Sam, head: Head = "exclusive", slices_at_once: int | None = None) -> None:
        super().__init__()
        self.sam = sam
        self.head = head
        self.slices_at_once = slices_at_once
        self.adapter: Adapter | None = None  # set, with the hash of the weights it belongs to, by attach_adapter
        self.base_sha256 = ""
        self.tuned_encoder = False  # whether the whole image encoder is trained
        self.frozen_stages = frozen_stages(sam.image_encoder)  # the split of the encoder that features belong to
        self._positions: tuple[Tensor, int, Tensor] | None = None

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""
        return self.sam.image_encoder.img_size

    @property
    def detail(self) -> DetailBranch | None:
        """The branch that refines the mask decoder's masks, where an adapter added one."""
        return getattr(self.sam, "detail", None)

    @property
    def input_scaling(self) -> InputScaling:
        """What the image encoder expects of pixel values; :func:`pad_image` prepares slices for it."""
        return input_scaling_of(self.sam)

    @property
    def image_channels(self) -> int:
        """Channels of the images that it takes: colours, or the images of a case, and coordinates behind them."""
        return images_of(self.sam) if self.detail is None else self.detail.colours

    @property
    def out_channels(self) -> int:
        """Number of channels of the logits."""
        return 1 if self.head == "structure" else self.sam.mask_decoder.num_mask_tokens

    def forward(
        self,
        image: Tensor | None,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        low_res: bool = False,
        features: Tensor | None = None,
        full: bool = False,
    ) -> Tensor | Prediction:
        """Logits, (B, C', S, S), or (B, C', s, s) with ``low_res``; arguments as in :meth:`predict`.

        ``features`` replace the image, as for :meth:`encode`. With ``full`` the result is the whole
        :class:`Prediction`, which a wrapper for distributed training lets through.
        """

        def predict(
            image: Tensor | None, boxes: Tensor | None, points: Tensor | None, features: Tensor | None
        ) -> Prediction:
            return self.decode(self.encode(image, features), boxes, points, not low_res, image)

        batch = image, boxes, points, features
        if self.slices_at_once is None or not torch.is_grad_enabled():
            prediction = predict(*batch)
        else:
            prediction = Prediction(*in_parts(predict, self.slices_at_once, *batch))
        return prediction if full else prediction.logits

    def predict(
        self, image: Tensor, boxes: Tensor | None = None, points: Tensor | None = None, upsample: bool = True
    ) -> Prediction:
        """Encode and decode a batch.

        Args:
            image: (B, 3, S, S) on the 0-255 scale, as :func:`medsam_adapt.data.slices.padding.pad_image` prepares
                it for this network's ``input_scaling``; behind it the coordinates, from -1 to 1, that a detail branch
                may look at.
            boxes: (B, 4) as x0, y0, x1, y1 in pixels of the image.
            points: (B, N, 3) as x, y, label (1 inside, 0 outside, -1 padding) in pixels of the image.
            upsample: whether ``logits`` are enlarged to S; otherwise they are the low-resolution ones.
        """
        return self.decode(self.encode(image), boxes, points, upsample, image)

    def encode(self, image: Tensor | None, features: Tensor | None = None) -> Tensor:
        """Image embedding (B, D, h, w) of a batch (B, 3, S, S) on the 0-255 scale.

        That of SAM 2 has the finer features of its encoder beside it, in further channels.

        Where :meth:`frozen_features` gave ``features`` of these images, only the stages behind them run, and the
        images are not looked at.
        """
        if features is not None:
            return run_stages(self.sam.image_encoder, features, self.frozen_stages)
        assert image is not None, "an image or its features"
        return run_stages(self.sam.image_encoder, self._normalised(image))

    @torch.no_grad()
    def frozen_features(self, image: Tensor) -> Tensor | None:
        """What the frozen front of the encoder makes of a batch (B, 3, S, S) on the 0-255 scale.

        Tokens (B, h, w, C), or the embedding (B, D, h, w) of an encoder that is frozen as a whole; None when training
        reaches the first block.
        """
        if self.frozen_stages < 2:
            return None
        return run_stages(self.sam.image_encoder, self._normalised(image), last=self.frozen_stages)

    def _normalised(self, image: Tensor) -> Tensor:
        """What SAM sees of an image: its colours, not its coordinates."""
        return (image[:, : images_of(self.sam)] - self.sam.pixel_mean) / self.sam.pixel_std

    def decode(
        self,
        embedding: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        upsample: bool = True,
        image: Tensor | None = None,
    ) -> Prediction:
        """Masks from what :meth:`encode` gave, (B, D, h, w), and prompts; arguments as in :meth:`predict`.

        A segmenter with a detail branch needs the ``image`` (B, 3, S, S) too, and always gives logits of its size.
        """
        embedding, finer = split_embedding(self.sam.image_encoder, embedding)
        sparse, dense, position = self._embed_prompts(embedding.shape[0], boxes, points)
        low_res, tokens = self._draw_masks(embedding, finer, sparse, dense, position)
        logits = low_res
        if upsample or self.detail is not None:
            logits = F.interpolate(low_res, (self.image_size, self.image_size), mode="bilinear", align_corners=False)
        if self.detail is not None:
            assert image is not None, "a detail branch looks at the image"
            logits = logits + self._refine(image, embedding, low_res)
        return Prediction(logits, low_res, embedding, tokens)

    def _refine(self, image: Tensor, embedding: Tensor, masks: Tensor) -> Tensor:
        """What the detail branch adds to the logits (B, C', S, S), in the precision of the image encoder."""
        assert self.detail is not None
        detail = self.detail
        in_bf16 = running_of(self.sam.image_encoder).is_bf16(embedding.device)
        seen = torch.cat([self._normalised(image), image[:, images_of(self.sam) :]], dim=1)
        if not in_bf16:
            return detail(seen, embedding, masks)
        with torch.autocast(embedding.device.type, torch.bfloat16):
            return detail(seen, embedding, masks).float()

    def _embed_prompts(self, batch: int, boxes: Tensor | None, points: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        encoder = self.sam.prompt_encoder
        # Coordinates become angles of up to hundreds of turns: half precision would move the prompt.
        with torch.autocast(self.sam.pixel_mean.device.type, enabled=False):
            sparse, dense = encoder(points=None, boxes=boxes, masks=None)
            if points is not None:
                located = padded(points) if boxes is None else (points[..., :2], points[..., 2])
                sparse = torch.cat([self._embed_points(*located), sparse.expand(len(points), -1, -1)], dim=1)
            position = self._dense_positions()
        return sparse.expand(batch, -1, -1), dense.expand(batch, -1, -1, -1), position.expand(batch, -1, -1, -1)

    def _dense_positions(self) -> Tensor:
        """Where the pixels of the embedding are, (1, D, h, w): computed once, from a random matrix that stays."""
        encoder = self.sam.prompt_encoder
        matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
        if is_recorded():
            return encoder.get_dense_pe()
        known = self._positions
        if known is None or known[0] is not matrix or known[1] != matrix._version:  # moved, or other weights loaded
            with torch.inference_mode(False), torch.no_grad():
                known = self._positions = matrix, matrix._version, encoder.get_dense_pe()
        return known[2]

    def _embed_points(self, coordinates: Tensor, labels: Tensor) -> Tensor:
        """(B, N, D) of coordinates (B, N, 2) in pixels and SAM's labels (B, N) from -1 to 3, the corners of boxes.

        A label looks up what is added. segment-anything looks for the points that have it, for which a step would wait
        for its device.
        """
        encoder = self.sam.prompt_encoder
        place = encoder.pe_layer.forward_with_coords(coordinates + 0.5, encoder.input_image_size)
        learned = [encoder.not_a_point_embed.weight, *(each.weight for each in encoder.point_embeddings)]
        return place * (labels >= 0)[..., None] + torch.cat(learned)[labels.long() + 1]

    def _draw_masks(
        self, embedding: Tensor, finer: list[Tensor], sparse: Tensor, dense: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One set of prompts per image; segment-anything's own forward pass takes one image and many prompts."""
        decoder = self.sam.mask_decoder
        batch, channels, height, width = embedding.shape
        own = own_tokens(decoder)
        all_tokens = torch.cat([own.expand(batch, -1, -1), sparse], dim=1)
        if embedding.stride(0) == 0 == dense.stride(0):  # one image and its prompts: it is not copied for each
            image = (embedding[:1] + dense[:1]).expand(batch, -1, -1, -1)
        else:
            image = embedding + dense
        tokens, pixels = decoder.transformer(image, position, all_tokens)
        mask_tokens = tokens[:, len(own) - decoder.num_mask_tokens : len(own)]
        pixels = pixels.transpose(1, 2).reshape(batch, channels, height, width)
        used = range(self.out_channels)
        filters = torch.stack([decoder.output_hypernetworks_mlps[i](mask_tokens[:, i]) for i in used], dim=1)
        return drawn(decoder, self.sam.image_encoder, pixels, finer, filters), mask_tokens


def padded(points: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (B, N + 1, 2) and labels (B, N + 1) of points (B, N, 3): SAM pads those that come without a box."""
    return F.pad(points[..., :2], (0, 0, 0, 1)), F.pad(points[..., 2], (0, 1), value=-1.0)
