"""Files made to do harm: nothing in them runs, nothing is written elsewhere, and each is refused or harmless."""

import contextlib
import io
import json
import pickle
import shutil
import stat
import zipfile
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
import torch

from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from medsam_adapt.methods import DecoderLoRA
from medsam_adapt.networks import build_segmenter, load_adapter, save_adapter
from tests.fuzz.weight_files import Planted
from tests.made_runs import make_run


def call(capsys, *arguments):
    """Exit code, and all that was printed."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return stopped.value.code or 0, captured.out + captured.err


@pytest.fixture
def marker(tmp_path):
    """A file that planted code would make; it must not be there when the test is done."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


@pytest.fixture
def scan(tmp_path):
    voxels = np.random.default_rng(0).normal(0, 200, (8, 8, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-2, -2, 5, 1])), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


# ---------------------------------------------------------------------------------------------------------- weights


def planted_files(folder, marker):
    """Checkpoints that run code when a careless reader opens them, in every form that torch has."""
    files = {name: folder / f"{name}.pth" for name in ("plain", "archive", "legacy", "nested")}
    files["plain"].write_bytes(pickle.dumps(Planted(marker)))
    torch.save({"state_dict": Planted(marker)}, files["archive"])
    torch.save({"state_dict": Planted(marker)}, files["legacy"], _use_new_zipfile_serialization=False)
    torch.save({"model": {"weight": torch.zeros(2)}, "optimizer": Planted(marker)}, files["nested"])
    return files


def test_the_planted_files_would_work(tmp_path):
    marker = tmp_path / "elsewhere"
    for path in planted_files(tmp_path, marker).values():
        with contextlib.suppress(RuntimeError):  # what it ran is no weights
            torch.load(path, weights_only=False)
        assert marker.exists()
        marker.unlink()


@pytest.mark.parametrize("form", ["plain", "archive", "legacy", "nested"])
def test_a_checkpoint_with_code(form, tmp_path, phantoms, marker, capsys):
    path = planted_files(tmp_path, marker)[form]
    assert call(capsys, "weights", "import", path, "--name", "medsam_vit_b")[0] == 2
    code, text = call(capsys, "weights", "import", path)
    assert code == 2
    assert "more than weights" in text
    out = tmp_path / "run"
    code, text = call(
        capsys, "train", "--data", phantoms, "--output", out, "--device", "cpu", "--checkpoint", path
        , "--image-size", 32
    )  # fmt: skip
    assert code == 2
    assert "more than weights" in text
    assert not out.exists()


def test_a_run_whose_weights_hold_code(tmp_path, scan, marker, capsys):
    run = make_run(tmp_path / "run")
    for path in planted_files(tmp_path, marker).values():
        shutil.copy(path, run / "models" / "model.pt")
        code, text = call(capsys, "predict", run, "-i", scan, "-o", tmp_path / "masks", "--device", "cpu")
        assert code == 2
        assert "more than weights" in text
        assert not (tmp_path / "masks").exists()


# ---------------------------------------------------------------------------------------------------- run and adapter


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": {"name": "os.system", "settings": {}}},
        {"adapter": {"name": "planted_module.Planted", "settings": {}}},
        {"adapter": {"name": "medsam_adapt.methods.lora.os", "settings": {}}},
        {"adapter": {"name": "medsam_adapt.weights.reading.read_weights", "settings": {"path": "x"}}},
        {"adapter": {"name": "medsam_adapt.methods.lora.LoRA", "settings": {"rank": "$__import__('os')"}}},
        {"adapter": {"name": "medsam_adapt.methods.lora.LoRA", "settings": {"rank": "four"}}},
        {"adapter": {"name": "medsam_adapt.methods.lora.LoRA", "settings": {"path": "/etc/passwd"}}},
        {"adapter": {"name": "medsam_adapt.networks.adapter.Adapter", "settings": {}}},
        {"adapter": {"name": "medsam_adapt.networks.nothing.LoRA", "settings": {}}},
        {"dataset_dir": "$__import__('os').system('id')"},
        {"class_names": ["$print(1)", "b", "c"]},
        {"knobs": {"seed": 0, "checkpoint": "%/etc/passwd"}},
        {"knobs": {"seed": 0, "checkpoint": ["@a"]}},
        {"bundle": "../../planted"},
        {"bundle": "$x"},
    ],
)
def test_a_run_record_that_names_code(changes, tmp_path, scan, marker, monkeypatch, capsys):
    (tmp_path / "planted_module.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = make_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, **changes}))
    code, text = call(capsys, "predict", run, "-i", scan, "-o", tmp_path / "masks", "--device", "cpu")
    assert code == 2
    assert "run.json" in text or "has no such adapter" in text
    assert not (tmp_path / "masks").exists()


def test_what_the_configs_of_a_run_hold_is_not_run(tmp_path, scan, marker, capsys):
    run = make_run(tmp_path / "run")
    (run / "configs").mkdir()
    for name in ("inference", "train", "evaluate"):
        planted = {"imports": [f"$__import__('pathlib').Path({str(marker)!r}).touch()"]}
        (run / "configs" / f"{name}.json").write_text(json.dumps(planted))
    code, _ = call(capsys, "predict", run, "-i", scan, "-o", tmp_path / "masks", "--device", "cpu")
    assert code == 0


@pytest.fixture
def adapter(tmp_path):
    segmenter = build_segmenter("vit_nano", 32, 2, DecoderLoRA(rank=2), checkpoint="random")
    save_adapter(segmenter, tmp_path / "adapter")
    return segmenter, tmp_path / "adapter"


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/passwd", "os.system", "medsam_adapt.methods.lora.LoRA"])
def test_an_adapter_that_names_another_place(adapter, name):
    segmenter, folder = adapter
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "adapter": name}))
    with pytest.raises(InputError, match="is attached"):
        load_adapter(segmenter, folder)


