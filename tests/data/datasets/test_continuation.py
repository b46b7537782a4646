import re
from dataclasses import replace
from pathlib import Path

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.continuation import fit_classes
from medsam_adapt.data.volumes.case import CaseList
from medsam_adapt.data.volumes.label_coding import LabelCoding

OF_RUN = {1: "liver", 3: "left kidney"}


def cases(classes):
    return CaseList("folder", Path("data"), (), classes)


def fitted(classes, wanted=None):
    return fit_classes(cases(classes), OF_RUN, "runs/a", wanted=wanted)


def test_the_label_map_of_the_run_is_taken():
    assert fitted({1: "Liver"}).classes == OF_RUN  # it lacks the kidney
    assert fitted({}).classes == OF_RUN  # it has no names
    assert fitted({1: "liver", 3: "left_kidney"}).unused == {}


def test_other_classes_are_left_out_only_when_asked():
    with pytest.raises(InputError, match=r"data: spleen is its label 2, and runs/a has only 1 liver, 3 left kidney. L"):
        fitted({1: "liver", 2: "spleen"})
    assert fitted({1: "liver", 2: "spleen"}, ["left kidney", "LIVER"]).unused == {2: "spleen"}


@pytest.mark.parametrize(
    ("classes", "wanted", "words"),
    [
        (
            {3: "liver"},
            None,
            "data: liver is its label 3, and in runs/a it is 1. Renumber it with 'medsam-adapt data convert",
        ),
        ({3: "spleen"}, ["liver", "left kidney"], "data: spleen is its label 3, and runs/a has only"),
        (
            {1: "liver"},
            ["liver"],
            "training from runs/a keeps its classes, 1 liver, 3 left kidney. Leave out --classes",
        ),
    ],
)
def test_classes_that_do_not_fit_are_told(classes, wanted, words):
    with pytest.raises(InputError, match=re.escape(words)):
        fitted(classes, wanted)


def test_overlap_must_be_the_same():
    overlapping = replace(cases({1: "liver"}), coding=LabelCoding(overlapping=True))
    with pytest.raises(InputError, match=r"data: its classes may overlap, and those of runs/a exclude each other"):
        fit_classes(overlapping, OF_RUN, "runs/a")
    assert fit_classes(overlapping, OF_RUN, "runs/a", overlapping=True).classes == OF_RUN
