"""Adapters travel: what is pushed is what the run is, tells of nobody, and comes back as the same run."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from safetensors.torch import load_file, save_file

from medsam_adapt import hub, hub_places
from medsam_adapt.bundle import bundle_names, read_config, run_knobs
from medsam_adapt.errors import InputError, RunError
from medsam_adapt.files import file_sha256, write_json
from medsam_adapt.hub import pull, push
from medsam_adapt.hub_places import FILES, LocalFolder, place_of
from medsam_adapt.networks import LoRA, build_sam, build_segmenter, save_adapter
from medsam_adapt.networks.adapter import trainable_tensors
from medsam_adapt.prediction.predictor import load_run
from medsam_adapt.scoring.metrics import MetricRules, score_volume
from medsam_adapt.scoring.summary import summarise
from tests.hub_server import hub as hub_server
from tests.made_runs import make_run

NAMES = ("liver", "right kidney")
_NOT_GIVEN = ("_target_", "bundle", "checkpoint", "image_size", "tune_encoder")
ALL_FILES = sorted(FILES)


def adapted_run(folder, bundle="lora", adapter=None, checkpoint=None, names=NAMES, prompt="none", **changes):
    """A run's folder whose trained tensors alone differ from its base weights, as after training."""
    adapter, tuned = adapter or LoRA(rank=4), changes.get("tune_encoder", False)
    own = {key: value for key, value in read_config(bundle, "train")["knobs"].items() if key not in _NOT_GIVEN}
    knobs = run_knobs(bundle, **own, checkpoint=checkpoint, image_size=32, tune_encoder=tuned).model_dump()
    changes |= {"bundle": bundle, "knobs": knobs | changes.pop("knobs", {})}
    make_run(folder, prompt, names=names, adapter=adapter, **changes)
    segmenter = build_segmenter("vit_nano", 32, len(names), adapter, prompt, checkpoint, tune_encoder=tuned)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in trainable_tensors(segmenter).items():
            tensor += (0.3 if "output_hypernetworks" in name else 0.02) * torch.randn_like(tensor)
    torch.save(segmenter.state_dict(), folder / "models/model.pt")
    save_adapter(segmenter, folder / "models/adapter")
    return folder


def adapter_of(bundle):
    config = read_config(bundle, "train")
    parser = ConfigParser({key: config[key] for key in ("imports", "knobs", "network_def")})
    return parser.get_parsed_content("network_def#adapter")


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def weights(run):
    return torch.load(run / "models/model.pt", weights_only=True)


