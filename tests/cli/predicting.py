"""What the tests of ``predict`` share: its call, and scans."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medsam_adapt.cli.main import main

SHAPE = (20, 18, 4)


def call(capsys, *arguments):
    """Exit code, standard output and standard error of ``predict``."""
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments), "--device", "cpu"])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def refused(capsys, *arguments):
    """The sentence of a prediction that was refused."""
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
    return err


def scan(number):
    """A smooth CT in whole numbers."""
    coarse = np.random.default_rng(number).normal(40, 250, (4, 3, 2))
    return sitk.GetArrayFromImage(
        sitk.Resample(
            sitk.GetImageFromArray(coarse),
            SHAPE[::-1],
            sitk.Transform(),
            sitk.sitkLinear,
            (0, 0, 0),
            (1 / SHAPE[2], 2 / SHAPE[1], 3 / SHAPE[0]),
        )
    ).astype(np.int16)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def voxels_of(path):
    return np.asarray(nib.load(path).dataobj)
