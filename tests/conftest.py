"""Data that tests share: tiny phantoms, made once, and the real volumes where they are."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each of the processes, set before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

if not torch.cuda.is_available():  # kernels for a GPU are then interpreted; Triton asks when it is imported
    os.environ["TRITON_INTERPRET"] = "1"

from medsam_adapt.data.phantom.phantom import write_phantoms
from tests import small_networks


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """Slice caches of the tests, away from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """Folder of three tiny labelled phantoms, of which one patient is held out."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "data", 3, seed=0, shape=(40, 36, 12))


@pytest.fixture
def shipped_nano(tmp_path, monkeypatch):
    """Weights for vit_nano as if they shipped with the package; the path of their file."""
    return ship_nano(tmp_path / "package", monkeypatch)


@pytest.fixture(scope="module")
def tiny_nano(tmp_path_factory):
    """In a module that tests what is around networks, vit_nano and the weights shipped for it have few channels."""
    with pytest.MonkeyPatch.context() as patch:
        small_networks.register_nano(patch)
        ship_nano(tmp_path_factory.mktemp("tiny") / "package", patch)
        yield


def ship_nano(folder, monkeypatch):
    """Put random weights for vit_nano in the place of those that ship with the package; the path of their file."""
    from safetensors.torch import save_file

    from medsam_adapt.core.files import file_sha256
    from medsam_adapt.networks import build_sam
    from medsam_adapt.weights import store
    from medsam_adapt.weights.registry import WEIGHTS, Weights

    path = folder / "sam_nano.safetensors"
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = build_sam("vit_nano", checkpoint="random").state_dict()
    save_file({name: tensor.half() for name, tensor in weights.items()}, path)
    facts = {"size": path.stat().st_size, "sha256": file_sha256(path), "shipped": True}
    monkeypatch.setitem(WEIGHTS, "sam_nano", Weights("sam_nano", "vit_nano", path.name, "Apache-2.0", **facts))
    monkeypatch.setattr(store, "files", lambda package: path.parent)
    return path


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real CT and MR."""
    folder = os.environ.get("MEDSAM_ADAPT_REAL_DATA")
    if not folder:
        pytest.skip("MEDSAM_ADAPT_REAL_DATA names no folder with the real volumes")
    return Path(folder)
