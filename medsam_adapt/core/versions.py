"""Installed versions, and files that a newer version of this package wrote: only an upgrade helps with those."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from medsam_adapt.core.errors import InputError

PACKAGE = "medsam-adapt"
PACKAGES = (PACKAGE, "torch", "monai", "segment-anything", "numpy", "nibabel")  # they decide a run's numbers


def installed_version() -> str:
    """The version of this package that is installed."""
    return metadata.version(PACKAGE)


def versions() -> dict[str, str]:
    """The installed version of each of `PACKAGES`, from their metadata: none of them is imported."""
    return {package: metadata.version(package) for package in PACKAGES}


def newer_error(path: object, content: Any, known_format: int = 1) -> InputError | None:
    """The error of a file that a newer version wrote; None for one that this version or an older one wrote.

    Args:
        path: of the file.
        content: what it holds; its ``format``, and its ``versions`` where it records them, show its age.
        known_format: the highest ``format`` that this version reads.
    """
    if not isinstance(content, Mapping):
        return None
    versions = content.get("versions")
    maker = versions.get(PACKAGE) if isinstance(versions, Mapping) else None
    is_newer = isinstance(maker, str) and _numbers(maker) > _numbers(installed_version())
    form = content.get("format")
    if not is_newer and not (isinstance(form, int) and not isinstance(form, bool) and form > known_format):
        return None
    to = f" to {str(maker)[:40]} or later" if is_newer else ""
    return InputError(
        f"{path}: it was made by a newer medsam-adapt. Upgrade from {installed_version()}{to} with pip install "
        f"--upgrade {PACKAGE}."
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The release's numbers, to compare; a development version counts as its release."""
    found = re.match(r"\d{1,9}(?:\.\d{1,9}){0,5}", version)
    numbers = [int(part) for part in found.group().split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
