import pytest
import torch
from ignite.engine import Events

from medsam_adapt.bundle.catalogue import resolve_knobs, workflow
from medsam_adapt.core.cache import cache_info
from medsam_adapt.core.errors import InputError
from medsam_adapt.data import TrainingData
from medsam_adapt.feature_cache.frozen_work import FrozenWork
from medsam_adapt.methods import LoRA, Parser, SeriesAdapters
from medsam_adapt.networks import DecoderOnly, build_segmenter, build_teacher
from medsam_adapt.training.setup import RunHandler
from tests.cli.test_train import SMALL, call
from tests.slicing import training_data

pytestmark = pytest.mark.usefixtures("tiny_nano")
CPU = torch.device("cpu")
STEPS = 5  # few, for a rounding error grows with every one
FROZEN = {"tune_encoder": False, "augment": "none", "cache_frozen": "on"}
ONE_DRAW = {"cache_frozen": "auto", "min_steps": 1}  # of each slice in an epoch


@pytest.fixture(scope="module")
def slices(phantoms, tmp_path_factory):
    """Folder of a slice cache, so that phantoms are sliced once."""
    return tmp_path_factory.mktemp("slices")


@pytest.fixture
def work_of(phantoms, slices):
    """Makes the frozen work of a network with an adapter."""

    def make(adapter, teacher=None, weights_seed=0, **knobs):
        settings = resolve_knobs(
            "decoder", sets={"batch_size": 2, "image_size": 32, "cache_dir": str(slices), **FROZEN, **knobs}
        )
        data = TrainingData.of(phantoms, settings)
        network = {"checkpoint": "random", "tune_encoder": settings.tune_encoder, "seed": weights_seed}
        segmenter = build_segmenter("vit_nano", data.image_size, 5, adapter, **network)
        return FrozenWork(data, segmenter, settings, CPU, teacher)

    return make


def losses_of(bundle, phantoms, folder, **knobs):
    """Losses of the first steps of a training."""
    small = {"epochs": 2, "image_size": 32, "batch_size": 2, "min_steps": 2, "held_out": 0.0}
    own = resolve_knobs(bundle, sets={**small, "cache_dir": str(folder / "cache"), **knobs}).model_dump()
    values = {
        "knobs": {"_target_": "medsam_adapt.bundle.settings.run_knobs", "bundle": bundle, **own},
        "dataset_dir": str(phantoms),
        "output_dir": str(folder / knobs["cache_frozen"]),
        "device": CPU,
    }
    flow = workflow(bundle, "train", values)
    losses = []

    def note(engine):
        losses.append(engine.state.output[0]["loss"])
        if len(losses) == STEPS:
            engine.terminate()

    flow.trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    flow.run()
    assert (flow.parser.get_parsed_content("frozen").views is None) == (knobs["cache_frozen"] == "off")
    return losses


@pytest.mark.parametrize(
    ("bundle", "prompt"),
    [("decoder", "none"), ("samparser", "box"), ("blosam", "none"), ("infosam", "points"), ("infosam", "none")],
)
def test_a_cached_run_equals_the_online_one(phantoms, tmp_path, bundle, prompt):
    knobs = {"tune_encoder": False, "augment": "none", "prompt": prompt}
    online = losses_of(bundle, phantoms, tmp_path, cache_frozen="off", **knobs)
    cached = losses_of(bundle, phantoms, tmp_path, cache_frozen="on", **knobs)
    assert len(online) == STEPS
    torch.testing.assert_close(cached, online, rtol=1e-4, atol=1e-5)
    assert cache_info(tmp_path / "cache").features


def test_features_are_known_by_weights_slices_and_settings(work_of):
    def folder(work, name="features"):
        return work._folder(name)

    plain = folder(work_of(DecoderOnly()))
    assert folder(work_of(DecoderOnly(), epochs=7)) == plain
    changed = work_of(DecoderOnly())
    with torch.no_grad():
        changed.parts["features"].segmenter.sam.image_encoder.neck[0].weight[0, 0] += 1e-3
    others = [
        folder(changed),
        folder(work_of(DecoderOnly(), seed=1)),  # another patient is held out
        folder(work_of(DecoderOnly(), weights_seed=1)),
        folder(work_of(DecoderOnly(), channels="adjacent")),
        folder(work_of(DecoderOnly(), intensity="ct-bone")),
        folder(work_of(DecoderOnly(), cache_dtype="float16")),
        folder(work_of(DecoderOnly(), augment="free", cached_views=2)),
        folder(work_of(DecoderOnly(), augment="free", cached_views=3)),
        folder(work_of(Parser())),
    ]
    assert len({plain, *others}) == 1 + len(others)
    distilled = work_of(SeriesAdapters(), build_teacher("vit_nano", 32, "random"))
    assert folder(distilled) != plain
    assert folder(distilled, "teacher_embedding") == plain  # an embedding is the same whoever needs it


