"""Damaged and hostile files of weights."""

import io
import json
import pickle
import zipfile

import torch

from tests.fuzz import mutations
from tests.fuzz.mutations import pick


class Planted:
    """What, unpickled by a careless reader, touches a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.marker)!r}).touch()",)


def changed_safetensors(rng, content):
    """A safetensors file with its header changed, or its bytes damaged."""
    length = int.from_bytes(content[:8], "little")
    if rng.random() < 0.4:
        return mutations.damaged(rng, content)
    header = mutations.changed(rng, json.loads(content[8 : 8 + length]))
    block = json.dumps(header).encode()
    if rng.random() < 0.2:
        length = int(pick(rng, (0, 1, 2**31, 2**63 - 1, len(content))))
        return length.to_bytes(8, "little") + block + content[8 + length :][:1000]
    return len(block).to_bytes(8, "little") + block + content[8 + length :]


def changed_checkpoint(rng, content, path, marker):
    """Write a damaged or hostile version of a torch file."""
    how = int(rng.integers(7))
    if how == 0:
        path.write_bytes(mutations.damaged(rng, content))
    elif how == 1:
        path.write_bytes(_other_pickle(rng, content))
    elif how == 2:  # the very form that old files have
        path.write_bytes(pickle.dumps({"state_dict": Planted(marker), "model": {"a": Planted(marker)}}))
    elif how == 3:
        torch.save({"state_dict": Planted(marker)}, path, _use_new_zipfile_serialization=bool(rng.integers(2)))
    else:
        torch.save(_other_tensors(rng, torch.load(io.BytesIO(content), weights_only=True)), path)


def _other_pickle(rng, content):
    """The archive with the bytes of its pickle, or of another small member, damaged."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(made, "w") as target:
        names = source.namelist()
        small = [name for name in names if source.getinfo(name).file_size < 1 << 20]
        harmed = next(name for name in names if name.endswith("data.pkl")) if rng.random() < 0.7 else pick(rng, small)
        for name in names:
            member = source.read(name)
            target.writestr(name, mutations.damaged(rng, member) if name == harmed else member)
    return made.getvalue()


def _other_tensors(rng, weights):
    """Tensors of other names, shapes and types; and one that claims to be huge while its file is small."""
    weights, names = dict(weights), list(weights)
    for _ in range(int(rng.integers(1, 4))):
        name, how = pick(rng, names), int(rng.integers(8))
        if how == 0:
            weights.pop(name, None)
        elif how == 1:
            weights[name] = torch.zeros(1).expand(10**6, 10**6)
        elif how == 2 and "image_encoder.pos_embed" in "".join(names):
            name = next(each for each in names if each.endswith("image_encoder.pos_embed"))
            weights[name] = torch.zeros(1).expand(1, 10**5, 10**5, weights[name].shape[-1])
        elif how == 3:
            weights[name] = pick(rng, (torch.zeros(0), torch.tensor(1.0), torch.zeros(2, 3), torch.zeros(1, 1, 1, 1)))
        elif how == 4:
            weights[name] = pick(rng, (1, "x", None, [1], {"a": 1}))
        elif how == 5:
            kind = pick(rng, (torch.int64, torch.float64, torch.bool, torch.complex64, torch.bfloat16))
            weights[name] = torch.zeros(4).to(kind)
        elif how == 6:
            weights[pick(rng, mutations.TEXTS).replace("\ud800", "")] = weights.get(name)
        else:
            weights[name] = torch.full((2, 2), float("nan")).to_sparse()
    choice = rng.random()
    if choice < 0.2:
        return {pick(rng, ("model", "state_dict", "model_state_dict", "weights")): weights}
    if choice < 0.25:
        return pick(rng, ([weights], {}, {"model": None}, torch.zeros(3), {1: torch.zeros(1)}, "x", None))
    return weights
