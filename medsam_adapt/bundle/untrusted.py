"""Bundles that are not ours: read as plain data and never run, unless the user declares their author as trusted.

A MONAI bundle is a program: in its configs ``$`` begins Python, and ``_target_`` imports and calls anything. The folder
of a changed copy of a shipped bundle (``bundles copy``) is given as ``--bundle FOLDER``; its ``train.json`` holds under
``knobs#bundle`` which shipped bundle's settings it has.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medsam_adapt.bundle import contents
from medsam_adapt.bundle.contents import bundle_folder, bundle_names
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256, folder_written_whole
from medsam_adapt.core.literals import is_literal

TRUST_HELP = "Run the folder given as --bundle, which may do anything that you may: only if you trust its author."
_LARGEST = 10 << 20  # bytes of a config


@dataclass(frozen=True)
class Inspection:
    """What a bundle's folder holds, found without running anything.

    Attributes:
        folder: of the bundle.
        base: the shipped bundle whose settings it has.
        code: (config, place, text) of everything that would run and is in no shipped bundle.
        problems: a sentence for each thing that is missing or wrong.
    """

    folder: Path
    base: str | None
    code: tuple[tuple[str, str, str], ...]
    problems: tuple[str, ...]


def is_untrusted(bundle: str) -> bool:
    """Whether a ``--bundle`` is the folder of one that is not shipped."""
    return bundle not in bundle_names() and Path(bundle).is_dir()


def require_trust(bundle: str, trusted: bool) -> None:
    """Refuse to run an untrusted bundle that the user did not declare as trusted.

    Raises:
        InputError: with what running it would mean.
    """
    if is_untrusted(bundle) and not trusted:
        raise InputError(
            f"{bundle}: it is not one of the shipped bundles, and running it runs whatever Python its configs hold, "
            f"with your rights. Read it ('medsam-adapt bundles check {bundle}' lists what would run), and add "
            "--trust-bundle if you trust its author."
        )


def read_untrusted(folder: Path, config: str) -> dict[str, Any]:
    """One config of a bundle's folder as plain data.

    Raises:
        InputError: it is not there, too large, or no JSON object.
    """
    from medsam_adapt.core.json_files import read_object

    path = folder / "configs" / f"{config}.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: it is not a bundle, since it has no configs/{config}.json. Give the folder of a bundle."
        )
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path}: it is too large for a config. Give the folder of a bundle.")
    return read_object(path)


def base_bundle(bundle: str) -> str:
    """The shipped bundle whose settings a bundle has: itself, or the one that a folder's ``train.json`` names.

    Raises:
        InputError: a folder that names none of the shipped bundles.
    """
    if not is_untrusted(bundle):
        return bundle
    knobs = read_untrusted(Path(bundle), "train").get("knobs")
    base = knobs.get("bundle") if isinstance(knobs, Mapping) else None
    if base not in bundle_names():
        raise InputError(
            f'{bundle}/configs/train.json: it does not name the bundle whose settings it has. Give "knobs" a '
            f"\"bundle\", one of {', '.join(bundle_names())}, or begin with 'medsam-adapt bundles copy'."
        )
    return str(base)


def origin_sha256(bundle_root: Path, base: str) -> str | None:
    """What identifies an untrusted bundle, the SHA-256 of its ``train.json``; None for a shipped one."""
    train = bundle_root / "configs" / "train.json"
    shipped = bundle_folder(base) / "configs" / "train.json"
    sha256 = file_sha256(train) if train.is_file() else None
    return None if sha256 == file_sha256(shipped) else sha256


def inspect(bundle: str) -> Inspection:
    """Read every config of a bundle, shipped or not; runs nothing.

    Raises:
        InputError: no such bundle.
    """
    folder = Path(bundle) if is_untrusted(bundle) else bundle_folder(bundle)
    problems: list[str] = []
    code: list[tuple[str, str, str]] = []
    base = None
    shared = read_untrusted(contents.shared_folder(), "metadata")
    try:
        base = base_bundle(bundle)
    except InputError as error:
        problems.append(str(error))
    for path in sorted((folder / "configs").glob("*.json")):
        try:
            config = read_untrusted(folder, path.stem)
        except InputError as error:
            problems.append(str(error))
            continue
        code += [(path.name, place, text) for place, text in _code_in(config) if text not in _shipped_code()]
        complete = {**shared, **config} if path.stem == "metadata" else config
        problems += [f"{path} lacks {key!r}, which MONAI requires." for key in _required(path.stem, complete)]
    problems += [
        f"{folder}/configs/{name}.json is missing."
        for name in ("metadata", "train", "inference")
        if not contents.config_file(folder, name).is_file()
    ]
    problems += _unknown_settings(folder, base)
    return Inspection(folder, base, tuple(code), tuple(dict.fromkeys(problems)))


def copy_bundle(bundle: str, target: Path) -> list[str]:
    """Copy the files of a bundle, to be changed; runs nothing, follows no link, and takes along no other file.

    Returns:
        their names, relative to ``target``.

    Raises:
        InputError: no such bundle, or something is where the copy shall be.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: it already exists. Name another folder.")
    folder = Path(bundle) if is_untrusted(bundle) else bundle_folder(bundle)
    files = contents.own_files(folder)
    if "configs/train.json" not in files:
        raise InputError(
            f"{folder}: it is not a bundle, since it has no configs/train.json. Give the folder of a bundle."
        )
    try:
        with folder_written_whole(target) as temporary:
            if not is_untrusted(bundle):
                return contents.write_bundle(folder, temporary)
            for name, path in files.items():
                place = temporary / name
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, place)
    except OSError as error:
        raise InputError(f"{target}: it cannot be written ({error.strerror}). Name another folder.") from error
    return list(files)


# ------------------------------------------------------------------------------------------------- what a config holds


def _code_in(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(place, text) of whatever MONAI would run or import, and of files that it would read in."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            where = f"{place}#{key}" if place else str(key)
            if key == "_target_":
                yield where, json.dumps(item)
            yield from _code_in(item, where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _code_in(item, f"{place}#{index}")
    elif isinstance(value, str) and value.startswith(("$", "%")) and not is_literal(value):
        yield place, value


@cache
def _shipped_code() -> frozenset[str]:
    """Everything that the shipped bundles run."""
    configs = contents.bundles_folder().glob("*/configs/*.json")
    return frozenset(text for path in configs for _, text in _code_in(json.loads(path.read_text(encoding="utf-8"))))


def _required(config: str, content: Mapping[str, Any]) -> Iterator[str]:
    """Properties that MONAI requires of a config, and that it lacks."""
    from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties

    known = {"train": TrainProperties, "inference": InferProperties, "metadata": MetaProperties}
    rules: Mapping[Any, Any] = known.get(config, {})
    for rule in rules.values():
        place: Any = content
        name = str(rule["id"]).removeprefix("_meta_::")
        for part in name.split("::"):
            place = place.get(part) if isinstance(place, Mapping) else None
        if rule["required"] and place is None:
            yield name.replace("::", "#")


def _unknown_settings(folder: Path, base: str | None) -> list[str]:
    """Faults of the settings in ``train.json``."""
    if base is None:
        return []
    try:
        knobs = read_untrusted(folder, "train").get("knobs", {})
        run_knobs(base, **{key: value for key, value in knobs.items() if key not in ("_target_", "bundle")})
    except InputError as error:
        return [str(error)]
    return []
