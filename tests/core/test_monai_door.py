"""``python -m monai.bundle run`` with a mistake in a value."""

import os
import sys

import pytest

from medsam_adapt.bundle.contents import bundle_folder
from medsam_adapt.core import monai_door
from medsam_adapt.core.errors import InputError, RunError
from tests.warm import monai_bundle

MISTAKES = {
    "--knobs#epochs=-3": "error: bundle lora: epochs: input should be greater than or equal to 1",
    "--knobs#epoch=3": "error: bundle lora: there is no setting 'epoch'. Did you mean 'epochs'?",
    "--dataset_dir=nowhere": "error: nowhere: it does not exist",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES.items())
def test_a_mistake_is_one_sentence_and_exit_code_2(phantoms, tmp_path, mistake, sentence):
    root = bundle_folder("lora")
    usual = ["run", "--config_file", root / "configs/train.json", "--bundle_root", root]
    usual += ["--output_dir", tmp_path / "run", "--dataset_dir", phantoms]
    done = monai_bundle(*usual, mistake, folder=tmp_path)
    assert done.code == 2, done
    assert done.err.strip().splitlines()[-1].startswith(sentence)
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("error", "code"), [(InputError("a: wrong."), 2), (RunError("b: failed."), 1)])
def test_wrapped_errors_are_found(capsys, error, code):
    wrapped = RuntimeError("Failed to instantiate component")
    wrapped.__cause__ = error
    with pytest.raises(SystemExit) as stopped:
        monai_door._print_error(RuntimeError, wrapped, None)
    assert (stopped.value.code, capsys.readouterr().err) == (code, f"error: {error}\n")


def test_a_fault_of_a_program_keeps_its_traceback(capsys):
    monai_door._print_error(ZeroDivisionError, ZeroDivisionError("no user's mistake"), None)
    assert "ZeroDivisionError: no user's mistake" in capsys.readouterr().err


def test_other_programs_keep_their_handling(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monai_door.print_errors_as_sentences()
    assert sys.excepthook is sys.__excepthook__
