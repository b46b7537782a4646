"""The report of a prediction: appended case by case, whole at the end."""

import json
from pathlib import Path

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.prediction.json_report import JsonReport, complete_report, earlier_cases
from medsam_adapt.runs.record import read_run
from tests.made_runs import make_run

ENTRY = {"seconds": 1.25, "volumes_ml": {"liver": 1.5, "spleen": 0.25}, "flags": [], "files": {"segmentation": "m.nii"}}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("made") / "run")
    return {run: read_run(run)}


def report_at(path, records, earlier=None):
    return JsonReport(path, records, "cpu", {"flips": False}, earlier or {})


def test_the_bytes_written_are_at_most_twice_those_of_the_cases(tmp_path, records, monkeypatch):
    written = []
    write_text = Path.write_text

    def counted(path, text, *arguments, **more):
        written.append(len(text.encode()))
        return write_text(path, text, *arguments, **more)

    monkeypatch.setattr(Path, "write_text", counted)
    with report_at(tmp_path / "report.json", records) as report:
        for number in range(500):
            report.add(f"case_{number}", ENTRY, Path(f"{number}.nii.gz"))
        lines = (tmp_path / "report.jsonl").stat().st_size
        assert len((tmp_path / "report.jsonl").read_text().splitlines()) == 500
    content = json.loads((tmp_path / "report.json").read_text())
    assert len(content["cases"]) == 500
    assert len(written) == 2  # at the beginning and at the end
    assert lines + sum(written) <= 2 * len(json.dumps(content["cases"], indent=2))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_what_a_killed_process_leaves_is_read_again(tmp_path, records):
    path = tmp_path / "report.json"
    killed = report_at(path, records, {"a": {"skipped": True}})
    killed.add("b", ENTRY, Path("b.nii.gz"))
    killed.fail("c", InputError("folder/c.nii.gz is empty"), Path("folder/c.nii.gz"))
    with (tmp_path / "report.jsonl").open("a") as lines:
        lines.write('["cases","d",{"seco')  # the kill
    assert set(earlier_cases(path)) == {"a", "b"}
    complete_report(path)
    content = json.loads(path.read_text())
    assert content["cases"] == {"a": {"skipped": True}, "b": {**ENTRY, "input": "b.nii.gz"}}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    complete_report(path)
    assert json.loads(path.read_text()) == content


def test_a_report_is_whole_however_its_command_ends(tmp_path, records):
    def stopped():
        with report_at(tmp_path / "report.json", records) as report:
            report.fail("c", InputError("folder/c.nii.gz is empty"), Path("folder/c.nii.gz"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert json.loads((tmp_path / "report.json").read_text())["failed"] == {"c": "c.nii.gz is empty"}


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch, records):
    monkeypatch.chdir(tmp_path)
    with report_at(None, records) as report:
        report.add("a", ENTRY, Path("a.nii.gz"))
    assert not list(tmp_path.iterdir())
