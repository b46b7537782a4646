"""The intensity policy of a training, from its setting and the training cases, and the reason in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from medsam_adapt.config import Intensity
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.intensity_rules import rule_names
from medsam_adapt.core.text import counted
from medsam_adapt.data.slices.ct_window import visible_window
from medsam_adapt.data.slices.intensity import IntensityPolicy, choose_policy, describe_choice
from medsam_adapt.data.slices.slice_fit import LabelledVolumes
from medsam_adapt.data.volumes.case import Case
from medsam_adapt.data.volumes.formats.dicom import SeriesHeader
from medsam_adapt.data.volumes.formats.dicom_suv import suv_factor
from medsam_adapt.data.volumes.formats.picture import is_dark_16_bit
from medsam_adapt.data.volumes.image_set import ImageSetHeader
from medsam_adapt.data.volumes.io import VolumeHeader, read_volume

_SAMPLE = 3  # volumes read to determine the modality
_LEAST_ADC = 50.0  # 1e-6 mm²/s: numbers below this are of another unit, such as 1e-3 mm²/s


def policy_of_cases(
    labelled: LabelledVolumes, setting: Intensity, of_layout: str = "auto", images: Sequence[str] = ()
) -> tuple[IntensityPolicy, str]:
    """The policy, and a sentence that states which it is and why.

    A window that is chosen for CT is widened where it hides a structure of the training labels (`visible_window`).

    Args:
        labelled: the training volumes.
        setting: one rule, or one for each image.
        of_layout: the rule that suits the data set, where the setting is ``auto``.
        images: names of the images of a case, where there are several.

    Raises:
        InputError: as `choose_policy` and `suv_factor`; rules that are not as many as images.
    """
    names = rule_names(setting)
    if len(names) > 1 and len(names) != len(images):
        count = (
            f"a case has {counted(len(images), 'image')} ({', '.join(images)})" if images else "a case has one image"
        )
        given = counted(len(names), "rule")
        raise InputError(f"intensity: {given} are given and {count}. Give one rule, or one for each image.")
    if names[0].startswith("ct-windows:") and images:
        raise InputError("intensity: ct-windows fills the colours from one image. Choose another rule for several.")
    cases, headers = labelled.cases, labelled.headers
    sample = list(cases[:_SAMPLE])
    if not images:
        stated = [headers[case.id].modality for case in cases]
        policy, reason = _choose(names[0], of_layout, sample, headers, stated)
        return _visible(policy, reason, labelled) if setting == of_layout == "auto" else (policy, reason)
    found = []
    for index, name in enumerate(names * len(images) if len(names) == 1 else names):
        stated = [headers[case.id].modalities[index] for case in cases]
        if images[index].strip().upper() == "CT":  # nnU-Net and MSD state a modality by the channel's name
            stated = ["CT"] * len(stated)
        found.append((images[index], *_choose(name, of_layout, sample, headers, stated, index)))
    policies = tuple(policy for _, policy, _ in found)
    reason = " ".join(f"{image}: {text}" for image, _, text in found)
    return IntensityPolicy(kind="channels", channels=policies, modality=policies[0].modality), reason


def _visible(policy: IntensityPolicy, reason: str, labelled: LabelledVolumes) -> tuple[IntensityPolicy, str]:
    """The policy, which was chosen without looking at labels, and its reason, once it shows what is learned."""
    if policy.kind != "window" or policy.modality != "CT" or policy.low is None or policy.high is None:
        return policy, reason
    low, high = visible_window(labelled.axial_slices(_SAMPLE), policy.low, policy.high)
    if (low, high) == (policy.low, policy.high):
        return policy, reason
    wider = policy.model_copy(update={"low": low, "high": high})
    before = f"{policy.low:g} to {policy.high:g} HU"
    return wider, f"{wider.describe()}, since {before} would show a structure and what is around it alike."


def _choose(
    setting: str,
    of_layout: str,
    sample: Sequence[Case],
    headers: Mapping[str, VolumeHeader],
    stated: Sequence[str | None],
    index: int | None = None,
) -> tuple[IntensityPolicy, str]:
    """The policy of one image of the cases, number ``index`` of several, and its reason."""
    name = of_layout if setting == "auto" else setting
    pictures = [case.image for case in sample if isinstance(case.image, Path)] if name == "picture" else []
    if setting == "auto" and any(map(is_dark_16_bit, pictures)):
        name = "percentile"  # shown as a viewer does, they are all but black
    unstated = [] if all(stated) else [case for case in sample if not headers[case.id].modalities[index or 0]]
    policy = choose_policy(name, _voxels(unstated, index), stated)
    named_by = "intensity" if setting != "auto" else "the intensity of the layout"
    reason = describe_choice(policy, name, stated, named_by)
    if name == "auto" and {*stated} == {"ADC"} and _is_no_adc(_voxels(sample[:1], index)):
        policy = choose_policy("percentile", (), stated)
        reason = f"{policy.describe()}, since the headers state ADC in another unit than 1e-6 mm²/s."
    if policy.unit == "SUV":
        for header in headers.values():
            member = header.members[index] if index is not None and isinstance(header, ImageSetHeader) else header
            if isinstance(member, SeriesHeader) and member.modality == "PT":
                suv_factor(member)  # what it lacks is reported before anything slow
    return policy, reason


def _voxels(cases: Iterable[Case], index: int | None) -> Iterable[np.ndarray]:
    for case in cases:
        volume = read_volume(case.image)[0]
        yield volume if index is None else volume[..., index]


def _is_no_adc(volumes: Iterable[np.ndarray]) -> bool:
    return any(np.percentile(volume, 99) < _LEAST_ADC for volume in volumes)
