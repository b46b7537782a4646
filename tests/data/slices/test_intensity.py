import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.intensity_rules import NAMES
from medsam_adapt.data.slices.intensity import CT_WINDOWS, IntensityPolicy, choose_policy, describe_choice, looks_like

CT = np.linspace(-1000, 1000, 1000, dtype=np.float32).reshape(10, 10, 10)
MR = np.linspace(0, 1500, 1000, dtype=np.float32).reshape(10, 10, 10)
ABDOMEN = IntensityPolicy(kind="window", low=-160, high=240, modality="CT")
PERCENTILE = IntensityPolicy(kind="percentile")


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_a_window_becomes_0_to_255(dtype):
    hu = np.array([-1024, -160, -159, 40, 240, 3071], dtype)
    before = hu.copy()
    grey = ABDOMEN.apply(hu)
    np.testing.assert_allclose(grey, [0, 0, 255 / 400, 127.5, 255, 255], atol=1e-4)
    assert grey.dtype == np.float32
    np.testing.assert_array_equal(hu, before)


def test_percentiles_are_of_the_voxels_that_are_not_zero():
    volume = np.concatenate([np.zeros(5000), np.arange(1, 1002)])
    grey = PERCENTILE.apply(volume)
    low, high = 6, 996  # 0.5 % and 99.5 % of 1..1001
    np.testing.assert_allclose(grey[5000:], np.clip((np.arange(1, 1002) - low) / (high - low), 0, 1) * 255, atol=1e-3)
    assert not grey[:5000].any()


@pytest.mark.parametrize("value", [0, 7, -3])
def test_a_volume_of_one_value_stays_finite(value):
    grey = PERCENTILE.apply(np.full((2, 2, 2), value, np.float32))
    assert np.isfinite(grey).all()
    assert 0 <= grey.min() <= grey.max() <= 255


@pytest.mark.parametrize("policy", [ABDOMEN, PERCENTILE])
def test_a_policy_goes_through_a_file_unchanged(policy):
    again = IntensityPolicy.model_validate_json(policy.model_dump_json())
    np.testing.assert_array_equal(again.apply(CT), policy.apply(CT))


@pytest.mark.parametrize("fault", [{"low": 5}, {"low": 5, "high": 5}, {"low": 1, "high": 2, "gamma": 1}])
def test_an_impossible_window_is_refused(fault):
    with pytest.raises(ValidationError):
        IntensityPolicy(kind="window", **fault)


def test_auto_is_the_abdomen_window_for_ct_and_percentiles_for_the_rest():
    assert choose_policy("auto", [CT, CT]) == ABDOMEN
    assert choose_policy("auto", [MR]) == PERCENTILE


@pytest.mark.parametrize("name", NAMES)
def test_each_name_gives_a_policy_that_remembers_the_modality(name):
    policy = choose_policy(name, [CT])
    assert policy.modality == "CT"
    if name in CT_WINDOWS:
        assert (policy.low, policy.high) == CT_WINDOWS[name]


def test_mixed_modalities_are_refused_unless_a_policy_is_named():
    with pytest.raises(InputError, match=r"some training volumes are CT.*--set intensity=percentile"):
        choose_policy("auto", [CT, MR])
    assert choose_policy("percentile", [CT, MR]).kind == "percentile"


def test_the_modality_in_the_headers_decides_where_there_is_one():
    phase = np.linspace(-4096, 4095, 1000)
    assert looks_like(phase) == "CT"
    assert choose_policy("auto", [], ["MR", "MR"]) == PERCENTILE
    assert choose_policy("auto", [], ["CT"]) == ABDOMEN
    assert choose_policy("auto", [MR], ["PT", None]) == PERCENTILE
    assert choose_policy("auto", [], ["ADC"]) == IntensityPolicy(kind="window", low=0, high=3000)
    assert choose_policy("auto", [], ["PT"]) == IntensityPolicy(kind="window", low=0, high=10, unit="SUV")
    with pytest.raises(InputError, match="the headers state CT, MR"):
        choose_policy("auto", [], ["CT", "MR", None])
    with pytest.raises(InputError, match="others are not"):
        choose_policy("auto", [phase], ["MR", None])
    assert PERCENTILE.warning_for(phase, "MR") is None
    assert "its header states CT, while" in PERCENTILE.warning_for(MR, "CT")


@pytest.mark.parametrize(
    ("policy", "name", "stated", "words"),
    [
        (ABDOMEN, "auto", ["CT"], ["-160 to 240 HU become black to white", "since the headers state CT"]),
        (ABDOMEN, "auto", [None], ["the voxels look like a CT"]),
        (PERCENTILE, "auto", ["MR", None], ["percentiles 0.5 to 99.5 of each volume", "the headers state MR"]),
        (PERCENTILE, "auto", [None], ["do not look like a CT"]),
        (PERCENTILE, "percentile", ["CT"], ["intensity is 'percentile'"]),
    ],
)
def test_the_choice_and_its_reason_are_a_sentence(policy, name, stated, words):
    sentence = describe_choice(policy, name, stated)
    assert all(word in sentence for word in words)


