"""Rounds of training, ranking and proposing in the background."""

import sys
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'annotate' is not installed")

from medsam_adapt.core.errors import InputError

from .serving import CLASSES, TOKEN, made_proposals, make_runs, served, write_scans

pytestmark = pytest.mark.usefixtures("tiny_nano")
SMALL = ["--bundle", "decoder", "--checkpoint", "random", "--epochs", "1"]
SMALL += ["--set", "image_size=32", "--set", "min_steps=1", "--set", "batch_size=2", "--set", "tune_encoder=false"]


@pytest.fixture(scope="module")
def runs(tiny_nano, tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def session(tmp_path):
    from medsam_adapt.annotation.opening import open_session

    return open_session(write_scans(tmp_path / "scans"), CLASSES, tmp_path / "output")


@pytest.fixture
def made_rounds(session, runs):
    """Makes rounds, which end with the test."""
    from medsam_adapt.annotation.rounds import Rounds

    made = []

    def make(automatic=False, **options):
        rounds = Rounds(session, made_proposals(runs[0], runs[1] if automatic else None), device="cpu", **options)
        made.append(rounds)
        return rounds

    yield make
    for rounds in made:
        rounds.stop()
        rounds.proposals.close()


def label(session, scan):
    """A person draws two structures and finishes."""
    with session.changing(scan) as drawing:
        values = np.zeros(drawing.slices("axial").shape[1:], np.uint8)
        values[3:9, 3:9], values[11:15, 4:12] = 1, 3
        drawing.paint("axial", {1: values, 2: values}, session.person)
    session.set_labelled(scan, True)


def ended(rounds, seconds=900):
    """The progress of a round when it is over."""
    limit = time.monotonic() + seconds
    while rounds.progress.running:
        assert time.monotonic() < limit
        time.sleep(0.05)
    return rounds.progress


def replaced(rounds, monkeypatch, program):
    """Another program in place of the training; the command that was asked for is kept in the list returned."""
    asked = []
    command = rounds.command

    def other(*arguments):
        asked.append(command(*arguments))
        return [sys.executable, "-c", program]

    monkeypatch.setattr(rounds, "command", other)
    return asked


def test_a_round_trains_ranks_and_proposes(session, made_rounds, warm_training):
    rounds = made_rounds(options=SMALL)
    warm_training(rounds)
    for scan in ("scan_0", "scan_2"):
        label(session, scan)
    assert rounds.train().status == "training"
    with pytest.raises(InputError, match="a round is in progress"):
        rounds.rank()
    progress = ended(rounds)
    assert (progress.status, progress.message) == ("done", "")
    assert (progress.run, progress.labelled) == ("round_01", 2)
    run = session.output / "runs" / "round_01"
    assert rounds.latest() == run
    from medsam_adapt.runs.record import read_run

    assert read_run(run).train == ["scan_0", "scan_2"]
    assert rounds.proposals.automatic.author.name == "round_01"
    assert [each.name for each in rounds.order] == ["scan_1"]
    assert rounds.order[0].uncertainty is not None
    assert rounds.order[0].distance is not None
    expected = rounds.proposals.automatic.predictor(session.scans["scan_1"].image)
    drawing = session.drawing("scan_1")
    assert np.array_equal(drawing.native(drawing.label), expected)
    assert session.status("scan_1") == ("proposed" if expected.any() else session.status("scan_1"))
    assert session.status("scan_0") == "labelled"
    # The next round continues from this one.
    command = rounds.command(session.output, session.output / "runs" / "round_02", 3)
    assert command[command.index("--from") + 1] == str(run)
    assert command[command.index("--minutes") + 1] == "3"
    later = made_rounds()  # the server is started again
    assert later.use_latest() == run
    assert later.proposals.automatic.author.name == "round_01"


def test_scans_are_ranked_before_any_training(session, made_rounds):
    rounds = made_rounds()
    label(session, "scan_1")
    rounds.rank()
    assert ended(rounds).status == "done"
    assert {each.name for each in rounds.order} == {"scan_0", "scan_2"}
    assert all(each.uncertainty is None and each.distance is not None for each in rounds.order)
    first = rounds.order[0].name
    assert rounds.next_scan() == first
    label(session, first)
    assert rounds.next_scan() not in (first, "scan_1")


def test_a_run_of_other_classes_is_not_continued(session, made_rounds, runs, tmp_path):
    from tests.made_runs import make_run

    other = make_run(tmp_path / "other", names=("heart",))
    assert "--from" not in made_rounds(start=other).command(session.output, tmp_path / "new")
    assert "--from" not in made_rounds(start=runs[0]).command(session.output, tmp_path / "new")  # it needs boxes
    same = made_rounds(start=runs[1]).command(session.output, tmp_path / "new")
    assert same[same.index("--from") + 1] == str(runs[1])


def test_a_training_that_fails_is_explained(session, made_rounds, monkeypatch):
    rounds = made_rounds()
    label(session, "scan_0")
    replaced(rounds, monkeypatch, "import sys; print('Checking'); print('error: the disk is full.'); sys.exit(2)")
    rounds.train()
    progress = ended(rounds)
    assert (progress.status, progress.message) == ("failed", "the disk is full.")
    replaced(rounds, monkeypatch, "import os; os.abort()")
    rounds.train()
    assert "the training failed. Its output is in" in ended(rounds).message
    assert rounds.proposals.automatic is None
    assert rounds.latest() is None


def test_a_training_is_stopped(session, made_rounds, monkeypatch):
    rounds = made_rounds()
    label(session, "scan_0")
    replaced(rounds, monkeypatch, "import time; time.sleep(600)")
    rounds.train()
    assert rounds.progress.running
    assert rounds.stop().status == "stopped"
    assert rounds.train().running  # another one may begin
    rounds.stop()


def test_epochs_are_read_from_the_record_of_the_run(session, made_rounds, monkeypatch, runs):
    from medsam_adapt.core.files import write_json
    from tests.made_runs import make_run

    rounds = made_rounds()
    label(session, "scan_0")
    replaced(rounds, monkeypatch, "import time; time.sleep(600)")
    assert rounds.train(2.0).total == 0
    run = make_run(rounds.folder / "round_01", knobs={"seed": 0, "epochs": 40}, held_out=["scan_0"])
    assert (rounds.progress.done, rounds.progress.total, rounds.progress.held_out) == (0, 40, 1)
    write_json(run / "training.json", {"format": 1, "seconds": 5.0, "epochs": 7, "finished": False})
    assert (rounds.progress.done, rounds.progress.total) == (7, 40)
    rounds.stop()


def test_without_a_label_there_is_no_training(session, made_rounds):
    rounds = made_rounds()
    with pytest.raises(InputError, match="no scan is labelled yet"):
        rounds.train()
    assert rounds.progress.status == "idle"


def test_the_endpoints_of_the_page(session, made_rounds, monkeypatch):
    import httpx

    rounds = made_rounds(automatic=True)
    label(session, "scan_0")
    replaced(rounds, monkeypatch, "import time; time.sleep(600)")
    with served(session, rounds.proposals, rounds) as address, httpx.Client(base_url=address) as anyone:
        assert anyone.get("/api/round").status_code == 401
        assert anyone.post("/api/round/training", json={}).status_code == 401
        anyone.headers["Authorization"] = f"Bearer {TOKEN}"
        state = anyone.get("/api/round").json()
        assert (state["status"], state["running"], state["suggested"], state["labelled_now"]) == ("idle", False, [], 1)
        assert anyone.post("/api/round/ranking").status_code == 202
        ended(rounds)
        state = anyone.get("/api/round").json()
        assert [each["id"] for each in state["suggested"]] == [each.name for each in rounds.order]
        for wrong in ({"minutes": 0}, {"minutes": "x"}, {"run": "/etc"}):
            assert anyone.post("/api/round/training", json=wrong).status_code == 422
        assert anyone.post("/api/round/training", json={"minutes": 1}).json()["status"] == "training"
        refused = anyone.post("/api/round/training", json={})
        assert refused.status_code == 422
        assert "a round is in progress" in refused.json()["detail"]
        assert anyone.post(f"/monai/{TOKEN}/train/medsam_adapt", json={}).status_code == 429
        running = anyone.get(f"/monai/{TOKEN}/train/?check_if_running=true")
        assert (running.status_code, running.json()["status"]) == (200, "RUNNING")
        assert anyone.delete("/api/round").json()["status"] == "stopped"
        assert anyone.get(f"/monai/{TOKEN}/train/").json()["status"] == "REVOKED"
