import numpy as np
import pytest

from medsam_adapt.data.volumes.cleaning import Cleaning, bounding_boxes, clean_each, piece_sizes, voxel_ml, voxel_sides

SIDES = (5, 10, 10)  # mm: 0.5 ml


def pieces():
    """Label 3: a shell of 26 around a hole, one of 4 voxels, one of 1 touching nothing; label 7 inside another hole."""
    voxels = np.zeros((12, 12, 12), np.uint8)
    voxels[1:4, 1:4, 1:4] = 3
    voxels[2, 2, 2] = 0
    voxels[6:8, 6:8, 6] = 3
    voxels[10, 10, 10] = 3
    voxels[8:11, 1:4, 1:4] = 5
    voxels[9, 2, 2] = 7
    return voxels


def as_masks(voxels):
    return np.stack([voxels == label_id for label_id in (3, 5, 7)]).astype(np.uint8)


@pytest.mark.parametrize("layout", ["labels", "masks"])
@pytest.mark.parametrize(
    ("cleaning", "expected"),
    [
        (Cleaning(), {3: 31, 5: 26, 7: 1}),
        (Cleaning(largest_component=True), {3: 26, 5: 26, 7: 1}),
        (Cleaning(fill_holes=True), {3: 32, 5: 26, 7: 1}),
        (Cleaning(min_volume_ml=2.0), {3: 30, 5: 26, 7: 0}),  # 4 voxels
        (Cleaning(min_volume_ml=2.1), {3: 26, 5: 26, 7: 0}),
        (Cleaning(True, True, 1.0), {3: 27, 5: 26, 7: 0}),
        (Cleaning(min_share=4 / 26), {3: 30, 5: 26, 7: 1}),
        (Cleaning(min_share=0.16), {3: 26, 5: 26, 7: 1}),
        (Cleaning(min_share=1.0), {3: 26, 5: 26, 7: 1}),
        (Cleaning(longest_mm=82.0), {3: 26, 5: 26, 7: 1}),  # the shell and the four voxels: 7 x 7 x 6 of them, 99 mm
        (Cleaning(longest_mm=99.0), {3: 30, 5: 26, 7: 1}),
        (Cleaning(longest_mm=150.0), {3: 31, 5: 26, 7: 1}),
    ],
)
def test_each_class_is_cleaned_by_itself(layout, cleaning, expected):
    voxels = pieces() if layout == "labels" else as_masks(pieces())
    before = voxels.copy()
    cleaned = cleaning(voxels, [3, 5, 7], SIDES)
    np.testing.assert_array_equal(voxels, before)
    assert bool(cleaning) == (cleaning != Cleaning())
    if layout == "labels":
        assert {label_id: int((cleaned == label_id).sum()) for label_id in expected} == expected
        return
    if cleaning.fill_holes:  # where classes may overlap, what lies in a hole of another one does not keep it open
        expected = {**expected, 5: 27}
    assert dict(zip(expected, cleaned.sum(axis=(1, 2, 3)).tolist(), strict=True)) == expected


def test_a_hole_is_filled_only_where_nothing_else_is():
    cleaned = Cleaning(fill_holes=True)(pieces(), [3, 5, 7], SIDES)
    assert (cleaned[2, 2, 2], cleaned[9, 2, 2]) == (3, 7)


def test_pieces_that_touch_at_a_corner_are_one():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert piece_sizes(mask).tolist() == [2, 1]


def test_boxes_of_labels():
    assert bounding_boxes(pieces(), [7, 5, 4, 9]) == {
        7: (slice(9, 10), slice(2, 3), slice(2, 3)),
        5: (slice(8, 11), slice(1, 4), slice(1, 4)),
    }


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_how_voxels_lie_in_memory_changes_nothing(axes):
    """Not even which of two pieces of one size is kept."""
    voxels = pieces()
    voxels[0, 9:11, 5], voxels[5, 1:3, 9] = 7, 7
    boxes, cleaning = bounding_boxes(voxels, [3, 5, 7]), Cleaning(True, True, 1.0)
    laid_out = np.ascontiguousarray(voxels.transpose(axes)).transpose(np.argsort(axes))
    for view in (laid_out, np.ascontiguousarray(laid_out[::-1])[::-1], np.asfortranarray(voxels)[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(view, voxels)
        assert bounding_boxes(view, [3, 5, 7]) == boxes
        np.testing.assert_array_equal(cleaning(view, [3, 5, 7], SIDES), cleaning(voxels, [3, 5, 7], SIDES))


def test_labels_can_be_cleaned_in_ways_of_their_own():
    voxels = pieces()
    cleaned = clean_each(voxels, {5: Cleaning(fill_holes=True), 3: Cleaning(min_share=0.2)}, SIDES)
    assert {label: int((cleaned == label).sum()) for label in (3, 5, 7)} == {3: 26, 5: 26, 7: 1}
    np.testing.assert_array_equal(clean_each(voxels, {}, SIDES), voxels)
    np.testing.assert_array_equal(voxels, pieces())


def test_the_volume_of_a_voxel_is_that_of_its_box_whatever_its_orientation():
    turned = np.array([[0, 2.0, 0, 7], [-0.5, 0, 0, 3], [0, 0, 4.0, 1], [0, 0, 0, 1]])
    assert voxel_ml(turned) == pytest.approx(0.004)


@pytest.mark.parametrize("turned", [False, True])
def test_a_piece_is_far_by_what_lies_between_it_and_the_pieces_kept_before(turned):
    voxels = np.zeros((40, 6, 6), np.uint8)
    voxels[:10], voxels[11:17], voxels[18:22], voxels[30:35] = 1, 1, 1, 1
    sides = (2, 1, 1)
    expected = voxels.copy()
    expected[30:35] = 0  # second but one in size, and farther away than the smallest
    if turned:
        voxels, expected, sides = voxels.transpose(1, 2, 0), expected.transpose(1, 2, 0), (1, 1, 2)
    np.testing.assert_array_equal(clean_each(voxels, {1: Cleaning(longest_mm=45)}, sides), expected)
    np.testing.assert_array_equal(clean_each(voxels, {1: Cleaning(longest_mm=80)}, sides), voxels)


def test_the_sides_of_a_sheared_voxel_have_its_volume():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    np.testing.assert_array_equal(voxel_sides(affine), [2, 3, 4])
    affine[1, 2] = 1.5  # slices shifted sideways, as a tilted gantry gives them: still 24 mm³
    assert np.prod(voxel_sides(affine)) == pytest.approx(1000 * voxel_ml(affine)) == pytest.approx(24)
