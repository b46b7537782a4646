import stat
import subprocess
import sys
from pathlib import Path

import pytest

from medsam_adapt.core.files import (
    folder_replaced,
    folder_written_whole,
    is_left_behind,
    make_shared_folder,
    owner_tag,
    remove_leftovers,
    share_with_group,
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


DEAD = 2**22 + 1  # more than Linux numbers processes


def tag(process=None, host=None):
    """How a temporary name begins, of this or another process or host."""
    ours, number, random = owner_tag().split("-")
    return f"{host or ours}-{process or number}-{random}"


def test_only_what_the_dead_of_this_host_left_of_a_file_is_removed(tmp_path):
    kept = [
        f".{tag()}.a.nii.gz", f".{tag(DEAD)}.b.nii.gz", f".{tag(DEAD, 'node7')}.a.nii.gz", ".note.a.nii.gz",
        "a.nii.gz", f"{tag(DEAD)}.a.nii.gz", f".{DEAD}.a.nii.gz", f".{tag(DEAD)}x.a.nii.gz",
    ]  # fmt: skip
    for name in (*kept, f".{tag(DEAD)}.a.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / f".{tag(DEAD + 1)}.a.nii.gz").mkdir()
    remove_leftovers(tmp_path / "a.nii.gz")
    assert {path.name for path in tmp_path.iterdir()} == {*kept}


def test_processes_and_hosts_have_names_of_their_own(tmp_path, monkeypatch):
    with written_whole(tmp_path / "a") as first, written_whole(tmp_path / "a") as second:
        first.touch()
        second.touch()
        assert first != second
    monkeypatch.setattr("socket.gethostname", lambda: "node-7.cluster")
    assert owner_tag().startswith("node_7_cluster")
    assert is_left_behind(tag(DEAD))
    here = tag(DEAD)
    monkeypatch.setattr("socket.gethostname", lambda: "node-8.cluster")
    assert not is_left_behind(here)


def test_another_process_namespace_is_another_host(monkeypatch):
    here = tag(DEAD)
    monkeypatch.setattr(Path, "readlink", lambda path: Path("pid:[4026532999]"))
    assert "4026532999" in owner_tag()
    assert not is_left_behind(here)


@pytest.mark.parametrize(("mode", "shared"), [(0o2775, True), (0o755, False), (0o700, False)])
def test_folders_are_shared_with_the_group_where_the_one_above_is(tmp_path, mode, shared):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    make_shared_folder(home / "cache" / "deep")
    made = home / "cache" / "deep" / "made"
    made.mkdir(mode=0o700)
    (made / "file").touch(0o600)
    (made / "script").touch(0o700)
    share_with_group(made, like=made.parent)
    modes = [stat.S_IMODE(path.stat().st_mode) & 0o070 for path in (made.parent, made, made / "file", made / "script")]
    if shared:
        assert modes == [0o070, 0o070, 0o060, 0o070]
        assert made.stat().st_mode & stat.S_ISGID
    else:
        assert not any(mode & 0o020 for mode in modes)
        assert modes[1:] == [0, 0, 0]


def test_two_hosts_that_replace_one_folder_keep_each_others_previous_one(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / f".{tag(DEAD)}.run.previous").mkdir()
    theirs = tmp_path / f".{tag(DEAD, 'node7')}.run.previous"
    theirs.mkdir()
    with folder_replaced(folder):
        folder.mkdir()
    assert {path.name for path in tmp_path.iterdir()} == {"run", theirs.name}


AWAY = """import sys; from pathlib import Path; from medsam_adapt.core.files import owner_tag, remove_leftovers
folder = Path(sys.argv[1]); remove_leftovers(folder / "a.nii.gz"); (folder / f".{owner_tag()}.a.nii.gz").touch()"""


def test_a_process_on_a_host_of_another_name_leaves_our_leftovers_and_we_leave_its(tmp_path):
    command = ["unshare", "--uts", "sh", "-c", 'hostname node7 && exec "$@"', "sh", sys.executable, "-c", AWAY]
    ours = tmp_path / f".{tag(DEAD)}.a.nii.gz"
    ours.touch()
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "hostname" in done.stderr or done.returncode == 127:
        pytest.skip("a separate host name is not permitted here")
    assert (done.returncode, done.stderr) == (0, "")
    (theirs,) = {*tmp_path.iterdir()} - {ours}
    assert theirs.name.startswith(".node7-")
    remove_leftovers(tmp_path / "a.nii.gz")
    assert [*tmp_path.iterdir()] == [theirs]
