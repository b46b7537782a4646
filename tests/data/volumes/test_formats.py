"""NRRD and MetaImage, written with SimpleITK and compared with its own conversion to NIfTI."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes import io

from .test_io import AFFINE, HU, ORIENTATIONS

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")


def image_of(array, affine=AFFINE):
    """A SimpleITK image of (X, Y, Z) voxels whose affine is in RAS."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose()))
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def save(path, array=HU, affine=AFFINE, compressed=False):
    sitk.WriteImage(image_of(array, affine), str(path), useCompression=compressed)
    return path


def upright(codes):
    """An affine of perpendicular axes of different spacing in one of the 48 orientations, slightly turned."""
    turn = nib.eulerangles.euler2mat(0.1, -0.05, 0.08)
    affine = np.diag([0.8, 0.9, 2.5, 1.0])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = 40, 30, -100
    start = nib.orientations.axcodes2ornt(codes)
    own = nib.orientations.io_orientation(affine)
    return affine @ nib.orientations.inv_ornt_aff(nib.orientations.ornt_transform(own, start), HU.shape)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_each_orientation_is_read_and_labelled_as_its_nifti_copy(tmp_path, codes):
    affine = upright(codes)
    for suffix in (".nrrd", ".mha"):
        path = save(tmp_path / f"a{suffix}", affine=affine)
        sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "copy.nii"))
        voxels, header = io.read_volume(path)
        assert (header.path, header.shape, header.orientation) == (path, HU.shape, codes)
        np.testing.assert_array_equal(voxels, HU)
        np.testing.assert_allclose(header.affine, affine, atol=1e-6)
        np.testing.assert_allclose(header.affine, io.read_header(tmp_path / "copy.nii").affine, atol=1e-4)
        label = (HU > 0).astype(np.uint8)
        io.write_label(tmp_path / "out.nii.gz", label, path)
        again, written = io.read_label(tmp_path / "out.nii.gz")
        np.testing.assert_array_equal(again, label)
        np.testing.assert_allclose(written.affine, affine, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "f4", "f8"])
def test_every_suffix_and_type_is_read(tmp_path, suffix, compressed, dtype):
    array = np.abs(HU).astype(dtype) // 8
    path = save(tmp_path / f"case_1{suffix}", array, upright("LPS"), compressed)
    np.testing.assert_array_equal(io.read_volume(path)[0], array)
    np.testing.assert_array_equal(io.read_label(path)[0], array)
    assert io.volume_stem(path) == "case_1"
    assert io.volume_files(tmp_path) == [path]


def test_a_label_over_another_format_has_sform_and_qform_in_mm(tmp_path):
    io.write_label(tmp_path / "a.nii.gz", (HU > 0).astype(np.uint8), save(tmp_path / "a.nrrd", affine=upright("RSA")))
    header = nib.load(tmp_path / "a.nii.gz").header
    np.testing.assert_allclose(header.get_sform(), upright("RSA"), atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), upright("RSA"), atol=1e-4)
    assert (int(header["sform_code"]), int(header["qform_code"]), header.get_xyzt_units()[0]) == (1, 1, "mm")


def test_a_trailing_axis_of_one_is_dropped(tmp_path):
    image = sitk.JoinSeries([image_of(HU, upright("LPS"))])
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    voxels, header = io.read_volume(tmp_path / "a.mha")
    np.testing.assert_array_equal(voxels, HU)
    np.testing.assert_allclose(header.affine, upright("LPS"), atol=1e-6)


def metaimage(path, content=b"", **fields):
    known = {"NDims": 3, "DimSize": "4 5 6", "ElementSpacing": "1 1 1", "ElementType": "MET_SHORT"}
    known |= {"CompressedData": "False", **fields, "ElementDataFile": fields.get("ElementDataFile", "LOCAL")}
    path.write_bytes("".join(f"{name} = {value}\n" for name, value in known.items()).encode() + content)
    return path


def nrrd(path, content=b"", **fields):
    known = {"type": "short", "dimension": 3, "sizes": "4 5 6", "spacings": "1 1 1", "endian": "little"}
    known |= {"encoding": "raw", **fields}
    text = "".join(f"{name.replace('_', ' ')}: {value}\n" for name, value in known.items())
    path.write_bytes(f"NRRD0004\n{text}\n".encode() + content)
    return path


