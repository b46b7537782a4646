"""The scores of every convention are those of the library itself, on random and on empty masks."""

import json
import math
import sys
import types
import warnings
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from medsam_adapt.scoring.conventions import check_convention, convention_scores

SPACING = (0.8, 1.5, 3.0)


def blob(seed, shape=(14, 12, 9), density=0.62, at_the_edge=False):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    mask = noise > np.quantile(noise, density)
    if not at_the_edge:
        mask[0] = mask[-1] = mask[:, 0] = mask[:, -1] = mask[..., 0] = mask[..., -1] = False
    return mask


EMPTY = np.zeros((14, 12, 9), bool)
ONE = EMPTY.copy()
ONE[7, 6, 4] = True
PAIRS = {
    "two blobs": (blob(0), blob(1)),
    "at the edge": (blob(2, at_the_edge=True), blob(3, at_the_edge=True)),
    "scattered": (np.random.default_rng(4).random((14, 12, 9)) > 0.7, blob(5)),
    "far apart": (np.roll(ONE, -5, axis=0), np.roll(ONE, 5, axis=0)),
    "equal": (blob(6), blob(6)),
    "one voxel": (ONE, np.roll(ONE, 1, axis=2)),
    "missed": (EMPTY, blob(0)),
    "spurious": (blob(0), EMPTY),
    "empty": (EMPTY, EMPTY),
}


def monai_scores(prediction, reference):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance, compute_iou

    masks = [torch.as_tensor(mask)[None, None].float() for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": SPACING}
    return {
        "dsc": compute_dice(*masks, include_background=True).item(),
        "iou": compute_iou(*masks, include_background=True).item(),
        "hd95": compute_hausdorff_distance(*masks, percentile=95, **options).item(),
        "msd": compute_average_surface_distance(*masks, symmetric=True, **options).item(),
    }


def medpy_scores(prediction, reference):
    binary = pytest.importorskip("medpy.metric.binary")
    count = np.count_nonzero  # of NumPy 2.4 gives its own integers, which medpy's dc does not expect
    with patch.object(np, "count_nonzero", lambda mask: int(count(mask))):
        scores = {"dsc": binary.dc(prediction, reference), "iou": binary.jc(prediction, reference)}
    for name, function in (("hd95", binary.hd95), ("msd", binary.assd)):
        try:
            scores[name] = function(prediction, reference, SPACING)
        except RuntimeError:
            assert not (prediction.any() and reference.any())
            scores[name] = math.nan
    return scores


def seg_metrics_scores(prediction, reference):
    pytest.importorskip("seg_metrics")
    try:
        import medutils.medutils  # noqa: F401
    except ImportError:  # it only reads files, which is not asked for here
        readers = types.ModuleType("medutils.medutils")
        readers.load_itk = readers.get_gdth_pred_names = readers.one_hot_encode_3d = None
        sys.modules |= {"medutils": types.ModuleType("medutils"), "medutils.medutils": readers}
    from seg_metrics.seg_metrics import computeQualityMeasures

    masks = [mask.astype(np.uint8).transpose() for mask in (prediction, reference)]  # ITK's arrays are z, y, x
    found = computeQualityMeasures(*masks, np.array(SPACING), {"dice", "jaccard", "hd95", "msd"})
    return {"dsc": found["dice"], "iou": found["jaccard"], "hd95": found["hd95"], "msd": found["msd"]}


def surface_distance_scores(prediction, reference):
    library = pytest.importorskip("surface_distance")
    union = np.count_nonzero(prediction | reference)
    scores = {"iou": np.count_nonzero(prediction & reference) / union if union else math.nan}  # not in the library
    try:
        distances = library.compute_surface_distances(reference, prediction, SPACING)
        scores["dsc"] = library.compute_dice_coefficient(reference, prediction)
        scores["hd95"] = library.compute_robust_hausdorff(distances, 95)
        scores["msd"] = np.mean(library.compute_average_surface_distance(distances))
    except AttributeError:  # np.Inf and np.NaN, which NumPy 2 does not have
        assert not (prediction.any() and reference.any())
        scores |= {"dsc": 0.0 if union else math.nan, "hd95": math.inf, "msd": math.inf}
    return scores


LIBRARIES = {
    "monai": monai_scores,
    "medpy": medpy_scores,
    "seg-metrics": seg_metrics_scores,
    "surface-distance": surface_distance_scores,
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("convention", LIBRARIES)
def test_a_convention_gives_what_its_library_gives(convention, pair):
    prediction, reference = PAIRS[pair]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about empty masks
        expected = LIBRARIES[convention](prediction, reference)
    found = convention_scores(prediction, reference, SPACING, convention)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        known = math.nan if math.isinf(value) else value
        assert found[name] == pytest.approx(known, abs=1e-4, nan_ok=True), name


def test_an_unknown_convention_is_refused():
    assert check_convention("seg-metrics") == "seg-metrics"
    with pytest.raises(InputError, match=r"--convention segmetrics: there is no such convention\. Use ours, monai"):
        check_convention("segmetrics")


def test_the_command_scores_by_a_convention(tmp_path, capsys):
    for folder, mask in (("pred", EMPTY), ("ref", PAIRS["two blobs"][1])):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), np.diag([*SPACING, 1])), tmp_path / folder / "a.nii.gz")
    options = ["--pred", tmp_path / "pred", "--ref", tmp_path / "ref", "--output", tmp_path / "scores"]
    expected = {"ours": None, "seg-metrics": 0.0}
    for convention, hd95 in expected.items():
        code, out, _ = _call(capsys, "evaluate", *options, "--convention", convention, "--overwrite")
        assert code == 0
        summary = json.loads((tmp_path / "scores/metrics.json").read_text())
        assert summary["rules"]["convention"] == convention
        assert summary["cases"]["a"]["classes"]["1"]["hd95"] == hd95
    assert "seg-metrics 1.2.8: a class that is empty in one mask has HD95 and MSD 0" in " ".join(out.split())
    assert "msd" in summary["mean"]
    for wrong, sentence in (
        (["--convention", "medpi"], "there is no such convention"),
        (["--convention", "medpy", "--protocol", "segrap"], "it has its own rules"),
        (["--convention", "medpy", "--metrics", "nsd"], "it has no nsd"),
    ):
        code, _, err = _call(capsys, "evaluate", *options, "--overwrite", *wrong)
        assert (code, sentence in " ".join(err.split())) == (2, True)


def _call(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err