def test_a_little_below_air_is_no_ct():
    volume = np.full(1000, 50.0)
    volume[:9] = -500
    assert looks_like(volume) == "other"
    volume[:10] = -500
    assert looks_like(volume) == "CT"


def test_an_mr_of_large_numbers_with_negative_ones_is_no_ct():
    brain = np.linspace(-2e5, 1e6, 1000)
    assert looks_like(brain) == looks_like(-32768 + brain / 1e5) == "other"  # the second: 16 bits that overflowed
    assert choose_policy("auto", [brain]) == PERCENTILE
    metal = np.concatenate([CT.ravel(), np.full(9, 30000)])
    padded = np.concatenate([CT.ravel(), np.full(1000, -32768)])
    assert looks_like(metal) == looks_like(padded) == "CT"


def test_a_ct_cut_out_of_the_body_goes_with_others():
    cropped = np.linspace(-120, 300, 1000)
    assert looks_like(cropped) == "other"
    assert choose_policy("auto", [CT, cropped]) == choose_policy("auto", [cropped], ["CT", None]) == ABDOMEN
    assert choose_policy("auto", [cropped]) == PERCENTILE  # nothing shows what it is
    assert ABDOMEN.warning_for(cropped) is None


def test_another_modality_than_in_training_is_warned_about():
    assert ABDOMEN.warning_for(CT) is None
    assert PERCENTILE.warning_for(MR) is None
    assert "looks like no CT" in ABDOMEN.warning_for(MR)
    assert "looks like a CT in Hounsfield units, while" in PERCENTILE.warning_for(CT)


COLOURS = choose_policy("ct-windows:abdomen,lung,bone", [CT])
PAIR = IntensityPolicy(kind="channels", channels=(ABDOMEN, PERCENTILE))


def test_three_windows_are_the_three_colours():
    grey = COLOURS.apply(CT)
    assert grey.shape == (*CT.shape, 3)
    for index, name in enumerate(("ct-abdomen", "ct-lung", "ct-bone")):
        np.testing.assert_array_equal(grey[..., index], choose_policy(name, [CT]).apply(CT))


def test_each_image_of_a_case_has_its_rule_and_two_have_their_mean_beside_them():
    volume = np.stack([CT, MR], axis=-1)
    grey = PAIR.apply(volume)
    np.testing.assert_array_equal(grey[..., 0], ABDOMEN.apply(CT))
    np.testing.assert_array_equal(grey[..., 1], PERCENTILE.apply(MR))
    np.testing.assert_allclose(grey[..., 2], grey[..., :2].mean(axis=-1), atol=1e-4)
    four = IntensityPolicy(kind="channels", channels=(ABDOMEN, PERCENTILE, PERCENTILE, ABDOMEN))
    assert four.apply(np.stack([CT, MR, MR, CT], axis=-1)).shape == (*CT.shape, 4)


def test_an_image_that_is_missing_is_black():
    volume = np.stack([np.full_like(CT, np.nan), MR], axis=-1)
    grey = PAIR.apply(volume)
    assert not grey[..., 0].any()
    np.testing.assert_allclose(grey[..., 2], PERCENTILE.apply(MR) / 2, atol=1e-4)


@pytest.mark.parametrize(
    ("policy", "volume"),
    [(ABDOMEN, CT), (COLOURS, CT), (PAIR, np.stack([CT, MR], axis=-1)), (PAIR, np.stack([CT, MR * np.nan], axis=-1))],
    ids=["window", "colours", "two images", "one of two"],
)
def test_levels_of_a_tensor_are_those_of_the_array(policy, volume):
    levels = policy.window_of(volume).levels(torch.from_numpy(volume.astype(np.float32)))
    np.testing.assert_allclose(levels.numpy(), policy.apply(volume), atol=1e-3)
    assert IntensityPolicy.model_validate_json(policy.model_dump_json()) == policy


def test_a_volume_of_another_number_of_images_is_refused():
    with pytest.raises(InputError, match="the volume has 1 image per voxel and the run takes 2 together"):
        PAIR.apply(CT)
    with pytest.raises(InputError, match="has 3 images per voxel"):
        PAIR.apply(np.stack([CT, CT, CT], axis=-1))


def test_other_percentiles_and_a_free_window():
    policy = choose_policy("percentile:10:90", [MR])
    np.testing.assert_allclose(
        (policy.window_of(MR).low, policy.window_of(MR).high), np.percentile(MR[MR != 0], (10, 90))
    )
    free = choose_policy("-100:300", [CT])
    assert (free.kind, free.low, free.high, free.modality) == ("window", -100, 300, "CT")
    assert free.describe() == "-100 to 300 HU become black to white"
    assert choose_policy("pet:0:20", [MR]).describe() == "0 to 20 SUV become black to white"
    assert COLOURS.describe() == "-160 to 240, -1350 to 150 and -450 to 1050 HU become the three colours"


def test_activities_are_no_suv():
    pet = choose_policy("pet", [MR])
    assert "is no SUV" in pet.warning_for(MR * 100)
    assert pet.warning_for(MR / 100) is None
