"""The model card of a repository."""

import yaml

from medsam_adapt.core.files import write_json
from medsam_adapt.hub.places import LocalFolder
from medsam_adapt.hub.repository import push
from medsam_adapt.weights.registry import WEIGHTS
from tests.hub.runs import adapted_run, scored


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
        f"sam\\_nano, SHA-256 {WEIGHTS['sam_nano'].sha256[:16]}",
        "| trained on | 2 cases |",
        "| held out | 1 case |",
        "| liver | 0.800 | 0.667 | 1.0 | 1.000 | 1 |",
        "(used for training: none)",
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
    assert "author of the adapter stated no licence" in body
    assert "| 1 | a\\|b |" in body
    assert "<script>" not in body.replace("\\<script\\>", "")
    assert '--checkpoint "my_ weights.safetensors"' in body
    assert "--prompts prompts.json" in body


def test_scores_on_training_cases_are_called_optimistic(tmp_path):
    run = adapted_run(tmp_path / "run", train=["a", "b"])
    write_json(run / "metrics.json", scored(["a", "x"]))
    _, body = card_of(run, tmp_path / "repository")
    assert "Mean over 2 cases (used for training: 1)" in body
    assert "Scores on training cases are optimistic" in body


def test_a_published_base_is_told_to_the_hub(run, tmp_path, monkeypatch):
    from medsam_adapt.hub import model_card
    from medsam_adapt.weights.registry import WEIGHTS

    not_there = {"lite_medsam", "mobile_sam", "vit_b_medical_imaging"}  # published elsewhere
    assert set(model_card._ON_THE_HUB) == {name for name, each in WEIGHTS.items() if not each.shipped} - not_there
    monkeypatch.setitem(model_card._ON_THE_HUB, "sam_nano", "owner/name")
    front, _ = card_of(run, tmp_path / "repository")
    assert (front["base_model"], front["base_model_relation"]) == ("owner/name", "adapter")
