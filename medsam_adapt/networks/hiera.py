"""Hiera (arXiv 2306.00989) as SAM 2 (arXiv 2408.00714) uses it: four stages of transformer blocks, and a neck.

Each stage has half the resolution and twice the width of the one before it. The first block of a stage halves the
resolution: its queries are the largest values of 2 x 2 tokens. The neck makes the image embedding from stages 3 and 4;
the mask decoder also takes stages 1 and 2, so what the encoder returns has all three (:meth:`Hiera.split`).

Tokens lie as (B, H, W, C). Sides: S / 4 in stage 1, S / 8, S / 16 and S / 32.
"""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

WINDOWS = (8, 4, 14, 7)  # side of a window of each stage's attention, in tokens
_EXPANSION = 4  # hidden channels of an MLP over its channels
_STRIDE = 4  # pixels per token of stage 1
_EPSILON = 1e-6  # of the normalisations

#: Tokens of the stage that is running, and those of all stages that are finished.
State = tuple[Tensor, ...]


class PatchEmbed(nn.Module):
    """Images (B, 3, S, S) to tokens (B, S / 4, S / 4, C) with their positions.

    A position is the sum of two learned ones: of a coarse grid, enlarged to that of the tokens, and of the place inside
    a window.

    Args:
        width: C.
        grid: side of the coarse grid.
    """

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 7, _STRIDE, 3)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, width, grid, grid), std=0.02))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, width, WINDOWS[0], WINDOWS[0]))

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.proj(image)
        height, width = int(tokens.shape[2]), int(tokens.shape[3])  # fixed in a recording
        coarse = F.interpolate(self.pos_embed, (height, width), mode="bicubic", align_corners=False)
        inside = self.pos_embed_window.tile(1, 1, height // WINDOWS[0], width // WINDOWS[0])
        return (tokens + coarse + inside).permute(0, 2, 3, 1)


class Attention(nn.Module):
    """Attention inside windows of a grid of tokens, (B, H, W, C) -> (B, H, W, D) or (B, H / 2, W / 2, D).

    The last windows are filled up with zeros, which take part as keys.

    Args:
        dim: C.
        dim_out: D.
        heads: number of heads.
        window: side of a window in tokens, 0 for attention over the whole grid.
        shrinks: whether queries are the largest values of 2 x 2 tokens.
    """

    def __init__(self, dim: int, dim_out: int, heads: int, window: int, shrinks: bool) -> None:
        super().__init__()
        self.num_heads, self.window, self.shrinks = heads, window, shrinks
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, tokens: Tensor) -> Tensor:
        height, width = int(tokens.shape[1]), int(tokens.shape[2])
        rows, columns = (self.window, self.window) if self.window else (height, width)
        below, right = -height % rows, -width % columns
        if below or right:
            tokens = F.pad(tokens, (0, 0, 0, right, 0, below))
        down, across = (height + below) // rows, (width + right) // columns
        grid = tokens.reshape(-1, down, rows, across, columns, tokens.shape[3])
        qkv = self.qkv(grid.transpose(2, 3).flatten(0, 2))  # (windows, rows, columns, 3 D)
        query, key, value = qkv.chunk(3, dim=-1)
        if self.shrinks:
            query, rows, columns, height, width = halved(query), rows // 2, columns // 2, height // 2, width // 2
        query, key, value = (self._by_heads(each) for each in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        result = self.proj(mixed.transpose(1, 2).flatten(2))
        grid = result.reshape(-1, down, across, rows, columns, result.shape[2]).transpose(2, 3)
        return grid.reshape(-1, down * rows, across * columns, result.shape[2])[:, :height, :width]

    def _by_heads(self, tokens: Tensor) -> Tensor:
        """(n, rows, columns, D) as (n, heads, tokens, D / heads)."""
        return tokens.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """h = R(x) + Attn(LN x), y = h + MLP(LN h) on tokens (B, H, W, C), R the identity but where a stage begins.

    The first block of a stage gives (B, H / 2, W / 2, D), and R(x) is the largest of 2 x 2 tokens of W LN(x) + b.

    Args:
        dim: C.
        dim_out: D; not C in the first block of a stage.
        heads: of the attention.
        window: of the attention.
    """

    def __init__(self, dim: int, dim_out: int, heads: int, window: int) -> None:
        super().__init__()
        self.dim, self.dim_out, self.window_size = dim, dim_out, window
        self.norm1 = nn.LayerNorm(dim, eps=_EPSILON)
        self.attn = Attention(dim, dim_out, heads, window, self.starts_stage)
        self.norm2 = nn.LayerNorm(dim_out, eps=_EPSILON)
        self.mlp = MLPBlock(dim_out, _EXPANSION * dim_out)
        if self.starts_stage:
            self.proj = nn.Linear(dim, dim_out)

    @property
    def starts_stage(self) -> bool:
        """Whether resolution is halved and width doubled."""
        return self.dim != self.dim_out

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        past = halved(self.proj(normed)) if self.starts_stage else tokens
        tokens = past + self.attn(normed)
        return tokens + self.mlp(self.norm2(tokens))


class Neck(nn.Module):
    """The image embedding (B, D, h, w) from stages 3 and 4; the other stages' convolutions belong to the mask decoder.

    Args:
        widths: of the four stages.
        out_chans: D.

    Attributes:
        convs: 1 x 1 convolutions to D channels, of the last stage first.
        no_mem_embed: (1, 1, D), added where no earlier frame of a video is known, so to every single image.
    """

    def __init__(self, widths: tuple[int, ...], out_chans: int) -> None:
        super().__init__()
        self.out_channels = out_chans
        self.convs = nn.ModuleList(nn.Conv2d(width, out_chans, 1) for width in reversed(widths))
        self.no_mem_embed = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, 1, out_chans), std=0.02))

    def forward(self, third: Tensor, fourth: Tensor) -> Tensor:
        coarse = F.interpolate(self.convs[0](fourth.permute(0, 3, 1, 2)).float(), scale_factor=2.0, mode="nearest")
        return self.convs[1](third.permute(0, 3, 1, 2)) + coarse + self.no_mem_embed.view(1, -1, 1, 1)


