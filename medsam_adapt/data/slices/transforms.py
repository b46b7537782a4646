"""MONAI dictionary transforms: from a stored slice, or a volume file, to what the network takes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
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
    OneOf,
    Orientationd,
    Rand2DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandAxisFlipd,
    RandBiasFieldd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    RandRotate90d,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
    SaveImaged,
    Transform,
)

from medsam_adapt.config import Augmentation, Channels, InputScaling, PromptMode
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import as_typed
from medsam_adapt.data.prompts.simulated import simulate_prompt
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.slice_store import StoredCase
from medsam_adapt.data.volumes.image_search import find_image_sets
from medsam_adapt.data.volumes.io import FORMATS, is_slicer_label, picture_files, read_header, to_ras, volume_files
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE, IGNORED, LabelCoding, read_classes
from medsam_adapt.data.volumes.monai_reader import volume_loader
from medsam_adapt.data.volumes.pieces import without_fragments
from medsam_adapt.weights.pixel_scaling import get_scaling

_SHOWING_A_CLASS = 2 / 3  # of the tiles that slices with labels give


class LoadStoredSliced(Transform):
    """{case, slice} -> {image (3, h, w) float32 in 0..255, label (1, h, w) int64, table}, beside what was there.

    For classes that may overlap the label holds parts, and ``table`` (P, C) says what they are; otherwise it is None.
    Without ``images`` there is no image. Where some case lacks the annotation of some class, ``unannotated`` is (C,)
    bool of this case; otherwise it is None.
    """

    def __init__(self, stored: Mapping[str, StoredCase], channels: Channels = "repeat", images: bool = True) -> None:
        self.stored = stored
        self.channels = channels
        self.images = images
        self.partial = any(case.unannotated for case in stored.values())

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        case = self.stored[data["case"]]
        label = torch.from_numpy(case.labels[data["slice"]].astype(np.int64))[None]
        loaded = {**data, "label": label, "table": case.table, "unannotated": None}
        if self.partial:
            loaded["unannotated"] = np.isin(np.arange(1, case.voxels.shape[1]), case.unannotated)
        if self.images:
            loaded["image"] = torch.from_numpy(case.channels(data["slice"], self.channels)).float()
        return loaded


class DropImagesd(Randomizable, Transform):
    """Blacken each image of a case at random, but one: a run that has seen this predicts without one of them.

    Args:
        probability: of each image.
        images: how many a case has; of two, the third colour is their mean.
    """

    def __init__(self, probability: float, images: int) -> None:
        self.probability, self.images = probability, images

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        kept = self.R.random_sample(self.images) >= self.probability
        kept[self.R.randint(self.images)] |= not kept.any()
        if "image" not in data or kept.all():
            return dict(data)
        image = torch.as_tensor(data["image"]).clone()
        image[: self.images][torch.from_numpy(~kept)] = 0
        if self.images == 2:
            image[2] = image[:2].mean(dim=0)
        return {**data, "image": image}


class CropTiled(Randomizable, Transform):
    """A random tile of slices that are larger than what the network takes; two of three show a class.

    Args:
        size: side of the tile in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = data["label"]
        if max(label.shape[-2:]) <= self.size:
            return dict(data)
        free = [max(0, side - self.size) for side in label.shape[-2:]]
        shown = np.setdiff1d(np.unique(label), (0, IGNORED))
        if shown.size and self.R.random() < _SHOWING_A_CLASS:
            places = np.argwhere(np.asarray(label[0]) == self.R.choice(shown))
            centre = places[self.R.randint(len(places))]
            # The pixel lies anywhere in the tile's inner half, not always in its middle.
            corner = [int(c - self.R.uniform(0.25, 0.75) * self.size) for c in centre]
        else:
            corner = [self.R.randint(side + 1) for side in free]
        row, column = (min(max(0, first), last) for first, last in zip(corner, free, strict=True))
        cropped = (..., slice(row, row + self.size), slice(column, column + self.size))
        return {**data, **{key: data[key][cropped] for key in ("image", "label") if key in data}}


class FinishSliced(Randomizable, Transform):
    """Draw the prompt and pad to the square that the network takes.

    Parts become the masks (C, h, w) of their classes. With a prompt, the label becomes the one structure that the
    sample names. `IGNORED` pixels stay so. Where some cases lack the annotation of a class, labels of classes that
    exclude each other become `possible_classes`.
    The image is prepared for the network's input scaling by :func:`pad_image`.
    """

    def __init__(self, image_size: int, prompt: PromptMode = "none", input_scaling: InputScaling = "sam") -> None:
        self.image_size = image_size
        self.prompt = prompt
        self.input_scaling = input_scaling

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = torch.from_numpy(np.asarray(data["label"], dtype=np.int64))  # augmented or not, whole numbers
        image = {}
        if "image" in data:
            levels = torch.as_tensor(data["image"]).clamp(0, 255)
            image["image"] = pad_image(levels, self.image_size, self.input_scaling)
        if (table := data.get("table")) is not None:
            label = torch.from_numpy(table.astype(np.int64))[label[0]].permute(2, 0, 1)
        prompt: dict[str, Any] = {}
        if self.prompt != "none":
            label = _one_structure(label, data["structure"], overlapping=table is not None)
            prompt = simulate_prompt(label[0].numpy() == 1, self.prompt, self.image_size, self.R)
        label = pad_label(label, self.image_size)
        if self.prompt == "none" and table is None and data.get("unannotated") is not None:
            label = possible_classes(label[0], torch.from_numpy(data["unannotated"]))
        return {
            "case": data["case"],
            "slice": data["slice"],
            **image,
            "label": label,
            **{name: torch.from_numpy(value) for name, value in prompt.items()},
        }


