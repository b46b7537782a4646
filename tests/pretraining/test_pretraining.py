"""Pretraining: synthetic images, prompts, the objective, the loop, and the weights that ship."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam_adapt.core.errors import InputError
from medsam_adapt.networks.sam import build_sam
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.weights.backbones import PIXEL_MEAN
from pretraining.images import SMALLEST_PART, make_sample
from pretraining.objective import AllMasks, mask_losses, objective, true_quality
from pretraining.prompts import draw_box, draw_points
from pretraining.shapes import arc, crescent, pieces, star, superellipse, tube, wavy, winged
from pretraining.train import Pretraining, Recipe, run
from pretraining.zero_shot import filled_box, inscribed_ellipse

SMALL = Recipe(batch_size=1, boxes=1, points=1)


@pytest.fixture(scope="module")
def samples():
    return [make_sample(seed=3, index=index, masks=4) for index in range(40)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Segmenter(build_sam("vit_nano"), head="structure").eval()


def test_an_image_follows_from_its_seed_and_index(samples):
    again, other = make_sample(3, 5, 4), make_sample(4, 5, 4)
    assert (again.image == samples[5].image).all()
    assert (again.masks == samples[5].masks).all()
    assert not (other.image == samples[5].image).all()


def test_images_are_grey_or_coloured_and_masks_are_parts_of_them(samples):
    for image, masks in samples:
        assert (image.shape, image.dtype) == ((3, 128, 128), np.uint8)
        assert (masks.shape, masks.dtype) == ((4, 128, 128), bool)
        assert masks.sum(axis=(1, 2)).min() >= SMALLEST_PART
        assert masks.mean(axis=(1, 2)).max() <= 0.5
        padding = (image == np.rint(PIXEL_MEAN)[:, None, None]).all(axis=0)
        assert not (masks & (padding.all(axis=0) | padding.all(axis=1)[:, None])).any()
    grey = [np.ptp(image[:, 0, 0]) == 0 for image, _ in samples]
    assert 0.6 < np.mean(grey) < 1


@pytest.mark.parametrize("maker", [superellipse, star, crescent, arc, tube, pieces, winged])
def test_shapes_lie_within_their_reach_and_are_not_empty(maker):
    v, u = np.mgrid[-100:101, -100:101].astype(np.float32)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        outline = wavy(rng, maker(rng, 20), 20)
        inside = outline.field(u, v) < 0
        assert inside.sum() > 50
        assert np.maximum(abs(u), abs(v))[inside].max() <= outline.reach + 1


def test_boxes_enclose_the_mask_roughly_and_clicks_know_their_side(samples):
    random = np.random.RandomState(0)
    for _, masks in samples:
        for mask in masks:
            rows, columns = np.nonzero(mask)
            box = draw_box(mask, 0.5, random)
            assert np.abs(box - [columns.min(), rows.min(), columns.max(), rows.max()]).max() <= 10
            points = draw_points(mask, 8, random)
            assert points[0, 2] == 1
            for x, y, label in points[points[:, 2] >= 0].astype(int):
                assert mask[y, x] == label


def test_the_objective_is_least_for_the_right_mask_and_takes_the_best_of_three():
    target = torch.zeros(2, 8, 8)
    target[:, 2:6, 2:6] = 1
    right = 20 * (torch.nn.functional.avg_pool2d(target, 2) - 0.5)
    logits = torch.stack([right, -right, right, -right], dim=1)
    quality = true_quality(logits, torch.nn.functional.avg_pool2d(target, 2)[:, None])
    loss, report = objective(logits, quality, target)
    assert loss < 0.5
    assert report["iou_best"] == 1
    wrong, _ = objective(-logits, quality, target)
    assert wrong > 5 * loss
    assert mask_losses(100 * (target - 0.5), target).max() < 1e-3


def test_two_runs_of_a_seed_give_the_same_weights_also_when_one_is_interrupted(tmp_path):
    whole, first, second = (Pretraining(SMALL, steps=3) for _ in range(3))
    reports = [whole.advance() for _ in range(3)]
    assert all(np.isfinite(list(report.values())).all() for report in reports)
    first.advance()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [second.advance(), second.advance()] == reports[1:]
    assert all(torch.equal(tensor, second.mean[name]) for name, tensor in whole.mean.items())


def test_a_state_of_another_schedule_is_refused():
    state = Pretraining(SMALL, steps=3).state_dict()
    with pytest.raises(InputError, match="same options"):
        Pretraining(SMALL, steps=4).load_state_dict(state)


def test_a_run_leaves_weights_that_load_a_log_and_a_state(tmp_path):
    output = tmp_path / "nano.safetensors"
    options = {"log_every": 1, "held_out_every": 9, "held_out_images": 2, "show": lambda line: None}
    run(output, SMALL, steps=2, stop_at=1, **options)
    build_sam("vit_nano", checkpoint=output)
    run(output, SMALL, steps=2, resume=True, **options)
    lines = output.with_suffix(".csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2"]
    run(output, SMALL, steps=2, resume=True, **options)
    assert output.with_suffix(".csv").read_text().splitlines() == lines


def test_all_masks_are_those_of_the_segmenter_with_their_predicted_quality(network):
    image, boxes = torch.from_numpy(make_sample(0, 0, 1).image)[None].float(), torch.tensor([[20.0, 20, 90, 80]])
    both = AllMasks(network.sam).eval()
    with torch.no_grad():
        embedding = network.encode(image)
        logits, quality = both.masks_and_quality(embedding, boxes=boxes)
        assert torch.allclose(logits[:, :1], network.decode(embedding, boxes, upsample=False).logits, atol=1e-4)
        sparse, dense = network.sam.prompt_encoder(points=None, boxes=boxes, masks=None)
        position = network.sam.prompt_encoder.get_dense_pe()
        expected = network.sam.mask_decoder.predict_masks(embedding, position, sparse, dense)[1]
    assert torch.allclose(quality, expected, atol=1e-4)


def test_baselines_fill_the_box_and_the_ellipse_in_it():
    mask = np.zeros((9, 12), dtype=bool)
    mask[2, 3] = mask[6, 9] = True
    assert filled_box(mask).sum() == 5 * 7
    ellipse = inscribed_ellipse(mask)
    assert ellipse[4, 3:10].all()
    assert ellipse[2:7, 6].all()
    assert not ellipse[2, 3]
    assert ellipse.sum() < 35
    assert not inscribed_ellipse(np.zeros((4, 4), dtype=bool)).any()