def test_an_adapter_has_no_paths(adapter):
    """Names of tensors are compared with the network's, and are no files, whatever they look like."""
    from safetensors.torch import load_file, save_file

    segmenter, folder = adapter
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "../../escaped": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="escaped"):
        load_adapter(segmenter, folder)
    assert not list(folder.parent.parent.glob("escaped*"))


def test_an_adapter_whose_weights_are_a_pickle(adapter, marker):
    segmenter, folder = adapter
    (folder / "adapter_model.safetensors").write_bytes(pickle.dumps(Planted(marker)))
    with pytest.raises(InputError, match="damaged"):
        load_adapter(segmenter, folder)


# ------------------------------------------------------------------------------------------------------------ bundles


def planted_bundle(folder, marker, capsys):
    """A copy of a shipped bundle with code in every place where MONAI runs some."""
    assert call(capsys, "bundles", "copy", "lora", folder)[0] == 0
    touch = f"$__import__('pathlib').Path({str(marker)!r}).touch()"
    for name in ("train", "inference", "evaluate", "metadata"):
        path = folder / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        config["imports"] = ["$import os", touch, *config.get("imports", [])]
        config["initialize"] = [touch, {"_target_": "os.system", "command": f"touch {marker}"}]
        path.write_text(json.dumps(config))
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text(f"open({str(marker)!r}, 'w')")
    return folder


def test_a_bundle_with_code_is_read_and_not_run(tmp_path, phantoms, marker, capsys):
    bundle = planted_bundle(tmp_path / "bundle", marker, capsys)
    code, text = call(capsys, "bundles", "check", bundle)
    assert code == 0
    assert "$import os" in text
    assert "os.system" in text
    code, text = call(capsys, "bundles", "show", bundle)
    assert code == 0
    assert "--trust-bundle" in text
    assert call(capsys, "bundles", "copy", bundle, tmp_path / "again")[0] == 0
    assert not (tmp_path / "again" / "scripts").exists()
    for more in ([], ["--dry-run"]):
        code, text = call(capsys, "train", "--bundle", bundle, "--data", phantoms, "--output", tmp_path / "run", *more)
        assert code == 2
        assert "--trust-bundle" in text
        assert "your rights" in text
    assert not (tmp_path / "run").exists()


def test_a_bundle_that_is_trusted_is_run(tmp_path, phantoms, capsys):
    """Only then; and what was trained by it is gone on with by the same bundle only."""
    marker = tmp_path / "ran"
    bundle = planted_bundle(tmp_path / "bundle", marker, capsys)
    run, small = tmp_path / "run", ["--device", "cpu", "--image-size", "32", "--epochs", "1", "--set", "min_steps=1"]
    arguments = ["--bundle", bundle, "--data", phantoms, "--output", run, *small]
    assert call(capsys, "train", *arguments, "--trust-bundle")[0] == 0
    assert marker.exists()
    marker.unlink()
    record = json.loads((run / "run.json").read_text())
    assert record["bundle"] == "lora"
    assert len(record["bundle_sha256"]) == 64
    for again in (["--repeat", run], ["--from", run, "--data", phantoms]):
        code, text = call(capsys, "train", *again, "--output", tmp_path / "second", "--device", "cpu")
        assert code == 2
        assert "not shipped" in text
    image = sorted((phantoms / "images").iterdir())[0]
    assert call(capsys, "predict", run, "-i", image, "-o", tmp_path / "masks", "--device", "cpu")[0] == 0
    assert not marker.exists()


def test_a_bundle_of_no_settings_of_ours(tmp_path, capsys, marker):
    bundle = planted_bundle(tmp_path / "bundle", marker, capsys)
    (bundle / "configs" / "train.json").write_text(json.dumps({"run": ["$1"]}))
    code, text = call(capsys, "bundles", "check", bundle)
    assert code == 2
    assert "whose settings" in text
    assert "train#trainer" in text
    code, text = call(capsys, "train", "--bundle", bundle, "--data", tmp_path, "--output", tmp_path / "r")
    assert code == 2
    assert "whose settings" in text


