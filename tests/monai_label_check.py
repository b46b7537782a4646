"""Serve a run with MONAI Label in a separate environment, and compare a mask of its server with predict's.

    python -m tests.monai_label_check [--env FOLDER]

Makes the environment of docs/monai_label.md (several GB, minutes; an environment that is there is used as it is),
trains a run on phantoms for one epoch, starts MONAI Label's own server with it on the loopback address, and asks it for
the mask of a volume that is not stored in RAS order. Every voxel must be that of `medsam-adapt predict`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from medsam_adapt.data.phantom.phantom import write_phantoms
from medsam_adapt.workflows.predict import predict
from medsam_adapt.workflows.train import train

ROOT = Path(__file__).parents[1]
WITHOUT_NEEDS = "monailabel==0.8.5 pydicom-seg==0.4.1"  # MONAI Label asks for packages that do not go together
NEEDED = (
    "pydicom<3 dicomweb-client[gcp]<0.60 bcrypt cachetools einops expiring_dict expiringdict fastapi filelock "
    "girder-client httpx itk jsonschema lmdb numpymaxflow passlib psutil pydantic-settings pyjwt pynetdicom pynrrd "
    "python-dotenv python-multipart requests-toolbelt schedule scikit-learn shapely timeloop uvicorn watchdog"
)
WAIT = 300  # seconds, until the server answers


def make_environment(folder: Path) -> None:
    """A virtual environment with this repository's package and MONAI Label."""
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install"]
    for arguments in (["-e", ROOT], ["--no-deps", *WITHOUT_NEEDS.split()], NEEDED.split()):
        subprocess.run([*pip, *arguments], check=True)


def make_run(data: Path, folder: Path) -> Path:
    """A run with little training whose masks have several classes."""
    sets = {"image_size": 32, "min_steps": 1, "epochs": 1, "batch_size": 2}
    train(data, folder, bundle="lora", sets=sets, device="cpu")
    path = folder / "models" / "model.pt"
    weights, random = torch.load(path, weights_only=True), torch.Generator().manual_seed(0)
    for name, tensor in weights.items():
        if "output_hypernetworks" in name:  # after so little training all voxels would be background
            tensor += 0.3 * torch.randn(tensor.shape, generator=random)
    torch.save(weights, path)
    return folder


def turned_volume(data: Path, path: Path) -> Path:
    """The first volume of a data set, stored in another order than RAS."""
    image = nib.load(sorted((data / "images").iterdir())[0])
    nib.save(image.as_reoriented(np.array([[1, 1], [2, -1], [0, -1]])), path)
    return path


@contextmanager
def server(environment: Path, run: Path, folder: Path) -> Iterator[str]:
    """MONAI Label's server with a run as its model ``run``, and ``folder/scans`` as its volumes; gives its address."""
    command = environment / "bin" / "monailabel"  # a script that takes the first Python on the path
    activated = {**os.environ, "PATH": f"{environment.resolve() / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    download = [command, "apps", "--download", "--name", "monaibundle", "--output", folder / "apps"]
    subprocess.run(download, check=True, env=activated)
    shutil.copytree(run, folder / "apps" / "monaibundle" / "model" / "run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--host 127.0.0.1 --port {port} --conf models run --conf zoo_source ngc --conf skip_trainers true"
    places = ["--app", folder / "apps" / "monaibundle", "--studies", folder / "scans"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [command, "start_server", *places, *options.split()],
            cwd=folder,
            env=activated,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the script starts Python beside itself: both are ended together
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/info/", process)
            yield f"http://127.0.0.1:{port}"
        except BaseException:
            print((folder / "server.log").read_text()[-3000:])
            raise
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _wait_for(address: str, process: subprocess.Popen) -> None:
    for _ in range(WAIT):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}")
        try:
            urllib.request.urlopen(address, timeout=60).close()
            return
        except urllib.error.URLError:
            time.sleep(1)
    raise RuntimeError(f"the server did not answer within {WAIT} s")


def asked(address: str, image: str, path: Path) -> Path:
    """The mask that the server sends of ``image``."""
    form = urllib.parse.urlencode({"params": json.dumps({"device": "cpu"})}).encode()
    with urllib.request.urlopen(f"{address}/infer/run?image={image}&output=image", form, timeout=600) as answer:
        path.write_bytes(answer.read())
    return path


def main() -> None:
    """Make what is missing, compare, and print what was compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, help="folder of the environment; a temporary one where it is left out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = options.env or folder / "env"
        if not environment.is_dir():
            make_environment(environment)
        data = write_phantoms(folder / "data", 3, seed=0, shape=(40, 36, 12))
        run = make_run(data, folder / "run")
        (folder / "scans").mkdir()
        scan = turned_volume(data, folder / "scans" / "turned.nii.gz")
        (ours,) = predict(run, scan, folder / "masks", device="cpu")
        with server(environment, run, folder) as address:
            theirs = asked(address, "turned", folder / "theirs.nii.gz")
        expected, mask = nib.load(ours), nib.load(theirs)
        voxels = np.asarray(expected.dataobj)
        if not np.allclose(mask.affine, expected.affine) or len(np.unique(voxels)) < 3:
            sys.exit("the affines differ, or the mask has too few classes to show anything")
        differing = int((np.asarray(mask.dataobj) != voxels).sum())
        print(f"{differing} of {voxels.size} voxels differ between MONAI Label's server and medsam-adapt predict")
        sys.exit(int(differing > 0))


if __name__ == "__main__":
    main()
