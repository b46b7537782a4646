"""The rules of MONAI's model zoo for a bundle's folder.

The zoo's own check also holds the metadata to a schema that it downloads, and exports the weights, if there are any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LARGEST_FILE = 25 * 10**6  # bytes; a larger one has to be named in large_files.yml
LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")
FILES = ("LICENSE", "configs/metadata.json", "docs/README.md")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.IGNORECASE)


def zoo_problems(folder: Path) -> list[str]:
    """A sentence for each rule that the bundle breaks; runs nothing.

    Args:
        folder: of the bundle; its name is the bundle's.
    """
    problems = [f"{folder}/{name} is missing: the model zoo asks for it." for name in FILES if not _has(folder, name)]
    if not _NAME.fullmatch(folder.resolve().name):
        problems.append(f"{folder}: the model zoo names bundles by letters, digits and underscores. Rename the folder.")
    problems += _large_files(folder)
    if _has(folder, FILES[1]):
        problems += _metadata_problems(folder / FILES[1])
    return problems


def network_problem(folder: Path) -> str | None:
    """What the zoo finds wrong with the network when a tensor of the shape in ``metadata.json`` passes through it.

    Runs the bundle's code: only for one that is shipped or trusted. Needs no network connection and no weights.
    """
    from monai.bundle import verify_net_in_out

    configs = folder / "configs"
    try:
        verify_net_in_out("network_def", str(configs / "metadata.json"), str(configs / "inference.json"), device="cpu")
    except ValueError as error:
        return f"{configs}: {error}"
    return None


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file() and (folder / name).stat().st_size > 0


def _large_files(folder: Path) -> Iterator[str]:
    named = "".join((folder / name).read_text(encoding="utf-8") for name in LARGE_FILES if (folder / name).is_file())
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.stat().st_size > LARGEST_FILE and name not in named:
            yield f"{path}: it is larger than 25 MB. Name it with its address in large_files.yml."


def _metadata_problems(path: Path) -> Iterator[str]:
    try:
        metadata: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no text, or no JSON
        yield f"{path}: it is not JSON ({error}). Correct it."
        return
    if not isinstance(metadata, Mapping):
        yield f"{path}: it holds no JSON object. Write one."
        return
    version, changelog = metadata.get("version"), metadata.get("changelog")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        yield f"{path}: version is {version!r}. Write three numbers, as in 0.1.0."
    elif not isinstance(changelog, Mapping) or not changelog.get(version):
        yield f"{path}: changelog has no line on version {version}. Add one."
    packages = metadata.get("required_packages_version", {})
    if not isinstance(packages, Mapping) or not all(isinstance(value, str) for value in packages.values()):
        yield f'{path}: required_packages_version has to give versions, as in {{"nibabel": "5.4.2"}}.'
