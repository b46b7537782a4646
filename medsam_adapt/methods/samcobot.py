"""SAM-COBOT (arXiv 2311.17112, CVPR 2024): the parameter-efficient units of all blocks orchestrated together.

A unit t (the q or the v increment of a block with LoRA, the branch of a block with AdaptFormer) scales its narrow
features u by c_t + γ_t, and mixes them with a linear head H_t:

    u  ->  H_t((c_t + γ_t) ⊙ u),    c_t = (C P)[:, t]

The coefficients C (1, r, T) and their relation P (T, T) are shared by all blocks (communication between blocks),
γ_t (r,) belongs to the unit, and the weight of H_t is hypercomplex (enhancement inside a block). The released code
adds C P and γ before the head, where the paper's Eq. 17 adds the outputs of two blocks; we do as the code does.

A TinyViT's blocks differ in width by stage. C and P act on the narrow features, of which every block has r, so one C
and one P serve all stages: column t is the t-th unit from the image to the neck.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from medsam_adapt.core.errors import InputError
from medsam_adapt.methods.adaptformer import AdaptFormerMLP
from medsam_adapt.methods.lora import LoRA, LoRAQueryValue
from medsam_adapt.networks.adapter import Adapter, block_width, train_decoder

HeadInit = Literal["identity", "orthogonal", "released"]


class HypercomplexLinear(nn.Module):
    """The Hamilton product of quaternion features with a quaternion weight: y = x W + b, (..., in) -> (..., out).

    The features lie in four blocks [r | i | j | k], and with four real matrices of (in / 4, out / 4)

            |  r   i   j   k |
        W = | -i   r   k  -j |
            | -j  -k   r   i |
            | -k   j  -i   r |

    Args:
        in_features: channels of the input, a multiple of 4.
        out_features: channels of the output, a multiple of 4.
        bias: whether to add b (out,), zero at the start.
        init: ``identity`` (r is the identity, the others zero); ``orthogonal`` (random, W Wᵀ = 1 when in <= out);
            ``released`` (r zero, the others uniform in [0, 1): what the authors' code ends up with).

    Raises:
        InputError: when a number of channels is not a multiple of 4, or the initialisation is unknown.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = False, init: HeadInit = "identity") -> None:
        super().__init__()
        _check_settings(in_features, init)
        _check_settings(out_features, init)
        parts = {name: nn.Parameter(torch.zeros(in_features // 4, out_features // 4)) for name in "rijk"}
        self.r, self.i, self.j, self.k = parts.values()
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self._initialise(init)

    @torch.no_grad()
    def _initialise(self, init: HeadInit) -> None:
        imaginary = (self.i, self.j, self.k)
        if init == "identity":
            nn.init.eye_(self.r)
        elif init == "released":
            for part in imaginary:
                nn.init.uniform_(part)
        else:
            for part in (self.r, *imaginary):
                nn.init.normal_(part)
            # The nearest orthogonal matrix (polar factor) of a quaternion matrix is a quaternion matrix itself.
            left, _, right = torch.linalg.svd(self.matrix(), full_matrices=False)
            first_row = (left @ right)[: len(self.r)].chunk(4, dim=1)
            for part, value in zip((self.r, *imaginary), first_row, strict=True):
                part.copy_(value)

    def matrix(self) -> Tensor:
        """W, (in, out)."""
        r, i, j, k = self.r, self.i, self.j, self.k
        rows = ((r, i, j, k), (-i, r, k, -j), (-j, -k, r, i), (-k, j, -i, r))
        return torch.cat([torch.cat(row, dim=1) for row in rows])

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.matrix().T, self.bias)


class OrchestratedAdaptFormer(AdaptFormerMLP):
    """y = MLP(x) + U dropout(ReLU(H((c_t + γ) ⊙ (D LN(x) + b_D)))) + b_U, on tokens (..., D) -> (..., D).

    Args:
        mlp: the frozen MLP, tokens -> tokens.
        coefficients: C (1, r, T), shared by all blocks; r is the bottleneck.
        relation: P (T, T), shared by all blocks.
        index: t, the column of this block.
        dim: channels of a token.
        bottleneck: channels inside the branch, a multiple of 4.
        head_init: as ``init`` of :class:`HypercomplexLinear`.
    """

    def __init__(
        self,
        mlp: nn.Module,
        coefficients: nn.Parameter,
        relation: nn.Parameter,
        index: int,
        dim: int,
        bottleneck: int,
        head_init: HeadInit = "identity",
    ) -> None:
        super().__init__(mlp, dim, bottleneck)
        self.coefficients, self.relation, self.index = coefficients, relation, index
        self.gamma = nn.Parameter(torch.ones(bottleneck))
        self.head = HypercomplexLinear(bottleneck, bottleneck, init=head_init)

    def orchestrate(self, hidden: Tensor) -> Tensor:
        return self.head((_column(self.coefficients, self.relation, self.index) + self.gamma) * hidden)


class OrchestratedLoRA(LoRAQueryValue):
    """q += B_q H_q((c_t + γ_q) ⊙ A_q x) and v += B_v H_v((c_{t+1} + γ_v) ⊙ A_v x) on a fused layer x -> [q | k | v].

    Args:
        qkv: the fused layer, (..., D) -> (..., 3 D).
        coefficients: C (1, r, T), shared by all blocks.
        relation: P (T, T), shared by all blocks.
        index: t, the column of this block's q; v has the next.
        rank: r, a multiple of 4.
        head_init: as ``init`` of :class:`HypercomplexLinear`.
    """

    def __init__(
        self,
        qkv: nn.Linear,
        coefficients: nn.Parameter,
        relation: nn.Parameter,
        index: int,
        rank: int,
        head_init: HeadInit = "identity",
    ) -> None:
        super().__init__(qkv, rank)
        self.coefficients, self.relation, self.index = coefficients, relation, index
        self.gamma_q, self.gamma_v = nn.Parameter(torch.ones(rank)), nn.Parameter(torch.ones(rank))
        self.head_q = HypercomplexLinear(rank, rank, init=head_init)
        self.head_v = HypercomplexLinear(rank, rank, init=head_init)

    def forward(self, tokens: Tensor) -> Tensor:
        to_q = self.b_q(self.head_q(self.scale_q() * self.a_q(tokens)))
        to_v = self.b_v(self.head_v(self.scale_v() * self.a_v(tokens)))
        return self.added(self.qkv(tokens), to_q, to_v)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain fused layer with B Hᵀ diag(c + γ) A added to its q and v rows, H the (in, out) matrix of a head."""
        to_q = self.b_q(self.head_q(self.scale_q()[0].diag())).T @ self.a_q.weight
        to_v = self.b_v(self.head_v(self.scale_v()[0].diag())).T @ self.a_v.weight
        return self.with_rows(to_q, to_v)

    def scale_q(self) -> Tensor:
        """c_t + γ_q, (1, r)."""
        return _column(self.coefficients, self.relation, self.index) + self.gamma_q

    def scale_v(self) -> Tensor:
        """c_{t+1} + γ_v, (1, r)."""
        return _column(self.coefficients, self.relation, self.index + 1) + self.gamma_v


class CobotLoRA(LoRA):
    """SAM-COBOT over LoRA on q and v of every block (T = 2 L units); the mask decoder is tuned beside it.

    Trainable in the encoder beyond LoRA: 2 L r (C) + 4 L² (P) + 2 L r (γ) + 2 L r² / 4 (H) values for L blocks
    (864 on ViT-B with rank 4). It starts as SAM: B is zero.

    Args:
        rank: width of the low-rank products, a multiple of 4.
        head_init: as ``init`` of :class:`HypercomplexLinear`.

    Raises:
        InputError: when the rank is not a multiple of 4, or the initialisation is unknown.
    """

    mergeable = True

    def __init__(self, rank: int = 4, head_init: HeadInit = "identity") -> None:
        _check_settings(rank, head_init)
        self.rank = rank
        self.head_init = head_init

    def attach(self, sam: Sam) -> Sam:
        blocks = sam.image_encoder.blocks
        shared = _shared_coefficients(self.rank, units=2 * len(blocks))
        for index, block in enumerate(blocks):
            block.attn.qkv = OrchestratedLoRA(block.attn.qkv, *shared, 2 * index, self.rank, self.head_init)
        train_decoder(sam)
        return sam


class CobotAdaptFormer(Adapter):
    """SAM-COBOT over AdaptFormer in every block (T = L units); the mask decoder is tuned beside it.

    Trainable in the encoder beyond AdaptFormer: L m (C) + L² (P) + L m (γ) + L m² / 4 (H) values for L blocks and a
    bottleneck of m (1,296 on ViT-B with 16). It starts as SAM: U and b_U are zero.

    Args:
        bottleneck: channels inside the branch, a multiple of 4.
        head_init: as ``init`` of :class:`HypercomplexLinear`.

    Raises:
        InputError: when the bottleneck is not a multiple of 4, or the initialisation is unknown.
    """

    def __init__(self, bottleneck: int = 16, head_init: HeadInit = "identity") -> None:
        _check_settings(bottleneck, head_init)
        self.bottleneck = bottleneck
        self.head_init = head_init

    def attach(self, sam: Sam) -> Sam:
        blocks = sam.image_encoder.blocks
        shared = _shared_coefficients(self.bottleneck, units=len(blocks))
        for index, block in enumerate(blocks):
            dim = block_width(block)
            block.mlp = OrchestratedAdaptFormer(block.mlp, *shared, index, dim, self.bottleneck, self.head_init)
        train_decoder(sam)
        return sam


def cobot_adapter(
    form: Literal["lora", "adaptformer"], rank: int = 4, bottleneck: int = 16, head_init: HeadInit = "identity"
) -> Adapter:
    """SAM-COBOT over LoRA of a ``rank``, or over AdaptFormer with a ``bottleneck``.

    Raises:
        InputError: for another form, and as :class:`CobotLoRA` and :class:`CobotAdaptFormer`.
    """
    if form not in ("lora", "adaptformer"):
        raise InputError(f"form: SAM-COBOT has no form {form!r}. Use lora or adaptformer.")
    return CobotLoRA(rank, head_init) if form == "lora" else CobotAdaptFormer(bottleneck, head_init)


def parameter_groups(
    module: nn.Module, learning_rate: float, orchestration_factor: float = 100.0
) -> list[dict[str, Any]]:
    """Optimiser groups of the trainable parameters: C, P and H learn faster than the rest.

    Args:
        module: what is trained, with a COBOT adapter attached somewhere in it.
        learning_rate: of everything but the orchestration.
        orchestration_factor: learning rate of C, P and every H over ``learning_rate``.

    Returns:
        The groups ``base`` and ``orchestration`` (key ``name``), in this order; one that is empty is left out.
    """
    orchestration: set[nn.Parameter] = set()
    for layer in module.modules():
        if isinstance(layer, HypercomplexLinear):
            orchestration.update(layer.parameters())
        elif isinstance(layer, (OrchestratedLoRA, OrchestratedAdaptFormer)):
            orchestration.update((layer.coefficients, layer.relation))
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    fast = [parameter for parameter in trainable if parameter in orchestration]
    base = [parameter for parameter in trainable if parameter not in orchestration]
    groups = [
        {"name": "base", "params": base, "lr": learning_rate},
        {"name": "orchestration", "params": fast, "lr": learning_rate * orchestration_factor},
    ]
    return [group for group in groups if group["params"]]


def _shared_coefficients(rank: int, units: int) -> tuple[nn.Parameter, nn.Parameter]:
    """C (1, rank, units) of ones and P (units, units), the identity: the same objects go to every block."""
    return nn.Parameter(torch.ones(1, rank, units)), nn.Parameter(torch.eye(units))


def _column(coefficients: Tensor, relation: Tensor, index: int) -> Tensor:
    """c_t = (C P)[:, t], (1, r), without the columns of other units."""
    return coefficients @ relation[:, index]


def _check_settings(width: int, head_init: str) -> None:
    if width < 4 or width % 4:
        lower = max(4, width // 4 * 4)
        raise InputError(
            f"rank: SAM-COBOT's quaternion heads need a rank or bottleneck that is a multiple of 4, not {width}. Use "
            f"{lower} or {lower + 4}."
        )
    if head_init not in get_args(HeadInit):
        raise InputError(f"head_init: there is no {head_init!r}. Use one of {', '.join(get_args(HeadInit))}.")
