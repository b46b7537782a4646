"""What every shipped bundle must do, found by globbing: train by both doors, and pass MONAI's own checks."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow, run, verify_metadata, verify_net_in_out
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medsam_adapt.bundle.catalogue import recipe_values, resolve_knobs
from medsam_adapt.bundle.contents import bundle_folder, bundle_names, own_files, shared_folder
from medsam_adapt.bundle.untrusted import copy_bundle
from medsam_adapt.cli.main import main
from medsam_adapt.config import Knobs
from medsam_adapt.inference.predictor import load_run
from medsam_adapt.networks import build_segmenter, load_adapter

pytestmark = pytest.mark.usefixtures("tiny_nano")
SMALL = ("--epochs", "1", "--image-size", "32", "--device", "cpu", "--set", "min_steps=1", "--set", "max_steps=2")
every_bundle = pytest.mark.parametrize("bundle", bundle_names())


@pytest.fixture(scope="module")
def runs(tiny_nano, phantoms, tmp_path_factory):
    """One epoch of every bundle by our command line, made when first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run_of(bundle):
        if not (folder / bundle).exists():
            main_ok("train", "--bundle", bundle, "--data", phantoms, "--output", folder / bundle, *SMALL)
        return folder / bundle

    return run_of


def main_ok(*arguments):
    """Run a command of ours that must succeed."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code in (0, None)


def losses(run_folder):
    log = EventAccumulator(str(run_folder / "logs")).Reload()
    return [event.value for event in log.Scalars("loss")]


def config(bundle, name):
    return str(bundle_folder(bundle) / "configs" / f"{name}.json")


@every_bundle
def test_the_settings_table_has_the_values_of_the_recipes(bundle):
    page = (bundle_folder(bundle) / "docs" / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    table = {row[0]: row[1:] for row in rows}
    for column, recipe in enumerate(("default", "paper")):
        knobs = resolve_knobs(bundle, recipe)
        epochs, batch = table["epochs, batch"][column].split(", ")
        assert (epochs.split()[0], batch) == (str(knobs.epochs), str(knobs.batch_size))
        if "steps" in epochs:
            assert epochs.endswith(f" of {knobs.min_steps} to {knobs.max_steps} steps")
        if "probabilities" in table and knobs.slice_sigma:
            assert f"Gaussian of {knobs.slice_sigma} slices" in table["probabilities"][column]


@every_bundle
def test_train_evaluate_predict(bundle, runs, phantoms, tmp_path):
    run_folder = runs(bundle)
    assert all(np.isfinite(losses(run_folder)))
    main_ok("evaluate", run_folder, "--device", "cpu")
    summary = json.loads((run_folder / "metrics.json").read_text())
    record = json.loads((run_folder / "run.json").read_text())
    assert list(summary["cases"]) == (record["held_out"] or record["train"])
    assert set(summary["classes"]) == {"liver", "right kidney", "spleen", "left kidney", "aorta"}
    image = sorted((phantoms / "images").iterdir())[0]
    main_ok("predict", run_folder, "-i", image, "-o", tmp_path, "--device", "cpu")
    source, mask = nib.load(image), nib.load(tmp_path / f"{image.name.removesuffix('.nii.gz')}_seg.nii.gz")
    assert mask.shape == source.shape
    assert np.array_equal(mask.affine, source.affine)


@every_bundle
def test_monai_trains_the_same(bundle, runs, phantoms, tmp_path):
    run(
        config_file=config(bundle, "train"),
        bundle_root=str(bundle_folder(bundle)),
        logging_file=False,
        dataset_dir=str(phantoms),
        output_dir=str(tmp_path),
        **{"knobs#epochs": 1, "knobs#image_size": 32, "knobs#min_steps": 1, "knobs#max_steps": 2, "device": "cpu"},
    )
    assert losses(tmp_path) == losses(runs(bundle))


@every_bundle
def test_the_adapter_folder_holds_all_that_was_trained(bundle, runs):
    predictor = load_run(runs(bundle), "cpu")
    record = predictor.record
    base = build_segmenter(
        record.backbone,
        record.image_size,
        len(record.class_names),
        type(predictor.segmenter.adapter)(**record.adapter.settings),
        checkpoint=record.knobs["checkpoint"],
        learn_prompt=record.learn_prompt,
        tune_encoder=record.tune_encoder,
        seed=record.knobs["seed"],
        detail=record.detail,
    )
    load_adapter(base, runs(bundle) / "models" / "adapter")
    for name, tensor in predictor.segmenter.state_dict().items():
        assert np.array_equal(tensor, base.state_dict()[name]), name


@every_bundle
def test_a_run_is_a_bundle(bundle, runs, phantoms, tmp_path):
    run_folder = runs(bundle)
    image = sorted((phantoms / "images").iterdir())[1]
    main_ok("predict", run_folder, "-i", image, "-o", tmp_path / "ours", "--device", "cpu")
    run(
        config_file=str(run_folder / "configs" / "inference.json"),
        bundle_root=str(run_folder),
        logging_file=False,
        dataset_dir=str(image),
        output_dir=str(tmp_path / "monai"),
        device="cpu",
    )
    (ours,), (theirs,) = ((tmp_path / folder).iterdir() for folder in ("ours", "monai"))
    assert ours.name == theirs.name
    differing = np.mean(np.asarray(nib.load(ours).dataobj) != np.asarray(nib.load(theirs).dataobj))
    assert differing <= 1e-5
    assert np.allclose(nib.load(ours).affine, nib.load(theirs).affine)
    verify(run_folder / "configs")


@every_bundle
def test_monai_accepts_a_copy_of_the_bundle(bundle, tmp_path):
    copy_bundle(bundle, tmp_path / bundle)
    verify(tmp_path / bundle / "configs")
    schema = shutil.copy(Path(__file__).with_name("metadata_schema.json"), tmp_path / "schema.json")
    verify_metadata(meta_file=str(tmp_path / bundle / "configs" / "metadata.json"), filepath=str(schema))


@every_bundle
def test_a_bundle_holds_what_is_its_own(bundle):
    """The rest is in bundles/shared, and defaults that all bundles have in medsam_adapt/config.py."""
    folder = bundle_folder(bundle)
    assert sorted(own_files(folder)) == [
        *(f"configs/{name}.json" for name in ("metadata", "recipe_paper", "train")),
        "docs/README.md",
    ]
    shared, defaults = json.loads((shared_folder() / "configs" / "metadata.json").read_text()), Knobs()
    own = json.loads((folder / "configs" / "metadata.json").read_text())
    assert [key for key in own if own[key] == shared.get(key)] == []
    knobs = json.loads((folder / "configs" / "train.json").read_text())["knobs"]
    assert [name for name, value in knobs.items() if value == getattr(defaults, name, None)] == []


def verify(configs):
    """MONAI's own checks of a bundle's configs."""
    metadata, inference = str(configs / "metadata.json"), str(configs / "inference.json")
    verify_net_in_out("network_def", metadata, inference, device="cpu")
    for name, kind in (("train", "train"), ("inference", "infer"), ("evaluate", "infer")):
        workflow = ConfigWorkflow(str(configs / f"{name}.json"), metadata, logging_file=False, workflow_type=kind)
        missing = [
            key for key, rule in workflow.properties.items() if rule["required"] and rule["id"] not in workflow.parser
        ]
        assert not missing


@every_bundle
def test_all_properties_resolve_where_there_is_data(bundle, runs, phantoms):
    configs = runs(bundle) / "configs"
    for name, kind in (("train", "train"), ("inference", "infer"), ("evaluate", "infer")):
        flow = ConfigWorkflow(
            str(configs / f"{name}.json"),
            logging_file=False,
            workflow_type=kind,
            bundle_root=str(runs(bundle)),
            dataset_dir=str(phantoms / "images" if name == "inference" else phantoms),
            device="cpu",
        )
        flow.initialize()
        assert flow.check_properties() == []


@every_bundle
def test_both_recipes_are_valid_settings(bundle):
    assert resolve_knobs(bundle, "default").prompt == "none"
    assert recipe_values(bundle, "paper") != recipe_values(bundle, "default")
    resolve_knobs(bundle, "paper")


def test_python_m_monai_bundle_trains(phantoms, tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config("blosam", "train")]
    values = {"bundle_root": bundle_folder("blosam"), "dataset_dir": phantoms, "output_dir": tmp_path / "run"}
    values |= {"knobs#epochs": 1, "knobs#image_size": 32, "knobs#min_steps": 1, "knobs#max_steps": 1}
    for name, value in values.items():
        command += [f"--{name}", str(value)]
    finished = subprocess.run(command, capture_output=True, text=True)  # as users start it, not forked
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "run" / "models" / "model.pt").is_file()


def test_monai_refuses_a_mistyped_setting(phantoms, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run(
            config_file=config("blosam", "train"),
            logging_file=False,
            dataset_dir=str(phantoms),
            output_dir=str(tmp_path / "run"),
            **{"knobs#epoch": 1},
        )
    causes = []
    cause = caught.value
    while cause is not None:
        causes.append(str(cause))
        cause = cause.__cause__
    assert any("there is no setting 'epoch'. Did you mean 'epochs'?" in text for text in causes)
    assert not (tmp_path / "run").exists()
