"""DICOM series, written with pydicom and compared with SimpleITK's own reader of series."""

import itertools
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import Dataset, uid
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from medsam_adapt.data import io
from medsam_adapt.data.formats import dicom_pixels
from medsam_adapt.errors import InputError
from medsam_adapt.files import file_sha256

from .dicom_files import AXIAL, BIRTH, IDENTIFIER, SECRET, SPACING, STORED, bare_image, save, series, set_pixels

HU = STORED.transpose(2, 1, 0).astype(np.float32) - 1024  # what `series` writes by default, (X, Y, Z)
DIRECTIONS = [
    (*np.eye(3)[row] * a, *np.eye(3)[column] * b)
    for row, column in itertools.permutations(range(3), 2)
    for a, b in itertools.product((1, -1), repeat=2)
]
ANGLE = np.deg2rad(20)
OBLIQUE = (np.cos(ANGLE), np.sin(ANGLE), 0, 0, 0, -1)


def by_simpleitk(folder, target):
    """The folder's series as SimpleITK reads it, by way of a NIfTI."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    sitk.WriteImage(reader.Execute(), str(target))
    return io.read_volume(target)


def refused(folder, sentence, read=io.read_header, **how):
    """The sentence, which names the folder, is one line, and tells nothing of the patient."""
    with pytest.raises(InputError, match=rf"^{folder}.*{sentence}") as told:
        read(folder, **how)
    text = str(told.value)
    assert "\n" not in text
    assert told.value.__cause__ is None  # it might quote values
    assert not [word for word in (SECRET, "Doe", IDENTIFIER, BIRTH, "1.2.826") if word in text.replace(str(folder), "")]


@pytest.mark.parametrize("orientation", [*DIRECTIONS, OBLIQUE])
def test_a_series_is_read_as_simpleitk_reads_it_whatever_its_files_are_called(tmp_path, orientation):
    folder = save(tmp_path / "case 1", series(orientation=orientation))
    voxels, header = io.read_volume(folder)
    expected, copy = by_simpleitk(folder, tmp_path / "copy.nii.gz")
    np.testing.assert_array_equal(voxels, expected)
    np.testing.assert_array_equal(voxels, HU)
    np.testing.assert_allclose(header.affine, copy.affine, atol=1e-5)
    assert (header.path, header.shape, header.orientation) == (folder, (4, 5, 6), copy.orientation)
    np.testing.assert_allclose(header.spacing, (SPACING[1], SPACING[0], SPACING[2]), rtol=1e-6)
    assert io.volume_stem(folder) == "case 1"


def test_a_label_is_written_on_a_series_grid(tmp_path):
    folder = save(tmp_path / "case", series(orientation=OBLIQUE))
    label = (HU > 0).astype(np.uint8)
    io.write_label(tmp_path / "out.nii.gz", label, folder)
    again, header = io.read_label(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(again, label)
    np.testing.assert_allclose(header.affine, io.read_header(folder).affine, atol=1e-5)
    fields = nib.load(tmp_path / "out.nii.gz").header
    assert (int(fields["sform_code"]), int(fields["qform_code"]), fields.get_xyzt_units()[0]) == (1, 1, "mm")


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4"])
def test_signed_and_unsigned_pixels_of_each_width(tmp_path, dtype):
    stored = (STORED % 250).astype(dtype) - (100 if dtype[0] == "i" else 0)
    folder = save(tmp_path / "a", series(stored.astype(dtype), modality="MR", RescaleSlope=2, RescaleIntercept=-7))
    np.testing.assert_array_equal(io.read_volume(folder)[0], stored.transpose(2, 1, 0) * 2.0 - 7)


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path):
    slices = series(modality="PT")
    for index, item in enumerate(slices):
        item.RescaleSlope, item.RescaleIntercept = f"{0.37 * (index + 1):.6g}", index
    folder = save(tmp_path / "a", slices)
    expected = STORED * (0.37 * np.arange(1, 7))[:, None, None] + np.arange(6)[:, None, None]
    voxels, _ = io.read_volume(folder)
    np.testing.assert_allclose(voxels, expected.transpose(2, 1, 0), rtol=1e-6)


def test_unused_high_bits_are_left_out(tmp_path):
    slices = series((STORED % 1000).astype(np.uint16) | 0xF000, BitsStored=12, HighBit=11, RescaleIntercept=0)
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "a", slices))[0], STORED.transpose(2, 1, 0) % 1000)


@pytest.mark.parametrize(("modality", "turned"), [("MR", True), ("CT", False)])
def test_monochrome1_is_turned_round_where_values_measure_nothing(tmp_path, modality, turned):
    slices = series((STORED % 4096).astype(np.uint16), modality=modality, BitsStored=12, HighBit=11)
    for item in slices:
        item.PhotometricInterpretation, item.RescaleIntercept = "MONOCHROME1", 0
    stored = STORED.transpose(2, 1, 0)
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "a", slices))[0], 4095 - stored if turned else stored)


def test_signed_monochrome1_keeps_its_range(tmp_path):
    slices = series(np.full((3, 2, 2), -32768, np.int16), modality="MR", RescaleIntercept=0)
    for item in slices:
        item.PhotometricInterpretation = "MONOCHROME1"
    assert (io.read_volume(save(tmp_path / "a", slices))[0] == 32767).all()


MR = {"small": "MR_small.dcm", "RLE": "MR_small_RLE.dcm", "big endian": "MR_small_bigendian.dcm"}
MR |= {"implicit": "MR_small_implicit.dcm", "JPEG 2000": "MR_small_jp2klossless.dcm"}
MR |= {"JPEG-LS": "MR_small_jpeg_ls_lossless.dcm", "padded": "MR_small_padded.dcm"}


@pytest.mark.parametrize("name", MR)
def test_the_transfer_syntaxes_of_pydicoms_own_files(tmp_path, name):
    files = [get_testdata_file(MR[name], download=False)] * 2
    datasets = [pydicom.dcmread(file) for file in files]
    datasets[1].SOPInstanceUID = uid.generate_uid()
    z = float(datasets[1].ImagePositionPatient[2])
    datasets[1].ImagePositionPatient[2] = z + 0.8
    for index, dataset in enumerate(datasets):
        dataset.save_as(tmp_path / f"{index}")
    voxels, header = io.read_volume(tmp_path)
    expected = pydicom.dcmread(get_testdata_file(MR["small"], download=False)).pixel_array.T
    assert header.shape == (64, 64, 2)
    for index in range(2):
        np.testing.assert_array_equal(voxels[:, :, index], expected)


def test_a_lossy_ct_is_read_as_simpleitk_reads_it(tmp_path):
    for name in ("693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "CT_small.dcm"):
        file = get_testdata_file(name, download=False)
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(Path(file).read_bytes())
        expected = sitk.GetArrayFromImage(sitk.ReadImage(file)).transpose()
        np.testing.assert_array_equal(io.read_volume(tmp_path / name)[0], expected)


def test_lossless_jpeg_which_pydicom_alone_cannot_decode(tmp_path):
    slices = series()
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(tmp_path / "one.dcm"))
    for item, stored in zip(slices, STORED, strict=True):
        writer.Execute(sitk.GetImageFromArray(stored[None]))
        encoded = pydicom.dcmread(tmp_path / "one.dcm")
        item.file_meta.TransferSyntaxUID = encoded.file_meta.TransferSyntaxUID
        item.PixelData = encoded.PixelData
        item["PixelData"].is_undefined_length = True
    assert slices[0].file_meta.TransferSyntaxUID == uid.JPEGLosslessSV1
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "a", slices))[0], HU)


def test_an_unknown_compression_is_named_with_the_mend(tmp_path):
    slices = series()
    for item in slices:
        item.file_meta.TransferSyntaxUID = uid.HTJ2KLossless
        item.PixelData = encapsulate([b"\0" * 400])
        item["PixelData"].is_undefined_length = True
    folder = save(tmp_path / "a", slices)
    refused(folder, "High-Throughput JPEG 2000.*no decoder.*decompress", io.read_volume)


# ------------------------------------------------------------------------------------------------------- multi-frame


def multiframe(stored=STORED, order=(3, 0, 5, 1, 4, 2), slopes=None, compress=False):
    """An enhanced CT whose frames are in the given order."""
    dataset = bare_image("CT", uid.EnhancedCTImageStorage, SeriesNumber=4, NumberOfFrames=len(order))
    dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uid.generate_uid(), uid.generate_uid()
    set_pixels(dataset, stored[list(order)])
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING[:2]), SPACING[2]
    plane.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index in order:
        group, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-30, -40, 100 + SPACING[2] * index]
        values.RescaleSlope, values.RescaleIntercept = (slopes or [1] * 6)[index], -1024
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [position], [values]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    if compress:
        dataset.compress(uid.RLELossless, generate_instance_uid=False)
    return dataset


@pytest.mark.parametrize("compress", [False, True])
def test_an_enhanced_multi_frame_file_is_the_same_volume(tmp_path, compress):
    voxels, header = io.read_volume(save(tmp_path / "many", [multiframe(compress=compress)]))
    _, single = io.read_volume(save(tmp_path / "single", series()))
    np.testing.assert_array_equal(voxels, HU)
    np.testing.assert_allclose(header.affine, single.affine, atol=1e-6)


def test_frames_are_rescaled_each_by_its_own_slope(tmp_path):
    voxels, _ = io.read_volume(save(tmp_path / "a", [multiframe(slopes=[1, 2, 3, 4, 5, 6])]))
    np.testing.assert_array_equal(voxels, STORED.transpose(2, 1, 0) * np.arange(1.0, 7) - 1024)


def test_frames_at_one_place_and_frames_without_groups_are_refused(tmp_path):
    twice = multiframe()
    twice.PerFrameFunctionalGroupsSequence[1] = twice.PerFrameFunctionalGroupsSequence[0]
    refused(save(tmp_path / "twice", [twice]), "several slices at 107.5 mm.*put each volume")
    fewer = multiframe()
    fewer.PerFrameFunctionalGroupsSequence = fewer.PerFrameFunctionalGroupsSequence[:4]
    refused(save(tmp_path / "fewer", [fewer]), "damaged DICOM file, number 1 .*copy")


# -------------------------------------------------------------------------------------------- what is in the folder


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
    refused(folder, r"holds 2 series: series 3 \(CT, 6 slices\), series 7 \(MR, 4 slices\); put each.*series=")
    refused(folder, r"no series 5; it has series 3 .*choose", series=5)
    np.testing.assert_array_equal(io.read_volume(folder, series=3)[0], HU)
    assert io.read_header(folder, series=7).shape == (4, 5, 4)
    save(folder, series(number=3), prefix="C")
    refused(folder, r"holds 2 series: series 3 .*, series 3 .*put each", series=3)


def test_a_folder_of_patients_gives_their_folders_and_a_series_gives_itself(tmp_path):
    for name in ("b", "a"):
        save(tmp_path / name, series(STORED[:3]))
    (tmp_path / "empty").mkdir()
    nib.save(nib.Nifti1Image(STORED, np.eye(4)), tmp_path / "c.nii.gz")
    assert io.volume_files(tmp_path) == [tmp_path / "a", tmp_path / "b", tmp_path / "c.nii.gz"]
    assert io.volume_files(tmp_path / "a") == [tmp_path / "a"]
    assert io.volume_files(tmp_path / "empty") == []
    (tmp_path / "x.dcm").write_bytes(b"x")
    with pytest.raises(InputError, match=r"folder without DICOM files.*give the file"):
        io.read_header(tmp_path / "empty")
    with pytest.raises(InputError, match="is read from its folder"):
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
    "a missing slice": (lambda: drop(2), "misses 1 slice between 102.5 and 107.5 mm.*export"),
    "two missing slices": (lambda: drop(2, 3), "misses 2 slices between 102.5 and 110 mm"),
    "two gaps": (lambda: drop(1, 3), "misses 1 slice between 100 and 105 mm, and 1 more gap"),
    "a repeated slice": (repeated, "several slices at 107.5 mm.*put each volume"),
    "two phases": (phases, "several slices at 100 mm and at 5 more places.*phases"),
    "a tilt": (tilted, r"tilted stack.*2.5 mm, 11° .*dcm2niix"),
    "a slice aside": (aside, "tilted stack.*3 mm"),
    "uneven distances": (uneven, "uneven distances, from 2.56 to 3.04 mm.*resample"),
    "another orientation": (lambda: with_elements(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "orientations.*90°"),
    "another spacing": (lambda: with_elements(PixelSpacing=[0.7, 0.8]), "pixel spacings from 0.7 to 0.9 mm.*put each"),
    "another size": (smaller, "slices of 4 × 4 and 4 × 5 pixels.*put each"),
    "skewed axes": (lambda: every(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), "orientation that no slice"),
    "no thickness": (lambda: without("SliceThickness")[:1], "single slice of unknown thickness"),
    "no positions": (lambda: without("ImagePositionPatient"), "no slice with a position.*give the folder"),
    "zero spacing": (lambda: with_elements(PixelSpacing=[0, 1]), "damaged DICOM file, number .*copy"),
    "NaN position": (
        lambda: with_elements(ImagePositionPatient=["nan", "0", "0"]),
        "damaged DICOM file, number .*copy",
    ),
    "zero slope": (lambda: with_elements(RescaleSlope=0), "damaged DICOM file, number .*copy"),
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
    refused(folder, "damaged DICOM file, number 2 of its files.*claims 8,192 bytes.*copy")
    padded = save(tmp_path / "b", series(np.zeros((3, 64, 64), np.int16), ImageComments="x" * 5000))
    file = sorted(padded.iterdir())[1]
    file.write_bytes(file.read_bytes()[:-4000])
    refused(padded, r"in the slice at \(.*\) mm, has damaged or truncated pixels", io.read_volume)


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


def test_nothing_of_the_patient_is_in_what_is_shown_of_a_header(tmp_path):
    header = io.read_header(save(tmp_path / "a", series()))
    shown = repr(header) + str(header.slices[0])
    assert not [word for word in (SECRET, IDENTIFIER, BIRTH, header.slices[0].series_uid) if word in shown]


def test_a_frame_goes_to_the_decoder_without_the_patient():
    dataset = pydicom.dcmread(get_testdata_file("MR_small_jp2klossless.dcm", download=False))
    bare = dicom_pixels._bare_file(dataset, b"frame")
    assert not {"PatientName", "PatientID", "StudyInstanceUID", "PatientBirthDate"} & {*bare.dir()}


def test_files_of_the_old_form_without_a_preamble_are_read(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for index, item in enumerate(series()):
        item.file_meta = FileMetaDataset()
        item.save_as(folder / str(index), implicit_vr=True, little_endian=True)
    assert sorted(folder.iterdir())[0].read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(io.read_volume(folder)[0], HU)


def test_a_real_ct_as_a_series_is_the_same_volume(real_data, tmp_path):
    voxels, header = io.read_volume(real_data / "ct_abdomen" / "image.nii.gz")
    assert header.orientation == "RAS"
    turned = np.rint(voxels[::-1, ::-1]).astype(np.int16)  # to the left and the back, as rows do
    last = header.affine @ (header.shape[0] - 1, header.shape[1] - 1, 0, 1)
    spacing = (header.spacing[1], header.spacing[0], header.spacing[2])
    slices = series(turned.transpose(2, 1, 0), spacing=spacing, origin=last[:3] * (-1, -1, 1), RescaleIntercept=0)
    again, copy = io.read_volume(save(tmp_path / "ct", slices))
    np.testing.assert_array_equal(again, turned)
    assert copy.orientation == "LPS"
    np.testing.assert_allclose(io.to_ras(again, copy.affine)[1], header.affine, atol=1e-3)
