"""Features of unchanged slices, moved along with the augmentation."""

import numpy as np
import pytest
import torch

from medsam_adapt.bundle.catalogue import resolve_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.data import TrainingData
from medsam_adapt.feature_cache.frozen_work import FrozenWork
from medsam_adapt.feature_cache.moved import moved_features
from medsam_adapt.networks import DecoderOnly, build_segmenter
from medsam_adapt.training.setup import PrepareSlices, loader_of
from tests.cli.test_train import SMALL, call

pytestmark = pytest.mark.usefixtures("tiny_nano")
CPU = torch.device("cpu")
MOVED = {"tune_encoder": False, "cache_frozen": "on", "cached_views": 0}


def position(side, down=0, right=0):
    """Where pixels come from in a slice that was moved by whole pixels."""
    rows, columns = (torch.arange(side) + 0.5 - shift for shift in (down, right))
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    inside = ((row > 0) & (row < side) & (column > 0) & (column < side)).float()
    return (torch.stack([column, row, torch.ones_like(row)]) * inside)[None]


def test_features_of_a_slice_at_rest_stay():
    features = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(moved_features(features, position(16)), features)


def test_features_move_with_the_slice_and_its_last_corner_fills_the_rest():
    features = torch.randn(1, 3, 4, 4)
    found = moved_features(features, position(16, down=4, right=8))
    torch.testing.assert_close(found[..., 1:, 2:], features[..., :-1, :-2])
    corner = features[..., -1:, -1:]
    torch.testing.assert_close(found[..., :1, :], corner.expand(-1, -1, 1, 4))
    torch.testing.assert_close(found[..., :2], corner.expand(-1, -1, 4, 2))


def work_and_data(phantoms, tmp_path, bundle="decoder", **sets):
    small = {"batch_size": 2, "image_size": 32, "cache_dir": str(tmp_path), "min_steps": 2}
    knobs = resolve_knobs(bundle, sets={**small, **MOVED, **sets})
    data = TrainingData.of(phantoms, knobs)
    how = {"checkpoint": "random", "tune_encoder": False, "detail": knobs.detail}
    segmenter = build_segmenter("vit_nano", data.image_size, len(data.class_names), DecoderOnly(), **how)
    return FrozenWork(data, segmenter, knobs, CPU), data, knobs


@pytest.mark.parametrize("augment", ["anatomical", "strong", "free"])
def test_positions_tell_where_the_label_of_each_pixel_comes_from(phantoms, tmp_path, augment):
    frozen, data, _ = work_and_data(phantoms, tmp_path, augment=augment)
    dataset = data.dataset("train", frozen.views)
    moved = same = 0
    for index in range(0, len(dataset), 3):
        sample = dataset[index, index]
        stored = data.store()[sample["case"]].labels[sample["slice"]]
        column, row, share = sample["position"]
        known = share > 0.999
        found = stored[row[known].long(), column[known].long()]
        same += int(np.sum(found == sample["label"][0][known].numpy()))
        moved += int(known.sum())
    assert same > 0.97 * moved > 0  # but for pixels at a border, where the label has its nearest neighbour


@pytest.mark.parametrize("bundle", ["decoder", "detail"])
def test_a_batch_has_the_moved_features_of_its_slices(phantoms, tmp_path, bundle):
    frozen, data, knobs = work_and_data(phantoms, tmp_path, bundle, augment="anatomical", planes="one")
    assert "moved along with the augmentation" in frozen.describe()
    batch = next(iter(loader_of(data.dataset("train", frozen.views), knobs)))
    image, _, _, given = PrepareSlices(False, frozen)(batch, CPU)
    assert (image is None) == (bundle == "decoder")
    plain = frozen(batch["row"].tolist())["features"]
    torch.testing.assert_close(given["features"], moved_features(plain, batch["position"]))
    assert not torch.allclose(given["features"], plain)


def test_parts_of_an_encoder_cannot_be_moved(phantoms, tmp_path):
    with pytest.raises(InputError, match="cached_views: 0 moves kept features, and they are not one map"):
        FrozenWork(*of_a_part(phantoms, tmp_path, "on"))
    assert FrozenWork(*of_a_part(phantoms, tmp_path, "auto")).views is None


def test_images_that_are_left_out_at_random_are_not_in_kept_features(phantoms, tmp_path):
    frozen, data, knobs = work_and_data(phantoms, tmp_path)
    assert frozen.views is not None
    knobs.channel_dropout = 0.5
    with pytest.raises(InputError, match="channel_dropout leaves out images"):
        FrozenWork(data, frozen.parts["features"].segmenter, knobs, CPU)


def of_a_part(phantoms, tmp_path, cache_frozen):
    """Frozen up to the neck, which SAM-PARSER trains."""
    from medsam_adapt.methods import Parser

    sets = {"image_size": 32, "cache_dir": str(tmp_path), **MOVED, "cache_frozen": cache_frozen}
    knobs = resolve_knobs("samparser", sets={**sets, "prompt": "none"})
    data = TrainingData.of(phantoms, knobs)
    segmenter = build_segmenter(
        "vit_nano", 32, len(data.class_names), Parser(), checkpoint="random", tune_encoder=False
    )
    return data, segmenter, knobs, CPU


def test_a_training_on_moved_features_resumes_and_predicts(phantoms, tmp_path, capsys):
    settings = [f"--set={name}={str(value).lower()}" for name, value in MOVED.items()]
    where = ["--data", phantoms, "--output", tmp_path / "run", "--cache-dir", tmp_path / "cache"]
    code, out, _ = call(capsys, "train", "--bundle", "decoder", *where, *SMALL, *settings, "--epochs", 2)
    assert code == 0
    assert "moved along with the augmentation" in out
    scan = next((phantoms / "images").iterdir())
    assert call(capsys, "predict", tmp_path / "run", "-i", scan, "-o", tmp_path / "masks", "--device", "cpu")[0] == 0
