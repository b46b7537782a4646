"""A tiny, structurally exact sample of every layout: three patients (of SegRap too), enough to train and hold one out.

``SAMPLES[name](root)`` writes one; its classes and their voxels are those of `body`.
"""

import json

import nibabel as nib
import numpy as np
from PIL import Image

from medsam_adapt.data.datasets.layouts import segrap

SHAPE = (20, 18, 5)
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
COUNT = 3


def body(seed):
    """A CT (SHAPE, int16) with two organs: (HU, label) where liver is 1 and spleen 2."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:11, 3:12, 1:4] = 1
    label[12:17, 5:12, 1:4] = 2
    noise = np.random.default_rng(seed).normal(0, 10, SHAPE)
    hu = np.select([label == 1, label == 2], [120, -60], -900) + noise
    hu[:, :, 0] = -900
    return hu.astype(np.int16), label


def volume(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def pairs(root, image, label, numbers=range(COUNT)):
    """Images and labels, their paths below ``root`` given with {} for the number."""
    for number in numbers:
        hu, classes = body(number)
        volume(root / image.format(number), hu)
        volume(root / label.format(number), classes)


NAMES = {"0": "background", "1": "liver", "2": "spleen"}


def listed(image, label, numbers=range(COUNT)):
    return [{"image": "./" + image.format(number), "label": "./" + label.format(number)} for number in numbers]


def adome(root):
    pairs(root, "images/FLARE22_Tr_000{}_0000.nii.gz", "labels/FLARE22_Tr_000{}.nii.gz")


def folder(root):
    pairs(root, "images/case_{}.nii.gz", "labels/case_{}.nii.gz")
    text(root / "labels.json", {"1": "liver", "2": "spleen"})


def msd(root):
    image, label = "imagesTr/organ_00{}.nii.gz", "labelsTr/organ_00{}.nii.gz"
    pairs(root, image, label)
    text(root / "dataset.json", {"modality": {"0": "CT"}, "labels": NAMES, "training": listed(image, label)})


def datalist(root):
    pairs(root, "ct/{}.nii.gz", "seg/{}.nii.gz")
    text(root / "datalist.json", {"labels": NAMES, "training": listed("ct/{}.nii.gz", "seg/{}.nii.gz")})


def amos(root, numbers=(1, 4, 6)):
    image, label = "imagesTr/amos_{:04d}.nii.gz", "labelsTr/amos_{:04d}.nii.gz"
    pairs(root, image, label, numbers)
    names = {"0": "background", "1": "spleen", "2": "right kidney", "3": "left kidney"}
    text(root / "dataset.json", {"labels": names, "training": listed(image, label, numbers)})


def btcv(root):
    pairs(root, "img/img000{}.nii.gz", "label/label000{}.nii.gz")


def nnunet(root, labels=None, channels=("CT",)):
    """``labels``: of dataset.json, those of `body` when None; one image for each of ``channels``."""
    for index in range(len(channels)):
        pairs(root, f"imagesTr/organ_00{{}}_{index:04d}.nii.gz", "labelsTr/organ_00{}.nii.gz")
    described = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": labels or {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": COUNT,
        "file_ending": ".nii.gz",
    }
    text(root / "dataset.json", described)


def nnunet_regions(root):
    """nnU-Net's regions: the abdomen's two organs, and the liver within."""
    nnunet(root, {"background": 0, "organs": [1, 2], "liver": 1})


SEGRAP_CASES = "SegRap2023_Training_Set_120cases"


def segrap_parts(seed):
    """(HU, parts): every part of Task001, 1 to 54, in blocks of two voxels, so that all organs and overlaps occur."""
    parts = np.zeros(SHAPE, np.uint8)
    blocks = np.arange(54) + 1
    for part in np.random.default_rng(seed).permutation(blocks):
        x, y, z = (part - 1) % 6 * 3 + 1, (part - 1) // 6 % 5 * 3 + 1, 1 + 2 * ((part - 1) // 30)
        parts[x : x + 2, y : y + 2, z] = part
    return np.where(parts > 0, parts.astype(np.int16) * 5, -900).astype(np.int16), parts


def organ_masks(parts):
    """Organ -> mask, of a map of Task001."""
    return {name: np.isin(parts, numbers) for name, numbers in segrap.PARTS.items()}


def segrap_maps(root):
    """SegRap2023 with the maps of both tasks."""
    for number in range(COUNT):
        hu, parts = segrap_parts(number)
        case = f"segrap_000{number}"
        for image in ("image", "image_contrast"):
            volume(root / SEGRAP_CASES / case / f"{image}.nii.gz", hu + 40 * (image != "image"))
        volume(root / f"{SEGRAP_CASES}_OneHot_Labels/Task001/{case}.nii.gz", parts)
        volume(root / f"{SEGRAP_CASES}_OneHot_Labels/Task002/{case}.nii.gz", (parts % 3).astype(np.uint8))


def segrap_masks(root):
    """SegRap2023 with a mask for each organ."""
    for number in range(COUNT):
        hu, parts = segrap_parts(number)
        place = root / SEGRAP_CASES / f"segrap_000{number}"
        volume(place / "image.nii.gz", hu)
        volume(place / "image_contrast.nii.gz", hu)
        for name, mask in organ_masks(parts).items():
            volume(place / f"{name}.nii.gz", mask.astype(np.uint8))


def image2d(root, suffix="jpg", names=None):
    """Pictures in colour, the structure reddish on blue; masks that JPEG blurs; ``names``: of labels.json."""
    for number in range(COUNT):
        inside = np.zeros((30, 40), bool)
        inside[8 + number : 22, 10:28] = True
        pixels = np.where(inside[..., None], (200, 60, 40), (30, 50, 120)).astype(np.uint8)
        mask = inside.astype(np.uint8) * (255 if suffix == "jpg" else 1)
        for place, array in (("images", pixels), ("masks", mask)):
            path = root / place / f"cju{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    if names:
        text(root / "labels.json", names)


def image2d_png(root):
    """PNGs of 0 and 1, and the structure's name."""
    image2d(root, "png", {"1": "polyp"})


SAMPLES = {
    "adome": adome,
    "amos": amos,
    "btcv": btcv,
    "datalist": datalist,
    "folder": folder,
    "image2d": image2d,
    "image2d_png": image2d_png,
    "msd": msd,
    "nnunet": nnunet,
    "nnunet_regions": nnunet_regions,
    "segrap": segrap_maps,
    "segrap_masks": segrap_masks,
}


def layout_of(sample):
    """The layout of a sample: some have two."""
    return sample.split("_")[0]
