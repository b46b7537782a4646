"""Runs and scans that the tests of ``predict`` share."""

import nibabel as nib
import numpy as np
import pytest

from tests.made_runs import make_run

pytest.register_assert_rewrite("tests.cli.predicting")

from .predicting import scan  # noqa: E402


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Runs, and a folder ``scans`` of four volumes."""
    folder = tmp_path_factory.mktemp("made")
    make_run(folder / "run")
    make_run(folder / "second", seed=1)
    make_run(folder / "overlapping", overlapping=True)
    make_run(folder / "box", "box", names=("spleen", "liver"), label_ids=[7, 2])
    (folder / "scans").mkdir()
    for number in range(4):
        nib.save(nib.Nifti1Image(scan(number), np.diag([-2, 2, 5, 1])), folder / "scans" / f"case_{number}.nii.gz")
    return folder
