"""Pretrained SAM weights by name, as plain data: listings read this file without loading torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from medsam_adapt.config import InputScaling
from medsam_adapt.core.errors import InputError

_SAM_FILES = "https://dl.fbaipublicfiles.com/segment_anything"
_SAM_PAGE = "https://github.com/facebookresearch/segment-anything#model-checkpoints"


@dataclass(frozen=True)
class Weights:
    """One file of pretrained weights.

    Attributes:
        name: what ``--checkpoint`` calls it.
        backbone: the variant that it fits.
        file_name: under which it is published and kept.
        licence: SPDX name.
        page: where people read about it and fetch it by hand; None for the file in this package.
        url: the file itself; None where it can only be fetched by hand.
        size: in bytes, None where it is not published.
        sha256: None where it is not published; then it is recorded on first use.
        shipped: whether the file is part of this package.
        input_scaling: pixel values that the weights were trained with.
    """

    name: str
    backbone: str
    file_name: str
    licence: str
    page: str | None = None
    url: str | None = None
    size: int | None = None
    sha256: str | None = None
    shipped: bool = False
    input_scaling: InputScaling = "sam"


# The six digits in the names of SAM's files begin the MD5 of their bytes, not the SHA-256. The SHA-256 is in the model
# registry of micro-sam (github.com/computational-cell-analytics/micro-sam, micro_sam/util.py) and, with the size, in
# the Git LFS pointers of copies on Hugging Face (mashb1t/misc, commit 78e18135), which agree. MedSAM's is in such a
# pointer too (spaces/dennistrujillo/MedSAMTest, commit 2c1bc6a7).
WEIGHTS = {
    weights.name: weights
    for weights in (
        Weights(
            "sam_nano",
            backbone="vit_nano",
            file_name="sam_nano.safetensors",
            licence="Apache-2.0",
            size=5_753_296,
            sha256="e7a7977d1074effaf12ee83c7ddfb48a5bfb5312147db13d4d8d569db5b35f9b",
            shipped=True,
        ),
        Weights(
            "sam_vit_b",
            backbone="vit_b",
            file_name="sam_vit_b_01ec64.pth",
            licence="Apache-2.0",
            page=_SAM_PAGE,
            url=f"{_SAM_FILES}/sam_vit_b_01ec64.pth",
            size=375_042_383,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        Weights(
            "sam_vit_l",
            backbone="vit_l",
            file_name="sam_vit_l_0b3195.pth",
            licence="Apache-2.0",
            page=_SAM_PAGE,
            url=f"{_SAM_FILES}/sam_vit_l_0b3195.pth",
            size=1_249_524_607,
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        Weights(
            "sam_vit_h",
            backbone="vit_h",
            file_name="sam_vit_h_4b8939.pth",
            licence="Apache-2.0",
            page=_SAM_PAGE,
            url=f"{_SAM_FILES}/sam_vit_h_4b8939.pth",
            size=2_564_550_879,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
        Weights(
            "medsam_vit_b",
            backbone="vit_b",
            file_name="medsam_vit_b.pth",
            licence="CC-BY-4.0",
            page="https://zenodo.org/records/10689643",
            url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth?download=1",
            size=375_049_145,
            sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
            input_scaling="unit",
        ),
    )
}


def get_weights(name: str) -> Weights:
    """The weights called ``name``.

    Raises:
        InputError: when there are none of that name.
    """
    if name not in WEIGHTS:
        raise InputError(f"there are no weights named '{name}'{nearest(name)}: use one of {', '.join(WEIGHTS)}.")
    return WEIGHTS[name]


def nearest(name: str) -> str:
    """A question to put behind ``name`` in a complaint; empty when no known name is near."""
    close = difflib.get_close_matches(name, WEIGHTS, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
