"""What scanners write beside the plain case: several volumes in a series, localizers, padding, other pixel types."""

import numpy as np
import pytest
from pydicom import Dataset, uid

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes import io
from tests.data.dicom_files import AXIAL, HU, OBLIQUE, SPACING, STORED, bare_image, refused, save, series, set_pixels

TOGETHER = ("SeriesInstanceUID", "FrameOfReferenceUID", "StudyInstanceUID", "SeriesNumber")


def joined(*parts):
    """Series as one: the identifiers of the first."""
    for part in parts[1:]:
        for item in part:
            for name in TOGETHER:
                setattr(item, name, getattr(parts[0][0], name))
    return [item for part in parts for item in part]


def one_row(folder):
    """The first voxel column, which shows the order of slices."""
    return io.read_volume(folder)[0][0, 0]


# --------------------------------------------------------------------------------------- several volumes in one series

VALUES = {
    "AcquisitionNumber": (1, 2),
    "EchoTime": (4.6, 9.2),
    "EchoNumbers": (1, 2),
    "TemporalPositionIdentifier": (1, 2),
    "TriggerTime": (0, 450),
    "DiffusionBValue": (0, 1000),
    "InversionTime": (100, 900),
    "ImageType": (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
    "ComplexImageComponent": ("MAGNITUDE", "PHASE"),
    "NominalPercentageOfCardiacPhase": (30, 75),
    "KVP": (80, 140),
    "ConvolutionKernel": ("B30f", "B70f"),
}


@pytest.mark.parametrize("offset", [0, SPACING[2] / 2], ids=["at the same places", "between each other"])
@pytest.mark.parametrize("name", VALUES)
def test_volumes_in_one_series_are_named_by_what_differs_and_one_is_chosen(tmp_path, name, offset):
    first, second = VALUES[name]
    others = series(STORED[:5] + 1, origin=(-30, -40, 100 + offset), **{name: second})
    folder = save(tmp_path / "a", joined(series(**{name: first}), others))
    refused(folder, rf"series 3 holds several volumes, which differ in {name}: .*--series \"3:{name}=")
    shown = second[-1] if isinstance(second, list) else second
    for choice in (f"3:{name}={shown}", f"{name.lower()}={shown}"):
        assert io.read_header(folder, choice).shape == (4, 5, 5)
        np.testing.assert_array_equal(io.read_volume(folder, choice)[0], HU[..., :5] + 1)
    refused(folder, "has no series 3:EchoTime=77", series="3:EchoTime=77")


def test_two_attributes_choose_together(tmp_path):
    parts = [
        series(STORED + index, EchoTime=echo, ImageType=["ORIGINAL", "PRIMARY", kind])
        for index, (echo, kind) in enumerate([(5, "M"), (5, "P"), (10, "M"), (10, "P")])
    ]
    folder = save(tmp_path / "a", joined(*parts))
    np.testing.assert_array_equal(io.read_volume(folder, "EchoTime=10,ImageType=M")[0], HU + 2)
    refused(folder, "differ in ImageType", series="EchoTime=10")


def test_blocks_and_values_that_change_from_slice_to_slice_are_one_volume(tmp_path):
    slices = series()
    for index, item in enumerate(slices):
        item.AcquisitionNumber, item.TriggerTime = 1 + index // 3, 7.5 * index
        item.EchoTime = 4.6 if index < 3 else 4.7
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "a", slices))[0], HU)


def test_odd_and_even_slices_that_do_not_overlap_are_one_volume(tmp_path):
    slices = series()
    for index, item in enumerate(slices):
        item.AcquisitionNumber = 1 + index % 2
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "a", slices))[0], HU)


def test_a_text_that_is_no_number_is_not_shown(tmp_path):
    parts = [series(ImageType=["ORIGINAL", "PRIMARY", text]) for text in ("M", "DOE^JANE")]
    refused(save(tmp_path / "a", joined(*parts)), r"ImageType: ORIGINAL/PRIMARY/M \(6 slices\), other \(6 slices\)")


