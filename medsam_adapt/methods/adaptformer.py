"""AdaptFormer (arXiv 2205.13535): a narrow branch beside the MLP of every block of SAM's image encoder."""

from __future__ import annotations

from segment_anything.modeling import Sam
from torch import Tensor, nn

from medsam_adapt.core.errors import InputError
from medsam_adapt.networks.adapter import Adapter, block_width, train_decoder


class AdaptFormerMLP(nn.Module):
    """y = MLP(x) + s (U dropout(ReLU(D LN(x) + b_D)) + b_U), on tokens (..., C) -> (..., C).

    The branch has a separate LayerNorm, although SAM's block has already normalised x: so did the plain adapter
    that SAM-COBOT compares with. U and b_U are zero at the start, which leaves the MLP as it was.

    Args:
        mlp: the frozen MLP, tokens -> tokens.
        dim: channels C of a token.
        bottleneck: channels inside the branch.
        scale: s.

    Raises:
        InputError: when the bottleneck is not positive.
    """

    def __init__(self, mlp: nn.Module, dim: int, bottleneck: int, scale: float = 1.0) -> None:
        super().__init__()
        if bottleneck < 1:
            raise InputError(f"bottleneck: AdaptFormer cannot have {bottleneck} channels. Use 1 or more.")
        self.mlp = mlp
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.down, self.up = nn.Linear(dim, bottleneck), nn.Linear(bottleneck, dim)
        self.dropout = nn.Dropout(0.1)
        self.scale = scale
        for zero in (self.down.bias, self.up.weight, self.up.bias):  # nn.Linear's own weights are Kaiming-uniform
            nn.init.zeros_(zero)

    def forward(self, tokens: Tensor) -> Tensor:
        branch = self.branch(tokens)  # first: what --low-memory computes again for the gradient ends inside the MLP
        return self.mlp(tokens) + branch

    def branch(self, tokens: Tensor) -> Tensor:
        """What is added to the MLP's output, (..., C)."""
        hidden = self.orchestrate(self.down(self.norm(tokens)))
        return self.scale * self.up(self.dropout(hidden.relu()))

    def orchestrate(self, hidden: Tensor) -> Tensor:
        """The narrow features (..., bottleneck) as they enter the ReLU: SAM-COBOT has its head here."""
        return hidden


class AdaptFormer(Adapter):
    """AdaptFormer beside the MLP of every block of the image encoder; the mask decoder is tuned beside it.

    Trainable in the encoder: L (2 D + (D + 1) m + (m + 1) D) values for L blocks of D channels and a bottleneck of m
    (322,752 on ViT-B with 16).

    Args:
        bottleneck: channels inside the branch.
    """

    def __init__(self, bottleneck: int = 16) -> None:
        self.bottleneck = bottleneck

    def attach(self, sam: Sam) -> Sam:
        for block in sam.image_encoder.blocks:
            block.mlp = AdaptFormerMLP(block.mlp, block_width(block), self.bottleneck)
        train_decoder(sam)
        return sam
