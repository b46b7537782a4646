import math

import numpy as np
import pytest
from matplotlib.image import imread

from medsam_adapt.evaluation.pictures import CaseView, save_pictures

NAMES = ["liver", "spleen"]
LABEL = np.zeros((20, 16, 6), np.uint8)
LABEL[3:12, 4:10, 2:5] = 1
LABEL[13:17, 4:10, 3] = 2
IMAGE = np.linspace(0, 255, LABEL.size, dtype=np.float32).reshape(LABEL.shape)


def view_of(prediction=LABEL):
    return CaseView.of(IMAGE, prediction, LABEL, (1.0, 2.0, 5.0))


def saved(folder, means, names=NAMES, view=None):
    cases = {case: {name: {"dsc": mean, "iou": mean} for name in names} for case, mean in means.items()}
    return save_pictures(folder, cases, dict.fromkeys(cases, view or view_of()), names)


def test_the_view_is_the_axial_slice_with_most_of_the_reference():
    view = view_of(np.zeros_like(LABEL))
    np.testing.assert_array_equal(view.reference, LABEL[::-1, ::-1, 3].T)  # right on the left, anterior on top
    np.testing.assert_array_equal(view.image, IMAGE[::-1, ::-1, 3].T)
    assert not view.prediction.any()
    assert view.aspect == 2
    without_reference = CaseView.of(IMAGE, LABEL, np.zeros_like(LABEL), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(without_reference.prediction, LABEL[::-1, ::-1, 3].T)


@pytest.mark.parametrize(
    ("means", "pictures"),
    [
        ({"a": 0.5}, {"only": "a"}),
        ({"a": 0.5, "b": 0.4}, {"best": "a", "worst": "b"}),
        ({"a": 0.5, "b": 0.4, "c": 0.6}, {"best": "c", "median": "a", "worst": "b"}),
        ({"a": 0.5, "b": 0.4, "c": 0.6, "d": 0.1, "e": 0.9}, {"best": "e", "median": "a", "worst": "d"}),
        ({"a": 0.5, "b": math.nan, "c": 0.6}, {"best": "c", "worst": "a"}),
        ({"a": math.nan}, {}),
    ],
)
def test_the_best_the_median_and_the_worst_case_are_drawn(tmp_path, monkeypatch, means, pictures):
    drawn = {}
    monkeypatch.setattr(
        "medsam_adapt.evaluation.pictures._draw", lambda view, title, names, path: drawn.update({path.stem: title})
    )
    saved(tmp_path / "pictures", means)
    assert {name: title.split(": ")[1].split(",")[0] for name, title in drawn.items()} == pictures
    assert all(title.startswith(name) for name, title in drawn.items())


def test_pictures_are_png_files_and_replace_those_of_more_cases(tmp_path):
    three = saved(tmp_path, {"a": 0.5, "b": 0.4, "c": 0.6})
    assert sorted(path.name for path in three) == ["best.png", "median.png", "worst.png"]
    pixels = [imread(path) for path in three]
    assert all(picture.shape[0] > 300 and picture.shape[1] > 600 and picture.std() > 0.05 for picture in pixels)
    saved(tmp_path, {"a": 0.5})
    assert [path.name for path in tmp_path.iterdir()] == ["only.png"]
    saved(tmp_path, {"a": 0.5, "b": 0.4})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.png", "worst.png"]


def test_contours_show_the_prediction(tmp_path):
    (empty,) = saved(tmp_path / "empty", {"a": 0.5}, view=view_of(np.zeros_like(LABEL)))
    (full,) = saved(tmp_path / "full", {"a": 0.5})
    coloured = [(np.ptp(imread(path)[..., :3], axis=-1) > 0.2).sum() for path in (empty, full)]
    assert coloured[1] > 1.3 * coloured[0]


def test_a_name_is_never_taken_for_a_formula(tmp_path):
    (path,) = saved(tmp_path, {"a$^$": 0.5}, names=["x_$_$", "spleen"])
    assert imread(path).any()
