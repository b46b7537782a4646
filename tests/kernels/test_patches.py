"""The patch embedding as a linear layer equals the convolution."""

import torch
from segment_anything.modeling.image_encoder import PatchEmbed

from medsam_adapt.kernels.patches import PatchEmbedding


def test_it_is_the_convolution():
    plain = PatchEmbed((4, 4), (4, 4), embed_dim=6)
    fast = PatchEmbedding(plain)
    images = torch.randn(2, 3, 12, 8, requires_grad=True)
    expected, found = plain(images), fast(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found.is_contiguous()
    along = torch.randn_like(expected)
    inputs = [images, *plain.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, along), torch.autograd.grad(expected, inputs, along), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert torch.equal(torch.jit.trace(fast, images)(images), expected)