def possible_classes(label: torch.Tensor, unannotated: torch.Tensor) -> torch.Tensor:
    """What each pixel may be, (C + 1, h, w) uint8, from its class (h, w): background may be a class nobody drew.

    Args:
        label: background 0, classes from 1, and `IGNORED`, which may be anything.
        unannotated: (C,) bool.
    """
    numbers = torch.arange(len(unannotated) + 1)[:, None, None]
    hidden = torch.nn.functional.pad(unannotated, (1, 0))[:, None, None]
    possible = (label == numbers) | ((label == 0) & hidden) | (label == IGNORED)
    return possible.to(torch.uint8)


def _one_structure(label: torch.Tensor, structure: int, overlapping: bool) -> torch.Tensor:
    """Mask (1, h, w) of one class, from classes (1, h, w) or masks (C, h, w)."""
    if overlapping:
        return label[structure - 1 : structure]
    return torch.where(label == IGNORED, label, (label == structure).long())


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


def training_transforms(
    stored: Mapping[str, StoredCase],
    image_size: int,
    prompt: PromptMode = "none",
    channels: Channels = "repeat",
    augment: Augmentation = "anatomical",
    images: bool = True,
    input_scaling: InputScaling = "sam",
    channel_dropout: float = 0.0,
    image_count: int = 1,
) -> Compose:
    """From {case, slice[, structure]} to a training sample.

    Args:
        stored: slices by case id.
        image_size: side of the square in pixels.
        prompt: what is simulated from the label.
        channels: the slice repeated, or between its two neighbours.
        augment: ``anatomical`` keeps left left and up up (small rotations, zooms, shifts; contrast, noise);
            ``strong`` as :func:`strong_augmentation`; ``free`` adds mirroring and quarter turns to ``anatomical``, for
            images without a side; ``none`` changes nothing.
        images: whether the sample has an image; its label is the same without it.
        input_scaling: of the network that is trained.
        channel_dropout: probability with which each of several images of a case is left out.
        image_count: images of a case.
    """
    load, finish = LoadStoredSliced(stored, channels, images), FinishSliced(image_size, prompt, input_scaling)
    drop = [DropImagesd(channel_dropout, image_count)] if channel_dropout and image_count > 1 else []
    return Compose([load, CropTiled(image_size), *_augmentations(augment, image_size), *drop, finish])


def _augmentations(augment: Augmentation, image_size: int) -> list[Transform]:
    if augment == "none":
        return []
    if augment == "strong":
        return [strong_augmentation(image_size)]
    both = ("image", "label")
    turns: list[Transform] = []
    if augment == "free":
        turns = [
            RandAxisFlipd(both, prob=0.5, allow_missing_keys=True),
            RandRotate90d(both, prob=0.5, allow_missing_keys=True),
        ]
    return [
        *turns,
        RandAffined(
            both,
            prob=0.75,
            rotate_range=float(np.deg2rad(15)),
            scale_range=(0.1, 0.1),
            translate_range=0.05 * image_size,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
            allow_missing_keys=True,
        ),
        RandScaleIntensityd("image", factors=0.1, prob=0.5, allow_missing_keys=True),
        RandAdjustContrastd("image", gamma=(0.8, 1.25), prob=0.3, allow_missing_keys=True),
        RandGaussianNoised("image", std=6.0, prob=0.3, allow_missing_keys=True),
    ]


class OneStream(Compose):
    """Transforms that all draw from one random stream: to seed each of theirs would take longer than what they do."""

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> OneStream:
        Randomizable.set_random_state(self, seed, state)
        for each in _randomizables(self):
            each.R = self.R
        return self


