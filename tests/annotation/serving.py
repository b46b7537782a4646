"""A server of the whole application on the loopback address, with two small runs that propose."""

import threading
import time
from contextlib import contextmanager

import nibabel as nib
import numpy as np

from tests.cli.predicting import scan
from tests.made_runs import make_run

TOKEN = "a-token-that-is-long-enough-1234"
CLASSES = ("liver", "right kidney", "spleen")
AFFINE = np.array([[0, 2.0, 0, -10], [-2.0, 0, 0, 30], [0, 0, 5.0, 7], [0, 0, 0, 1]])  # its axes are not those of RAS


def write_scans(folder, count=3):
    """Scans of 20 × 18 × 4 voxels that are not stored in RAS order."""
    folder.mkdir(parents=True)
    for number in range(count):
        nib.save(nib.Nifti1Image(scan(number), AFFINE), folder / f"scan_{number}.nii.gz")
    return folder


def make_runs(folder):
    """A run that draws in boxes, and one that needs no prompts."""
    return make_run(folder / "boxes", "box", names=CLASSES), make_run(folder / "all", names=CLASSES)


def made_proposals(box_run, run=None):
    from medsam_adapt.annotation.proposals import Proposals
    from medsam_adapt.annotation.proposing_models import run_model

    return Proposals(run_model(box_run, "cpu"), None if run is None else run_model(run, "cpu"))


@contextmanager
def served(session, proposals, rounds):
    """The address of a server, which ends with the block."""
    import uvicorn

    from medsam_adapt.annotation.access import addresses_of
    from medsam_adapt.annotation.application import create_full_app
    from medsam_adapt.cli.annotate import listen

    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    app = create_full_app(session, TOKEN, proposals, rounds, *addresses_of("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
