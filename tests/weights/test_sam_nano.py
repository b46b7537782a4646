"""The weights that ship: what they are, and that they see more than their prompt."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from medsam_adapt.core.files import file_sha256
from medsam_adapt.networks.sam import build_sam
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.weights.reading import read_weights
from medsam_adapt.weights.registry import WEIGHTS
from medsam_adapt.weights.store import local_path, resolve
from pretraining.images import make_sample
from pretraining.train import held_out_iou
from pretraining.zero_shot import mean_scores, score_folder


def test_they_are_small_in_half_precision_and_the_ones_registered():
    path = local_path("sam_nano")
    assert path is not None
    assert path.stat().st_size == WEIGHTS["sam_nano"].size <= 8_000_000
    assert file_sha256(path) == WEIGHTS["sam_nano"].sha256
    assert {tensor.dtype for tensor in read_weights(path).values()} == {torch.float16}
    assert (path.parent / "MODEL_CARD.md").is_file()


def test_they_are_what_vit_nano_starts_from():
    assert resolve(None, "vit_nano") == local_path("sam_nano")
    assert resolve("random", "vit_nano") is None


def test_they_draw_synthetic_parts_that_they_never_saw():
    weights = build_sam("vit_nano", checkpoint="sam_nano").state_dict()
    assert held_out_iou(weights, seed=0, images=12) > 0.6


def test_real_structures_in_tight_boxes_are_drawn_better_than_boxes_and_ellipses(real_data):
    network = Segmenter(build_sam("vit_nano", checkpoint="sam_nano"), head="structure")
    scores = {}
    for name in ("ct_abdomen", "mr_abdomen"):
        found = score_folder(network, real_data / name)
        scores |= {f"{name}: {structure}": score for structure, score in found.items()}
    mean = mean_scores(scores)
    assert len(scores) > 60
    assert mean.network > max(mean.box, mean.ellipse)


def test_their_embedding_keeps_grey_levels_and_differs_from_place_to_place():
    """Without that, fine-tuning with a frozen encoder starts slowly."""
    read, varying = _readable(build_sam("vit_nano", checkpoint="sam_nano"))
    assert read > 0.98  # the weights that shipped first: 0.85
    assert varying > 0.9  # 0.18


def _readable(sam):
    """Share of the variance of grey levels that a linear layer reads; that of the embedding that is not constant."""
    images = torch.stack([torch.from_numpy(make_sample(7, index, 1).image).float() for index in range(24)])
    with torch.no_grad():
        embedding = Segmenter(sam).encode(images)
    places = embedding.permute(0, 2, 3, 1).flatten(0, 2).double()
    levels = F.adaptive_avg_pool2d(images, embedding.shape[-2:]).mean(dim=1).flatten().double()[:, None]
    features = torch.cat([places, torch.ones(len(places), 1)], dim=1)
    found = features @ torch.linalg.lstsq(features, levels).solution
    read = 1 - (found - levels).square().mean() / levels.var()
    varying = places.var(dim=0).sum() / places.square().sum(dim=1).mean()
    return read.item(), varying.item()
