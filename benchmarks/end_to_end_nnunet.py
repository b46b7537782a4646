"""nnU-Net's predictor that segments the scans of a folder whenever it is asked to; `end_to_end.py` starts it.

    python benchmarks/end_to_end_nnunet.py OPERATIONS THREADS

A PlainConvUNet as nnU-Net's planner makes it for slices of 512 x 512 (8 stages, 2 convolutions each), with random
weights and as many features as bring the operations of a slice next to OPERATIONS. Reading, normalisation, resampling
(none is needed: the scans have the plan's spacing), tiles, Gaussian weights, export and writing are nnU-Net's own;
without mirroring, which would take four times as long. Orders and answers are those of `end_to_end_orders.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from end_to_end_orders import answer
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

CLASSES, STAGES, SIDE = 13, 8, 512
SPACING = (5.0, 0.75, 0.75)  # mm, of the scans


def plans(features: float) -> dict:
    """nnU-Net's plans with so many features in the first stage; twice as many in each next one, up to 16 times."""
    stages = [max(1, round(min(features * 2**stage, features * 16))) for stage in range(STAGES)]
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": STAGES,
            "features_per_stage": stages,
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * STAGES,
            "strides": [[1, 1], *[[2, 2]] * (STAGES - 1)],
            "n_conv_per_stage": [2] * STAGES,
            "n_conv_per_stage_decoder": [2] * (STAGES - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "nnUNetPlans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 12,
        "patch_size": [SIDE, SIDE],
        "median_image_size_in_voxels": [SIDE, SIDE],
        "spacing": list(SPACING[1:]),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": architecture,
        "batch_dice": True,
    }
    return {
        "dataset_name": "Dataset001_Phantom",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(SPACING),
        "original_median_shape_after_transp": [100, SIDE, SIDE],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 40.0, "std": 120.0, "percentile_00_5": -160.0, "percentile_99_5": 240.0}
        },
    }


def network_of(content: dict) -> nn.Module:
    """The network of the plans, with random weights."""
    configuration = PlansManager(content).get_configuration("2d")
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        CLASSES + 1,
        deep_supervision=False,
    )


def operations(content: dict) -> int:
    """Floating-point operations of one slice, counted without computing anything."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network_of(content).eval()(torch.zeros(1, 1, SIDE, SIDE))
    return counter.get_total_flops()


def closest(wanted: int) -> tuple[dict, int]:
    """The plans whose network has next to ``wanted`` operations, and its operations."""
    found: list[tuple[dict, int]] = []
    for eighths in range(8, 400):  # of a feature; the operations grow with them
        found.append((plans(eighths / 8), operations(plans(eighths / 8))))
        if found[-1][1] > wanted:
            break
    return min(found, key=lambda each: abs(each[1] - wanted))


def main() -> None:
    wanted, threads = int(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    content, count = closest(wanted)
    network = network_of(content)
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    labels = {"background": 0, **{f"class {i}": i for i in range(1, CLASSES + 1)}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    manager = PlansManager(content)
    predictor.manual_initialization(
        network, manager, manager.get_configuration("2d"), [network.state_dict()], dataset, "nnUNetTrainer", None
    )

    def segment(scans: str, masks: str, discs: bool, overlap: bool) -> None:
        files = sorted(Path(scans).glob("*.nii.gz"))
        Path(masks).mkdir(parents=True)
        outputs = [str(Path(masks, file.name.removesuffix(".nii.gz"))) for file in files]
        predictor.predict_from_files_sequential([[str(file)] for file in files], outputs)

    features = content["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"]
    answer(segment, {"operations": count, "features": features})


if __name__ == "__main__":
    main()
