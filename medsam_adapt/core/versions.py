"""Versions of the packages whose code decides a run's numbers."""

from importlib import metadata

PACKAGES = ("medsam-adapt", "torch", "monai", "segment-anything", "numpy", "nibabel")


def versions() -> dict[str, str]:
    """The installed version of each of `PACKAGES`, from their metadata: none of them is imported."""
    return {package: metadata.version(package) for package in PACKAGES}
