import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.stats import entropy

from medsam_adapt import load_run
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.prompts.file import Prompt
from medsam_adapt.data.volumes.io import from_ras, read_volume, to_ras
from medsam_adapt.methods import DecoderLoRA, LoRA
from medsam_adapt.methods.samcobot import CobotLoRA
from medsam_adapt.methods.samparser import Parser
from medsam_adapt.prediction.case_runner import CaseRunner
from medsam_adapt.prediction.plan import Outputs, plan_cases
from tests.data.dicom_files import save, series
from tests.data.slices.test_geometry import affine_of
from tests.data.volumes.test_io import ORIENTATIONS
from tests.inference.test_inferer import GREY, predictor_of
from tests.made_runs import differing, make_run

AFFINE = np.diag([-2.0, -2.0, 4.0, 1.0])
OBLIQUE = np.array([[-0.8, 0.1, 0, 40], [0.1, -0.8, 0.3, 30], [0.05, 0.2, 2.5, -100], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def image():
    coarse = torch.randn(1, 1, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    return 40 + 200 * torch.nn.functional.interpolate(coarse, (30, 26, 6), mode="trilinear")[0, 0].numpy()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of made runs, by name."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "a": make_run(folder / "a"),
        "b": make_run(folder / "b", seed=1),
        "overlapping": make_run(folder / "overlapping", overlapping=True),
        "box": make_run(folder / "box", "box"),
        "points": make_run(folder / "points", "points"),
    }


@pytest.fixture(scope="module")
def predictors(runs):
    """Predictors of the made runs, by name."""
    return {name: load_run(folder, "cpu") for name, folder in runs.items()}


def test_files_in_every_orientation_keep_geometry_and_anatomy(tmp_path):
    """An asymmetric phantom: its structures are found again in mm wherever the axes run."""
    label = np.zeros((16, 12, 10), np.int16)
    label[2:7, 1:4, 1:9], label[9:14, 6:11, 2:5], label[11, 2, 7] = 1, 2, 3
    places = {codes: affine_of(codes, (1, 1, 1)) for codes in ORIENTATIONS} | {"oblique": OBLIQUE}
    (tmp_path / "in").mkdir()
    for number, (codes, affine) in enumerate(places.items()):
        volume = nib.Nifti1Image((GREY * from_ras(label, affine)).astype(np.int16), affine)
        volume.header.set_sform(affine, code=1 + number % 4)
        volume.header.set_qform(affine, code=number % 3, strip_shears=True)
        nib.save(volume, tmp_path / "in" / f"{codes}.nii.gz")
    predictor = predictor_of("axial", 16)
    runner = CaseRunner(predictor)
    for case in plan_cases(tmp_path / "in", tmp_path / "out", Outputs()).cases:
        runner.run(case)
        source, mask = nib.load(case.header.path), nib.load(case.outputs["segmentation"])
        assert mask.shape == source.shape
        np.testing.assert_array_equal(mask.affine, source.affine)
        for key in ("sform_code", "qform_code", "pixdim", "xyzt_units"):
            np.testing.assert_array_equal(mask.header[key], source.header[key])
        np.testing.assert_array_equal(to_ras(np.asarray(mask.dataobj), mask.affine)[0], label)
    assert len(list((tmp_path / "out").iterdir())) == 49


def test_the_batch_size_changes_no_label(runs, image):
    one, sixteen = (load_run(runs["a"], "cpu", size)(image, AFFINE) for size in (1, 16))
    assert len(np.unique(one)) == 4
    assert differing(one, sixteen) <= 1e-5


@pytest.mark.parametrize("adapter", [DecoderLoRA(2), LoRA(2), CobotLoRA(4), Parser()])
def test_merged_adapters_change_no_label(tmp_path, image, adapter):
    run = make_run(tmp_path / "run", adapter=adapter)
    apart, merged = (load_run(run, "cpu", merge=merge) for merge in (False, True))
    assert not set(merged.segmenter.state_dict()) >= set(apart.segmenter.state_dict())
    assert differing(apart(image, AFFINE), merged(image, AFFINE)) < 1e-5


@pytest.mark.parametrize("run", ["a", "overlapping"])
def test_probabilities_are_those_that_decide(predictors, image, run):
    predictor = predictors[run]
    chances, voxels = predictor.probabilities(image, AFFINE), predictor(image, AFFINE)
    assert (chances.shape, chances.dtype) == ((3, *image.shape), np.float32)
    if run == "overlapping":
        assert voxels.shape == chances.shape
        np.testing.assert_array_equal(voxels, chances > 0.5)
        return
    background = 1 - chances.sum(axis=0)
    assert background.min() > -1e-5
    decided = np.concatenate([background[None], chances]).argmax(axis=0)
    assert differing(decided, voxels) < 1e-3  # but for ties


@pytest.mark.parametrize("run", ["a", "overlapping"])
def test_maps_hold_probabilities_and_entropy_in_bytes(runs, image, tmp_path, run):
    predictor = load_run(runs[run], "cpu", batch_size=4)
    found = predictor.segment(image, AFFINE, maps_in=tmp_path, uncertainty=True)
    chances = predictor.probabilities(image, AFFINE)
    assert found.probabilities.dtype == found.uncertainty.dtype == np.uint8
    np.testing.assert_allclose(found.probabilities / 255, chances, atol=0.51 / 255)
    if run == "a":
        expected = entropy(np.concatenate([1 - chances.sum(axis=0, keepdims=True), chances]).clip(0), base=4)
    else:
        expected = entropy(np.stack([chances, 1 - chances]), base=2).max(axis=0)
    np.testing.assert_allclose(found.uncertainty / 255, expected, atol=0.6 / 255)
    np.testing.assert_array_equal(found.voxels, predictor(image, AFFINE))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("affine", [AFFINE, affine_of("SPL", (2, 2, 3))])
def test_flips_average_the_volumes_own_mirror_images(predictors, image, affine):
    predictor = predictors["a"]
    single = predictor.probabilities(image, affine)
    across = [axis for axis, code in enumerate(nib.aff2axcodes(affine)) if code not in "SI"]
    turned = []
    for axes in ([], across[:1], across[1:], across):
        mirrored = predictor.probabilities(np.flip(image, axes), affine)
        turned.append(np.flip(mirrored, [axis + 1 for axis in axes]))
    expected = np.mean(turned, axis=0)
    assert np.abs(expected - single).max() > 0.05
    np.testing.assert_allclose(predictor.probabilities(image, affine, flips=True), expected, atol=2e-3)


@pytest.mark.parametrize("mode", ["box", "points"])
def test_flips_mirror_prompts_too(predictors, image, mode):
    predictor = predictors[mode]

    def prompt_on(axes):
        """The prompt of the volume mirrored along these axes."""
        places = np.array([[5.0, 4, 2], [20, 11, 3]])
        places[:, axes] = np.array(image.shape)[axes] - 1 - places[:, axes]
        if mode == "box":
            return Prompt(label="spleen", units="voxel", box=places.tolist())
        return Prompt(label="spleen", units="voxel", points=[{"at": place} for place in places.tolist()])

    turned = []
    for axes in ([], [0], [1], [0, 1]):
        mirrored = predictor.probabilities(np.flip(image, axes), AFFINE, prompts=[prompt_on(axes)])
        turned.append(np.flip(mirrored, [axis + 1 for axis in axes]))
    found = predictor.probabilities(image, AFFINE, prompts=[prompt_on([])], flips=True)
    np.testing.assert_allclose(found, np.mean(turned, axis=0), atol=5e-3)
    assert np.abs(found - turned[0]).max() > 0.05


def test_several_runs_decide_by_their_mean(runs, predictors, image):
    alone = [predictors[name].probabilities(image, AFFINE) for name in "ab"]
    both = load_run(runs["a"], "cpu", also=[runs["b"]])
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    np.testing.assert_allclose(both.probabilities(image, AFFINE), np.mean(alone, axis=0), atol=1e-5)
    mean = np.mean(alone, axis=0)
    decided = np.concatenate([1 - mean.sum(axis=0, keepdims=True), mean]).argmax(axis=0)
    assert differing(decided, both(image, AFFINE)) < 1e-3


def test_runs_that_do_not_segment_the_same_are_refused(runs, tmp_path):
    other = make_run(tmp_path / "other", names=("liver", "heart", "spleen"))
    with pytest.raises(InputError, match=r"it cannot segment together with .*, since their classes differ"):
        load_run(runs["a"], "cpu", also=[other])
    with pytest.raises(InputError, match="since their prompt differ"):
        load_run(runs["box"], "cpu", also=[runs["points"]])
    with pytest.raises(InputError, match="is given twice"):
        load_run(runs["a"], "cpu", also=[runs["a"]])


# --------------------------------------------------------------------------------------------------------- prompts


def blocks():
    """Label ids (X, Y, Z) of two structures."""
    label = np.zeros((30, 26, 6), np.uint8)
    label[4:15, 5:17, 1:4], label[18:27, 3:11, 3:6] = 1, 3
    return label


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE, affine_of("SPL", (2, 2, 3))])
@pytest.mark.parametrize("mode", ["box", "points"])
def test_prompts_given_are_those_that_a_label_would_give(predictors, image, mode, affine):
    """Boxes slice by slice in voxels, the same boxes in mm, and the label itself draw the same."""
    predictor = predictors[mode]
    label = blocks()
    by_label = predictor(image, affine, reference=label)
    by_masks = predictor(image, affine, reference=np.stack([label == label_id for label_id in (1, 2, 3)]))
    assert set(np.unique(by_label)) <= {0, 1, 3}
    assert by_label.any()
    assert differing(by_label, by_masks) < 0.05  # a label is resized in whole pixels, a box or a point is not
    if mode == "points":
        return
    prompts = []
    for label_id, name in ((1, "liver"), (3, "spleen")):
        low, high = (f(np.argwhere(label == label_id), axis=0) for f in (np.min, np.max))
        corners = [(affine @ (*corner, 1))[:3].tolist() for corner in (low, high)]
        prompts.append((Prompt(label=name, units="voxel", box=(low.tolist(), high.tolist())),
                        Prompt(label=label_id, units="mm-ras", box=corners)))  # fmt: skip
    in_voxels, in_mm = (predictor(image, affine, prompts=given) for given in zip(*prompts, strict=True))
    assert differing(in_voxels, in_mm) < 1e-3
    assert differing(in_voxels, by_masks) < 1e-3


