from pathlib import Path

import numpy as np
import pytest

from medsam_adapt.core.errors import RunError
from medsam_adapt.data.slices.stored_array import StoredArray


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 3, 4, 2), (1, 2)])
def test_slices_are_those_of_the_array_and_may_be_written_to(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    stored = StoredArray(tmp_path / "a.npy")
    assert (stored.shape, stored.dtype, len(stored)) == (shape, dtype, shape[0])
    for index in (0, shape[0] - 1, -1):
        np.testing.assert_array_equal(stored[index], array[index])
    stored[0][:] = 0
    np.testing.assert_array_equal(stored, array)
    with pytest.raises(IndexError):
        stored[shape[0]]


def test_no_file_stays_open_and_none_is_mapped(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 8), np.uint8))
    arrays = [StoredArray(tmp_path / "a.npy") for _ in range(3000)]  # a process may have about 1,000 files open
    assert all(array[1].all() for array in arrays)
    if (maps := Path("/proc/self/maps")).is_file():  # Linux
        assert str(tmp_path) not in maps.read_text()


def test_files_that_are_none_are_told(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 8), np.uint8))
    np.save(tmp_path / "f.npy", np.asfortranarray(np.ones((3, 8), np.uint8)))
    with pytest.raises(ValueError, match="not in C order"):
        StoredArray(tmp_path / "f.npy")
    stored = StoredArray(tmp_path / "a.npy")
    (tmp_path / "a.npy").unlink()
    with pytest.raises(RunError, match=r"a\.npy: it can no longer be read .*cache clear.*--resume"):
        stored[1]
