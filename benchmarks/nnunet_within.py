"""Train nnU-Net 2.8.1 on all cases of a data set within a number of seconds, and segment a folder with it.

    python benchmarks/nnunet_within.py DATASET_ID CONFIGURATION SECONDS IMAGES MASKS

Run by `real_patients.py` with the Python that has ``nnunetv2``, after ``nnUNetv2_plan_and_preprocess``. Planning,
network, optimiser, loss, augmentation, oversampling, deep supervision and prediction (with mirroring, where nnU-Net
allows it) are nnU-Net's own. What differs: the learning rate falls by the time used, (1 - t/T)^0.9 instead of
(1 - epoch/epochs)^0.9, so that it reaches zero when the time is over, and the online validations, whose figures choose
nothing with fold "all", are left out. Prints one JSON line: seconds, steps, and the last losses.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import join, load_json
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name


def main() -> None:
    number, configuration, seconds, images, masks = sys.argv[1:]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    torch.manual_seed(0)
    folder = join(nnUNet_preprocessed, maybe_convert_to_dataset_name(int(number)))
    plans, dataset = load_json(join(folder, "nnUNetPlans.json")), load_json(join(folder, "dataset.json"))
    plans["continue_training"] = False
    trainer = nnUNetTrainer(plans, configuration, "all", dataset, device)
    trainer.on_train_start()
    losses, used = train(trainer, float(seconds))
    trainer.current_epoch = 1
    trainer.on_train_end()
    print(json.dumps({"seconds": used, "steps": len(losses), "loss": float(np.mean(losses[-20:]))}), flush=True)
    predictor = nnUNetPredictor(device=device, perform_everything_on_device=device.type == "cuda", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, ("all",), "checkpoint_final.pth")
    predictor.predict_from_files_sequential(images, masks, save_probabilities=False, overwrite=True)


def train(trainer: nnUNetTrainer, seconds: float) -> tuple[list[float], float]:
    """Steps until the time is over; their losses, and the seconds used."""
    trainer.network.train()
    started, losses = time.monotonic(), []
    while (used := time.monotonic() - started) < seconds:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - used / seconds) ** 0.9
        losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
    return losses, used


if __name__ == "__main__":
    main()
