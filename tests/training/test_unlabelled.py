"""Trainings with scans that nobody labelled: what is learned from them, and that they resume bit by bit."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from medsam_adapt.cli.main import main
from medsam_adapt.data.phantom.phantom import write_phantoms
from medsam_adapt.data.slices.sampling import SliceDataset
from medsam_adapt.inference.inferer import SlicewiseInferer
from medsam_adapt.training.run_handler import RunHandler
from medsam_adapt.training.unlabelled import LABEL_FOLDER, SelfTraining
from tests.equal_runs import differences
from tests.slicing import training_data

SMALL = ["--image-size", "32", "--epochs", "3", "--device", "cpu"]
SETS = ("batch_size=4", "min_steps=3", "max_steps=3", "average=0.9", "unlabelled_from=0.3", "num_workers=0")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Folder of two images of other patients than those of ``phantoms``."""
    folder = tmp_path_factory.mktemp("scans")
    write_phantoms(folder / "data", 2, seed=5, shape=(40, 36, 12))
    for number, image in enumerate(sorted((folder / "data/images").iterdir())):
        image.rename(folder / f"scan_{number}.nii.gz")
    shutil.rmtree(folder / "data")
    return folder


def train(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["train", *map(str, arguments)])
    return stopped.value.code or 0


@pytest.mark.usefixtures("tiny_nano")
def test_a_run_killed_after_labelling_comes_to_the_same_bits(phantoms, scans, tmp_path, monkeypatch):
    monkeypatch.setattr("medsam_adapt.training.unlabelled.classes_of_all", lambda data: [])
    names = (*SETS, "held_out=0.34", "empty_share=1.0", "unlabelled_least=0")
    sets = [part for name in names for part in ("--set", name)]
    options = ["--data", phantoms, "--unlabelled", scans, *SMALL, *sets]
    drawn = []
    save_state, label = RunHandler._save_state, SelfTraining.label

    def labelled(training, times):
        label(training, times)
        drawn.append((times, sorted(path.name for path in (training.folder / str(times)).iterdir())))

    def killed(keeper, engine):
        save_state(keeper, engine)
        if engine.state.iteration == engine.state.epoch_length + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(SelfTraining, "label", labelled)
    assert train(*options, "--output", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunHandler, "_save_state", killed)
        assert train(*options, "--set", "save_minutes=0", "--output", tmp_path / "run")
    assert (tmp_path / "run" / LABEL_FOLDER / "1").is_dir()
    assert train("--resume", "--output", tmp_path / "run", "--device", "cpu", "--set", "save_minutes=10") == 0
    assert differences(tmp_path / "run", tmp_path / "whole") == []
    names = ["scan_0", "scan_1"]
    assert drawn == [(1, names), (2, names), (1, names), (2, names)]
    assert not (tmp_path / "run" / LABEL_FOLDER).exists()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["unlabelled"] == names
    assert record["knobs"]["unlabelled"] == str(scans)
    assert len(record["held_out"]) == 1


