"""InfoSAM's update: its terms add up, its teacher never moves, and a batch of one image is refused."""

import copy
from types import SimpleNamespace

import pytest
import torch
from monai.inferers import SimpleInferer
from torch.utils.data import DataLoader

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.slices.transforms import possible_classes
from medsam_adapt.data.volumes.label_coding import IGNORED
from medsam_adapt.methods import LoRA
from medsam_adapt.methods.infosam import (
    DistillationUpdate,
    InformationDistillation,
    compression_loss,
    distillation_loss,
    infosam_loss,
    known_structures,
    student_token,
    tight_boxes,
)
from medsam_adapt.methods.losses import SegmentationLoss, StructureLoss
from medsam_adapt.networks import build_segmenter, build_teacher, model_weights
from medsam_adapt.training.setup import PrepareSlices

SIZE = 64


class Case:
    """A batch of three images, the last without a structure, and all that trains on it."""

    def __init__(self, prompt="none", relation_warmup_epochs=0, epoch=1):
        random = torch.Generator().manual_seed(0)
        label = torch.zeros(3, 1, SIZE, SIZE, dtype=torch.long)
        label[0, 0, 10:30, 20:50] = 1
        label[1, 0, 5:20, 5:25], label[1, 0, 40:44, 50:60] = 1, 2
        self.batch = {"image": torch.rand(3, 3, SIZE, SIZE, generator=random) * 255, "label": label}
        if prompt == "box":
            self.batch["label"] = (label == 1).long()
            self.batch["boxes"] = torch.tensor([[20, 10, 49, 29], [5, 5, 24, 19], [0, 0, 63, 63]]).float()
        self.student = build_segmenter("vit_nano", SIZE, 2, LoRA(4), prompt)
        self.teacher = build_teacher("vit_nano", SIZE)
        torch.manual_seed(0)
        self.distillation = InformationDistillation(128, compression_weight=1.5, distillation_weight=0.5)
        self.update = DistillationUpdate(
            self.teacher, self.distillation, DataLoader(range(6), 3), relation_warmup_epochs
        )
        weights = [*model_weights(self.student), *self.distillation.parameters()]
        self.engine = SimpleNamespace(
            prepare_batch=PrepareSlices(),
            state=SimpleNamespace(device="cpu", epoch=epoch),
            non_blocking=False,
            to_kwargs={},
            network=self.student,
            inferer=SimpleInferer(),
            loss_function=infosam_loss(self.student.head),
            optimizer=torch.optim.SGD(weights, lr=1e-3),
        )

    def step(self):
        (output,) = self.update(self.engine, self.batch)
        return output["loss"]

    @torch.no_grad()
    def terms(self):
        """L_seg, L_r and L_d, one by one."""
        prompts = {"boxes": self.batch["boxes"]} if "boxes" in self.batch else {}
        student = self.student.train().predict(self.batch["image"], **prompts)
        embedding, token = self.update.ask_teacher(self.batch["image"], self.batch["label"], prompts)
        teacher = embedding.flatten(2).mT, token
        relation = self.distillation.relation
        teacher_relation = relation(*teacher)
        student_relation = relation(
            student.image_embedding.flatten(2).mT, student_token(student.mask_tokens, self.student.head)
        )
        return (
            self.engine.loss_function(student.logits, self.batch["label"]).item(),
            compression_loss(*teacher, teacher_relation).item(),
            distillation_loss(teacher_relation, student_relation).item(),
        )


@pytest.mark.parametrize("prompt", ["none", "box"])
def test_the_terms_add_up(prompt):
    case = Case(prompt)
    segmentation, compression, distillation = case.terms()
    assert case.step() == pytest.approx(segmentation + 1.5 * compression + 0.5 * distillation, rel=1e-5)


def test_warm_up_leaves_the_distillation_out():
    case = Case(relation_warmup_epochs=2, epoch=2)
    segmentation, compression, _ = case.terms()
    assert case.step() == pytest.approx(segmentation + 1.5 * compression, rel=1e-5)
    case.engine.state.epoch = 3
    segmentation, compression, distillation = case.terms()
    assert case.step() == pytest.approx(segmentation + 1.5 * compression + 0.5 * distillation, rel=1e-5)


