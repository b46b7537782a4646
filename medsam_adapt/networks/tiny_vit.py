"""TinyViT (arXiv 2207.10666) as the image encoder of a SAM: LiteMedSAM's and MobileSAM's, with their weights' names.

A stem, a stage of inverted bottlenecks (MBConv), and three stages of transformer blocks whose attention stays inside
windows. Features lie as (B, H, W, C) throughout, so that a 1 x 1 convolution is a product of matrices. The statistics
and the affine parameters of batch normalisation are those of pretraining and never change: they are folded into the
convolution before them.

Stages of LiteMedSAM at 256 pixels: 256 x 256 x 64, 128 x 128 x 128, 64 x 64 x 160, 64 x 64 x 320. MobileSAM's stem
shrinks the image by four first, and its last two stages have a sixteenth of the image's side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from medsam_adapt.core.precision import is_recorded

WIDTHS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
SHRINKS = (2, 2, 1)  # by what a stage is smaller than the one before it
_EXPANSION = 4  # hidden channels of an MBConv or MLP over its channels
_WINDOW_TOKENS = 2048  # of attention at a time; what is made of more would not stay in a processor's caches


class FrozenNorm(nn.BatchNorm2d):
    """The numbers of a batch normalisation, which are folded into the convolution before it and never trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)


def freeze_norms(module: nn.Module) -> None:
    """Take the batch normalisations of an encoder out of its training, which otherwise trains all of it."""
    for each in module.modules():
        if isinstance(each, FrozenNorm):
            each.requires_grad_(False)


class ConvNorm(nn.Module):
    """A convolution without bias, with the batch normalisation behind it, on features (B, H, W, C).

    Args:
        inside: channels of the input.
        outside: channels of the output.
        size: side of the kernel.
        stride: of the kernel.
        groups: of channels.
    """

    def __init__(self, inside: int, outside: int, size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False)
        self.bn = FrozenNorm(outside)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (out, in, size, size) and bias (out,) of the one convolution that both are."""
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None, "FrozenNorm has both"
        assert variance is not None, "FrozenNorm has both"
        scale = self.bn.weight * (variance + self.bn.eps).rsqrt()
        return self.c.weight * scale[:, None, None, None], self.bn.bias - mean * scale

    def forward(self, features: Tensor) -> Tensor:
        weight, bias = self.folded()
        if weight.shape[-1] == 1:
            return F.linear(features, weight.flatten(1), bias)
        padding = weight.shape[-1] // 2
        result = F.conv2d(features.permute(0, 3, 1, 2), weight, bias, self.c.stride, padding, groups=self.c.groups)
        return result.permute(0, 2, 3, 1)


class Stem(nn.Module):
    """The image (B, 3, S, S) as features: two convolutions, 1 x 1 (LiteMedSAM) or 3 x 3 and halving (MobileSAM)."""

    def __init__(self, width: int, shrinks: bool) -> None:
        super().__init__()
        size, stride = (3, 2) if shrinks else (1, 1)
        half = width // 2
        self.seq = nn.Sequential(ConvNorm(3, half, size, stride), nn.GELU(), ConvNorm(half, width, size, stride))

    def forward(self, image: Tensor) -> Tensor:
        return self.seq(image.permute(0, 2, 3, 1))


class MBConv(nn.Module):
    """Inverted bottleneck: GELU(x + W_3 GELU(D GELU(W_1 x))), D a 3 x 3 convolution of each channel by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = _EXPANSION * width
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(features))))
        return F.gelu(features + self.conv3(hidden))


class PatchMerging(nn.Module):
    """The way to the next stage: W_3 GELU(D GELU(W_1 x)), D with a stride of ``shrinks``."""

    def __init__(self, inside: int, outside: int, shrinks: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inside, outside)
        self.conv2 = ConvNorm(outside, outside, 3, shrinks, groups=outside)
        self.conv3 = ConvNorm(outside, outside)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(features)))))