# ------------------------------------------------------------------------------------------------------- localizers


@pytest.mark.parametrize("image_type", [["ORIGINAL", "PRIMARY", "LOCALIZER"], ["ORIGINAL", "PRIMARY", "SCOUT"], None])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_localizers_within_the_series_are_left_out_with_a_note(tmp_path, image_type, count):
    scouts = series(np.zeros((count, 8, 8), np.int16), orientation=OBLIQUE, origin=(0, 0, 0))
    for item in scouts:
        item.ImageType = image_type or ["ORIGINAL", "PRIMARY", "AXIAL"]
    folder = save(tmp_path / "a", joined(series(), scouts))
    voxels, header = io.read_volume(folder)
    np.testing.assert_array_equal(voxels, HU)
    assert [str(count) in note and "left out" in note for note in header.notes] == [True]


def test_a_series_of_localizers_alone_is_read(tmp_path):
    folder = save(tmp_path / "a", series(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    np.testing.assert_array_equal(io.read_volume(folder)[0], HU)
    assert io.read_header(folder).notes == ()


# ---------------------------------------------------------------------------------------------------- stored numbers


def with_padding(value, dtype=np.uint16, modality="CT", **elements):
    stored = (STORED % 1000 + 200).astype(dtype)
    stored[:, 0] = value
    for item in (found := series(stored, modality=modality)):
        for name, number in elements.items():
            item.add_new(name, "US" if dtype == np.uint16 else "SS", number)
    return found, stored.transpose(2, 1, 0)[:, 1:].astype(float)


@pytest.mark.parametrize(
    ("value", "dtype", "modality", "expected"),
    [(63536, np.uint16, "CT", -1000), (-2000, np.int16, "CT", -3024), (4095, np.uint16, "MR", None)],
)
def test_padding_is_air_or_the_darkest(tmp_path, value, dtype, modality, expected):
    slices, tissue = with_padding(value, dtype, modality, PixelPaddingValue=value)
    voxels, _ = io.read_volume(save(tmp_path / "a", slices))
    assert np.unique(voxels[:, 0]).tolist() == [voxels[:, 1:].min() if expected is None else expected]
    np.testing.assert_array_equal(voxels[:, 1:], tissue - 1024)


def test_a_range_of_padding_and_one_of_the_wrong_sign(tmp_path):
    slices, tissue = with_padding(5, PixelPaddingValue=0, PixelPaddingRangeLimit=5)
    for item in slices:
        item.RescaleIntercept, item.Modality = 0, "MR"
    voxels, _ = io.read_volume(save(tmp_path / "range", slices))
    assert (voxels[:, 0] == 0).all()
    np.testing.assert_array_equal(voxels[:, 1:], tissue)
    slices, _ = with_padding(-2000, np.int16, "MR")
    for item in slices:
        item.add_new("PixelPaddingValue", "US", 63536)
        item.RescaleIntercept = 0
    assert (io.read_volume(save(tmp_path / "sign", slices))[0][:, 0] == 0).all()


@pytest.mark.parametrize("kind", ["f4", "f8", "u8", "i8"])
def test_floating_point_and_64_bit_pixels(tmp_path, kind):
    slices = series(RescaleIntercept=0)
    for item, pixels in zip(slices, STORED, strict=True):
        values = pixels.astype(kind) * (0.5 if kind[0] == "f" else 1)
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(item, name)
        item.BitsAllocated = 8 * values.dtype.itemsize
        if kind[0] == "f":
            setattr(item, "FloatPixelData" if kind == "f4" else "DoubleFloatPixelData", values.tobytes())
        else:
            item.BitsStored, item.HighBit, item.PixelRepresentation = 64, 63, int(kind == "i8")
            item.add_new("PixelData", "OW", values.tobytes())
    scale = 0.5 if kind[0] == "f" else 1
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "a", slices))[0], scale * STORED.transpose(2, 1, 0))


