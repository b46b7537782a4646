import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medsam_adapt.core.errors import InputError
from medsam_adapt.methods.infosam import (
    InformationDistillation,
    RelationModule,
    StructureLoss,
    compression_loss,
    distillation_loss,
)
from medsam_adapt.methods.losses import boundary_weights, weighted_cross_entropy, weighted_iou_loss
from tests import golden
from tests.warm import fork_server

#: Names of the authors' tensors for ours.
TENSORS = {"query_proj": "query_proj", "key_proj": "key_proj"}
TENSORS |= {"norm_image": "layer_norm_feat", "norm_mask": "layer_norm_mask"}

both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def reference_module(figures, dtype):
    module = RelationModule(len(figures["w.query_proj.bias"])).to(dtype)
    module.load_state_dict(
        {
            f"{own}.{part}": torch.tensor(figures[f"w.{theirs}.{part}"])
            for own, theirs in TENSORS.items()
            for part in ("weight", "bias")
        }
    )
    return module


def gradients(module, key):
    """The gradients of the module's tensors, by the reference's keys."""
    return {
        key.format(f"{theirs}.{part}"): getattr(getattr(module, own), part).grad
        for own, theirs in TENSORS.items()
        for part in ("weight", "bias")
    }


@both_precisions
def test_relation_is_that_of_the_reference(dtype):
    figures = golden.load("infosam_relation")
    module = reference_module(figures, dtype)
    image, mask = golden.tensor(figures["feat"], dtype), golden.tensor(figures["mask_token"], dtype)
    relation, scores = module(image, mask), module.scores(image, mask)
    probed = (relation * torch.tensor(figures["probe"], dtype=dtype)).sum()
    probed.backward(retain_graph=True)
    values = {
        "relation": relation,
        "scores_before_l2norm": scores,
        "sumsq_relation": relation.square().sum(),
        "sumsq_scores": scores.square().sum(),
        "probe_dot_relation": probed,
        "grad_feat_of_probe": image.grad,
        "grad_mask_token_of_probe": mask.grad,
        "grad_query_w_of_sumsq_scores": torch.autograd.grad(scores.square().sum(), module.query_proj.weight)[0],
        **gradients(module, "grad_{}_of_probe"),
    }
    assert golden.error(values, figures) < 1e-5
    # Rows of unit length: this gradient is zero, in the reference too but for rounding.
    zero = torch.autograd.grad(relation.square().sum(), module.query_proj.weight)[0]
    assert max(zero.abs().max(), abs(figures["grad_query_w_of_sumsq_relation"]).max()) < 1e-6


def test_relation_of_the_papers_equation_9_is_another():
    """Its residual multiplies the raw tokens; the released code and we multiply the normalised ones."""
    figures = golden.load("infosam_relation")
    module = reference_module(figures, torch.float64)
    image, mask = (torch.tensor(figures[key], dtype=torch.float64) for key in ("feat", "mask_token"))
    normalised = (module.norm_mask(mask) @ module.norm_image(image).mT).flatten(1)
    paper = F.normalize(module.scores(image, mask) - normalised + (mask @ image.mT).flatten(1))
    expected = {"paper_eq9_raw_residual_relation_f64": paper}
    assert golden.error(expected, figures) < 1e-5
    assert golden.error(dict.fromkeys(expected, module(image, mask)), figures) > 0.25


@both_precisions
@pytest.mark.parametrize("term", ["loss_r", "loss_d", "total"])
def test_losses_are_those_of_the_reference(term, dtype):
    figures = golden.load("infosam_losses")
    module = reference_module(figures, dtype)
    image, mask = (golden.tensor(figures[f"{key}_teacher"], dtype) for key in ("feat", "mask_token"))
    student = tuple(golden.tensor(figures[f"{key}_student"], dtype) for key in ("feat", "mask_token"))
    teacher_relation, student_relation = module(image.detach(), mask.detach()), module(*student)
    if term == "total":
        distillation = InformationDistillation(image.shape[-1], figures["alpha"].item(), figures["beta"].item())
        distillation.relation = module
        embeddings = [tokens.mT.unflatten(2, (-1, 3)) for tokens in (image, student[0])]
        loss = distillation(embeddings[0], mask, embeddings[1], student[1])
    elif term == "loss_r":
        loss = compression_loss(image.detach(), mask.detach(), teacher_relation)
    else:
        loss = distillation_loss(teacher_relation, student_relation)
    loss.backward()
    values = {
        "relation_teacher": teacher_relation,
        "relation_student": student_relation,
        f"loss_{term.removeprefix('loss_')}": loss,
        f"grad_feat_student_of_{term}": student[0].grad,
        f"grad_mask_token_student_of_{term}": student[1].grad,
        **gradients(module, f"grad_{{}}_of_{term}"),
    }
    values = {key: value for key, value in values.items() if key in figures}
    assert len(values) == {"loss_r": 6, "loss_d": 8, "total": 6}[term]
    assert golden.error(values, figures) < 1e-5
    assert image.grad is None
    assert mask.grad is None


