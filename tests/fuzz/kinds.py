"""Kinds of input, those of volumes first: each function damages one sample and gives the command that reads it.

A kind is ``function(rng, samples, folder) -> Command``. Whatever the command writes belongs in ``folder / "out"``.
"""

import copy
import shutil
import sys

import numpy as np

from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.data.volumes.formats.dicom_headers import quiet_dicom
from tests.fuzz import mutations
from tests.fuzz.mutations import pick

KINDS = {}


def kind(function):
    """Register a kind under its function's name."""
    KINDS[function.__name__.replace("_", " ")] = function
    return function


def command(*arguments):
    """A command line, run in this process."""
    return lambda: main([str(argument) for argument in arguments])


def door(function, *arguments):
    """A function of the library that ends as the command line would have it end."""

    def call():
        try:
            function(*arguments)
        except (InputError, RunError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2 if isinstance(error, InputError) else 1)

    return call


def predict(samples, source, folder, *options, run="run"):
    """Segment ``source``."""
    return command("predict", samples.folder / run, "-i", source, "-o", folder / "out", "--device", "cpu", *options)


def reading(rng, samples, folder, name, content, label=False):
    """One of the commands that read a volume; ``content`` is written under ``name``, as an image or as a label."""
    data = folder / "data"
    for part in ("images", "labels"):
        (data / part).mkdir(parents=True)
    damaged, whole = ("labels", "images") if label else ("images", "labels")
    (data / damaged / name).write_bytes(content)
    (data / whole / "a.nii.gz").write_bytes(mutations.zipped(samples.image if label else samples.label))
    how = int(rng.integers(4))
    if how == 0:
        return command("data", "convert", data, "-o", folder / "out")
    if how == 1 and label:
        return command(
            "evaluate",
            "--pred",
            data / "labels",
            "--ref",
            samples.folder / "data" / "labels",
            "--output",
            folder / "out",
        )
    if how == 2 or label:
        return command("data", "check", data, *(["--json"] if rng.random() < 0.5 else []))
    return predict(samples, data / damaged / name, folder)


# ----------------------------------------------------------------------------------------------------------- volumes


@kind
def nifti_image(rng, samples, folder):
    content, name = mutations.changed_nifti(rng, samples.image), "a.nii"
    if rng.random() < 0.7:
        content, name = mutations.zipped(content), "a.nii.gz"
        if rng.random() < 0.3:
            content = mutations.damaged(rng, content)
    return reading(rng, samples, folder, name, content)


@kind
def nifti_label(rng, samples, folder):
    return reading(
        rng, samples, folder, "a.nii.gz", mutations.zipped(mutations.changed_nifti(rng, samples.label)), label=True
    )


def _text_header(rng, samples, folder, names, separator):
    name = pick(rng, names)
    content = mutations.changed_text_header(rng, samples.texts[name], separator)
    name = name.replace("plain", "a")
    made = reading(rng, samples, folder, name, content)
    beside = {"a.nhdr": "a.raw", "a.mhd": "a.raw"}.get(name)
    if beside:
        (folder / "data" / "images" / beside).write_bytes(samples.texts[beside])
    return made


@kind
def nrrd(rng, samples, folder):
    return _text_header(rng, samples, folder, ("a.nrrd", "plain.nrrd", "a.nhdr"), b":")


@kind
def metaimage(rng, samples, folder):
    return _text_header(rng, samples, folder, ("a.mha", "plain.mha", "a.mhd"), b"=")


@kind
def picture(rng, samples, folder):
    from PIL import Image

    path = folder / pick(rng, ("a.png", "a.jpg"))
    shape = (10, 12, 3) if rng.random() < 0.5 else (10, 12)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    path.write_bytes(mutations.damaged(rng, path.read_bytes()))
    return predict(samples, path, folder)


# ------------------------------------------------------------------------------------------------------------- DICOM


def _saved(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet_dicom():
        try:
            dataset.save_as(path, enforce_file_format=True)
        except Exception:  # whatever the reason, what pydicom cannot write is no input
            path.write_bytes(b"\0" * 128 + b"DICM" + b"\2\0")


@kind
def dicom_series(rng, samples, folder):
    chosen = [copy.deepcopy(item) if rng.random() < 0.2 else item for item in samples.slices]
    harmed = rng.permutation(len(chosen))[: int(pick(rng, (1, 1, 2, len(chosen))))]
    place = folder / "data" / "case"
    for index, item in enumerate(chosen):
        path = place / f"IM{index}"
        _saved(mutations.changed_dataset(rng, item) if index in harmed and rng.random() < 0.7 else item, path)
        if index in harmed and rng.random() < 0.3:
            path.write_bytes(mutations.damaged(rng, path.read_bytes()))
    if rng.random() < 0.1:
        (place / f"IM{harmed[0]}").unlink()
    if rng.random() < 0.4:
        return command("data", "check", folder / "data")
    if rng.random() < 0.3:
        return command("data", "convert", folder / "data", "-o", folder / "out")
    formats = ("nifti", "dicom-seg", "rtstruct")
    return predict(samples, place, folder, "--format", pick(rng, formats))


@kind
def dicom_label(rng, samples, folder):
    shutil.copytree(samples.folder / "series", folder / "data" / "case")
    path = folder / "data" / "case" / "label.dcm"
    dataset = pick(rng, samples.labels)
    _saved(mutations.changed_dataset(rng, dataset) if rng.random() < 0.7 else dataset, path)
    if rng.random() < 0.4:
        path.write_bytes(mutations.damaged(rng, path.read_bytes()))
    if rng.random() < 0.3:
        return command("data", "convert", folder / "data", "-o", folder / "out")
    return command("data", "check", folder / "data", "--layout", "dicom")
