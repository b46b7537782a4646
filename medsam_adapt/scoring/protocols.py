"""Named evaluation protocols: the rules of a challenge or of the papers, and what differs from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from medsam_adapt.core.errors import InputError
from medsam_adapt.scoring.conventions import METRICS as CONVENTION_METRICS
from medsam_adapt.scoring.conventions import REMARKS, Convention, check_convention
from medsam_adapt.scoring.metrics import EmptyPolicy, MetricRules, choose_metrics

SEES_THE_ANSWER = (
    "The prompts were made from the very labels that the result is scored on: the model sees the answer, and these are "
    "not scores of a segmentation without a user."
)

PROTOCOLS = {
    "default": MetricRules(),
    "segrap": MetricRules(
        metrics=("dsc", "nsd"),
        empty_policy="challenge",
        tolerances_mm={"Larynx": 2.0, "OralCavity": 3.0},
        surface="area",
        protocol="segrap",
        remarks=(
            "SegRap2023: DSC and NSD (by surface area, 1 mm; 2 mm for Larynx, 3 mm for OralCavity); a structure that "
            "is empty in both masks scores 1. The challenge rounds each score to four decimals; these are unrounded.",
        ),
    ),
    "papers": MetricRules(
        metrics=("dsc", "iou", "slice_dsc"),
        protocol="papers",
        remarks=(
            "DSC per slice, as papers on SAM report it: over the axial slices on which the reference has the structure "
            "('pooled' takes the slices of all cases together). It differs from theirs in that masks are compared in "
            "the volume's own pixels, not at the network's image size; it differs from DSC per volume in that slices "
            "without the structure, and false positives on them, never count.",
        ),
    ),
}


def choose_rules(
    protocol: str = "default",
    metrics: str | None = None,
    empty_policy: str | None = None,
    tolerance: str | None = None,
    convention: str = "ours",
) -> MetricRules:
    """The rules of a protocol, changed as the user asks.

    Args:
        protocol: of :data:`PROTOCOLS`.
        metrics: such as ``dsc,hd95``, or ``all``.
        empty_policy: ``undefined`` or ``challenge``.
        tolerance: of NSD in mm: ``2``, ``Larynx=2,OralCavity=3`` or ``1,Larynx=2``.
        convention: ``ours``, or the library whose definitions the scores follow.

    Raises:
        InputError: an unknown name, a tolerance that is no length, or options that do not go with a convention.
    """
    if (chosen := check_convention(convention)) != "ours":
        return _rules_of_convention(chosen, protocol, metrics, empty_policy, tolerance)
    if protocol not in PROTOCOLS:
        raise InputError(f"--protocol {protocol}: there is no such protocol. Use {', '.join(PROTOCOLS)}.")
    rules = PROTOCOLS[protocol]
    if metrics is not None:
        rules = replace(rules, metrics=choose_metrics([name.strip() for name in metrics.split(",")]))
    if empty_policy is not None:
        if empty_policy not in get_args(EmptyPolicy):
            raise InputError(
                f"--empty-policy {empty_policy}: there is no such policy. Use {' or '.join(get_args(EmptyPolicy))}."
            )
        rules = replace(rules, empty_policy=empty_policy)  # type: ignore[arg-type]
    if tolerance is not None:
        shared, single = _tolerances(tolerance)
        shared = rules.tolerance_mm if shared is None else shared
        rules = replace(rules, tolerance_mm=shared, tolerances_mm={**rules.tolerances_mm, **single})
    return rules


def _rules_of_convention(
    convention: Convention, protocol: str, metrics: str | None, empty_policy: str | None, tolerance: str | None
) -> MetricRules:
    if protocol != "default" or empty_policy is not None or tolerance is not None:
        raise InputError(
            f"--convention {convention}: it has its own rules. Leave out --protocol, --empty-policy and --tolerance."
        )
    chosen = CONVENTION_METRICS if metrics is None else choose_metrics([name.strip() for name in metrics.split(",")])
    if unknown := [name for name in chosen if name not in CONVENTION_METRICS]:
        known = ", ".join(CONVENTION_METRICS)
        raise InputError(f"--convention {convention}: it has no {unknown[0]}. Choose --metrics among {known}.")
    return MetricRules(metrics=chosen, remarks=(REMARKS[convention],), convention=convention)


def check_tolerances(tolerance: str | None, class_names: Sequence[str]) -> None:
    """Refuse a tolerance for a class that is not scored.

    Raises:
        InputError: naming the class.
    """
    known = {name.casefold() for name in class_names}
    for name in _tolerances(tolerance)[1] if tolerance is not None else ():
        if name.casefold() not in known:
            raise InputError(
                f"--tolerance {tolerance}: there is no class {name!r}. Choose from {', '.join(class_names)}."
            )


def _tolerances(text: str) -> tuple[float | None, dict[str, float]]:
    shared, single = None, {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1000:
            raise InputError(f"--tolerance {text}: it is not a length. Write millimetres, as in 2, or 1,Larynx=2.")
        if name.strip():
            single[name.strip()] = value
        else:
            shared = value
    return shared, single