def test_a_batch_of_one_image_is_refused():
    tokens, relation = torch.rand(1, 6, 8), torch.rand(1, 6)
    for loss in (
        lambda: compression_loss(tokens, tokens[:, :1], relation),
        lambda: distillation_loss(relation, relation),
        lambda: InformationDistillation(8)(tokens, tokens[:, :1], tokens, tokens[:, :1]),
    ):
        with pytest.raises(InputError, match="Use 2 or more"):
            loss()


def test_distillation_keeps_full_precision_under_autocast():
    torch.manual_seed(0)
    module, embedding, token = InformationDistillation(8), torch.rand(3, 8, 4, 4), torch.rand(3, 1, 8)
    expected = module(embedding, token, embedding + 0.1, token)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(embedding, token, embedding + 0.1, token), expected)
        assert module(embedding.bfloat16(), token.bfloat16(), embedding.bfloat16(), token).dtype == torch.float32


class Student(nn.Module):
    """A student small enough for two processes, with the loss inside as DistributedDataParallel wants it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.projection, self.loss = nn.Conv2d(8, 8, 1), InformationDistillation(8)

    def forward(self, embedding, token):
        return self.loss(embedding, token, self.projection(embedding), token)


def gradients_on_a_share(rank, store, embedding, token, expected):
    """One of two processes, with one image each: together they must find the gradients of both images at once."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    student = DistributedDataParallel(Student())
    student(embedding[rank : rank + 1], token[rank : rank + 1]).backward()
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    del student  # before the group that it uses
    dist.barrier()  # neither leaves while the other still needs it
    dist.destroy_process_group()


def test_two_processes_with_one_image_each_are_one_process_with_two(tmp_path):
    generator = torch.Generator().manual_seed(0)
    embedding, token = torch.rand(2, 8, 4, 4, generator=generator), torch.rand(2, 1, 8, generator=generator)
    student = Student()
    student(embedding, token).backward()
    expected = [parameter.grad for parameter in student.parameters()]
    fork_server()
    given = (tmp_path / "store", embedding, token, expected)
    torch.multiprocessing.start_processes(gradients_on_a_share, given, nprocs=2, start_method="forkserver")


@both_precisions
@pytest.mark.parametrize(("weighted_bce", "name"), [(True, "intended"), (False, "as_coded")])
def test_structure_loss_is_that_of_the_reference(weighted_bce, name, dtype):
    """Both values: as the formula is meant, our default, and as the released code computes it."""
    figures = golden.load("infosam_structure_loss")
    logits, labels = golden.tensor(figures["logits"], dtype), torch.tensor(figures["target"], dtype=dtype)
    criterion = StructureLoss(weighted_bce)
    loss = criterion(logits, labels)
    loss.backward()
    values = {f"loss_{name}": loss, f"grad_logits_{name}": logits.grad}
    if not weighted_bce:
        values["loss_as_coded_3d_input"] = criterion(logits[:, 0], labels)
    assert golden.error(values, figures) < 1e-5
    other = StructureLoss(not weighted_bce)(logits, labels)
    assert golden.error({f"loss_{name}": other}, figures) > 0.1


@both_precisions
def test_terms_of_the_structure_loss_are_those_of_the_reference(dtype):
    figures = golden.load("infosam_structure_loss")
    logits, labels = (torch.tensor(figures[key], dtype=dtype) for key in ("logits", "target"))
    weights = boundary_weights(labels)
    values = {
        "weit": weights,
        "term_bce_unweighted_mean": weighted_cross_entropy(logits, labels, torch.ones_like(weights)).mean(),
        "term_wbce_per_image": weighted_cross_entropy(logits, labels, weights),
        "term_wiou_per_image": weighted_iou_loss(logits, labels, weights),
    }
    assert golden.error(values, figures) < 1e-5


def test_channels_of_the_structure_loss_count_as_images():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 16, 16), torch.rand(2, 3, 16, 16).round()
    as_images = StructureLoss()(logits.reshape(6, 1, 16, 16), labels.reshape(6, 1, 16, 16))
    torch.testing.assert_close(StructureLoss()(logits, labels), as_images)
    with pytest.raises(InputError, match="one label map per channel"):
        StructureLoss()(logits, labels[:, :1])
