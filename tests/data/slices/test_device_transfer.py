import itertools

import numpy as np
import pytest
import torch

from medsam_adapt.data.slices.device_transfer import on_device, on_host

CPU = torch.device("cpu")
HAS_GPU = torch.cuda.is_available()
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.skipif(not HAS_GPU, reason="needs a GPU"))]
VOXELS = np.arange(24).reshape(2, 3, 4)
VIEWS = [
    VOXELS,
    VOXELS[::-1, :, ::-1],
    np.asfortranarray(VOXELS).swapaxes(0, 2)[:, ::-1],
    VOXELS[1:, :1, ::-1],
    VOXELS[:, ::-1][:, :1],
    np.broadcast_to(VOXELS[:1], (5, 3, 4)),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_view_becomes_a_tensor_of_its_own(device):
    for view, dtype in itertools.product(VIEWS, (np.int16, np.float32, np.uint16, np.float64, ">i2")):
        view = view.astype(dtype, order="K", copy=False)
        tensor = on_device(view, device)
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.cpu().numpy(), view)
        before = view.copy()
        tensor.zero_()
        np.testing.assert_array_equal(view, before)


def test_another_device_is_given_what_the_processor_is(monkeypatch):
    """The way of a GPU, with the processor in its place."""

    class Elsewhere:
        type = "elsewhere"

    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor.clone())
    for view in (*VIEWS, VOXELS.astype(np.float32)[:, ::-1]):
        there = on_device(view, Elsewhere())
        np.testing.assert_array_equal(there.numpy(), view)
        assert there.is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
def test_results_come_in_turn_and_as_they_were(device):
    made = []

    def results():
        for number in range(6):
            made.append(number)
            yield number, [torch.full((2, 3), number, device=device), torch.arange(number, device=device)]

    found = []
    for key, (first, second) in on_host(results()):
        assert len(made) - len(found) == (1 if device.type == "cpu" else min(3, 6 - len(found)))
        found.append(key)
        assert (first == key).all()
        np.testing.assert_array_equal(second, np.arange(key))
    assert found == list(range(6))
    assert list(on_host(iter(()))) == []
