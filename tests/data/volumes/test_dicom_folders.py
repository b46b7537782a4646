"""What a folder of DICOM files holds: what is passed over, several series, and stacks of slices that are no volume."""

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.data import get_testdata_file

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.data.volumes import io
from tests.data.dicom_files import BIRTH, HU, OBLIQUE, SPACING, STORED, bare_image, refused, save, series, set_pixels


def test_what_is_no_slice_is_passed_over(tmp_path):
    folder = save(tmp_path / "a", series())
    colour, report, screen = bare_image("OT"), bare_image("SR"), bare_image("OT", SeriesNumber=99)
    set_pixels(colour, STORED[0])
    colour.SamplesPerPixel, colour.PhotometricInterpretation = 3, "RGB"
    set_pixels(screen, STORED[0])  # no position in the patient
    save(folder, [colour, report, screen], prefix="ZZ")
    (folder / "DICOMDIR").write_bytes(Path(get_testdata_file("DICOMDIR", download=False)).read_bytes())
    (folder / "notes.txt").write_text("no DICOM at all")
    (folder / ".hidden").write_bytes(b"\0" * 128 + b"DICM" + b"x" * 100)
    np.testing.assert_array_equal(io.read_volume(folder)[0], HU)


def test_a_scout_is_passed_over_and_the_same_file_twice_counts_once(tmp_path):
    slices = series()
    folder = save(tmp_path / "a", slices)
    save(folder, slices[2:4], prefix="COPY")
    save(folder, series(STORED[:1], number=1, orientation=OBLIQUE), prefix="SCOUT")
    localizer = series(number=2, orientation=OBLIQUE)
    for item in localizer:
        item.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(folder, localizer, prefix="LOC")
    np.testing.assert_array_equal(io.read_volume(folder)[0], HU)


def test_two_series_are_listed_by_number_and_one_may_be_chosen(tmp_path):
    folder = save(tmp_path / "a", series(number=3))
    save(folder, series(STORED[:4] + 1, number=7, modality="MR"), prefix="B")
    refused(folder, r"holds 2 series: series 3 \(CT, 6 slices\), series 7 \(MR, 4 slices\). choose one with --series")
    refused(folder, r"no series 5, but series 3 .*Choose", series=5)
    np.testing.assert_array_equal(io.read_volume(folder, series=3)[0], HU)
    assert io.read_header(folder, series=7).shape == (4, 5, 4)
    save(folder, series(number=3), prefix="C")
    refused(folder, r"holds 2 series: series 3 .*, series 3 .*Put each", series=3)


def test_a_series_is_chosen_by_its_number_uid_or_description(tmp_path):
    slices = series(STORED[:4], number=7, SeriesDescription="T2 axial ")
    folder = save(tmp_path / "a", series(number=3, SeriesDescription="7"))
    save(folder, slices, prefix="B")
    for name in (7, "7", " t2 AXIAL", slices[0].SeriesInstanceUID):
        assert io.read_header(folder, series=name).shape == (4, 5, 4)
    refused(folder, "has no series T2, but series 3", series="T2")
    refused(folder, "has no series , but series 3", series="")


def test_a_folder_of_patients_gives_their_folders_and_a_series_gives_itself(tmp_path):
    for name in ("b", "a"):
        save(tmp_path / name, series(STORED[:3]))
    (tmp_path / "empty").mkdir()
    nib.save(nib.Nifti1Image(STORED, np.eye(4)), tmp_path / "c.nii.gz")
    assert io.volume_files(tmp_path) == [tmp_path / "a", tmp_path / "b", tmp_path / "c.nii.gz"]
    assert io.volume_files(tmp_path / "a") == [tmp_path / "a"]
    assert io.volume_files(tmp_path / "empty") == []
    (tmp_path / "x.dcm").write_bytes(b"x")
    with pytest.raises(InputError, match=r"this folder has no DICOM files. Give the file"):
        io.read_header(tmp_path / "empty")
    with pytest.raises(InputError, match="Give the folder of the DICOM series"):
        io.read_header(tmp_path / "x.dcm")


def test_a_folders_hash_depends_on_content_and_not_on_names(tmp_path):
    slices = series()
    one, two = save(tmp_path / "one", slices), save(tmp_path / "two", slices, shuffled=False)
    assert file_sha256(one) == file_sha256(two)
    slices[2].RescaleIntercept = 0
    assert file_sha256(save(two, slices, shuffled=False)) != file_sha256(one)


# --------------------------------------------------------------------------------------- stacks that are no volume


def moved(slices, index, offset):
    slices[index].ImagePositionPatient = [
        f"{value + shift:.10g}" for value, shift in zip(slices[index].ImagePositionPatient, offset, strict=True)
    ]


def tilted():
    slices = series()
    for index in range(len(slices)):
        moved(slices, index, (0, 0.5 * index, 0))
    return slices


