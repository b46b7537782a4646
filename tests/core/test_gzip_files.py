"""gzip files by zlib-ng, or by Python's own where it is not installed."""

import gzip
import sys

import numpy as np
import pytest

from medsam_adapt.core import gzip_files
from medsam_adapt.core.gzip_files import gzip_compressed, gzip_errors, open_gzip


@pytest.fixture(params=["as installed", "without zlib-ng"])
def either(request, monkeypatch):
    if request.param == "without zlib-ng":
        monkeypatch.setitem(sys.modules, "zlib_ng", None)
    gzip_files._library.cache_clear()
    yield
    gzip_files._library.cache_clear()


@pytest.mark.usefixtures("either")
def test_content_comes_back(tmp_path):
    content = np.arange(100_000, dtype=np.uint32).view(np.uint8)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip_compressed(content))
    assert gzip.decompress(path.read_bytes()) == content.tobytes()
    with open_gzip(path) as file:
        assert file.read() == content.tobytes()


@pytest.mark.usefixtures("either")
def test_equal_content_gives_equal_files_without_time_and_name():
    compressed = gzip_compressed(b"voxels")
    assert compressed == gzip_compressed(np.frombuffer(b"voxels", np.uint8))
    assert compressed[3] == 0  # flags: no name, no comment
    assert compressed[4:8] == bytes(4)  # time


@pytest.mark.usefixtures("either")
def test_several_parts_are_one_content(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip_compressed(b"first ") + gzip_compressed(b"second"))
    with open_gzip(path) as file:
        assert file.read() == b"first second"


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("damage", ["cut off", "checksum", "bits", "length", "behind"])
def test_every_damage_is_noticed(tmp_path, damage):
    content = np.random.default_rng(0).integers(0, 50, 50_000, np.uint8)
    whole = bytearray(gzip_compressed(content))
    if damage == "cut off":
        whole = whole[:-20]
    elif damage == "checksum":
        whole[-8] ^= 1
    elif damage == "length":
        whole[-1] ^= 1
    elif damage == "behind":
        whole += b"rubbish"
    else:
        whole[100:140] = bytes(40)
    path = tmp_path / "a.gz"
    path.write_bytes(whole)
    with pytest.raises(gzip_errors()), open_gzip(path) as file:
        file.read()
