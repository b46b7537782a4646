import json

import pytest
import torch

from medsam_adapt.export.portable import PortableSegmenter
from tests.made_runs import NAMES, make_run

from .test_train import call


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", absent=[NAMES[1]])


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_becomes_torchscript_beside_its_weights(run, capsys):
    code, out, _ = call(capsys, "export", run, "--to", "torchscript")
    assert code == 0
    assert "the run's data are no longer there" in out
    assert "greatest difference" in out
    assert files_in(run) == ["models/model.pt", "models/model.ts", "models/model.ts.json", "run.json"]
    about = json.loads((run / "models/model.ts.json").read_text())
    assert about["output_channels"] == ["background", *NAMES]
    assert (about["absent_classes"], about["label_ids"], about["image_size"]) == ([NAMES[1]], [1, 2, 3], 32)
    assert about["intensity_policy"]["high"] == 240
    assert "dataset_dir" not in about
    logits = torch.jit.load(run / "models/model.ts")(torch.full((5, 3, 32, 32), 100.0))
    assert logits.shape == (5, 4, 32, 32)
    assert (logits.argmax(1) != 2).all()  # the absent class


def test_onnx_is_compared_on_a_real_slice_and_goes_where_it_is_wanted(phantoms, tmp_path, capsys):
    import onnxruntime

    run = make_run(tmp_path / "run", prompt="box", dataset_dir=str(phantoms), train=["phantom_000"])
    output = tmp_path / "new" / "liver.onnx"
    code, out, _ = call(capsys, "export", run, "--to", "onnx", "--output", output)
    assert code == 0
    assert "and a real one" in out
    assert files_in(tmp_path / "new") == ["liver.onnx", "liver.onnx.json"]
    session = onnxruntime.InferenceSession(output)
    assert [(each.name, each.shape) for each in session.get_inputs()] == [
        ("image", ["batch", 3, 32, 32]),
        ("boxes", ["batch", 4]),
    ]
    code, _, err = call(capsys, "export", run, "--to", "onnx", "--output", output)
    assert code == 2
    assert "already exists. Choose another --output, or add --overwrite" in err


def test_what_differs_from_the_run_is_not_written(tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "run")
    decode = PortableSegmenter.decode

    def slightly_wrong(self, *arguments, **options):
        prediction = decode(self, *arguments, **options)
        return prediction._replace(logits=prediction.logits * (1.001 if torch.jit.is_tracing() else 1))

    monkeypatch.setattr(PortableSegmenter, "decode", slightly_wrong)
    before = files_in(run)
    code, _, err = call(capsys, "export", run, "--to", "torchscript")
    assert code == 1
    assert "differs from the run by 1.0e-03 of the largest logit" in err
    assert files_in(run) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "tensorrt"], "--to tensorrt: there is no such format. Use torchscript or onnx"),
        (["--to", "torchscript", "--output", "{run}/models/model.pt"], "does not end in .ts"),
        (["--to", "onnx", "--output", "{run}/models"], "is a folder. Give a file name"),
        (["--to", "onnx", "--output", "{run}/run.json/model.onnx"], "is not writable"),
    ],
)
def test_bad_input_ends_in_a_sentence(run, capsys, options, words):
    before = files_in(run)
    code, _, err = call(capsys, "export", run, *(option.format(run=run) for option in options))
    assert code == 2
    assert words in err
    assert files_in(run) == before


def test_missing_libraries_are_told_with_the_command(run, capsys, monkeypatch):
    from medsam_adapt.export import exporter as export

    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    code, _, err = call(capsys, "export", run, "--to", "onnx")
    assert code == 2
    assert "onnx: it needs onnx and onnxruntime. Run pip install 'medsam-adapt[export]'" in err


def test_an_unfinished_run_is_refused(run, capsys):
    (run / "models/model.pt").unlink()
    code, _, err = call(capsys, "export", run, "--to", "onnx")
    assert code == 2
    assert "holds no trained weights" in err
