"""More images than colours: SAM at the start, a few trained values, one plain convolution in the end."""

import pytest
import torch

from medsam_adapt.bundle.catalogue import describe_network
from medsam_adapt.networks import DecoderOnly, build_sam, build_segmenter, count_trainable, load_adapter, save_adapter
from medsam_adapt.networks.image_channels import images_of, merge_images, mix_images

IMAGE = 255 * torch.rand(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))


def segmenter(images, **more):
    return build_segmenter("vit_nano", 64, 2, DecoderOnly(), checkpoint="random", images=images, **more).eval()


@pytest.mark.parametrize("variant", ["vit_nano", "lite_medsam"])
def test_at_the_start_the_network_is_sam_on_the_first_three(variant):
    size = 64 if variant == "vit_nano" else 256
    sam = build_sam(variant, size)
    image = torch.rand(1, 4, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = sam.image_encoder(image[:, :3])
        mix_images(sam, 4)
        torch.testing.assert_close(sam.image_encoder(image), before, rtol=1e-4, atol=1e-4)
    assert images_of(sam) == 4
    torch.testing.assert_close(sam.pixel_mean[3], sam.pixel_mean[:3].mean(dim=0))


def test_the_mixture_is_trained_counted_and_saved(tmp_path):
    network, plain = segmenter(4, tune_encoder=False), segmenter(3, tune_encoder=False)
    added = count_trainable(network)["encoder"] - count_trainable(plain)["encoder"]
    assert added == network.sam.image_encoder.patch_embed.proj.out_channels * 4 * 3
    network(IMAGE).square().mean().backward()
    (mixture,) = [each for name, each in network.named_parameters() if name.endswith("mixture")]
    assert mixture.grad[:, 3].abs().sum() > 0  # the fourth image is learnt, although it adds nothing yet
    with torch.no_grad():
        mixture += torch.randn(mixture.shape, generator=torch.Generator().manual_seed(2))
    save_adapter(network, tmp_path)
    again = load_adapter(segmenter(4, tune_encoder=False), tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(IMAGE), network(IMAGE))


@pytest.mark.parametrize("detail", [0, 8])
def test_merged_it_is_one_convolution_of_four_images(detail):
    network = segmenter(4, detail=detail)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if name.endswith("mixture") or "detail.head" in name:
                tensor += torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
        expected = network(IMAGE)
        merge_images(network.sam)
        torch.testing.assert_close(network(IMAGE), expected, rtol=1e-4, atol=1e-3)
    assert not [name for name, _ in network.named_parameters() if name.endswith("mixture")]
    assert network.sam.image_encoder.patch_embed.proj.weight.shape[1] == 4


def test_three_images_are_the_colours():
    assert not [name for name, _ in segmenter(3).named_parameters() if name.endswith("mixture")]


def test_bundles_show_counts_the_mixture():
    one, four = (describe_network("lora", "vit_b", images=images)["trainable"] for images in (1, 4))
    assert four["encoder"] - one["encoder"] == 768 * 4 * 3
