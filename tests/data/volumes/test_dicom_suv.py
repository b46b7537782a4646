"""SUV by body weight against a second computation from the numbers that were put into the headers."""

import numpy as np
import pytest
from pydicom import Dataset

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes import io
from tests.data import dicom_files
from tests.slicing import training_data

STORED = np.random.default_rng(1).integers(0, 4000, (4, 5, 6)).astype(np.int16)
SLOPE = 2.5
BQML = STORED.transpose(2, 1, 0).astype(np.float64) * SLOPE
DOSE, HALF_LIFE, WEIGHT = 3.5e8, 6586.2, 72.0


def drug(**changes):
    item = Dataset()
    values = {
        "RadionuclideTotalDose": DOSE,
        "RadionuclideHalfLife": HALF_LIFE,
        "RadiopharmaceuticalStartTime": "091500.00",
        **changes,
    }
    for name, value in values.items():
        if value is not None:
            setattr(item, name, value)
    return [item]


def pet(folder, drug_changes=None, **changes):
    values = {
        "RescaleSlope": SLOPE,
        "RescaleIntercept": 0,
        "Units": "BQML",
        "DecayCorrection": "START",
        "PatientWeight": WEIGHT,
        "SeriesDate": "20260102",
        "SeriesTime": "101500",
        "AcquisitionDate": "20260102",
        "AcquisitionTime": "101530",
        "RadiopharmaceuticalInformationSequence": drug(**(drug_changes or {})),
        **changes,
    }
    present = {name: value for name, value in values.items() if value is not None}
    dicom_files.save(folder, dicom_files.series(STORED, modality="PT", **present))
    return folder


def suv(folder):
    return io.read_volume(folder, suv=(True,))[0]


def expected_suv(seconds, weight=WEIGHT):
    return BQML / (DOSE * 0.5 ** (seconds / HALF_LIFE) / (weight * 1000))


@pytest.mark.parametrize(
    ("drug_changes", "changes", "seconds"),
    [
        ({}, {}, 3600),
        ({}, {"DecayCorrection": "ADMIN"}, 0),
        ({"RadiopharmaceuticalStartDateTime": "20260102091500.000000"}, {}, 3600),
        ({"RadiopharmaceuticalStartDateTime": "20260102091500+0100"}, {}, 3600),
        # injected before midnight, with a time of day alone and with a date
        ({"RadiopharmaceuticalStartTime": "233000"}, {"SeriesTime": "003000", "AcquisitionTime": "003100"}, 3600),
        # processed again later: the series is newer than its acquisition
        ({}, {"SeriesTime": "150000", "AcquisitionTime": "101500"}, 3600),
        ({"RadiopharmaceuticalStartTime": "091500.5"}, {}, 3599.5),
    ],
)
def test_suv_is_activity_over_the_decayed_dose_by_weight(tmp_path, drug_changes, changes, seconds):
    np.testing.assert_allclose(suv(pet(tmp_path, drug_changes, **changes)), expected_suv(seconds), rtol=1e-5)


def test_what_is_suv_already_stays_and_other_readers_get_what_is_stored(tmp_path):
    np.testing.assert_allclose(suv(pet(tmp_path / "gml", Units="GML", PatientWeight=None)), BQML, rtol=1e-6)
    np.testing.assert_allclose(io.read_volume(pet(tmp_path / "bqml"))[0], BQML, rtol=1e-6)


@pytest.mark.parametrize(("element", "value"), [(0x00, 0.002), (0x09, 3.0)])
def test_counts_of_philips_have_their_factor_in_private_attributes(tmp_path, element, value):
    datasets = dicom_files.series(
        STORED,
        modality="PT",
        RescaleSlope=SLOPE,
        RescaleIntercept=0,
        Units="CNTS",
        PatientWeight=WEIGHT,
        DecayCorrection="ADMIN",
        RadiopharmaceuticalInformationSequence=drug(),
    )
    for dataset in datasets:
        block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(element, "DS", str(value))
    dicom_files.save(tmp_path, datasets)
    expected = BQML * value if element == 0 else BQML * value / (DOSE / (WEIGHT * 1000))
    np.testing.assert_allclose(suv(tmp_path), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("drug_changes", "changes", "words"),
    [
        ({}, {"PatientWeight": None}, "it has no PatientWeight above 0"),
        ({}, {"PatientWeight": 0}, "it has no PatientWeight above 0"),
        ({"RadionuclideTotalDose": None}, {}, "it has no RadionuclideTotalDose above 0"),
        ({"RadionuclideTotalDose": 350}, {}, "its RadionuclideTotalDose of 350 Bq is no injected dose"),
        ({"RadionuclideHalfLife": None}, {}, "it has no RadionuclideHalfLife above 0"),
        ({"RadiopharmaceuticalStartTime": None}, {}, "it has no RadiopharmaceuticalStartTime"),
        ({}, {"DecayCorrection": "NONE"}, "its DecayCorrection is NONE"),
        ({}, {"DecayCorrection": None}, "its DecayCorrection is not stated"),
        ({}, {"Units": "CNTS"}, "its units are CNTS (counts) without the private factors"),
        ({}, {"Units": "PROPCPS"}, "its units are PROPCPS, and BQML"),
        ({}, {"Units": "GML", "SUVType": "LBM"}, "SUV of the type LBM"),
        ({}, {"RadiopharmaceuticalInformationSequence": None}, "it has no RadiopharmaceuticalInformationSequence"),
        ({"RadiopharmaceuticalStartDateTime": "20250102091500"}, {}, "more than 30 days"),
        ({}, {"SeriesTime": None, "AcquisitionTime": None}, "it has no SeriesDate and SeriesTime"),
    ],
)
def test_what_is_missing_is_named_in_one_sentence_without_the_patient(tmp_path, drug_changes, changes, words):
    with pytest.raises(InputError) as error:
        suv(pet(tmp_path, drug_changes, **changes))
    text = str(error.value)
    assert words in text
    assert text.startswith(f"{tmp_path}: the SUV of series 3 cannot be computed")
    assert text.endswith("or use --set intensity=percentile.")
    assert not any(secret in text for secret in (dicom_files.SECRET, dicom_files.IDENTIFIER))


def test_training_on_pet_takes_suv_and_names_what_is_missing_first(tmp_path):
    for number in range(3):
        folder = pet(tmp_path / f"data/case_{number}")
        label = np.zeros(BQML.shape, np.uint8)
        label[2:4, 1:4, 1:3] = 1
        io.write_label(tmp_path / f"data/case_{number}/label.nii.gz", label, folder)
    data = training_data(tmp_path / "data", image_size=32, cache_dir=tmp_path / "cache")
    assert (data.policy.low, data.policy.high, data.policy.unit) == (0, 10, "SUV")
    assert "0 to 10 SUV become black to white, since the headers state PT" in data.policy_reason
    stored = data.store()[data.split.train[0]]
    expected = np.clip(expected_suv(3600) / 10, 0, 1) * 255
    assert abs(float(stored.grey(1).max()) - expected[..., 1].max()) <= 1
    for path in (tmp_path / "data/case_1").iterdir():
        path.unlink() if path.suffix != ".gz" else None
    pet(tmp_path / "data/case_1", PatientWeight=None)
    with pytest.raises(InputError, match="it has no PatientWeight above 0"):
        training_data(tmp_path / "data", image_size=32, cache_dir=tmp_path / "cache")
