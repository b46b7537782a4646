"""Fragments: what is removed of classes that are one piece in every training label, and what is not."""

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.data.volumes.pieces import are_one_piece, without_fragments
from tests.made_runs import make_run


def volume(*blocks):
    """A map (12, 12, 12) with cubes: class, corner, side."""
    classes = np.zeros((12, 12, 12), np.uint8)
    for number, corner, side in blocks:
        classes[tuple(slice(start, start + side) for start in corner)] = number
    return classes


def test_a_class_is_one_piece_with_a_few_voxels_beside_it_or_none_at_all():
    classes = volume((1, (0, 0, 0), 5), (1, (9, 9, 9), 1), (2, (6, 0, 0), 2), (2, (6, 6, 6), 2), (4, (0, 8, 0), 2))
    assert are_one_piece(classes, 4).tolist() == [True, False, True, True]


def test_pieces_that_touch_at_a_corner_are_one():
    assert are_one_piece(volume((1, (0, 0, 0), 2), (1, (2, 2, 2), 2)), 1).all()


@pytest.mark.parametrize("whole", [[1], [2], [1, 2], []])
def test_small_pieces_of_whole_classes_become_background(whole):
    fragments = [(1, (8, 0, 0), 2), (2, (0, 8, 0), 2)]  # 8 voxels; the large pieces have 64
    kept = [(1, (0, 0, 0), 4), (1, (0, 0, 6), 3), (2, (6, 6, 6), 4)]  # 27 voxels are more than a quarter of 64
    expected = volume(*kept, *(each for each in fragments if each[0] not in whole))
    given = volume(*kept, *fragments)
    found = without_fragments(given, whole)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(given, volume(*kept, *fragments))


def test_a_class_that_is_not_there_stays_so():
    np.testing.assert_array_equal(without_fragments(volume((1, (0, 0, 0), 2)), [1, 2]), volume((1, (0, 0, 0), 2)))


def test_predict_removes_fragments_unless_told_not_to(tmp_path):
    run = make_run(tmp_path / "run", whole=["liver", "spleen"])
    voxels = np.random.default_rng(0).normal(40, 90, (24, 20, 9)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")

    def predicted(name, *options):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", str(run), "-i", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / name), *options])
        assert not stopped.value.code
        return np.asarray(nib.load(tmp_path / name / "scan_seg.nii.gz").dataobj)

    cleaned, as_drawn = predicted("cleaned"), predicted("drawn", "--no-clean-up")
    np.testing.assert_array_equal(cleaned, without_fragments(as_drawn, [1, 3]))
    assert (cleaned != as_drawn).any()
