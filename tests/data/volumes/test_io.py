import gzip
import itertools
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes import io

AFFINE = np.array([[-0.8, 0, 0, 40], [0, -0.8, 0.1, 30], [0, 0.05, 2.5, -100], [0, 0, 0, 1.0]])
ORIENTATIONS = [
    "".join(codes) for axes in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*axes)
]
HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def write(path, array=HU, affine=AFFINE, kind=nib.Nifti1Image, header=None, **fields):
    image = kind(array, affine, header)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def patch(path, **fields):
    """Rewrite fields of an uncompressed file's header in place, past nibabel's own checks."""
    header = nib.Nifti1Header(path.read_bytes()[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_an_image_is_read_as_nibabel_reads_it(tmp_path, name, kind):
    path = write(tmp_path / name, HU[..., None], kind=kind)
    voxels, header = io.read_volume(path)
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, HU)
    np.testing.assert_allclose(header.affine, nib.load(path).affine)
    np.testing.assert_allclose(header.spacing, np.linalg.norm(AFFINE[:3, :3], axis=0), rtol=1e-6)
    assert (header.shape, header.orientation, io.volume_stem(path).lower()) == (HU.shape, "LPS", "a")


def test_slope_intercept_units_and_byte_order_are_applied(tmp_path):
    big_endian = nib.Nifti1Header(endianness=">")
    path = write(tmp_path / "a.nii", HU.astype(">i2"), header=big_endian, xyzt_units=1)  # metres
    with path.open("r+b") as file:
        file.seek(112)
        file.write(np.array([2, -10], ">f4").tobytes())
    voxels, header = io.read_volume(path)
    np.testing.assert_array_equal(voxels, HU.astype(np.float32) * 2 - 10)
    np.testing.assert_allclose(header.affine[:3], nib.load(path).affine[:3] * 1000)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32])
def test_labels_of_any_type_become_the_smallest_that_holds_them(tmp_path, dtype):
    label = np.arange(120).reshape(4, 5, 6)
    nib.save(nib.Nifti1Image(label.astype(dtype), AFFINE, dtype=dtype), tmp_path / "a.nii.gz")
    read, _ = io.read_label(tmp_path / "a.nii.gz")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, label)
    wide = np.where(label == 5, 300, label).astype(np.int16)
    assert io.read_label(write(tmp_path / "b.nii", wide))[0].dtype == np.uint16