@pytest.mark.parametrize(
    ("adapter", "knobs", "why"),
    [
        (DecoderOnly(), {"tune_encoder": True}, "training reaches the first block"),
        (LoRA(), {}, "training reaches the first block"),
        (DecoderOnly(), {"cache_frozen": "off"}, "cache_frozen is off"),
        (DecoderOnly(), {**ONE_DRAW, "epochs": 1}, "1 epoch would not pay for 1 view"),
        (DecoderOnly(), {**ONE_DRAW, "epochs": 8, "augment": "free"}, "would not pay for 8 views"),
        (SeriesAdapters(), {"cache_frozen": "auto", "augment": "free"}, "augmented anew"),
        (DecoderOnly(), {"cache_frozen": "auto", "cache_place": "gpu"}, "have no room"),
    ],
)
def test_frozen_work_that_is_done_in_every_step_is_told(work_of, adapter, knobs, why):
    work = work_of(adapter, **knobs)
    assert work.views is None
    assert why in work.describe()


@pytest.mark.parametrize(
    ("adapter", "knobs", "reported"),
    [
        (DecoderOnly(), {"augment": "free"}, "the whole image encoder, for 24 slices, each in 8 augmented views"),
        (Parser(), {}, "all 4 blocks of the image encoder, for"),
        (SeriesAdapters(), {}, "the first 2 of 4 blocks of the image encoder, for"),
        (Parser(), {"cache_place": "memory"}, "in memory"),
        # One epoch of 100 steps draws each of 24 slices eight times.
        (DecoderOnly(), {"augment": "free", "cached_views": 8, "epochs": 1, "min_steps": 100}, "in 8 augmented views"),
    ],
)
def test_what_is_kept_is_told(work_of, adapter, knobs, reported):
    work = work_of(adapter, cache_frozen="auto", empty_share=1.0, **knobs)
    assert reported in work.describe()


def test_no_room_is_refused_where_it_was_asked_for(work_of):
    with pytest.raises(InputError, match=r"have no room\. Set fewer cached_views"):
        work_of(DecoderOnly(), cache_place="gpu")


@pytest.mark.parametrize("prompt", ["none", "box"])
def test_a_row_is_one_image_and_its_label(phantoms, slices, prompt):
    data = training_data(phantoms, image_size=32, augment="free", prompt=prompt, cache_dir=slices)
    views = data.views(3, images=True)
    with_images, without = data.dataset("train", views), data.dataset("train", data.views(3, images=False))
    rows = set()
    for draw in range(12):
        sample, other = with_images[4, draw], without[4, draw]
        rows.add(sample["row"])
        assert torch.equal(sample["image"], views.image(sample["row"]))
        assert "image" not in other
        for name in sample.keys() - {"image", "case"}:
            assert torch.equal(torch.as_tensor(sample[name]), torch.as_tensor(other[name])), name
    first = views.row(with_images.samples[4], 0)
    assert rows == {first, first + 1, first + 2}
    if prompt == "box":  # prompts are drawn anew, also for the same view
        boxes = {tuple(with_images[4, draw]["boxes"].tolist()) for draw in range(0, 30, 3)}
        assert len(boxes) > 2


def test_without_augmentation_samples_are_those_of_an_online_run(phantoms, slices):
    data = training_data(phantoms, image_size=32, augment="none", prompt="points", cache_dir=slices)
    online, cached = data.dataset(), data.dataset("train", data.views(1, images=True))
    for name, value in online[3, 77].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(cached[3, 77][name])) if name != "case" else True


def test_a_run_of_several_views_resumes_to_the_same_weights(phantoms, tmp_path, capsys, monkeypatch):
    views = ["--set", "tune_encoder=false", "--set", "cache_frozen=on", "--set", "cached_views=2"]
    arguments = ["train", "--bundle", "samparser", "--data", phantoms, *SMALL, *views, "--epochs", 3]
    code, out, _ = call(capsys, *arguments, "--output", tmp_path / "whole")
    assert code == 0
    assert "Frozen work is done once: all 4 blocks" in out
    save_state = RunHandler._save_state

    def killed_after_the_second_epoch(keeper, engine):
        save_state(keeper, engine)
        if engine.state.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunHandler, "_save_state", killed_after_the_second_epoch)
        call(capsys, *arguments, "--output", tmp_path / "parts")
    assert call(capsys, "train", "--resume", "--output", tmp_path / "parts", "--device", "cpu")[0] == 0
    whole, parts = (torch.load(tmp_path / run / "models/model.pt", weights_only=True) for run in ("whole", "parts"))
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_a_dry_run_keeps_no_features(phantoms, tmp_path, capsys):
    views = ["--set", "tune_encoder=false", "--set", "augment=none", "--cache-dir", tmp_path / "cache"]
    code, out, _ = call(capsys, "train", "--bundle", "decoder", "--data", phantoms, *SMALL, *views, "--dry-run")
    assert code == 0
    assert "estimated frozen work" in out
    assert not cache_info(tmp_path / "cache").features
