"""Whole, tiny files of every kind that the package reads, made once; the fuzzer damages copies of them."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch

from medsam_adapt.bundle.catalogue import resolve_knobs
from medsam_adapt.core.files import write_json
from medsam_adapt.inference.predictor import load_run
from medsam_adapt.methods import DecoderLoRA
from medsam_adapt.networks import build_sam, build_segmenter, save_adapter
from medsam_adapt.networks.adapter_config import saved_base
from tests.data.dicom_files import bare_image, save, segmentation, series, structure_set
from tests.made_runs import make_run

SHAPE = (8, 8, 4)
NAMES = ("liver", "spleen")
SECRETS = ("Doe^Jane", "PATIENT-4711", "19610203")
_AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])


@dataclass
class Samples:
    """Folder of the whole files, and those that are damaged often, in memory.

    Attributes:
        folder: ``run`` and ``box`` are runs, ``data`` is a data set of three cases, ``series`` is DICOM.
        image, label: an uncompressed NIfTI file each.
        texts: name -> bytes, of files with a text header.
        slices: of the DICOM series; ``labels`` are a SEG and an RTSTRUCT of it.
        weights: bytes of a SAM checkpoint and of a run's weights, and of an adapter.
        segmenter: what the adapter fits; ``sams`` are one with SAM's masks and one with a mask for each class.
    """

    folder: Path
    image: bytes = b""
    label: bytes = b""
    texts: dict = field(default_factory=dict)
    slices: list = field(default_factory=list)
    labels: list = field(default_factory=list)
    weights: dict = field(default_factory=dict)
    segmenter: object = None
    sams: list = field(default_factory=list)

    def linked_run(self, name, target, but):
        """A copy of a run whose files are links to the sample's, all but one; the path of that one."""
        for source in (self.folder / name).rglob("*"):
            place = target / source.relative_to(self.folder / name)
            if source.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif place.relative_to(target).as_posix() != but:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(source)
        (target / but).parent.mkdir(parents=True, exist_ok=True)
        return target / but


def make_samples(folder):
    """All of them, in ``folder``."""
    samples = Samples(folder)
    hu, classes = body()
    samples.image, samples.label = (nib.Nifti1Image(array, _AFFINE).to_bytes() for array in (hu, classes))
    _text_headers(samples, hu)
    _dicom(samples, hu, classes)
    data_set(folder / "data")
    make_run(folder / "run", names=NAMES)
    make_run(folder / "box", "box", names=NAMES)
    for name in ("run", "box"):
        knobs = resolve_knobs("blosam", sets={"rank": 2, "image_size": 32, "checkpoint": "random"})
        changes = {"dataset_dir": str(folder / "data"), "train": ["case_0", "case_1"], "held_out": ["case_2"]}
        record = json.loads((folder / name / "run.json").read_text())
        write_json(folder / name / "run.json", {**record, **changes, "knobs": knobs.model_dump()})
    _run_files(folder / "run")
    _weights(samples)
    return samples


def body():
    """A CT (SHAPE, int16) with a liver and a spleen, and its label."""
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 1:6, 1:3], label[5:7, 2:6, 1:3] = 1, 2
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    return (np.select([label == 1, label == 2], [120, -60], -900) + noise).astype(np.int16), label


def data_set(folder):
    """Three labelled cases in the layout ``folder``, with a datalist and nnU-Net's and MSD's dataset.json beside."""
    hu, classes = body()
    for number in range(3):
        for part, array in (("images", hu), ("labels", classes)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, _AFFINE), folder / part / f"case_{number}.nii.gz")
    (folder / "labels.json").write_text(json.dumps({"1": "liver", "2": "spleen"}))


def _text_headers(samples, hu):
    image = sitk.GetImageFromArray(hu.transpose())
    image.SetSpacing((2, 2, 5))
    folder = samples.folder / "texts"
    folder.mkdir(parents=True)
    for name in ("a.nrrd", "a.nhdr", "a.mha", "a.mhd"):
        sitk.WriteImage(image, str(folder / name), useCompression=name in ("a.nrrd", "a.mha"))
    sitk.WriteImage(image, str(folder / "plain.mha"))
    sitk.WriteImage(image, str(folder / "plain.nrrd"))
    samples.texts = {path.name: path.read_bytes() for path in folder.iterdir()}


def _dicom(samples, hu, classes):
    samples.slices = series((hu + 1024).transpose(2, 1, 0), spacing=(2, 2, 5), SeriesDescription="x")
    save(samples.folder / "series", samples.slices)
    masks = np.stack([(classes == number).transpose(2, 1, 0) for number in (1, 2)], axis=-1)
    square = [(-28, -38, 105), (-20, -38, 105), (-20, -30, 105), (-28, -30, 105)]
    structures = {"liver": [square], "spleen": [[(x + 9, y, z) for x, y, z in square]]}
    made = bare_image()  # a name to look for is in every one of them
    samples.labels = [segmentation(samples.slices, masks, NAMES), structure_set(samples.slices, structures)]
    samples.labels[0].PatientName = made.PatientName


def _run_files(run):
    """What training and scoring leave in a run, as far as other commands read it."""
    from medsam_adapt.workflows.evaluate import evaluate_run

    cost = {"epochs": 1, "seconds": 1.0, "device": "cpu", "peak_memory_bytes": 10**8, "memory": "process"}
    write_json(run / "training.json", cost)
    classes = {name: {"volume_ml": [0.5, 1.0], "grey_level": [100.0, 120.0]} for name in NAMES}
    write_json(run / "statistics.json", {"format": 1, "classes": classes})
    write_json(run / "splits.json", {"seed": 0, "train": ["case_0", "case_1"], "held_out": ["case_2"]})
    save_adapter(load_run(run, "cpu").segmenter, run / "models" / "adapter")
    evaluate_run(run, device="cpu")
    shutil.rmtree(run / "pictures")


def _weights(samples):
    torch.manual_seed(0)
    samples.sams = [build_sam("vit_nano", 32, classes) for classes in (None, 2)]
    torch.save(samples.sams[0].state_dict(), samples.folder / "sam.pth")
    adapter = samples.folder / "run" / "models" / "adapter"
    samples.segmenter = build_segmenter("vit_nano", 32, 2, DecoderLoRA(rank=2), checkpoint="random")
    samples.segmenter.base_sha256 = saved_base(adapter)
    paths = {
        "sam": samples.folder / "sam.pth",
        "run": samples.folder / "run" / "models" / "model.pt",
        "adapter": samples.folder / "run" / "models" / "adapter" / "adapter_model.safetensors",
    }
    samples.weights = {name: path.read_bytes() for name, path in paths.items()}
