"""DICOM series, written with pydicom and compared with SimpleITK's own reader of series."""

import itertools
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

from medsam_adapt.data.volumes import io
from medsam_adapt.data.volumes.formats import dicom_pixels
from tests.data.dicom_files import (
    AXIAL,
    BIRTH,
    HU,
    IDENTIFIER,
    OBLIQUE,
    SECRET,
    SPACING,
    STORED,
    bare_image,
    refused,
    save,
    series,
    set_pixels,
)

DIRECTIONS = [
    (*np.eye(3)[row] * a, *np.eye(3)[column] * b)
    for row, column in itertools.permutations(range(3), 2)
    for a, b in itertools.product((1, -1), repeat=2)
]


def by_simpleitk(folder, target, series_uid=""):
    """A series of the folder as SimpleITK reads it, by way of a NIfTI."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series_uid))
    sitk.WriteImage(reader.Execute(), str(target))
    return io.read_volume(target)


def assert_as_simpleitk_reads_it(folder, target, series_uid=""):
    voxels, header = io.read_volume(folder, series_uid or None)
    expected, copy = by_simpleitk(folder, target, series_uid)
    np.testing.assert_array_equal(voxels, expected)
    np.testing.assert_allclose(header.affine, copy.affine, atol=1e-4)


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
    assert_as_simpleitk_reads_it(folder, tmp_path / "copy.nii.gz")


def test_pydicoms_own_ct_has_the_voxels_and_the_place_that_simpleitk_gives(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    assert_as_simpleitk_reads_it(tmp_path / "a", tmp_path / "copy.nii.gz")


def test_each_of_two_series_in_one_folder_is_read_as_simpleitk_reads_it(tmp_path):
    both = [series(), series(STORED[:4] * 2, orientation=OBLIQUE, number=7, modality="MR")]
    for prefix, slices in zip("AB", both, strict=True):
        save(tmp_path / "a", slices, prefix=prefix)
    for slices in both:
        assert_as_simpleitk_reads_it(tmp_path / "a", tmp_path / "copy.nii.gz", slices[0].SeriesInstanceUID)


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
    assert_as_simpleitk_reads_it(tmp_path, tmp_path / "copy.nii.gz")


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