def same_weights(first, second):
    ours, theirs = weights(first), weights(second)
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return adapted_run(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def repository(run):
    push(run, LocalFolder(run.parent / "repository"))
    return run.parent / "repository"


@pytest.fixture
def pushed(repository, tmp_path):
    """A copy of the repository's folder, which a test may damage."""
    return shutil.copytree(repository, tmp_path / "repository")


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
    masks = [load_run(folder, "cpu")(scan, np.diag([2.0, 2, 5, 1])) for folder in (run, tmp_path / "pulled")]
    assert len(np.unique(masks[0])) > 1
    assert np.array_equal(*masks)


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


# --------------------------------------------------------------------------------------------- what must not travel

MARK = "DOE_JANE"


def scored(cases):
    """What metrics.json holds, for cases of these names."""
    prediction, reference = np.zeros((2, 8, 8, 3), np.uint8)
    prediction[2:4, 2:6], prediction[6:, 6:] = 1, 2
    reference[2:5, 2:6], reference[6:, 6:] = 1, 2
    scores = score_volume(prediction, reference, NAMES, (1.0, 1.0, 3.0), MetricRules())
    return summarise(dict.fromkeys(cases, scores), NAMES, MetricRules(), notes=[f"of {MARK}"])


def marked_run(folder):
    """A run that names a patient wherever one can be named."""
    knobs = {name: f"/data/{MARK}/{name}" for name in ("cache_dir", "split_file", "from_run")}
    run = adapted_run(
        folder / MARK / "run",
        dataset_dir=f"/data/{MARK}",
        train=[f"{MARK}_1", f"{MARK}_2"],
        held_out=[f"{MARK}_3"],
        started_from="run",
        knobs=knobs,
    )
    (run / "notes.txt").write_text(MARK)
    write_json(run / "metrics.json", scored([f"{MARK}_3"]))
    return run


def test_nothing_tells_whose_images_it_saw(tmp_path):
    run = marked_run(tmp_path)
    push(run, LocalFolder(tmp_path / "repository"))
    for name in files_in(tmp_path / "repository"):
        content = (tmp_path / "repository" / name).read_bytes()
        assert MARK.encode() not in content, name
        assert str(tmp_path).encode() not in content, name
    record = json.loads((tmp_path / "repository/run.json").read_text())
    assert (len(record["train"]), len(record["held_out"]), record["dataset_dir"]) == (2, 1, "")
    assert record["knobs"]["checkpoint"] == record["started_from"] == "sam_nano"
    pull(LocalFolder(tmp_path / "repository"), tmp_path / "pulled")
    for name in files_in(tmp_path / "pulled"):
        assert MARK.encode() not in (tmp_path / "pulled" / name).read_bytes(), name


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
        (another_frozen_weight, {}, "is not sam_nano with its adapter, so nobody could make it"),
        (None, {"checkpoint": "random"}, "started from random weights, which others do not have"),
        (None, {"bundle_sha256": "0" * 64}, "trained by a bundle that is not shipped"),
        (lambda run: shutil.rmtree(run / "models/adapter"), {}, "is missing or damaged|cannot read"),
        (lambda run: (run / "models/model.pt").unlink(), {}, "holds no trained weights"),
        (damaged_metrics, {}, "is of another version: score it anew"),
        (None, {"knobs": {"checkpoint": "gone.pth"}}, "checkpoint gone.pth does not exist"),
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
    with pytest.raises(InputError, match="write it as in SPDX"):
        push(run, LocalFolder(tmp_path / "repository"), licence="mine: all mine")


def test_a_folder_with_other_files_is_not_replaced(run, pushed):
    (pushed / ".git").mkdir()
    with pytest.raises(InputError, match=r"holds other files \(.git\)"):
        LocalFolder(pushed).refuse_other_files(overwrite=True)
    (pushed / ".git").rmdir()
    with pytest.raises(InputError, match=r"already holds an adapter: .* --overwrite"):
        LocalFolder(pushed).refuse_other_files(overwrite=False)
    LocalFolder(pushed).refuse_other_files(overwrite=True)
    (pushed / "adapter/mine.txt").touch()
    with pytest.raises(InputError, match=r"holds other files \(adapter/mine.txt\)"):
        LocalFolder(pushed).refuse_other_files(overwrite=True)


# --------------------------------------------------------------------------------------------------- base weights


@pytest.fixture(scope="module")
def own_base(tmp_path_factory):
    """Weights of one's own, of the small SAM."""
    path = tmp_path_factory.mktemp("base") / "my, weights.safetensors"
    torch.manual_seed(3)
    save_file(build_sam("vit_nano").state_dict(), path)
    return path


def test_weights_that_are_not_published_must_be_given_and_be_the_right_ones(own_base, tmp_path):
    run = adapted_run(tmp_path / "run", checkpoint=str(own_base))
    place, output = LocalFolder(tmp_path / "repository"), tmp_path / "pulled"
    origin = push(run, place)
    assert (origin.base.name, origin.base.file_name) == (None, "my_ weights.safetensors")
    with pytest.raises(InputError, match=r"my_ weights.safetensors with SHA-256 .* give it as --checkpoint FILE"):
        pull(place, output)
    for wrong in ("sam_nano", str(other_weights(tmp_path))):
        with pytest.raises(InputError, match=r"was not trained on .* give the weights that it was trained on"):
            pull(place, output, wrong)
    with pytest.raises(InputError, match="leave out --checkpoint random"):
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
    with pytest.raises(InputError, match="was not trained on other"):
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


# ------------------------------------------------------------------------------------------------- hostile content


def edit(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return change


def adapter_with(change):
    """The adapter's tensors changed, and the SHA-256 with them, as somebody who means harm would."""

    def write(folder):
        path = folder / "adapter/adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        edit("medsam_adapt.json", adapter_sha256=file_sha256(path))(folder)

    return write


def flip_last_byte(folder):
    path = folder / "adapter/adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def link_out(folder):
    secret = folder.parent / "secret.json"
    shutil.move(folder / "run.json", secret)
    (folder / "run.json").symlink_to(secret)


def link_folder_out(folder):
    shutil.move(folder / "adapter", folder.parent / "elsewhere")
    (folder / "adapter").symlink_to(folder.parent / "elsewhere")


LORA = "medsam_adapt.networks.lora.LoRA"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (link_out, "is a link out of"),
        (link_folder_out, "is a link out of"),
        (lambda folder: (folder / "medsam_adapt.json").unlink(), "it has no medsam_adapt.json"),
        (lambda folder: (folder / "run.json").write_bytes(b" " * (5 << 20)), "refused"),
        (lambda folder: (folder / "medsam_adapt.json").write_text("[]"), "is damaged"),
        (lambda folder: (folder / "statistics.json").write_text('{"classes": 3}'), "is damaged"),
        (flip_last_byte, "is damaged"),
        (adapter_with(lambda tensors: tensors.popitem()), "differ in"),
        (adapter_with(lambda tensors: tensors.update(extra=torch.zeros(3))), "differ in"),
        (edit("run.json", bundle="../../planted"), "damaged"),
        (edit("run.json", bundle="planted"), "unknown bundle 'planted'"),
        (edit("run.json", adapter={"name": "os.system", "settings": {}}), "damaged"),
        (edit("run.json", adapter={"name": "medsam_adapt.networks.lora.os", "settings": {}}), "is no adapter"),
        (edit("run.json", adapter={"name": LORA, "settings": {"rank": 3}}), "attach an adapter of the same"),
        (edit("run.json", class_names=["$print(1)", "b"]), "is refused"),
        (edit("run.json", class_names=["\x1b[2J", "b"]), "cannot be printed"),
        (edit("run.json", knobs={"seed": "zero"}), "seed"),
        (edit("run.json", knobs={"planted": 1}), "there is no setting 'planted'"),
        (edit("run.json", overlapping=True), "differ in"),
        (edit("adapter/adapter_config.json", base_sha256="0" * 64), None),
        (edit("medsam_adapt.json", base={"name": None, "file_name": "../x", "sha256": "0" * 64}), "is damaged"),
        (edit("medsam_adapt.json", base={"name": "sam_big", "file_name": "x", "sha256": "0" * 64}), "not published"),
    ],
)
def test_harmful_repositories_are_refused_in_a_sentence(harm, words, pushed, repository, tmp_path):
    harm(pushed)
    output = tmp_path / "pulled"
    if words is None:  # the file of the base is the right one: what the adapter says of it does no harm
        assert pull(LocalFolder(pushed), output)
        assert same_weights(repository.parent / "run", output)
        return
    with pytest.raises(InputError, match=words) as told:
        pull(LocalFolder(pushed), output)
    assert "\n" not in str(told.value)
    assert not output.exists()
    assert not list(tmp_path.glob(".*"))


