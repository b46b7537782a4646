"""Two processes train as one with both their batches: ``python -m tests.distributed_equality`` prints how closely.

Every bundle, with and without prompts, in double precision: the first losses of two processes with batches of two
slices, against those of one process with batches of four.
"""

import multiprocessing
import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from ignite.engine import Events

from medsam_adapt.bundle.catalogue import resolve_knobs, workflow
from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.data.phantom.phantom import write_phantoms
from medsam_adapt.weights.backbones import VARIANTS

STEPS, BATCH, PROCESSES = 10, 2, 2
TINY = replace(
    VARIANTS["vit_nano"],
    **{"embed_dim": 32, "depth": 4, "num_heads": 2, "global_attention": (2,), "window_size": 2},
    **{"prompt_dim": 32, "decoder_mlp_dim": 64, "iou_hidden_dim": 32},
)
SMALL = {
    "image_size": 32,
    "epochs": 1,
    "cache_frozen": "off",
    "checkpoint": "random",
    "held_out": 0.0,
}


@mock.patch.dict(VARIANTS, {"vit_nano": TINY})
def losses(bundle, prompt, data, folder, steps, together=False):
    """The first losses of a training in double precision, by this process or by all of a group ``together``."""
    batch = BATCH if together else BATCH * PROCESSES
    knobs = resolve_knobs(
        bundle, sets={**SMALL, "min_steps": steps, "batch_size": batch, "prompt": prompt}
    ).model_dump()
    values = {f"knobs#{name}": value for name, value in knobs.items()}
    values |= {"dataset_dir": str(data), "output_dir": str(folder), "device": torch.device("cpu")}
    overlay = "multi_gpu_train" if together else None
    flow = workflow(bundle, "train", values, overlay=overlay)
    for name in ("network_def", "teacher", "distillation_def"):
        if name in flow.parser:
            make_comparable(flow.parser.get_parsed_content(name))
    found = []
    flow.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda trainer: found.append(trainer.state.output[0]["loss"])
    )
    flow.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=steps), lambda trainer: trainer.terminate())
    flow.trainer.run()
    return found


def make_comparable(module):
    """In double precision, and without dropout, which processes draw for themselves."""
    for layer in module.double().modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    if hasattr(module, "sam"):  # segment-anything computes positions in single precision, here and there alike
        module.sam.prompt_encoder.pe_layer.float()


def one_of_two(rank, trainings, data, folder, steps):
    """The losses of each training, by one of two processes that train together."""
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=PROCESSES, timeout=timedelta(minutes=10)
    )
    try:
        folders = [folder / f"both_{place}" for place in range(len(trainings))]
        return [losses(*each, data, own, steps, True) for each, own in zip(trainings, folders, strict=True)]
    finally:
        dist.destroy_process_group()


def differences(trainings, data, folder, steps=STEPS):
    """The largest relative difference between the losses of two processes and of one, of each (bundle, prompt)."""
    alone = [losses(*training, data, folder / f"alone_{place}", steps) for place, training in enumerate(trainings)]
    other = multiprocessing.get_context("spawn").Process(target=one_of_two, args=(1, trainings, data, folder, steps))
    other.start()
    try:
        both = one_of_two(0, trainings, data, folder, steps)
    finally:
        other.join()
    assert [len(found) for found in (*alone, *both)] == [steps] * 2 * len(trainings)
    return [
        max(abs(ours - theirs) / abs(theirs) for ours, theirs in zip(*pair, strict=True))
        for pair in zip(both, alone, strict=True)
    ]


def main():
    trainings = [(bundle, prompt) for bundle in bundle_names() for prompt in ("none", "box", "points")]
    with tempfile.TemporaryDirectory() as folder:
        data = write_phantoms(Path(folder) / "data", 3, seed=0, shape=(40, 36, 12))
        found = differences(trainings, data, Path(folder))
    for (bundle, prompt), difference in zip(trainings, found, strict=True):
        print(f"{bundle:12} {prompt:7} {difference:.1e}")
    sys.exit(max(found) > 1e-8)


if __name__ == "__main__":
    main()
