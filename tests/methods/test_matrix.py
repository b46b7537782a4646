"""Methods, prompts and update rules combine freely: one training step of every adapter with each of them."""

import copy
import math

import pytest
import torch
from monai.engines import SupervisedTrainer

from medsam_adapt.data import EndlessLoader, slice_loader
from medsam_adapt.methods import (
    AdaptFormer,
    BiLevelUpdate,
    CobotAdaptFormer,
    CobotLoRA,
    DecoderLoRA,
    DistillationUpdate,
    InformationDistillation,
    LoRA,
    Parser,
    SegmentationLoss,
    SeriesAdapters,
)
from medsam_adapt.networks import DecoderOnly, build_segmenter, build_teacher, model_weights, prompt_embedding
from medsam_adapt.training.setup import PrepareSlices
from tests.methods.method_tester import add_noise
from tests.slicing import training_data

ADAPTERS = (
    DecoderOnly(),
    DecoderLoRA(),
    LoRA(),
    AdaptFormer(),
    SeriesAdapters(),
    CobotLoRA(),
    CobotAdaptFormer(),
    Parser(),
)
SIZE = 64


@pytest.fixture(scope="module", params=["none", "box", "points"])
def data(request, phantoms):
    return training_data(phantoms, image_size=SIZE, prompt=request.param)


@pytest.fixture(scope="module")
def teacher():
    return build_teacher("vit_nano", SIZE)


@pytest.mark.parametrize("rule", ["plain", "bi-level", "distillation"])
@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
def test_one_step(adapter, data, rule, teacher):
    bi_level = rule == "bi-level"
    segmenter = build_segmenter(
        "vit_nano", SIZE, len(data.class_names), adapter, data.prompt, learn_prompt=bi_level, tune_encoder=False
    )
    add_noise(segmenter)  # a gradient reaches what stands behind a tensor of zeros only when it has moved
    loader = slice_loader(data.dataset("first_half" if bi_level else "train"), batch_size=2)
    weights, beside, update = model_weights(segmenter), [], None
    if bi_level:
        second = EndlessLoader(slice_loader(data.dataset("second_half"), batch_size=2))
        update = BiLevelUpdate("second", None, torch.optim.AdamW([prompt_embedding(segmenter)]), second)
    elif rule == "distillation":
        distillation = InformationDistillation(segmenter.sam.prompt_encoder.embed_dim)
        update = DistillationUpdate(teacher, distillation, loader)
        beside = list(distillation.parameters())
    before = copy.deepcopy((segmenter.state_dict(), beside))
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        epoch_length=1,
        train_data_loader=loader,
        network=segmenter,
        optimizer=torch.optim.AdamW([*weights, *beside], weight_decay=0.0),
        loss_function=SegmentationLoss(segmenter.head),
        prepare_batch=PrepareSlices(),
        iteration_update=update,
    )
    trainer.run()
    assert math.isfinite(trainer.state.output[0]["loss"])
    trained = {name for name, tensor in segmenter.named_parameters(remove_duplicate=False) if tensor.requires_grad}
    moved = {name for name, tensor in segmenter.state_dict().items() if not torch.equal(tensor, before[0][name])}
    assert moved == trained
    assert not any(torch.equal(tensor, start) for tensor, start in zip(beside, before[1], strict=True))
