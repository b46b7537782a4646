"""A run without training, on phantoms of which one case has a name that would be code if it were not escaped."""

import shutil

import pytest

from medsam_adapt.bundle.catalogue import resolve_knobs
from medsam_adapt.core.files import write_json
from medsam_adapt.data.phantom.phantom import PHANTOM_CLASSES
from tests.made_runs import make_run

HOSTILE_CASE = "<img src=x onerror=alert(1)>&"
HOSTILE_CLASS = "</script><script>alert(2)</script>"
SETTINGS = {"checkpoint": "/home/secret_user/sam.pth", "cache_dir": "/home/secret_user/cache"}


@pytest.fixture(scope="session")
def scored_run(phantoms, tmp_path_factory):
    """Folder of a run, scored on three cases."""
    from medsam_adapt.workflows.evaluate import evaluate_run

    folder = tmp_path_factory.mktemp("report")
    data = shutil.copytree(phantoms, folder / "secret_hospital")
    for part in ("images", "labels"):
        (data / part / "phantom_002.nii.gz").rename(data / part / f"{HOSTILE_CASE}.nii.gz")
    names = [HOSTILE_CLASS, *list(PHANTOM_CLASSES.values())[1:]]
    write_json(data / "labels.json", dict(enumerate(names, start=1)))
    run = make_run(
        folder / "liver run",
        names=names,
        dataset_dir=str(data),
        train=["phantom_000"],
        held_out=["phantom_000", "phantom_001", HOSTILE_CASE],
        knobs=resolve_knobs("blosam", sets={**SETTINGS, "image_size": 32}).model_dump(),
    )
    evaluate_run(run, device="cpu")
    return run
