"""Runs of an earlier version: each is used as it is, or refused in one sentence.

``earlier/`` has the ``run.json`` of two runs as commit 4adda51 wrote them, before the modules of adapters moved, and
``detail.json`` of commit 9d60ccb, when the labels alone decided on the clean-up.
"""

import json
from pathlib import Path

import pytest
import torch

from medsam_adapt.cli.main import main
from medsam_adapt.data.slices.slicing_spec import joint_cleanings
from medsam_adapt.data.volumes.cleaning import Cleaning
from medsam_adapt.inference.run_network import build_network
from medsam_adapt.runs.record import MODEL_FILE, RunRecord, read_run

RECORDS = Path(__file__).parent / "earlier"


def call(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def run_of(bundle, data, folder):
    """A run's folder with an earlier record, and no weights yet."""
    record = json.loads((RECORDS / f"{bundle}.json").read_text(encoding="utf-8"))
    (folder / "models").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**record, "dataset_dir": str(data)}), encoding="utf-8")
    return folder


def commands(run, data, output):
    cpu = ["--device", "cpu"]
    return ["predict", run, "-i", data / "images", "-o", output, *cpu], ["evaluate", run, *cpu]


def test_an_earlier_run_predicts_and_is_scored(phantoms, tmp_path, capsys):
    run = run_of("samcobot", phantoms, tmp_path / "run")
    torch.save(build_network(read_run(run), "random").state_dict(), run / MODEL_FILE)
    for command in commands(run, phantoms, tmp_path / "masks"):
        code, _, err = call(capsys, *command)
        assert code == 0, err
    assert len(list((tmp_path / "masks").iterdir())) == 3
    assert list(json.loads((run / "metrics.json").read_text())["cases"]) == ["phantom_002"]


def test_of_an_earlier_run_with_classes_of_one_piece_fragments_are_removed_as_before(phantoms, tmp_path):
    record = read_run(run_of("detail", phantoms, tmp_path / "run"))
    assert record.whole == record.class_names
    quarter = Cleaning(min_share=0.25)
    assert record.cleanings == dict.fromkeys(range(1, 6), quarter)
    assert record.whole_classes == record.cleanings  # its inference.json takes them by this name
    again = RunRecord(**record.model_dump())  # as it is written when it is pushed
    assert again.cleanings == record.cleanings
    other = record.model_copy(update={"whole": ["liver"]})
    assert joint_cleanings([other, record]) == {1: quarter}  # the first of several runs decided


def test_an_earlier_run_whose_adapter_is_gone_is_refused_in_one_sentence(phantoms, tmp_path, capsys):
    run = run_of("blosam", phantoms, tmp_path / "run")
    torch.save({}, run / MODEL_FILE)
    for command in commands(run, phantoms, tmp_path / "masks"):
        code, _, err = call(capsys, *command)
        assert code == 2
        assert err.startswith("error: medsam_adapt.networks.lora.DecoderLoRA: this version of medsam-adapt has no such")
        assert "train --repeat" in err
        assert "Traceback" not in err
    assert not (run / "metrics.json").exists()
