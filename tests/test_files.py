import pytest

from medsam_adapt.files import folder_replaced, write_json, written_whole


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