class Hiera(nn.Module):
    """The image encoder: normalised images (B, 3, S, S) -> (B, D + 4 C_2 + 16 C_1, S / 16, S / 16), see :meth:`split`.

    Args:
        img_size: S, a multiple of 32.
        embed_dim: channels of the last stage.
        num_heads: heads of the last stage.
        depths: blocks of each stage.
        global_attention: indices of the blocks whose attention is not windowed.
        position_grid: as for :class:`PatchEmbed`.
        out_chans: D.

    Attributes:
        blocks: the transformer blocks of all stages in turn.
        pos_embed: None; positions belong to the patch embedding.
    """

    pos_embed = None

    def __init__(
        self,
        img_size: int,
        embed_dim: int,
        num_heads: int,
        depths: tuple[int, ...],
        global_attention: tuple[int, ...],
        position_grid: int,
        out_chans: int = 256,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.widths = tuple(embed_dim >> shift for shift in (3, 2, 1, 0))
        self.patch_embed = PatchEmbed(self.widths[0], position_grid)
        starts = [0, *accumulate(depths)]
        blocks = []
        for stage, width in enumerate(self.widths):
            for index in range(starts[stage], starts[stage + 1]):
                first = stage > 0 and index == starts[stage]
                window = 0 if index in global_attention else WINDOWS[stage - 1 if first else stage]
                dim = self.widths[stage - 1] if first else width
                blocks.append(Block(dim, width, num_heads >> (3 - stage), window))
        self.blocks = nn.ModuleList(blocks)
        self.neck = Neck(self.widths, out_chans)

    def forward(self, image: Tensor) -> Tensor:
        state: State = (self.patch_embed(image),)
        for index in range(len(self.blocks)):
            state = self.run_block(index, state)
        return self.run_neck(state)

    def run_block(self, index: int, state: State) -> State:
        """The state behind a block."""
        block = self._block(index)
        tokens, *finished = state
        return (block(tokens), *finished, *([tokens] if block.starts_stage else []))

    def run_neck(self, state: State) -> Tensor:
        """What the encoder returns."""
        fourth, first, second, third = state
        embedding = self.neck(third, fourth)
        fine = [folded(each, int(each.shape[1]) // int(third.shape[1])) for each in (second, first)]
        return torch.cat([embedding, *(each.permute(0, 3, 1, 2) for each in fine)], dim=1)

    def split(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image embedding (B, D, h, w), tokens of stage 1 (B, C_1, 4 h, 4 w) and of stage 2 (B, C_2, 2 h, 2 w)."""
        first, second = self.widths[:2]
        embedding, fine, finest = packed.split([self.neck.out_channels, 4 * second, 16 * first], dim=1)
        return embedding, F.pixel_shuffle(finest, 4), F.pixel_shuffle(fine, 2)

    def pack(self, state: State) -> Tensor:
        """A state as one tensor (B, h, w, C), h and w those of the stage that is running."""
        tokens, *finished = state
        parts = [folded(each, int(each.shape[1]) // int(tokens.shape[1])) for each in finished]
        return torch.cat([tokens, *parts], dim=3)

    def unpack(self, packed: Tensor, count: int) -> State:
        """The state behind the first ``count`` blocks, from what :meth:`pack` gave."""
        stage = self._stage(count)
        sizes = [self.widths[stage], *(4 ** (stage - i) * self.widths[i] for i in range(stage))]
        tokens, *finished = packed.split(sizes, dim=3)
        return (tokens, *(unfolded(each, 2 ** (stage - i)) for i, each in enumerate(finished)))

    def trunk_shape(self, count: int) -> tuple[int, int, int]:
        """(h, w, C) of one image's packed state behind the first ``count`` blocks."""
        stage = self._stage(count)
        side = self.img_size // (_STRIDE << stage)
        return side, side, self.widths[stage] + sum(4 ** (stage - i) * self.widths[i] for i in range(stage))

    @property
    def out_channels(self) -> int:
        """Channels of what the encoder returns."""
        return self.neck.out_channels + 4 * self.widths[1] + 16 * self.widths[0]

    def _stage(self, count: int) -> int:
        return sum(self._block(index).starts_stage for index in range(count))

    def _block(self, index: int) -> Block:
        block = self.blocks[index]
        assert isinstance(block, Block), "made above"
        return block


def halved(tokens: Tensor) -> Tensor:
    """The largest of 2 x 2 tokens, (n, H, W, C) -> (n, H / 2, W / 2, C)."""
    return F.max_pool2d(tokens.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def folded(tokens: Tensor, factor: int) -> Tensor:
    """Squares of tokens side by side in the channels, (B, f h, f w, C) -> (B, h, w, f² C)."""
    return F.pixel_unshuffle(tokens.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


def unfolded(tokens: Tensor, factor: int) -> Tensor:
    """The reverse of :func:`folded`."""
    return F.pixel_shuffle(tokens.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)
