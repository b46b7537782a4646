"""Fast attention against segment-anything's own: outputs and all gradients, in every form and for every adapter."""

import copy
import pickle

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import nn

from medsam_adapt.kernels import attention, attention_tiles
from medsam_adapt.kernels.attention import EncoderAttention
from medsam_adapt.kernels.blocks import install
from medsam_adapt.methods import CobotLoRA, LoRA, Parser
from medsam_adapt.methods.series_adapter import SeriesAdapters
from medsam_adapt.networks import build_sam
from medsam_adapt.networks.sam import weights_sha256

PATCH, WINDOW = 4, 14


def plain_encoder(grid: int, heads: int = 2, window: int = WINDOW) -> ImageEncoderViT:
    """A windowed and a global block of segment-anything, with random weights and relative positions."""
    torch.manual_seed(grid)
    encoder = ImageEncoderViT(
        img_size=grid * PATCH,
        patch_size=PATCH,
        embed_dim=8 * heads,
        depth=2,
        num_heads=heads,
        out_chans=8,
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=(1,),
    )
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return encoder


def fast_layers(encoder: ImageEncoderViT) -> ImageEncoderViT:
    install(encoder)
    return encoder


def picture(grid: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, grid * PATCH, grid * PATCH, requires_grad=True)


def gradients(encoder: nn.Module, image: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a weighted sum of the output with respect to the image and every parameter it depends on, by name."""
    tensors = {"image": image, **dict(encoder.named_parameters())}
    slopes = torch.autograd.grad((encoder(image) * weights).sum(), tensors.values(), allow_unused=True)
    return {name: slope for name, slope in zip(tensors, slopes, strict=True) if slope is not None}


def assert_same(plain: nn.Module, fast: nn.Module, image: torch.Tensor) -> None:
    """Outputs to 1e-5, gradients to 1e-5 of their largest value (of the parameters' own, where there are fewer)."""
    expected = plain(image)
    torch.testing.assert_close(fast(image), expected, rtol=0, atol=1e-5)
    weights = torch.randn_like(expected)
    wanted, found = gradients(plain, image, weights), gradients(fast, image, weights)
    assert list(wanted) == list(found)
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, f"{name} has no gradient to compare"
        assert (found[name] - gradient).abs().max() <= 1e-5 * max(1, gradient.abs().max()), name


def in_one_go(form):
    """Attention by ``form``, given what ``tiled`` is given."""

    def attend(tensors, table_h, table_w, scale):
        return form(*attention_tiles.flattened(tensors, table_h, table_w), scale).view(tensors[0].shape[-4:])

    return attend


@pytest.fixture(params=["tiled", "made again", "small tiles", "small tiles of pairs", "widened"])
def form(request, monkeypatch):
    """Each way of computing, the last as on a GPU that the kernels of test_attention_fused.py do not suit.

    On the CPU with probabilities kept or made again, and in many tiles, of one head or of two.
    """
    if request.param != "tiled":
        monkeypatch.setattr(attention_tiles, "_KEPT_BYTES", 0)
    if request.param.startswith("small tiles"):
        pairs = request.param.endswith("pairs")
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1 + pairs)
        monkeypatch.setattr(attention_tiles, "_TILE_BYTES", 80_000)  # rows of the large grids, a few of the small ones
        monkeypatch.setattr(attention_tiles, "_QUERIES", 1)
    if request.param == "widened":
        monkeypatch.setattr(attention, "tiled", in_one_go(attention.widened))
    return request.param


@pytest.mark.parametrize("grid", [3, 14, 15, 20, 28])
def test_it_is_segment_anythings_attention(form, grid):
    """Grids below, equal to and above a window, with and without padding, of whole windows and odd ones."""
    plain = plain_encoder(grid)
    assert_same(plain, fast_layers(copy.deepcopy(plain)), picture(grid))


def test_vit_nanos_windows(form):
    plain = plain_encoder(16, heads=5, window=8)
    assert_same(plain, fast_layers(copy.deepcopy(plain)), picture(16, batch=3))


def test_sides_may_differ(form):
    """A grid of 3 x 5 tokens in one block, with and without windows."""
    from segment_anything.modeling.image_encoder import Block

    torch.manual_seed(0)
    for window in (0, 2, 4):
        plain = Block(16, 2, use_rel_pos=True, window_size=window, input_size=(3, 5))
        for parameter in plain.parameters():
            nn.init.normal_(parameter, std=0.3)
        fast = copy.deepcopy(plain)
        fast.attn, fast.window_size = EncoderAttention(fast.attn, window), 0
        assert_same(plain, fast, torch.randn(2, 3, 5, 16, requires_grad=True))


def test_the_global_attention_of_512_pixels():
    """Tiles of the size that is used, of a grid of 32 x 32 tokens."""
    plain = plain_encoder(32, heads=1)
    assert_same(plain, fast_layers(copy.deepcopy(plain)), picture(32, batch=1))


@pytest.mark.parametrize(
    "adapter",
    [LoRA(), CobotLoRA(), SeriesAdapters(first_block=0), Parser("attention")],
    ids=lambda each: type(each).__name__,
)
def test_trained_adapters_wrap_what_they_wrapped(form, adapter):
    """qkv may be any layer that acts on tokens one by one; padding is what it makes of zero."""
    plain = plain_encoder(15)
    sams = [_sam(plain), _sam(fast_layers(copy.deepcopy(plain)))]
    for sam in sams:
        torch.manual_seed(1)
        adapter.attach(sam)
        for parameter in sam.image_encoder.parameters():  # trained: nothing of the adapter is zero any more
            parameter.requires_grad_(True).data.add_(0.1 * torch.randn_like(parameter))
    assert_same(*(sam.image_encoder for sam in sams), picture(15))


def _sam(encoder: ImageEncoderViT) -> Sam:
    sam = build_sam("vit_nano", 16)
    sam.image_encoder = encoder
    return sam


SMALL = {
    "queries, keys and values": [(2, 2, 2, 3), (2, 2, 3, 3), (2, 2, 3, 3)],
    "all in one": [(3, 2, 2, 3, 3)],
}


@pytest.mark.parametrize("shapes", SMALL.values(), ids=SMALL.keys())
def test_both_derivatives_are_right(shapes):
    """The second is what the exact hypergradient of BLO-SAM needs where the encoder is trained."""
    torch.manual_seed(0)
    tables = [(2, 2, 3), (shapes[0][-2], 3, 3)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in [*tables, *shapes]]

    def attend(table_h, table_w, *tensors):
        return attention.tiled(tensors, table_h, table_w, 0.5)

    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradgradcheck(attend, inputs)


def test_the_gradient_lies_where_queries_keys_and_values_lie():
    """Of one image's global attention no copy is made but of a group's heads, there or back."""
    layer, heads = torch.randn(1, 6, 7, 3 * 2 * 8, requires_grad=True), 2
    stacked = layer.reshape(6, 7, 3, heads, 8).permute(2, 3, 0, 1, 4)
    tables = torch.randn(6, 6, 8), torch.randn(7, 7, 8)
    mixed = attention.tiled((stacked,), *tables, 0.5)
    assert mixed.permute(1, 2, 0, 3).is_contiguous()
    (slope,) = torch.autograd.grad(mixed.sum(), stacked)
    assert slope.stride() == stacked.stride()


def test_bfloat16_autocast_is_as_exact_as_before(form):
    plain = plain_encoder(15)
    fast = fast_layers(copy.deepcopy(plain))
    image = picture(15)
    exact = plain(image)
    wanted = gradients(plain, image, torch.ones_like(exact))
    with torch.autocast("cpu", torch.bfloat16):
        own, theirs = ((encoder(image).float() - exact).abs().mean() for encoder in (fast, plain))
        own_slopes, their_slopes = (gradients(encoder, image, torch.ones_like(exact)) for encoder in (fast, plain))
    assert own <= 1.2 * theirs
    for name, gradient in wanted.items():
        own, theirs = ((slopes[name] - gradient).norm() for slopes in (own_slopes, their_slopes))
        assert own <= 1.5 * theirs + 0.01 * gradient.norm(), name


def test_names_weights_and_hash_are_segment_anythings():
    plain = plain_encoder(15)
    fast = fast_layers(copy.deepcopy(plain))
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert weights_sha256(fast) == weights_sha256(plain)
    assert all(isinstance(block.attn, EncoderAttention) for block in build_sam("vit_nano").image_encoder.blocks)


def test_it_can_be_copied_and_pickled():
    fast = fast_layers(plain_encoder(15))
    image = picture(15)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(other(image), fast(image))


def test_a_recording_takes_any_batch():
    """TorchScript cannot follow the tiles; what it records is the other form, for batches of any size."""
    fast = fast_layers(plain_encoder(15)).eval()
    with torch.no_grad():
        recorded = torch.jit.trace(fast, picture(15), check_trace=False)
        image = picture(15, batch=3)
        torch.testing.assert_close(recorded(image), fast(image), rtol=0, atol=1e-5)


def test_no_matrix_of_all_scores_is_kept(monkeypatch):
    """For the gradient, a large attention saves tensors as long as its tokens only."""
    saved = []
    fast = fast_layers(plain_encoder(32, heads=4)).blocks[1].attn
    monkeypatch.setattr(attention_tiles, "_KEPT_BYTES", 0)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        fast(torch.randn(1, 32, 32, 32, requires_grad=True))
    assert max(saved) < 32**4  # the scores of one head
