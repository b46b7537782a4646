"""BLO-SAM: bi-level optimisation of SAM, which needs no prompt (arXiv 2402.16338, ICML 2024).

The training set is halved. On D1 the model weights W are trained, on D2 the dense prompt embedding A:

    min_A L(W*(A), A; D2)   subject to   W*(A) = argmin_W L(W, A; D1).

Each step takes one optimiser step of W on a batch of D1, then one of A on a batch of D2 along the hypergradient
through one virtual step W' = W - η ∇_W L(W, A; D1):

    ∇_A L(W', A; D2) - η [∇_A L(W⁺, A; D1) - ∇_A L(W⁻, A; D1)] / 2ε,   W± = W ± ε ∇_{W'} L(W', A; D2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from medsam_adapt.core.distributed import average, average_gradients, unwrap
from medsam_adapt.core.update import Prepared, Update, prepared

if TYPE_CHECKING:
    from medsam_adapt.data.slices.sampling import EndlessLoader  # it imports MONAI, which is slow to

Mode = Literal["finite_difference", "exact", "first_order"]
RADIUS = 0.01  # ε = RADIUS / ||∇_{W'} L(W', A; D2)||
_EXACT = torch.float64  # of that norm


def hypergradient(
    loss_d1: Callable[[], Tensor],
    loss_d2: Callable[[], Tensor],
    weights: Sequence[Tensor],
    prompt: Tensor,
    step_size: float | Tensor,
    mode: Mode = "finite_difference",
) -> Tensor:
    """Gradient of the D2 loss with respect to the prompt, through one virtual step of the weights on D1.

    Weights, gradients and random state are bitwise the same afterwards; optimisers are not touched. Every call of a
    loss starts from the same random state, so that dropout is the same in all of them. Of several processes that train
    together each gives its losses, of the whole batch, and gets the same result.

    Args:
        loss_d1: computes the scalar L(W, A; D1) from the tensors' present values.
        loss_d2: computes the scalar L(W, A; D2).
        weights: W, leaf tensors that require gradients.
        prompt: A, a leaf tensor that requires gradients.
        step_size: η of the virtual step; with a scalar tensor on the device of W no number is read back from there.
        mode: ``finite_difference`` as above; ``exact`` with the mixed second derivative by a second backward pass;
            ``first_order`` without a virtual step: ∇_A L(W, A; D2).

    Returns:
        a tensor shaped like ``prompt``.
    """

    def gradients(loss: Callable[[], Tensor], *tensors: Tensor, create_graph: bool = False) -> tuple[Tensor, ...]:
        with torch.random.fork_rng(devices=_random_devices(prompt)), torch.enable_grad():
            found = torch.autograd.grad(
                loss(), tensors, create_graph=create_graph, allow_unused=True, materialize_grads=True
            )
        return found if create_graph else tuple(average(found))  # what is averaged has no graph

    if mode == "first_order":
        return gradients(loss_d2, prompt)[0]
    before = _copied(weights)
    try:
        descent = gradients(loss_d1, *weights)
        _set(weights, before, descent, -step_size)
        direct, *vector = gradients(loss_d2, prompt, *weights)
        if mode == "exact":
            _set(weights, before)
            of_weights = gradients(loss_d1, *weights, create_graph=True)
            along = torch.stack([(gradient * v).sum() for gradient, v in zip(of_weights, vector, strict=True)]).sum()
            (mixed,) = average(torch.autograd.grad(along, prompt, allow_unused=True, materialize_grads=True))
        else:
            length = torch.linalg.vector_norm(torch.cat([v.flatten() for v in vector]), dtype=_EXACT)
            flat = torch.eq(length, 0)  # the D2 loss does not depend on the weights here: nothing to follow
            length = length.masked_fill(flat, 1.0)
            epsilon = RADIUS / (length if isinstance(step_size, Tensor) else length.item())
            _set(weights, before, vector, epsilon)
            (above,) = gradients(loss_d1, prompt)
            _set(weights, before, vector, -epsilon)
            (below,) = gradients(loss_d1, prompt)
            mixed = ((above - below) / (2 * epsilon)).masked_fill(flat, 0.0)
        return direct - step_size * mixed
    finally:
        _set(weights, before)


def _random_devices(tensor: Tensor) -> list[torch.device]:
    """Whose random state goes back, beside the processor's."""
    return [tensor.device] if tensor.is_cuda else []


@torch.no_grad()
def _copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(tensor) for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return copies


