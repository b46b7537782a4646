"""Print the seconds of a proposal with and without the slice's embedding, of a save, and the size of the page.

    python benchmarks/proposal_speed.py [--models lite_medsam sam_nano] [--threads 2] [--repeats 5]

A request goes through the server as the page sends it. The targets are 0.3 s with the embedding and 2 s without it on
two cores; the scan is a phantom of 512 × 512 pixels per slice.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from fastapi.testclient import TestClient

from medsam_adapt.annotation.opening import open_session
from medsam_adapt.annotation.proposals import load_proposals
from medsam_adapt.annotation.server import create_app
from medsam_adapt.data.phantom.phantom import write_phantoms

TOKEN = "a-token-of-the-benchmark"
SHAPE = (512, 512, 60)


def requests(client: TestClient, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of proposals on new slices, and of second ones on the same slices."""
    first, second = [], []
    for index in range(repeats):
        for times, right in ((first, 300), (second, 310)):
            body = {"axis": "axial", "index": index * (SHAPE[2] // repeats), "box": [80, 120, right, 380]}
            began = time.perf_counter()
            client.post("/api/scans/phantom_000/proposal", json=body).raise_for_status()
            times.append(time.perf_counter() - began)
    return first, second


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["lite_medsam", "sam_nano"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = write_phantoms(Path(folder) / "data", 1, shape=SHAPE)
        print("| model | with the embedding, s | without, s |\n|---|---:|---:|")
        for model in options.models:
            session = open_session(data / "images", ["liver"], Path(folder) / model)
            proposals = load_proposals(model, ["liver"])
            proposals.prepare = lambda *_: None  # type: ignore[method-assign]  # nothing else computes meanwhile
            client = TestClient(create_app(session, TOKEN, proposals), headers={"Authorization": f"Bearer {TOKEN}"})
            client.get("/api/scans/phantom_000")
            requests(client, 1)
            proposals.forget(session.drawing("phantom_000"))
            first, second = requests(client, options.repeats)
            print(f"| {model} | {statistics.median(second):.2f} | {statistics.median(first):.2f} |", flush=True)
            proposals.close()
        page = client.get("/").content
        with session.changing("phantom_000") as drawing:
            values = np.zeros(SHAPE[:2], np.uint8)
            values[100:300, 100:300] = 1
            drawing.paint("axial", dict.fromkeys(range(SHAPE[2]), values), session.person)
        began = time.perf_counter()
        session.save()
        print(f"Saving a scan of {SHAPE}: {time.perf_counter() - began:.2f} s. Page: {len(page) / 1000:.0f} kB.")


if __name__ == "__main__":
    main()
