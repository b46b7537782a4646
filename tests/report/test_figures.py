import pytest

from medsam_adapt.report.figures import heading


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["worst", "median", "best"], "Worst, median and best case"),
        (["worst", "best"], "Worst and best case"),
        (["only"], "Only case"),
        ([], "Pictures"),
    ],
)
def test_the_heading_names_the_cases_that_are_shown(roles, expected):
    assert heading(roles) == expected
