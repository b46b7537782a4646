"""The files of a bundle: its own few, and those that all bundles share, which are in ``bundles/shared``.

A shipped bundle's folder holds only what is particular to its method: ``metadata.json``, ``train.json``,
``recipe_paper.json`` and its page. Copies and the folders of runs are complete MONAI bundles: the shared files are
added, ``metadata.json`` is merged with the shared one, and ``evaluate.json`` and ``inference.json`` get the settings
and the adapter of the method.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from medsam_adapt.config import Knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import write_json
from medsam_adapt.core.literals import literal
from medsam_adapt.core.text import did_you_mean

_PARTS = ("configs/*.json", "configs/logging.conf", "docs/*", "LICENSE")  # nothing else is copied
_NO_RUN: dict[str, Any] = {  # settings that only a run can know, so that a copy's network can be built
    "layout": "auto",
    "cases": None,
    "class_names": ["structure"],
    "label_ids": [1],
    "absent": [],
    "overlapping": False,
    "images": [],
    "painted": [],
    "input_scaling": "sam",
    "image_size": 128,
    "policy": {"kind": "window", "low": -160.0, "high": 240.0, "modality": "CT"},
}
_WITHOUT_VOLUMES = {"channels": "adjacent", "axis": "axial", "backbone": "vit_nano"}  # where a setting is auto
_KNOB = re.compile(r"\$@knobs\.(\w+)")


def bundles_folder() -> Path:
    """The folder of the shipped bundles."""
    return Path(str(resources.files("medsam_adapt.bundles")))


def shared_folder() -> Path:
    """The folder of the files that all bundles share."""
    return bundles_folder() / "shared"


def bundle_names() -> list[str]:
    """Names of the shipped bundles: every folder with a ``train.json``."""
    return sorted(path.parent.parent.name for path in bundles_folder().glob("*/configs/train.json"))


def bundle_folder(name: str) -> Path:
    """The folder of a shipped bundle.

    Raises:
        InputError: when there is none of that name.
    """
    known = bundle_names()
    if name not in known:
        raise InputError(
            f"--bundle {name}: there is no such bundle.{did_you_mean(name, known)} Use one of {', '.join(known)}."
        )
    return bundles_folder() / name


def config_file(folder: Path, config: str) -> Path:
    """Path of one of a bundle's configs: its own, or else the shared one."""
    own, shared = (root / "configs" / f"{config}.json" for root in (folder, shared_folder()))
    return own if own.is_file() or not shared.is_file() else shared


def metadata_files(folder: Path) -> list[Path]:
    """Paths of a bundle's metadata, shared and own, to be merged in this order."""
    paths = (root / "configs" / "metadata.json" for root in (shared_folder(), folder))
    return [path for path in paths if path.is_file()]


def own_files(folder: Path) -> dict[str, Path]:
    """The files in a bundle's folder that are part of the bundle, by their relative names; links are left out."""
    paths = sorted(path for part in _PARTS for path in folder.glob(part) if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def complete_configs(
    folder: Path, values: Mapping[str, Any] | None = None, knobs: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """All configs of a bundle by name, such as ``train``, the shared ones among them.

    Args:
        folder: of the bundle.
        values: of a run's settings, by name: they are put into ``knobs``, ``settings`` and ``slicing``, so that MONAI's
            parser gives them back unchanged. Without a run the knobs are the bundle's own, and the others are examples.
        knobs: names of those among them that belong under ``knobs``.
    """
    names = {Path(name).stem for name in {**own_files(shared_folder()), **own_files(folder)} if name.endswith(".json")}
    configs = {name: _read(config_file(folder, name)) for name in sorted(names)}
    for path in metadata_files(folder):
        configs["metadata"] = {**configs["metadata"], **_read(path)}
    values, defaults = literal(values or {}), {name: field.get_default() for name, field in Knobs.model_fields.items()}
    train = configs["train"]
    train["knobs"].update({name: values[name] for name in knobs})
    filled = {**defaults, **_NO_RUN, **train["knobs"], **values}
    filled.pop("_target_", None)  # of the knobs
    for name, taken in _WITHOUT_VOLUMES.items():
        if filled[name] == "auto":
            filled[name] = taken
    for config in configs.values():
        if "settings" in config:
            config["settings"] = {name: filled[name] for name in config["settings"]}
            config["slicing"] = {name: filled.get(name, given) for name, given in config["slicing"].items()}
            config["adapter"] = {
                name: filled[found[1]] if isinstance(text, str) and (found := _KNOB.fullmatch(text)) else text
                for name, text in train["adapter"].items()
            }
    return configs


def write_bundle(folder: Path, target: Path, configs: Mapping[str, Any] | None = None) -> list[str]:
    """Write a complete bundle into ``target``, which exists; returns the names of its files.

    Args:
        folder: of the bundle whose other files are copied.
        target: the folder to write.
        configs: its configs, from `complete_configs`.
    """
    configs = complete_configs(folder) if configs is None else configs
    files = {**own_files(shared_folder()), **own_files(folder)}
    for name, path in files.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix == ".json":
            write_json(place, configs[place.stem])
        elif path.resolve() != place.resolve():
            shutil.copyfile(path, place)
    return list(files)


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content
