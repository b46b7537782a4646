"""Several images of a case from check to mask, on the command line and by MONAI's own."""

import json

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import run as run_bundle

from medsam_adapt.evaluation.shown_cases import read_shown_cases
from medsam_adapt.runs.record import read_run
from tests.cli.test_layouts_cli import SMALL, call, tiny_sam  # noqa: F401
from tests.data import samples
from tests.data.volumes.test_image_set import refused

NAMES = ["FLAIR", "T1w", "T1gd", "T2w"]
RANDOM = np.random.default_rng(0)


@pytest.fixture
def data(tmp_path):
    """A data set in the shape of the Decathlon's brain tumours: four sequences in one 4D file."""
    root = tmp_path / "data"
    for number in range(3):
        label = np.zeros((16, 18, 4), np.uint8)
        label[3:9, 4:10, 1:3] = 1
        label[10:14, 5:9, 1:3] = 3
        images = RANDOM.normal(100, 10, (*label.shape, 4)) + label[..., None] * np.array([5, 10, 15, 20])
        samples.volume(root / f"imagesTr/BRATS_00{number}.nii.gz", images.astype(np.float32))
        samples.volume(root / f"labelsTr/BRATS_00{number}.nii.gz", label)
    listed = [{"image": f"./imagesTr/BRATS_00{n}.nii.gz", "label": f"./labelsTr/BRATS_00{n}.nii.gz"} for n in range(3)]
    content = {
        "modality": {str(index): name for index, name in enumerate(NAMES)},
        "labels": {"0": "background", "1": "edema", "3": "enhancing tumour"},
        "training": listed,
    }
    samples.text(root / "dataset.json", content)
    return root


def test_four_sequences_in_one_file_go_the_whole_path(data, tmp_path, capsys):
    run, masks = tmp_path / "run", tmp_path / "masks"
    check = json.loads(call(capsys, "data", "check", data, "--json"))
    assert (check["problems"], check["images"]) == ([], NAMES)
    options = [*SMALL, "--set", "channel_dropout=0.2", "--set", "intensity=mr,mr,percentile:1:99,0:200"]
    out = call(capsys, "train", "--data", data, "--bundle", "detail", *options, "--output", run)
    assert "Images of a case: FLAIR, T1w, T1gd, T2w, 4 channels that the first layer mixes" in " ".join(out.split())
    record = read_run(run)
    assert (record.images, record.layout) == (NAMES, "msd")
    assert [policy.kind for policy in record.policy.channels] == ["percentile"] * 3 + ["window"]
    call(capsys, "evaluate", run, "--device", "cpu")
    shown = [*read_shown_cases(run).cases.values()]
    assert all((case.images, len(case.each_image)) == (NAMES, 4) for case in shown)
    assert len({*map(tuple, shown[0].each_image)}) == 4
    call(capsys, "predict", run, "-i", data / "imagesTr/BRATS_001.nii.gz", "-o", masks, "--device", "cpu")
    image = nib.load(data / "imagesTr/BRATS_001.nii.gz")
    written = nib.load(masks / "BRATS_001_seg.nii.gz")
    assert written.shape == image.shape[:3]
    np.testing.assert_allclose(written.affine, image.affine)

    lacking = tmp_path / "scans/one"
    for index in (0, 2, 3):
        samples.volume(lacking / f"{NAMES[index]}.nii.gz", np.asarray(image.dataobj)[..., index])
    call(capsys, "predict", run, "-i", tmp_path / "scans", "-o", masks, "--device", "cpu")
    assert (masks / "one_seg.nii.gz").is_file()

    config = json.loads((run / "configs/metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert (config["num_channels"], config["channel_def"]) == (4, dict(zip("0123", NAMES, strict=True)))
    arguments = {"bundle_root": str(run), "dataset_dir": str(data / "imagesTr"), "output_dir": str(tmp_path / "bundle")}
    run_bundle(config_file=str(run / "configs/inference.json"), **arguments)
    by_monai = nib.load(tmp_path / "bundle/BRATS_001_seg.nii.gz")
    assert (np.asarray(by_monai.dataobj) == np.asarray(written.dataobj)).mean() > 0.99
    run_bundle(config_file=str(run / "configs/evaluate.json"), bundle_root=str(run), output_dir=str(tmp_path / "eval"))
    assert json.loads((tmp_path / "eval/metrics.json").read_text())["cases"]
    call(capsys, "export", run, "--to", "torchscript", "-o", tmp_path / "model.ts")


def test_a_missing_image_is_named_for_training_and_prediction(data, tmp_path, capsys):
    separate = tmp_path / "separate"
    for number in range(3):
        for name in ("T1w", "T2w"):
            samples.volume(separate / f"images/c{number}/{name}.nii.gz", RANDOM.normal(100, 9, (16, 18, 4)))
        label = nib.load(data / f"labelsTr/BRATS_00{number}.nii.gz")
        samples.volume(separate / f"labels/c{number}.nii.gz", np.asarray(label.dataobj))
    run = tmp_path / "run"
    call(capsys, "train", "--data", separate, "--bundle", "decoder", *SMALL, "--output", run)
    assert read_run(run).images == ["T1w", "T2w"]
    listed = [
        {"id": case, "image": [f"images/{case}/{name}.nii.gz" for name in ("T2w", "T1w")], "label": label}
        for case, label in ((f"c{n}", f"labels/c{n}.nii.gz") for n in range(3))
    ]
    samples.text(separate / "turned.json", {"channel_names": {"0": "T2w", "1": "T1w"}, "training": listed})
    on, turned = ["--from", run, "--epochs", "1", "--device", "cpu"], separate / "turned.json"
    call(capsys, "train", "--data", turned, *on, "--set", "min_steps=1", "--output", tmp_path / "on")
    assert read_run(tmp_path / "on").images == ["T1w", "T2w"]
    for place in (separate, turned):
        call(capsys, "evaluate", run, "--data", place, "--output", tmp_path / f"scores_{place.stem}", "--device", "cpu")
    noted = json.loads((tmp_path / "scores_turned/metrics.json").read_text())["notes"]
    assert "The data set's images are T2w, T1w; the run takes them as T1w, T2w." in noted
    scores = [(tmp_path / f"scores_{name}/metrics.csv").read_text() for name in ("separate", "turned")]
    assert scores[0] == scores[1]
    predict = ["-o", tmp_path / "masks", "--device", "cpu"]
    image = separate / "images/c1/T2w.nii.gz"
    image.unlink()
    assert "the case c1 has no image T2w" in refused(capsys, "predict", run, "-i", separate / "images/c1", *predict)
    train = ["train", "--data", separate, "--output", tmp_path / "other", *SMALL]
    assert "the case c1 has no image T2w, which others have" in refused(capsys, *train)
    assert "trained on T1w, T2w together" in refused(capsys, "predict", run, "-i", data, *predict)
    assert "trained on T1w, T2w together" in refused(
        capsys, "evaluate", run, "--data", data, "--output", tmp_path / "e"
    )
    assert not (tmp_path / "masks").exists()