class HeadwiseQKV(nn.Linear):
    """A fused layer C -> 3 C whose rows are [q | k | v] of one head after the other, where SAM's are of all heads.

    Attributes:
        heads: how many parts of [q | k | v] there are.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, 3 * channels)
        self.heads = heads


class WindowAttention(nn.Module):
    """Normalisation and attention inside windows of a grid of tokens, (B, H, W, C) -> (B, H, W, C).

    The score of a query with a key has a learned bias for each head and for the distance in rows and columns. The
    last windows are filled up with zeros before the normalisation; their tokens take part as keys.

    Args:
        channels: C.
        heads: number of heads.
        window: side of a window in tokens.
    """

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window, self.num_heads = window, heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = HeadwiseQKV(channels, heads)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, tokens: Tensor) -> Tensor:
        height, width = int(tokens.shape[1]), int(tokens.shape[2])  # fixed in a recording
        window, bias = self.window, self._bias()
        below, right = -height % window, -width % window
        padded = F.pad(tokens, (0, 0, 0, right, 0, below)) if below or right else tokens
        if is_recorded():
            return self._attend(padded, bias)[:, :height, :width]
        rows = window * max(1, _WINDOW_TOKENS // (tokens.shape[0] * padded.shape[2] * window))
        parts = [self._attend(part, bias) for part in padded.split(rows, dim=1)]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return joined[:, :height, :width]

    def _attend(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Attention in all windows of (B, H, W, C), whose sides are multiples of the window's."""
        height, width, channels = (int(size) for size in tokens.shape[1:])
        side = self.window
        grid = tokens.view(-1, height // side, side, width // side, side, channels)
        windows = grid.transpose(2, 3).reshape(-1, side * side, channels)
        qkv = self._project(self.norm(windows), self.qkv)
        heads = qkv.view(-1, side * side, self.num_heads, 3, channels // self.num_heads).transpose(1, 2)
        query, key, value = heads.unbind(3)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None].to(heads.dtype))
        result = self._project(mixed.transpose(1, 2).flatten(2), self.proj)
        grid = result.view(-1, height // side, width // side, side, side, channels)
        return grid.transpose(2, 3).reshape(-1, height, width, channels)

    def _project(self, tokens: Tensor, layer: nn.Module) -> Tensor:
        return layer(tokens)

    def _bias(self) -> Tensor:
        """(heads, N, N) for the N tokens of a window."""
        place = torch.arange(self.window, device=self.attention_biases.device)
        apart = (place[:, None] - place).abs()
        table = self.attention_biases.unflatten(1, (self.window, self.window))
        return table[:, apart[:, None, :, None], apart[None, :, None, :]].flatten(3).flatten(1, 2)


class NormMLP(nn.Module):
    """Normalisation and two linear layers with a GELU between them, on tokens (..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, _EXPANSION * channels)
        self.fc2 = nn.Linear(_EXPANSION * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.inside(tokens))

    def inside(self, tokens: Tensor) -> Tensor:
        """The hidden features (..., 4 C)."""
        return F.gelu(self.fc1(self.norm(tokens)))


class Block(nn.Module):
    """h = D (x + Attn(x)), y = h + MLP(h) on (B, H, W, C), D a 3 x 3 convolution of each channel by itself.

    Attributes:
        dim: C.
        norm1, norm2: the normalisations inside of the attention and of the MLP, whatever has been put around these.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.dim = dim
        self.attn = WindowAttention(dim, heads, window)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.mlp = NormMLP(dim)

    @property
    def norm1(self) -> nn.LayerNorm:
        return next(each for each in self.attn.modules() if isinstance(each, WindowAttention)).norm

    @property
    def norm2(self) -> nn.LayerNorm:
        return next(each for each in self.mlp.modules() if isinstance(each, NormMLP)).norm

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.local_conv(tokens + self.attn(tokens))
        return tokens + self.mlp(tokens)


class Stage(nn.Module):
    """Blocks of one width, and the way to the next stage behind all but the last."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class TinyViT(nn.Module):
    """The image encoder: normalised images (B, 3, S, S) -> embeddings (B, D, h, w).

    Args:
        img_size: S, a multiple of 32.
        out_chans: D.
        stem_shrinks: whether the stem has a stride of 4 (MobileSAM, h = S / 16) or of 1 (LiteMedSAM, h = S / 4).

    Attributes:
        blocks: the transformer blocks of all stages in turn.
        pos_embed: None; places are known from the biases of the attention and from the convolutions.
    """

    pos_embed = None

    def __init__(self, img_size: int, out_chans: int = 256, stem_shrinks: bool = False) -> None:
        super().__init__()
        self.img_size, self.stride = img_size, 4 if stem_shrinks else 1
        self.patch_embed = Stem(WIDTHS[0], stem_shrinks)
        ways = [PatchMerging(WIDTHS[i], WIDTHS[i + 1], SHRINKS[i]) for i in range(len(SHRINKS))]
        stages = [Stage([MBConv(WIDTHS[0]) for _ in range(DEPTHS[0])], ways[0])]
        for i in (1, 2, 3):
            blocks = [Block(WIDTHS[i], HEADS[i], WINDOWS[i]) for _ in range(DEPTHS[i])]
            stages.append(Stage(blocks, ways[i] if i < len(ways) else None))
        self.layers = nn.ModuleList(stages)
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], out_chans, 1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )

    @property
    def blocks(self) -> list[Block]:
        return [module for module in self.trunk if isinstance(module, Block)]

    @property
    def trunk(self) -> list[nn.Module]:
        """All modules between stem and neck in turn, each from (B, H, W, C) to such features."""
        found: list[nn.Module] = []
        for stage in self.layers:
            assert isinstance(stage, Stage), "made above"
            found += [*stage.blocks, *([] if stage.downsample is None else [stage.downsample])]
        return found

    def trunk_shape(self, count: int) -> tuple[int, int, int]:
        """(h, w, C) of one image's features behind the first ``count`` modules of the trunk."""
        side, width = self.img_size // self.stride, WIDTHS[0]
        for module in self.trunk[:count]:
            if isinstance(module, PatchMerging):
                side, width = side // module.conv2.c.stride[0], module.conv3.c.out_channels
        return side, side, width

    def forward(self, image: Tensor) -> Tensor:
        features = self.patch_embed(image)
        for module in self.trunk:
            features = module(features)
        return self.neck(features.permute(0, 3, 1, 2))