@pytest.mark.parametrize("codes", [(2, 0), (0, 1), (1, 1), (0, 0)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("highest", [13, 700])
def test_a_label_is_written_with_its_images_geometry_bit_for_bit(tmp_path, codes, kind, highest):
    path = tmp_path / "image.nii.gz"
    image = kind(HU, AFFINE)
    image.set_sform(AFFINE, codes[0])
    image.set_qform(AFFINE, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"], image.header["cal_max"], image.header["intent_code"] = b"Jane Doe", 300, 1001
    nib.save(image, path)
    label = (np.abs(HU.astype(int)) % highest + 1).astype(np.int32)
    io.write_label(tmp_path / "out.nii.gz", label, io.read_header(path))
    before, after = nib.load(path).header, nib.load(tmp_path / "out.nii.gz").header
    for name in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert before[name].tobytes() == after[name].tobytes(), name
    for name in ("qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units", "dim"):
        assert before[name].tobytes() == after[name].tobytes(), name
    assert after.get_data_dtype() == (np.uint8 if highest == 13 else np.uint16)
    assert float(after["cal_max"]) == int(after["intent_code"]) == 0
    assert bytes(after["descrip"].item()) == b""  # it may name the patient
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii.gz").dataobj, label)
    np.testing.assert_array_equal(io.read_label(tmp_path / "out.nii.gz")[0], label)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["image.nii.gz", "out.nii.gz"]


def test_a_label_over_a_big_endian_image_is_right_and_the_same_bytes_each_time(tmp_path):
    path = write(tmp_path / "image.nii", HU.astype(">i2"), header=nib.Nifti1Header(endianness=">"))
    label = np.full(HU.shape, 513, np.uint16)
    io.write_label(tmp_path / "one.nii.gz", label, path)
    io.write_label(tmp_path / "two.nii.gz", label, path)
    np.testing.assert_array_equal(io.read_label(tmp_path / "one.nii.gz")[0], label)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


def test_a_label_that_cannot_be_written_is_told(tmp_path):
    path = write(tmp_path / "image.nii")
    with pytest.raises(InputError, match=r"none.*Choose another folder"):
        io.write_label(tmp_path / "none" / "out.nii.gz", np.zeros(HU.shape, np.uint8), path)
    with pytest.raises(ValueError, match="shape"):
        io.write_label(tmp_path / "out.nii.gz", np.zeros((1, 2, 3), np.uint8), path)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_ras_and_back_for_each_of_the_48_orientations(codes):
    start = nib.orientations.axcodes2ornt(codes)
    affine = AFFINE @ nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(nib.orientations.io_orientation(AFFINE), start), HU.shape
    )
    array = np.arange(60).reshape(3, 4, 5)
    assert "".join(nib.aff2axcodes(affine)) == codes
    turned, turned_affine = io.to_ras(array, affine)
    assert "".join(nib.aff2axcodes(turned_affine)) == "RAS"
    np.testing.assert_array_equal(io.from_ras(turned, affine), array)
    for voxel in ((0, 0, 0), (1, 2, 2)):  # the same voxel is at the same place
        place = turned_affine @ (*voxel, 1)
        assert turned[voxel] == array[tuple(np.rint(np.linalg.solve(affine, place))[:3].astype(int))]


def test_48_orientations_are_meant():
    assert len(set(ORIENTATIONS)) == 48


def cut(path, count):
    path.write_bytes(path.read_bytes()[:count])
    return path


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def named(path, content=b"no volume" * 100):
    path.write_bytes(content)
    return path


COLOUR = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
SINGULAR = {"srow_x": (1, 0, 0, 0), "srow_y": (2, 0, 0, 0), "srow_z": (0, 0, 1, 0)}
BAD_HEADERS = {
    "missing": (lambda d: d / "a.nii.gz", "does not exist. Check"),
    "folder": (lambda d: d, "this folder.*Give the file"),
    "empty": (lambda d: named(d / "a.nii.gz", b""), "empty. Copy"),
    "suffix": (lambda d: named(d / "a.txt"), r"not supported \(\.nii\.gz, \.nii, .*\)\. Convert"),
    "not nifti": (lambda d: named(d / "a.nii"), "not a NIfTI volume.*Export"),
    "not gzip": (lambda d: named(d / "a.nii.gz"), r"not gzip-compressed.*Rename it to end in \.nii "),
    "gzip": (lambda d: named(d / "a.nii", gzip.compress(b"x")), r"is gzip-compressed.*Rename it to end in \.nii\.gz"),
    "truncated gzip": (lambda d: cut(write(d / "a.nii.gz"), 250), "truncated.*Copy"),
    "truncated": (lambda d: cut(write(d / "a.nii"), 500), "truncated.*claims.*Copy"),
    "header only": (lambda d: cut(write(d / "a.nii"), 100), "not a NIfTI volume"),
    "huge": (lambda d: patch(write(d / "a.nii"), dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)), "claims.*Copy"),
    "negative size": (lambda d: patch(write(d / "a.nii"), dim=(3, 4, -5, 6, 1, 1, 1, 1)), "corrupt header.*Export"),
    "offset": (lambda d: patch(write(d / "a.nii"), vox_offset=np.nan), "corrupt header.*Export"),
    "type": (lambda d: patch(write(d / "a.nii"), datatype=999), "corrupt header.*Export"),
    "2D": (lambda d: write(d / "a.nii", HU[:, :, 0]), "is 2D .*Give each volume"),
    "4D": (lambda d: write(d / "a.nii", np.stack([HU, HU], -1)), "is 4D .*× 2.*Give each volume"),
    "5D": (lambda d: write(d / "a.nii", np.zeros((2, 2, 2, 1, 3), "i2")), "is 5D .*Give each volume"),
    "zero spacing": (lambda d: patch(write(d / "a.nii"), pixdim=(1, 0, 1, 1, 1, 1, 1, 1)), "spacing.*Correct"),
    "NaN spacing": (lambda d: patch(write(d / "a.nii"), pixdim=(1, 1, np.nan, 1, 1, 1, 1, 1)), "spacing.*Correct"),
    "singular affine": (lambda d: patch(write(d / "a.nii"), **SINGULAR), "cannot be inverted.*Export"),
    "NaN affine": (lambda d: patch(write(d / "a.nii"), srow_x=np.nan), "cannot be inverted.*Export"),
    "quaternion": (lambda d: patch(write(d / "a.nii"), sform_code=0, qform_code=1, quatern_b=9), "orientation.*Export"),
    "colour": (lambda d: write(d / "a.nii", COLOUR), "colour.*Save one"),
    "complex": (lambda d: write(d / "a.nii", HU.astype(np.complex64)), "complex.*Save one"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_bad_file_is_told_from_its_header_with_its_name_and_the_mend(tmp_path, case):
    make, sentence = BAD_HEADERS[case]
    path = make(tmp_path)
    with pytest.raises(InputError, match=f"^{path}.*{sentence}") as reported:
        io.read_header(path)
    assert "\n" not in str(reported.value)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.where(HU > 0, np.nan, HU), "NaN or infinite voxels. Replace"),
        (HU.astype(np.float64) * 1e300, "NaN or infinite voxels. Replace"),
    ],
)
def test_a_bad_image_is_told(tmp_path, array, sentence):
    path = write(tmp_path / "a.nii", array)
    with pytest.raises(InputError, match=f"^{path}: .*{sentence}"):
        io.read_volume(path)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (HU + 0.5, "not a label map.*nearest neighbour"),
        (np.full((2, 2, 2), np.nan), "not a label map.*nearest neighbour"),
        (np.full((2, 2, 2), -1, "i2"), "label -1, .*Renumber"),
        (np.full((2, 2, 2), 70000, "i4"), "label 70000, .*Renumber"),
    ],
)
def test_a_bad_label_is_told(tmp_path, array, sentence):
    path = write(tmp_path / "a.nii", array)
    with pytest.raises(InputError, match=f"^{path}: .*{sentence}"):
        io.read_label(path)


