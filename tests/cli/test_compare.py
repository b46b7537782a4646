"""``compare``: its trainings run in this process here, one after another."""

import json
import signal

import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.comparison.plan import ComparisonPlan, PlannedRun, begin, is_scored, name_runs
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.runs.cost import TrainingCost
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.protocols import choose_rules
from medsam_adapt.workflows import command

pytestmark = pytest.mark.usefixtures("tiny_nano")
SETTINGS = ["--epochs", "2", "--image-size", "32", "--set", "min_steps=1", "--set", "lora.rank=2"]
SETTINGS += ["--set", "max_steps=2"]


def call(capsys, *arguments, command="compare"):
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([command, *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


@pytest.fixture
def commands(monkeypatch):
    """The commands that were given, each run in this process."""
    given = []

    def run_command(arguments, title, quiet=False):
        given.append(list(arguments))
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        if stopped.value.code:
            raise RunError(title)

    monkeypatch.setattr(command, "run_command", run_command)
    return given


def test_methods_are_trained_scored_and_compared_and_an_interrupted_comparison_goes_on(
    phantoms, tmp_path, capsys, commands, monkeypatch
):
    output = tmp_path / "out"
    arguments = ["--bundles", "lora,decoder", "--data", phantoms, "--output", output, "--device", "cpu", *SETTINGS]
    write_cost = TrainingCost._write

    def killed_in_the_second_run(cost, engine, finished=False):
        write_cost(cost, engine, finished)
        if "decoder" in str(cost.path) and engine.state.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingCost, "_write", killed_in_the_second_run)
        assert call(capsys, *arguments)[0] == 1
    assert [command[0] for command in commands] == ["train", "evaluate", "train"]
    decoder = output / "runs" / "decoder" / "seed_0"
    assert json.loads((decoder / "training.json").read_text())["epochs"] == 1
    trained = (output / "runs" / "lora" / "seed_0" / "models" / "model.pt").stat().st_mtime_ns

    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert [command[:2] for command in commands[3:]] == [["train", "--resume"], ["evaluate", str(decoder)]]
    assert (output / "runs" / "lora" / "seed_0" / "models" / "model.pt").stat().st_mtime_ns == trained
    content = json.loads((output / "compare.json").read_text())
    assert set(content["methods"]) == {"lora", "decoder"}
    assert (len(content["cases"]), content["tests"]["dsc"][0]["p"]) == (1, 1.0)
    for row in content["methods"].values():
        assert row["trainable"] > 0
        assert row["seconds_per_run"] > 0
        assert row["peak_memory_bytes"] > 1 << 20
    assert "trained values" in out
    assert len((output / "compare_cases.csv").read_text().splitlines()) == 1 + 2 * len(content["classes"])
    assert "no difference can be significant" in out
    records = [json.loads(path.read_text()) for path in output.glob("runs/*/*/run.json")]
    assert len({tuple(record["held_out"]) for record in records}) == 1
    assert {record["knobs"].get("rank") for record in records} == {2, None}
    assert json.loads((decoder / "training.json").read_text())["finished"]

    commands.clear()
    assert call(capsys, *arguments)[0] == 0
    assert not commands
    code, _, err = call(capsys, *arguments, "--epochs", "5")
    assert code == 2
    assert "was begun with other settings of" in err

    runs = [output / "runs" / name / "seed_0" for name in ("lora", "decoder")]
    code, out, _ = call(capsys, "--from", *runs, "--output", tmp_path / "json", "--json")
    assert json.loads(out) == json.loads((tmp_path / "json/compare.json").read_text())
    code, out, _ = call(capsys, "--from", *runs, "--output", tmp_path / "from")
    assert code == 0
    assert set(json.loads((tmp_path / "from" / "compare.json").read_text())["methods"]) == {
        "lora/seed_0", "decoder/seed_0",
    }  # fmt: skip
    assert not commands

    options = ["--output", tmp_path / "scores", "--metrics", "dsc", "--protocol", "papers", "--device", "cpu"]
    code, out, _ = call(capsys, decoder, *options, command="evaluate")
    assert code == 0
    assert "this run segments without a prompt" in out
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert list(scores["rules"]["metrics"]) == ["dsc", "iou"]
    assert scores["mean"]["dsc"] == pytest.approx(content["methods"]["decoder"]["mean"]["dsc"]["mean"])
    assert json.loads((decoder / "metrics.json").read_text())["rules"]["protocol"] == "default"
    assert list((tmp_path / "scores" / "pictures").glob("*.png"))


def test_a_failed_training_is_told(monkeypatch):
    monkeypatch.setattr(command.sys, "executable", "/bin/false")
    with pytest.raises(RunError, match=r"it ended with exit code 1\. Fix the error above"):
        command.run_command(["train"], "lora")


def test_a_schedulers_signal_reaches_the_training(tmp_path, monkeypatch):
    training = tmp_path / "training"
    training.write_text("#!/bin/sh\ntrap 'exit 143' TERM\nkill -TERM $PPID\nwhile :; do sleep 0.05; done\n")
    training.chmod(0o755)
    monkeypatch.setattr(command.sys, "executable", str(training))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        command.run_command(["train"], "lora")
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler


def test_wrong_calls_are_refused(phantoms, tmp_path, capsys, commands):
    output, data = ["--output", tmp_path / "out"], ["--data", phantoms]
    refused = {
        "--output": ["--bundles", "lora", *data],
        "--bundles": [*output],
        "--bundle lorra: there is no such bundle. Did you mean 'lora'": [*output, *data, "--bundles", "lora,lorra"],
        "there is no setting 'rink'": [*output, *data, "--bundles", "lora", "--set", "rink=4"],
        "infosam is none of the methods": [*output, *data, "--bundles", "lora", "--set", "infosam.rank=4"],
        "compare sets it": [*output, *data, "--bundles", "lora", "--set", "seed=4"],
        "--folds 9: there are only": [*output, *data, "--bundles", "lora,decoder", "--folds", "9"],
        "Give either --from": [*output, *data, "--from", tmp_path],
        "it excludes --bundles": [*output, "--epochs", "2", "--from", tmp_path],
        "image_size": [*output, *data, "--bundles", "lora", "--image-size", "33"],
        "backbone": [*output, *data, "--bundles", "lora,decoder", "--backbone", "vit_x"],
        "is not a run": [*output, "--from", tmp_path, tmp_path / "b"],
        "does not exist": [*output, "--data", tmp_path / "none", "--bundles", "lora"],
    }
    for sentence, arguments in refused.items():
        code, _, err = call(capsys, *arguments)
        assert (code, sentence in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_options_of_train_are_settings_of_all_methods(phantoms, tmp_path, capsys, monkeypatch):
    plans = []
    monkeypatch.setattr(
        "medsam_adapt.workflows.compare._train_all",
        lambda plan, *_: plans.append(plan) or (_ for _ in ()).throw(RunError("x")),
    )
    options = [
        "--backbone",
        "vit_nano",
        "--checkpoint",
        "random",
        "--image-size",
        "64",
        "--epochs",
        "3",
        "--prompt",
        "box",
    ]
    options += ["--precision", "fp32", "--low-memory", "--classes", "liver, spleen", "--set", "lora.epochs=4"]
    arguments = ["--bundles", "lora,decoder", "--data", phantoms, "--output", tmp_path / "out", *options]
    assert call(capsys, *arguments, "--cache-dir", tmp_path / "cache")[0] == 1
    shared = {"backbone": "vit_nano", "checkpoint": "random", "image_size": 64, "prompt": "box", "precision": "fp32",
              "low_memory": True, "classes": ["liver", "spleen"], "cache_dir": str(tmp_path / "cache")}  # fmt: skip
    assert plans[0].settings == {
        "lora": {**shared, "epochs": 4, "val_interval": 4},
        "decoder": {**shared, "epochs": 3, "val_interval": 3},
    }


@pytest.fixture
def plan(phantoms):
    return ComparisonPlan(
        str(phantoms), "folder", ("lora", "decoder"), {"lora": {"rank": 2}, "decoder": {}}, folds=3, seeds=2
    )


def test_each_fold_and_seed_is_a_run_on_the_same_splits(plan, phantoms, tmp_path):
    _, splits = begin(plan, tmp_path / "out", find_cases(phantoms))
    runs = list(plan.runs(tmp_path / "out"))
    assert len({run.folder for run in runs}) == len(runs) == 2 * 3 * 2
    assert [(run.bundle, run.seed, run.fold) for run in runs[:3]] == [("lora", 0, 0), ("decoder", 0, 0), ("lora", 0, 1)]
    held_out = [fold["held_out"] for fold in json.loads(splits.read_text())["folds"]]
    assert sorted(case for fold in held_out for case in fold) == ["phantom_000", "phantom_001", "phantom_002"]
    arguments = runs[2].train_arguments(plan, splits, "cpu")
    for setting in ("rank=2", "seed=0", f'split_file="{splits}"', "fold=1"):
        assert arguments[arguments.index(setting) - 1] == "--set"


def test_a_comparison_may_grow(plan, phantoms, tmp_path):
    folder, cases = tmp_path / "out", find_cases(phantoms)
    begin(plan, folder, cases)
    later = ComparisonPlan(plan.data, "folder", ("infosam",), {"infosam": {}}, folds=3, seeds=1)
    grown, _ = begin(later, folder, cases)
    assert (grown.bundles, grown.seeds) == (("lora", "decoder", "infosam"), 2)
    other = ComparisonPlan(plan.data, "folder", ("infosam",), {"infosam": {}}, folds=2)
    with pytest.raises(InputError, match=r"was begun with another folds \(3\)"):
        begin(other, folder, cases)


def test_what_is_there_decides_what_is_done(tmp_path, plan):
    run = PlannedRun("lora", 0, None, tmp_path / "run")
    assert run.state() == "new"
    (run.folder / "models").mkdir(parents=True)
    (run.folder / "run.json").touch()
    assert run.state() == "begun"
    assert run.train_arguments(plan, tmp_path, "cpu")[:2] == ["train", "--resume"]
    (run.folder / "training.json").write_text('{"finished": true}')
    (run.folder / "models" / "model.pt").touch()
    assert run.state() == "trained"


def test_scores_by_other_rules_are_made_anew(tmp_path):
    from medsam_adapt.scoring.summary import summarise, write_metrics

    case = {"Larynx": {"dsc": 0.5, "iou": 0.4, "nsd": 0.5, "reference_ml": 1.0, "prediction_ml": 1.0}}
    rules = MetricRules(metrics=("nsd",))
    assert not is_scored(tmp_path, rules)
    write_metrics(tmp_path, summarise({"a": case}, ["Larynx"], rules))
    assert is_scored(tmp_path, rules)
    for other in (MetricRules(), choose_rules("segrap"), choose_rules(metrics="nsd", tolerance="Larynx=2")):
        assert not is_scored(tmp_path, other)


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    a, b = tmp_path / "lora" / "seed_0", tmp_path / "decoder" / "seed_0"
    assert name_runs([a, b]) == {"lora/seed_0": a, "decoder/seed_0": b}
    assert name_runs([a, tmp_path / "x"]) == {"seed_0": a, "x": tmp_path / "x"}
