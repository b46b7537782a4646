import pytest

from medsam_adapt.core.intensity_rules import CT_WINDOWS, IntensityRule, checked_setting, parse_rule, rule_names


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("auto", IntensityRule("auto")),
        ("-100:300", IntensityRule("window", -100, 300)),
        ("0.5:1e3", IntensityRule("window", 0.5, 1000)),
        ("percentile", IntensityRule("percentile", 0.5, 99.5)),
        ("percentile:1:99", IntensityRule("percentile", 1, 99)),
        ("mr:2:98", IntensityRule("percentile", 2, 98, modality="MR")),
        ("adc", IntensityRule("window", 0, 3000, modality="ADC")),
        ("pet:0:20", IntensityRule("window", 0, 20, modality="PT")),
        ("ct-lung", IntensityRule("window", -1350, 150, modality="CT")),
        (
            "ct-windows:abdomen,ct-lung,bone",
            IntensityRule(
                "windows",
                windows=(CT_WINDOWS["ct-abdomen"], CT_WINDOWS["ct-lung"], CT_WINDOWS["ct-bone"]),
                modality="CT",
            ),
        ),
    ],
)
def test_what_a_setting_writes_is_a_rule(text, rule):
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ct-liver", "there is no rule 'ct-liver'. Did you mean 'ct-lung'?"),
        ("300:-100", "'300:-100' is no range; write LOW:HIGH"),
        ("0:nan", "is no range"),
        ("percentile:1:101", "gives no percentiles"),
        ("pet:5", "is no range"),
        ("1:2:3", "there is no rule '1:2:3'"),
        ("ct-windows:lung,bone", "does not name three CT windows; choose three of abdomen"),
        ("ct-windows:lung,bone,liver", "does not name three CT windows"),
    ],
)
def test_what_is_no_rule_is_refused_in_words(text, words):
    with pytest.raises(ValueError, match=r"rule|range|percentiles|windows") as error:
        parse_rule(text)
    assert words in str(error.value)


def test_rules_of_several_images_are_separated_by_commas_and_windows_are_one_rule():
    assert rule_names("adc, percentile") == ["adc", "percentile"]
    assert rule_names(["adc", "0:5"]) == ["adc", "0:5"]
    assert rule_names("ct-windows:abdomen,lung,bone") == ["ct-windows:abdomen,lung,bone"]
    assert checked_setting("adc,mr") == "adc,mr"
    with pytest.raises(ValueError, match="5 rules are given"):
        checked_setting("mr,mr,mr,mr,mr")
    with pytest.raises(ValueError, match="fills all three colours"):
        checked_setting(["mr", "ct-windows:abdomen,lung,bone"])
