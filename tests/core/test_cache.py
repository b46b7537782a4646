import errno
import os
from pathlib import Path

import pytest

from medsam_adapt.core.cache import (
    MAKING,
    borrowed_cache,
    cache_folder,
    cache_info,
    clear_cache,
    labels_folder,
    made_in_cache,
)
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import owner_tag
from medsam_adapt.data.slices import slice_store as slices
from tests.slicing import training_data


def data_in(phantoms, cache_dir, image_size=32):
    return training_data(phantoms, image_size=image_size, cache_dir=cache_dir, held_out=0.0)


def test_the_cache_is_described_and_cleared(phantoms, tmp_path):
    cache = tmp_path / "cache"
    assert (cache_info(cache).bytes, cache_info(cache).cases) == (0, {})
    data_in(phantoms, cache).store()
    data_in(phantoms, cache, 16).store()
    info = cache_info(cache)
    assert (len(info.cases), info.leftovers) == (6, {})
    assert info.datasets == {str(phantoms.resolve()): 6}
    assert info.bytes == sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    (cache / "notes.txt").write_text("mine")
    (cache / "thesis").mkdir()
    assert clear_cache(cache) == info
    assert sorted(path.name for path in cache.iterdir()) == ["notes.txt", "thesis"]


def test_what_killed_runs_left_is_removed_and_what_others_are_making_is_not(tmp_path):
    gone = owner_tag().replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")
    elsewhere = f"node7-{gone.split('-', 1)[1]}-x"
    dead, alive, old, other = (
        tmp_path / f"{MAKING}{owner}" for owner in (f"{gone}-x", f"{owner_tag()}-x", "abcd", elsewhere)
    )
    for folder in (dead, alive, old, other):
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"1234")
    assert cache_info(tmp_path).leftovers == {dead: 4, old: 4}
    clear_cache(tmp_path)
    assert {*tmp_path.iterdir()} == {alive, other}


def test_the_size_is_told_beforehand(phantoms, tmp_path):
    data = data_in(phantoms, tmp_path)
    reported = data.store_bytes()
    assert list(tmp_path.iterdir()) == []
    data.store()
    assert 0.9 * reported < sum(cache_info(tmp_path).cases.values()) - 3 * 600 < 1.1 * reported  # 600: headers


def test_a_case_made_by_another_run_meanwhile_is_used(phantoms, tmp_path):
    data = data_in(phantoms, tmp_path)
    data.store()
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.npy")}
    (case, *_) = data.cases.cases
    folder = tmp_path / slices._key(case, data._slicing(data.axis))
    slices._make(case, data._slicing(data.axis), folder)
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*.npy")} == before
    assert all(path.name[0] != "." for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), RunError, "No space left on device.*--cache-dir"),
        (OSError("100 requested and 0 written"), RunError, "100 requested and 0 written.*cache clear"),
        (OSError(errno.EROFS, "Read-only file system"), InputError, "cannot be written to .Read-only.*--cache-dir"),
    ],
)
def test_a_cache_that_cannot_be_written_is_told(phantoms, tmp_path, monkeypatch, failure, kind, words):
    def fail(*_):
        raise failure

    monkeypatch.setattr(slices.np, "save", fail)
    with pytest.raises(kind, match=f"^{tmp_path}: .*{words}"):
        data_in(phantoms, tmp_path).store()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_caches_place_is_told(phantoms, tmp_path):
    (tmp_path / "cache").write_text("")
    for cache in (tmp_path / "cache", tmp_path / "cache" / "below"):
        with pytest.raises(InputError, match=f"^{cache}: .*cannot be written to .*--cache-dir"):
            data_in(phantoms, cache).store()
    with pytest.raises(InputError, match="cannot be read"):
        cache_info(tmp_path / "cache")


def test_a_damaged_case_is_told(phantoms, tmp_path):
    data_in(phantoms, tmp_path).store()
    path = sorted(tmp_path.glob("*/images.npy"))[0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match=f"^{path.parent}: it is damaged .*cache clear"):
        data_in(phantoms, tmp_path).store()


def test_a_borrowed_cache_has_what_the_real_one_holds_and_leaves_nothing(phantoms, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))
    cache = tmp_path / "home" / "cache"
    data_in(phantoms, cache).store()
    (tmp_path / "home/labels" / ("a" * 32)).mkdir(parents=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with borrowed_cache() as borrowed:
        assert len(cache_info(borrowed).cases) == 3
        data_in(phantoms, borrowed, 16).store()
        assert (labels_folder() / ("a" * 32)).is_dir()
        (labels_folder() / ("b" * 32)).mkdir()
        assert len(cache_info(borrowed).cases) == 6
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != cache} == {
        path: time for path, time in before.items() if path != cache
    }
    with borrowed_cache(tmp_path / "none") as borrowed:
        assert list(borrowed.iterdir()) == [borrowed / "labels"]
    assert not (tmp_path / "none").exists()


def test_a_shared_home_that_is_read_only_falls_back_to_the_users_own(tmp_path, monkeypatch):
    shared, own = tmp_path / "shared", tmp_path / "me"
    shared.mkdir()
    own.mkdir()
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(shared))
    monkeypatch.setenv("HOME", str(own))
    assert (cache_folder(), labels_folder()) == (shared / "cache", shared / "labels")
    monkeypatch.setattr("os.access", lambda path, mode: not Path(path).is_relative_to(shared))  # tests may run as root
    assert cache_folder() == own / ".cache/medsam-adapt/cache"
    assert labels_folder() == own / ".cache/medsam-adapt/labels"
    assert cache_folder(shared / "named") == shared / "named"  # what the user names is taken, or refused later
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert cache_folder() == shared / "cache"
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    assert cache_folder() == tmp_path / "file" / "cache"


def test_what_is_made_in_a_groups_cache_is_the_groups(tmp_path):
    tmp_path.chmod(0o2770)
    with made_in_cache(tmp_path / ("0" * 32)) as temporary:
        (temporary / "images.npy").touch(0o600)
    assert (tmp_path / ("0" * 32)).stat().st_mode & 0o2070 == 0o2070
    assert all(path.stat().st_mode & 0o060 == 0o060 for path in (tmp_path / ("0" * 32)).iterdir())
