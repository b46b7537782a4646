import json

import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.prompts.file import Prompt, read_prompts
from medsam_adapt.data.prompts.placement import prompts_on_slices
from medsam_adapt.data.prompts.simulated import SlicePrompt, flip_prompt, prompts_of_masks, tight_box
from medsam_adapt.data.slices.geometry import slices_to_volume, volume_to_slices
from medsam_adapt.data.volumes.io import from_ras
from medsam_adapt.runs.record import RunRecord
from tests.data.slices.test_geometry import affine_of
from tests.data.volumes.test_io import ORIENTATIONS

SHAPE = (16, 12, 10)  # in RAS order
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


def record_of(prompt="box", axis="axial"):
    return RunRecord.model_construct(
        class_names=["liver", "right kidney"], label_ids=[3, 8], prompt=prompt, axis=axis, overlapping=False
    )


def box_in(units, affine, low, high):
    """The prompt of a box of voxels."""
    corners = np.array([[*low, 1], [*high, 1]], float)
    if units != "voxel":
        corners = corners @ affine.T
    if units == "mm-lps":
        corners[:, :2] *= -1
    return Prompt(label="liver", units=units, box=corners[::-1, :3].tolist())


@pytest.mark.parametrize("units", ["voxel", "mm-ras", "mm-lps"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SPL", "AIR"])
def test_a_3d_box_lands_on_its_slices(units, axis, codes):
    volume = np.zeros(SHAPE, bool)
    volume[3:9, 2:8, 4:7] = True
    affine = affine_of(codes, (1.5, 0.8, 3.0))
    own = from_ras(volume, affine)
    low, high = (np.argwhere(own).min(axis=0), np.argwhere(own).max(axis=0))
    placed = prompts_on_slices([box_in(units, affine, low, high)], record_of(axis=axis), own.shape, affine)
    slices = volume_to_slices(volume, axis)
    assert sorted(placed) == np.flatnonzero(slices.any(axis=(1, 2))).tolist()
    for index, on_slice in placed.items():
        np.testing.assert_allclose(on_slice[1].box, tight_box(slices[index]), atol=1e-4)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_point_lands_on_its_voxel(codes):
    affine = affine_of(codes, (1.5, 0.8, 3.0))
    marked = np.zeros(SHAPE, int)
    marked[3, 7, 5] = 1
    voxel = np.argwhere(from_ras(marked, affine))[0]
    at = (affine @ (*voxel, 1))[:3] * (-1, -1, 1)
    prompt = Prompt(label=8, units="mm-lps", points=[{"at": at.tolist()}])
    placed = prompts_on_slices([prompt], record_of("points", "coronal"), from_ras(marked, affine).shape, affine)
    ((index, on_slice),) = placed.items()
    ((x, y, inside),) = on_slice[2].points
    assert inside
    drawn = np.zeros_like(volume_to_slices(marked, "coronal"))
    drawn[index, round(y), round(x)] = 1
    np.testing.assert_array_equal(slices_to_volume(drawn, "coronal"), marked)


def test_a_flat_box_is_a_box_on_one_slice():
    prompt = Prompt(label="Right_Kidney", units="voxel", box=[[2, 3, 5], [9, 8, 5]])
    assert list(prompts_on_slices([prompt], record_of(), SHAPE, np.eye(4))) == [5]


def test_a_box_reaching_out_of_the_volume_is_cut():
    prompt = Prompt(label="liver", units="voxel", box=[[2, 3, -4], [9, 8, 1.4]])
    assert sorted(prompts_on_slices([prompt], record_of(), SHAPE, np.eye(4))) == [0, 1]


BOX = {"label": "liver", "units": "voxel", "box": [[1, 1, 1], [5, 5, 5]]}
POINT = {"label": "liver", "units": "voxel", "points": [{"at": [2, 2, 2]}]}


@pytest.mark.parametrize(
    ("prompts", "mode", "words"),
    [
        ([BOX, {**BOX, "label": "lever"}], "box", ["prompts[1]", "no class 'lever'. Did you mean 'liver'"]),
        ([{**BOX, "label": 4}], "box", ["prompts[0]", "no label id 4. Choose from 3 liver, 8 right kidney"]),
        ([BOX, {**BOX, "box": [[1, 1, 5], [4, 4, 8]]}], "box", ["prompts[1]", "another box on the same slice"]),
        ([{**BOX, "box": [[1, 1, 10], [5, 5, 12]]}], "box", ["outside the volume of 16 × 12 × 10 voxels"]),
        ([{**POINT, "points": [{"at": [-1, 2, 3]}]}], "points", ["prompts[0]", "point [-1.0, 2.0, 3.0] lies outside"]),
        ([POINT], "box", ["liver has points on a slice where it has no box"]),
        ([BOX], "points", ["liver has a box, but the run was trained with points"]),
        ([{**POINT, "points": [{"at": [2, 2, 2], "inside": False}]}], "points", ["only points outside it"]),
        ([{**BOX, "label": "x"}, {**BOX, "label": "y"}], "box", ["prompts[0]", "prompts[1]"]),
    ],
)
def test_prompts_that_do_not_fit_are_told_with_their_place(prompts, mode, words):
    with pytest.raises(InputError) as caught:
        prompts_on_slices([Prompt(**prompt) for prompt in prompts], record_of(mode), SHAPE, np.eye(4))
    for word in words:
        assert word in str(caught.value)


def test_a_box_and_points_on_it_go_together():
    prompts = [Prompt(**BOX), Prompt(**{**POINT, "points": [{"at": [2, 3, 4], "inside": False}]})]
    placed = prompts_on_slices(prompts, record_of(), SHAPE, np.eye(4))
    assert placed[4][1] == SlicePrompt(placed[3][1].box, ((13.0, 8.0, False),))


def write(folder, content):
    path = folder / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_file_is_read_for_one_volume_or_several(tmp_path):
    plain = {key: value for key, value in BOX.items() if key != "units"}
    for content, cases in (
        ({"units": "mm-ras", "prompts": [plain]}, ["a"]),
        ({"units": "mm-ras", "cases": {"a": [plain], "b": [plain]}}, ["a", "b"]),
    ):
        found = read_prompts(write(tmp_path, content), cases)
        assert found == {name: [Prompt(**{**BOX, "units": "mm-ras"})] for name in cases}
    mixed = {"units": "mm-ras", "prompts": [plain, BOX]}
    assert [prompt.units for prompt in read_prompts(write(tmp_path, mixed), ["a"])["a"]] == ["mm-ras", "voxel"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["not JSON at line 1"]),
        ({"prompts": [{"label": "liver", "box": BOX["box"]}]}, ["prompts[0].units: state the units"]),
        ({"units": "mm", "prompts": [{"label": "liver", "box": BOX["box"]}]}, ["prompts[0].units", '"mm"']),
        ({"prompts": [BOX, {**BOX, "bocks": 1}]}, ["prompts[1].bocks"]),
        ({"prompts": [{**BOX, "box": [[1, 2, 3], [1, "x", 3]]}]}, ["prompts[0].box[1][1]", '"x"']),
        ({"prompts": [{**BOX, "box": [[1, 2], [1, 2]]}]}, ["prompts[0].box[0][2]"]),
        (
            '{"prompts": [{"label": 1, "units": "voxel", "points": [{"at": [1, 2, NaN]}]}]}',
            ["points[0].at[2]", "finite"],
        ),
        ({"prompts": [{"label": "liver", "units": "voxel"}]}, ["prompts[0]: give a box, or points"]),
        ({"prompts": [{"label": 1.5}, {"box": 3}]}, ["prompts[0]", "prompts[1]"]),
        ({"cases": {"a": [BOX], "z": [BOX]}}, ["there is no input z", "no prompts for b"]),
        ({"prompts": [BOX]}, ["prompts for one volume, but there are 2"]),
        ({}, ['neither or both of "prompts"']),
        ({"prompts": [BOX], "cases": {"a": [BOX]}}, ['neither or both of "prompts"']),
    ],
)
def test_every_fault_of_a_file_is_told_with_its_place(tmp_path, content, words):
    with pytest.raises(InputError) as caught:
        read_prompts(write(tmp_path, content), ["a", "b"])
    assert str(tmp_path / "prompts.json") in str(caught.value)
    for word in words:
        assert word in str(caught.value)


class Plan:
    native, resized = (10, 20), (30, 40)


def test_a_box_of_a_mask_is_that_of_the_enlarged_mask():
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 7:11] = 1
    (prompt,) = prompts_of_masks([mask[None]], "box")[0].values()
    enlarged = mask.repeat(3, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(prompt.resized(Plan)["boxes"], tight_box(enlarged))
    flipped = flip_prompt(prompt.resized(Plan), (-2, -1), Plan)
    np.testing.assert_array_equal(flipped["boxes"], tight_box(enlarged[::-1, ::-1]))


def test_a_point_stays_on_its_pixel_when_resized_and_mirrored():
    prompt = SlicePrompt(points=((7, 2, True), (0, 0, False))).resized(Plan)
    np.testing.assert_allclose(prompt["points"], [[14.5, 7, 1], [0.5, 1, 0]])
    np.testing.assert_allclose(flip_prompt(prompt, (-1,), Plan)["points"], [[24.5, 7, 1], [38.5, 1, 0]])
