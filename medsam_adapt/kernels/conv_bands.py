"""TinyViT's layers on a processor, for a part of the image at a time.

Convolutions 1 x 1, 3 x 3 by channel, 1 x 1 have hidden features that are four times as many as those that go in and
come out (64 MB for LiteMedSAM's first stage), and use each of them once or three times. In bands of rows, and the
feed-forward layers in parts of the tokens, they stay in the caches, and go through GELU where they are made.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.kernels import onednn
from medsam_adapt.kernels.feed_forward import by_parts
from medsam_adapt.kernels.onednn import needs_no_gradient
from medsam_adapt.networks.tiny_vit import (
    Block,
    ConvNorm,
    MBConv,
    NormMLP,
    PatchMerging,
    Stage,
    TinyViT,
    WindowAttention,
)

_VALUES = 2**19  # of hidden features in a band; 2 MB in float32


def install_bands(encoder: TinyViT) -> None:
    """Replace the layers of ``encoder`` that these outdo, in place; names, weights and results stay."""
    for stage in encoder.layers:
        assert isinstance(stage, Stage), "a TinyViT has no others"
        for index, block in enumerate(stage.blocks):
            if isinstance(block, MBConv):
                stage.blocks[index] = BandedMBConv(block)
            elif isinstance(block, Block):
                block.mlp = MLPByParts(block.mlp)
                block.attn = AttentionByRows(block.attn)
        if stage.downsample is not None:
            stage.downsample = BandedMerging(stage.downsample)


class BandedMBConv(MBConv):
    """An MBConv in bands; the layers of ``plain`` are taken over."""

    def __init__(self, plain: MBConv) -> None:
        nn.Module.__init__(self)
        self.conv1, self.conv2, self.conv3 = plain.conv1, plain.conv2, plain.conv3

    def forward(self, features: Tensor) -> Tensor:
        if needs_no_gradient(features, self):
            return by_bands(features, self.conv1, self.conv2, self.conv3, residual=True)
        return super().forward(features)


class BandedMerging(PatchMerging):
    """A patch merging in bands; the layers of ``plain`` are taken over."""

    def __init__(self, plain: PatchMerging) -> None:
        nn.Module.__init__(self)
        self.conv1, self.conv2, self.conv3 = plain.conv1, plain.conv2, plain.conv3

    def forward(self, features: Tensor) -> Tensor:
        if needs_no_gradient(features, self):
            return by_bands(features, self.conv1, self.conv2, self.conv3, residual=False)
        return super().forward(features)


class MLPByParts(NormMLP):
    """A feed-forward part for some of the tokens at a time; the layers of ``plain`` are taken over."""

    def __init__(self, plain: NormMLP) -> None:
        nn.Module.__init__(self)
        self.norm, self.fc1, self.fc2 = plain.norm, plain.fc1, plain.fc2

    def forward(self, tokens: Tensor) -> Tensor:
        if not needs_no_gradient(tokens, self):
            return by_parts(tokens, self.inside, self.fc2)
        return by_parts(tokens, self._inside_at_once, lambda inside: onednn.by_layer(inside, self.fc2))

    def _inside_at_once(self, tokens: Tensor) -> Tensor:
        return onednn.by_layer(self.norm(tokens), self.fc1, gelu=True)


class AttentionByRows(WindowAttention):
    """Attention inside windows, its linear layers by oneDNN; the layers of ``plain`` are taken over."""

    def __init__(self, plain: WindowAttention) -> None:
        nn.Module.__init__(self)
        self.window, self.num_heads = plain.window, plain.num_heads
        self.norm, self.qkv, self.proj = plain.norm, plain.qkv, plain.proj
        self.attention_biases = plain.attention_biases

    def _project(self, tokens: Tensor, layer: nn.Module) -> Tensor:
        return onednn.by_layer(tokens, layer) if needs_no_gradient(tokens, self) else layer(tokens)


def by_bands(features: Tensor, first: ConvNorm, middle: ConvNorm, last: ConvNorm, residual: bool) -> Tensor:
    """W_3 GELU(D GELU(W_1 x)) of features (B, H, W, C), and with ``residual`` GELU(x + that).

    Args:
        features: x.
        first: W_1, a convolution 1 x 1.
        middle: D, a convolution 3 x 3 of each channel by itself, with a stride of 1 or 2; H and W are multiples of it.
        last: W_3, a convolution 1 x 1.
        residual: as above.
    """
    weights = [each.folded() for each in (first, middle, last)]
    stride = middle.c.stride[0]
    count, height, width = features.shape[:3]
    result = features.new_empty(count, height // stride, width // stride, last.c.out_channels)
    for image, of_image in zip(features, result, strict=True):
        _one_image(image, of_image, stride, weights, residual)
    return result


def _one_image(
    image: Tensor, result: Tensor, stride: int, weights: list[tuple[Tensor, Tensor]], residual: bool
) -> None:
    """Fill ``result`` band by band: bands that are kept and joined would take new memory twice."""
    height, width, _ = image.shape
    (into, of_hidden), (kernel, of_mixed), (out_of, of_result) = weights
    into, out_of = into.flatten(1), out_of.flatten(1)
    rows = max(2, _VALUES // (width * len(kernel)) // 2 * 2)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        # The kernel needs the rows beside the band: making them twice takes less time than keeping and joining them.
        below = 1 if stride == 1 else 0
        hidden = onednn.linear(image[max(start - 1, 0) : stop + below], into, of_hidden, gelu=True)
        outside = int(start == 0), below * int(stop == height)  # there hidden features are zero
        if any(outside):
            hidden = F.pad(hidden, (0, 0, 0, 0, *outside))
        mixed = onednn.depthwise_gelu(hidden[None], kernel, of_mixed, stride, (0, 1))[0]
        band = onednn.linear(mixed, out_of, of_result)
        result[start // stride : stop // stride] = F.gelu(band.add_(image[start:stop])) if residual else band
