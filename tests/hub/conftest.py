"""A run, its repository, and weights of one's own."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from medsam_adapt.hub.places import LocalFolder
from medsam_adapt.hub.repository import push
from medsam_adapt.networks import build_sam
from tests.hub.runs import adapted_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return adapted_run(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="session")
def repository(run):
    push(run, LocalFolder(run.parent / "repository"))
    return run.parent / "repository"


@pytest.fixture
def pushed(repository, tmp_path):
    """A copy of the repository's folder, which a test may damage."""
    return shutil.copytree(repository, tmp_path / "repository")


@pytest.fixture(scope="session")
def own_base(tmp_path_factory):
    """Weights of one's own, of the small SAM."""
    path = tmp_path_factory.mktemp("base") / "my, weights.safetensors"
    torch.manual_seed(3)
    save_file(build_sam("vit_nano").state_dict(), path)
    return path
