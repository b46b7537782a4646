"""Nothing in a repository shows whose images it saw, and nothing in one can do harm."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.hub.places import LocalFolder
from medsam_adapt.hub.repository import pull, push
from tests.hub.runs import (
    MARK,
    edit,
    files_in,
    marked_run,
    same_weights,
)


def test_nothing_tells_whose_images_it_saw(tmp_path):
    run = marked_run(tmp_path)
    push(run, LocalFolder(tmp_path / "repository"))
    for name in files_in(tmp_path / "repository"):
        content = (tmp_path / "repository" / name).read_bytes()
        assert MARK.encode() not in content, name
        assert str(tmp_path).encode() not in content, name
    record = json.loads((tmp_path / "repository/run.json").read_text())
    assert (len(record["train"]), len(record["held_out"]), record["dataset_dir"]) == (2, 1, "")
    assert record["knobs"]["checkpoint"] == record["started_from"] == "sam_nano"
    pull(LocalFolder(tmp_path / "repository"), tmp_path / "pulled")
    for name in files_in(tmp_path / "pulled"):
        assert MARK.encode() not in (tmp_path / "pulled" / name).read_bytes(), name


# ------------------------------------------------------------------------------------------------- hostile content


def adapter_with(change):
    """The adapter's tensors changed, and the SHA-256 with them, as somebody who means harm would."""

    def write(folder):
        path = folder / "adapter/adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        edit("medsam_adapt.json", adapter_sha256=file_sha256(path))(folder)

    return write


def flip_last_byte(folder):
    path = folder / "adapter/adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def link_out(folder):
    secret = folder.parent / "secret.json"
    shutil.move(folder / "run.json", secret)
    (folder / "run.json").symlink_to(secret)


def link_folder_out(folder):
    shutil.move(folder / "adapter", folder.parent / "elsewhere")
    (folder / "adapter").symlink_to(folder.parent / "elsewhere")


LORA = "medsam_adapt.methods.lora.LoRA"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (link_out, "is a link out of"),
        (link_folder_out, "is a link out of"),
        (lambda folder: (folder / "medsam_adapt.json").unlink(), "it has no medsam_adapt.json"),
        (lambda folder: (folder / "run.json").write_bytes(b" " * (5 << 20)), "limited to"),
        (lambda folder: (folder / "medsam_adapt.json").write_text("[]"), "is damaged"),
        (lambda folder: (folder / "statistics.json").write_text('{"classes": 3}'), "is damaged"),
        (flip_last_byte, "is damaged"),
        (adapter_with(lambda tensors: tensors.popitem()), "differ in"),
        (adapter_with(lambda tensors: tensors.update(extra=torch.zeros(3))), "differ in"),
        (edit("run.json", bundle="../../planted"), "damaged"),
        (edit("run.json", bundle="planted"), "--bundle planted"),
        (edit("run.json", adapter={"name": "os.system", "settings": {}}), "damaged"),
        (edit("run.json", adapter={"name": "medsam_adapt.methods.lora.os", "settings": {}}), "has no such adapter"),
        (edit("run.json", adapter={"name": LORA, "settings": {"rank": 3}}), "Attach an adapter of the same"),
        (edit("run.json", class_names=["$print(1)", "b"]), "is refused"),
        (edit("run.json", class_names=["\x1b[2J", "b"]), "cannot be printed"),
        (edit("run.json", knobs={"seed": "zero"}), "seed"),
        (edit("run.json", knobs={"planted": 1}), "there is no setting 'planted'"),
        (edit("run.json", overlapping=True), "differ in"),
        (edit("adapter/adapter_config.json", base_sha256="0" * 64), None),
        (edit("medsam_adapt.json", base={"name": None, "file_name": "../x", "sha256": "0" * 64}), "is damaged"),
        (edit("medsam_adapt.json", base={"name": "sam_big", "file_name": "x", "sha256": "0" * 64}), "not published"),
    ],
)
def test_harmful_repositories_are_refused_in_a_sentence(harm, words, pushed, repository, tmp_path):
    harm(pushed)
    output = tmp_path / "pulled"
    if words is None:  # the file of the base is the right one: what the adapter states about it does no harm
        assert pull(LocalFolder(pushed), output)
        assert same_weights(repository.parent / "run", output)
        return
    with pytest.raises(InputError, match=words) as reported:
        pull(LocalFolder(pushed), output)
    assert "\n" not in str(reported.value)
    assert not output.exists()
    assert not list(tmp_path.glob(".*"))


def test_paths_and_names_in_a_repository_are_not_taken_over(pushed, tmp_path):
    content = json.loads((pushed / "run.json").read_text())
    knobs = {**content["knobs"], "cache_dir": "/etc", "from_run": "/etc", "split_file": "/etc", "checkpoint": "/etc"}
    edit("run.json", knobs=knobs, dataset_dir="/etc", train=["../../etc"], held_out=["/etc"])(pushed)
    (pushed / "configs").mkdir()
    (pushed / "configs/train.json").write_text('{"planted": "$1/0"}')
    (pushed / "planted.py").write_text("1/0")
    pull(LocalFolder(pushed), tmp_path / "pulled")
    assert "etc" not in (tmp_path / "pulled/run.json").read_text()
    assert "planted" not in (tmp_path / "pulled/configs/train.json").read_text()
    assert not list((tmp_path / "pulled").rglob("planted.py"))
