"""A build of this package that segments the scans of a folder whenever it is asked to; `end_to_end.py` starts it.

    python benchmarks/end_to_end_worker.py NETWORK SIZE THREADS WEIGHTS

Whatever build of medsam_adapt Python finds is used, also that of commit 4adda51, whose modules lay elsewhere. WEIGHTS
is a file of random weights, which is made where it is missing, so that all builds have the same. With "discs" in an
order the network does its work, and then each class is a disc, the same on every slice: what a random network draws is
noise, which no trained one draws. With "overlap" reading and writing overlap with the network, as in `predict`.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import torch
from end_to_end_orders import answer
from torch import Tensor, nn

try:
    from medsam_adapt.data.slices.intensity import IntensityPolicy
    from medsam_adapt.inference.predictor import Predictor
    from medsam_adapt.runs.record import RunRecord
except ImportError:  # commit 4adda51
    from medsam_adapt.data.intensity import IntensityPolicy
    from medsam_adapt.prediction.predictor import Predictor
    from medsam_adapt.runs import RunRecord
from medsam_adapt.networks import DecoderOnly, build_segmenter
from medsam_adapt.prediction.case_runner import CaseRunner
from medsam_adapt.prediction.plan import Outputs, plan_cases

CLASSES = 13


class Discs(nn.Module):
    """A segmenter that does its work and then answers each class with a disc.

    Args:
        segmenter: whose logits (n, CLASSES + 1, S, S) are replaced.
    """

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter
        for name in ("image_size", "head", "sam"):
            setattr(self, name, getattr(segmenter, name))
        place = (torch.arange(self.image_size) + 0.5) / self.image_size * 4
        centres = torch.arange(CLASSES)[:, None, None]
        distance = ((place[:, None] - centres // 4 - 0.5) ** 2 + (place - centres % 4 - 0.5) ** 2).sqrt()
        self.register_buffer("logits", torch.cat([torch.zeros_like(distance[:1]), 10 * (0.35 - distance)]))

    @property
    def input_scaling(self) -> str:
        """Of the segmenter, where the build knows any but SAM's."""
        return getattr(self.segmenter, "input_scaling", "sam")

    def forward(self, images: Tensor) -> Tensor:
        self.segmenter(images)
        return self.logits.expand(len(images), -1, -1, -1)


def network_of(name: str, size: int, weights: Path) -> nn.Module:
    """A segmenter with random weights, those of the file where it is there."""
    network = build_segmenter(name, size, CLASSES, DecoderOnly(), checkpoint="random").eval()
    if weights.is_file():
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network
    torch.manual_seed(0)
    with torch.no_grad():
        for title, parameter in network.named_parameters():
            scale = 0.3 if "output_hypernetworks" in title else 0.02  # or all voxels would be of one class
            parameter += scale * torch.randn_like(parameter)
    torch.save(network.state_dict(), weights)
    return network


def record() -> RunRecord:
    """What a predictor asks of a run."""
    return RunRecord.model_construct(
        axis="axial",
        channels="repeat",
        prompt="none",
        overlapping=False,
        class_names=[f"class {i}" for i in range(1, CLASSES + 1)],
        label_ids=list(range(1, CLASSES + 1)),
        absent=[],
        policy=IntensityPolicy(kind="window", low=-160, high=240, modality="CT"),
    )


def operations(name: str, size: int) -> int:
    """Floating-point operations of one slice, in layers that torch can count: those of `kernels` it does not know."""
    from torch.utils.flop_counter import FlopCounterMode

    plain = {"kernels": False} if "kernels" in inspect.signature(build_segmenter).parameters else {}
    network = build_segmenter(name, size, CLASSES, DecoderOnly(), checkpoint="random", **plain).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 3, size, size) * 255)
    return counter.get_total_flops()


def main() -> None:
    name, size, threads, weights = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(threads)
    network = network_of(name, size, weights)
    with torch.no_grad():
        runners = {
            True: CaseRunner(Predictor(record(), Discs(network).eval())),
            False: CaseRunner(Predictor(record(), network)),
        }

    def segment(scans: str, masks: str, discs: bool, overlap: bool) -> None:
        cases = plan_cases(Path(scans), Path(masks), Outputs()).cases
        if not overlap:
            for case in cases:
                runners[discs].run(case)
            return
        for _, entry in runners[discs].run_all(cases):
            if isinstance(entry, Exception):
                raise entry

    answer(segment, {"operations": operations(name, size)})


if __name__ == "__main__":
    main()
