"""Adapters travel: what is pushed comes back as the same run, and only what can be pulled is pushed."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256, write_json
from medsam_adapt.hub.places import LocalFolder
from medsam_adapt.hub.repository import pull, push
from medsam_adapt.inference.predictor import load_run
from medsam_adapt.networks import build_sam
from tests.hub.runs import (
    ALL_FILES,
    NAMES,
    adapted_run,
    adapter_of,
    edit,
    files_in,
    same_weights,
    weights,
)

# ------------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("bundle", bundle_names())
def test_every_method_comes_back_bit_by_bit(bundle, tmp_path):
    run = adapted_run(tmp_path / "run", bundle, adapter_of(bundle))
    push(run, LocalFolder(tmp_path / "repository"))
    assert files_in(tmp_path / "repository") == [name for name in ALL_FILES if name != "statistics.json"]
    assert pull(LocalFolder(tmp_path / "repository"), tmp_path / "pulled")
    assert same_weights(run, tmp_path / "pulled")
    ours, theirs = (
        load_file(folder / "models/adapter/adapter_model.safetensors") for folder in (run, tmp_path / "pulled")
    )
    assert set(ours) == set(theirs)
    configs = sorted(path.name for path in (tmp_path / "pulled/configs").iterdir())
    assert {"train.json", "evaluate.json", "inference.json", "metadata.json"} <= set(configs)


def test_an_encoder_that_was_trained_comes_back(tmp_path):
    run = adapted_run(tmp_path / "run", tune_encoder=True)
    push(run, LocalFolder(tmp_path / "repository"))
    assert pull(LocalFolder(tmp_path / "repository"), tmp_path / "pulled")
    assert same_weights(run, tmp_path / "pulled")


def test_a_pulled_run_predicts_the_same_voxels(run, pushed, tmp_path):
    pull(LocalFolder(pushed), tmp_path / "pulled")
    scan = np.random.default_rng(0).normal(0, 150, (20, 18, 3)).astype(np.float32)
    affine = np.diag([2.0, 2, 5, 1])
    predictors = [load_run(folder, "cpu") for folder in (run, tmp_path / "pulled")]
    probabilities = [predictor.probabilities(scan, affine) for predictor in predictors]
    assert all(np.ptp(each) > 0.01 for each in probabilities[0])
    assert np.array_equal(*probabilities)
    assert np.array_equal(*(predictor(scan, affine) for predictor in predictors))


def test_statistics_travel_and_can_be_left_out(tmp_path):
    run = adapted_run(tmp_path / "run")
    statistics = {"format": 1, "classes": {name: {"volume_ml": [1.5, 2.0], "grey_level": [99.0]} for name in NAMES}}
    write_json(run / "statistics.json", statistics)
    push(run, LocalFolder(tmp_path / "repository"))
    pull(LocalFolder(tmp_path / "repository"), tmp_path / "pulled")
    assert json.loads((tmp_path / "pulled/statistics.json").read_text()) == statistics
    (tmp_path / "repository/statistics.json").unlink()
    (tmp_path / "repository/README.md").unlink()
    pull(LocalFolder(tmp_path / "repository"), tmp_path / "again")
    assert not (tmp_path / "again/statistics.json").exists()


# ------------------------------------------------------------------------------------------------ what is not pushed


def another_frozen_weight(run):
    own = weights(run)
    own["sam.image_encoder.pos_embed"][0, 0, 0, 0] += 1e-6
    torch.save(own, run / "models/model.pt")


def damaged_metrics(run):
    (run / "metrics.json").write_text("{}")


@pytest.mark.parametrize(
    ("break_it", "changes", "words"),
    [
        (another_frozen_weight, {}, "is not sam_nano plus its adapter"),
        (None, {"checkpoint": "random"}, "started from random weights, which others do not have"),
        (None, {"bundle_sha256": "0" * 64}, "trained by a bundle that is not shipped"),
        (lambda run: shutil.rmtree(run / "models/adapter"), {}, "is missing or damaged|cannot be read"),
        (lambda run: (run / "models/model.pt").unlink(), {}, "holds no trained weights"),
        (damaged_metrics, {}, "is of another version. Score the run again"),
        (None, {"knobs": {"checkpoint": "gone.pth"}}, "gone.pth: this checkpoint does not exist"),
        (None, {"knobs": {"of_another_version": 1}}, "there is no setting 'of_another_version'"),
    ],
)
def test_what_could_not_be_pulled_is_not_pushed(break_it, changes, words, tmp_path):
    run = adapted_run(tmp_path / "run", **changes)
    if break_it:
        break_it(run)
    with pytest.raises(InputError, match=words):
        push(run, LocalFolder(tmp_path / "repository"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_licence_is_a_short_name(run, tmp_path):
    with pytest.raises(InputError, match="SPDX"):
        push(run, LocalFolder(tmp_path / "repository"), licence="mine: all mine")


def test_a_folder_with_other_files_is_not_replaced(run, pushed):
    (pushed / ".git").mkdir()
    with pytest.raises(InputError, match=r"other files \(.git\)"):
        LocalFolder(pushed).refuse_other_files(overwrite=True)
    (pushed / ".git").rmdir()
    with pytest.raises(InputError, match=r"already contains an adapter\. .* --overwrite"):
        LocalFolder(pushed).refuse_other_files(overwrite=False)
    LocalFolder(pushed).refuse_other_files(overwrite=True)
    (pushed / "adapter/mine.txt").touch()
    with pytest.raises(InputError, match=r"other files \(adapter/mine.txt\)"):
        LocalFolder(pushed).refuse_other_files(overwrite=True)


# --------------------------------------------------------------------------------------------------- base weights


def test_weights_that_are_not_published_must_be_given_and_be_the_right_ones(own_base, tmp_path):
    run = adapted_run(tmp_path / "run", checkpoint=str(own_base))
    place, output = LocalFolder(tmp_path / "repository"), tmp_path / "pulled"
    origin = push(run, place)
    assert (origin.base.name, origin.base.file_name) == (None, "my_ weights.safetensors")
    with pytest.raises(InputError, match=r"my_ weights.safetensors with SHA-256 .* give it as --checkpoint FILE"):
        pull(place, output)
    for wrong in ("sam_nano", str(other_weights(tmp_path))):
        with pytest.raises(InputError, match=r"was not trained on .* Give the weights that it was trained on"):
            pull(place, output, wrong)
    with pytest.raises(InputError, match="Leave out --checkpoint random"):
        pull(place, output, "random")
    with pytest.raises(InputError, match="does not exist"):
        pull(place, output, "nowhere.pth")
    assert not output.exists()
    same = tmp_path / "same.safetensors"  # the same tensors in another file are as good
    save_file(load_file(own_base), same, metadata={"by": "me"})
    assert file_sha256(same) != origin.base.sha256
    for right in (own_base, same):
        assert pull(place, output, str(right))
        assert same_weights(run, output)
        assert json.loads((output / "run.json").read_text())["knobs"]["checkpoint"] == str(right)


def other_weights(folder):
    torch.manual_seed(4)
    save_file(build_sam("vit_nano").state_dict(), folder / "other.safetensors")
    return folder / "other.safetensors"


def test_the_base_can_have_moved_before_it_is_pushed(own_base, tmp_path):
    run = adapted_run(tmp_path / "run", checkpoint=str(own_base), knobs={"checkpoint": "moved.safetensors"})
    with pytest.raises(InputError, match=r"other.safetensors: the adapter of .* was not trained on it"):
        push(run, LocalFolder(tmp_path / "repository"), checkpoint=str(other_weights(tmp_path)))
    push(run, LocalFolder(tmp_path / "repository"), checkpoint=str(own_base))


def test_a_record_that_was_changed_is_noticed(pushed, tmp_path):
    edit("run.json", image_size=64)(pushed)
    assert not pull(LocalFolder(pushed), tmp_path / "pulled")


def test_other_rounding_on_another_machine_is_told_and_not_refused(pushed, tmp_path, monkeypatch):
    from medsam_adapt.networks import checkpoints

    resize = checkpoints.resize_positions

    def resized_elsewhere(own, expected):
        tensors = resize(own, expected)
        return {**tensors, "image_encoder.pos_embed": tensors["image_encoder.pos_embed"] + 1e-6}

    monkeypatch.setattr(checkpoints, "resize_positions", resized_elsewhere)
    assert not pull(LocalFolder(pushed), tmp_path / "pulled")
    assert (tmp_path / "pulled/models/model.pt").is_file()