def test_pixels_of_one_bit(tmp_path):
    slices = series(RescaleIntercept=0)
    for item in slices:
        item.Rows, item.Columns, item.BitsAllocated, item.BitsStored, item.HighBit = 4, 8, 1, 1, 0
        item.PixelRepresentation = 0
        item.add_new("PixelData", "OB", bytes([0b1, 0b11, 0b111, 0b1111]))
    voxels, _ = io.read_volume(save(tmp_path / "a", slices))
    assert voxels[:, :, 0].sum(axis=0).tolist() == [1, 2, 3, 4]


def mapping(slope, intercept):
    item = Dataset()
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, intercept
    return item


def test_real_world_values_where_there_is_no_rescaling(tmp_path):
    slices = series(modality="MR")
    for item in slices:
        del item.RescaleSlope, item.RescaleIntercept
        item.RealWorldValueMappingSequence = [mapping(0.25, 3.0)]
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "a", slices))[0], STORED.transpose(2, 1, 0) / 4 + 3)
    for item in slices:
        item.RescaleSlope, item.RescaleIntercept = 1, 0
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "a", slices))[0], STORED.transpose(2, 1, 0))


def test_tables_and_several_mappings_are_named_and_no_damage(tmp_path):
    table = Dataset()
    table.RealWorldValueLUTData = [1.0, 2.0]
    for index, (attribute, items) in enumerate(
        [
            ("ModalityLUTSequence", [Dataset()]),
            ("RealWorldValueMappingSequence", [table]),
            ("RealWorldValueMappingSequence", [mapping(1.0, 0.0), mapping(2.0, 0.0)]),
        ]
    ):
        slices = series()
        for item in slices:
            del item.RescaleSlope, item.RescaleIntercept
            setattr(item, attribute, items)
        refused(save(tmp_path / str(index), slices), rf"series 3 .*\({attribute}\), which is not supported")


def test_a_slope_of_zero_is_named_except_where_everything_is_zero(tmp_path):
    refused(save(tmp_path / "all", series(RescaleSlope=0)), "series 3 has a RescaleSlope of 0")
    stored = STORED.copy()
    stored[2] = 0
    slices = series(stored, modality="PT", RescaleIntercept=0)
    slices[2].RescaleSlope = 0
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "pet", slices))[0], stored.transpose(2, 1, 0))
    slices[3].RescaleSlope = 0
    refused(save(tmp_path / "pet", slices), "series 3 has a RescaleSlope of 0", io.read_volume)


# --------------------------------------------------------------------------------------------------- other objects


def without(slices, *names):
    for item in slices:
        for name in names:
            delattr(item, name)
    return slices