def test_a_prompted_structure_is_drawn_on_its_slices_alone(predictors, image):
    prompt = Prompt(label="spleen", units="voxel", points=[{"at": (9, 9, 3)}, {"at": (9, 9, 5)}])
    found = predictors["points"](image, AFFINE, prompts=[prompt])
    assert set(np.unique(found)) <= {0, 3}
    assert set(np.flatnonzero((found == 3).any(axis=(0, 1)))) <= {3, 5}


def test_a_prompted_run_without_prompts_says_so(predictors, image):
    with pytest.raises(InputError, match="cannot segment without"):
        predictors["box"](image, AFFINE)


def test_the_number_of_slices_is_that_of_the_slicing_direction():
    assert predictor_of("axial", 16).slices_in((5, 6, 7), affine_of("SPL", (1, 1, 1))) == 5
    assert predictor_of("sagittal", 16).slices_in((5, 6, 7), np.eye(4)) == 5


def test_a_path_is_segmented_as_its_voxels(tmp_path, predictors, image):
    nib.save(nib.Nifti1Image(image.astype(np.float32), OBLIQUE), tmp_path / "scan.nii.gz")
    save(tmp_path / "series", series(image.transpose(2, 1, 0).astype(np.int16) + 1024))
    for path in (tmp_path / "scan.nii.gz", str(tmp_path / "series")):
        voxels, header = read_volume(path)
        for name in ("a", "overlapping"):
            np.testing.assert_array_equal(predictors[name](path), predictors[name](voxels, header.affine))
    np.testing.assert_array_equal(
        predictors["a"].probabilities(path), predictors["a"].probabilities(voxels, header.affine)
    )
    with pytest.raises(ValueError, match="an array needs its affine"):
        predictors["a"](image)
    with pytest.raises(InputError, match=r"none\.nii\.gz: it does not exist"):
        predictors["a"](tmp_path / "none.nii.gz")


def test_a_predictor_shows_what_it_is(runs, predictors):
    assert predictors["a"].class_names == ["liver", "right kidney", "spleen"]
    assert predictors["a"].label_ids == [1, 2, 3]
    assert repr(predictors["a"]) == (
        "Predictor(blosam, vit_nano at 32 pixels, axial slices, classes liver, right kidney, spleen, fp32 on cpu)"
    )
    assert "prompt box" in repr(predictors["box"])
    assert "mean of 2 runs" in repr(load_run(runs["a"], "cpu", also=[runs["b"]]))
