import copy

import pytest
import torch
import torch.nn.functional as F

from medsam_adapt.networks import DecoderOnly, Segmenter, attach_adapter, build_sam


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return build_sam("vit_nano", 64)


@pytest.mark.parametrize(
    ("head", "classes", "exclusive", "channels"),
    [("exclusive", 3, True, 4), ("overlapping", 3, False, 3), ("structure", None, True, 1)],
)
def test_each_head_has_its_channels(image, head, classes, exclusive, channels):
    segmenter = Segmenter(build_sam("vit_nano", 64, classes, exclusive=exclusive), head)
    prediction = segmenter.predict(image)
    assert prediction.logits.shape == (2, channels, 64, 64)
    assert prediction.low_res_logits.shape == (2, channels, 32, 32)
    assert prediction.image_embedding.shape == (2, 128, 8, 8)
    assert prediction.mask_tokens.shape == (2, segmenter.sam.mask_decoder.num_mask_tokens, 128)
    assert segmenter(image, low_res=True).shape == (2, channels, 32, 32)


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"boxes": torch.tensor([[4.0, 5.0, 40.0, 30.0], [10.0, 8.0, 60.0, 50.0]])},
        {"points": torch.tensor([[[9.0, 9.0, 1.0], [50.0, 9.0, 0.0]], [[3.0, 40.0, 1.0], [0.0, 0.0, -1.0]]])},
    ],
    ids=["none", "boxes", "points"],
)
def test_a_batch_gives_what_sam_gives_image_by_image(sam, image, prompt):
    logits = Segmenter(sam, "structure")(image, **prompt)
    for index in range(2):
        record = {"image": image[index], "original_size": (64, 64)}
        if "boxes" in prompt:
            record["boxes"] = prompt["boxes"][index : index + 1]
        if "points" in prompt:
            points = prompt["points"][index : index + 1]
            record |= {"point_coords": points[..., :2], "point_labels": points[..., 2]}
        low_res = sam([record], multimask_output=False)[0]["low_res_logits"]
        expected = F.interpolate(low_res, (64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(logits[index : index + 1], expected)


def test_frozen_features_stand_in_for_the_image(sam, image):
    segmenter = attach_adapter(Segmenter(copy.deepcopy(sam), "structure"), DecoderOnly())
    features = segmenter.frozen_features(image)
    torch.testing.assert_close(segmenter(None, features=features), segmenter(image))


def test_prompts_keep_full_precision_under_autocast(sam, image):
    segmenter = Segmenter(sam, "structure")
    boxes = torch.tensor([[4.0, 5.0, 40.0, 30.0], [10.0, 8.0, 60.0, 50.0]])
    expected = segmenter._embed_prompts(2, boxes, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = segmenter._embed_prompts(2, boxes, None)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_positions_are_computed_again_when_their_matrix_changes(image):
    segmenter = Segmenter(build_sam("vit_nano", 64), "structure").eval()
    with torch.no_grad():
        first = segmenter(image)
        assert torch.equal(segmenter(image), first)
        segmenter.sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(0.5)
        changed = segmenter(image)
        assert not torch.equal(changed, first)
        assert torch.equal(copy.deepcopy(segmenter)(image), changed)
        assert torch.equal(segmenter.double().float()(image), changed)
