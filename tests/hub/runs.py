"""Runs whose adapters travel, and what their folders hold."""

import json

import numpy as np
import torch
from monai.bundle import ConfigParser

from medsam_adapt.bundle.catalogue import read_config
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.core.files import write_json
from medsam_adapt.hub.places import FILES
from medsam_adapt.methods import LoRA
from medsam_adapt.networks import build_segmenter, save_adapter
from medsam_adapt.networks.parameters import trainable_tensors
from medsam_adapt.scoring.metrics import MetricRules, score_volume
from medsam_adapt.scoring.summary import summarise
from tests.made_runs import make_run

NAMES = ("liver", "right kidney")
_NOT_GIVEN = ("_target_", "bundle", "checkpoint", "image_size", "tune_encoder")
ALL_FILES = sorted(FILES)


def adapted_run(folder, bundle="lora", adapter=None, checkpoint=None, names=NAMES, prompt="none", **changes):
    """A run's folder whose trained tensors alone differ from its base weights, as after training."""
    adapter, tuned = adapter or LoRA(rank=4), changes.get("tune_encoder", False)
    own = {key: value for key, value in read_config(bundle, "train")["knobs"].items() if key not in _NOT_GIVEN}
    knobs = run_knobs(bundle, **own, checkpoint=checkpoint, image_size=32, tune_encoder=tuned).model_dump()
    changes |= {"bundle": bundle, "knobs": knobs | changes.pop("knobs", {})}
    make_run(folder, prompt, names=names, adapter=adapter, **changes)
    segmenter = build_segmenter("vit_nano", 32, len(names), adapter, prompt, checkpoint, tune_encoder=tuned)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in trainable_tensors(segmenter).items():
            tensor += (0.3 if "output_hypernetworks" in name else 0.02) * torch.randn_like(tensor)
    torch.save(segmenter.state_dict(), folder / "models/model.pt")
    save_adapter(segmenter, folder / "models/adapter")
    return folder


def adapter_of(bundle):
    config = read_config(bundle, "train")
    parser = ConfigParser({key: config[key] for key in ("imports", "knobs", "adapter")})
    return parser.get_parsed_content("adapter")


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def weights(run):
    return torch.load(run / "models/model.pt", weights_only=True)


def same_weights(first, second):
    ours, theirs = weights(first), weights(second)
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


MARK = "DOE_JANE"


def scored(cases):
    """What metrics.json holds, for cases of these names."""
    prediction, reference = np.zeros((2, 8, 8, 3), np.uint8)
    prediction[2:4, 2:6], prediction[6:, 6:] = 1, 2
    reference[2:5, 2:6], reference[6:, 6:] = 1, 2
    scores = score_volume(prediction, reference, NAMES, (1.0, 1.0, 3.0), MetricRules())
    return summarise(dict.fromkeys(cases, scores), NAMES, MetricRules(), notes=[f"of {MARK}"])


def marked_run(folder):
    """A run that names a patient wherever one can be named."""
    knobs = {name: f"/data/{MARK}/{name}" for name in ("cache_dir", "split_file", "from_run")}
    run = adapted_run(
        folder / MARK / "run",
        dataset_dir=f"/data/{MARK}",
        train=[f"{MARK}_1", f"{MARK}_2"],
        held_out=[f"{MARK}_3"],
        started_from="run",
        knobs=knobs,
    )
    (run / "notes.txt").write_text(MARK)
    write_json(run / "metrics.json", scored([f"{MARK}_3"]))
    return run


def edit(name, **changes):
    """A change of some values of a repository's JSON file."""

    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return change
