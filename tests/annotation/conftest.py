"""Scans without labels, a run that proposes, and a server of both."""

import shutil
import sys

import numpy as np
import pytest

from medsam_adapt.annotation.opening import open_session
from medsam_adapt.annotation.proposals import load_proposals
from medsam_adapt.annotation.run_lengths import to_run_lengths
from medsam_adapt.annotation.server import create_app
from tests.made_runs import make_run
from tests.small_networks import register_nano_for_good
from tests.warm import commands_by_forking

TOKEN = "a-token-of-the-tests-with-32-letters"
CLASSES = ["liver", "spleen"]


@pytest.fixture
def scans(phantoms, tmp_path):
    """Folder of three scans without labels."""
    return shutil.copytree(phantoms / "images", tmp_path / "scans")


@pytest.fixture
def session(scans):
    return open_session(scans, CLASSES)


@pytest.fixture(scope="session")
def boxes_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "boxes", prompt="box", names=CLASSES)


@pytest.fixture(scope="module")
def proposals(boxes_run):
    found = load_proposals(str(boxes_run), CLASSES, "cpu")
    yield found
    found.close()


@pytest.fixture
def client(session, proposals):
    """A page's requests to the server of the session."""
    from fastapi.testclient import TestClient

    app = create_app(session, TOKEN, proposals)
    with TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


@pytest.fixture
def warm_training(tmp_path, monkeypatch):
    """Makes rounds train in a forked process, which has the small network that is registered here."""
    program = tmp_path / "medsam-adapt"

    def set_up(rounds):
        command = rounds.command

        def replaced(*wanted):
            usual = command(*wanted)
            assert usual[:3] == [sys.executable, "-m", "medsam_adapt.cli"]
            return [str(program), *usual[3:]]

        monkeypatch.setattr(rounds, "command", replaced)

    with commands_by_forking(program, register_nano_for_good):
        yield set_up


def painted(shape, value=1, rows=slice(4, 12), columns=slice(6, 15)):
    """A slice with a rectangle of one class."""
    values = np.zeros(shape, np.uint8)
    values[rows, columns] = value
    return values


def changes(values, index=3, axis="axial", version=0, author="person", step=1, prompts=()):
    """A request that replaces one slice."""
    slices = [{"index": index, "runs": to_run_lengths(values)}]
    return {
        "axis": axis, "version": version, "author": author, "step": step, "slices": slices, "prompts": list(prompts),
    }  # fmt: skip