def test_a_copied_bundle_follows_no_link(tmp_path, capsys):
    source = tmp_path / "bundle"
    assert call(capsys, "bundles", "copy", "lora", source)[0] == 0
    secret = tmp_path / "secret.json"
    secret.write_text('{"secret": 1}')
    (source / "configs" / "extra.json").symlink_to(secret)
    assert call(capsys, "bundles", "copy", source, tmp_path / "copy")[0] == 0
    assert not (tmp_path / "copy" / "configs" / "extra.json").exists()
    code, text = call(capsys, "bundles", "copy", source, tmp_path / "copy")
    assert code == 2
    assert "already exists" in text


# ----------------------------------------------------------------------------------------------- archives, datalists


@pytest.mark.parametrize(
    "name", ["../escaped.nii.gz", "a/../../escaped.nii.gz", "/tmp/escaped.nii.gz", "..\\escaped", "."]
)
def test_an_archive_that_leads_out(name, tmp_path, scan, capsys):
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.write(scan, "scan.nii.gz")
        archive.writestr(zipfile.ZipInfo(name), scan.read_bytes())
    _refused_archive(tmp_path, capsys)
    assert not list(tmp_path.parent.glob("escaped*"))


def test_an_archive_with_a_link(tmp_path, scan, capsys):
    link = zipfile.ZipInfo("link.nii.gz")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    _refused_archive(tmp_path, capsys)


def test_an_archive_that_claims_more_than_it_holds(tmp_path, capsys):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.nii", b"\0" * 10**6)
    made = bytearray(content.getvalue())
    at = made.rfind(b"PK\1\2")
    made[at + 24 : at + 28] = (2**32 - 2).to_bytes(4, "little")
    (tmp_path / "scan.zip").write_bytes(made)
    _refused_archive(tmp_path, capsys)


def test_an_archive_larger_than_the_room(tmp_path):
    from medsam_adapt.data.volumes.archives import unpacked

    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.nii", b"\0" * 10**6)
    with pytest.raises(InputError, match="are free"), unpacked(tmp_path / "scan.zip", largest=10**5):
        pass


def _refused_archive(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    code, text = call(capsys, "predict", run, "-i", tmp_path / "scan.zip", "-o", tmp_path / "masks", "--device", "cpu")
    assert code == 2
    assert "scan.zip" in text
    assert not (tmp_path / "masks").exists()


def test_a_datalist_that_points_outside_is_told(tmp_path, scan, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for path in ("../scan.nii.gz", str(scan)):
        (data / "datalist.json").write_text(json.dumps({"training": [{"image": path, "label": path}]}))
        code, text = call(capsys, "data", "check", data)
        assert code == 2
        assert "outside its folder" in text
    nib.save(nib.Nifti1Image(np.ones((8, 8, 4), np.uint8), nib.load(scan).affine), tmp_path / "label.nii.gz")
    for name in ("scan.nii.gz", "label.nii.gz"):  # links inside the folder are its owner's doing
        (data / name).symlink_to(tmp_path / name)
    (data / "datalist.json").write_text(json.dumps({"training": [{"image": "scan.nii.gz", "label": "label.nii.gz"}]}))
    code, text = call(capsys, "data", "check", data)
    assert code == 0, text


# ------------------------------------------------------------------------------------------------------------- report

PAYLOADS = (
    "<script>document.title='x'</script>",
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "'; alert(1); '",
    "cost ${style}",
)


class _Page(HTMLParser):
    """The elements and attributes of a page, and its text."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.text = [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_names_that_inject_into_the_report(tmp_path, capsys):
    """The page has the same elements with hostile names as with harmless ones, and shows the names as they are."""
    pages = {}
    for kind, names in (("harmless", [f"name{i}" for i in range(len(PAYLOADS))]), ("hostile", list(PAYLOADS))):
        folder = tmp_path / kind
        run = make_run(folder / "run", names=names, train=names, held_out=[])
        (run / "metrics.json").write_text(json.dumps(_metrics(names)))
        code, text = call(capsys, "report", run, "--no-images")
        assert code == 0, text
        pages[kind] = _Page((run / "report.html").read_text())
    shapes = [[(tag, sorted(attributes)) for tag, attributes in page.elements] for page in pages.values()]
    assert shapes[0] == shapes[1]
    assert sum(tag == "script" for tag, _ in pages["hostile"].elements) == 2
    shown = "".join(pages["hostile"].text)
    for payload in PAYLOADS:
        assert payload in shown


def _metrics(names):
    """Scores of cases and classes of these names."""
    from medsam_adapt.scoring.metrics import MetricRules
    from medsam_adapt.scoring.summary import summarise

    rules = MetricRules()
    score = dict.fromkeys(rules.metrics, 0.5)
    cases = {case: {name: {**score, "prediction_ml": 1.0, "reference_ml": 1.0} for name in names} for case in names}
    return summarise(cases, names, rules)