def test_damaged_gzip_data_is_told_when_it_is_read(tmp_path):
    path = flipped(write(tmp_path / "a.nii.gz"))
    with pytest.raises(InputError, match=f"^{path}: it cannot be read.*Copy"):
        io.read_volume(path)


def test_gzip_in_several_parts_is_read(tmp_path):
    content = write(tmp_path / "a.nii").read_bytes()
    path = named(tmp_path / "b.nii.gz", gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(io.read_volume(path)[0], HU)


def test_no_torch_and_no_monai_are_imported():
    code = (
        "import sys, medsam_adapt.data.datasets.cases as c, medsam_adapt.data.datasets.layouts as l;"
        "[l.get_layout(n) for n in l.layout_names()];"
        "sys.exit(bool({'torch', 'monai', 'SimpleITK'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_real_volume_of_another_orientation_goes_round(real_data, tmp_path):
    folder = real_data / "mr_abdomen"
    label, header = io.read_label(folder / "labels.nii.gz")
    assert header.orientation == "LPS"
    io.write_label(tmp_path / "a.nii.gz", io.from_ras(io.to_ras(label, header.affine)[0], header.affine), header)
    again, copy = io.read_label(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(again, label)
    np.testing.assert_array_equal(copy.affine, header.affine)
    np.testing.assert_allclose(
        io.read_volume(folder / "image.nii.gz")[0], nib.load(folder / "image.nii.gz").get_fdata()
    )