def test_paths_and_names_in_a_repository_are_not_taken_over(pushed, tmp_path):
    content = json.loads((pushed / "run.json").read_text())
    knobs = {**content["knobs"], "cache_dir": "/etc", "from_run": "/etc", "split_file": "/etc", "checkpoint": "/etc"}
    edit("run.json", knobs=knobs, dataset_dir="/etc", train=["../../etc"], held_out=["/etc"])(pushed)
    (pushed / "configs").mkdir()
    (pushed / "configs/train.json").write_text('{"planted": "$1/0"}')
    (pushed / "planted.py").write_text("1/0")
    pull(LocalFolder(pushed), tmp_path / "pulled")
    assert "etc" not in (tmp_path / "pulled/run.json").read_text()
    assert "planted" not in (tmp_path / "pulled/configs/train.json").read_text()
    assert not list((tmp_path / "pulled").rglob("planted.py"))


# ------------------------------------------------------------------------------------------------------ model card


def card_of(run, folder, **options):
    push(run, LocalFolder(folder), **options)
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_says_what_one_needs_to_know(tmp_path):
    run = adapted_run(tmp_path / "run", train=["a", "b"], held_out=["c"])
    write_json(run / "metrics.json", scored(["c"]))
    front, body = card_of(run, tmp_path / "repository", licence="CC-BY-4.0")
    assert (front["license"], front["library_name"]) == ("cc-by-4.0", "medsam-adapt")
    assert (front["pipeline_tag"], "ct" in front["tags"]) == ("image-segmentation", True)
    assert "base_model" not in front  # sam_nano is on no hub
    for words in (
        "not for clinical use",
        "| 2 | right kidney |",
        "sam\\_nano, SHA-256 7eee07da8d006db9",
        "| trained on | 2 cases |",
        "| held out | 1 case |",
        "| liver | 0.800 | 0.667 | 1.0 | 1.000 | 1 |",
        "of which none had been trained on",
        "The adapter: CC-BY-4.0. The base weights: Apache-2.0",
        "axial, 32 pixels",
        "−160 to 240 HU",
        "medsam-adapt adapters pull THIS_FOLDER --output runs/pulled\n",
        "medsam-adapt predict runs/pulled -i SCANS -o MASKS\n",
    ):
        assert words in body, words


def test_the_card_of_a_run_without_scores_licence_or_published_base(own_base, tmp_path):
    run = adapted_run(
        tmp_path / "run", checkpoint=str(own_base), prompt="box", names=("a|b", "<script>"), absent=["a|b"]
    )
    front, body = card_of(run, tmp_path / "repository")
    assert "license" not in front
    assert "None were recorded" in body
    assert "its author stated none" in body
    assert "| 1 | a\\|b |" in body
    assert "<script>" not in body.replace("\\<script\\>", "")
    assert '--checkpoint "my_ weights.safetensors"' in body
    assert "--prompts prompts.json" in body


