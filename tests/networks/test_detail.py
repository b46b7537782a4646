import copy

import pytest
import torch

from medsam_adapt.networks import DecoderOnly, Segmenter, attach_adapter, build_sam, load_adapter, save_adapter
from medsam_adapt.networks.detail import DetailBranch
from tests.methods.method_tester import IMAGE, add_noise, logits_of, trainable_tensors

HEADS = pytest.mark.parametrize("head", ["structure", "exclusive", "overlapping"])


def segmenter(head="exclusive", detail=8, seed=0):
    torch.manual_seed(seed)
    sam = build_sam("vit_nano", 64, None if head == "structure" else 2, exclusive=head == "exclusive")
    return attach_adapter(Segmenter(sam, head).eval(), DecoderOnly(), detail=detail).eval()


@HEADS
def test_starts_close_to_sam(head):
    added = logits_of(segmenter(head)) - logits_of(segmenter(head, detail=0))
    assert 0 < added.std() < 0.3


@HEADS
def test_gradient_reaches_every_tensor_of_the_branch_from_the_first_step(head):
    network = segmenter(head)
    network(IMAGE).square().mean().backward()
    own = {name: tensor for name, tensor in trainable_tensors(network).items() if name.startswith("sam.detail.")}
    assert own
    assert [name for name, tensor in own.items() if not tensor.grad.any()] == []


@pytest.mark.parametrize("detail", [0, 8])
def test_only_the_branch_draws_lines_of_one_pixel(detail):
    lines = torch.zeros(64, 64)
    lines[8:56, 8:56:2] = 1
    image, target = torch.full((1, 3, 64, 64), 90.0) + 80 * lines, lines[None].long()
    network = segmenter(detail=detail)
    optimizer = torch.optim.AdamW(trainable_tensors(network).values(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), target).backward()
        optimizer.step()
    drawn = network(image).argmax(dim=1) == 1
    overlap = 2 * (drawn & (target == 1)).sum() / (drawn.sum() + target.sum())
    assert (overlap > 0.95) == bool(detail)


def test_coordinates_tell_apart_what_looks_alike():
    """One image, whose square is one class on the left and another on the right; SAM sees no difference."""
    torch.manual_seed(0)
    sam = build_sam("vit_nano", 64, 2)
    network = attach_adapter(Segmenter(sam, "exclusive").eval(), DecoderOnly(), detail=8, coordinates=True).eval()
    target = torch.zeros(2, 64, 64, dtype=torch.long)
    target[:, 20:40, 20:40] = torch.tensor([1, 2])[:, None, None]
    places = torch.tensor([-0.5, 0.5])[:, None, None, None].expand(2, 3, 64, 64)
    image = torch.cat([90.0 + 80 * (target > 0)[:, None].expand(2, 3, 64, 64), places], dim=1)
    assert torch.equal(*network.encode(image).split(1))
    optimizer = torch.optim.AdamW(trainable_tensors(network).values(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), target).backward()
        optimizer.step()
    assert (network(image).argmax(dim=1) == target).float().mean() > 0.99


def test_saves_and_loads(tmp_path):
    trained = add_noise(segmenter())
    save_adapter(trained, tmp_path)
    torch.manual_seed(3)
    assert torch.equal(logits_of(load_adapter(segmenter(), tmp_path)), logits_of(trained))


def test_gives_whole_logits_where_low_resolution_ones_are_asked_for():
    network = add_noise(segmenter())
    with torch.no_grad():
        assert torch.equal(network(IMAGE, low_res=True), network(IMAGE))


def test_a_prompt_changes_what_is_drawn():
    network = add_noise(segmenter("structure"))
    with torch.no_grad():
        here, there = (
            network(IMAGE, boxes=torch.tensor([box] * 2, dtype=torch.float32))
            for box in ([4, 4, 20, 20], [30, 30, 60, 60])
        )
    assert not torch.equal(here, there)


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("grid", [1, 2, 6])
def test_takes_any_multiple_of_16_and_any_grid(size, grid):
    branch = DetailBranch(masks=3, embedding=12, width=8)
    given = torch.rand(1, 3, size, size), torch.rand(1, 12, grid, grid), torch.rand(1, 3, 4 * grid, 4 * grid)
    assert branch(*given).shape == (1, 3, size, size)


def test_a_copy_is_independent():
    network = add_noise(segmenter())
    before, replica = logits_of(network), copy.deepcopy(network)
    add_noise(replica)
    assert torch.equal(logits_of(network), before)
