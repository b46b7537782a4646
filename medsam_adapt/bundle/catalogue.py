"""Bundles: found and listed as plain data, their settings merged and checked, and run through MONAI's workflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapt.bundle import contents
from medsam_adapt.bundle.contents import bundle_folder
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.bundle.untrusted import base_bundle, is_untrusted, read_untrusted, require_trust
from medsam_adapt.config import Knobs, refuse_code
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import decoded, literal

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

RECIPES = ("default", "paper")
DEFAULT_BUNDLE = "detail"


@cache
def read_config(name: str, config: str) -> dict[str, Any]:
    """One config of a bundle, such as ``metadata`` or ``train``, as plain data."""
    if is_untrusted(name):
        return read_untrusted(Path(name), config)
    return contents.complete_configs(bundle_folder(name))[config]


def recipe_values(name: str, recipe: str = "default") -> dict[str, Any]:
    """The settings of a bundle under one of its recipes.

    Those that are particular to the bundle are in its ``train.json``, the rest are the defaults that all bundles
    share; another recipe is an overlay beside it.

    Raises:
        InputError: unknown bundle or recipe.
    """
    if recipe not in RECIPES:
        raise InputError(f"--recipe {recipe}: there is no such recipe. Use {' or '.join(RECIPES)}.")
    own = {
        key: decoded(value)
        for key, value in read_config(name, "train")["knobs"].items()
        if key not in ("_target_", "bundle")
    }
    return own if recipe == "default" else {**own, **read_config(name, f"recipe_{recipe}").get("+knobs", {})}


def resolve_knobs(
    name: str, recipe: str = "default", options: Mapping[str, Any] | None = None, sets: Mapping[str, Any] | None = None
) -> Knobs:
    """The settings of a run: recipe, then the command's options, then ``--set``.

    Args:
        name: of the bundle, or the folder of one that is not shipped.
        recipe: ``default`` or ``paper``.
        options: values given as options of the command, None where they were not.
        sets: values given by ``--set``.

    Raises:
        InputError: all faults at once.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    return run_knobs(base_bundle(name), **{**recipe_values(name, recipe), **given, **(sets or {})})


def parse_sets(pairs: list[str]) -> dict[str, Any]:
    """``key=value`` pairs; values are JSON, or plain words.

    Raises:
        InputError: no ``=``, or a value that MONAI would take for code or a reference.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set {pair}: it is not KEY=VALUE. Write it as key=value.")
        if text.lstrip()[:1] in ("$", "@", "%"):
            raise InputError(f"--set {pair}: a value that begins with $, @ or % is refused. Give data only.")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return values


def workflow(
    name: str,
    config: str,
    values: Mapping[str, Any],
    workflow_type: str = "train",
    overlay: str | None = None,
    trusted: bool = False,
) -> ConfigWorkflow:
    """MONAI's workflow of a bundle's config, initialised, with ``values`` in place of its settings.

    Args:
        name: of the bundle, or the folder of one that is not shipped.
        config: such as ``train``.
        values: of settings, by their names in the config.
        workflow_type: ``train``, or ``infer`` for all others.
        overlay: another config that is laid over it.
        trusted: whether the user trusts the author of a bundle that is not shipped.

    Raises:
        InputError: for a value that begins as code does, or a bundle that is not to be run.
    """
    refuse_code(values, f"bundle {name}")
    require_trust(name, trusted)
    from monai.bundle import ConfigWorkflow

    folder = Path(name) if is_untrusted(name) else bundle_folder(name)
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it announces files that are known
    flow = ConfigWorkflow(
        config_file=[str(contents.config_file(folder, part)) for part in (config, overlay) if part],
        meta_file=[str(path) for path in contents.metadata_files(folder)],
        logging_file=False,
        workflow_type=workflow_type,
        **literal({"bundle_root": str(folder), **values}),
    )
    flow.initialize()
    return flow


def describe_network(
    name: str, backbone: str, classes: int = 1, trusted: bool = False, images: int = 1
) -> dict[str, Any]:
    """How much a bundle trains, counted on the network itself, which is built without memory for its weights.

    Args:
        name: of the bundle.
        backbone: of the network.
        classes: that it draws.
        trusted: whether an untrusted bundle's code may run.
        images: of a case that it sees together.

    Returns:
        ``trainable`` (``encoder``, ``decoder``, ``other``, ``total``), ``sam_parameters`` and ``share`` of them.

    Raises:
        InputError: unknown bundle or backbone, or an untrusted bundle that is not ``trusted``, for this runs its code.
    """
    require_trust(name, trusted)
    import torch
    from monai.bundle import ConfigParser

    from medsam_adapt.networks import Segmenter, attach_adapter, build_sam, count_trainable

    config = read_config(name, "train")
    keys = ("imports", "knobs", "adapter", "network_def", "distillation_def")
    parser = ConfigParser({key: config[key] for key in keys if key in config})
    with torch.device("meta"):
        sam = build_sam(backbone, num_classes=classes)
        parameters = sum(parameter.numel() for parameter in sam.parameters())
        adapter, detail = parser.get_parsed_content("adapter"), parser.get_parsed_content("knobs").detail
        segmenter = attach_adapter(
            Segmenter(sam), adapter, config.get("learn_prompt", False), detail=detail, images=images
        )
        parser["network_def"] = segmenter  # a module that is trained beside the network takes its sizes from it
        beside = [parser.get_parsed_content("distillation_def")] if "distillation_def" in config else []
    counts = count_trainable(segmenter, *beside)
    return {"trainable": counts, "sam_parameters": parameters, "share": counts["total"] / parameters}
