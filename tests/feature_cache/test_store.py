import errno
import threading

import numpy as np
import pytest
import torch

from medsam_adapt.core.cache import cache_info, clear_cache
from medsam_adapt.core.errors import RunError
from medsam_adapt.feature_cache import store as features
from medsam_adapt.feature_cache.store import Features, choose_place, features_folder, hold_features, store_features

CPU = torch.device("cpu")
VALUES = torch.arange(35, dtype=torch.float32).reshape(7, 5) / 7
KEY = "ab" * 32


def compute(rows):
    return VALUES[list(rows)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_place_gives_the_same_rows_back(tmp_path, dtype):
    counts = []
    filed = store_features(features_folder(tmp_path, KEY), 7, 3, compute, dtype, counts.append)
    held = hold_features(7, 3, compute, dtype, "memory", counts.append)
    assert counts == [3, 3, 1] * 2
    for kept in (filed, held):
        found = Features(kept, CPU)[[6, 0, 6]]
        assert found.dtype == torch.float32
        assert torch.equal(found, VALUES[[6, 0, 6]].to(dtype).float())


def test_what_is_there_is_not_computed_again(tmp_path):
    folder = features_folder(tmp_path, KEY)
    store_features(folder, 7, 3, compute, torch.float32, lambda _: None)
    again = store_features(folder, 7, 3, None, torch.float32, None)
    assert torch.equal(Features(again, CPU)[[2]], VALUES[[2]])
    other = features_folder(tmp_path, "cd" * 32)
    assert other != folder
    info = cache_info(tmp_path)
    assert (list(info.features), info.cases) == ([folder], {})
    assert info.bytes == sum(path.stat().st_size for path in folder.iterdir())
    clear_cache(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_once_keep_one_whole_store(tmp_path):
    folder = features_folder(tmp_path, KEY)
    both_compute = threading.Barrier(2)

    def compute_beside_another(rows):
        both_compute.wait(timeout=20)
        return compute(rows)

    def run():
        store = store_features(folder, 7, 7, compute_beside_another, torch.float32, lambda _: None)
        results.append(Features(store, CPU)[range(7)])

    results = []
    runs = [threading.Thread(target=run) for _ in range(2)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert len(results) == 2
    assert all(torch.equal(result, VALUES) for result in results)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_run_that_fails_leaves_nothing(tmp_path):
    def fail(rows):
        if 3 in rows:
            raise OSError(errno.ENOSPC, "No space left on device")
        return compute(rows)

    with pytest.raises(RunError, match=r"No space left on device.*--cache-dir"):
        store_features(features_folder(tmp_path, KEY), 7, 3, fail, torch.float32, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_features_beyond_half_precision_are_told():
    with pytest.raises(RunError, match=r"not finite as float16.*cache_dtype=float32"):
        hold_features(7, 3, lambda rows: compute(rows) * 1e5, torch.float16, "memory", lambda _: None)


def test_a_damaged_store_is_told(tmp_path):
    folder = features_folder(tmp_path, KEY)
    store_features(folder, 7, 3, compute, torch.float32, lambda _: None)
    (folder / "features.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(RunError, match=f"^{folder}: it is damaged .*cache clear"):
        store_features(folder, 7, 3, compute, torch.float32, lambda _: None)


@pytest.mark.parametrize(
    ("wanted", "size", "gpu", "place"),
    [
        ("auto", 40, torch.device("cuda"), "gpu"),
        ("auto", 40, CPU, "files"),
        ("auto", 90, torch.device("cuda"), "files"),
        ("auto", 150, CPU, "memory"),
        ("auto", 250, CPU, None),
        ("memory", 40, CPU, "memory"),
        ("files", 150, CPU, None),
        ("gpu", 1, CPU, None),
    ],
)
def test_the_place_is_chosen_by_what_is_free(monkeypatch, tmp_path, wanted, size, gpu, place):
    free = {"gpu": 100, "files": 200, "memory": 400}

    def free_of(where, folder, device):
        return 0 if where == "gpu" and device.type == "cpu" else free[where]

    monkeypatch.setattr(features, "_free", free_of)
    assert choose_place(wanted, size, tmp_path, gpu) == place


def test_free_room_is_asked_for_a_folder_that_is_not_there_yet(tmp_path):
    assert features._free("files", tmp_path / "a" / "b", CPU) > 0
    assert features._free("gpu", tmp_path, CPU) == 0
    assert isinstance(np.int64(features._free("memory", tmp_path, CPU)), np.int64)
