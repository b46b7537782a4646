"""Copies and trainings as tasks of a cluster."""

import pickle

import pytest

from medsam_adapt.comparison.plan import ComparisonPlan
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.folder_lock import FolderLock
from medsam_adapt.data.datasets.convert import convert_cases
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.workflows import cluster_trainings
from medsam_adapt.workflows.cluster_trainings import _Training, _TrainingJob
from medsam_adapt.workflows.convert import Conversion
from tests.warm import spawn_by_forking


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_workers_make_the_copy_of_one_process(phantoms, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    spawn_by_forking(monkeypatch)
    expected = convert_cases(phantoms, tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    made = Conversion(phantoms, (tmp_path / "copy").relative_to(tmp_path)).convert_on("local:2")
    assert made == expected
    assert files(tmp_path / "copy") == files(tmp_path / "one")
    with pytest.raises(InputError, match="--overwrite: it does not go with --cluster"):
        Conversion(phantoms, tmp_path / "copy", overwrite=True).convert_on("local:2")


def test_a_worker_trains_and_scores_what_is_not_there(tmp_path, monkeypatch):
    plan = ComparisonPlan("data", "folder", ("lora",), {"lora": {}}, "default", 1, 2)
    job = pickle.loads(pickle.dumps(_TrainingJob(plan, tmp_path / "splits.json", MetricRules(), "cpu")))
    first, second = plan.runs(tmp_path)
    done = []

    def run_command(arguments, title, quiet=False):
        done.append(arguments[0])
        if "seed=1" in arguments:
            raise RunError("the training of a ended with exit code 1")

    monkeypatch.setattr(cluster_trainings.command, "run_command", run_command)
    trainer = job.start(None)
    assert trainer.run(_Training(first)) is None
    assert done == ["train", "evaluate"]
    assert "exit code 1" in str(trainer.run(_Training(second)))
    assert done == ["train", "evaluate", "train"]


def test_a_training_that_goes_on_without_its_worker_is_waited_for(tmp_path, monkeypatch):
    held = iter([True, True, False])
    waited = []

    def refuse_if_held(folder):
        if next(held):
            raise InputError("it is held")

    monkeypatch.setattr(FolderLock, "refuse_if_held", refuse_if_held)
    monkeypatch.setattr(cluster_trainings.time, "sleep", waited.append)
    cluster_trainings._wait_until_free(tmp_path)
    assert len(waited) == 2
