import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.layouts import segrap
from medsam_adapt.data.volumes.io import read_header
from medsam_adapt.data.volumes.label_coding import PartMasks, read_classes
from medsam_adapt.outputs.segrap_mha import write_segrap
from tests.cli.predicting import call, refused
from tests.data import samples
from tests.made_runs import make_run


@pytest.mark.parametrize("sample", ["segrap", "segrap_masks"])
def test_the_45_organs_survive_parts_channels_and_the_4d_file(tmp_path, sample):
    samples.SAMPLES[sample](tmp_path / "data")
    found = find_cases(tmp_path / "data")
    case = found.cases[1]
    parts, table = read_classes(case.label_source, list(found.classes), found.coding)
    masks = np.stack(list(PartMasks(parts, table, list(found.classes.values())).values()))
    write_segrap(tmp_path / "out.mha", masks, list(found.classes.values()), case.image)

    drawn = samples.organ_masks(samples.segrap_parts(1)[1])
    written = sitk.ReadImage(str(tmp_path / "out.mha"))
    assert written.GetSize() == (*samples.SHAPE, 45)
    arrays = sitk.GetArrayFromImage(written).transpose(0, 3, 2, 1)
    for channel, name in enumerate(segrap.PARTS):
        assert np.array_equal(arrays[channel], drawn[name]), name
        assert drawn[name].any()
    assert (arrays.sum(axis=0) > 2).any()  # Brain, temporal lobe and hippocampus share part 6


def test_the_file_lies_where_its_image_does(tmp_path):
    affine = np.array([[0, 0, 2.0, 7], [-1.5, 0, 0, 3], [0, 1, 0, -9], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine), tmp_path / "image.nii.gz")
    masks = np.zeros((1, 4, 5, 6), bool)
    masks[0, 1, 2, 3] = True
    write_segrap(tmp_path / "out.mha", masks, ["gtvp"], tmp_path / "image.nii.gz")
    image, written = sitk.ReadImage(str(tmp_path / "image.nii.gz")), sitk.ReadImage(str(tmp_path / "out.mha"))
    assert written.GetSize() == (4, 5, 6, 2)
    np.testing.assert_allclose(
        written.TransformIndexToPhysicalPoint((1, 2, 3, 0))[:3],
        image.TransformIndexToPhysicalPoint((1, 2, 3)),
        atol=1e-5,
    )
    assert written[1, 2, 3, 0] == 1
    assert sitk.GetArrayFromImage(written).sum() == 1


def test_what_the_challenge_does_not_take_is_told(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "image.nii.gz")
    header, masks = read_header(tmp_path / "image.nii.gz"), np.zeros((1, 4, 5, 6), bool)
    with pytest.raises(InputError, match="liver is not in one task of the challenge"):
        write_segrap(tmp_path / "out.mha", masks, ["liver"], header)
    with pytest.raises(InputError, match=r"expects \.mha"):
        write_segrap(tmp_path / "out.nii.gz", masks, ["Brain"], header)
    with pytest.raises(ValueError, match="2 names"):
        write_segrap(tmp_path / "out.mha", masks, ["Brain", "Chiasm"], header)
    assert not (tmp_path / "out.mha").exists()


def test_predict_writes_what_the_challenge_takes(tmp_path, capsys):
    samples.segrap_masks(tmp_path / "data")
    names = list(reversed(segrap.PARTS))[:6]
    run = make_run(tmp_path / "run", overlapping=True, names=names, layout="segrap:contrast")
    options = ["-i", tmp_path / "data", "-o", tmp_path / "out", "--format", "segrap-mha"]
    assert call(capsys, run, *options)[0] == 0
    assert call(capsys, run, *options[:3], tmp_path / "files")[0] == 0
    for number in range(samples.COUNT):
        written = sitk.ReadImage(str(tmp_path / "out" / f"segrap_000{number}.mha"))
        channels = sitk.GetArrayFromImage(written).transpose(0, 3, 2, 1)
        assert len(channels) == len(segrap.PARTS)
        for name, channel in zip(segrap.PARTS, channels, strict=True):
            file = tmp_path / "files" / f"segrap_000{number}_seg" / f"{name}.nii.gz"
            expected = nib.load(file).get_fdata() if name in names else np.zeros(samples.SHAPE)
            np.testing.assert_array_equal(channel, expected)
    assert "Leave out --per-class" in refused(capsys, run, *options, "--per-class", "--overwrite")


def test_a_run_of_other_structures_is_refused_before_anything_is_written(tmp_path, capsys):
    samples.segrap_masks(tmp_path / "data")
    for names, words in ((["liver"], "liver is not"), (["Brain", "GTVp"], "organs and tumours together is not")):
        run = make_run(tmp_path / names[-1], names=names)
        err = refused(capsys, run, "-i", tmp_path / "data", "-o", tmp_path / "out", "--format", "segrap-mha")
        assert f"--format segrap-mha: {words} in one task of the challenge" in err
    assert not (tmp_path / "out").exists()