OTHERS = {
    "no spacing": lambda: without(series(STORED[:1], number=9), "PixelSpacing"),
    "many without spacing": lambda: without(series(number=9), "PixelSpacing"),
    "a table of values": lambda: series(number=9, ModalityLUTSequence=[Dataset()]),
    "a broken header": lambda: series(number=9, ImagePositionPatient=["nan", "0", "0"]),
    "12 bits": lambda: series(number=9, BitsAllocated=12),
    "frames without groups": lambda: series(
        STORED[:1], number=9, NumberOfFrames=1, PerFrameFunctionalGroupsSequence=[]
    ),
    "a dose": lambda: series(number=9, modality="RTDOSE"),
    "a portal image": lambda: series(number=9, modality="RTIMAGE"),
    "a presentation state": lambda: [bare_image("PR")],
    "a report": lambda: [bare_image("SR")],
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("chosen", [None, 3])
def test_other_objects_in_the_folder_do_no_harm(tmp_path, other, chosen):
    folder = save(save(tmp_path / "a", series()), OTHERS[other](), prefix="ZZ")
    np.testing.assert_array_equal(io.read_volume(folder, chosen)[0], HU)


def test_what_cannot_be_read_is_named_when_it_is_asked_for(tmp_path):
    folder = save(save(tmp_path / "a", series()), OTHERS["many without spacing"](), prefix="ZZ")
    assert "series 9 has images without PixelSpacing" in io.read_header(folder).notes[0]
    refused(folder, "series 9 has images without PixelSpacing", series=9)
    refused(save(tmp_path / "b", OTHERS["many without spacing"]()), "series 9 has images without PixelSpacing")


def test_the_spacing_at_the_detector_is_used_with_a_note(tmp_path):
    slices = without(series(ImagerPixelSpacing=[0.7, 0.9]), "PixelSpacing")
    header = io.read_header(save(tmp_path / "a", slices))
    np.testing.assert_allclose(header.spacing, (0.9, 0.7, 2.5))
    assert "no PixelSpacing, ImagerPixelSpacing is used" in header.notes[0]


def test_the_header_states_the_modality(tmp_path):
    assert io.read_header(save(tmp_path / "mr", series(modality="MR"))).modality == "MR"
    assert io.read_header(save(tmp_path / "odd", series(modality="SOMETHING"))).modality is None


# ------------------------------------------------------------------------------------------------------ tolerances


def test_positions_with_one_decimal_and_directions_with_three_are_a_stack(tmp_path):
    slices = series(orientation=OBLIQUE, spacing=(0.7, 0.9, 0.625))
    exact = io.read_header(save(tmp_path / "exact", slices))
    for item in slices:
        item.ImagePositionPatient = [f"{float(value):.1f}" for value in item.ImagePositionPatient]
        item.ImageOrientationPatient = [f"{float(value):.3f}" for value in item.ImageOrientationPatient]
    voxels, header = io.read_volume(save(tmp_path / "rounded", slices))
    np.testing.assert_array_equal(voxels, HU)
    np.testing.assert_allclose(header.affine, exact.affine, atol=0.06)
    np.testing.assert_allclose(header.spacing[:2], (0.9, 0.7), rtol=1e-12)


def test_a_table_that_moves_a_little_unevenly_is_a_stack(tmp_path):
    slices = series()
    for item, shift in zip(slices, (0, 0.01, -0.02, 0.015, 0, 0.01), strict=True):
        x, y, z = item.ImagePositionPatient
        item.ImagePositionPatient = [x, y, f"{float(z) + shift:.3f}"]
    np.testing.assert_array_equal(io.read_volume(save(tmp_path / "a", slices))[0], HU)


# ------------------------------------------------------------------------------------------------------ multi-frame


def test_two_echoes_in_one_multi_frame_file(tmp_path):
    dataset = bare_image("MR", uid.EnhancedMRImageStorage, SeriesNumber=4, NumberOfFrames=12)
    dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uid.generate_uid(), uid.generate_uid()
    set_pixels(dataset, np.concatenate([STORED, STORED + 1]))
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING[:2]), SPACING[2]
    plane.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index in range(12):
        group, position, echo = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-30, -40, 100 + SPACING[2] * (index % 6)]
        echo.EffectiveEchoTime = 5.0 if index < 6 else 10.0
        group.PlanePositionSequence, group.MREchoSequence = [position], [echo]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    folder = save(tmp_path / "a", [dataset])
    refused(folder, r"series 4 holds several volumes, which differ in EchoTime: 5 \(6 slices\), 10 \(6 slices\)")
    np.testing.assert_array_equal(io.read_volume(folder, "EchoTime=10")[0], STORED.transpose(2, 1, 0) + 1)


def test_a_choice_that_is_no_attribute_is_a_description(tmp_path):
    save(tmp_path / "a", series(SeriesDescription="T1: a=b"))
    save(tmp_path / "a", series(number=4), prefix="B")
    np.testing.assert_array_equal(io.read_volume(tmp_path / "a", "t1: A=B")[0], HU)
    with pytest.raises(InputError, match="no series t1: a=c"):
        io.read_header(tmp_path / "a", "t1: a=c")