def test_scores_on_training_cases_are_said_to_flatter(tmp_path):
    run = adapted_run(tmp_path / "run", train=["a", "b"])
    write_json(run / "metrics.json", scored(["a", "x"]))
    _, body = card_of(run, tmp_path / "repository")
    assert "Mean over 2 cases, of which 1 had been trained on" in body
    assert "Scores on training cases flatter" in body


def test_a_published_base_is_told_to_the_hub(run, tmp_path, monkeypatch):
    from medsam_adapt import model_card
    from medsam_adapt.weights.registry import WEIGHTS

    assert set(model_card._ON_THE_HUB) == {name for name, weights in WEIGHTS.items() if not weights.shipped}
    monkeypatch.setitem(model_card._ON_THE_HUB, "sam_nano", "owner/name")
    front, _ = card_of(run, tmp_path / "repository")
    assert (front["base_model"], front["base_model_relation"]) == ("owner/name", "adapter")


# -------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def server(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs pip install medsam-adapt[hub]")
    with hub_server() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        yield running


def test_to_the_hub_and_back(run, server, tmp_path):
    place = place_of("hf://owner/liver-adapter")
    place.refuse_other_files(overwrite=False)
    push(run, place)
    (created,) = server.created
    assert created.get("private") or created.get("visibility") == "private"  # by the library's version
    files = server.repositories["owner/liver-adapter"]
    assert sorted(files) == sorted([".gitattributes", *(name for name in ALL_FILES if name != "statistics.json")])
    assert b"adapters pull hf://owner/liver-adapter --output" in files["README.md"]
    files |= {"planted.py": b"1/0", "statistics.json": b'{"classes": {}}'}
    server.asked.clear()
    assert pull(place, tmp_path / "pulled")
    assert same_weights(run, tmp_path / "pulled")
    assert not any("planted" in asked or "gitattributes" in asked for asked in server.asked)
    with pytest.raises(InputError, match=r"holds other files \(planted.py\)"):
        place.refuse_other_files(overwrite=True)
    del files["planted.py"]
    with pytest.raises(InputError, match="already holds an adapter"):
        place.refuse_other_files(overwrite=False)
    place.refuse_other_files(overwrite=True)
    push(run, place)
    assert "statistics.json" not in files  # of the adapter before


def test_what_the_hub_has_not_or_refuses_is_a_sentence(run, server, tmp_path):
    with pytest.raises(InputError, match="hf://owner/nothing does not exist, or this user may not see it"):
        pull(place_of("hf://owner/nothing"), tmp_path / "pulled")
    server.repositories["owner/other"] = {"config.json": b"{}"}
    with pytest.raises(InputError, match=r"it has no medsam_adapt.json"):
        pull(place_of("hf://owner/other"), tmp_path / "pulled")
    with pytest.raises(InputError, match="has no revision 'v9'"):
        pull(place_of("hf://owner/other@v9"), tmp_path / "pulled")
    server.repositories["owner/large"] = dict.fromkeys(FILES, b"") | {"run.json": b" " * ((4 << 20) + 1)}
    with pytest.raises(InputError, match=r"run.json of hf://owner/large has 4,194,305 bytes"):
        pull(place_of("hf://owner/large"), tmp_path / "pulled")
    assert not any("resolve" in asked for asked in server.asked)  # nothing was fetched to find that out
    with pytest.raises(InputError, match=r'"license" is odd.*name another --license'):
        push(run, place_of("hf://owner/new"), licence="odd")
    server.answers = b"<html>log in to the network</html>"
    with pytest.raises(RunError, match="what answers for the hub is not the hub"):
        pull(place_of("hf://owner/other"), tmp_path / "pulled")
    server.answers, server.refuses = None, True
    with pytest.raises(RunError, match=r"refused .* \(status 403\): log in"):
        push(run, place_of("hf://owner/new"))  # which is there by now
    with pytest.raises((RunError, InputError), match="log in"):
        push(run, place_of("hf://owner/newer"))


def test_no_connection_is_a_sentence(run, server, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="the hub cannot be reached for hf://owner/name"):
        pull(place_of("hf://owner/name"), tmp_path / "pulled")
    with pytest.raises(RunError, match="cannot be reached"):
        push(run, place_of("hf://owner/name"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match="check the connection and HF_HUB_OFFLINE"):
        pull(place_of("hf://owner/name"), tmp_path / "pulled")


@pytest.mark.parametrize(
    "text", ["hf://owner", "hf://owner/name/more", "https://example.org/x", "hf://../x", "hf:///a"]
)
def test_addresses_that_are_none(text):
    with pytest.raises(InputError, match=r"give a folder, or hf://OWNER/NAME\[@REVISION\]"):
        place_of(text)


def test_the_library_that_is_missing_is_told_with_the_command(monkeypatch):
    monkeypatch.setattr(hub_places.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "medsam-adapt\[hub\]"'):
        place_of("hf://owner/name")
    assert place_of("folder") == LocalFolder(hub.Path("folder"))
