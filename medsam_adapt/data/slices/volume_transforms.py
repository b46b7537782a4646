"""MONAI dictionary transforms of whole volumes: from files to the network's input, and from masks to files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    MapLabelValued,
    MapTransform,
    Orientationd,
    SaveImaged,
    Transform,
)

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import as_typed
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.volumes.cleaning import Cleaning, clean_each
from medsam_adapt.data.volumes.image_search import find_image_sets
from medsam_adapt.data.volumes.io import FORMATS, is_slicer_label, picture_files, read_header, to_ras, volume_files
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE, LabelCoding, read_classes
from medsam_adapt.data.volumes.monai_reader import volume_loader


class ApplyIntensityd(MapTransform):
    """The run's intensity policy on whole volumes; keeps the geometry of a MetaTensor.

    Args:
        keys: of the images.
        policy: the policy, or the mapping that a run's file holds.
    """

    def __init__(self, keys: KeysCollection, policy: IntensityPolicy | Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.policy = IntensityPolicy.model_validate(policy)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            volume = result[key]
            voxels = np.asarray(volume)
            levels = self.policy.apply(voxels[0] if len(voxels) == 1 else np.moveaxis(voxels, 0, -1))
            grey = torch.from_numpy(levels[None] if levels.ndim == 3 else np.moveaxis(levels, -1, 0))
            result[key] = MetaTensor(grey, meta=volume.meta, applied_operations=volume.applied_operations)
        return result


class NameByCased(Transform):
    """Let masks be named after the case, where several images are taken together: their files are called alike."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if "id" in data and isinstance(data["image"], MetaTensor):
            data["image"].meta["filename_or_obj"] = f"{data['id']}.nii.gz"
        return dict(data)


class LoadClassesd(Transform):
    """{image, label}, both paths -> the label as classes 1, 2, … (1, X, Y, Z) uint8 in RAS order; the image stays.

    Of classes that may overlap it is a part map (int32), and ``table`` (P, C) stands beside it. The label may also be
    {class id: its mask's path}. It lies where its image does: that is checked before. Label ids in ``unannotated``
    become numbers of classes.
    """

    def __init__(self, label_ids: Sequence[int], coding: LabelCoding = EXCLUSIVE) -> None:
        self.label_ids, self.coding = label_ids, coding

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        header = read_header(data["image"])
        classes, table = read_classes(data["label"], self.label_ids, self.coding, header)
        turned, affine = to_ras(classes if table is None else classes.astype(np.int32), header.affine)
        label = MetaTensor(torch.from_numpy(turned.copy())[None], affine=torch.from_numpy(affine))
        ids = {int(word) for word in str(data.get("unannotated", "")).split()}
        numbers = [str(number) for number, each in enumerate(self.label_ids, start=1) if each in ids]
        loaded = {**data, "label": label, "unannotated": " ".join(numbers)}
        return loaded if table is None else {**loaded, "table": table}


class CleanEachd(MapTransform):
    """The clean-up of maps of classes (1, X, Y, Z), by `clean_each`; keeps the geometry of a MetaTensor.

    Args:
        keys: of the maps.
        cleanings: by class.
    """

    def __init__(self, keys: KeysCollection, cleanings: Mapping[int, Cleaning]) -> None:
        super().__init__(keys)
        self.cleanings = dict(cleanings)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result) if self.cleanings else ():
            volume = result[key]
            sides = [float(side) for side in volume.pixdim]
            cleaned = clean_each(np.asarray(volume[0]).astype(np.int32), self.cleanings, sides)
            result[key] = MetaTensor(torch.from_numpy(cleaned)[None].to(volume.dtype), meta=volume.meta)
        return result


def volume_transforms(
    policy: IntensityPolicy | Mapping[str, Any],
    label_ids: list[int] | None = None,
    keys: tuple[str, ...] = ("image",),
    coding: LabelCoding = EXCLUSIVE,
) -> Compose:
    """From files to whole volumes: image (1, X, Y, Z) in RAS order on the 0-255 scale, label as classes.

    The image of a picture in colour is (3, X, Y, 1), and that of the images of a case has the network's channels. For
    classes that may overlap the label is a part map, and
    ``table`` (P, C) lists which classes a part belongs to.

    Args:
        policy: the run's intensity policy.
        label_ids: the ids in the label files that become classes 1, 2, …; needed when ``keys`` holds ``label``.
        keys: ``image``, or ``image`` and ``label``.
        coding: of the label files.
    """
    steps: list[Transform] = [LoadClassesd(label_ids or [], coding)] if "label" in keys else []
    return Compose(
        [
            *steps,
            volume_loader("image", IntensityPolicy.model_validate(policy).suv),
            NameByCased(),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            ApplyIntensityd("image", policy),
        ]
    )


def mask_transforms(
    preprocessing: Compose,
    label_ids: Sequence[int],
    output_dir: str | Path,
    overlapping: bool = False,
    cleanings: Mapping[int, Cleaning] | None = None,
) -> Compose:
    """From logits (C + 1, X, Y, Z) to a mask file OUTPUT/<name>_seg.nii.gz in the input's own orientation.

    Logits (C, X, Y, Z) of classes that may overlap give a 4D file (X, Y, Z, C) of masks.

    Args:
        preprocessing: what :func:`volume_transforms` gave, to be inverted.
        label_ids: the ids written for classes 1, 2, ….
        output_dir: folder of the masks.
        overlapping: whether classes may overlap.
        cleanings: of the classes.
    """
    classes = [*range(len(label_ids) + 1)]
    ids = [0, 1] if overlapping else [0, *label_ids]
    dtype = np.uint16 if max(ids) > 255 else np.uint8
    return Compose(
        [
            AsDiscreted("pred", threshold=0.0) if overlapping else AsDiscreted("pred", argmax=True),
            Invertd("pred", preprocessing, orig_keys="image", nearest_interp=True, to_tensor=True),
            CleanEachd("pred", cleanings or {}),
            MapLabelValued("pred", classes[: len(ids)], ids, dtype=dtype),
            SaveImaged(
                "pred",
                output_dir=as_typed(output_dir, "output_dir"),
                output_postfix="seg",
                output_dtype=dtype,
                separate_folder=False,
                print_log=False,
            ),
        ]
    )


def volumes_in(
    folder: str | Path, images: Sequence[str] = (), may_lack: bool = False
) -> list[dict[str, str | list[str]]]:
    """{image} of every volume file in a folder, or of the one file that it names; or {id, images} of every case.

    Args:
        folder: of the volumes, or one file.
        images: names of the images of a case that a run takes together (`find_image_sets`).
        may_lack: whether some of them may be missing.

    Raises:
        InputError: when there is none; as `find_image_sets`.
    """
    folder = Path(as_typed(folder, "dataset_dir"))
    if images:
        if not folder.exists():
            raise InputError(f"{folder}: it does not exist. Give the images of a case, or a folder of cases.")
        sets = find_image_sets(folder, images, may_lack)
        return [{"id": case, "image": found.entry()} for case, found in sets.items()]
    files = [folder] if folder.is_file() else _images_in(folder) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: it has no volume ({', '.join(FORMATS)}). Give a volume or a folder of volumes.")
    return [{"image": str(file)} for file in files]


def _images_in(folder: Path) -> list[Path]:
    return [path for path in volume_files(folder) if not is_slicer_label(path)] or picture_files(folder)