@torch.no_grad()
def _set(
    weights: Sequence[Tensor],
    values: Sequence[Tensor],
    direction: Sequence[Tensor] | None = None,
    scale: float | Tensor = 0.0,
) -> None:
    """weights = values + scale * direction, in place; for all weights at once, where a GPU has kernels for that."""
    torch._foreach_copy_(list(weights), list(values))
    if direction is None:
        return
    if isinstance(scale, Tensor):
        torch._foreach_add_(list(weights), torch._foreach_mul(list(direction), scale.to(direction[0].dtype)))
    else:
        torch._foreach_add_(list(weights), list(direction), alpha=scale)


class BiLevelUpdate(Update):
    """One training step of BLO-SAM, as ``iteration_update`` of MONAI's ``SupervisedTrainer``.

    The trainer's optimiser holds W and its loader gives D1.

    Args:
        order: ``second`` follows the hypergradient by finite differences; ``first`` only ∇_A L(W, A; D2), the default
            script of the paper's authors; ``joint`` is no bi-level step but what it is compared with: W and A descend
            the mean of both losses together.
        step_size: η of the virtual step; the present learning rate of W when None.
        prompt_optimizer: holds A alone.
        second_loader: gives the batches of D2.

    Raises:
        ValueError: for another order, or when it is called without what it needs.
    """

    def __init__(
        self,
        order: Literal["first", "second", "joint"] = "second",
        step_size: float | None = None,
        prompt_optimizer: Optimizer | None = None,
        second_loader: EndlessLoader | None = None,
    ) -> None:
        if order not in ("first", "second", "joint"):
            raise ValueError(f"order: there is no {order!r}. Use first, second or joint.")
        self.joint = order == "joint"
        self.mode: Mode = "finite_difference" if order == "second" else "first_order"
        self.step_size = step_size
        self.prompt_optimizer = prompt_optimizer
        self.second_loader = second_loader

    def inputs(self, engine: Any, batch: Any) -> tuple[Prepared, Prepared]:
        if self.prompt_optimizer is None or self.second_loader is None:
            raise ValueError("BiLevelUpdate needs prompt_optimizer and second_loader to train")
        return prepared(engine, batch), prepared(engine, next(self.second_loader))

    def step(self, engine: Any, inputs: tuple[Prepared, Prepared]) -> Tensor:
        optimizer, prompt_optimizer = self.optimizers(engine)
        engine.network.train()
        loss_d1, loss_d2 = (self._loss(engine, each) for each in inputs)
        optimizer.zero_grad()
        if self.joint:
            return self._joint_step(optimizer, prompt_optimizer, loss_d1, loss_d2)
        first = loss_d1()
        first.backward()
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        average_gradients(weights)
        optimizer.step()
        (prompt,) = (tensor for group in prompt_optimizer.param_groups for tensor in group["params"])
        rate = optimizer.param_groups[0]["lr"] if self.step_size is None else self.step_size
        if prompt.is_cuda and not isinstance(rate, Tensor):  # so that nothing waits for the device
            rate = torch.full((), rate, device=prompt.device)
        prompt.grad = hypergradient(loss_d1, loss_d2, weights, prompt, rate, self.mode)
        prompt_optimizer.step()
        prompt.grad = None
        return first.detach()

    def optimizers(self, engine: Any) -> list[Optimizer]:
        assert self.prompt_optimizer is not None, "inputs() asked for it"
        return [engine.optimizer, self.prompt_optimizer]

    @staticmethod
    def _joint_step(
        optimizer: Optimizer,
        prompt_optimizer: Optimizer,
        loss_d1: Callable[[], Tensor],
        loss_d2: Callable[[], Tensor],
    ) -> Tensor:
        """One level: D1 and D2 train the weights and the prompt alike."""
        prompt_optimizer.zero_grad()
        both = (loss_d1() + loss_d2()) / 2
        both.backward()
        for each in (optimizer, prompt_optimizer):
            average_gradients(weight for group in each.param_groups for weight in group["params"])
        optimizer.step()
        prompt_optimizer.step()
        prompt_optimizer.zero_grad()
        return both.detach()

    @staticmethod
    def _loss(engine: Any, given: Prepared) -> Callable[[], Tensor]:
        """The loss of a batch as a function of the network's present weights; what is frozen runs once."""
        image, label, args, kwargs = given
        segmenter: Any = unwrap(engine.network)  # DistributedDataParallel knows one backward pass for each forward pass
        if "features" not in kwargs:
            kwargs = {**kwargs, "features": segmenter.frozen_features(image)}

        def loss() -> Tensor:
            return engine.loss_function(engine.inferer(image, segmenter, *args, **kwargs), label)

        return loss
