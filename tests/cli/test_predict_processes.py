"""``predict`` by several processes of this machine: masks and report are those of one, also where one is killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medsam_adapt.cli.main import main as run_command
from medsam_adapt.core import cluster, process_pool
from medsam_adapt.core.files import owner_tag
from medsam_adapt.workflows import prediction_run
from tests.warm import spawn_by_forking

from .predicting import call, contents, refused

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import prediction_in_parts


@pytest.fixture(scope="module")
def expected(made, tmp_path_factory):
    """Masks of one process, and its report's cases without seconds and paths."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.raises(SystemExit):
        run_command(prediction_in_parts.arguments(made / "run", made / "scans", folder))
    return prediction_in_parts.result(folder)


@pytest.mark.parametrize("way", ["--gpus", "--cluster"])
def test_processes_together_do_what_one_does(made, expected, tmp_path, capsys, monkeypatch, way):
    if way == "--cluster":
        pytest.importorskip("distributed")
    spawn_by_forking(monkeypatch)
    words = prediction_in_parts.arguments(made / "run", made / "scans", tmp_path)
    code, out, err = call(capsys, *words[1:], way, "2" if way == "--gpus" else "local:2")
    assert (code, err) == (0, "")
    assert "4 masks in" in out
    assert prediction_in_parts.result(tmp_path) == expected


@pytest.mark.parametrize("way", ["--gpus", "--cluster"])
def test_what_a_killed_process_was_writing_is_removed(made, expected, tmp_path, capsys, monkeypatch, way):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, _, random = owner_tag().split("-")
    half = tmp_path / "masks" / f".{host}-{ended.pid}-{random}.case_0_seg.nii.gz"

    def killed(results):
        for number, each in enumerate(results):
            if number == 1:
                half.write_bytes(b"half")
            yield each

    if way == "--cluster":
        pytest.importorskip("distributed")
        run = cluster.Cluster.run
        monkeypatch.setattr(cluster.Cluster, "run", lambda self, *given: killed(run(self, *given)))
    else:
        monkeypatch.setattr(
            prediction_run, "run_in_processes", lambda *given: killed(process_pool.run_in_processes(*given))
        )
    spawn_by_forking(monkeypatch)
    words = prediction_in_parts.arguments(made / "run", made / "scans", tmp_path)
    assert call(capsys, *words[1:], way, "2" if way == "--gpus" else "local:2")[0] == 0
    assert prediction_in_parts.result(tmp_path) == expected


def test_a_killed_process_loses_nothing(made, expected, tmp_path):
    codes = prediction_in_parts.kill_one("gpus", made / "run", made / "scans", tmp_path, 1, 0.0, 0.5)
    assert codes == [0]
    assert prediction_in_parts.result(tmp_path) == expected


def test_a_volume_that_cannot_be_read_stops_no_other(made, expected, tmp_path, capsys, monkeypatch):
    spawn_by_forking(monkeypatch)
    scans = tmp_path / "scans"
    scans.mkdir()
    for path in (made / "scans").iterdir():
        (scans / path.name).write_bytes(path.read_bytes())
    broken = (scans / "case_1.nii.gz").read_bytes()
    (scans / "case_1.nii.gz").write_bytes(broken[:120] + broken[130:])
    words = prediction_in_parts.arguments(made / "run", scans, tmp_path)
    code, _, err = call(capsys, *words[1:], "--gpus", "2")
    assert code == 2
    assert "1 of 4 volumes could not be segmented" in err
    found = prediction_in_parts.result(tmp_path)
    assert list(found["failed"]) == ["case_1"]
    assert found["masks"] == {name: mask for name, mask in expected["masks"].items() if "case_1" not in name}


def test_processes_that_cannot_be_are_refused(made, tmp_path, capsys):
    words = [made / "run", "-i", made / "scans", "-o", tmp_path / "masks"]
    assert "--cluster: it excludes --gpus" in refused(capsys, *words, "--gpus", "2", "--cluster", "local:2")
    assert "it is no address" in refused(capsys, *words, "--cluster", "somewhere")
    assert not (tmp_path / "masks").exists()
    assert contents(tmp_path) == {}


def test_parts_merge_their_reports(made, expected, tmp_path, capsys):
    words = prediction_in_parts.arguments(made / "run", made / "scans", tmp_path)
    code, out, _ = call(capsys, *words[1:], "--part", "1/2")
    assert (code, "report.json: written once these parts of 2 are done: 2." in out) == (0, True)
    assert not (tmp_path / "report.json").exists()
    assert call(capsys, *words[1:], "--part", "2/2")[0] == 0
    assert prediction_in_parts.result(tmp_path) == expected
    assert json.loads((tmp_path / "report.json").read_text())["finished"] is True
    assert call(capsys, *words[1:], "--part", "3/3")[0] == 0  # all masks are there: its report has its cases
    assert list(json.loads((tmp_path / "report.3-of-3.json").read_text())["cases"]) == ["case_2"]
    for part in ("1/2", "2/2"):  # nothing is left to do, and the report still states what did it
        assert call(capsys, *words[1:], "--part", part)[0] == 0
    assert prediction_in_parts.result(tmp_path) == expected
