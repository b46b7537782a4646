"""Names and numbers in messages."""

import pytest

from medsam_adapt.core.text import counted, did_you_mean


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ["case"], "0 cases"),
        (1, ["case"], "1 case"),
        (2, ["case"], "2 cases"),
        (1, ["class"], "1 class"),
        (3, ["class"], "3 classes"),
        (4, ["GPU process"], "4 GPU processes"),
        (1, ["point or open line", "points or open lines"], "1 point or open line"),
        (2, ["point or open line", "points or open lines"], "2 points or open lines"),
        (12345, ["slice"], "12,345 slices"),
    ],
)
def test_a_noun_has_the_number_before_it(count, words, text):
    assert counted(count, *words) == text


def test_the_nearest_name_is_asked_for_in_a_sentence():
    assert did_you_mean("livr", ["spleen", "liver"]) == " Did you mean 'liver'?"
    assert did_you_mean("brain", ["spleen", "liver"]) == ""