def test_the_teacher_never_moves_and_the_relation_module_learns():
    case = Case()
    teacher, relation = copy.deepcopy((case.teacher.state_dict(), case.distillation.state_dict()))
    for _ in range(2):
        case.step()
    assert not case.teacher.training
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in case.teacher.state_dict().items())
    assert not any(torch.equal(tensor, relation[name]) for name, tensor in case.distillation.state_dict().items())


@pytest.mark.parametrize("checkpoint", [None, "random"])
@pytest.mark.parametrize("prompt", ["none", "box"])
def test_the_teacher_is_the_sam_that_the_student_starts_from(prompt, checkpoint):
    teacher = build_teacher("vit_nano", SIZE, checkpoint, seed=3)
    student = build_segmenter("vit_nano", SIZE, 2, LoRA(4), prompt, checkpoint, seed=3)
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():  # else the student multiplies by another library, which rounds differently
        torch.testing.assert_close(student.encode(image), teacher.encode(image), rtol=0, atol=0)
    if prompt != "none":  # classes have separate tokens
        tokens = (each.sam.mask_decoder.mask_tokens.weight for each in (student, teacher))
        assert torch.equal(*tokens)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_without_a_prompt_the_teacher_gets_the_box_around_all_structures():
    case = Case()
    _, tokens = case.update.ask_teacher(case.batch["image"], case.batch["label"], {})
    boxes, found = tight_boxes(case.batch["label"][:, 0] > 0)
    assert boxes[:2].tolist() == [[20, 10, 49, 29], [5, 5, 59, 43]]
    assert found.tolist() == [True, True, False]
    for index, box in enumerate((boxes[:1], boxes[1:2], None)):
        alone = case.teacher.predict(case.batch["image"][index : index + 1], boxes=box)
        torch.testing.assert_close(tokens[index], alone.mask_tokens[0, :1], rtol=1e-4, atol=1e-5)


def test_what_nobody_annotated_is_no_structure_in_the_teachers_box():
    """The label of a case that lacks a class: background, where it may be the class, and ignored pixels are none."""
    label = torch.zeros(16, 16, dtype=torch.long)
    label[4:8, 5:10], label[12, 12] = 1, IGNORED
    possible = possible_classes(label[None], torch.tensor([False, True]))[None]
    boxes, found = tight_boxes(known_structures(possible, "exclusive"))
    assert (boxes.tolist(), found.tolist()) == ([[5, 4, 9, 7]], [True])
    both = torch.stack([(label == 1).long(), torch.full_like(label, IGNORED)])[None]
    assert tight_boxes(known_structures(both, "overlapping"))[0].tolist() == [[5, 4, 9, 7]]


def test_the_students_token_is_the_mean_of_its_classes():
    tokens = torch.rand(2, 4, 8)
    assert torch.equal(student_token(tokens, "structure"), tokens[:, :1])
    assert torch.equal(student_token(tokens, "overlapping"), tokens.mean(dim=1, keepdim=True))
    assert torch.equal(student_token(tokens, "exclusive"), tokens[:, 1:].mean(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("slices", "batch_size", "given"), [(9, 1, "batch_size is 1"), (1, 4, "there is 1 training slice")]
)
def test_batches_of_one_image_are_refused_before_training(slices, batch_size, given):
    with pytest.raises(InputError, match=rf"Use 2 or more \({given}\)\.$"):
        DistillationUpdate(None, None, DataLoader(range(slices), batch_size))


def test_the_segmentation_loss_follows_the_head():
    assert isinstance(infosam_loss("exclusive"), SegmentationLoss)
    for head in ("structure", "overlapping"):
        assert infosam_loss(head, weighted_bce=False).weighted_bce is False


def test_structure_loss_reduces_a_larger_label():
    logits, label = torch.randn(2, 1, 16, 16), torch.randint(2, (2, 1, 8, 8)).repeat_interleave(4, 2)
    label = label.repeat_interleave(4, 3)
    torch.testing.assert_close(StructureLoss()(logits, label), StructureLoss()(logits, label[..., ::2, ::2]))
