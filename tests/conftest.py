"""Data that tests share: tiny phantoms, made once, and the real volumes where they are."""

import os
from pathlib import Path

import pytest

from medsam_adapt.data.phantom import write_phantoms


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


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real CT and MR."""
    folder = os.environ.get("MEDSAM_ADAPT_REAL_DATA")
    if not folder:
        pytest.skip("MEDSAM_ADAPT_REAL_DATA names no folder with the real volumes")
    return Path(folder)