def uneven():
    slices = series()
    for index in range(6):
        moved(slices, index, (0, 0, 0.06 * index**2))
    return slices


def with_elements(index=2, **elements):
    slices = series()
    for name, value in elements.items():
        setattr(slices[index], name, value)
    return slices


def without(*names, modality="CT"):
    slices = series(modality=modality)
    for item in slices:
        for name in names:
            delattr(item, name)
    return slices


def repeated():
    slices = series()
    moved(slices, 4, (0, 0, -SPACING[2]))
    return [*slices[:5]]


def smaller():
    slices = series()
    set_pixels(slices[1], STORED[1, :4])
    return slices


def every(**elements):
    slices = series()
    for item in slices:
        for name, value in elements.items():
            setattr(item, name, value)
    return slices


def drop(*indices):
    return [item for index, item in enumerate(series()) if index not in indices]


def phases():
    slices, others = series(), series()
    for item in others:
        item.SeriesInstanceUID = slices[0].SeriesInstanceUID
    return [*slices, *others]


def aside():
    slices = series()
    moved(slices, 3, (3, 0, 0))
    return slices


BAD_STACKS = {
    "a missing slice": (lambda: drop(2), "misses 1 slice between 102.5 and 107.5 mm.*Export"),
    "two missing slices": (lambda: drop(2, 3), "misses 2 slices between 102.5 and 110 mm"),
    "two gaps": (lambda: drop(1, 3), "misses 1 slice between 100 and 105 mm, and 1 more gap"),
    "a repeated slice": (repeated, "several slices at 107.5 mm.*Put each volume"),
    "two phases": (phases, "several slices at 100 mm and at 5 more places.*phases"),
    "a tilt": (tilted, r"tilted stack.*2.5 mm, 11° .*dcm2niix"),
    "a slice aside": (aside, "tilted stack.*3 mm"),
    "uneven distances": (uneven, "uneven distances, from 2.56 to 3.04 mm.*Resample"),
    "another orientation": (lambda: with_elements(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "orientations.*90°"),
    "another spacing": (lambda: with_elements(PixelSpacing=[0.7, 0.8]), "pixel spacings from 0.7 to 0.9 mm.*Put each"),
    "another size": (smaller, "slices of 4 × 4 and 4 × 5 pixels.*Put each"),
    "skewed axes": (lambda: every(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), "orientation that no slice"),
    "no thickness": (lambda: without("SliceThickness")[:1], "single slice of unknown thickness"),
    "no positions": (lambda: without("ImagePositionPatient"), "no slice with a position.*Give the folder"),
    "zero spacing": (lambda: with_elements(PixelSpacing=[0, 1]), "damaged DICOM file, number .*Copy"),
    "NaN position": (
        lambda: with_elements(ImagePositionPatient=["nan", "0", "0"]),
        "damaged DICOM file, number .*Copy",
    ),
    "zero slope": (lambda: with_elements(RescaleSlope=0), "series 3 has a RescaleSlope of 0.*Export"),
    "a claim of more": (lambda: with_elements(Rows=60000, Columns=60000), "claims 7,200,000,000 bytes"),
}


@pytest.mark.parametrize("case", BAD_STACKS)
def test_a_stack_that_is_no_volume_is_told_with_its_place_and_the_mend(tmp_path, case):
    make, sentence = BAD_STACKS[case]
    refused(save(tmp_path / "a", make()), sentence)


def test_truncated_pixels_are_told(tmp_path):
    folder = save(tmp_path / "a", series(np.zeros((3, 64, 64), np.int16)))
    file = sorted(folder.iterdir())[1]
    file.write_bytes(file.read_bytes()[:-4000])
    refused(folder, "damaged DICOM file, number 2 of its files.*claims 8,192 bytes.*Copy")
    padded = save(tmp_path / "b", series(np.zeros((3, 64, 64), np.int16), ImageComments="x" * 5000))
    file = sorted(padded.iterdir())[1]
    file.write_bytes(file.read_bytes()[:-4000])
    refused(padded, r"slice at \(.*\) mm: its pixels are damaged or truncated", io.read_volume)


def test_damage_anywhere_ends_in_a_sentence_or_in_a_volume(tmp_path, caplog, capfd):
    folder = save(tmp_path / "a", series(STORED[:3]))
    file = sorted(folder.iterdir())[0]
    content, random = file.read_bytes(), np.random.default_rng(0)
    outcomes = []
    with caplog.at_level(logging.DEBUG):
        for _ in range(150):
            damaged = bytearray(content)
            for place in random.integers(132, len(content) - 120, 3):
                damaged[place] = random.integers(256)
            file.write_bytes(damaged)
            try:
                io.read_volume(folder)
                outcomes.append("")
            except InputError as error:
                outcomes.append(str(error))
    assert outcomes.count("") not in (0, 150)
    shown = "".join(outcomes) + caplog.text + "".join(capfd.readouterr())
    assert not [word for word in ("Doe", "4711", BIRTH) if word in shown]