def _randomizables(value: Any) -> Iterator[Randomizable]:
    """``value`` and all transforms inside it that draw at random."""
    if isinstance(value, Randomizable):
        yield value
    if isinstance(value, Transform):
        yield from _randomizables(list(vars(value).values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _randomizables(item)


def strong_augmentation(image_size: int) -> OneStream:
    """What few labelled patients need: shapes, contrasts, sharpness and illumination that other patients may have.

    Left stays left and up stays up. One resampling moves, turns, scales and bends a slice; each further change is
    rare, so that most slices look as a scanner gives them.

    Args:
        image_size: side of the square in pixels, to which shifts and bends are proportional.
    """
    both = ("image", "label")
    modes = ("bilinear", "nearest")
    turn, scale, shift = float(np.deg2rad(20)), (0.2, 0.2), 0.05 * image_size
    move: dict[str, Any] = {"rotate_range": turn, "scale_range": scale, "translate_range": shift}
    bend: dict[str, Any] = {"spacing": (image_size / 5,) * 2, "magnitude_range": (0.0, 0.02 * image_size)}
    rest: dict[str, Any] = {"mode": modes, "padding_mode": "zeros", "allow_missing_keys": True, "prob": 0.6}
    spatial = OneOf([RandAffined(both, **move, **rest), Rand2DElasticd(both, **bend, **move, **rest)], (0.7, 0.3))
    image: dict[str, Any] = {"keys": "image", "allow_missing_keys": True}
    changes: list[Transform] = [
        spatial,
        RandScaleIntensityd(factors=0.25, prob=0.3, **image),
        RandAdjustContrastd(gamma=(0.7, 1.5), prob=0.3, **image),
        RandBiasFieldd(degree=2, coeff_range=(0.0, 0.15), prob=0.15, **image),
        RandSimulateLowResolutiond(zoom_range=(0.5, 1.0), upsample_mode="bilinear", prob=0.15, **image),
        RandGaussianSmoothd(sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), prob=0.1, **image),
        RandGaussianNoised(std=12.0, prob=0.2, **image),
    ]
    return OneStream(changes)


def volume_transforms(
    policy: IntensityPolicy | Mapping[str, Any],
    label_ids: list[int] | None = None,
    keys: tuple[str, ...] = ("image",),
    coding: LabelCoding = EXCLUSIVE,
) -> Compose:
    """From files to whole volumes: image (1, X, Y, Z) in RAS order on the 0-255 scale, label as classes.

    The image of a picture in colour is (3, X, Y, 1), and that of the images of a case has the network's channels. For
    classes that may overlap the label is a part map, and
    ``table`` (P, C) says which classes a part belongs to.

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


class RemoveFragmentsd(MapTransform):
    """What :func:`without_fragments` removes from maps of classes (1, X, Y, Z); keeps the geometry of a MetaTensor.

    Args:
        keys: of the maps.
        whole: classes of one piece.
    """

    def __init__(self, keys: KeysCollection, whole: Sequence[int]) -> None:
        super().__init__(keys)
        self.whole = tuple(whole)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result) if self.whole else ():
            volume = result[key]
            cleaned = without_fragments(np.asarray(volume[0]).astype(np.int32), self.whole)
            result[key] = MetaTensor(torch.from_numpy(cleaned)[None].to(volume.dtype), meta=volume.meta)
        return result


def mask_transforms(
    preprocessing: Compose,
    label_ids: Sequence[int],
    output_dir: str | Path,
    overlapping: bool = False,
    whole: Sequence[int] = (),
) -> Compose:
    """From logits (C + 1, X, Y, Z) to a mask file OUTPUT/<name>_seg.nii.gz in the input's own orientation.

    Logits (C, X, Y, Z) of classes that may overlap give a 4D file (X, Y, Z, C) of masks.

    Args:
        preprocessing: what :func:`volume_transforms` gave, to be inverted.
        label_ids: the ids written for classes 1, 2, ….
        output_dir: folder of the masks.
        overlapping: whether classes may overlap.
        whole: classes of one piece, of which fragments are removed.
    """
    classes = [*range(len(label_ids) + 1)]
    ids = [0, 1] if overlapping else [0, *label_ids]
    dtype = np.uint16 if max(ids) > 255 else np.uint8
    return Compose(
        [
            AsDiscreted("pred", threshold=0.0) if overlapping else AsDiscreted("pred", argmax=True),
            Invertd("pred", preprocessing, orig_keys="image", nearest_interp=True, to_tensor=True),
            RemoveFragmentsd("pred", whole),
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


def pad_image(image: torch.Tensor, image_size: int, input_scaling: InputScaling = "sam") -> torch.Tensor:
    """Slices as a network takes them: (..., 3, h, w) -> (..., 3, S, S), both on the 0-255 scale.

    Args:
        image: grey levels or colours, windowed and resized; or more channels, one for each image of a case.
        image_size: S, in pixels.
        input_scaling: of the network. For ``unit`` each slice is stretched to 0-255 before it is padded. The padding,
            right and bottom, is what the network's normalisation turns into zeros.
    """
    scaling = get_scaling(input_scaling)
    image = scaling.stretch(image)
    *batch, channels, height, width = image.shape
    canvas = torch.empty(*batch, channels, image_size, image_size, device=image.device)
    canvas[..., :height, :width] = image
    for channel, mean in enumerate(scaling.means(channels)):  # numbers: a tensor of them would wait for the device
        canvas[..., channel, height:, :] = mean
        canvas[..., channel, :height, width:] = mean
    return canvas


def pad_label(label: torch.Tensor, image_size: int) -> torch.Tensor:
    """(..., h, w) -> (..., S, S), padded right and bottom with background."""
    return torch.nn.functional.pad(label, (0, image_size - label.shape[-1], 0, image_size - label.shape[-2]))
