"""``medsam_adapt.train`` and the other public functions do what the commands of their names do, in every file."""

import inspect
import json
import subprocess
import sys
from contextlib import contextmanager

import pytest

import medsam_adapt
from medsam_adapt.cli.lazy_group import load_command
from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from medsam_adapt.workflows.reporter import Progress, Reporter
from tests.equal_runs import differences

SETS = {"batch_size": 6, "min_steps": 2}
SMALL = {"bundle": "decoder", "image_size": 32, "epochs": 1, "device": "cpu"}
OPTIONS = ["--bundle", "decoder", "--image-size", "32", "--epochs", "1", "--device", "cpu"]
OPTIONS += [word for name, value in SETS.items() for word in ("--set", f"{name}={value}")]
FUNCTIONS = ("train", "evaluate", "predict", "compare")
# Option of a command -> the argument of the function where a Python name differs.
RENAMED = {"inputs": "input", "more_runs": None, "as_json": None, "dry_run": None}


class Kept(Progress):
    """Counts the units of work that are done."""

    done = 0

    def update(self, advance=0, *, completed=None, detail=None, total=None):
        self.done = self.done + advance if completed is None else completed


class Notes(Reporter):
    """Keeps what a workflow reports."""

    def __init__(self):
        self.lines, self.tasks = [], {}

    def note(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.lines.append(f"note: {text}")

    @contextmanager
    def progress(self, title, total=None):
        self.tasks[title] = kept = Kept()
        yield kept
        assert kept.done == total


def command(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


@pytest.fixture(scope="module")
def runs(phantoms, tmp_path_factory):
    """One run trained by the command and one by the function, each evaluated; and what the function reported."""
    folder = tmp_path_factory.mktemp("doors")
    by_command, by_function, notes = folder / "command" / "run", folder / "function" / "run", Notes()
    for arguments in (["train", "--data", phantoms, *OPTIONS, "--output"], ["evaluate", "--device", "cpu"]):
        with pytest.raises(SystemExit) as stopped:
            main([*map(str, arguments), str(by_command)])
        assert not stopped.value.code
    made = medsam_adapt.train(phantoms, by_function, **SMALL, sets=SETS, reporter=notes)
    assert made == by_function
    scores = medsam_adapt.evaluate(made, device="cpu", reporter=notes)
    return by_command, by_function, notes, scores


def names_in(folder):
    """Files in a folder but for TensorBoard's, which are named by the time."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "tfevents" not in path.name
    )


def test_training_and_evaluation_write_the_same(runs):
    by_command, by_function, _, scores = runs
    assert names_in(by_command) == names_in(by_function)
    assert differences(by_command, by_function) == []
    for name in ("metrics.json", "metrics.csv", "shown_cases.json"):
        assert (by_command / name).read_bytes() == (by_function / name).read_bytes()
    assert scores.summary == json.loads((by_command / "metrics.json").read_text())
    assert scores.mean["dsc"] == scores.summary["mean"]["dsc"]
    assert all(path.exists() for path in scores.files)


def test_a_reporter_receives_notes_and_progress(runs):
    _, by_function, notes, _ = runs
    assert any("case to train on" in line or "cases to train on" in line for line in notes.lines)
    assert any(line.startswith(f"Trained: {by_function}") for line in notes.lines)
    assert notes.tasks["training"].done == 4  # steps: 24 slices in batches of 6
    assert notes.tasks["scoring"].done == 1


def test_prediction_writes_the_same(runs, phantoms, tmp_path, capsys):
    run, _, _, _ = runs
    scan = next((phantoms / "images").iterdir())
    for door in ("command", "function"):
        (tmp_path / door).mkdir()
    options = ["--device", "cpu", "--report", tmp_path / "command/report.json", "--fill-holes", "--probabilities"]
    assert command(capsys, "predict", run, "-i", scan, "-o", tmp_path / "command", *options)[0] == 0
    masks = medsam_adapt.predict(
        run,
        scan,
        tmp_path / "function",
        device="cpu",
        report=tmp_path / "function/report.json",
        fill_holes=True,
        probabilities=True,
    )
    assert names_in(tmp_path / "command") == names_in(tmp_path / "function")
    assert masks == [tmp_path / "function" / masks[0].name]
    for name in names_in(tmp_path / "command"):
        if name.endswith(".nii.gz"):
            assert (tmp_path / "command" / name).read_bytes() == (tmp_path / "function" / name).read_bytes()
    reports = [json.loads((tmp_path / door / "report.json").read_text()) for door in ("command", "function")]
    assert reports[0]["options"] == reports[1]["options"]
    assert [list(report["cases"]) for report in reports] == [[scan.name.removesuffix(".nii.gz")]] * 2


def test_masks_are_scored_the_same(phantoms, tmp_path, capsys):
    folders = ["--pred", phantoms / "labels", "--ref", phantoms / "labels", "--output", tmp_path / "command"]
    assert command(capsys, "evaluate", *folders, "--metrics", "dsc,hd95", "--tolerance", "2")[0] == 0
    scores = medsam_adapt.evaluate(
        pred=phantoms / "labels",
        ref=str(phantoms / "labels"),
        output=tmp_path / "function",
        metrics=["dsc", "hd95"],
        tolerance=2,
    )
    assert scores.mean["dsc"] == 1
    for name in ("metrics.json", "metrics.csv"):
        assert (tmp_path / "command" / name).read_bytes() == (tmp_path / "function" / name).read_bytes()


def test_finished_runs_are_compared_the_same(runs, tmp_path, capsys):
    folders = runs[:2]
    assert command(capsys, "compare", "--from", *folders, "--output", tmp_path / "command")[0] == 0
    compared = medsam_adapt.compare(folders, output=tmp_path / "function")
    assert compared.content == json.loads((tmp_path / "command" / "compare.json").read_text())
    assert sorted(path.name for path in compared.files) == names_in(tmp_path / "command")
    assert set(compared.methods) == {"command/run", "function/run"}


def test_a_plan_is_that_of_a_dry_run(phantoms, tmp_path, capsys):
    code, out, _ = command(capsys, "train", "--data", phantoms, *OPTIONS, "--dry-run", "--json")
    assert code == 0
    plan = medsam_adapt.plan_training(phantoms, **SMALL, sets=SETS)
    measured = {"training_seconds", "frozen_work_seconds", "memory_bytes"}
    assert {name: value for name, value in plan.items() if name not in measured} == {
        name: value for name, value in json.loads(out).items() if name not in measured
    }


def words_of(name, arguments):
    """A command with the options that the arguments of the function are."""
    words = [name]
    for argument, value in arguments.items():
        option = {"from_run": "--from", "from_runs": "--from", "sets": "--set"}.get(argument, f"--{argument}")
        option = option.replace("_", "-")
        if argument == "sets":
            words += [word for key, each in value.items() for word in (option, f"{key}={each}")]
        elif argument in ("run", "runs"):
            words.append(value)
        else:
            words += [option] if value is True else [option, ",".join(value) if isinstance(value, list) else value]
    return words


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", {"data": "nowhere", "output": "run"}),
        ("train", {"data": "nowhere"}),
        ("train", {"output": "run"}),
        ("train", {"data": "d", "output": "r", "epochs": 0}),
        ("train", {"data": "d", "output": "r", "epochs": 1, "minutes": 1}),
        ("train", {"data": "d", "output": "r", "bundle": "lorra"}),
        ("train", {"from_run": "r", "resume": True, "output": "o"}),
        ("train", {"data": "d", "output": "r", "sets": {"rang": 2}}),
        ("train", {"data": "d", "output": "r", "classes": ["liver", " "], "fold": 1, "folds": 1}),
        ("evaluate", {"run": "nowhere"}),
        ("evaluate", {}),
        ("evaluate", {"pred": "a", "ref": "b", "output": "c", "metrics": ["dice"]}),
        ("evaluate", {"pred": "a", "ref": "b", "output": "c", "tolerance": -1}),
        ("evaluate", {"pred": "a", "ref": "b"}),
        ("predict", {"runs": "nowhere", "input": "a", "output": "b"}),
        ("predict", {"runs": "r", "input": "a", "output": "b", "part": "3/2"}),
        ("predict", {"runs": "sam_vit_b", "input": "a", "output": "b"}),
        ("compare", {"output": "o"}),
        ("compare", {"bundles": ["lora"], "data": "nowhere", "output": "o"}),
        ("compare", {"bundles": ["lora"], "data": "d", "output": "o", "sets": {"decoder.rank": 2}}),
        ("compare", {"from_runs": "nowhere", "output": "o"}),
        ("compare", {"from_runs": "r", "bundles": ["lora"], "output": "o"}),
    ],
)
def test_errors_are_the_same(tmp_path, monkeypatch, capsys, name, arguments):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, *words_of(name, arguments))
    with pytest.raises(InputError) as raised:
        getattr(medsam_adapt, name)(**arguments)
    assert (code, out, err) == (2, "", f"error: {raised.value}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_named_like_the_options(name):
    options = {parameter.name for parameter in load_command(name).params} - {"quiet", "verbose", "help"}
    expected = {RENAMED.get(option, option) for option in options} - {None}
    assert set(inspect.signature(getattr(medsam_adapt, name)).parameters) - {"reporter"} == expected


def test_a_plan_has_the_arguments_of_a_training():
    assert inspect.signature(medsam_adapt.plan_training).parameters == inspect.signature(medsam_adapt.train).parameters


def test_the_functions_are_listed_and_load_no_torch():
    code = "import sys, medsam_adapt; assert {'train', 'evaluate', 'predict', 'compare'} <= set(dir(medsam_adapt)); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
