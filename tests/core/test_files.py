import os

import pytest

from medsam_adapt.core.files import (
    folder_replaced,
    folder_written_whole,
    remove_leftovers,
    write_json,
    written_whole,
)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    before = path.read_text()

    def fail_half_way():
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_is_replaced_only_on_success(tmp_path, fails):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old").touch()
    try:
        with folder_replaced(folder):
            folder.mkdir()
            (folder / "new").touch()
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "old" if fails else "new"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_is_seen_whole_or_as_it_was(tmp_path, fails):
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "old").touch()
    try:
        with folder_written_whole(folder) as temporary:
            (temporary / "new").touch()
            assert [path.name for path in folder.iterdir()] == ["old"]
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert [path.name for path in folder.iterdir()] == ["old" if fails else "new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_only_what_the_dead_left_of_a_file_is_removed(tmp_path):
    dead = 2**22 + 1  # more than Linux numbers processes
    kept = [f".{os.getpid()}.a.nii.gz", f".{dead}.b.nii.gz", ".note.a.nii.gz", "a.nii.gz", f"{dead}.a.nii.gz"]
    for name in (*kept, f".{dead}.a.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / f".{dead + 1}.a.nii.gz").mkdir()
    remove_leftovers(tmp_path / "a.nii.gz")
    assert {path.name for path in tmp_path.iterdir()} == {*kept}
