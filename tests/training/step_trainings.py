"""Small trainings whose steps are recorded, and a stand-in for CUDA graphs on a processor."""

from types import SimpleNamespace

import torch
from monai.inferers import SimpleInferer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medsam_adapt.core.update import PlainUpdate
from medsam_adapt.methods import (
    AdaptFormer,
    BiLevelUpdate,
    DecoderLoRA,
    DistillationUpdate,
    InformationDistillation,
    Parser,
    SegmentationLoss,
    SeriesAdapters,
    StructureLoss,
)
from medsam_adapt.networks import DecoderOnly, build_segmenter, build_teacher, model_weights, prompt_embedding

SIZE = 32
ADAPTERS = {"decoder": DecoderOnly, "samparser": Parser, "adaptformer": AdaptFormer, "infosam": SeriesAdapters}
WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")


class Training:
    """A network, its optimisers and batches of random images; equal settings train equally.

    Args:
        method: of ADAPTERS, or blosam-first, -second or -joint.
        prompt: as for ``build_segmenter``.
        device: that trains.
    """

    def __init__(self, method, prompt="none", device="cpu"):
        self.prompt, self.device = prompt, torch.device(device)
        adapter = ADAPTERS.get(method, DecoderLoRA)()
        bi_level = method.startswith("blosam")
        self.network = build_segmenter("vit_nano", SIZE, 2, adapter, prompt, "random", bi_level, False).to(device)
        self.optimizer = torch.optim.AdamW(model_weights(self.network), lr=0.0, fused=True)
        self.optimizers = [self.optimizer]
        self.engine = SimpleNamespace(
            network=self.network,
            optimizer=self.optimizer,
            loss_function=StructureLoss() if method == "infosam" and prompt == "box" else self._loss(),
            inferer=SimpleInferer(),
            prepare_batch=lambda batch, *_, **__: batch,
            state=SimpleNamespace(device=self.device, epoch=1),
            non_blocking=False,
            to_kwargs={},
        )
        self.update = PlainUpdate()
        if bi_level:
            prompt_optimizer = torch.optim.AdamW([prompt_embedding(self.network)], lr=0.0, fused=True)
            self.optimizers.append(prompt_optimizer)
            second = iter(lambda: self.batch(2, seed=100 + next(self._number)), None)
            self._number = iter(range(1000))
            self.update = BiLevelUpdate(method.removeprefix("blosam-"), None, prompt_optimizer, second)
        if method == "infosam":
            torch.manual_seed(0)
            distillation = InformationDistillation(self.network.sam.prompt_encoder.embed_dim).to(device)
            self.optimizer.add_param_group({"params": list(distillation.parameters())})
            loader = SimpleNamespace(dataset=range(4), batch_size=2)
            self.update = DistillationUpdate(
                build_teacher("vit_nano", SIZE, "random").to(device), distillation, loader, relation_warmup_epochs=1
            )

    def _loss(self):
        return SegmentationLoss(self.network.head)

    def batch(self, count=2, seed=0):
        """Images with a rectangle or two, the last without; some pixels are labelled by nobody."""
        random = torch.Generator().manual_seed(seed)
        image = torch.rand(count, 3, SIZE, SIZE, generator=random) * 255
        label = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.uint8)
        label[:-1, :, 4 + seed % 5 : 20, 8:24] = 1
        if self.prompt == "none":
            label[:-1, :, 22:30, 2:12] = 2
        label[0, :, :2] = 255
        kwargs = {"low_res": True}
        if self.prompt == "box":
            kwargs["boxes"] = torch.tensor([[8.0, 4.0, 23.0, 19.0]]).repeat(count, 1).to(self.device)
        if self.prompt == "points":
            kwargs["points"] = torch.tensor([[[9.0, 9, 1], [3, 3, 0], [0, 0, -1]]]).repeat(count, 1, 1).to(self.device)
        return image.to(self.device), label.to(self.device), (), kwargs

    def run(self, step, sizes=(2,) * 8, on_device=False):
        """The losses of one step for each of the batches' ``sizes``, with a learning rate that falls.

        Args:
            step: takes the engine and a batch.
            sizes: of the batches.
            on_device: whether learning rates are tensors.
        """
        losses = []
        for number, count in enumerate(sizes):
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    rate = 2**-9 * (1 - number / 16)  # a number that single precision holds too
                    group["lr"] = torch.tensor(rate, device=self.device) if on_device else rate
            (output,) = step(self.engine, self.batch(count, number))
            losses.append(output["loss"])
        return losses

    def state(self):
        """All that a step may change."""
        states = [state for each in self.optimizers for state in each.state_dict()["state"].values()]
        return [*self.network.state_dict().values(), *(value for state in states for value in state.values())]


class Tape(TorchDispatchMode):
    """Notes what is computed, and computes it again: from and into the same tensors, as a CUDA graph does.

    It knows nothing of Python's numbers and decisions, and whatever would wait for a device is an error.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name == "index" else ()
        if name in WAITS or any(index is not None and index.dtype == torch.bool for index in indices):
            raise RuntimeError(f"{name} waits for the device")
        results = function(*args, **(kwargs or {}))
        given = {storage_of(each) for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        made = [
            each if isinstance(each, torch.Tensor) and storage_of(each) not in given else None
            for each in tree_leaves(results)
        ]
        if function._schema.is_mutable or any(each is not None for each in made):  # else it is a view
            self.calls.append((function, args, kwargs or {}, made))
        return results

    @torch.no_grad()
    def again(self):
        for function, args, kwargs, made in self.calls:
            found = tree_leaves(function(*args, **kwargs))
            for old, new in zip(made, found, strict=True):
                if old is not None:
                    old.copy_(new)


class TapeRecorder:
    """A ``Recorder`` for a processor. It cannot but do a step as it records it, which the first replay leaves out."""

    def __init__(self):
        self.recordings = 0

    def run(self, step):
        return step()

    def record(self, step):
        self.recordings += 1
        tape, done = Tape(), []
        with tape:
            loss = step()

        def replay():
            if done:
                tape.again()
            done.append(True)
            return loss

        return replay


def storage_of(tensor):
    return tensor.untyped_storage()._cdata