class Guess(nn.Module):
    """Stands for a segmenter of two classes that is sure of the left half, and of nothing elsewhere."""

    def __init__(self, image_size):
        super().__init__()
        self.image_size, self.head = image_size, "exclusive"
        self.level = nn.Parameter(torch.tensor(0.0))
        self.sam = nn.Module()
        self.sam.register_buffer("pixel_mean", torch.zeros(1))

    def forward(self, images):
        logits = torch.zeros(len(images), 6, self.image_size, self.image_size)
        logits[:, 1, :, : self.image_size // 2] = self.level
        return logits


def test_the_average_labels_and_held_out_scans_stay_unseen(phantoms, scans, tmp_path):
    everything = tmp_path / "everything"
    shutil.copytree(scans, everything)
    for image in (phantoms / "images").iterdir():
        shutil.copy(image, everything / image.name)
    data = training_data(phantoms, image_size=32, held_out=0.34, cache_dir=tmp_path, unlabelled=everything)
    data.store()
    network = Guess(32)
    average = SimpleNamespace(applied=lambda: Applied(network.level))
    knobs = SimpleNamespace(unlabelled_least=0.9, unlabelled_from=0.4)
    training = SelfTraining(data, network, SlicewiseInferer(data.slicing), tmp_path / "run", knobs, average=average)
    reports = []
    training.report, training.expected = reports.append, [1]
    training.label(1)
    assert network.level == 0
    assert network.training
    assert reports[0].startswith("scans labelled to train on: 2; unsure of ")
    labels = {name: np.asarray(scan.labels) for name, scan in data.unlabelled.views().items()}
    assert set(labels) == {"scan_0", "scan_1"}
    for label in labels.values():
        assert (label[:, :, :14] == 1).all()
        assert (label[:, :, 18:] == 255).all()
    training._finish(None)
    assert not (tmp_path / "run" / LABEL_FOLDER).exists()


class Applied:
    """The weights of an average, in a block."""

    def __init__(self, weight):
        self.weight = weight

    def __enter__(self):
        self.weight.data.fill_(9.0)

    def __exit__(self, *_):
        self.weight.data.fill_(0.0)


@pytest.mark.usefixtures("tiny_nano")
def test_a_dry_run_counts_the_scans(phantoms, scans, tmp_path, capsys):
    options = ["--data", phantoms, "--unlabelled", scans, *SMALL, "--output", tmp_path / "run", "--dry-run", "--json"]
    assert train(*options) == 0
    assert json.loads(capsys.readouterr().out)["unlabelled"] == 2
    assert train(*options, "--prompt", "box") == 2
    assert "cannot label scans by itself" in capsys.readouterr().err


def test_a_scan_without_a_class_that_every_patient_has_is_not_learned_from(phantoms, scans, tmp_path, monkeypatch):
    settings = {"image_size": 32, "held_out": 0, "cache_dir": tmp_path, "unlabelled_share": 0.5}
    data = training_data(phantoms, unlabelled=scans, **settings)
    dataset = data.dataset()
    knobs = SimpleNamespace(unlabelled_least=0.9, unlabelled_from=0.4)
    network = Guess(32)
    training = SelfTraining(data, network, SlicewiseInferer(data.slicing), tmp_path / "run", knobs)
    assert training.expected == [1, 2, 3, 4, 5]
    reports = []
    training.report = reports.append
    training.label(1)  # it finds the first class at most
    assert reports == ["scans labelled to train on: 0 of 2; a class was not found in 2 that were tried"]
    with monkeypatch.context() as patch:
        patch.setattr("medsam_adapt.training.unlabelled._TRIED", 1)
        training.label(1)
    assert reports.pop() == "scans labelled to train on: 0 of 2; a class was not found in 1 that were tried"
    of_scans = np.array([sample["case"].startswith("scan") for sample in dataset.samples])
    assert dataset.weights.sum() == pytest.approx(1)
    assert dataset.weights[of_scans].sum() == 0
    network.level.data.fill_(9.0)
    training.expected = [1]
    training.label(2)
    assert reports[1].startswith("scans labelled to train on: 2; unsure of ")
    assert dataset.weights[of_scans].sum() == pytest.approx(0.5)
    training.budget = SimpleNamespace(seconds=0.0)
    training.label(3)  # the others keep their labels
    assert reports[2].startswith("scans labelled to train on: 1 of 2; unsure of ")
    assert dataset.weights[of_scans].sum() == pytest.approx(0.5)
    assert [path.name for path in (tmp_path / "run" / LABEL_FOLDER / "3").iterdir()] == ["scan_0"]


@pytest.mark.usefixtures("tiny_nano")
@pytest.mark.parametrize("views", [0, 1])
def test_features_of_scans_are_kept_before_they_are_labelled(phantoms, scans, tmp_path, monkeypatch, capsys, views):
    monkeypatch.setattr("medsam_adapt.training.unlabelled.classes_of_all", lambda data: [])
    sets = (*SETS, "unlabelled_share=0.5", "unlabelled_least=0", "empty_share=1.0", "backbone=vit_nano")
    options = [part for name in (*sets, "cache_frozen=on", f"cached_views={views}") for part in ("--set", name)]
    small = ["--image-size", "32", "--epochs", "2", "--device", "cpu"]
    command = ["--data", phantoms, "--unlabelled", scans, "--bundle", "detail", *small, *options]
    assert train(*command, "--output", tmp_path / "run") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Frozen work is done once: the whole image encoder" in printed


@pytest.mark.parametrize("bundle", ["adaptformer", "blosam", "infosam", "lora", "samcobot", "samparser"])
def test_every_bundle_learns_from_scans(phantoms, scans, tmp_path, monkeypatch, bundle):
    monkeypatch.setattr("medsam_adapt.training.unlabelled.classes_of_all", lambda data: [])
    seen = []
    collect = SliceDataset.__getitem__

    def noted(dataset, key):
        sample = collect(dataset, key)
        seen.append(sample["case"])
        return sample

    monkeypatch.setattr(SliceDataset, "__getitem__", noted)
    sets = (
        *SETS,
        "unlabelled_share=0.5",
        "unlabelled_least=0",
        "empty_share=1.0",
    )
    options = [part for name in sets for part in ("--set", name)]
    small = ["--image-size", "32", "--epochs", "2", "--device", "cpu"]
    command = ["--data", phantoms, "--unlabelled", scans, "--bundle", bundle, *small, *options]
    assert train(*command, "--output", tmp_path / "run") == 0
    drawn = {name.split(" ")[0] for name in seen}
    assert {"scan_0", "scan_1"} <= drawn