HUGE = "1000000 1000000 1000000"
RAW = HU.tobytes()
SECRET_FILE = "../elsewhere.raw"
BAD = {
    "huge mha": (lambda d: metaimage(d / "a.mha", RAW, DimSize=HUGE), "claims.*Copy"),
    "huge compressed mha": (
        lambda d: metaimage(d / "a.mha", gzip.compress(RAW), DimSize=HUGE, CompressedData="True"),
        "claims.*Copy",
    ),
    "huge nrrd": (lambda d: nrrd(d / "a.nrrd", RAW, sizes=HUGE), "claims.*Copy"),
    "huge compressed nrrd": (
        lambda d: nrrd(d / "a.nrrd", gzip.compress(RAW), sizes=HUGE, encoding="gzip"),
        "claims.*Copy",
    ),
    "truncated mha": (lambda d: metaimage(d / "a.mha", RAW[:-2]), "truncated.*Copy"),
    "truncated nrrd": (lambda d: nrrd(d / "a.nrrd", RAW[:-2]), "truncated.*Copy"),
    "not nrrd": (lambda d: metaimage(d / "a.nrrd"), "not an NRRD volume.*Export"),
    "not mha": (lambda d: nrrd(d / "a.mha"), "not a MetaImage volume.*Export"),
    "many axes": (lambda d: metaimage(d / "a.mha", NDims=1000), "1000 axes.*Export"),
    "no axes": (lambda d: nrrd(d / "a.nrrd", dimension="many"), "corrupt header.*Export"),
    "2D": (lambda d: save_2d(d / "a.mha"), "is 2D .*Give each volume"),
    "4D": (lambda d: save_4d(d / "a.mha"), r"is 4D .* × 2\).*Give each volume"),
    "colour": (lambda d: save_colour(d / "a.nrrd"), "3 values per voxel.*Save one"),
    "complex": (lambda d: save_complex(d / "a.nrrd"), "complex.*Save one"),
    "zero spacing": (
        lambda d: metaimage(d / "a.mha", RAW, ElementSpacing="1 0 1"),
        "spacing|cannot be (inverted|read)",
    ),
    "data elsewhere": (lambda d: metaimage(d / "a.mhd", ElementDataFile=SECRET_FILE), "another folder.*Put both"),
    "nrrd data elsewhere": (lambda d: nrrd(d / "a.nhdr", data_file="/elsewhere.raw"), "another folder.*Put both"),
    "long field": (lambda d: nrrd(d / "a.nrrd", space_directions="x" * 600), "line of 618 characters.*Export"),
    "hidden long field": (lambda d: nrrd(d / "a.nrrd", kinds=f"{'x' * 600}:=#"), "a line of.*Export"),
    "long header": (
        lambda d: nrrd(d / "a.nrrd", **{f"key{n}:=" + 60 * "x": n for n in range(1000)}),
        "header does not end.*Export",
    ),
    "pattern": (lambda d: metaimage(d / "a.mhd", ElementDataFile="%s%n"), "list of files. Save"),
    "two sizes": (lambda d: metaimage(d / "a.mha", Dimsize="9 9 9"), "'Dimsize' twice.*Export"),
    "data missing": (lambda d: metaimage(d / "a.mhd", ElementDataFile="b.raw"), "not beside it. Copy"),
    "data in a list": (lambda d: metaimage(d / "a.mhd", ElementDataFile="LIST"), "list of files. Save"),
    "data in a pattern": (lambda d: nrrd(d / "a.nhdr", data_file="b%03d.raw 1 6 1"), "list of files. Save"),
}


def save_2d(path):
    sitk.WriteImage(sitk.GetImageFromArray(HU[:, :, 0]), str(path))
    return path


def save_4d(path):
    sitk.WriteImage(sitk.JoinSeries([image_of(HU, np.eye(4))] * 2), str(path))
    return path


def save_colour(path):
    sitk.WriteImage(sitk.Compose([image_of(HU, np.eye(4))] * 3), str(path))
    return path


def save_complex(path):
    part = sitk.Cast(image_of(HU, np.eye(4)), sitk.sitkFloat32)
    sitk.WriteImage(sitk.RealAndImaginaryToComplex(part, part), str(path))
    return path


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_told_from_its_header(tmp_path, case):
    make, sentence = BAD[case]
    path = make(tmp_path)
    with pytest.raises(InputError, match=f"^{path}.*({sentence})") as reported:
        io.read_header(path)
    assert "\n" not in str(reported.value)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_damaged_voxels_are_told_when_they_are_read(tmp_path, suffix, capfd):
    path = save(tmp_path / f"a{suffix}", np.zeros((40, 40, 40), np.int16), compressed=True, affine=upright("RAS"))
    content = bytearray(path.read_bytes())
    content[-60:-20] = b"x" * 40
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}: it cannot be read.*Copy"):
        io.read_volume(path)
    assert capfd.readouterr().err == ""


def test_a_nan_is_told_as_in_nifti(tmp_path):
    path = save(tmp_path / "a.nrrd", np.where(HU > 0, np.nan, HU).astype(np.float32), upright("LPS"))
    with pytest.raises(InputError, match=f"^{path}.*NaN or infinite voxels. Replace"):
        io.read_volume(path)


def test_an_archive_is_told_to_be_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="Unpack it and give the folder"):
        io.read_header(tmp_path / "a.zip")
